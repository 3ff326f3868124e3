/* image.c - see image.h. */
#include "image.h"

#include <string.h>

#include "bson.h"
#include "change_log.h"
#include "check.h"
#include "harness.h"
#include "history.h"
#include "index.h"
#include "memory_region.h"
#include "writer/batch.h"
#include "writer/publish.h"
#include "writer/rounds.h"
#include "writer/writer.h"

#define IMAGE_STAYS (96u << 10)     /* bytes: zeroed for each run, where the rest is given back */
#define IMAGE_RETENTION 1000000000L /* nanoseconds */

static uint16_t choices;

static void image_write(const uint8_t *data, size_t len)
{
    const uint64_t tail = MC_TAIL_MARK;
    const size_t at = offsetof(struct mc_superblock, created_at);
    uint64_t size = IMAGE_BYTES;
    choices = 0;
    if (len >= at + sizeof choices) {
        memcpy(&choices, data + at, sizeof choices);
    }
    if (choices & CHOOSE_SHORT) {
        size = IMAGE_BYTES / 2;
    } else if (choices & CHOOSE_LONG) {
        size = IMAGE_BYTES * 2;
    }
    memory_reset();
    uint8_t *file = memory_make(0, IMAGE_PATH, size, IMAGE_STAYS)->base;
    memcpy(file, data, len);
    memset(file + len, 0, IMAGE_STAYS - len);
    if (size >= IMAGE_BYTES) {
        memcpy(file + IMAGE_BYTES - sizeof tail, &tail, sizeof tail);
    }
}

size_t image_take(uint8_t to[IMAGE_MOST])
{
    size_t len = IMAGE_MOST;
    memcpy(to, memory_find(IMAGE_PATH)->base, len);
    while (len > 0 && to[len - 1] == 0) {
        len--;
    }
    return len;
}

/* ---- a reader ---- */

#define FOUND_MOST 8u

/* Keys that are in the image, for the loader. */
static struct found {
    uint8_t name[MC_KEY_MAX], bytes[MC_KEY_MAX];
    size_t name_len;
    struct mc_key key;
} found[FOUND_MOST];

static unsigned found_count;

static void remember_key(const struct mc_hit *name, const struct mc_hit *hit)
{
    if (found_count < FOUND_MOST) {
        struct found *next = &found[found_count++];
        mc_copy(next->name, name->key, name->key_len);
        mc_copy(next->bytes, hit->key, hit->key_len);
        next->name_len = name->key_len;
        next->key =
            (struct mc_key){.type = hit->key_type, .len = hit->key_len, .data = next->bytes};
    }
}

static void walk_document(const uint8_t *data, size_t len, int depth)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element, same;
    if (mc_bson_open(&cursor, data, len) != MC_OK) {
        return;
    }
    while (mc_bson_next(&cursor, &element) == MC_OK) {
        CHECK(element.name >= data && element.value >= data &&
              element.value + element.value_len <= data + len);
        (void)mc_bson_find(data, len, (const char *)element.name, element.name_len, &same);
        if ((element.type == MC_BSON_DOCUMENT || element.type == MC_BSON_ARRAY) && depth < 4) {
            walk_document(element.value, element.value_len, depth + 1);
        }
    }
    (void)mc_bson_pluck(data, len, "a.0.b", 5, &same);
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
    (void)mc_table_still(&view->space, root, key.hash, hit->offset, hit->birth);
    mc_table_touch(&view->space, root, key.hash);
    (void)mc_key_to_bson(key.type, key.data, key.len, buffer, &element);
    if (hit->value_len > IMAGE_MOST) { /* zeros: it is enough that they are there */
        mc_copy(buffer, hit->value + hit->value_len - 1, 1);
        return;
    }
    uint8_t *value = malloc(hit->value_len + 1u);
    CHECK(value != NULL);
    mc_copy(value, hit->value, hit->value_len);
    (void)mc_bson_validate(value, hit->value_len, NULL);
    walk_document(value, hit->value_len, 0);
    free(value);
}

/* name: of a collection; NULL for the tables of an index. */
static void read_table(const struct mc_view *view, const struct mc_hit *name, uint64_t root)
{
    struct mc_walk walk;
    struct mc_hit hit, hits[MC_FIND_MANY];
    struct mc_key keys[MC_FIND_MANY];
    enum mc_status statuses[MC_FIND_MANY];
    uint64_t entries = 0;
    mc_walk_begin(&walk, &view->space, root);
    while (mc_walk_entry(&walk, &hit) == MC_OK) {
        CHECK(++entries <= MEMORY_MOST / MC_GRANULE); /* blocks are disjoint */
        if (entries < 24 || entries % 64 == 0) {
            read_hit(view, root, &hit);
        }
        if (entries % 8 == 1 && name != NULL) {
            remember_key(name, &hit);
        }
    }
    for (unsigned i = 0; i < MC_FIND_MANY; i++) {
        mc_key_from_int64((int64_t)i, &keys[i]);
        keys[i].hash = mc_view_hash(view, &keys[i]);
    }
    mc_find_many(view, root, keys, MC_FIND_MANY, hits, statuses);
}

/* The document that an index says has a value: false when there is none. */
static bool follow_key(const struct mc_view *view, uint64_t documents, struct mc_key *key)
{
    struct mc_hit hit;
    key->hash = mc_view_hash(view, key);
    return mc_find(view, documents, key, &hit) == MC_OK;
}

/* How many keys of a table of an index lead to no document. */
static uint64_t follow_keys(const struct mc_view *view, uint64_t documents, uint64_t root)
{
    struct mc_walk walk;
    struct mc_hit hit;
    uint8_t bytes[MC_KEY_MAX];
    uint64_t astray = 0;
    read_table(view, NULL, root);
    mc_walk_begin(&walk, &view->space, root);
    while (mc_walk_entry(&walk, &hit) == MC_OK) {
        struct mc_key key = {.type = hit.key_type, .len = hit.key_len, .data = bytes};
        mc_copy(bytes, hit.key, hit.key_len);
        astray += !follow_key(view, documents, &key);
    }
    return astray;
}

#define TABLES_MOST 8 /* of one index: the first */

/* Looks documents up through an index: how many were not there. */
static uint64_t read_index(const struct mc_view *view, const struct mc_index *index)
{
    struct mc_index_record record;
    struct mc_collection collection = {.root = 0};
    struct mc_posting posting;
    struct mc_walk walk;
    struct mc_hit hit;
    uint64_t astray = 0;
    int tables = 0;
    (void)mc_view_collection(view, index->name, index->name_len, &collection);
    if (mc_view_index(view, index->name, index->name_len, index->path, index->path_len, &record) !=
        MC_OK) {
        return 1;
    }
    read_table(view, NULL, record.root);
    mc_walk_begin(&walk, &view->space, record.root);
    while (mc_walk_entry(&walk, &hit) == MC_OK) {
        if (mc_hit_posting(&hit, &posting) != MC_OK) {
            astray++;
        } else if (posting.one) {
            astray += !follow_key(view, collection.root, &posting.key);
        } else if (tables++ < TABLES_MOST) {
            astray += follow_keys(view, collection.root, posting.root);
        }
    }
    return astray;
}

/* True when the whole generation is clean. */
static bool read_view(const struct mc_view *view)
{
    struct mc_error error;
    struct mc_check_report report;
    struct mc_walk names;
    struct mc_hit hit;
    struct mc_collection collection;
    struct mc_index index;
    uint64_t astray = 0;
    int tables = 0;
    mc_walk_begin(&names, &view->space, view->root.catalogue);
    while (mc_walk_entry(&names, &hit) == MC_OK && tables++ < 20) {
        if (mc_hit_collection(&hit, &collection) == MC_OK) {
            read_table(view, &hit, collection.root);
        } else if (mc_hit_index(&hit, &index) == MC_OK) {
            astray += read_index(view, &index);
        }
    }
    (void)mc_view_collection(view, "sites", 5, &collection);
    (void)mc_find_state(view, &hit);
    bool clean = mc_check(view, &report, &error) == MC_OK;
    CHECK(!clean || astray == 0);
    return clean;
}

static void read_counts(const struct mc_loader_report *loader)
{
    struct mc_bson_cursor cursor;
    struct mc_count count;
    CHECK(loader->counts_len <= sizeof loader->counts);
    for (int kind = 0; kind < MC_COUNTS_KINDS; kind++) {
        bool any = mc_counts_open(loader->counts, loader->counts_len, kind, &cursor);
        while (any && mc_counts_next(&cursor, &count)) {
            CHECK(count.count <= INT64_MAX && count.name_len < sizeof loader->counts &&
                  count.name[count.name_len] == '\0');
        }
    }
}

/* What changed since some earlier generations: whatever is said is within the copy. */
static void read_changes(const struct mc_view *view)
{
    struct mc_changes changes;
    struct mc_change change;
    uint64_t generation = view->root.generation;
    uint64_t since[] = {0, generation / 2, generation - 3, generation - 1, generation + 1};
    for (size_t i = 0; i < sizeof since / sizeof since[0]; i++) {
        uint64_t count = 0;
        enum mc_status status = mc_changes_open(view, since[i], MC_CHANGES_UNLIMITED, &changes);
        while (status == MC_OK && (status = mc_changes_next(&changes, &change)) == MC_OK) {
            uint8_t buffer[MC_KEY_VALUE_MAX];
            struct mc_bson_element element;
            CHECK(++count <= changes.len);
            if (change.kind != MC_CHANGE_ALL) {
                (void)mc_checksum(change.name, change.name_len);
            }
            if (change.kind == MC_CHANGE_PUT || change.kind == MC_CHANGE_DELETE) {
                (void)mc_key_to_bson(change.key.type, change.key.data, change.key.len, buffer,
                                     &element);
            }
        }
        mc_changes_close(&changes);
    }
}

/* What is said to count has a number, and they rise. */
static void read_history(const struct mc_map *map, const struct mc_view *view)
{
    struct mc_history history = mc_superblock_history(mc_map_superblock(map));
    size_t damaged, slots = history.slots;
    struct mc_round_record *records = malloc((slots + 1) * sizeof *records);
    CHECK(records != NULL);
    size_t found = mc_history_read(&view->space, &history, records, &damaged);
    CHECK(found + damaged <= slots);
    for (size_t i = 0; i < found; i++) {
        CHECK(records[i].sequence > (i == 0 ? 0 : records[i - 1].sequence));
    }
    free(records);
}

/* A reader who comes to the file as it is: true when its generation is clean. */
static bool read_image(void)
{
    struct mc_map *map;
    struct mc_view view;
    struct mc_error error;
    struct mc_loader_report loader;
    bool clean = false;
    if (mc_map_open(IMAGE_PATH, &map, &error) != MC_OK) {
        return false;
    }
    mc_map_report(map, &loader);
    CHECK(memchr(loader.state, 0, sizeof loader.state) != NULL &&
          memchr(loader.source, 0, sizeof loader.source) != NULL &&
          memchr(loader.error, 0, sizeof loader.error) != NULL);
    read_counts(&loader);
    CHECK(mc_map_loader(map) != MC_LOADER_ALIVE && mc_map_is_at(map, IMAGE_PATH));
    if (mc_view_open(map, &view, &error) == MC_OK) {
        read_changes(&view);
        read_history(map, &view);
        clean = read_view(&view);
    }
    mc_map_release(map);
    return clean;
}

/* ---- a loader ---- */

size_t small_document(uint8_t to[64], int64_t id)
{
    static const uint8_t start[] = "\x17\0\0\0\x12_id"; /* {_id: int64} */
    memset(to, 0, 64);
    memcpy(to, start, sizeof start);
    memcpy(to + 9, &id, 8);
    to[0] = 18;
    return 18;
}

#define LARGE (1u << 20)

/* {_id: 1, v: binary} of LARGE bytes. */
static const uint8_t *large_document(void)
{
    static uint8_t document[LARGE];
    if (document[0] == 0 && document[2] == 0) {
        uint32_t all = LARGE, content = LARGE - 17 - 9;
        (void)small_document(document, 1);
        memcpy(document, &all, sizeof all);
        memcpy(document + 17, "\5v", 3);
        memcpy(document + 20, &content, sizeof content);
    }
    return document;
}

/* Changes what is there: keys that the reader found are deleted, put and dropped. */
static enum mc_status change_found(struct mc_writer *writer, struct mc_error *error)
{
    uint8_t document[64];
    size_t len = small_document(document, 1);
    enum mc_status status = MC_OK;
    bool changed;
    for (unsigned i = 0; i < found_count && status == MC_OK; i++) {
        const struct found *old = &found[i];
        const char *name = (const char *)old->name;
        switch (i % 4) {
        case 0:
            status = mc_batch_put(writer, name, old->name_len, &old->key, document, len, &changed,
                                  error);
            break;
        case 1:
            status = mc_batch_delete(writer, name, old->name_len, &old->key, &changed, error);
            break;
        case 2:
            if ((status = mc_replace_begin(writer, name, old->name_len, error)) == MC_OK) {
                status = mc_batch_put(writer, name, old->name_len, &old->key, document, len,
                                      &changed, error);
                status = status == MC_OK ? mc_replace_end(writer, error) : status;
                mc_replace_cancel(writer);
            }
            break;
        default:
            status = mc_batch_drop(writer, name, old->name_len, &changed, error);
        }
    }
    return status;
}

#define OURS 24 /* documents */

static enum mc_status put_and_delete(struct mc_writer *writer, struct mc_error *error)
{
    static uint8_t documents[OURS * 18 + 64];
    size_t len = 0;
    uint64_t count;
    bool existed;
    struct mc_key key;
    for (int i = 0; i < OURS; i++) {
        len += small_document(documents + len, i);
    }
    enum mc_status status = mc_batch_put_raw(writer, "sites", 5, documents, len, &count, error);
    for (int i = 0; i < 40 && status == MC_OK; i += 5) {
        mc_key_from_int64(i, &key);
        status = mc_batch_delete(writer, "limits", 6, &key, &existed, error);
    }
    if (status == MC_OK && (status = mc_replace_begin(writer, "flags", 5, error)) == MC_OK) {
        status = mc_batch_put_raw(writer, "flags", 5, documents, 18, &count, error);
        status = status == MC_OK ? mc_replace_end(writer, error) : status;
    }
    if (status == MC_OK) {
        status = mc_batch_drop(writer, "big", 3, &existed, error);
    }
    if (status == MC_OK) {
        status = mc_batch_state(writer, documents, len, error);
    }
    if (status == MC_OK && (choices & CHOOSE_LARGE) == CHOOSE_LARGE) {
        status = mc_batch_put_raw(writer, "large", 5, large_document(), LARGE, &count, error);
        status = status == MC_OK
                     ? mc_batch_put_raw(writer, "huge", 4, large_document(), LARGE, &count, error)
                     : status;
    }
    return status;
}

/* An index of a field that documents of the images have, and one less. */
static enum mc_status change_indexes(struct mc_writer *writer, struct mc_error *error)
{
    bool did;
    enum mc_status status = mc_batch_index(writer, "sites", 5, "s", 1, MC_INDEX_MULTI, &did, error);
    if (status == MC_OK) {
        status = mc_batch_drop_index(writer, "sites", 5, "_id", 3, &did, error);
    }
    return status;
}

/* Three batches: the image's own keys, keys of ours, and the same again, which changes nothing. One
 * that a unique index refuses is given up. */
static enum mc_status use_batches(struct mc_writer *writer, struct mc_error *error)
{
    enum mc_status status = MC_OK;
    for (int batch = 0; batch < 3 && status == MC_OK; batch++) {
        uint64_t generation;
        status = mc_batch_begin(writer, error);
        if (status == MC_OK) {
            status = batch == 0 ? change_found(writer, error) : put_and_delete(writer, error);
        }
        if (status == MC_OK && batch == 1 && (choices & CHOOSE_INDEX)) {
            status = change_indexes(writer, error);
        }
        if (batch == 0 && (choices & CHOOSE_ABORT)) {
            mc_batch_abort(writer);
        } else if (status == MC_OK) {
            status = mc_batch_commit(writer, &generation, error);
            if (status == MC_LIMIT) {
                mc_batch_abort(writer);
                status = MC_OK;
            }
        }
    }
    return status;
}

/* What a table holds, and those below it, as one word; their blocks are disjoint. */
static uint64_t digest_table(const struct mc_view *view, uint64_t root, enum mc_table kind)
{
    struct mc_walk walk;
    struct mc_hit hit;
    enum mc_table its;
    enum mc_status status;
    uint64_t digest = 0, below;
    mc_walk_begin(&walk, &view->space, root);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        digest = digest * 31 + mc_checksum(shm_expose(hit.key), hit.key_len + hit.value_len);
        if (mc_hit_table(kind, &hit, &below, &its) == MC_OK) {
            digest = digest * 31 + digest_table(view, below, its);
        }
    }
    return digest * 31 + status;
}

static uint64_t digest_view(const struct mc_view *view)
{
    return digest_table(view, view->root.catalogue, MC_TABLE_CATALOGUE);
}

static bool is_refusal(enum mc_status status)
{
    return status == MC_FULL || status == MC_LIMIT;
}

/* Reports over what the file says so far, of which some is kept. */
static void report_stream(struct mc_writer *writer)
{
    struct mc_count item = {.name = "fuzz", .name_len = 4, .count = 1};
    struct mc_counts counts = {.items = &item, .number = 1};
    struct mc_report_stream stream = {.following = 1, .position_at_us = -1, .errors = &counts};
    const uint8_t *position;
    size_t len = mc_writer_position(writer, &position);
    CHECK(len <= MC_POSITION_MAX);
    mc_writer_report(writer, "idle", "none", "an image", 1, &stream);
    enum mc_status status = mc_writer_mark(writer, "fuzz", 4, NULL);
    CHECK(status == MC_OK || status == MC_CORRUPT);
    struct mc_round round = {.reason = "fuzz", .error = "", .rounds = 1};
    CHECK_EQ(mc_writer_record(writer, &round, NULL), status);
    CHECK(status != MC_OK || mc_writer_position(writer, &position) == 4);
}

/* A loader opens the image and commits to it, under a snapshot. */
static void load_image(bool clean)
{
    struct mc_writer_options options = {
        .mode = 0600, .ring_slots = 4, .log_size = 1024, .history = 4};
    struct mc_writer *writer;
    struct mc_map *map = NULL;
    struct mc_view snapshot, again;
    struct mc_error error;
    options.retention_ns = choices & CHOOSE_RETENTION ? IMAGE_RETENTION : 0;
    options.max_size = choices & CHOOSE_RESIZE ? 3 * MC_EXTENT : 0;
    options.recreate = (choices & CHOOSE_RECREATE) != 0;
    bool seen = mc_map_open(IMAGE_PATH, &map, &error) == MC_OK &&
                mc_view_open(map, &snapshot, &error) == MC_OK;
    enum mc_status status = mc_writer_open(IMAGE_PATH, &options, &writer, &error);
    CHECK(!clean || status == MC_OK || is_refusal(status));
    if (status == MC_OK) {
        bool kept = seen && mc_map_is_at(map, IMAGE_PATH);
        uint64_t before = kept ? digest_view(&snapshot) : 0;
        report_stream(writer);
        if (choices & CHOOSE_CHECKPOINT) {
            CHECK(mc_writer_checkpoint(writer, &error) == MC_OK);
        }
        status = use_batches(writer, &error);
        CHECK(!clean || status == MC_OK || is_refusal(status));
        CHECK(!kept || !mc_view_valid(&snapshot) || digest_view(&snapshot) == before);
        if (seen) {
            (void)mc_map_wait(map, snapshot.root.generation, 1);
            (void)mc_view_open(map, &again, &error);
        }
        mc_writer_close(writer);
    }
    mc_map_release(map);
}

int run_image(const uint8_t *data, size_t len)
{
    if (len <= IMAGE_MOST) {
        image_write(data, len);
        found_count = 0;
        bool clean = read_image();
        load_image(clean);
        CHECK(!clean || read_image());
    }
    return 0;
}
