/* upkeep.h - what a loader does of itself when there is nothing to commit. */
#ifndef MMAPCACHE_UPKEEP_H
#define MMAPCACHE_UPKEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"
#include "writer.h"

/* Bytes of the file that are in use: by the current generation, by older ones for the time that
 * they are kept, and by an open batch. */
uint64_t mc_writer_in_use(const struct mc_writer *writer);

/* Makes the file an extent longer when little of it is free, so that no commit has to; in a file
 * that can grow no more, and has little room for large entries, moves a little of what lies in
 * between, by a commit that changes nothing. Whether it did something, and may again. Nothing
 * happens while a batch is open. */
bool mc_writer_tidy(struct mc_writer *writer);

/* Puts a file of the same content, and no longer than it needs, in the place of this writer's. *out
 * is what writes from now on, with lock and bell; `writer` is for mc_writer_free. On a failure all
 * is as before: MC_FULL (there is no room for two), MC_NOT_READY (the path names another file by
 * now), MC_USAGE (an open batch; a file without a name), MC_CORRUPT, MC_NOMEM, MC_OS. */
enum mc_status mc_writer_shrink(struct mc_writer *writer, struct mc_writer **out,
                                struct mc_error *err);

#endif
