/* test_table.c - the table against an array, with hashes that a seeded function would never give.
 *
 * The table lives in private memory here: a map is only an address. Keys are numbers; their hashes
 * are chosen by shape, so that pages share prefixes of any length, or the whole tag. After each
 * batch the table is compared with the array in every way that it can be asked, every block is
 * found to be there once and nothing else in use, and the table as it was before is still whole. */
#include <string.h>

#include "arena.h"
#include "faults.h"
#include "harness.h"
#include "table_ref.h"

#define MAP_BYTES (16u << 20)
#define HEADER 4096u
#define KEYS 1200
#define VALUE_MOST 64u

enum shape {
    RANDOM,    /* as a hash should be */
    EQUAL,     /* one hash for all */
    SAME_TAG,  /* the upper 28 bits are one for all */
    PREFIX,    /* a common prefix of 5 to 27 bits */
    LOW_LAST,  /* the tag's last bits differ only */
    TWO_HEAPS, /* half of the keys share all but the first bit with the other half */
    SHAPES,
};

struct model {
    bool present[KEYS];
    uint32_t version[KEYS];
};

static shm_byte *map;
static struct mc_arena arena;
static struct mc_error error;
static struct mc_table_writer table;
static uint64_t root, committed_root;
static struct model model, committed;
static uint64_t hashes[KEYS];
static uint64_t generation, room; /* room: bytes that the arena may still grow by */

static enum mc_status make_room(void *context, uint64_t bytes, struct mc_error *err)
{
    (void)context;
    uint64_t step = (bytes + 65535) / 65536 * 65536;
    if (step > room) {
        return mc_fail(err, MC_FULL, "no room for %llu bytes", (unsigned long long)bytes);
    }
    if (mc_buddy_grow(arena.buddy, (table.space.limit + step) / MC_GRANULE) != MC_OK) {
        return mc_no_memory(err);
    }
    room -= step;
    table.space.limit += step;
    return MC_OK;
}

static void begin_world(uint64_t bytes, uint64_t may_grow)
{
    CHECK_EQ(mc_arena_create(&arena, map, bytes, MAP_BYTES, make_room, NULL), MC_OK);
    CHECK_EQ(mc_buddy_reserve(arena.buddy, 0, HEADER / MC_GRANULE), MC_OK);
    table = (struct mc_table_writer){
        .space = {.base = map, .limit = bytes}, .arena = &arena, .birth = 1};
    room = may_grow;
    root = committed_root = generation = 0;
    memset(&model, 0, sizeof model);
    committed = model;
}

static void end_world(void)
{
    mc_arena_destroy(&arena);
}

static void choose_hashes(enum shape shape)
{
    unsigned prefix = 5 + (unsigned)test_below(23);
    uint64_t fixed = test_random();
    for (int k = 0; k < KEYS; k++) {
        uint64_t any = test_random();
        switch (shape) {
        case EQUAL:
            hashes[k] = fixed;
            break;
        case SAME_TAG:
            hashes[k] = (fixed & ~(UINT64_MAX >> MC_TAG_BITS)) | any >> MC_TAG_BITS;
            break;
        case PREFIX:
            hashes[k] = (fixed & ~(UINT64_MAX >> prefix)) | any >> prefix;
            break;
        case LOW_LAST:
            hashes[k] = (fixed & ~(UINT64_MAX >> 22)) | any >> 22;
            break;
        case TWO_HEAPS:
            hashes[k] =
                (any & UINT64_C(1) << 63) | (fixed >> 1 & ~UINT64_C(0x3FFFF)) | (any & 0x3FFFF);
            break;
        default:
            hashes[k] = any;
        }
    }
}

/* ---- operations ---- */

static struct mc_key key_of(int k)
{
    static int64_t bytes[2 * KEYS]; /* a key borrows its bytes */
    bytes[k] = k;
    return (struct mc_key){
        .type = 18, .len = 8, .data = (const uint8_t *)&bytes[k], .hash = hashes[k % KEYS]};
}

static size_t make_value(uint8_t value[VALUE_MOST], int k, uint32_t version)
{
    size_t len = ((uint32_t)k * 5 + version * 3) % VALUE_MOST;
    memset(value, (int)(version + (uint32_t)k), len);
    return len;
}

static enum mc_status put(int k, uint32_t version)
{
    uint8_t value[VALUE_MOST], old_value[VALUE_MOST];
    struct mc_key key = key_of(k);
    struct mc_put_result result;
    size_t len = make_value(value, k, version);
    enum mc_status status = mc_table_put(&table, &root, &key, value, len, &result, &error);
    if (status != MC_OK) {
        CHECK_EQ(error.status, status);
        return status;
    }
    bool same = false;
    if (model.present[k]) {
        size_t old_len = make_value(old_value, k, model.version[k]);
        same = old_len == len && memcmp(old_value, value, len) == 0;
        CHECK(same || (result.replaced && result.old_content == 8 + old_len));
    }
    CHECK_EQ(result.changed, !same);
    model.present[k] = true;
    model.version[k] = version;
    return MC_OK;
}

static enum mc_status take_out(int k)
{
    struct mc_key key = key_of(k);
    struct mc_hit old;
    enum mc_status status = mc_table_delete(&table, &root, &key, &old, &error);
    if (status == MC_OK || status == MC_ABSENT) {
        CHECK_EQ(status == MC_OK, model.present[k]);
        model.present[k] = false;
    }
    CHECK(status == MC_OK || status == MC_ABSENT || status == error.status);
    return status == MC_ABSENT ? MC_OK : status;
}

static void begin_batch(void)
{
    table.birth = generation + 1;
    arena.scope = MC_SCOPE_BATCH;
}

static void commit(void)
{
    CHECK_EQ(mc_arena_prepare_commit(&arena), MC_OK);
    generation++;
    mc_arena_commit(&arena, generation, (int64_t)generation);
    committed = model;
    committed_root = root;
}

static void abort_batch(void)
{
    mc_arena_abort(&arena);
    model = committed;
    root = committed_root;
}

/* ---- comparing ---- */

static void compare_found(const struct model *expected, int k, enum mc_status status,
                          const struct mc_hit *hit)
{
    uint8_t value[VALUE_MOST];
    if (!expected->present[k]) {
        CHECK_EQ(status, MC_ABSENT);
        return;
    }
    size_t len = make_value(value, k, expected->version[k]);
    CHECK_EQ(status, MC_OK);
    CHECK_EQ(hit->value_len, len);
    CHECK(shm_equal(hit->value, value, len) && hit->birth <= generation + 1);
}

/* The content below a root; returns the bytes in use, each block found once. */
static uint64_t compare(uint64_t from, const struct model *expected)
{
    struct mc_buddy *seen;
    struct mc_walk walk;
    struct mc_item item;
    enum mc_status status;
    uint64_t used = 0, entries = 0, present = 0, granules = table.space.limit / MC_GRANULE;
    for (int k = 0; k < KEYS; k++) {
        struct mc_hit hit;
        struct mc_key key = key_of(k);
        status = mc_table_find(&table.space, from, &key, &hit);
        compare_found(expected, k, status, &hit);
        CHECK(status != MC_OK ||
              mc_table_still(&table.space, from, key.hash, hit.offset, hit.birth));
        CHECK(!mc_table_still(&table.space, from, key.hash, HEADER, 0)); /* nothing is so old */
        present += expected->present[k];
    }
    for (int k = (int)test_below(300); k + 50 <= KEYS; k += 300) {
        struct mc_key keys[50];
        struct mc_hit hits[50];
        enum mc_status statuses[50];
        for (int i = 0; i < 50; i++) {
            keys[i] = key_of(k + i);
        }
        mc_table_find_many(&table.space, from, keys, 50, hits, statuses);
        for (int i = 0; i < 50; i++) {
            compare_found(expected, k + i, statuses[i], &hits[i]);
        }
    }
    CHECK_EQ(mc_buddy_create(granules, granules, &seen), MC_OK);
    mc_walk_begin(&walk, &table.space, from);
    while ((status = mc_walk_next(&walk, &item)) == MC_OK) {
        uint64_t size = (item.bytes + MC_GRANULE - 1) / MC_GRANULE;
        CHECK(item.offset >= HEADER);
        CHECK(item.kind != MC_ITEM_PAGE || item.offset % MC_LINE_BYTES == 0);
        CHECK_EQ(mc_buddy_reserve(seen, item.offset / MC_GRANULE, size), MC_OK);
        used += size * MC_GRANULE;
        if (item.kind == MC_ITEM_ENTRY) {
            int64_t k;
            shm_read(&k, item.hit.key, sizeof k);
            CHECK(k >= 0 && k < KEYS);
            compare_found(expected, (int)k, MC_OK, &item.hit);
            entries++;
        }
    }
    CHECK_EQ(status, MC_ABSENT);
    CHECK_EQ(entries, present);
    mc_buddy_destroy(seen);
    return used;
}

/* Between batches: what is in use is the table, and what waits to be reused. */
static void compare_all(void)
{
    uint64_t used = compare(root, &model);
    CHECK_EQ(used + HEADER + mc_arena_free(&arena) + mc_arena_retired(&arena), table.space.limit);
}

/* ---- tests ---- */

static void random_operations(int count)
{
    for (int i = 0; i < count; i++) {
        int k = (int)test_below(KEYS);
        enum mc_status status =
            test_below(3) == 0 ? take_out(k) : put(k, (uint32_t)test_below(1000));
        CHECK(status == MC_OK || status == MC_LIMIT);
    }
}

static void test_shape(enum shape shape)
{
    begin_world(256 << 10, MAP_BYTES - (256 << 10));
    choose_hashes(shape);
    for (int batch = 0; batch < test_rounds(24); batch++) {
        struct model before = model;
        uint64_t root_before = root;
        begin_batch();
        random_operations(batch < 4 ? 400 : (int)test_below(120));
        if (test_below(4) == 0) {
            abort_batch();
        } else {
            commit();
        }
        (void)compare(root_before, &before); /* copy on write: nobody touched it */
        compare_all();
        if (test_below(2) == 0) {
            (void)mc_arena_reclaim(&arena, generation, SIZE_MAX);
        }
    }
    begin_batch();
    for (int k = 0; k < KEYS; k++) { /* down to nothing, one by one */
        CHECK_EQ(take_out(k), MC_OK);
    }
    CHECK_EQ(root, 0);
    commit();
    compare_all();
    (void)mc_arena_reclaim(&arena, generation, SIZE_MAX);
    CHECK_EQ(mc_arena_free(&arena) + HEADER, table.space.limit);
    end_world();
}

/* As many keys of one tag as a page can hold, and one more. A page that is still splitting may take
 * a few more, one for each bit of the tag. */
static void test_limit(void)
{
    const int most = MC_PAGE_LINES_MAX * 13 / 2;
    int k = 0;
    begin_world(MAP_BYTES, 0);
    choose_hashes(SAME_TAG);
    begin_batch();
    while (put(k, 1) == MC_OK) {
        k++;
    }
    CHECK(k >= most && k <= most + (int)MC_TAG_BITS);
    CHECK_EQ(put(k, 1), MC_LIMIT);
    compare_all();
    CHECK_EQ(put(5, 9), MC_OK); /* there is still room for other values */
    while (k >= most - 1) {
        CHECK_EQ(take_out(k--), MC_OK);
    }
    CHECK_EQ(put(most, 1), MC_OK);
    commit();
    compare_all();
    end_world();
}

/* Clearing releases everything at once, young or committed. */
static void test_clear(void)
{
    for (int committed_first = 0; committed_first < 2; committed_first++) {
        begin_world(1 << 20, 0);
        choose_hashes(PREFIX);
        begin_batch();
        random_operations(600);
        if (committed_first) {
            commit();
            begin_batch();
        }
        faults_arm(FAULT_BIT(FAULT_MEMORY), 0, true, 0);
        enum mc_status status = mc_table_clear(&table, &root, &error);
        CHECK(status == MC_OK || status == MC_NOMEM);
        (void)faults_disarm();
        if (status == MC_NOMEM) {
            compare_all();
            CHECK_EQ(mc_table_clear(&table, &root, &error), MC_OK);
        }
        CHECK_EQ(root, 0);
        memset(&model, 0, sizeof model);
        CHECK_EQ(mc_table_clear(&table, &root, &error), MC_OK); /* an empty one too */
        commit();
        compare_all();
        end_world();
    }
}

/* Each allocation of a batch fails in turn: the content is as it was before that operation. */
static void test_no_memory(void)
{
    const long step = test_sample > 1 ? 5 : 1; /* odd: with and without lists */
    long failures = 0;
    for (int shape = 0; shape < SHAPES; shape++) {
        for (long left = 0; left < 12; left += step) {
            begin_world(64 << 10, MAP_BYTES - (64 << 10));
            choose_hashes((enum shape)shape);
            if (left % 2 == 0) { /* else all lists are still empty */
                begin_batch();
                random_operations(200);
                commit();
            }
            begin_batch();
            faults_arm(FAULT_BIT(FAULT_MEMORY), left / 2, true, 0);
            for (int i = 0; i < 300; i++) {
                int k = (int)test_below(KEYS);
                enum mc_status status = test_below(4) == 0 ? take_out(k) : put(k, 7);
                CHECK(status == MC_OK || status == MC_NOMEM || status == MC_LIMIT);
                if (status == MC_NOMEM) {
                    failures++;
                    (void)faults_disarm();
                    compare_all();
                    faults_arm(FAULT_BIT(FAULT_MEMORY), (long)test_below(3), true, 0);
                }
            }
            (void)faults_disarm();
            commit();
            compare_all();
            end_world();
        }
    }
    printf("test_table: %ld allocations failed\n", failures);
    CHECK(failures > test_rounds(20));
}

/* A full arena: whatever fails leaves the content, and there is room again after deletions. */
static void test_full(void)
{
    const uint64_t step = (6u << 10) * (uint64_t)test_sample;
    long failures = 0;
    for (int shape = 0; shape < SHAPES; shape++) {
        for (uint64_t size = 16 << 10; size <= 40 << 10; size += step) {
            begin_world(size, 0);
            choose_hashes((enum shape)shape);
            for (int batch = 0; batch < 4; batch++) {
                begin_batch();
                for (int i = 0; i < 250; i++) {
                    int k = (int)test_below(KEYS);
                    enum mc_status status =
                        test_below(5) == 0 ? take_out(k) : put(k, (uint32_t)test_below(1000));
                    CHECK(status == MC_OK || status == MC_FULL || status == MC_LIMIT);
                    failures += status == MC_FULL;
                }
                compare_all();
                commit();
                (void)mc_arena_reclaim(&arena, generation, SIZE_MAX);
            }
            compare_all();
            end_world();
        }
    }
    printf("test_table: %ld operations found no room\n", failures);
    CHECK(failures > test_rounds(100));
}

/* References that no writer makes are damage, at each place where one is followed. */
static void test_damage(void)
{
    static const uint64_t flips[] = {1,
                                     UINT64_C(1) << 30,
                                     UINT64_C(1) << 35,
                                     UINT64_C(1) << 36,
                                     UINT64_C(1) << 42,
                                     UINT64_C(1) << 43,
                                     UINT64_C(1) << 46,
                                     UINT64_C(1) << 47,
                                     UINT64_C(1) << 48,
                                     UINT64_C(1) << 57,
                                     UINT64_C(1) << 58,
                                     UINT64_C(1) << 63};
    long corrupt = 0;
    begin_world(1 << 20, 0);
    choose_hashes(TWO_HEAPS);
    begin_batch();
    for (int k = 0; k < 600; k++) {
        CHECK_EQ(put(k, 3), MC_OK);
    }
    commit();
    uint64_t words = (table.space.limit - mc_arena_free(&arena)) / 8;
    for (int round = 0; round < test_rounds(4000); round++) {
        uint64_t flip = flips[test_below(sizeof flips / sizeof flips[0])];
        uint64_t *word = (uint64_t *)(void *)map + (HEADER / 8 + test_below(words));
        uint64_t sound = round % 4 == 0 ? root : *word, changed = sound ^ flip;
        uint64_t from = round % 4 == 0 ? changed : root;
        struct mc_walk walk;
        struct mc_item item;
        enum mc_status status;
        if (round % 4 != 0) {
            *word = changed;
        }
        uint64_t steps = 0;
        mc_walk_begin(&walk, &table.space, from);
        while ((status = mc_walk_next(&walk, &item)) == MC_OK) {
            CHECK(item.offset + item.bytes <= table.space.limit);
            CHECK(++steps <= table.space.limit / MC_GRANULE + 1);
        }
        corrupt += status == MC_CORRUPT;
        for (int k = 0; k < 600; k += 7) { /* any answer, but an end, and nothing outside */
            struct mc_key key = key_of(k);
            struct mc_hit hit;
            status = mc_table_find(&table.space, from, &key, &hit);
            CHECK(status == MC_OK || status == MC_ABSENT || status == MC_CORRUPT);
            mc_table_warm(&table.space, from, &key, 1);
        }
        begin_batch();
        uint64_t to = from;
        for (int k = 0; k < 1200; k += 101) { /* a writer says so, or writes what it can */
            struct mc_key key = key_of(k);
            struct mc_put_result result;
            struct mc_hit old;
            status = mc_table_find(&table.space, to, &key, &old);
            if (status == MC_CORRUPT) {
                CHECK_EQ(mc_table_put(&table, &to, &key, "x", 1, &result, &error), MC_CORRUPT);
                CHECK_EQ(mc_table_delete(&table, &to, &key, &old, &error), MC_CORRUPT);
            }
        }
        if (round % 4 != 0) {
            *word = sound;
        }
        mc_arena_abort(&arena);
    }
    (void)compare(root, &model);
    CHECK(corrupt >= test_rounds(4000) * 3 / 40);
    end_world();
}

/* Every block that a put or a deletion allocates is one that there is no room for: each operation
 * is tried until it has all that it needs. */
static void test_no_room_anywhere(void)
{
    long failures = 0;
    for (int shape = 0; shape < SHAPES; shape++) {
        begin_world(1 << 20, 0);
        choose_hashes((enum shape)shape);
        begin_batch();
        for (int i = 0; i < 600; i++) {
            int k = (int)test_below(200);
            enum mc_status status;
            long failed, left = 0;
            do {
                faults_arm(FAULT_BIT(FAULT_ROOM), left++, true, 0);
                status = i % 4 == 3 ? take_out(k) : put(k, (uint32_t)i);
                failed = faults_disarm();
                CHECK_EQ(status, failed > 0 ? MC_FULL : MC_OK);
                failures += failed > 0;
            } while (failed > 0);
            if (i % 50 == 0) {
                compare_all();
                commit();
                begin_batch();
            }
        }
        compare_all();
        commit();
        end_world();
    }
    printf("test_table: %ld blocks had no room\n", failures);
    CHECK(failures > 1000);
}

/* Tables that no writer makes: a page without an empty slot, an entry that does not fit, a node
 * whose references name one page again and again. */
static void test_hand_made(void)
{
    const uint64_t limit = 65536, page = HEADER, node = HEADER + 1024, entry = HEADER + 4096;
    const struct mc_space *space = &table.space;
    struct mc_key key = {.type = 18, .len = 8, .data = (const uint8_t *)"absent..", .hash = 0};
    struct mc_hit hit;
    struct mc_walk walk;
    struct mc_item item;
    enum mc_status status;
    begin_world(limit, 0);
    memset(map, 0, limit);
    shm_store(map + entry, 8 | UINT64_C(8) << 32);
    shm_store(map + entry + 8, UINT64_C(5)); /* born in generation 5, no key */
    for (uint64_t i = 0; i < 16; i++) {
        shm_store(map + page + 8 * i, slot_make(1 + (uint32_t)i, entry));
    }
    uint64_t full = ref_page(page, 2, 0, 16);
    CHECK_EQ(mc_table_find(space, full, &key, &hit), MC_ABSENT);
    CHECK(!mc_table_still(space, full, 0, entry, 5));
    shm_store(map + page + 64 + 8 * 7, slot_make(0, entry)); /* the last one of a search */
    CHECK(mc_table_still(space, full, 0, entry, 5));
    CHECK(!mc_table_still(space, full, 0, entry, 6));
    CHECK(!mc_table_still(space, full, 0, limit, 5)); /* outside */
    CHECK(!mc_table_still(space, full | UINT64_C(1) << 63, 0, entry, 5));
    CHECK(!mc_table_still(space, 0, 0, entry, 5));
    CHECK(mc_table_page(space, 0, 0) == 0 && mc_table_page(space, full, 0) == full);
    CHECK_EQ(mc_table_page(space, full | UINT64_C(1) << 63, 0), 0);
    uint64_t last = limit - sizeof(struct mc_entry); /* its value would be outside */
    shm_store(map + last, UINT64_C(100) << 32);
    shm_store(map + page + 64 + 8 * 7, slot_make(0, last));
    CHECK(!mc_table_still(space, full, 0, last, 0));
    shm_store(map + page, slot_make(0, limit)); /* outside, under the tag that is looked for */
    mc_table_warm(space, full, &key, 1);
    CHECK_EQ(mc_table_find(space, full, &key, &hit), MC_CORRUPT);
    mc_table_touch(space, full, 0);
    mc_table_touch(space, 0, 0);
    uint64_t much = ref_page(HEADER + 8192, MC_PAGE_LINES_MAX, 6, 1);
    for (uint64_t i = 0; i < MC_PAGE_LINES_MAX * MC_LINE_SLOTS; i++) {
        shm_store(map + HEADER + 8192 + 8 * i, i == 0 ? slot_make(0, entry) : MC_UNUSED);
    }
    for (uint64_t i = 0; i < 64; i++) {
        shm_store(map + node + 8 * i, much);
    }
    uint64_t again = ref_node(node, 6, 0);
    mc_walk_begin(&walk, space, again);
    while ((status = mc_walk_next(&walk, &item)) == MC_OK) {
    }
    CHECK_EQ(status, MC_CORRUPT);
    root = again;
    CHECK_EQ(mc_table_clear(&table, &root, &error), MC_CORRUPT);
    CHECK_EQ(root, again);
    end_world();
}

int main(void)
{
    test_begin("test_table");
    map = aligned_alloc(4096, MAP_BYTES);
    CHECK(map != NULL);
    memset(map, 0, MAP_BYTES);      /* as a new file: what is damaged leads anywhere in it */
    mc_buddy_test_unchecked = true; /* compare() sees every block that is lost or given twice */
    for (int shape = 0; shape < SHAPES; shape++) {
        test_shape((enum shape)shape);
    }
    test_limit();
    test_clear();
    test_no_memory();
    test_full();
    test_damage();
    test_no_room_anywhere();
    test_hand_made();
    free(map);
    return 0;
}
