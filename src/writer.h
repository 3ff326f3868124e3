/* writer.h - the loader's side: one writer per file, batches that publish one generation each.
 *
 * Only the process that opened a writer may use it: a forked child finds it closed (its copy of the
 * mapping does not even exist, and the lock's descriptor is closed there). Not thread-safe: the
 * caller lets one thread in at a time.
 *
 * Every failure of a batch operation leaves the batch as it was before that operation, MC_FULL and
 * MC_NOMEM included; the caller then goes on, or aborts the batch.
 */
#ifndef MMAPCACHE_WRITER_H
#define MMAPCACHE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "key.h"
#include "status.h"
#include "store.h"

struct mc_writer;

struct mc_writer_options {
    uint64_t max_size; /* bytes; 0: keep the file's own, or the default for a new one */
    uint32_t mode;     /* permission bits of a new file */
    bool recreate;     /* replace a file that is foreign, corrupt or of another version */
    bool collapse;     /* make extents of huge pages, as far as the system can */
    int64_t
        retention_ns; /* how long a superseded block is kept for snapshots unless memory is short */
    uint32_t ring_slots; /* 0: MC_RING_SLOTS; tests use small rings */
};
#define MC_MAX_SIZE_DEFAULT (1ull << 30)

/* Opens or creates the file at `path`, taking the writer's lock without waiting: MC_LOCKED. An
 * existing file of another maximum size is replaced by a successor with its content carried over.
 * MC_FORMAT, MC_VERSION_DIFFERS, MC_CORRUPT (the file is untouched), MC_FULL, MC_LIMIT (a max_size
 * out of range), MC_OS. */
enum mc_status mc_writer_open(const char *path, const struct mc_writer_options *options,
                              struct mc_writer **out, struct mc_error *err);

/* A cache without a name, for forked children: a sealed memfd. */
enum mc_status mc_writer_open_anonymous(const struct mc_writer_options *options,
                                        struct mc_writer **out, struct mc_error *err);

/* Aborts an open batch, says goodbye in the status, releases the lock and everything else. */
void mc_writer_close(struct mc_writer *writer);

/* False in a forked child of the process that opened it. */
bool mc_writer_is_mine(const struct mc_writer *writer);

/* The descriptor of an anonymous cache, for mc_map_open_fd; -1 for a file. */
int mc_writer_fd(const struct mc_writer *writer);

/* A view of the last committed generation, through the writer's own mapping (view->map is NULL). */
void mc_writer_view(const struct mc_writer *writer, struct mc_view *out);

/* Reports without a commit: NULL or a negative time keeps what was there. Strings are cut to fit.
 */
void mc_writer_report(struct mc_writer *writer, const char *state, const char *error,
                      const char *source, int64_t confirmed_at_us);

/* Writes everything to the disk and marks the generation as wholly there (no-op on tmpfs). */
enum mc_status mc_writer_checkpoint(struct mc_writer *writer, struct mc_error *err);

/* ---- batch ---- */

struct mc_batch_counts {
    uint64_t puts, deletes, unchanged; /* deletes: single ones and what a replace removed */
    uint64_t duplicates;               /* puts of a key that the replace had been given already */
};

enum mc_status mc_batch_begin(struct mc_writer *writer,
                              struct mc_error *err); /* MC_USAGE: one is open */

/* Says that a put of this key comes next: what it has to wait for is asked for, while the caller
 * has its document to validate. Of no other effect. */
void mc_batch_expect(struct mc_writer *writer, const char *name, size_t name_len,
                     const struct mc_key *key);

/* value: one valid BSON document (the caller validated it). *changed: its bytes were not there yet.
 * The key needs no hash. */
enum mc_status mc_batch_put(struct mc_writer *writer, const char *name, size_t name_len,
                            const struct mc_key *key, const uint8_t *value, size_t value_len,
                            bool *changed, struct mc_error *err);

/* Validates and puts each of the concatenated documents in the buffer under its _id. *documents:
 * how many. MC_INVALID says which document; what came before it stays put. May take long. In a
 * replace the smallest of several documents with one _id stays, by memcmp: then the same documents
 * in another order are the same content. */
enum mc_status mc_batch_put_raw(struct mc_writer *writer, const char *name, size_t name_len,
                                const uint8_t *buffer, size_t len, uint64_t *documents,
                                struct mc_error *err);

enum mc_status mc_batch_delete(struct mc_writer *writer, const char *name, size_t name_len,
                               const struct mc_key *key, bool *existed, struct mc_error *err);
enum mc_status mc_batch_drop(struct mc_writer *writer, const char *name, size_t name_len,
                             bool *existed, struct mc_error *err);

/* The loader's own state, at most MC_STATE_MAX bytes (MC_LIMIT), published with the batch. */
enum mc_status mc_batch_state(struct mc_writer *writer, const uint8_t *state, size_t len,
                              struct mc_error *err);

/* From here to end or cancel, what is put into `name` replaces its whole content; other operations
 * go on as before, and a cancelled replace takes back exactly what was done to `name` in between.
 * One that ends with the content that it began with has changed nothing. One at a time: MC_USAGE.
 */
enum mc_status mc_replace_begin(struct mc_writer *writer, const char *name, size_t name_len,
                                struct mc_error *err);
enum mc_status mc_replace_end(struct mc_writer *writer, struct mc_error *err);
void mc_replace_cancel(struct mc_writer *writer);

struct mc_batch_counts mc_batch_counts(const struct mc_writer *writer);

/* Publishes the batch as one generation (*generation), or nothing when nothing changed (0). On a
 * failure the batch is still open: abort it. */
enum mc_status mc_batch_commit(struct mc_writer *writer, uint64_t *generation,
                               struct mc_error *err);

/* Whether a commit now would be over in a few microseconds: it has little to publish and no
 * checkpoint's mark to take from the disk. */
bool mc_batch_is_short(const struct mc_writer *writer);

/* Forgets the batch. Never fails; no batch: nothing happens. */
void mc_batch_abort(struct mc_writer *writer);

#endif
