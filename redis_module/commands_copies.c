/* commands_copies.c - RING.FILL, DUMP, DROP, OWE, OWED and PAID. */
#include "commands.h"

#include "fault.h"
#include "fence.h"
#include "owed.h"
#include "slot.h"

/* ---- filling ---- */

static bool read_entry(const RedisModuleString *text, struct ring_entry *entry)
{
    size_t length;
    const char *bytes = RedisModule_StringPtrLen(text, &length);
    return ring_entry_decode(entry, bytes, length);
}

/* Looks at all keys and entries before the first is written. */
static bool admits_fill(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    for (int i = 2; i < argc; i += 2) {
        struct ring_entry entry;
        struct ring_holders holders = fence_holders(argv[i]);
        if (!fence_holds(ctx, &holders)) {
            return false;
        }
        if (!read_entry(argv[i + 1], &entry)) {
            (void)fence_malformed(ctx, "an entry is not the bytes of a stored value");
            return false;
        }
    }
    return true;
}

/* Takes one entry; SLOT_NEWER, too, where nothing is to be said of it. */
static enum slot_put fill_one(RedisModuleCtx *ctx, RedisModuleString *key,
                              const RedisModuleString *text)
{
    struct ring_entry entry;
    struct slot slot;
    enum slot_put put = SLOT_NEWER;
    (void)read_entry(text, &entry);
    slot_open(&slot, ctx, key, REDISMODULE_READ | REDISMODULE_WRITE);
    if (RING_FAULT_IS(5)) { /* 5: what comes from the other holder replaces what is here */
        slot_remove(&slot);
    }
    if (!slot_has_passed(&entry)) {
        put = slot_put(&slot, &entry);
    } else if (slot.there && ring_version_compare(&slot.entry.version, &entry.version) < 0 &&
               !RING_FAULT_IS(27)) { /* 27: what is older than something that has passed stays */
        slot_remove(&slot);
        put = SLOT_TAKEN;
    }
    slot_close(&slot);
    return put;
}

/* One that is refused holds up none of the others: an older value of theirs would stay. */
int command_fill(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc < 4 || argc % 2 != 0) {
        return RedisModule_WrongArity(ctx);
    }
    if (!fence_admits_at(ctx, argv[1]) || !admits_fill(ctx, argv, argc)) {
        return REDISMODULE_OK;
    }
    long long taken = 0;
    bool full = false, alien = false, large = false;
    for (int i = 2; i < argc; i += 2) {
        enum slot_put put = fill_one(ctx, argv[i], argv[i + 1]);
        taken += put == SLOT_TAKEN;
        full |= put == SLOT_FULL;
        alien |= put == SLOT_ALIEN;
        large |= put == SLOT_TOO_LARGE;
        if (RING_FAULT_IS(28) && full) { /* 28: what comes after a refused one is not looked at */
            break;
        }
    }
    if (full) {
        return fence_full(ctx, "not all of this is here, nor are older values of those keys");
    }
    if (large) {
        return fence_malformed(ctx, "a value is larger than the server's strings can be");
    }
    if (alien) {
        return fence_type(ctx, "the ring did not write what one of these keys holds");
    }
    return RedisModule_ReplyWithLongLong(ctx, taken);
}

int command_dump(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc < 2) {
        return RedisModule_WrongArity(ctx);
    }
    if (!fence_admits(ctx)) {
        return REDISMODULE_OK;
    }
    (void)RedisModule_ReplyWithArray(ctx, argc - 1);
    for (int i = 1; i < argc; i++) {
        struct slot slot;
        slot_open(&slot, ctx, argv[i], REDISMODULE_READ);
        if (slot.there) {
            (void)RedisModule_ReplyWithStringBuffer(ctx, slot_bytes(&slot), slot.length);
        } else {
            (void)RedisModule_ReplyWithNull(ctx);
        }
        slot_close(&slot);
    }
    return REDISMODULE_OK;
}

int command_drop(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc < 4 || argc % 2 != 0) {
        return RedisModule_WrongArity(ctx);
    }
    if (!fence_admits_at(ctx, argv[1])) {
        return REDISMODULE_OK;
    }
    struct ring_version version;
    for (int i = 2; i < argc; i += 2) {
        if (!fence_version(ctx, argv[i + 1], &version)) {
            return REDISMODULE_OK;
        }
    }
    long long removed = 0;
    for (int i = 2; i < argc; i += 2) {
        struct ring_holders holders = fence_holders(argv[i]);
        (void)fence_version(ctx, argv[i + 1], &version);
        if (ring_is_among(&holders, holders.count, (unsigned)node.self) && !RING_FAULT_IS(21)) {
            continue; /* 21: a holder drops its own keys */
        }
        struct slot slot;
        slot_open(&slot, ctx, argv[i], REDISMODULE_READ | REDISMODULE_WRITE);
        if (slot.there && ring_version_compare(&slot.entry.version, &version) <= 0) {
            slot_remove(&slot);
            removed++;
        }
        slot_close(&slot);
    }
    return RedisModule_ReplyWithLongLong(ctx, removed);
}

/* ---- what is owed ---- */

/* The index of a node that is another one than this. */
static bool read_node(RedisModuleCtx *ctx, const RedisModuleString *text, unsigned *index)
{
    size_t length;
    const char *id = RedisModule_StringPtrLen(text, &length);
    int found = record_index(&node.record, id, length);
    if (found < 0 || found == node.self) {
        (void)fence_malformed(ctx, "no other node of the ring has this id");
        return false;
    }
    *index = (unsigned)found;
    return true;
}

int command_owe(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 5) {
        return RedisModule_WrongArity(ctx);
    }
    struct ring_version version;
    unsigned index;
    if (!fence_admits_at(ctx, argv[1]) || !read_node(ctx, argv[2], &index) ||
        !fence_version(ctx, argv[4], &version)) {
        return REDISMODULE_OK;
    }
    struct ring_holders holders = fence_holders(argv[3]);
    if (!fence_holds(ctx, &holders)) {
        return REDISMODULE_OK;
    }
    if (!ring_is_among(&holders, holders.count, index)) {
        return RedisModule_ReplyWithError(ctx, "NOTMINE that node is no holder of the key");
    }
    size_t length;
    const char *key = RedisModule_StringPtrLen(argv[3], &length);
    owed_note(&node.record, index, key, length, &version);
    return RedisModule_ReplyWithSimpleString(ctx, "OK");
}

struct listing {
    RedisModuleCtx *ctx;
    long items;
};

static void list_owed(void *context, const char *key, size_t length,
                      const struct ring_version *version)
{
    struct listing *listing = context;
    (void)RedisModule_ReplyWithStringBuffer(listing->ctx, key, length);
    (void)RedisModule_ReplyWithStringBuffer(listing->ctx, (const char *)version->bytes,
                                            RING_VERSION_BYTES);
    listing->items += 2;
}

int command_owed(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 3 && argc != 4) {
        return RedisModule_WrongArity(ctx);
    }
    unsigned index;
    long long count;
    if (!fence_admits(ctx) || !read_node(ctx, argv[1], &index)) {
        return REDISMODULE_OK;
    }
    if (RedisModule_StringToLongLong(argv[2], &count) != REDISMODULE_OK || count < 0) {
        return fence_malformed(ctx, "the count is no number");
    }
    struct owed *owed = owed_of(&node.record, index);
    if (owed == NULL) {
        return RedisModule_ReplyWithArray(ctx, 0);
    }
    if (owed_overflow(owed) != 0) {
        return fence_overflow(ctx, owed_overflow(owed));
    }
    size_t length = 0;
    const char *after = argc == 4 ? RedisModule_StringPtrLen(argv[3], &length) : NULL;
    struct listing listing = {.ctx = ctx};
    (void)RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
    owed_walk(owed, after, length, (uint64_t)count, list_owed, &listing);
    RedisModule_ReplySetArrayLength(ctx, listing.items);
    return REDISMODULE_OK;
}

int command_paid(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc < 3 || (argc > 3 && argc % 2 != 0)) {
        return RedisModule_WrongArity(ctx);
    }
    unsigned index;
    struct ring_version version;
    if (!fence_admits(ctx) || !read_node(ctx, argv[1], &index)) {
        return REDISMODULE_OK;
    }
    for (int i = 2; argc > 3 && i < argc; i += 2) {
        if (!fence_version(ctx, argv[i + 1], &version)) {
            return REDISMODULE_OK;
        }
    }
    struct owed *owed = owed_of(&node.record, index);
    long long struck = 0;
    if (argc == 3) {
        if (RedisModule_StringToLongLong(argv[2], &struck) != REDISMODULE_OK || struck < 0) {
            return fence_malformed(ctx, "the number of the overflow is no number");
        }
        return RedisModule_ReplyWithLongLong(ctx,
                                             owed != NULL && owed_settle(owed, (uint64_t)struck));
    }
    for (int i = 2; owed != NULL && i < argc; i += 2) {
        size_t length;
        const char *key = RedisModule_StringPtrLen(argv[i], &length);
        (void)fence_version(ctx, argv[i + 1], &version);
        struck += owed_strike(owed, key, length, &version);
    }
    return RedisModule_ReplyWithLongLong(ctx, struck);
}
