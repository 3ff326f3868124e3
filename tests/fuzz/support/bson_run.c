/* bson_run.c - see bson_run.h. */
#include "bson_run.h"

#include <string.h>

#include "bson.h"
#include "harness.h"
#include "key.h"

static void check_key(const struct mc_bson_element *element)
{
    static uint8_t scratch[MC_KEY_MAX], again_scratch[MC_KEY_MAX];
    uint8_t buffer[MC_KEY_VALUE_MAX];
    struct mc_key key, again;
    struct mc_bson_element back;
    if (mc_key_from_bson(element, &key, scratch, NULL) == MC_OK) {
        CHECK(key.len <= MC_KEY_MAX && key.type < MC_KEY_TYPES);
        CHECK(mc_key_to_bson(key.type, key.data, key.len, buffer, &back) == MC_OK);
        CHECK(mc_key_from_bson(&back, &again, again_scratch, NULL) == MC_OK);
        CHECK(mc_key_equal(&again, &key));
    }
}

/* The names in an array say nothing: PyMongo does not look at them, and neither does the
 * validator. */
static void walk_bson(const uint8_t *data, size_t len, bool valid, bool array, int depth)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element, found;
    const uint8_t *text;
    uint32_t text_len;
    enum mc_status status = mc_bson_open(&cursor, data, len);
    CHECK(!valid || status == MC_OK);
    while (status == MC_OK && (status = mc_bson_next(&cursor, &element)) == MC_OK) {
        CHECK(element.name > data && element.value >= element.name + element.name_len + 1);
        CHECK(element.value + element.value_len <= data + len);
        CHECK(element.name[element.name_len] == 0);
        if (valid) {
            CHECK(array || mc_utf8_valid(element.name, element.name_len));
            CHECK(mc_bson_find(data, len, (const char *)element.name, element.name_len, &found) ==
                  MC_OK);
            check_key(&element);
        }
        if (element.type == MC_BSON_STRING) {
            enum mc_status is_text = mc_bson_text(&element, &text, &text_len);
            CHECK(!valid || (is_text == MC_OK && mc_utf8_valid(text, text_len)));
        }
        if ((element.type == MC_BSON_DOCUMENT || element.type == MC_BSON_ARRAY) && depth < 8) {
            walk_bson(element.value, element.value_len, valid, element.type == MC_BSON_ARRAY,
                      depth + 1);
        }
    }
    CHECK(!valid || status == MC_ABSENT);
}

int run_bson(const uint8_t *data, size_t len)
{
    static uint8_t scratch[MC_KEY_MAX];
    struct mc_key key;
    struct mc_bson_element element;
    struct mc_error error;
    bool valid = mc_bson_validate(data, len, &error) == MC_OK;
    walk_bson(data, len, valid, false, 0);
    (void)mc_bson_pluck(data, len, "a.b.0", 5, &element);
    (void)mc_bson_pluck(data, len, "_id", 3, &element);
    if (valid) {
        (void)mc_key_from_document(data, len, &key, scratch, &error);
    }
    if (len > 1) { /* the canonical form of any bytes at all: a damaged file */
        uint8_t buffer[MC_KEY_VALUE_MAX];
        size_t key_len = len - 1 < MC_KEY_MAX ? len - 1 : MC_KEY_MAX;
        (void)mc_key_to_bson(data[0], data + 1, key_len, buffer, &element);
    }
    return 0;
}
