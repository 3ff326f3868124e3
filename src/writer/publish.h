/* publish.h - what a loader makes visible: a generation, a checkpoint, what it says of itself. */
#ifndef MMAPCACHE_PUBLISH_H
#define MMAPCACHE_PUBLISH_H

#include <stdbool.h>
#include <stdint.h>

#include "counts.h"
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

/* Takes over the report, and the position if it counts, of the file that this writer's succeeds.
 * Both have the same content. */
void mc_writer_inherit(struct mc_writer *writer, const struct mc_writer *old);

/* Copies a NUL-terminated string into a field of a record, cut at a character's start when it is
 * too long, and zeros behind it. */
void mc_field_text(char *field, size_t size, const char *text);

/* Of a stream of changes: NULL or a negative number keeps what was there. */
struct mc_report_stream {
    int following; /* 1: the loader hears of each change as it happens; 0: it does not */
    int64_t position_at_us, events, disconnects;
    const struct mc_counts *loads, *errors; /* what finds no room is counted as MC_COUNTS_OTHER */
};

/* Reports without a commit: NULL or a negative time keeps what was there.
 * Strings are cut to fit. */
void mc_writer_report(struct mc_writer *writer, const char *state, const char *error,
                      const char *source, int64_t confirmed_at_us,
                      const struct mc_report_stream *stream);

/* Stores where the loader goes on in its source's stream, without a commit; it counts until the
 * next one. MC_LIMIT: more than MC_POSITION_MAX bytes. MC_CORRUPT: the file was truncated. */
enum mc_status mc_writer_mark(struct mc_writer *writer, const void *bytes, size_t len,
                              struct mc_error *err);

/* What was stored for the current generation, valid until the writer is used again: its length; 0
 * for nothing. */
size_t mc_writer_position(const struct mc_writer *writer, const uint8_t **bytes);

#endif
