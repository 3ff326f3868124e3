/* ring.c - rendezvous hashing: the nodes with the highest scores hold a key.
 *
 * While one node comes or goes, both rings are one list of nodes in which that node is marked. The
 * pair of the ring without it is the top two without it, so the union of both pairs is the top
 * three where it is among the top two, and else the top two.
 */
#include "ring.h"

#include <string.h>

static inline uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t ring_hash(const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    uint64_t hash = UINT64_C(0x9e3779b97f4a7c15) ^ length;
    uint64_t word;
    for (; length >= sizeof word; at += sizeof word, length -= sizeof word) {
        memcpy(&word, at, sizeof word);
        hash = mix(hash ^ word);
    }
    if (length > 0) {
        word = 0;
        memcpy(&word, at, length);
        hash = mix(hash ^ word);
    }
    return mix(hash);
}

bool ring_id_valid(struct ring_id id)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (id.length < 1 || id.length > RING_ID_MAX) {
        return false;
    }
    if (id.length <= 2 && memcmp(id.bytes, "..", id.length) == 0) { /* no name of a path */
        return false;
    }
    for (size_t i = 0; i < id.length; i++) {
        if (memchr(letters, id.bytes[i], sizeof letters - 1) == NULL) {
            return false;
        }
    }
    return true;
}

static int compare_ids(struct ring_id a, struct ring_id b)
{
    size_t shorter = a.length < b.length ? a.length : b.length;
    int order = memcmp(a.bytes, b.bytes, shorter);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

/* Puts the indexes 0 to count - 1 into the order of the ids; false if two are equal. */
static bool sort(uint8_t *place, const struct ring_id *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            int order = compare_ids(ids[place[at - 1]], ids[i]);
            if (order == 0) {
                return false;
            }
            if (order < 0) {
                break;
            }
            place[at] = place[at - 1];
        }
        place[at] = (uint8_t)i;
    }
    return true;
}

enum ring_wrong ring_make(struct ring *ring, const struct ring_id *ids, size_t count,
                          enum ring_change change, size_t changing)
{
    if (count < (change == RING_STILL ? 1 : 2)) {
        return RING_NO_NODE;
    }
    if (count > RING_NODES_MAX) {
        return RING_TOO_MANY;
    }
    for (size_t i = 0; i < count; i++) {
        if (!ring_id_valid(ids[i])) {
            return RING_BAD_ID;
        }
    }
    if (!sort(ring->place, ids, count)) {
        return RING_TWICE;
    }
    ring->count = (unsigned)count;
    ring->change = change;
    ring->changing = 0;
    for (unsigned i = 0; i < count; i++) {
        struct ring_id id = ids[ring->place[i]];
        ring->seed[i] = mix(ring_hash(id.bytes, id.length));
        if (ring->place[i] == changing) {
            ring->changing = i;
        }
    }
    return RING_FINE;
}

/* The positions of the three highest scores, the highest first; of fewer nodes what is there. */
static void top_three(const struct ring *ring, uint64_t hash, unsigned top[RING_HOLDERS_MAX])
{
    uint64_t best[RING_HOLDERS_MAX];
    unsigned known = 0;
    for (unsigned i = 0; i < ring->count; i++) {
        uint64_t score = mix(hash ^ ring->seed[i]);
        unsigned at = known < RING_HOLDERS_MAX ? known++ : RING_HOLDERS_MAX;
        for (; at > 0 && score > best[at - 1]; at--) {
            if (at < RING_HOLDERS_MAX) {
                best[at] = best[at - 1];
                top[at] = top[at - 1];
            }
        }
        if (at < RING_HOLDERS_MAX) {
            best[at] = score;
            top[at] = i;
        }
    }
}

static struct ring_holders holders_in_change(const struct ring *ring, uint64_t hash)
{
    unsigned top[RING_HOLDERS_MAX] = {0};
    top_three(ring, hash, top);
    struct ring_holders holders = {.count = 2};
    if (top[0] == ring->changing || top[1] == ring->changing) {
        holders.count = ring->count < RING_HOLDERS_MAX ? (uint8_t)ring->count : RING_HOLDERS_MAX;
    }
    if (ring->change == RING_READ_WITH) {
        holders.pair = 2;
        for (unsigned i = 0; i < holders.count; i++) {
            holders.node[i] = ring->place[top[i]];
        }
        return holders;
    }
    for (unsigned i = 0; i < holders.count; i++) {
        if (top[i] != ring->changing) {
            holders.node[holders.pair++] = ring->place[top[i]];
        }
    }
    if (holders.pair < holders.count) {
        holders.node[holders.pair] = ring->place[ring->changing];
    }
    return holders;
}

struct ring_holders ring_holders(const struct ring *ring, uint64_t hash)
{
    if (ring->change != RING_STILL) {
        return holders_in_change(ring, hash);
    }
    if (ring->count == 1) {
        return (struct ring_holders){.pair = 1, .count = 1, .node = {ring->place[0]}};
    }
    /* By masks, as which node wins cannot be foretold: a branch would often be taken wrongly. */
    uint64_t first = mix(hash ^ ring->seed[0]);
    uint64_t second = 0; /* as low as it can be: if the next one is as low, it is that */
    unsigned at_first = 0;
    unsigned at_second = 1;
    for (unsigned i = 1; i < ring->count; i++) {
        uint64_t score = mix(hash ^ ring->seed[i]);
        uint64_t wins = -(uint64_t)(score > first);
        uint64_t beats = -(uint64_t)(score > second);
        uint64_t loser = score ^ ((score ^ first) & wins);
        unsigned at_loser = i ^ ((i ^ at_first) & (unsigned)wins);
        second ^= (second ^ loser) & beats;
        at_second ^= (at_second ^ at_loser) & (unsigned)beats;
        first ^= (first ^ score) & wins;
        at_first ^= (at_first ^ i) & (unsigned)wins;
    }
    return (struct ring_holders){
        .pair = 2, .count = 2, .node = {ring->place[at_first], ring->place[at_second]}};
}
