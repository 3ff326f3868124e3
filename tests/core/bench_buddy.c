/* bench_buddy.c - what the buddy allocator costs, and how full an arena gets. `make -C tests/core
 * bench`
 *
 * Time: an arena is filled to a live fraction, then extents in random order are replaced (one free,
 * one alloc), which is what a loader does. The list of extents is the benchmark's own cache miss
 * and is prefetched; the same loop without the allocator is measured and subtracted. Processor
 * time, the best of 5.
 *
 * Occupancy: extents are replaced at random, the new one allocated before an old one is freed,
 * while the live fraction rises by 1 % of the arena after each two replacements per extent.
 * Reported is the fraction at the first MC_FULL.
 */
#include <math.h>

#include "buddy.h"
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
    uint64_t limit = arena / 100 * percent, count = 0, live = 0;
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
        struct extent *next = &extents[test_below(count)];
        for (unsigned i = 0; i < rounds; i++) {
            struct extent *e = next;
            next = &extents[test_below(count)];
            __builtin_prefetch(next);
            mc_buddy_free(b, e->offset, e->size);
            e->size = draw(low, high);
            CHECK_EQ(mc_buddy_alloc(b, e->size, &e->offset), MC_OK);
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
    printf("%-34s %9.1f %9.1f %9.2f %8.3f\n", what, fill / (double)count * 1e9,
           (best - empty) / rounds * 1e9, empty / rounds * 1e9,
           100.0 * (double)mc_buddy_state_bytes(b) / ((double)arena * 32.0));
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

/* Sizes from 100 bytes to 64 KiB in granules of 16, lognormal with a median of 1500 bytes. */
static uint64_t lognormal(void)
{
    for (;;) {
        double u = ((double)(test_random() >> 11) + 1) * 0x1p-53;
        double v = (double)(test_random() >> 11) * 0x1p-53;
        double bytes = 1500 * exp(1.3 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
        if (bytes >= 100 && bytes <= 65536) {
            return (uint64_t)bytes / 16 + 1;
        }
    }
}

static uint64_t any_size(uint64_t low, uint64_t high)
{
    return low == 0 ? lognormal() : draw(low, high);
}

/* low = 0: lognormal. */
static void occupancy(const char *what, uint64_t low, uint64_t high)
{
    const uint64_t arena = 1u << 20;
    struct mc_buddy *b;
    struct extent *extents = calloc(arena / 4, sizeof *extents);
    uint64_t count = 0, live = 0, replaced = 0;
    bool full = false;
    CHECK(extents != NULL && mc_buddy_create(arena, arena, &b) == MC_OK);
    for (unsigned percent = 50; percent <= 100 && !full; percent++) {
        uint64_t limit = arena / 100 * percent;
        uint64_t replacements = percent == 60 && low == 0 ? 5000000 : 2 * count;
        while (!full && (live + 4096 < limit || replacements > 0)) { /* 4096: the largest size */
            struct extent e = {.size = any_size(low, high)};
            full = mc_buddy_alloc(b, e.size, &e.offset) != MC_OK;
            if (full) {
                break;
            }
            extents[count++] = e;
            live += e.size;
            while (live > limit) {
                struct extent *victim = &extents[test_below(count)];
                mc_buddy_free(b, victim->offset, victim->size);
                live -= victim->size;
                *victim = extents[--count];
                replacements -= replacements > 0;
                replaced++;
            }
        }
    }
    printf("%-34s first FULL at %5.1f %% live after %" PRIu64 " replacements\n", what,
           100.0 * (double)live / (double)arena, replaced);
    mc_buddy_destroy(b);
    free(extents);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_begin("bench_buddy");
    pair(1u << 25, 11);
    pair(1u << 25, 2048);
    printf("%-34s %9s %9s %9s %8s\n", "replace at random", "fill ns", "pair ns", "loop ns",
           "state %");
    replace("11 granules, 64 MiB, 60 % live", 1u << 21, 60, 11, 11);
    replace("8-14 granules, 64 MiB, 60 % live", 1u << 21, 60, 8, 14);
    replace("8-14 granules, 1 GiB, 60 % live", 1u << 25, 60, 8, 14);
    replace("8-14 granules, 1 GiB, 85 % live", 1u << 25, 85, 8, 14);
    replace("4-500 granules, 1 GiB, 60 % live", 1u << 25, 60, 4, 500);
    occupancy("11 granules", 11, 11);
    occupancy("8-14 granules", 8, 14);
    occupancy("129 granules", 129, 129);
    occupancy("lognormal 100 B to 64 KiB", 0, 0);
    return 0;
}
