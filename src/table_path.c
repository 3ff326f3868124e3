/* table_path.c - see table_path.h. */
#include "table_path.h"

#include <assert.h>

#include "arena.h"
#include "table_ref.h"

/* The page's depth within the node above it; a missing page fills one reference. */
unsigned mc_path_depth(const struct mc_path *path)
{
    if (path->levels == 0) {
        return 0;
    }
    return path->page != 0 ? ref_depth(path->page) : ref_size(path->steps[path->levels - 1].ref);
}

/* Its depth from the root. */
unsigned mc_path_total_depth(const struct mc_path *path)
{
    assert(path->levels <= MC_TABLE_LEVELS);
    return path->levels == 0 ? 0 : (path->levels - 1) * MC_NODE_BITS + mc_path_depth(path);
}

enum mc_status mc_path_find(const struct mc_table_writer *writer, uint64_t *root, uint64_t hash,
                            struct mc_path *path, struct mc_error *err)
{
    unsigned bits = 0;
    uint64_t ref = *root;
    path->root = root;
    for (path->levels = 0;; path->levels++) {
        if (ref != 0 && !ref_is_sound(ref, path->levels, bits, writer->space.limit)) {
            return mc_table_damaged(err);
        }
        if (ref == 0 || !ref_is_node(ref)) {
            path->page = ref;
            return MC_OK;
        }
        bits = ref_size(ref);
        uint32_t index = node_index(hash, path->levels, bits);
        assert(path->levels < MC_TABLE_LEVELS);
        path->steps[path->levels] = (struct mc_step){.ref = ref, .index = index};
        const shm_byte *at = writer->space.base + ref_offset(ref) + 8 * (uint64_t)index;
        if (!ref_of_word(shm_load(at), &ref)) {
            return mc_table_damaged(err);
        }
    }
}

/* Makes the references to what hangs below `level` nodes name `ref` instead: a run of 2^(bits -
 * depth) in the young node above, or the root. */
void mc_path_link(const struct mc_table_writer *writer, struct mc_path *path, unsigned level,
                  unsigned depth, uint64_t ref)
{
    assert(level <= path->levels);
    if (level == 0) {
        *path->root = ref;
        return;
    }
    const struct mc_step *step = &path->steps[level - 1];
    uint32_t run = run_length(ref_size(step->ref), depth);
    assert(depth <= ref_size(step->ref));
    assert(mc_arena_is_young(writer->arena, ref_offset(step->ref))); /* nobody reads it yet */
    uint32_t first = step->index & ~(run - 1);
    for (uint32_t i = first; i < first + run; i++) {
        shm_store(writer->space.base + ref_offset(step->ref) + 8 * (uint64_t)i, word_of_ref(ref));
    }
}

/* Makes every node of the path young. */
enum mc_status mc_path_own(struct mc_table_writer *writer, struct mc_path *path,
                           struct mc_error *err)
{
    for (unsigned level = 0; level < path->levels; level++) {
        struct mc_step *step = &path->steps[level];
        uint64_t offset, old = ref_offset(step->ref), bytes = ref_bytes(step->ref);
        if (mc_arena_is_young(writer->arena, old)) {
            continue;
        }
        enum mc_status status =
            mc_arena_alloc_small(writer->arena, bytes, MC_GRANULE, &offset, err);
        if (status != MC_OK) {
            return status;
        }
        shm_copy(writer->space.base + offset, writer->space.base + old, bytes);
        step->ref = ref_node(offset, ref_size(step->ref), ref_depth(step->ref));
        mc_path_link(writer, path, level, ref_depth(step->ref), step->ref);
        mc_arena_release(writer->arena, old, bytes);
        assert(mc_arena_is_young(writer->arena, ref_offset(step->ref)));
    }
    return MC_OK;
}

/* Links a new page of the same depth in place of the path's, which is released. */
void mc_path_replace_page(struct mc_table_writer *writer, struct mc_path *path, uint64_t offset,
                          unsigned lines, unsigned used)
{
    unsigned depth = mc_path_depth(path);
    assert(used > 0 && used <= lines * MC_LINE_SLOTS);
    mc_path_link(writer, path, path->levels, depth, ref_page(offset, lines, depth, used));
    if (path->page != 0) {
        mc_arena_release(writer->arena, ref_offset(path->page), ref_bytes(path->page));
    }
}
