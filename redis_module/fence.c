/* fence.c - the checks before a command. */
#include "fence.h"

#include <stdio.h>
#include <string.h>

#include "clients.h"
#include "fault.h"

/* A packet may have waited this long in a network that was cut; a clock may be this far ahead. */
enum { LATE_MS = 5000, AHEAD_MS = 60000 };

/* This node is one of the pair that reads ask. */
static bool is_read(const struct ring_holders *holders)
{
    /* 16: so is one that is only written, as it is being filled with such keys */
    unsigned count = RING_FAULT_IS(16) ? holders->count : holders->pair;
    return ring_is_among(holders, count, (unsigned)node.self);
}

int fence_maybe(RedisModuleCtx *ctx, const struct ring_holders *holders)
{
    node.counts.maybe++;
    bool filled = node.state == NODE_READY && is_read(holders);
    return RedisModule_ReplyWithError(ctx, filled ? "MAYBE dropped: this node has lost keys that "
                                                    "the other holder may have"
                                                  : "MAYBE joining: this node is being filled "
                                                    "with what the other holder has");
}

int fence_newer(RedisModuleCtx *ctx, const struct ring_version *version)
{
    node.counts.newer++;
    char text[sizeof "NEWER " + 2 * RING_VERSION_BYTES] = "NEWER ";
    for (int i = 0; i < RING_VERSION_BYTES; i++) {
        (void)snprintf(text + strlen("NEWER ") + 2 * (size_t)i, 3, "%02x", version->bytes[i]);
    }
    return RedisModule_ReplyWithError(ctx, text);
}

int fence_full(RedisModuleCtx *ctx, const char *what)
{
    node.counts.full++;
    char text[256];
    (void)snprintf(text, sizeof text, "FULL no memory: %s", what);
    return RedisModule_ReplyWithError(ctx, text);
}

int fence_stopped(RedisModuleCtx *ctx, const char *why)
{
    node.counts.stopped++;
    char text[256];
    (void)snprintf(text, sizeof text, "STOPPED %s", why);
    return RedisModule_ReplyWithError(ctx, text);
}

int fence_type(RedisModuleCtx *ctx, const char *why)
{
    char text[256];
    (void)snprintf(text, sizeof text, "TYPE %s", why);
    return RedisModule_ReplyWithError(ctx, text);
}

int fence_malformed(RedisModuleCtx *ctx, const char *why)
{
    char text[256];
    (void)snprintf(text, sizeof text, "ERR %s", why);
    return RedisModule_ReplyWithError(ctx, text);
}

static int reply_number(RedisModuleCtx *ctx, const char *word, uint64_t number, const char *why)
{
    char text[256];
    (void)snprintf(text, sizeof text, "%s %llu %s", word, (unsigned long long)number, why);
    return RedisModule_ReplyWithError(ctx, text);
}

int fence_epoch(RedisModuleCtx *ctx)
{
    return reply_number(ctx, "EPOCH", node.record.epoch, "is the epoch here: read the ring again");
}

int fence_overflow(RedisModuleCtx *ctx, uint64_t number)
{
    return reply_number(ctx, "OVERFLOW", number, "too many were noted: all keys may be owed");
}

bool fence_admits(RedisModuleCtx *ctx)
{
    if (!RING_FAULT_IS(1) && node_stood_still(ctx)) {
        (void)fence_stopped(ctx, "the server stood still: say HELLO");
        return false;
    }
    if (node.state != NODE_READY && node.state != NODE_JOINING) {
        char why[64];
        (void)snprintf(why, sizeof why, "the node is %s", node_state_name(node.state));
        (void)fence_stopped(ctx, why);
        return false;
    }
    if (!RING_FAULT_IS(11) && !clients_know(RedisModule_GetClientId(ctx))) {
        (void)fence_stopped(ctx, "this connection has not said HELLO in this life of the node");
        return false;
    }
    if (RedisModule_GetSelectedDb(ctx) != 0) {
        (void)fence_malformed(ctx, "the ring is in database 0: SELECT 0");
        return false;
    }
    return true;
}

bool fence_is_at(RedisModuleCtx *ctx, const RedisModuleString *text)
{
    long long epoch;
    if (RedisModule_StringToLongLong(text, &epoch) != REDISMODULE_OK || epoch < 0) {
        (void)fence_malformed(ctx, "the epoch is no number");
        return false;
    }
    if (RING_FAULT_IS(7)) { /* 7: the epoch is not looked at */
        return true;
    }
    if ((uint64_t)epoch < node.record.epoch) {
        (void)fence_epoch(ctx);
        return false;
    }
    if ((uint64_t)epoch > node.record.epoch) {
        (void)reply_number(ctx, "BEHIND", node.record.epoch, "is the epoch here");
        return false;
    }
    return true;
}

bool fence_admits_at(RedisModuleCtx *ctx, const RedisModuleString *epoch)
{
    return fence_admits(ctx) && fence_is_at(ctx, epoch);
}

struct ring_holders fence_holders(const RedisModuleString *key)
{
    size_t length;
    const char *bytes = RedisModule_StringPtrLen(key, &length);
    return ring_holders(&node.record.ring, ring_hash(bytes, length));
}

bool fence_holds(RedisModuleCtx *ctx, const struct ring_holders *holders)
{
    if (RING_FAULT_IS(8) || /* 8: any node takes any key */
        ring_is_among(holders, holders->count, (unsigned)node.self)) {
        return true;
    }
    (void)RedisModule_ReplyWithError(ctx, "NOTMINE the key has other holders at this epoch");
    return false;
}

bool fence_miss_is_final(const struct ring_holders *holders)
{
    if (RING_FAULT_IS(9)) { /* 9: a miss is final while the node is being filled */
        return true;
    }
    return node.state == NODE_READY && !node.dropped && is_read(holders);
}

bool fence_version(RedisModuleCtx *ctx, const RedisModuleString *text, struct ring_version *version)
{
    size_t length;
    const char *bytes = RedisModule_StringPtrLen(text, &length);
    if (length != RING_VERSION_BYTES) {
        (void)fence_malformed(ctx, "a version has 16 bytes");
        return false;
    }
    memcpy(version->bytes, bytes, sizeof version->bytes);
    if (ring_version_time(version) > RING_TIME_MAX) {
        (void)fence_malformed(ctx, "the version's time is above 2^47 - 1 ms");
        return false;
    }
    return true;
}

bool fence_is_timely(RedisModuleCtx *ctx, const struct ring_version *version)
{
    uint64_t time = ring_version_time(version);
    uint64_t now = node_now();
    if (time + LATE_MS < now && !RING_FAULT_IS(12)) { /* 12: however late a write comes */
        node.counts.late++;
        (void)reply_number(ctx, "LATE", now,
                           "is the time here: this version is too old to be sent");
        return false;
    }
    if (time > now + AHEAD_MS) {
        (void)reply_number(ctx, "CLOCK", now, "is the time here: the version's is far ahead of it");
        return false;
    }
    return true;
}

bool fence_time(RedisModuleCtx *ctx, const RedisModuleString *text, uint64_t *time)
{
    long long number;
    if (RedisModule_StringToLongLong(text, &number) != REDISMODULE_OK || number < 0 ||
        (uint64_t)number > RING_TIME_MAX) {
        (void)fence_malformed(ctx, "the end must be 0 to 2^47 - 1 ms since 1970");
        return false;
    }
    *time = (uint64_t)number;
    return true;
}
