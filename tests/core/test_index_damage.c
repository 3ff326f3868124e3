/* test_index_damage.c - indexes that are damaged, or that do not agree with their documents:
 * mc_check sees each, and no loader goes on with it or is misled. */
#include <fcntl.h>

#include "index_support.h"
#include "writer/collections.h"

static int file = -1;

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
    start_world(0);
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
static void changes_to(enum mc_status expected, bool anew)
{
    CHECK_EQ(change_world(anew), expected);
    mc_batch_abort(writer);
    end();
}

/* What the next loader makes of it. */
static void opens_to(enum mc_status expected)
{
    mc_writer_close(writer);
    enum mc_status status = mc_writer_open(test_path(), &index_options, &writer, &test_error);
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
        changes_to(changing, false);
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
    damage(find_three, "f", 1, &other, 1, "not in an index", MC_CORRUPT, MC_OK);
    damage(find_none, "t", 1, &no_root, 8, "no entry of an index", MC_CORRUPT, MC_CORRUPT);
    damage(find_none, "t", 1, &far, 8, "references are damaged", MC_CORRUPT, MC_CORRUPT);
    damage(find_none, "t", 9, &many, 8, "counts do not match its entries", MC_ABSENT, MC_OK);
    damaged_world(); /* a table of keys that is the index itself */
    const uint64_t itself = record_of("sites", "t").root;
    spoil(find_none("t"), 1, &itself, 8, "two blocks overlap");
    opens_to(MC_CORRUPT);
    damaged_world(); /* a checksum */
    struct mc_hit hit = find_three("f");
    write_at(hit.value + 1, &other, 1);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK(strstr(test_error.text, "checksum") != NULL);
    end();
    damaged_world(); /* a key with a value */
    struct mc_walk walk;
    struct mc_posting posting;
    const uint32_t one = 1;
    hit = find_none("t");
    CHECK_OK(mc_hit_posting(&hit, &posting));
    mc_walk_begin(&walk, &view.space, posting.root);
    CHECK_OK(mc_walk_entry(&walk, &hit));
    write_at(view.space.base + hit.offset + offsetof(struct mc_entry, lengths), &one, 4);
    sign(&hit);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK(strstr(test_error.text, "has a value") != NULL);
    end();
    damaged_world(); /* what another document is to be added to */
    hit = find_three("f");
    write_at(hit.value, &type, 1);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put("sites", 30, 3, 1));
    uint64_t generation;
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    mc_batch_abort(writer);
    end();
    for (int i = 0; i < 3; i++) { /* an index made anew is given up first */
        static struct mc_hit (*const finds[])(const char *path) = {find_three, find_none,
                                                                   find_none};
        static const char *const paths[] = {"f", "t", "t"};
        const void *bytes[] = {&type, &far, &no_root};
        damaged_world();
        write_at(finds[i](paths[i]).value + (i != 0), bytes[i], i != 0 ? 8 : 1);
        changes_to(MC_CORRUPT, true);
    }
}

/* ---- documents and indexes that do not agree, each sound by itself ---- */

static struct mc_hit find_document_of(const struct mc_key *like)
{
    struct mc_collection collection;
    struct mc_hit hit;
    struct mc_key key = {.type = like->type, .len = like->len, .data = like->data};
    CHECK_OK(mc_view_collection(&view, "sites", 5, &collection));
    key.hash = mc_view_hash(&view, &key);
    CHECK_OK(mc_find(&view, collection.root, &key, &hit));
    return hit;
}

/* Where the bytes are in a value. */
static size_t offset_of(const struct mc_hit *hit, const void *bytes, size_t len)
{
    const uint8_t *value = (const uint8_t *)hit->value;
    size_t at = 0;
    while (at + len <= hit->value_len && memcmp(value + at, bytes, len) != 0) {
        at++;
    }
    CHECK(at + len <= hit->value_len);
    return at;
}

static void test_disagreement(void)
{
    const int64_t others[] = {777, 4, 51};
    struct mc_key key;
    for (int i = 0; i < 3; i++) { /* nobody's value; that of a number; that of a longer text */
        damaged_world();
        CHECK_OK(mc_key_from_text("a", 1, &key, &test_error));
        struct mc_hit hit = find_document_of(&key);
        spoil(hit, offset_of(&hit, "f", 2) + 2, &others[i], 8, "not in an index");
        end();
    }
    damaged_world(); /* the document has no such field any more */
    mc_key_from_int64(3, &key);
    struct mc_hit hit = find_document_of(&key);
    spoil(hit, offset_of(&hit, "f", 2), "g", 1, "what no document has");
    end();
    damaged_world(); /* a value of two documents, and it is another's */
    mc_key_from_int64(3, &key);
    hit = find_document_of(&key);
    const int64_t none = 0;
    spoil(hit, offset_of(&hit, "0", 2) + 2, &none, 8, "not in an index");
    end();
}

/* Blocks that make no sense: zeros in every page of a table. */
static void erase(uint64_t root)
{
    static const uint8_t zeros[MC_LINE_BYTES * MC_PAGE_LINES];
    struct mc_walk walk;
    struct mc_item item;
    mc_walk_begin(&walk, &view.space, root);
    while (mc_walk_next(&walk, &item) == MC_OK) {
        if (item.kind == MC_ITEM_PAGE) {
            write_at(view.space.base + item.offset, zeros, item.bytes);
            return;
        }
    }
}

/* One entry, with one document, so that what is erased is what is looked at. */
static void test_erased(void)
{
    for (int i = 0; i < 8; i++) {
        struct mc_collection collection;
        uint64_t generation;
        bool whole = i % 2 != 0, documents = i / 2 % 2 != 0, adds = i / 4 != 0;
        open_new();
        CHECK_OK(mc_batch_begin(writer, &test_error));
        CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
        CHECK_OK(put("sites", 1, adds ? -1 : 1, 1));
        CHECK_OK(put("sites", 2, 2, 1));
        CHECK_OK(commit_checked());
        file = open(test_path(), O_RDWR);
        CHECK(file >= 0);
        mc_writer_view(writer, &view);
        CHECK_OK(mc_view_collection(&view, "sites", 5, &collection));
        CHECK_OK(mc_batch_begin(writer, &test_error));
        if (whole) { /* or one step after the other */
            CHECK_OK(make("sites", "f", MC_INDEX_MULTI));
        } else {
            CHECK_OK(put("sites", 1, 3, 1));
        }
        erase(documents ? collection.root : record_of("sites", "f").root);
        CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
        mc_batch_abort(writer);
        CHECK(close(file) == 0);
        file = -1;
        end();
    }
}

/* A batch drops a collection and makes it anew: all that was there is looked up in what is. */
static void test_erased_anew(void)
{
    uint64_t generation;
    size_t at;
    bool existed;
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(put("sites", 1, 1, 1));
    CHECK_OK(commit_checked());
    file = open(test_path(), O_RDWR);
    CHECK(file >= 0);
    mc_writer_view(writer, &view);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
    CHECK_OK(put("sites", 1, 2, 1));
    CHECK_OK(mc_collections_find(writer, "sites", 5, &at, &test_error));
    erase(writer->collections.items[at].record.root);
    CHECK_EQ(mc_batch_commit(writer, &generation, &test_error), MC_CORRUPT);
    mc_batch_abort(writer);
    CHECK(close(file) == 0);
    file = -1;
    end();
}

/* ---- entries that never were ---- */

static struct mc_hit fake(uint8_t type, const void *key, size_t key_len, const void *value,
                          size_t len)
{
    return (struct mc_hit){.key = (const shm_byte *)key,
                           .value = (const shm_byte *)value,
                           .value_len = (uint32_t)len,
                           .key_len = (uint16_t)key_len,
                           .key_type = type};
}

static void test_fakes(void)
{
    const struct mc_index_record record = {.kind = MC_INDEX_UNIQUE};
    struct mc_index index;
    struct mc_posting posting;
    uint8_t bytes[MC_KEY_MAX + 8] = {1, 'a', 'f'};
    struct {
        const char *key;
        size_t len;
        enum mc_status status;
    } keys[] = {
        {"\1af", 3, MC_OK},     {"\1af", 0, MC_CORRUPT}, {"\0f", 2, MC_CORRUPT},
        {"\1a", 2, MC_CORRUPT}, {"\3af", 3, MC_CORRUPT}, {"\1a\0", 3, MC_CORRUPT},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        struct mc_hit hit = fake(MC_KEY_INDEX, keys[i].key, keys[i].len, &record, sizeof record);
        CHECK_EQ(mc_hit_index(&hit, &index), keys[i].status);
    }
    memset(bytes + 2, 'f', sizeof bytes - 2);
    struct mc_hit hit = fake(MC_KEY_INDEX, bytes, MC_INDEX_KEY_MAX + 1, &record, sizeof record);
    CHECK_EQ(mc_hit_index(&hit, &index), MC_CORRUPT);
    hit.key_len = 2 + MC_FIELD_MAX + 1;
    CHECK_EQ(mc_hit_index(&hit, &index), MC_CORRUPT);
    hit.key_len--;
    CHECK_EQ(mc_hit_index(&hit, &index), MC_OK);
    hit.value_len--;
    CHECK_EQ(mc_hit_index(&hit, &index), MC_CORRUPT);
    hit = fake(1, "", 0, bytes, 0);
    CHECK_EQ(mc_hit_posting(&hit, &posting), MC_CORRUPT);
    hit.value_len = 1 + MC_KEY_MAX;
    CHECK_EQ(mc_hit_posting(&hit, &posting), MC_OK);
    hit.value_len++;
    CHECK_EQ(mc_hit_posting(&hit, &posting), MC_CORRUPT);
}

int main(void)
{
    test_begin("test_index_damage");
    test_damage();
    test_disagreement();
    test_fakes();
    CHECK(close(file) == 0);
    test_erased();
    test_erased_anew();
    return 0;
}
