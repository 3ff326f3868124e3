/* slot.h - one key of the server with the stored value in it: opened, compared, written, closed. */
#ifndef RING_MODULE_SLOT_H
#define RING_MODULE_SLOT_H

#include <stdbool.h>

#include "entry.h"
#include "redis_api.h"

struct slot {
    RedisModuleCtx *ctx;
    RedisModuleString *name;
    RedisModuleKey *key; /* NULL: opened for reading, and nothing is there */
    bool there;          /* a stored value, which `entry` is: its bytes are those in the server */
    bool alien;          /* something that the ring did not write */
    struct ring_entry entry;
    size_t length; /* of the bytes */
};

enum slot_put {
    SLOT_TAKEN,
    SLOT_SAME,
    SLOT_NEWER,
    SLOT_FULL,
    SLOT_UNCHANGED,
    SLOT_ALIEN,
    SLOT_TOO_LARGE
};

void slot_open(struct slot *slot, RedisModuleCtx *ctx, RedisModuleString *name, int mode);
void slot_close(struct slot *slot);

/* A value is there that is no tombstone and has not ended. */
bool slot_is_live(const struct slot *slot);

/* The server would have removed such an entry by now. */
bool slot_has_passed(const struct ring_entry *entry);

/* The whole bytes of what is there. */
const char *slot_bytes(const struct slot *slot);

/* Writes an entry unless a higher version is there; afterwards the slot's `entry` is what is there.
 * Without memory what was there is removed: the other holder may have the newer one.
 */
enum slot_put slot_put(struct slot *slot, const struct ring_entry *entry);

/* The same for an entry that was made of what is there: without memory that stays. */
enum slot_put slot_change(struct slot *slot, const struct ring_entry *entry);

void slot_remove(struct slot *slot);

/* Replies with the error that a put ended with; false: it was none. */
bool slot_reply_refusal(const struct slot *slot, enum slot_put put);

#endif
