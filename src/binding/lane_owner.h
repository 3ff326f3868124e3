/* lane_owner.h - which of Python's threads the calling one is, and when it ends. */
#ifndef MMAPCACHE_LANE_OWNER_H
#define MMAPCACHE_LANE_OWNER_H

#include "lane.h"

#if MC_FREE_THREADED

/* The calling thread, if it has asked for a lane before, or NULL. */
struct mc_lane_owner *mc_lane_owner_known(void);

/* The calling thread, or NULL: out of memory, without an exception. */
struct mc_lane_owner *mc_lane_owner_needed(void);

#endif

#endif
