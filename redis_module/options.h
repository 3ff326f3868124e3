/* options.h - what stands behind `loadmodule ring.so`: name=value, in any order. */
#ifndef RING_MODULE_OPTIONS_H
#define RING_MODULE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "redis_api.h"
#include "ring.h"

struct options {
    char id[RING_ID_MAX + 1];
    const char *zookeeper; /* HOST:PORT[,...]/ROOT; NULL: the record comes by RING.RING */
    const char *address;   /* HOST:PORT; NULL: the server's own settings say it */
    bool authoritative;
    uint64_t fence; /* ms */
};

/* False: something is wrong with them, and the log says what. */
bool options_read(RedisModuleCtx *ctx, struct options *options, RedisModuleString **argv, int argc);

#endif
