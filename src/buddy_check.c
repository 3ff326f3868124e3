/* buddy_check.c - the buddy allocator looked at from outside: statistics and its invariants.
 *
 * Nothing here changes the state. mc_buddy_check derives every word of it a second way, bottom up,
 * and compares; the invariants are those of buddy.c.
 */
#include <string.h>

#include "buddy_state.h"

/* Where an aligned run of 2^r ones can start, for r = 0 .. 5. */
static const uint64_t aligned[RADIX] = {
    UINT64_C(0xFFFFFFFFFFFFFFFF), UINT64_C(0x5555555555555555), UINT64_C(0x1111111111111111),
    UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001), UINT64_C(0x0000000100000001),
};

/* The starts of the word's blocks of 2^r bits:
 * aligned runs that are no half of a longer aligned run. */
static uint64_t blocks(uint64_t word, unsigned r)
{
    assert(r < RADIX && word != FULL_WORD);
    for (unsigned i = 0; i < r; i++) {
        word &= word >> (1u << i) & aligned[i + 1];
    }
    if (r == RADIX - 1) {
        return word;
    }
    uint64_t longer = word & word >> (1u << r) & aligned[r + 1];
    return word & ~(longer | longer << (1u << r));
}

/* The first node from `node` on, the first of a group, that is not below a free unit of a level
 * above its parent's: all words there are zero. */
static uint64_t skip_free(const struct mc_buddy *b, unsigned level, uint64_t node)
{
    for (unsigned above = level + 2; above <= b->root; above++) {
        unsigned shift = RADIX * (above - level - 1);
        uint64_t unit = node >> shift;
        if ((b->level[above].words[unit / 64] >> (unit % 64) & 1) != 0) {
            return (unit + 1) << shift;
        }
    }
    return node;
}

uint64_t mc_buddy_free_blocks(const struct mc_buddy *b, unsigned order)
{
    unsigned level = order / RADIX;
    uint64_t count = 0;
    if (level > b->root) {
        return 0;
    }
    for (uint64_t node = 0; node < b->level[level].nodes; node++) {
        if (node % 64 == 0) {
            node = skip_free(b, level, node);
        }
        uint64_t word = node < b->level[level].nodes ? b->level[level].words[node] : 0;
        if (word != 0) { /* nearly all are */
            count += (uint64_t)__builtin_popcountll(blocks(word, order % RADIX));
        }
    }
    return count;
}

uint64_t mc_buddy_state_bytes(const struct mc_buddy *b)
{
    uint64_t bytes = sizeof *b + b->class_room * 64;
    for (unsigned level = 0; level < LEVELS; level++) {
        uint64_t words = level < INDEX_LEVEL ? 1 : 1 + CLASSES;
        bytes += b->level[level].capacity * words * sizeof(uint64_t);
    }
    return bytes;
}

/* Level by level: no word is whole, no bit is outside the arena, nothing is below a set bit, and
 * the sum. */
static bool tree_is_right(const struct mc_buddy *b)
{
    uint64_t sum = 0;
    for (unsigned level = 0; level <= b->root; level++) {
        uint64_t units = b->granules >> (RADIX * level);
        for (uint64_t node = 0; node < b->level[level].nodes; node++) {
            uint64_t word = b->level[level].words[node], inside = units - node * 64;
            if (word == FULL_WORD || (inside < 64 && word >> inside != 0)) {
                return false;
            }
            /* A free unit around this node would make its granules free twice. */
            uint64_t unit = node;
            for (unsigned above = level + 1; word != 0 && above <= b->root; above++, unit /= 64) {
                if ((b->level[above].words[unit / 64] >> (unit % 64) & 1) != 0) {
                    return false;
                }
            }
            sum += (uint64_t)__builtin_popcountll(word) << (RADIX * level);
        }
    }
    return sum == b->free_granules;
}

/* What has[] of this node should be, from the class bytes or from the level below. */
static void summarise(const struct mc_buddy *b, unsigned level, uint64_t node,
                      uint64_t has[CLASSES])
{
    uint64_t children = level == INDEX_LEVEL ? b->groups : b->level[level - 1].nodes;
    memset(has, 0, CLASSES * sizeof *has);
    for (uint64_t child = node * 64; child < node * 64 + 64 && child < children; child++) {
        uint64_t bit = UINT64_C(1) << (child % 64);
        if (level == INDEX_LEVEL) {
            for (unsigned i = 0; i < 64; i++) {
                has[b->classes[child * 64 + i]] |= bit;
            }
            has[0] = 0; /* class 0: no run starts there */
        } else {
            for (unsigned size_class = 0; size_class < CLASSES; size_class++) {
                has[size_class] |=
                    b->level[level - 1].has[child * CLASSES + size_class] != 0 ? bit : 0;
            }
        }
    }
}

/* The class bytes against the tree, the summaries against the class bytes. */
static bool index_is_right(const struct mc_buddy *b)
{
    uint64_t has[CLASSES] = {0}, start;
    for (uint64_t leaf = 0; leaf < b->groups * 64; leaf++) {
        uint64_t length = leaf < b->level[0].nodes ? mc_buddy_longest_start(b, leaf, &start) : 0;
        if (b->classes[leaf] != (length == 0 ? 0 : run_class(length))) {
            return false;
        }
    }
    for (unsigned level = INDEX_LEVEL; level <= b->root; level++) {
        for (uint64_t node = 0; node < b->level[level].nodes; node++) {
            summarise(b, level, node, has);
            if (memcmp(has, b->level[level].has + node * CLASSES, sizeof has) != 0) {
                return false;
            }
        }
    }
    for (unsigned size_class = 0; size_class < CLASSES; size_class++) {
        if ((b->nonempty[size_class / 64] >> (size_class % 64) & 1) != (has[size_class] != 0)) {
            return false;
        }
    }
    return true;
}

enum mc_status mc_buddy_check(const struct mc_buddy *b)
{
    return tree_is_right(b) && index_is_right(b) ? MC_OK : MC_CORRUPT;
}

#ifdef MC_TEST
/* Lends one of the arrays: the words of each level, the has[] of each level, nonempty,
 * free_granules, the class bytes. */
uint64_t *mc_buddy_test_words(struct mc_buddy *b, unsigned which, uint64_t *words)
{
    uint64_t *other[] = {b->nonempty, &b->free_granules, (uint64_t *)(void *)b->classes};
    uint64_t counts[] = {MASKS, 1, b->groups * 8};
    _Static_assert(2 * LEVELS + 3 == MC_BUDDY_TEST_ARRAYS, "buddy.h says how many there are");
    if (which >= 2 * LEVELS) {
        *words = counts[which - 2 * LEVELS];
        return other[which - 2 * LEVELS];
    }
    struct level *level = &b->level[which % LEVELS];
    *words = level->nodes * (which < LEVELS ? 1 : CLASSES);
    if (which % LEVELS > b->root || (which >= LEVELS && which % LEVELS < INDEX_LEVEL)) {
        *words = 0;
    }
    return which < LEVELS ? level->words : level->has;
}
#endif
