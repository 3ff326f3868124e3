/* test_key_order.c - keys stand in the order in which MongoDB sorts them. */
#include <string.h>

#include "harness.h"
#include "key.h"
#include "key_order.h"

struct row {
    uint8_t type, len;
    uint8_t data[16];
};

static struct row of(uint8_t type, const void *data, size_t len)
{
    struct row row = {.type = type, .len = (uint8_t)len};
    memcpy(row.data, data, len);
    return row;
}

static struct row integer(uint8_t type, int64_t value)
{
    return of(type, &value, sizeof value);
}

static struct row real(double value)
{
    return of(MC_BSON_DOUBLE, &value, sizeof value);
}

static struct row decimal(uint64_t digits, int exponent, int negative)
{
    uint64_t words[2] = {digits, (uint64_t)(exponent + 6176) << 49 | (uint64_t)negative << 63};
    return of(MC_BSON_DECIMAL128, words, sizeof words);
}

static int compare(const struct row *left, const struct row *right)
{
    return mc_key_compare(left->type, left->data, left->len, right->type, right->data, right->len);
}

int main(void)
{
    const struct row rows[] = {
        of(0, "", 0), /* no key's type */
        of(MC_KEY_MINKEY, "", 0),
        of(MC_BSON_NULL, "", 0),
        real(__builtin_nan("")),
        decimal(1, 40, 1),
        integer(MC_BSON_INT64, -5),
        decimal(1, -1, 1),
        real(-0.05),
        integer(MC_BSON_INT64, 0),
        decimal(1, -40, 0),
        real(0.5),
        integer(MC_BSON_INT64, 1),
        integer(MC_BSON_INT64, INT64_MAX),
        real(1e19),
        decimal(3, 100, 0),
        real(__builtin_inf()),
        of(MC_BSON_DECIMAL128, "short", 5), /* no decimal: as zero, and behind it */
        of(MC_BSON_STRING, "", 0),
        of(MC_BSON_STRING, "a", 1),
        of(MC_BSON_STRING, "ab", 2),
        of(MC_BSON_STRING, "b", 1),
        of(MC_BSON_BINARY, "\0z", 2),
        of(MC_BSON_BINARY, "\0aa", 3),
        of(MC_BSON_OID, "123456789012", 12),
        of(MC_BSON_BOOL, "\0", 1),
        of(MC_BSON_BOOL, "\1", 1),
        integer(MC_BSON_DATETIME, -1),
        integer(MC_BSON_DATETIME, 1),
        integer(MC_BSON_TIMESTAMP, 1),
        integer(MC_BSON_TIMESTAMP, -1), /* unsigned */
        of(MC_KEY_MAXKEY, "", 0),
    };
    const size_t count = sizeof rows / sizeof rows[0], odd = 16;
    test_begin("test_key_order");
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            int order = compare(&rows[i], &rows[j]);
            CHECK((order == 0) == (i == j));
            CHECK((order < 0) == (compare(&rows[j], &rows[i]) > 0));
            if (i != odd && j != odd && (order < 0) != (i < j)) {
                test_failed(__FILE__, __LINE__, "rows %zu and %zu", i, j);
            }
        }
    }
    return 0;
}
