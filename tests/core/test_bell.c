/* test_bell.c - the FIFO by which a loader wakes event loops: who is woken and how often, and what
 * else may be at its path.
 */
#define _GNU_SOURCE
#include "bell.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "faults.h"
#include "region.h"
#include "store_support.h"

#define RINGS 100000 /* more bytes than a pipe takes */
#define KEPT 64      /* bytes: what a ring takes out at the most */

static const char *bell_path(void)
{
    static char path[96];
    (void)snprintf(path, sizeof path, "%s%s", test_path(), MC_BELL_SUFFIX);
    return path;
}

/* ---- listeners ---- */

struct listener {
    int fifo, epoll;
};

static bool rang(const struct listener *listener)
{
    struct epoll_event event;
    int got = epoll_wait(listener->epoll, &event, 1, 0);
    CHECK(got >= 0);
    return got == 1;
}

static struct listener listen_at_bell(void)
{
    struct listener listener = {
        .fifo = open(bell_path(), O_RDONLY | O_NONBLOCK | O_CLOEXEC),
        .epoll = epoll_create1(EPOLL_CLOEXEC),
    };
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLET};
    CHECK(listener.fifo >= 0 && listener.epoll >= 0);
    CHECK_EQ(epoll_ctl(listener.epoll, EPOLL_CTL_ADD, listener.fifo, &wanted), 0);
    (void)rang(&listener); /* the byte that is there */
    CHECK(!rang(&listener));
    return listener;
}

static void hang_up(const struct listener *listener)
{
    (void)close(listener->epoll);
    (void)close(listener->fifo);
}

/* The cache's stand-in, with that mode. */
static int make_file(mode_t mode)
{
    remove_cache(test_path());
    int fd = open(test_path(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(fchmod(fd, mode), 0);
    return fd;
}

static mode_t mode_of_bell(void)
{
    struct stat file;
    CHECK_EQ(lstat(bell_path(), &file), 0);
    return file.st_mode;
}

static void test_ringing(void)
{
    int fd = make_file(0646);
    int bell = mc_bell_open(bell_path(), fd), held;
    char more[KEPT - 1] = {0};
    CHECK(bell > 2);
    CHECK_EQ(mode_of_bell(), S_IFIFO | 0644); /* for its readers, and only to read */
    struct listener first = listen_at_bell(), second = listen_at_bell();
    for (int round = 0; round < 3; round++) {
        mc_bell_ring(bell);
        CHECK(rang(&first) && !rang(&first));
        mc_bell_ring(bell);
        mc_bell_ring(bell);
        CHECK(rang(&first) && !rang(&first));
        CHECK(rang(&second) && !rang(&second)); /* three are one for who comes late */
    }
    for (int i = 0; i < RINGS; i++) {
        mc_bell_ring(bell);
    }
    CHECK(rang(&first) && rang(&second));
    /* It was empty before each: not every kernel wakes anybody otherwise. */
    CHECK_EQ(ioctl(first.fifo, FIONREAD, &held), 0);
    CHECK_EQ(held, 1);
    /* Nor is it ever full, whoever else of ours puts something in. */
    CHECK_EQ(write(bell, more, sizeof more), KEPT - 1);
    mc_bell_ring(bell);
    CHECK_EQ(ioctl(first.fifo, FIONREAD, &held), 0);
    CHECK_EQ(held, 1);
    CHECK(rang(&first) && rang(&second));
    mc_bell_close(bell);
    (void)rang(&first); /* the end of the other side may be heard, too */
    CHECK_EQ(fchmod(fd, 0600), 0);
    bell = mc_bell_open(bell_path(), fd); /* the next loader's is the same one */
    CHECK_EQ(mode_of_bell(), S_IFIFO | 0600);
    (void)rang(&first);
    mc_bell_ring(bell);
    CHECK(rang(&first));
    mc_bell_close(bell);
    mc_bell_ring(MC_BELL_NONE);
    mc_bell_close(MC_BELL_NONE);
    hang_up(&first);
    hang_up(&second);
    (void)close(fd);
    remove_cache(test_path());
}

/* ---- what else may be there ---- */

static void test_something_in_the_way(void)
{
    int fd = make_file(0644);
    mode_t was;
    CHECK_EQ(symlink(test_path(), bell_path()), 0);
    CHECK_EQ(mc_bell_open(bell_path(), fd), MC_BELL_NONE);
    CHECK(S_ISLNK(mode_of_bell()));
    CHECK_EQ(unlink(bell_path()), 0);
    CHECK_EQ(mkdir(bell_path(), 0700), 0);
    CHECK_EQ(mc_bell_open(bell_path(), fd), MC_BELL_NONE);
    CHECK_EQ(rmdir(bell_path()), 0);
    CHECK_EQ(link(test_path(), bell_path()), 0); /* a regular file of ours */
    CHECK_EQ(mc_bell_open(bell_path(), fd), MC_BELL_NONE);
    CHECK(S_ISREG(mode_of_bell()));
    CHECK_EQ(unlink(bell_path()), 0);
    CHECK_EQ(mkfifo(bell_path(), 0600), 0);
    was = mode_of_bell();
    faults_user = 4711; /* as who it is another one's */
    CHECK_EQ(mc_bell_open(bell_path(), fd), MC_BELL_NONE);
    faults_user = -1;
    CHECK_EQ(mode_of_bell(), was);
    CHECK_EQ(mc_bell_open("/dev/null/bell", fd), MC_BELL_NONE);
    CHECK_EQ(mc_bell_open("/dev/shm/mmapcache-no-such-directory/bell", fd), MC_BELL_NONE);
    (void)close(fd);
    remove_cache(test_path());
}

/* A cache of another group: its readers may listen, as far as we may say so. */
static void test_group(void)
{
    int fd = make_file(0640), bell;
    if (geteuid() != 0 || fchown(fd, (uid_t)-1, 4711) != 0) {
        printf("test_bell: skipped: only root gives a file to any group\n");
        (void)close(fd);
        remove_cache(test_path());
        return;
    }
    for (long left = 0; left < 3; left++) { /* fchown fails, fchmod, nothing */
        faults_arm(FAULT_BIT(FAULT_MODE), left, false, 0);
        bell = mc_bell_open(bell_path(), fd);
        CHECK_EQ(faults_disarm(), left < 2);
        CHECK_EQ(bell == MC_BELL_NONE, left == 1);
        mc_bell_close(bell);
        CHECK_EQ(mode_of_bell(), S_IFIFO | (left < 2 ? 0600 : 0640));
        CHECK_EQ(unlink(bell_path()), 0);
    }
    (void)close(fd);
    remove_cache(test_path());
}

/* ---- a loader's ---- */

static void commit(struct mc_writer *writer, int version)
{
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, version));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK(generation != 0);
}

static void test_commits(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    remove_cache(test_path());
    options.mode = 0640;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(mode_of_bell(), S_IFIFO | 0640);
    struct listener listener = listen_at_bell();
    faults_clock = mc_clock_ns();
    for (int version = 1; version < 6; version++) {
        faults_clock += MC_WAKE_QUIET_NS;
        commit(writer, version);
        CHECK(rang(&listener));
        faults_clock += MC_WAKE_QUIET_NS - 1;
        commit(writer, 100 + version); /* soon after another one: one look is for both */
        CHECK(!rang(&listener));
    }
    faults_clock = -1;
    mc_writer_close(writer);
    (void)rang(&listener);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK(rang(&listener)); /* there might be another file */
    mc_writer_close(writer);
    hang_up(&listener);
    remove_cache(test_path());
}

int main(void)
{
    test_begin("test_bell");
    test_ringing();
    test_something_in_the_way();
    test_group();
    test_commits();
    return 0;
}
