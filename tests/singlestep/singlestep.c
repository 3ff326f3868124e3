/* singlestep.c - a real commit, one machine instruction at a time, killed after each that wrote.
 *
 *   child (ptrace)    PTRACE_SINGLESTEP    parent
 *   batch, commit     <----------------    after every step: did a byte of the file change?
 *                                          then the file is what SIGKILL here would leave:
 *                                          copy it, and judge the copy
 *
 * test_crash.c kills before each store that passes through shm.h. This one does not trust shm.h: it
 * watches the file itself, under the code as it is shipped, optimised and without hooks. So it
 * shows that no store goes past the funnel, and what lies within one store of many bytes.
 *
 * A reader from before is right or told that it expired. A judged image: a reader sees wholly the
 * old or wholly the new generation, and once it was the new one never the old again; a loader opens
 * the copy, finds the same, check is clean, used and free make the file, and it commits again.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../core/store_support.h"

#define MANY 60 /* documents in the first collection */

static struct mc_writer_options options;
static struct oracle states[2]; /* before and after */
static char copy_path[80];
static uint64_t first_generation;

static void remove_copy(void)
{
    if (getpid() == test_owner) {
        remove_cache(copy_path);
    }
}

static void on_abort(int number)
{
    remove_copy();
    on_test_end(number);
}

static void put(struct mc_writer *writer, struct oracle *oracle, int c, int k, int version)
{
    CHECK_OK(put_version(writer, c, k, version));
    oracle->exists[c] = true;
    oracle->version[c][k] = version;
}

static void commit(struct mc_writer *writer)
{
    uint64_t generation;
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

/* What is stepped through: an update, an insert, a delete and a new collection. */
static void small_commit(struct mc_writer *writer, struct oracle *oracle)
{
    bool existed;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put(writer, oracle, 0, 3, 1000);
    put(writer, oracle, 0, MANY, 1001);
    CHECK_OK(delete_key_of(writer, 0, 7, &existed));
    CHECK(existed);
    oracle->version[0][7] = ABSENT;
    put(writer, oracle, 1, 1, 1002);
    commit(writer);
}

static void child_main(void)
{
    struct mc_writer *writer;
    struct oracle ignored = states[0];
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(ptrace(PTRACE_TRACEME, 0, NULL, NULL), 0);
    (void)raise(SIGSTOP);
    small_commit(writer, &ignored);
    (void)raise(SIGSTOP);
    _exit(0); /* as if killed: closing is another scenario's */
}

/* 0: before, 1: after; anything else is a failure. */
static int which_state(const struct mc_view *view)
{
    for (int i = 0; i < 2; i++) {
        bool equal;
        CHECK_EQ(view_equals(view, &states[i], &equal), MC_OK);
        if (equal) {
            CHECK_EQ(view->root.generation, first_generation + (uint64_t)i);
            return i;
        }
    }
    CHECK(!"an image is neither the old nor the new generation");
    return -1;
}

static int judge(const uint8_t *image, size_t len)
{
    struct mc_map *map;
    struct mc_view view;
    struct mc_writer *writer;
    int fd = open(copy_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, image, len) == (ssize_t)len && close(fd) == 0);

    CHECK_OK(mc_map_open(copy_path, &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    int state = which_state(&view);
    check_clean(&view);
    mc_map_release(map);

    CHECK_OK(mc_writer_open(copy_path, &options, &writer, &test_error));
    mc_writer_view(writer, &view);
    CHECK_EQ(which_state(&view), state);
    struct oracle now = states[state];
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put(writer, &now, 2, 5, 2000);
    commit(writer);
    mc_writer_view(writer, &view);
    bool equal;
    CHECK_OK(view_equals(&view, &now, &equal));
    CHECK(equal);
    check_clean(&view);
    CHECK(view.root.used + view.root.free <= view.space.limit);
    CHECK(view.space.limit - view.root.used - view.root.free < 16384); /* retired by this commit */
    mc_writer_close(writer);
    return state;
}

/* A reader that began before the commit: still right, or told. */
static void judge_old_view(const struct mc_view *view)
{
    bool equal;
    enum mc_status status = view_equals(view, &states[0], &equal);
    CHECK(status == MC_EXPIRED || (status == MC_OK && equal));
}

static void step_through(pid_t child)
{
    struct stat info;
    struct mc_map *map;
    struct mc_view old_view;
    int status, state = 0, seen[2] = {0, 0};
    long steps = 0, writes = 0, bytes = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    int fd = open(test_path(), O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &info) == 0);
    size_t len = (size_t)info.st_size;
    const uint8_t *file = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
    uint8_t *last = malloc(len);
    CHECK(file != MAP_FAILED && last != NULL);
    memcpy(last, file, len);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &old_view, &test_error));
    for (;;) {
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
        CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
        if (WSTOPSIG(status) == SIGSTOP) {
            break;
        }
        CHECK_EQ(WSTOPSIG(status), SIGTRAP);
        steps++;
        if (memcmp(last, file, len) == 0) {
            continue;
        }
        for (size_t i = 0; i < len; i++) {
            bytes += last[i] != file[i];
        }
        memcpy(last, file, len);
        writes++;
        judge_old_view(&old_view);
        int now = judge(last, len);
        CHECK(now >= state); /* no way back */
        state = now;
        seen[state]++;
    }
    CHECK(state == 1 && seen[0] > 10); /* it did commit, and it did write before */
    CHECK(fstat(fd, &info) == 0 && (size_t)info.st_size == len);
    printf("singlestep: %ld instructions, %ld of them changed the file (%ld bytes): "
           "%d images old, %d new, 0 violations\n",
           steps, writes, bytes, seen[0], seen[1]);
    mc_map_release(map);
    free(last);
    CHECK(munmap((void *)(uintptr_t)file, len) == 0 && close(fd) == 0);
}

int main(void)
{
    struct mc_writer *writer;
    struct mc_view view;
    int status;
    test_begin("singlestep");
    options = small_options();
    (void)snprintf(copy_path, sizeof copy_path, "%s-copy", test_path());
    (void)atexit(remove_copy);
    (void)signal(SIGABRT, on_abort);
    oracle_clear(&states[0]);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < MANY; k++) {
        put(writer, &states[0], 0, k, k);
    }
    commit(writer);
    for (int i = 0; i < 5; i++) { /* past the ring's length: the next commit raises the horizon */
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put(writer, &states[0], 0, i, 100 + i);
        commit(writer);
    }
    mc_writer_view(writer, &view);
    first_generation = view.root.generation;
    mc_writer_close(writer);
    states[1] = states[0];
    states[1].version[0][3] = 1000;
    states[1].version[0][MANY] = 1001;
    states[1].version[0][7] = ABSENT;
    states[1].exists[1] = true;
    states[1].version[1][1] = 1002;

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        child_main();
    }
    step_through(child);
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK(waitpid(child, &status, 0) == child);
    return 0;
}
