/* make_room.c - where a batch's blocks come from when the arena has none left.
 *
 * Room is looked for in this order: blocks whose retention is over; those retired for at
 * least an eighth of it while there are more than a sixteenth of the file; a larger file; all
 * blocks that the current generation does not need, whatever snapshot may still read them; what is
 * free of a site that is being cleared. Only then the cache is full.
 */
#include "make_room.h"

#include <assert.h>

#include "mutant.h"
#include "system.h"
#include "writer_state.h"

#define QUEUE_SHIFT 4 /* retired blocks are kept while they are under a sixteenth of the file, */
#define QUEUE_MIN (8u << 20)    /* or under this many bytes */
#define REQUESTS_IN_RETENTION 8 /* an eighth of the retention is left to requests at any rate */
#define RECLAIM_EACH_COMMIT 64u /* extents: more than an ordinary commit retires */
#define AHEAD_SHIFT 5           /* a 32nd of the file is to be free, */
#define AHEAD_PIECE (1u << 20)  /* in pieces of so many bytes, before anybody needs it */

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void mc_writer_end_at(struct mc_writer *writer, uint64_t end)
{
    struct mc_space *space = &writer->table.space;
    struct mc_buddy *buddy = writer->arena.buddy;
    uint64_t committed = mc_root_end(&writer->root);
    assert(end % MC_GRANULE == 0 && end <= writer->region.file_size);
    if (end == space->limit) {
        return;
    }
    if (space->limit != committed || MC_MUTANT_IS(608)) { /* 608: a tail that is still needed */
        mc_buddy_free(buddy, space->limit / MC_GRANULE - 1, 1);
    }
    (void)mc_buddy_reserve(buddy, end / MC_GRANULE - 1, 1); /* free: nothing was ever there */
    if (!MC_MUTANT_IS(607)) {                               /* 607: a file that looks truncated */
        mc_tail_write(space, end);
    }
    space->limit = end;
}

/* Makes what the file has become usable. When there is no memory for that, the file stays longer
 * than what is used of it: harmless, and made up for by the next growth. */
static enum mc_status use_all(struct mc_writer *writer, struct mc_error *err)
{
    uint64_t granules = writer->region.file_size / MC_GRANULE;
    if (mc_buddy_grow(writer->arena.buddy, granules) != MC_OK) {
        return mc_no_memory(err);
    }
    mc_writer_end_at(writer, writer->region.file_size);
    assert(writer->table.space.limit == writer->region.file_size);
    return MC_OK;
}

/* Makes the file at least `bytes` larger, and no more than that takes in whole extents: each costs
 * the commit that needs it half a millisecond. More is made when there is time for it.
 * MC_FULL because of max_size: without a sentence, it may not be the end. */
static enum mc_status grow(struct mc_writer *writer, uint64_t bytes, struct mc_error *err)
{
    assert(bytes > 0 && bytes % MC_GRANULE == 0);
    uint64_t size = writer->region.file_size, needed = mc_whole_extents(bytes);
    if (writer->table.space.limit < size) {
        return use_all(writer, err);
    }
    if (size + needed > writer->superblock.max_size) {
        return MC_FULL;
    }
    enum mc_status status = mc_region_grow(&writer->region, writer->path, size + needed,
                                           &writer->options.collapse, &writer->huge, err);
    assert(status != MC_OK || writer->region.file_size == size + needed);
    return status == MC_OK ? use_all(writer, err) : status;
}

/* Whether the file system has room for an extent and some more: one that is full to the last page
 * keeps what is left for those who need it now. */
static bool has_room(const struct mc_writer *writer)
{
    struct mc_room room;
    mc_system_room(writer->region.fd, &room);
    return room.bytes == 0 || room.free >= 2 * MC_EXTENT; /* 0: a tmpfs without a limit */
}

bool mc_writer_grow_ahead(struct mc_writer *writer)
{
    uint64_t size = writer->region.file_size;
    uint64_t share = min64(size >> AHEAD_SHIFT, MC_GROWTH_MAX);
    uint64_t piece = min64(share, AHEAD_PIECE), pieces = share / piece;
    if (size + MC_EXTENT > writer->superblock.max_size ||
        mc_buddy_room(writer->arena.buddy, mc_granules(piece), pieces) >= pieces ||
        !has_room(writer)) {
        return false;
    }
    assert(!mc_arena_has_sites(&writer->arena)); /* they are of files that cannot grow */
    if (writer->table.space.limit == size &&
        mc_region_grow(&writer->region, writer->path, size + MC_EXTENT, &writer->options.collapse,
                       &writer->huge, NULL) != MC_OK) {
        return false; /* a commit will say why, if it needs it */
    }
    return use_all(writer, NULL) == MC_OK;
}

static uint64_t reclaim(struct mc_writer *writer, uint64_t generation, size_t most)
{
    if (generation == 0 || writer->arena.groups.count == 0) {
        return 0;
    }
    mc_raise_horizon(&writer->table.space, generation - (MC_MUTANT_IS(600) ? 1 : 0)); /* 600 */
    return mc_arena_reclaim(&writer->arena, generation, most);
}

/* Blocks whose retention is over, and those whose readers have been told already: a ring of roots
 * that goes round raises the horizon by itself. */
static uint64_t reclaim_expired(struct mc_writer *writer, int64_t now, size_t most)
{
    uint64_t expired = mc_arena_expired(&writer->arena, now - writer->options.retention_ns);
    assert(expired <= writer->root.generation); /* nothing that is current */
    uint64_t announced = mc_horizon(&writer->table.space);
    return reclaim(writer, expired > announced ? expired : announced, most);
}

/* What the queue holds beyond its share of the file, oldest first, but nothing that a request which
 * has just begun may need: a loader that rewrites the cache all the time would otherwise fill the
 * file with the past. */
static uint64_t reclaim_excess(struct mc_writer *writer, int64_t now)
{
    uint64_t share = writer->region.file_size >> QUEUE_SHIFT;
    share = share > QUEUE_MIN ? share : QUEUE_MIN;
    if (writer->arena.queued <= share) {
        return 0;
    }
    int64_t request = writer->options.retention_ns / REQUESTS_IN_RETENTION;
    uint64_t excess = mc_arena_older(&writer->arena, share);
    uint64_t past = mc_arena_expired(&writer->arena, now - request);
    return reclaim(writer, excess < past ? excess : past, SIZE_MAX);
}

void mc_writer_reclaim(struct mc_writer *writer, bool all)
{
    (void)reclaim_expired(writer, mc_clock_ns(), SIZE_MAX);
    if (all) {
        (void)reclaim(writer, writer->root.generation, SIZE_MAX);
    }
}

void mc_writer_reclaim_some(struct mc_writer *writer, int64_t now)
{
    (void)reclaim_expired(writer, now, RECLAIM_EACH_COMMIT);
}

/* Puts the numbers into *err. The sentence about the file system is there already, from growing;
 * the one about max_size is for when that is what is in the way. */
static enum mc_status full(const struct mc_writer *writer, uint64_t needed, bool at_limit,
                           struct mc_error *err)
{
    uint64_t free_bytes = mc_arena_free(&writer->arena);
    uint64_t largest = mc_buddy_largest(writer->arena.buddy) * MC_GRANULE;
    uint64_t limit = writer->superblock.max_size;
    assert(largest <= free_bytes && free_bytes <= writer->table.space.limit);
    if (at_limit || MC_MUTANT_IS(611)) { /* 611: max_size is blamed for a full disk */
        (void)mc_fail(err, MC_FULL,
                      "the cache is full: %llu bytes needed, %llu free, largest free block %llu, "
                      "limit %llu bytes. The last generation stays. Raise max_size, or load less",
                      (unsigned long long)needed, (unsigned long long)free_bytes,
                      (unsigned long long)largest, (unsigned long long)limit);
    }
    if (err != NULL) {
        assert(err->status == MC_FULL); /* whoever met the end has said so */
        err->needed = needed;
        err->free = free_bytes;
        err->largest = largest;
        err->limit = limit;
    }
    return MC_FULL;
}

/* See mc_make_room. One step at a time: the caller tries again after each. */
enum mc_status mc_writer_make_room(void *context, uint64_t bytes, struct mc_error *err)
{
    struct mc_writer *writer = context;
    int64_t now = mc_clock_ns();
    if (reclaim_expired(writer, now, SIZE_MAX) > 0 || reclaim_excess(writer, now) > 0) {
        return MC_OK;
    }
    if (writer->compaction.moving) { /* it is put off: no reader is to lose anything by it */
        return MC_FULL;
    }
    enum mc_status status = grow(writer, bytes, err);
    if (status != MC_FULL) {
        return status;
    }
    bool at_limit =
        writer->region.file_size + mc_whole_extents(bytes) > writer->superblock.max_size;
    if (reclaim(writer, writer->root.generation, SIZE_MAX) > 0 ||
        mc_arena_sites_end(&writer->arena) > 0) {
        return MC_OK;
    }
    return full(writer, bytes, at_limit, err);
}
