/* commands_value.c - RING.GET, MGET, META, SET, DEL, INCR and EXPIRE. */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fence.h"
#include "slot.h"

enum { NUMBER_BYTES = 24 }; /* of a 64-bit number in decimal, and more */

/* ---- reading ---- */

/* Replies with the value of a key, or why there is none. */
static void reply_value(RedisModuleCtx *ctx, RedisModuleString *key)
{
    struct ring_holders holders = fence_holders(key);
    if (!fence_holds(ctx, &holders)) {
        return;
    }
    struct slot slot;
    slot_open(&slot, ctx, key, REDISMODULE_READ);
    if (slot_is_live(&slot)) {
        (void)RedisModule_ReplyWithStringBuffer(ctx, (const char *)slot.entry.value,
                                                slot.entry.length);
    } else if (slot.alien) {
        (void)slot_reply_refusal(&slot, SLOT_ALIEN);
    } else if (slot.there || fence_miss_is_final(&holders)) {
        (void)RedisModule_ReplyWithNull(ctx);
    } else {
        (void)fence_maybe(ctx, &holders);
    }
    slot_close(&slot);
}

int command_get(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 3) {
        return RedisModule_WrongArity(ctx);
    }
    if (fence_admits_at(ctx, argv[1])) {
        reply_value(ctx, argv[2]);
    }
    return REDISMODULE_OK;
}

int command_mget(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc < 3) {
        return RedisModule_WrongArity(ctx);
    }
    if (fence_admits_at(ctx, argv[1])) {
        (void)RedisModule_ReplyWithArray(ctx, argc - 2);
        for (int i = 2; i < argc; i++) {
            reply_value(ctx, argv[i]);
        }
    }
    return REDISMODULE_OK;
}

int command_meta(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 3) {
        return RedisModule_WrongArity(ctx);
    }
    if (!fence_admits_at(ctx, argv[1])) {
        return REDISMODULE_OK;
    }
    struct ring_holders holders = fence_holders(argv[2]);
    if (!fence_holds(ctx, &holders)) {
        return REDISMODULE_OK;
    }
    struct slot slot;
    slot_open(&slot, ctx, argv[2], REDISMODULE_READ);
    if (slot.there) {
        (void)RedisModule_ReplyWithArray(ctx, 4);
        (void)RedisModule_ReplyWithLongLong(ctx, slot.entry.kind);
        (void)RedisModule_ReplyWithStringBuffer(ctx, (const char *)slot.entry.version.bytes,
                                                RING_VERSION_BYTES);
        (void)RedisModule_ReplyWithLongLong(ctx, (long long)slot.entry.end);
        (void)RedisModule_ReplyWithLongLong(ctx, (long long)slot.entry.length);
    } else if (slot.alien) {
        (void)slot_reply_refusal(&slot, SLOT_ALIEN);
    } else if (fence_miss_is_final(&holders)) {
        (void)RedisModule_ReplyWithNull(ctx);
    } else {
        (void)fence_maybe(ctx, &holders);
    }
    slot_close(&slot);
    return REDISMODULE_OK;
}

/* ---- writing ---- */

/* The checks of a command whose arguments begin with epoch and version. */
static bool admits_write(RedisModuleCtx *ctx, RedisModuleString **argv, RedisModuleString *key,
                         struct ring_version *version, struct ring_holders *holders)
{
    if (!fence_admits_at(ctx, argv[1]) || !fence_version(ctx, argv[2], version) ||
        !fence_is_timely(ctx, version)) {
        return false;
    }
    *holders = fence_holders(key);
    return fence_holds(ctx, holders);
}

/* Replies OK. A reply that the server has made already costs it a third of one that it is to make
 * of a text: of what RING.SET costs with others in one packet that is a tenth. */
static void reply_ok(RedisModuleCtx *ctx)
{
    static RedisModuleCallReply *ok; /* the main thread's, never freed */
    if (ok == NULL) {
        ok = RedisModule_Call(ctx, "UNWATCH", ""); /* does nothing, and says OK */
    }
    if (ok == NULL || RedisModule_ReplyWithCallReply(ctx, ok) != REDISMODULE_OK) {
        (void)RedisModule_ReplyWithSimpleString(ctx, "OK");
    }
}

int command_set(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 4) {
        return RedisModule_WrongArity(ctx);
    }
    if (!fence_admits_at(ctx, argv[1])) {
        return REDISMODULE_OK;
    }
    struct ring_entry entry;
    size_t length;
    const char *bytes = RedisModule_StringPtrLen(argv[3], &length);
    if (!ring_entry_decode(&entry, bytes, length) || entry.kind != RING_VALUE) {
        return fence_malformed(ctx, "the entry is not the bytes of a stored value");
    }
    struct ring_holders holders = fence_holders(argv[2]);
    if (!fence_is_timely(ctx, &entry.version) || !fence_holds(ctx, &holders)) {
        return REDISMODULE_OK;
    }
    struct slot slot;
    slot_open(&slot, ctx, argv[2], REDISMODULE_READ | REDISMODULE_WRITE);
    if (!slot_reply_refusal(&slot, slot_put(&slot, &entry))) {
        reply_ok(ctx);
    }
    slot_close(&slot);
    return REDISMODULE_OK;
}

int command_del(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 4) {
        return RedisModule_WrongArity(ctx);
    }
    struct ring_entry entry = {.kind = RING_TOMBSTONE};
    struct ring_holders holders;
    if (!admits_write(ctx, argv, argv[3], &entry.version, &holders)) {
        return REDISMODULE_OK;
    }
    entry.end = ring_tombstone_end(&entry.version);
    struct slot slot;
    slot_open(&slot, ctx, argv[3], REDISMODULE_READ | REDISMODULE_WRITE);
    bool was_there = slot_is_live(&slot);
    if (!slot_reply_refusal(&slot, slot_put(&slot, &entry))) {
        (void)RedisModule_ReplyWithLongLong(ctx, was_there);
    }
    slot_close(&slot);
    return REDISMODULE_OK;
}

/* Reads the number that a value is, in the one way in which it is written. */
static bool read_number(const struct ring_entry *entry, long long *number)
{
    char text[NUMBER_BYTES], again[NUMBER_BYTES];
    if (entry->length == 0 || entry->length >= sizeof text) {
        return false;
    }
    memcpy(text, entry->value, entry->length);
    text[entry->length] = '\0';
    *number = strtoll(text, NULL, 10);
    int length = snprintf(again, sizeof again, "%lld", *number);
    return (size_t)length == entry->length && memcmp(text, again, entry->length) == 0;
}

static void reply_changed(const struct slot *slot, long long first)
{
    (void)RedisModule_ReplyWithArray(slot->ctx, 2);
    (void)RedisModule_ReplyWithLongLong(slot->ctx, first);
    (void)RedisModule_ReplyWithStringBuffer(slot->ctx, slot_bytes(slot), slot->length);
}

/* Whether this very version is there already: the request has come a second time. */
static bool is_there_already(const struct slot *slot, const struct ring_version *version)
{
    return slot_is_live(slot) && ring_version_compare(&slot->entry.version, version) == 0;
}

/* Adds to the number in an open slot, or begins with 0, and replies. */
static void add(struct slot *slot, const struct ring_version *version, long long delta)
{
    bool live = slot_is_live(slot);
    long long number = 0;
    if (live && !read_number(&slot->entry, &number)) {
        (void)fence_type(slot->ctx, "the value is not a number");
        return;
    }
    if (is_there_already(slot, version)) {
        reply_changed(slot, number);
        return;
    }
    if (__builtin_saddll_overflow(number, delta, &number)) {
        (void)fence_type(slot->ctx, "the number would be too large");
        return;
    }
    char text[NUMBER_BYTES];
    struct ring_entry entry = {.kind = RING_VALUE,
                               .version = *version,
                               .end = live ? slot->entry.end : 0,
                               .value = (const unsigned char *)text};
    entry.length = (size_t)snprintf(text, sizeof text, "%lld", number);
    if (!slot_reply_refusal(slot, slot_change(slot, &entry))) {
        reply_changed(slot, number);
    }
}

int command_incr(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 5) {
        return RedisModule_WrongArity(ctx);
    }
    struct ring_version version;
    struct ring_holders holders;
    long long delta;
    if (!admits_write(ctx, argv, argv[3], &version, &holders)) {
        return REDISMODULE_OK;
    }
    if (RedisModule_StringToLongLong(argv[4], &delta) != REDISMODULE_OK) {
        return fence_type(ctx, "what is to be added is not a number");
    }
    struct slot slot;
    slot_open(&slot, ctx, argv[3], REDISMODULE_READ | REDISMODULE_WRITE);
    if (slot.alien) {
        (void)slot_reply_refusal(&slot, SLOT_ALIEN);
    } else if (!slot.there && !fence_miss_is_final(&holders)) {
        (void)fence_maybe(ctx, &holders);
    } else {
        add(&slot, &version, delta);
    }
    slot_close(&slot);
    return REDISMODULE_OK;
}

/* Gives what is in an open slot another end, and replies. */
static void change_end(struct slot *slot, const struct ring_version *version, uint64_t end)
{
    if (is_there_already(slot, version)) {
        reply_changed(slot, 1);
        return;
    }
    struct ring_entry entry = slot->entry;
    entry.version = *version;
    entry.end = end;
    if (!slot_reply_refusal(slot, slot_change(slot, &entry))) {
        reply_changed(slot, 1);
    }
}

int command_expire(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 5) {
        return RedisModule_WrongArity(ctx);
    }
    struct ring_version version;
    struct ring_holders holders;
    uint64_t end;
    if (!admits_write(ctx, argv, argv[3], &version, &holders) || !fence_time(ctx, argv[4], &end)) {
        return REDISMODULE_OK;
    }
    struct slot slot;
    slot_open(&slot, ctx, argv[3], REDISMODULE_READ | REDISMODULE_WRITE);
    if (slot.alien) {
        (void)slot_reply_refusal(&slot, SLOT_ALIEN);
    } else if (slot_is_live(&slot)) {
        change_end(&slot, &version, end);
    } else if (slot.there || fence_miss_is_final(&holders)) {
        (void)RedisModule_ReplyWithArray(ctx, 2);
        (void)RedisModule_ReplyWithLongLong(ctx, 0);
        (void)RedisModule_ReplyWithNull(ctx);
    } else {
        (void)fence_maybe(ctx, &holders);
    }
    slot_close(&slot);
    return REDISMODULE_OK;
}
