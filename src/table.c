/* table.c - the table's reading half: find, find many, walk. The structure is drawn in table.h. */
#include "table.h"

#include "hash.h"
#include "mutant.h"
#include "table_ref.h"

#define STAMP_BIRTH_MASK ((UINT64_C(1) << MC_STAMP_TYPE_SHIFT) - 1)

/* Lines of an entry that are prefetched as soon as its tag matched: header, key and 300 bytes of
 * value. Neighbouring loads overlap; without this a cold document costs a miss per line. */
#define ENTRY_PREFETCH 5u

enum mc_status mc_entry_read(const struct mc_space *space, uint64_t offset, struct mc_hit *hit)
{
    if (offset + sizeof(struct mc_entry) > space->limit) {
        return MC_CORRUPT;
    }
    const shm_byte *entry = space->base + offset;
    uint64_t lengths = shm_load(entry);
    uint64_t stamp = shm_load(entry + offsetof(struct mc_entry, stamp));
    hit->offset = offset;
    hit->value_len = (uint32_t)(lengths >> 32 & (((uint32_t)1 << MC_LENGTHS_BLOCKS_SHIFT) - 1));
    hit->blocks = (uint8_t)(lengths >> (32 + MC_LENGTHS_BLOCKS_SHIFT));
    hit->key_len = (uint16_t)(stamp >> MC_STAMP_LEN_SHIFT);
    hit->key_type = (uint8_t)(stamp >> MC_STAMP_TYPE_SHIFT & (MC_KEY_TYPES - 1));
    hit->birth = stamp & STAMP_BIRTH_MASK;
    hit->key = entry + sizeof(struct mc_entry);
    hit->value = hit->key + hit->key_len;
    bool fits = stamp != 0 && hit->key_len <= MC_KEY_MAX && hit->value_len <= MC_DOCUMENT_MAX &&
                offset + mc_hit_bytes(hit) <= space->limit;
    return fits ? MC_OK : MC_CORRUPT;
}

uint32_t mc_hit_checksum(const struct mc_hit *hit, uint64_t stamp, const uint8_t *bytes)
{
    uint32_t lengths = hit->value_len | (uint32_t)hit->blocks << MC_LENGTHS_BLOCKS_SHIFT;
    const uint8_t *value = bytes + hit->key_len;
    uint32_t checksum =
        mc_entry_checksum(lengths, stamp, bytes, hit->key_len, value, hit->value_len);
    if (hit->blocks > 0) {
        checksum ^= mc_checksum(value + hit->value_len, (size_t)hit->blocks * MC_BLOCK_BYTES);
    }
    return checksum;
}

static void entry_prefetch(const shm_byte *entry)
{
    for (unsigned line = 0; line < ENTRY_PREFETCH; line++) {
        shm_prefetch(entry + (size_t)line * MC_LINE_BYTES);
    }
}

/* Whether the entry at `offset` has this key. */
static enum mc_status entry_match(const struct mc_space *space, uint64_t offset,
                                  const struct mc_key *key, struct mc_hit *hit)
{
    entry_prefetch(space->base + offset);
    enum mc_status status = mc_entry_read(space, offset, hit);
    if (status != MC_OK) {
        return status;
    }
    bool equal = hit->key_type == key->type && hit->key_len == key->len &&
                 shm_equal(hit->key, key->data, key->len);
    return equal ? MC_OK : MC_ABSENT;
}

enum mc_status mc_page_find(const struct mc_space *space, uint64_t ref, unsigned depth,
                            const struct mc_key *key, struct mc_hit *hit, struct mc_place *place)
{
    unsigned lines = ref_size(ref);
    uint32_t tag = hash_tag(key->hash);
    uint32_t line = first_line(tag, depth, lines);
    for (unsigned seen = 0; seen < lines; seen++) {
        uint64_t at = ref_offset(ref) + (uint64_t)line * MC_LINE_BYTES;
        for (unsigned i = 0; i < MC_LINE_SLOTS; i++, at += 8) {
            uint64_t slot = shm_load(space->base + at);
            if (slot <= MC_UNUSED) {
                return slot == MC_UNUSED ? MC_ABSENT : MC_CORRUPT;
            }
            if (slot_tag(slot) == tag) {
                enum mc_status status = entry_match(space, slot_offset(slot), key, hit);
                if (status != MC_ABSENT) {
                    *place = (struct mc_place){.slot_offset = at, .slot = slot};
                    return status;
                }
            }
        }
        line = line + 1 == lines ? 0 : line + 1;
    }
    return MC_ABSENT;
}

/* Follows the hash to its page. MC_OK: *ref is a page and *depth its total depth; MC_ABSENT:
 * nothing there; MC_CORRUPT. */
static enum mc_status descend(const struct mc_space *space, uint64_t root, uint64_t hash,
                              uint64_t *ref, unsigned *depth)
{
    unsigned bits = 0;
    uint64_t here = root;
    for (unsigned level = 0;; level++) {
        if (here == 0) {
            return MC_ABSENT;
        }
        if (!ref_is_sound(here, level, bits, space->limit)) {
            return MC_CORRUPT;
        }
        if (!ref_is_node(here)) {
            *ref = here;
            *depth = level == 0 ? 0 : (level - 1) * MC_NODE_BITS + ref_depth(here);
            return MC_OK;
        }
        bits = ref_size(here);
        const shm_byte *at =
            space->base + ref_offset(here) + 8 * (uint64_t)node_index(hash, level, bits);
        if (!ref_of_word(shm_load(at), &here)) {
            return MC_CORRUPT;
        }
    }
}

enum mc_status mc_table_find(const struct mc_space *space, uint64_t root, const struct mc_key *key,
                             struct mc_hit *hit)
{
    uint64_t ref;
    unsigned depth;
    struct mc_place place;
    enum mc_status status = descend(space, root, key->hash, &ref, &depth);
    return status == MC_OK ? mc_page_find(space, ref, depth, key, hit, &place) : status;
}

uint64_t mc_table_page(const struct mc_space *space, uint64_t root, uint64_t hash)
{
    uint64_t ref;
    unsigned depth;
    return descend(space, root, hash, &ref, &depth) == MC_OK ? ref : 0;
}

bool mc_table_still(const struct mc_space *space, uint64_t root, uint64_t hash, uint64_t offset,
                    uint64_t birth)
{
    uint64_t ref, wanted = slot_make(hash_tag(hash), offset);
    unsigned depth;
    struct mc_hit hit;
    if (offset >= space->limit) {
        return false;
    }
    shm_prefetch(space->base + offset);
    if (descend(space, root, hash, &ref, &depth) != MC_OK) {
        return false;
    }
    unsigned lines = ref_size(ref);
    uint32_t line = first_line(hash_tag(hash), depth, lines);
    for (unsigned seen = 0; seen < lines; seen++) {
        const shm_byte *at = space->base + ref_offset(ref) + (uint64_t)line * MC_LINE_BYTES;
        for (unsigned i = 0; i < MC_LINE_SLOTS; i++, at += 8) {
            uint64_t slot = shm_load(at);
            if (slot == wanted) {
                return mc_entry_read(space, offset, &hit) == MC_OK && hit.birth == birth;
            }
            if (slot <= MC_UNUSED) {
                return false;
            }
        }
        line = line + 1 == lines ? 0 : line + 1;
    }
    return false;
}

void mc_table_touch(const struct mc_space *space, uint64_t root, uint64_t hash)
{
    uint64_t ref;
    unsigned depth;
    if (descend(space, root, hash, &ref, &depth) == MC_OK) {
        uint32_t line = first_line(hash_tag(hash), depth, ref_size(ref));
        shm_prefetch(space->base + ref_offset(ref) + (uint64_t)line * MC_LINE_BYTES);
    }
}

/* Two passes that only prefetch lines, so that the misses of all keys are under way together: first
 * the pages, then the entries that their tags name. */
void mc_table_warm(const struct mc_space *space, uint64_t root, const struct mc_key *keys,
                   size_t count)
{
    uint64_t lines[MC_FIND_MANY]; /* offset of each key's first line; 0: none */
    for (size_t i = 0; i < count; i++) {
        uint64_t ref;
        unsigned depth;
        lines[i] = 0;
        if (descend(space, root, keys[i].hash, &ref, &depth) == MC_OK) {
            uint32_t line = first_line(hash_tag(keys[i].hash), depth, ref_size(ref));
            lines[i] = ref_offset(ref) + (uint64_t)line * MC_LINE_BYTES;
            shm_prefetch(space->base + lines[i]);
        }
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t tag = hash_tag(keys[i].hash);
        for (unsigned slot = 0; lines[i] != 0 && slot < MC_LINE_SLOTS; slot++) {
            uint64_t value = shm_load(space->base + lines[i] + 8 * (uint64_t)slot);
            if (slot_tag(value) == tag && slot_offset(value) < space->limit) {
                entry_prefetch(space->base + slot_offset(value));
            }
        }
    }
}

void mc_table_find_many(const struct mc_space *space, uint64_t root, const struct mc_key *keys,
                        size_t count, struct mc_hit *hits, enum mc_status *statuses)
{
    mc_table_warm(space, root, keys, count);
    for (size_t i = 0; i < count; i++) {
        statuses[i] = mc_table_find(space, root, &keys[i], &hits[i]);
    }
}

/* ---- walk ---- */

void mc_walk_begin(struct mc_walk *walk, const struct mc_space *space, uint64_t root)
{
    *walk = (struct mc_walk){.space = *space, .depth = -1, .budget = space->limit};
    if (root != 0) {
        walk->levels[0].ref = root;
        walk->depth = 0;
    }
}

static enum mc_status spend(struct mc_walk *walk, uint64_t bytes)
{
    if (bytes > walk->budget) {
        return MC_CORRUPT;
    }
    walk->budget -= bytes;
    return MC_OK;
}

/* Prefetches the entries that a page names: they lie anywhere, and a walk would otherwise wait for
 * each of them in turn. */
static void entries_ahead(const struct mc_walk *walk, uint64_t ref)
{
    const shm_byte *page = walk->space.base + ref_offset(ref);
    for (uint32_t index = 0; index < ref_size(ref) * MC_LINE_SLOTS; index++) {
        uint64_t offset = slot_offset(shm_load(page + 8 * (uint64_t)index));
        shm_prefetch(walk->space.base + offset);
        if (walk->ahead != NULL) {
            walk->ahead(walk->context, offset);
        }
    }
}

/* Prefetches the page that a node's reference names: the walk comes to it after the one that it is
 * in. */
static void page_ahead(const struct mc_walk *walk, uint64_t ref)
{
    for (unsigned line = 0; !ref_is_node(ref) && line < ref_size(ref); line++) {
        shm_prefetch(walk->space.base + ref_offset(ref) + (uint64_t)line * MC_LINE_BYTES);
    }
}

/* Enters the block that the innermost level's reference names and reports it. */
static enum mc_status walk_enter(struct mc_walk *walk, struct mc_item *item)
{
    struct mc_walk_level *level = &walk->levels[walk->depth];
    unsigned parent_bits = walk->depth == 0 ? 0 : ref_size(walk->levels[walk->depth - 1].ref);
    if (!ref_is_sound(level->ref, (unsigned)walk->depth, parent_bits, walk->space.limit)) {
        return MC_CORRUPT;
    }
    item->kind = ref_is_node(level->ref) ? MC_ITEM_NODE : MC_ITEM_PAGE;
    item->offset = ref_offset(level->ref);
    item->bytes = ref_bytes(level->ref);
    level->index = 1;
    if (item->kind == MC_ITEM_PAGE) {
        entries_ahead(walk, level->ref);
    }
    return spend(walk, item->bytes);
}

/* The next child of the node at the innermost level, pushed as a new level. MC_ABSENT: no more. */
static enum mc_status walk_refs(struct mc_walk *walk)
{
    struct mc_walk_level *level = &walk->levels[walk->depth];
    unsigned bits = ref_size(level->ref);
    const shm_byte *node = walk->space.base + ref_offset(level->ref);
    while (level->index - 1 < UINT32_C(1) << bits) {
        uint32_t index = level->index - 1;
        uint64_t ref;
        if (!ref_of_word(shm_load(node + 8 * (uint64_t)index), &ref) || ref_depth(ref) > bits) {
            return MC_CORRUPT;
        }
        if (ref == 0) {
            level->index++;
            continue;
        }
        uint32_t run = run_length(bits, ref_depth(ref));
        for (uint32_t i = 0; i < run; i++) { /* the whole run must be there, from its first place */
            if (index % run != 0 || shm_load(node + 8 * (uint64_t)(index + i)) != ref) {
                return MC_CORRUPT;
            }
        }
        level->index += run;
        if (index + run < UINT32_C(1) << bits) {
            page_ahead(walk, shm_load(node + 8 * (uint64_t)(index + run)));
        }
        walk->levels[++walk->depth] = (struct mc_walk_level){.ref = ref};
        return MC_OK;
    }
    return MC_ABSENT;
}

/* The next entry of the page at the innermost level. MC_ABSENT: no more. */
static enum mc_status walk_slots(struct mc_walk *walk, struct mc_item *item)
{
    struct mc_walk_level *level = &walk->levels[walk->depth];
    uint32_t slots = ref_size(level->ref) * MC_LINE_SLOTS;
    const shm_byte *page = walk->space.base + ref_offset(level->ref);
    while (level->index - 1 < slots) {
        uint32_t index = level->index++ - 1;
        uint64_t slot = shm_load(page + 8 * (uint64_t)index);
        if (slot == MC_UNUSED) {
            continue;
        }
        if (slot == 0) {
            return MC_CORRUPT;
        }
        level->used++;
        enum mc_status status = mc_entry_read(&walk->space, slot_offset(slot), &item->hit);
        if (status == MC_OK) {
            item->kind = MC_ITEM_ENTRY;
            item->offset = item->hit.offset;
            item->bytes = mc_hit_bytes(&item->hit);
            status = spend(walk, item->bytes);
        }
        return status;
    }
    return level->used == ref_used(level->ref) ? MC_ABSENT : MC_CORRUPT;
}

enum mc_status mc_walk_next(struct mc_walk *walk, struct mc_item *item)
{
    while (walk->depth >= 0) {
        struct mc_walk_level *level = &walk->levels[walk->depth];
        if (level->index == 0) {
            return walk_enter(walk, item);
        }
        enum mc_status status;
        if (ref_is_node(level->ref)) {
            status = walk_refs(walk);
            if (status == MC_CORRUPT) {
                return status;
            }
        } else {
            status = walk_slots(walk, item);
            if (status != MC_ABSENT) {
                return status;
            }
        }
        if (status == MC_ABSENT) {
            walk->depth--;
        }
    }
    return MC_ABSENT;
}
