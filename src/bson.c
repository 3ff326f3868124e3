/* bson.c - the BSON validator and walker (see bson.h).
 *
 * Both stand on two primitives:
 *
 *      skip_name(at, end)         -> behind the name's NUL, or NULL
 *      value_size(type, at, end)  -> bytes of the value, or 0 when it does not fit (a value of no
 *                                    bytes, null and the like, is told apart by its type)
 *
 * Names and text are looked at eight bytes at a time: a word without a zero byte and without a high
 * bit is eight characters of ASCII; names by sixteen where the processor has SSE2 (every x86-64).
 * Words are loaded only where so many bytes are left in the document, so that nothing behind it is
 * ever touched.
 *
 * The validator keeps the ends of the open documents in an array instead of recursing. Invariants
 * of its loop: data < at <= end < data + len, and *end is the closing NUL of the innermost
 * document.
 */
#include "bson.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "mutant.h"

/* A walk over many fields waits for each line, as the next address comes from the last length; so
 * lines are asked for this far ahead. */
#define AHEAD_BYTES 768

#define WORD_LOW 0x0101010101010101u
#define WORD_HIGH 0x8080808080808080u

/* How the value of each type is measured: below VARIABLE its size, else one of these. */
enum {
    VARIABLE = 0x80,
    SIZED_TEXT = VARIABLE, /* int32 n, n bytes with a NUL */
    SIZED_WHOLE,           /* int32 n counts itself: documents and arrays */
    SIZED_BINARY,          /* int32 n, subtype, n bytes */
    SIZED_REGEX,           /* two NUL-terminated strings */
    SIZED_DBPOINTER,       /* text, then an ObjectId */
    SIZED_CODE_SCOPE,      /* int32 n counts itself; text; document */
    UNKNOWN = 0xFF,
};

static const uint8_t value_kinds[20] = {
    [0] = UNKNOWN,
    [MC_BSON_DOUBLE] = 8,
    [MC_BSON_STRING] = SIZED_TEXT,
    [MC_BSON_DOCUMENT] = SIZED_WHOLE,
    [MC_BSON_ARRAY] = SIZED_WHOLE,
    [MC_BSON_BINARY] = SIZED_BINARY,
    [MC_BSON_UNDEFINED] = 0,
    [MC_BSON_OID] = 12,
    [MC_BSON_BOOL] = 1,
    [MC_BSON_DATETIME] = 8,
    [MC_BSON_NULL] = 0,
    [MC_BSON_REGEX] = SIZED_REGEX,
    [MC_BSON_DBPOINTER] = SIZED_DBPOINTER,
    [MC_BSON_CODE] = SIZED_TEXT,
    [MC_BSON_SYMBOL] = SIZED_TEXT,
    [MC_BSON_CODE_SCOPE] = SIZED_CODE_SCOPE,
    [MC_BSON_INT32] = 4,
    [MC_BSON_TIMESTAMP] = 8,
    [MC_BSON_INT64] = 8,
    [MC_BSON_DECIMAL128] = 16,
};

static inline uint8_t value_kind(uint8_t type)
{
    if (type < sizeof value_kinds) {
        return value_kinds[type];
    }
    return type == MC_BSON_MINKEY || type == MC_BSON_MAXKEY ? 0 : UNKNOWN;
}

/* The zero bytes of a word, as 0x80 in their places; exact up to and including the lowest one. */
static inline uint64_t zero_bytes(uint64_t word)
{
    return (word - WORD_LOW) & ~word & WORD_HIGH;
}

/* Looks at the 16 bytes at `at`: bit i of *nuls is set when byte i is 0, bit i of *high when it is
 * not ASCII; *nuls is exact up to and including its lowest bit. */
static inline void look_at_16(const uint8_t *at, uint32_t *nuls, uint32_t *high)
{
#ifdef __SSE2__
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
    *nuls = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
    *high = (uint32_t)_mm_movemask_epi8(bytes);
#else
    const uint64_t gather = 0x0002040810204081u; /* brings the eight high bits together */
    uint64_t low = mc_bson_u64(at), more = mc_bson_u64(at + 8);
    *nuls = (uint32_t)((zero_bytes(low) >> 7) * (gather << 7) >> 56) |
            (uint32_t)((zero_bytes(more) >> 7) * (gather << 7) >> 56) << 8;
    *high = (uint32_t)(((low & WORD_HIGH) >> 7) * (gather << 7) >> 56) |
            (uint32_t)(((more & WORD_HIGH) >> 7) * (gather << 7) >> 56) << 8;
#endif
}

/* Behind the first NUL in [at, end), or NULL when there is none. */
static inline const uint8_t *skip_name(const uint8_t *at, const uint8_t *end)
{
    while (end - at >= 16) {
        uint32_t nuls, high;
        look_at_16(at, &nuls, &high);
        if (nuls != 0) {
            return at + __builtin_ctz(nuls) + 1;
        }
        at += 16;
    }
    while (end - at >= 8) {
        uint64_t zeros = zero_bytes(mc_bson_u64(at));
        if (zeros != 0) {
            return at + (__builtin_ctzll(zeros) >> 3) + 1;
        }
        at += 8;
    }
    while (at < end) {
        if (*at++ == 0) {
            return at;
        }
    }
    return NULL;
}

/* The size of the variable part at `at`, of which `left` bytes are there; 0 when it does not fit.
 */
static inline size_t variable_size(uint8_t kind, const uint8_t *at, size_t left)
{
    size_t size;
    if (kind == SIZED_REGEX) {
        const uint8_t *flags = skip_name(at, at + left);
        const uint8_t *after = flags != NULL ? skip_name(flags, at + left) : NULL;
        return after != NULL ? (size_t)(after - at) : 0;
    }
    if (kind == UNKNOWN || left < 4) {
        return 0;
    }
    size = mc_bson_u32(at);
    switch (kind) {
    case SIZED_TEXT:
        return size >= 1 && size <= left - 4 ? size + 4 : 0;
    case SIZED_WHOLE:
        return size >= MC_BSON_SIZE_MIN && size <= left ? size : 0;
    case SIZED_BINARY:
        return left >= 5 && size <= left - 5 ? size + 5 : 0;
    case SIZED_DBPOINTER:
        return size >= 1 && left >= 16 && size <= left - 16 ? size + 16 : 0;
    default: /* SIZED_CODE_SCOPE: two lengths, a NUL and an empty document at least */
        return size >= 4 + 4 + 1 + MC_BSON_SIZE_MIN && size <= left ? size : 0;
    }
}

/* ---- walking over bytes that nobody vouches for ---- */

enum mc_status mc_bson_open(struct mc_bson_cursor *cursor, const uint8_t *data, size_t len)
{
    size_t size = mc_bson_size(data, len);
    *cursor = (struct mc_bson_cursor){.at = data, .end = data};
    if (size == 0) {
        return MC_INVALID;
    }
    cursor->at = data + 4;
    cursor->end = data + size - 1;
    return MC_OK;
}

/* Fills type, value and value_len for the value at `at`; behind it, or NULL. */
static inline const uint8_t *take_value(struct mc_bson_element *element, uint8_t type,
                                        const uint8_t *at, const uint8_t *end)
{
    uint8_t kind = value_kind(type);
    size_t left = (size_t)(end - at), size = kind;
    if (kind >= VARIABLE) {
        size = variable_size(kind, at, left);
        if (size == 0) {
            return NULL;
        }
    } else if (size > left && !MC_MUTANT_IS(400)) {
        return NULL;
    }
    element->type = type;
    element->value = at;
    element->value_len = (uint32_t)size;
    return at + size;
}

enum mc_status mc_bson_next(struct mc_bson_cursor *cursor, struct mc_bson_element *element)
{
    const uint8_t *at = cursor->at, *value;
    uint8_t type;
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
         * the length lets the processor go on with the guess at once, before it has even loaded the
         * name. */
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

/* A part of a path as an array index: plain digits, no sign, no leading zero. */
static bool parse_index(const char *part, size_t len, uint64_t *index)
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

enum mc_status mc_bson_pluck(const uint8_t *data, size_t len, const char *path, size_t path_len,
                             struct mc_bson_element *element)
{
    uint8_t type = MC_BSON_DOCUMENT;
    for (;;) {
        const char *dot = memchr(path, '.', path_len);
        size_t part = dot != NULL ? (size_t)(dot - path) : path_len;
        enum mc_status status = MC_ABSENT;
        uint64_t index;
        if (type == MC_BSON_DOCUMENT) {
            status = mc_bson_find(data, len, path, part, element);
        } else if (type == MC_BSON_ARRAY && parse_index(path, part, &index)) {
            status = find_index(data, len, index, element);
        }
        if (status != MC_OK || dot == NULL) {
            return status;
        }
        type = element->type;
        data = element->value;
        len = element->value_len;
        path += part + 1;
        path_len -= part + 1;
    }
}

enum mc_status mc_bson_again(const struct mc_bson_element *element)
{
    struct mc_bson_element copy;
    const uint8_t *end = element->value + element->value_len;
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

/* ---- validation ---- */

/* Bytes of the UTF-8 sequence that starts with a byte >= 0x80, or 0 when it is malformed. */
static size_t sequence_size(const uint8_t *at, size_t left)
{
    uint8_t lead = at[0], low = 0x80, high = 0xBF;
    size_t size;
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
    }
}

/* mc_utf8_valid of text that has 8 readable bytes from its last word on, when `limit` allows. */
static inline bool text_valid(const uint8_t *at, size_t len, const uint8_t *limit)
{
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
    return at[size - 1] == 0 && text_valid(at, size - 1, end);
}

/* Whether the content of a value is right whose size is. Documents and arrays are not looked into.
 */
static inline bool valid_content(uint8_t type, const uint8_t *at, size_t size, const uint8_t *end)
{
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
        }
    }
}
