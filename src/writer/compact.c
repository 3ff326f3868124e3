/* compact.c - makes large free blocks of small ones.
 *
 * A file that has reached its maximum and whose documents have many sizes breaks up: the free bytes
 * are enough, and no block of them is. All is copy-on-write here, so what is live can move: it is
 * written again at another place, in the same commit as whatever the batch changes, and where it
 * was is retired like any other block. No reader and no crash meets anything new.
 *
 * When there is room for only a few more entries of the largest size, the stretches in which most
 * is free become *sites* (arena_site.h): nothing is allocated there while all collections are gone
 * through for what lies in them, some pages and some bytes with each commit, so that no commit
 * takes much longer than another. Indexes stay where they are. Then the sites are *drained*: they
 * are whole, and end, when the blocks that moved have been reclaimed. Log-structured file systems
 * clean segments so (Rosenblum and Ousterhout: The Design and Implementation of a Log-Structured
 * File System, 1992).
 */
#include "compact.h"

#include <assert.h>
#include <stdlib.h>

#include "collections.h"
#include "make_room.h"
#include "mutant.h"

#define LARGEST_MIN (4u << 10)         /* bytes: blocks of this size are always wanted, */
#define RUNS_URGENT 5u                 /* with fewer the next batch may find none */
#define RUNS_WANTED 12u                /* so many of the largest size, */
#define FREE_EACH 3u                   /* but each no more than such a part of what is free */
#define WORTH_WHILE 4u                 /* such a part of a site is free before it is one */
#define PAGES_EACH_COMMIT 512u         /* to look at, */
#define BYTES_EACH_COMMIT (256u << 10) /* and to move */
#define PUT_OFF 2u                     /* generations, when nothing could be done, */
#define SEARCH_SHIFT 26                /* and one more for each 64 MiB that were searched */

static uint64_t max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t largest_size(const struct mc_writer *writer)
{
    return max64(writer->compaction.largest, LARGEST_MIN);
}

/* How many blocks of the largest size should be free; 0: there is too little room for that. */
static uint64_t wanted(const struct mc_writer *writer)
{
    uint64_t unused = mc_arena_free(&writer->arena) + writer->arena.queued;
    return min64(unused / (FREE_EACH * largest_size(writer)), RUNS_WANTED);
}

static bool is_broken_up(const struct mc_writer *writer)
{
    uint64_t runs = wanted(writer);
    return writer->region.file_size + MC_EXTENT > writer->superblock.max_size &&
           mc_buddy_room(writer->arena.buddy, mc_granules(largest_size(writer)), runs) < runs &&
           !MC_MUTANT_IS(671);
}

/* The next batch may find no room for a large document. */
static bool is_urgent(const struct mc_writer *writer)
{
    uint64_t granules = mc_granules(largest_size(writer));
    return mc_buddy_room(writer->arena.buddy, granules, RUNS_URGENT) < RUNS_URGENT;
}

bool mc_compact_is_due(const struct mc_writer *writer)
{
    const struct mc_compaction *compaction = &writer->compaction;
    return mc_arena_has_sites(&writer->arena) ||
           (writer->root.generation >= compaction->until && is_broken_up(writer));
}

/* Nothing more for now. */
static void put_off(struct mc_writer *writer)
{
    (void)mc_arena_sites_end(&writer->arena);
    writer->compaction.until = max64(writer->compaction.until, writer->root.generation + PUT_OFF);
}

/* ---- where ---- */

struct stretch {
    uint64_t offset, free; /* granules */
};

/* How much of it is free; 0 when it is all in one run that is long enough. */
static uint64_t worth_of(const struct mc_buddy *buddy, uint64_t from, uint64_t to, uint64_t enough)
{
    uint64_t sum = 0;
    for (uint64_t at = from, end; at < to; at = end) {
        bool is_free;
        end = mc_buddy_run(buddy, at, &is_free);
        end = min64(end, to);
        if (is_free && end - at >= enough) {
            return 0;
        }
        sum += is_free ? end - at : 0;
    }
    return sum;
}

/* The stretches of so many granules that are worth most, in no order; how many they are. */
static unsigned choose(const struct mc_writer *writer, uint64_t granules,
                       struct stretch chosen[MC_SITES])
{
    uint64_t at = writer->superblock.arena_offset / MC_GRANULE;
    uint64_t end = writer->table.space.limit / MC_GRANULE - 1; /* the tail stays */
    uint64_t enough = mc_granules(largest_size(writer));
    unsigned count = 0;
    for (; at + granules <= end; at += granules) {
        struct stretch one = {at, worth_of(writer->arena.buddy, at, at + granules, enough)};
        unsigned worst = 0;
        for (unsigned i = 1; i < count; i++) {
            worst = chosen[i].free < chosen[worst].free ? i : worst;
        }
        if (one.free < granules / WORTH_WHILE) {
            continue;
        }
        if (count < MC_SITES) {
            chosen[count++] = one;
        } else if (one.free > chosen[worst].free) {
            chosen[worst] = one;
        }
    }
    return count;
}

/* ---- what ---- */

/* The names of all collections. MC_NOMEM, MC_CORRUPT. */
static enum mc_status list_names(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_collection collection;
    enum mc_status status;
    size_t room = (size_t)writer->root.collections * (MC_NAME_MAX + 1);
    compaction->names_len = compaction->names_at = 0;
    free(compaction->names);
    compaction->names = malloc(room + 1);
    if (compaction->names == NULL) {
        return mc_no_memory(err);
    }
    mc_walk_begin(&walk, &writer->table.space, writer->root.catalogue);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        if (mc_hit_collection(&hit, &collection) != MC_OK) {
            continue; /* an index, the loader's state, or a record for others to judge */
        }
        if (room - compaction->names_len <= hit.key_len) { /* more than the root says */
            return mc_table_damaged(err);
        }
        compaction->names[compaction->names_len++] = (uint8_t)hit.key_len;
        shm_read(compaction->names + compaction->names_len, hit.key, hit.key_len);
        compaction->names_len += hit.key_len;
    }
    return status == MC_ABSENT ? MC_OK : mc_table_damaged(err);
}

static void begin_table(struct mc_compaction *compaction)
{
    compaction->move.next = 0;
    compaction->move.done = false;
}

/* Chooses sites, which with what moves out of them take no more than half of what is free. */
static enum mc_status add_sites(struct mc_writer *writer, struct mc_error *err)
{
    struct stretch chosen[MC_SITES];
    uint64_t granules = mc_granules(largest_size(writer) + largest_size(writer) / 2);
    uint64_t room = mc_buddy_free_granules(writer->arena.buddy) / 2;
    unsigned count = choose(writer, granules, chosen);
    for (unsigned i = 0; i < count; i++) {
        if (room < granules) {
            break;
        }
        room -= granules;
        if (mc_arena_site_add(&writer->arena, chosen[i].offset * MC_GRANULE,
                              granules * MC_GRANULE) != MC_OK) {
            return mc_no_memory(err);
        }
    }
    return MC_OK;
}

/* Begins to clear sites, if there are any that are worth while. MC_NOMEM, MC_CORRUPT. */
static enum mc_status begin(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    enum mc_status status = MC_OK;
    compaction->until = writer->root.generation + 1 + (writer->table.space.limit >> SEARCH_SHIFT);
    mc_writer_reclaim(writer, is_urgent(writer));
    mc_arena_merge(&writer->arena);
    if (is_broken_up(writer)) { /* and it was not only what was kept at hand */
        status = list_names(writer, err);
        if (status == MC_OK) {
            status = add_sites(writer, err);
        }
    }
    begin_table(compaction);
    compaction->drain = 0;
    if (status == MC_OK && !mc_arena_has_sites(&writer->arena)) {
        put_off(writer);
    }
    return status;
}

/* What one commit may still do. */
struct budget {
    uint64_t pages, bytes;
};

/* All of it at once where it is urgent. */
static struct budget draw_up(const struct mc_writer *writer)
{
    return is_urgent(writer) ? (struct budget){UINT64_MAX, UINT64_MAX}
                             : (struct budget){PAGES_EACH_COMMIT, BYTES_EACH_COMMIT};
}

static bool is_spent(const struct budget *budget, const struct mc_compaction *compaction)
{
    return budget->pages == 0 || compaction->move.bytes >= budget->bytes;
}

/* Moves some more of one table: a collection, or last of all the catalogue. */
static enum mc_status move_some(struct mc_writer *writer, struct budget *budget,
                                struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    bool last = compaction->names_at == compaction->names_len;
    const uint8_t *name = compaction->names + compaction->names_at;
    uint64_t *root = &writer->batch.catalogue;
    size_t index = 0;
    enum mc_status status = MC_OK;
    if (!last) {
        status = mc_collections_find(writer, (const char *)name + 1, name[0], &index, err);
        if (status != MC_OK) {
            return status;
        }
        root = &writer->collections.items[index].record.root;
    }
    uint64_t before = *root;
    while (status == MC_OK && !compaction->move.done && !is_spent(budget, compaction)) {
        status = mc_table_move(&writer->table, root, &compaction->move, err);
        budget->pages--;
    }
    if (!last && *root != before && !MC_MUTANT_IS(672)) { /* 672: it is not stored */
        mc_collections_change(writer, index);
    }
    if (status == MC_OK && compaction->move.done && !last) {
        compaction->names_at += name[0] + 1u;
        begin_table(compaction);
    }
    return status;
}

static bool has_changed(const struct mc_writer *writer)
{
    bool changed = writer->batch.catalogue != writer->root.catalogue;
    for (uint32_t at = writer->batch.listed; at != 0 && !changed;) {
        changed = writer->collections.items[at - 1].changed;
        at = writer->collections.items[at - 1].next_listed;
    }
    return changed;
}

/* What was moved has to be reclaimed before its sites are whole. */
static void drain(struct mc_writer *writer)
{
    mc_writer_reclaim(writer, is_urgent(writer));
    if (mc_arena_oldest(&writer->arena) > writer->compaction.drain) {
        (void)mc_arena_sites_end(&writer->arena);
    }
}

enum mc_status mc_compact_some(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    enum mc_status status = MC_OK;
    assert(writer->batch.open && !writer->batch.replace.open);
    if (mc_arena_has_sites(&writer->arena) && compaction->drain != 0) {
        drain(writer);
    }
    if (!mc_compact_is_due(writer) || !has_changed(writer)) {
        return MC_OK;
    }
    if (!mc_arena_has_sites(&writer->arena)) {
        status = begin(writer, err);
    }
    struct budget budget = draw_up(writer);
    compaction->moving = true;
    compaction->move.bytes = 0;
    while (status == MC_OK && mc_arena_has_sites(&writer->arena) && compaction->drain == 0 &&
           !is_spent(&budget, compaction)) {
        status = move_some(writer, &budget, err);
        if (status == MC_OK && compaction->move.done) { /* the catalogue: all is done */
            compaction->drain = writer->root.generation + 1;
        }
    }
    compaction->moving = false;
    if (status == MC_FULL) { /* it goes on where it was, when there is room */
        return MC_OK;
    }
    if (status != MC_OK) {
        put_off(writer);
    }
    return status == MC_CORRUPT ? status : MC_OK;
}
