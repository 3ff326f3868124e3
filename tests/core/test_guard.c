/* test_guard.c - a cache file truncated under its readers: an answer or an error, never a signal.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "guard.h"
#include "store_support.h"

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

int main(void)
{
    struct mc_writer *writer;
    struct oracle oracle;
    test_begin("test_guard");
    CHECK(signal(SIGBUS, on_foreign) == SIG_DFL);
    for (uint64_t size = 0; size < MC_MAP_MIN; size += size < 12288 ? 4096 : 65536) {
        fill(&writer, &oracle);
        read_truncated(&oracle, size);
        mc_writer_close(writer);
    }
    for (int i = 0; i < 30; i++) {
        fill(&writer, &oracle);
        read_truncated(&oracle, test_below(MC_MAP_MIN - 4096));
        mc_writer_close(writer);
    }
    test_writer();
    test_chain();
    remove_cache(test_path());
    return 0;
}
