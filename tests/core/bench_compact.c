/* bench_compact.c - a cache with an index that is nearly full, under random updates: how often it
 * is full, and what a commit takes. `make -C tests/core bench`, or of these shares alone, in
 * percent, so many commits: `bench_compact 10000 75 80`.
 */
#include "full_world.h"

#define SIZE (UINT64_C(16) << 20)

static double microseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double began;

static void begin(void)
{
    began = microseconds();
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void measure(double share, int commits)
{
    double *times = malloc((size_t)commits * sizeof *times);
    int full = 0, done = 0;
    CHECK(times != NULL && commits > 0);
    full_begin(SIZE, share, 1000000000);
    for (int i = 0; i < commits; i++) {
        enum mc_status status = full_update(begin);
        CHECK(status == MC_OK || status == MC_FULL);
        if (status == MC_OK) {
            times[done++] = microseconds() - began;
        }
        full += status == MC_FULL;
    }
    struct mc_view view = view_of(full_world.map);
    qsort(times, (size_t)done, sizeof *times, compare);
    double median = times[done / 2], late = times[(size_t)done * 99 / 100];
    printf(
        "%3.0f %% live, %2.0f %% in use: %d commits of %d updates, %d full; median %.0f us, 99th "
        "percentile %.0f us (%.1f times), longest %.0f us\n",
        100 * share, 100 * (double)view.root.used / SIZE, commits, FULL_UPDATES, full, median, late,
        late / median, times[done - 1]);
    fflush(stdout);
    full_end();
    free(times);
}

int main(int argc, char **argv)
{
    static const double shares[] = {75, 80, 85};
    int commits = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2000;
    test_begin("bench_compact");
    for (int i = 2; i < argc; i++) {
        measure(strtod(argv[i], NULL) / 100, commits);
    }
    for (size_t i = 0; argc <= 2 && i < sizeof shares / sizeof shares[0]; i++) {
        measure(shares[i] / 100, commits);
    }
    return 0;
}
