/* table.h - a copy-on-write hash table in the map: an extendible-hashing trie.
 *
 *   root ---> node of 2^b references, 1 <= b <= 6, picked by the next b bits of the hash
 *              |   |
 *              |   +---> page of 1 to 8 cache lines, 8 slots each
 *              |           |
 *              |           +---> entry { checksum, lengths, birth, key, value, index of fields }
 *              +---> node ...
 *
 *   reference   offset in granules : 36 | size : 7 | depth : 4 | node : 1 | slots used : 10 | 0 : 6
 *   slot        entry's offset in granules : 36 | tag, the hash's upper bits : 28
 *               (both drawn from the lowest bit; size: lines of a page, b of a node)
 *
 * An unused reference of a node and an unused slot of a page are the word 1 (MC_UNUSED): a word 0
 * is never right there. Only as the root of a table the reference 0 stands for one without keys.
 *
 * Extendible hashing (Fagin, Nievergelt, Pippenger, Strong: Extendible Hashing, 1979) doubles its
 * directory when a page can split no more. Here a directory is a node and never grows past 2^6
 * references: a page that is full there gets a small node of its own, so that the largest single
 * step is a copy of half a KiB, whatever the table's size. A page of local depth d fills 2^(b-d)
 * adjacent references of its node, all equal. A split, of page P with the hashes that begin with 0
 * (each number is a reference's index, the bits of the hash that pick it):
 *
 *      before              1. P, of local depth 1, is full: it has two references, each of its
 *                          halves takes one, the node stays as large as it is
 *      00 -+-> P  (1)      00 ---> P0 (2)   hashes 00...
 *      01 -+               01 ---> P1 (2)   hashes 01...
 *      10 ---> Q  (2)      10 ---> Q  (2)
 *      11 ---> R  (2)      11 ---> R  (2)
 *
 *      before              2. Q, of local depth 2, is full: it has one reference, so that first the
 *                          node doubles, and with it every other page's run of references
 *      00 -+-> P  (1)      000 to 011 ---> P  (1)
 *      01 -+               100 ---> Q0 (3)
 *      10 ---> Q  (2)      101 ---> Q1 (3)
 *      11 ---> R  (2)      110, 111 -> R  (2)
 *
 *      before              3. S, of local depth 6 in a node that cannot double (b = 6), is full: a
 *                          node of one bit takes its place, with the halves below it
 *      101110 ---> S (6)   101110 ---> node   0 ---> S0 (1)
 *                                             1 ---> S1 (1)
 *
 * Pages start on a cache line. Pages and nodes have no header. Everything needed to use one is in
 * the reference to it (its size, its depth, how many slots of a page are used), so a lookup touches
 * two cold lines, one of the page and one of the entry; and whatever a check could want to know
 * follows from the keys of the entries below.
 *
 * A page is exactly as large as its entries need at a load of about 0.8, 1 to 8 lines (more only
 * where all 28 bits are shared and nothing can be split), and is searched a line at a time from the
 * line that the tag names. Lines fill from their first slot, so an unused slot ends a search. All
 * decisions, splits included, need the tag only: growing never reads an entry. The keys of a page
 * share the D bits of the hash that led to it and differ in the other 28 - D of the tag, so a
 * lookup among a million keys compares a wrong key once in some thousand times.
 *
 * A reference whose upper six bits are not zero, a size out of range and an offset past the end are
 * MC_CORRUPT; a walk is bounded by the file's size. While a writer may be overwriting what a reader
 * looks at, the reader's answer means nothing until its view is found valid (store.h).
 */
#ifndef MMAPCACHE_TABLE_H
#define MMAPCACHE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "field_index.h"
#include "format.h"
#include "key.h"
#include "shm.h"
#include "status.h"

#define MC_NODE_BITS 6u        /* a node has at most 2^6 references: 512 bytes to copy */
#define MC_PAGE_LINES 8u       /* lines of a page that can still split */
#define MC_PAGE_LINES_MAX 127u /* lines of a page whose keys share the whole tag */
#define MC_TAG_BITS 28u
#define MC_TABLE_LEVELS 5u /* nodes on a path: 6 + 6 + 6 + 6 + 4 bits */
#define MC_PAGE_SLOTS_MAX (MC_PAGE_LINES_MAX * MC_LINE_SLOTS)

struct mc_arena;

/* Where a table is: addresses and the end of what may be referred to. */
struct mc_space {
    shm_byte *base;
    uint64_t limit; /* bytes */
};

/* An entry that was found. */
struct mc_hit {
    const shm_byte *key;   /* in the map */
    const shm_byte *value; /* in the map: read it through mc_copy only */
    uint32_t value_len;    /* <= MC_DOCUMENT_MAX, and value + value_len lies within the space */
    uint16_t key_len;
    uint8_t key_type;
    uint8_t blocks;  /* of the index of fields behind the value; 0: there is none */
    uint64_t offset; /* of the entry: (offset, birth) names its content for ever */
    uint64_t birth;  /* generation in which it was written */
};

/* Whether the header of an entry that was found still is one: none is all zeros. */
static inline bool mc_hit_stands(const struct mc_hit *hit)
{
    return shm_load(hit->key - sizeof(struct mc_entry) + offsetof(struct mc_entry, stamp)) != 0;
}

/* ---- reading: any process ---- */

/* Its index of fields, in the map. */
static inline const shm_byte *mc_hit_blocks(const struct mc_hit *hit)
{
    return hit->value + hit->value_len;
}

/* Whether its value is these bytes. */
static inline bool mc_hit_equals(const struct mc_hit *hit, const void *value, size_t len)
{
    return hit->value_len == len && shm_equal(hit->value, value, len);
}

/* MC_OK, MC_ABSENT or MC_CORRUPT; needs key->hash. */
enum mc_status mc_table_find(const struct mc_space *space, uint64_t root, const struct mc_key *key,
                             struct mc_hit *hit);

/* The page in which an entry of this hash is or would be, 0 where there is none. Pages are never
 * changed: where it is still the same, and no block of then was used again, so is what it says of
 * the hash. */
uint64_t mc_table_page(const struct mc_space *space, uint64_t root, uint64_t hash);

/* Whether the entry of this hash at `offset`, found once, is still there and still the one born in
 * `birth`: then it has the same key and value.
 * Touches one line of it, where a search prefetches five. */
bool mc_table_still(const struct mc_space *space, uint64_t root, uint64_t hash, uint64_t offset,
                    uint64_t birth);

/* Prefetches the page's line where a search for this hash will begin. */
void mc_table_touch(const struct mc_space *space, uint64_t root, uint64_t hash);

#define MC_FIND_MANY 64u
/* Prefetches the cache lines that searches for these keys, at most MC_FIND_MANY, will touch. */
void mc_table_warm(const struct mc_space *space, uint64_t root, const struct mc_key *keys,
                   size_t count);

/* The same as mc_table_find for up to MC_FIND_MANY keys,
 * the cold loads of different keys overlapped. */
void mc_table_find_many(const struct mc_space *space, uint64_t root, const struct mc_key *keys,
                        size_t count, struct mc_hit *hits, enum mc_status *statuses);

/* Reads the header of the entry at `offset` into a hit: MC_OK,
 * or MC_CORRUPT when it does not fit. */
enum mc_status mc_entry_read(const struct mc_space *space, uint64_t offset, struct mc_hit *hit);

/* The checksum of an entry of this stamp whose key, value and blocks are the bytes. */
uint32_t mc_hit_checksum(const struct mc_hit *hit, uint64_t stamp, const uint8_t *bytes);

/* A walk over everything below a root: nodes, pages and entries, each once, in hash order. */
enum mc_item_kind { MC_ITEM_NODE, MC_ITEM_PAGE, MC_ITEM_ENTRY };
struct mc_item {
    enum mc_item_kind kind;
    uint64_t offset, bytes; /* the extent in the file */
    struct mc_hit hit;      /* of an entry */
};
struct mc_walk {
    struct mc_space space;
    struct mc_walk_level {
        uint64_t ref;
        uint32_t index; /* 0: not entered yet; else one more than the next reference or slot */
        uint32_t used;  /* slots of the page seen so far */
    } levels[MC_TABLE_LEVELS + 1];
    int depth;       /* of the innermost level; -1: at the end */
    uint64_t budget; /* bytes it may still visit: blocks are disjoint, a sound table needs less */
    /* Told the offset of each entry a little before its turn, to prefetch what the caller has for
     * it. The offset may be anything. NULL: nobody is. */
    void (*ahead)(void *context, uint64_t offset);
    void *context;
};
void mc_walk_begin(struct mc_walk *walk, const struct mc_space *space, uint64_t root);

/* MC_OK and the next item, MC_ABSENT at the end, MC_CORRUPT. */
enum mc_status mc_walk_next(struct mc_walk *walk, struct mc_item *item);

/* ---- writing: the loader ---- */

struct mc_table_writer {
    struct mc_space space;  /* limit follows the file as it grows */
    struct mc_arena *arena; /* arena.h, for table_write.c */
    uint64_t birth;         /* the generation being written */
    /* Asked before a put replaces an entry by another value; false: the entry stays. NULL: yes. */
    bool (*replaces)(void *context, const struct mc_key *key, const struct mc_hit *old,
                     const uint8_t *value, size_t value_len);
    void *replaces_context;
};

struct mc_put_result {
    bool changed;         /* the entry's bytes were not there yet */
    bool replaced;        /* there was another value */
    uint64_t offset;      /* of the entry that is there now */
    uint64_t bytes;       /* of it, if it was not there yet */
    uint64_t old_offset;  /* of the entry that was replaced */
    uint64_t old_content; /* key and value bytes of it */
    unsigned same_tag;    /* after MC_LIMIT: how many keys have the tag of this one, */
    uint64_t alike[2];    /* and the entries of two of them */
};

/* Puts key (with its hash) and value. The old root stays whole unless its blocks are young. Every
 * failure (MC_FULL and MC_OS: see mc_make_room, MC_NOMEM, MC_LIMIT: too many keys share a hash,
 * MC_CORRUPT) leaves the same content. */
enum mc_status mc_table_put(struct mc_table_writer *writer, uint64_t *root,
                            const struct mc_key *key, const void *value, size_t value_len,
                            struct mc_put_result *result, struct mc_error *err);

/* Removes key. MC_OK, MC_ABSENT, and the failures of put. *old: the entry that was there, whose
 * bytes may already be reused: only its numbers count. */
enum mc_status mc_table_delete(struct mc_table_writer *writer, uint64_t *root,
                               const struct mc_key *key, struct mc_hit *old, struct mc_error *err);

/* A way through a table, page by page, that moves what lies in the arena's sites: to wherever there
 * is room. The content stays the same, and where a block was is released. An entry for which there
 * is no room, or which only ends in a site, stays where it is. */
struct mc_move {
    uint64_t next;  /* the hash to go on with */
    bool done;      /* the table has been gone through */
    uint64_t bytes; /* how many were moved, added up */
};

/* Looks at one more page. The failures of put, which leave the same content; MC_CORRUPT also when
 * an entry that is to move does not have its checksum. */
enum mc_status mc_table_move(struct mc_table_writer *writer, uint64_t *root, struct mc_move *move,
                             struct mc_error *err);

/* Goes on to the next page as mc_table_move does, but only where nothing is to move: *met says that
 * something is, and then nothing has changed. MC_CORRUPT. */
enum mc_status mc_table_pass(struct mc_table_writer *writer, uint64_t *root, struct mc_move *move,
                             bool *met, struct mc_error *err);

/* The places of the entries in the page that this hash leads to, in no order, and how many they
 * are. Nobody has looked at them. MC_CORRUPT. */
enum mc_status mc_table_page_entries(const struct mc_table_writer *writer, uint64_t *root,
                                     uint64_t hash, uint64_t offsets[MC_PAGE_SLOTS_MAX],
                                     unsigned *count, struct mc_error *err);

/* Whether an entry that was found has its checksum: what moves is not made right unseen. */
bool mc_entry_is_whole(const struct mc_hit *hit);

/* Writes another value, of the same length, into the entry of this key, which is of the generation
 * being written: no reader can reach it yet. Cannot fail. */
void mc_entry_tell(const struct mc_table_writer *writer, uint64_t offset, const struct mc_key *key,
                   const void *value, size_t value_len);

/* Releases everything below the root and makes it empty.
 * MC_NOMEM and MC_CORRUPT leave it untouched. */
enum mc_status mc_table_clear(struct mc_table_writer *writer, uint64_t *root, struct mc_error *err);

/* MC_CORRUPT: what was found in a table contradicts what else is there. */
static inline enum mc_status mc_table_damaged(struct mc_error *err)
{
    return mc_fail(err, MC_CORRUPT, "the cache's table is damaged: recreate the cache");
}

/* Bytes of the entry of a key and value of these lengths, and so many blocks. */
static inline uint64_t mc_entry_bytes(size_t key_len, size_t value_len, unsigned blocks)
{
    return sizeof(struct mc_entry) + key_len + value_len + blocks * MC_BLOCK_BYTES;
}

static inline uint64_t mc_hit_bytes(const struct mc_hit *hit)
{
    return mc_entry_bytes(hit->key_len, hit->value_len, hit->blocks);
}

#endif
