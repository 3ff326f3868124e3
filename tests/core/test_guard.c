/* test_guard.c - a cache file truncated under its readers: an answer or an error, never a signal.
 *
 * Where the file ends within a huge page there is no signal: the kernel zeroes what was cut off,
 * from its low end to its high one, and the mapping may go on showing the page. Here the test
 * writes these zeros, finished and half done.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "faults.h"
#include "guard.h"
#include "store_support.h"
#include "writer/writer_state.h"

/* AddressSanitizer's own handler would be the one that was there before. */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "handle_sigbus=0";
}

static void fill(struct mc_writer **writer, struct oracle *oracle)
{
    struct mc_writer_options options = small_options();
    uint64_t generation;
    remove_cache(test_path());
    oracle_clear(oracle);
    CHECK_OK(mc_writer_open(test_path(), &options, writer, &test_error));
    CHECK_OK(mc_batch_begin(*writer, &test_error));
    for (int c = 0; c < COLLECTIONS; c++) {
        oracle->exists[c] = true;
        for (int k = 0; k < KEYS; k++) {
            CHECK_OK(put_version(*writer, c, k, k));
            oracle->version[c][k] = k;
        }
    }
    CHECK_OK(mc_batch_commit(*writer, &generation, &test_error));
}

/* Reads everything through an old view of a file that has been cut to `size`. */
static void read_truncated(const struct oracle *oracle, uint64_t size)
{
    struct mc_map *map;
    struct mc_view view;
    bool equal;
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    CHECK_EQ(truncate(test_path(), (off_t)size), 0);
    /* Every page that the view may refer to, as an unlucky reader would meet them. */
    for (uint64_t at = 0; at < view.space.limit; at += 4096) {
        (void)shm_load(view.space.base + at);
    }
    CHECK(!mc_view_valid(&view) && !mc_view_current(&view));
    CHECK_EQ(view_equals(&view, oracle, &equal), MC_EXPIRED);
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    mc_map_release(map);
}

/* The same of a writer: it finds out, and publishes nothing. */
static void test_writer(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    uint64_t generation;
    fill(&writer, &oracle);
    CHECK_EQ(truncate(test_path(), 8192), 0);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    enum mc_status status = MC_OK;
    for (int k = 0; k < KEYS && status == MC_OK; k++) {
        status = put_version(writer, 0, k, k + 1);
    }
    if (status == MC_OK) {
        status = mc_batch_commit(writer, &generation, &test_error);
    }
    CHECK_EQ(status, MC_CORRUPT);
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* The file's bytes, to be zeroed. */
static uint8_t *file_bytes(void)
{
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0);
    uint8_t *bytes = mmap(NULL, MC_MAP_MIN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(bytes != MAP_FAILED && close(fd) == 0);
    return bytes;
}

/* All keys of the first collection, which are all there, while words from `from` on are being
 * zeroed: each is found as it is or known not to be known, but for the one entry that the file's
 * new end may cut in two. Returns how many were found. */
static unsigned read_zeroed(const struct mc_view *view, uint64_t root, uint64_t from)
{
    unsigned found = 0, absent = 0;
    for (int k = 0; k < KEYS; k++) {
        uint8_t expected[DOCUMENT_MOST], got[DOCUMENT_MOST];
        struct mc_hit hit;
        enum mc_status status = find_document(view, root, k, &hit, got);
        status = mc_view_settle_value(view, &hit, status);
        CHECK(status != MC_ABSENT || absent++ == 0); /* its key was cut off */
        CHECK(status <= MC_ABSENT || status == MC_CORRUPT || status == MC_EXPIRED);
        if (status == MC_OK) {
            uint64_t end = hit.offset + mc_hit_bytes(&hit);
            bool cut = from > hit.offset && from < end;
            CHECK(cut || hit.value_len == make_document(expected, k, k));
            CHECK(cut || memcmp(expected, got, hit.value_len) == 0);
            found++;
        }
    }
    return found;
}

/* The kernel half-way through its zeros: they begin at any word and end at any line before the
 * tail, for it zeroes whole lines. */
static void test_zeros_half_done(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    struct mc_map *map;
    struct mc_view view;
    struct mc_collection collection;
    static uint8_t original[MC_MAP_MIN];
    unsigned found = 0, tried = 0;
    fill(&writer, &oracle);
    uint8_t *bytes = file_bytes();
    memcpy(original, bytes, MC_MAP_MIN);
    uint64_t used = MC_MAP_MIN - sizeof(struct mc_tail);
    while (original[used - 1] == 0) {
        used--;
    }
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    CHECK_OK(
        mc_view_collection(&view, collection_names[0], strlen(collection_names[0]), &collection));
    uint64_t step = 8 + 8 * test_below(3), arena = MC_RING_OFFSET + 4 * sizeof(struct mc_root);
    step *= (uint64_t)test_sample;
    for (uint64_t from = arena; from < used; from += step) {
        uint64_t to = (from + 1 + test_below(used - from)) / MC_LINE_BYTES * MC_LINE_BYTES;
        to = to > from ? to : from + MC_LINE_BYTES - from % MC_LINE_BYTES;
        memset(bytes + from, 0, to - from);
        found += read_zeroed(&view, collection.root, from);
        tried += KEYS;
        memcpy(bytes + from, original + from, to - from);
    }
    CHECK(found > 0 && found < tried && mc_view_valid(&view));
    CHECK_EQ(read_zeroed(&view, collection.root, 0), KEYS);
    CHECK_EQ(munmap(bytes, MC_MAP_MIN), 0);
    mc_map_release(map);
    mc_writer_close(writer);
}

/* The zeros are complete, so the last byte is one: nobody believes this file any more. */
static void test_without_tail(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    struct mc_map *map;
    struct mc_view view, own;
    struct mc_check_report report;
    struct mc_writer_options options = small_options();
    fill(&writer, &oracle);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    mc_writer_view(writer, &own);
    CHECK(mc_view_valid(&view) && mc_view_valid(&own));
    uint8_t *bytes = file_bytes();
    bytes[MC_MAP_MIN - 1] = 0;
    CHECK(!mc_view_valid(&own)); /* and nothing is done about it: it is the writer's to see */
    CHECK(!mc_view_valid(&view) && !mc_view_current(&view));
    mc_view_lose(&view); /* once is enough */
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    CHECK_EQ(mc_check(&own, &report, &test_error), MC_EXPIRED);
    mc_map_release(map);
    mc_writer_close(writer);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_CORRUPT);
    CHECK_EQ(munmap(bytes, MC_MAP_MIN), 0);
    mc_map_release(map);
}

/* 4 MiB: the file grows at least twice. */
static void put_large(struct mc_writer *writer)
{
    static const uint8_t large[4096];
    for (int64_t k = 0; k < 1000; k++) {
        struct mc_key key;
        bool changed;
        mc_key_from_int64(k, &key);
        CHECK_OK(
            mc_batch_put(writer, "large", 5, &key, large, sizeof large, &changed, &test_error));
    }
}

/* A writer that has touched nothing of what is missing finds out when it publishes. */
static void test_writer_publishes(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    uint64_t generation;
    fill(&writer, &oracle);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 7));
    mc_region_lose(&writer->region);
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* Nor does one whose file ends within a huge page: there is no fault, only a tail of zeros. */
static void test_writer_without_tail(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    uint64_t generation;
    fill(&writer, &oracle);
    uint8_t *bytes = file_bytes();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 7));
    bytes[MC_MAP_MIN - 1] ^= 0xFF;
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    CHECK_EQ(mc_writer_checkpoint(writer, &test_error), MC_CORRUPT);
    mc_batch_abort(writer);
    CHECK_OK(mc_batch_begin(writer, &test_error)); /* nor is a refresh without changes a success */
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    bytes[MC_MAP_MIN - 1] ^= 0xFF;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_large(writer); /* it grows, and only the new end is cut off */
    CHECK_EQ(truncate(test_path(), (off_t)writer->region.file_size - 4096), 0);
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    CHECK_EQ(munmap(bytes, MC_MAP_MIN), 0);
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* A file that grows gets another tail, and the last generation keeps its own. */
static void test_tail_moves(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    struct mc_map *map;
    struct mc_view before, after;
    uint64_t generation;
    bool equal;
    fill(&writer, &oracle);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &before, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_large(writer);
    CHECK(mc_view_current(&before));
    CHECK_OK(view_equals(&before, &oracle, &equal));
    CHECK(equal);
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK(
        !mc_view_valid(&before)); /* without retention it is reclaimed at once; no more than that */
    CHECK_OK(mc_view_open(map, &after, &test_error));
    CHECK(after.root.file_size > before.root.file_size && mc_view_valid(&after));
    mc_map_release(map);
    mc_writer_close(writer);
}

static volatile sig_atomic_t foreign_faults;
static void *foreign_page;

static void on_foreign(int number)
{
    (void)number;
    foreign_faults++;
    CHECK_EQ(mprotect(foreign_page, 4096, PROT_READ), 0);
    CHECK(mmap(foreign_page, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
          foreign_page);
}

/* A SIGBUS that is none of ours reaches the handler that was there before. */
static void test_chain(void)
{
    char path[] = "/dev/shm/mmapcache-test-foreign-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0 && ftruncate(fd, 4096) == 0);
    foreign_page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(foreign_page != MAP_FAILED && ftruncate(fd, 0) == 0);
    CHECK_EQ(*(volatile char *)foreign_page, 0);
    CHECK_EQ(foreign_faults, 1);
    CHECK(munmap(foreign_page, 4096) == 0 && close(fd) == 0);
}

/* ---- in children: what was there before the guard was installed ---- */

static uint8_t page_of_ours[8192];

static void install_guard(void)
{
    mc_guard_remove(mc_guard_add(page_of_ours, sizeof page_of_ours, true));
}

/* A fault as the kernel reports it, at an address that is nobody's. */
static void fake_fault(uintptr_t address)
{
    siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_ADRERR};
    info.si_addr = (void *)address; /* NOLINT(performance-no-int-to-ptr) */
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGBUS, &info) == 0);
}

static void ignored_raise(void)
{
    CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
    install_guard();
    CHECK(raise(SIGBUS) == 0 && raise(SIGBUS) == 0 && raise(SIGBUS) == 0);
    CHECK(signal(SIGBUS, SIG_DFL) == SIG_IGN); /* the guard has stepped aside */
}

static void ignored_kill(void)
{
    CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
    install_guard();
    CHECK(kill(getpid(), SIGBUS) == 0);
    CHECK(signal(SIGBUS, SIG_DFL) == SIG_IGN);
}

/* Another process raises it, as a thread's signal. */
static void ignored_of_another(void)
{
    int status;
    pid_t target = getpid();
    CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
    install_guard();
    pid_t other = fork();
    if (other == 0) {
        _exit(syscall(SYS_tgkill, target, target, SIGBUS) != 0);
    }
    pid_t waited;
    do { /* the signal may interrupt it */
        waited = waitpid(other, &status, 0);
    } while (waited < 0 && errno == EINTR);
    CHECK(waited == other && status == 0);
    CHECK(signal(SIGBUS, SIG_DFL) == SIG_IGN);
}

static void ignored_fault(void)
{
    CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
    CHECK(mc_guard_add(page_of_ours, sizeof page_of_ours, true) != NULL);
    fake_fault(UINTPTR_MAX - 4096);
    CHECK(signal(SIGBUS, SIG_DFL) == SIG_IGN);
}

/* Once is taken for a handler's that stepped aside for the guard; the second time it is meant. */
static void default_raise(void)
{
    install_guard();
    CHECK(raise(SIGBUS) == 0);
}

static void default_raise_twice(void)
{
    default_raise();
    (void)raise(SIGBUS);
}

static void default_fault(void)
{
    install_guard();
    fake_fault(0);
    (void)raise(SIGBUS);
}

static volatile sig_atomic_t seen;

static void on_informed(int number, siginfo_t *info, void *context)
{
    (void)context;
    seen += number == SIGBUS && info->si_pid == getpid();
}

static void informed_raise(void)
{
    struct sigaction action = {.sa_sigaction = on_informed, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    install_guard();
    CHECK(raise(SIGBUS) == 0 && raise(SIGBUS) == 0);
    CHECK_EQ(seen, 2);
}

static void on_counted(int number)
{
    seen += number == SIGBUS;
}

/* No page can be had in the handler: the fault is the previous handler's then, and comes again. */
static void test_no_page(void)
{
    static const struct {
        enum fault kind;
        long left;
    } failures[] = {{FAULT_MAP, 0}, {FAULT_MAP, 1}, {FAULT_PROTECT, 0}, {FAULT_PROTECT, 1}};
    struct mc_writer *writer;
    struct mc_map *map;
    struct mc_view view;
    struct oracle oracle;
    CHECK(signal(SIGBUS, on_counted) == SIG_DFL);
    for (int i = 0; i < (PORTABLE ? 2 : 4); i++) { /* which has no second step */
        fill(&writer, &oracle);
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_OK(mc_view_open(map, &view, &test_error));
        CHECK_EQ(truncate(test_path(), 0), 0);
        faults_arm(FAULT_BIT(failures[i].kind), failures[i].left, false, 0);
        CHECK_EQ(shm_load(view.space.base + 16384), 0);
        CHECK_EQ(faults_disarm(), 1);
        CHECK_EQ(seen, i + 1);
        CHECK(!mc_view_valid(&view));
        mc_map_release(map);
        mc_writer_close(writer);
    }
    remove_cache(test_path());
}

static uint8_t faster_page[16];
static struct mc_guarded *faster;

/* Another thread appends a chunk while this one is making its own. */
static void be_faster(const void *old, const void *now, size_t bytes)
{
    (void)old;
    (void)now;
    (void)bytes;
    faults_watch = NULL;
    faster = mc_guard_add(faster_page, sizeof faster_page, false);
}

/* More mappings than a chunk of the table holds, and no limit but memory. */
static void test_slots(void)
{
    enum { MAPS = 300 };
    static uint8_t pages[MAPS][16];
    struct mc_guarded *slots[MAPS];
    faults_arm(FAULT_BIT(FAULT_MEMORY), 0, true, 0);
    int held = 0;
    while ((slots[held] = mc_guard_add(pages[held], 16, false)) != NULL) {
        held++;
        CHECK(held < MAPS);
    }
    CHECK_EQ(faults_disarm(), 1);
    CHECK(held > 1);
    faults_watch = be_faster;
    for (int i = held; i < MAPS; i++) {
        slots[i] = mc_guard_add(pages[i], 16, false);
        CHECK(slots[i] != NULL && !mc_guard_is_lost(slots[i]));
    }
    CHECK(faster != NULL && faults_watch == NULL);
    mc_guard_remove(slots[MAPS - 1]);
    slots[MAPS - 1] = mc_guard_add(pages[MAPS - 1], 16, true); /* a free one is used again */
    CHECK(slots[MAPS - 1] == mc_guard_add(pages[MAPS - 1], 16, false));
    CHECK(mc_guard_add(pages[3], 32, false) == slots[3]); /* in the place of those it covers */
    CHECK(mc_guard_add(pages[4], 16, false) == slots[3]); /* which were two */
    for (int i = 0; i < MAPS; i++) {
        mc_guard_remove(slots[i]);
    }
}

/* A file that is mapped again and again: the last mapping is guarded as the first one is. */
static void test_many_maps(void)
{
    enum { MAPS = 1200 };
    static struct mc_map *maps[MAPS];
    struct mc_writer *writer;
    struct mc_view view;
    struct oracle oracle;
    int count = test_rounds(MAPS), refused = 0;
    CHECK(count > 0 && count <= MAPS);
    fill(&writer, &oracle);
    for (int i = 0; i < count; i++) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), 1, true, 0); /* enough for the map, not for a slot */
        enum mc_status status = mc_map_open(test_path(), &maps[i], &test_error);
        if (faults_disarm() > 0) {
            CHECK_EQ(status, MC_NOMEM);
            refused++;
            status = mc_map_open(test_path(), &maps[i], &test_error);
        }
        CHECK_OK(status);
    }
    CHECK(refused > 0 || count < MAPS); /* a sample may find room in the table */
    CHECK_OK(mc_view_open(maps[count - 1], &view, &test_error));
    CHECK_EQ(truncate(test_path(), 0), 0);
    CHECK_EQ(shm_load(view.space.base + 16384), 0);
    CHECK(!mc_view_valid(&view));
    CHECK_EQ(mc_view_open(maps[count - 1], &view, &test_error), MC_CORRUPT);
    for (int i = 0; i < count; i++) {
        mc_map_release(maps[i]);
    }
    mc_writer_close(writer);
    remove_cache(test_path());
}

static void install_again(void)
{
    CHECK(signal(SIGBUS, on_counted) == SIG_DFL);
    install_guard();
    mc_guard_test_forget(); /* as in a child that was forked while another thread installed it */
    install_guard();
    CHECK(raise(SIGBUS) == 0 && seen == 1);
}

static void test_previous(void)
{
    in_child(ignored_raise, 0);
    in_child(ignored_kill, 0);
    in_child(ignored_of_another, 0);
    in_child(ignored_fault, 0);
    in_child(default_raise, 0);
    in_child(default_raise_twice, SIGBUS);
    in_child(default_fault, SIGBUS);
    in_child(informed_raise, 0);
    in_child(test_no_page, 0);
    in_child(test_slots, 0);
    in_child(install_again, 0);
}

int main(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    test_begin("test_guard");
    if (getenv("EMULATED") == NULL) {
        test_previous();
    } else { /* valgrind has no stack for a handler there, QEMU aborts when SIGBUS is fatal */
        printf("test_guard: skipped: what a child's handlers of before do\n");
    }
    CHECK(signal(SIGBUS, on_foreign) != SIG_ERR); /* AddressSanitizer has one already */
    for (uint64_t size = 0; size < MC_MAP_MIN; size += size < 12288 ? 4096 : 65536) {
        fill(&writer, &oracle);
        read_truncated(&oracle, size);
        mc_writer_close(writer);
    }
    for (int i = 0; i < test_rounds(30); i++) {
        fill(&writer, &oracle);
        read_truncated(&oracle, test_below(MC_MAP_MIN - 4096));
        mc_writer_close(writer);
    }
    test_zeros_half_done();
    test_without_tail();
    test_tail_moves();
    test_writer_publishes();
    test_writer_without_tail();
    test_writer();
    test_chain();
    test_many_maps();
    remove_cache(test_path());
    return 0;
}
