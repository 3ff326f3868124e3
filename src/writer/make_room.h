/* make_room.h - where a batch's blocks come from when the arena has none left. */
#ifndef MMAPCACHE_MAKE_ROOM_H
#define MMAPCACHE_MAKE_ROOM_H

#include <stdint.h>

#include "status.h"
#include "writer.h"

/* See mc_make_room in arena.h; context is the writer. */
enum mc_status mc_writer_make_room(void *context, uint64_t bytes, struct mc_error *err);

/* Makes the file an extent longer if less than a step of growth is free in larger pieces, and there
 * is room: whether it did. */
bool mc_writer_grow_ahead(struct mc_writer *writer);

/* The file ends at `end` from now on: there is its tail. The last generation's own stays where that
 * generation's readers look for it, until the next commit retires it. */
void mc_writer_end_at(struct mc_writer *writer, uint64_t end);

/* Frees the blocks whose retention is over, or all that the current generation does not need. */
void mc_writer_reclaim(struct mc_writer *writer, bool all);

/* After a commit at `now` (mc_clock_ns): announces and frees some of the blocks whose retention is
 * over, more than a commit retires. */
void mc_writer_reclaim_some(struct mc_writer *writer, int64_t now);

#endif
