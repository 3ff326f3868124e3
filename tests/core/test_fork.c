/* test_fork.c - children forked while other threads of their parent are inside the library. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

#include "guard.h"
#include "lock.h"
#include "store_support.h"

static int once;
static volatile sig_atomic_t waiting;

static void *do_once(void *done)
{
    waiting = 1;
    if (mc_once_begin(&once)) {
        *(bool *)done = true;
        mc_once_end(&once, true);
    }
    return NULL;
}

/* What one thread is doing another one waits for, and does if it failed; what a thread of another
 * process was doing when it forked is this one's to do. */
static void test_once(void)
{
    pthread_t thread;
    bool done = false;
    CHECK(mc_once_begin(&once));
    CHECK_EQ(pthread_create(&thread, NULL, do_once, &done), 0);
    while (!waiting) {
        (void)sched_yield();
    }
    (void)usleep(20000);
    mc_once_end(&once, false);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(done && !mc_once_begin(&once));
    once = getpid() + 1;
    CHECK(mc_once_begin(&once));
    mc_once_end(&once, true);
    CHECK(!mc_once_begin(&once));
}

static const char *other_path(void)
{
    static char path[96];
    (void)snprintf(path, sizeof path, "%s-own", test_path());
    return path;
}

static volatile sig_atomic_t stop;

static void *open_and_close(void *unused)
{
    while (!stop) {
        struct mc_map *map;
        struct mc_error error;
        CHECK_EQ(mc_map_open(test_path(), &map, &error), MC_OK);
        mc_map_release(map);
    }
    return unused;
}

static void *write_and_close(void *unused)
{
    struct mc_writer_options options = small_options();
    while (!stop) {
        struct mc_writer *writer;
        struct mc_error error;
        CHECK_EQ(mc_writer_open(other_path(), &options, &writer, &error), MC_OK);
        mc_writer_close(writer);
    }
    return unused;
}

/* Children are forked while threads are opening and closing, and open and close themselves: none
 * waits for a thread that it does not have. */
static void test_forks_between_threads(void)
{
    pid_t (*const fork_itself)(void) = fork;
    struct mc_writer_options options = small_options();
    pthread_t threads[3];
    struct mc_writer *writer;
    uint64_t generation;
    remove_cache(test_path());
    remove_cache(other_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, i < 2 ? open_and_close : write_and_close, NULL),
                 0);
    }
    for (int i = 0; i < test_rounds(2000); i++) {
        int status;
        pid_t child = fork_itself();
        CHECK(child >= 0);
        if (child == 0) {
            struct mc_map *map;
            (void)signal(SIGALRM, SIG_DFL);
            (void)alarm(20);
            CHECK_OK(mc_map_open(test_path(), &map, &test_error));
            mc_map_release(map);
            CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_LOCKED);
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    stop = 1;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    mc_writer_close(writer);
    remove_cache(test_path());
    remove_cache(other_path());
}

/* Whoever releases a lock that is the parent's gives back memory only. */
static void test_release_in_child(void)
{
    pid_t (*const fork_itself)(void) = fork;
    struct mc_lock *lock, *second;
    int status;
    CHECK_OK(mc_lock_take(test_path(), &lock, &test_error));
    pid_t child = fork_itself();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(!mc_lock_is_ours(lock));
        mc_lock_release(lock);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(mc_lock_take(test_path(), &second, &test_error), MC_LOCKED);
    mc_lock_release(lock);
}

int main(void)
{
    test_begin("test_fork");
    test_once();
    test_release_in_child();
#ifdef __aarch64__
    if (getenv("EMULATED") != NULL) {
        printf("test_fork: skipped: QEMU's own locks do not survive a fork between threads\n");
        return 0;
    }
#endif
    test_forks_between_threads();
    return 0;
}
