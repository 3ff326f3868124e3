/* test_check.c - mc_check finds every damaged byte, and what no checksum can see. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "store_support.h"
#include "writer/upkeep.h"

static struct mc_map *map;
static struct mc_view view;
static int file;

static void make_cache(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer = open_new_cache(&options);
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    for (int k = 0; k < KEYS; k++) {
        CHECK_OK(put_version(writer, 0, k, 3));
    }
    for (int k = 0; k < 3; k++) { /* two collections of the same documents */
        CHECK_OK(put_version(writer, 1, k, 3));
        CHECK_OK(put_version(writer, 2, k, 3));
    }
    CHECK_OK(mc_batch_state(writer, (const uint8_t *)"position", 8, &test_error));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_close(writer);
    file = open(test_path(), O_RDWR);
    CHECK(file >= 0);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    CHECK_OK(mc_view_open(map, &view, &test_error));
    check_clean(&view);
}

static void end_cache(void)
{
    mc_map_release(map);
    CHECK(close(file) == 0);
    remove_cache(test_path());
}

static enum mc_status check_now(void)
{
    struct mc_check_report report;
    return mc_check(&view, &report, &test_error);
}

static void flip(uint64_t offset, uint8_t bits)
{
    uint8_t byte;
    CHECK(pread(file, &byte, 1, (off_t)offset) == 1);
    byte ^= bits;
    CHECK(pwrite(file, &byte, 1, (off_t)offset) == 1);
}

static long flip_each(uint64_t offset, uint64_t bytes, uint64_t step)
{
    long flips = 0;
    step *= (uint64_t)test_sample;
    for (uint64_t i = test_below(step); i < bytes; i += step, flips++) {
        uint8_t bits = (uint8_t)(1u << test_below(8));
        flip(offset + i, bits);
        enum mc_status status = check_now();
        if (status != MC_CORRUPT) {
            fprintf(stderr, "byte %llu changed by %d goes unseen\n",
                    (unsigned long long)(offset + i), bits);
        }
        CHECK_EQ(status, MC_CORRUPT);
        CHECK(test_error.text[0] != '\0');
        flip(offset + i, bits);
    }
    return flips;
}

/* Every block of a table: its bytes belong to somebody. */
static long flip_table(uint64_t root)
{
    struct mc_walk walk;
    struct mc_item item;
    struct mc_collection collection;
    long flips = 0;
    mc_walk_begin(&walk, &view.space, root);
    while (mc_walk_next(&walk, &item) == MC_OK) {
        flips += flip_each(item.offset, item.bytes, item.kind == MC_ITEM_ENTRY ? 13 : 3);
        if (item.kind == MC_ITEM_ENTRY && root == view.root.catalogue &&
            mc_hit_collection(&item.hit, &collection) == MC_OK) {
            flips += flip_table(collection.root);
        }
    }
    return flips;
}

/* Two collections with one table: every checksum is right, and yet blocks have two owners. */
static void test_overlap(void)
{
    struct mc_collection_record records[2];
    struct mc_hit hits[2];
    for (int i = 0; i < 2; i++) {
        const char *name = collection_names[1 + i];
        struct mc_key key = {
            .type = MC_KEY_NAME, .len = (uint16_t)strlen(name), .data = (const uint8_t *)name};
        key.hash = mc_view_hash(&view, &key);
        CHECK_EQ(mc_find(&view, view.root.catalogue, &key, &hits[i]), MC_OK);
        mc_copy(&records[i], hits[i].value, sizeof records[i]);
    }
    const struct mc_hit *hit = &hits[1];
    uint8_t key[MC_KEY_MAX];
    struct mc_entry entry;
    mc_copy(key, hit->key, hit->key_len);
    mc_copy(&entry, view.space.base + hit->offset, sizeof entry);
    records[1].root = records[0].root;
    entry.checksum = mc_entry_checksum(hit->value_len, entry.stamp, key, hit->key_len, &records[1],
                                       sizeof records[1]);
    off_t value = (off_t)(hit->offset + sizeof entry + hit->key_len);
    CHECK(pwrite(file, &entry, sizeof entry, (off_t)hit->offset) == sizeof entry);
    CHECK(pwrite(file, &records[1], sizeof records[1], value) == sizeof records[1]);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK(strstr(test_error.text, "overlap") != NULL);
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_CORRUPT);
}

/* Writes the record of the first collection, of `len` bytes, under a checksum that is right. */
static void write_record(const struct mc_collection_record *record, uint32_t len)
{
    struct mc_hit hit;
    struct mc_entry entry;
    uint8_t name[MC_KEY_MAX];
    struct mc_key key = {.type = MC_KEY_NAME, .len = 5, .data = (const uint8_t *)"sites"};
    key.hash = mc_view_hash(&view, &key);
    CHECK_EQ(mc_find(&view, view.root.catalogue, &key, &hit), MC_OK);
    mc_copy(name, hit.key, hit.key_len);
    mc_copy(&entry, view.space.base + hit.offset, sizeof entry);
    entry.lengths = len;
    entry.checksum = mc_entry_checksum(len, entry.stamp, name, hit.key_len, record, len);
    off_t value = (off_t)(hit.offset + sizeof entry + hit.key_len);
    CHECK(pwrite(file, &entry, sizeof entry, (off_t)hit.offset) == sizeof entry);
    CHECK(pwrite(file, record, len, value) == (ssize_t)len);
}

/* A record that says something else than its documents, and one of another size. */
static void test_record(void)
{
    struct mc_writer_options options = small_options();
    struct mc_collection_record record, wrong;
    struct mc_collection collection;
    struct mc_writer *writer, *successor;
    CHECK_EQ(mc_view_collection(&view, "sites", 5, &collection), MC_OK);
    record = (struct mc_collection_record){.root = collection.root,
                                           .count = collection.count,
                                           .content = collection.content,
                                           .created = collection.created};
    wrong = record;
    wrong.count++;
    write_record(&wrong, sizeof wrong);
    CHECK_EQ(check_now(), MC_CORRUPT);
    wrong = record;
    wrong.content++;
    write_record(&wrong, sizeof wrong);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    write_record(&record, sizeof record - 8);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK(strstr(test_error.text, "no entry of a catalogue") != NULL);
    CHECK_EQ(mc_view_collection(&view, "sites", 5, &collection), MC_CORRUPT);
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_EQ(put_version(writer, 0, 1, 1), MC_CORRUPT);
    mc_batch_abort(writer);
    CHECK_EQ(mc_writer_shrink(writer, &successor, &test_error), MC_CORRUPT);
    mc_writer_close(writer);
    /* the next loader must not take for free what it cannot find */
    CHECK_EQ(mc_writer_open(test_path(), &options, &writer, &test_error), MC_CORRUPT);
    write_record(&record, sizeof record);
    CHECK_EQ(check_now(), MC_OK);
}

/* Writes the entry of document `k` anew, with the key of another and the document's byte `at`
 * changed, under a checksum that is right. */
static void write_entry(const struct mc_hit *hit, int64_t as, size_t at, uint8_t bits)
{
    uint8_t key[MC_KEY_MAX], document[DOCUMENT_MOST];
    struct mc_entry entry;
    struct mc_key other;
    off_t offset = (off_t)hit->offset;
    mc_key_from_int64(as, &other);
    CHECK_EQ(other.len, hit->key_len);
    memcpy(key, other.data, other.len);
    mc_copy(document, hit->value, hit->value_len);
    document[at] ^= bits;
    mc_copy(&entry, view.space.base + hit->offset, sizeof entry);
    entry.checksum =
        mc_entry_checksum(hit->value_len, entry.stamp, key, hit->key_len, document, hit->value_len);
    CHECK(pwrite(file, &entry, sizeof entry, offset) == sizeof entry);
    offset += (off_t)sizeof entry;
    CHECK(pwrite(file, key, hit->key_len, offset) == hit->key_len);
    CHECK(pwrite(file, document, hit->value_len, offset + hit->key_len) == hit->value_len);
}

/* Entries that are whole and yet wrong: the key of another, a key that is nowhere, no BSON. */
static void test_entries(void)
{
    struct mc_collection collection;
    struct mc_key key;
    struct mc_hit hit;
    CHECK_EQ(mc_view_collection(&view, "sites", 5, &collection), MC_OK);
    mc_key_from_int64(5, &key);
    key.hash = mc_view_hash(&view, &key);
    CHECK_EQ(mc_find(&view, collection.root, &key, &hit), MC_OK);
    write_entry(&hit, 6, 0, 0);
    CHECK_EQ(check_now(), MC_CORRUPT);
    write_entry(&hit, KEYS, 0, 0);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK(strstr(test_error.text, "where a search") != NULL);
    write_entry(&hit, 5, 4, 0x40);
    CHECK_EQ(check_now(), MC_CORRUPT);
    CHECK(strstr(test_error.text, "BSON") != NULL);
    write_entry(&hit, 5, 4, 0x40);
    CHECK_EQ(check_now(), MC_OK);
}

/* The root's own figures: the view holds a private copy. */
static void test_root(void)
{
    uint64_t *figures[] = {&view.root.documents, &view.root.content, &view.root.used};
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        ++*figures[i];
        CHECK_EQ(check_now(), MC_CORRUPT);
        --*figures[i];
    }
    view.root.collections++;
    CHECK_EQ(check_now(), MC_CORRUPT);
    view.root.collections--;
    uint64_t limit = view.space.limit; /* nothing behind the control words */
    view.space.limit = MC_RING_OFFSET;
    CHECK_EQ(check_now(), MC_CORRUPT);
    view.space.limit = limit;
    view.root.generation--; /* its entries come from the future then, or its horizon has passed */
    CHECK(check_now() != MC_OK);
    view.root.generation++;
    CHECK_EQ(check_now(), MC_OK);
}

#ifdef __SANITIZE_ADDRESS__
static void test_claim(void)
{
    printf("test_check: skipped: the memory of a check, which the sanitizer's own hides\n");
}
#else
/* A file that claims to be as large as any, and refers to little of it: what a check costs is what
 * the file refers to. In a child, for the most that it ever needed is measured. */
static void check_claim(void)
{
    struct mc_check_report report;
    struct rusage before, after;
    CHECK_EQ(getrusage(RUSAGE_SELF, &before), 0);
    view.root.file_size = view.space.limit = MC_MAP_MAX;
    CHECK_OK(mc_check(&view, &report, &test_error));
    CHECK_EQ(getrusage(RUSAGE_SELF, &after), 0);
    CHECK_EQ(report.documents, KEYS + 6);
    CHECK(report.largest_free > MC_MAP_MAX / 2 && report.free_blocks[0] > 0);
    printf("test_check: a claim of 1 TiB costs %ld KiB\n", after.ru_maxrss - before.ru_maxrss);
    if (getenv("EMULATED") == NULL) { /* valgrind keeps books on what is mapped */
        CHECK(after.ru_maxrss - before.ru_maxrss < 65536);
    }
}

static void test_claim(void)
{
    in_child(check_claim, 0);
}
#endif

/* A generation that is given up while it is checked is not called damaged. */
static void test_expired(void)
{
    uint64_t horizon = 2;
    make_cache();
    test_error = (struct mc_error){0};
    CHECK(pwrite(file, &horizon, sizeof horizon,
                 MC_CONTROL_OFFSET + offsetof(struct mc_control, horizon)) == sizeof horizon);
    CHECK_EQ(check_now(), MC_EXPIRED);
    end_cache();
}

/* What each collection occupies, in the order of the catalogue, as far as there is room. */
static void test_occupied(void)
{
    struct mc_check_report report;
    uint64_t occupied[4] = {0}, sum = 0;
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_collection collection;
    size_t index = 0;
    CHECK_OK(mc_check_each(&view, &report, occupied, 2, &test_error));
    CHECK(occupied[0] > 0 && occupied[1] > 0 && occupied[2] == 0);
    CHECK_OK(mc_check_each(&view, &report, occupied, 4, &test_error));
    CHECK_EQ(report.collections, 3);
    mc_walk_begin(&walk, &view.space, view.root.catalogue);
    while (mc_walk_entry(&walk, &hit) == MC_OK) {
        if (mc_hit_collection(&hit, &collection) == MC_OK) {
            CHECK(occupied[index] > collection.content + 16 * collection.count);
            CHECK(occupied[index] < 3 * collection.content + 1024);
            sum += occupied[index++];
        }
    }
    CHECK(occupied[3] == 0 && sum < report.used - view.arena_offset);
}

int main(void)
{
    test_begin("test_check");
    mc_buddy_test_unchecked = true; /* some thousand checks of a whole cache */
    make_cache();
    test_occupied();
    test_root();
    test_claim();
    printf("test_check: %ld flips seen\n", flip_table(view.root.catalogue));
    CHECK_EQ(check_now(), MC_OK);
    test_record();
    test_entries();
    test_overlap();
    end_cache();
    test_expired();
    return 0;
}
