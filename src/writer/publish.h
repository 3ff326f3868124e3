/* publish.h - what a loader makes visible: a generation, a checkpoint, what it says of itself. */
#ifndef MMAPCACHE_PUBLISH_H
#define MMAPCACHE_PUBLISH_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"
#include "store.h"
#include "writer.h"

/* MC_CORRUPT: the file was truncated under this writer. */
#define MC_TRUNCATED_TEXT "the cache file was truncated while it was in use: recreate it"
enum mc_status mc_writer_whole(const struct mc_writer *writer, struct mc_error *err);

/* Publishes the root given, with everything that the writer knows filled in, as the next
 * generation. For the files of this folder. */
enum mc_status mc_writer_publish(struct mc_writer *writer, struct mc_root *root,
                                 struct mc_error *err);

/* Writes everything to the disk and marks the generation as wholly there (no-op on tmpfs). */
enum mc_status mc_writer_checkpoint(struct mc_writer *writer, struct mc_error *err);

/* Says that this process has opened the cache, or that it closes it;
 * the rest of the report stays. */
void mc_writer_running(struct mc_writer *writer, bool running);

/* Reports without a commit: NULL or a negative time keeps what was there.
 * Strings are cut to fit. */
void mc_writer_report(struct mc_writer *writer, const char *state, const char *error,
                      const char *source, int64_t confirmed_at_us);

#endif
