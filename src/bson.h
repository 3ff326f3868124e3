/* bson.h - BSON as bytes: one strict validator, and a walker that trusts nothing.
 *
 *      +-----------+------------------------------------------+----+
 *      | int32 len | element | element | ...                  | 00 |
 *      +-----------+------------------------------------------+----+
 *                    type name 00 value
 *
 * Two callers with two needs. The writer asks mc_bson_validate() once, when a document enters the
 * cache. Everybody else walks: over validated private bytes, over the bytes of a damaged file, and
 * over a shared map that is being overwritten while we look. So the walker repeats every bound
 * check, reads each length exactly once, never looks outside [data, data + len), and always ends;
 * what it finds in a changing map is a guess until the caller has checked the horizon.
 *
 * Of fields with the same name the first one counts, as MongoDB's server reads its own documents.
 *
 * Pure C: no Python, no allocation, no recursion, no state. Any thread of any process may call.
 */
#ifndef MMAPCACHE_BSON_H
#define MMAPCACHE_BSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "status.h"

enum {
    MC_BSON_DEPTH_MAX = 200, /* documents within documents, the outermost included */
    MC_BSON_SIZE_MIN = 5,    /* the empty document */
};

enum mc_bson_type {
    MC_BSON_DOUBLE = 0x01,
    MC_BSON_STRING = 0x02,
    MC_BSON_DOCUMENT = 0x03,
    MC_BSON_ARRAY = 0x04,
    MC_BSON_BINARY = 0x05,
    MC_BSON_UNDEFINED = 0x06,
    MC_BSON_OID = 0x07,
    MC_BSON_BOOL = 0x08,
    MC_BSON_DATETIME = 0x09,
    MC_BSON_NULL = 0x0A,
    MC_BSON_REGEX = 0x0B,
    MC_BSON_DBPOINTER = 0x0C,
    MC_BSON_CODE = 0x0D,
    MC_BSON_SYMBOL = 0x0E,
    MC_BSON_CODE_SCOPE = 0x0F,
    MC_BSON_INT32 = 0x10,
    MC_BSON_TIMESTAMP = 0x11,
    MC_BSON_INT64 = 0x12,
    MC_BSON_DECIMAL128 = 0x13,
    MC_BSON_MAXKEY = 0x7F,
    MC_BSON_MINKEY = 0xFF,
};

/* One element of a document. The value is as BSON has it: a string's value begins with its int32
 * length and ends with its NUL, a document's with its own int32 length. */
struct mc_bson_element {
    const uint8_t *name; /* UTF-8, followed by a NUL that name_len does not count */
    const uint8_t *value;
    uint32_t name_len;
    uint32_t value_len;
    uint8_t type; /* enum mc_bson_type */
};

/* A position between two elements. */
struct mc_bson_cursor {
    const uint8_t *at;
    const uint8_t *end; /* the document's closing NUL */
};

/* Little-endian loads that the compiler must not repeat: the source may change under us. */
static inline uint32_t mc_bson_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    __asm__("" : "+r"(value));
    return value;
}

static inline uint8_t mc_bson_u8(const uint8_t *at)
{
    uint8_t value = *at;
    __asm__("" : "+r"(value));
    return value;
}

static inline uint64_t mc_bson_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    __asm__("" : "+r"(value));
    return value;
}

/* The length that the document at data says it has, or 0 when that is not within [5, len]: cuts a
 * buffer of concatenated documents into its parts. Says nothing of the content. */
static inline size_t mc_bson_size(const uint8_t *data, size_t len)
{
    uint32_t size;
    if (len < MC_BSON_SIZE_MIN) {
        return 0;
    }
    size = mc_bson_u32(data);
    return size >= MC_BSON_SIZE_MIN && size <= len && size <= INT32_MAX ? size : 0;
}

/* Validates exactly one document of exactly len bytes, names, UTF-8 and nested documents included.
 * MC_OK or MC_INVALID with the place. Agrees with PyMongo's bson.decode, save for the nesting limit
 * (docs/format.md lists the rules). The bytes must not change meanwhile. */
enum mc_status mc_bson_validate(const uint8_t *data, size_t len, struct mc_error *err);

/* Starts a walk over the document in [data, data + len): MC_OK, or MC_INVALID when the outer length
 * is. The closing NUL is not looked at: nothing depends on it, and it may be a cache line away. */
enum mc_status mc_bson_open(struct mc_bson_cursor *cursor, const uint8_t *data, size_t len);

/* The next element: MC_OK, MC_ABSENT at the end, MC_INVALID when the bytes make no sense, after
 * which the cursor is at the end. */
enum mc_status mc_bson_next(struct mc_bson_cursor *cursor, struct mc_bson_element *element);

/* The first field of that name in the document: MC_OK, MC_ABSENT or MC_INVALID. */
enum mc_status mc_bson_find(const uint8_t *data, size_t len, const char *name, size_t name_len,
                            struct mc_bson_element *element);

/* Follows a dotted path, "limits.qps" or "hosts.0.name". An array is entered by index only: there
 * is no implicit walk over its members. Any part that is missing, or that stands on a scalar, is
 * MC_ABSENT; MC_INVALID when the bytes make no sense. */
enum mc_status mc_bson_pluck(const uint8_t *data, size_t len, const char *path, size_t path_len,
                             struct mc_bson_element *element);

/* The same on from an element. */
enum mc_status mc_bson_pluck_on(struct mc_bson_element *element, const char *path, size_t path_len);

/* A part of a path as an array's index: plain digits, no sign, no leading zero. */
bool mc_bson_index(const char *part, size_t len, uint64_t *index);

/* Whether an element whose value was copied from a changing map still is what the walker found
 * there: a value of its type has exactly its length in the copy, too. MC_OK or MC_INVALID. */
enum mc_status mc_bson_again(const struct mc_bson_element *element);

/* The text of a STRING, SYMBOL or CODE value, without length and NUL: MC_OK or MC_INVALID. */
enum mc_status mc_bson_text(const struct mc_bson_element *element, const uint8_t **text,
                            uint32_t *text_len);

/* True when the bytes are UTF-8 as Python and MongoDB read it: shortest forms, no surrogates. */
bool mc_utf8_valid(const uint8_t *text, size_t len);

#endif
