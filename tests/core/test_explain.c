/* test_explain.c - a batch that fails says why, whatever the table answered. */
#include <fcntl.h>

#include "buddy.h"
#include "faults.h"
#include "store_support.h"
#include "writer/refusal.h"
#include "writer/writer_state.h"

static struct mc_writer *writer;
static struct mc_writer_options options;

static void open_new(void)
{
    options = small_options();
    options.max_size = 4u << 20;
    writer = open_new_cache(&options);
}

static void overwrite(uint64_t offset, uint64_t word)
{
    int file = open(test_path(), O_RDWR);
    CHECK(file >= 0 && pwrite(file, &word, sizeof word, (off_t)offset) == sizeof word);
    CHECK(close(file) == 0);
}

/* An entry whose key is another one by the time that the replace comes to remove it. */
static void test_changed_key(void)
{
    uint64_t generation;
    struct mc_view view;
    struct mc_collection collection;
    struct mc_hit hit;
    uint8_t bytes[DOCUMENT_MOST];
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < 10; k++) {
        CHECK_OK(put_version(writer, 0, k, 1));
    }
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    mc_writer_view(writer, &view);
    CHECK_OK(mc_view_collection(&view, "sites", 5, &collection));
    CHECK_OK(find_document(&view, collection.root, 5, &hit, bytes));
    overwrite((uint64_t)(hit.key - view.space.base), 77777);
    CHECK_EQ(mc_replace_end(writer, &test_error), MC_CORRUPT);
    CHECK_EQ(test_error.status, MC_CORRUPT);
    mc_batch_abort(writer);
    mc_writer_close(writer);
}

/* The name of a collection is another one by the time that its dropping is published. */
static void test_changed_name(void)
{
    uint64_t generation;
    struct mc_view view;
    struct mc_walk walk;
    struct mc_hit name;
    bool existed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
    mc_writer_view(writer, &view);
    mc_walk_begin(&walk, &view.space, view.root.catalogue);
    CHECK_OK(mc_walk_entry(&walk, &name));
    overwrite((uint64_t)(name.key - view.space.base), 77777);
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    CHECK_EQ(test_error.status, MC_CORRUPT);
    mc_batch_abort(writer);
    mc_writer_close(writer);
}

/* An entry of the catalogue is damaged, and a name with its hash is looked for there. */
static void test_damaged_catalogue(void)
{
    uint64_t generation, stamp;
    struct mc_view view;
    struct mc_walk walk;
    struct mc_hit name;
    struct mc_key key;
    bool existed;
    faults_equal_hashes = true;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_view(writer, &view);
    mc_walk_begin(&walk, &view.space, view.root.catalogue);
    CHECK_OK(mc_walk_entry(&walk, &name));
    uint64_t at = name.offset + offsetof(struct mc_entry, stamp);
    mc_copy(&stamp, view.space.base + at, sizeof stamp);
    overwrite(at, stamp | UINT64_C(0x7FF) << MC_STAMP_LEN_SHIFT); /* longer than any key */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    mc_key_from_int64(1, &key);
    CHECK_EQ(mc_batch_delete(writer, "rooms", 5, &key, &existed, &test_error), MC_CORRUPT);
    CHECK_EQ(test_error.status, MC_CORRUPT);
    mc_writer_close(writer);
    faults_equal_hashes = false;
}

/* Who has no use for the sentence still learns that there is no room. */
static void test_nobody_asks_why(void)
{
    static const uint8_t large[8u << 20];
    struct mc_key key;
    bool changed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    mc_key_from_int64(1, &key);
    CHECK(writer->superblock.max_size < sizeof large);
    CHECK_EQ(mc_batch_put(writer, "sites", 5, &key, large, sizeof large, &changed, NULL), MC_FULL);
    mc_writer_close(writer);
}

/* More names with one hash than a table takes are refused when they come to the catalogue. */
static void test_names_with_one_hash(void)
{
    uint64_t generation;
    faults_equal_hashes = true;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int i = 0; i < 1100; i++) {
        char name[16];
        struct mc_key key;
        bool changed;
        uint8_t document[DOCUMENT_MOST];
        size_t len = make_document(document, 1, 1);
        (void)snprintf(name, sizeof name, "c%d", i);
        mc_key_from_int64(1, &key);
        CHECK_OK(
            mc_batch_put(writer, name, strlen(name), &key, document, len, &changed, &test_error));
    }
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_LIMIT);
    CHECK_EQ(test_error.status, MC_LIMIT);
    mc_writer_close(writer);
    faults_equal_hashes = false;
}

/* A page may name entries that nobody has looked at, and none that is damaged is shown. */
static void test_damaged_entries_are_not_shown(void)
{
    uint64_t generation, stamp;
    struct mc_view view;
    struct mc_collection collection;
    struct mc_hit hit;
    struct mc_key key;
    uint8_t bytes[DOCUMENT_MOST];
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 5, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_view(writer, &view);
    CHECK_OK(mc_view_collection(&view, "sites", 5, &collection));
    CHECK_OK(find_document(&view, collection.root, 5, &hit, bytes));
    uint64_t at = hit.offset + offsetof(struct mc_entry, stamp);
    mc_copy(&stamp, view.space.base + at, sizeof stamp);
    overwrite(at, stamp | UINT64_C(0x7FF) << MC_STAMP_LEN_SHIFT); /* longer than any key */
    mc_key_from_int64(6, &key);
    struct mc_put_result result = {.same_tag = 9, .alike = {hit.offset, view.space.limit}};
    CHECK_EQ(mc_writer_refuse(writer, "sites", 5, &key, &result, &test_error), MC_LIMIT);
    CHECK(strstr(test_error.text, "the hash of 9 others, \"\" and \"\" among them") != NULL);
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_explain");
    mc_buddy_test_unchecked = true;
    test_changed_key();
    test_changed_name();
    test_damaged_catalogue();
    test_nobody_asks_why();
    test_names_with_one_hash();
    test_damaged_entries_are_not_shown();
    remove_cache(test_path());
    return 0;
}
