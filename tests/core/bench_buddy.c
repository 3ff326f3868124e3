/* bench_buddy.c - nanoseconds per operation of the buddy allocator. Not a test: `make -C tests/core
 * bench`.
 *
 * Method: an arena is filled to a live fraction, then extents in random order are replaced (one
 * free, one alloc), which is what a loader does. The same loop without the allocator is measured
 * and subtracted.
 */
#include "../../src/buddy.h"

#include "harness.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct extent {
    uint64_t offset, size;
};

static uint64_t draw(uint64_t low, uint64_t high)
{
    return low + test_below(high - low + 1);
}

/* Steady state: free a random extent, allocate another. */
static void replace(const char *what, uint64_t arena, unsigned percent, uint64_t low, uint64_t high)
{
    enum { rounds = 2000000 };
    struct mc_buddy *b;
    uint64_t limit = arena / 100 * percent, count = 0, live = 0, full = 0;
    struct extent *extents = malloc((limit / ((low + high) / 2) * 2 + 64) * sizeof *extents);
    CHECK(extents != NULL && mc_buddy_create(arena, arena, &b) == MC_OK);
    double start = seconds();
    while (live < limit) {
        struct extent *e = &extents[count++];
        e->size = draw(low, high);
        CHECK_EQ(mc_buddy_alloc(b, e->size, &e->offset), MC_OK);
        live += e->size;
    }
    double fill = seconds() - start, best = 1e9, empty = 1e9;
    for (unsigned repeat = 0; repeat < 5; repeat++) {
        start = seconds();
        for (unsigned i = 0; i < rounds; i++) {
            struct extent *e = &extents[test_below(count)];
            mc_buddy_free(b, e->offset, e->size);
            e->size = draw(low, high);
            if (mc_buddy_alloc(b, e->size, &e->offset) != MC_OK)
                full++;
        }
        double took = seconds() - start;
        best = took < best ? took : best;
        uint64_t sum = 0;
        start = seconds();
        for (unsigned i = 0; i < rounds; i++) {
            struct extent *e = &extents[test_below(count)];
            e->offset += draw(low, high) & 0;
            sum += e->offset + e->size;
        }
        took = seconds() - start;
        empty = took < empty && sum != 0 ? took : empty;
    }
    printf("%-34s %9.1f %9.1f %9.2f %8.3f %9llu\n", what, fill / (double)count * 1e9,
           (best - empty) / rounds * 1e9, empty / rounds * 1e9,
           100.0 * (double)mc_buddy_state_bytes(b) / ((double)arena * 32.0),
           (unsigned long long)full);
    mc_buddy_destroy(b);
    free(extents);
}

/* One extent, again and again: the floor. */
static void pair(uint64_t arena, uint64_t size)
{
    enum { rounds = 20000000 };
    struct mc_buddy *b;
    uint64_t offset;
    CHECK(mc_buddy_create(arena, arena, &b) == MC_OK);
    double start = seconds();
    for (unsigned i = 0; i < rounds; i++) {
        CHECK(mc_buddy_alloc(b, size, &offset) == MC_OK);
        mc_buddy_free(b, offset, size);
    }
    printf("alloc + free of %llu granules, hot: %.1f ns per pair\n", (unsigned long long)size,
           (seconds() - start) / rounds * 1e9);
    mc_buddy_destroy(b);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_begin("bench_buddy");
    pair(1u << 25, 11);
    pair(1u << 25, 2048);
    printf("%-34s %9s %9s %9s %8s %9s\n", "replace at random", "fill ns", "pair ns", "loop ns",
           "state %", "FULL");
    replace("11 granules, 64 MiB, 60 % live", 1u << 21, 60, 11, 11);
    replace("8-14 granules, 64 MiB, 60 % live", 1u << 21, 60, 8, 14);
    replace("8-14 granules, 1 GiB, 60 % live", 1u << 25, 60, 8, 14);
    replace("8-14 granules, 1 GiB, 85 % live", 1u << 25, 85, 8, 14);
    replace("4-500 granules, 1 GiB, 60 % live", 1u << 25, 60, 4, 500);
    return 0;
}
