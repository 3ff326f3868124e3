/* test_faults.c - every allocation and every system call fails, one after another.
 *
 * A scenario is a state of the file and one thing that is done to it. It runs with the first call
 * of a kind failing, then with the second, until none is left to fail; once with that call alone
 * failing, once with all after it failing as well, as on a full disk. Each time
 *
 *   - the status is the one that such a failure has, never a crash and never a wrong answer;
 *   - no memory, no descriptor and no mapping is left behind;
 *   - readers see the generation from before, whole; one who has had it open all the time, too;
 *   - the next try succeeds; after a full disk, a smaller batch while the disk is still full.
 */
#include <errno.h>

#include "fault_scenarios.h"
#include "region.h"

static long injected[2]; /* faults: allocations and blocks, system calls */
static long cases;

/* ---- what is demanded ---- */

/* The statuses of a failure of this kind. MC_OK: the core does without that call. */
static bool is_expected(enum fault kind, enum mc_status status)
{
    switch (kind) {
    case FAULT_MEMORY: /* MC_OK: a freed block that cannot be kept at hand goes to the allocator */
        return status == MC_NOMEM || status == MC_OK;
    case FAULT_ATFORK:
        return status == MC_NOMEM;
    case FAULT_ROOM:
        return status == MC_FULL;
    case FAULT_BLOCK: /* MC_OK: there was room after it had been looked for */
        return status == MC_FULL || status == MC_OK;
    case FAULT_ALLOCATE: /* MC_OK: old generations could make room */
        return status == MC_FULL || status == MC_OK;
    case FAULT_FALLOCATE: /* ordinary pages will do */
        return status == MC_OK;
    case FAULT_STAT: /* MC_LOCKED: the lock file may have been removed; MC_OK: the size was known */
        return status == MC_OS || status == MC_LOCKED || status == MC_OK;
    case FAULT_OPEN:   /* MC_OK: who cannot ask for the lock believes that it is held */
    case FAULT_MODE:   /* MC_OK: the lock file's mode */
    case FAULT_FCNTL:  /* MC_OK: the lock that others may ask for; the newer of two seals */
    case FAULT_ADVISE: /* MC_OK: huge pages; what a child inherits */
    case FAULT_UNLINK: /* MC_OK: there was nothing to remove */
    case FAULT_READ:   /* MC_OK: the bell, which is only for those who listen */
    case FAULT_LOCK:   /* MC_OK: the unlocking of what is closed next */
        return status == MC_OS || status == MC_OK;
    default:
        return status == MC_OS;
    }
}

/* Whether one of the failures explains the status, or there was none and all went well. */
static bool is_explained(enum mc_status status)
{
    bool explained = faults_kinds() == 0 && status == MC_OK;
    for (enum fault kind = 0; kind < FAULTS; kind++) {
        explained |= (faults_kinds() & FAULT_BIT(kind)) != 0 && is_expected(kind, status);
    }
    return explained;
}

static void open_reader(void)
{
    world.reader = NULL;
    if (mc_map_open(test_path(), &world.reader, &test_error) == MC_OK &&
        mc_view_open(world.reader, &world.view, &test_error) != MC_OK) {
        mc_map_release(world.reader);
        world.reader = NULL;
    }
}

static void close_reader(void)
{
    mc_map_release(world.reader);
    world.reader = NULL;
}

/* Whoever opens the cache now finds what the oracle says, and who had it open is not misled. */
static void check_content(const struct oracle *expected)
{
    struct mc_map *map;
    struct mc_view view;
    bool equal;
    if (world.reader != NULL && view_equals(&world.view, &world.before, &equal) == MC_OK) {
        CHECK(equal);
    }
    if (world.reader != NULL || expected == &world.after) {
        enum mc_status status = mc_map_open(test_path(), &map, &test_error);
        if (status == MC_NOT_READY && mc_writer_fd(world.writer) >= 0) {
            return; /* an anonymous cache has no path */
        }
        CHECK_OK(status);
        status = mc_view_open(map, &view, &test_error);
        if (status == MC_OK) {
            CHECK_OK(view_equals(&view, expected, &equal));
            CHECK(equal);
            check_clean(&view);
        } else {
            CHECK(status == MC_NOT_READY &&
                  world.reader == NULL); /* new, and nothing published yet */
        }
        mc_map_release(map);
    }
}

/* One failure. False when there was none left to fail. */
static bool try_fault(const struct fault_scenario *scenario, uint32_t kinds, long left,
                      bool lasting)
{
    struct resources nothing = count_resources();
    world.options = small_options();
    world.options.max_size = 4u << 20;
    world.options.collapse = scenario->collapse;
    scenario->prepare();
    open_reader();
    struct resources start = count_resources();
    faults_arm(kinds, left, lasting, 0);
    test_error.status = MC_OK;
    enum mc_status status = scenario->run();
    CHECK(status == MC_OK || test_error.status == status); /* it says why */
    bool still_full = lasting && kinds == FAULT_BIT(FAULT_ALLOCATE) && status == MC_FULL;
    if (still_full && !scenario->reopens) {
        check_content(&world.before);
        CHECK_OK(run_small());
        check_content(&world.after);
        world.before = world.after; /* for the next try; the reader has the old one */
        close_reader();
        open_reader();
        start = count_resources();
    }
    long failed = faults_disarm();
    if (!is_explained(status)) {
        fprintf(stderr, "%s: calls from %ld on, kinds %x: status %d: %s\n", scenario->name, left,
                (unsigned)faults_kinds(), status, test_error.text);
    }
    CHECK(is_explained(status));
    injected[(kinds & FAULT_SYSTEM) != 0] += failed > 0;
    if (status != MC_OK) {
        if (scenario->reopens) {
            CHECK(world.writer == NULL);
            check_resources(start);
        }
        if (!still_full) {
            check_content(&world.before);
        }
        CHECK_OK(scenario->run());
    }
    check_content(&world.after);
    close_writer();
    close_reader();
    check_resources(nothing);
    cases++;
    return failed > 0;
}

static void test_scenarios(void)
{
    static const uint32_t masks[] = {FAULT_BIT(FAULT_MEMORY), FAULT_BIT(FAULT_BLOCK),
                                     FAULT_BIT(FAULT_ROOM), FAULT_BIT(FAULT_ALLOCATE),
                                     FAULT_SYSTEM};
    for (size_t s = 0; s < fault_scenario_count; s++) {
        long first = cases;
        for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++) {
            uint32_t kinds = fault_scenarios[s].kinds & masks[m];
            for (int lasting = 0; lasting < 2 && kinds != 0; lasting++) {
                for (long left = 0; try_fault(&fault_scenarios[s], kinds, left, lasting); left++) {
                }
            }
        }
        printf("  %-26s %4ld cases\n", fault_scenarios[s].name, cases - first);
    }
}

/* ---- batches that go on ---- */

/* One operation of a batch that rewrites the first collection; `after` knows when it succeeded. */
static enum mc_status run_one(int k)
{
    bool existed;
    test_error.status = MC_OK;
    enum mc_status status = k % 3 == 0 ? delete_key_of(world.writer, 0, k, &existed)
                                       : put_version(world.writer, 0, k, 2);
    if (status == MC_OK) {
        world.after.version[0][k] = k % 3 == 0 ? ABSENT : 2;
    }
    CHECK(status == MC_OK || test_error.status == status); /* it says why */
    return status;
}

/* Operations fail and the batch goes on without them, or tries them again: what is published is
 * sound, and so is what the blocks are used for afterwards. */
static bool try_going_on(uint32_t kinds, long left, int first, int last, bool again)
{
    bool done[60] = {false};
    world.options = small_options();
    world.options.max_size = 4u << 20;
    open_filled();
    CHECK_OK(mc_batch_begin(world.writer, &test_error));
    faults_arm(kinds, left, false, 0);
    for (int k = first; k < last; k++) {
        enum mc_status status = run_one(k);
        CHECK(status == MC_OK || is_explained(status));
        done[k] = status == MC_OK;
    }
    long failed = faults_disarm();
    for (int k = first; k < last; k++) {
        if (!done[k] && again) {
            CHECK_OK(run_one(k));
        }
    }
    CHECK_OK(put_keys(1, 1, 2, 2));
    CHECK_OK(commit());
    world.before = world.after;
    open_reader();
    check_content(&world.after);
    for (int round = 3; round < 8; round++) { /* blocks are reused */
        CHECK_OK(mc_batch_begin(world.writer, &test_error));
        CHECK_OK(put_keys(1, 0, 30, round));
        CHECK_OK(commit());
        check_content(&world.after);
    }
    close_reader();
    close_writer();
    injected[0] += failed > 0;
    cases++;
    return failed > 0;
}

static void test_going_on(void)
{
    static const uint32_t kinds[] = {FAULT_BIT(FAULT_MEMORY), FAULT_BIT(FAULT_BLOCK),
                                     FAULT_BIT(FAULT_ROOM)};
    static const int ranges[][2] = {{0, 1}, {1, 2}, {0, 60}}; /* a deletion, an update, many */
    long first = cases;
    for (int way = 0; way < 18; way++) {
        const int *range = ranges[way / 3 % 3];
        for (long left = 0; try_going_on(kinds[way % 3], left, range[0], range[1], way >= 9);
             left++) {
        }
    }
    printf("  %-26s %4ld cases\n", "batch that goes on", cases - first);
}

/* What each errno of a call that has several meanings is taken for. */
static void test_numbers(void)
{
    static const struct {
        enum fault kind;
        int number;
        enum mc_status status;
        bool lasting;
    } meanings[] = {
        {FAULT_ALLOCATE, ENOSPC, MC_FULL, true}, {FAULT_ALLOCATE, EDQUOT, MC_FULL, true},
        {FAULT_ALLOCATE, EFBIG, MC_FULL, true},  {FAULT_ALLOCATE, ENOMEM, MC_FULL, true},
        {FAULT_ALLOCATE, EIO, MC_OS, true},      {FAULT_ALLOCATE, EINTR, MC_OK, false},
        {FAULT_MEMFD, EINVAL, MC_OK, false}, /* a kernel that does not know NOEXEC */
        {FAULT_FCNTL, EINVAL, MC_OS, true},  /* no seal at all */
    };
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        for (int silent = 0; silent < 2; silent++) {
            struct mc_error *err = silent ? NULL : &test_error;
            if (PORTABLE && meanings[i].kind != FAULT_ALLOCATE) {
                continue; /* a file like any other, without seals */
            }
            world.options = small_options();
            remove_cache(test_path());
            faults_arm(FAULT_BIT(meanings[i].kind), 0, meanings[i].lasting, meanings[i].number);
            enum mc_status status =
                meanings[i].kind == FAULT_ALLOCATE
                    ? mc_writer_open(test_path(), &world.options, &world.writer, err)
                    : mc_writer_open_anonymous(&world.options, &world.writer, err);
            CHECK(faults_disarm() > 0);
            CHECK_EQ(status, meanings[i].status);
            if (status == MC_OK) {
                close_writer();
            } else if (!silent) {
                CHECK_EQ(test_error.os_errno, status == MC_OS ? meanings[i].number : 0);
            }
        }
    }
}

/* A lock that a child would hold too is not taken. Once only: the handlers stay. */
static void test_fork_handlers(void)
{
    world.options = small_options();
    remove_cache(test_path());
    faults_arm(FAULT_BIT(FAULT_ATFORK), 0, false, 0);
    CHECK_EQ(mc_writer_open(test_path(), &world.options, &world.writer, &test_error), MC_NOMEM);
    CHECK_EQ(faults_disarm(), 1);
    faults_arm(FAULT_BIT(FAULT_ATFORK), 0, false, 0);
    CHECK_EQ(mc_writer_open_anonymous(&world.options, &world.writer, &test_error), MC_NOMEM);
    CHECK_EQ(faults_disarm(), 1);
    struct mc_region region;
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    faults_arm(FAULT_BIT(FAULT_ATFORK), 0, false, 0);
    CHECK_EQ(mc_region_lock(&region, test_path(), &test_error), MC_NOMEM);
    CHECK_EQ(faults_disarm(), 1);
    mc_region_close(&region);
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &world.options, &world.writer, &test_error));
    close_writer();
}

int main(void)
{
    test_begin("test_faults");
    mc_buddy_test_unchecked = true;
    test_fork_handlers();
    test_scenarios();
    test_going_on();
    test_numbers();
    for (enum fault kind = 0; kind < FAULTS; kind++) {
        bool other = kind == FAULT_PROTECT; /* which test_guard.c makes fail */
        bool of_linux = kind == FAULT_MEMFD || kind == FAULT_FALLOCATE;
        CHECK(faults_failed(kind) > 0 || other || (PORTABLE && of_linux));
    }
    printf("faults: %ld allocations failed, %ld system calls failed, 0 violations\n", injected[0],
           injected[1]);
    remove_cache(test_path());
    return 0;
}
