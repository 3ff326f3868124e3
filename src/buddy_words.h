/* buddy_words.h - runs of ones in a word: the arithmetic under the buddy allocator.
 *
 * Bit 0 is the first unit. Invariants of every function here: no memory is touched, nothing loops
 * more than six times, no shift is by 64.
 */
#ifndef MMAPCACHE_BUDDY_WORDS_H
#define MMAPCACHE_BUDDY_WORDS_H

#include <assert.h>
#include <stdint.h>

#define FULL_WORD UINT64_MAX

static inline unsigned lowest(uint64_t word)
{
    assert(word != 0);
    return (unsigned)__builtin_ctzll(word);
}

static inline unsigned highest(uint64_t word)
{
    assert(word != 0);
    return 63 - (unsigned)__builtin_clzll(word);
}

/* Ones at from .. to - 1. */
static inline uint64_t span(uint64_t from, uint64_t to)
{
    assert(from < to && to <= 64);
    return FULL_WORD >> (64 - (to - from)) << from;
}

/* Bit i: ones at i .. i + length - 1; length from 1 to 64. No branch depends on the data, here and
 * below: half of them would be mispredicted. */
static inline uint64_t starts_of(uint64_t word, uint64_t length)
{
    assert(length > 0 && length <= 64);
    uint64_t starts = word, rest = length - 1, have = 1;
    for (unsigned r = 0; r < 6; r++) {
        uint64_t wanted = rest >> r & 1;
        /* have is at most 2^r here, so the shift stays below 64. */
        starts &= word >> (have & 63) | (wanted - 1);
        have += wanted << r;
        word &= word >> (1u << r & 63);
    }
    return starts;
}

/* The longest run of ones in a word that has some but not only ones: its length, and the first bit
 * of the lowest such run. */
static inline unsigned longest_run(uint64_t word, unsigned *at)
{
    assert(word != 0 && word != FULL_WORD);
    uint64_t runs[6] = {word};
    for (unsigned r = 0; r < 5; r++) {
        runs[r + 1] = runs[r] & runs[r] >> (1u << r);
    }
    uint64_t starts = FULL_WORD;
    unsigned length = 0;
    for (unsigned r = 6; r-- > 0;) {
        /* length is a sum of larger powers, at most 62 here. */
        uint64_t longer = starts & runs[r] >> length;
        starts = longer != 0 ? longer : starts;
        length += (unsigned)(longer != 0) << r;
    }
    *at = lowest(starts);
    return length;
}

#endif
