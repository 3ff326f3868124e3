/* harness.h - what every core test shares: checks that print both values, and a seeded generator.
 *
 * A failed check (checks.h) prints the place, the values and the seed, so that `SEED=n ./test_x`
 * repeats the run exactly. `SAMPLE=n ./test_x` makes one in n of the rounds of its long loops, for
 * where an instruction costs twenty times as much.
 */
#ifndef MMAPCACHE_TEST_HARNESS_H
#define MMAPCACHE_TEST_HARNESS_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "checks.h"

static uint64_t test_state;
static int test_sample = 1;

#define CHECK_EQ(left, right)                                                                      \
    do {                                                                                           \
        uint64_t check_left = (uint64_t)(left), check_right = (uint64_t)(right);                   \
        if (check_left != check_right) {                                                           \
            fprintf(stderr, "%s:%d: %s = %" PRIu64 ", %s = %" PRIu64 ", SEED=%" PRIu64 "\n",       \
                    __FILE__, __LINE__, #left, check_left, #right, check_right, test_seed);        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Takes the seed from SEED= or the clock and prints it, and SAMPLE=. Call first in main. */
static inline void test_begin(const char *name)
{
    const char *given = getenv("SEED"), *sample = getenv("SAMPLE");
    test_seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    test_state = test_seed;
    test_sample = sample != NULL ? (int)strtol(sample, NULL, 10) : 1;
    CHECK(test_sample > 0);
    printf("%s: SEED=%" PRIu64 "\n", name, test_seed);
    fflush(stdout);
}

/* How many of a long loop's rounds are made: all, or one in SAMPLE; one at least. */
static inline int test_rounds(int rounds)
{
    return (rounds + test_sample - 1) / test_sample;
}

/* splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
static inline uint64_t test_random(void)
{
    uint64_t z = (test_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A number in [0, bound); bound > 0. */
static inline uint64_t test_below(uint64_t bound)
{
    return test_random() % bound;
}

#endif
