/* rebuild.c - which blocks of a file are live, at open: no file says so.
 *
 * One walk from the root of the current generation meets each of them, in the order of the hashes,
 * that is, all over the file: it is as quick as the memory answers to many requests at once, so
 * whatever it will need is asked for ahead of time.
 */
#include "rebuild.h"

#include <assert.h>

#include "compact.h"
#include "indexes.h"
#include "make_room.h"
#include "mutant.h"
#include "writer_state.h"

/* The walk will come to an entry there. */
static void mark_ahead(void *context, uint64_t offset)
{
    const struct mc_writer *writer = context;
    mc_buddy_mark_ahead(writer->arena.buddy, offset / MC_GRANULE);
}

/* Marks everything below a reference as live. */
static enum mc_status mark(struct mc_writer *writer, uint64_t root, enum mc_table kind,
                           struct mc_error *err)
{
    struct mc_walk walk;
    struct mc_index index;
    uint64_t below;
    enum mc_table its;
    struct mc_item item = {.offset = 0}; /* nothing was reached yet */
    enum mc_status status;
    mc_walk_begin(&walk, &writer->table.space, root);
    walk.ahead = mark_ahead;
    walk.context = writer;
    while ((status = mc_walk_next(&walk, &item)) == MC_OK) {
        if (MC_MUTANT_IS(602) && item.kind == MC_ITEM_PAGE) { /* 602: a restart frees too much */
            continue;
        }
        status =
            mc_buddy_mark(writer->arena.buddy, item.offset / MC_GRANULE, mc_granules(item.bytes));
        if (status != MC_OK) {
            break;
        }
        mc_compact_note(writer, item.bytes);
        bool entry = item.kind == MC_ITEM_ENTRY;
        status = entry ? mc_hit_table(kind, &item.hit, &below, &its) : MC_ABSENT;
        if (status == MC_CORRUPT) { /* what it refers to would be taken for free */
            break;
        }
        if (status == MC_OK && its == MC_TABLE_INDEX) {
            (void)mc_hit_index(&item.hit, &index); /* it is one */
            status = mc_indexes_found(writer, &index, err);
        }
        assert(status != MC_OK || its > kind); /* three levels: never a catalogue */
        if (status == MC_OK) {
            status = mark(writer, below, its, err);
        }
        if (status != MC_OK && status != MC_ABSENT) {
            return status;
        }
    }
    if (status == MC_ABSENT) {
        return MC_OK;
    }
    if (item.offset == 0) {
        return mc_fail(err, MC_CORRUPT, "the reference of a table is damaged: recreate the cache");
    }
    return mc_fail(err, MC_CORRUPT, "the cache is damaged at byte %llu: recreate it",
                   (unsigned long long)item.offset);
}

enum mc_status mc_writer_rebuild(struct mc_writer *writer, struct mc_error *err)
{
    uint64_t tail = writer->table.space.limit / MC_GRANULE - 1;
    struct mc_arena *arena = &writer->arena;
    if (mc_arena_create(arena, writer->table.space.base, writer->region.file_size,
                        writer->superblock.max_size, mc_writer_make_room, writer) != MC_OK) {
        return mc_no_memory(err);
    }
    writer->table.arena = arena;
    writer->indexes.count = 0; /* a damaged file may have been looked at before this one */
    mc_buddy_rebuild_begin(arena->buddy);
    /* both fit: see mc_superblock_read, and recover() in writer.c */
    (void)mc_buddy_mark(arena->buddy, 0, writer->superblock.arena_offset / MC_GRANULE);
    (void)mc_buddy_mark(arena->buddy, tail, 1);
    enum mc_status status = mark(writer, writer->root.catalogue, MC_TABLE_CATALOGUE, err);
    if (status == MC_OK) {
        mc_buddy_rebuild_end(arena->buddy);
    }
    return status;
}
