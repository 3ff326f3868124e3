/* test_index.c - indexes are what their documents make them, whatever a batch does, and however it
 * fails. */
#include "faults.h"
#include "index_support.h"
#include "writer/refusal.h"

/* ---- which values a document has ---- */

static size_t values_of(const struct bson *from, const char *path)
{
    struct mc_values values = {0};
    CHECK_OK(mc_index_values(from->bytes, from->len, path, strlen(path), &values));
    size_t count = values.count;
    mc_values_free(&values);
    return count;
}

static void test_values(void)
{
    struct bson made = begin();
    number(&made, "a", 1);
    nested(&made, MC_BSON_DOCUMENT, "d");
    number(&made, "x", 2);
    stop(&made);
    nested(&made, MC_BSON_ARRAY, "l");
    number(&made, "0", 7);
    number(&made, "1", 7);
    nested(&made, MC_BSON_ARRAY, "2"); /* an array in an array is no value */
    number(&made, "0", 8);
    stop(&made);
    string(&made, "3", MC_KEY_BYTES_MAX + 1); /* nor is what is too long */
    string(&made, "4", MC_KEY_BYTES_MAX);
    stop(&made);
    nested(&made, MC_BSON_ARRAY, "h");
    nested(&made, MC_BSON_DOCUMENT, "0");
    number(&made, "n", 3);
    stop(&made);
    number(&made, "1", 5);
    nested(&made, MC_BSON_DOCUMENT, "2");
    nested(&made, MC_BSON_ARRAY, "n");
    number(&made, "0", 3);
    number(&made, "1", 4);
    stop(&made);
    stop(&made);
    stop(&made);
    nested(&made, MC_BSON_ARRAY, "e");
    stop(&made);
    nested(&made, MC_BSON_ARRAY, "m"); /* more than the first room for them, of no bytes first */
    name(&made, MC_BSON_NULL, "0");
    for (int i = 1; i < 9; i++) {
        number(&made, (char[]){(char)('0' + i), 0}, i);
    }
    stop(&made);
    stop(&made);
    CHECK_OK(mc_bson_validate(made.bytes, made.len, &test_error));
    CHECK_EQ(values_of(&made, "a"), 1);
    CHECK_EQ(values_of(&made, "a.b"), 0);
    CHECK_EQ(values_of(&made, "none"), 0);
    CHECK_EQ(values_of(&made, "d"), 1);
    CHECK_EQ(values_of(&made, "d.x"), 1);
    CHECK_EQ(values_of(&made, "l"), 2);
    CHECK_EQ(values_of(&made, "l.0"), 1);
    CHECK_EQ(values_of(&made, "l.9"), 0);
    CHECK_EQ(values_of(&made, "h.n"), 2);
    CHECK_EQ(values_of(&made, "h.2.n"), 2);
    CHECK_EQ(values_of(&made, "h.1"), 1);
    CHECK_EQ(values_of(&made, "e"), 0);
    CHECK_EQ(values_of(&made, "m"), 9);
    for (long left = 0, paths = 0; paths < 2; left++) { /* without memory */
        const char *path = paths == 0 ? "h.n" : "m";
        struct mc_values values = {0};
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_index_values(made.bytes, made.len, path, strlen(path), &values);
        mc_values_free(&values);
        if (faults_disarm() == 0) {
            paths++;
            left = -1;
            continue;
        }
        CHECK_EQ(status, MC_NOMEM);
    }
}

/* ---- the life of an index ---- */

static void test_life(void)
{
    bool changed, existed;
    open_new();
    CHECK_EQ(make("sites", "f", MC_INDEX_UNIQUE), MC_USAGE);
    CHECK_EQ(mc_batch_drop_index(writer, "sites", 5, "f", 1, &existed, &test_error), MC_USAGE);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_EQ(make("sites", "", MC_INDEX_UNIQUE), MC_LIMIT);
    CHECK_EQ(make("", "f", MC_INDEX_UNIQUE), MC_LIMIT);
    CHECK_EQ(mc_batch_index(writer, "sites", 5, "a\0b", 3, MC_INDEX_MULTI, &changed, &test_error),
             MC_LIMIT);
    char longest[MC_FIELD_MAX + 2] = {0};
    memset(longest, 'p', MC_FIELD_MAX + 1);
    CHECK_EQ(make("sites", longest, MC_INDEX_UNIQUE), MC_LIMIT);
    longest[MC_FIELD_MAX] = 0;
    CHECK_OK(make("sites", longest, MC_INDEX_UNIQUE));
    CHECK(unmake("sites", longest)); /* it came and went */
    CHECK(!unmake("sites", longest));
    CHECK(!unmake("sites", "nothing"));
    CHECK(!unmake("site", "f"));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("other", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    CHECK(!unmake("site", "f"));
    CHECK_EQ(mc_writer_indexes(writer), 0);
    CHECK_OK(put("sites", 1, 10, 5));
    CHECK_OK(put("sites", 2, 20, 6));
    CHECK_OK(put("sites", 3, -1, 6));
    CHECK_OK(commit_checked());
    CHECK_EQ(mc_writer_indexes(writer), 3);
    CHECK_EQ(mc_writer_index(writer, 0)->path_len, 1);
    CHECK_EQ(record_of("sites", "f").values, 2);
    CHECK_EQ(record_of("sites", "t").values, 3); /* 5, 6, 7 */
    CHECK_EQ(record_of("sites", "t").pairs, 6);
    /* an exchange of values, in two puts and one commit; and a pair that stays beside one new */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put("sites", 1, 20, 5));
    CHECK_OK(put("sites", 1, 20, 4));
    CHECK_OK(put("sites", 2, 10, 6));
    CHECK_OK(commit_checked());
    CHECK_EQ(record_of("sites", "t").values, 4);
    /* one that joins others, and was put twice */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put("sites", 5, 30, 6));
    CHECK_OK(put("sites", 5, 31, 6));
    CHECK_OK(commit_checked());
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(take("sites", 5));
    CHECK_OK(commit_checked());
    end();
}

/* Two of one value, an index of another kind, and the end of one. */
static void test_ends(void)
{
    bool changed, existed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("other", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    CHECK(!mc_batch_is_short(writer)); /* a collection may have to be gone through */
    CHECK_OK(put("sites", 1, 20, 4));
    CHECK_OK(put("sites", 2, 10, 6));
    CHECK_OK(put("sites", 3, -1, 6));
    CHECK_OK(commit_checked());
    /* two of one value: nothing of the batch is published */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put("sites", 4, 10, 6));
    CHECK_EQ(commit_checked(), MC_LIMIT);
    CHECK(strstr(test_error.text, "_id 2 and 4 both have f = 10") != NULL);
    mc_batch_abort(writer);
    CHECK_EQ(record_of("sites", "f").values, 2);
    /* one kind becomes the other, and not back */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_index(writer, "sites", 5, "f", 1, MC_INDEX_UNIQUE, &changed, &test_error));
    CHECK(!changed);
    CHECK_OK(make("sites", "f", MC_INDEX_MULTI));
    CHECK_OK(put("sites", 4, 10, 6));
    CHECK_OK(commit_checked());
    CHECK_EQ(record_of("sites", "f").pairs, 3);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_EQ(commit_checked(), MC_LIMIT);
    mc_batch_abort(writer);
    CHECK_EQ(mc_writer_index(writer, 0)->record.kind, MC_INDEX_MULTI);
    /* all but one of a value go, and then that; it is no other's */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(take("sites", 2));
    CHECK_OK(commit_checked());
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(take("sites", 4));
    CHECK_OK(commit_checked());
    CHECK_EQ(record_of("sites", "f").values, 1);
    /* a collection goes, its indexes stay; and one that nothing was put into is indexed later */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
    CHECK_OK(put("other", 1, 1, 1));
    CHECK_OK(commit_checked());
    CHECK_EQ(record_of("sites", "t").values, 0);
    CHECK_EQ(record_of("other", "f").values, 1);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK(unmake("sites", "t"));
    CHECK_OK(put("sites", 1, 1, 1));
    CHECK_OK(commit_checked());
    CHECK_EQ(mc_writer_indexes(writer), 2);
    CHECK_EQ(record_of("sites", "t").kind, 0);
    CHECK_EQ(record_of("sites", "f").values, 1);
    end();
}

static void test_limits(void)
{
    char path[8];
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (unsigned i = 0; i < MC_INDEXES_MAX; i++) {
        (void)snprintf(path, sizeof path, "f%u", i);
        CHECK_OK(make("sites", path, MC_INDEX_UNIQUE));
    }
    CHECK_EQ(make("sites", "one", MC_INDEX_UNIQUE), MC_LIMIT);
    CHECK_OK(make("sites", "f1", MC_INDEX_MULTI));
    CHECK(unmake("sites", "f1"));
    CHECK_OK(make("sites", "one", MC_INDEX_UNIQUE));
    CHECK_EQ(make("sites", "f1", MC_INDEX_MULTI), MC_LIMIT); /* it is known, and gone */
    CHECK_OK(commit_checked());
    end();
}

/* A restart, and a file of another size, have the indexes that there were. */
static void test_reopen(void)
{
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    for (int64_t k = 0; k < 50; k++) {
        CHECK_OK(put("sites", k, k, k % 3));
    }
    CHECK_OK(commit_checked());
    for (int round = 0; round < 2; round++) {
        mc_writer_close(writer);
        index_options.max_size += round * (uint64_t)MC_EXTENT;
        CHECK_OK(mc_writer_open(test_path(), &index_options, &writer, &test_error));
        CHECK_EQ(mc_writer_indexes(writer), 2);
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_EQ(put("sites", 1, 200 + round, 1), MC_OK);
        CHECK_OK(commit_checked());
        CHECK_EQ(record_of("sites", "f").values, 50);
        CHECK_EQ(record_of("sites", "t").pairs, 100);
    }
    end();
}

/* The sentence about two documents of one value, whatever their keys are. */
static void test_sentence(void)
{
    struct mc_index index = {.name_len = 5, .path_len = 1, .name = "sites", .path = "f"};
    struct mc_key value, text, oid, half;
    mc_key_from_double(0.5, &half);
    mc_key_from_int64(-7, &value);
    CHECK_OK(mc_key_from_text("a\x1b\"", 3, &text, &test_error));
    oid = (struct mc_key){.type = MC_BSON_OID, .len = 12, .data = (const uint8_t *)"012345678901"};
    CHECK_EQ(mc_writer_refuse_duplicate(&index, &value, &text, &oid, &test_error), MC_LIMIT);
    CHECK(strstr(test_error.text, "_id \"a\\x1b\\x22\" and 303132333435363738393031 both have "
                                  "f = -7,") != NULL);
    oid.len = 2;
    CHECK_EQ(mc_writer_refuse_duplicate(&index, &half, &text, &oid, &test_error), MC_LIMIT);
    CHECK(strstr(test_error.text, " and 3031 both have f = 0.5,") != NULL);
}

/* ---- whatever a batch does ---- */

static void random_step(void)
{
    const char *collection = test_below(4) == 0 ? "other" : "sites";
    bool existed;
    uint64_t documents;
    struct bson made = document((int64_t)test_below(40), (int64_t)test_below(60), 1);
    switch (test_below(10)) {
    case 0:
        CHECK_OK(take(collection, (int64_t)test_below(40)));
        break;
    case 1:
        if (test_below(6) == 0) {
            CHECK_OK(mc_batch_drop(writer, collection, 5, &existed, &test_error));
        }
        break;
    case 2:
        CHECK_OK(mc_replace_begin(writer, collection, 5, &test_error));
        for (int64_t k = 0; k < 20; k++) {
            CHECK_OK(put(collection, k, k + (int64_t)test_below(2), (int64_t)test_below(3)));
        }
        if (test_below(3) == 0) {
            mc_replace_cancel(writer);
        } else {
            CHECK_OK(mc_replace_end(writer, &test_error));
        }
        break;
    case 3:
        CHECK_OK(
            mc_batch_put_raw(writer, collection, 5, made.bytes, made.len, &documents, &test_error));
        break;
    case 4:
        if (test_below(4) == 0 && !unmake(collection, "t")) {
            CHECK_OK(make(collection, "t", MC_INDEX_MULTI));
        }
        break;
    default:
        CHECK_OK(put(collection, (int64_t)test_below(40), (int64_t)test_below(60) - 5,
                     (int64_t)test_below(4)));
    }
}

/* mc_check compares an index with the documents, in both directions. */
static void test_whatever(uint32_t log_size)
{
    index_options = small_options();
    index_options.log_size = log_size; /* a small one: what changed is not all noted */
    writer = open_new_cache(&index_options);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("other", "f", MC_INDEX_MULTI));
    CHECK_OK(commit_checked());
    int refused = 0;
    for (int round = test_rounds(30); round > 0; round--) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        for (uint64_t steps = test_below(12); steps > 0; steps--) {
            random_step();
        }
        enum mc_status status = commit_checked();
        CHECK(status == MC_OK || status == MC_LIMIT);
        refused += status == MC_LIMIT;
        mc_batch_abort(writer); /* what was refused; else there is none */
        struct mc_view view;
        mc_writer_view(writer, &view);
        check_clean(&view);
    }
    CHECK(refused > 0 || test_sample > 1);
    end();
}

/* ---- failures ---- */

static void test_failures(enum fault kind, enum mc_status expected, bool anew, int many)
{
    for (long left = 0;; left++) {
        struct mc_view view;
        start_world(many);
        faults_arm(FAULT_BIT(kind), left, true, 0);
        enum mc_status status = change_world(anew);
        long failed = faults_disarm();
        CHECK(status == (failed == 0 ? MC_OK : expected) || status == MC_OK);
        mc_batch_abort(writer);
        mc_writer_view(writer, &view);
        check_clean(&view);
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(put("sites", 4, 204, 1));
        CHECK_OK(commit_checked());
        end();
        if (failed == 0) {
            break;
        }
    }
}

/* A check without memory: in which order it meets collections and indexes is chance. */
static void test_failures_checking(void)
{
    for (int round = test_rounds(8); round > 0; round--) {
        start_world(0);
        for (long left = 0;; left++) {
            struct mc_check_report report;
            struct mc_view view;
            mc_writer_view(writer, &view);
            faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
            enum mc_status status = mc_check(&view, &report, &test_error);
            if (faults_disarm() == 0) {
                CHECK_OK(status);
                break;
            }
            CHECK_EQ(status, MC_NOMEM);
        }
        end();
    }
}

/* Opening a file, and giving it a successor, without memory. */
static void test_failures_opening(void)
{
    start_world(0);
    mc_writer_close(writer);
    for (long left = 0;; left++) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_writer_open(test_path(), &index_options, &writer, &test_error);
        if (faults_disarm() == 0) {
            break;
        }
        CHECK(status == MC_NOMEM || status == MC_OK);
        if (status == MC_OK) {
            mc_writer_close(writer);
        }
    }
    end();
}

/* Values that share a hash, more than a page can have; and keys below one value. */
static void test_hashes(void)
{
    faults_equal_hashes = true;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    enum mc_status status = MC_OK;
    for (int64_t k = 0; k < 600; k++) {
        CHECK_OK(put("sites", k, k, 2 * k));
    }
    status = commit_checked();
    CHECK_EQ(status, MC_LIMIT);
    CHECK(strstr(test_error.text, "has the hash of") != NULL);
    mc_batch_abort(writer);
    faults_equal_hashes = false;
    end();
}

/* A batch that changed other collections than the index's, or took back what it changed there. */
static void test_others(void)
{
    struct bson made = document(1, 1, 1);
    struct mc_key key;
    bool changed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    CHECK_OK(put("sites", 1, 1, 1));
    CHECK_OK(commit_checked());
    CHECK_OK(mc_batch_begin(writer, &test_error));
    mc_key_from_int64(1, &key);
    CHECK_OK(mc_batch_put(writer, "limits", 6, &key, made.bytes, made.len, &changed, &test_error));
    CHECK_OK(put("flags", 1, 1, 1));
    CHECK_OK(mc_replace_begin(writer, "sites", 5, &test_error));
    CHECK_OK(put("sites", 2, 2, 2));
    mc_replace_cancel(writer);
    CHECK_OK(commit_checked());
    end();
}

int main(void)
{
    test_begin("test_index");
    test_others();
    test_values();
    test_life();
    test_ends();
    test_limits();
    test_reopen();
    test_sentence();
    test_whatever(0);
    test_whatever(MC_LOG_MIN);
    test_whatever(MC_LOG_NONE);
    test_failures(FAULT_MEMORY, MC_NOMEM, false, 0);
    test_failures(FAULT_MEMORY, MC_NOMEM, true, 60);
    test_failures(FAULT_ROOM, MC_FULL, false, 0);
    test_failures(FAULT_ROOM, MC_FULL, true, 0);
    test_failures_checking();
    test_failures_opening();
    test_hashes();
    return 0;
}
