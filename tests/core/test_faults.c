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
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "faults.h"
#include "store_support.h"

static struct mc_writer *writer; /* NULL: none is open */
static struct mc_map *reader;    /* opened before the fault; NULL: there was nothing to read */
static struct mc_view reader_view;
static struct oracle before, after;
static struct mc_writer_options options;
static long injected[2]; /* faults: allocations and blocks, system calls */
static long cases;

/* ---- what must not be left behind ---- */

struct resources {
    long blocks, descriptors, mappings;
};

static struct resources count_resources(void)
{
    struct resources now = {.blocks = faults_blocks()};
    char line[512];
    DIR *list = opendir("/proc/self/fd");
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(list != NULL && maps != NULL);
    while (readdir(list) != NULL) {
        now.descriptors++;
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        now.mappings += strstr(line, "mmapcache") != NULL && strstr(line, "/test_") == NULL;
    }
    CHECK(closedir(list) == 0 && fclose(maps) == 0);
    return now;
}

static void check_resources(struct resources expected)
{
    struct resources now = count_resources();
    CHECK_EQ(now.blocks, expected.blocks);
    CHECK_EQ(now.descriptors, expected.descriptors);
    CHECK_EQ(now.mappings, expected.mappings);
}

/* ---- the world ---- */

static void close_writer(void)
{
    if (writer != NULL) {
        mc_writer_close(writer);
        writer = NULL;
    }
}

static void must(enum mc_status status)
{
    CHECK_OK(status);
}

static enum mc_status commit(void)
{
    uint64_t generation;
    return mc_batch_commit(writer, &generation, &test_error);
}

/* Some documents in two of the collections, committed; the writer stays open. */
static void open_filled(void)
{
    remove_cache(test_path());
    oracle_clear(&before);
    must(mc_writer_open(test_path(), &options, &writer, &test_error));
    must(mc_batch_begin(writer, &test_error));
    for (int c = 0; c < 2; c++) { /* the first has nodes, the second only a page */
        before.exists[c] = true;
        for (int k = 0; k < (c == 0 ? 60 : 8); k++) {
            must(put_version(writer, c, k, 1));
            before.version[c][k] = 1;
        }
    }
    must(commit());
    after = before;
}

static void file_filled(void)
{
    open_filled();
    close_writer();
}

static void file_none(void)
{
    remove_cache(test_path());
    oracle_clear(&before);
    after = before;
}

static void patch_file(uint64_t offset)
{
    uint8_t byte;
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
    byte ^= 0x40;
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1 && close(fd) == 0);
}

static void file_of_another_boot(void)
{
    file_filled();
    patch_file(MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id));
}

static void file_damaged(void)
{
    file_filled();
    patch_file(offsetof(struct mc_superblock, created_at));
    oracle_clear(&after); /* it is recreated, empty */
    options.recreate = true;
}

static void file_to_resize(void)
{
    file_filled();
    options.max_size *= 2;
}

/* A killed loader has left half a successor. */
static void file_to_resize_again(void)
{
    char other[96];
    file_to_resize();
    (void)snprintf(other, sizeof other, "%s.new", test_path());
    int fd = open(other, O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0 && close(fd) == 0);
}

static void open_checkpointed(void)
{
    open_filled();
    must(mc_writer_checkpoint(writer, &test_error));
}

static void open_anonymous(void)
{
    uint64_t generation;
    file_none();
    must(mc_writer_open_anonymous(&options, &writer, &test_error));
    must(mc_batch_begin(writer, &test_error));
    must(put_version(writer, 0, 1, 1));
    must(mc_batch_commit(writer, &generation, &test_error));
    before.exists[0] = true;
    before.version[0][1] = 1;
    after = before;
}

/* ---- what is done ---- */

static enum mc_status run_open(void)
{
    return mc_writer_open(test_path(), &options, &writer, &test_error);
}

static enum mc_status run_open_anonymous(void)
{
    return mc_writer_open_anonymous(&options, &writer, &test_error);
}

static enum mc_status run_checkpoint(void)
{
    return mc_writer_checkpoint(writer, &test_error);
}

static enum mc_status put_range(int c, int from, int to, int version)
{
    enum mc_status status = MC_OK;
    for (int k = from; k < to && status == MC_OK; k++) {
        status = put_version(writer, c, k, version);
        after.version[c][k] = version;
    }
    after.exists[c] = true;
    return status;
}

/* Ends the batch, one way or the other. */
static enum mc_status end_batch(enum mc_status status)
{
    if (status == MC_OK) {
        status = commit();
    }
    if (status != MC_OK) {
        mc_batch_abort(writer);
    }
    return status;
}

/* Inserts, updates, deletes, the state, a new collection, a replace, a drop. */
static enum mc_status run_batch(void)
{
    bool existed;
    after = before;
    enum mc_status status = mc_batch_begin(writer, &test_error);
    if (status == MC_OK) {
        status = put_range(0, 40, 90, 2);
    }
    for (int k = 0; k < 20 && status == MC_OK; k++) {
        status = delete_key_of(writer, 0, k, &existed);
        after.version[0][k] = ABSENT;
    }
    if (status == MC_OK) {
        status = mc_batch_state(writer, (const uint8_t *)"position", 8, &test_error);
    }
    if (status == MC_OK) {
        status = put_range(2, 0, 3, 2);
    }
    if (status == MC_OK) {
        status = mc_replace_begin(writer, "sites", 5, &test_error);
    }
    for (int k = 0; k < KEYS; k++) {
        after.version[0][k] = ABSENT;
    }
    if (status == MC_OK) {
        status = put_range(0, 30, 50, 3);
    }
    if (status == MC_OK) {
        status = mc_replace_end(writer, &test_error);
    }
    if (status == MC_OK) {
        status = mc_batch_drop(writer, "limits", 6, &existed, &test_error);
        after.exists[1] = false;
        for (int k = 0; k < KEYS; k++) {
            after.version[1][k] = ABSENT;
        }
    }
    return end_batch(status);
}

/* A replace that is cancelled, and a smaller one. */
static enum mc_status run_cancelled(void)
{
    after = before;
    enum mc_status status = mc_batch_begin(writer, &test_error);
    if (status == MC_OK) {
        status = mc_replace_begin(writer, "flags", 5, &test_error);
    }
    if (status == MC_OK) {
        status = put_range(2, 0, 60, 4);
        mc_replace_cancel(writer);
        after = before;
    }
    if (status == MC_OK) {
        status = put_range(0, 0, 2, 4);
    }
    return end_batch(status);
}

static enum mc_status put_big(int version)
{
    static uint8_t big[300000];
    uint32_t len = sizeof big, pad = len - 13; /* {p: pad bytes} */
    enum mc_status status = MC_OK;
    memset(big, version, sizeof big);
    memcpy(big, &len, 4);
    memcpy(big + 4, "\x05p", 3);
    memcpy(big + 7, &pad, 4);
    big[11] = 0;
    big[len - 1] = 0;
    for (int k = 0; k < 8 && status == MC_OK; k++) {
        struct mc_key key;
        bool changed;
        mc_key_from_int64(k, &key);
        status = mc_batch_put(writer, "big", 3, &key, big, len, &changed, &test_error);
    }
    return status;
}

/* More than the file has room for, so that it grows. The big ones are not the oracle's. */
static enum mc_status run_growth(void)
{
    after = before;
    enum mc_status status = mc_batch_begin(writer, &test_error);
    if (status == MC_OK) {
        status = put_range(1, 0, 5, 5);
    }
    if (status == MC_OK) {
        status = put_big(5);
    }
    return end_batch(status);
}

static enum mc_status run_small(void)
{
    after = before;
    enum mc_status status = mc_batch_begin(writer, &test_error);
    if (status == MC_OK) {
        status = put_range(1, 7, 8, 6);
    }
    return end_batch(status);
}

/* What a reader does from opening to closing; the writer is one that holds an anonymous cache. */
static enum mc_status run_reader(void)
{
    struct mc_map *map;
    struct mc_view view;
    struct mc_check_report report;
    enum mc_status status = writer != NULL
                                ? mc_map_open_fd(mc_writer_fd(writer), &map, &test_error)
                                : mc_map_open(test_path(), &map, &test_error);
    if (status != MC_OK) {
        return status;
    }
    status = mc_view_open(map, &view, &test_error);
    if (status == MC_OK) {
        (void)mc_map_loader(map);
        status = mc_map_populate(map, &test_error);
    }
    if (status == MC_OK) {
        status = mc_check(&view, &report, &test_error);
    }
    mc_map_release(map);
    return status;
}

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
    reader = NULL;
    if (mc_map_open(test_path(), &reader, &test_error) == MC_OK &&
        mc_view_open(reader, &reader_view, &test_error) != MC_OK) {
        mc_map_release(reader);
        reader = NULL;
    }
}

static void close_reader(void)
{
    mc_map_release(reader);
    reader = NULL;
}

/* Whoever opens the cache now finds what the oracle says, and who had it open is not misled. */
static void check_content(const struct oracle *expected)
{
    struct mc_map *map;
    struct mc_view view;
    bool equal;
    if (reader != NULL && view_equals(&reader_view, &before, &equal) == MC_OK) {
        CHECK(equal);
    }
    if (reader != NULL || expected == &after) {
        enum mc_status status = mc_map_open(test_path(), &map, &test_error);
        if (status == MC_NOT_READY && mc_writer_fd(writer) >= 0) {
            return; /* an anonymous cache has no path */
        }
        CHECK_OK(status);
        status = mc_view_open(map, &view, &test_error);
        if (status == MC_OK) {
            CHECK_OK(view_equals(&view, expected, &equal));
            CHECK(equal);
            check_clean(&view);
        } else {
            CHECK(status == MC_NOT_READY && reader == NULL); /* new, and nothing published yet */
        }
        mc_map_release(map);
    }
}

struct scenario {
    const char *name;
    void (*prepare)(void);
    enum mc_status (*run)(void);
    uint32_t kinds; /* what fails */
    bool reopens;   /* `run` opens the writer */
    bool collapse;
};

#define SYSTEM FAULT_SYSTEM
#define ALL (FAULT_SYSTEM | FAULT_BIT(FAULT_MEMORY) | FAULT_BIT(FAULT_BLOCK) | FAULT_BIT(FAULT_ROOM))

static const struct scenario scenarios[] = {
    {"creation", file_none, run_open, ALL, true, true},
    {"open", file_filled, run_open, ALL, true, true},
    {"open after a reboot", file_of_another_boot, run_open, ALL, true, false},
    {"open of a damaged file", file_damaged, run_open, ALL, true, false},
    {"another max_size", file_to_resize, run_open, ALL, true, false},
    {"another max_size, again", file_to_resize_again, run_open, SYSTEM, true, false},
    {"anonymous", file_none, run_open_anonymous, ALL, true, true},
    {"batch", open_filled, run_batch, ALL, false, false},
    {"cancelled replace", open_filled, run_cancelled, ALL, false, false},
    {"growth", open_filled, run_growth, ALL, false, false},
    {"growth, huge pages", open_filled, run_growth, SYSTEM, false, true},
    {"checkpoint", open_filled, run_checkpoint, SYSTEM, false, false},
    {"batch after a checkpoint", open_checkpointed, run_batch, SYSTEM, false, false},
    {"reader", file_filled, run_reader, ALL, false, false},
    {"reader, anonymous", open_anonymous, run_reader, ALL, false, false},
};

/* One failure. False when there was none left to fail. */
static bool try_fault(const struct scenario *scenario, uint32_t kinds, long left, bool lasting)
{
    struct resources nothing = count_resources();
    options = small_options();
    options.max_size = 4u << 20;
    options.collapse = scenario->collapse;
    scenario->prepare();
    open_reader();
    struct resources start = count_resources();
    faults_arm(kinds, left, lasting, 0);
    enum mc_status status = scenario->run();
    bool still_full = lasting && kinds == FAULT_BIT(FAULT_ALLOCATE) && status == MC_FULL;
    if (still_full && !scenario->reopens) {
        check_content(&before);
        struct oracle old = before;
        CHECK_OK(run_small());
        check_content(&after);
        before = after; /* for the next try; the reader has the old one */
        close_reader();
        open_reader();
        CHECK(memcmp(&old, &before, sizeof old) != 0);
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
            CHECK(writer == NULL);
            check_resources(start);
        }
        if (!still_full) {
            check_content(&before);
        }
        CHECK_OK(scenario->run());
    }
    check_content(&after);
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
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        long first = cases;
        for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++) {
            uint32_t kinds = scenarios[s].kinds & masks[m];
            for (int lasting = 0; lasting < 2 && kinds != 0; lasting++) {
                for (long left = 0; try_fault(&scenarios[s], kinds, left, lasting); left++) {
                }
            }
        }
        printf("  %-26s %4ld cases\n", scenarios[s].name, cases - first);
    }
}

/* ---- batches that go on ---- */

/* One operation of a batch that rewrites the first collection; `after` knows when it succeeded. */
static enum mc_status run_one(int k)
{
    bool existed;
    enum mc_status status = k % 3 == 0 ? delete_key_of(writer, 0, k, &existed)
                                       : put_version(writer, 0, k, 2);
    if (status == MC_OK) {
        after.version[0][k] = k % 3 == 0 ? ABSENT : 2;
    }
    return status;
}

/* Operations fail and the batch goes on without them, or tries them again: what is published is
 * sound, and so is what the blocks are used for afterwards. */
static bool try_going_on(uint32_t kinds, long left, int first, int last, bool again)
{
    bool done[60] = {false};
    options = small_options();
    options.max_size = 4u << 20;
    open_filled();
    CHECK_OK(mc_batch_begin(writer, &test_error));
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
    CHECK_OK(put_range(1, 1, 2, 2));
    CHECK_OK(commit());
    before = after;
    open_reader();
    check_content(&after);
    for (int round = 3; round < 8; round++) { /* blocks are reused */
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(put_range(1, 0, 30, round));
        CHECK_OK(commit());
        check_content(&after);
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
        {FAULT_ALLOCATE, ENOSPC, MC_FULL, true},   {FAULT_ALLOCATE, EDQUOT, MC_FULL, true},
        {FAULT_ALLOCATE, EFBIG, MC_FULL, true},    {FAULT_ALLOCATE, ENOMEM, MC_FULL, true},
        {FAULT_ALLOCATE, EIO, MC_OS, true},        {FAULT_ALLOCATE, EINTR, MC_OK, false},
        {FAULT_MEMFD, EINVAL, MC_OK, false}, /* a kernel that does not know NOEXEC */
        {FAULT_FCNTL, EINVAL, MC_OS, true},  /* no seal at all */
    };
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        for (int silent = 0; silent < 2; silent++) {
            struct mc_error *err = silent ? NULL : &test_error;
            options = small_options();
            remove_cache(test_path());
            faults_arm(FAULT_BIT(meanings[i].kind), 0, meanings[i].lasting, meanings[i].number);
            enum mc_status status =
                meanings[i].kind == FAULT_ALLOCATE
                    ? mc_writer_open(test_path(), &options, &writer, err)
                    : mc_writer_open_anonymous(&options, &writer, err);
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
    options = small_options();
    remove_cache(test_path());
    faults_arm(FAULT_BIT(FAULT_ATFORK), 0, false, 0);
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_NOMEM);
    CHECK_EQ(faults_disarm(), 1);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
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
        CHECK(faults_failed(kind) > 0 || kind == FAULT_PROTECT); /* which test_guard.c makes fail */
    }
    printf("faults: %ld allocations failed, %ld system calls failed, 0 violations\n", injected[0],
           injected[1]);
    remove_cache(test_path());
    return 0;
}
