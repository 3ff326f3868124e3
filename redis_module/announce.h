/* announce.h - what this node says of itself in ZooKeeper. */
#ifndef RING_MODULE_ANNOUNCE_H
#define RING_MODULE_ANNOUNCE_H

#include "redis_api.h"

/* Finds HOST:PORT in the server's settings, unless it is given. */
void announce_find_address(RedisModuleCtx *ctx, const char *given);

/* How the run_ids of this process begin. */
const char *announce_process(void);

/* Hands the state over if it is another one than was handed over last. */
void announce_state(void);

/* Says "leaving" and removes the node; waits for that so many ms at most. */
void announce_leave(unsigned patience);

#endif
