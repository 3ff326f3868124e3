/* test_upkeep.c - a file that was larger once: what is in use, and the smaller one in its place. */
#include <fcntl.h>
#include <sys/stat.h>

#include "faults.h"
#include "store_support.h"
#include "writer/upkeep.h"

#define SECOND 1000000000ll

static struct mc_writer *writer;
static struct oracle oracle;

/* Keys of one collection, in one commit: of this version, or gone. */
static void commit_range(int from, int to, int version)
{
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = from; k < to; k++) {
        bool existed;
        CHECK_OK(version == ABSENT ? delete_key_of(writer, 0, k, &existed)
                                   : put_version(writer, 0, k, version));
        oracle.version[0][k] = version;
    }
    oracle.exists[0] = true;
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

static void begin(void)
{
    struct mc_writer_options options = small_options();
    options.retention_ns = SECOND;
    oracle_clear(&oracle);
    faults_clock = 100 * SECOND;
    writer = open_new_cache(&options);
}

static void check_content(void)
{
    struct mc_view view;
    bool equal;
    mc_writer_view(writer, &view);
    CHECK_OK(view_equals(&view, &oracle, &equal));
    CHECK(equal);
    check_clean(&view);
}

static const char *beside(const char *suffix)
{
    static char path[160];
    (void)snprintf(path, sizeof path, "%s%s", test_path(), suffix);
    return path;
}

static bool is_there(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0;
}

/* What was replaced is in use for the time that it is kept, and not until it is reclaimed. */
static void test_in_use(void)
{
    begin();
    commit_range(0, KEYS, 1);
    uint64_t full = mc_writer_in_use(writer);
    commit_range(1, KEYS, ABSENT);
    CHECK(mc_writer_in_use(writer) > full);
    faults_clock += 2 * SECOND;
    CHECK(mc_writer_in_use(writer) < full - KEYS * 100);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK(!mc_writer_tidy(writer));
    mc_batch_abort(writer);
    mc_writer_close(writer);
}

/* With each allocation failing in turn all stays as it was, until one attempt has all it needs. */
static void test_shrink_without_memory(void)
{
    struct mc_writer *successor = NULL;
    long failures = 0;
    begin();
    commit_range(0, KEYS, 1);
    commit_range(10, KEYS, ABSENT);
    uint64_t generation = 2;
    for (long left = 0; successor == NULL; left++) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_writer_shrink(writer, &successor, &test_error);
        (void)faults_disarm();
        if (status != MC_OK) {
            CHECK_EQ(status, MC_NOMEM);
            CHECK(!is_there(beside(".new")));
            failures++;
            commit_range(0, 1, (int)(failures % 100));
            generation++;
        }
    }
    CHECK(failures > 10);
    mc_writer_free(writer);
    writer = successor;
    check_content();
    commit_range(3, 5, 7);
    check_content();
    mc_writer_close(writer);
}

/* Zeros in the place of a table's first page. */
static void damage(const struct mc_view *view, uint64_t root)
{
    static const uint8_t zeros[64];
    struct mc_walk walk;
    struct mc_item item;
    mc_walk_begin(&walk, &view->space, root);
    do {
        CHECK_OK(mc_walk_next(&walk, &item));
    } while (item.kind != MC_ITEM_PAGE);
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, zeros, sizeof zeros, (off_t)item.offset) == sizeof zeros);
    (void)close(fd);
}

/* A table that does not go on is no end of the content: the file stays, whoever can read it. */
static void test_shrink_of_damage(void)
{
    for (int of_all = 0; of_all < 2; of_all++) {
        struct mc_writer *successor;
        struct mc_collection collection;
        struct mc_view view;
        struct mc_walk walk;
        struct mc_hit hit;
        struct stat before, after;
        begin();
        commit_range(0, KEYS, 1);
        mc_writer_view(writer, &view);
        mc_walk_begin(&walk, &view.space, view.root.catalogue);
        CHECK_OK(mc_walk_entry(&walk, &hit));
        CHECK_OK(mc_hit_collection(&hit, &collection));
        damage(&view, of_all ? view.root.catalogue : collection.root);
        CHECK(stat(test_path(), &before) == 0);
        CHECK_EQ(mc_writer_shrink(writer, &successor, &test_error), MC_CORRUPT);
        CHECK(stat(test_path(), &after) == 0 && after.st_ino == before.st_ino);
        CHECK(!is_there(beside(".new")));
        mc_writer_close(writer);
    }
}

/* A file that was cut off reads as zeros, and is not carried over either. */
static void test_shrink_of_a_part(void)
{
    struct mc_writer *successor;
    begin();
    commit_range(0, KEYS, 1);
    CHECK(truncate(test_path(), 1 << 20) == 0);
    CHECK_EQ(mc_writer_shrink(writer, &successor, &test_error), MC_CORRUPT);
    CHECK(!mc_writer_tidy(writer) && !is_there(beside(".new")));
    mc_writer_close(writer);
}

/* What is another's by now stays, and what a killed loader left goes. */
static void test_other_files(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *successor;
    begin();
    commit_range(0, 3, 1);
    CHECK(rename(test_path(), beside(".kept")) == 0);
    CHECK_EQ(mc_writer_shrink(writer, &successor, &test_error), MC_NOT_READY);
    CHECK(!is_there(test_path()));
    CHECK(rename(beside(".kept"), test_path()) == 0);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_EQ(mc_writer_shrink(writer, &successor, &test_error), MC_USAGE);
    mc_writer_close(writer);
    int fd = open(beside(".new"), O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    (void)close(fd);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK(!is_there(beside(".new")));
    check_content();
    mc_writer_close(writer);
    CHECK_OK(mc_writer_open_anonymous(&options, &writer, &test_error));
    CHECK_EQ(mc_writer_shrink(writer, &successor, &test_error), MC_USAGE);
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_upkeep");
    test_in_use();
    test_shrink_without_memory();
    test_shrink_of_damage();
    test_shrink_of_a_part();
    test_other_files();
    remove_cache(test_path());
    return 0;
}
