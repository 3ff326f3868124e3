/* fence.h - what each command looks at before it touches a key, and the errors that say no.
 *
 * Every function that returns a bool has replied with an error when that is false.
 */
#ifndef RING_MODULE_FENCE_H
#define RING_MODULE_FENCE_H

#include <stdbool.h>

#include "entry.h"
#include "node.h"
#include "redis_api.h"

/* The main thread did not stand still, the node serves, and this connection said HELLO. */
bool fence_admits(RedisModuleCtx *ctx);

/* That, and the request is of the node's epoch. */
bool fence_admits_at(RedisModuleCtx *ctx, const RedisModuleString *epoch);
bool fence_is_at(RedisModuleCtx *ctx, const RedisModuleString *epoch);

/* The holders of a key. */
struct ring_holders fence_holders(const RedisModuleString *key);

/* This node is one of them. */
bool fence_holds(RedisModuleCtx *ctx, const struct ring_holders *holders);

/* Whether nobody else needs to be asked when a key with these holders is not here. */
bool fence_miss_is_final(const struct ring_holders *holders);

bool fence_version(RedisModuleCtx *ctx, const RedisModuleString *text,
                   struct ring_version *version);

/* The version of a write is neither late nor far ahead. */
bool fence_is_timely(RedisModuleCtx *ctx, const struct ring_version *version);

/* Reads a time. */
bool fence_time(RedisModuleCtx *ctx, const RedisModuleString *text, uint64_t *time);

int fence_maybe(RedisModuleCtx *ctx, const struct ring_holders *holders);
int fence_newer(RedisModuleCtx *ctx, const struct ring_version *version);
int fence_epoch(RedisModuleCtx *ctx);
int fence_overflow(RedisModuleCtx *ctx, uint64_t number);
int fence_full(RedisModuleCtx *ctx, const char *what);
int fence_stopped(RedisModuleCtx *ctx, const char *why);
int fence_type(RedisModuleCtx *ctx, const char *why);
int fence_malformed(RedisModuleCtx *ctx, const char *why);

#endif
