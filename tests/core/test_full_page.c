/* test_full_page.c - a put into a page that no loader would write: as large as a reference can say,
 * without one unused slot, and with all of its tags on one side of the next bit. Its halves cannot
 * hold the slot that is added, and the loader says so instead of looking for a place for ever.
 */
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "harness.h"
#include "table_ref.h"

#define MAP_BYTES (1u << 20)
#define PAGE_AT 4096u
#define SLOTS (MC_PAGE_LINES_MAX * MC_LINE_SLOTS)

static enum mc_status no_room(void *context, uint64_t bytes, struct mc_error *err)
{
    (void)context;
    return mc_fail(err, MC_FULL, "no room for %llu bytes", (unsigned long long)bytes);
}

int main(void)
{
    static _Alignas(4096) uint8_t map[MAP_BYTES];
    struct mc_arena arena;
    struct mc_error error;
    struct mc_put_result result;
    struct mc_key key;
    uint64_t root = ref_page(PAGE_AT, MC_PAGE_LINES_MAX, 0, SLOTS), before = root;
    test_begin("test_full_page");
    CHECK_EQ(mc_arena_create(&arena, (shm_byte *)map, MAP_BYTES, MAP_BYTES, no_room, NULL), MC_OK);
    CHECK_EQ(mc_buddy_reserve(arena.buddy, 0, MAP_BYTES / 4 / MC_GRANULE), MC_OK);
    struct mc_table_writer table = {
        .space = {.base = (shm_byte *)map, .limit = MAP_BYTES}, .arena = &arena, .birth = 1};
    for (uint64_t i = 0; i < SLOTS; i++) {
        uint64_t slot = slot_make(1, PAGE_AT + i * MC_GRANULE);
        memcpy(map + PAGE_AT + 8 * i, &slot, sizeof slot);
    }
    mc_key_from_int64(1, &key);
    key.hash = 0;    /* another tag, on the same side */
    (void)alarm(20); /* it did not end */
    CHECK_EQ(mc_table_put(&table, &root, &key, "v", 1, &result, &error), MC_CORRUPT);
    CHECK_EQ(error.status, MC_CORRUPT);
    CHECK_EQ(root, before);
    CHECK(!result.changed);
    mc_arena_destroy(&arena);
    return 0;
}
