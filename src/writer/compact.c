/* compact.c - makes large free blocks of small ones.
 *
 * A file that has reached its maximum and whose documents have many sizes breaks up: the free bytes
 * are enough, and no block of them is. All is copy-on-write here, so what is live can move: it is
 * written again at another place, in the same commit as whatever the batch changes, and where it
 * was is retired like any other block. No reader and no crash meets anything new.
 *
 * When there is room for only a few more entries of the largest size, the stretches in which most
 * is free become *sites* (arena_site.h): nothing is allocated there while all collections, then all
 * indexes with their tables of keys, then the catalogue are gone through for what lies in them,
 * some pages and some bytes with each commit, so that no commit takes much longer than another, and
 * some more while there is nothing to commit. Then the sites are *drained*: they are whole, and
 * end, when the blocks that moved have been reclaimed. Log-structured file systems clean segments
 * so (Rosenblum and Ousterhout: The Design and Implementation of a Log-Structured File System,
 * 1992).
 */
#include "compact.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "collections.h"
#include "make_room.h"
#include "mutant.h"

#define LARGEST_MIN (4u << 10)         /* bytes: blocks of this size are always wanted, */
#define RUNS_URGENT 5u                 /* with fewer the next batch may find none */
#define RUNS_WANTED 12u                /* so many of the largest size, */
#define SITES_WANTED 16u               /* and so many sites at a time */
#define SHARE_SHIFT 26                 /* for each 64 MiB of the file, */
#define SHARES_MOST 16u                /* up to a GiB: to go through it takes the longer, too; */
#define FREE_EACH 3u                   /* but a run is no more than such a part of what is free */
#define WORTH_WHILE 4u                 /* such a part of a site is free before it is one */
#define PAGES_EACH_COMMIT 512u         /* to look at, */
#define BYTES_EACH_COMMIT (256u << 10) /* and to move */
#define PUT_OFF 2u                     /* generations, when nothing could be done, */
#define SEARCH_SHIFT 26                /* and one more for each 64 MiB that were searched */

_Static_assert(SITES_WANTED *SHARES_MOST <= MC_SITES, "there is room for them");

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

/* How many times as much is wanted as of a small file. */
static uint64_t shares(const struct mc_writer *writer)
{
    return min64(1 + (writer->table.space.limit >> SHARE_SHIFT), SHARES_MOST);
}

/* How many blocks of the largest size should be free; 0: there is too little room for that. */
static uint64_t wanted(const struct mc_writer *writer)
{
    uint64_t unused = mc_arena_free(&writer->arena) + writer->arena.queued;
    return min64(unused / (FREE_EACH * largest_size(writer)), RUNS_WANTED * shares(writer));
}

static bool is_broken_up(const struct mc_writer *writer)
{
    uint64_t runs = wanted(writer);
    return writer->region.file_size + MC_EXTENT > writer->superblock.max_size &&
           mc_buddy_room(writer->arena.buddy, mc_granules(largest_size(writer)), runs) < runs &&
           !MC_MUTANT_IS(671);
}

/* The next batch may find no room for a large document, if it takes what the last one gave up.
 * While there is no next batch, nothing is. */
static bool is_urgent(const struct mc_writer *writer)
{
    uint64_t granules = mc_granules(largest_size(writer));
    uint64_t runs = RUNS_URGENT + writer->compaction.given / largest_size(writer);
    return !writer->compaction.alone && mc_buddy_room(writer->arena.buddy, granules, runs) < runs;
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

static unsigned worst_of(const struct stretch *chosen, unsigned count)
{
    unsigned worst = 0;
    for (unsigned i = 1; i < count; i++) {
        worst = chosen[i].free < chosen[worst].free ? i : worst;
    }
    return worst;
}

static int compare_offsets(const void *left, const void *right)
{
    const struct stretch *a = left, *b = right;
    return (a->offset > b->offset) - (a->offset < b->offset);
}

/* The stretches of so many granules that are worth most, in their order; how many they are. */
static unsigned choose(const struct mc_writer *writer, uint64_t granules,
                       struct stretch chosen[MC_SITES])
{
    unsigned most = SITES_WANTED * (unsigned)shares(writer), worst = 0;
    uint64_t at = writer->superblock.arena_offset / MC_GRANULE;
    uint64_t end = writer->table.space.limit / MC_GRANULE - 1; /* the tail stays */
    uint64_t enough = mc_granules(largest_size(writer));
    unsigned count = 0;
    for (; at + granules <= end; at += granules) {
        struct stretch one = {at, worth_of(writer->arena.buddy, at, at + granules, enough)};
        if (one.free < granules / WORTH_WHILE) {
            continue;
        }
        if (count < most) {
            chosen[count++] = one;
            worst = count == most ? worst_of(chosen, count) : 0;
        } else if (one.free > chosen[worst].free) {
            chosen[worst] = one;
            worst = worst_of(chosen, count);
        }
    }
    qsort(chosen, count, sizeof *chosen, compare_offsets);
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
    compaction->value = 0;
    compaction->keys.done = true;
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
    compaction->index = 0;
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
    return budget->pages == 0 || compaction->move.bytes + compaction->keys.bytes >= budget->bytes;
}

/* Moves some more of a table without others below it. */
static enum mc_status move_table(struct mc_writer *writer, uint64_t *root, struct budget *budget,
                                 struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    enum mc_status status = MC_OK;
    while (status == MC_OK && !compaction->move.done && !is_spent(budget, compaction)) {
        status = mc_table_move(&writer->table, root, &compaction->move, err);
        budget->pages--;
    }
    return status;
}

static enum mc_status move_collection(struct mc_writer *writer, struct budget *budget,
                                      struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    const uint8_t *name = compaction->names + compaction->names_at;
    size_t index;
    enum mc_status status =
        mc_collections_find(writer, (const char *)name + 1, name[0], &index, err);
    if (status != MC_OK) {
        return status;
    }
    uint64_t *root = &writer->collections.items[index].record.root, before = *root;
    status = move_table(writer, root, budget, err);
    if (*root != before && !MC_MUTANT_IS(672)) { /* 672: it is not stored */
        mc_collections_change(writer, index);
    }
    if (status == MC_OK && compaction->move.done) {
        compaction->names_at += name[0] + 1u;
        begin_table(compaction);
    }
    return status;
}

/* ---- an index ----
 *
 * Its pages are those of any table, but an entry may refer to a table of keys, which may be larger
 * than what one commit moves. Before a page of that moves, the entry is written once more: that may
 * fail, and then nothing has changed. No reader can reach the new one before the commit, so it is
 * told in place where its table has gone: that cannot fail.
 */

/* A value that has a table of keys: its entry. */
struct value {
    uint64_t hash, offset;
};

static int compare(const void *left, const void *right)
{
    const struct value *a = left, *b = right;
    return (a->hash > b->hash) - (a->hash < b->hash);
}

static struct mc_key key_of(const struct mc_writer *writer, const struct mc_hit *hit,
                            uint8_t bytes[MC_KEY_MAX])
{
    struct mc_key key = {.type = hit->key_type, .len = hit->key_len, .data = bytes};
    shm_read(bytes, hit->key, hit->key_len);
    key.hash = mc_writer_hash(writer, &key);
    return key;
}

static enum mc_status read_posting(struct mc_writer *writer, uint64_t offset, struct mc_hit *hit,
                                   struct mc_posting *posting, struct mc_error *err)
{
    return mc_entry_read(&writer->table.space, offset, hit) == MC_OK &&
                   mc_hit_posting(hit, posting) == MC_OK
               ? MC_OK
               : mc_table_damaged(err);
}

/* The values with tables of keys in the page that is next, in the order of their hashes, in which
 * the next commit finds them again. */
static enum mc_status list_values(struct mc_writer *writer, uint64_t *root,
                                  struct value values[MC_PAGE_SLOTS_MAX], unsigned *count,
                                  struct mc_error *err)
{
    uint64_t offsets[MC_PAGE_SLOTS_MAX];
    uint8_t bytes[MC_KEY_MAX];
    unsigned entries;
    enum mc_status status = mc_table_page_entries(
        &writer->table, root, writer->compaction.move.next, offsets, &entries, err);
    *count = 0;
    for (unsigned i = 0; i < entries && status == MC_OK; i++) {
        struct mc_posting posting;
        struct mc_hit hit;
        status = read_posting(writer, offsets[i], &hit, &posting, err);
        if (status == MC_OK && !posting.one) {
            struct mc_key key = key_of(writer, &hit, bytes);
            values[(*count)++] = (struct value){.hash = key.hash, .offset = offsets[i]};
        }
    }
    qsort(values, *count, sizeof *values, compare);
    return status;
}

/* The value of an entry that refers to a table of keys. */
static struct mc_index_keys keys_of(uint64_t root, uint64_t count)
{
    struct mc_index_keys keys = {.zero = 0};
    memcpy(keys.root, &root, sizeof keys.root);
    memcpy(keys.count, &count, sizeof keys.count);
    return keys;
}

/* Has an entry written once more if it is not of this batch: what may fail is done then. Its count
 * is wrong until it is told, as the table does not write again what it has already. */
static enum mc_status renew(struct mc_writer *writer, uint64_t *root, const struct mc_key *key,
                            struct mc_hit *hit, const struct mc_posting *posting,
                            struct mc_error *err)
{
    struct mc_index_keys other = keys_of(posting->root, ~posting->count);
    struct mc_put_result result;
    bool young = mc_arena_is_young(&writer->arena, hit->offset);
    if (young || MC_MUTANT_IS(673)) { /* 673: readers see it change */
        return MC_OK;
    }
    if (!mc_entry_is_whole(hit)) {
        return mc_table_damaged(err);
    }
    enum mc_status status =
        mc_table_put(&writer->table, root, key, &other, sizeof other, &result, err);
    if (status == MC_OK && result.old_offset != hit->offset &&
        !MC_MUTANT_IS(675)) { /* 675: a value is there twice, once with blocks that are gone */
        return mc_table_damaged(err);
    }
    hit->offset = result.offset;
    return status;
}

/* Moves some more of the table of keys that an entry of the index refers to. */
static enum mc_status move_keys(struct mc_writer *writer, uint64_t *root, uint64_t offset,
                                struct budget *budget, struct mc_error *err)
{
    struct mc_move *move = &writer->compaction.keys;
    uint8_t bytes[MC_KEY_MAX];
    struct mc_posting posting;
    struct mc_hit hit;
    enum mc_status status = read_posting(writer, offset, &hit, &posting, err);
    if (status != MC_OK || posting.one) { /* it has just been listed */
        return mc_table_damaged(err);
    }
    struct mc_key key = key_of(writer, &hit, bytes);
    while (status == MC_OK && !move->done && !is_spent(budget, &writer->compaction)) {
        bool met;
        budget->pages--;
        status = mc_table_pass(&writer->table, &posting.root, move, &met, err);
        if (status == MC_OK && met) {
            status = renew(writer, root, &key, &hit, &posting, err);
            if (status != MC_OK) {
                return status;
            }
            status = mc_table_move(&writer->table, &posting.root, move, err);
            struct mc_index_keys keys = keys_of(posting.root, posting.count);
            if (!MC_MUTANT_IS(674)) { /* 674: the entry is not told */
                mc_entry_tell(&writer->table, hit.offset, &key, &keys, sizeof keys);
            }
        }
    }
    return status;
}

/* Moves one page of an index, or some of the tables of keys below it. */
static enum mc_status move_page(struct mc_writer *writer, struct mc_index_record *record,
                                struct budget *budget, struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    struct value values[MC_PAGE_SLOTS_MAX];
    unsigned count = 0;
    enum mc_status status = record->kind == MC_INDEX_MULTI
                                ? list_values(writer, &record->root, values, &count, err)
                                : MC_OK;
    if (status != MC_OK) {
        return status;
    }
    for (unsigned i = 0; i < count; i++) {
        if (values[i].hash > compaction->value) { /* one with the hash 0 stays */
            compaction->value = values[i].hash;
            compaction->keys.next = 0;
            compaction->keys.done = false;
        }
        if (values[i].hash == compaction->value) {
            status = move_keys(writer, &record->root, values[i].offset, budget, err);
            if (status != MC_OK || !compaction->keys.done) {
                return status;
            }
        }
    }
    budget->pages -= budget->pages > 0;
    return mc_table_move(&writer->table, &record->root, &compaction->move, err);
}

/* Moves some more of the index under way. */
static enum mc_status move_index(struct mc_writer *writer, struct budget *budget,
                                 struct mc_error *err)
{
    struct mc_compaction *compaction = &writer->compaction;
    struct mc_writer_index *item = &writer->indexes.items[compaction->index];
    enum mc_status status = MC_OK;
    while (status == MC_OK && !compaction->move.done && !is_spent(budget, compaction)) {
        status = move_page(writer, &item->now.record, budget, err);
    }
    if (status == MC_OK && compaction->move.done) {
        compaction->index++;
        begin_table(compaction);
    }
    return status;
}

/* Moves some more of one table: a collection, an index, or last of all the catalogue. */
static enum mc_status move_some(struct mc_writer *writer, struct budget *budget,
                                struct mc_error *err)
{
    const struct mc_compaction *compaction = &writer->compaction;
    if (compaction->names_at < compaction->names_len) {
        return move_collection(writer, budget, err);
    }
    return compaction->index < writer->indexes.count
               ? move_index(writer, budget, err)
               : move_table(writer, &writer->batch.catalogue, budget, err);
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

/* Whether this commit moves something: one that changes something, or one of its own. That one
 * begins with sites once, and not again before something changes: who changes nothing comes to
 * rest. */
static bool may_move(struct mc_writer *writer)
{
    struct mc_compaction *compaction = &writer->compaction;
    if (has_changed(writer)) {
        compaction->rests = false;
        return true;
    }
    if (!compaction->alone || mc_arena_has_sites(&writer->arena)) {
        return compaction->alone;
    }
    bool begins = !compaction->rests || MC_MUTANT_IS(697); /* 697: again and again */
    compaction->rests = true;
    return begins;
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
    compaction->move.bytes = compaction->keys.bytes = 0;
    if (mc_arena_has_sites(&writer->arena) && compaction->drain != 0) {
        drain(writer);
    }
    if (!mc_compact_is_due(writer) || !may_move(writer)) {
        return MC_OK;
    }
    if (!mc_arena_has_sites(&writer->arena)) {
        status = begin(writer, err);
    }
    struct budget budget = draw_up(writer);
    compaction->moving = true;
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
