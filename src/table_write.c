/* table_write.c - the table's writing half: put, delete, clear. The loader only.
 *
 * Every operation goes in steps that each leave the same content in a sound table, so that a failed
 * allocation anywhere needs no repair:
 *
 *   1. find the key, remembering the path of nodes;
 *   2. make each node of the path young (a copy, linked in its young parent, the old one retired);
 *   3. allocate and write the entry and the page or pages that change;
 *   4. link them by storing references in the young node above: this cannot fail;
 *   5. release what they replaced: prepared for, so this cannot fail either.
 *
 * A page is rebuilt in private memory and written at once,
 * except where one slot of a young page changes.
 */
#include <assert.h>
#include <string.h>

#include "arena.h"
#include "hash.h"
#include "mutant.h"
#include "table.h"
#include "table_page.h"
#include "table_path.h"
#include "table_ref.h"

/* ---- growing ---- */

/* Replaces the innermost node by one of twice the references. */
static enum mc_status node_double(struct mc_table_writer *writer, struct mc_path *path,
                                  struct mc_error *err)
{
    assert(path->levels > 0);
    struct mc_step *step = &path->steps[path->levels - 1];
    unsigned bits = ref_size(step->ref);
    uint64_t refs[1 << MC_NODE_BITS], offset;
    assert(bits < MC_NODE_BITS);
    enum mc_status status =
        mc_arena_alloc_small(writer->arena, UINT64_C(16) << bits, MC_GRANULE, &offset, err);
    if (status != MC_OK) {
        return status;
    }
    const shm_byte *old = writer->space.base + ref_offset(step->ref);
    for (uint32_t i = 0; i < UINT32_C(1) << bits; i++) {
        refs[2 * (size_t)i] = refs[2 * (size_t)i + 1] = shm_load(old + 8 * (uint64_t)i);
    }
    shm_write(writer->space.base + offset, refs, (size_t)16 << bits);
    uint64_t ref = ref_node(offset, bits + 1, ref_depth(step->ref));
    uint64_t old_ref = step->ref;
    mc_path_link(writer, path, path->levels - 1, ref_depth(old_ref), ref);
    mc_arena_release(writer->arena, ref_offset(old_ref), ref_bytes(old_ref));
    step->ref = ref;
    step->index *= 2; /* either of the two: the run of the page covers both */
    return MC_OK;
}

/* Hangs the two halves of the path's page below a new node of one bit, in the page's place. */
static enum mc_status node_create(struct mc_table_writer *writer, struct mc_path *path,
                                  const uint64_t halves[2], struct mc_error *err)
{
    uint64_t offset;
    assert(halves[0] != 0 || halves[1] != 0);
    enum mc_status status = mc_arena_alloc_small(writer->arena, 16, MC_GRANULE, &offset, err);
    if (status == MC_OK) {
        unsigned depth = path->levels == 0 ? 0 : MC_NODE_BITS;
        uint64_t words[2] = {word_of_ref(halves[0]), word_of_ref(halves[1])};
        shm_write(writer->space.base + offset, words, sizeof words);
        mc_path_link(writer, path, path->levels, depth, ref_node(offset, 1, depth));
    }
    return status;
}

/* Writes the two halves of a full page: slots by the next bit of their tags.
 * A half may be empty. */
static enum mc_status halves_write(struct mc_table_writer *writer, const uint64_t *slots,
                                   unsigned count, unsigned total_depth, unsigned depth,
                                   uint64_t halves[2], struct mc_error *err)
{
    uint64_t sides[2][MC_PAGE_SLOTS_MAX + 1];
    unsigned counts[2] = {0, 0};
    assert(count > 0 && count <= MC_PAGE_SLOTS_MAX + 1 && total_depth < MC_TAG_BITS);
    for (unsigned i = 0; i < count; i++) {
        unsigned side = slot_tag(slots[i]) >> (MC_TAG_BITS - 1 - total_depth) & 1;
        sides[side][counts[side]++] = slots[i];
    }
    unsigned larger = counts[0] > counts[1] ? counts[0] : counts[1];
    if (larger > MC_PAGE_SLOTS_MAX &&
        !MC_MUTANT_IS(209)) { /* 209: no end, in a page that is full and that nobody wrote */
        return mc_table_damaged(err);
    }
    for (unsigned side = 0; side < 2; side++) {
        struct mc_page page;
        uint64_t offset;
        halves[side] = 0;
        if (counts[side] == 0) {
            continue;
        }
        mc_page_begin(&page, mc_lines_grown(counts[side], MC_PAGE_LINES_MAX), total_depth + 1);
        enum mc_status status =
            mc_page_write_all(writer, &page, sides[side], counts[side], &offset, err);
        if (status != MC_OK) {
            if (halves[0] != 0) {
                mc_arena_release(writer->arena, ref_offset(halves[0]), ref_bytes(halves[0]));
            }
            return status;
        }
        halves[side] = ref_page(offset, page.lines, depth, counts[side]);
    }
    return MC_OK;
}

/* Splits the path's page, whose slots with the new one are given. */
static enum mc_status page_split(struct mc_table_writer *writer, struct mc_path *path,
                                 const uint64_t *slots, unsigned count, struct mc_error *err)
{
    unsigned total = mc_path_total_depth(path), depth = mc_path_depth(path);
    unsigned bits = path->levels == 0 ? 0 : ref_size(path->steps[path->levels - 1].ref);
    bool new_node = path->levels == 0 || (depth == bits && bits == MC_NODE_BITS);
    uint64_t halves[2];
    enum mc_status status = MC_OK;
    assert(path->page != 0);
    if (!new_node && depth == bits) {
        status = node_double(writer, path, err);
    }
    if (status == MC_OK) {
        status = halves_write(writer, slots, count, total, new_node ? 1 : depth + 1, halves, err);
    }
    if (status != MC_OK) {
        return status;
    }
    if (new_node) {
        status = node_create(writer, path, halves, err);
        if (status != MC_OK) {
            for (unsigned side = 0; side < 2; side++) {
                if (halves[side] != 0) {
                    mc_arena_release(writer->arena, ref_offset(halves[side]),
                                     ref_bytes(halves[side]));
                }
            }
            return status;
        }
    } else {
        struct mc_step *step = &path->steps[path->levels - 1];
        uint32_t run = run_length(ref_size(step->ref), depth);
        uint32_t first = step->index & ~(run - 1);
        for (unsigned side = 0; side < 2; side++) { /* 200: both halves get the first one's place */
            step->index = first + (MC_MUTANT_IS(200) ? 0 : side * run / 2);
            mc_path_link(writer, path, path->levels, depth + 1, halves[side]);
        }
    }
    mc_arena_release(writer->arena, ref_offset(path->page), ref_bytes(path->page));
    return MC_OK;
}

/* Adds a slot to the path's page, which gets larger or splits if need be. */
static enum mc_status page_add(struct mc_table_writer *writer, struct mc_path *path, uint64_t slot,
                               struct mc_error *err)
{
    uint64_t slots[MC_PAGE_SLOTS_MAX + 1];
    struct mc_page page;
    uint64_t offset;
    unsigned lines = path->page != 0 ? ref_size(path->page) : 0, count = 0;
    unsigned total = mc_path_total_depth(path);
    enum mc_status status =
        path->page != 0 ? mc_page_gather(writer, path->page, slots, &count, err) : MC_OK;
    if (status != MC_OK) {
        return status;
    }
    assert(count < sizeof slots / sizeof slots[0]);
    slots[count++] = slot;
    if (count > mc_lines_capacity(lines)) {
        unsigned most = total < MC_TAG_BITS ? MC_PAGE_LINES : MC_PAGE_LINES_MAX;
        if (mc_lines_for(count) > most) {
            path->same_tag = count - 1;
            memcpy(path->alike, slots, sizeof path->alike);
            if (total < MC_TAG_BITS) {
                return page_split(writer, path, slots, count, err);
            }
            return mc_fail(err, MC_LIMIT,
                           "too many entries share a hash: this one cannot be stored");
        }
        lines = mc_lines_grown(count, most);
    }
    mc_page_begin(&page, lines, total);
    status = mc_page_write_all(writer, &page, slots, count, &offset, err);
    if (status == MC_OK) {
        mc_path_replace_page(writer, path, offset, lines, count);
    }
    return status;
}

/* Adds a slot to a young page in place. MC_ABSENT: it has to grow first or is not young. */
static enum mc_status page_add_in_place(struct mc_table_writer *writer, struct mc_path *path,
                                        uint64_t slot, struct mc_error *err)
{
    assert(slot > MC_UNUSED);
    if (path->page == 0 || ref_used(path->page) >= mc_lines_capacity(ref_size(path->page)) ||
        !mc_arena_is_young(writer->arena, ref_offset(path->page))) {
        return MC_ABSENT;
    }
    unsigned lines = ref_size(path->page);
    uint32_t line = first_line(slot_tag(slot), mc_path_total_depth(path), lines);
    for (unsigned seen = 0; seen < lines || MC_MUTANT_IS(208); seen++) { /* 208: for ever */
        shm_byte *at = writer->space.base + ref_offset(path->page) + (uint64_t)line * MC_LINE_BYTES;
        for (unsigned i = 0; i < MC_LINE_SLOTS; i++, at += 8) {
            if (shm_load(at) == MC_UNUSED) {
                shm_store(at, slot);
                mc_path_link(writer, path, path->levels, mc_path_depth(path),
                             path->page + REF_USED_ONE);
                return MC_OK;
            }
        }
        line = line + 1 == lines ? 0 : line + 1;
    }
    return mc_table_damaged(err); /* fewer slots are free than the reference says */
}

/* Puts another slot in the place of one, in a young page in place, else in a copy. */
static enum mc_status page_set(struct mc_table_writer *writer, struct mc_path *path,
                               const struct mc_place *place, uint64_t slot, struct mc_error *err)
{
    uint64_t page = ref_offset(path->page), bytes = ref_bytes(path->page), copy = page;
    assert(slot > MC_UNUSED);
    assert(place->slot_offset >= page && place->slot_offset < page + bytes);
    bool young =
        mc_arena_is_young(writer->arena, page) || MC_MUTANT_IS(201); /* 201: no copy-on-write */
    if (!young) {
        enum mc_status status =
            mc_arena_alloc_small(writer->arena, bytes, MC_LINE_BYTES, &copy, err);
        if (status != MC_OK) {
            return status;
        }
        shm_copy(writer->space.base + copy, writer->space.base + page, bytes);
    }
    shm_store(writer->space.base + copy + (place->slot_offset - page), slot);
    if (!young) {
        mc_path_replace_page(writer, path, copy, ref_size(path->page), ref_used(path->page));
    }
    return MC_OK;
}

/* ---- entries ---- */

enum mc_status mc_entry_write(struct mc_table_writer *writer, const struct mc_key *key,
                              const void *value, size_t value_len, unsigned blocks,
                              uint64_t *offset, struct mc_error *err)
{
    uint8_t index[MC_FIELD_INDEX_MAX];
    uint64_t bytes = mc_entry_bytes(key->len, value_len, blocks);
    assert(key->len <= MC_KEY_MAX && value_len < 1u << MC_LENGTHS_BLOCKS_SHIFT);
    assert(blocks <= MC_BLOCKS_MAX);
    enum mc_status status = mc_arena_alloc(writer->arena, bytes, MC_GRANULE, offset, err);
    if (status != MC_OK) {
        return status;
    }
    shm_byte *to = writer->space.base + *offset;
    uint64_t stamp = writer->birth | (uint64_t)key->type << MC_STAMP_TYPE_SHIFT |
                     (uint64_t)key->len << MC_STAMP_LEN_SHIFT;
    uint32_t lengths = (uint32_t)value_len | (uint32_t)blocks << MC_LENGTHS_BLOCKS_SHIFT;
    uint32_t checksum = mc_entry_checksum(lengths, stamp, key->data, key->len, value, value_len);
    if (blocks > 0) {
        mc_field_index_make(value, value_len, blocks, index);
        checksum ^= mc_checksum(index, (size_t)blocks * MC_BLOCK_BYTES);
        shm_write(to + sizeof(struct mc_entry) + key->len + value_len, index,
                  (size_t)blocks * MC_BLOCK_BYTES);
    }
    shm_store(to, checksum | (uint64_t)lengths << 32);
    shm_store(to + offsetof(struct mc_entry, stamp), stamp);
    shm_write(to + sizeof(struct mc_entry), key->data, key->len);
    shm_write(to + sizeof(struct mc_entry) + key->len, value, value_len);
    return MC_OK;
}

void mc_entry_tell(const struct mc_table_writer *writer, uint64_t offset, const struct mc_key *key,
                   const void *value, size_t value_len)
{
    shm_byte *to = writer->space.base + offset;
    uint64_t stamp = shm_load(to + offsetof(struct mc_entry, stamp));
    uint32_t length = (uint32_t)value_len;
    uint32_t checksum = mc_entry_checksum(length, stamp, key->data, key->len, value, value_len);
    assert(mc_arena_is_young(writer->arena, offset)); /* nobody reads it yet */
    shm_store(to, checksum | (uint64_t)length << 32);
    shm_write(to + sizeof(struct mc_entry) + key->len, value, value_len);
}

/* ---- put, delete, clear ---- */

/* See mc_arena_prepare. */
static enum mc_status prepare(struct mc_table_writer *writer, size_t releases, struct mc_error *err)
{
    return mc_arena_prepare(writer->arena, releases) == MC_OK ? MC_OK : mc_no_memory(err);
}

enum mc_status mc_table_put(struct mc_table_writer *writer, uint64_t *root,
                            const struct mc_key *key, const void *value, size_t value_len,
                            struct mc_put_result *result, struct mc_error *err)
{
    struct mc_path path;
    struct mc_hit hit;
    struct mc_place place;
    *result = (struct mc_put_result){0};
    assert(key->data != NULL && (value != NULL || value_len == 0));
    path.same_tag = 0;
    path.alike[0] = path.alike[1] = 0;
    enum mc_status status = mc_path_find(writer, root, key->hash, &path, err);
    if (status != MC_OK) {
        return status;
    }
    enum mc_status found = MC_ABSENT;
    if (path.page != 0) {
        found =
            mc_page_find(&writer->space, path.page, mc_path_total_depth(&path), key, &hit, &place);
    }
    if (found == MC_CORRUPT) {
        return mc_table_damaged(err);
    }
    if (found == MC_OK && mc_hit_equals(&hit, value, value_len)) {
        result->offset = hit.offset;
        return MC_OK;
    }
    if (found == MC_OK && writer->replaces != NULL &&
        !writer->replaces(writer->replaces_context, key, &hit, value, value_len)) {
        result->offset = hit.offset;
        return MC_OK;
    }
    unsigned blocks = mc_field_index_blocks(value, value_len);
    if ((status = prepare(writer, MC_PATH_RELEASES, err)) != MC_OK ||
        (status = mc_path_own(writer, &path, err)) != MC_OK ||
        (status = mc_entry_write(writer, key, value, value_len, blocks, &result->offset, err)) !=
            MC_OK) {
        return status;
    }
    assert(result->offset % MC_GRANULE == 0 && result->offset < writer->space.limit);
    result->bytes = mc_entry_bytes(key->len, value_len, blocks);
    uint64_t slot = slot_make(hash_tag(key->hash), result->offset);
    if (found == MC_OK) {
        status = page_set(writer, &path, &place, slot, err);
    } else if ((status = page_add_in_place(writer, &path, slot, err)) == MC_ABSENT) {
        status = page_add(writer, &path, slot, err);
    }
    if (status != MC_OK) {
        mc_arena_release(writer->arena, result->offset, result->bytes);
        result->same_tag = path.same_tag;
        result->alike[0] = slot_offset(path.alike[0]);
        result->alike[1] = slot_offset(path.alike[1]);
        return status;
    }
    result->changed = true;
    if (found == MC_OK) {
        result->replaced = true;
        result->old_offset = hit.offset;
        result->old_content = (uint64_t)hit.key_len + hit.value_len;
        mc_arena_release(writer->arena, hit.offset, mc_hit_bytes(&hit));
    }
    return MC_OK;
}

/* Takes empty nodes away from the end of a path whose page is gone. */
static void path_prune(struct mc_table_writer *writer, struct mc_path *path)
{
    assert(path->page != 0);
    for (unsigned level = path->levels; level > 0; level--) {
        uint64_t ref = path->steps[level - 1].ref;
        for (uint32_t i = 0; i < UINT32_C(1) << ref_size(ref); i++) {
            if (shm_load(writer->space.base + ref_offset(ref) + 8 * (uint64_t)i) != MC_UNUSED) {
                return;
            }
        }
        mc_path_link(writer, path, level - 1, ref_depth(ref), 0);
        mc_arena_release(writer->arena, ref_offset(ref), ref_bytes(ref));
    }
}

/* Rebuilds the path's page without one slot; smaller when it has become much too large. */
static enum mc_status page_remove(struct mc_table_writer *writer, struct mc_path *path,
                                  uint64_t slot, struct mc_error *err)
{
    uint64_t slots[MC_PAGE_SLOTS_MAX], offset;
    struct mc_page page;
    unsigned lines = ref_size(path->page), kept = 0, count = 0;
    assert(path->page != 0 && slot > MC_UNUSED);
    enum mc_status status = mc_page_gather(writer, path->page, slots, &count, err);
    if (status != MC_OK) {
        return status;
    }
    for (unsigned i = 0; i < count; i++) {
        if (slots[i] != slot) {
            slots[kept++] = slots[i];
        }
    }
    assert(kept < count); /* the slot was found there */
    if (kept == 0) {
        mc_path_link(writer, path, path->levels, mc_path_depth(path), 0);
        mc_arena_release(writer->arena, ref_offset(path->page), ref_bytes(path->page));
        path_prune(writer, path);
        return MC_OK;
    }
    if (kept < mc_lines_capacity(lines) / 2) {
        lines = mc_lines_for(kept);
    }
    mc_page_begin(&page, lines, mc_path_total_depth(path));
    status = mc_page_write_all(writer, &page, slots, kept, &offset, err);
    if (status == MC_OK) {
        mc_path_replace_page(writer, path, offset, lines, kept);
    }
    return status;
}

enum mc_status mc_table_delete(struct mc_table_writer *writer, uint64_t *root,
                               const struct mc_key *key, struct mc_hit *old, struct mc_error *err)
{
    struct mc_path path;
    struct mc_place place;
    assert(key->data != NULL && key->len <= MC_KEY_MAX);
    enum mc_status status = mc_path_find(writer, root, key->hash, &path, err);
    if (status != MC_OK) {
        return status;
    }
    if (path.page == 0) {
        return MC_ABSENT;
    }
    status = mc_page_find(&writer->space, path.page, mc_path_total_depth(&path), key, old, &place);
    if (status != MC_OK) {
        return status == MC_CORRUPT ? mc_table_damaged(err) : status;
    }
    if ((status = prepare(writer, (size_t)2 * MC_PATH_RELEASES, err)) != MC_OK ||
        (status = mc_path_own(writer, &path, err)) != MC_OK ||
        (status = page_remove(writer, &path, place.slot, err)) != MC_OK) {
        return status;
    }
    mc_arena_release(writer->arena, old->offset, mc_hit_bytes(old));
    return MC_OK;
}

enum mc_status mc_table_clear(struct mc_table_writer *writer, uint64_t *root, struct mc_error *err)
{
    struct mc_walk walk;
    struct mc_item item;
    size_t blocks = 0;
    enum mc_status status;
    assert(writer->space.limit % MC_GRANULE == 0);
    mc_walk_begin(&walk, &writer->space, *root);
    while ((status = mc_walk_next(&walk, &item)) == MC_OK) {
        blocks++;
    }
    if (status != MC_ABSENT) {
        return mc_table_damaged(err);
    }
    status = prepare(writer, blocks, err);
    if (status != MC_OK) {
        return status;
    }
    mc_walk_begin(&walk, &writer->space, *root);
    /* releasing changes no byte of the map, but whoever truncates the file does */
    while (blocks-- > 0 && mc_walk_next(&walk, &item) == MC_OK) {
        mc_arena_release(writer->arena, item.offset, item.bytes);
    }
    *root = 0;
    return MC_OK;
}
