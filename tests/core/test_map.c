/* test_map.c - opening a file that is not what it should be, and a loader that is too fast. */
#include <fcntl.h>
#include <sys/stat.h>

#include "hash.h"
#include "store_support.h"

static struct mc_writer_options options;

static void make_cache(void)
{
    options = small_options();
    make_small_cache();
}

static void read_file(uint64_t at, void *bytes, size_t len)
{
    int fd = open(test_path(), O_RDONLY);
    CHECK(fd >= 0 && pread(fd, bytes, len, (off_t)at) == (ssize_t)len && close(fd) == 0);
}

static void write_file(uint64_t at, const void *bytes, size_t len)
{
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, bytes, len, (off_t)at) == (ssize_t)len && close(fd) == 0);
}

static enum mc_status map_status(void)
{
    struct mc_map *map;
    enum mc_status status = mc_map_open(test_path(), &map, &test_error);
    if (status == MC_OK) {
        mc_map_release(map);
    }
    return status;
}

static enum mc_status writer_status(bool recreate)
{
    struct mc_writer *writer;
    options.recreate = recreate;
    enum mc_status status = mc_writer_open(test_path(), &options, &writer, &test_error);
    if (status == MC_OK) {
        mc_writer_close(writer);
    }
    return status;
}

/* ---- the superblock ---- */

static void break_magic(struct mc_superblock *superblock)
{
    superblock->magic[0]++;
}

static void break_byte_order(struct mc_superblock *superblock)
{
    superblock->byte_order = 0x04030201;
}

static void break_version(struct mc_superblock *superblock)
{
    superblock->version++;
}

static void break_granule(struct mc_superblock *superblock)
{
    superblock->granule *= 2;
}

static void break_ring(struct mc_superblock *superblock)
{
    superblock->ring_slots = 1;
    superblock->arena_offset = MC_RING_OFFSET + sizeof(struct mc_root);
}

static void break_arena(struct mc_superblock *superblock)
{
    superblock->arena_offset += MC_GRANULE;
}

static void break_log_offset(struct mc_superblock *superblock)
{
    superblock->log_offset -= MC_LINE_BYTES; /* within the roots */
}

static void break_log_odd(struct mc_superblock *superblock)
{
    superblock->log_offset += MC_GRANULE;
    superblock->arena_offset += MC_LINE_BYTES;
}

static void break_log_behind(struct mc_superblock *superblock)
{
    superblock->log_offset = superblock->arena_offset + MC_LINE_BYTES;
}

static void break_log_large(struct mc_superblock *superblock)
{
    superblock->log_size *= 16; /* behind the history, too */
}

static void break_log_small(struct mc_superblock *superblock)
{
    superblock->log_size = MC_LOG_MIN / 2;
}

static void break_log_size(struct mc_superblock *superblock)
{
    superblock->log_size = MC_LOG_MIN + MC_LINE_BYTES;
}

static void break_history_offset(struct mc_superblock *superblock)
{
    superblock->history_offset -= MC_LINE_BYTES; /* within the log */
}

static void break_history_odd(struct mc_superblock *superblock)
{
    superblock->history_offset += MC_GRANULE;
    superblock->arena_offset += MC_LINE_BYTES;
}

static void break_history_behind(struct mc_superblock *superblock)
{
    superblock->history_offset = superblock->arena_offset + MC_LINE_BYTES;
}

static void break_history_large(struct mc_superblock *superblock)
{
    superblock->history_slots++;
}

static void break_history_huge(struct mc_superblock *superblock)
{
    superblock->history_slots = UINT32_MAX;
}

static void break_history_none(struct mc_superblock *superblock)
{
    superblock->history_slots = 0;
}

static void break_log_none(struct mc_superblock *superblock)
{
    superblock->log_size = 0;
}

static void break_arena_small(struct mc_superblock *superblock)
{
    superblock->arena_offset = MC_RING_OFFSET;
}

static void break_arena_large(struct mc_superblock *superblock)
{
    superblock->arena_offset = MC_MAP_MIN;
}

static void break_ring_large(struct mc_superblock *superblock)
{
    superblock->ring_slots = MC_MAP_MIN / sizeof(struct mc_root);
    superblock->arena_offset =
        MC_RING_OFFSET + (uint64_t)superblock->ring_slots * sizeof(struct mc_root);
}

static void break_size_small(struct mc_superblock *superblock)
{
    superblock->max_size = MC_MAP_MIN - MC_EXTENT;
}

static void break_size_large(struct mc_superblock *superblock)
{
    superblock->max_size = MC_MAP_MAX + MC_EXTENT;
}

static void break_size_odd(struct mc_superblock *superblock)
{
    superblock->max_size += MC_GRANULE;
}

static void break_base(struct mc_superblock *superblock)
{
    superblock->base_generation = MC_GENERATION_MAX;
}

/* Every field that is not what it should be, under a checksum that is right; readers and loaders
 * refuse it alike, and a loader that may recreates it. */
static void test_superblock(void)
{
    static const struct {
        void (*damage)(struct mc_superblock *superblock);
        enum mc_status status;
    } cases[] = {
        {break_magic, MC_FORMAT},
        {break_byte_order, MC_FORMAT},
        {break_version, MC_VERSION_DIFFERS},
        {break_granule, MC_CORRUPT},
        {break_ring, MC_CORRUPT},
        {break_arena, MC_CORRUPT},
        {break_arena_small, MC_CORRUPT},
        {break_arena_large, MC_CORRUPT},
        {break_log_offset, MC_CORRUPT},
        {break_history_offset, MC_CORRUPT},
        {break_history_odd, MC_CORRUPT},
        {break_history_behind, MC_CORRUPT},
        {break_history_large, MC_CORRUPT},
        {break_history_huge, MC_CORRUPT},
        {break_history_none, MC_CORRUPT},
        {break_log_odd, MC_CORRUPT},
        {break_log_behind, MC_CORRUPT},
        {break_log_large, MC_CORRUPT},
        {break_log_small, MC_CORRUPT},
        {break_log_size, MC_CORRUPT},
        {break_log_none, MC_CORRUPT},
        {break_ring_large, MC_CORRUPT},
        {break_size_small, MC_CORRUPT},
        {break_size_large, MC_CORRUPT},
        {break_size_odd, MC_CORRUPT},
        {break_base, MC_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mc_superblock superblock;
        struct mc_map *none;
        make_cache();
        read_file(0, &superblock, sizeof superblock);
        cases[i].damage(&superblock);
        superblock.checksum = mc_checksum(&superblock, offsetof(struct mc_superblock, checksum));
        write_file(0, &superblock, sizeof superblock);
        CHECK_EQ(map_status(), cases[i].status);
        CHECK_EQ(mc_map_open(test_path(), &none, NULL), cases[i].status);
        CHECK_EQ(writer_status(false), cases[i].status);
        CHECK_EQ(map_status(), cases[i].status); /* untouched */
        CHECK_EQ(writer_status(true), MC_OK);
        CHECK_EQ(map_status(), MC_OK);
    }
}

/* A file that is shorter than any cache, though its superblock is there. */
static void test_truncated(void)
{
    make_cache();
    CHECK(truncate(test_path(), 8192) == 0);
    CHECK_EQ(map_status(), MC_CORRUPT);
    CHECK_EQ(writer_status(false), MC_CORRUPT);
    CHECK_EQ(writer_status(true), MC_OK);
    CHECK_EQ(map_status(), MC_OK);
}

/* ---- views ---- */

static void patch_root(uint64_t generation, uint64_t file_size)
{
    struct mc_root root;
    uint64_t at = MC_RING_OFFSET + generation % options.ring_slots * sizeof root;
    read_file(at, &root, sizeof root);
    CHECK_EQ(root.generation, generation);
    root.file_size = file_size;
    root.checksum = mc_checksum(&root, offsetof(struct mc_root, checksum));
    write_file(at, &root, sizeof root);
}

/* A root that claims more than the file has, and more than the superblock allows. */
static void test_root_too_large(void)
{
    struct mc_map *map;
    struct mc_view view;
    for (int larger = 0; larger < 2; larger++) {
        make_cache();
        patch_root(1, options.max_size + MC_EXTENT);
        if (larger) {
            CHECK(truncate(test_path(), (off_t)(options.max_size + 2 * MC_EXTENT)) == 0);
        }
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
        mc_map_release(map);
        CHECK_EQ(writer_status(false), MC_CORRUPT);
    }
}

/* A root whose end is in the header, or is no end of a granule. */
static void test_root_of_no_end(void)
{
    static const uint64_t ends[] = {4096, MC_MAP_MIN + 8};
    struct mc_map *map;
    struct mc_view view;
    for (int i = 0; i < 2; i++) {
        make_cache();
        patch_root(1, ends[i]);
        CHECK(truncate(test_path(), (off_t)(MC_MAP_MIN + MC_EXTENT)) == 0);
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
        mc_map_release(map);
        CHECK_EQ(writer_status(false), MC_CORRUPT);
    }
}

/* A generation that no loader publishes, with everything about it right. */
static void test_generation_past_limit(void)
{
    struct mc_map *map;
    struct mc_view view;
    struct mc_root root;
    uint64_t generation = MC_GENERATION_MAX + 1;
    make_cache();
    read_file(MC_RING_OFFSET + sizeof root, &root, sizeof root);
    root.generation = generation;
    root.checksum = mc_checksum(&root, offsetof(struct mc_root, checksum));
    write_file(MC_RING_OFFSET + generation % options.ring_slots * sizeof root, &root, sizeof root);
    write_file(MC_CONTROL_OFFSET, &generation, sizeof generation);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    mc_map_release(map);
    CHECK_EQ(writer_status(false), MC_CORRUPT);
}

/* A file that somebody made longer than its maximum is used up to that. */
static void test_longer_than_maximum(void)
{
    struct mc_writer *writer;
    struct mc_view view;
    enum mc_status status = MC_OK;
    uint64_t generation;
    make_cache();
    CHECK(truncate(test_path(), (off_t)(options.max_size + MC_EXTENT)) == 0);
    options.recreate = false;
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; status == MC_OK; k++) {
        status = put_version(writer, 0, k, 2);
    }
    CHECK_EQ(status, MC_FULL);
    mc_batch_abort(writer);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 2, 2));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_view(writer, &view);
    CHECK_EQ(view.root.file_size, options.max_size);
    check_clean(&view);
    mc_writer_close(writer);
}

/* A horizon beyond the commit word is damage, not a loader that is fast. */
static void test_horizon(void)
{
    struct mc_map *map;
    struct mc_view view;
    uint64_t horizon = 7;
    make_cache();
    write_file(MC_CONTROL_OFFSET + offsetof(struct mc_control, horizon), &horizon, sizeof horizon);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_EQ(mc_view_open(map, &view, &test_error), MC_CORRUPT);
    mc_map_release(map);
    CHECK_EQ(writer_status(false), MC_CORRUPT);
}

static struct mc_writer *fast;
static const shm_byte *fast_ring;
static int fast_left; /* attempts that the loader still spoils */

/* Each time that the reader is about to copy a root, the ring goes round. */
static void overtake(enum shm_access access, const void *address, size_t len)
{
    static int version;
    const shm_byte *at = address;
    uint64_t generation;
    (void)len;
    if (access != SHM_LOAD || at < fast_ring ||
        at >= fast_ring + options.ring_slots * sizeof(struct mc_root) || fast_left == 0) {
        return;
    }
    fast_left--;
    mc_shm_hook = NULL;
    for (uint32_t i = 0; i <= options.ring_slots; i++) {
        CHECK_OK(mc_batch_begin(fast, &test_error));
        CHECK_OK(put_version(fast, 0, 1, ++version));
        CHECK_OK(mc_batch_commit(fast, &generation, &test_error));
    }
    mc_shm_hook = overtake;
}

/* A reader that sleeps through a whole ring of commits at each attempt gives up, and not before. */
static void test_overtaken(void)
{
    static const struct {
        int spoiled;
        enum mc_status status;
    } cases[] = {{1, MC_OK}, {63, MC_OK}, {64, MC_EXPIRED}};
    make_cache();
    options.recreate = false;
    CHECK_OK(mc_writer_open(test_path(), &options, &fast, &test_error));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mc_map *map;
        struct mc_view view, probe;
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_OK(mc_view_open(map, &probe, &test_error));
        fast_ring = probe.space.base + MC_RING_OFFSET;
        fast_left = cases[i].spoiled;
        mc_shm_hook = overtake;
        CHECK_EQ(mc_view_open(map, &view, &test_error), cases[i].status);
        mc_shm_hook = NULL;
        CHECK_EQ(fast_left, 0);
        mc_map_release(map);
    }
    mc_writer_close(fast);
}

/* A checkpoint whose checksum is not that of this file, in another boot. */
static void test_checkpoint_damaged(void)
{
    const uint64_t boot = MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id);
    const uint64_t mark = MC_CONTROL_OFFSET + offsetof(struct mc_control, checkpoint_checksum);
    struct mc_writer *writer;
    struct mc_map *map;
    struct mc_view view;
    const uint8_t other[16] = {0xB0};
    uint32_t checksum;
    make_cache();
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_writer_checkpoint(writer, &test_error));
    mc_writer_close(writer);
    write_file(boot, other, sizeof other);
    for (int damaged = 0; damaged < 2; damaged++) {
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_EQ(mc_view_open(map, &view, &test_error), damaged ? MC_NOT_READY : MC_OK);
        mc_map_release(map);
        read_file(mark, &checksum, sizeof checksum);
        checksum++;
        write_file(mark, &checksum, sizeof checksum);
    }
}

/* What a map tells of itself, and its users. */
static void test_map(void)
{
    struct mc_map *map;
    struct mc_view view;
    struct mc_collection collection;
    struct mc_superblock superblock;
    static const char name[MC_NAME_MAX + 1];
    make_cache();
    read_file(0, &superblock, sizeof superblock);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK(mc_map_is_at(map, test_path()) && !mc_map_is_at(map, "/dev/null"));
    CHECK(memcmp(mc_map_superblock(map), &superblock, sizeof superblock) == 0);
    CHECK(mc_map_retain(map) == map);
    mc_map_release(map);
    CHECK_OK(mc_view_open(map, &view, &test_error)); /* the other user's */
    CHECK_EQ(mc_view_collection(&view, name, sizeof name, &collection), MC_ABSENT);
    CHECK_EQ(mc_view_collection(&view, name, sizeof name - 1, &collection), MC_ABSENT);
    CHECK_EQ(mc_view_collection(&view, "sites", 5, &collection), MC_OK);
    mc_map_release(map);
    mc_map_release(NULL);
}

int main(void)
{
    test_begin("test_map");
    test_superblock();
    test_truncated();
    test_root_too_large();
    test_root_of_no_end();
    test_generation_past_limit();
    test_longer_than_maximum();
    test_horizon();
    test_overtaken();
    test_checkpoint_damaged();
    test_map();
    remove_cache(test_path());
    return 0;
}
