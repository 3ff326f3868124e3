/* bson_bytes.h - how long a name and a value are: what the walker and the validator stand on.
 *
 *      skip_name(at, end)         -> behind the name's NUL, or NULL
 *      value_size(type, at, end)  -> bytes of the value, or 0 when it does not fit (a value of no
 *                                    bytes, null and the like, is told apart by its type)
 *
 * Names and text are looked at eight bytes at a time: a word without a zero byte and without a high
 * bit is eight characters of ASCII; names by sixteen where the processor has SSE2 (every x86-64).
 * Words are loaded only where so many bytes are left in the document, so that nothing behind it is
 * ever touched.
 */
#ifndef MMAPCACHE_BSON_BYTES_H
#define MMAPCACHE_BSON_BYTES_H

#include <assert.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "bson.h"

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
    assert(at <= end);
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

/* The size of the variable part at `at`, of which `left` bytes are there;
 * 0 when it does not fit. */
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

#endif
