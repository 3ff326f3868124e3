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

/* Bit i: ones at i .. i + length - 1. */
static inline uint64_t starts_of(uint64_t word, uint64_t length)
{
    assert(length > 0 && length <= 64);
    uint64_t have = 1;
    for (; have * 2 <= length; have *= 2)
        word &= word >> have;
    return have < length ? word & word >> (length - have) : word;
}

/* The length of the longest run of ones. */
static inline unsigned longest_run(uint64_t word)
{
    uint64_t runs[6]; /* runs[r], bit i: ones at i .. i + 2^r - 1 */
    unsigned r = 0;
    assert(word != 0 && word != FULL_WORD);
    runs[0] = word;
    while (r + 1 < 6 && (runs[r] & runs[r] >> (1u << r)) != 0) {
        runs[r + 1] = runs[r] & runs[r] >> (1u << r);
        r++;
    }
    unsigned length = 1u << r;
    for (word = runs[r]; r-- > 0;) {
        uint64_t longer = word & runs[r] >> length;
        if (longer != 0) {
            word = longer;
            length += 1u << r;
        }
    }
    return length;
}

#endif
