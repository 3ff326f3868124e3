/* fault_scenarios.c - see fault_scenarios.h. */
#define _GNU_SOURCE
#include "fault_scenarios.h"

#include <dirent.h>
#include <fcntl.h>

struct fault_world world;

/* ---- what must not be left behind ---- */

struct resources count_resources(void)
{
    struct resources now = {.blocks = faults_blocks()};
    char line[512];
    DIR *list = opendir("/proc/self/fd");
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(list != NULL && maps != NULL);
    while (readdir(list) != NULL) {
        now.descriptors++;
    }
    while (fgets(line, sizeof line, maps) != NULL) {
        now.mappings += strstr(line, "mmapcache") != NULL && strstr(line, "/test_") == NULL;
    }
    CHECK(closedir(list) == 0 && fclose(maps) == 0);
    return now;
}

void check_resources(struct resources expected)
{
    struct resources now = count_resources();
    CHECK_EQ(now.blocks, expected.blocks);
    CHECK_EQ(now.descriptors, expected.descriptors);
    CHECK_EQ(now.mappings, expected.mappings);
}

/* ---- the world ---- */

void close_writer(void)
{
    if (world.writer != NULL) {
        mc_writer_close(world.writer);
        world.writer = NULL;
    }
}

void must(enum mc_status status)
{
    CHECK_OK(status);
}

enum mc_status commit(void)
{
    uint64_t generation;
    return mc_batch_commit(world.writer, &generation, &test_error);
}

void open_filled(void)
{
    remove_cache(test_path());
    oracle_clear(&world.before);
    must(mc_writer_open(test_path(), &world.options, &world.writer, &test_error));
    must(mc_batch_begin(world.writer, &test_error));
    for (int c = 0; c < 2; c++) { /* the first has nodes, the second only a page */
        world.before.exists[c] = true;
        for (int k = 0; k < (c == 0 ? 60 : 8); k++) {
            must(put_version(world.writer, c, k, 1));
            world.before.version[c][k] = 1;
        }
    }
    must(commit());
    world.after = world.before;
}

static void file_filled(void)
{
    open_filled();
    close_writer();
}

static void file_none(void)
{
    remove_cache(test_path());
    oracle_clear(&world.before);
    world.after = world.before;
}

void patch_file(uint64_t offset)
{
    uint8_t byte;
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
    byte ^= 0x40;
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1 && close(fd) == 0);
}

static void file_of_another_boot(void)
{
    file_filled();
    patch_file(MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id));
}

static void file_damaged(void)
{
    file_filled();
    patch_file(offsetof(struct mc_superblock, created_at));
    oracle_clear(&world.after); /* it is recreated, empty */
    world.options.recreate = true;
}

static void file_to_resize(void)
{
    file_filled();
    world.options.max_size *= 2;
}

/* A killed loader has left half a successor. */
static void file_to_resize_again(void)
{
    char other[96];
    file_to_resize();
    (void)snprintf(other, sizeof other, "%s.new", test_path());
    int fd = open(other, O_CREAT | O_RDWR, 0600);
    CHECK(fd >= 0 && close(fd) == 0);
}

static void open_checkpointed(void)
{
    open_filled();
    must(mc_writer_checkpoint(world.writer, &test_error));
}

static void open_anonymous(void)
{
    uint64_t generation;
    file_none();
    must(mc_writer_open_anonymous(&world.options, &world.writer, &test_error));
    must(mc_batch_begin(world.writer, &test_error));
    must(put_version(world.writer, 0, 1, 1));
    must(mc_batch_commit(world.writer, &generation, &test_error));
    world.before.exists[0] = true;
    world.before.version[0][1] = 1;
    world.after = world.before;
}

/* ---- what is done ---- */

static enum mc_status run_open(void)
{
    return mc_writer_open(test_path(), &world.options, &world.writer, &test_error);
}

static enum mc_status run_open_anonymous(void)
{
    return mc_writer_open_anonymous(&world.options, &world.writer, &test_error);
}

static enum mc_status run_checkpoint(void)
{
    return mc_writer_checkpoint(world.writer, &test_error);
}

enum mc_status put_keys(int c, int from, int to, int version)
{
    enum mc_status status = MC_OK;
    for (int k = from; k < to && status == MC_OK; k++) {
        status = put_version(world.writer, c, k, version);
        world.after.version[c][k] = version;
    }
    world.after.exists[c] = true;
    return status;
}

/* Ends the batch, one way or the other. */
static enum mc_status end_batch(enum mc_status status)
{
    if (status == MC_OK) {
        status = commit();
    }
    if (status != MC_OK) {
        mc_batch_abort(world.writer);
    }
    return status;
}

/* Inserts, updates, deletes, the state, a new collection, a replace, a drop. */
static enum mc_status run_batch(void)
{
    bool existed;
    world.after = world.before;
    enum mc_status status = mc_batch_begin(world.writer, &test_error);
    if (status == MC_OK) {
        status = put_keys(0, 40, 90, 2);
    }
    for (int k = 0; k < 20 && status == MC_OK; k++) {
        status = delete_key_of(world.writer, 0, k, &existed);
        world.after.version[0][k] = ABSENT;
    }
    if (status == MC_OK) {
        status = put_state(world.writer, 2);
        world.after.state = 2;
    }
    if (status == MC_OK) {
        status = put_keys(2, 0, 3, 2);
    }
    if (status == MC_OK) {
        status = mc_replace_begin(world.writer, "sites", 5, &test_error);
    }
    for (int k = 0; k < KEYS; k++) {
        world.after.version[0][k] = ABSENT;
    }
    if (status == MC_OK) {
        status = put_keys(0, 30, 50, 3);
    }
    if (status == MC_OK) {
        status = mc_replace_end(world.writer, &test_error);
    }
    if (status == MC_OK) {
        status = mc_batch_drop(world.writer, "limits", 6, &existed, &test_error);
        world.after.exists[1] = false;
        for (int k = 0; k < KEYS; k++) {
            world.after.version[1][k] = ABSENT;
        }
    }
    return end_batch(status);
}

/* A replace that is cancelled, and a smaller one. */
static enum mc_status run_cancelled(void)
{
    world.after = world.before;
    enum mc_status status = mc_batch_begin(world.writer, &test_error);
    if (status == MC_OK) {
        status = mc_replace_begin(world.writer, "flags", 5, &test_error);
    }
    if (status == MC_OK) {
        status = put_keys(2, 0, 60, 4);
        mc_replace_cancel(world.writer);
        world.after = world.before;
    }
    if (status == MC_OK) {
        status = put_keys(0, 0, 2, 4);
    }
    return end_batch(status);
}

static enum mc_status put_big(int version)
{
    static uint8_t big[300000];
    const uint32_t len = sizeof big;
    enum mc_status status = MC_OK;
    fill_document(big, len, (uint8_t)version);
    for (int k = 0; k < 8 && status == MC_OK; k++) {
        struct mc_key key;
        bool changed;
        mc_key_from_int64(k, &key);
        status = mc_batch_put(world.writer, "big", 3, &key, big, len, &changed, &test_error);
    }
    return status;
}

/* More than the file has room for, so that it grows. The big ones are not the oracle's. */
static enum mc_status run_growth(void)
{
    world.after = world.before;
    enum mc_status status = mc_batch_begin(world.writer, &test_error);
    if (status == MC_OK) {
        status = put_keys(1, 0, 5, 5);
    }
    if (status == MC_OK) {
        status = put_big(5);
    }
    return end_batch(status);
}

enum mc_status run_small(void)
{
    world.after = world.before;
    enum mc_status status = mc_batch_begin(world.writer, &test_error);
    if (status == MC_OK) {
        status = put_keys(1, 7, 8, 6);
    }
    return end_batch(status);
}

/* What a reader does from opening to closing; the writer is one that holds an anonymous cache. */
static enum mc_status run_reader(void)
{
    struct mc_map *map;
    struct mc_view view;
    struct mc_check_report report;
    enum mc_status status = world.writer != NULL
                                ? mc_map_open_fd(mc_writer_fd(world.writer), &map, &test_error)
                                : mc_map_open(test_path(), &map, &test_error);
    if (status != MC_OK) {
        return status;
    }
    status = mc_view_open(map, &view, &test_error);
    if (status == MC_OK) {
        (void)mc_map_loader(map);
        status = mc_map_populate(map, &test_error);
    }
    if (status == MC_OK) {
        status = mc_check(&view, &report, &test_error);
    }
    mc_map_release(map);
    return status;
}

/* ---- scenarios ---- */

#define SYSTEM FAULT_SYSTEM

#define ALL                                                                                        \
    (FAULT_SYSTEM | FAULT_BIT(FAULT_MEMORY) | FAULT_BIT(FAULT_BLOCK) | FAULT_BIT(FAULT_ROOM))

const struct fault_scenario fault_scenarios[] = {
    {"creation", file_none, run_open, ALL, true, true},
    {"open", file_filled, run_open, ALL, true, true},
    {"open after a reboot", file_of_another_boot, run_open, ALL, true, false},
    {"open of a damaged file", file_damaged, run_open, ALL, true, false},
    {"another max_size", file_to_resize, run_open, ALL, true, false},
    {"another max_size, again", file_to_resize_again, run_open, SYSTEM, true, false},
    {"anonymous", file_none, run_open_anonymous, ALL, true, true},
    {"batch", open_filled, run_batch, ALL, false, false},
    {"cancelled replace", open_filled, run_cancelled, ALL, false, false},
    {"growth", open_filled, run_growth, ALL, false, false},
    {"growth, huge pages", open_filled, run_growth, SYSTEM, false, true},
    {"checkpoint", open_filled, run_checkpoint, SYSTEM, false, false},
    {"batch after a checkpoint", open_checkpointed, run_batch, SYSTEM, false, false},
    {"reader", file_filled, run_reader, ALL, false, false},
    {"reader, anonymous", open_anonymous, run_reader, ALL, false, false},
};

const size_t fault_scenario_count = sizeof fault_scenarios / sizeof fault_scenarios[0];
