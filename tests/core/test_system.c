/* test_system.c - what system.h promises of each of its twins, and the guard of a process that has
 * none of the descriptors that it once had.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faults.h"
#include "os.h"
#include "store_support.h"
#include "system.h"

static int make_file(uint64_t size)
{
    remove_cache(test_path());
    int fd = open(test_path(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    return fd;
}

static struct stat look(int fd)
{
    struct stat file;
    CHECK_EQ(fstat(fd, &file), 0);
    return file;
}

static void test_name(void)
{
    CHECK(strcmp(mc_system_name, PORTABLE ? "posix" : "linux") == 0);
}

/* What has holes gets blocks and keeps its bytes, and then it grows. */
static void test_allocate(void)
{
    static const uint64_t places[] = {0, 4096, MC_EXTENT - 1, MC_EXTENT, 2 * MC_EXTENT - 1};
    int fd = make_file(2 * MC_EXTENT);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        CHECK_EQ(pwrite(fd, "x", 1, (off_t)places[i]), 1);
    }
    CHECK((uint64_t)look(fd).st_blocks * 512 < MC_EXTENT);
    CHECK_EQ(mc_system_allocate(fd, 0, 2 * MC_EXTENT), 0);
    CHECK_EQ(mc_system_allocate(fd, 2 * MC_EXTENT, 3 * MC_EXTENT), 0);
    CHECK_EQ(mc_system_allocate(fd, 0, MC_EXTENT), 0); /* all there */
    CHECK_EQ(look(fd).st_size, 3 * MC_EXTENT);
    CHECK((uint64_t)look(fd).st_blocks * 512 >= 3 * MC_EXTENT);
    static char bytes[3 * MC_EXTENT];
    CHECK(pread(fd, bytes, sizeof bytes, 0) == sizeof bytes);
    uint64_t found = 0;
    for (uint64_t at = 0; at < sizeof bytes; at++) {
        found += bytes[at] != 0;
    }
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        CHECK_EQ(bytes[places[i]], 'x');
    }
    CHECK_EQ(found, sizeof places / sizeof places[0]);
    CHECK_EQ(close(fd), 0);
}

/* Half of the room is no room, and leaves the file as it was. */
static void test_no_room(void)
{
    struct rlimit old, small;
    int fd = make_file(MC_EXTENT);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0 && signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    small = (struct rlimit){.rlim_cur = 2 * MC_EXTENT, .rlim_max = old.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_EQ(mc_system_allocate(fd, MC_EXTENT, 3 * MC_EXTENT), EFBIG);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
    CHECK_EQ(look(fd).st_size, MC_EXTENT);
    CHECK_EQ(close(fd), 0);
    CHECK(mc_system_allocate(fd, 0, MC_EXTENT) == EBADF);
}

static void test_room(void)
{
    struct mc_room room;
    int fd = make_file(0);
    mc_system_room(fd, &room);
    CHECK(room.bytes > 0 && room.free <= room.bytes && (!PORTABLE || !room.tmpfs));
    CHECK_EQ(close(fd), 0);
    mc_system_room(fd, &room);
    CHECK(room.bytes == 0 && room.free == 0);
}

/* Who sleeps on a word goes on when it changes, in whichever process. */
static void test_wait(void)
{
    int status;
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(word != MAP_FAILED);
    pid_t child = fork();
    if (child == 0) {
        while (*(volatile uint32_t *)word == 0) {
            mc_system_wait(word, 0, INT64_C(3600) * 1000000000);
        }
        _exit(0);
    }
    CHECK_EQ(usleep(20000), 0); /* asleep by now, mostly */
    *(volatile uint32_t *)word = 1;
    mc_system_wake(word);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_EQ(munmap(word, 4096), 0);
}

/* ---- in children ---- */

static struct mc_map *map;
static struct mc_view view;

static void open_cache(void)
{
    make_small_cache();
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    view = view_of(map);
}

static void truncated(void)
{
    CHECK_EQ(truncate(test_path(), 0), 0);
    CHECK_EQ(shm_load(view.space.base + 16384), 0);
    CHECK(!mc_view_valid(&view));
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    mc_map_release(map);
    remove_cache(test_path());
}

/* Who makes itself a daemon closes descriptors that it does not know, and other files get their
 * numbers. */
static void close_all(void)
{
    for (int fd = 3; fd < 64; fd++) {
        (void)close(fd);
    }
}

static void all_closed(void)
{
    open_cache();
    close_all();
    truncated();
}

static void all_others(void)
{
    open_cache();
    close_all();
    for (int i = 0; i < 32; i++) {
        CHECK(open("/dev/zero", O_RDWR) >= 0);
    }
    truncated();
}

/* Where pages are larger, the one that the file's control page is in is replaced as a whole. */
static void larger_pages(long page)
{
    faults_page = page; /* what the guard goes by, from here on */
    open_cache();
    CHECK(shm_load(view.space.base) != 0);
    CHECK_EQ(truncate(test_path(), 8192), 0);
    CHECK_EQ(shm_load(view.space.base + MC_MAP_MIN - 8), 0);
    CHECK_EQ(shm_load(view.space.base), 0); /* the superblock, which the file still has */
    CHECK(!mc_view_valid(&view));
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    mc_map_release(map);
    remove_cache(test_path());
}

static void pages_of_16_kib(void)
{
    larger_pages(16384);
}

static void pages_of_64_kib(void)
{
    larger_pages(65536);
}

/* No place for files without a name: an anonymous cache may need one, others do not. */
static void no_folder(const char *folder, int number)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    CHECK_EQ(setenv("TMPDIR", folder, 1), 0);
    open_cache();
    truncated();
    enum mc_status status = mc_writer_open_anonymous(&options, &writer, &test_error);
    CHECK_EQ(status, PORTABLE ? MC_OS : MC_OK);
    CHECK(!PORTABLE || test_error.os_errno == number);
    if (status == MC_OK) {
        mc_writer_close(writer);
    }
}

static void folder_is_missing(void)
{
    no_folder("/dev/shm/mmapcache-no-such-directory", ENOENT);
}

static void folder_is_too_long(void)
{
    static char folder[2000];
    memset(folder, '/', sizeof folder - 1);
    no_folder(folder, ENAMETOOLONG);
}

int main(void)
{
    test_begin("test_system");
    if (getenv("EMULATED") == NULL) { /* valgrind keeps descriptors of its own */
        in_child(all_closed, 0);
        in_child(all_others, 0);
    }
    in_child(pages_of_16_kib, 0);
    in_child(pages_of_64_kib, 0);
    in_child(folder_is_missing, 0);
    in_child(folder_is_too_long, 0);
    test_name();
    test_allocate();
    test_no_room();
    test_room();
    test_wait();
    mc_yield(); /* comes back */
    remove_cache(test_path());
    return 0;
}
