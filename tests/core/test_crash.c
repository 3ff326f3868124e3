/* test_crash.c - SIGKILL before every store, and a reader stopped before every load.
 *
 * Crash points. A scenario is a state of the file and one thing that a loader does to it, open and
 * close included. A child process does it once to count its stores to the map; then, for each k,
 * another child does it again and kills itself with SIGKILL before store k. What it leaves is
 * judged:
 *
 *   - a reader that comes now sees wholly the old or wholly the new generation, and none before the
 *     old one; the status is one whole report;
 *   - a view that was open before sees the old one, or is told that it has expired;
 *   - a loader opens the file as always, `check` is clean, every granule is in use or free, it
 *     commits again.
 *
 * Since a killed process leaves a prefix of one thread's stores, this is every state that a kill
 * can leave, but for the moments within one store of eight bytes, which have no inside.
 *
 * Second crashes. The loader that comes after the killed one is killed before each of its own
 * stores too. What it does depends on nothing but the bytes that it loads (time, pid and random
 * numbers are the same in all children of this test), so all first crashes after which it loads the
 * same bytes are one case, and each case is enumerated.
 *
 * Reader pauses. A reader stops before its i-th load; the loader makes n commits, past the length
 * of the ring and past reclaims; the reader goes on. All pairs (i, n), for each kind of read: its
 * answer is right for the generation it began with or it is told to try again, once at most.
 */
#define _GNU_SOURCE
#include "crash_judges.h"
#include "slots.h"

static long points, second_points, cases, reader_pairs, retried;

/* ---- killing ---- */

static long stores_left; /* negative: count only */
struct run {
    long stores;
    uint64_t loaded; /* a hash of all bytes that were loaded */
};
static struct run this_run;

static uint64_t hash_more(uint64_t hash, const void *data, size_t len)
{
    return (hash ^ mc_checksum(data, len)) * 0x9E3779B97F4A7C15u + len;
}

static void on_access(enum shm_access access, const void *address, size_t len)
{
    if (access == SHM_STORE) {
        if (stores_left == 0) {
            (void)raise(SIGKILL);
        }
        stores_left -= stores_left > 0;
        this_run.stores++;
    } else if (len !=
               sizeof(
                   struct mc_report)) { /* of these, and of positions, only the valid one counts */
        this_run.loaded = hash_more(this_run.loaded, address, len);
    }
}

/* Runs the scenario in a child that kills itself before store `kill_at`; -1: it survives, and what
 * it did is counted. */
static struct run run_in_child(const struct scenario *scenario, long kill_at)
{
    int pipes[2], status;
    struct run run = {0};
    CHECK(pipe(pipes) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct oracle ignored = before;
        stores_left = kill_at;
        same_world = true;
        mc_shm_hook = on_access;
        run_scenario(scenario, &ignored);
        mc_shm_hook = NULL;
        CHECK(write(pipes[1], &this_run, sizeof this_run) == sizeof this_run);
        _exit(0);
    }
    (void)close(pipes[1]);
    CHECK(waitpid(child, &status, 0) == child);
    if (kill_at < 0) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(read(pipes[0], &run, sizeof run) == sizeof run);
    } else {
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    (void)close(pipes[0]);
    return run;
}

/* ---- second crashes ---- */

/* What a loader would load from the file as it is now: equal for files that are one case. */
static uint64_t case_of(const struct scenario *scenario, const struct image *file, long *stores)
{
    struct run run = run_in_child(scenario, -1);
    uint64_t hash = hash_more(run.loaded, &file->len, sizeof file->len);
    struct mc_report report = {0};
    struct mc_position position = {0};
    if (file->len > 0) {
        struct mc_space space = {.base = (shm_byte *)file->bytes, .limit = file->len};
        mc_report_read(&space, &report);
        mc_position_read(&space, &position);
    }
    *stores = run.stores;
    hash = hash_more(hash, &report, sizeof report);
    return hash_more(hash, &position, sizeof position);
}

/* Kills the loader that comes after a killed one, before every stride-th of its stores, unless this
 * case was done before. */
static void kill_second_loader(const struct scenario *scenario, const struct oracle *states,
                               int count, long stride)
{
    static uint64_t done[1024];
    static int done_count;
    static const struct scenario *done_scenario;
    struct image left;
    long stores;
    if (done_scenario != scenario) {
        done_scenario = scenario;
        done_count = 0;
    }
    save_image(&left);
    uint64_t this_case = case_of(scenario, &left, &stores);
    if (left.len > 0) {
        struct mc_space space = {.base = (shm_byte *)left.bytes, .limit = left.len};
        generation_again = mc_commit_word(&space);
    }
    for (int i = 0; i < done_count; i++) {
        if (done[i] == this_case) {
            stores = 0;
        }
    }
    if (stores > 0) {
        CHECK(done_count < 1024);
        done[done_count++] = this_case;
        cases++;
    }
    for (long k = stores > 0 ? (long)test_below((uint64_t)stride) : 0; k < stores; k += stride) {
        restore_image(&left);
        (void)run_in_child(scenario, k);
        (void)judge_new_reader(scenario, states, count, test_path());
        (void)judge_next_loader(states, count, test_path());
        second_points++;
    }
    generation_again = 0;
    restore_image(&left);
    forget_image(&left);
}

static void test_crash_points(const struct scenario *scenario, long stride, long second_stride)
{
    static struct oracle states[16];
    long first = points, second = second_points, first_cases = cases;
    set_up(scenario);
    int count = list_states(scenario, states);
    restore_image(&image);
    long stores = run_in_child(scenario, -1).stores;
    for (long k = (long)test_below((uint64_t)stride); k < stores; k += stride) {
        struct mc_map *map = NULL;
        struct mc_view view;
        bool viewed = false;
        restore_image(&image);
        if (image.len > 0) {
            CHECK_OK(mc_map_open(test_path(), &map, &test_error));
            viewed = mc_view_open(map, &view, &test_error) == MC_OK;
        }
        (void)run_in_child(scenario, k);
        if (viewed) {
            judge_old_view(&view);
        }
        mc_map_release(map);
        (void)judge_new_reader(scenario, states, count, test_path());
        if (second_stride > 0) {
            kill_second_loader(scenario, states, count, second_stride);
        }
        (void)judge_next_loader(states, count, test_path());
        points++;
    }
    printf("  %-26s %5ld stores, %5ld crash points, %3ld cases, %6ld second crashes\n",
           scenario->name, stores, points - first, cases - first_cases, second_points - second);
    fflush(stdout);
}

/* ---- reader pauses ---- */

static long loads_left;
static int commits_to_make;
static struct mc_writer *pause_writer;
static struct oracle pause_now, generations[64];
static int pause_version;

static void make_commits(int count)
{
    for (int i = 0; i < count; i++) {
        CHECK_OK(mc_batch_begin(pause_writer, &test_error));
        put_range(pause_writer, &pause_now, 0, 0, 30, ++pause_version);
        for (int k = 0; k < 8; k++) { /* entries of a page's size, in the place of pages */
            put_filler(pause_writer, k, 40);
        }
        commit_all(pause_writer);
    }
}

static void on_load(enum shm_access access, const void *address, size_t len)
{
    (void)address;
    (void)len;
    if (access == SHM_LOAD && loads_left-- == 0) {
        mc_shm_hook = NULL;
        make_commits(commits_to_make);
        mc_shm_hook = on_load;
    }
}

/* Whether an answer about key k of "sites" is right for the oracle; `got` holds the copied
 * value. */
static void judge_answer(const struct oracle *expected, int k, enum mc_status status, size_t len,
                         const uint8_t *got)
{
    uint8_t want[DOCUMENT_MOST];
    if (status == MC_ABSENT) {
        CHECK_EQ(expected->version[0][k], ABSENT);
        return;
    }
    CHECK_EQ(status, MC_OK);
    CHECK(expected->version[0][k] != ABSENT);
    CHECK_EQ(make_document(want, k, expected->version[0][k]), len);
    CHECK(memcmp(want, got, len) == 0);
}

/* Each kind of read gives MC_OK after a right answer, or MC_EXPIRED. */
static enum mc_status read_keys(const struct mc_view *view, uint64_t root,
                                const struct oracle *expected)
{
    enum mc_status status = MC_OK;
    for (int k = 7; status != MC_EXPIRED && k < KEYS; k += 150) { /* one present, one absent */
        uint8_t got[DOCUMENT_MOST];
        struct mc_key key;
        struct mc_hit hit = {0};
        mc_key_from_int64(k, &key);
        key.hash = mc_view_hash(view, &key);
        status = mc_find(view, root, &key, &hit);
        if (status == MC_OK && hit.value_len <= sizeof got) {
            mc_copy(got, hit.value, hit.value_len);
        }
        status = mc_view_settle(view, status);
        if (status != MC_EXPIRED) {
            judge_answer(expected, k, status, hit.value_len, got);
        }
    }
    return status == MC_EXPIRED ? status : MC_OK;
}

static enum mc_status read_many(const struct mc_view *view, uint64_t root,
                                const struct oracle *expected)
{
    enum { MANY = 12 };
    static uint8_t got[MANY][DOCUMENT_MOST];
    struct mc_key keys[MANY];
    struct mc_hit hits[MANY];
    enum mc_status statuses[MANY];
    for (int i = 0; i < MANY; i++) {
        mc_key_from_int64(i * 13, &keys[i]);
        keys[i].hash = mc_view_hash(view, &keys[i]);
    }
    mc_find_many(view, root, keys, MANY, hits, statuses);
    for (int i = 0; i < MANY; i++) {
        if (statuses[i] == MC_OK && hits[i].value_len <= sizeof got[i]) {
            mc_copy(got[i], hits[i].value, hits[i].value_len);
        }
    }
    if (!mc_view_valid(view)) { /* once for all: one generation or none */
        return MC_EXPIRED;
    }
    for (int i = 0; i < MANY; i++) {
        judge_answer(expected, i * 13, statuses[i], hits[i].value_len, got[i]);
    }
    return MC_OK;
}

static enum mc_status read_all(const struct mc_view *view, uint64_t root,
                               const struct oracle *expected)
{
    struct mc_walk walk;
    struct mc_hit hit;
    enum mc_status status;
    int seen = 0, present = 0;
    mc_walk_begin(&walk, &view->space, root);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        uint8_t got[DOCUMENT_MOST];
        int64_t k = 0;
        if (hit.key_len == 8 && hit.value_len <= sizeof got) {
            mc_copy(&k, hit.key, 8);
            mc_copy(got, hit.value, hit.value_len);
        }
        if (!mc_view_valid(view)) {
            return MC_EXPIRED;
        }
        CHECK(hit.key_len == 8 && k >= 0 && k < KEYS);
        judge_answer(expected, (int)k, MC_OK, hit.value_len, got);
        seen++;
    }
    if (mc_view_settle(view, status) == MC_EXPIRED) {
        return MC_EXPIRED;
    }
    CHECK_EQ(status, MC_ABSENT);
    for (int k = 0; k < KEYS; k++) {
        present += expected->version[0][k] != ABSENT;
    }
    CHECK_EQ(seen, present);
    return MC_OK;
}

typedef enum mc_status (*reading)(const struct mc_view *view, uint64_t root,
                                  const struct oracle *expected);

static enum mc_status read_view(const struct mc_view *view, uint64_t first, reading read)
{
    struct mc_collection collection;
    enum mc_status status = mc_view_collection(view, "sites", 5, &collection);
    if (status == MC_EXPIRED) {
        return status;
    }
    CHECK_EQ(status, MC_OK);
    return read(view, collection.root, &generations[view->root.generation - first]);
}

/* A whole read: opens a view of the current generation first. */
static enum mc_status read_once(struct mc_map *map, uint64_t first, reading read)
{
    struct mc_view view;
    enum mc_status status = mc_view_open(map, &view, &test_error);
    return status == MC_OK ? read_view(&view, first, read) : status;
}

/* One pair: false when the read has fewer loads than that. */
static bool pause_reader(reading read, bool snapshot, long pause_at)
{
    struct mc_map *map;
    struct mc_view view;
    restore_image(&image);
    CHECK_OK(mc_writer_open(test_path(), &options, &pause_writer, &test_error));
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    uint64_t first = view.root.generation;
    pause_version = 50;
    pause_now = before;
    loads_left = pause_at;
    mc_shm_hook = on_load;
    enum mc_status status = snapshot ? read_view(&view, first, read) : read_once(map, first, read);
    mc_shm_hook = NULL;
    bool paused = loads_left < 0;
    if (status == MC_EXPIRED) {
        CHECK(paused);
        retried++;
        CHECK_EQ(read_once(map, first, read), MC_OK); /* the loader rests: at most one retry */
    } else {
        CHECK_EQ(status, MC_OK);
    }
    reader_pairs += paused;
    mc_map_release(map);
    mc_writer_close(pause_writer);
    return paused;
}

/* The commits after the pause, in one generation each. */
static void expect_generations(int most)
{
    struct oracle now = before;
    for (int i = 0; i <= most; i++) {
        generations[i] = now;
        for (int k = 0; k < 30; k++) {
            now.version[0][k] = 51 + i;
        }
    }
}

static void test_reader_pauses(long stride)
{
    static const struct {
        const char *name;
        reading read;
        bool snapshot, long_one;
    } kinds[] = {
        {"get", read_keys, false, false},
        {"get_many", read_many, false, false},
        {"iteration", read_all, false, true},
        {"snapshot: get", read_keys, true, false},
        {"snapshot: iteration", read_all, true, true},
    };
    static const struct scenario setup = {"pauses", 3, 0, do_nothing, 0, PLAIN};
    enum { COMMITS_MOST = 12 };
    set_up(&setup);
    expect_generations(COMMITS_MOST);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        long first = reader_pairs, first_retried = retried;
        for (int round = 0; round < 2 * COMMITS_MOST; round++) {
            long step = stride == 1 ? 1 : kinds[i].long_one ? 6 * stride : 1 + stride / 4;
            commits_to_make = 1 + round / 2;
            options.retention_ns = round % 2 == 0 ? 0 : INT64_MAX / 2; /* reuse at once, or late */
            long at = 0; /* the first ones always: control words and roots */
            while (pause_reader(kinds[i].read, kinds[i].snapshot, at)) {
                at += at < 4 ? 1 : step;
            }
        }
        printf("  %-26s %5ld pauses, %5ld retried\n", kinds[i].name, reader_pairs - first,
               retried - first_retried);
        fflush(stdout);
    }
}

/* A snapshot of a generation that was not the last one, over a restart of the loader: what the new
 * one thinks free, the snapshot may still refer to. */
static void test_snapshot_over_restart(void)
{
    static const struct scenario setup = {"restart", 1, 0, do_nothing, INT64_MAX / 2, PLAIN};
    struct oracle now;
    struct mc_writer *writer;
    struct mc_map *map;
    struct mc_view view;
    set_up(&setup);
    restore_image(&image);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    now = before;
    for (int restart = 0; restart < 3; restart++) { /* too few commits for the ring to matter */
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_range(writer, &now, 0, 0, 100, 40 + restart);
        commit_all(writer);
        judge_old_view(&view);
        mc_writer_close(writer);
    }
    mc_map_release(map);
}

int main(int argc, char **argv)
{
    /* test_crash [STRIDE [SECOND]]: every STRIDE-th crash point and reader pause, and, where SECOND
     * is not 0, every SECOND-th crash of the second loader. The full proof is `test_crash 1 1`; the
     * default is a sample of each. */
    test_begin("test_crash");
    long stride = argc > 1 ? strtol(argv[1], NULL, 10) : 24 * (long)test_sample;
    long second = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    CHECK(stride > 0 && second >= 0);
    mc_buddy_test_unchecked = true; /* mc_check and the sums of used and free bytes do it here */
    for (size_t i = 0; i < crash_scenario_count; i++) {
        test_crash_points(&crash_scenarios[i], stride, second);
    }
    test_snapshot_over_restart();
    test_reader_pauses(stride);
    printf("crash points: %ld, second crashes: %ld in %ld cases, reader pauses: %ld of which %ld "
           "retried\n",
           points, second_points, cases, reader_pairs, retried);
    CHECK(points > test_rounds(100) && reader_pairs > test_rounds(100));
    CHECK(retried > test_rounds(10));
    forget_image(&image);
    return 0;
}
