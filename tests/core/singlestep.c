/* singlestep.c - a real loader, one machine instruction at a time, killed after each that wrote.
 *
 *   child (ptrace)           PTRACE_SINGLESTEP    parent
 *   open, commits, close     <----------------    after every step: did a file, a size or a name
 *                                                 change? then that is what SIGKILL here would
 *                                                 leave: copy it, and judge the copy
 *
 * test_crash.c kills before each store that passes through shm.h. This one does not trust shm.h: it
 * watches the files themselves, under the code as it is shipped, optimised and without hooks. So it
 * shows that no store goes past the funnel, what lies within one store of many bytes, and what the
 * system calls leave between two of them: a file without a size, without a name, with two names.
 *
 * The scenarios and what must hold after a kill are those of test_crash.c. Besides, two readers are
 * asked at each change: one that opened its view before the loader came, and one that had the file
 * mapped and looks again. What readers see never goes back.
 *
 * What the kernel does within one system call is one step here, so the zeros of a new or a grown
 * file are no steps at all; how private memory is zeroed is chosen in the Makefile. The lock file
 * is not copied: it is empty, and its lock dies with its holder.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include "crash_judges.h"
#include "watch.h"

#define STATES_MOST 16

static char copy_path[80], new_path[80], new_copy_path[88];

struct figures {
    long steps, changes, bytes, images[2]; /* images: of the state before, of a later one */
};

/* What the readers saw last. */
struct readers {
    struct mc_map *held; /* mapped before the loader came; NULL: there was nothing */
    struct mc_view view; /* opened then */
    bool viewed;
    uint64_t held_generation, new_generation;
};

static void remove_copy(void)
{
    if (getpid() == test_owner) {
        remove_cache(copy_path);
    }
}

static void on_end(int number)
{
    remove_copy();
    on_test_end(number);
}

/* Whether the scenario's file is created, replaced or found in a special state; the others are
 * opened as "open and close" does it, and begin after that. */
static bool is_about_opening(const struct scenario *scenario)
{
    enum peculiarity how = scenario->peculiarity;
    bool ordinary = how == PLAIN || how == FILLED || how == DEEP;
    return !ordinary || scenario->setup_commits == 0 || scenario->commits == 0;
}

static void begin_steps(void)
{
    CHECK_EQ(ptrace(PTRACE_TRACEME, 0, NULL, NULL), 0);
    (void)raise(SIGSTOP);
}

static void child_main(const struct scenario *scenario)
{
    struct mc_writer *writer;
    struct oracle ignored = before;
    same_world = true; /* every run of a scenario on a file is the same */
    if (is_about_opening(scenario)) {
        begin_steps();
        run_scenario(scenario, &ignored);
    } else {
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        begin_steps();
        run_commits(scenario, writer, &ignored);
    }
    _exit(0);
}

/* A generation that a reader sees now, after the one that it saw before. */
static void go_on(uint64_t *seen, uint64_t now)
{
    CHECK(now >= *seen);
    *seen = now;
}

/* Judges what a kill would leave now; returns which state it is. */
static int judge(const struct scenario *scenario, const struct oracle *states, int count,
                 struct readers *readers)
{
    if (readers->viewed) {
        judge_old_view(&readers->view);
    }
    if (readers->held != NULL) {
        go_on(&readers->held_generation, judge_reader(scenario, states, count, readers->held));
    }
    go_on(&readers->new_generation, judge_new_reader(scenario, states, count, copy_path));
    return judge_next_loader(states, count, copy_path);
}

static void open_readers(struct readers *readers)
{
    *readers = (struct readers){0};
    if (image.len > 0) {
        CHECK_OK(mc_map_open(test_path(), &readers->held, &test_error));
        readers->viewed = mc_view_open(readers->held, &readers->view, &test_error) == MC_OK;
    }
}

/* One more instruction of the child; false: it has ended. *faults: its page faults so far. */
static bool step(pid_t child, long *faults)
{
    int status;
    struct rusage usage;
    CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
    CHECK(wait4(child, &status, 0, &usage) == child);
    *faults = usage.ru_minflt + usage.ru_majflt;
    if (WIFEXITED(status)) {
        CHECK_EQ(WEXITSTATUS(status), 0);
        return false;
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    return true;
}

static struct figures step_through(const struct scenario *scenario, const struct oracle *states,
                                   int count, pid_t child)
{
    static struct watch watch;
    const char *const names[WATCH_NAMES] = {test_path(), new_path};
    const char *const copies[WATCH_NAMES] = {copy_path, new_copy_path};
    struct readers readers;
    struct figures figures = {0};
    int status, state = 0;
    long faults;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK_EQ(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL), 0);
    open_readers(&readers);
    watch_begin(&watch, child, names);
    while (step(child, &faults)) {
        figures.steps++;
        if (watch_step(&watch, figures.steps, faults)) {
            figures.changes++;
            watch_copy(&watch, copies);
            int now = judge(scenario, states, count, &readers);
            CHECK(now >= state); /* no way back */
            state = now;
            figures.images[state > 0]++;
        }
    }
    CHECK(state == count - 1 && figures.images[0] > 0); /* it did commit, and wrote before */
    figures.bytes = watch.bytes;
    watch_end(&watch);
    mc_map_release(readers.held);
    return figures;
}

/* The loader has closed the cache and said so. */
static void check_closed(void)
{
    struct mc_map *map;
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(mc_map_loader(map), MC_LOADER_NONE);
    mc_map_release(map);
}

static struct figures run(const struct scenario *scenario)
{
    static struct oracle states[STATES_MOST];
    set_up(scenario);
    int count = list_states(scenario, states);
    restore_image(&image);
    remove_cache(copy_path);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        child_main(scenario);
    }
    struct figures figures = step_through(scenario, states, count, child);
    check_closed();
    printf("  %-26s %7ld instructions, %5ld changes, %6ld bytes, images: %5ld old, %5ld new\n",
           scenario->name, figures.steps, figures.changes, figures.bytes, figures.images[0],
           figures.images[1]);
    fflush(stdout);
    return figures;
}

/* Parent and child take turns: on one processor none has to wake another. */
static void stay_here(void)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    CHECK(sched_setaffinity(0, sizeof here, &here) == 0);
}

int main(int argc, char **argv)
{
    /* singlestep [NAME]: only the scenarios whose name has NAME in it. */
    struct figures sum = {0};
    test_begin("singlestep");
    stay_here();
    (void)snprintf(copy_path, sizeof copy_path, "%s-copy", test_path());
    (void)snprintf(new_path, sizeof new_path, "%s.new", test_path());
    (void)snprintf(new_copy_path, sizeof new_copy_path, "%s.new", copy_path);
    (void)atexit(remove_copy);
    (void)signal(SIGABRT, on_end);
    (void)signal(SIGTERM, on_end);
    (void)signal(SIGINT, on_end);
    for (size_t i = 0; i < crash_scenario_count; i++) {
        const struct scenario *scenario = &crash_scenarios[i];
        bool chosen = argc > 1 ? strstr(scenario->name, argv[1]) != NULL
                               : scenario->peculiarity != BROKEN; /* which takes many minutes */
        if (!chosen) {
            continue;
        }
        struct figures figures = run(scenario);
        sum.steps += figures.steps;
        sum.changes += figures.changes;
        sum.bytes += figures.bytes;
        sum.images[0] += figures.images[0];
        sum.images[1] += figures.images[1];
    }
    printf("singlestep: %ld instructions, %ld of them changed the file (%ld bytes): "
           "%ld images old, %ld new, 0 violations\n",
           sum.steps, sum.changes, sum.bytes, sum.images[0], sum.images[1]);
    forget_image(&image);
    CHECK(sum.steps > 0);
    return 0;
}
