/* test_history.c - the ring of rounds: what a loader notes of them beside its generations. */
#include "history.h"
#include "store_support.h"
#include "writer/rounds.h"
#include <fcntl.h>

#define SLOTS 8u
#define MOST 64u

static struct mc_writer *writer;
static struct mc_round_record found[MOST];

static void begin(struct mc_writer_options options)
{
    writer = open_new_cache(&options);
}

static void reopen(void)
{
    struct mc_writer_options options = small_options();
    mc_writer_close(writer);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
}

/* Round number `n` says so in all that is kept of it. */
static void record(uint64_t n)
{
    struct mc_round round = {.reason = n % 2 ? "odd" : "even",
                             .error = "",
                             .started_at = (int64_t)n,
                             .duration = n,
                             .put = n,
                             .deleted = n,
                             .bytes = n,
                             .rounds = (uint32_t)n};
    CHECK_OK(mc_writer_record(writer, &round, &test_error));
}

static struct mc_space space_of_writer(void)
{
    struct mc_view view;
    mc_writer_view(writer, &view);
    return view.space;
}

/* The rounds that a process finds that comes to the file now. */
static size_t read_history(size_t *damaged)
{
    struct mc_map *map;
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    struct mc_history history = mc_superblock_history(mc_map_superblock(map));
    struct mc_space space = space_of_writer();
    CHECK(history.slots <= MOST);
    size_t count = mc_history_read(&space, &history, found, damaged);
    mc_map_release(map);
    return count;
}

/* Rounds `first` to `last` are there, whole, in this order, and nothing else. */
static void check_rounds(uint64_t first, uint64_t last)
{
    CHECK_EQ(read_history(NULL), last - first + 1);
    for (uint64_t n = first; n <= last; n++) {
        const struct mc_round_record *round = &found[n - first];
        CHECK_EQ(round->sequence, n);
        CHECK(round->started_at == (int64_t)n && round->duration == n && round->put == n);
        CHECK(round->deleted == n && round->bytes == n && round->rounds == n);
        CHECK(strcmp(round->reason, n % 2 ? "odd" : "even") == 0 && round->error[0] == '\0');
    }
}

static uint64_t slot_at(uint64_t sequence)
{
    struct mc_map *map;
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    uint64_t offset = mc_map_superblock(map)->history_offset;
    mc_map_release(map);
    return offset + sequence % SLOTS * sizeof(struct mc_round_record);
}

/* The last ones are kept, also over a restart, which goes on counting. */
static void test_the_last_are_kept(void)
{
    begin(small_options());
    CHECK_EQ(read_history(NULL), 0);
    for (uint64_t n = 1; n <= 3 * SLOTS + 3; n++) {
        record(n);
        check_rounds(n > SLOTS ? n - SLOTS + 1 : 1, n);
        if (n % 5 == 0) {
            reopen();
        }
    }
    mc_writer_close(writer);
}

static size_t looks;
static uint64_t under_way;

/* Before each store: a reader who comes now, and one who comes after a kill, find this. */
static void look(enum shm_access access, const void *address, size_t len)
{
    (void)address;
    (void)len;
    if (access == SHM_STORE) {
        mc_shm_hook = NULL;
        size_t damaged, count = read_history(&damaged);
        CHECK_EQ(count + damaged, SLOTS);
        CHECK(damaged <= 1 && found[count - 1].sequence == under_way - 1);
        CHECK_EQ(found[0].sequence, under_way - SLOTS + damaged);
        looks++;
        mc_shm_hook = look;
    }
}

static void test_half_written(void)
{
    begin(small_options());
    for (uint64_t n = 1; n <= SLOTS; n++) {
        record(n);
    }
    for (under_way = SLOTS + 1; under_way < 3 * SLOTS; under_way++) {
        mc_shm_hook = look;
        record(under_way);
        mc_shm_hook = NULL;
    }
    CHECK(looks > 2 * SLOTS);
    check_rounds(2 * SLOTS, 3 * SLOTS - 1);
    mc_writer_close(writer);
}

/* A bit that is wrong costs the record that it is in, and a number out of place counts for none. */
static void test_damage(void)
{
    size_t damaged;
    begin(small_options());
    for (uint64_t n = 1; n <= SLOTS; n++) {
        record(n);
    }
    struct mc_space space = space_of_writer();
    shm_write(space.base + slot_at(3) + offsetof(struct mc_round_record, put), "x", 1);
    CHECK_EQ(read_history(&damaged), SLOTS - 1);
    CHECK_EQ(damaged, 1);
    CHECK(found[1].sequence == 2 && found[2].sequence == 4);
    struct mc_history history = {.offset = slot_at(0), .slots = SLOTS};
    /* whole, but in the slot of another, and above what any loader counts to */
    static const uint64_t numbers[] = {SLOTS + 4, MC_GENERATION_MAX + 1 + 5};
    for (size_t i = 0; i < 2; i++) {
        struct mc_round_record record = {.sequence = numbers[i]};
        mc_history_write(&space, &history, &record);
        if (i == 0) {
            uint8_t bytes[sizeof record];
            shm_read(bytes, space.base + slot_at(4), sizeof bytes);
            shm_write(space.base + slot_at(6), bytes, sizeof bytes);
            reopen();
            space = space_of_writer();
        }
    }
    CHECK_EQ(read_history(&damaged), SLOTS - 3);
    CHECK_EQ(damaged, 3);
    CHECK_EQ(mc_history_last(&space, &history), SLOTS + 4);
    mc_writer_close(writer);
}

/* The highest number that counts is no end: a loader begins again. */
static void test_end_of_numbers(void)
{
    begin(small_options());
    struct mc_space space = space_of_writer();
    struct mc_history history = {.offset = slot_at(0), .slots = SLOTS};
    struct mc_round_record last = {.sequence = MC_GENERATION_MAX};
    mc_history_write(&space, &history, &last);
    reopen();
    record(1);
    CHECK_EQ(read_history(NULL), 2);
    CHECK(found[0].sequence == 1 && found[1].sequence == MC_GENERATION_MAX);
    mc_writer_close(writer);
}

/* Text is cut at a character, and has an end. */
static void test_text(void)
{
    char text[400];
    begin(small_options());
    memset(text, 'x', sizeof text);
    memcpy(text + 149, "\xE2\x82\xAC", 3); /* does not fit */
    text[sizeof text - 1] = '\0';
    struct mc_round round = {.reason = text, .error = text, .started_at = INT64_MAX};
    CHECK_OK(mc_writer_record(writer, &round, &test_error));
    CHECK_EQ(read_history(NULL), 1);
    CHECK_EQ(strlen(found[0].reason), sizeof found[0].reason - 1);
    CHECK_EQ(strlen(found[0].error), 149);
    shm_store(mc_tail_mark(&(struct mc_space){.base = space_of_writer().base}, MC_MAP_MIN), 0);
    CHECK_EQ(mc_writer_record(writer, &round, &test_error), MC_CORRUPT);
    mc_writer_close(writer);
}

/* How many records files of each size have; one of another size takes over what there is. */
static void test_sizes_and_successors(void)
{
    static const struct {
        uint64_t max_size;
        uint32_t asked, slots;
    } sizes[] = {{2u << 20, 0, 64},
                 {8u << 20, 0, 256},
                 {16u << 20, 0, 512},
                 {1u << 30, 0, 512},
                 {2u << 20, 3, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK_EQ(mc_rounds_slots(sizes[i].max_size, sizes[i].asked), sizes[i].slots);
    }
    struct mc_writer_options options = small_options();
    begin(options);
    for (uint64_t n = 1; n <= SLOTS; n++) {
        record(n);
    }
    mc_writer_close(writer);
    options.max_size *= 2;
    options.history = 5;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_EQ(read_history(NULL), 5);
    CHECK(found[0].put == 4 && found[4].put == 8);
    mc_writer_close(writer);
    options.max_size *= 2;
    options.history = MC_HISTORY_NONE; /* as the files of earlier loaders are */
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    record(9);
    CHECK_EQ(read_history(NULL), 0);
    struct mc_view view;
    mc_writer_view(writer, &view);
    check_clean(&view);
    mc_writer_close(writer);
    options.max_size *= 2;
    options.history = 0;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_history");
    test_the_last_are_kept();
    test_half_written();
    test_damage();
    test_end_of_numbers();
    test_text();
    test_sizes_and_successors();
    remove_cache(test_path());
    return 0;
}
