/* ring.h - which nodes hold a key. docs/ring.md has the definition and test vectors.
 *
 * Pure functions: no allocation, no system call, no state of their own. A struct ring is not
 * changed once it is made: any number of threads and processes may read one.
 */
#ifndef MMAPCACHE_RING_H
#define MMAPCACHE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RING_NODES_MAX = 128,
    RING_ID_MAX = 64,    /* characters */
    RING_HOLDERS_MAX = 3 /* of a key while the ring changes; else two, and one of a ring of one */
};

struct ring_id {
    const char *bytes; /* need not end with a NUL */
    size_t length;
};

/* While one node comes or goes there is a ring with it and one without. Reads follow one of the
 * two: without it while it is filled, with it while it is drained, the other way round after that.
 */
enum ring_change { RING_STILL, RING_READ_WITHOUT, RING_READ_WITH };

struct ring {
    unsigned count;
    enum ring_change change;
    unsigned changing;             /* where the node that comes or goes stands in `seed` */
    uint64_t seed[RING_NODES_MAX]; /* in the order of the ids: of equal scores the first wins */
    uint8_t place[RING_NODES_MAX]; /* the node's index for the caller */
};

/* Indexes of nodes. The first `pair` of them are read, in this order; all `count` are written. */
struct ring_holders {
    uint8_t pair, count;
    uint8_t node[RING_HOLDERS_MAX];
};

/* What can be wrong with the ids of a ring. */
enum ring_wrong {
    RING_FINE,
    RING_NO_NODE,  /* one of the two rings would have none */
    RING_TOO_MANY, /* more than RING_NODES_MAX */
    RING_BAD_ID,   /* not 1 to RING_ID_MAX of [A-Za-z0-9._-], or just one dot or two */
    RING_TWICE     /* the same id is there twice */
};

bool ring_id_valid(struct ring_id id);

/* `changing` is the index of the node that comes or goes; the ids are those of both rings. */
enum ring_wrong ring_make(struct ring *ring, const struct ring_id *ids, size_t count,
                          enum ring_change change, size_t changing);

uint64_t ring_hash(const void *bytes, size_t length);
struct ring_holders ring_holders(const struct ring *ring, uint64_t hash_of_key);

/* Whether the node with this index is among the first `count` of the holders. */
static inline bool ring_is_among(const struct ring_holders *holders, unsigned count, unsigned node)
{
    bool found = false;
    for (unsigned i = 0; i < count; i++) {
        found |= holders->node[i] == node;
    }
    return found;
}

#endif
