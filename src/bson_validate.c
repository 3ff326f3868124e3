/* bson_validate.c - the BSON validator (see bson.h).
 *
 * It keeps the ends of the open documents in an array instead of recursing. Invariants of its loop:
 * data < at <= end < data + len, and *end is the closing NUL of the innermost document.
 */
#include <assert.h>

#include "bson.h"
#include "bson_bytes.h"
#include "mutant.h"

/* Bytes of the UTF-8 sequence that starts with a byte >= 0x80, or 0 when it is malformed. */
static size_t sequence_size(const uint8_t *at, size_t left)
{
    uint8_t lead = at[0], low = 0x80, high = 0xBF;
    size_t size;
    assert(left > 0);
    if (lead >= 0xC2 && lead <= 0xDF) {
        size = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        size = 3;
        low = lead == 0xE0 ? 0xA0 : low;   /* shortest form */
        high = lead == 0xED ? 0x9F : high; /* no surrogates */
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        size = 4;
        low = lead == 0xF0 ? 0x90 : low;
        high = lead == 0xF4 ? 0x8F : high; /* U+10FFFF */
    } else {
        return 0;
    }
    if (left < size || at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return size;
}

bool mc_utf8_valid(const uint8_t *text, size_t len)
{
    const uint8_t *at = text, *end = text + len;
    for (;;) {
        size_t size = 1;
        while (end - at >= 8 && (mc_bson_u64(at) & WORD_HIGH) == 0) {
            at += 8;
        }
        if (at == end) {
            return true;
        }
        if (*at >= 0x80) {
            size = sequence_size(at, (size_t)(end - at));
            if (size == 0) {
                return false;
            }
        }
        at += size;
        assert(at <= end);
    }
}

/* mc_utf8_valid of text that has 8 readable bytes from its last word on, when `limit` allows. */
static inline bool text_valid(const uint8_t *at, size_t len, const uint8_t *limit)
{
    assert(at <= limit && len <= (size_t)(limit - at));
    while (len >= 8) {
        if ((mc_bson_u64(at) & WORD_HIGH) != 0) {
            return mc_utf8_valid(at, len);
        }
        at += 8;
        len -= 8;
    }
    if (limit - at >= 8) {
        uint64_t mask = ((uint64_t)1 << (8 * len)) - 1;
        if ((mc_bson_u64(at) & mask & WORD_HIGH) == 0) {
            return true;
        }
    }
    return mc_utf8_valid(at, len);
}

/* A name or another NUL-terminated string: behind its NUL, or NULL when it has none before `end` or
 * is not UTF-8. Most are ASCII and short. */
static inline const uint8_t *valid_name(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *start = at, *after;
    assert(at <= end);
    if (end - at >= 16) {
        uint32_t nuls, high;
        look_at_16(at, &nuls, &high);
        if (nuls != 0 && (high & (nuls - 1) & ~nuls) == 0) {
            return at + __builtin_ctz(nuls) + 1;
        }
    }
    after = skip_name(at, end);
    if (after == NULL || !text_valid(start, (size_t)(after - start - 1), end)) {
        return NULL;
    }
    return after;
}

/* The text of `size` bytes at `at`, NUL included. */
static inline bool valid_text(const uint8_t *at, size_t size, const uint8_t *end)
{
    assert(size > 0 && size <= (size_t)(end - at)); /* variable_size saw to it */
    return at[size - 1] == 0 && text_valid(at, size - 1, end);
}

/* Whether the content of a value is right whose size is.
 * Documents and arrays are not looked into. */
static inline bool valid_content(uint8_t type, const uint8_t *at, size_t size, const uint8_t *end)
{
    assert(at <= end && size <= (size_t)(end - at));
    switch (type) {
    case MC_BSON_STRING:
    case MC_BSON_CODE:
    case MC_BSON_SYMBOL:
        return valid_text(at + 4, size - 4, end);
    case MC_BSON_BOOL:
        return at[0] <= 1 || MC_MUTANT_IS(401);
    case MC_BSON_BINARY: /* the old subtype 2 has the length a second time */
        return at[4] != 2 || MC_MUTANT_IS(402) ||
               (size >= 9 && (size_t)mc_bson_u32(at + 5) == size - 9);
    case MC_BSON_REGEX: {
        const uint8_t *flags = valid_name(at, at + size);
        return flags != NULL && valid_name(flags, at + size) != NULL;
    }
    case MC_BSON_DBPOINTER:
        return valid_text(at + 4, size - 16, end);
    default:
        return true;
    }
}

/* Where the scope of a CODE_SCOPE value begins, when its parts fill it exactly; else NULL. */
static const uint8_t *valid_scope(const uint8_t *at, size_t size, const uint8_t *end)
{
    size_t code = mc_bson_u32(at + 4), scope;
    assert(size >= 4 + 4 + 1 + MC_BSON_SIZE_MIN); /* variable_size saw to it */
    if (code < 1 || code > size - 8 - MC_BSON_SIZE_MIN) {
        return NULL;
    }
    scope = mc_bson_u32(at + 8 + code);
    if (scope < MC_BSON_SIZE_MIN || 8 + code + scope != size || !valid_text(at + 8, code, end)) {
        return NULL;
    }
    return at + 8 + code;
}

static enum mc_status invalid(struct mc_error *err, size_t at, const char *what)
{
    return mc_fail(err, MC_INVALID, "not valid BSON: %s at byte %zu", what, at);
}

enum mc_status mc_bson_validate(const uint8_t *data, size_t len, struct mc_error *err)
{
    const uint8_t *ends[MC_BSON_DEPTH_MAX]; /* of the documents around the innermost one */
    bool arrays[MC_BSON_DEPTH_MAX];
    const uint8_t *at, *end;
    unsigned depth = 0;
    bool array = false;
    if (mc_bson_size(data, len) != len || len == 0 || data[len - 1] != 0) {
        return invalid(err, 0, "the length is not that of the bytes given, or the last is not 0");
    }
    at = data + 4;
    end = data + len - 1;
    for (;;) {
        const uint8_t *value;
        uint8_t type, kind;
        size_t size;
        assert(data < at && at <= end && end < data + len);
        if (at == end) {
            if (depth == 0) {
                return MC_OK;
            }
            at = end + 1;
            end = ends[--depth];
            array = arrays[depth];
            continue;
        }
        type = *at;
        /* the names of an array's members mean nothing, and bson.decode does not look at them */
        value = array ? skip_name(at + 1, end) : valid_name(at + 1, end);
        if (value == NULL) {
            return invalid(err, (size_t)(at - data),
                           "a field's name does not end, or is not UTF-8");
        }
        kind = value_kind(type);
        size = kind < VARIABLE ? kind : variable_size(kind, value, (size_t)(end - value));
        if (size > (size_t)(end - value) || (size == 0 && kind >= VARIABLE)) {
            return invalid(err, (size_t)(at - data),
                           "a field's type is unknown or its value too long");
        }
        if (!valid_content(type, value, size, end)) {
            return invalid(err, (size_t)(at - data), "a field's value is malformed");
        }
        at = value + size;
        if (kind == SIZED_WHOLE || kind == SIZED_CODE_SCOPE) {
            const uint8_t *inner = kind == SIZED_WHOLE ? value : valid_scope(value, size, end);
            if (inner == NULL || at[-1] != 0) {
                return invalid(err, (size_t)(value - data), "a nested document is malformed");
            }
            if (depth == MC_BSON_DEPTH_MAX - 1) {
                return invalid(err, (size_t)(value - data), "more than 200 documents are nested");
            }
            ends[depth] = end;
            arrays[depth++] = array;
            array = type == MC_BSON_ARRAY;
            end = at - 1;
            at = inner + 4;
            assert(depth < MC_BSON_DEPTH_MAX && end < ends[depth - 1]);
        }
    }
}
