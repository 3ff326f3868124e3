/* test_table_damage.c - a table that changes under its writer, as one does whose file is truncated.
 *
 * Each operation ends, and says that the table is damaged.
 * The pages are made by hand, in private memory: what a search finds absent in them is not what
 * their references say.
 */
#include <string.h>

#include "arena.h"
#include "faults.h"
#include "harness.h"
#include "table_ref.h"

#define LIMIT 65536u
#define ENTRY 4096u
#define PAGE 8192u /* not young */

static shm_byte *map;
static struct mc_arena arena;
static struct mc_error error;
static struct mc_table_writer table;
static const struct mc_key wanted = {
    .type = 18, .len = 8, .data = (const uint8_t *)"wanted..", .hash = 0};

static enum mc_status no_room(void *context, uint64_t bytes, struct mc_error *err)
{
    (void)context;
    return mc_fail(err, MC_FULL, "no room for %llu bytes", (unsigned long long)bytes);
}

static void begin_world(void)
{
    CHECK_EQ(mc_arena_create(&arena, map, LIMIT, LIMIT, no_room, NULL), MC_OK);
    CHECK_EQ(mc_buddy_reserve(arena.buddy, 0, LIMIT / 2 / MC_GRANULE), MC_OK);
    table = (struct mc_table_writer){
        .space = {.base = map, .limit = LIMIT}, .arena = &arena, .birth = 1};
    shm_store(map + ENTRY, UINT64_C(8) << 32); /* no key, and a value of 8 bytes */
    shm_store(map + ENTRY + 8, 5);
}

static void end_world(void)
{
    mc_arena_destroy(&arena);
}

/* Fills a page's slots with one word. */
static void fill_page(uint64_t page, unsigned lines, uint64_t slot)
{
    for (unsigned i = 0; i < lines * MC_LINE_SLOTS; i++) {
        shm_store(map + page + 8 * (uint64_t)i, slot);
    }
}

static enum mc_status put(uint64_t root)
{
    struct mc_put_result result;
    return mc_table_put(&table, &root, &wanted, "x", 1, &result, &error);
}

/* The reference of a young page says that there is room, and there is none. */
static void test_no_free_slot(void)
{
    uint64_t page;
    begin_world();
    CHECK_EQ(mc_arena_alloc(&arena, 2 * MC_LINE_BYTES, MC_LINE_BYTES, &page, &error), MC_OK);
    fill_page(page, 2, slot_make(5, ENTRY));
    CHECK_EQ(put(ref_page(page, 2, 0, 1)), MC_CORRUPT);
    end_world();
}

/* Zeros, or fewer slots than there should be, in the line that the search does not come to. */
static void test_other_line(void)
{
    struct mc_hit old;
    begin_world();
    fill_page(PAGE, 2, MC_UNUSED);
    CHECK_EQ(put(ref_page(PAGE, 2, 0, 1)), MC_CORRUPT);
    shm_store(map + PAGE + MC_LINE_BYTES, 0);
    CHECK_EQ(put(ref_page(PAGE, 2, 0, 1)), MC_CORRUPT);
    shm_store(map + ENTRY, UINT64_C(8) << 32);
    shm_store(map + ENTRY + 8,
              5 | UINT64_C(18) << MC_STAMP_TYPE_SHIFT | UINT64_C(8) << MC_STAMP_LEN_SHIFT);
    shm_write(map + ENTRY + 16, wanted.data, 8);
    shm_store(map + PAGE, slot_make(0, ENTRY));
    uint64_t root = ref_page(PAGE, 2, 0, 1);
    CHECK_EQ(mc_table_delete(&table, &root, &wanted, &old, &error), MC_CORRUPT);
    end_world();
}

/* A page that is larger than any that can split, and all of it falls into one half. */
static void test_too_large_to_split(void)
{
    begin_world();
    fill_page(PAGE, MC_PAGE_LINES_MAX, slot_make(5, ENTRY));
    CHECK_EQ(put(ref_page(PAGE, MC_PAGE_LINES_MAX, 0, MC_PAGE_LINES_MAX * MC_LINE_SLOTS)),
             MC_CORRUPT);
    end_world();
}

static void add_entry(const void *old, const void *now, size_t bytes)
{
    (void)old;
    (void)now;
    (void)bytes;
    shm_store(map + PAGE + 8, slot_make(5, ENTRY));
}

static void zero_page(const void *old, const void *now, size_t bytes)
{
    (void)old;
    (void)now;
    (void)bytes;
    fill_page(PAGE, 1, 0);
}

/* There are more blocks when they are released, or fewer, than when they were counted. */
static void clear_while(void (*watch)(const void *old, const void *now, size_t bytes),
                        size_t blocks)
{
    begin_world();
    fill_page(PAGE, 1, MC_UNUSED);
    shm_store(map + PAGE, slot_make(5, ENTRY));
    uint64_t root = ref_page(PAGE, 1, 0, 1);
    faults_watch = watch;
    CHECK_EQ(mc_table_clear(&table, &root, &error), MC_OK);
    faults_watch = NULL;
    CHECK_EQ(arena.scopes[MC_SCOPE_BATCH].retired.count, blocks);
    end_world();
}

int main(void)
{
    test_begin("test_table_damage");
    map = aligned_alloc(4096, LIMIT);
    CHECK(map != NULL);
    memset(map, 0, LIMIT);
    test_no_free_slot();
    test_other_line();
    test_too_large_to_split();
    clear_while(add_entry, 2);
    clear_while(zero_page, 1);
    free(map);
    return 0;
}
