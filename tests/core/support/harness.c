/* harness.c - see harness.h. */
#include "harness.h"

#include <stdarg.h>
#include <stdbool.h>

static uint64_t test_seed;
static uint64_t test_state;

int test_sample = 1;

static bool test_begun;

__attribute__((noreturn, format(printf, 3, 4))) void test_failed(const char *file, int line,
                                                                 const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, values);
    va_end(values);
    if (test_begun) {
        fprintf(stderr, ", SEED=%" PRIu64, test_seed);
    }
    fprintf(stderr, "\n");
    abort();
}

void test_begin(const char *name)
{
    const char *given = getenv("SEED"), *sample = getenv("SAMPLE");
    test_seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    test_state = test_seed;
    test_begun = true;
    test_sample = sample != NULL ? (int)strtol(sample, NULL, 10) : 1;
    CHECK(test_sample > 0);
    printf("%s: SEED=%" PRIu64 "\n", name, test_seed);
    fflush(stdout);
}

int test_rounds(int rounds)
{
    return (rounds + test_sample - 1) / test_sample;
}

uint64_t test_random(void)
{
    uint64_t z = (test_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t test_below(uint64_t bound)
{
    return test_random() % bound;
}
