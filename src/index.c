/* index.c - lookup by another field, for whoever reads: see index.h. */
#include "index.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "key_order.h"
#include "mutant.h"

#define ROOM_FIRST 8u /* keys */
#define BYTES_FIRST 256u

/* ---- keys in a list ---- */

enum mc_status mc_values_add(struct mc_values *values, uint8_t type, const uint8_t *data,
                             size_t len)
{
    assert(len <= MC_KEY_MAX);
    if (values->count == values->room) {
        size_t room = values->room == 0 ? ROOM_FIRST : values->room * 2;
        struct mc_value *items = realloc(values->items, room * sizeof *items);
        if (items == NULL) {
            return MC_NOMEM;
        }
        values->items = items;
        values->room = room;
    }
    if (values->used + len > values->capacity || values->capacity == 0) {
        size_t capacity = values->capacity * 2 + BYTES_FIRST + len;
        uint8_t *bytes = realloc(values->bytes, capacity);
        if (bytes == NULL) {
            return MC_NOMEM;
        }
        values->bytes = bytes;
        values->capacity = capacity;
    }
    values->items[values->count++] =
        (struct mc_value){.at = values->used, .len = (uint16_t)len, .type = type};
    memcpy(values->bytes + values->used, data, len);
    values->used += len;
    return MC_OK;
}

static int compare(const void *left, const void *right)
{
    const struct mc_value *a = left, *b = right;
    return mc_key_compare(a->type, a->data, a->len, b->type, b->data, b->len);
}

void mc_values_sort(struct mc_values *values)
{
    size_t kept = 0;
    for (size_t i = 0; i < values->count; i++) {
        values->items[i].data = values->bytes + values->items[i].at;
    }
    if (values->count > 1) {
        qsort(values->items, values->count, sizeof *values->items, compare);
    }
    for (size_t i = 0; i < values->count; i++) {
        if (kept == 0 || compare(&values->items[kept - 1], &values->items[i]) != 0) {
            values->items[kept++] = values->items[i];
        }
    }
    values->count = kept;
}

void mc_values_free(struct mc_values *values)
{
    free(values->items);
    free(values->bytes);
    *values = (struct mc_values){0};
}

/* ---- what an index has of a document ---- */

struct path {
    const char *text;
    size_t len;
};

static enum mc_status add(const struct mc_bson_element *element, struct mc_values *out)
{
    uint8_t scratch[MC_KEY_MAX];
    struct mc_key key;
    return mc_key_from_bson(element, &key, scratch, NULL) == MC_OK
               ? mc_values_add(out, key.type, key.data, key.len)
               : MC_OK; /* no lookup can ask for it */
}

/* What is in an array, whose value the walker has found to have a length. */
static struct mc_bson_cursor members(const struct mc_bson_element *array)
{
    assert(array->value_len >= MC_BSON_SIZE_MIN);
    return (struct mc_bson_cursor){.at = array->value + 4,
                                   .end = array->value + array->value_len - 1};
}

/* The value at the end of a path: itself, or the members of an array. */
static enum mc_status add_value(const struct mc_bson_element *element, struct mc_values *out)
{
    struct mc_bson_element member;
    enum mc_status status = MC_OK;
    if (element->type != MC_BSON_ARRAY) {
        return add(element, out);
    }
    struct mc_bson_cursor cursor = members(element);
    while (status == MC_OK && mc_bson_next(&cursor, &member) == MC_OK) {
        status = add(&member, out);
    }
    return status;
}

static enum mc_status enter(const struct mc_bson_element *element, struct path path,
                            struct mc_values *out);

/* What is in an array: its member of that number, or the field in each of its documents. */
static enum mc_status enter_array(const struct mc_bson_element *array, struct path path,
                                  struct path rest, size_t part, struct mc_values *out)
{
    struct mc_bson_cursor cursor = members(array);
    struct mc_bson_element member;
    enum mc_status status = MC_OK;
    uint64_t wanted, position = 0;
    bool numbered = mc_bson_index(path.text, part, &wanted);
    while (status == MC_OK && mc_bson_next(&cursor, &member) == MC_OK) {
        if (numbered && position++ == wanted) {
            return enter(&member, rest, out);
        }
        if (!numbered && member.type == MC_BSON_DOCUMENT) {
            status = enter(&member, path, out);
        }
    }
    return status;
}

/* Follows what is left of the path (text NULL: nothing). A document takes a part of it, so the
 * path's length bounds the recursion. */
static enum mc_status enter(const struct mc_bson_element *element, struct path path,
                            struct mc_values *out)
{
    struct mc_bson_element found;
    if (path.text == NULL) {
        return add_value(element, out);
    }
    const char *dot = memchr(path.text, '.', path.len);
    size_t part = dot != NULL ? (size_t)(dot - path.text) : path.len;
    struct path rest = {.text = dot != NULL ? dot + 1 : NULL,
                        .len = dot != NULL ? path.len - part - 1 : 0};
    if (element->type == MC_BSON_ARRAY) {
        return enter_array(element, path, rest, part, out);
    }
    if (element->type != MC_BSON_DOCUMENT ||
        mc_bson_find(element->value, element->value_len, path.text, part, &found) != MC_OK) {
        return MC_OK;
    }
    return enter(&found, rest, out);
}

enum mc_status mc_index_values(const uint8_t *document, size_t len, const char *path,
                               size_t path_len, struct mc_values *out)
{
    struct mc_bson_element whole = {
        .type = MC_BSON_DOCUMENT, .value = document, .value_len = (uint32_t)len};
    out->count = out->used = 0;
    enum mc_status status = enter(&whole, (struct path){.text = path, .len = path_len}, out);
    mc_values_sort(out);
    return status;
}

/* ---- in a file ---- */

void mc_index_key(const char *name, size_t name_len, const char *path, size_t path_len,
                  struct mc_key *key, uint8_t scratch[MC_INDEX_KEY_MAX])
{
    assert(name_len <= MC_NAME_MAX && path_len <= MC_FIELD_MAX);
    scratch[0] = (uint8_t)name_len;
    memcpy(scratch + 1, name, name_len);
    memcpy(scratch + 1 + name_len, path, path_len);
    key->type = MC_KEY_INDEX;
    key->data = scratch;
    key->len = (uint16_t)(1 + name_len + path_len);
}

static enum mc_status record_read(const struct mc_hit *hit, struct mc_index_record *out)
{
    if (hit->value_len != sizeof *out) {
        return MC_CORRUPT;
    }
    shm_read(out, hit->value, sizeof *out);
    return out->kind == MC_INDEX_UNIQUE || out->kind == MC_INDEX_MULTI ? MC_OK : MC_CORRUPT;
}

enum mc_status mc_view_index(const struct mc_view *view, const char *name, size_t name_len,
                             const char *path, size_t path_len, struct mc_index_record *out)
{
    struct mc_hit hit;
    struct mc_key key;
    uint8_t scratch[MC_INDEX_KEY_MAX];
    mc_index_key(name, name_len, path, path_len, &key, scratch);
    key.hash = mc_view_hash(view, &key);
    enum mc_status status = mc_find(view, view->root.catalogue, &key, &hit);
    return mc_view_settle(view, status == MC_OK ? record_read(&hit, out) : status);
}

enum mc_status mc_hit_index(const struct mc_hit *hit, struct mc_index *out)
{
    uint8_t key[MC_INDEX_KEY_MAX];
    if (hit->key_type != MC_KEY_INDEX) {
        return MC_ABSENT;
    }
    if (hit->key_len == 0 || hit->key_len > sizeof key) {
        return MC_CORRUPT;
    }
    shm_read(key, hit->key, hit->key_len);
    size_t name_len = key[0], left = hit->key_len - 1u;
    if (name_len == 0 || name_len >= left || left - name_len > MC_FIELD_MAX ||
        memchr(key + 1 + name_len, 0, left - name_len) != NULL) {
        return MC_CORRUPT;
    }
    out->name_len = (uint8_t)name_len;
    out->path_len = (uint8_t)(left - name_len);
    memcpy(out->name, key + 1, name_len);
    memcpy(out->path, key + 1 + name_len, out->path_len);
    return record_read(hit, &out->record);
}

enum mc_status mc_hit_posting(const struct mc_hit *hit, struct mc_posting *out)
{
    struct mc_index_keys keys;
    uint32_t len = hit->value_len;
    if (len == 0 || len > sizeof out->bytes) {
        return MC_CORRUPT;
    }
    shm_read(out->bytes, hit->value, len);
    uint8_t type = out->bytes[0];
    out->one = type != 0;
    if (out->one) {
        out->key.type = type;
        out->key.len = (uint16_t)(len - 1);
        out->key.data = out->bytes + 1;
        return type < MC_KEY_TYPES ? MC_OK : MC_CORRUPT;
    }
    if (len != sizeof keys) {
        return MC_CORRUPT;
    }
    memcpy(&keys, out->bytes, sizeof keys);
    memcpy(&out->root, keys.root, sizeof out->root);
    memcpy(&out->count, keys.count, sizeof out->count);
    return out->root != 0 ? MC_OK : MC_CORRUPT;
}

enum mc_status mc_hit_table(enum mc_table kind, const struct mc_hit *hit, uint64_t *root,
                            enum mc_table *below)
{
    struct mc_collection collection;
    struct mc_index index;
    struct mc_posting posting;
    *below = MC_TABLE_PLAIN;
    if (kind == MC_TABLE_PLAIN) {
        return MC_ABSENT;
    }
    if (kind == MC_TABLE_INDEX) {
        if (mc_hit_posting(hit, &posting) != MC_OK) {
            return MC_CORRUPT;
        }
        *root = posting.one ? 0 : posting.root;
        return posting.one ? MC_ABSENT : MC_OK;
    }
    enum mc_status status = mc_hit_index(hit, &index);
    if (status == MC_OK) {
        *below = MC_TABLE_INDEX;
        *root = index.record.root;
    } else if (status == MC_ABSENT && (status = mc_hit_collection(hit, &collection)) == MC_OK) {
        *root = collection.root;
    }
    return status;
}
