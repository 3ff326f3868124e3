/* table_ref.h - references and slots of the table, taken apart;
 * shared by table.c and table_write.c. */
#ifndef MMAPCACHE_TABLE_REF_H
#define MMAPCACHE_TABLE_REF_H

#include <assert.h>

#include "table.h"

#define REF_OFFSET_BITS 36u
#define REF_OFFSET_MASK ((UINT64_C(1) << REF_OFFSET_BITS) - 1)
#define REF_SIZE_SHIFT 36u
#define REF_SIZE_MASK 0x7Fu
#define REF_DEPTH_SHIFT 43u
#define REF_NODE (UINT64_C(1) << 47)
#define REF_USED_SHIFT 48u
#define REF_USED_ONE (UINT64_C(1) << REF_USED_SHIFT)
#define REF_USED_MASK 0x3FFu
#define REF_ZERO_SHIFT 58u
#define TAG_MASK ((UINT32_C(1) << MC_TAG_BITS) - 1)

static inline uint64_t ref_make(uint64_t offset, unsigned size, unsigned depth)
{
    return offset / MC_GRANULE | (uint64_t)size << REF_SIZE_SHIFT |
           (uint64_t)depth << REF_DEPTH_SHIFT;
}

static inline uint64_t ref_page(uint64_t offset, unsigned lines, unsigned depth, unsigned used)
{
    return ref_make(offset, lines, depth) | (uint64_t)used << REF_USED_SHIFT;
}

static inline uint64_t ref_node(uint64_t offset, unsigned bits, unsigned depth)
{
    return ref_make(offset, bits, depth) | REF_NODE;
}

static inline unsigned ref_used(uint64_t ref)
{
    return (unsigned)(ref >> REF_USED_SHIFT) & REF_USED_MASK;
}

static inline uint64_t ref_offset(uint64_t ref)
{
    return (ref & REF_OFFSET_MASK) * MC_GRANULE;
}

/* Lines of a page, bits of a node. */
static inline unsigned ref_size(uint64_t ref)
{
    return (unsigned)(ref >> REF_SIZE_SHIFT) & REF_SIZE_MASK;
}

static inline unsigned ref_depth(uint64_t ref)
{
    return (unsigned)(ref >> REF_DEPTH_SHIFT) & 0xF;
}

static inline bool ref_is_node(uint64_t ref)
{
    return (ref & REF_NODE) != 0;
}

static inline uint64_t ref_bytes(uint64_t ref)
{
    /* & 63: a size that no node has is refused by ref_is_sound, after this was asked */
    return ref_is_node(ref) ? UINT64_C(8) << (ref_size(ref) & 63)
                            : (uint64_t)ref_size(ref) * MC_LINE_BYTES;
}

/* How many bits a node at this level may consume: the levels share the tag's 28. */
static inline unsigned level_bits(unsigned level)
{
    return level + 1 < MC_TABLE_LEVELS ? MC_NODE_BITS : MC_TAG_BITS - level * MC_NODE_BITS;
}

/* Whether a reference that hangs below `level` nodes,
 * the last of which has parent_bits, can be followed. */
static inline bool ref_is_sound(uint64_t ref, unsigned level, unsigned parent_bits, uint64_t limit)
{
    unsigned size = ref_size(ref), depth = ref_depth(ref);
    if (ref >> REF_ZERO_SHIFT != 0 || size == 0 || ref_offset(ref) + ref_bytes(ref) > limit) {
        return false;
    }
    if (!ref_is_node(ref)) {
        return depth <= parent_bits && ref_used(ref) > 0 && ref_used(ref) <= size * MC_LINE_SLOTS;
    }
    return level < MC_TABLE_LEVELS && ref_used(ref) == 0 && size <= level_bits(level) &&
           (level == 0 || (depth == parent_bits && parent_bits == MC_NODE_BITS));
}

/* A word of a node as the reference it stands for: *ref is 0 for an unused one. False: 0 itself. */
static inline bool ref_of_word(uint64_t word, uint64_t *ref)
{
    *ref = word == MC_UNUSED ? 0 : word;
    return word != 0;
}

static inline uint64_t word_of_ref(uint64_t ref)
{
    return ref != 0 ? ref : MC_UNUSED;
}

/* The bits of the hash that pick a reference in a node of 2^bits below `level` others. */
static inline uint32_t node_index(uint64_t hash, unsigned level, unsigned bits)
{
    assert(bits > 0);
    return (uint32_t)(hash << (level * MC_NODE_BITS) >> (64 - bits));
}

/* References that a page of local depth `depth` fills in a node of `bits`. */
static inline uint32_t run_length(unsigned bits, unsigned depth)
{
    return UINT32_C(1) << (bits - depth);
}

static inline uint32_t hash_tag(uint64_t hash)
{
    return (uint32_t)(hash >> (64 - MC_TAG_BITS));
}

static inline uint64_t slot_make(uint32_t tag, uint64_t offset)
{
    return (uint64_t)tag << REF_OFFSET_BITS | offset / MC_GRANULE;
}

static inline uint32_t slot_tag(uint64_t slot)
{
    return (uint32_t)(slot >> REF_OFFSET_BITS);
}

static inline uint64_t slot_offset(uint64_t slot)
{
    return (slot & REF_OFFSET_MASK) * MC_GRANULE;
}

/* The line where the search for a tag starts: by the bits that the page's keys do not share. */
static inline uint32_t first_line(uint32_t tag, unsigned depth, unsigned lines)
{
    return (uint32_t)((uint64_t)((tag << depth) & TAG_MASK) * lines >> MC_TAG_BITS);
}

/* Where a search in a page ended. */
struct mc_place {
    uint64_t slot_offset; /* of the slot that was found */
    uint64_t slot;
};

/* Looks for key in a page of total depth `depth`: MC_OK, MC_ABSENT, MC_CORRUPT. */
enum mc_status mc_page_find(const struct mc_space *space, uint64_t ref, unsigned depth,
                            const struct mc_key *key, struct mc_hit *hit, struct mc_place *place);

#endif
