/* change_log.h - which keys the last generations put and deleted.
 *
 *   ring     ... [group of g-2][group of g][group of g+1][oldest, being overwritten ...
 *                                          ^ log_end of the root of g+1
 *
 * A generation that changed documents has a group: for each collection that changed its name, and
 * the keys that were put and deleted in it, or that it changed as a whole; or that everything may
 * have changed. A group says how long the one before it is, so that a reader goes back from the end
 * that its root names to the last group that it knows. What is logged is never less than what
 * changed. It may be more: a key that was put and deleted again, say.
 *
 *   loader                                          reader of g+1
 *   ------                                          -------------
 *   log_written = end of the new group  (relaxed)   copy root g+1: log_end         (acquire)
 *   release fence                                   copy groups                    (relaxed)
 *   the group, over the oldest one                  acquire fence
 *   root of g+2, commit = g+2           (release)   valid iff log_written has not gone a ring
 *                                                   past where the copy begins     (relaxed)
 *
 * It is the protocol of store.h with another word in the place of the horizon, and for the same
 * reason a copy that is found valid is whole. No block is held for a reader, and a reader that
 * comes too late is told so.
 */
#ifndef MMAPCACHE_CHANGE_LOG_H
#define MMAPCACHE_CHANGE_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "key.h"
#include "status.h"
#include "store.h"

/* ---- reading: any process ---- */

enum mc_change_kind {
    MC_CHANGE_ALL,        /* any document of any collection */
    MC_CHANGE_COLLECTION, /* any document of this collection, which may be gone or new */
    MC_CHANGE_PUT,
    MC_CHANGE_DELETE,
};

struct mc_change {
    enum mc_change_kind kind;
    uint64_t generation; /* which changed it */
    const char *name;    /* of the collection: bytes of the changes, as is the key. Not of ALL */
    size_t name_len;
    struct mc_key key; /* of PUT and DELETE; without its hash */
};

/* The changes from one generation to another: a private copy. */
struct mc_changes {
    uint8_t *bytes; /* whole groups, oldest first; NULL: none */
    size_t len;
    size_t group, at, end; /* places in bytes: this group, its next record, its end */
    const char *name;      /* the collection that records are of; NULL: not named yet */
    size_t name_len;
};

/* What changed from generation `since`, of this file or of one that it succeeds, to the view's, if
 * that is at most `most` bytes of the log. MC_OK, and out is for mc_changes_close; MC_ABSENT: it is
 * more, or not known, as the log does not reach back so far or the file has none; MC_EXPIRED: open
 * a new view; MC_CORRUPT; MC_NOMEM. */
enum mc_status mc_changes_open(const struct mc_view *view, uint64_t since, uint64_t most,
                               struct mc_changes *out);
#define MC_CHANGES_UNLIMITED UINT64_MAX /* however much that is */

/* The next change, oldest first: of several to one key the last counts. MC_OK, MC_ABSENT at the
 * end, MC_CORRUPT. */
enum mc_status mc_changes_next(struct mc_changes *changes, struct mc_change *out);

/* Frees the copy; harmless twice. */
void mc_changes_close(struct mc_changes *changes);

/* Reads all that is still there of the log: MC_OK, also where the loader overwrote it meanwhile,
 * MC_EXPIRED, MC_CORRUPT, MC_NOMEM. */
enum mc_status mc_changes_check(const struct mc_view *view);

/* ---- the loader's half, for src/writer/ ---- */

/* Announces that bytes before this position, which never goes back, may be written from now on. */
void mc_log_announce(const struct mc_space *space, uint64_t position);
uint64_t mc_log_announced(const struct mc_space *space);

/* Copies len <= log->size bytes from or to a position. */
void mc_log_read(const struct mc_space *space, const struct mc_log *log, uint64_t position,
                 void *to, size_t len);
void mc_log_write(const struct mc_space *space, const struct mc_log *log, uint64_t position,
                  const void *from, size_t len);

/* What is wrong with the length of a group: whether none has it. */
static inline bool mc_log_is_odd(uint32_t bytes)
{
    return bytes < sizeof(struct mc_log_group) || bytes % MC_LOG_ALIGN != 0;
}

#endif
