/* counts.c - counts by name, written and read: see counts.h. */
#include "counts.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mutant.h"

/* Bytes around a name: type, NUL, and an int64. */
#define PER_COUNT (1u + 1u + 8u)
#define OTHER_LEN (sizeof MC_COUNTS_OTHER - 1)

/* The two documents: the name of each, and how many bytes it has at most. There are few reasons for
 * a load, and many errors. */
struct part {
    const char *name;
    size_t name_len, room;
};
#define LOADS_ROOM 392u
#define ERRORS_ROOM 784u
static const struct part parts[MC_COUNTS_KINDS] = {
    [MC_COUNTS_LOADS] = {"loads", 5, LOADS_ROOM},
    [MC_COUNTS_ERRORS] = {"errors", 6, ERRORS_ROOM},
};
/* length, type, "loads", type, "errors", NUL */
_Static_assert(4 + 1 + 6 + LOADS_ROOM + 1 + 7 + ERRORS_ROOM + 1 <= MC_COUNTS_ROOM, "room");

/* ---- writing ---- */

/* Larger counts first, and names in order. */
static int compare(const void *left, const void *right)
{
    const struct mc_count *a = left, *b = right;
    if (a->count != b->count) {
        return a->count > b->count ? -1 : 1;
    }
    int order = memcmp(a->name, b->name, a->name_len < b->name_len ? a->name_len : b->name_len);
    return order != 0 ? order : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

/* Whether a name can stand for itself. */
static bool is_name(const struct mc_count *count)
{
    bool is_other = count->name_len == OTHER_LEN &&
                    memcmp(count->name, MC_COUNTS_OTHER, OTHER_LEN) == 0; /* joins the rest */
    return count->name_len <= MC_COUNTS_NAME_MAX && !is_other &&
           memchr(count->name, 0, count->name_len) == NULL &&
           mc_utf8_valid((const uint8_t *)count->name, count->name_len);
}

static uint8_t *write_name(uint8_t *at, enum mc_bson_type type, const char *name, size_t len)
{
    *at++ = (uint8_t)type;
    memcpy(at, name, len);
    at[len] = 0;
    return at + len + 1;
}

static uint8_t *write_count(uint8_t *at, const char *name, size_t len, uint64_t count)
{
    int64_t value = count < INT64_MAX ? (int64_t)count : INT64_MAX;
    at = write_name(at, MC_BSON_INT64, name, len);
    memcpy(at, &value, sizeof value);
    return at + sizeof value;
}

/* Ends the document that began at `start` with room for its length: its size. */
static uint32_t end_document(uint8_t *start, uint8_t *at)
{
    *at++ = 0;
    uint32_t size = (uint32_t)(at - start);
    memcpy(start, &size, sizeof size);
    return size;
}

static uint32_t write_counts(uint8_t *start, size_t room, const struct mc_counts *counts)
{
    uint8_t *at = start + 4, *end = start + room - 1 - PER_COUNT - OTHER_LEN;
    uint64_t other = 0;
    if (counts->number > 0) {
        qsort(counts->items, counts->number, sizeof *counts->items, compare);
    }
    for (size_t i = 0; i < counts->number; i++) {
        const struct mc_count *count = &counts->items[i];
        bool fits = count->name_len + PER_COUNT <= (size_t)(end - at);
        if (is_name(count) && (fits || MC_MUTANT_IS(352))) { /* 352: or not */
            at = write_count(at, count->name, count->name_len, count->count);
        } else {
            other = count->count < UINT64_MAX - other ? other + count->count : UINT64_MAX;
        }
    }
    if (other > 0) {
        at = write_count(at, MC_COUNTS_OTHER, OTHER_LEN, other);
    }
    return end_document(start, at);
}

/* The document of that kind in the whole one: its length, 0 where there is none. */
static size_t find_part(const uint8_t *data, size_t len, enum mc_counts_kind kind,
                        const uint8_t **out)
{
    struct mc_bson_element element;
    bool valid = mc_bson_validate(data, len, NULL) == MC_OK;
    if ((!valid && !MC_MUTANT_IS(353)) || /* 353: as it is */
        mc_bson_find(data, len, parts[kind].name, parts[kind].name_len, &element) != MC_OK ||
        element.type != MC_BSON_DOCUMENT) {
        return 0;
    }
    *out = element.value;
    return element.value_len;
}

void mc_counts_update(uint8_t *room, uint32_t *len, const struct mc_counts *loads,
                      const struct mc_counts *errors)
{
    static const struct mc_counts none = {0};
    const struct mc_counts *changed[] = {[MC_COUNTS_LOADS] = loads, [MC_COUNTS_ERRORS] = errors};
    uint8_t bytes[MC_COUNTS_ROOM] = {0}, *at = bytes + 4;
    size_t old_len = *len <= sizeof bytes ? *len : 0;
    for (int kind = 0; kind < MC_COUNTS_KINDS; kind++) {
        const struct part *part = &parts[kind];
        const uint8_t *old;
        size_t size = find_part(room, old_len, kind, &old);
        at = write_name(at, MC_BSON_DOCUMENT, part->name, part->name_len);
        if (changed[kind] == NULL && size > 0 && size <= part->room) {
            memcpy(at, old, size);
            at += size;
        } else {
            at += write_counts(at, part->room, changed[kind] != NULL ? changed[kind] : &none);
        }
    }
    *len = end_document(bytes, at);
    assert(*len <= sizeof bytes);
    memcpy(room, bytes, sizeof bytes);
}

/* ---- reading ---- */

bool mc_counts_open(const uint8_t *data, size_t len, enum mc_counts_kind kind,
                    struct mc_bson_cursor *cursor)
{
    const uint8_t *part;
    size_t size = find_part(data, len, kind, &part);
    if (size == 0) {
        return false;
    }
    (void)mc_bson_open(cursor, part, size); /* a document of its own length */
    return true;
}

bool mc_counts_next(struct mc_bson_cursor *cursor, struct mc_count *out)
{
    struct mc_bson_element element;
    while (mc_bson_next(cursor, &element) == MC_OK) {
        int64_t count = -1;
        if (element.type == MC_BSON_INT64) {
            count = (int64_t)mc_bson_u64(element.value);
        } else if (element.type == MC_BSON_INT32) {
            count = (int32_t)mc_bson_u32(element.value);
        }
        if (count >= 0) {
            *out = (struct mc_count){.name = (const char *)element.name,
                                     .name_len = element.name_len,
                                     .count = (uint64_t)count};
            return true;
        }
    }
    return false;
}
