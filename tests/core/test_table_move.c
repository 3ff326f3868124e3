/* test_table_move.c - a move through a table for which there is no memory leaves the content, and
 * goes on when there is some. What else a move does, test_compact.c sees through a writer.
 */
#include <string.h>

#include "arena.h"
#include "faults.h"
#include "harness.h"
#include "table.h"

#define LIMIT (1u << 20)
#define HEADER 4096u
#define SITE (1u << 18) /* bytes, behind the header: all that is put lies there */
#define KEYS 100

static shm_byte *map;
static struct mc_arena arena;
static struct mc_error error;
static struct mc_table_writer table;
static uint64_t hashes[KEYS];

static enum mc_status no_room(void *context, uint64_t bytes, struct mc_error *err)
{
    (void)context;
    return mc_fail(err, MC_FULL, "no room for %llu bytes", (unsigned long long)bytes);
}

static struct mc_key key_of(const int64_t *k)
{
    return (struct mc_key){.type = 18, .len = 8, .data = (const uint8_t *)k, .hash = hashes[*k]};
}

/* A committed table of all keys: its root. */
static uint64_t filled(void)
{
    uint64_t root = 0;
    for (int64_t k = 0; k < KEYS; k++) {
        struct mc_key key = key_of(&k);
        struct mc_put_result result;
        CHECK_EQ(mc_table_put(&table, &root, &key, &k, sizeof k, &result, &error), MC_OK);
        CHECK(result.offset < HEADER + SITE);
    }
    CHECK_EQ(mc_arena_prepare_commit(&arena), MC_OK);
    mc_arena_commit(&arena, 1, 1);
    table.birth = 2;
    return root;
}

/* How many entries there are, each with its key's value; `within`: those in the site. */
static int entries(uint64_t root, int *within)
{
    int count = 0;
    *within = 0;
    for (int64_t k = 0; k < KEYS; k++) {
        struct mc_key key = key_of(&k);
        struct mc_hit hit;
        CHECK_EQ(mc_table_find(&table.space, root, &key, &hit), MC_OK);
        CHECK(mc_hit_equals(&hit, &k, sizeof k));
        *within += hit.offset < HEADER + SITE;
        count++;
    }
    return count;
}

/* Moves all with one allocation that fails; whether there were so many. */
static bool fail_once(long left)
{
    struct mc_move move = {0};
    enum mc_status status;
    int within;
    CHECK_EQ(mc_arena_create(&arena, map, LIMIT, LIMIT, no_room, NULL), MC_OK);
    CHECK_EQ(mc_buddy_reserve(arena.buddy, 0, HEADER / MC_GRANULE), MC_OK);
    table = (struct mc_table_writer){
        .space = {.base = map, .limit = LIMIT}, .arena = &arena, .birth = 1};
    uint64_t root = filled();
    CHECK_EQ(mc_arena_site_add(&arena, HEADER, SITE), MC_OK);
    words_free(&arena.scopes[MC_SCOPE_BATCH].retired); /* as of a writer that was just opened */
    faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
    do {
        status = mc_table_move(&table, &root, &move, &error);
    } while (status == MC_OK && !move.done);
    bool failed = faults_disarm() > 0;
    CHECK_EQ(status, failed ? MC_NOMEM : MC_OK);
    CHECK_EQ(entries(root, &within), KEYS);
    while (!move.done) {
        CHECK_EQ(mc_table_move(&table, &root, &move, &error), MC_OK);
    }
    CHECK_EQ(entries(root, &within), KEYS);
    CHECK_EQ(within, 0);
    CHECK(move.bytes > KEYS * sizeof(struct mc_entry));
    mc_arena_destroy(&arena);
    return failed;
}

int main(void)
{
    long left = 0;
    test_begin("test_table_move");
    map = aligned_alloc(4096, LIMIT);
    CHECK(map != NULL);
    memset(map, 0, LIMIT);
    for (int k = 0; k < KEYS; k++) {
        hashes[k] = test_random();
    }
    while (fail_once(left)) {
        left++;
    }
    CHECK(left > 2); /* what is to move, what is given up, what is young */
    free(map);
    return 0;
}
