/* buddy.h - a buddy allocator over offsets: which granules of the arena are free, and nothing else.
 *
 * All offsets and sizes are in granules (MC_GRANULE bytes of format.h); the allocator never sees
 * the arena itself. Its state is private malloc'ed memory of less than 1 % of the arena, is never
 * in the file and is rebuilt at open: create, then mark every live extent. Loader only, one
 * thread at a time. No I/O, no atomics, no recursion; every operation is O(log granules) unless it
 * says otherwise.
 */
#ifndef MMAPCACHE_BUDDY_H
#define MMAPCACHE_BUDDY_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"

/* A block of order k is 2^k granules; 2^36 granules of 16 bytes are 1 TiB. */
#define MC_BUDDY_MAX_ORDER 36u
#define MC_BUDDY_MAX_GRANULES (UINT64_C(1) << MC_BUDDY_MAX_ORDER)

struct mc_buddy;

/* Makes an allocator of `granules` free granules (0 is fine) that may grow to max_granules.
 * MC_LIMIT: granules > max_granules or max_granules > MC_BUDDY_MAX_GRANULES; MC_NOMEM. */
enum mc_status mc_buddy_create(uint64_t granules, uint64_t max_granules, struct mc_buddy **out);

/* Frees the allocator's memory; NULL is fine. */
void mc_buddy_destroy(struct mc_buddy *b);

/* Extends the arena to a new total; what is added is free and merges with what was free at the
 * edge. MC_LIMIT: less than now or more than max_granules; MC_NOMEM. Unchanged on failure. */
enum mc_status mc_buddy_grow(struct mc_buddy *b, uint64_t granules);

/* Best fit: the lowest place in the tightest size class that holds the request, across the border
 * of adjacent free blocks where need be; what the request does not need stays free. granules > 0.
 * MC_FULL exactly when granules > mc_buddy_largest(). */
enum mc_status mc_buddy_alloc(struct mc_buddy *b, uint64_t granules, uint64_t *offset);

/* Gives back allocated granules: an extent as it was allocated or reserved, or any part of it, or
 * several adjacent ones at once. Merges at once. Giving back what is free is a bug (asserted in
 * debug builds). */
void mc_buddy_free(struct mc_buddy *b, uint64_t offset, uint64_t granules);

/* Allocates exactly this extent, granules > 0.
 * MC_CORRUPT: a part is not free or outside the arena; unchanged then. */
enum mc_status mc_buddy_reserve(struct mc_buddy *b, uint64_t offset, uint64_t granules);

/* The rebuild at open, of an arena that is not empty and all free: begin, mark every live extent in
 * any order, end. Then all that was not marked is free. In between nothing else may be asked, but
 * destroy. A mark costs a few bits, where a reservation keeps the whole state true; the end is
 * linear in the arena. MC_CORRUPT: a part is marked already or outside the arena, or there is
 * nothing to mark; the rebuild is of no use then. */
void mc_buddy_rebuild_begin(struct mc_buddy *b);
enum mc_status mc_buddy_mark(struct mc_buddy *b, uint64_t offset, uint64_t granules);
void mc_buddy_mark_ahead(const struct mc_buddy *b, uint64_t offset); /* prefetches for a mark */
void mc_buddy_rebuild_end(struct mc_buddy *b);

/* The arena's size, and how much of it is free. O(1). */
uint64_t mc_buddy_granules(const struct mc_buddy *b);
uint64_t mc_buddy_free_granules(const struct mc_buddy *b);

/* The largest single request that would succeed now; 0 when full.
 * Remembered until the next operation. */
uint64_t mc_buddy_largest(struct mc_buddy *b);

/* How many extents of so many granules there is room for, each in one piece: no more than `most`,
 * and at least; of runs that start within 4,096 granules only one may count. */
uint64_t mc_buddy_room(const struct mc_buddy *b, uint64_t granules, uint64_t most);

/* Free blocks of one order, for statistics. Linear in the arena. */
uint64_t mc_buddy_free_blocks(const struct mc_buddy *b, unsigned order);

/* Whether every granule of the extent is inside the arena and free. */
bool mc_buddy_is_free(const struct mc_buddy *b, uint64_t offset, uint64_t granules);

/* The granules from `offset` on that are alike, free or not: where that ends; the arena's end at
 * the latest. Linear in the granules that are not free, divided by 64. */
uint64_t mc_buddy_run(const struct mc_buddy *b, uint64_t offset, bool *is_free);

/* Bytes of memory that the allocator holds. O(1). */
uint64_t mc_buddy_state_bytes(const struct mc_buddy *b);

/* Verifies every word of the state against every other; MC_CORRUPT when one is wrong. Linear. Runs
 * after every operation in builds with MC_DEBUG (in large arenas after every n-th, see buddy.c). */
enum mc_status mc_buddy_check(const struct mc_buddy *b);

#ifdef MC_TEST
#include <stddef.h>
/* Test hooks: the first leaves the check after each operation out, for tests that open caches by
 * the ten thousand; the second lends the arrays out for damage. */
extern bool mc_buddy_test_unchecked;
#define MC_BUDDY_TEST_ARRAYS 17u
uint64_t *mc_buddy_test_words(struct mc_buddy *b, unsigned which, uint64_t *words);
#endif

#endif
