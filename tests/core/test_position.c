/* test_position.c - what a loader says beside its generations: positions, and counts by name. */
#include "counts.h"
#include "slots.h"
#include "store_support.h"
#include <fcntl.h>

static struct mc_writer *writer;

static void open_writer(struct mc_writer_options options)
{
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
}

static void begin(void)
{
    remove_cache(test_path());
    open_writer(small_options());
}

static void reopen(void)
{
    mc_writer_close(writer);
    open_writer(small_options());
}

static void commit_one(int version)
{
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, version));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

static void mark(const char *text)
{
    CHECK_OK(mc_writer_mark(writer, text, strlen(text), &test_error));
}

static void check_position(const char *text)
{
    const uint8_t *position;
    size_t len = mc_writer_position(writer, &position);
    CHECK_EQ(len, strlen(text));
    CHECK(memcmp(position, text, len) == 0);
}

static struct mc_space space_of_writer(void)
{
    struct mc_view view;
    mc_writer_view(writer, &view);
    return view.space;
}

/* ---- positions ---- */

static void test_of_its_generation(void)
{
    begin();
    check_position("");
    mark("before any generation");
    check_position("before any generation");
    reopen();
    check_position("before any generation");
    commit_one(1);
    check_position("");
    mark("a longer one");
    mark("one");
    check_position("one");
    reopen();
    check_position("one");
    commit_one(2);
    check_position("");
    reopen();
    check_position("");
    mark("two");
    mark("");
    check_position("");
    mc_writer_close(writer);
}

/* Of the same number, but of another moment: a machine failed before the first was on disk. */
static void test_of_a_lost_generation(void)
{
    struct mc_position position;
    begin();
    commit_one(1);
    mark("one");
    struct mc_space space = space_of_writer();
    mc_position_read(&space, &position);
    position.published_at--;
    mc_position_write(&space, &position);
    reopen();
    check_position("");
    mark("two");
    reopen();
    check_position("two");
    mc_writer_close(writer);
}

static void test_limit(void)
{
    uint8_t bytes[MC_POSITION_MAX + 1];
    const uint8_t *position;
    begin();
    memset(bytes, 0xA5, sizeof bytes);
    CHECK_OK(mc_writer_mark(writer, bytes, MC_POSITION_MAX, &test_error));
    CHECK_EQ(mc_writer_mark(writer, "", sizeof bytes, &test_error), MC_LIMIT);
    reopen();
    CHECK_EQ(mc_writer_position(writer, &position), MC_POSITION_MAX);
    CHECK(memcmp(position, bytes, MC_POSITION_MAX) == 0);
    mc_writer_close(writer);
}

/* The newest is half written, or older than it says: the one before counts. */
static void test_torn(void)
{
    begin();
    mark("older");
    mark("newest");
    struct mc_space space = space_of_writer();
    struct mc_position position;
    mc_position_read(&space, &position);
    uint64_t at = MC_POSITION_OFFSET + position.sequence % 2 * sizeof position;
    shm_write(space.base + at + offsetof(struct mc_position, bytes), "N", 1);
    reopen();
    check_position("older");
    mark("next");
    check_position("next");
    reopen();
    check_position("next");
    mc_writer_close(writer);
}

/* A length that no loader writes is none; and the sequence goes on. */
static void test_hostile(void)
{
    struct mc_position position;
    static const uint32_t lengths[] = {MC_POSITION_MAX + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        begin();
        mark("one");
        struct mc_space space = space_of_writer();
        mc_position_read(&space, &position);
        position.length = lengths[i];
        position.sequence = 1000;
        mc_position_write(&space, &position);
        reopen();
        check_position("");
        mark("two");
        reopen();
        check_position("two");
        mc_writer_close(writer);
    }
}

/* A file whose end is gone gets no position. */
static void test_truncated(void)
{
    begin();
    commit_one(1);
    struct mc_space space = space_of_writer();
    shm_store(mc_tail_mark(&space, space.limit), 0);
    CHECK_EQ(mc_writer_mark(writer, "one", 3, &test_error), MC_CORRUPT);
    mc_writer_close(writer);
}

/* ---- counts ---- */

static uint8_t room[MC_COUNTS_ROOM];
static uint32_t room_len;
#define NAMES_MOST 400
static struct mc_count items[NAMES_MOST];
static char names[NAMES_MOST][MC_COUNTS_NAME_MAX + 2];

static struct mc_counts numbered(size_t number, size_t name_len, uint64_t first)
{
    for (size_t i = 0; i < number; i++) {
        int len = snprintf(names[i], sizeof names[i], "%0*zu", (int)name_len, i);
        CHECK(len == (int)name_len);
        items[i] = (struct mc_count){.name = names[i], .name_len = name_len, .count = first + i};
    }
    return (struct mc_counts){.items = items, .number = number};
}

/* How many there are of a kind, and their sum. */
static size_t read_counts(enum mc_counts_kind kind, uint64_t *sum)
{
    struct mc_bson_cursor cursor;
    struct mc_count count;
    size_t number = 0;
    *sum = 0;
    CHECK(mc_counts_open(room, room_len, kind, &cursor));
    while (mc_counts_next(&cursor, &count)) {
        *sum += count.count;
        number++;
    }
    return number;
}

static void test_counts_fit(void)
{
    uint64_t sum;
    for (size_t number = 0; number < NAMES_MOST; number += number < 60 ? 1 : 97) {
        for (size_t name_len = 4; name_len <= MC_COUNTS_NAME_MAX + 1;
             name_len += name_len == 64 ? 1 : 5) {
            struct mc_counts counts = numbered(number, name_len, 1);
            room_len = 0;
            mc_counts_update(room, &room_len, &counts, &counts);
            CHECK(room_len <= MC_COUNTS_ROOM);
            CHECK_OK(mc_bson_validate(room, room_len, &test_error));
            for (int kind = 0; kind < MC_COUNTS_KINDS; kind++) {
                size_t there = read_counts(kind, &sum);
                CHECK_EQ(sum, number * (number + 1) / 2);
                CHECK(there <= number);
                CHECK(name_len > MC_COUNTS_NAME_MAX || there >= (number < 4 ? number : 4));
            }
        }
    }
}

static void test_one_kind_stays(void)
{
    uint64_t sum;
    struct mc_counts counts = numbered(3, 4, 10);
    room_len = 0;
    mc_counts_update(room, &room_len, &counts, NULL);
    CHECK_EQ(read_counts(MC_COUNTS_ERRORS, &sum), 0);
    counts = numbered(2, 4, 100);
    mc_counts_update(room, &room_len, NULL, &counts);
    CHECK_EQ(read_counts(MC_COUNTS_LOADS, &sum), 3);
    CHECK_EQ(sum, 33);
    CHECK_EQ(read_counts(MC_COUNTS_ERRORS, &sum), 2);
    CHECK_EQ(sum, 201);
}

/* The sum of the rest does not overflow, and equal counts are in the order of their names. */
static void test_odd_counts(void)
{
    struct mc_bson_cursor cursor;
    struct mc_count count;
    struct mc_count odd[] = {
        {.name = "other", .name_len = 5, .count = UINT64_MAX},
        {.name = "bad \xff", .name_len = 5, .count = UINT64_MAX},
        {.name = "nul\0", .name_len = 4, .count = 1},
        {.name = "b", .name_len = 1, .count = UINT64_MAX},
        {.name = "ab", .name_len = 2, .count = 1},
        {.name = "a", .name_len = 1, .count = 1},
        {.name = "a", .name_len = 1, .count = 1}, /* a dict has no two, a caller in C may */
    };
    struct mc_counts counts = {.items = odd, .number = sizeof odd / sizeof odd[0]};
    static const char *const expected[] = {"b", "a", "a", "ab", "other"};
    room_len = UINT32_MAX; /* a hostile file's */
    mc_counts_update(room, &room_len, NULL, &counts);
    CHECK(mc_counts_open(room, room_len, MC_COUNTS_ERRORS, &cursor));
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        CHECK(mc_counts_next(&cursor, &count));
        CHECK(strcmp(count.name, expected[i]) == 0);
        CHECK_EQ(count.count, i == 0 || i == 4 ? INT64_MAX : 1);
    }
    CHECK(!mc_counts_next(&cursor, &count));
}

/* A document that was not made here: what is no count is passed over, and what is too large for its
 * place makes room for what is said anew. */
static void test_counts_of_others(void)
{
    static const uint8_t mixed[] = "\x3a\0\0\0"
                                   "\x03loads\0\x22\0\0\0"
                                   "\x12w\0\xff\xff\xff\xff\xff\xff\xff\xff"
                                   "\x10x\0\x05\0\0\0"
                                   "\x10y\0\xff\xff\xff\xff"
                                   "\x08z\0\x01\0"
                                   "\x10"
                                   "errors\0\1\0\0\0";
    struct mc_bson_cursor cursor;
    struct mc_count count;
    uint64_t sum;
    memcpy(room, mixed, sizeof mixed);
    room_len = sizeof mixed;
    CHECK(mc_bson_validate(room, room_len, &test_error) == MC_OK);
    CHECK(!mc_counts_open(room, room_len, MC_COUNTS_ERRORS, &cursor));
    CHECK(mc_counts_open(room, room_len, MC_COUNTS_LOADS, &cursor));
    CHECK(mc_counts_next(&cursor, &count) && count.count == 5 && strcmp(count.name, "x") == 0);
    CHECK(!mc_counts_next(&cursor, &count));
    CHECK(room[43] == 1);
    room[43] = 2; /* the value of z: what is wrong in one place is right in none */
    CHECK(!mc_counts_open(room, room_len, MC_COUNTS_LOADS, &cursor));
    memset(room, 0, sizeof room);
    room[0] = room_len = MC_BSON_SIZE_MIN; /* a document without either */
    CHECK(!mc_counts_open(room, room_len, MC_COUNTS_LOADS, &cursor));
    struct mc_counts counts = numbered(30, 10, 3); /* what fits for errors is too much for loads */
    room_len = 0;
    mc_counts_update(room, &room_len, NULL, &counts);
    CHECK_EQ(read_counts(MC_COUNTS_ERRORS, &sum), 30);
    /* "loads" and its empty document out, and then "errors" becomes "loads" */
    memmove(room + 4, room + 4 + 12, room_len - 4 - 12);
    room_len -= 12;
    memcpy(room, &room_len, sizeof room_len);
    memmove(room + 10, room + 11, room_len - 11);
    memcpy(room + 4, "\3loads", 7);
    room_len--;
    memcpy(room, &room_len, sizeof room_len);
    CHECK_EQ(read_counts(MC_COUNTS_LOADS, &sum), 30);
    counts = numbered(1, 4, 3);
    mc_counts_update(room, &room_len, NULL, &counts);
    CHECK_EQ(read_counts(MC_COUNTS_LOADS, &sum), 0);
    CHECK_EQ(read_counts(MC_COUNTS_ERRORS, &sum), 1);
}

/* ---- both ---- */

/* The file's content moves into one of another size, and so does what goes with it. */
static void test_successor(void)
{
    struct mc_writer_options options = small_options();
    struct mc_loader_report report;
    struct mc_map *map;
    uint64_t sum;
    struct mc_report_stream stream = {
        .following = 1, .position_at_us = 9, .events = 7, .disconnects = 3};
    begin();
    commit_one(1);
    struct mc_count one = {.name = "a", .name_len = 1, .count = 1};
    struct mc_counts counts = {.items = &one, .number = 1};
    stream.errors = &counts;
    mc_writer_report(writer, NULL, NULL, NULL, -1, &stream);
    stream.errors = NULL;
    mc_writer_report(writer, "polling", "none", NULL, 5, &stream);
    mark("one");
    mc_writer_close(writer);
    options.max_size *= 2;
    open_writer(options);
    check_position("one");
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_report(map, &report);
    CHECK(strcmp(report.state, "polling") == 0 && report.confirmed_at == 5 && !report.following);
    CHECK(report.position_at == 9 && report.events == 7 && report.disconnects == 3);
    room_len = report.counts_len;
    memcpy(room, report.counts, sizeof room);
    CHECK(read_counts(MC_COUNTS_ERRORS, &sum) == 1 && sum == 1);
    mc_map_release(map);
    commit_one(2);
    mc_writer_close(writer);
    open_writer(small_options());
    check_position(""); /* the data has gone on without it */
    mc_writer_close(writer);
    options.discard = true;
    open_writer(options);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_report(map, &report);
    CHECK(report.events == 0 && report.state[0] == '\0');
    mc_map_release(map);
    mc_writer_close(writer);
}

/* A file whose reports are gone has none to hand on; and lengths that no loader writes are none. */
static void test_reports_of_others(void)
{
    struct mc_writer_options options = small_options();
    static const uint8_t nothing[MC_REPORT_SLOTS * sizeof(struct mc_report)];
    struct mc_loader_report report;
    struct mc_report slot;
    struct mc_map *map;
    begin();
    commit_one(1);
    struct mc_space space = space_of_writer();
    mc_report_read(&space, &slot);
    slot.counts_len = UINT32_MAX;
    mc_report_write(&space, &slot);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_report(map, &report);
    CHECK_EQ(report.counts_len, 0);
    mc_map_release(map);
    mc_writer_close(writer);
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, nothing, sizeof nothing, MC_REPORT_OFFSET) == sizeof nothing);
    CHECK_EQ(close(fd), 0);
    options.max_size *= 2;
    open_writer(options);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_report(map, &report);
    CHECK(report.running && report.state[0] == '\0' && report.confirmed_at == 0);
    mc_map_release(map);
    mc_writer_close(writer);
}

/* What a report does not say stays as it was. */
static void test_what_is_kept(void)
{
    struct mc_count one = {.name = "a", .name_len = 1, .count = 1};
    struct mc_counts counts = {.items = &one, .number = 1};
    struct mc_report_stream all = {
        .following = 1, .position_at_us = 9, .events = 7, .disconnects = 3, .loads = &counts};
    struct mc_report_stream keep = {
        .following = -1, .position_at_us = -1, .events = -1, .disconnects = -1};
    struct mc_loader_report report;
    struct mc_map *map;
    begin();
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_writer_report(writer, "streaming", NULL, NULL, 5, &all);
    mc_writer_report(writer, NULL, NULL, NULL, -1, &keep);
    mc_map_report(map, &report);
    CHECK(report.following && report.position_at == 9 && report.confirmed_at == 5);
    CHECK(report.events == 7 && report.disconnects == 3 && report.counts_len > 0);
    keep.following = 0;
    mc_writer_report(writer, NULL, NULL, NULL, -1, &keep);
    mc_map_report(map, &report);
    CHECK(!report.following && report.events == 7);
    mc_map_release(map);
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_position");
    test_reports_of_others();
    test_what_is_kept();
    test_of_its_generation();
    test_of_a_lost_generation();
    test_limit();
    test_torn();
    test_hostile();
    test_successor();
    test_truncated();
    test_counts_fit();
    test_one_kind_stays();
    test_odd_counts();
    test_counts_of_others();
    remove_cache(test_path());
    return 0;
}
