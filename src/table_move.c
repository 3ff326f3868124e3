/* table_move.c - moves the blocks of a table out of the arena's sites. The loader only.
 *
 * Pages are found by the hashes that lead to them, each from where the last one's end, so that a
 * table can be gone through in parts, between which it changes. What an entry's slot says is enough
 * to know that it stays: only what moves is read.
 *
 * A page is changed in the steps of table_write.c: what can fail comes first.
 */
#include <assert.h>
#include <stdlib.h>

#include "arena.h"
#include "hash.h"
#include "mutant.h"
#include "table.h"
#include "table_page.h"
#include "table_path.h"
#include "table_ref.h"

/* What becomes of one page. */
struct moving {
    uint64_t slots[MC_PAGE_SLOTS_MAX];
    struct mc_hit old[MC_PAGE_SLOTS_MAX]; /* of the entries that moved: the first `moved` */
    uint64_t offsets[MC_PAGE_SLOTS_MAX];  /* and where to */
    unsigned count, moved;
};

/* The first hash behind those that lead to the path's page; 0 behind the last. */
static uint64_t hash_behind(const struct mc_path *path, uint64_t hash)
{
    unsigned depth = mc_path_total_depth(path);
    return depth == 0 ? 0 : ((hash >> (64 - depth)) + 1) << (64 - depth);
}

bool mc_entry_is_whole(const struct mc_hit *hit)
{
    const shm_byte *entry = hit->key - sizeof(struct mc_entry);
    uint64_t stamp = shm_load(entry + offsetof(struct mc_entry, stamp));
    uint32_t checksum = mc_hit_checksum(hit, stamp, shm_expose(hit->key));
    return (uint32_t)shm_load(entry) == checksum || MC_MUTANT_IS(210); /* 210: made right unseen */
}

/* Writes an entry once more, as one of the generation being written. */
static enum mc_status entry_copy(struct mc_table_writer *writer, const struct mc_hit *hit,
                                 uint64_t *offset, struct mc_error *err)
{
    struct mc_key key = {.type = hit->key_type, .len = hit->key_len, .data = shm_expose(hit->key)};
    return mc_entry_is_whole(hit) ? mc_entry_write(writer, &key, shm_expose(hit->value),
                                                   hit->value_len, hit->blocks, offset, err)
                                  : mc_table_damaged(err);
}

static void entry_release(struct mc_table_writer *writer, const struct mc_hit *hit, uint64_t offset)
{
    mc_arena_release(writer->arena, offset, mc_hit_bytes(hit));
}

/* Copies the entries of the page that lie in a site; on failure none. */
static enum mc_status entries_copy(struct mc_table_writer *writer, struct moving *moving,
                                   struct mc_error *err)
{
    enum mc_status status = MC_OK;
    for (unsigned i = 0; i < moving->count && status == MC_OK; i++) {
        uint64_t offset = slot_offset(moving->slots[i]);
        struct mc_hit *hit = &moving->old[moving->moved];
        if (!mc_arena_in_site(writer->arena, offset)) {
            continue;
        }
        status = mc_entry_read(&writer->space, offset, hit) == MC_OK
                     ? entry_copy(writer, hit, &moving->offsets[moving->moved], err)
                     : mc_table_damaged(err);
        if (status == MC_FULL) { /* it is large, and stays */
            status = MC_OK;
        } else if (status == MC_OK) {
            moving->slots[i] =
                slot_make(slot_tag(moving->slots[i]), moving->offsets[moving->moved]);
            moving->moved++;
        }
    }
    for (unsigned i = 0; i < moving->moved && status != MC_OK; i++) {
        entry_release(writer, &moving->old[i], moving->offsets[i]);
    }
    return status;
}

/* Writes the path's page once more, with what of it lies in a site moved. */
static enum mc_status page_move(struct mc_table_writer *writer, struct mc_path *path,
                                struct mc_move *move, struct moving *moving, struct mc_error *err)
{
    struct mc_page page;
    uint64_t offset;
    unsigned lines = ref_size(path->page);
    enum mc_status status = mc_arena_prepare(writer->arena, MC_PATH_RELEASES + moving->count);
    if (status != MC_OK) {
        return mc_no_memory(err);
    }
    if ((status = mc_path_own(writer, path, err)) != MC_OK ||
        (status = entries_copy(writer, moving, err)) != MC_OK) {
        return status;
    }
    mc_page_begin(&page, lines, mc_path_total_depth(path));
    status = mc_page_write_all(writer, &page, moving->slots, moving->count, &offset, err);
    if (status == MC_OK) {
        mc_path_replace_page(writer, path, offset, lines, moving->count);
        move->bytes += (uint64_t)lines * MC_LINE_BYTES;
    }
    for (unsigned i = 0; i < moving->moved; i++) {
        const struct mc_hit *old = &moving->old[i];
        move->bytes += status == MC_OK ? mc_hit_bytes(old) : 0;
        entry_release(writer, old, status == MC_OK ? old->offset : moving->offsets[i]);
    }
    return status;
}

/* True when a node of the path lies in a site, or its page or an entry of that. */
static bool is_met(const struct mc_table_writer *writer, const struct mc_path *path,
                   const uint64_t *slots, unsigned count)
{
    bool met = mc_arena_in_site(writer->arena, ref_offset(path->page));
    for (unsigned i = 0; i < path->levels; i++) {
        met |= mc_arena_in_site(writer->arena, ref_offset(path->steps[i].ref));
    }
    for (unsigned i = 0; i < count; i++) {
        met |= mc_arena_in_site(writer->arena, slot_offset(slots[i]));
    }
    return met;
}

/* Goes on behind the path's page. */
static void pass(const struct mc_path *path, struct mc_move *move)
{
    move->next = hash_behind(path, move->next);
    move->done = move->next == 0;
}

enum mc_status mc_table_pass(struct mc_table_writer *writer, uint64_t *root, struct mc_move *move,
                             bool *met, struct mc_error *err)
{
    uint64_t slots[MC_PAGE_SLOTS_MAX];
    struct mc_path path;
    unsigned count;
    assert(!move->done);
    *met = false;
    enum mc_status status = mc_path_find(writer, root, move->next, &path, err);
    if (status == MC_OK && path.page != 0) {
        status = mc_page_gather(writer, path.page, slots, &count, err);
        *met = status == MC_OK && is_met(writer, &path, slots, count);
    }
    if (status == MC_OK && !*met) {
        pass(&path, move);
    }
    return status;
}

enum mc_status mc_table_page_entries(const struct mc_table_writer *writer, uint64_t *root,
                                     uint64_t hash, uint64_t offsets[MC_PAGE_SLOTS_MAX],
                                     unsigned *count, struct mc_error *err)
{
    struct mc_path path;
    *count = 0;
    enum mc_status status = mc_path_find(writer, root, hash, &path, err);
    if (status == MC_OK && path.page != 0) {
        status = mc_page_gather(writer, path.page, offsets, count, err);
    }
    for (unsigned i = 0; i < *count; i++) {
        offsets[i] = slot_offset(offsets[i]);
        shm_prefetch(writer->space.base + offsets[i]);
    }
    return status;
}

enum mc_status mc_table_move(struct mc_table_writer *writer, uint64_t *root, struct mc_move *move,
                             struct mc_error *err)
{
    struct mc_path path;
    assert(!move->done);
    enum mc_status status = mc_path_find(writer, root, move->next, &path, err);
    if (status == MC_OK && path.page != 0) {
        struct moving *moving = malloc(sizeof *moving);
        if (moving == NULL) {
            return mc_no_memory(err);
        }
        moving->moved = 0;
        status = mc_page_gather(writer, path.page, moving->slots, &moving->count, err);
        if (status == MC_OK && is_met(writer, &path, moving->slots, moving->count)) {
            status = page_move(writer, &path, move, moving, err);
        }
        free(moving);
    }
    if (status == MC_OK) {
        pass(&path, move);
    }
    return status;
}
