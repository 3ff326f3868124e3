/* test_check.c - mc_check finds every damaged byte, and what no checksum can see.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "store_support.h"

static struct mc_map *map;
static struct mc_view view;
static int file;

static void make_cache(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    uint64_t generation;
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
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
    view.root.generation--; /* its entries come from the future then, or its horizon has passed */
    CHECK(check_now() != MC_OK);
    view.root.generation++;
    CHECK_EQ(check_now(), MC_OK);
}

int main(void)
{
    test_begin("test_check");
    mc_buddy_test_unchecked = true; /* some thousand checks of a whole cache */
    make_cache();
    test_root();
    printf("test_check: %ld flips seen\n", flip_table(view.root.catalogue));
    CHECK_EQ(check_now(), MC_OK);
    test_overlap();
    end_cache();
    return 0;
}
