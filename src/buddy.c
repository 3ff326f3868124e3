/* buddy.c - the buddy allocator as a 64-ary tree of bit words.
 *
 * The idea. A buddy allocator's free blocks follow from the set of free granules alone: an aligned run of
 * 2^k free granules whose buddy is not free is a block of order k. So a leaf word with one bit per granule
 * holds the orders 0..5 at once: merging is OR, splitting and handing back the tail is AND NOT, and which
 * orders a word has blocks of is a dozen shifts. A word that becomes all ones is one free unit of the
 * level above: it is zeroed and its bit in the parent's word is set, so that orders 6..11 work the same way
 * one level up, and so on.
 *
 *     level 2   node: bits 0..63 + has[0..11]                          bit = 4096 granules
 *                 |
 *     level 1   node: bits 0..63 + has[0..5]      node: ...            bit = 64 granules
 *                 |                    |
 *     level 0   word  word  ...  word                                  bit = 1 granule
 *               1111 0011 0000 ...   <- 4-block at 0, 2-block at 6 (drawn with the lowest granule left)
 *
 * Searching. A node of level L keeps, for each order k below its own orders, has[k]: bit i says that child i
 * has a free block of order k somewhere below. `nonempty`, one bit per order, stands above the root. So "the
 * smallest order that fits and has a block" is one instruction, and its lowest block is one
 * count-trailing-zeros per level. A small allocation or free touches one leaf word and one level-1 node.
 *
 * Cost in memory, per granule of 32 bytes: 1 bit of leaf, 8 words per 4096 granules at level 1, less above:
 * 0.45 % of the arena.
 *
 * Invariants (mc_buddy_check verifies all of them)
 *   1. A bit is set iff its whole unit is free and the unit's word is not wholly free (else: the parent's bit).
 *      Hence no word is all ones and no two free buddies are unmerged.
 *   2. Below a set bit everything is zero. Bits of units that are not wholly inside the arena are zero.
 *   3. has[k] bit i  <=>  child i has a block of order k in its word or in its has[k].  nonempty likewise.
 *   4. free_granules is the sum of all set bits times their units.
 *   5. The root is the lowest level of which one node covers more than the arena; so it is never all ones.
 */
#include "buddy.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mutant.h"

#define LEVELS 6u   /* 64^6 granules > MC_BUDDY_MAX_GRANULES */
#define RADIX 6u    /* log2 of a node's fan-out, and orders per level */
#define FULL_WORD UINT64_MAX

/* MC_DEBUG verifies the whole state after every operation on arenas up to this size, and on larger ones
 * after every (granules / this)-th, so that a test's time stays linear in its operations. */
#define CHECK_EVERY_GRANULES 65536u

struct level {
    uint64_t *words;   /* `nodes` nodes of node_words() words */
    uint64_t nodes;    /* in use */
    uint64_t capacity; /* nodes that `words` has room for */
};

struct mc_buddy {
    uint64_t nonempty; /* bit k: there is a free block of order k */
    uint64_t free_granules;
    uint64_t granules;
    uint64_t max_granules;
    uint64_t operations; /* counts only to space the checks of MC_DEBUG */
    unsigned root;       /* the topmost level in use: one node */
    struct level level[LEVELS];
};

#ifdef MC_TEST
void *(*mc_buddy_test_realloc)(void *old, size_t bytes) = realloc;
#define MC_REALLOC mc_buddy_test_realloc
#else
#define MC_REALLOC realloc
#endif

/* A node is has[0 .. 6 * level - 1], then its own bits, padded to a multiple of a cache line. */
static inline uint64_t node_words(unsigned level)
{
    return level == 0 ? 1 : 8 * (uint64_t)level;
}

static inline uint64_t *node_bits(const struct mc_buddy *b, unsigned level, uint64_t node)
{
    return &b->level[level].words[node * node_words(level) + RADIX * level];
}

static inline uint64_t *node_has(const struct mc_buddy *b, unsigned level, uint64_t node, unsigned order)
{
    assert(level > 0 && order < RADIX * level && node < b->level[level].nodes);
    return &b->level[level].words[node * node_words(level) + order];
}

static inline unsigned lowest(uint64_t word)
{
    assert(word != 0);
    return (unsigned)__builtin_ctzll(word);
}

/* Ones at from .. to - 1. */
static inline uint64_t span(uint64_t from, uint64_t to)
{
    assert(from < to && to <= 64);
    return FULL_WORD >> (64 - (to - from)) << from;
}

/* Nodes that a level needs for an arena of this many granules; one even for an empty arena, as its root. */
static uint64_t nodes_for(unsigned level, uint64_t granules)
{
    return granules == 0 ? 1 : ((granules - 1) >> (RADIX * (level + 1))) + 1;
}

/* Where an aligned run of 2^r ones can start, for r = 0 .. 5. */
static const uint64_t aligned[RADIX] = {
    UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0x5555555555555555), UINT64_C(0x1111111111111111),
    UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001), UINT64_C(0x0000000100000001),
};

/* The starts of the word's blocks of 2^r bits: aligned runs that are no half of a longer aligned run. */
static inline uint64_t blocks(uint64_t word, unsigned r)
{
    assert(r < RADIX && word != FULL_WORD);
    for (unsigned i = 0; i < r; i++)
        word &= word >> (1u << i) & aligned[i + 1];
    if (r == RADIX - 1)
        return word;
    uint64_t longer = word & word >> (1u << r) & aligned[r + 1];
    return word & ~(longer | longer << (1u << r));
}

/* Bit r: the word has a block of 2^r bits. */
static inline unsigned orders_in(uint64_t word)
{
    unsigned set = 0;
    assert(word != FULL_WORD);
#pragma GCC unroll 5
    for (unsigned r = 0; r < RADIX - 1; r++) {
        uint64_t longer = word & word >> (1u << r) & aligned[r + 1];
        set |= (unsigned)((longer | longer << (1u << r)) != word) << r;
        word = longer;
    }
    return set | (unsigned)(word != 0) << (RADIX - 1);
}

/* Child `node` of level `level` now has, or no longer has, blocks of this order: tell the levels above. */
static inline void announce(struct mc_buddy *b, unsigned level, uint64_t node, unsigned order, bool has)
{
    assert(level <= b->root && order <= MC_BUDDY_MAX_ORDER);
    while (level < b->root) {
        uint64_t bit = UINT64_C(1) << (node % 64);
        level++;
        node /= 64;
        uint64_t *summary = node_has(b, level, node, order);
        uint64_t before = *summary;
        assert(((before & bit) != 0) != has);
        *summary = before ^ bit;
        /* Only a summary that became or was empty changes what its parent should say. */
        if ((has ? before : *summary) != 0)
            return;
    }
    b->nonempty ^= UINT64_C(1) << order;
}

/* Replaces a node's bits and keeps the summaries above true. */
static inline void put_bits(struct mc_buddy *b, unsigned level, uint64_t node, uint64_t bits)
{
    uint64_t *word = node_bits(b, level, node);
    assert(node < b->level[level].nodes && bits != FULL_WORD);
    unsigned before = orders_in(*word), after = orders_in(bits);
    *word = bits;
    for (unsigned changed = before ^ after; changed != 0; changed &= changed - 1) {
        unsigned r = lowest(changed);
        announce(b, level, node, RADIX * level + r, after >> r & 1);
    }
}

/* Sets bits; true when that made the word whole, so that its one bit in the parent stands for it. */
static inline bool fill_bits(struct mc_buddy *b, unsigned level, uint64_t node, uint64_t bits)
{
    uint64_t word = *node_bits(b, level, node);
    assert((word & bits) == 0);
    word |= bits;
    bool whole = word == FULL_WORD;
    put_bits(b, level, node, whole ? 0 : word);
    return whole;
}

/* Makes [from, to) free and merges: at each level the ragged ends go into their words, whole words and those
 * that became whole go up. At most two words per level. */
static inline void give(struct mc_buddy *b, uint64_t from, uint64_t to)
{
    assert(from < to && to <= b->granules);
    for (unsigned level = 0; from < to; level++) {
        uint64_t first = from / 64, last = to / 64;
        assert(level <= b->root);
        if (first == last) {
            last += fill_bits(b, level, first, span(from % 64, to % 64));
        } else {
            if (from % 64 != 0)
                first += !fill_bits(b, level, first, span(from % 64, 64));
            if (to % 64 != 0)
                last += fill_bits(b, level, last, span(0, to % 64));
        }
        from = first;
        to = last;
    }
}

static inline void after_operation(struct mc_buddy *b)
{
#ifdef MC_DEBUG
    if (b->operations++ % (b->granules / CHECK_EVERY_GRANULES + 1) == 0 && mc_buddy_check(b) != MC_OK)
        abort();
#else
    (void)b;
#endif
}

enum mc_status mc_buddy_alloc(struct mc_buddy *b, uint64_t granules, uint64_t *offset)
{
    assert(granules > 0 && offset != NULL);
    if (granules > b->free_granules)
        return MC_FULL;
    unsigned want = granules == 1 ? 0 : 64 - (unsigned)__builtin_clzll(granules - 1);
    uint64_t fitting = b->nonempty >> want << want;
    if (fitting == 0)
        return MC_FULL;
    unsigned order = lowest(fitting), level = order / RADIX, unit = RADIX * level;

    uint64_t node = 0;
    for (unsigned above = b->root; above > level; above--)
        node = node * 64 + lowest(*node_has(b, above, node, order));
    uint64_t word = *node_bits(b, level, node);
    uint64_t at = lowest(blocks(word, order % RADIX));
    uint64_t start = (node * 64 + at) << unit;

    /* Take as few units as hold the request: the block's tail stays free by staying set. */
    uint64_t units = ((granules - 1) >> unit) + 1;
    uint64_t end = start + (units << unit);
    put_bits(b, level, node, word & ~span(at, at + units));
    if (start + granules < end)
        give(b, start + granules, end);
    b->free_granules -= granules;
    *offset = start;
    after_operation(b);
    return MC_OK;
}

void mc_buddy_free(struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    assert(granules > 0 && granules <= b->granules && offset <= b->granules - granules);
    give(b, offset, offset + granules);
    b->free_granules += granules;
    assert(b->free_granules <= b->granules);
    after_operation(b);
}

/* The level at which this granule is free: its own bit, or the bit of a unit around it. root + 1: it is not. */
static unsigned free_level(const struct mc_buddy *b, uint64_t granule)
{
    unsigned level = 0;
    assert(granule < b->granules);
    while (level <= b->root && (*node_bits(b, level, granule >> RADIX) >> (granule % 64) & 1) == 0) {
        granule >>= RADIX;
        level++;
    }
    return level;
}

/* The run of set bits that starts with the free granule `from`: up to the end of its word, cut where `to` is
 * reached. *level and *unit (an index at that level) say where it starts; returns its length in units. */
static uint64_t free_run(const struct mc_buddy *b, uint64_t from, uint64_t to, unsigned level, uint64_t *unit)
{
    assert(from < to && level <= b->root);
    unsigned shift = RADIX * level;
    *unit = from >> shift;
    uint64_t wanted = ((to - 1) >> shift) - *unit + 1;
    uint64_t rest = ~*node_bits(b, level, *unit / 64) >> (*unit % 64);
    uint64_t run = rest == 0 ? 64 - *unit % 64 : lowest(rest);
    assert(run > 0);
    return run < wanted ? run : wanted;
}

bool mc_buddy_is_free(const struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    assert(granules > 0);
    if (granules > b->granules || offset > b->granules - granules)
        return false;
    for (uint64_t to = offset + granules; offset < to;) {
        unsigned level = free_level(b, offset);
        if (level > b->root)
            return false;
        uint64_t unit, run = free_run(b, offset, to, level, &unit);
        offset = (unit + run) << (RADIX * level);
    }
    return true;
}

enum mc_status mc_buddy_reserve(struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    if (granules == 0 || !mc_buddy_is_free(b, offset, granules))
        return MC_CORRUPT;
    b->free_granules -= granules;
    for (uint64_t to = offset + granules; offset < to;) {
        unsigned level = free_level(b, offset);
        uint64_t unit, run = free_run(b, offset, to, level, &unit);
        uint64_t start = unit << (RADIX * level), end = (unit + run) << (RADIX * level);
        uint64_t taken = span(unit % 64, unit % 64 + run);
        put_bits(b, level, unit / 64, *node_bits(b, level, unit / 64) & ~taken);
        if (start < offset)
            give(b, start, offset);
        if (to < end)
            give(b, to, end);
        offset = end;
    }
    after_operation(b);
    return MC_OK;
}

/* Room for this many nodes. Grows by half so that a growing arena seldom reallocates; the C library moves large
 * blocks by remapping, not by copying. */
static enum mc_status make_room(struct level *level, unsigned index, uint64_t nodes)
{
    if (nodes <= level->capacity)
        return MC_OK;
    uint64_t capacity = level->capacity + level->capacity / 2;
    if (capacity < nodes)
        capacity = nodes;
    uint64_t *words = MC_REALLOC(level->words, capacity * node_words(index) * sizeof *words);
    if (words == NULL)
        return MC_NOMEM;
    level->words = words;
    level->capacity = capacity;
    assert(level->nodes < level->capacity);
    return MC_OK;
}

/* Makes the next level the root: its one node summarises the old root. */
static void raise_root(struct mc_buddy *b)
{
    assert(b->root + 1 < LEVELS);
    b->root++;
    for (unsigned order = 0; order < RADIX * b->root; order++)
        *node_has(b, b->root, 0, order) = b->nonempty >> order & 1;
}

enum mc_status mc_buddy_grow(struct mc_buddy *b, uint64_t granules)
{
    if (granules < b->granules || granules > b->max_granules)
        return MC_LIMIT;
    unsigned root = b->root;
    while (granules >> (RADIX * (root + 1)) != 0)
        root++;
    assert(root < LEVELS);
    for (unsigned level = 0; level <= root; level++) {
        enum mc_status status = make_room(&b->level[level], level, nodes_for(level, granules));
        if (status != MC_OK)
            return status;
    }
    for (unsigned level = 0; level <= root; level++) {
        struct level *l = &b->level[level];
        uint64_t nodes = nodes_for(level, granules), words = node_words(level);
        memset(l->words + l->nodes * words, 0, (nodes - l->nodes) * words * sizeof *l->words);
        l->nodes = nodes;
    }
    while (b->root < root)
        raise_root(b);
    uint64_t before = b->granules;
    b->granules = granules;
    b->free_granules += granules - before;
    if (before < granules)
        give(b, before, granules);
    after_operation(b);
    return MC_OK;
}

enum mc_status mc_buddy_create(uint64_t granules, uint64_t max_granules, struct mc_buddy **out)
{
    assert(out != NULL);
    if (granules > max_granules || max_granules > MC_BUDDY_MAX_GRANULES)
        return MC_LIMIT;
    struct mc_buddy *b = MC_REALLOC(NULL, sizeof *b);
    if (b == NULL)
        return MC_NOMEM;
    *b = (struct mc_buddy){.max_granules = max_granules};
    enum mc_status status = mc_buddy_grow(b, granules);
    if (status != MC_OK) {
        mc_buddy_destroy(b);
        return status;
    }
    *out = b;
    return MC_OK;
}

void mc_buddy_destroy(struct mc_buddy *b)
{
    if (b == NULL)
        return;
    for (unsigned level = 0; level < LEVELS; level++)
        free(b->level[level].words);
    free(b);
}

uint64_t mc_buddy_granules(const struct mc_buddy *b)
{
    return b->granules;
}

uint64_t mc_buddy_free_granules(const struct mc_buddy *b)
{
    return b->free_granules;
}

uint64_t mc_buddy_largest(const struct mc_buddy *b)
{
    return b->nonempty == 0 ? 0 : UINT64_C(1) << (63 - __builtin_clzll(b->nonempty));
}

uint64_t mc_buddy_free_blocks(const struct mc_buddy *b, unsigned order)
{
    unsigned level = order / RADIX;
    uint64_t count = 0;
    if (level > b->root)
        return 0;
    for (uint64_t node = 0; node < b->level[level].nodes; node++)
        count += (uint64_t)__builtin_popcountll(blocks(*node_bits(b, level, node), order % RADIX));
    return count;
}

uint64_t mc_buddy_state_bytes(const struct mc_buddy *b)
{
    uint64_t bytes = sizeof *b;
    for (unsigned level = 0; level < LEVELS; level++)
        bytes += b->level[level].capacity * node_words(level) * sizeof(uint64_t);
    return bytes;
}

/* Which orders the node has blocks of, in its own bits or below: what its parent has to say about it. */
static uint64_t node_orders(const struct mc_buddy *b, unsigned level, uint64_t node)
{
    uint64_t set = (uint64_t)orders_in(*node_bits(b, level, node)) << (RADIX * level);
    for (unsigned order = 0; order < RADIX * level; order++)
        set |= (uint64_t)(*node_has(b, level, node, order) != 0) << order;
    return set;
}

/* One node of a level above the leaves against its children and its padding. */
static bool children_agree(const struct mc_buddy *b, unsigned level, uint64_t node)
{
    uint64_t bits = *node_bits(b, level, node), has[RADIX * LEVELS] = {0};
    for (unsigned i = 0; i < 64; i++) {
        uint64_t child = node * 64 + i;
        if (child >= b->level[level - 1].nodes)
            break;
        if (*node_bits(b, level - 1, child) == FULL_WORD)
            return false;
        uint64_t orders = node_orders(b, level - 1, child);
        if ((bits >> i & 1) != 0 && orders != 0)
            return false;
        for (; orders != 0; orders &= orders - 1)
            has[lowest(orders)] |= UINT64_C(1) << i;
    }
    for (unsigned order = 0; order < RADIX * level; order++)
        if (has[order] != *node_has(b, level, node, order))
            return false;
    for (unsigned pad = RADIX * level + 1; pad < node_words(level); pad++)
        if (b->level[level].words[node * node_words(level) + pad] != 0)
            return false;
    return true;
}

enum mc_status mc_buddy_check(const struct mc_buddy *b)
{
    uint64_t sum = 0;
    if (b->root >= LEVELS || b->granules > b->max_granules)
        return MC_CORRUPT;
    for (unsigned level = 0; level <= b->root; level++) {
        uint64_t units = b->granules >> (RADIX * level);
        for (uint64_t node = 0; node < b->level[level].nodes; node++) {
            uint64_t bits = *node_bits(b, level, node);
            uint64_t inside = units - node * 64; /* of the last node only a part may be in the arena */
            if (inside < 64 && bits >> inside != 0)
                return MC_CORRUPT;
            if (level > 0 && !children_agree(b, level, node))
                return MC_CORRUPT;
            sum += (uint64_t)__builtin_popcountll(bits) << (RADIX * level);
        }
    }
    if (*node_bits(b, b->root, 0) == FULL_WORD || node_orders(b, b->root, 0) != b->nonempty)
        return MC_CORRUPT;
    return sum == b->free_granules ? MC_OK : MC_CORRUPT;
}

#ifdef MC_TEST
uint64_t *mc_buddy_test_words(struct mc_buddy *b, unsigned level, uint64_t *words)
{
    *words = level <= b->root ? b->level[level].nodes * node_words(level) : 0;
    return b->level[level].words;
}

uint64_t *mc_buddy_test_counters(struct mc_buddy *b, unsigned which)
{
    return which == 0 ? &b->nonempty : &b->free_granules;
}
#endif
