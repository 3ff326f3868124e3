/* test_batch.c - batches that are used wrongly, given what cannot be stored, or met by damage: a
 * status each time, and the batch goes on as if nothing had been asked of it. */
#include <fcntl.h>
#include <sys/stat.h>

#include "faults.h"
#include "store_support.h"
#include "writer/writer_state.h"

static struct mc_writer *writer;
static struct mc_writer_options options;

static void open_new(void)
{
    options = small_options();
    writer = open_new_cache(&options);
}

static uint64_t commit(void)
{
    uint64_t generation;
    struct mc_view view;
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_view(writer, &view);
    check_clean(&view);
    return generation;
}

static uint64_t count_of(const char *name)
{
    struct mc_view view;
    struct mc_collection collection;
    mc_writer_view(writer, &view);
    enum mc_status status = mc_view_collection(&view, name, strlen(name), &collection);
    CHECK(status == MC_OK || status == MC_ABSENT);
    return status == MC_OK ? collection.count : UINT64_MAX;
}

/* ---- the order of calls ---- */

static void test_usage(void)
{
    uint64_t generation, documents;
    bool existed;
    open_new();
    CHECK_EQ(put_version(writer, 0, 1, 1), MC_USAGE);
    CHECK_EQ(delete_key_of(writer, 0, 1, &existed), MC_USAGE);
    CHECK_EQ(mc_batch_drop(writer, "sites", 5, &existed, &test_error), MC_USAGE);
    CHECK_EQ(mc_batch_state(writer, (const uint8_t *)"s", 1, &test_error), MC_USAGE);
    CHECK_EQ(mc_batch_put_raw(writer, "sites", 5, NULL, 0, &documents, &test_error), MC_USAGE);
    CHECK_EQ(mc_replace_begin(writer, "sites", 5, &test_error), MC_USAGE);
    CHECK_EQ(mc_replace_end(writer, &test_error), MC_USAGE);
    mc_replace_cancel(writer);
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_USAGE);
    mc_batch_abort(writer);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_EQ(mc_batch_begin(writer, &test_error), MC_USAGE);
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_EQ(mc_replace_begin(writer, "limits", 6, &test_error), MC_USAGE);
    CHECK_EQ(mc_batch_drop(writer, "sites", 5, &existed, &test_error), MC_USAGE);
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_USAGE);
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(commit(), 1);
    CHECK_EQ(count_of("sites"), 1);
    mc_writer_close(writer);
}

/* A collection that comes and goes within one batch, beside one that stays; and a replace of one
 * that was new, cancelled. */
static void test_short_lived(void)
{
    bool existed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(put_version(writer, 1, 1, 1));
    CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
    CHECK(existed);
    CHECK_OK(mc_replace_begin(writer, "flags", 5, &test_error));
    CHECK_OK(put_version(writer, 2, 1, 1));
    mc_replace_cancel(writer);
    CHECK_EQ(commit(), 1);
    CHECK_EQ(count_of("limits"), 1);
    CHECK(count_of("sites") == UINT64_MAX && count_of("flags") == UINT64_MAX);
    mc_writer_close(writer);
}

/* Foretelling a put changes nothing, in a batch or without one. A commit is short while it has few
 * changes, of either kind, and no checkpoint's mark to take away. */
static void test_foretold_and_short(void)
{
    struct mc_key key;
    bool existed;
    open_new();
    mc_key_from_int64(1, &key);
    mc_batch_expect(writer, "sites", 5, &key);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    mc_batch_expect(writer, "sites", 5, &key);
    CHECK(mc_batch_is_short(writer));
    CHECK_EQ(commit(), 0);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < 10; k++) {
        CHECK(mc_batch_is_short(writer));
        CHECK_OK(put_version(writer, 0, k, 1));
    }
    for (int k = 0; k < 10; k++) {
        CHECK_OK(delete_key_of(writer, 0, k, &existed));
    }
    CHECK(!mc_batch_is_short(writer));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_EQ(commit(), 1);
    CHECK_OK(mc_writer_checkpoint(writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK(!mc_batch_is_short(writer));
    CHECK_OK(put_version(writer, 0, 1, 2));
    CHECK_EQ(commit(), 2);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK(mc_batch_is_short(writer));
    mc_writer_close(writer);
}

/* ---- documents ---- */

static uint8_t buffer[MC_DOCUMENT_MAX + (64u << 10)];

/* Good documents up to `count`, then `bad`. Returns the bytes. */
static size_t fill(int count, const void *bad, size_t bad_len)
{
    size_t len = 0;
    for (int k = 0; k < count; k++) {
        len += make_document(buffer + len, k, 1);
    }
    memcpy(buffer + len, bad, bad_len);
    return len + bad_len;
}

/* A buffer whose n-th document is wrong: what is before it is put, it is named, nothing else is. */
static void test_raw(void)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } wrong[] = {
        {"\5\0\0", 3, "length"},
        {"\100\0\0\0\0", 5, "length"},
        {"\6\0\0\0\1\0", 6, "at byte"},
        {"\5\0\0\0\0", 5, "no _id"},
        {"\x13\0\0\0\4_id\0\5\0\0\0\0\0\0\0\0\0", 19, "at byte"},
        {"\x0F\0\0\0\4_id\0\5\0\0\0\0\0", 15, "array"},
    };
    static const int counts[] = {0, 1, 15, 16, 17, 40};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            uint64_t documents;
            open_new();
            CHECK_OK(mc_batch_begin(writer, &test_error));
            size_t len = fill(counts[n], wrong[i].bytes, wrong[i].len);
            CHECK_EQ(mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents, &test_error),
                     MC_INVALID);
            CHECK_EQ(documents, counts[n]);
            CHECK(strstr(test_error.text, wrong[i].text) != NULL);
            CHECK_EQ(mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents, NULL),
                     MC_INVALID);
            CHECK_EQ(documents, counts[n]); /* none of them is new */
            CHECK_EQ(commit(), counts[n] > 0);
            CHECK_EQ(count_of("sites"), counts[n] > 0 ? (uint64_t)counts[n] : UINT64_MAX);
            mc_writer_close(writer);
        }
    }
}

/* A document beyond the limit, alone and in a buffer. */
static void test_too_long(void)
{
    const uint32_t len = MC_DOCUMENT_MAX + 1;
    uint64_t documents;
    struct mc_key key;
    bool changed;
    open_new();
    fill_document(buffer, len, 0);
    mc_key_from_int64(1, &key);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_EQ(mc_batch_put(writer, "sites", 5, &key, buffer, len, &changed, &test_error), MC_LIMIT);
    CHECK_EQ(mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents, &test_error), MC_LIMIT);
    CHECK_EQ(commit(), 0);
    mc_writer_close(writer);
}

/* No room, or no memory, in the middle of a buffer: so many documents are in, and no more. */
static void test_raw_without_room(void)
{
    for (long left = 0;; left++) {
        uint64_t documents;
        open_new();
        CHECK_OK(mc_batch_begin(writer, &test_error));
        size_t len = fill(40, "", 0);
        faults_arm(FAULT_BIT(FAULT_ROOM), left, true, 0);
        enum mc_status status = mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents,
                                                 left % 2 ? NULL : &test_error);
        bool failed = faults_disarm() > 0;
        CHECK_EQ(status, failed ? MC_FULL : MC_OK);
        CHECK(documents < 40 || !failed);
        CHECK_EQ(commit(), documents > 0);
        CHECK_EQ(count_of("sites"), documents > 0 ? documents : UINT64_MAX);
        mc_writer_close(writer);
        if (!failed) {
            break;
        }
    }
}

/* Where so many documents came that were not there, the entries of the next ones lie in a stretch;
 * there is none for documents that are there already. */
static void test_raw_in_a_stretch(void)
{
    uint64_t documents;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    size_t len = fill(16, "", 0);
    CHECK_OK(mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents, &test_error));
    CHECK_OK(mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents, &test_error));
    CHECK(writer->arena.bulk_left == 0 && !writer->arena.bulk);
    len = fill(40, "", 0);
    CHECK_OK(mc_batch_put_raw(writer, "others", 6, buffer, len, &documents, &test_error));
    CHECK(writer->arena.bulk_left > 0 && !writer->arena.bulk);
    CHECK_EQ(commit(), 1);
    CHECK_EQ(count_of("others"), 40);
    mc_writer_close(writer);
}

/* More keys of one hash than can be told apart. */
static void test_equal_hashes(void)
{
    enum mc_status status = MC_OK;
    int stored = 0;
    bool changed;
    faults_equal_hashes = true;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    while ((status = put_version(writer, 0, stored, 1)) == MC_OK) {
        stored++;
    }
    CHECK_EQ(status, MC_LIMIT);
    char others[40];
    (void)snprintf(others, sizeof others, "hash of %d others, \"", stored);
    CHECK(strstr(test_error.text, others) != NULL);
    CHECK(strstr(test_error.text, "collection sites: the key \"A\\x03\\x00") != NULL);
    CHECK_EQ(put_version(writer, 0, stored + 1, 1), MC_LIMIT);
    uint8_t text[20] = "say \"no\"\\\x7F\x1B?....", document[DOCUMENT_MOST];
    struct mc_key key = {.type = MC_BSON_STRING, .len = sizeof text, .data = text};
    size_t len = make_document(document, 1, 1);
    CHECK_EQ(mc_batch_put(writer, "sites", 5, &key, document, len, &changed, &test_error),
             MC_LIMIT);
    CHECK(strstr(test_error.text, "\"say \\x22no\\x22\\x5c\\x7f\\x1b?...\"") != NULL);
    CHECK_EQ(mc_batch_put(writer, "sites", 5, &key, document, len, &changed, NULL), MC_LIMIT);
    CHECK_OK(put_version(writer, 1, 7, 1)); /* another collection goes on */
    CHECK_EQ(commit(), 1);
    CHECK_EQ(count_of("sites"), stored);
    CHECK_EQ(count_of("limits"), 1);
    mc_writer_close(writer);
    faults_equal_hashes = false;
}

/* ---- memory ---- */

/* A replace needs a bit for each granule of a file that grows under it. */
static void test_replace_that_grows(void)
{
    const uint32_t len = 16u << 20;
    struct mc_key key;
    bool changed;
    long failures = 0;
    options = small_options();
    options.max_size = 1u << 30;
    writer = open_new_cache(&options);
    fill_document(buffer, len, 0);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "big", 3, &test_error));
    for (int k = 0; k < 4; k++) {
        mc_key_from_int64(k, &key);
        for (long left = 0;; left++) {
            faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
            enum mc_status status =
                mc_batch_put(writer, "big", 3, &key, buffer, len, &changed, &test_error);
            if (faults_disarm() == 0) {
                CHECK_EQ(status, MC_OK);
                break;
            }
            CHECK(status == MC_NOMEM || status == MC_OK);
            failures++;
        }
    }
    CHECK(failures >= 2);
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(commit(), 1);
    CHECK_EQ(count_of("big"), 4);
    mc_writer_close(writer);
}

/* A drop has to write down every block that it retires. */
static void test_drop_without_memory(void)
{
    bool existed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < KEYS; k++) {
        CHECK_OK(put_version(writer, 0, k, 1));
    }
    CHECK_EQ(commit(), 1);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    faults_arm(FAULT_BIT(FAULT_MEMORY), 0, true, 0);
    CHECK_EQ(mc_batch_drop(writer, "sites", 5, &existed, &test_error), MC_NOMEM);
    CHECK(faults_disarm() > 0 && !existed);
    CHECK_EQ(commit(), 0);
    CHECK_EQ(count_of("sites"), KEYS);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
    CHECK_EQ(commit(), 2);
    CHECK_EQ(count_of("sites"), UINT64_MAX);
    mc_writer_close(writer);
}

/* ---- damage under the loader ---- */

static uint64_t victim; /* offset of what is damaged */
static const shm_byte *victim_base;
static int victim_loads; /* loads of it that still see it whole */

static void overwrite(uint64_t offset, uint64_t word)
{
    int file = open(test_path(), O_RDWR);
    CHECK(file >= 0 && pwrite(file, &word, sizeof word, (off_t)offset) == sizeof word);
    CHECK(close(file) == 0);
}

static void damage_later(enum shm_access access, const void *address, size_t len)
{
    (void)len;
    if (access == SHM_LOAD && address == victim_base + victim && victim_loads-- == 0) {
        overwrite(victim, UINT64_MAX); /* its value is longer than the file */
    }
}

/* Ten committed documents, opened anew, the first of which has been put in a replace. */
static void begin_replace_of_ten(void)
{
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < 10; k++) {
        CHECK_OK(put_version(writer, 0, k, 1));
    }
    CHECK_EQ(commit(), 1);
    mc_writer_close(writer);
}

static struct mc_hit find(const char *name, int k)
{
    struct mc_view view;
    struct mc_collection collection;
    struct mc_hit hit;
    struct mc_key key;
    mc_writer_view(writer, &view);
    CHECK_OK(mc_view_collection(&view, name, strlen(name), &collection));
    mc_key_from_int64(k, &key);
    key.hash = mc_view_hash(&view, &key);
    CHECK_OK(mc_find(&view, collection.root, &key, &hit));
    victim_base = view.space.base;
    return hit;
}

/* An entry that the replace would delete is damaged before it is looked for, while it is, after. */
static void test_damaged_replace(void)
{
    bool done = false;
    for (int loads = 0; !done; loads++) {
        begin_replace_of_ten();
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        victim = find("sites", 7).offset;
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
        CHECK_OK(put_version(writer, 0, 1, 1));
        victim_loads = loads;
        mc_shm_hook = damage_later;
        enum mc_status status = mc_replace_end(writer, &test_error);
        mc_shm_hook = NULL;
        done = victim_loads >= 0;
        CHECK(status == MC_CORRUPT || (done && status == MC_OK));
        mc_batch_abort(writer);
        mc_writer_close(writer);
    }
}

/* A collection's record that counts fewer documents than there are. */
static void test_wrong_count(void)
{
    struct mc_collection_record record;
    struct mc_view view;
    struct mc_hit hit;
    begin_replace_of_ten();
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_view(writer, &view);
    struct mc_key key = {.type = MC_KEY_NAME, .len = 5, .data = (const uint8_t *)"sites"};
    key.hash = mc_view_hash(&view, &key);
    CHECK_OK(mc_find(&view, view.root.catalogue, &key, &hit));
    mc_copy(&record, hit.value, sizeof record);
    CHECK_EQ(record.count, 10);
    overwrite(
        (uint64_t)(hit.value - view.space.base) + offsetof(struct mc_collection_record, count), 8);
    mc_writer_close(writer);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_EQ(mc_replace_end(writer, &test_error), MC_CORRUPT);
    mc_batch_abort(writer);
    mc_writer_close(writer);
}

/* ---- several documents with one key ---- */

/* {_id: key, v: version} */
static size_t versioned(uint8_t *to, uint8_t key, uint8_t version)
{
    static const uint8_t pattern[] = "\x15\0\0\0\x10_id\0\0\0\0\0\x10v\0\0\0\0\0";
    memcpy(to, pattern, sizeof pattern); /* with the NUL at its end */
    to[9] = key;
    to[16] = version;
    return sizeof pattern;
}

/* Replaces the content by documents { key, version }; the generation. */
static uint64_t load(const uint8_t pairs[][2], size_t count, uint64_t duplicates)
{
    uint64_t documents;
    size_t len = 0;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    for (size_t i = 0; i < count; i++) {
        len += versioned(buffer + len, pairs[i][0], pairs[i][1]);
    }
    CHECK_OK(mc_batch_put_raw(writer, "sites", 5, buffer, len, &documents, &test_error));
    CHECK_EQ(documents, count);
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(mc_batch_counts(writer).duplicates, duplicates);
    return commit();
}

static uint8_t version_of(uint8_t k)
{
    struct mc_view view;
    struct mc_collection collection;
    struct mc_hit hit;
    uint8_t bytes[DOCUMENT_MOST];
    mc_writer_view(writer, &view);
    CHECK_OK(mc_view_collection(&view, "sites", 5, &collection));
    CHECK_OK(find_document(&view, collection.root, k, &hit, bytes));
    return bytes[16];
}

/* Every order of the same documents is the same content, and only the first is a generation. */
static void test_duplicates(void)
{
    static const uint8_t orders[][5][2] = {
        {{1, 7}, {1, 3}, {1, 5}, {2, 9}, {1, 3}}, {{1, 3}, {1, 3}, {2, 9}, {1, 5}, {1, 7}},
        {{1, 7}, {1, 5}, {2, 9}, {1, 3}, {1, 3}}, {{2, 9}, {1, 5}, {1, 3}, {1, 7}, {1, 3}},
        {{1, 5}, {1, 7}, {1, 3}, {1, 3}, {2, 9}},
    };
    for (size_t first = 0; first < 5; first++) {
        open_new();
        for (size_t i = 0; i < 5; i++) {
            CHECK_EQ(load(orders[(first + i) % 5], 5, 3), i == 0);
            CHECK(version_of(1) == 3 && version_of(2) == 9);
            CHECK_EQ(count_of("sites"), 2);
        }
        /* What is new beside them, or gone, or different, is a generation still. */
        CHECK_EQ(load((const uint8_t[][2]){{1, 7}, {1, 3}, {2, 9}, {3, 1}}, 4, 1), 2);
        CHECK_EQ(load((const uint8_t[][2]){{1, 7}, {1, 3}, {2, 9}}, 3, 1), 3);
        CHECK_EQ(load((const uint8_t[][2]){{1, 7}, {1, 3}, {4, 9}}, 3, 1), 4);
        CHECK_EQ(load((const uint8_t[][2]){{1, 7}, {1, 2}, {4, 9}}, 3, 1), 5);
        CHECK_EQ(load((const uint8_t[][2]){{1, 7}, {1, 4}, {4, 9}}, 3, 1), 6);
        CHECK_EQ(version_of(1), 4);
        CHECK_EQ(load((const uint8_t[][2]){{1, 7}, {1, 4}}, 2, 1), 7);
        CHECK_EQ(count_of("sites"), 1);
        mc_writer_close(writer);
    }
}

/* What was not there before: two documents of a new key, and a new collection without any. */
static void test_new_duplicates(void)
{
    open_new();
    CHECK_EQ(load((const uint8_t[][2]){{1, 1}}, 1, 0), 1);
    CHECK_EQ(load((const uint8_t[][2]){{1, 1}, {2, 5}, {2, 3}}, 3, 1), 2);
    CHECK_EQ(version_of(2), 3);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "limits", 6, &test_error));
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(commit(), 3);
    CHECK_EQ(count_of("limits"), 0);
    bool existed; /* and what is deleted of it is not taken back */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_OK(delete_key_of(writer, 0, 1, &existed));
    CHECK(existed);
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(commit(), 4);
    CHECK_EQ(count_of("sites"), 0);
    mc_writer_close(writer);
}

/* Puts by key: the last one stays, as ever; back to the content before is no change, whatever the
 * batch did earlier. */
static void test_taken_back(void)
{
    bool existed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_EQ(commit(), 1);
    static const int versions[][4] = {{1, 2, 1, 1}, {2, 1, 3, 1}, {2, 3, 1, 2}, {1, 1, 1, 3}};
    for (size_t i = 0; i < 4; i++) {
        uint64_t expected = i < 2 ? 0 : i;
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
        for (size_t n = 0; n < 4; n++) {
            CHECK_OK(put_version(writer, 0, 1, versions[i][n]));
        }
        CHECK_OK(mc_replace_end(writer, &test_error));
        CHECK_EQ(mc_batch_counts(writer).duplicates, 3);
        CHECK_EQ(commit(), expected);
    }
    /* within a batch that has changed the collection before */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 2, 5));
    CHECK_OK(delete_key_of(writer, 0, 1, &existed));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_OK(put_version(writer, 0, 2, 6));
    CHECK_OK(put_version(writer, 0, 2, 5));
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(mc_batch_counts(writer).puts, 1);
    CHECK_EQ(commit(), 4);
    CHECK_EQ(count_of("sites"), 1);
    /* deleted within the replace: as many as before are not the same ones */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_OK(put_version(writer, 0, 2, 6));
    CHECK_OK(put_version(writer, 0, 2, 5));
    CHECK_OK(delete_key_of(writer, 0, 2, &existed));
    CHECK_OK(put_version(writer, 0, 3, 5));
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(commit(), 5);
    /* a collection that was not there, given and taken: it exists, and is empty */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_replace_begin(writer, "flags", 5, &test_error));
    CHECK_OK(put_version(writer, 2, 2, 6));
    CHECK_OK(delete_key_of(writer, 2, 2, &existed));
    CHECK_OK(mc_replace_end(writer, &test_error));
    CHECK_EQ(commit(), 6);
    CHECK_EQ(count_of("flags"), 0);
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_batch");
    mc_buddy_test_unchecked = true;
    test_usage();
    test_short_lived();
    test_foretold_and_short();
    test_raw();
    test_too_long();
    test_raw_without_room();
    test_raw_in_a_stretch();
    test_equal_hashes();
    test_replace_that_grows();
    test_drop_without_memory();
    test_damaged_replace();
    test_wrong_count();
    test_duplicates();
    test_new_duplicates();
    test_taken_back();
    remove_cache(test_path());
    return 0;
}
