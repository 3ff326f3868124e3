/* crash_scenarios.c - see crash_scenarios.h. */
#define _GNU_SOURCE
#include "crash_scenarios.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- the world ---- */

struct oracle before;
uint64_t generation_before, generation_again;
struct mc_writer_options options;
struct image image;

void save_image(struct image *to)
{
    struct stat file;
    int fd = open(test_path(), O_RDONLY);
    *to = (struct image){0};
    if (fd >= 0) {
        CHECK(fstat(fd, &file) == 0);
        to->len = to->used = (size_t)file.st_size;
        to->bytes = malloc(to->len);
        CHECK(to->bytes != NULL && pread(fd, to->bytes, to->len, 0) == (ssize_t)to->len);
        while (to->used > 0 && to->bytes[to->used - 1] == 0) {
            to->used--;
        }
        (void)close(fd);
    }
}

void forget_image(struct image *which)
{
    free(which->bytes);
    *which = (struct image){0};
}

void restore_image(const struct image *from)
{
    remove_cache(test_path());
    if (from->len > 0) {
        int fd = open(test_path(), O_RDWR | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && write(fd, from->bytes, from->used) == (ssize_t)from->used);
        CHECK(ftruncate(fd, (off_t)from->len) == 0);
        (void)close(fd);
    }
}

/* ---- scenarios ---- */

void commit_all(struct mc_writer *writer)
{
    uint64_t generation;
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

void put_range(struct mc_writer *writer, struct oracle *oracle, int c, int from, int to,
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

void do_nothing(struct mc_writer *writer, struct oracle *oracle)
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
    CHECK_OK(put_state(writer, 8));
    oracle->state = 8;
    put_range(writer, oracle, 0, 9, 10, 8);
}

static void do_state_alone(struct mc_writer *writer, struct oracle *oracle)
{
    CHECK_OK(put_state(writer, 9));
    oracle->state = 9;
}

static void do_abort(struct mc_writer *writer, struct oracle *oracle)
{
    struct oracle forgotten = *oracle;
    put_range(writer, &forgotten, 0, 60, 70, 77);
    mc_batch_abort(writer);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_range(writer, oracle, 0, 60, 62, 8);
}

static void do_checkpoint(struct mc_writer *writer, struct oracle *oracle)
{
    CHECK_OK(mc_writer_checkpoint(writer, &test_error));
    put_range(writer, oracle, 0, 60, 62, 8); /* takes the mark away first */
}

static void do_report(struct mc_writer *writer, struct oracle *oracle)
{
    mc_writer_report(writer, "degraded", "degraded", NULL, 1, NULL);
    CHECK_OK(mc_writer_mark(writer, MARK_FIRST, strlen(MARK_FIRST), &test_error));
    put_range(writer, oracle, 0, 60, 61, 8);
    CHECK_OK(mc_writer_mark(writer, MARK_SECOND, strlen(MARK_SECOND), &test_error));
    mc_writer_report(writer, "polling", "polling", NULL, 2, NULL);
}

/* A document whose bytes do not matter, in a collection that nobody compares. */
#define LARGE 20480u
#define BLOCK 4000u /* as large as blocks that are always wanted */
#define HOLES 30    /* that are smaller */
#define HOLE 2800u

void put_filler(struct mc_writer *writer, int k, uint32_t len)
{
    static uint8_t document[LARGE];
    uint32_t pad = len - 13; /* {p: pad bytes} */
    struct mc_key key;
    bool changed;
    CHECK(len <= LARGE);
    memcpy(document, &len, 4);
    memcpy(document + 4, "\x05p", 3);
    memcpy(document + 7, &pad, 4);
    document[12]++; /* never what is there already */
    mc_key_from_int64(k, &key);
    CHECK_OK(mc_batch_put(writer, "filler", 6, &key, document, len, &changed, &test_error));
}

static void do_grow(struct mc_writer *writer, struct oracle *oracle)
{
    put_filler(writer, -1, LARGE);
    put_range(writer, oracle, 0, 20, 22, 6);
}

/* Keys whose hashes begin with the same six bits, which a root node cannot tell apart. Their page
 * becomes larger with each bit that it splits by in vain; at the 144th key it hangs below a node of
 * its own. Found once for each file, by whoever runs the scenario first. */
#define DEEP_KEYS 146
#define DEEP_KEYS_BEFORE 142

static const int *deep_keys(const struct mc_writer *writer)
{
    static int keys[DEEP_KEYS];
    static uint64_t seed;
    struct mc_view view;
    mc_writer_view(writer, &view);
    int found = seed == view.hash_secret[0] ? DEEP_KEYS : 0;
    for (int k = 0; found < DEEP_KEYS; k++) {
        struct mc_key key;
        mc_key_from_int64(k, &key);
        if (mc_view_hash(&view, &key) >> (64 - MC_NODE_BITS) == 0) {
            keys[found++] = k;
        }
    }
    seed = view.hash_secret[0];
    return keys;
}

static void do_deepen(struct mc_writer *writer, struct oracle *oracle)
{
    const int *keys = deep_keys(writer);
    for (int i = DEEP_KEYS_BEFORE; i < DEEP_KEYS; i++) {
        put_filler(writer, keys[i], 40);
    }
    put_range(writer, oracle, 0, 20, 22, 6);
}

/* An index appears, and the next commit keeps it. */
static void do_index(struct mc_writer *writer, struct oracle *oracle)
{
    bool changed;
    CHECK_OK(mc_batch_index(writer, "limits", 6, "v", 1, MC_INDEX_MULTI, &changed, &test_error));
    put_range(writer, oracle, 1, 3, 5, 7); /* the same by a loader that finds the index there */
}

const struct scenario crash_scenarios[] = {
    {"creation", 0, 0, do_nothing, 0, PLAIN},
    {"first commit", 0, 1, do_update, 0, PLAIN},
    {"open and close", 3, 0, do_nothing, 0, PLAIN},
    {"opening after a kill", 3, 1, do_update, 0, KILLED},
    {"insert", 3, 1, do_insert, 0, PLAIN},
    {"update", 3, 1, do_update, 0, PLAIN},
    {"delete", 3, 1, do_delete, 0, PLAIN},
    {"drop", 3, 1, do_drop, 0, PLAIN},
    {"replace", 3, 1, do_replace, 0, PLAIN},
    {"page split, node growth", 3, 1, do_split, 0, PLAIN},
    {"deeper table", 3, 1, do_deepen, 0, DEEP},
    {"new collection", 3, 1, do_create_collection, 0, PLAIN},
    {"an index made and kept", 3, 2, do_index, 0, PLAIN},
    {"an index moved", 1, 1, do_update, 0, BROKEN},
    {"the loader's state", 3, 1, do_state, 0, PLAIN},
    {"the loader's state alone", 3, 1, do_state_alone, 0, PLAIN},
    {"aborted batch", 3, 1, do_abort, 0, PLAIN},
    {"reports, positions", 3, 1, do_report, 0, PLAIN},
    {"checkpoint taken away", 3, 1, do_checkpoint, 0, PLAIN},
    {"file growth", 3, 1, do_grow, 0, FILLED},
    {"reuse, horizon raised", 3, 3, do_update, 0, PLAIN},
    {"root ring wraps", 9, 3, do_update, 0, PLAIN},
    {"another max_size", 9, 1, do_update, 0, RESIZED},
    {"damaged file recreated", 9, 6, do_update, 0, DAMAGED},
    {"first open after a reboot", 3, 1, do_update, 0, REBOOTED},
};

const size_t crash_scenario_count = sizeof crash_scenarios / sizeof crash_scenarios[0];

void run_commit(const struct scenario *scenario, struct mc_writer *writer, struct oracle *oracle,
                int number)
{
    CHECK_OK(mc_batch_begin(writer, &test_error));
    scenario->act(writer, oracle);
    if (scenario->commits > 1) {
        put_range(writer, oracle, 1, 30, 33, 100 + number);
    }
    commit_all(writer);
}

void run_commits(const struct scenario *scenario, struct mc_writer *writer, struct oracle *oracle)
{
    for (int i = 0; i < scenario->commits; i++) {
        run_commit(scenario, writer, oracle, i);
    }
    mc_writer_close(writer);
}

void run_scenario(const struct scenario *scenario, struct oracle *oracle)
{
    struct mc_writer *writer;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    run_commits(scenario, writer, oracle);
}

/* Documents until a large one needs another extent. */
static void fill_file(struct mc_writer *writer)
{
    struct mc_view view;
    int i = 0;
    for (mc_writer_view(writer, &view); view.root.largest_free >= LARGE / 4;
         mc_writer_view(writer, &view)) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_filler(writer, i++, LARGE / 8);
        commit_all(writer);
    }
}

static void fill_page(struct mc_writer *writer)
{
    const int *keys = deep_keys(writer);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int i = 0; i < DEEP_KEYS_BEFORE; i++) {
        put_filler(writer, keys[i], 40);
    }
    commit_all(writer);
}

/* Documents with an index, one after the other between others, which are no more when the rest of
 * the file is full. */
static void break_up(struct mc_writer *writer)
{
    struct mc_view view;
    bool did;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_index(writer, "limits", 6, "v", 1, MC_INDEX_MULTI, &did, &test_error));
    commit_all(writer);
    for (int k = 0; k < HOLES; k++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_filler(writer, 2 * k, HOLE / 2);
        put_filler(writer, 2 * k + 1, HOLE / 2);
        put_range(writer, &before, 1, k, k + 1, 2 + k % 3);
        commit_all(writer);
    }
    int k = 2 * HOLES;
    for (mc_writer_view(writer, &view); view.root.largest_free >= 4 * BLOCK;
         mc_writer_view(writer, &view)) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_filler(writer, k++, BLOCK);
        commit_all(writer);
    }
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (k = 0; k < 2 * HOLES; k++) {
        struct mc_key key;
        mc_key_from_int64(k, &key);
        CHECK_OK(mc_batch_delete(writer, "filler", 6, &key, &did, &test_error));
    }
    commit_all(writer);
}

static void change_image(uint64_t at)
{
    CHECK(image.bytes != NULL && at < image.len);
    image.bytes[at] ^= 1;
}

/* What somebody else did to the file between two loaders. */
static void make_peculiar(enum peculiarity peculiarity)
{
    if (peculiarity == DAMAGED) {
        uint64_t slot = generation_before % options.ring_slots;
        CHECK(generation_before > options.ring_slots);
        change_image(MC_RING_OFFSET + slot * sizeof(struct mc_root) + 8);
        options.recreate = true;
        oracle_clear(&before);
    } else if (peculiarity == REBOOTED) {
        change_image(MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id));
    } else if (peculiarity == RESIZED) {
        options.max_size *= 2;
    }
}

void set_up(const struct scenario *scenario)
{
    struct mc_writer *writer;
    struct mc_view view;
    options = small_options();
    options.retention_ns = 0;
    options.max_size = scenario->peculiarity == BROKEN ? MC_MAP_MIN : options.max_size;
    generation_before = 0;
    oracle_clear(&before);
    remove_cache(test_path());
    forget_image(&image);
    if (scenario->setup_commits > 0) {
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        for (int i = 1; i <= scenario->setup_commits; i++) {
            CHECK_OK(mc_batch_begin(writer, &test_error));
            put_range(writer, &before, 0, 0, 100, i);
            put_range(writer, &before, 1, 0, 30, 1);
            commit_all(writer);
        }
        if (scenario->peculiarity == FILLED) {
            fill_file(writer);
        } else if (scenario->peculiarity == DEEP) {
            fill_page(writer);
        } else if (scenario->peculiarity == BROKEN) {
            break_up(writer);
        }
        mc_writer_report(writer, "polling", "polling", NULL, 2, NULL);
        CHECK_OK(mc_writer_mark(writer, MARK_BEFORE, strlen(MARK_BEFORE), &test_error));
        mc_writer_view(writer, &view);
        generation_before = view.root.generation;
        if (scenario->peculiarity == KILLED) {
            struct oracle unfinished = before;
            CHECK_OK(mc_batch_begin(writer, &test_error));
            put_range(writer, &unfinished, 0, 0, 40, 90);
            save_image(&image);
        }
        mc_writer_close(writer);
        if (image.len == 0) {
            save_image(&image);
        }
        make_peculiar(scenario->peculiarity);
    }
    options.retention_ns = scenario->retention_ns;
}
