/* test_index.c - indexes are what their documents make them, whatever a batch does, and however it
 * fails; mc_check sees each that is not. */
#include <fcntl.h>

#include "faults.h"
#include "index.h"
#include "store_support.h"
#include "writer/indexes.h"

static struct mc_writer *writer;
static struct mc_writer_options options;
static int file = -1;

static void open_new(void)
{
    options = small_options();
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
}

static void end(void)
{
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* ---- documents ---- */

struct bson {
    uint8_t bytes[4000];
    size_t len;
    size_t open[8]; /* where documents that have not ended begin */
    int depth;
};

static void start(struct bson *to)
{
    to->open[to->depth++] = to->len;
    to->len += 4;
}

static struct bson begin(void)
{
    struct bson made = {.len = 0};
    start(&made);
    return made;
}

static void name(struct bson *to, uint8_t type, const char *text)
{
    to->bytes[to->len++] = type;
    memcpy(to->bytes + to->len, text, strlen(text) + 1);
    to->len += strlen(text) + 1;
}

static void number(struct bson *to, const char *text, int64_t value)
{
    name(to, MC_BSON_INT64, text);
    memcpy(to->bytes + to->len, &value, 8);
    to->len += 8;
}

static void string(struct bson *to, const char *text, size_t len)
{
    uint32_t size = (uint32_t)len + 1;
    name(to, MC_BSON_STRING, text);
    memcpy(to->bytes + to->len, &size, 4);
    memset(to->bytes + to->len + 4, 'x', len);
    to->bytes[to->len + 4 + len] = 0;
    to->len += 4 + size;
}

static void nested(struct bson *to, uint8_t type, const char *text)
{
    name(to, type, text);
    start(to);
}

static void stop(struct bson *to)
{
    size_t at = to->open[--to->depth];
    to->bytes[to->len++] = 0;
    uint32_t size = (uint32_t)(to->len - at);
    memcpy(to->bytes + at, &size, 4);
}

/* {_id: k, f: f, t: [t, t + 1]}; without f if that is negative. */
static struct bson document(int64_t k, int64_t f, int64_t t)
{
    struct bson made = begin();
    number(&made, "_id", k);
    if (f >= 0) {
        number(&made, "f", f);
    }
    nested(&made, MC_BSON_ARRAY, "t");
    number(&made, "0", t);
    number(&made, "1", t + 1);
    stop(&made);
    stop(&made);
    return made;
}

static enum mc_status put(const char *collection, int64_t k, int64_t f, int64_t t)
{
    struct bson made = document(k, f, t);
    struct mc_key key;
    bool changed;
    mc_key_from_int64(k, &key);
    return mc_batch_put(writer, collection, strlen(collection), &key, made.bytes, made.len,
                        &changed, &test_error);
}

static enum mc_status take(const char *collection, int64_t k)
{
    struct mc_key key;
    bool existed;
    mc_key_from_int64(k, &key);
    return mc_batch_delete(writer, collection, strlen(collection), &key, &existed, &test_error);
}

static enum mc_status make(const char *collection, const char *path, uint32_t kind)
{
    bool changed;
    return mc_batch_index(writer, collection, strlen(collection), path, strlen(path), kind,
                          &changed, &test_error);
}

static bool unmake(const char *collection, const char *path)
{
    bool existed;
    CHECK_OK(mc_batch_drop_index(writer, collection, strlen(collection), path, strlen(path),
                                 &existed, &test_error));
    return existed;
}

static enum mc_status commit(void)
{
    uint64_t generation;
    struct mc_view view;
    enum mc_status status = mc_batch_commit(writer, &generation, &test_error);
    if (status == MC_OK) {
        mc_writer_view(writer, &view);
        check_clean(&view);
    }
    return status;
}

static struct mc_index_record record_of(const char *collection, const char *path)
{
    struct mc_view view;
    struct mc_index_record record = {.root = 0};
    mc_writer_view(writer, &view);
    enum mc_status status =
        mc_view_index(&view, collection, strlen(collection), path, strlen(path), &record);
    CHECK(status == MC_OK || status == MC_ABSENT);
    return record;
}

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
    struct bson array = begin(); /* whose length makes no sense */
    nested(&array, MC_BSON_ARRAY, "l");
    size_t length = array.len - 4;
    number(&array, "0", 1);
    stop(&array);
    stop(&array);
    array.bytes[length] = 1;
    CHECK_EQ(values_of(&array, "l"), 0);
    CHECK_EQ(values_of(&array, "l.0"), 0);
    struct mc_bson_element broken = {
        .type = MC_BSON_ARRAY, .value = array.bytes, .value_len = 2, .name_len = 0};
    CHECK(broken.value_len < MC_BSON_SIZE_MIN);
    for (long left = 0;; left++) { /* without memory */
        struct mc_values values = {0};
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_index_values(made.bytes, made.len, "l", 1, &values);
        mc_values_free(&values);
        if (faults_disarm() == 0) {
            break;
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
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("other", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    CHECK_EQ(mc_writer_indexes(writer), 0);
    CHECK_OK(put("sites", 1, 10, 5));
    CHECK_OK(put("sites", 2, 20, 6));
    CHECK_OK(put("sites", 3, -1, 6));
    CHECK_OK(commit());
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
    CHECK_OK(commit());
    CHECK_EQ(record_of("sites", "t").values, 4);
    /* two of one value: nothing of the batch is published */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put("sites", 4, 10, 6));
    CHECK_EQ(commit(), MC_LIMIT);
    CHECK(strstr(test_error.text, "_id 2 and 4 both have f = 10") != NULL);
    mc_batch_abort(writer);
    CHECK_EQ(record_of("sites", "f").values, 2);
    /* one kind becomes the other, and not back */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_index(writer, "sites", 5, "f", 1, MC_INDEX_UNIQUE, &changed, &test_error));
    CHECK(!changed);
    CHECK_OK(make("sites", "f", MC_INDEX_MULTI));
    CHECK_OK(put("sites", 4, 10, 6));
    CHECK_OK(commit());
    CHECK_EQ(record_of("sites", "f").pairs, 3);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_EQ(commit(), MC_LIMIT);
    mc_batch_abort(writer);
    CHECK_EQ(mc_writer_index(writer, 0)->record.kind, MC_INDEX_MULTI);
    /* all but one of a value go, and then that; it is no other's */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(take("sites", 2));
    CHECK_OK(commit());
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(take("sites", 4));
    CHECK_OK(commit());
    CHECK_EQ(record_of("sites", "f").values, 1);
    /* a collection goes, its indexes stay; and one that nothing was put into is indexed later */
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
    CHECK_OK(put("other", 1, 1, 1));
    CHECK_OK(commit());
    CHECK_EQ(record_of("sites", "t").values, 0);
    CHECK_EQ(record_of("other", "f").values, 1);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK(unmake("sites", "t"));
    CHECK_OK(put("sites", 1, 1, 1));
    CHECK_OK(commit());
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
    CHECK_OK(commit());
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
    CHECK_OK(commit());
    for (int round = 0; round < 2; round++) {
        mc_writer_close(writer);
        options.max_size += round * (uint64_t)MC_EXTENT;
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_EQ(mc_writer_indexes(writer), 2);
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_EQ(put("sites", 1, 200 + round, 1), MC_OK);
        CHECK_OK(commit());
        CHECK_EQ(record_of("sites", "f").values, 50);
        CHECK_EQ(record_of("sites", "t").pairs, 100);
    }
    end();
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
        CHECK_OK(mc_batch_put_raw(writer, collection, 5, made.bytes, made.len, &documents,
                                  &test_error));
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
    options = small_options();
    options.log_size = log_size; /* a small one: what changed is not all noted */
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("other", "f", MC_INDEX_MULTI));
    CHECK_OK(commit());
    int refused = 0;
    for (int round = test_rounds(400); round > 0; round--) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        for (uint64_t steps = test_below(12); steps > 0; steps--) {
            random_step();
        }
        enum mc_status status = commit();
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

static void start_world(void)
{
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    for (int64_t k = 0; k < 20; k++) {
        CHECK_OK(put("sites", k, k, 2 * k));
    }
    CHECK_OK(put("sites", 20, 20, 0)); /* a table of two keys */
    CHECK_OK(commit());
}

static enum mc_status change_world(void)
{
    enum mc_status status = mc_batch_begin(writer, &test_error);
    if (status == MC_OK) {
        status = make("sites", "new", MC_INDEX_MULTI);
    }
    if (status == MC_OK) {
        status = make("sites", "t", MC_INDEX_MULTI);
    }
    if (status == MC_OK) {
        status = put("sites", 3, 103, 0);
    }
    if (status == MC_OK) {
        status = put("sites", 5, 105, 8);
    }
    if (status == MC_OK) {
        status = take("sites", 20);
    }
    if (status == MC_OK) {
        uint64_t generation;
        status = mc_batch_commit(writer, &generation, &test_error);
    }
    return status;
}

static void test_failures(enum fault kind, enum mc_status expected)
{
    for (long left = 0;; left++) {
        struct mc_view view;
        start_world();
        faults_arm(FAULT_BIT(kind), left, true, 0);
        enum mc_status status = change_world();
        long failed = faults_disarm();
        CHECK(status == (failed == 0 ? MC_OK : expected) || status == MC_OK);
        mc_batch_abort(writer);
        mc_writer_view(writer, &view);
        check_clean(&view);
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(put("sites", 4, 204, 1));
        CHECK_OK(commit());
        end();
        if (failed == 0) {
            break;
        }
    }
}

/* Opening a file, and giving it a successor, without memory. */
static void test_failures_opening(void)
{
    start_world();
    mc_writer_close(writer);
    for (long left = 0;; left++) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_writer_open(test_path(), &options, &writer, &test_error);
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
    status = commit();
    CHECK_EQ(status, MC_LIMIT);
    CHECK(strstr(test_error.text, "has the hash of") != NULL);
    mc_batch_abort(writer);
    faults_equal_hashes = false;
    end();
}

/* ---- damage ---- */

static struct mc_view view;

static void write_at(const shm_byte *address, const void *bytes, size_t len)
{
    CHECK(pwrite(file, bytes, len, (off_t)(address - view.space.base)) == (ssize_t)len);
}

/* Makes the checksum of an entry right for what it is now. */
static void sign(const struct mc_hit *hit)
{
    const uint8_t *entry = (const uint8_t *)(view.space.base + hit->offset);
    uint64_t stamp;
    uint32_t len;
    memcpy(&len, entry + 4, 4);
    memcpy(&stamp, entry + 8, 8);
    size_t key_len = stamp >> MC_STAMP_LEN_SHIFT;
    uint32_t checksum =
        mc_entry_checksum(len, stamp, entry + 16, key_len, entry + 16 + key_len, len);
    write_at(view.space.base + hit->offset, &checksum, sizeof checksum);
}

static struct mc_hit find_index(const char *path)
{
    struct mc_hit hit;
    struct mc_key key;
    uint8_t scratch[MC_INDEX_KEY_MAX];
    mc_index_key("sites", 5, path, strlen(path), &key, scratch);
    key.hash = mc_view_hash(&view, &key);
    CHECK_OK(mc_find(&view, view.root.catalogue, &key, &hit));
    return hit;
}

static struct mc_hit find_value(const char *path, int64_t value)
{
    struct mc_hit hit;
    struct mc_key key;
    mc_key_from_int64(value, &key);
    key.hash = mc_view_hash(&view, &key);
    CHECK_OK(mc_find(&view, record_of("sites", path).root, &key, &hit));
    return hit;
}

static enum mc_status check_now(void)
{
    struct mc_check_report report;
    return mc_check(&view, &report, &test_error);
}

static void damaged_world(void)
{
    start_world();
    if (file >= 0) {
        CHECK(close(file) == 0);
    }
    file = open(test_path(), O_RDWR);
    CHECK(file >= 0);
    mc_writer_view(writer, &view);
    CHECK_OK(check_now());
}

/* Writes bytes into the value of an entry; what mc_check says of it. */
static void spoil(struct mc_hit hit, size_t at, const void *bytes, size_t len, const char *said)
{
    write_at(hit.value + at, bytes, len);
    sign(&hit);
    CHECK_EQ(check_now(), MC_CORRUPT);
    if (strstr(test_error.text, said) == NULL) {
        test_failed(__FILE__, __LINE__, "%s, and not: %s", test_error.text, said);
    }
}

/* What a loader that has the file open makes of it, and ends. */
static void changes_to(enum mc_status expected)
{
    CHECK_EQ(change_world(), expected);
    mc_batch_abort(writer);
    end();
}

/* What the next loader makes of it. */
static void opens_to(enum mc_status expected)
{
    mc_writer_close(writer);
    enum mc_status status = mc_writer_open(test_path(), &options, &writer, &test_error);
    CHECK_EQ(status, expected);
    if (status == MC_OK) {
        mc_writer_close(writer);
    }
    remove_cache(test_path());
}

/* One damage, met by both; changing is MC_ABSENT where a commit would go past it. */
static void damage(struct mc_hit (*find)(const char *path), const char *path, size_t at,
                   const void *bytes, size_t len, const char *said, enum mc_status changing,
                   enum mc_status opening)
{
    if (changing != MC_ABSENT) {
        damaged_world();
        spoil(find(path), at, bytes, len, said);
        changes_to(changing);
    }
    damaged_world();
    spoil(find(path), at, bytes, len, said);
    opens_to(opening);
}

static struct mc_hit find_three(const char *path)
{
    return find_value(path, 3);
}

/* The value of two documents. */
static struct mc_hit find_none(const char *path)
{
    return find_value(path, 0);
}

static void test_damage(void)
{
    const uint64_t no_root = 0, far = UINT64_MAX >> 10, many = 1000;
    const uint32_t kind = 7, unique = MC_INDEX_UNIQUE;
    const uint8_t type = 200, zero = 0, other = 99;
    const size_t root = offsetof(struct mc_index_record, root);
    damage(find_index, "t", offsetof(struct mc_index_record, kind), &kind, 4,
           "no entry of a catalogue", MC_OK, MC_CORRUPT);
    damage(find_index, "t", offsetof(struct mc_index_record, kind), &unique, 4,
           "no entry of an index", MC_OK, MC_OK);
    damage(find_index, "t", root, &no_root, 8, "counts do not match its entries", MC_OK, MC_OK);
    damage(find_index, "t", root, &far, 8, "references are damaged", MC_OK, MC_CORRUPT);
    damage(find_index, "t", offsetof(struct mc_index_record, pairs), &many, 8,
           "counts do not match its entries", MC_OK, MC_OK);
    damage(find_three, "f", 0, &type, 1, "no entry of an index", MC_CORRUPT, MC_CORRUPT);
    damage(find_three, "f", 0, &zero, 1, "no entry of an index", MC_CORRUPT, MC_CORRUPT);
    damage(find_three, "f", 1, &other, 1, "not in an index", MC_ABSENT, MC_OK);
    damage(find_none, "t", 1, &no_root, 8, "no entry of an index", MC_CORRUPT, MC_CORRUPT);
    damage(find_none, "t", 1, &far, 8, "references are damaged", MC_CORRUPT, MC_CORRUPT);
    damage(find_none, "t", 9, &many, 8, "counts do not match its entries", MC_ABSENT, MC_OK);
    CHECK(close(file) == 0);
    file = -1;
}

int main(void)
{
    test_begin("test_index");
    test_values();
    test_life();
    test_limits();
    test_reopen();
    test_whatever(0);
    test_whatever(MC_LOG_MIN);
    test_whatever(MC_LOG_NONE);
    test_failures(FAULT_MEMORY, MC_NOMEM);
    test_failures(FAULT_ROOM, MC_FULL);
    test_failures_opening();
    test_hashes();
    test_damage();
    return 0;
}
