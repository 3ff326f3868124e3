/* test_field_index.c - the fields of large documents: each is found as a walk finds it, whatever
 * its name and place; and an index whose bytes lie leads nowhere outside the document. */
#include "field_index.h"

#include <string.h>

#include "check.h"
#include "store_support.h"

#define MOST_FIELDS 9000u
#define MOST_BYTES (1u << 20)

static uint8_t document[MOST_BYTES];
static uint8_t blocks_of_it[MC_FIELD_INDEX_MAX];
static char names[MOST_FIELDS][32];

/* A document of so many fields, each with so many bytes more; its length. */
static size_t make(unsigned fields, uint32_t pad)
{
    size_t at = 4;
    uint32_t len;
    for (uint32_t i = 0; i < fields; i++) {
        unsigned length = (unsigned)test_below(20);
        (void)snprintf(names[i], sizeof names[i], "%u%.*s", i, (int)length, "abcdefghijklmnopqrst");
        if (i > 0 && test_below(50) == 0) {
            memcpy(names[i], names[test_below(i)], sizeof names[i]); /* a name that is there */
        }
        document[at++] = MC_BSON_DOCUMENT;
        memcpy(document + at, names[i], strlen(names[i]) + 1);
        at += strlen(names[i]) + 1;
        size_t inner = at;
        at += 4;
        document[at++] = MC_BSON_INT32;
        memcpy(document + at, "n", 2);
        memcpy(document + at + 2, &i, 4);
        at += 6;
        document[at++] = MC_BSON_BINARY;
        memcpy(document + at, "p", 2);
        memcpy(document + at + 2, &pad, 4);
        document[at + 6] = 0;
        memset(document + at + 7, 'x', pad);
        at += 7 + pad;
        document[at++] = 0;
        len = (uint32_t)(at - inner);
        memcpy(document + inner, &len, 4);
    }
    document[at++] = 0;
    CHECK(at <= sizeof document);
    len = (uint32_t)at;
    memcpy(document, &len, 4);
    return at;
}

/* Whether a path leads where it leads without an index. */
static void agree(size_t len, unsigned blocks, const char *path)
{
    struct mc_bson_element walked, found;
    enum mc_status status = mc_bson_pluck(document, len, path, strlen(path), &walked);
    CHECK_EQ(mc_field_index_pluck(document, len, blocks_of_it, blocks, path, strlen(path), &found),
             status);
    if (status == MC_OK) {
        CHECK(found.value == walked.value && found.value_len == walked.value_len);
        CHECK(found.name == walked.name && found.name_len == walked.name_len);
        CHECK_EQ(found.type, walked.type);
    }
}

static void test_every_field_is_found(void)
{
    static const unsigned sizes[] = {64, 65, 127, 128, 129, 400, 1000, 8127, 8128};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t len = make(sizes[s], sizes[s] < 200 ? 100 : 50);
        unsigned blocks = mc_field_index_blocks(document, len);
        CHECK_EQ(blocks, (sizes[s] + MC_BLOCK_FIELDS - 1) / MC_BLOCK_FIELDS);
        mc_field_index_make(document, len, blocks, blocks_of_it);
        for (unsigned i = 0; i < sizes[s]; i += 1 + (unsigned)test_below(sizes[s] / 64)) {
            char path[40];
            agree(len, blocks, names[i]);
            (void)snprintf(path, sizeof path, "%s.n", names[i]);
            agree(len, blocks, path);
            (void)snprintf(path, sizeof path, "%s.n.n", names[i]);
            agree(len, blocks, path);
            (void)snprintf(path, sizeof path, "%s!", names[i]);
            agree(len, blocks, path);
        }
        agree(len, blocks, "");
        agree(len, blocks, ".n");
    }
}

/* As many blocks as a file says that lies: nothing is written behind them. */
static void test_other_numbers_of_blocks(void)
{
    size_t len = make(200, 50);
    for (unsigned blocks = 1; blocks <= 6; blocks++) {
        size_t bytes = (size_t)blocks * MC_BLOCK_BYTES;
        memset(blocks_of_it, 0xAA, sizeof blocks_of_it);
        mc_field_index_make(document, len, blocks, blocks_of_it);
        for (size_t i = bytes; i < sizeof blocks_of_it; i++) {
            CHECK_EQ(blocks_of_it[i], 0xAA);
        }
        agree(len, blocks, names[0]);
        agree(len, blocks, names[63]);
        for (size_t i = 4 * MC_BLOCK_BYTES; i < bytes; i++) {
            CHECK_EQ(blocks_of_it[i], 0);
        }
    }
}

static void test_which_have_one(void)
{
    static const uint8_t empty[MC_BSON_SIZE_MIN] = {MC_BSON_SIZE_MIN};
    size_t len = make(63, 100); /* too few */
    CHECK(len >= MC_FIELD_INDEX_MIN);
    CHECK_EQ(mc_field_index_blocks(document, len), 0);
    len = make(64, 0); /* too small */
    CHECK(len < MC_FIELD_INDEX_MIN);
    CHECK_EQ(mc_field_index_blocks(document, len), 0);
    len = make(200, 10); /* large, but its index would be larger than is worth it */
    CHECK(len >= MC_FIELD_INDEX_MIN && len < 4 * MC_BLOCK_BYTES * MC_FIELD_INDEX_SHARE);
    CHECK_EQ(mc_field_index_blocks(document, len), 0);
    for (unsigned fields = 8129; fields <= 8131; fields++) {
        len = make(fields, 50); /* too many */
        CHECK_EQ(mc_field_index_blocks(document, len), 0);
        agree(len, 0, names[8128]);
    }
    len = make(100, 100);
    CHECK_EQ(mc_field_index_blocks(document, len), 2);
    CHECK_EQ(mc_field_index_blocks(document, len - 1), 0); /* no document */
    document[4] = 0x77;
    CHECK_EQ(mc_field_index_blocks(document, len), 0);
    CHECK_EQ(mc_field_index_blocks(empty, sizeof empty), 0);
}

/* Index and document of any bytes: what is found has the name, and lies in the document. */
static void test_bytes_that_lie(void)
{
    unsigned answers[MC_INVALID + 1] = {0};
    size_t len = make(200, 50);
    unsigned blocks = mc_field_index_blocks(document, len);
    CHECK_EQ(blocks, 4);
    uint8_t *exact = malloc(len + (size_t)blocks * MC_BLOCK_BYTES);
    CHECK(exact != NULL);
    for (int round = test_rounds(20000); round > 0; round--) {
        struct mc_bson_element element;
        const char *name = names[test_below(200)];
        uint8_t *index = exact + len;
        memcpy(exact, document, len);
        mc_field_index_make(exact, len, blocks, index);
        for (uint64_t change = 1 + test_below(8); change > 0; change--) {
            size_t at = test_below(4) == 0 ? test_below(len + blocks * MC_BLOCK_BYTES)
                                           : len + test_below(blocks * MC_BLOCK_BYTES);
            exact[at] = (uint8_t)test_random();
        }
        enum mc_status status =
            mc_field_index_pluck(exact, len, index, blocks, name, strlen(name), &element);
        answers[status]++;
        if (status == MC_OK) {
            CHECK(element.name_len == strlen(name) && memcmp(element.name, name, 1) == 0);
            CHECK(element.value > exact && element.value + element.value_len < exact + len);
        } else {
            CHECK(status == MC_ABSENT || status == MC_INVALID);
        }
    }
    CHECK(test_sample > 1 || (answers[MC_OK] > 0 && answers[MC_ABSENT] > 0));
    CHECK(test_sample > 1 || answers[MC_INVALID] > 0);
    free(exact);
}

/* An offset that leads before the first field or behind the document. */
static void test_offsets_that_lie(void)
{
    size_t len = make(100, 100);
    unsigned blocks = mc_field_index_blocks(document, len);
    const uint32_t offsets[] = {0, 3, (uint32_t)len, UINT32_MAX};
    struct mc_bson_element element;
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        mc_field_index_make(document, len, blocks, blocks_of_it);
        memcpy(blocks_of_it, &offsets[i], sizeof offsets[i]);
        CHECK_EQ(mc_field_index_pluck(document, len, blocks_of_it, blocks, names[0],
                                      strlen(names[0]), &element),
                 MC_INVALID);
    }
}

static struct mc_hit found_in(const struct mc_view *view, int64_t k)
{
    struct mc_collection collection;
    struct mc_key key;
    struct mc_hit hit;
    CHECK_OK(mc_view_collection(view, "c", 1, &collection));
    mc_key_from_int64(k, &key);
    key.hash = mc_view_hash(view, &key);
    CHECK_OK(mc_find(view, collection.root, &key, &hit));
    return hit;
}

static void put(struct mc_writer *writer, int64_t k, size_t len)
{
    struct mc_key key;
    bool changed;
    uint64_t generation;
    mc_key_from_int64(k, &key);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_put(writer, "c", 1, &key, document, len, &changed, &test_error));
    CHECK(changed);
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
}

/* An entry that says that it has fewer blocks, under a checksum that is right. */
static void check_other_blocks(const struct mc_view *view, const struct mc_hit *hit, uint8_t *entry,
                               const uint8_t *copy)
{
    struct mc_entry now;
    struct mc_check_report report;
    struct mc_hit less = *hit;
    memcpy(&now, entry, sizeof now);
    struct mc_entry other = now;
    less.blocks = 1;
    other.lengths = hit->value_len | (uint32_t)1 << MC_LENGTHS_BLOCKS_SHIFT;
    other.checksum = mc_hit_checksum(&less, now.stamp, copy);
    memcpy(entry, &other, sizeof other);
    CHECK_EQ(mc_check(view, &report, &test_error), MC_CORRUPT);
    CHECK(strstr(test_error.text, "an index of fields is not that of its document") != NULL);
    memcpy(entry, &now, sizeof now);
    check_clean(view);
}

/* In a file: it is there, goes with its document, and check knows what it must be. */
static void test_in_a_file(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer = open_new_cache(&options);
    struct mc_view view;
    size_t few = make(20, 300);
    put(writer, 1, few);
    size_t len = make(100, 100);
    put(writer, 1, len);
    put(writer, 2, len);
    mc_writer_view(writer, &view);
    check_clean(&view);
    struct mc_hit hit = found_in(&view, 2);
    CHECK_EQ(hit.blocks, 2);
    CHECK_EQ(hit.value_len, len);
    struct mc_bson_element element;
    const uint8_t *value = shm_expose(hit.value);
    CHECK_OK(mc_field_index_pluck(value, hit.value_len, shm_expose(mc_hit_blocks(&hit)), hit.blocks,
                                  names[99], strlen(names[99]), &element));
    uint8_t *byte = (uint8_t *)(uintptr_t)shm_expose(mc_hit_blocks(&hit));
    byte[20] ^= 1; /* of an index, under its checksum */
    struct mc_check_report report;
    CHECK_EQ(mc_check(&view, &report, &test_error), MC_CORRUPT);
    CHECK(strstr(test_error.text, "checksum") != NULL);
    uint8_t copy[1 << 14];
    uint64_t bytes = mc_hit_bytes(&hit) - sizeof(struct mc_entry);
    CHECK(bytes <= sizeof copy);
    mc_copy(copy, hit.key, bytes);
    uint8_t *entry = (uint8_t *)(uintptr_t)shm_expose(hit.key - sizeof(struct mc_entry));
    uint64_t stamp;
    memcpy(&stamp, entry + offsetof(struct mc_entry, stamp), sizeof stamp);
    uint32_t checksum = mc_hit_checksum(&hit, stamp, copy);
    memcpy(entry, &checksum, sizeof checksum);
    CHECK_EQ(mc_check(&view, &report, &test_error), MC_CORRUPT);
    CHECK(strstr(test_error.text, "an index of fields is not that of its document") != NULL);
    byte[20] ^= 1;
    mc_copy(copy, hit.key, bytes);
    checksum = mc_hit_checksum(&hit, stamp, copy);
    memcpy(entry, &checksum, sizeof checksum);
    check_clean(&view);
    check_other_blocks(&view, &hit, entry, copy);
    bool existed;
    uint64_t generation;
    struct mc_key key;
    mc_key_from_int64(2, &key);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(mc_batch_delete(writer, "c", 1, &key, &existed, &test_error));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_view(writer, &view);
    check_clean(&view);
    mc_writer_close(writer);
    remove_cache(test_path());
}

int main(void)
{
    test_begin("test_field_index");
    test_every_field_is_found();
    test_other_numbers_of_blocks();
    test_which_have_one();
    test_bytes_that_lie();
    test_offsets_that_lie();
    test_in_a_file();
    return 0;
}
