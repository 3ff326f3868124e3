/* test_make_room.c - where room for a batch comes from, in which order, by a clock that the test
 * moves. */
#include "faults.h"
#include "store_support.h"
#include "writer/upkeep.h"

#define SECOND INT64_C(1000000000)
#define MIB (UINT64_C(1) << 20)

static struct mc_writer *writer;
static struct mc_map *map;
static uint8_t document[17u << 20];

static void open_new(uint64_t max_size, int64_t retention_ns)
{
    struct mc_writer_options options = small_options();
    options.max_size = max_size;
    options.retention_ns = retention_ns;
    options.ring_slots = 64; /* it must not go round: that makes room, too */
    faults_clock = 100 * SECOND;
    writer = open_new_cache(&options);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
}

static void close_all(void)
{
    close_checked(writer, map);
    faults_clock = -1;
}

/* Puts a document of so many bytes and commits. */
static enum mc_status commit_bytes(int k, uint64_t bytes)
{
    static uint8_t version;
    const uint32_t len = (uint32_t)bytes;
    uint64_t generation;
    struct mc_key key;
    bool changed;
    fill_document(document, len, ++version);
    mc_key_from_int64(k, &key);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    enum mc_status status =
        mc_batch_put(writer, "big", 3, &key, document, len, &changed, &test_error);
    if (status == MC_OK) {
        status = mc_batch_commit(writer, &generation, &test_error);
    }
    if (status != MC_OK) {
        mc_batch_abort(writer);
    }
    return status;
}

static uint64_t file_bytes(void)
{
    return view_of(map).root.file_size;
}

/* A commit makes the file longer by what it needs, whatever the file's size. What is made longer
 * before anybody needs it is more, piece by piece, and where the file system has no room for that
 * it is no error; nor does it take the last of it. */
static void test_small_step(void)
{
    open_new(128 * MIB, 0);
    for (int k = 0; k < 5; k++) {
        CHECK_OK(commit_bytes(k, 16 * MIB));
    }
    uint64_t size = file_bytes();
    CHECK(size >= 80 * MIB);
    static int k = 100;
    while (file_bytes() == size) { /* up to the file's end */
        CHECK_OK(commit_bytes(k++, MIB));
    }
    CHECK_EQ(file_bytes(), size + 2 * MIB); /* a 32nd would have been more */
    faults_arm(FAULT_BIT(FAULT_ALLOCATE), 0, true, 0);
    CHECK(!mc_writer_tidy(writer));
    CHECK(faults_disarm() == 1);
    faults_room = (struct faults_room){.told = true, .blocks = 1000};
    CHECK(!mc_writer_tidy(writer));
    faults_room.blocks = 0; /* a tmpfs that has no limit */
    faults_arm(FAULT_BIT(FAULT_MEMORY), 0, true, 0);
    CHECK(!mc_writer_tidy(writer) && file_bytes() == size + 2 * MIB);
    CHECK(faults_disarm() >= 1);
    CHECK(mc_writer_tidy(writer)); /* uses what the file has become longer by */
    faults_room.told = false;
    int steps = 0;
    while (mc_writer_tidy(writer)) {
        CHECK(++steps < 10);
    }
    CHECK(steps >= 1);
    CHECK_OK(commit_bytes(k++, 100));
    size = file_bytes();
    faults_arm(FAULT_BIT(FAULT_ALLOCATE), 0, true, 0); /* it is there already */
    CHECK_OK(commit_bytes(k++, MIB));
    CHECK_OK(commit_bytes(k++, MIB));
    CHECK(faults_disarm() == 0 && file_bytes() == size);
    close_all();
}

/* A file of its maximum size is not made longer. */
static void test_no_step(void)
{
    open_new(16 * MIB, 0);
    int k = 0;
    do {
        CHECK_OK(commit_bytes(k++, MIB));
    } while (file_bytes() + 2 * MIB <= 16 * MIB);
    for (int i = 0; mc_writer_tidy(writer); i++) { /* what it holds may move, for a while */
        CHECK(i < 100);
    }
    CHECK(file_bytes() <= 16 * MIB);
    close_all();
}

/* What is past its retention is reused before the file grows; what is not keeps its readers. */
static void test_expired(void)
{
    open_new(128 * MIB, SECOND);
    CHECK_OK(commit_bytes(0, 4 * MIB));
    CHECK_OK(commit_bytes(0, 4 * MIB));
    struct mc_view old = view_of(map);
    CHECK_OK(commit_bytes(0, 4 * MIB));
    uint64_t size = file_bytes();
    CHECK(size >= 12 * MIB); /* three versions: nothing was reused */
    CHECK(mc_view_valid(&old));
    for (int round = 0; round < 20; round++) {
        faults_clock += 2 * SECOND;
        CHECK_OK(commit_bytes(0, 4 * MIB));
    }
    CHECK_EQ(file_bytes(), size);
    CHECK(!mc_view_valid(&old));
    close_all();
}

/* A loader that rewrites all the time keeps no more than its share of the past, but the last eighth
 * of the retention at any rate. */
static void test_excess(void)
{
    open_new(256 * MIB, 1000 * SECOND);
    for (int round = 0; round < 40; round++) {
        CHECK_OK(commit_bytes(0, 4 * MIB));
        struct mc_view view = view_of(map);
        faults_clock += 60 * SECOND; /* an eighth is 125 seconds */
        CHECK_OK(commit_bytes(1, 4 * MIB));
        CHECK(mc_view_valid(&view));
        faults_clock += 60 * SECOND;
        CHECK_OK(commit_bytes(1, 4 * MIB));
        CHECK(mc_view_valid(&view)); /* not older than an eighth */
    }
    CHECK(file_bytes() < 64 * MIB);
    close_all();
    open_new(256 * MIB, 1000 * SECOND);
    for (int round = 0; round < 8;
         round++) { /* all of it older than an eighth: the share is kept */
        CHECK_OK(commit_bytes(0, 4 * MIB));
        faults_clock += 130 * SECOND;
    }
    CHECK(file_bytes() < 32 * MIB);
    close_all();
}

/* The past goes when nothing else is left, whoever reads it; then the cache is full. */
static void test_last_resort(void)
{
    open_new(16 * MIB, 1000 * SECOND);
    CHECK_OK(commit_bytes(0, 5 * MIB));
    struct mc_view old = view_of(map);
    CHECK_OK(commit_bytes(0, 5 * MIB));
    CHECK(mc_view_valid(&old));
    CHECK_OK(commit_bytes(0, 5 * MIB));
    CHECK_EQ(commit_bytes(1, 12 * MIB), MC_FULL);
    CHECK(!mc_view_valid(&old));
    CHECK(strstr(test_error.text, "the cache is full") != NULL);
    CHECK_EQ(test_error.limit, 16 * MIB);
    CHECK_OK(commit_bytes(0, 5 * MIB));
    close_all();
}

int main(void)
{
    test_begin("test_make_room");
    mc_buddy_test_unchecked = true;
    test_small_step();
    test_no_step();
    test_expired();
    test_excess();
    test_last_resort();
    remove_cache(test_path());
    return 0;
}
