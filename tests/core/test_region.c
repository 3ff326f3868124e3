/* test_region.c - what may be opened, what a full file system, a sparse file, closed standard
 * streams and another boot of the machine do. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "faults.h"
#include "region.h"
#include "store_support.h"

/* ---- files ---- */

static void wait_for(pid_t child, int expected)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == expected);
}

static enum mc_status try_open(const char *path, bool writable)
{
    struct mc_region region;
    enum mc_status status = mc_region_open(path, writable, MC_OWNER_TRUSTED, &region, &test_error);
    CHECK(status == MC_OK || region.fd < 0);
    mc_region_close(&region);
    mc_region_close(&region); /* harmless twice */
    return status;
}

static void make_file(const char *path, mode_t mode)
{
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
    CHECK(fd >= 0 && fchmod(fd, mode) == 0 && close(fd) == 0);
}

static void test_kinds(void)
{
    char link[96];
    const char *path = test_path();
    remove_cache(path);
    (void)snprintf(link, sizeof link, "%s.new", path); /* a name that the test removes anyway */
    for (int writable = 0; writable < 2; writable++) {
        CHECK_EQ(try_open(path, writable), MC_NOT_READY);
        CHECK_EQ(try_open("/dev/shm", writable), MC_FORMAT);
        CHECK_EQ(try_open("/dev/null", writable), MC_FORMAT);
        CHECK_EQ(try_open("/dev/null/nothing", writable), MC_OS);
        CHECK_EQ(test_error.os_errno, ENOTDIR);
        CHECK(mkfifo(path, 0600) == 0);
        CHECK_EQ(try_open(path, writable), MC_FORMAT);
        CHECK(unlink(path) == 0);
        make_file(path, 0666);
        CHECK_EQ(try_open(path, writable), MC_FORMAT);
        CHECK(chmod(path, 0640) == 0);
        CHECK_EQ(try_open(path, writable), MC_OK);
        CHECK(symlink(path, link) == 0);
        CHECK_EQ(try_open(link, writable), MC_FORMAT);
        CHECK(unlink(link) == 0 && unlink(path) == 0);
    }
}

static enum mc_status try_open_of(int64_t owner)
{
    struct mc_region region;
    enum mc_status status = mc_region_open(test_path(), false, owner, &region, &test_error);
    mc_region_close(&region);
    return status;
}

/* Another user's file is not ours to write, though we could, root not excepted; and it is believed
 * only when one has said whose it may be. */
static void test_owner_of_file(void)
{
    remove_cache(test_path());
    make_file(test_path(), 0664);
    if (geteuid() == 0) {
        CHECK(chown(test_path(), 12345, 54321) == 0);
        CHECK_EQ(try_open(test_path(), true), MC_FORMAT);
        CHECK_EQ(try_open(test_path(), false), MC_FORMAT);
        CHECK(strstr(test_error.text, "belongs to uid 12345") != NULL);
        CHECK(strstr(test_error.text, "owner=12345") != NULL);
        CHECK_EQ(try_open_of(12345), MC_OK);
        CHECK_EQ(try_open_of(12346), MC_FORMAT);
        CHECK(setegid(54321) == 0 && seteuid(12346) == 0);
        CHECK_EQ(try_open(test_path(), true), MC_FORMAT);
        CHECK_EQ(try_open(test_path(), false), MC_FORMAT);
        CHECK_EQ(try_open_of(12345), MC_OK);
        CHECK(seteuid(0) == 0 && seteuid(12345) == 0);
        CHECK_EQ(try_open(test_path(), true), MC_OK); /* the owner */
        CHECK_EQ(try_open(test_path(), false), MC_OK);
        CHECK(seteuid(0) == 0 && setegid(0) == 0 && chown(test_path(), 0, 0) == 0);
        CHECK(seteuid(12345) == 0);
        CHECK_EQ(try_open(test_path(), false), MC_OK); /* root's */
        CHECK(seteuid(0) == 0);
    } else {
        printf("test_region: skipped: other users' files: only root can make them\n");
    }
    faults_user = geteuid() == 0 ? 12346 : 0;
    CHECK_EQ(try_open(test_path(), true), MC_FORMAT);
    CHECK(strstr(test_error.text, test_path()) != NULL);
    faults_user = -1;
    remove_cache(test_path());
}

/* In a process that has closed its standard streams, none of our descriptors takes their place. */
static void test_closed_streams(void)
{
    struct mc_writer_options options = small_options();
    remove_cache(test_path());
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct mc_writer *writer, *anonymous;
        struct mc_map *map, *other;
        struct stat stream;
        bool sound = close(0) == 0 && close(1) == 0 && close(2) == 0 &&
                     mc_writer_open(test_path(), &options, &writer, NULL) == MC_OK &&
                     mc_writer_open_anonymous(&options, &anonymous, NULL) == MC_OK &&
                     mc_map_open(test_path(), &map, NULL) == MC_OK &&
                     mc_map_open_fd(mc_writer_fd(anonymous), &other, NULL) == MC_OK;
        for (int fd = 0; fd < 3; fd++) {
            sound = sound && fstat(fd, &stream) != 0;
        }
        faults_arm(FAULT_BIT(FAULT_FCNTL), 0, true, EMFILE); /* no number of 3 or more is left */
        struct mc_map *none;
        sound = sound && mc_map_open(test_path(), &none, NULL) == MC_OS && fstat(0, &stream) != 0;
        (void)faults_disarm();
        if (sound) {
            mc_map_release(map);
            mc_map_release(other);
            mc_writer_close(writer);
            mc_writer_close(anonymous);
        }
        exit(sound ? 0 : 1); /* not _exit: what was executed counts */
    }
    wait_for(child, 0);
    remove_cache(test_path());
}

static long blocks_of(const struct mc_region *region)
{
    struct stat file;
    CHECK(fstat(region->fd, &file) == 0);
    return (long)file.st_blocks;
}

/* Populating a sparse file does not fill it. */
static void test_populate_sparse(void)
{
    struct mc_region region;
    remove_cache(test_path());
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    CHECK_OK(mc_region_map(&region, 8 * MC_EXTENT, &test_error));
    CHECK(ftruncate(region.fd, 16 * MC_EXTENT) == 0); /* longer than what is mapped, too */
    enum mc_status can = mc_region_populate(&region, &test_error); /* nothing there */
    CHECK_EQ(can, MC_OK);
    CHECK_EQ(blocks_of(&region), 0);
    CHECK(pwrite(region.fd, "x", 1, MC_EXTENT) == 1 &&
          pwrite(region.fd, "x", 1, 12 * MC_EXTENT) == 1);
    long blocks = blocks_of(&region);
    can = mc_region_populate(&region, &test_error);
    CHECK(can == MC_OK || (can == MC_OS && test_error.os_errno == EINVAL)); /* an old kernel */
    CHECK_EQ(blocks_of(&region), blocks);
    for (long left = 0; left < 2; left++) {
        faults_arm(FAULT_BIT(FAULT_SEEK), left, false, 0);
        CHECK_EQ(mc_region_populate(&region, &test_error), MC_OS);
        CHECK_EQ(faults_disarm(), 1);
    }
    CHECK(ftruncate(region.fd, 0) == 0);
    CHECK_OK(mc_region_populate(&region, &test_error));
    mc_region_close(&region);
    remove_cache(test_path());
}

static void test_create(void)
{
    struct mc_region region;
    struct stat file;
    uint8_t bytes[8];
    remove_cache(test_path());
    mode_t old = umask(077);
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    CHECK(fstat(region.fd, &file) == 0);
    CHECK_EQ(file.st_mode & 07777, 0600);
    CHECK_OK(mc_region_set_mode(&region, 0640, &test_error));
    (void)umask(old);
    CHECK(fstat(region.fd, &file) == 0);
    CHECK_EQ(file.st_mode & 07777, 0640);
    CHECK_EQ(mc_region_peek(&region, bytes, sizeof bytes, &test_error), MC_FORMAT);
    CHECK(mc_region_is_at(&region, test_path()) && !mc_region_is_at(&region, "/dev/null"));
    CHECK(!mc_region_is_at(&region, "/dev/null/nothing") && !mc_region_is_at(&region, "/dev/shm"));
    CHECK(!mc_region_is_lost(&region)); /* not even mapped */
    struct mc_region second;
    CHECK_EQ(mc_region_create(test_path(), &second, &test_error), MC_OS);
    CHECK_EQ(test_error.os_errno, EEXIST);
    CHECK_EQ(mc_file_rename("/dev/shm/mmapcache-no-such-file", test_path(), &test_error), MC_OS);
    mc_region_close(&region);
    CHECK_EQ(mc_region_open_fd(-1, &region, &test_error), MC_OS);
    remove_cache(test_path());
}

/* ---- room ---- */

/* A limit on the file's size is a file system without room: MC_FULL, no signal, and the file can
 * still be used as it is. */
static void test_no_room(void)
{
    struct rlimit old, small = {.rlim_cur = 2 * MC_EXTENT, .rlim_max = RLIM_INFINITY};
    struct mc_region region;
    uint64_t collapsed = 0;
    bool huge = false;
    remove_cache(test_path());
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0 && signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    small.rlim_max = old.rlim_max;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    CHECK_OK(mc_region_map(&region, 8 * MC_EXTENT, &test_error));
    CHECK_OK(mc_region_grow(&region, test_path(), MC_EXTENT, &huge, &collapsed, &test_error));
    CHECK_EQ(mc_region_grow(&region, test_path(), 3 * MC_EXTENT, &huge, &collapsed, &test_error),
             MC_FULL);
    CHECK_EQ(test_error.needed, 2 * MC_EXTENT);
    CHECK(strstr(test_error.text, PORTABLE ? "the file system at /dev/shm ("
                                           : "the file system at /dev/shm (tmpfs, ") != NULL);
    CHECK(strstr(test_error.text, "File too large") != NULL);
    CHECK(strstr(test_error.text, "ulimit -f") != NULL);
    static const struct {
        int number;
        const char *cure;
    } cures[] = {{ENOSPC, PORTABLE ? "make room" : "docker run --shm-size"},
                 {ENOMEM, "memory limit"},
                 {EDQUOT, "make room"}};
    for (size_t i = 0; i < sizeof cures / sizeof cures[0]; i++) {
        faults_arm(FAULT_BIT(FAULT_ALLOCATE), 0, true, cures[i].number);
        CHECK_EQ(
            mc_region_grow(&region, test_path(), 2 * MC_EXTENT, &huge, &collapsed, &test_error),
            MC_FULL);
        CHECK(faults_disarm() > 0 && strstr(test_error.text, cures[i].cure) != NULL);
    }
    CHECK_EQ(region.file_size, MC_EXTENT);
    /* One whose file system begins at the root, under a path that is longer than what is shown. */
    char far[300] = "/";
    struct stat top;
    uint64_t device = region.device;
    memset(far + 1, 'a', sizeof far - 2);
    CHECK_EQ(stat("/", &top), 0);
    region.device = top.st_dev;
    faults_arm(FAULT_BIT(FAULT_ALLOCATE), 0, true, EDQUOT);
    CHECK_EQ(mc_region_grow(&region, far, 2 * MC_EXTENT, &huge, &collapsed, &test_error), MC_FULL);
    CHECK(faults_disarm() > 0 && strstr(test_error.text, "the file system at / (") != NULL);
    region.device = device;
    CHECK_OK(mc_region_grow(&region, test_path(), 2 * MC_EXTENT, &huge, &collapsed, &test_error));
    shm_store(region.base + 2 * MC_EXTENT - 8, 1);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    mc_region_close(&region);
    remove_cache(test_path());
}

/* The whole writer on such a file system: fails as a whole, goes on with less, grows later. */
static void test_writer_without_room(void)
{
    struct rlimit old, small;
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    struct mc_view view;
    struct oracle committed;
    uint64_t generation;
    bool equal, changed;
    static uint8_t big[300000];
    const uint32_t len = sizeof big;
    struct mc_key key;
    fill_document(big, len, 0);
    remove_cache(test_path());
    oracle_clear(&committed);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    small = (struct rlimit){.rlim_cur = MC_EXTENT, .rlim_max = old.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    for (int round = 0; round < 4; round++) {
        enum mc_status status = MC_OK;
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(put_version(writer, 0, round, round));
        for (int i = 0; i < 20 && status == MC_OK; i++) {
            mc_key_from_int64(i, &key);
            status = mc_batch_put(writer, "big", 3, &key, big, len, &changed, &test_error);
        }
        if (round < 3) {
            CHECK_EQ(status, MC_FULL);
            CHECK_EQ(test_error.limit, options.max_size);
            CHECK(strstr(test_error.text, "the file system at /dev/shm (") != NULL);
            CHECK(strstr(test_error.text, "max_size") == NULL); /* it is not to blame */
            mc_batch_abort(writer);
            CHECK_OK(mc_batch_begin(writer, &test_error));
            CHECK_OK(put_version(writer, 0, round, round));
        } else {
            CHECK_EQ(status, MC_OK);
        }
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        committed.exists[0] = true;
        committed.version[0][round] = round;
        mc_writer_view(writer, &view);
        CHECK_EQ(view_equals(&view, &committed, &equal), MC_OK);
        CHECK(equal);
        check_clean(&view);
        if (round == 2) {
            CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
        }
    }
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* Whether madvise does anything: qemu-user says yes to advice that nobody has heard of, and to all
 * that follows here, and does nothing. */
static bool advice_counts(const char *untested)
{
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    bool refused = madvise(page, 4096, 0x7FFF) != 0;
    CHECK_EQ(munmap(page, 4096), 0);
    if (!refused) {
        printf("test_region: skipped: %s: madvise does nothing here\n", untested);
    }
    return refused;
}

/* Where huge pages can be had, the bytes are as zero as others, and all there. */
static void test_huge(void)
{
    struct mc_region region;
    uint64_t collapsed = 0;
    bool huge = true;
    struct stat file;
    (void)advice_counts("MADV_COLLAPSE and MADV_POPULATE_READ, which are believed");
    remove_cache(test_path());
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    CHECK_OK(mc_region_map(&region, 4 * MC_EXTENT, &test_error));
    faults_arm(FAULT_BIT(FAULT_FALLOCATE) | FAULT_BIT(FAULT_ALLOCATE), 0, true, ENOSPC);
    CHECK_EQ(mc_region_grow(&region, test_path(), MC_EXTENT, &huge, &collapsed, &test_error),
             MC_FULL);
    CHECK(faults_disarm() > 0 && huge && collapsed == 0); /* which says nothing of huge pages */
    CHECK_OK(mc_region_grow(&region, test_path(), 2 * MC_EXTENT, &huge, &collapsed, &test_error));
    CHECK(huge == (collapsed == 2 * MC_EXTENT));
    CHECK(fstat(region.fd, &file) == 0 && (uint64_t)file.st_blocks * 512 >= 2 * MC_EXTENT);
    for (uint64_t at = 0; at < 2 * MC_EXTENT; at += 4096) {
        CHECK_EQ(shm_load(region.base + at), 0);
    }
    CHECK_OK(mc_region_fill(&region, test_path(), &test_error));
    CHECK_OK(mc_region_sync(&region, region.file_size, &test_error));
    enum mc_status status = mc_region_populate(&region, &test_error);
    CHECK(status == MC_OK || status == MC_OS);
    mc_region_close(&region);
    remove_cache(test_path());
}

/* An anonymous cache is read through its descriptor, cannot shrink, and has one writer. */
static void test_anonymous(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    struct mc_map *map;
    struct mc_view view;
    uint64_t generation;
    CHECK_OK(mc_writer_open_anonymous(&options, &writer, &test_error));
    int fd = mc_writer_fd(writer);
    CHECK(fd >= 0);
    if (!PORTABLE) {
        CHECK_EQ(ftruncate(fd, 0), -1);
        CHECK_EQ(errno, EPERM);
        CHECK_EQ(ftruncate(fd, (off_t)(MC_EXTENT / 2)), -1);
    }
    CHECK_OK(mc_map_open_fd(fd, &map, &test_error));
    CHECK_EQ(mc_map_loader(map), MC_LOADER_ALIVE);
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_NOT_READY);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    check_clean(&view);
    mc_writer_close(writer);
    CHECK_EQ(mc_map_loader(map), MC_LOADER_NONE);
    mc_map_release(map);
}

/* A reservation that does not begin on a huge page's boundary, as older kernels give it. */
static void test_alignment(void)
{
    struct mc_region region;
    uint64_t collapsed = 0;
    bool huge = false;
    remove_cache(test_path());
    uint8_t *space = mmap(NULL, 8 * MC_EXTENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(space != MAP_FAILED && munmap(space, 8 * MC_EXTENT) == 0);
    for (uint64_t from = 4096; from < MC_EXTENT; from *= 8) {
        faults_map_at = space + from;
        CHECK_OK(mc_region_create(test_path(), &region, &test_error));
        CHECK_OK(mc_region_map(&region, 2 * MC_EXTENT, &test_error));
        faults_map_at = NULL;
        CHECK_EQ((uintptr_t)region.base % MC_EXTENT, 0);
        CHECK_OK(
            mc_region_grow(&region, test_path(), 2 * MC_EXTENT, &huge, &collapsed, &test_error));
        shm_store(region.base, 1);
        shm_store(region.base + 2 * MC_EXTENT - 8, 1);
        mc_region_close(&region);
        remove_cache(test_path());
    }
}

/* ---- children and boots ---- */

/* A forked child has neither the writer's lock nor its mapping, and the parent goes on. */
static void test_child_of_writer(void)
{
    /* The compiler knows fork by name, and lets a build that measures coverage forget in the child
     * what the handlers have done. */
    pid_t (*const fork_itself)(void) = fork;
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    struct mc_view view;
    uint64_t generation;
    bool may_be_mapped = !advice_counts("a child without the writer's mapping, MADV_DONTFORK");
    writer = open_new_cache(&options);
    mc_writer_view(writer, &view);
    pid_t child = fork_itself();
    if (child == 0) {
        /* Whether the page is there is asked of the kernel, not by touching it. */
        unsigned char resident;
        bool mapped = mincore(view.space.base, 4096, &resident) == 0;
        exit((mapped && !may_be_mapped) || mc_writer_is_mine(writer));
    }
    wait_for(child, 0);
    CHECK(mc_writer_is_mine(writer));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* Who has no descriptor left to ask with is told so; who may not ask hears of an unknown boot. */
static void test_asking_for_the_boot_in_vain(void)
{
    static const int numbers[] = {EMFILE, ENFILE, ENOMEM, EACCES, ENOENT};
    uint8_t id[16], zero[16] = {0};
    if (PORTABLE) {
        printf("test_region: skipped: asking which boot it is: there is nobody to ask\n");
        return;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        faults_arm(FAULT_BIT(FAULT_OPEN), 0, true, numbers[i]);
        enum mc_status status = mc_boot_id(id, &test_error);
        CHECK_EQ(faults_disarm(), 1);
        CHECK_EQ(status, i < 3 ? MC_OS : MC_OK);
        CHECK(memcmp(id, zero, 16) == 0);
    }
}

static void patch_file(uint64_t offset, uint8_t flip)
{
    uint8_t byte;
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
    byte ^= flip;
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1 && close(fd) == 0);
}

/* Changes one byte of every document in the file, old ones included. */
static void damage_documents(void)
{
    static uint8_t bytes[MC_EXTENT];
    int fd = open(test_path(), O_RDONLY), found = 0;
    CHECK(fd >= 0 && pread(fd, bytes, sizeof bytes, 0) == sizeof bytes && close(fd) == 0);
    for (uint64_t at = MC_RING_OFFSET; at + 4 < sizeof bytes; at++) {
        if (memcmp(bytes + at, "pad", 4) == 0) {
            patch_file(at + 12, 0x10);
            found++;
        }
    }
    CHECK(found > 0);
}

static enum mc_status view_status(void)
{
    struct mc_map *map;
    struct mc_view view;
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    enum mc_status status = mc_view_open(map, &view, &test_error);
    mc_map_release(map);
    return status;
}

static void test_boots(void)
{
    const uint64_t boot = MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id);
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    uint64_t generation;
    make_small_cache();
    CHECK_EQ(view_status(), MC_OK);
    patch_file(boot, 0x40); /* the machine was restarted */
    CHECK_EQ(view_status(), MC_NOT_READY);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error)); /* which verifies */
    CHECK_EQ(view_status(), MC_OK);
    CHECK_OK(mc_writer_checkpoint(writer, &test_error));
    mc_writer_close(writer);
    patch_file(boot, 0x40);
    CHECK_EQ(view_status(), MC_OK); /* a checkpoint survives a restart */
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 2));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK_EQ(view_status(), MC_OK);
    struct mc_view view;
    mc_writer_view(writer, &view); /* the disk may hold half a generation: the mark is gone */
    CHECK_EQ(mc_checkpoint(&view.space), 0);
    mc_writer_close(writer);
    patch_file(boot, 0x40);
    CHECK_EQ(view_status(), MC_NOT_READY); /* not the next generation, which no disk has */
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(view_status(), MC_OK);
    mc_writer_close(writer);
    patch_file(boot, 0x40);
    damage_documents();
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_CORRUPT);
    CHECK_EQ(view_status(), MC_NOT_READY); /* nothing was confirmed */
    remove_cache(test_path());
}

/* A loader makes a file and dies, the machine is restarted, the next loader commits: that is of
 * this boot, also in a file that goes on from another one's generation. */
static void test_boot_before_the_first_commit(void)
{
    const uint64_t boot = MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id);
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    uint64_t generation;
    options.recreate = true;
    remove_cache(test_path());
    for (int i = 0; i < 2; i++) {
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        mc_writer_close(writer);
        patch_file(boot, 0x40);
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(put_version(writer, 0, 1, 1));
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        CHECK_EQ(generation, 1 + i);
        CHECK_EQ(view_status(), MC_OK);
        mc_writer_close(writer);
        /* the root is damaged: the next file goes on from this generation */
        patch_file(MC_RING_OFFSET + sizeof(struct mc_root) + 16, 1);
    }
    remove_cache(test_path());
}

static void test_time(void)
{
    uint8_t first[16], second[16] = {1}, zero[16] = {0};
    uint32_t word = 7;
    int64_t start = mc_clock_ns();
    CHECK_OK(mc_boot_id(first, &test_error));
    CHECK_OK(mc_boot_id(second, &test_error));
    CHECK(memcmp(first, second, 16) == 0 && (memcmp(first, zero, 16) == 0) == PORTABLE);
    mc_futex_wait(&word, 8, 1000000000); /* it differs already */
    mc_futex_wait(&word, 7, 1000000);
    mc_futex_wake(&word);
    CHECK(mc_clock_ns() - start >= 1000000 && mc_clock_ns() - start < 1000000000);
    CHECK(mc_time_us() > INT64_C(1600000000000000));
}

int main(void)
{
    test_begin("test_region");
    test_kinds();
    test_owner_of_file();
    test_closed_streams();
    test_create();
    test_populate_sparse();
    test_no_room();
    test_writer_without_room();
    test_huge();
    test_anonymous();
    test_alignment();
    test_asking_for_the_boot_in_vain();
    test_child_of_writer();
    test_boots();
    test_boot_before_the_first_commit();
    test_time();
    return 0;
}
