/* key.c - canonical keys (see key.h).
 *
 * Numbers are the delicate part.
 * Every number takes the first form of these that holds its value exactly:
 *
 *      int64    whole, -2**63 <= x < 2**63          0, 0.0, -0.0 and 0E+3 end here
 *      double   x is a double                       NaN and the infinities end here
 *      decimal  coefficient * 10**exponent          no trailing zeros that the exponent could take
 *
 * Subdocuments are rewritten into the scratch buffer by a loop with its own
 * stack of open documents:
 *
 *      source   frames[depth].cursor  -> next element
 *      out      ... | int32 length | elements ... | 00       length is patched when it closes
 *
 * A key of MC_KEY_MAX bytes cannot nest more than MC_KEY_MAX / 7 documents, which is less than the
 * validator's limit; the stack is bounded by that limit all the same.
 */
#include "key.h"

#include <assert.h>
#include <string.h>

#include "mutant.h"

__extension__ typedef unsigned __int128 uint128;

enum { DECIMAL_BIAS = 6176, DECIMAL_EXPONENT_MAX = 12287 - DECIMAL_BIAS };

static enum mc_status too_long(struct mc_error *err)
{
    return mc_fail(err, MC_LIMIT, "a key may have %u bytes at most", (unsigned)MC_KEY_BYTES_MAX);
}

/* ---- numbers ---- */

void mc_key_from_int64(int64_t value, struct mc_key *key)
{
    key->type = MC_BSON_INT64;
    key->len = sizeof value;
    key->data = key->inline_data;
    memcpy(key->inline_data, &value, sizeof value);
}

void mc_key_from_double(double value, struct mc_key *key)
{
    uint64_t bits = 0x7FF8000000000000u; /* the one NaN */
    if (value >= -0x1p63 && value < 0x1p63 && value == (double)(int64_t)value) {
        mc_key_from_int64((int64_t)value, key);
        return;
    }
    if (value == value) { /* NOLINT(misc-redundant-expression): false for NaN */
        memcpy(&bits, &value, sizeof bits);
    }
    key->type = MC_BSON_DOUBLE;
    key->len = sizeof bits;
    key->data = key->inline_data;
    memcpy(key->inline_data, &bits, sizeof bits);
}

/* coefficient * 10**exponent with as few digits as possible: the number's one representation. */
struct decimal {
    uint128 coefficient;
    int exponent;
    bool negative;
};

static void decimal_reduce(struct decimal *decimal)
{
    assert(decimal->coefficient != 0); /* zero could be divided for ever */
    while (decimal->coefficient % 10 == 0 && decimal->exponent < DECIMAL_EXPONENT_MAX) {
        decimal->coefficient /= 10;
        decimal->exponent++;
    }
}

/* True when the reduced decimal is a whole number in the range of an int64. */
static bool decimal_int64(const struct decimal *decimal, int64_t *out)
{
    uint128 value = decimal->coefficient, limit = (uint128)INT64_MAX + decimal->negative;
    assert(value != 0 && decimal->exponent <= DECIMAL_EXPONENT_MAX);
    if (decimal->exponent < 0) {
        return false;
    }
    for (int i = 0; i < decimal->exponent && value <= limit; i++) {
        value *= 10;
    }
    if (value > limit) {
        return false;
    }
    *out = (int64_t)(decimal->negative ? 0 - (uint64_t)value : (uint64_t)value);
    return true;
}

/* True when the reduced decimal is exactly a double: what is left of its coefficient when all
 * powers of two are taken out has 53 bits. 10**e is 5**e * 2**e, so only 5**e is in the way. */
static bool decimal_double(const struct decimal *decimal, double *out)
{
    uint128 odd = decimal->coefficient;
    int power = decimal->exponent;
    uint64_t bits;
    assert(odd != 0); /* zero could be halved for ever */
    for (int i = 0; i < decimal->exponent; i++) {
        odd *= 5;
        if (odd >= (uint128)1 << 116) {
            return false; /* exponents so large leave no 53-bit number */
        }
    }
    for (int i = 0; i > decimal->exponent; i--) {
        if (odd % 5 != 0) {
            return false;
        }
        odd /= 5;
    }
    while (odd % 2 == 0) {
        odd /= 2;
        power++;
    }
    if (odd >= (uint128)1 << 53) {
        return false;
    }
    assert(power > -1022 && power < 1023);
    bits = (uint64_t)(1023 + power) << 52; /* 2**power: far from either end of the exponents */
    memcpy(out, &bits, sizeof bits);
    *out *= decimal->negative ? -(double)(uint64_t)odd : (double)(uint64_t)odd;
    return true;
}

static void key_from_decimal(const uint8_t *value, struct mc_key *key)
{
    const uint128 coefficient_max = ((uint128)0x1ED09BEAD87C0u << 64) | 0x378D8E63FFFFFFFFu;
    uint64_t low = mc_bson_u64(value), high = mc_bson_u64(value + 8);
    struct decimal decimal = {.negative = high >> 63 != 0};
    int64_t integer;
    double real;
    if ((high >> 58 & 0x1F) == 0x1F) {
        mc_key_from_double(__builtin_nan(""), key);
        return;
    }
    if ((high >> 58 & 0x1F) == 0x1E) {
        mc_key_from_double(decimal.negative ? -__builtin_inf() : __builtin_inf(), key);
        return;
    }
    /* the other encoding, for coefficients that 113 bits do not hold, is never canonical: zero */
    if ((high >> 61 & 3) != 3) {
        decimal.coefficient = ((uint128)(high & 0x1FFFFFFFFFFFFu) << 64) | low;
        decimal.exponent = (int)(high >> 49 & 0x3FFF) - DECIMAL_BIAS;
    }
    if (decimal.coefficient == 0 || decimal.coefficient > coefficient_max) {
        mc_key_from_int64(0, key);
        return;
    }
    if (!MC_MUTANT_IS(410)) {
        decimal_reduce(&decimal);
    }
    if (decimal_int64(&decimal, &integer)) {
        mc_key_from_int64(integer, key);
    } else if (decimal_double(&decimal, &real) && !MC_MUTANT_IS(411)) {
        mc_key_from_double(real, key);
    } else {
        uint64_t words[2] = {(uint64_t)decimal.coefficient,
                             (uint64_t)(decimal.coefficient >> 64) |
                                 (uint64_t)(decimal.exponent + DECIMAL_BIAS) << 49 |
                                 (uint64_t)decimal.negative << 63};
        key->type = MC_BSON_DECIMAL128;
        key->len = sizeof words;
        key->data = key->inline_data;
        memcpy(key->inline_data, words, sizeof words);
    }
}

/* True when the element is a number, whose canonical form is then in *key. */
static bool key_from_number(const struct mc_bson_element *element, struct mc_key *key)
{
    double real;
    switch (element->type) {
    case MC_BSON_INT32:
        mc_key_from_int64((int32_t)mc_bson_u32(element->value), key);
        return true;
    case MC_BSON_INT64:
        mc_key_from_int64((int64_t)mc_bson_u64(element->value), key);
        return true;
    case MC_BSON_DOUBLE:
        memcpy(&real, element->value, sizeof real);
        mc_key_from_double(real, key);
        return true;
    case MC_BSON_DECIMAL128:
        key_from_decimal(element->value, key);
        return true;
    default:
        return false;
    }
}

/* ---- subdocuments ---- */

struct output {
    uint8_t *bytes; /* MC_KEY_MAX of them */
    size_t len;     /* may pass MC_KEY_MAX; nothing is written from there on */
};

static void put(struct output *out, const void *bytes, size_t len)
{
    assert(out->len <= MC_KEY_MAX + 1);
    if (out->len <= MC_KEY_MAX && len <= MC_KEY_MAX - out->len) {
        memcpy(out->bytes + out->len, bytes, len);
        out->len += len;
    } else {
        out->len = MC_KEY_MAX + 1;
    }
}

/* Room for a length that is patched later. */
static size_t put_length(struct output *out)
{
    size_t at = out->len;
    put(out, "\0\0\0\0", 4);
    return at;
}

static void patch_length(struct output *out, size_t at)
{
    uint32_t len = (uint32_t)(out->len - at);
    assert(out->len > at);
    if (out->len <= MC_KEY_MAX) {
        memcpy(out->bytes + at, &len, sizeof len);
    }
}

/* A document of the source that is being rewritten. */
struct frame {
    struct mc_bson_cursor cursor;
    size_t length_at; /* where its length goes */
    size_t code_at;   /* where the length of the code with scope around it goes; NO_CODE: none */
    uint32_t index;   /* of the next member of an array */
    bool array;
};
#define NO_CODE SIZE_MAX

static enum mc_status open_frame(struct frame *frame, struct output *out, uint8_t type,
                                 const uint8_t *data, size_t len)
{
    *frame = (struct frame){.code_at = NO_CODE, .array = type == MC_BSON_ARRAY};
    assert(type == MC_BSON_DOCUMENT || type == MC_BSON_ARRAY || type == MC_BSON_CODE_SCOPE);
    if (type == MC_BSON_CODE_SCOPE) { /* int32 length, int32 code length, code, scope: 14 bytes */
        assert(len >= 14);
        size_t code = mc_bson_u32(data + 4);
        if (code > len - 8) {
            return MC_INVALID;
        }
        frame->code_at = put_length(out);
        put(out, data + 4, 4 + code);
        data += 8 + code;
        len -= 8 + code;
    }
    frame->length_at = put_length(out);
    return mc_bson_open(&frame->cursor, data, len);
}

static void close_frame(const struct frame *frame, struct output *out)
{
    put(out, "", 1);
    patch_length(out, frame->length_at);
    if (frame->code_at != NO_CODE) {
        patch_length(out, frame->code_at);
    }
}

static void put_name(struct output *out, struct frame *frame, const struct mc_bson_element *element)
{
    if (frame->array) { /* MongoDB compares arrays by position: names do not count */
        char digits[12];
        int len = snprintf(digits, sizeof digits, "%u", (unsigned)frame->index++);
        assert(len > 0 && (size_t)len < sizeof digits);
        put(out, digits, (size_t)len + 1);
    } else {
        put(out, element->name, (size_t)element->name_len + 1);
    }
}

/* A document within a document has a type, the NUL of a name and a length. So a key that is deeper
 * is too long, which is found out before its next document is opened. */
#define KEY_DEPTH (MC_KEY_MAX / 6 + 2)

/* Rewrites one value that is a document or holds one; everything in it made canonical. */
static enum mc_status rewrite(uint8_t type, const uint8_t *data, size_t len, struct output *out,
                              struct mc_error *err)
{
    struct frame frames[KEY_DEPTH];
    unsigned depth = 0;
    enum mc_status status = open_frame(&frames[0], out, type, data, len);
    while (status == MC_OK) {
        struct frame *frame = &frames[depth];
        struct mc_bson_element element;
        struct mc_key number;
        if (out->len > MC_KEY_MAX) {
            return too_long(err);
        }
        status = mc_bson_next(&frame->cursor, &element);
        if (status == MC_ABSENT) {
            close_frame(frame, out);
            if (depth-- == 0) {
                return out->len > MC_KEY_MAX ? too_long(err) : MC_OK;
            }
            status = MC_OK;
        } else if (status == MC_OK && key_from_number(&element, &number) && !MC_MUTANT_IS(412)) {
            put(out, &number.type, 1);
            put_name(out, frame, &element);
            put(out, number.data, number.len);
        } else if (status == MC_OK) {
            uint8_t kind = element.type == MC_BSON_SYMBOL ? MC_BSON_STRING : element.type;
            put(out, &kind, 1);
            put_name(out, frame, &element);
            if (kind != MC_BSON_DOCUMENT && kind != MC_BSON_ARRAY && kind != MC_BSON_CODE_SCOPE) {
                put(out, element.value, element.value_len);
            } else {
                depth++;
                assert(depth < KEY_DEPTH);
                status = open_frame(&frames[depth], out, kind, element.value, element.value_len);
            }
        }
    }
    return mc_fail(err, MC_INVALID, "a key holds malformed BSON");
}

/* ---- whole keys ---- */

static enum mc_status point(struct mc_key *key, uint8_t type, const uint8_t *data, size_t len,
                            struct mc_error *err)
{
    if (len > MC_KEY_BYTES_MAX + (type == MC_BSON_BINARY)) {
        return too_long(err);
    }
    assert(data != NULL || len == 0);
    key->type = type;
    key->data = data;
    key->len = (uint16_t)len;
    return MC_OK;
}

static enum mc_status rewritten(struct mc_key *key, uint8_t type, const uint8_t *data, size_t len,
                                uint8_t *scratch, struct mc_error *err)
{
    struct output out = {.bytes = scratch};
    assert(scratch != NULL && type != MC_BSON_ARRAY);
    enum mc_status status = rewrite(type, data, len, &out, err);
    assert(status != MC_OK || out.len <= MC_KEY_MAX);
    return status == MC_OK ? point(key, type, scratch, out.len, err) : status;
}

enum mc_status mc_key_from_document(const uint8_t *data, size_t len, struct mc_key *key,
                                    uint8_t scratch[MC_KEY_MAX], struct mc_error *err)
{
    return rewritten(key, MC_BSON_DOCUMENT, data, len, scratch, err);
}

enum mc_status mc_key_from_text(const char *text, size_t len, struct mc_key *key,
                                struct mc_error *err)
{
    return point(key, MC_BSON_STRING, (const uint8_t *)text, len, err);
}

enum mc_status mc_key_from_bson(const struct mc_bson_element *element, struct mc_key *key,
                                uint8_t scratch[MC_KEY_MAX], struct mc_error *err)
{
    const uint8_t *value = element->value;
    size_t len = element->value_len;
    assert(value != NULL);
    switch (element->type) {
    case MC_BSON_STRING:
    case MC_BSON_SYMBOL:
        assert(len >= 5); /* the walker gives no shorter one */
        return point(key, MC_BSON_STRING, value + 4, len - 5, err);
    case MC_BSON_CODE:
        return point(key, MC_BSON_CODE, value + 4, len - 5, err);
    case MC_BSON_BINARY:
        return point(key, MC_BSON_BINARY, value + 4, len - 4, err);
    case MC_BSON_DOUBLE:
    case MC_BSON_INT32:
    case MC_BSON_INT64:
    case MC_BSON_DECIMAL128:
        (void)key_from_number(element, key);
        return MC_OK;
    case MC_BSON_DOCUMENT:
    case MC_BSON_CODE_SCOPE:
        return rewritten(key, element->type, value, len, scratch, err);
    case MC_BSON_ARRAY:
        return mc_fail(err, MC_INVALID, "an array cannot be an _id");
    case MC_BSON_MINKEY:
        return point(key, MC_KEY_MINKEY, value, 0, err);
    case MC_BSON_MAXKEY:
        return point(key, MC_KEY_MAXKEY, value, 0, err);
    default:
        return point(key, element->type, value, len, err);
    }
}

/* ---- back to BSON ---- */

/* How the canonical bytes of a type become its value again: what stands before and behind them. */
static bool frame_of(uint8_t type, size_t len, uint32_t *length, size_t *before, size_t *after)
{
    assert(len <= MC_KEY_MAX);
    *before = 0;
    *after = 0;
    switch (type) {
    case MC_BSON_STRING:
    case MC_BSON_CODE:
        *length = (uint32_t)len + 1;
        *before = 4;
        *after = 1;
        return true;
    case MC_BSON_BINARY:
        *length = (uint32_t)len - 1;
        *before = 4;
        return len >= 1;
    default:
        return true;
    }
}

enum mc_status mc_key_to_bson(uint8_t type, const uint8_t *data, size_t len,
                              uint8_t buffer[MC_KEY_VALUE_MAX], struct mc_bson_element *element)
{
    struct mc_bson_cursor cursor;
    uint32_t length = 0, whole;
    size_t before, after, at = 6;
    if (len > MC_KEY_MAX || !frame_of(type, len, &length, &before, &after)) {
        return MC_CORRUPT;
    }
    /* a document with this one nameless element, so that the validator says whether it is one */
    buffer[4] = type == MC_KEY_MINKEY   ? MC_BSON_MINKEY
                : type == MC_KEY_MAXKEY ? MC_BSON_MAXKEY
                                        : type;
    buffer[5] = 0;
    memcpy(buffer + at, &length, before);
    memcpy(buffer + at + before, data, len);
    memset(buffer + at + before + len, 0, after + 1);
    whole = (uint32_t)(at + before + len + after + 1);
    assert(whole <= MC_KEY_VALUE_MAX);
    memcpy(buffer, &whole, sizeof whole);
    if (type == MC_BSON_ARRAY || mc_bson_validate(buffer, whole, NULL) != MC_OK) {
        return MC_CORRUPT;
    }
    (void)mc_bson_open(&cursor, buffer, whole); /* it is valid, and holds something */
    (void)mc_bson_next(&cursor, element);
    return cursor.at == cursor.end ? MC_OK : MC_CORRUPT;
}
