/* test_key.c - canonical keys: equal for MongoDB means equal bytes, unequal means unequal bytes.
 *
 * Numbers are checked against an independent opinion: a double or int64 written as a decimal with
 * many different exponents must come out as the same key.
 */
#include "key.h"

#include "harness.h"

__extension__ typedef unsigned __int128 uint128;

static uint8_t scratch_a[MC_KEY_MAX], scratch_b[MC_KEY_MAX];

static enum mc_status key_of(uint8_t type, const void *value, size_t len, struct mc_key *key,
                             uint8_t *scratch)
{
    static struct mc_error err;
    struct mc_bson_element element = {
        .type = type, .value = value, .value_len = (uint32_t)len, .name = (const uint8_t *)""};
    return mc_key_from_bson(&element, key, scratch, &err);
}

/* True when both values are one key; and both go to BSON and back unchanged. */
static bool equal(uint8_t type_a, const void *a, size_t len_a, uint8_t type_b, const void *b,
                  size_t len_b)
{
    struct mc_key left, right, again;
    uint8_t buffer[MC_KEY_VALUE_MAX];
    struct mc_bson_element element;
    CHECK_EQ(key_of(type_a, a, len_a, &left, scratch_a), MC_OK);
    CHECK_EQ(key_of(type_b, b, len_b, &right, scratch_b), MC_OK);
    CHECK(left.type < MC_KEY_TYPES && right.type < MC_KEY_TYPES);
    CHECK_EQ(mc_key_to_bson(left.type, left.data, left.len, buffer, &element), MC_OK);
    CHECK_EQ(element.name_len, 0);
    CHECK_EQ(
        key_of(element.type, element.value, element.value_len, &again, (uint8_t[MC_KEY_MAX]){0}),
        MC_OK);
    CHECK(left.type == again.type && left.len == again.len);
    return mc_key_equal(&left, &right);
}

/* ---- numbers ---- */

struct decimal {
    uint64_t low, high;
};

/* Not canonical on purpose: takes the coefficient and exponent as they are. */
static struct decimal decimal(bool negative, uint128 coefficient, int exponent)
{
    return (struct decimal){.low = (uint64_t)coefficient,
                            .high = (uint64_t)(coefficient >> 64) |
                                    (uint64_t)(exponent + 6176) << 49 | (uint64_t)negative << 63};
}

static bool int64_is(int64_t integer, uint8_t type, const void *value, size_t len)
{
    return equal(MC_BSON_INT64, &integer, 8, type, value, len);
}

static bool double_is(double real, uint8_t type, const void *value, size_t len)
{
    return equal(MC_BSON_DOUBLE, &real, 8, type, value, len);
}

static bool int64_is_double(int64_t integer, double real)
{
    return int64_is(integer, MC_BSON_DOUBLE, &real, 8);
}

static bool int64_is_decimal(int64_t integer, struct decimal d)
{
    return int64_is(integer, MC_BSON_DECIMAL128, &d, 16);
}

static bool double_is_decimal(double real, struct decimal d)
{
    return double_is(real, MC_BSON_DECIMAL128, &d, 16);
}

static bool decimals_equal(struct decimal a, struct decimal b)
{
    return equal(MC_BSON_DECIMAL128, &a, 16, MC_BSON_DECIMAL128, &b, 16);
}

static void test_whole_numbers(void)
{
    int32_t one = 1, minus = -5;
    CHECK(int64_is(1, MC_BSON_INT32, &one, 4));
    CHECK(int64_is(-5, MC_BSON_INT32, &minus, 4));
    CHECK(int64_is_double(1, 1.0));
    CHECK(int64_is_double(0, -0.0));
    CHECK(!int64_is_double(1, 1.5));
    CHECK(int64_is_double((int64_t)1 << 53, 0x1p53));
    CHECK(!int64_is_double(((int64_t)1 << 53) + 1, 0x1p53));
    CHECK(int64_is_double(INT64_MIN, -0x1p63));
    CHECK(!int64_is_double(INT64_MAX, 0x1p63));
    CHECK(int64_is_decimal(1, decimal(false, 1, 0)));
    CHECK(int64_is_decimal(1, decimal(false, 1000, -3)));
    CHECK(int64_is_decimal(1000, decimal(false, 1, 3)));
    CHECK(int64_is_decimal(0, decimal(true, 0, 0)));
    CHECK(int64_is_decimal(0, decimal(false, 0, 6111)));
    CHECK(int64_is_decimal(INT64_MAX, decimal(false, INT64_MAX, 0)));
    CHECK(int64_is_decimal(INT64_MIN, decimal(true, (uint128)1 << 63, 0)));
    CHECK(!int64_is_decimal(INT64_MIN, decimal(false, (uint128)1 << 63, 0)));
    CHECK(double_is_decimal(0x1p63, decimal(false, (uint128)1 << 63, 0)));
    CHECK(int64_is_decimal(0, (struct decimal){5, 0x6C10000000000000u})); /* the other encoding */
    CHECK(int64_is_decimal(0, (struct decimal){UINT64_MAX, 0x3041FFFFFFFFFFFFu})); /* 35 digits */
    for (int round = 0; round < test_rounds(20000); round++) {
        int64_t integer = (int64_t)(test_random() >> test_below(64));
        uint128 coefficient;
        int exponent = 0;
        integer = test_below(2) ? integer : (int64_t)(0 - (uint64_t)integer);
        coefficient = integer < 0 ? (uint128)(0 - (uint64_t)integer) : (uint128)integer;
        for (uint64_t i = test_below(15); i > 0; i--) {
            coefficient *= 10;
            exponent--;
        }
        CHECK(int64_is_decimal(integer, decimal(integer < 0, coefficient, exponent)));
        CHECK(!int64_is_decimal(integer, decimal(integer < 0, coefficient + 1, exponent)));
        if ((double)integer < 0x1p63 && (int64_t)(double)integer == integer) {
            CHECK(int64_is_double(integer, (double)integer));
        } else {
            CHECK(!int64_is_double(integer, (double)integer));
        }
    }
}

static void test_other_numbers(void)
{
    static const struct decimal nan_decimal = {0, 0x7C00000000000000u},
                                nan_other = {5, 0xFE00000000000000u},
                                infinity = {0, 0x7800000000000000u},
                                minus_infinity = {0, 0xF800000000000000u};
    uint64_t odd_nan = 0xFFF0000000000001u;
    double googol = 1e100;
    CHECK(double_is(__builtin_nan(""), MC_BSON_DOUBLE, &odd_nan, 8));
    CHECK(double_is_decimal(__builtin_nan(""), nan_decimal));
    CHECK(double_is_decimal(__builtin_nan(""), nan_other));
    CHECK(double_is_decimal(__builtin_inf(), infinity));
    CHECK(double_is_decimal(-__builtin_inf(), minus_infinity));
    CHECK(!double_is_decimal(__builtin_inf(), minus_infinity));
    CHECK(double_is_decimal(0.5, decimal(false, 5, -1)));
    CHECK(double_is_decimal(-0.375, decimal(true, 37500, -5)));
    CHECK(!double_is_decimal(0.375, decimal(true, 37500, -5)));
    CHECK(!double_is_decimal(0.1, decimal(false, 1, -1)));
    CHECK(!double_is_decimal(googol, decimal(false, 1, 100)));
    CHECK(double_is_decimal(1e22, decimal(false, 1, 22)));
    CHECK(!double_is_decimal(1e23, decimal(false, 1, 23)));
    CHECK(decimals_equal(decimal(false, 1, -1), decimal(false, 100, -3)));
    CHECK(!decimals_equal(decimal(false, 1, -1), decimal(true, 1, -1)));
    CHECK(!decimals_equal(decimal(false, 1, -1), decimal(false, 1, -2)));
    CHECK(decimals_equal(decimal(false, 1000, 6108), decimal(false, 1, 6111)));
    CHECK(decimals_equal(decimal(false, 10, 6111), decimal(false, 10, 6111)));
    CHECK(!decimals_equal(decimal(false, 10, 6111), decimal(false, 1, 6111)));
    CHECK(decimals_equal(decimal(false, 10, -6176), decimal(false, 1, -6175)));
    for (int round = 0; round < test_rounds(20000); round++) { /* m / 2**k is m * 5**k / 10**k */
        int64_t mantissa = (int64_t)(test_random() >> (11 + test_below(53)));
        int k = (int)test_below(25);
        uint128 coefficient = (uint128)mantissa;
        for (int i = 0; i < k; i++) {
            coefficient *= 5;
        }
        CHECK(double_is_decimal((double)mantissa / (double)(1 << k),
                                decimal(false, coefficient, -k)));
        CHECK(!double_is_decimal((double)mantissa / (double)(1 << k),
                                 decimal(false, coefficient + 1, -k)));
    }
}

/* ---- the other types ---- */

static void test_plain_types(void)
{
    struct mc_key key;
    CHECK(equal(MC_BSON_STRING, "\2\0\0\0a", 6, MC_BSON_SYMBOL, "\2\0\0\0a", 6));
    CHECK(!equal(MC_BSON_STRING, "\2\0\0\0a", 6, MC_BSON_CODE, "\2\0\0\0a", 6));
    CHECK(!equal(MC_BSON_STRING, "\2\0\0\0a", 6, MC_BSON_STRING, "\2\0\0\0A", 6));
    CHECK(equal(MC_BSON_STRING, "\1\0\0\0", 5, MC_BSON_STRING, "\1\0\0\0", 5));
    CHECK(!equal(MC_BSON_BINARY, "\1\0\0\0\0x", 6, MC_BSON_BINARY, "\1\0\0\0\5x", 6));
    CHECK(!equal(MC_BSON_BINARY, "\1\0\0\0\0x", 6, MC_BSON_BINARY, "\1\0\0\0\0y", 6));
    CHECK(equal(MC_BSON_OID, "0123456789ab", 12, MC_BSON_OID, "0123456789ab", 12));
    CHECK(!equal(MC_BSON_BOOL, "\1", 1, MC_BSON_BOOL, "\0", 1));
    CHECK(!equal(MC_BSON_NULL, "", 0, MC_BSON_UNDEFINED, "", 0));
    CHECK(!equal(MC_BSON_MINKEY, "", 0, MC_BSON_MAXKEY, "", 0));
    CHECK(!equal(MC_BSON_DATETIME, "12345678", 8, MC_BSON_TIMESTAMP, "12345678", 8));
    CHECK(!equal(MC_BSON_REGEX, "a\0i", 4, MC_BSON_REGEX, "a\0m", 4));
    CHECK(equal(MC_BSON_DBPOINTER, "\1\0\0\0\0abcdefghijkl", 17, MC_BSON_DBPOINTER,
                "\1\0\0\0\0abcdefghijkl", 17));
    CHECK_EQ(key_of(MC_BSON_ARRAY, "\5\0\0\0", 5, &key, scratch_a), MC_INVALID);
    CHECK_EQ(key_of(MC_BSON_OID, "0123456789ab", 12, &key, scratch_a), MC_OK);
    CHECK_EQ(key.len, 12);
}

/* A key of exactly the limit, and one byte more. */
static void test_limit(void)
{
    static uint8_t value[MC_KEY_BYTES_MAX + 64];
    struct mc_key key;
    uint32_t len = MC_KEY_BYTES_MAX + 1;
    memset(value, 'x', sizeof value);
    memcpy(value, &len, 4);
    CHECK_EQ(key_of(MC_BSON_STRING, value, 4 + len, &key, scratch_a), MC_OK);
    CHECK_EQ(key.len, MC_KEY_BYTES_MAX);
    CHECK_EQ(key_of(MC_BSON_STRING, value, 4 + len + 1, &key, scratch_a), MC_LIMIT);
    CHECK_EQ(key_of(MC_BSON_BINARY, value, 5 + MC_KEY_BYTES_MAX, &key, scratch_a), MC_OK);
    CHECK_EQ(key.len, MC_KEY_MAX);
    CHECK_EQ(key_of(MC_BSON_BINARY, value, 5 + MC_KEY_BYTES_MAX + 1, &key, scratch_a), MC_LIMIT);
    /* {"": "xx..."} of len bytes */
    for (len = MC_KEY_BYTES_MAX - 1; len <= MC_KEY_BYTES_MAX + 1; len++) {
        uint32_t text = len - 11;
        memset(value, 'x', sizeof value);
        memcpy(value, &len, 4);
        value[4] = MC_BSON_STRING;
        value[5] = 0;
        memcpy(value + 6, &text, 4);
        value[len - 2] = 0;
        value[len - 1] = 0;
        CHECK_EQ(mc_bson_validate(value, len, NULL), MC_OK);
        CHECK_EQ(key_of(MC_BSON_DOCUMENT, value, len, &key, scratch_a),
                 len <= MC_KEY_BYTES_MAX ? MC_OK : MC_LIMIT);
    }
}

/* {"": "xx...", "b": 1, "c": [{}, 1]}: the limit is passed at each of its parts in turn. */
static void test_limit_anywhere(void)
{
    static const char rest[] = "\x10"
                               "b\0\1\0\0\0"
                               "\4"
                               "c\0\x14\0\0\0"
                               "\3"
                               "0\0\5\0\0\0\0"
                               "\x10"
                               "1\0\1\0\0\0\0";
    static uint8_t value[MC_KEY_BYTES_MAX + 64];
    const uint32_t rest_len = sizeof rest; /* its last NUL ends the document */
    struct mc_key key;
    for (uint32_t text = MC_KEY_BYTES_MAX - 80; text < MC_KEY_BYTES_MAX; text++) {
        uint32_t len = 4 + 6 + text + rest_len;
        memset(value, 'x', sizeof value);
        memcpy(value, &len, 4);
        value[4] = MC_BSON_STRING;
        value[5] = 0;
        memcpy(value + 6, &text, 4);
        value[9 + text] = 0;
        memcpy(value + 10 + text, rest, rest_len);
        CHECK_EQ(mc_bson_validate(value, len, NULL), MC_OK);
        /* each of the two int32 becomes as long as the double that it equals */
        CHECK_EQ(key_of(MC_BSON_DOCUMENT, value, len, &key, scratch_a),
                 len + 8 <= MC_KEY_BYTES_MAX ? MC_OK : MC_LIMIT);
    }
}

/* Documents within documents: a key that is too deep is too long. */
static void test_depth(void)
{
    static uint8_t value[8 * MC_BSON_DEPTH_MAX];
    struct mc_key key;
    for (uint32_t depth = 1; depth < MC_BSON_DEPTH_MAX; depth++) { /* {"": {"": ... {} ... }} */
        uint32_t len = 5;
        memset(value, 0, sizeof value);
        for (uint32_t level = 0; level < depth; level++) {
            uint32_t size = 5 + 7 * (depth - level);
            memcpy(value + 6 * (size_t)level, &size, 4);
            value[6 * level + 4] = MC_BSON_DOCUMENT;
            len = level == 0 ? size : len;
        }
        value[6 * depth] = 5;
        CHECK_EQ(mc_bson_validate(value, len, NULL), MC_OK);
        CHECK_EQ(key_of(MC_BSON_DOCUMENT, value, len, &key, scratch_a),
                 len <= MC_KEY_BYTES_MAX ? MC_OK : MC_LIMIT);
    }
}

/* {"a": <number>, "b": [<symbol>]} in two spellings. */
static void test_subdocuments(void)
{
    static const char spelled[] = "\x20\0\0\0"
                                  "\x10"
                                  "a\0\1\0\0\0"
                                  "\4b\0\x12\0\0\0"
                                  "\x0E"
                                  "7\0\2\0\0\0s\0\0\0\0\0";
    static const char again[] = "\x24\0\0\0"
                                "\1a\0\0\0\0\0\0\0\xF0\x3F"
                                "\4b\0\x12\0\0\0"
                                "\2"
                                "x\0\2\0\0\0s\0\0\0\0\0";
    char first[64], second[64];
    size_t first_len = 4 + 7 + 3 + 4 + 3 + 6 + 1 + 1, second_len = first_len + 4;
    struct mc_key key;
    memcpy(first, spelled, first_len);
    memcpy(second, again, second_len);
    first[0] = (char)first_len;
    second[0] = (char)second_len;
    first[14] = 14; /* the array: length, one element of 9 bytes, NUL */
    second[18] = 14;
    CHECK_EQ(mc_bson_validate((uint8_t *)first, first_len, NULL), MC_OK);
    CHECK_EQ(mc_bson_validate((uint8_t *)second, second_len, NULL), MC_OK);
    CHECK(equal(MC_BSON_DOCUMENT, first, first_len, MC_BSON_DOCUMENT, second, second_len));
    CHECK_EQ(mc_key_from_document((uint8_t *)first, first_len, &key, scratch_a, NULL), MC_OK);
    CHECK(key.data == scratch_a);
    CHECK_EQ(mc_bson_validate(key.data, key.len, NULL), MC_OK);
    first[7] = 2;
    CHECK(!equal(MC_BSON_DOCUMENT, first, first_len, MC_BSON_DOCUMENT, second, second_len));
    first[7] = 1;
    first[5] = 'A'; /* names count in documents */
    CHECK(!equal(MC_BSON_DOCUMENT, first, first_len, MC_BSON_DOCUMENT, second, second_len));
}

static void test_code_with_scope(void)
{
    static const char with_int32[] = "\x1D\0\0\0\2\0\0\0f\0\x13\0\0\0"
                                     "\x10x\0\3\0\0\0\x10y\0\4\0\0\0";
    static const char plain[] = "\x16\0\0\0\2\0\0\0f\0\x0C\0\0\0"
                                "\x10x\0\3\0\0\0";
    static const char doubles[] = "\x1A\0\0\0\2\0\0\0f\0\x10\0\0\0"
                                  "\1x\0\0\0\0\0\0\0\x08\x40";
    CHECK(equal(MC_BSON_CODE_SCOPE, plain, 22, MC_BSON_CODE_SCOPE, doubles, 26));
    CHECK(!equal(MC_BSON_CODE_SCOPE, plain, 22, MC_BSON_CODE_SCOPE, with_int32, 29));
    char inner[2][40] = {"\x1D\0\0\0\x0F", "\x21\0\0\0\x0F"}; /* {"": code with scope} */
    memcpy(inner[0] + 6, plain, 22);
    memcpy(inner[1] + 6, doubles, 26);
    CHECK(equal(MC_BSON_DOCUMENT, inner[0], 29, MC_BSON_DOCUMENT, inner[1], 33));
}

static void test_text(void)
{
    struct mc_key key, same_key;
    CHECK_EQ(mc_key_from_text("abc", 3, &key, NULL), MC_OK);
    CHECK_EQ(key_of(MC_BSON_STRING, "\4\0\0\0abc", 8, &same_key, scratch_a), MC_OK);
    CHECK(mc_key_equal(&key, &same_key));
    CHECK_EQ(mc_key_from_text("abc", MC_KEY_BYTES_MAX + 1, &key, NULL), MC_LIMIT);
}

/* Values that no validator has seen: an answer, and no byte read behind them. */
static void test_malformed(void)
{
    struct mc_key key;
    CHECK_EQ(key_of(MC_BSON_CODE_SCOPE, "\16\0\0\0\11\0\0\0f\0\5\0\0\0", 14, &key, scratch_a),
             MC_INVALID);
    CHECK_EQ(key_of(MC_BSON_CODE_SCOPE, "\16\0\0\0\2\0\0\0f\0\5\0\0\0", 14, &key, scratch_a),
             MC_INVALID);
    CHECK_EQ(key_of(MC_BSON_DOCUMENT, "\7\0\0\0\1a", 7, &key, scratch_a), MC_INVALID);
    CHECK_EQ(key_of(MC_BSON_DOCUMENT, "\4\0\0\0", 4, &key, scratch_a), MC_INVALID);
}

/* Bytes that no key has: refused, and never read past their end. */
static void test_damaged(void)
{
    uint8_t buffer[MC_KEY_VALUE_MAX];
    struct mc_bson_element element;
    CHECK_EQ(mc_key_to_bson(MC_BSON_ARRAY, (const uint8_t *)"\5\0\0\0", 5, buffer, &element),
             MC_CORRUPT);
    CHECK_EQ(mc_key_to_bson(MC_BSON_INT64, (const uint8_t *)"1234567", 7, buffer, &element),
             MC_CORRUPT);
    CHECK_EQ(mc_key_to_bson(MC_BSON_STRING, (const uint8_t *)"\xFF", 1, buffer, &element),
             MC_CORRUPT);
    CHECK_EQ(mc_key_to_bson(MC_BSON_BINARY, (const uint8_t *)"", 0, buffer, &element), MC_CORRUPT);
    CHECK_EQ(mc_key_to_bson(MC_BSON_STRING, scratch_a, MC_KEY_MAX + 1, buffer, &element),
             MC_CORRUPT);
    for (int round = 0; round < test_rounds(200000); round++) {
        size_t len = test_below(40);
        uint8_t *exact = malloc(len + 1);
        uint8_t type = (uint8_t)test_below(40);
        CHECK(exact != NULL);
        for (size_t i = 0; i < len; i++) {
            exact[i] = (uint8_t)(test_below(2) ? test_below(20) : test_random());
        }
        if (mc_key_to_bson(type, exact, len, buffer, &element) == MC_OK) {
            CHECK(element.value + element.value_len <= buffer + sizeof buffer);
        }
        free(exact);
    }
}

int main(void)
{
    test_begin("test_key");
    test_whole_numbers();
    test_other_numbers();
    test_plain_types();
    test_limit();
    test_limit_anywhere();
    test_depth();
    test_subdocuments();
    test_code_with_scope();
    test_text();
    test_malformed();
    test_damaged();
    return 0;
}
