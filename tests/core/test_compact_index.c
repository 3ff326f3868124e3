/* test_compact_index.c - the blocks of an index move as those of documents do, so that a cache with
 * an index is not full while there is room, and nobody notices. */
#include <errno.h>

#include "arena.h"
#include "commit_check.h"
#include "faults.h"
#include "full_world.h"
#include "hash.h"
#include "writer/compact.h"

#define SIZE (UINT64_C(4) << 20)
#define SIZE_FULL (UINT64_C(8) << 20) /* of a cache that changes when it is nearly full */
#define SECOND INT64_C(1000000000)

static struct mc_view view_now(void)
{
    return view_of(full_world.map);
}

/* Checks all of the file, and the allocator's structure. */
static void check_all(void)
{
    struct mc_view view = view_now();
    check_clean(&view);
    CHECK_EQ(mc_buddy_check(full_world.writer->arena.buddy), MC_OK);
}

/* Makes or drops a second index, which leads to one document a value. */
static void toggle_index(bool make)
{
    uint64_t generation;
    bool did;
    struct mc_writer *writer = full_world.writer;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    if (make) {
        CHECK_OK(mc_batch_index(writer, "sites", 5, "g.2", 3, MC_INDEX_UNIQUE, &did, &test_error));
    } else {
        CHECK_OK(mc_batch_drop_index(writer, "sites", 5, "g.2", 3, &did, &test_error));
    }
    CHECK(did);
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

/* Random updates of a cache that is nearly full: for each retention, as all that is retired comes
 * back at once, or late, or only when nothing else is left. */
static void test_never_full(void)
{
    static const int64_t retentions[] = {0, SECOND / 100, 5 * SECOND};
    for (size_t i = 0; i < sizeof retentions / sizeof retentions[0]; i++) {
        full_begin(SIZE_FULL, 0.75, retentions[i]);
        for (int n = 0; n < test_rounds(40); n++) {
            if (full_update(NULL) != MC_OK) {
                test_failed(__FILE__, __LINE__, "commit %d: %s", n, test_error.text);
            }
            if (n % 8 == 7) {
                check_all();
            }
        }
        CHECK(full_world.writer->compaction.largest > 0);
        full_end();
    }
}

/* Indexes come and go meanwhile. */
static void test_other_indexes(void)
{
    full_begin(SIZE, 0.65, 0);
    for (int n = 0; n < test_rounds(40); n++) {
        CHECK_OK(full_update(NULL));
        if (n % 10 == 2) {
            toggle_index(n % 20 == 2);
        }
    }
    check_all();
    full_end();
}

/* A snapshot reads what it read while an index moves under it. */
static void test_unnoticed(void)
{
    static struct full_world then;
    int seen = 0;
    full_begin(SIZE, 0.65, 3600 * SECOND);
    struct mc_compaction *compaction = &full_world.writer->compaction;
    for (int n = 0; n < 500 && seen < 5; n++) {
        struct mc_view before = view_now();
        then = full_world;
        compaction->keys.bytes = 0;
        CHECK_OK(full_update(NULL));
        if (compaction->keys.bytes == 0) {
            continue;
        }
        seen++;
        full_check(&before, &then);
        CHECK(mc_view_valid(&before));
        struct mc_view now = view_now();
        full_check(&now, &full_world);
    }
    CHECK_EQ(seen, 5);
    full_end();
}

/* Updates until the next commit is to begin to move something. */
static void until_due(void)
{
    do { /* opened anew, the writer may find that what was retired is room enough */
        do {
            CHECK_OK(full_update(NULL));
        } while (!mc_compact_is_due(full_world.writer) ||
                 mc_arena_has_sites(&full_world.writer->arena));
        full_open_again();
    } while (!mc_compact_is_due(full_world.writer));
}

/* A second collection with an index, of which nearly all goes again: then the nodes of the index,
 * and of a table of keys, have places without a page. */
static void put_small(void)
{
    struct mc_writer *writer = full_world.writer;
    for (int deleting = 0; deleting < 2; deleting++) {
        uint64_t generation;
        bool did;
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(mc_batch_index(writer, "small", 5, "g", 1, MC_INDEX_MULTI, &did, &test_error));
        for (int k = 0; k < 2000; k++) {
            const struct full_document document = {60, {1, 2, 1000 + k}, 1};
            struct mc_key key;
            mc_key_from_int64(k, &key);
            if (deleting == 0) {
                CHECK_OK(mc_batch_put(writer, "small", 5, &key, full_bytes(&document), 60, &did,
                                      &test_error));
            } else if (k % 200 != 0) {
                CHECK_OK(mc_batch_delete(writer, "small", 5, &key, &did, &test_error));
            }
        }
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    }
}

/* What moves is stored, although only the state changes. */
static void test_state(void)
{
    uint64_t moved = 0;
    full_begin(SIZE_FULL, 0.75, 0);
    put_small();
    for (int round = 0; round < 6; round++) {
        until_due();
        for (int i = 0; i < 8; i++) {
            struct mc_index_record record;
            CHECK_OK(commit_state(full_world.writer));
            moved += full_world.writer->compaction.keys.bytes;
            struct mc_view view = view_now();
            CHECK_OK(mc_view_index(&view, "sites", 5, "g", 1, &record));
            CHECK_EQ(record.root, mc_writer_index(full_world.writer, 0)->record.root);
        }
        check_all();
    }
    CHECK(moved > 0);
    full_end();
}

/* The commit that begins to move fails at each place in turn, at those that come late in larger
 * steps: what does not move is put off, and all is as it was. */
static void test_failures(enum fault kind, int number, enum mc_status expected, long most)
{
    long failed = 0;
    full_begin(SIZE, 0.65, 0);
    for (long left = 0; left < most; left += 1 + left / 2) {
        until_due();
        faults_arm(FAULT_BIT(kind), left, true, number);
        enum mc_status status = commit_state(full_world.writer);
        failed += faults_disarm() != 0;
        CHECK(status == MC_OK || status == expected);
        check_all();
        for (int i = 0; i < 10; i++) { /* it is made up for */
            CHECK_OK(commit_state(full_world.writer));
        }
    }
    check_all();
    CHECK(failed > 0);
    full_end();
}

enum damage {
    DAMAGE_NODE,
    DAMAGE_SLOT,
    DAMAGE_HEADER,
    DAMAGE_TYPE, /* of what an entry leads to */
    DAMAGE_CHECKSUM,
    DAMAGE_KEY, /* it is not where its hash leads, with a checksum that is right */
    DAMAGE_KEYS_NODE,
    DAMAGE_KEYS_SLOT,
    DAMAGE_LATER,      /* after an entry was listed, */
    DAMAGE_LATER_LESS, /* it leads to one key */
    DAMAGES
};

/* Makes the first byte of a value another one. */
static void change_type(const shm_byte *value, uint8_t type)
{
    shm_byte *base = full_world.writer->table.space.base, *word = base + (value - base);
    CHECK_EQ((uintptr_t)word % 8, 0); /* behind a header and a number */
    shm_store(word, (shm_load(word) & ~UINT64_C(0xFF)) | type);
}

static void change_key(const struct mc_hit *hit)
{
    shm_byte *entry = full_world.writer->table.space.base + hit->offset;
    shm_store(entry + 16, shm_load(entry + 16) ^ UINT64_C(1) << 40);
    uint32_t checksum = mc_entry_checksum(hit->value_len, shm_load(entry + 8), shm_expose(hit->key),
                                          hit->key_len, shm_expose(hit->value), hit->value_len);
    shm_store(entry, checksum | (uint64_t)hit->value_len << 32);
}

static void damage_block(const struct mc_item *item, enum damage node, enum damage slot,
                         enum damage damage)
{
    shm_byte *at = full_world.writer->table.space.base + item->offset;
    if (item->kind == MC_ITEM_NODE && damage == node) {
        shm_store(at, 0);
    } else if (item->kind == MC_ITEM_PAGE && damage == slot) {
        shm_store(at + item->bytes - 8, 0);
    }
}

static const shm_byte *later; /* a value, */
static int later_loads;       /* which has been loaded so often */
static uint8_t later_type;

static void on_load(enum shm_access access, const void *address, size_t len)
{
    (void)len;
    if (access == SHM_LOAD && address == (const void *)later && ++later_loads == 2) {
        mc_shm_hook = NULL;
        change_type(later, later_type);
        mc_shm_hook = on_load;
    }
}

/* Damages what an entry of the index leads to, and the entry. */
static void damage_entry(const struct mc_hit *hit, enum damage damage)
{
    struct mc_space *space = &full_world.writer->table.space;
    struct mc_posting posting;
    struct mc_walk walk;
    struct mc_item item;
    shm_byte *entry = space->base + hit->offset;
    CHECK_OK(mc_hit_posting(hit, &posting));
    if (posting.one) {
        return;
    }
    mc_walk_begin(&walk, space, posting.root);
    while (mc_walk_next(&walk, &item) == MC_OK) {
        damage_block(&item, DAMAGE_KEYS_NODE, DAMAGE_KEYS_SLOT, damage);
    }
    if (damage == DAMAGE_HEADER) {
        shm_store(entry, UINT64_MAX);
    } else if (damage == DAMAGE_TYPE) {
        change_type(hit->value, 200);
    } else if (damage == DAMAGE_CHECKSUM) {
        shm_store(entry, shm_load(entry) ^ 1);
    } else if (damage == DAMAGE_KEY) {
        change_key(hit);
    } else if (damage == DAMAGE_LATER || damage == DAMAGE_LATER_LESS) {
        later = hit->value;
        later_loads = 0;
        later_type = damage == DAMAGE_LATER ? 200 : MC_BSON_INT64;
    }
}

/* What is damaged does not move, and never gets a checksum that is right. */
static void test_damage(void)
{
    for (int damage = 0; damage < DAMAGES; damage++) {
        struct mc_index_record record;
        struct mc_walk walk;
        struct mc_item item;
        full_begin(SIZE, 0.65, 0);
        until_due();
        struct mc_view view;
        mc_writer_view(full_world.writer, &view);
        CHECK_OK(mc_view_index(&view, "sites", 5, "g", 1, &record));
        mc_walk_begin(&walk, &view.space, record.root);
        while (mc_walk_next(&walk, &item) == MC_OK) {
            if (item.kind == MC_ITEM_ENTRY) {
                damage_entry(&item.hit, (enum damage)damage);
            } else {
                damage_block(&item, DAMAGE_NODE, DAMAGE_SLOT, (enum damage)damage);
            }
        }
        enum mc_status status = MC_OK;
        commit_check_off = true;
        mc_shm_hook = later != NULL ? on_load : NULL;
        for (int i = 0; i < 100 && status == MC_OK; i++) {
            status = commit_state(full_world.writer);
        }
        mc_shm_hook = NULL;
        later = NULL;
        commit_check_off = false;
        CHECK_EQ(status, MC_CORRUPT);
        mc_map_release(full_world.map);
        mc_writer_close(full_world.writer);
    }
}

int main(void)
{
    test_begin("test_compact_index");
    mc_buddy_test_unchecked = true;
    test_never_full();
    test_other_indexes();
    test_unnoticed();
    test_state();
    test_failures(FAULT_MEMORY, 0, MC_NOMEM, 1000);
    test_failures(FAULT_ROOM, 0, MC_FULL, 1000);
    test_failures(FAULT_ROOM, ENOMEM, MC_NOMEM, 1000);
    test_damage();
    return 0;
}
