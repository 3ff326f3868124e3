/* test_writer.c - a loader's odd moments: successors without memory, empty ones, long reports, a
 * child that closes what it inherited. */
#include <fcntl.h>

#include "faults.h"
#include "hash.h"
#include "store_support.h"

static struct mc_writer *writer;

static uint64_t commit_one(int version)
{
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, version));
    CHECK_OK(mc_batch_state(writer, (const uint8_t *)"position", 8, &test_error));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    return generation;
}

/* Another max_size with each allocation failing in turn: the old file stays as it was until one
 * attempt has all it needs; then content and state are in the successor. */
static void test_resize_without_memory(void)
{
    struct mc_writer_options options = small_options();
    struct mc_view view;
    struct mc_hit hit;
    long failures = 0;
    writer = open_new_cache(&options);
    uint64_t generation = commit_one(1);
    mc_writer_close(writer);
    options.max_size *= 2;
    for (long left = 0;; left++) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_writer_open(test_path(), &options, &writer, &test_error);
        (void)faults_disarm();
        if (status == MC_OK) {
            break;
        }
        CHECK_EQ(status, MC_NOMEM);
        failures++;
    }
    CHECK(failures > 10);
    mc_writer_view(writer, &view);
    CHECK(view.root.generation > generation && view.root.documents == 1);
    CHECK_EQ(mc_find_state(&view, &hit), MC_OK);
    CHECK(hit.value_len == 8 && shm_equal(hit.value, "position", 8));
    check_clean(&view);
    mc_writer_close(writer);
}

/* A cache that was published empty is published empty again in its successor; one that never was is
 * not. */
static void test_resize_of_nothing(void)
{
    for (int published = 0; published < 2; published++) {
        struct mc_writer_options options = small_options();
        struct mc_map *map;
        struct mc_view view;
        uint64_t generation;
        bool existed;
        writer = open_new_cache(&options);
        if (published) {
            CHECK_OK(mc_batch_begin(writer, &test_error));
            CHECK_OK(put_version(writer, 0, 1, 1));
            CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
            CHECK_OK(mc_batch_begin(writer, &test_error));
            CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
            CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        }
        mc_writer_close(writer);
        options.max_size *= 2;
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_EQ(mc_view_open(map, &view, &test_error), published ? MC_OK : MC_NOT_READY);
        CHECK_EQ(view.root.documents, 0);
        mc_map_release(map);
        mc_writer_close(writer);
    }
}

/* A report that does not fit is cut between characters. */
static void test_long_report(void)
{
    struct mc_writer_options options = small_options();
    struct mc_loader_report status;
    struct mc_map *map;
    char text[1000];
    for (size_t i = 0; i + 1 < sizeof text; i += 2) {
        memcpy(text + i, "\xC3\xA9", 2);
    }
    text[998] = '\0';
    writer = open_new_cache(&options);
    mc_writer_report(writer, text, text, text, 5, NULL);
    mc_writer_report(writer, NULL, NULL, NULL, -1, NULL);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_report(map, &status);
    CHECK_EQ(strlen(status.state), 30);
    CHECK_EQ(strlen(status.source), 254);
    CHECK_EQ(strlen(status.error), 478);
    CHECK(status.running && status.confirmed_at == 5 && mc_writer_fd(writer) == -1);
    mc_map_release(map);
    mc_writer_close(writer);
}

/* Bytes that are no text are kept as far as they fit: whoever shows them shows what they are. */
static void test_report_without_characters(void)
{
    struct mc_writer_options options = small_options();
    struct mc_loader_report status;
    struct mc_map *map;
    char text[600];
    memset(text, 0x80, sizeof text);
    text[sizeof text - 1] = '\0';
    writer = open_new_cache(&options);
    mc_writer_report(writer, text, NULL, NULL, -1, NULL);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_report(map, &status);
    CHECK_EQ(strlen(status.state), sizeof status.state - 1);
    mc_map_release(map);
    mc_writer_close(writer);
}

static void patch_file(uint64_t at, const void *bytes, size_t len)
{
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, bytes, len, (off_t)at) == (ssize_t)len && close(fd) == 0);
}

/* A file that succeeds one with nearly all generations has the last ones, and no more. */
static void test_last_generation(void)
{
    struct mc_writer_options options = small_options();
    uint64_t generation;
    writer = open_new_cache(&options);
    struct mc_superblock superblock = {0};
    mc_writer_close(writer);
    int fd = open(test_path(), O_RDONLY);
    CHECK(fd >= 0 && pread(fd, &superblock, sizeof superblock, 0) == sizeof superblock);
    CHECK(close(fd) == 0);
    superblock.base_generation = MC_GENERATION_MAX - 2;
    superblock.checksum = mc_checksum(&superblock, offsetof(struct mc_superblock, checksum));
    patch_file(0, &superblock, sizeof superblock);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(commit_one(1), MC_GENERATION_MAX - 1);
    CHECK_EQ(commit_one(2), MC_GENERATION_MAX);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 3));
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_LIMIT);
    mc_batch_abort(writer);
    struct mc_view view;
    mc_writer_view(writer, &view);
    CHECK(view.root.generation == MC_GENERATION_MAX && view.root.documents == 1);
    check_clean(&view);
    mc_writer_close(writer);
}

/* Recreated from damage, generations go on where they were, unless that is not to be believed. A
 * new file without a maximum and a ring has the default ones. */
static void test_recreated_generation(void)
{
    static const uint64_t commits[][2] = {{7, 8}, {MC_GENERATION_MAX, 1}};
    for (size_t i = 0; i < 2; i++) {
        struct mc_writer_options options = small_options();
        struct mc_map *map;
        writer = open_new_cache(&options);
        mc_writer_close(writer);
        patch_file(MC_CONTROL_OFFSET + offsetof(struct mc_control, commit), &commits[i][0], 8);
        options.recreate = true;
        options.max_size = 0;
        options.ring_slots = 0;
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_EQ(commit_one(1), commits[i][1]);
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_EQ(mc_map_superblock(map)->max_size, MC_MAX_SIZE_DEFAULT);
        CHECK_EQ(mc_map_superblock(map)->ring_slots, MC_RING_SLOTS);
        mc_map_release(map);
        mc_writer_close(writer);
    }
}

/* A file with one generation, in whose root somebody changed something, under a checksum that is
 * right. */
static void make_with_root(void (*change)(struct mc_root *root))
{
    struct mc_writer_options options = small_options();
    struct mc_view view;
    writer = open_new_cache(&options);
    (void)commit_one(1);
    mc_writer_view(writer, &view);
    struct mc_root root = view.root;
    mc_writer_close(writer);
    change(&root);
    root.checksum = mc_checksum(&root, offsetof(struct mc_root, checksum));
    patch_file(MC_RING_OFFSET + root.generation % options.ring_slots * sizeof root, &root,
               sizeof root);
}

static void fill_reserved(struct mc_root *root)
{
    memset(root->reserved, 7, sizeof root->reserved);
}

/* What a later loader keeps in a root's reserved bytes is not known to be right of another one. */
static void test_reserved(void)
{
    struct mc_writer_options options = small_options();
    struct mc_view view;
    make_with_root(fill_reserved);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    (void)commit_one(2);
    mc_writer_view(writer, &view);
    check_clean(&view);
    for (size_t i = 0; i < sizeof view.root.reserved; i++) {
        CHECK_EQ(view.root.reserved[i], 0);
    }
    mc_writer_close(writer);
}

static void break_catalogue(struct mc_root *root)
{
    root->catalogue = UINT64_MAX;
}

/* A catalogue that cannot be entered: the sentence says so, and nothing of our own memory. */
static void test_no_catalogue(void)
{
    struct mc_writer_options options = small_options();
    make_with_root(break_catalogue);
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_CORRUPT);
    CHECK(strstr(test_error.text, "the reference of a table is damaged") != NULL);
}

/* A sound file is discarded when that is asked for: nothing is carried over, generations go on, and
 * the next opening finds an ordinary file. */
static void test_discard(void)
{
    struct mc_writer_options options = small_options();
    writer = open_new_cache(&options);
    CHECK_EQ(commit_one(1), 1);
    CHECK_EQ(commit_one(2), 2);
    mc_writer_close(writer);
    for (uint64_t i = 0; i < 2; i++) {
        struct mc_view view;
        options.discard = i == 0;
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        mc_writer_view(writer, &view);
        CHECK_EQ(view.root.generation, 2 + i);
        CHECK_EQ(view.root.collections, i); /* the one that was committed after the discarding */
        CHECK_EQ(commit_one((int)i + 3), 3 + i);
        mc_writer_close(writer);
    }
}

static void close_it(void)
{
    mc_writer_close(writer);
}

/* The child lets go of everything, and the parent notices nothing. */
static void test_close_in_child(void)
{
    struct mc_writer_options options = small_options();
    writer = open_new_cache(&options);
    (void)commit_one(1);
    in_child(close_it, 0);
    CHECK_EQ(commit_one(2), 2);
    mc_writer_close(writer);
}

static void expect_locked(struct mc_writer_options options)
{
    struct mc_writer *second;
    char lock_path[96];
    (void)snprintf(lock_path, sizeof lock_path, "%s%s", test_path(), MC_LOCK_SUFFIX);
    CHECK(unlink(lock_path) == 0);
    CHECK_EQ(mc_writer_open(test_path(), &options, &second, &test_error), MC_LOCKED);
}

/* Somebody removes the lock file under a loader: the cache file itself keeps the second one out,
 * whether it would change the file, recreate it or replace it by a larger one. */
static void test_removed_lock(void)
{
    struct mc_writer_options options = small_options(), recreate = options, larger = options;
    recreate.recreate = true;
    larger.max_size = 2 * options.max_size;
    writer = open_new_cache(&options);
    for (int i = 0; i < 2; i++) { /* of a file that was made, and of one that was there */
        expect_locked(options);
        expect_locked(recreate);
        expect_locked(larger);
        CHECK_EQ(commit_one(i), 1 + (uint64_t)i);
        mc_writer_close(writer);
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    }
    mc_writer_close(writer);
    CHECK_OK(mc_writer_open(test_path(), &larger, &writer, &test_error));
    expect_locked(options); /* of the successor */
    mc_writer_close(writer);
}

/* Between the opening of the cache file and its locking another file takes its place: what would be
 * locked, and written, is nobody's any more. */
static void remove_file(enum fault kind)
{
    static int locks; /* PORTABLE: the first one is of the lock file */
    bool of_file = PORTABLE ? kind == FAULT_LOCK && ++locks == 2 : kind == FAULT_FCNTL;
    if (of_file) {
        faults_before = NULL;
        CHECK(unlink(test_path()) == 0);
    }
}

static void test_replaced_while_opening(void)
{
    struct mc_writer_options options = small_options();
    writer = open_new_cache(&options);
    mc_writer_close(writer);
    faults_before = remove_file;
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_LOCKED);
    CHECK(faults_before == NULL);
}

int main(void)
{
    test_begin("test_writer");
    test_resize_without_memory();
    test_resize_of_nothing();
    test_long_report();
    test_report_without_characters();
    test_last_generation();
    test_recreated_generation();
    test_reserved();
    test_no_catalogue();
    test_discard();
    test_close_in_child();
    test_removed_lock();
    test_replaced_while_opening();
    remove_cache(test_path());
    return 0;
}
