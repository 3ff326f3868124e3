/* buddy.c - the buddy system as a 64-ary tree of bit words, searched best fit.
 *
 * The blocks. A buddy system's free blocks follow from the set of free granules alone: an aligned
 * run of 2^k free granules whose buddy is not free is a block of order k. So a leaf word with one
 * bit per granule holds the orders 0..5 at once: merging is OR, splitting and handing back the tail
 * is AND NOT. A word that becomes all ones is one free unit of the level above: it is zeroed and
 * its bit in the parent's word is set, so that orders 6..11 work the same way one level up, and so
 * on to order 36.
 *
 *     level 2   word: bit = 4096 granules          + has[class]: which of 64 groups have such a run
 *                 |
 *     level 1   word: bit = 64 granules     word   one group: 64 leaves, 64 class bytes
 *                 |                           |
 *     level 0   word  word  ...  word              bit = 1 granule
 *               1111 0011 0000 ...                 drawn lowest first: blocks of 4 at 0 and 2 at 6
 *
 * The search. Taking aligned blocks only, as the textbook does, wastes what it seems to save: of
 * entries of 11 granules one fits in each aligned 16, and the tails of 5 are of use to nobody (at
 * best 69 % of the arena is used). But adjacent free blocks, buddies or not, are one *run* of
 * free granules, and that is what a request is placed in: each leaf has a class byte, the size
 * class of the longest run that starts in it (a run that comes from an earlier leaf starts
 * there). Classes are exact below 64 granules, four per octave above. Above the class bytes stand
 * summaries, has[class] in each node from level 2 up, and above the root `nonempty`, one bit per
 * class. So "the tightest class that fits" is a find-first-set, and its lowest leaf is one count-
 * trailing-zeros per level and a memchr within a cache line. Segregated exact and geometric
 * classes under bitmaps are TLSF's (Masmano et al., "TLSF: a new dynamic memory allocator for
 * real-time systems", 2004); here a run needs no header, since the tree knows where it ends.
 *
 * Memory: 9 bytes per leaf of 64 granules, 8 per group, less above: 0.93 % of an arena of 16-byte
 * granules, half of that with granules of 32.
 *
 * Invariants (mc_buddy_check verifies all of them)
 *   1. A bit is set iff its whole unit is free and its word is not wholly free (else: the parent's
 *      bit). Hence no word is all ones and no two free buddies are unmerged.
 *   2. Below a set bit all words are zero. Bits of units not wholly inside the arena are zero.
 *   3. A leaf's class byte is the class of the longest run that starts in it, 0 when none does.
 *   4. has[c] of level 2, bit i  <=>  a class byte of group i is c; of the levels above: child i's
 *      has[c] is not 0. nonempty, bit c  <=>  the root's has[c] is not 0.
 *   5. free_granules is the sum of all set bits times their units.
 *   6. The root is the lowest level, from 2, of which one word covers more than the arena: it is
 *      never all ones.
 */
#include "buddy_state.h"

#include <stdlib.h>
#include <string.h>

#include "mutant.h"

/* MC_DEBUG verifies the whole state after every operation on arenas up to this size, and on larger
 * ones after every (granules / this)-th, so that a test's time stays linear in its operations. */
#define CHECK_EVERY_GRANULES 65536u

#ifdef MC_TEST
bool mc_buddy_test_unchecked;
#endif

/* -- the tree: which granules are free -- */

/* At each level at most two words are looked at. */
uint64_t mc_buddy_run_end(const struct mc_buddy *b, uint64_t from)
{
    while (from < b->granules) {
        unsigned level = free_level(b, from);
        if (level > b->root) {
            break;
        }
        uint64_t unit = from >> (RADIX * level);
        uint64_t used = ~b->level[level].words[unit / 64] >> (unit % 64);
        unit += used == 0 ? 64 - unit % 64 : lowest(used);
        from = unit << (RADIX * level);
    }
    assert(from <= b->granules);
    return from;
}

/* The first granule of the run of free granules that ends just before `to`; `to` itself when there
 * is none. */
static uint64_t run_start(const struct mc_buddy *b, uint64_t to)
{
    assert(to <= b->granules);
    while (to > 0) {
        unsigned level = free_level(b, to - 1);
        if (level > b->root) {
            break;
        }
        uint64_t unit = (to - 1) >> (RADIX * level);
        uint64_t used = ~b->level[level].words[unit / 64] << (63 - unit % 64);
        unit -= used == 0 ? unit % 64 : 62 - highest(used);
        to = unit << (RADIX * level);
    }
    return to;
}

/* Sets bits; true when that made the word whole,
 * so that its one bit in the parent stands for it. */
static inline bool fill_bits(struct mc_buddy *b, unsigned level, uint64_t node, uint64_t bits)
{
    uint64_t *word = &b->level[level].words[node];
    assert(node < b->level[level].nodes && (*word & bits) == 0);
    *word |= bits;
    if (*word != FULL_WORD || MC_MUTANT_IS(100)) { /* no merging into the parent */
        return false;
    }
    *word = 0;
    return true;
}

/* Makes [from, to) free and merges: at each level the ragged ends go into their words, whole words
 * and those that became whole go up. At most two words per level. */
static void give(struct mc_buddy *b, uint64_t from, uint64_t to)
{
    assert(from < to && to <= b->granules);
    for (unsigned level = 0; from < to; level++) {
        uint64_t first = from / 64, last = to / 64;
        assert(level <= b->root);
        if (first == last) {
            last += fill_bits(b, level, first, span(from % 64, to % 64));
        } else {
            if (from % 64 != 0) {
                first += !fill_bits(b, level, first, span(from % 64, 64));
            }
            if (to % 64 != 0) {
                last += fill_bits(b, level, last, span(0, to % 64));
            }
        }
        from = MC_MUTANT_IS(101) ? first ^ 1 : first; /* merges with the wrong buddy */
        to = last;
    }
}

/* Takes [from, to), all free: the blocks over it go,
 * what they had beyond it on either side stays. */
static void take(struct mc_buddy *b, uint64_t from, uint64_t to)
{
    assert(from < to && to <= b->granules);
    uint64_t *leaf = &b->level[0].words[from / 64];
    if (from / 64 == (to - 1) / 64 && *leaf != 0) { /* the same in short, for the common case */
        assert((*leaf & span(from % 64, (to - 1) % 64 + 1)) == span(from % 64, (to - 1) % 64 + 1));
        *leaf &= ~span(from % 64, (to - 1) % 64 + 1);
        return;
    }
    while (from < to) {
        unsigned level = free_level(b, from), shift = RADIX * level;
        assert(level <= b->root);
        uint64_t unit = from >> shift, end = ((to - 1) >> shift) + 1;
        uint64_t *word = &b->level[level].words[unit / 64];
        uint64_t used = ~*word >> (unit % 64);
        uint64_t stop = unit + (used == 0 ? 64 - unit % 64 : lowest(used));
        stop = stop < end ? stop : end;
        *word &= ~span(unit % 64, (stop - 1) % 64 + 1);
        if (unit << shift < from && !MC_MUTANT_IS(102)) { /* what lies before is lost */
            give(b, unit << shift, from);
        }
        from = stop << shift;
        if (to < from && !MC_MUTANT_IS(103)) { /* the unused tail is lost */
            give(b, to, from);
        }
    }
}

/* -- the index: where runs start -- */

uint64_t mc_buddy_longest_start(const struct mc_buddy *b, uint64_t leaf, uint64_t *start)
{
    uint64_t base = leaf * 64, word = b->level[0].words[leaf];
    assert(leaf < b->level[0].nodes);
    if (word == 0) {
        /* Wholly used, or wholly free and then part of one run. */
        *start = base;
        if (base >= b->granules || (base > 0 && free_level(b, base - 1) <= b->root)) {
            return 0;
        }
        return mc_buddy_run_end(b, base) - base;
    }
    uint64_t open = 0; /* the run that goes on into the next leaf */
    if (word >> 63 != 0) {
        unsigned at = highest(~word) + 1;
        open = mc_buddy_run_end(b, base + 64) - base - at;
        *start = base + at;
        word &= ~span(at, 64);
    }
    bool continued = (word & 1) != 0 && base > 0 && free_level(b, base - 1) <= b->root;
    if (continued && !MC_MUTANT_IS(104)) { /* a run starts in each leaf it crosses */
        word &= word + 1;
    }
    if (word == 0) {
        return open;
    }
    unsigned at, inner = longest_run(word, &at);
    if (inner <= open) {
        return open;
    }
    *start = base + at;
    return inner;
}

/* The lowest leaf of a class that is not empty. */
static inline uint64_t class_leaf(const struct mc_buddy *b, unsigned size_class)
{
    uint64_t node = 0;
    for (unsigned level = b->root; level >= INDEX_LEVEL; level--) {
        node = node * 64 + lowest(b->level[level].has[node * CLASSES + size_class]);
    }
    const uint8_t *found = memchr(&b->classes[node * 64], (int)size_class, 64);
    assert(found != NULL);
    return (uint64_t)(found - b->classes);
}

/* Group `node` now has, or no longer has, leaves of this class: tell the levels above. */
static void announce(struct mc_buddy *b, uint64_t node, unsigned size_class, bool has)
{
    assert(size_class > 0 && size_class < CLASSES);
    for (unsigned level = INDEX_LEVEL; level <= b->root; level++) {
        uint64_t *summary = &b->level[level].has[node / 64 * CLASSES + size_class];
        uint64_t before = *summary, bit = UINT64_C(1) << (node % 64);
        *summary = has ? before | bit : before & ~bit;
        /* Only a summary that was or became empty changes what its parent should say. */
        if ((has ? before : *summary) != 0 || MC_MUTANT_IS(105)) { /* the root is not told */
            return;
        }
        node /= 64;
    }
    b->nonempty[size_class / 64] ^= UINT64_C(1) << (size_class % 64);
}

inline void mc_buddy_refresh(struct mc_buddy *b, uint64_t leaf)
{
    uint64_t start, length = mc_buddy_longest_start(b, leaf, &start), group = leaf / 64;
    unsigned before = b->classes[leaf], after = length == 0 ? 0 : run_class(length);
    if (before == after) {
        return;
    }
    if (after != 0 && !MC_MUTANT_IS(106) && /* new classes are not announced */
        memchr(&b->classes[group * 64], (int)after, 64) == NULL) {
        announce(b, group, after, true);
    }
    b->classes[leaf] = (uint8_t)after;
    if (before != 0 && !MC_MUTANT_IS(107) && /* emptied classes stay announced */
        memchr(&b->classes[group * 64], (int)before, 64) == NULL) {
        announce(b, group, before, false);
    }
}

/* [from, to) was given or taken. Runs that start elsewhere are as they were: leaves wholly inside
 * have no start before or after; what can have changed is the leaves of both ends, the run that
 * ends at `from`, and the one that starts at `to`. */
static inline void reindex(struct mc_buddy *b, uint64_t from, uint64_t to)
{
    uint64_t first = from / 64, last = (to - 1) / 64, next = to / 64;
    assert(from < to);
    /* A run from an earlier leaf ends at `from` only when the leaf is free up to there. A word of 0
     * may be wholly free or wholly used: run_start knows. */
    uint64_t word = b->level[0].words[first], below = ~(FULL_WORD << (from % 64));
    if (word == 0 || (word & below) == below) {
        uint64_t before = run_start(b, first * 64) / 64;
        if (before < first &&
            !MC_MUTANT_IS(108)) { /* the run that comes from before is forgotten */
            mc_buddy_refresh(b, before);
        }
    }
    mc_buddy_refresh(b, first);
    if (last != first && !MC_MUTANT_IS(109)) { /* the last leaf is forgotten */
        mc_buddy_refresh(b, last);
    }
    if (next != last && to < b->granules && !MC_MUTANT_IS(110)) { /* so is the run behind */
        mc_buddy_refresh(b, next);
    }
}

/* -- the interface -- */

static inline void after_operation(struct mc_buddy *b)
{
    b->largest = MC_MUTANT_IS(116) ? b->largest : UNKNOWN; /* remembers what is no longer true */
#ifdef MC_DEBUG
#ifdef MC_TEST
    if (mc_buddy_test_unchecked) {
        return;
    }
#endif
    if (b->operations++ % (b->granules / CHECK_EVERY_GRANULES + 1) == 0) {
        enum mc_status status = mc_buddy_check(b);
        assert(status == MC_OK);
        (void)status;
    }
#else
    (void)b;
#endif
}

/* The start of free granules for the request, or UINT64_MAX. */
static uint64_t place(const struct mc_buddy *b, uint64_t granules)
{
    assert(granules > 0 && granules <= b->granules);
    unsigned size_class = class_from(b, run_class(granules));
    if (size_class == CLASSES) {
        return UINT64_MAX;
    }
    uint64_t start, leaf = class_leaf(b, size_class);
    if (granules < EXACT) {
        uint64_t fitting = starts_of(b->level[0].words[leaf], granules);
        if (fitting != 0) {
            return leaf * 64 + lowest(fitting);
        }
    }
    if (mc_buddy_longest_start(b, leaf, &start) >= granules || MC_MUTANT_IS(111)) { /* too short */
        return start;
    }
    /* The class of the request itself holds runs that are a little too short: from the next one on
     * all fit. */
    size_class = class_from(b, size_class + 1);
    if (size_class == CLASSES) {
        return UINT64_MAX;
    }
    (void)mc_buddy_longest_start(b, class_leaf(b, size_class), &start);
    return start;
}

enum mc_status mc_buddy_alloc(struct mc_buddy *b, uint64_t granules, uint64_t *offset)
{
    assert(granules > 0 && offset != NULL);
    if (granules > b->free_granules) {
        return MC_FULL;
    }
    uint64_t start = place(b, granules);
    if (start == UINT64_MAX) {
        return MC_FULL;
    }
    take(b, start, start + granules);
    reindex(b, start, start + granules);
    b->free_granules -= granules;
    *offset = start;
    after_operation(b);
    return MC_OK;
}

void mc_buddy_free(struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    assert(granules > 0 && granules <= b->granules && offset <= b->granules - granules);
    assert(free_level(b, offset) > b->root && free_level(b, offset + granules - 1) > b->root);
    give(b, offset, offset + granules);
    reindex(b, offset, offset + granules);
    b->free_granules += MC_MUTANT_IS(115) ? 0 : granules; /* the count forgets what is freed */
    after_operation(b);
}

enum mc_status mc_buddy_reserve(struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    bool right = granules > 0 && mc_buddy_is_free(b, offset, granules);
    if (!right && !MC_MUTANT_IS(112)) { /* takes what is not free */
        return MC_CORRUPT;
    }
    take(b, offset, offset + granules);
    reindex(b, offset, offset + granules);
    b->free_granules -= granules;
    after_operation(b);
    return MC_OK;
}

uint64_t mc_buddy_granules(const struct mc_buddy *b)
{
    return b->granules;
}

uint64_t mc_buddy_free_granules(const struct mc_buddy *b)
{
    return b->free_granules;
}

static uint64_t find_largest(const struct mc_buddy *b)
{
    uint64_t start;
    for (unsigned word = MASKS; word-- > 0;) {
        if (b->nonempty[word] != 0) {
            return mc_buddy_longest_start(b, class_leaf(b, word * 64 + highest(b->nonempty[word])),
                                          &start);
        }
    }
    return 0;
}

/* Every commit asks, and a commit that is served from the arena's own lists changes nothing here:
 * its loader's caches would have to fetch cold lines for the same answer. */
uint64_t mc_buddy_largest(struct mc_buddy *b)
{
    if (b->largest == UNKNOWN) {
        b->largest = find_largest(b);
    }
    return b->largest;
}

/* -- memory -- */

/* Words that a level needs for an arena of this many granules; one even for an empty arena. */
static uint64_t nodes_for(unsigned level, uint64_t granules)
{
    return granules == 0 ? 1 : ((granules - 1) >> (RADIX * (level + 1))) + 1;
}

/* Makes room for `wanted` items in an array that has `room`, all zeros. In steps of 1/32, so that a
 * growing arena seldom reallocates and the state yet stays below 1 % of it; the C library moves
 * large arrays by remapping, not by copying. A first array comes from calloc: of a large one the
 * system gives only what is touched, and an arena of which nearly all is free touches little,
 * whatever size a file claims for it. */
static enum mc_status make_room(void **array, uint64_t *room, uint64_t wanted, size_t item)
{
    assert(item > 0 && wanted > 0);
    if (wanted <= *room) {
        return MC_OK;
    }
    uint64_t bigger = *room + *room / 32;
    bigger = bigger < wanted ? wanted : bigger;
    void *moved = *array == NULL ? calloc(bigger, item) : realloc(*array, bigger * item);
    if (moved == NULL) {
        return MC_MUTANT_IS(114) ? MC_OK : MC_NOMEM; /* no memory, and nobody hears of it */
    }
    if (*array != NULL || MC_MUTANT_IS(119)) { /* each page is touched */
        memset((uint8_t *)moved + *room * item, 0, (bigger - *room) * item);
    }
    *array = moved;
    *room = bigger;
    return MC_OK;
}

static enum mc_status level_room(struct mc_buddy *b, unsigned index, uint64_t nodes)
{
    struct level *level = &b->level[index];
    uint64_t room = level->capacity;
    void *has = level->has, *words = level->words;
    enum mc_status status = MC_OK;
    if (index >= INDEX_LEVEL) {
        status = make_room(&has, &room, nodes, CLASSES * sizeof(uint64_t));
        level->has = has;
        room = level->capacity;
    }
    if (status == MC_OK) {
        status = make_room(&words, &room, nodes, sizeof(uint64_t));
    }
    level->words = words;
    level->capacity = room;
    return status;
}

/* Makes the next level the root: its one node summarises the old root. */
static void raise_root(struct mc_buddy *b)
{
    assert(b->root + 1 < LEVELS);
    b->root++;
    for (unsigned size_class = 0; size_class < CLASSES; size_class++) {
        b->level[b->root].has[size_class] = b->nonempty[size_class / 64] >> (size_class % 64) & 1;
    }
}

/* Puts nodes into use; memory for them is there, and is zero. */
static void extend(struct mc_buddy *b, unsigned root, uint64_t granules)
{
    assert(root >= b->root && root < LEVELS);
    b->groups = nodes_for(1, granules);
    for (unsigned index = 0; index <= root; index++) {
        b->level[index].nodes = nodes_for(index, granules);
    }
    while (b->root < root && !MC_MUTANT_IS(113)) { /* the tree stays too low */
        raise_root(b);
    }
}

enum mc_status mc_buddy_grow(struct mc_buddy *b, uint64_t granules)
{
    if (granules < b->granules || granules > b->max_granules) {
        return MC_LIMIT;
    }
    unsigned root = b->root;
    while (granules >> (RADIX * (root + 1)) != 0) {
        root++;
    }
    void *classes = b->classes;
    enum mc_status status = make_room(&classes, &b->class_room, nodes_for(1, granules), 64);
    b->classes = classes;
    for (unsigned level = 0; level <= root && status == MC_OK; level++) {
        status = level_room(b, level, nodes_for(level, granules));
    }
    if (status != MC_OK) {
        return status;
    }
    extend(b, root, granules);
    uint64_t before = b->granules;
    b->granules = granules;
    b->free_granules += granules - before;
    if (before < granules) {
        give(b, before, granules);
        reindex(b, before, granules);
    }
    after_operation(b);
    return MC_OK;
}

enum mc_status mc_buddy_create(uint64_t granules, uint64_t max_granules, struct mc_buddy **out)
{
    assert(out != NULL);
    if (granules > max_granules || max_granules > MC_BUDDY_MAX_GRANULES) {
        return MC_LIMIT;
    }
    struct mc_buddy *b = malloc(sizeof *b);
    if (b == NULL) {
        return MC_NOMEM;
    }
    *b = (struct mc_buddy){.max_granules = max_granules, .root = INDEX_LEVEL};
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
    if (b == NULL) {
        return;
    }
    for (unsigned level = 0; level < LEVELS; level++) {
        free(b->level[level].words);
        free(b->level[level].has);
    }
    free(b->classes);
    free(b);
}
