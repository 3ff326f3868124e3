/* arena.h - what a batch allocates and what it gives up, on top of the buddy allocator.
 *
 *   free --alloc--> young --commit--> live --release--> retired --commit--> queue --reclaim--> free
 *                     |                                    |
 *                     +---- release, abort ----> free      +---- abort ----> live
 *
 * A block is *young* while the batch that allocated it is open: no reader can reach it, so it is
 * changed in place and freed at once. Anything older is *retired* instead: generations that readers
 * may still use refer to it, and it waits in a queue until the writer has announced its reuse.
 *
 * Youth is a short list of extents for a small batch, whose every question it answers from one
 * cache line or two; a larger batch spills the list into one bit per granule. An abort frees
 * exactly what the batch allocated by walking either, whatever structures the blocks belonged to.
 * There are two scopes, a batch and a replace within it, each with its own young bits and its own
 * retired list; cancelling the inner one takes back what was done in it and nothing else.
 *
 * Private memory, no I/O, no atomics; of the map it only prefetches lines. Offsets and sizes are in
 * bytes and multiples of MC_GRANULE (sizes are rounded up). The loader only.
 */
#ifndef MMAPCACHE_ARENA_H
#define MMAPCACHE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena_site.h"
#include "buddy.h"
#include "format.h"
#include "shm.h"
#include "status.h"
#include "words.h"

enum mc_scope { MC_SCOPE_BATCH, MC_SCOPE_REPLACE, MC_SCOPES };

#define MC_YOUNG_FEW 16u /* extents on the list: more than a batch of one document allocates */

struct mc_arena_scope {
    unsigned few_count;
    bool spilled; /* the bits tell, not the list */
    struct mc_young {
        uint64_t offset, granules;
    } few[MC_YOUNG_FEW];
    uint64_t *young;         /* a bit per granule */
    size_t words;            /* of young */
    struct mc_words touched; /* indices of words of young that may be non-zero */
    struct mc_words retired; /* packed extents */
    uint64_t retired_bytes;
};

/* Blocks of up to this many granules are kept by size when they become free, up to a total: a
 * loader that changes a few documents needs the sizes again that it gave up a moment ago. They go
 * back to the allocator when that has no room. (Quick fit: Weinstock and Wulf, 1988.) */
#define MC_QUICK_MOST 48u
#define MC_QUICK_GRANULES (1u << 18) /* 4 MiB */

/* Makes room for `bytes`: reclaims or grows. MC_OK: try again; else why there is none, also in
 * *err. */
typedef enum mc_status (*mc_make_room)(void *context, uint64_t bytes, struct mc_error *err);

#define MC_GROUP_WORDS 4u /* of a group of blocks that one commit gave up */

struct mc_arena {
    const shm_byte *base; /* of the map: only to prefetch lines */
    struct mc_buddy *buddy;
    struct mc_arena_scope scopes[MC_SCOPES];
    enum mc_scope scope;           /* what alloc and release work in */
    struct mc_words queue;         /* packed extents of all groups, oldest first */
    struct mc_words groups;        /* MC_GROUP_WORDS each: generation, time, extents, bytes */
    uint64_t queued;               /* bytes in the queue */
    uint64_t small_at, small_left; /* granules set aside for small blocks, */
    uint64_t bulk_at, bulk_left;   /* and for the entries of a load */
    bool bulk;                     /* see mc_arena_bulk */
    struct mc_words quick[2][MC_QUICK_MOST + 1]; /* free blocks of so many granules, last one first
                                                    out; [1]: those that start on a cache line */
    uint64_t quick_granules;                     /* in all of them */
    struct mc_sites sites;                       /* what is being cleared, if anything */
    mc_make_room make_room;
    void *context;
};

/* An arena of `bytes` at `base`, all free, which may grow to `max_bytes`. MC_NOMEM. */
enum mc_status mc_arena_create(struct mc_arena *arena, const shm_byte *base, uint64_t bytes,
                               uint64_t max_bytes, mc_make_room make_room, void *context);
void mc_arena_destroy(struct mc_arena *arena);

/* Room for `bytes` that no generation refers to, at a multiple of `alignment` (itself a multiple of
 * MC_GRANULE). MC_FULL and whatever make_room said, MC_NOMEM. */
enum mc_status mc_arena_alloc(struct mc_arena *arena, uint64_t bytes, uint64_t alignment,
                              uint64_t *offset, struct mc_error *err);

/* The same for nodes and pages, which a commit needs several of and which the next commits give up
 * again: cut from a stretch that is set aside for them, so that they are adjacent and an allocation
 * is an addition. */
enum mc_status mc_arena_alloc_small(struct mc_arena *arena, uint64_t bytes, uint64_t alignment,
                                    uint64_t *offset, struct mc_error *err);

/* Whether a load is under way that adds one document after the other: then their entries are cut
 * from a larger stretch, one behind the other. */
static inline void mc_arena_bulk(struct mc_arena *arena, bool bulk)
{
    arena->bulk = bulk;
}

/* Begins to clear one more site, behind the others and of MC_SITES at most: nothing is allocated
 * there, and what becomes free there is kept, until the end. MC_NOMEM. */
enum mc_status mc_arena_site_add(struct mc_arena *arena, uint64_t offset, uint64_t bytes);

static inline bool mc_arena_has_sites(const struct mc_arena *arena)
{
    return arena->sites.count > 0;
}

/* Whether a block begins in a site: it is to move. */
static inline bool mc_arena_in_site(struct mc_arena *arena, uint64_t offset)
{
    return mc_sites_find(&arena->sites, offset / MC_GRANULE, 1) != NULL;
}

/* Ends them all, if there are any: what is free there can be allocated. Returns how many bytes that
 * is. */
uint64_t mc_arena_sites_end(struct mc_arena *arena);

/* Gives everything that is kept at hand to the allocator, where it merges. */
void mc_arena_merge(struct mc_arena *arena);

/* Makes a bitmap at least `needed` words long, new ones zero: MC_NOMEM, and it is as it was. */
enum mc_status mc_bits_grow(uint64_t **bits, size_t *words, size_t needed);

/* Bytes that nothing refers to: free in the allocator, set aside, or kept in a site. */
uint64_t mc_arena_free(const struct mc_arena *arena);

/* Makes sure that the next `count` releases cannot fail. MC_NOMEM. */
enum mc_status mc_arena_prepare(struct mc_arena *arena, size_t count);

/* Gives up an extent: frees a young one, retires another. Prepared for, it never fails. */
void mc_arena_release(struct mc_arena *arena, uint64_t offset, uint64_t bytes);

/* True when the block at `offset` was allocated in the current scope: change it in place. */
static inline bool mc_arena_is_young(const struct mc_arena *arena, uint64_t offset)
{
    const struct mc_arena_scope *scope = &arena->scopes[arena->scope];
    uint64_t granule = offset / MC_GRANULE;
    if (!scope->spilled) {
        for (unsigned i = 0; i < scope->few_count; i++) {
            if (scope->few[i].offset == granule) {
                return true;
            }
        }
        return false;
    }
    return granule / 64 < scope->words && (scope->young[granule / 64] >> (granule % 64) & 1) != 0;
}

/* The inner scope: keep what was done in it, or take it back.
 * Keeping needs room for lists: MC_NOMEM. */
enum mc_status mc_arena_replace_end(struct mc_arena *arena);
void mc_arena_replace_cancel(struct mc_arena *arena);

/* The batch: mc_arena_commit moves what it retired to the queue as the group of `generation`,
 * retired at `time_ns`; prepare_commit makes sure that it cannot fail (MC_NOMEM). Abort takes the
 * batch back. */
enum mc_status mc_arena_prepare_commit(struct mc_arena *arena);
void mc_arena_commit(struct mc_arena *arena, uint64_t generation, int64_t time_ns);
void mc_arena_abort(struct mc_arena *arena);

/* Bytes that are neither free nor referred to by what the batch would publish now. */
uint64_t mc_arena_retired(const struct mc_arena *arena);

/* The generation of the newest group retired at or before `time_ns`; 0: none. */
uint64_t mc_arena_expired(const struct mc_arena *arena, int64_t time_ns);

/* Bytes of the groups retired after `time_ns`. */
uint64_t mc_arena_held(const struct mc_arena *arena, int64_t time_ns);

/* The generation of the oldest group; UINT64_MAX: there is none. */
static inline uint64_t mc_arena_oldest(const struct mc_arena *arena)
{
    return arena->groups.count > 0 ? arena->groups.items[arena->groups.head] : UINT64_MAX;
}

/* The newest generation such that the groups behind it hold about `keep` bytes; 0: none. */
uint64_t mc_arena_older(const struct mc_arena *arena, uint64_t keep);

/* Frees queued extents of groups up to `generation`, oldest first, about `most` of them; the writer
 * has announced it. What a small batch gave up is prefetched: the next one writes there. Returns
 * the bytes freed. */
uint64_t mc_arena_reclaim(struct mc_arena *arena, uint64_t generation, size_t most);

#endif
