/* test_buddy.c - the buddy allocator against naive_buddy.h: exhaustive where small, random where
 * not.
 *
 * 1. every arena of 0 to 200 granules, filled with every size, emptied in several orders
 * 2. every sequence of a few operations around leaf and group borders
 * 3. random operations, growth among them, on arenas up to several levels
 * 4. a rebuild from the live set, by reservations and by marks, gives the same state, word for word
 * 5. limits, and marks that no sound file leads to
 */
#include "naive_buddy.h"

static struct naive naive;

static struct mc_buddy *create(uint64_t granules, uint64_t max_granules)
{
    struct mc_buddy *b;
    CHECK_EQ(mc_buddy_create(granules, max_granules, &b), MC_OK);
    naive_init(&naive, granules);
    return b;
}

/* -- 1 -- */

static void fill_and_empty(uint64_t arena, uint64_t size, unsigned how)
{
    struct mc_buddy *b = create(arena, arena);
    uint64_t count = 0, offset;
    while ((offset = naive_alloc(&naive, b, size)) != NOWHERE) {
        CHECK_EQ(offset, count++ * size);
    }
    CHECK_EQ(count, arena / size);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t which = how == 0 ? i : how == 1 ? count - 1 - i : i * 2 % (count | 1);
        if (how < 2 || which < count) {
            naive_give(&naive, b, which * size, size);
        }
        if (arena < 70) {
            naive_compare(&naive, b);
        }
    }
    if (how == 2 && count % 2 == 0 && count > 0) { /* i * 2 mod an odd number visits all but one */
        for (uint64_t i = 0; i < count; i++) {
            if (naive.used[i * size]) {
                naive_give(&naive, b, i * size, size);
            }
        }
    }
    CHECK_EQ(mc_buddy_free_granules(b), arena);
    CHECK_EQ(mc_buddy_largest(b), arena);
    naive_compare(&naive, b);
    mc_buddy_destroy(b);
}

static void every_small_arena(void)
{
    unsigned arenas = 0;
    for (uint64_t arena = 0; arena <= 200; arena++) {
        struct mc_buddy *b = create(arena, arena);
        naive_compare(&naive, b);
        CHECK_EQ(naive_alloc(&naive, b, arena + 1), NOWHERE);
        mc_buddy_destroy(b);
        uint64_t step = (arena < 80 ? 1u : 7u) * (uint64_t)test_sample;
        for (uint64_t size = 1; size <= arena; size += step, arenas++) {
            fill_and_empty(arena, size, (unsigned)(size % 3));
        }
    }
    printf("  %u pairs of arena and size\n", arenas);
}

/* -- 2 -- */

#define STEPS 4
#define SEQUENCES (14 * 14 * 14 * 14) /* one_operation() can do 14 things, STEPS times */

/* All sequences of choices, by an odometer (after TigerBeetle's exhaustigen); a sample of them is
 * drawn. */
static struct {
    unsigned value[16], bound[16], depth, used;
} choices;

static unsigned choose(unsigned bound)
{
    if (choices.depth == choices.used) {
        CHECK(choices.used < 16);
        choices.value[choices.used++] = test_sample > 1 ? (unsigned)test_below(bound) : 0;
    }
    choices.bound[choices.depth] = bound;
    return choices.value[choices.depth++];
}

static bool next_sequence(unsigned made)
{
    choices.used = choices.depth;
    choices.depth = 0;
    if (test_sample > 1) {
        choices.used = 0;
        return made < (unsigned)test_rounds(SEQUENCES);
    }
    while (choices.used > 0) {
        unsigned last = choices.used - 1;
        if (++choices.value[last] < choices.bound[last]) {
            return true;
        }
        choices.used--;
    }
    return false;
}

/* A run of used granules, counted from the lowest; the last one when there are fewer. */
static bool used_run(unsigned which, uint64_t *from, uint64_t *length)
{
    *length = 0;
    for (uint64_t at = 0; at < naive.granules; at++) {
        if (!naive.used[at] || (at > 0 && naive.used[at - 1])) {
            continue;
        }
        *from = at;
        for (*length = 0; at + *length < naive.granules && naive.used[at + *length];) {
            ++*length;
        }
        if (which-- == 0) {
            break;
        }
    }
    return *length > 0;
}

static void one_operation(struct mc_buddy *b, const uint64_t sizes[4])
{
    uint64_t from, length;
    unsigned what = choose(11);
    if (what < 4) {
        naive_alloc(&naive, b, sizes[what]);
    } else if (what < 8) {
        naive_reserve(&naive, b, naive.granules / 2 - 2 + (uint64_t)(what - 4) * 2, sizes[1]);
    } else if (used_run(choose(2), &from, &length)) {
        /* All of it, its first half, its last granule. */
        if (what == 9) {
            length = (length + 1) / 2;
        }
        if (what == 10) {
            from += length - 1, length = 1;
        }
        naive_give(&naive, b, from, length);
    }
}

static void every_short_sequence(uint64_t arena, uint64_t hole_at, uint64_t hole)
{
    const uint64_t sizes[4] = {1, 3, hole / 2 + 1, hole};
    unsigned sequences = 0;
    choices.used = choices.depth = 0;
    do {
        struct mc_buddy *b = create(arena, arena);
        naive_reserve(&naive, b, 0, hole_at);
        if (hole_at + hole < arena) {
            naive_reserve(&naive, b, hole_at + hole, arena - hole_at - hole);
        }
        for (unsigned step = 0; step < STEPS; step++) {
            one_operation(b, sizes);
        }
        naive_compare(&naive, b);
        mc_buddy_destroy(b);
        sequences++;
    } while (next_sequence(sequences));
    CHECK_EQ(sequences, test_rounds(SEQUENCES));
    printf("  %u sequences, a hole of %d granules at %d of %d\n", sequences, (int)hole,
           (int)hole_at, (int)arena);
}

/* -- 3 -- */

static uint64_t random_size(uint64_t arena)
{
    switch (test_below(6)) {
    case 0:
        return 1 + test_below(arena);
    case 1:
        return 1 + test_below(300);
    case 2:
        return 60 + test_below(10);
    default:
        return 1 + test_below(40);
    }
}

/* Gives back a piece: from a random used granule on, at most `most` granules. */
static void free_piece(struct mc_buddy *b, uint64_t most)
{
    uint64_t at = test_below(naive.granules), end = at;
    while (end < naive.granules && naive.used[end] && end - at < most) {
        end++;
    }
    if (end > at) {
        naive_give(&naive, b, at, end - at);
    }
}

/* What a planner is told: where runs end, and never more room than there is. */
static void plan_compare(struct mc_buddy *b)
{
    static const uint64_t sizes[] = {1, 5, 63, 64, 200};
    uint64_t room[5] = {0}, longest = 0;
    for (uint64_t at = 0, end; at < naive.granules; at = end) {
        bool is_free;
        for (end = at + 1; end < naive.granules && naive.used[end] == naive.used[at];) {
            end++;
        }
        CHECK_EQ(mc_buddy_run(b, at, &is_free), end);
        CHECK_EQ(is_free, !naive.used[at]);
        longest = is_free && end - at > longest ? end - at : longest;
        for (unsigned i = 0; i < 5; i++) {
            room[i] += is_free ? (end - at) / sizes[i] : 0;
        }
    }
    for (unsigned i = 0; i < 5; i++) {
        uint64_t told = mc_buddy_room(b, sizes[i], UINT64_MAX);
        CHECK(told <= room[i]);
        CHECK(told > 0 || longest < 2 * sizes[i]);
        CHECK_EQ(mc_buddy_room(b, sizes[i], 1), told > 0);
        CHECK_EQ(mc_buddy_room(b, sizes[i], told / 2), told / 2);
        CHECK_EQ(mc_buddy_room(b, sizes[i], told), told);
    }
}

static void random_operations(uint64_t arena, uint64_t max_arena, unsigned operations)
{
    struct mc_buddy *b = create(arena, max_arena);
    for (unsigned i = 0; i < operations; i++) {
        unsigned what = (unsigned)test_below(20);
        bool emptying = i / 64 % 3 == 2;
        if (what == 0) {
            uint64_t grown = naive.granules + test_below(1 + max_arena / 16);
            grown = grown > max_arena ? max_arena : grown;
            memset(naive.used + naive.granules, 0, grown - naive.granules);
            naive.granules = grown;
            CHECK_EQ(mc_buddy_grow(b, grown), MC_OK);
        } else if (what < 3) {
            naive_reserve(&naive, b, test_below(naive.granules + 2), test_below(100));
        } else if (what < (emptying ? 8 : 14)) {
            naive_alloc(&naive, b, random_size(naive.granules));
        } else {
            free_piece(b, random_size(naive.granules));
        }
        if (i % 16 == 0) {
            naive_compare(&naive, b);
        }
    }
    naive_compare(&naive, b);
    plan_compare(b);
    mc_buddy_destroy(b);
}

/* -- 4 -- */

/* Word for word the same structure, whatever the history. */
static void same_state(struct mc_buddy *left, struct mc_buddy *right)
{
    for (unsigned which = 0; which < MC_BUDDY_TEST_ARRAYS; which++) {
        uint64_t left_words, right_words;
        uint64_t *l = mc_buddy_test_words(left, which, &left_words);
        uint64_t *r = mc_buddy_test_words(right, which, &right_words);
        CHECK_EQ(left_words, right_words);
        for (uint64_t i = 0; i < left_words; i++) {
            CHECK_EQ(l[i], r[i]);
        }
    }
}

/* Takes what is used, in pieces, first every other piece, then the rest. */
static struct mc_buddy *take_used(uint64_t piece, bool marks)
{
    struct mc_buddy *b;
    CHECK_EQ(mc_buddy_create(naive.granules, NAIVE_MAX, &b), MC_OK);
    if (marks) {
        mc_buddy_rebuild_begin(b);
    }
    for (unsigned odd = 0; odd < 2; odd++) {
        unsigned count = 0;
        for (uint64_t at = 0, end; at < naive.granules; at = end) {
            for (end = at; end < naive.granules && naive.used[end] && end - at < piece;) {
                end++;
            }
            if (end == at) {
                end++;
            } else if (count++ % 2 == odd) {
                enum mc_status status =
                    marks ? mc_buddy_mark(b, at, end - at) : mc_buddy_reserve(b, at, end - at);
                CHECK_EQ(status, MC_OK);
            }
        }
    }
    if (marks) {
        mc_buddy_rebuild_end(b);
    }
    return b;
}

/* Both ways to take what is used lead to the state that b came to by its own way. */
static void rebuild(struct mc_buddy *b, uint64_t piece)
{
    for (unsigned marks = 0; marks < 2; marks++) {
        struct mc_buddy *again = take_used(piece, marks == 1);
        same_state(b, again);
        CHECK_EQ(mc_buddy_free_granules(again), mc_buddy_free_granules(b));
        mc_buddy_destroy(again);
    }
}

/* Grows from nothing over two changes of the root, with live extents all over. */
static void grow_and_rebuild(void)
{
    struct mc_buddy *b = create(0, NAIVE_MAX);
    while (naive.granules < 300000) {
        uint64_t grown = naive.granules + 1 + test_below(1 + naive.granules / 3);
        memset(naive.used + naive.granules, 0, grown - naive.granules);
        naive.granules = grown;
        CHECK_EQ(mc_buddy_grow(b, grown), MC_OK);
        CHECK(mc_buddy_is_free(b, grown - 1, 1));
        for (unsigned i = 0; i < 60; i++) {
            uint64_t offset, size = random_size(100 + grown / 50);
            if (mc_buddy_alloc(b, size, &offset) == MC_OK) {
                CHECK(naive_is_free(&naive, offset, size));
                memset(naive.used + offset, 1, size);
            }
            free_piece(b, random_size(grown));
        }
        rebuild(b, 1 + test_below(5000));
    }
    naive_compare(&naive, b);
    for (uint64_t at = 0, length; at < naive.granules; at += length) {
        for (length = 0; naive.used[at + length] && length < 100 && at + length < naive.granules;) {
            length++;
        }
        if (length > 0) {
            naive_give(&naive, b, at, length);
        } else {
            length = 1;
        }
    }
    rebuild(b, 1);
    CHECK_EQ(mc_buddy_largest(b), naive.granules);
    mc_buddy_destroy(b);
}

/* -- 5 -- */

static void limits(void)
{
    struct mc_buddy *b = NULL;
    uint64_t offset = 7;
    CHECK_EQ(mc_buddy_create(11, 10, &b), MC_LIMIT);
    CHECK_EQ(mc_buddy_create(0, MC_BUDDY_MAX_GRANULES + 1, &b), MC_LIMIT);
    CHECK(b == NULL);
    mc_buddy_destroy(NULL);
    b = create(1000, MC_BUDDY_MAX_GRANULES);
    CHECK_EQ(mc_buddy_grow(b, 999), MC_LIMIT);
    CHECK_EQ(mc_buddy_grow(b, MC_BUDDY_MAX_GRANULES + 1), MC_LIMIT);
    CHECK_EQ(mc_buddy_grow(b, 1000), MC_OK);
    CHECK_EQ(mc_buddy_alloc(b, 1001, &offset), MC_FULL);
    CHECK_EQ(mc_buddy_alloc(b, UINT64_MAX, &offset), MC_FULL);
    CHECK_EQ(offset, 7);
    CHECK_EQ(mc_buddy_reserve(b, 0, 0), MC_CORRUPT);
    CHECK_EQ(mc_buddy_reserve(b, 0, 1001), MC_CORRUPT);
    CHECK_EQ(mc_buddy_reserve(b, 1000, 1), MC_CORRUPT);
    CHECK_EQ(mc_buddy_reserve(b, UINT64_MAX, 1), MC_CORRUPT);
    CHECK_EQ(mc_buddy_reserve(b, 1, UINT64_MAX), MC_CORRUPT);
    CHECK(!mc_buddy_is_free(b, UINT64_MAX, 2));
    naive_compare(&naive, b);
    CHECK_EQ(mc_buddy_alloc(b, 1000, &offset), MC_OK);
    CHECK_EQ(mc_buddy_largest(b), 0);
    CHECK_EQ(mc_buddy_alloc(b, 1, &offset), MC_FULL);
    mc_buddy_destroy(b);
}

/* Two adjacent free blocks that are no buddies serve a request that neither holds. */
/* What a damaged file may refer to. */
static void wrong_marks(void)
{
    struct mc_buddy *b = create(1000, 1000);
    mc_buddy_rebuild_begin(b);
    CHECK_EQ(mc_buddy_mark(b, 0, 0), MC_CORRUPT);
    CHECK_EQ(mc_buddy_mark(b, 0, 1001), MC_CORRUPT);
    CHECK_EQ(mc_buddy_mark(b, 1, 1000), MC_CORRUPT);
    CHECK_EQ(mc_buddy_mark(b, 1000, 1), MC_CORRUPT);
    CHECK_EQ(mc_buddy_mark(b, UINT64_MAX, 1), MC_CORRUPT);
    mc_buddy_mark_ahead(b, 999);
    mc_buddy_mark_ahead(b, UINT64_MAX); /* any is fine */
    CHECK_EQ(mc_buddy_mark(b, 100, 300), MC_OK);
    CHECK_EQ(mc_buddy_mark(b, 400, 1), MC_OK);
    CHECK_EQ(mc_buddy_mark(b, 99, 1), MC_OK);
    mc_buddy_rebuild_end(b);
    CHECK_EQ(mc_buddy_check(b), MC_OK);
    CHECK_EQ(mc_buddy_free_granules(b), 1000 - 302);
    mc_buddy_destroy(b);
    static const uint64_t twice[][2] = {{100, 1},   {399, 1},  {250, 1},  {90, 11},
                                        {399, 200}, {0, 1000}, {128, 64}, {100, 300}};
    for (unsigned i = 0; i < sizeof twice / sizeof twice[0]; i++) {
        b = create(1000, 1000);
        mc_buddy_rebuild_begin(b);
        CHECK_EQ(mc_buddy_mark(b, 100, 300), MC_OK);
        CHECK_EQ(mc_buddy_mark(b, twice[i][0], twice[i][1]), MC_CORRUPT);
        mc_buddy_destroy(b); /* as it is: the rebuild has failed */
    }
}

static void across_blocks(void)
{
    struct mc_buddy *b = create(64, 64);
    naive_reserve(&naive, b, 0, 64);
    naive_give(&naive, b, 8, 8);
    naive_give(&naive, b, 16, 8);
    CHECK_EQ(mc_buddy_free_blocks(b, 3), 2);
    CHECK_EQ(mc_buddy_largest(b), 16);
    CHECK_EQ(naive_alloc(&naive, b, 16), 8);
    mc_buddy_destroy(b);
}

/* Replacements at a high live fraction: the reason for placing in runs (docs/design.md). */
static void replace_until_full(void)
{
    enum { arena = 1 << 17, extents = arena / 21 * 97 / 100 };
    static uint64_t offsets[extents];
    struct mc_buddy *b = create(arena, arena);
    for (unsigned i = 0; i < extents; i++) {
        CHECK_EQ(mc_buddy_alloc(b, 21, &offsets[i]), MC_OK);
    }
    for (unsigned i = 0; i < (unsigned)test_rounds(200000); i++) {
        uint64_t fresh, *old = &offsets[test_below(extents)];
        CHECK_EQ(mc_buddy_alloc(b, 21, &fresh), MC_OK);
        mc_buddy_free(b, *old, 21);
        *old = fresh;
    }
    CHECK_EQ(mc_buddy_check(b), MC_OK);
    mc_buddy_destroy(b);
}

int main(void)
{
    test_begin("test_buddy");
    across_blocks();
    limits();
    wrong_marks();
    every_small_arena();
    every_short_sequence(20, 5, 10);
    every_short_sequence(130, 60, 9);
    every_short_sequence(200, 50, 100);
    for (unsigned i = 0; i < (unsigned)test_rounds(150); i++) {
        random_operations(1 + test_below(700), 1500, 400);
    }
    for (unsigned i = 0; i < (unsigned)test_rounds(10); i++) {
        random_operations(1 + test_below(9000), 12000, 400);
    }
    grow_and_rebuild();
    replace_until_full();
    return 0;
}
