/* naive_buddy.h - what the buddy allocator must do, written the slow way: one byte per granule.
 *
 * Every answer of src/buddy.h is derived here from the bytes alone, the place of each allocation
 * included, so that the tests compare and do not merely plausibilise.
 *
 *     used:   1 1 1 0 0 0 0 1 | 1 0 0 0 ...       leaves of 64 granules
 *                   ^ a run of 4 starts here
 */
#ifndef MMAPCACHE_NAIVE_BUDDY_H
#define MMAPCACHE_NAIVE_BUDDY_H

#include <stdbool.h>
#include <string.h>

#include "buddy.h"
#include "harness.h"

#define NAIVE_MAX 400000u
#define NOWHERE UINT64_MAX

struct naive {
    uint64_t granules;
    uint8_t used[NAIVE_MAX];
};

void naive_init(struct naive *n, uint64_t granules);

bool naive_is_free(const struct naive *n, uint64_t offset, uint64_t granules);

/* The smallest run length of the size class that a run of this length is in: exact below 64, then
 * quarters of octaves. */
uint64_t naive_class(uint64_t length);

/* Everything that can be asked, asked of both. */
void naive_compare(const struct naive *n, struct mc_buddy *b);

/* One allocation in both; the offset, or NOWHERE when neither has room. */
uint64_t naive_alloc(struct naive *n, struct mc_buddy *b, uint64_t granules);

void naive_give(struct naive *n, struct mc_buddy *b, uint64_t at, uint64_t granules);

/* Reserves in both, or refuses in both. */
void naive_reserve(struct naive *n, struct mc_buddy *b, uint64_t at, uint64_t granules);

#endif
