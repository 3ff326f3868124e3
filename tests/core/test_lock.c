/* test_lock.c - the writer's locks: who keeps whom out, what happens at the death of a process, and
 * what other users can do about it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "faults.h"
#include "region.h"
#include "store_support.h"

/* The lock file's path. */
static const char *lock_path(void)
{
    static char path[96];
    (void)snprintf(path, sizeof path, "%s%s", test_path(), MC_LOCK_SUFFIX);
    return path;
}

static void test_lock(void)
{
    struct mc_lock *lock, *second;
    remove_cache(test_path());
    CHECK_OK(mc_lock_take(lock_path(), &lock, &test_error));
    CHECK(mc_lock_is_ours(lock));
    CHECK_EQ(mc_lock_take(lock_path(), &second, &test_error), MC_LOCKED);
    mc_lock_release(lock);
    CHECK_OK(mc_lock_take(lock_path(), &second, &test_error));
    mc_lock_release(second);
    CHECK_EQ(mc_lock_take("/dev/null/lock", &lock, &test_error), MC_OS);
    CHECK_EQ(mc_lock_take("/dev/shm/mmapcache-no-such-directory/lock", &lock, NULL), MC_OS);
    remove_cache(test_path());
}

/* Asking neither takes the lock nor keeps anybody from taking it. */
static void test_asking(void)
{
    struct mc_region writer, second, reader;
    remove_cache(test_path());
    CHECK_OK(mc_region_create(test_path(), &writer, &test_error));
    CHECK_OK(mc_region_open(test_path(), true, MC_OWNER_TRUSTED, &second, &test_error));
    CHECK_OK(mc_region_open(test_path(), false, MC_OWNER_TRUSTED, &reader, &test_error));
    CHECK(!mc_region_is_locked(&reader));
    CHECK_OK(mc_region_lock(&writer, test_path(), &test_error));
    CHECK(mc_region_is_locked(&reader) && mc_region_is_locked(&reader));
    CHECK_EQ(mc_region_lock(&second, test_path(), &test_error), MC_LOCKED);
    mc_region_close(&writer);
    CHECK(!mc_region_is_locked(&reader));
    CHECK_OK(mc_region_lock(&second, test_path(), &test_error));
    mc_region_close(&second);
    mc_region_close(&reader);
    remove_cache(test_path());
}

/* Between its opening and its locking a file is removed, and then there is another one. */
static void test_moved_file(void)
{
    struct mc_region region, other;
    remove_cache(test_path());
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    CHECK(unlink(test_path()) == 0);
    CHECK_EQ(mc_region_lock(&region, test_path(), &test_error), MC_LOCKED);
    CHECK(strstr(test_error.text, test_path()) != NULL);
    CHECK_OK(mc_region_create(test_path(), &other, &test_error));
    CHECK_EQ(mc_region_lock(&region, test_path(), &test_error), MC_LOCKED);
    CHECK(region.lock == NULL && !mc_region_is_locked(&region));
    faults_arm(FAULT_BIT(FAULT_OPEN), 0, false, ESTALE); /* as system_posix.c says it */
    CHECK_EQ(mc_region_lock(&other, test_path(), &test_error), MC_LOCKED);
    CHECK_EQ(faults_disarm(), 1);
    CHECK_OK(mc_region_lock(&other, test_path(), &test_error));
    mc_region_close(&region);
    mc_region_close(&other);
    remove_cache(test_path());
}

static const char *lock_target; /* what the lock's path becomes while it is being locked */

static void move_lock(enum fault kind)
{
    if (kind == FAULT_LOCK) {
        CHECK(unlink(lock_path()) == 0);
        if (lock_target != NULL) {
            CHECK(symlink(lock_target, lock_path()) == 0);
        }
    }
}

/* Somebody removes the lock's file, or puts another in its place, between its opening and its
 * locking: a lock on it would keep nobody out. */
static void test_moved_lock(void)
{
    static const char *const targets[] = {NULL, "/dev/null", "/dev/shm"};
    struct mc_lock *lock;
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        remove_cache(test_path());
        lock_target = targets[i];
        faults_before = move_lock;
        CHECK_EQ(mc_lock_take(lock_path(), &lock, &test_error), MC_LOCKED);
        faults_before = NULL;
    }
    remove_cache(test_path());
    CHECK_OK(mc_lock_take(lock_path(), &lock, &test_error));
    mc_lock_release(lock);
    remove_cache(test_path());
}

/* Locks that the holder's child does not keep: the holder is killed, the child lives on. */
static void test_locks_die_with_their_holder(void)
{
    char byte;
    int ready[2], stop[2], status;
    struct mc_lock *lock;
    struct mc_region region;
    remove_cache(test_path());
    CHECK_OK(mc_region_create(test_path(), &region, &test_error));
    CHECK(pipe(ready) == 0 && pipe(stop) == 0);
    pid_t holder = fork();
    if (holder == 0) {
        CHECK_OK(mc_lock_take(lock_path(), &lock, &test_error));
        CHECK_OK(mc_region_lock(&region, test_path(), &test_error));
        if (fork() == 0) {
            CHECK(!mc_lock_is_ours(lock) && !mc_lock_is_ours(region.lock));
            CHECK(write(ready[1], "r", 1) == 1 && close(stop[1]) == 0);
            _exit(read(stop[0], &byte, 1) == 0 ? 0 : 1); /* until the test has ended */
        }
        for (;;) {
            (void)pause();
        }
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    CHECK(mc_region_is_locked(&region));
    CHECK_EQ(mc_lock_take(lock_path(), &lock, &test_error), MC_LOCKED);
    CHECK(kill(holder, SIGSTOP) == 0);
    CHECK(mc_region_is_locked(&region)); /* stopped is not dead */
    CHECK(kill(holder, SIGKILL) == 0 && waitpid(holder, &status, 0) == holder);
    CHECK(!mc_region_is_locked(&region));
    CHECK_OK(mc_lock_take(lock_path(), &lock, &test_error));
    mc_lock_release(lock);
    mc_region_close(&region);
    for (int i = 0; i < 2; i++) {
        CHECK(close(ready[i]) == 0 && close(stop[i]) == 0);
    }
    remove_cache(test_path());
}

/* ---- other users ---- */

static mode_t mode_of(const char *path)
{
    struct stat file;
    CHECK(stat(path, &file) == 0);
    return file.st_mode & 07777;
}

/* Nobody but the loader's user can open the lock file, one of an older version included. */
static void test_mode_of_lock(void)
{
    struct mc_lock *lock;
    for (int older = 0; older < 2; older++) {
        remove_cache(test_path());
        if (older) {
            int fd = open(lock_path(), O_CREAT | O_RDWR, 0600);
            CHECK(fd >= 0 && fchmod(fd, 0644) == 0 && close(fd) == 0);
            faults_arm(FAULT_BIT(FAULT_MODE), 0, true, 0);
            CHECK_EQ(mc_lock_take(lock_path(), &lock, &test_error), MC_OS);
            CHECK_EQ(faults_disarm(), 1);
        }
        mode_t old = umask(0);
        CHECK_OK(mc_lock_take(lock_path(), &lock, &test_error));
        (void)umask(old);
        CHECK_EQ(mode_of(lock_path()), 0600);
        mc_lock_release(lock);
    }
    remove_cache(test_path());
}

static void refused_for(const char *sentence)
{
    struct mc_lock *lock;
    CHECK_EQ(mc_lock_take(lock_path(), &lock, &test_error), MC_OS);
    CHECK(test_error.os_errno != 0);
    CHECK(strstr(test_error.text, lock_path()) != NULL &&
          strstr(test_error.text, sentence) != NULL);
    CHECK_EQ(mc_lock_take(lock_path(), &lock, NULL), MC_OS);
}

/* Whatever somebody put where the lock has to be: a sentence says what, and what to do. */
static void test_lock_in_the_way(void)
{
    remove_cache(test_path());
    CHECK(mkdir(lock_path(), 0700) == 0);
    refused_for("not a regular file");
    CHECK(rmdir(lock_path()) == 0 && mkfifo(lock_path(), 0600) == 0);
    refused_for("not a regular file");
    CHECK(unlink(lock_path()) == 0 && symlink("/dev/null", lock_path()) == 0);
    refused_for("not a regular file");
    CHECK(unlink(lock_path()) == 0);
    int fd = open(lock_path(), O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0 && close(fd) == 0);
    faults_user = (long)geteuid() + 12345; /* as if we were somebody else */
    refused_for("belongs to uid");
    faults_user = -1;
    if (geteuid() == 0) { /* in a sticky directory the kernel may refuse by itself to open it */
        CHECK(chown(lock_path(), 12345, 12345) == 0);
        refused_for("belongs to uid 12345");
        CHECK(seteuid(12346) == 0);
        refused_for("belongs to uid 12345"); /* cannot even be opened */
        CHECK(seteuid(0) == 0);
    } else {
        printf("test_lock: skipped: another user's lock file: only root can make one\n");
    }
    remove_cache(test_path());
}

/* A new file's name that is taken: removed where that can be done, a sentence where it cannot. */
static void test_temporary_in_the_way(void)
{
    char temporary[96];
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    (void)snprintf(temporary, sizeof temporary, "%s.new", test_path());
    remove_cache(test_path());
    CHECK(mkdir(temporary, 0700) == 0);
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_OS);
    CHECK(strstr(test_error.text, temporary) != NULL &&
          strstr(test_error.text, "Remove it") != NULL);
    CHECK_EQ(test_error.os_errno, EEXIST);
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, NULL), MC_OS);
    CHECK(rmdir(temporary) == 0 && mkfifo(temporary, 0600) == 0);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* Locks that whoever may read the file can take: flock, and a read lock on all of it. PORTABLE: the
 * one that is shared, the other would be a loader's. */
static int lock_as_reader(bool read_lock)
{
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int fd = open(test_path(), O_RDONLY);
    CHECK(fd >= 0 && flock(fd, PORTABLE ? LOCK_SH : LOCK_EX) == 0);
    CHECK(!read_lock || fcntl(fd, F_OFD_SETLK, &whole) == 0);
    return fd;
}

static enum mc_loader loader_seen(void)
{
    struct mc_map *map;
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(mc_map_owner(map), geteuid());
    enum mc_loader loader = mc_map_loader(map);
    mc_map_release(map);
    return loader;
}

static void put_one(struct mc_writer *writer, uint32_t version)
{
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, version));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

/* Readers' locks stop no loader, and are not taken for one. */
static void test_locks_of_readers(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer, *second;
    struct mc_map *old;
    struct mc_view view;
    bool equal;
    struct oracle content;
    writer = open_new_cache(&options);
    put_one(writer, 1);
    mc_writer_close(writer);
    oracle_clear(&content);
    content.exists[0] = true;
    content.version[0][1] = 1;
    for (int read_lock = PORTABLE; read_lock < 2; read_lock++) {
        int fd = lock_as_reader(read_lock);
        CHECK_EQ(loader_seen(), MC_LOADER_NONE);
        CHECK_OK(mc_map_open(test_path(), &old, &test_error));
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_EQ(loader_seen(), MC_LOADER_ALIVE);
        CHECK_EQ(!mc_map_is_at(old, test_path()), read_lock); /* then there is a new file */
        mc_map_release(old);
        mc_writer_view(writer, &view);
        CHECK_OK(view_equals(&view, &content, &equal));
        CHECK(equal);
        CHECK_EQ(mc_writer_open(test_path(), &options, &second, &test_error), MC_LOCKED);
        CHECK(unlink(lock_path()) == 0); /* the lock on the file itself has to do */
        CHECK_EQ(mc_writer_open(test_path(), &options, &second, &test_error), MC_LOCKED);
        mc_writer_close(writer);
        CHECK(close(fd) == 0);
    }
    remove_cache(test_path());
}

/* The same where there is no room for a second file: the loader starts, unseen by readers. */
static void test_lock_of_reader_without_room(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    writer = open_new_cache(&options);
    put_one(writer, 1);
    mc_writer_close(writer);
    int fd = lock_as_reader(true);
    faults_arm(FAULT_BIT(FAULT_ALLOCATE), 1, true, 0); /* the first one is for holes in the file */
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(faults_disarm(), 1);
    CHECK(mc_writer_is_mine(writer));
    put_one(writer, 2);
    CHECK_EQ(loader_seen(), MC_LOADER_DEAD);
    mc_writer_close(writer);
    CHECK(close(fd) == 0);
    remove_cache(test_path());
}

/* What the kernel may say to who asks for the lock of the file. */
static void test_answers_to_locking(void)
{
    static const struct {
        int number;
        enum mc_status status;
        bool obstructed;
    } answers[] = {
        {EAGAIN, MC_OK, true}, /* nobody else has a write lock, so a reader's is in the way */
        {EACCES, MC_OK, true},
        {EINVAL, MC_OK, false}, /* a kernel without such locks */
        {ENOLCK, MC_OS, false},
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct mc_region region;
        if (PORTABLE && answers[i].number == EINVAL) {
            continue; /* there is no such system */
        }
        remove_cache(test_path());
        CHECK_OK(mc_region_create(test_path(), &region, &test_error));
        faults_arm(FAULT_BIT(PORTABLE ? FAULT_LOCK : FAULT_FCNTL), 0, false, answers[i].number);
        CHECK_EQ(mc_region_lock(&region, test_path(), &test_error), answers[i].status);
        CHECK_EQ(faults_disarm(), 1);
        if (answers[i].status == MC_OK) {
            bool tried_again = PORTABLE && answers[i].number == EAGAIN;
            CHECK_EQ(mc_lock_is_obstructed(region.lock), answers[i].obstructed && !tried_again);
            CHECK(mc_lock_is_ours(region.lock));
        }
        mc_region_close(&region);
    }
    remove_cache(test_path());
}

/* A file that may be another one than readers have open, although its name and numbers are the
 * same, is replaced. */
static void test_overlaid(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    struct mc_map *map;
    struct mc_view view;
    writer = open_new_cache(&options);
    put_one(writer, 1);
    mc_writer_close(writer);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    options.max_size = 0; /* the file's own */
    faults_overlay = true;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    faults_overlay = false;
    CHECK(!mc_map_is_at(map, test_path()));
    mc_map_release(map);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(mc_map_superblock(map)->max_size, 8u << 20);
    CHECK_OK(mc_view_open(map, &view, &test_error));
    check_clean(&view);
    mc_map_release(map);
    mc_writer_close(writer);
    remove_cache(test_path());
}

int main(void)
{
    test_begin("test_lock");
    test_lock();
    test_asking();
    test_moved_file();
    test_moved_lock();
    test_locks_die_with_their_holder();
    test_mode_of_lock();
    test_lock_in_the_way();
    test_temporary_in_the_way();
    test_locks_of_readers();
    test_lock_of_reader_without_room();
    test_answers_to_locking();
    if (!PORTABLE) { /* which is Linux's own */
        test_overlaid();
    }
    return 0;
}
