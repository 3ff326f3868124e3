/* test_explain.c - a batch that fails says why, whatever the table answered. */
#include <fcntl.h>

#include "buddy.h"
#include "faults.h"
#include "store_support.h"

static struct mc_writer *writer;
static struct mc_writer_options options;

static void open_new(void)
{
    options = small_options();
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
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

/* More names with one hash than a table takes are refused when they come to the catalogue. */
static void test_names_with_one_hash(void)
{
    uint64_t generation;
    faults_equal_hashes = true;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int i = 0; i < 1100; i++) {
        char name[8];
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

int main(void)
{
    test_begin("test_explain");
    mc_buddy_test_unchecked = true;
    test_changed_key();
    test_names_with_one_hash();
    remove_cache(test_path());
    return 0;
}
