/* image.h - what the image fuzzer and its replay share: one run over one image, and a mutator that
 * knows where things are.
 *
 * An image is the beginning of a cache file; zeros follow up to 2 MiB. A run opens it as a reader
 * and as a loader and uses everything there is. Any answer is right, but for these: a crash, a loop
 * that does not end, a read past the end of the file, and a file that `check` calls clean and a
 * loader then cannot use.
 *
 * The mutator changes bytes anywhere, or a word that something refers to, and then makes checksums,
 * and now and then counts, right again: most of the code lies behind them.
 */
#ifndef MMAPCACHE_FUZZ_IMAGE_H
#define MMAPCACHE_FUZZ_IMAGE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bson.h"
#include "check.h"
#include "region.h"
#include "writer.h"

#define IMAGE_BYTES MC_MAP_MIN
#define IMAGE_MOST (64u << 10) /* bytes of an input */
#define DEMAND(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static char image_path[64];

static void image_clean_up(void)
{
    char other[80];
    (void)unlink(image_path);
    (void)snprintf(other, sizeof other, "%s%s", image_path, MC_LOCK_SUFFIX);
    (void)unlink(other);
}

static void image_write(const uint8_t *data, size_t len)
{
    if (image_path[0] == '\0') {
        (void)snprintf(image_path, sizeof image_path, "/dev/shm/mmapcache-test-fuzz-%ld",
                       (long)getpid());
        (void)atexit(image_clean_up);
    }
    int fd = open(image_path, O_RDWR | O_CREAT, 0600);
    DEMAND(fd >= 0 && ftruncate(fd, 0) == 0);
    DEMAND(write(fd, data, len) == (ssize_t)len && ftruncate(fd, IMAGE_BYTES) == 0);
    struct mc_control control;
    size_t at = MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id);
    (void)mc_boot_id(control.boot_id, NULL); /* else nothing would ever be ready */
    DEMAND(pwrite(fd, control.boot_id, 16, (off_t)at) == 16 && close(fd) == 0);
}

/* ---- a reader ---- */

static void walk_document(const uint8_t *data, size_t len, int depth)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element, found;
    if (mc_bson_open(&cursor, data, len) != MC_OK) {
        return;
    }
    while (mc_bson_next(&cursor, &element) == MC_OK) {
        DEMAND(element.name >= data && element.value >= data &&
               element.value + element.value_len <= data + len);
        (void)mc_bson_find(data, len, (const char *)element.name, element.name_len, &found);
        if ((element.type == MC_BSON_DOCUMENT || element.type == MC_BSON_ARRAY) && depth < 4) {
            walk_document(element.value, element.value_len, depth + 1);
        }
    }
    (void)mc_bson_pluck(data, len, "a.0.b", 5, &found);
}

static void read_hit(const struct mc_view *view, uint64_t root, const struct mc_hit *hit)
{
    uint8_t bytes[MC_KEY_MAX], buffer[MC_KEY_VALUE_MAX];
    struct mc_bson_element element;
    struct mc_hit again;
    struct mc_key key = {.type = hit->key_type, .len = hit->key_len, .data = bytes};
    mc_copy(bytes, hit->key, hit->key_len);
    key.hash = mc_view_hash(view, &key);
    (void)mc_find(view, root, &key, &again);
    (void)mc_key_to_bson(key.type, key.data, key.len, buffer, &element);
    uint8_t *value = malloc(hit->value_len + 1u);
    DEMAND(value != NULL);
    mc_copy(value, hit->value, hit->value_len);
    if (mc_bson_validate(value, hit->value_len, NULL) == MC_OK) {
        walk_document(value, hit->value_len, 0);
    }
    free(value);
}

static void read_table(const struct mc_view *view, uint64_t root)
{
    struct mc_walk walk;
    struct mc_hit hit, hits[MC_FIND_MANY];
    struct mc_key keys[MC_FIND_MANY];
    enum mc_status statuses[MC_FIND_MANY];
    uint64_t entries = 0;
    mc_walk_begin(&walk, &view->space, root);
    while (mc_walk_entry(&walk, &hit) == MC_OK) {
        DEMAND(++entries <= IMAGE_BYTES / MC_GRANULE); /* blocks are disjoint */
        if (entries < 200) {
            read_hit(view, root, &hit);
        }
    }
    for (unsigned i = 0; i < MC_FIND_MANY; i++) {
        mc_key_from_int64((int64_t)i, &keys[i]);
        keys[i].hash = mc_view_hash(view, &keys[i]);
    }
    mc_find_many(view, root, keys, MC_FIND_MANY, hits, statuses);
}

/* True when the whole image is clean. */
static bool read_image(void)
{
    struct mc_map *map;
    struct mc_view view, again;
    struct mc_error error;
    struct mc_check_report report;
    struct mc_loader_status loader;
    struct mc_walk names;
    struct mc_hit hit;
    struct mc_collection collection;
    bool clean = false;
    int collections = 0;
    if (mc_map_open(image_path, &map, &error) != MC_OK) {
        return false;
    }
    mc_map_status(map, &loader);
    (void)mc_map_loader(map);
    if (mc_view_open(map, &view, &error) == MC_OK) {
        mc_walk_begin(&names, &view.space, view.root.catalogue);
        while (mc_walk_entry(&names, &hit) == MC_OK && collections++ < 20) {
            if (mc_hit_collection(&hit, &collection) == MC_OK) {
                read_table(&view, collection.root);
            }
        }
        (void)mc_view_collection(&view, "sites", 5, &collection);
        (void)mc_find_state(&view, &hit);
        clean = mc_check(&view, &report, &error) == MC_OK;
        /* A read past the end of the file would have been caught by the guard: see guard.h. */
        DEMAND(mc_view_open(map, &again, &error) == MC_OK);
    }
    mc_map_release(map);
    return clean;
}

/* ---- a loader ---- */

static size_t small_document(uint8_t to[64], int64_t id)
{
    static const uint8_t start[] = "\x17\0\0\0\x12_id"; /* {_id: int64} */
    memset(to, 0, 64);
    memcpy(to, start, sizeof start);
    memcpy(to + 9, &id, 8);
    to[0] = 18;
    return 18;
}

static enum mc_status use_batch(struct mc_writer *writer, struct mc_error *error)
{
    uint8_t document[64];
    uint64_t documents, generation;
    bool existed;
    struct mc_key key;
    enum mc_status status = mc_batch_begin(writer, error);
    for (int i = 0; i < 40 && status == MC_OK; i++) {
        size_t len = small_document(document, i);
        status = mc_batch_put_raw(writer, "sites", 5, document, len, &documents, error);
    }
    for (int i = 0; i < 60 && status == MC_OK; i += 3) {
        mc_key_from_int64(i, &key);
        status = mc_batch_delete(writer, "limits", 6, &key, &existed, error);
    }
    if (status == MC_OK && (status = mc_replace_begin(writer, "flags", 5, error)) == MC_OK) {
        status = mc_batch_put_raw(writer, "flags", 5, document, 18, &documents, error);
        if (status == MC_OK) {
            status = mc_replace_end(writer, error);
        }
    }
    if (status == MC_OK) {
        status = mc_batch_drop(writer, "big", 3, &existed, error);
    }
    return status == MC_OK ? mc_batch_commit(writer, &generation, error) : status;
}

static void load_image(bool clean)
{
    struct mc_writer_options options = {.mode = 0600};
    struct mc_writer *writer;
    struct mc_error error;
    struct mc_check_report report;
    struct mc_view view;
    enum mc_status status = mc_writer_open(image_path, &options, &writer, &error);
    if (status != MC_OK) {
        DEMAND(!clean || status == MC_CORRUPT || status == MC_FULL);
        return;
    }
    status = use_batch(writer, &error);
    if (status == MC_OK && clean) {
        mc_writer_view(writer, &view);
        DEMAND(mc_check(&view, &report, &error) == MC_OK);
    }
    DEMAND(!clean || status == MC_OK || status == MC_FULL || status == MC_LIMIT);
    mc_writer_close(writer);
}

static int run_image(const uint8_t *data, size_t len)
{
    if (len <= IMAGE_MOST) {
        image_write(data, len);
        load_image(read_image());
    }
    return 0;
}

/* ---- the mutator ---- */

static uint64_t draw_state;

static uint64_t draw(uint64_t bound)
{
    uint64_t z = (draw_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % bound;
}

/* The words that something refers to. */
#define PLACES_MOST 4096u
static uint32_t places[PLACES_MOST];
static unsigned place_count;

static void add_places(uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset & ~UINT64_C(7); at < offset + bytes; at += 8) {
        if (place_count < PLACES_MOST && at + 8 <= IMAGE_MOST) {
            places[place_count++] = (uint32_t)at;
        }
    }
}

static void fix_entry(uint8_t *image, const struct mc_hit *hit)
{
    struct mc_entry entry;
    const uint8_t *key = image + hit->offset + sizeof entry;
    memcpy(&entry, image + hit->offset, sizeof entry);
    entry.checksum = mc_entry_checksum(hit->value_len, entry.stamp, key, hit->key_len,
                                       key + hit->key_len, hit->value_len);
    memcpy(image + hit->offset, &entry, sizeof entry);
}

/* Goes through a table: notes its places, and makes entries and, below the catalogue, counts right.
 */
static uint64_t fix_table(uint8_t *image, uint64_t root, struct mc_root *totals, bool counts,
                          bool catalogue)
{
    struct mc_space space = {.base = (shm_byte *)image, .limit = IMAGE_BYTES};
    struct mc_walk walk;
    struct mc_item item;
    struct mc_collection found;
    uint64_t entries = 0;
    mc_walk_begin(&walk, &space, root);
    while (mc_walk_next(&walk, &item) == MC_OK && entries < 2000) {
        totals->used += (item.bytes + 15) / 16 * 16;
        if (item.kind != MC_ITEM_ENTRY) {
            add_places(item.offset, item.bytes);
            continue;
        }
        entries++;
        add_places(item.offset, item.bytes < 64 ? item.bytes : 64);
        if (catalogue && mc_hit_collection(&item.hit, &found) == MC_OK) {
            uint64_t content = totals->content;
            uint64_t count = fix_table(image, found.root, totals, counts, false);
            totals->collections++;
            totals->documents += count;
            uint64_t figures[2] = {count, totals->content - content};
            if (counts) {
                memcpy(image + item.hit.offset + sizeof(struct mc_entry) + item.hit.key_len + 8,
                       figures, sizeof figures);
            }
        } else if (!catalogue) {
            totals->content += (uint64_t)item.hit.key_len + item.hit.value_len;
        }
        fix_entry(image, &item.hit);
    }
    return entries;
}

static void fix_image(uint8_t *image, bool counts)
{
    struct mc_superblock *superblock = (struct mc_superblock *)(void *)image;
    struct mc_control *control = (struct mc_control *)(void *)(image + MC_CONTROL_OFFSET);
    memcpy(superblock->magic, MC_MAGIC, 8);
    superblock->version = MC_VERSION;
    superblock->byte_order = MC_BYTE_ORDER;
    superblock->granule = MC_GRANULE;
    superblock->ring_slots =
        superblock->ring_slots < 2 || superblock->ring_slots > 64 ? 4 : superblock->ring_slots;
    superblock->arena_offset =
        MC_RING_OFFSET + (uint64_t)superblock->ring_slots * sizeof(struct mc_root);
    if (superblock->max_size < MC_MAP_MIN || superblock->max_size > 64 * MC_EXTENT ||
        superblock->max_size % MC_EXTENT != 0) {
        superblock->max_size = 4 * MC_EXTENT;
    }
    superblock->checksum = mc_checksum(superblock, offsetof(struct mc_superblock, checksum));
    for (unsigned i = 0; i < MC_STATUS_SLOTS; i++) {
        struct mc_status_slot *slot =
            (struct mc_status_slot *)(void *)(image + MC_STATUS_OFFSET + i * sizeof *slot);
        slot->checksum = mc_checksum(slot, offsetof(struct mc_status_slot, checksum));
    }
    uint64_t place =
        MC_RING_OFFSET + control->commit % superblock->ring_slots * sizeof(struct mc_root);
    struct mc_root *root = (struct mc_root *)(void *)(image + place);
    struct mc_root totals = {.used = superblock->arena_offset};
    place_count = 0;
    add_places(64, 64);
    add_places(MC_CONTROL_OFFSET, 16);
    add_places(place, sizeof *root);
    (void)fix_table(image, root->catalogue, &totals, counts, true);
    if (counts) {
        root->generation = control->commit;
        root->file_size = root->file_size > IMAGE_BYTES ? IMAGE_BYTES : root->file_size;
        root->documents = totals.documents;
        root->content = totals.content;
        root->collections = totals.collections;
        root->used = totals.used;
        control->horizon = control->horizon > control->commit ? control->commit : control->horizon;
    }
    root->checksum = mc_checksum(root, offsetof(struct mc_root, checksum));
}

/* Changes one word that counts. */
static void change_word(uint8_t *image)
{
    uint64_t word, other, at = places[draw(place_count)];
    memcpy(&word, image + at, 8);
    memcpy(&other, image + places[draw(place_count)], 8);
    switch (draw(6)) {
    case 0:
        word ^= UINT64_C(1) << draw(64);
        break;
    case 1:
        word += draw(2) ? draw(8) : -draw(8);
        break;
    case 2:
        word = other;
        break;
    case 3:
        word = draw(2) ? 0 : UINT64_MAX;
        break;
    case 4: /* another offset in a reference or slot */
        word = (word & ~((UINT64_C(1) << 36) - 1)) | places[draw(place_count)] / MC_GRANULE;
        break;
    default: /* another size, depth or kind */
        word ^= draw(1u << 11) << 36;
    }
    memcpy(image + at, &word, 8);
}

/* A mutation of the image in data, of which `most` bytes may be used; its new length. */
static size_t change_image(uint8_t *data, size_t len, size_t most, uint64_t seed)
{
    static uint8_t *image;
    if (image == NULL) {
        image = aligned_alloc(4096, IMAGE_BYTES);
        DEMAND(image != NULL);
    }
    len = len < IMAGE_MOST ? len : IMAGE_MOST;
    memset(image, 0, IMAGE_BYTES);
    memcpy(image, data, len);
    draw_state = seed;
    fix_image(image, false);
    for (uint64_t i = draw(4); i > 0 && place_count > 0; i--) {
        change_word(image);
    }
    if (draw(8) != 0) {
        fix_image(image, draw(3) != 0);
    }
    if (len < 24576 && most >= 24576) {
        len = 24576;
    }
    memcpy(data, image, len);
    return len;
}

#endif
