/* checks.h - CHECK: what tests and fuzzers hold to be true; else it says so and aborts.
 *
 * It stays on in every build (NDEBUG does not touch it).
 */
#ifndef MMAPCACHE_TEST_CHECKS_H
#define MMAPCACHE_TEST_CHECKS_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t test_seed; /* of harness.h; 0 in a fuzzer, whose input is all there is */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: CHECK(%s) failed, SEED=%" PRIu64 "\n", __FILE__, __LINE__,     \
                    #condition, test_seed);                                                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
