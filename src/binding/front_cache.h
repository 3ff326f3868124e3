/* front_cache.h - a bounded, private map from key to Document in front of the file.
 *
 *   key object --> aliases[]  a guess: an entry lately found with a key object at that address
 *   key hash ----> slots[]    open addressing, {hash, entry}; decides
 *                     |
 *                     v
 *                 entries[]   {document, key, offset, birth, seen}
 *
 * An entry says: in every generation from `birth` to `seen` this key of this collection had this
 * document (or, when document is NULL, had none). A read of generation g is answered when
 * birth <= g <= seen: the current generation and snapshots alike. After a commit `seen` is moved up
 * to the new generation, and the entry keeps its object, when the collection has not changed since
 * (its record in the catalogue says since when it is what it is), when the change log has other
 * keys only (vouch.h), when its table still leads the key to the same page, or to the same
 * (offset, birth).
 *
 * An alias is a guess that the entry confirms: it owns a reference to the key object, so that
 * nothing else can live at that address; only immutable exact types get one. That makes the usual
 * read, one with a key object seen before, as cheap as comparing two pointers.
 *
 * Once it has some (max_free), it takes in a key on its second visit only: `door` remembers 16 bits
 * of each of four keys turned away at a place, so that keys read once neither cost memory nor push
 * out others. Which of the four a new one replaces is chance: of five keys that come in turn, the
 * oldest would always be the one that comes next. Who has to go is found by CLOCK: a hand over the
 * entries that spares whoever was read since it last came by.
 *
 * get_raw's answers are kept as well, as bytes and in a channel of their own; but whoever reads raw
 * bytes may as well have the file's as ours, so a process whose raw reads find little here asks
 * every eighth time only.
 *
 * Invariants: every used entry is in slots exactly once; bytes is the sum of the charges and at
 * most max_bytes; count <= max_entries. One per lane (lane.h), used by one thread at a time; others
 * may read the counters.
 */
#ifndef MMAPCACHE_FRONT_CACHE_H
#define MMAPCACHE_FRONT_CACHE_H

#include "document/threads.h"

#include <stdint.h>

#include "key.h"

#define MC_FRONT_BYTES_DEFAULT (16u << 20)
#define MC_FRONT_ENTRIES_DEFAULT 16384u
#define MC_FRONT_ENTRIES_MAX (1u << 26)
#define MC_FRONT_FREE_SHARE 16u          /* of max_bytes: so much is kept at the first visit */
#define MC_FRONT_FREE_LEAST (1u << 20)   /* and so much in any case */
#define MC_FRONT_TAGS 4u                 /* of keys turned away, in a word of door */
#define MC_FRONT_WAYS 2u                 /* aliases that may share a place */
#define MC_FRONT_NEAR 40u                /* bytes of a key that are kept in the entry itself */
#define MC_FRONT_RAW (UINT32_C(1) << 31) /* in a channel: its objects are bytes, not Documents */
#define MC_FRONT_WORTH_MOST 64u          /* raw misses until it is not asked each time */
#define MC_FRONT_WORTH_EVERY 8u          /* raw reads of which one asks then */
#define MC_FRONT_DOUBTED UINT64_C(1)     /* where no page is */

enum mc_front_state { MC_FRONT_FREE, MC_FRONT_USED, MC_FRONT_VISITED };

struct mc_front_entry {
    PyObject *document;   /* owned, a Document or bytes; NULL: there is no such key */
    PyObject *alias;      /* owned: a key object with this key, or NULL */
    uint64_t birth, seen; /* generations, both included */
    uint64_t offset;      /* of the entry in the file; of a free one: the next free index + 1 */
    uint64_t page;        /* of the table, where the key led in generation seen; 0: not known,
                             MC_FRONT_DOUBTED: nor whether the key has changed since (vouch.h) */
    uint32_t hash;        /* of key, type and channel */
    uint32_t channel;     /* the collection as its handle knows it */
    uint32_t charge;      /* bytes of memory that it is counted with */
    uint16_t key_len;
    uint8_t key_type;
    uint8_t state; /* enum mc_front_state */
    union {
        uint8_t near[MC_FRONT_NEAR];
        uint8_t *far; /* owned, when key_len > MC_FRONT_NEAR */
    } key;
};
_Static_assert(sizeof(struct mc_front_entry) == 104, "no padding");

struct mc_front {
    uint64_t max_bytes;
    uint64_t max_free;    /* bytes up to which a key is taken in on its first visit */
    uint32_t max_entries; /* 0: off */
    uint32_t capacity;    /* entries there is room for now: grows by doubling */
    uint32_t used;        /* entries ever used: those from here on are untouched */
    uint32_t count;       /* entries in use */
    uint32_t free_list;   /* index + 1 of the first free one, 0: none */
    uint32_t hand;        /* where CLOCK looks next */
    uint32_t mask;        /* of slots: their length - 1 */
    uint32_t alias_mask;  /* of aliases: their length - MC_FRONT_WAYS */
    uint32_t door_mask;
    struct mc_front_entry *entries;
    uint64_t *slots;   /* hash << 32 | index + 1, 0: empty */
    uint64_t *aliases; /* bits of the object's address << 32 | index + 1, 0: none */
    uint64_t *door;    /* four tags of 16 bits; NULL until a key is turned away */
    uint64_t bytes;
    uint64_t hits, misses, revalidations, evictions; /* revalidations are hits, too */
    uint32_t worth;   /* raw hits less raw misses, 0 to MC_FRONT_WORTH_MOST */
    uint32_t unasked; /* raw reads since the last one that asked */
    uint32_t told;    /* how often it was told of changes (vouch.h), or cleared */
};

void mc_front_init(struct mc_front *front, uint64_t max_bytes, uint32_t max_entries);

/* Forgets everything and gives the memory back; the limits and the counters stay. */
void mc_front_clear(struct mc_front *front);

/* Adds what another thread's front cache holds and has counted to a sum. */
void mc_front_add(struct mc_front *sum, const struct mc_front *front);

/* Whether a raw read should ask, and what came of it when it did. */
static inline bool mc_front_worth_asking(struct mc_front *front)
{
    if (front->worth > 0 || ++front->unasked == MC_FRONT_WORTH_EVERY) {
        front->unasked = 0;
        return true;
    }
    return false;
}

static inline void mc_front_asked(struct mc_front *front, bool hit)
{
    if (hit) {
        front->worth = front->worth < MC_FRONT_WORTH_MOST ? front->worth + 1 : front->worth;
    } else {
        front->worth -= front->worth > 0;
    }
}

/* What came of a question: the entry answered it; `count` keys had to be read from the file. */
static inline void mc_front_hit(struct mc_front *front, struct mc_front_entry *entry)
{
    entry->state = MC_FRONT_VISITED;
    mc_tick(&front->hits, 1);
}

static inline void mc_front_missed(struct mc_front *front, uint64_t count)
{
    mc_tick(&front->misses, count);
}

/* The 32 bits by which a key of a channel is found. */
static inline uint32_t mc_front_hash(const struct mc_key *key, uint32_t channel)
{
    return (uint32_t)(key->hash >> 17) ^ channel * 0x9E3779B1u;
}

/* Where the aliases of an object may be: the first of MC_FRONT_WAYS. */
static inline uint32_t mc_front_alias_set(const struct mc_front *front, uint32_t channel,
                                          const PyObject *object)
{
    uint64_t mixed = ((uintptr_t)object >> 4) + channel * 0x9E3779B1ull;
    return (uint32_t)((mixed * 0x9E3779B97F4A7C15ull) >> 32) & front->alias_mask;
}

/* What an alias word has besides the index: another object's costs no look at its entry. */
static inline uint32_t mc_front_alias_tag(uint32_t channel, const PyObject *object)
{
    return (uint32_t)((uintptr_t)object >> 4) ^ channel * 0x9E3779B1u;
}

static inline bool mc_front_holds(const struct mc_front_entry *entry, uint64_t generation)
{
    return generation - entry->birth <= entry->seen - entry->birth;
}

static inline const uint8_t *mc_front_key(const struct mc_front_entry *entry)
{
    return entry->key_len > MC_FRONT_NEAR ? entry->key.far : entry->key.near;
}

/* The entry for exactly this key object, whatever generation it is good for, or NULL. */
static inline struct mc_front_entry *mc_front_by_object(const struct mc_front *front,
                                                        uint32_t channel, const PyObject *object)
{
    const uint64_t *set;
    uint32_t tag = mc_front_alias_tag(channel, object);
    if (front->count == 0) {
        return NULL;
    }
    set = &front->aliases[mc_front_alias_set(front, channel, object)];
    for (unsigned way = 0; way < MC_FRONT_WAYS && set[way] != 0; way++) {
        if ((uint32_t)(set[way] >> 32) != tag) {
            continue;
        }
        struct mc_front_entry *entry = &front->entries[(uint32_t)set[way] - 1];
        if (entry->alias == object && entry->channel == channel) {
            return entry;
        }
    }
    return NULL;
}

/* The entry for a key (its hash filled in), whatever generation it is good for, or NULL. */
struct mc_front_entry *mc_front_find(const struct mc_front *front, uint32_t channel,
                                     const struct mc_key *key);

/* Drops an entry and what it owns. */
void mc_front_forget(struct mc_front *front, struct mc_front_entry *entry);

/* Lets `object`, which is equal to the entry's key, find it directly from now on. */
void mc_front_set_alias(struct mc_front *front, struct mc_front_entry *entry, PyObject *object);

/* True for objects that may be an alias: immutable by type, and likely to come back. */
static inline bool mc_front_may_alias(PyObject *object)
{
    /* text that nobody hashed yet was made for one request and will not be seen again */
    return PyUnicode_CheckExact(object) ? mc_peek(&((PyASCIIObject *)object)->hash) != -1
                                        : PyLong_CheckExact(object) || PyBytes_CheckExact(object);
}

/* What was found for a key: document NULL when there is none, then birth is the generation. */
struct mc_front_fact {
    PyObject *document; /* borrowed */
    uint64_t offset, birth, seen;
    size_t bytes; /* of memory that the document takes */
    bool late;    /* found in a generation after which there may have been news of the key */
};

/* Takes a fact in, in place of what was known of that key; may refuse without saying so. To make
 * room it may let go of others, whose destructors may read on: then it is not taken in. */
void mc_front_put(struct mc_front *front, uint32_t channel, const struct mc_key *key,
                  const struct mc_front_fact *fact);

#endif
