/* test_collections.c - what a writer remembers of collections, and what a catalogue may hold. */
#include <stdio.h>

#include "faults.h"
#include "store_support.h"
#include "writer/writer_state.h"

#define NAMES 3000

static struct mc_writer *writer;
static struct mc_writer_options options;

static void open_new(void)
{
    options = small_options();
    options.max_size = 16 << 20;
    writer = open_new_cache(&options);
}

static size_t name_of(char name[16], int i)
{
    return (size_t)snprintf(name, 16, "name-%d", i);
}

static void put_into(int i, int key)
{
    char name[16];
    uint8_t document[DOCUMENT_MOST];
    struct mc_key id;
    bool changed;
    size_t len = name_of(name, i), bytes = make_document(document, key, 1);
    mc_key_from_int64(key, &id);
    CHECK_OK(mc_batch_put(writer, name, len, &id, document, bytes, &changed, &test_error));
}

static void drop(int i, bool existed)
{
    char name[16];
    bool did;
    size_t len = name_of(name, i);
    CHECK_OK(mc_batch_drop(writer, name, len, &did, &test_error));
    CHECK_EQ(did, existed);
}

static void commit(bool changed)
{
    uint64_t generation;
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK_EQ(generation != 0, changed);
}

static void check_count(uint64_t expected)
{
    struct mc_view view;
    mc_writer_view(writer, &view);
    CHECK_EQ(view.root.collections, expected);
    check_clean(&view);
}

/* A loader that meets new names all the time keeps those that exist, in a list twice as long. */
static void test_names_come_and_go(void)
{
    size_t most = 0;
    open_new();
    for (int i = 0; i < NAMES; i++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_into(i, 1);
        put_into(NAMES, i);
        if (i >= 5) {
            drop(i - 5, true);
        }
        commit(true);
        most = writer->collections.count > most ? writer->collections.count : most;
    }
    check_count(6);
    CHECK(most <= 100);
    mc_writer_close(writer);
}

/* So does one that asks for names that never were, committed or not. */
static void test_names_that_never_were(void)
{
    open_new();
    for (int i = 0; i < NAMES; i++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        drop(i, false);
        if (i % 2 == 0) {
            mc_batch_abort(writer);
        } else {
            commit(false);
        }
        CHECK(writer->collections.count <= 100);
    }
    check_count(0);
    mc_writer_close(writer);
}

/* Those that exist stay listed, and a list that was forgotten is made anew. */
static void test_names_that_exist(void)
{
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int i = 0; i < 200; i++) {
        put_into(i, 1);
    }
    commit(true);
    CHECK_EQ(writer->collections.count, 200);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int i = 20; i < 200; i++) {
        drop(i, true);
    }
    commit(true);
    CHECK_EQ(writer->collections.count, 0);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_into(3, 2);
    put_into(40, 2);
    drop(4, true);
    drop(41, false);
    commit(true);
    check_count(20);
    mc_writer_close(writer);
}

/* What a catalogue's entry of an unknown kind refers to is unknown: a loader would take it for free
 * and a check could not account for it. */
static void test_unknown_kinds(void)
{
    static const uint8_t kinds[] = {0, 1, 3, 5, 9, 11, 18, 31};
    for (size_t i = 0; i < sizeof kinds; i++) {
        struct mc_key key = {.type = kinds[i], .len = 4, .data = (const uint8_t *)"kind"};
        struct mc_put_result result;
        struct mc_check_report report;
        struct mc_collection collection;
        struct mc_hit hit = {.key_type = kinds[i]};
        struct mc_view view;
        CHECK_EQ(mc_hit_collection(&hit, &collection), MC_CORRUPT);
        open_new();
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_into(1, 1);
        mc_writer_view(writer, &view);
        key.hash = mc_view_hash(&view, &key);
        CHECK_OK(mc_table_put(&writer->table, &writer->batch.catalogue, &key, "word", 4, &result,
                              &test_error));
        commit(true);
        mc_writer_view(writer, &view);
        CHECK_EQ(mc_check(&view, &report, &test_error), MC_CORRUPT);
        mc_writer_close(writer);
        CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_CORRUPT);
    }
}

/* The generation from which on a collection is what it is, as the writer's own view says. */
static uint64_t changed_in(int i, enum mc_status expected)
{
    struct mc_view view;
    struct mc_collection collection;
    char name[16];
    size_t len = name_of(name, i);
    mc_writer_view(writer, &view);
    CHECK_EQ(mc_view_collection(&view, name, len, &collection), expected);
    return collection.changed;
}

/* What a reader may go by when it has seen a collection in an earlier generation. */
static void test_since_when(void)
{
    struct mc_view view;
    struct mc_hit hit;
    struct mc_key key = {.type = MC_KEY_NAME, .len = 6, .data = (const uint8_t *)"name-2"};
    struct mc_entry entry;
    open_new();
    for (int generation = 1; generation <= 3; generation++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        put_into(generation, generation);
        put_into(1, generation == 3 ? 1 : generation); /* in generation 3 what is there already */
        commit(true);
    }
    CHECK_EQ(changed_in(1, MC_OK), 2);
    CHECK_EQ(changed_in(2, MC_OK), 2);
    CHECK_EQ(changed_in(3, MC_OK), 3);
    CHECK_EQ(changed_in(4, MC_ABSENT), 3);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    drop(3, true);
    commit(true);
    CHECK_EQ(changed_in(3, MC_ABSENT), 4);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    put_into(3, 3);
    commit(true);
    CHECK_EQ(changed_in(3, MC_OK), 5);

    mc_writer_view(writer, &view);
    key.hash = mc_view_hash(&view, &key);
    CHECK_OK(mc_find(&view, view.root.catalogue, &key, &hit));
    shm_read(&entry, view.space.base + hit.offset, sizeof entry);
    entry.stamp += 7; /* a hostile file: born in a generation that is still to come */
    memcpy((void *)(uintptr_t)(view.space.base + hit.offset), &entry, sizeof entry);
    CHECK_EQ(changed_in(2, MC_OK), 5);
    mc_writer_close(writer);
}

/* A put that found room for copies of nodes, and then none for the page: the batch has a collection
 * that is the same in young blocks, and an abort has to take it back. */
static void test_copies_of_a_put_that_failed(void)
{
    bool copied = false, failed = true;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < 4000; k++) {
        CHECK_OK(put_version(writer, 0, k, 1));
    }
    commit(true);
    const struct mc_writer_collection *collection =
        &writer->collections.items[writer->collections.last];
    uint64_t root = collection->record.root;
    for (long left = 0; failed; left++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        faults_arm(FAULT_BIT(FAULT_ROOM), left, false, 0);
        enum mc_status status = put_version(writer, 0, 7, 2);
        failed = faults_disarm() > 0;
        CHECK_EQ(status, failed ? MC_FULL : MC_OK);
        copied = copied || (failed && collection->record.root != root);
        mc_batch_abort(writer);
        CHECK_EQ(collection->record.root, root);
    }
    CHECK(copied);
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_collections");
    test_since_when();
    test_names_come_and_go();
    test_names_that_never_were();
    test_names_that_exist();
    test_unknown_kinds();
    test_copies_of_a_put_that_failed();
    remove_cache(test_path());
    return 0;
}
