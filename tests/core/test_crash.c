/* test_crash.c - SIGKILL after every store, and a reader stopped before every load.
 *
 * Crash points. A scenario is a state of the file and one thing that a loader does to it, open and
 * close included. A child process does it once to count its stores to the map; then, for each k,
 * another child does it again and kills itself with SIGKILL before store k. What it leaves is
 * judged:
 *
 *   - a reader that comes now sees wholly the old or wholly the new generation;
 *   - a view that was open before sees the old one, or is told that it has expired;
 *   - a loader opens the file as always, `check` is clean, every granule is in use or free, it
 * commits again;
 *   - (every few k) that second loader is killed before each of its own stores too.
 *
 * Since a killed process leaves a prefix of one thread's stores, this is every state that a kill
 * can leave, but for the moments within one store of eight bytes, which have no inside.
 *
 * Reader pauses. A reader stops before its i-th load; the loader makes n commits, past the length
 * of the ring and past reclaims; the reader goes on. All pairs (i, n): its answer is right for the
 * generation it began with or it is told to try again.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "store_support.h"
#define MC_TESTING_OWN
#include "testing.h"

/* ---- the world ---- */

static struct oracle before, after; /* what the scenario starts from, and what it makes of it */
static struct mc_writer_options options;
static uint8_t *image; /* the file before the scenario */
static size_t image_len;
static long points, nested_points, reader_pairs, retried;

static void save_image(void)
{
    struct stat file;
    int fd = open(test_path(), O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &file) == 0);
    free(image);
    image_len = (size_t)file.st_size;
    image = malloc(image_len);
    CHECK(image != NULL && pread(fd, image, image_len, 0) == (ssize_t)image_len);
    (void)close(fd);
}

/* A new file with the saved content; image_len 0: no file at all. */
static void restore_image(void)
{
    remove_cache(test_path());
    if (image_len > 0) {
        int fd = open(test_path(), O_RDWR | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && write(fd, image, image_len) == (ssize_t)image_len);
        (void)close(fd);
    }
}

/* ---- scenarios ---- */

static void commit_all(struct mc_writer *writer)
{
    uint64_t generation;
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

static void put_range(struct mc_writer *writer, struct oracle *oracle, int c, int from, int to,
                      int version)
{
    oracle->exists[c] = true;
    for (int k = from; k < to; k++) {
        CHECK_OK(put_version(writer, c, k, version));
        oracle->version[c][k] = version;
    }
}

static void delete_range(struct mc_writer *writer, struct oracle *oracle, int c, int from, int to)
{
    for (int k = from; k < to; k++) {
        bool existed;
        CHECK_OK(delete_key_of(writer, c, k, &existed));
        oracle->version[c][k] = ABSENT;
    }
}

static void do_nothing(struct mc_writer *writer, struct oracle *oracle)
{
    (void)writer;
    (void)oracle;
}

static void do_insert(struct mc_writer *writer, struct oracle *oracle)
{
    put_range(writer, oracle, 0, 150, 152, 7);
}

static void do_update(struct mc_writer *writer, struct oracle *oracle)
{
    put_range(writer, oracle, 0, 3, 5, 7);
    put_range(writer, oracle, 1, 3, 4, 7);
}

static void do_delete(struct mc_writer *writer, struct oracle *oracle)
{
    delete_range(writer, oracle, 0, 3, 6);
}

static void do_drop(struct mc_writer *writer, struct oracle *oracle)
{
    bool existed;
    CHECK_OK(mc_batch_drop(writer, "limits", 6, &existed, &test_error));
    oracle->exists[1] = false;
    for (int k = 0; k < KEYS; k++) {
        oracle->version[1][k] = ABSENT;
    }
}

static void do_replace(struct mc_writer *writer, struct oracle *oracle)
{
    CHECK_OK(mc_replace_begin(writer, "limits", 6, &test_error));
    for (int k = 0; k < KEYS; k++) {
        oracle->version[1][k] = ABSENT;
    }
    put_range(writer, oracle, 1, 5, 15, 1);
    put_range(writer, oracle, 1, 15, 18, 9);
    CHECK_OK(mc_replace_end(writer, &test_error));
}

static void do_split(struct mc_writer *writer, struct oracle *oracle)
{
    put_range(writer, oracle, 0, 100, 180, 5); /* pages split, nodes appear and double */
}

static void do_create_collection(struct mc_writer *writer, struct oracle *oracle)
{
    put_range(writer, oracle, 2, 0, 3, 1);
}

static void do_state(struct mc_writer *writer, struct oracle *oracle)
{
    CHECK_OK(mc_batch_state(writer, (const uint8_t *)"position", 8, &test_error));
    put_range(writer, oracle, 0, 9, 10, 8);
}

static void do_grow(struct mc_writer *writer, struct oracle *oracle)
{
    /* Documents whose bytes do not matter, large enough to need another extent, gone again at the
     * end. */
    static uint8_t big[1500000];
    uint32_t len = sizeof big, pad = len - 13;
    bool existed, changed;
    struct mc_key key;
    memcpy(big, &len, 4);
    memcpy(big + 4, "\x05p", 3);
    memcpy(big + 7, &pad, 4);
    mc_key_from_int64(0, &key);
    CHECK_OK(mc_batch_put(writer, "big", 3, &key, big, len, &changed, &test_error));
    mc_key_from_int64(1, &key);
    CHECK_OK(mc_batch_put(writer, "big", 3, &key, big, len, &changed, &test_error));
    CHECK_OK(mc_batch_drop(writer, "big", 3, &existed, &test_error));
    put_range(writer, oracle, 0, 20, 22, 6);
}

struct scenario {
    const char *name;
    int setup_commits; /* how many generations there are before; 0: no file */
    int commits;       /* how many the scenario makes */
    void (*act)(struct mc_writer *writer, struct oracle *oracle);
    int64_t retention_ns;
    bool nested; /* the second loader is killed too */
};

static const struct scenario scenarios[] = {
    {"creation", 0, 0, do_nothing, 0, false},
    {"first commit", 0, 1, do_update, 0, false},
    {"open and close", 3, 0, do_nothing, 0, true},
    {"insert", 3, 1, do_insert, 0, true},
    {"update", 3, 1, do_update, 0, true},
    {"delete", 3, 1, do_delete, 0, true},
    {"drop", 3, 1, do_drop, 0, true},
    {"replace", 3, 1, do_replace, 0, true},
    {"page split, node growth", 3, 1, do_split, 0, false},
    {"new collection", 3, 1, do_create_collection, 0, true},
    {"the loader's state", 3, 1, do_state, 0, true},
    {"file growth", 3, 1, do_grow, 0, false},
    {"reuse, horizon raised", 3, 3, do_update, 0, true},
    {"root ring wraps", 9, 3, do_update, 0, true},
};

/* What a loader does in the scenario, from open to close. Versions differ from commit to commit. */
static void run_scenario(const struct scenario *scenario, struct oracle *oracle)
{
    struct mc_writer *writer;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    for (int i = 0; i < scenario->commits; i++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        scenario->act(writer, oracle);
        if (scenario->commits > 1) {
            put_range(writer, oracle, 1, 30, 33, 100 + i);
        }
        commit_all(writer);
    }
    mc_writer_close(writer);
}

static void set_up(const struct scenario *scenario)
{
    struct mc_writer *writer;
    options = small_options();
    options.retention_ns = scenario->retention_ns;
    oracle_clear(&before);
    remove_cache(test_path());
    image_len = 0;
    if (scenario->setup_commits > 0) {
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        for (int i = 1; i <= scenario->setup_commits; i++) {
            CHECK_OK(mc_batch_begin(writer, &test_error));
            put_range(writer, &before, 0, 0, 100, i);
            put_range(writer, &before, 1, 0, 30, 1);
            commit_all(writer);
        }
        mc_writer_close(writer);
        save_image();
    }
}

/* ---- killing ---- */

static long stores_left; /* negative: count only */
static long stores_seen;

static void on_store(enum shm_access access, const void *address, size_t len)
{
    (void)address;
    (void)len;
    if (access == SHM_STORE) {
        if (stores_left == 0) {
            (void)raise(SIGKILL);
        }
        stores_left -= stores_left > 0;
        stores_seen++;
    }
}

/* Runs the scenario in a child that kills itself before store `kill_at`; -1: it survives, and the
 * stores are counted. */
static long run_in_child(const struct scenario *scenario, long kill_at)
{
    int pipes[2], status;
    long seen = 0;
    CHECK(pipe(pipes) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct oracle ignored = before;
        stores_left = kill_at;
        stores_seen = 0;
        mc_shm_hook = on_store;
        run_scenario(scenario, &ignored);
        mc_shm_hook = NULL;
        CHECK(write(pipes[1], &stores_seen, sizeof stores_seen) == sizeof stores_seen);
        _exit(0);
    }
    (void)close(pipes[1]);
    CHECK(waitpid(child, &status, 0) == child);
    if (kill_at < 0) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(read(pipes[0], &seen, sizeof seen) == sizeof seen);
    } else {
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    (void)close(pipes[0]);
    return seen;
}

/* ---- judging ---- */

/* Whether the view shows one of the states that the scenario goes through: 0 the first, -1 none. */
static int which_state(const struct mc_view *view, const struct oracle *states, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        bool equal;
        CHECK_EQ(view_equals(view, &states[i], &equal), MC_OK);
        if (equal) {
            return i;
        }
    }
    return -1;
}

/* The states after each commit of the scenario, by doing it once more on the oracle alone. */
static int list_states(const struct scenario *scenario, struct oracle *states)
{
    struct mc_writer *writer;
    struct oracle now = before;
    int count = 0;
    states[count++] = now;
    restore_image();
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    for (int i = 0; i < scenario->commits; i++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        scenario->act(writer, &now);
        if (scenario->commits > 1) {
            put_range(writer, &now, 1, 30, 33, 100 + i);
        }
        commit_all(writer);
        states[count++] = now;
    }
    mc_writer_close(writer);
    after = now;
    return count;
}

/* A reader that comes after the kill. */
static void judge_new_reader(const struct oracle *states, int count)
{
    struct mc_map *map;
    struct mc_view view;
    enum mc_status status = mc_map_open(test_path(), &map, &test_error);
    if (status == MC_NOT_READY) { /* killed before the file got its name */
        CHECK_EQ(image_len, 0);
        return;
    }
    CHECK_EQ(status, MC_OK);
    status = mc_view_open(map, &view, &test_error);
    CHECK(status == MC_OK || (status == MC_NOT_READY && image_len == 0));
    CHECK(which_state(&view, states, count) >= 0);
    if (status == MC_OK) {
        check_clean(&view);
    }
    mc_map_release(map);
}

/* The next loader: opens, finds nothing lost or leaked, and commits. */
static void judge_next_loader(const struct oracle *states, int count)
{
    struct mc_writer *writer;
    struct mc_view view;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_view(writer, &view);
    int state = which_state(&view, states, count);
    CHECK(state >= 0);
    check_clean(&view);
    struct oracle now = states[state];
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_range(writer, &now, 2, 40, 60, 11);
    commit_all(writer);
    mc_writer_view(writer, &view);
    CHECK_EQ(which_state(&view, &now, 1), 0);
    check_clean(&view);
    /* What is retired is the loader's secret; after it is freed, used and free make the file. */
    mc_writer_close(writer);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_range(writer, &now, 2, 60, 61, 11);
    commit_all(writer);
    mc_writer_view(writer, &view);
    CHECK(view.root.used + view.root.free <= view.space.limit);
    CHECK(view.space.limit - view.root.used - view.root.free <
          16384); /* what this commit retired */
    mc_writer_close(writer);
}

/* Kills the loader that comes after a killed one, before each of its stores. */
static void kill_second_loader(const struct scenario *scenario, const struct oracle *states,
                               int count)
{
    uint8_t *first = image;
    size_t first_len = image_len;
    image = NULL;
    save_image(); /* what the first kill left */
    for (long k = 0;; k++) {
        restore_image();
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            struct oracle ignored = before;
            stores_left = k;
            mc_shm_hook = on_store;
            run_scenario(scenario, &ignored);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        judge_new_reader(states, count);
        nested_points++;
        if (WIFEXITED(status)) {
            CHECK_EQ(WEXITSTATUS(status), 0);
            break;
        }
    }
    free(image);
    image = first;
    image_len = first_len;
}

static void test_crash_points(const struct scenario *scenario, long stride, long nested_every)
{
    static struct oracle states[16];
    set_up(scenario);
    int count = list_states(scenario, states);
    restore_image();
    long stores = run_in_child(scenario, -1);
    for (long k = (long)test_below((uint64_t)stride); k < stores; k += stride) {
        struct mc_map *map = NULL;
        struct mc_view view;
        restore_image();
        if (image_len > 0) {
            CHECK_OK(mc_map_open(test_path(), &map, &test_error));
            CHECK_OK(mc_view_open(map, &view, &test_error));
        }
        (void)run_in_child(scenario, k);
        if (map != NULL) {
            bool equal;
            enum mc_status status = view_equals(&view, &before, &equal);
            CHECK(status == MC_EXPIRED || (status == MC_OK && equal));
            mc_map_release(map);
        }
        judge_new_reader(states, count);
        if (scenario->nested && nested_every > 0 && k % nested_every == nested_every / 2) {
            kill_second_loader(scenario, states, count);
            restore_image();
            (void)run_in_child(scenario, k);
        }
        judge_next_loader(states, count);
        points++;
    }
    printf("  %-26s %5ld stores\n", scenario->name, stores);
    fflush(stdout);
}

/* ---- reader pauses ---- */

static long loads_left;
static int commits_to_make;
static struct mc_writer *pause_writer;
static struct oracle pause_now;
static int pause_version;

static void make_commits(int count)
{
    for (int i = 0; i < count; i++) {
        CHECK_OK(mc_batch_begin(pause_writer, &test_error));
        put_range(pause_writer, &pause_now, 0, 0, 30, ++pause_version);
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

/* One read from the start: opens a view, finds the collection, a key that is there and one that is
 * not. */
static enum mc_status read_once(struct mc_map *map, const struct oracle *generations,
                                uint64_t first_generation)
{
    struct mc_view view;
    struct mc_collection collection;
    enum mc_status status = mc_view_open(map, &view, &test_error);
    if (status != MC_OK) {
        return status;
    }
    const struct oracle *expected = &generations[view.root.generation - first_generation];
    status = mc_view_collection(&view, "sites", 5, &collection);
    for (int k = 7; status == MC_OK && k < KEYS; k += 150) {
        uint8_t want[DOCUMENT_MOST], got[DOCUMENT_MOST];
        struct mc_key key;
        struct mc_hit hit;
        mc_key_from_int64(k, &key);
        key.hash = mc_view_hash(&view, &key);
        status = mc_find(&view, collection.root, &key, &hit);
        if (status == MC_OK && hit.value_len <= sizeof got) {
            mc_copy(got, hit.value, hit.value_len);
        }
        status = mc_view_settle(&view, status);
        CHECK(status == MC_OK || status == MC_ABSENT || status == MC_EXPIRED);
        if (status == MC_OK) {
            size_t len = make_document(want, k, expected->version[0][k]);
            CHECK(expected->version[0][k] != ABSENT && hit.value_len == len &&
                  memcmp(want, got, len) == 0);
        } else if (status == MC_ABSENT) {
            CHECK_EQ(expected->version[0][k], ABSENT);
            status = MC_OK;
        }
    }
    return status;
}

static void test_reader_pauses(void)
{
    static const struct scenario setup = {"pauses", 3, 0, do_nothing, 0, false};
    static struct oracle generations[64];
    for (commits_to_make = 1; commits_to_make <= 12; commits_to_make++) {
        for (long pause_at = 0;; pause_at++) {
            struct mc_map *map;
            set_up(&setup);
            restore_image();
            CHECK_OK(mc_writer_open(test_path(), &options, &pause_writer, &test_error));
            CHECK_OK(mc_map_open(test_path(), &map, &test_error));
            struct mc_view view;
            mc_writer_view(pause_writer, &view);
            uint64_t first = view.root.generation;
            pause_now = before;
            pause_version = 50;
            for (int i = 0; i <= commits_to_make; i++) { /* what each generation will hold */
                generations[i] = pause_now;
                for (int k = 0; k < 30; k++) {
                    pause_now.version[0][k] = 51 + i;
                }
            }
            pause_now = before;
            loads_left = pause_at;
            mc_shm_hook = on_load;
            enum mc_status status = read_once(map, generations, first);
            mc_shm_hook = NULL;
            bool paused = loads_left < 0;
            if (status == MC_EXPIRED) {
                retried++;
                CHECK_EQ(read_once(map, generations, first),
                         MC_OK); /* the loader rests: at most one */
            } else {
                CHECK_EQ(status, MC_OK);
            }
            reader_pairs++;
            mc_map_release(map);
            mc_writer_close(pause_writer);
            if (!paused) {
                break;
            }
        }
    }
}

int main(int argc, char **argv)
{
    /* test_crash [STRIDE [NESTED]]: every STRIDE-th crash point, and at every NESTED-th of them (0:
     * none) all those of the second loader. The full proof is `test_crash 1 16`; the default is a
     * sample. */
    long stride = argc > 1 ? strtol(argv[1], NULL, 10) : 16;
    long nested_every = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    test_begin("test_crash");
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        test_crash_points(&scenarios[i], stride, nested_every);
    }
    test_reader_pauses();
    printf("crash points: %ld, second crashes: %ld, reader pauses: %ld of which %ld retried\n",
           points, nested_points, reader_pairs, retried);
    CHECK(points > 100 && reader_pairs > 100 && retried > 10);
    remove_cache(test_path());
    return 0;
}
