/* key_order.c - the order of canonical keys: see key_order.h. */
#include "key_order.h"

#include <string.h>

#include "key.h"

/* Kinds of keys in MongoDB's order; what is no key's type comes last. */
static const uint8_t ranks[MC_KEY_TYPES] = {
    [MC_KEY_MINKEY] = 1,      [MC_BSON_UNDEFINED] = 2,   [MC_BSON_NULL] = 3,
    [MC_BSON_DOUBLE] = 4,     [MC_BSON_INT64] = 4,       [MC_BSON_DECIMAL128] = 4,
    [MC_BSON_STRING] = 5,     [MC_BSON_DOCUMENT] = 6,    [MC_BSON_BINARY] = 7,
    [MC_BSON_OID] = 8,        [MC_BSON_BOOL] = 9,        [MC_BSON_DATETIME] = 10,
    [MC_BSON_TIMESTAMP] = 11, [MC_BSON_REGEX] = 12,      [MC_BSON_DBPOINTER] = 13,
    [MC_BSON_CODE] = 14,      [MC_BSON_CODE_SCOPE] = 15, [MC_KEY_MAXKEY] = 16,
};
#define RANK_NUMBER 4u

static int order(uint64_t left, uint64_t right)
{
    return (left > right) - (left < right);
}

static int order_bytes(const uint8_t *data, size_t len, const uint8_t *other, size_t other_len)
{
    size_t common = len < other_len ? len : other_len;
    int first = common != 0 ? memcmp(data, other, common) : 0;
    return first != 0 ? first : order(len, other_len);
}

/* Eight bytes as a number; whatever is too short has none. */
static uint64_t word(const uint8_t *data, size_t len)
{
    uint64_t value = 0;
    memcpy(&value, data, len < sizeof value ? len : sizeof value);
    return value;
}

/* A decimal as near as a long double comes to it. */
static long double decimal(const uint8_t *data, size_t len)
{
    uint64_t high = len == 16 ? mc_bson_u64(data + 8) : 0;
    long double value =
        (long double)(high & 0x1FFFFFFFFFFFFu) * 0x1p64L + (long double)word(data, len);
    int exponent = (int)(high >> 49 & 0x3FFF) - 6176;
    long double power = exponent < 0 ? 0.1L : 10.0L;
    for (unsigned left = (unsigned)(exponent < 0 ? -exponent : exponent); left != 0; left >>= 1) {
        value *= (left & 1) != 0 ? power : 1.0L;
        power *= power;
    }
    return high >> 63 != 0 ? -value : value;
}

static long double number(uint8_t type, const uint8_t *data, size_t len)
{
    uint64_t bits = word(data, len);
    double real;
    if (type == MC_BSON_INT64) {
        return (long double)(int64_t)bits;
    }
    if (type == MC_BSON_DECIMAL128) {
        return decimal(data, len);
    }
    memcpy(&real, &bits, sizeof real);
    return (long double)real;
}

static int order_numbers(long double left, long double right)
{
    int nan = (right != right) - (left != left); /* NaN is before all others */
    return nan != 0 ? nan : (left > right) - (left < right);
}

int mc_key_compare(uint8_t type, const uint8_t *data, size_t len, uint8_t other_type,
                   const uint8_t *other, size_t other_len)
{
    const uint64_t sign = UINT64_C(1) << 63;
    unsigned rank = ranks[type % MC_KEY_TYPES];
    int first = order(rank, ranks[other_type % MC_KEY_TYPES]);
    if (first == 0 && rank == RANK_NUMBER) {
        first = order_numbers(number(type, data, len), number(other_type, other, other_len));
    } else if (first == 0 && type == MC_BSON_DATETIME) {
        first = order(word(data, len) ^ sign, word(other, other_len) ^ sign);
    } else if (first == 0 && type == MC_BSON_TIMESTAMP) {
        first = order(word(data, len), word(other, other_len));
    } else if (first == 0 && type == MC_BSON_BINARY) {
        first = order(len, other_len);
    }
    first = first != 0 ? first : order(type, other_type);
    return first != 0 ? first : order_bytes(data, len, other, other_len);
}
