/* harness.h - what every core test and fuzzer shares: checks that print both values, and a seeded
 * generator.
 *
 * CHECK stays on in every build (NDEBUG does not touch it). A failed check prints the place, the
 * values and, in a test, the seed, so that `SEED=n ./test_x` repeats whatever the test chose; a
 * file's secrets and the clock are the system's, so what a test is to meet must not depend on them.
 * `SAMPLE=n ./test_x` makes one in n of the rounds of its long loops, for where an instruction
 * costs twenty times as much.
 */
#ifndef MMAPCACHE_TEST_HARNESS_H
#define MMAPCACHE_TEST_HARNESS_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern int test_sample;

/* Whether this is the core for other systems than Linux, which promises less: see system.h. */
#ifdef MC_PORTABLE
#define PORTABLE 1
#else
#define PORTABLE 0
#endif

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            test_failed(__FILE__, __LINE__, "CHECK(%s) failed", #condition);                       \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(left, right)                                                                      \
    do {                                                                                           \
        uint64_t check_left = (uint64_t)(left), check_right = (uint64_t)(right);                   \
        if (check_left != check_right) {                                                           \
            test_failed(__FILE__, __LINE__, "%s = %" PRIu64 ", %s = %" PRIu64, #left, check_left,  \
                        #right, check_right);                                                      \
        }                                                                                          \
    } while (0)

/* Says what is wrong and where, and the seed when test_begin has taken one; aborts. */
__attribute__((noreturn, format(printf, 3, 4))) void test_failed(const char *file, int line,
                                                                 const char *format, ...);

/* Takes the seed from SEED= or the clock and prints it, and SAMPLE=. Call first in main. */
void test_begin(const char *name);

/* How many of a long loop's rounds are made: all, or one in SAMPLE; one at least. */
int test_rounds(int rounds);

/* splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
uint64_t test_random(void);

/* A number in [0, bound); bound > 0. */
uint64_t test_below(uint64_t bound);

#endif
