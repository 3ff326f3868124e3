/* key.h - canonical keys: two `_id`s that MongoDB calls equal are the same (type, bytes).
 *
 *      type (5 bits)          bytes
 *      MC_BSON_STRING  2      UTF-8, no length, no NUL; a Symbol is a String
 *      MC_BSON_INT64  18      8 bytes: any number, of any of the four types, that is a whole int64
 *      MC_BSON_DOUBLE  1      8 bytes: any other number that is exactly a double; one NaN
 *      MC_BSON_DECIMAL128 19  16 bytes: the rest, with as few digits as its exponent allows
 *      MC_BSON_BINARY  5      subtype, then the data: MC_KEY_BYTES_MAX without it, as text has
 *      MC_BSON_DOCUMENT 3     BSON, its numbers, symbols and array indexes made canonical too
 *      MC_KEY_MINKEY, MC_KEY_MAXKEY, MC_BSON_NULL, MC_BSON_UNDEFINED: empty
 *      others                 their BSON type and value as it is
 *
 * Equal keys have equal bytes and unequal keys differ, so a table needs a hash and memcmp only.
 * Arrays cannot be an `_id` and are refused. Values are compared exactly: 0.1 and
 * NumberDecimal("0.1") are two keys, 0.5 and NumberDecimal("0.50") are one.
 *
 * Pure C: no Python, no allocation, no recursion, no state.
 */
#ifndef MMAPCACHE_KEY_H
#define MMAPCACHE_KEY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "bson.h"
#include "format.h"
#include "status.h"

/* BSON's type numbers of these two do not fit the five bits (MC_KEY_TYPES) that an entry has. */
enum { MC_KEY_MAXKEY = 30, MC_KEY_MINKEY = 31 };

/* data points into the source (a BSON value, a Python string), into inline_data or into the
 * caller's scratch: the key lives as long as these, and must not be copied by assignment. */
struct mc_key {
    uint64_t hash; /* filled by the store from its file's seed; not ours */
    const uint8_t *data;
    uint16_t len;
    uint8_t type;
    uint8_t inline_data[20];
};

/* Whether MongoDB calls them equal. */
static inline bool mc_key_equal(const struct mc_key *left, const struct mc_key *right)
{
    return left->type == right->type && left->len == right->len &&
           memcmp(left->data, right->data, left->len) == 0;
}

/* The canonical key of an `_id` whose document has been validated. scratch holds MC_KEY_MAX bytes
 * and must outlive the key; it is touched for subdocuments and the like only. MC_OK, MC_LIMIT when
 * the key is longer than MC_KEY_MAX, MC_INVALID for an array or for bytes that make no sense. */
enum mc_status mc_key_from_bson(const struct mc_bson_element *element, struct mc_key *key,
                                uint8_t scratch[MC_KEY_MAX], struct mc_error *err);

/* The canonical key of a whole document, as if it were the value of an `_id`. */
enum mc_status mc_key_from_document(const uint8_t *data, size_t len, struct mc_key *key,
                                    uint8_t scratch[MC_KEY_MAX], struct mc_error *err);

/* The canonical key of an int64, a double, a UTF-8 text: what a caller without BSON has at hand. */
void mc_key_from_int64(int64_t value, struct mc_key *key);
void mc_key_from_double(double value, struct mc_key *key);
enum mc_status mc_key_from_text(const char *text, size_t len, struct mc_key *key,
                                struct mc_error *err);

enum { MC_KEY_VALUE_MAX = MC_KEY_MAX + 16 };

/* The inverse: the BSON element, nameless, of canonical (type, data, len); it points into buffer.
 * MC_OK, or MC_CORRUPT when no canonical key looks like this (a damaged file). */
enum mc_status mc_key_to_bson(uint8_t type, const uint8_t *data, size_t len,
                              uint8_t buffer[MC_KEY_VALUE_MAX], struct mc_bson_element *element);

#endif
