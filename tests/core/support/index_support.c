/* index_support.c - see index_support.h. */
#include "index_support.h"

struct mc_writer *writer;
struct mc_writer_options index_options;

void open_new(void)
{
    index_options = small_options();
    writer = open_new_cache(&index_options);
}

void end(void)
{
    mc_writer_close(writer);
    remove_cache(test_path());
}

/* ---- documents ---- */

static void start(struct bson *to)
{
    to->open[to->depth++] = to->len;
    to->len += 4;
}

struct bson begin(void)
{
    struct bson made = {.len = 0};
    start(&made);
    return made;
}

void name(struct bson *to, uint8_t type, const char *text)
{
    to->bytes[to->len++] = type;
    memcpy(to->bytes + to->len, text, strlen(text) + 1);
    to->len += strlen(text) + 1;
}

void number(struct bson *to, const char *text, int64_t value)
{
    name(to, MC_BSON_INT64, text);
    memcpy(to->bytes + to->len, &value, 8);
    to->len += 8;
}

void string(struct bson *to, const char *text, size_t len)
{
    uint32_t size = (uint32_t)len + 1;
    name(to, MC_BSON_STRING, text);
    memcpy(to->bytes + to->len, &size, 4);
    memset(to->bytes + to->len + 4, 'x', len);
    to->bytes[to->len + 4 + len] = 0;
    to->len += 4 + size;
}

void nested(struct bson *to, uint8_t type, const char *text)
{
    name(to, type, text);
    start(to);
}

void stop(struct bson *to)
{
    size_t at = to->open[--to->depth];
    to->bytes[to->len++] = 0;
    uint32_t size = (uint32_t)(to->len - at);
    memcpy(to->bytes + at, &size, 4);
}

/* {_id: k, f: f, t: [t, t + 1]}; without f if that is negative. */
struct bson document(int64_t k, int64_t f, int64_t t)
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

enum mc_status put(const char *collection, int64_t k, int64_t f, int64_t t)
{
    struct bson made = document(k, f, t);
    struct mc_key key;
    bool changed;
    mc_key_from_int64(k, &key);
    return mc_batch_put(writer, collection, strlen(collection), &key, made.bytes, made.len,
                        &changed, &test_error);
}

enum mc_status put_named(const char *collection, const char *key_text, int64_t f, int64_t t)
{
    struct bson made = document(0, f, t);
    struct mc_key key;
    bool changed;
    CHECK_OK(mc_key_from_text(key_text, strlen(key_text), &key, &test_error));
    return mc_batch_put(writer, collection, strlen(collection), &key, made.bytes, made.len,
                        &changed, &test_error);
}

enum mc_status take(const char *collection, int64_t k)
{
    struct mc_key key;
    bool existed;
    mc_key_from_int64(k, &key);
    return mc_batch_delete(writer, collection, strlen(collection), &key, &existed, &test_error);
}

enum mc_status make(const char *collection, const char *path, uint32_t kind)
{
    bool changed;
    return mc_batch_index(writer, collection, strlen(collection), path, strlen(path), kind,
                          &changed, &test_error);
}

bool unmake(const char *collection, const char *path)
{
    bool existed;
    CHECK_OK(mc_batch_drop_index(writer, collection, strlen(collection), path, strlen(path),
                                 &existed, &test_error));
    return existed;
}

enum mc_status commit_checked(void)
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

struct mc_index_record record_of(const char *collection, const char *path)
{
    struct mc_view view;
    struct mc_index_record record = {.root = 0};
    mc_writer_view(writer, &view);
    enum mc_status status =
        mc_view_index(&view, collection, strlen(collection), path, strlen(path), &record);
    CHECK(status == MC_OK || status == MC_ABSENT);
    return record;
}

void start_world(int many)
{
    open_new();
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(make("sites", "t", MC_INDEX_MULTI));
    CHECK_OK(make("sites", "f", MC_INDEX_UNIQUE));
    CHECK_OK(make("others", "t", MC_INDEX_MULTI));
    CHECK_OK(make("others", "f", MC_INDEX_MULTI));
    for (int64_t k = 0; k < 20; k++) {
        CHECK_OK(put("sites", k, k, 2 * k));
    }
    CHECK_OK(put("sites", 20, 20, 0));             /* a table of two keys */
    for (int64_t k = 1000; k < 1000 + many; k++) { /* and two of many */
        CHECK_OK(put("sites", k, -1, -10));
    }
    CHECK_OK(put_named("sites", "a", 50, 100));
    CHECK_OK(put_named("sites", "bb", 51, 102));
    CHECK_OK(commit_checked());
}

enum mc_status change_world(bool anew)
{
    enum mc_status status = mc_batch_begin(writer, &test_error);
    if (status == MC_OK && anew) {
        (void)unmake("sites", "t");
        status = make("sites", "f", MC_INDEX_MULTI);
    }
    if (status == MC_OK) {
        status = make("sites", "new", MC_INDEX_MULTI);
    }
    if (status == MC_OK) {
        status = put("sites", 3, 103, 0);
    }
    if (status == MC_OK) {
        status = put_named("sites", "a", 50, 10);
    }
    if (status == MC_OK) {
        status = put_named("sites", "bb", 51, 200);
    }
    if (status == MC_OK) {
        status = put_named("sites", "ccc", 52, 100);
    }
    if (status == MC_OK) {
        status = put_named("sites", "d", 53, 200);
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
