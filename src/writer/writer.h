/* writer.h - the loader's side: one writer per file.
 *
 * batch.h has what it commits, publish.h what it says of itself.
 *
 * Only the process that opened a writer may use it: a forked child finds it closed (its copy of the
 * mapping does not even exist, and the lock's descriptor is closed there). Not thread-safe: the
 * caller lets one thread in at a time.
 */
#ifndef MMAPCACHE_WRITER_H
#define MMAPCACHE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "index.h"
#include "key.h"
#include "status.h"
#include "store.h"

struct mc_writer;

struct mc_writer_options {
    uint64_t max_size;    /* bytes; 0: keep the file's own, or the default for a new one */
    uint32_t mode;        /* permission bits of a new file */
    bool recreate;        /* replace a file that is foreign, corrupt or of another version */
    bool discard;         /* replace a sound cache, too, by an empty one whose generations go on */
    bool collapse;        /* make extents of huge pages, as far as the system can */
    int64_t retention_ns; /* how long retired blocks are kept for snapshots unless room is short */
    uint32_t ring_slots;  /* 0: MC_RING_SLOTS; tests use small rings */
    uint32_t log_size;    /* bytes of a new file's change log, a power of two that is at least
                             MC_LOG_MIN; 0: as suits max_size; MC_LOG_NONE */
    uint32_t history;     /* records of a new file's history; 0: as suits max_size;
                             MC_HISTORY_NONE */
};
#define MC_HISTORY_NONE UINT32_MAX
#define MC_LOG_NONE 1u /* as the files of earlier loaders are */
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

/* Aborts an open batch, reports that it closed, releases the lock and everything else. */
void mc_writer_close(struct mc_writer *writer);

/* For upkeep.c: puts a file with the same content in the place of this writer's, which is told that
 * it is superseded. *out has that one open; the lock and the bell stay with this one. On a failure
 * all is as before: MC_FULL, MC_CORRUPT, MC_NOMEM, MC_OS. */
enum mc_status mc_writer_successor(struct mc_writer *writer, struct mc_writer **out,
                                   struct mc_error *err);

/* Releases what a writer has, and says nothing of it in the file; NULL is harmless. */
void mc_writer_free(struct mc_writer *writer);

/* False in a forked child of the process that opened it. */
bool mc_writer_is_mine(const struct mc_writer *writer);

/* The descriptor of an anonymous cache, for mc_map_open_fd; -1 for a file. */
int mc_writer_fd(const struct mc_writer *writer);

/* A view of the last committed generation, through the writer's own mapping (view->map is NULL). */
void mc_writer_view(const struct mc_writer *writer, struct mc_view *out);

/* How many indexes the last committed generation has, and one of them: valid until the writer is
 * used again. */
size_t mc_writer_indexes(const struct mc_writer *writer);
const struct mc_index *mc_writer_index(const struct mc_writer *writer, size_t number);

#endif
