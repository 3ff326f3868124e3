/* bson.c - the BSON walker, over bytes that nobody vouches for (see bson.h). */
#include "bson.h"

#include <assert.h>

#include "bson_bytes.h"
#include "mutant.h"

/* A walk over many fields waits for each line, as the next address comes from the last length; so
 * lines are prefetched this far ahead. */
#define AHEAD_BYTES 768

enum mc_status mc_bson_open(struct mc_bson_cursor *cursor, const uint8_t *data, size_t len)
{
    size_t size = mc_bson_size(data, len);
    assert(size <= len);
    *cursor = (struct mc_bson_cursor){.at = data, .end = data};
    if (size == 0) {
        return MC_INVALID;
    }
    cursor->at = data + 4;
    cursor->end = data + size - 1;
    assert(cursor->at <= cursor->end);
    return MC_OK;
}

/* Fills type, value and value_len for the value at `at`; behind it, or NULL. */
static inline const uint8_t *take_value(struct mc_bson_element *element, uint8_t type,
                                        const uint8_t *at, const uint8_t *end)
{
    uint8_t kind = value_kind(type);
    size_t left = (size_t)(end - at), size = kind;
    assert(at <= end);
    if (kind >= VARIABLE) {
        size = variable_size(kind, at, left);
        if (size == 0) {
            return NULL;
        }
    } else if (size > left && !MC_MUTANT_IS(400)) {
        return NULL;
    }
    assert(size <= left); /* what it points to lies in the document */
    element->type = type;
    element->value = at;
    element->value_len = (uint32_t)size;
    return at + size;
}

enum mc_status mc_bson_next(struct mc_bson_cursor *cursor, struct mc_bson_element *element)
{
    const uint8_t *at = cursor->at, *value;
    uint8_t type;
    assert(at <= cursor->end);
    if (at >= cursor->end) {
        return MC_ABSENT;
    }
    type = mc_bson_u8(at++);
    value = skip_name(at, cursor->end);
    cursor->at = value != NULL ? take_value(element, type, value, cursor->end) : NULL;
    if (cursor->at == NULL) {
        cursor->at = cursor->end; /* whoever goes on regardless comes to an end */
        return MC_INVALID;
    }
    assert(value > at && cursor->at <= cursor->end);
    element->name = at;
    element->name_len = (uint32_t)(value - at - 1);
    return MC_OK;
}

/* A name to look for: its first and its last eight bytes, the NUL counted as one of them. The first
 * word, masked for short names, rules most names out; with the last one it is all of a name of up
 * to 15 bytes, so that even names that only differ at their end need no call to memcmp. */
struct probe {
    const uint8_t *name;
    size_t len;
    uint64_t first, mask, last;
};

static struct probe probe_of(const char *name, size_t len)
{
    struct probe probe = {.name = (const uint8_t *)name, .len = len, .mask = ~(uint64_t)0};
    assert(memchr(name, 0, len) == NULL); /* else the NUL behind it would not be its end */
    memcpy(&probe.first, name, len < 8 ? len : 8);
    if (len < 7) { /* with the NUL behind it: 8 bits for each of len + 1 bytes */
        probe.mask = ((uint64_t)1 << (8 * (len + 1))) - 1;
    } else {
        memcpy(&probe.last, name + len - 7, 7);
    }
    return probe;
}

/* True when the name at `at`, which ends before `end`, is the one. */
static inline bool probe_matches(const struct probe *probe, const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at), len = probe->len;
    assert(at <= end);
    if (left >= 8 && ((mc_bson_u64(at) ^ probe->first) & probe->mask) != 0) {
        return false;
    }
    if (left >= 8 && len < 8) {
        return true;
    }
    if (left <= len || (len >= 8 && mc_bson_u64(at + len - 7) != probe->last)) {
        return false;
    }
    return len >= 8 ? len < 16 || memcmp(at, probe->name, len) == 0
                    : memcmp(at, probe->name, len) == 0 && at[len] == 0;
}

/* True when the name at `at` is known to have this length; false may just mean that it is long. */
static inline bool name_ends_at(const uint8_t *at, size_t length, const uint8_t *end)
{
    uint32_t nuls, high;
    assert(at <= end);
    if (length >= 16 || end - at < 16) {
        return false;
    }
    look_at_16(at, &nuls, &high);
    return (nuls & (0xFFFFu >> (15 - length))) == (uint32_t)1 << length;
}

/* Passes over one value: behind it, or NULL. The common types come first, with their sizes as
 * constants: a branch that is predicted lets the processor begin with the next element at once. */
static inline const uint8_t *pass_value(uint8_t type, const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at), size;
    uint8_t kind;
    assert(at <= end);
    if (type == MC_BSON_STRING && left >= 5) {
        size = mc_bson_u32(at);
        return size >= 1 && size <= left - 4 ? at + 4 + size : NULL;
    }
    if ((type == MC_BSON_DOCUMENT || type == MC_BSON_ARRAY) && left >= MC_BSON_SIZE_MIN) {
        size = mc_bson_u32(at);
        return size >= MC_BSON_SIZE_MIN && size <= left ? at + size : NULL;
    }
    if (type == MC_BSON_INT32) {
        return left >= 4 ? at + 4 : NULL;
    }
    if (type == MC_BSON_BOOL) {
        return left >= 1 ? at + 1 : NULL;
    }
    kind = value_kind(type);
    size = kind < VARIABLE ? kind : variable_size(kind, at, left);
    return size > left || (size == 0 && kind >= VARIABLE) ? NULL : at + size;
}

enum mc_status mc_bson_find(const uint8_t *data, size_t len, const char *name, size_t name_len,
                            struct mc_bson_element *element)
{
    struct mc_bson_cursor cursor;
    struct probe probe;
    const uint8_t *at, *end;
    size_t expected = name_len;
    if (mc_bson_open(&cursor, data, len) != MC_OK) {
        return MC_INVALID;
    }
    if (memchr(name, 0, name_len) != NULL) {
        return MC_ABSENT; /* a field's name cannot hold a NUL */
    }
    probe = probe_of(name, name_len);
    at = cursor.at;
    end = cursor.end;
    while (at < end && !probe_matches(&probe, at + 1, end)) {
        if (end - at > AHEAD_BYTES) {
            __builtin_prefetch(at + AHEAD_BYTES);
        }
        /* Names often have the length of the one before. To check that guess instead of computing
         * the length lets the processor go on with the guess at once,
         * before it has even loaded the name. */
        if (!name_ends_at(at + 1, expected, end)) {
            const uint8_t *after = skip_name(at + 1, end);
            if (after == NULL) {
                return MC_INVALID;
            }
            expected = (size_t)(after - at) - 2;
        }
        at = pass_value(mc_bson_u8(at), at + expected + 2, end);
        if (at == NULL) {
            return MC_INVALID;
        }
        assert(at <= end); /* a value never leads out of its document */
    }
    if (at >= end) {
        return MC_ABSENT;
    }
    if (take_value(element, mc_bson_u8(at), at + 1 + name_len + 1, end) == NULL) {
        return MC_INVALID;
    }
    element->name = at + 1;
    element->name_len = (uint32_t)name_len;
    return MC_OK;
}

/* The member number `index` of an array whose length is known to fit; names are not looked at. */
static enum mc_status find_index(const uint8_t *data, size_t len, uint64_t index,
                                 struct mc_bson_element *element)
{
    struct mc_bson_cursor cursor;
    enum mc_status status;
    (void)mc_bson_open(&cursor, data, len);
    do {
        status = mc_bson_next(&cursor, element);
    } while (status == MC_OK && index-- > 0);
    return status;
}

bool mc_bson_index(const char *part, size_t len, uint64_t *index)
{
    if (len == 0 || len > 9 || (part[0] == '0' && len > 1)) {
        return false;
    }
    *index = 0;
    for (size_t i = 0; i < len; i++) {
        if (part[i] < '0' || part[i] > '9') {
            return false;
        }
        *index = *index * 10 + (uint64_t)(part[i] - '0');
    }
    return true;
}

enum mc_status mc_bson_pluck_on(struct mc_bson_element *element, const char *path, size_t path_len)
{
    for (;;) {
        const char *dot = memchr(path, '.', path_len);
        size_t part = dot != NULL ? (size_t)(dot - path) : path_len;
        enum mc_status status = MC_ABSENT;
        uint64_t index;
        assert(part <= path_len);
        if (element->type == MC_BSON_DOCUMENT) {
            status = mc_bson_find(element->value, element->value_len, path, part, element);
        } else if (element->type == MC_BSON_ARRAY && mc_bson_index(path, part, &index)) {
            status = find_index(element->value, element->value_len, index, element);
        }
        if (status != MC_OK || dot == NULL) {
            return status;
        }
        path += part + 1;
        path_len -= part + 1;
    }
}

enum mc_status mc_bson_pluck(const uint8_t *data, size_t len, const char *path, size_t path_len,
                             struct mc_bson_element *element)
{
    *element = (struct mc_bson_element){
        .type = MC_BSON_DOCUMENT, .value = data, .value_len = (uint32_t)len};
    assert(len <= UINT32_MAX);
    return mc_bson_pluck_on(element, path, path_len);
}

enum mc_status mc_bson_again(const struct mc_bson_element *element)
{
    struct mc_bson_element copy;
    const uint8_t *end = element->value + element->value_len;
    assert(element->value != NULL);
    bool same = take_value(&copy, element->type, element->value, end) == end;
    return same || MC_MUTANT_IS(403) ? MC_OK
                                     : MC_INVALID; /* 403: what was found in the map counts */
}

enum mc_status mc_bson_text(const struct mc_bson_element *element, const uint8_t **text,
                            uint32_t *text_len)
{
    if (element->value_len < 5 || value_kind(element->type) != SIZED_TEXT) {
        return MC_INVALID;
    }
    *text = element->value + 4;
    *text_len = element->value_len - 5;
    return MC_OK;
}
