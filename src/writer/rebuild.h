/* rebuild.h - the arena of a file that is opened. */
#ifndef MMAPCACHE_REBUILD_H
#define MMAPCACHE_REBUILD_H

#include "status.h"
#include "writer.h"

/* Makes the arena of all of the mapped file: what the current generation refers to is taken, and
 * the header and the tail at the space's limit. The indexes are found on the way. MC_CORRUPT: a
 * reference is damaged, or two blocks overlap; MC_NOMEM. */
enum mc_status mc_writer_rebuild(struct mc_writer *writer, struct mc_error *err);

#endif
