/* test_compact.c - a cache with documents of many sizes is not full while there is room: what is
 * live moves together, and nobody notices. */
#include <errno.h>
#include <limits.h>
#include <math.h>

#include "arena.h"
#include "change_log.h"
#include "faults.h"
#include "store_support.h"
#include "writer/compact.h"
#include "writer/upkeep.h"

#define MIB (UINT64_C(1) << 20)
#define LARGEST (64u << 10)
#define MOST 40000

static struct mc_writer *writer;
static struct mc_map *map;

/* What each key holds: its document's size, all bytes of which say the version. */
static struct documents {
    uint32_t sizes[MOST];
    uint8_t versions[MOST];
} model;

static const char *const names[] = {"sites", "limits", "flags"};

static double uniform(void)
{
    return (double)(test_random() >> 11) / (double)(UINT64_C(1) << 53);
}

/* Lognormal, from 60 bytes to 64 KiB. */
static uint32_t draw_size(void)
{
    double normal = sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
    double bytes = exp(6.5 + 1.5 * normal);
    return bytes < 60 ? 60 : bytes > LARGEST ? LARGEST : (uint32_t)bytes;
}

/* {p: bytes}, of so many bytes. */
static const uint8_t *document_of(uint32_t size, uint8_t version)
{
    static uint8_t document[LARGEST];
    fill_document(document, size, version);
    return document;
}

static enum mc_status put(int k, uint32_t size, uint8_t version)
{
    const char *name = names[k % 3];
    struct mc_key key;
    bool changed;
    mc_key_from_int64(k, &key);
    return mc_batch_put(writer, name, strlen(name), &key, document_of(size, version), size,
                        &changed, &test_error);
}

static void open_new(uint64_t max_size, int64_t retention_ns)
{
    struct mc_writer_options options = small_options();
    options.max_size = max_size;
    options.retention_ns = retention_ns;
    options.log_size = 1u << 16;
    options.ring_slots = 64;
    writer = open_new_cache(&options);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    memset(&model, 0, sizeof model);
}

/* Whether the view holds these documents. */
static void check_content(const struct mc_view *view, const struct documents *documents, int keys)
{
    struct mc_collection collections[3];
    for (int i = 0; i < 3; i++) {
        CHECK_OK(mc_view_collection(view, names[i], strlen(names[i]), &collections[i]));
    }
    for (int k = 0; k < keys; k++) {
        struct mc_key key;
        struct mc_hit hit;
        mc_key_from_int64(k, &key);
        key.hash = mc_view_hash(view, &key);
        CHECK_OK(mc_find(view, collections[k % 3].root, &key, &hit));
        CHECK(mc_hit_equals(&hit, document_of(documents->sizes[k], documents->versions[k]),
                            documents->sizes[k]));
    }
}

/* Fills to a share of the maximum; the number of keys. */
static int fill(uint64_t max_size, double share)
{
    uint64_t sum = 0, generation;
    int keys = 0;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    while ((double)sum < share * (double)max_size && keys < MOST) {
        uint32_t size = draw_size();
        CHECK_OK(put(keys, size, 1));
        model.sizes[keys] = size;
        model.versions[keys++] = 1;
        sum += size;
    }
    CHECK(keys > 0);
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    return keys;
}

#define UPDATES 60 /* of a batch */

static int64_t over; /* bytes more than at the beginning */

/* Puts new sizes, which hold their sum where it was, and commits while so many calls of these kinds
 * succeed and the next one fails. When it fails, everything is as before. */
static enum mc_status commit_updates(int keys, uint32_t kinds, long left)
{
    struct {
        int k;
        uint32_t size;
        uint8_t version;
    } before[UPDATES];
    uint64_t generation;
    enum mc_status status = MC_OK;
    int done = 0;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (; done < UPDATES && status == MC_OK; done++) {
        int k = (int)(test_random() % (uint64_t)keys);
        uint32_t size = draw_size();
        if (over > 0 ? size > model.sizes[k] : size < model.sizes[k]) {
            size = model.sizes[k];
        }
        before[done].k = k;
        before[done].size = model.sizes[k];
        before[done].version = model.versions[k];
        over += (int64_t)size - (int64_t)model.sizes[k];
        model.sizes[k] = size;
        status = put(k, size, ++model.versions[k]);
    }
    if (status == MC_OK) {
        if (kinds != 0) {
            faults_arm(kinds, left, false, 0);
        }
        status = mc_batch_commit(writer, &generation, &test_error);
        (void)faults_disarm();
    }
    if (status != MC_OK) {
        mc_batch_abort(writer);
        while (done-- > 0) {
            int k = before[done].k;
            over += (int64_t)before[done].size - (int64_t)model.sizes[k];
            model.sizes[k] = before[done].size;
            model.versions[k] = before[done].version;
        }
    }
    return status;
}

/* A collection of small documents, nearly all of which may go again: then its nodes have places
 * without a page. */
static void put_small(int keys, bool and_delete)
{
    for (int deleting = 0; deleting <= and_delete; deleting++) {
        uint64_t generation;
        CHECK_OK(mc_batch_begin(writer, &test_error));
        for (int k = 0; k < keys; k++) {
            struct mc_key key;
            bool did;
            mc_key_from_int64(k, &key);
            if (deleting == 0) {
                CHECK_OK(mc_batch_put(writer, "small", 5, &key, document_of(20, 1), 20, &did,
                                      &test_error));
            } else if (k % 300 != 0) {
                CHECK_OK(mc_batch_delete(writer, "small", 5, &key, &did, &test_error));
            }
        }
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    }
}

/* Random updates of a cache that is nearly full: for each retention, as all that is retired comes
 * back at once, or late, or only when nothing else is left. */
static void test_never_full(void)
{
    static const int64_t retentions[] = {0, 10000000, INT64_C(5000000000)};
    for (size_t i = 0; i < sizeof retentions / sizeof retentions[0]; i++) {
        open_new(16 * MIB, retentions[i]);
        if (i == 0) {
            put_small(30000, false); /* more pages than a commit looks at */
        }
        int keys = fill(16 * MIB, i == 0 ? 0.65 : 0.85);
        for (int commit = 0; commit < test_rounds(400); commit++) {
            if (commit_updates(keys, 0, 0) != MC_OK) {
                test_failed(__FILE__, __LINE__, "commit %d: %s", commit, test_error.text);
            }
        }
        struct mc_view view = view_of(map);
        check_content(&view, &model, keys);
        close_checked(writer, map);
    }
}

/* Large entries of an index, of the documents whose value a key can be, lie between those that
 * move, and move as well. */
static void test_index(void)
{
    uint64_t generation;
    bool changed, moved = false;
    open_new(16 * MIB, 0);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_index(writer, "sites", 5, "p", 1, MC_INDEX_MULTI, &changed, &test_error));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    int keys = fill(16 * MIB, 0.75);
    for (int commit = 0; commit < test_rounds(100); commit++) {
        CHECK_OK(commit_updates(keys, 0, 0));
        moved |= writer->compaction.move.bytes > 0;
    }
    CHECK(moved || test_sample > 1);
    struct mc_view view = view_of(map);
    check_content(&view, &model, keys);
    close_checked(writer, map);
}

/* Whatever fails meanwhile, the content is the one before or the one after, and it goes on. */
static void test_faults(void)
{
    const uint32_t kinds[] = {FAULT_BIT(FAULT_MEMORY), FAULT_BIT(FAULT_BLOCK),
                              FAULT_BIT(FAULT_ROOM)};
    open_new(16 * MIB, 0);
    int keys = fill(16 * MIB, 0.85), failed = 0;
    for (int round = 0; round < test_rounds(400); round++) {
        long left = (long)(test_random() % (1u << test_random() % 9));
        enum mc_status status = commit_updates(keys, kinds[round % 3], left);
        CHECK(status == MC_OK || status == MC_NOMEM || status == MC_FULL);
        failed += status != MC_OK;
        if (round % 100 == 99) {
            struct mc_view view = view_of(map);
            check_content(&view, &model, keys);
            check_clean(&view);
        }
    }
    CHECK(failed > 0 || test_sample > 1);
    close_checked(writer, map);
}

/* What the change log says of the last commit: how many keys. */
static int changed_keys(const struct mc_view *view)
{
    struct mc_changes changes;
    struct mc_change change;
    enum mc_status status;
    int keys = 0;
    CHECK_OK(mc_changes_open(view, view->root.generation - 1, MC_CHANGES_UNLIMITED, &changes));
    while ((status = mc_changes_next(&changes, &change)) == MC_OK) {
        CHECK_EQ(change.kind, MC_CHANGE_PUT);
        keys++;
    }
    CHECK_EQ(status, MC_ABSENT);
    mc_changes_close(&changes);
    return keys;
}

/* A snapshot reads what it read while blocks move under it, and the change log says what the
 * batches changed and nothing of what moved. */
static void test_unnoticed(void)
{
    static struct documents then;
    int seen = 0;
    open_new(16 * MIB, INT64_C(3600) * 1000000000);
    int keys = fill(16 * MIB, 0.8);
    for (int commit = 0; commit < 2000 && seen < 5; commit++) {
        struct mc_view before = view_of(map);
        then = model;
        writer->compaction.move.bytes = 0;
        CHECK_OK(commit_updates(keys, 0, 0));
        if (writer->compaction.move.bytes == 0) {
            continue;
        }
        seen++;
        struct mc_view now = view_of(map);
        check_content(&now, &model, keys);
        CHECK(changed_keys(&now) <= UPDATES);
        check_content(&before, &then, keys);
        CHECK(mc_view_valid(&before));
    }
    CHECK_EQ(seen, 5);
    close_checked(writer, map);
}

/* Fills a new cache, updates it until the next commit is to move something, and opens it anew. */
static int open_due(void)
{
    struct mc_writer_options options = small_options();
    open_new(16 * MIB, 0);
    put_small(3000, true);
    int keys = fill(16 * MIB, 0.85);
    do { /* opened anew, the writer may find that what was retired is room enough */
        do {
            CHECK_OK(commit_updates(keys, 0, 0));
        } while (!mc_compact_is_due(writer) || mc_arena_has_sites(&writer->arena));
        mc_writer_close(writer);
        options.max_size = 16 * MIB;
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    } while (!mc_compact_is_due(writer));
    return keys;
}

/* A batch that changes nothing moves nothing, and is no generation. */
static void commit_nothing(void)
{
    uint64_t generation = writer->root.generation, published;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_commit(writer, &published, &test_error));
    CHECK_EQ(writer->root.generation, generation);
    CHECK(!mc_arena_has_sites(&writer->arena));
}

/* The first commit that moves something fails at each place in turn, `most` at most: what does not
 * move is put off. Each time it has other things to move: it is over when there were fewer places
 * several times. */
static void test_failures(enum fault kind, int number, enum mc_status expected, long most)
{
    for (long left = 0, over = 0; over < 4 && left < most; left++) {
        int keys = open_due();
        faults_arm(FAULT_BIT(kind), left, true, number);
        enum mc_status status = commit_state(writer);
        over += faults_disarm() == 0;
        CHECK(status == MC_OK || status == expected);
        for (int i = 0; i < 20; i++) { /* what moves is stored, although only the state changes */
            CHECK_OK(commit_state(writer));
        }
        struct mc_view view = view_of(map);
        check_content(&view, &model, keys);
        close_checked(writer, map);
    }
}

/* Lets the first allocation of what moves fail. */
static void fail_moving(enum fault kind)
{
    if (kind == FAULT_MEMORY && writer->compaction.moving) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), 0, false, 0);
    }
}

/* A writer that has looked up no collection yet has no memory for the first that is to move: how
 * many sites there were, each with an allocation of its own, does not matter. */
static void test_no_collection(void)
{
    for (long failed = 0; failed == 0;) { /* what was retired may be room enough */
        int keys = open_due();
        faults_arm(0, 0, false, 0);
        faults_before = fail_moving;
        CHECK_OK(commit_state(writer));
        faults_before = NULL;
        failed = faults_disarm();
        CHECK(failed == 0 || !mc_arena_has_sites(&writer->arena)); /* it is put off */
        for (int i = 0; i < 20; i++) {
            CHECK_OK(commit_state(writer));
        }
        struct mc_view view = view_of(map);
        check_content(&view, &model, keys);
        close_checked(writer, map);
    }
}

/* Moves while there is nothing to commit, until there is no more of it; how often. */
static int tidy(void)
{
    int times = 0;
    for (uint64_t before; before = writer->root.generation, mc_writer_tidy(writer); times++) {
        CHECK_EQ(writer->root.generation, before + 1);
        struct mc_view view = view_of(map);
        CHECK_EQ(changed_keys(&view), 0);
        CHECK(times < 1000);
    }
    return times;
}

/* While there is nothing to commit what lies in sites moves as well, a little at a time, and
 * comes to rest, whatever is wished for, until something changes. */
static void test_idle(void)
{
    int moved = 0, rested = 0;
    for (int round = 0; round < 4; round++) {
        int keys = open_due();
        uint64_t room = mc_buddy_room(writer->arena.buddy, mc_granules(LARGEST), INT_MAX);
        moved += tidy();
        (void)tidy(); /* the sites are whole by now */
        CHECK(!mc_arena_has_sites(&writer->arena));
        CHECK(mc_buddy_room(writer->arena.buddy, mc_granules(LARGEST), INT_MAX) >= room);
        struct mc_view view = view_of(map);
        check_content(&view, &model, keys);
        check_clean(&view);
        writer->compaction.until = 0;
        while (!mc_compact_is_due(writer) && writer->compaction.largest < 16 * LARGEST) {
            writer->compaction.largest += LARGEST / 4;
        }
        rested += mc_compact_is_due(writer);
        CHECK_EQ(tidy(), 0);
        CHECK_OK(commit_updates(keys, 0, 0));
        close_checked(writer, map);
    }
    CHECK(moved > 3);
    CHECK(rested > 0);
}

/* What fails meanwhile is no failure of anybody. */
static void test_idle_faults(void)
{
    for (long left = 0; left < 12; left++) {
        int keys = open_due();
        faults_arm(FAULT_BIT(left % 2 == 0 ? FAULT_MEMORY : FAULT_ROOM), left / 2, true, 0);
        (void)mc_writer_tidy(writer);
        (void)faults_disarm();
        CHECK(!writer->batch.open);
        CHECK_OK(commit_updates(keys, 0, 0));
        struct mc_view view = view_of(map);
        check_content(&view, &model, keys);
        close_checked(writer, map);
    }
}

enum damage {
    DAMAGE_VALUE,
    DAMAGE_HEADER,
    DAMAGE_SLOT,
    DAMAGE_NODE,
    DAMAGE_NAME,  /* an entry of the catalogue */
    DAMAGE_COUNT, /* how many collections there are */
    DAMAGES
};

static void damage_catalogue(enum damage damage)
{
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_collection collection;
    writer->root.collections = damage == DAMAGE_COUNT ? 0 : writer->root.collections;
    mc_walk_begin(&walk, &writer->table.space, writer->root.catalogue);
    while (damage == DAMAGE_NAME && mc_walk_entry(&walk, &hit) == MC_OK) {
        if (mc_hit_collection(&hit, &collection) == MC_OK) {
            shm_store(writer->table.space.base + hit.offset, UINT64_MAX);
        }
    }
}

static void damage_all(enum damage damage)
{
    struct mc_view view = view_of(map);
    for (int i = 0; i < 3; i++) {
        struct mc_collection collection;
        struct mc_walk walk;
        struct mc_item item;
        CHECK_OK(mc_view_collection(&view, names[i], strlen(names[i]), &collection));
        mc_walk_begin(&walk, &writer->table.space, collection.root);
        for (int n = 0; mc_walk_next(&walk, &item) == MC_OK; n++) {
            shm_byte *at = writer->table.space.base + item.offset;
            if (item.kind == MC_ITEM_ENTRY && damage == DAMAGE_VALUE && n % 2 == 0) {
                shm_store(at + 32, ~shm_load(at + 32));
            } else if (item.kind == MC_ITEM_ENTRY && damage == DAMAGE_HEADER) {
                shm_store(at, UINT64_MAX);
            } else if (item.kind == MC_ITEM_PAGE && damage == DAMAGE_SLOT) {
                shm_store(at + item.bytes - 8, 0);
            } else if (item.kind == MC_ITEM_NODE && damage == DAMAGE_NODE) {
                shm_store(at, 0);
                shm_store(at + item.bytes - 8, UINT64_MAX);
                break;
            }
        }
    }
}

/* What is damaged does not move, and never gets a checksum that is right. */
static void test_damage(void)
{
    for (int damage = 0; damage < DAMAGES; damage++) {
        (void)open_due();
        CHECK(!mc_batch_is_short(writer)); /* what moves keeps others waiting */
        commit_nothing();
        damage_all((enum damage)damage);
        damage_catalogue((enum damage)damage);
        CHECK(!mc_writer_tidy(writer));
        CHECK_EQ(commit_state(writer), MC_CORRUPT);
        mc_map_release(map);
        mc_writer_close(writer);
    }
}

int main(void)
{
    test_begin("test_compact");
    mc_buddy_test_unchecked = true;
    test_never_full();
    test_index();
    test_faults();
    test_unnoticed();
    test_failures(FAULT_MEMORY, 0, MC_NOMEM, LONG_MAX);
    test_failures(FAULT_ROOM, 0, MC_FULL, 12);
    test_failures(FAULT_ROOM, ENOMEM, MC_NOMEM, 12);
    test_no_collection();
    test_idle();
    test_idle_faults();
    test_damage();
    remove_cache(test_path());
    return 0;
}
