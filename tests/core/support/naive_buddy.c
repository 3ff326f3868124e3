/* naive_buddy.c - see naive_buddy.h. */
#include "naive_buddy.h"

void naive_init(struct naive *n, uint64_t granules)
{
    CHECK(granules <= NAIVE_MAX);
    n->granules = granules;
    memset(n->used, 0, granules);
}

/* The length of the run of free granules that begins with `from`. */
static uint64_t naive_run(const struct naive *n, uint64_t from)
{
    const uint8_t *end = from < n->granules ? memchr(n->used + from, 1, n->granules - from) : NULL;
    return end != NULL ? (uint64_t)(end - n->used) - from : n->granules - from;
}

static uint64_t naive_free(const struct naive *n)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < n->granules; i++) {
        count += !n->used[i];
    }
    return count;
}

bool naive_is_free(const struct naive *n, uint64_t offset, uint64_t granules)
{
    return offset < n->granules && granules <= n->granules - offset &&
           memchr(n->used + offset, 1, granules) == NULL;
}

uint64_t naive_class(uint64_t length)
{
    uint64_t octave = 64;
    if (length < 64) {
        return length;
    }
    while (octave * 2 <= length) {
        octave *= 2;
    }
    return octave + (length - octave) / (octave / 4) * (octave / 4);
}

/* The first of the longest runs that start in the leaf; one that leaves the leaf wins a tie. */
static uint64_t naive_longest(const struct naive *n, uint64_t leaf, uint64_t *start)
{
    uint64_t longest = 0, from = leaf * 64;
    for (uint64_t at = from; at < from + 64 && at < n->granules; at++) {
        uint64_t run = at == 0 || n->used[at - 1] ? naive_run(n, at) : 0;
        bool leaves = at + run >= from + 64;
        if (run > longest || (run == longest && leaves && run > 0)) {
            longest = run;
            *start = at;
        }
    }
    return longest;
}

/* The lowest leaf of the smallest class that is at least `size_class`; returns that class, or
 * NOWHERE. */
static uint64_t naive_leaf(const struct naive *n, uint64_t size_class, uint64_t *leaf)
{
    uint64_t best = NOWHERE, start;
    for (uint64_t i = 0; i * 64 < n->granules; i++) {
        uint64_t length = naive_longest(n, i, &start), found = naive_class(length);
        if (length > 0 && found >= size_class && found < best) {
            best = found;
            *leaf = i;
        }
    }
    return best;
}

/* Where the allocator must place the request, or NOWHERE. */
static uint64_t naive_place(const struct naive *n, uint64_t granules)
{
    uint64_t leaf, start = NOWHERE, size_class = naive_leaf(n, naive_class(granules), &leaf);
    if (size_class == NOWHERE) {
        return NOWHERE;
    }
    if (granules < 64) {
        for (uint64_t at = leaf * 64; at + granules <= leaf * 64 + 64; at++) {
            if (naive_is_free(n, at, granules) && naive_run(n, leaf * 64) < 64) {
                return at;
            }
        }
    }
    if (naive_longest(n, leaf, &start) >= granules) {
        return start;
    }
    if (naive_leaf(n, size_class + 1, &leaf) == NOWHERE) {
        return NOWHERE;
    }
    (void)naive_longest(n, leaf, &start);
    return start;
}

/* The longest run of the lowest leaf of the largest class. */
static uint64_t naive_largest(const struct naive *n)
{
    uint64_t largest = 0, size_class = 0, start;
    for (uint64_t leaf = 0; leaf * 64 < n->granules; leaf++) {
        uint64_t length = naive_longest(n, leaf, &start);
        if (length > 0 && naive_class(length) > size_class) {
            size_class = naive_class(length);
            largest = length;
        }
    }
    return largest;
}

/* Aligned free runs of 2^order whose buddy is not wholly free. */
static uint64_t naive_blocks(const struct naive *n, unsigned order)
{
    uint64_t size = UINT64_C(1) << order, count = 0;
    for (uint64_t at = 0; at + size <= n->granules; at += size) {
        count += naive_is_free(n, at, size) && !naive_is_free(n, at ^ size, size);
    }
    return count;
}

void naive_compare(const struct naive *n, struct mc_buddy *b)
{
    CHECK_EQ(mc_buddy_check(b), MC_OK);
    CHECK_EQ(mc_buddy_granules(b), n->granules);
    CHECK_EQ(mc_buddy_free_granules(b), naive_free(n));
    CHECK_EQ(mc_buddy_largest(b), naive_largest(n));
    for (unsigned order = 0; order <= MC_BUDDY_MAX_ORDER; order++) {
        if (UINT64_C(1) << order <= 2 * n->granules) {
            CHECK_EQ(mc_buddy_free_blocks(b, order), naive_blocks(n, order));
        } else {
            CHECK_EQ(mc_buddy_free_blocks(b, order), 0);
        }
    }
}

uint64_t naive_alloc(struct naive *n, struct mc_buddy *b, uint64_t granules)
{
    uint64_t expected = naive_place(n, granules), offset = NOWHERE;
    bool fits = granules <= mc_buddy_largest(b);
    CHECK_EQ(mc_buddy_alloc(b, granules, &offset), expected == NOWHERE ? MC_FULL : MC_OK);
    CHECK_EQ(offset, expected);
    CHECK_EQ(fits, expected != NOWHERE);
    if (offset != NOWHERE) {
        CHECK(naive_is_free(n, offset, granules));
        memset(n->used + offset, 1, granules);
    }
    return offset;
}

void naive_give(struct naive *n, struct mc_buddy *b, uint64_t at, uint64_t granules)
{
    for (uint64_t i = at; i < at + granules; i++) {
        CHECK(n->used[i]);
    }
    memset(n->used + at, 0, granules);
    mc_buddy_free(b, at, granules);
}

void naive_reserve(struct naive *n, struct mc_buddy *b, uint64_t at, uint64_t granules)
{
    bool right = granules > 0 && naive_is_free(n, at, granules);
    if (granules > 0) {
        CHECK_EQ(mc_buddy_is_free(b, at, granules), right);
    }
    CHECK_EQ(mc_buddy_reserve(b, at, granules), right ? MC_OK : MC_CORRUPT);
    if (right) {
        memset(n->used + at, 1, granules);
    }
}
