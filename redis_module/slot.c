/* slot.c - stored values in the server's strings. */
#include "slot.h"

#include <string.h>

#include "fault.h"
#include "fence.h"
#include "node.h"

enum {
    GRACE_MS = 10000,          /* from a value's end until the server removes it */
    FAULTY_TOMBSTONE_MS = 200, /* fault 6 */
};

void slot_open(struct slot *slot, RedisModuleCtx *ctx, RedisModuleString *name, int mode)
{
    *slot = (struct slot){.ctx = ctx, .name = name, .key = RedisModule_OpenKey(ctx, name, mode)};
    int type = slot->key == NULL ? REDISMODULE_KEYTYPE_EMPTY : RedisModule_KeyType(slot->key);
    if (type == REDISMODULE_KEYTYPE_STRING) {
        const char *bytes = RedisModule_StringDMA(slot->key, &slot->length, REDISMODULE_READ);
        slot->there = ring_entry_decode(&slot->entry, bytes, slot->length);
    }
    slot->alien = type != REDISMODULE_KEYTYPE_EMPTY && !slot->there;
}

void slot_close(struct slot *slot)
{
    if (slot->key != NULL) {
        RedisModule_CloseKey(slot->key);
    }
}

bool slot_is_live(const struct slot *slot)
{
    return slot->there && slot->entry.kind == RING_VALUE &&
           (slot->entry.end == 0 || slot->entry.end > node_now());
}

const char *slot_bytes(const struct slot *slot)
{
    return (const char *)slot->entry.value - RING_HEADER_BYTES;
}

/* When the server is to remove an entry by itself. */
static long long removal(const struct ring_entry *entry)
{
    if (entry->kind == RING_TOMBSTONE) {
        if (RING_FAULT_IS(6)) { /* 6: a write that is older than the deletion finds nothing */
            return (long long)node_now() + FAULTY_TOMBSTONE_MS;
        }
        return (long long)entry->end;
    }
    if (entry->end == 0) {
        return REDISMODULE_NO_EXPIRE;
    }
    /* An end before the write itself must not open the way to an older one. */
    uint64_t time = ring_version_time(&entry->version);
    bool before = entry->end < time && !RING_FAULT_IS(19); /* 19: it is forgotten at once */
    return (long long)(before ? time : entry->end) + GRACE_MS;
}

bool slot_has_passed(const struct ring_entry *entry)
{
    long long at = removal(entry);
    return at != REDISMODULE_NO_EXPIRE && at <= (long long)node_now();
}

/* An eviction that is under way may be behind by this much. */
static bool is_full(void)
{
    return RedisModule_GetUsedMemoryRatio() > (node.evicts ? 1.1F : 1.0F);
}

static void propagate(const struct slot *slot, long long expire)
{
    if (!node.propagates) {
        return;
    }
    if (!slot->there) {
        (void)RedisModule_Replicate(slot->ctx, "DEL", "s", slot->name);
    } else if (expire == REDISMODULE_NO_EXPIRE) {
        (void)RedisModule_Replicate(slot->ctx, "SET", "sb", slot->name, slot_bytes(slot),
                                    slot->length);
    } else {
        (void)RedisModule_Replicate(slot->ctx, "SET", "sbcl", slot->name, slot_bytes(slot),
                                    slot->length, "PXAT", expire);
    }
}

void slot_remove(struct slot *slot)
{
    if (slot->there) {
        (void)RedisModule_DeleteKey(slot->key);
        slot->there = false;
        propagate(slot, REDISMODULE_NO_EXPIRE);
    }
}

/* Writes without a look at what is there, in its place: the server's memory is used again. */
static bool write_entry(struct slot *slot, const struct ring_entry *entry)
{
    size_t length = RING_HEADER_BYTES + entry->length;
    long long expire = removal(entry);
    bool changes = expire != (slot->there ? removal(&slot->entry) : REDISMODULE_NO_EXPIRE);
    if ((!slot->there || length != slot->length) &&
        RedisModule_StringTruncate(slot->key, length) != REDISMODULE_OK) {
        return false;
    }
    unsigned char *bytes =
        (unsigned char *)RedisModule_StringDMA(slot->key, &slot->length, REDISMODULE_WRITE);
    ring_entry_header(bytes, entry->kind, &entry->version, entry->end);
    if (entry->length > 0) {
        memmove(bytes + RING_HEADER_BYTES, entry->value, entry->length); /* may be its own */
    }
    if (changes || RING_FAULT_IS(6)) {
        (void)RedisModule_SetAbsExpire(slot->key, expire);
    }
    slot->entry = *entry;
    slot->entry.value = bytes + RING_HEADER_BYTES;
    slot->length = length;
    slot->there = true;
    propagate(slot, expire);
    return true;
}

enum slot_put slot_change(struct slot *slot, const struct ring_entry *entry)
{
    enum slot_put put = SLOT_UNCHANGED;
    bool older = !slot->there || ring_version_compare(&slot->entry.version, &entry->version) < 0;
    if (!older || !is_full() || RING_FAULT_IS(23)) { /* 23: two full holders lose a counter */
        put = slot_put(slot, entry);
    }
    return put;
}

enum slot_put slot_put(struct slot *slot, const struct ring_entry *entry)
{
    if (slot->alien) {
        return SLOT_ALIEN;
    }
    if (slot->there && !RING_FAULT_IS(2)) { /* 2: who writes last wins */
        int order = ring_version_compare(&slot->entry.version, &entry->version);
        if (order >= 0) {
            return order > 0 ? SLOT_NEWER : SLOT_SAME;
        }
    }
    if ((entry->kind == RING_VALUE || !slot->there) && is_full()) {
        if (!RING_FAULT_IS(13)) { /* 13: the older value stays, and is served */
            slot_remove(slot);
        }
        node_lost_a_key();
        return SLOT_FULL;
    }
    return write_entry(slot, entry) ? SLOT_TAKEN : SLOT_TOO_LARGE;
}

bool slot_reply_refusal(const struct slot *slot, enum slot_put put)
{
    switch (put) {
    case SLOT_NEWER:
        (void)fence_newer(slot->ctx, &slot->entry.version);
        return true;
    case SLOT_FULL:
        (void)fence_full(slot->ctx, "this write is not here, nor is an older value of the key");
        return true;
    case SLOT_UNCHANGED:
        (void)fence_full(slot->ctx, "nothing was changed");
        return true;
    case SLOT_ALIEN:
        (void)fence_type(slot->ctx, "the ring did not write what this key holds");
        return true;
    case SLOT_TOO_LARGE:
        (void)fence_malformed(slot->ctx, "the value is larger than the server's strings can be");
        return true;
    default:
        return false;
    }
}
