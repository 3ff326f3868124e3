/* test_bson.c - the BSON validator and walker.
 *
 * Three kinds of bytes: documents built here, of which every answer is known; the same with every
 * byte replaced and at every shorter length, in buffers of exactly that size so that a sanitizer
 * sees the first byte read outside; and random noise. The walker must end and stay inside on all
 * of them, and whatever the validator accepts the walker must walk to the end.
 */
#include "bson.h"
#include "harness.h"

/* ---- building documents ---- */

struct builder {
    uint8_t bytes[1 << 16];
    size_t len;
};

static void add(struct builder *b, const void *bytes, size_t len)
{
    CHECK(b->len + len <= sizeof b->bytes);
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

static void add_u32(struct builder *b, uint32_t value)
{
    add(b, &value, 4);
}

static void add_u64(struct builder *b, uint64_t value)
{
    add(b, &value, 8);
}

static size_t begin(struct builder *b)
{
    size_t at = b->len;
    add_u32(b, 0);
    return at;
}

static void finish(struct builder *b, size_t at)
{
    uint32_t len;
    add(b, "", 1);
    len = (uint32_t)(b->len - at);
    memcpy(b->bytes + at, &len, 4);
}

static void name(struct builder *b, uint8_t type, const char *text)
{
    add(b, &type, 1);
    add(b, text, strlen(text) + 1);
}

static void add_text(struct builder *b, const char *text, size_t len)
{
    add_u32(b, (uint32_t)len + 1);
    add(b, text, len);
    add(b, "", 1);
}

/* One field of every type, some of them nested. */
static void everything(struct builder *b)
{
    size_t doc = begin(b), inner, code;
    name(b, MC_BSON_DOUBLE, "double");
    add_u64(b, 0x3FF8000000000000u);
    name(b, MC_BSON_STRING, "string");
    add_text(b, "gr\xC3\xBC\xC3\x9F dich\0\xF0\x9F\x8C\x8D", 16);
    name(b, MC_BSON_DOCUMENT, "limits");
    inner = begin(b);
    name(b, MC_BSON_INT32, "qps");
    add_u32(b, 250);
    name(b, MC_BSON_NULL, "");
    finish(b, inner);
    name(b, MC_BSON_ARRAY, "hosts");
    inner = begin(b);
    name(b, MC_BSON_STRING, "0");
    add_text(b, "a", 1);
    name(b, MC_BSON_DOCUMENT, "\xFF wrong on purpose");
    code = begin(b);
    name(b, MC_BSON_BOOL, "up");
    add(b, "\1", 1);
    finish(b, code);
    finish(b, inner);
    name(b, MC_BSON_BINARY, "binary");
    add_u32(b, 3);
    add(b, "\x80xyz", 4);
    name(b, MC_BSON_BINARY, "old");
    add_u32(b, 6);
    add(b, "\2\2\0\0\0xy", 7);
    name(b, MC_BSON_UNDEFINED, "undefined");
    name(b, MC_BSON_OID, "_id");
    add(b, "0123456789ab", 12);
    name(b, MC_BSON_DATETIME, "a name of more than eight bytes \xE2\x82\xAC");
    add_u64(b, 1);
    name(b, MC_BSON_REGEX, "regex");
    add(b, "^a.b$\0ims", 10);
    name(b, MC_BSON_DBPOINTER, "dbpointer");
    add_text(b, "db.c", 4);
    add(b, "0123456789ab", 12);
    name(b, MC_BSON_CODE, "code");
    add_text(b, "f()", 3);
    name(b, MC_BSON_SYMBOL, "symbol");
    add_text(b, "s", 1);
    name(b, MC_BSON_CODE_SCOPE, "scope");
    code = begin(b);
    add_text(b, "g()", 3);
    inner = begin(b);
    name(b, MC_BSON_INT64, "x");
    add_u64(b, 7);
    finish(b, inner);
    b->len--; /* finish() closes a document; this value only has a length */
    finish(b, code);
    name(b, MC_BSON_TIMESTAMP, "timestamp");
    add_u64(b, 42);
    name(b, MC_BSON_DECIMAL128, "decimal");
    add_u64(b, 1);
    add_u64(b, 0x3040000000000000u);
    name(b, MC_BSON_MINKEY, "min");
    name(b, MC_BSON_MAXKEY, "max");
    name(b, MC_BSON_BOOL, "last");
    add(b, "", 1);
    finish(b, doc);
}

/* ---- what a buffer of exactly len bytes makes of everything ---- */

static unsigned walk(const uint8_t *data, size_t len)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    unsigned count = 0;
    enum mc_status status = mc_bson_open(&cursor, data, len);
    while (status == MC_OK && (status = mc_bson_next(&cursor, &element)) == MC_OK) {
        const uint8_t *text;
        uint32_t text_len;
        CHECK(element.name >= data + 5 && element.name + element.name_len < element.value);
        CHECK(element.value + element.value_len < data + len);
        if (mc_bson_text(&element, &text, &text_len) == MC_OK) {
            CHECK(text + text_len < data + len);
        }
        count++;
        CHECK(count <= len);
    }
    CHECK(status == MC_ABSENT || status == MC_INVALID);
    CHECK_EQ(mc_bson_next(&cursor, &element) == MC_OK && len >= 5 && count > 0, 0);
    return status == MC_ABSENT ? count : 0;
}

static const char *const paths[] = {"limits.qps", "hosts.1.up", "hosts.0", "scope.x", "a.b.c",
                                    "last",       "",           ".",       "hosts.",  "_id"};

/* True when the validator accepts the bytes; every other function must cope in any case. */
static bool judge(const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len > 0 ? len : 1);
    struct mc_bson_element element;
    struct mc_error err;
    bool valid;
    CHECK(exact != NULL);
    memcpy(exact, bytes, len);
    valid = mc_bson_validate(exact, len, &err) == MC_OK;
    if (len >= 5) {
        unsigned count = walk(exact, len);
        CHECK(!valid || count > 0 || len == 5);
    }
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        enum mc_status status = mc_bson_pluck(exact, len, paths[i], strlen(paths[i]), &element);
        CHECK(status == MC_OK || status == MC_ABSENT || status == MC_INVALID);
        CHECK(!valid || status != MC_INVALID);
        if (status == MC_OK) {
            CHECK(element.value >= exact && element.value + element.value_len < exact + len);
        }
    }
    free(exact);
    return valid;
}

static void test_everything(void)
{
    static struct builder b;
    struct mc_bson_element element;
    const uint8_t *text;
    uint32_t text_len;
    b.len = 0;
    everything(&b);
    CHECK(judge(b.bytes, b.len));
    CHECK_EQ(walk(b.bytes, b.len), 19);

    CHECK_EQ(mc_bson_find(b.bytes, b.len, "decimal", 7, &element), MC_OK);
    CHECK_EQ(element.type, MC_BSON_DECIMAL128);
    CHECK_EQ(element.value_len, 16);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "string", 6, &element), MC_OK);
    CHECK_EQ(mc_bson_text(&element, &text, &text_len), MC_OK);
    CHECK_EQ(text_len, 16);
    CHECK(memcmp(text, "gr\xC3\xBC", 4) == 0);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "last", 4, &element), MC_OK);
    CHECK_EQ(mc_bson_text(&element, &text, &text_len), MC_INVALID);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "las", 3, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "lastt", 5, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "last\0", 5, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "dbpointer", 9, &element), MC_OK);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "dbpointex", 9, &element), MC_ABSENT);

    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "limits.qps", 10, &element), MC_OK);
    CHECK_EQ(mc_bson_u32(element.value), 250);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "limits.", 7, &element), MC_OK);
    CHECK_EQ(element.type, MC_BSON_NULL);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "hosts.1.up", 10, &element), MC_OK);
    CHECK_EQ(element.type, MC_BSON_BOOL);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "hosts.2", 7, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "hosts.01", 8, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "hosts.-1", 8, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "hosts.1234567890", 16, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "hosts.up", 8, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "double.x", 8, &element), MC_ABSENT);
    CHECK_EQ(mc_bson_pluck(b.bytes, b.len, "scope.x", 7, &element), MC_ABSENT);
}

/* Of two fields of one name the first counts, at both lengths that the search treats apart. */
static void test_duplicates(void)
{
    static const char *const names[] = {"a", "sevenxx", "eight888", "longer than a word"};
    for (size_t i = 0; i < 4; i++) {
        static struct builder b;
        struct mc_bson_element element;
        size_t doc;
        b.len = 0;
        doc = begin(&b);
        name(&b, MC_BSON_INT32, names[i]);
        add_u32(&b, 1);
        name(&b, MC_BSON_INT32, names[i]);
        add_u32(&b, 2);
        finish(&b, doc);
        CHECK(judge(b.bytes, b.len));
        CHECK_EQ(mc_bson_find(b.bytes, b.len, names[i], strlen(names[i]), &element), MC_OK);
        CHECK_EQ(mc_bson_u32(element.value), 1);
    }
}

/* Names that differ only where neither their first nor their last eight bytes are. */
static void test_long_names(void)
{
    static struct builder b;
    struct mc_bson_element element;
    b.len = 0;
    size_t doc = begin(&b);
    name(&b, MC_BSON_INT32, "captchas_per_minute");
    add_u32(&b, 1);
    name(&b, MC_BSON_INT32, "captchas_xyz_minute");
    add_u32(&b, 2);
    finish(&b, doc);
    CHECK(judge(b.bytes, b.len));
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "captchas_xyz_minute", 19, &element), MC_OK);
    CHECK_EQ(mc_bson_u32(element.value), 2);
    CHECK_EQ(mc_bson_find(b.bytes, b.len, "captchas_abc_minute", 19, &element), MC_ABSENT);
}

/* Every byte replaced by other values, every shorter length, lengths one off. */
static void test_damage(void)
{
    static struct builder b;
    size_t accepted = 0;
    b.len = 0;
    everything(&b);
    for (size_t len = 0; len < b.len; len++) {
        uint32_t claimed = (uint32_t)len;
        uint8_t first[4];
        CHECK(!judge(b.bytes, len));
        memcpy(first, b.bytes, 4);
        memcpy(b.bytes, &claimed, 4); /* cut off, and the length says so */
        CHECK(!judge(b.bytes, len));
        memcpy(b.bytes, first, 4);
    }
    for (size_t at = 0; at < b.len; at++) {
        static const uint8_t values[] = {0, 1, 2, 3, 4, 5, 0x0F, 0x7F, 0x80, 0xFF};
        uint8_t old = b.bytes[at];
        for (size_t i = 0; i < sizeof values + 2; i++) {
            b.bytes[at] = i < sizeof values ? values[i] : (uint8_t)(old + (i & 1 ? 1 : -1));
            accepted += judge(b.bytes, b.len);
        }
        b.bytes[at] = old;
    }
    CHECK(accepted > 100); /* the payload of numbers and text may change */
    for (int round = 0; round < test_rounds(200000); round++) {
        uint8_t noise[64];
        size_t len = test_below(sizeof noise);
        uint32_t claimed = (uint32_t)len;
        for (size_t i = 0; i < len; i++) {
            noise[i] = (uint8_t)(test_below(3) ? test_below(20) : test_random());
        }
        if (len >= 5) {
            memcpy(noise, &claimed, 4);
            noise[len - 1] = 0;
        }
        (void)judge(noise, len);
    }
}

/* A document of one field with this value. */
static bool accepts(uint8_t type, const void *value, size_t len)
{
    static struct builder b;
    size_t doc;
    b.len = 0;
    doc = begin(&b);
    name(&b, type, "f");
    add(&b, value, len);
    finish(&b, doc);
    return judge(b.bytes, b.len);
}

static void test_content(void)
{
    CHECK(accepts(MC_BSON_BOOL, "\1", 1));
    CHECK(!accepts(MC_BSON_BOOL, "\2", 1));
    CHECK(accepts(MC_BSON_STRING, "\1\0\0\0", 5));
    CHECK(!accepts(MC_BSON_STRING, "\0\0\0\0", 4));
    CHECK(!accepts(MC_BSON_STRING, "\1\0\0\0x", 5));
    CHECK(!accepts(MC_BSON_STRING, "\377\377\377\377x", 6));
    CHECK(accepts(MC_BSON_BINARY, "\6\0\0\0\2\2\0\0\0xy", 11));
    CHECK(!accepts(MC_BSON_BINARY, "\6\0\0\0\2\3\0\0\0xy", 11));
    CHECK(!accepts(MC_BSON_BINARY, "\3\0\0\0\2\0\0\0", 8));
    CHECK(!accepts(MC_BSON_BINARY, "\377\377\377\377\0x", 6));
    CHECK(accepts(MC_BSON_REGEX, "\0", 2));
    CHECK(!accepts(MC_BSON_REGEX, "x", 1));
    CHECK(!accepts(MC_BSON_REGEX, "\377\0", 3));
    CHECK(!accepts(MC_BSON_REGEX, "\0\377", 3));
    CHECK(accepts(MC_BSON_DBPOINTER, "\1\0\0\0\0abcdefghijkl", 17));
    CHECK(!accepts(MC_BSON_DBPOINTER, "\2\0\0\0\0abcdefghijkl", 17));
    CHECK(!accepts(MC_BSON_DBPOINTER, "\1\0\0\0xabcdefghijkl", 17));
    CHECK(accepts(MC_BSON_CODE_SCOPE, "\16\0\0\0\1\0\0\0\0\5\0\0\0\0", 14));
    CHECK(!accepts(MC_BSON_CODE_SCOPE, "\16\0\0\0\2\0\0\0\0\5\0\0\0\0", 14));
    CHECK(!accepts(MC_BSON_CODE_SCOPE, "\16\0\0\0\0\0\0\0\0\5\0\0\0\0", 14));
    CHECK(!accepts(MC_BSON_CODE_SCOPE, "\16\0\0\0\1\0\0\0x\5\0\0\0\0", 14));
    CHECK(!accepts(MC_BSON_CODE_SCOPE, "\16\0\0\0\1\0\0\0\0\4\0\0\0\0", 14));
    CHECK(!accepts(MC_BSON_CODE_SCOPE, "\16\0\0\0\1\0\0\0\0\5\0\0\0\1", 14));
    CHECK(!accepts(MC_BSON_DOCUMENT, "\5\0\0\0\1", 5));
    CHECK(!accepts(MC_BSON_ARRAY, "\6\0\0\0\0", 6));
    CHECK(!accepts(0, "", 0));
    CHECK(!accepts(0x14, "", 0));
    CHECK(!accepts(0x80, "", 0));
    CHECK(accepts(MC_BSON_MINKEY, "", 0));
    CHECK(accepts(MC_BSON_MAXKEY, "", 0));
}

static void nest(struct builder *b, unsigned depth, uint8_t type)
{
    size_t starts[MC_BSON_DEPTH_MAX + 2];
    b->len = 0;
    for (unsigned i = 0; i < depth; i++) {
        if (i > 0) {
            name(b, type, "0");
        }
        starts[i] = begin(b);
    }
    while (depth > 0) {
        finish(b, starts[--depth]);
    }
}

static void test_depth(void)
{
    static struct builder b;
    for (int type = MC_BSON_DOCUMENT; type <= MC_BSON_ARRAY; type++) {
        nest(&b, MC_BSON_DEPTH_MAX, (uint8_t)type);
        CHECK(judge(b.bytes, b.len));
        nest(&b, MC_BSON_DEPTH_MAX + 1, (uint8_t)type);
        CHECK(!judge(b.bytes, b.len));
    }
}

static void test_utf8(void)
{
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"\x7F", true},
        {"\xC2\x80", true},
        {"\xDF\xBF", true},
        {"\xE0\xA0\x80", true},
        {"\xED\x9F\xBF", true},
        {"\xEE\x80\x80", true},
        {"\xEF\xBF\xBF", true},
        {"\xF0\x90\x80\x80", true},
        {"\xF4\x8F\xBF\xBF", true},
        {"\x80", false},
        {"\xC1\xBF", false},
        {"\xC3", false},
        {"\xE0\x9F\xBF", false},
        {"\xED\xA0\x80", false},
        {"\xE2\x82", false},
        {"\xE2\x28\xA1", false},
        {"\xF0\x8F\xBF\xBF", false},
        {"\xF4\x90\x80\x80", false},
        {"\xF5\x80\x80\x80", false},
        {"\xF0\x9F\x8C", false},
        {"\xF0\x9F\x28\x8D", false},
        {"\xFF", false},
        {"\xE2\x82\x28", false},
        {"\xC3\x28", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t pad = 0; pad < 20; pad++) { /* at every place of a word */
            static struct builder b;
            char text[32] = "abcdefghijklmnopqrstuvwxyz";
            size_t doc;
            memcpy(text + pad, cases[i].text, strlen(cases[i].text));
            CHECK_EQ(mc_utf8_valid((const uint8_t *)text, pad + strlen(cases[i].text)),
                     cases[i].valid);
            text[pad + strlen(cases[i].text)] = 0;
            b.len = 0;
            doc = begin(&b);
            name(&b, MC_BSON_NULL, text);
            finish(&b, doc);
            CHECK_EQ(judge(b.bytes, b.len), cases[i].valid);
            b.len = 0;
            doc = begin(&b);
            name(&b, MC_BSON_STRING, "");
            add_text(&b, text, strlen(text));
            finish(&b, doc);
            CHECK_EQ(judge(b.bytes, b.len), cases[i].valid);
        }
    }
}

static void test_size(void)
{
    CHECK_EQ(mc_bson_size((const uint8_t *)"\5\0\0\0", 5), 5);
    CHECK_EQ(mc_bson_size((const uint8_t *)"\5\0\0\0\0more", 9), 5);
    CHECK_EQ(mc_bson_size((const uint8_t *)"\6\0\0\0", 5), 0);
    CHECK_EQ(mc_bson_size((const uint8_t *)"\4\0\0\0", 5), 0);
    CHECK_EQ(mc_bson_size((const uint8_t *)"\5\0\0\0", 4), 0);
    CHECK_EQ(mc_bson_size((const uint8_t *)"\377\377\377\377", 5), 0);
}

/* Values copied out of bytes that change meanwhile: no copy passes whose parts do not fit in it. */
static void test_again(void)
{
    static struct builder b;
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    size_t refused = 0;
    b.len = 0;
    everything(&b);
    CHECK_EQ(mc_bson_open(&cursor, b.bytes, b.len), MC_OK);
    while (mc_bson_next(&cursor, &element) == MC_OK) {
        size_t len = element.value_len;
        uint8_t *copy = malloc(len + 1); /* a sanitizer sees who reads on */
        uint8_t *value = copy + 1;
        CHECK(copy != NULL);
        memcpy(value, element.value, len);
        element.value = value;
        CHECK_EQ(mc_bson_again(&element), MC_OK);
        for (size_t at = 0; at < len; at++) {
            uint8_t old = value[at];
            value[at] = old == 0 ? 'x' : 0;
            if (mc_bson_again(&element) != MC_OK) {
                refused++;
            } else if (element.type == MC_BSON_REGEX) {
                const uint8_t *nul = memchr(value, 0, len);
                CHECK(nul != NULL && memchr(nul + 1, 0, len - (size_t)(nul - value) - 1) != NULL);
            }
            value[at] = old;
        }
        free(copy);
    }
    CHECK(refused > 20);
    element = (struct mc_bson_element){
        .type = MC_BSON_REGEX, .value = (const uint8_t *)"abcdefgh", .value_len = 8};
    CHECK_EQ(mc_bson_again(&element), MC_INVALID);
}

/* What validation costs; printed, not judged: the machine is shared. */
static void report_speed(void)
{
    static struct builder b;
    struct timespec from, to;
    size_t doc;
    uint64_t best = UINT64_MAX;
    b.len = 0;
    doc = begin(&b);
    name(&b, MC_BSON_OID, "_id");
    add(&b, "0123456789ab", 12);
    for (int i = 0; i < 5; i++) {
        static const char *const texts[] = {"sitekey", "name", "description", "owner", "theme"};
        name(&b, MC_BSON_STRING, texts[i]);
        add_text(&b, "a customer's setting of some length", 10 + 6 * (size_t)i);
        name(&b, MC_BSON_INT32, "count");
        add_u32(&b, 5);
    }
    name(&b, MC_BSON_BOOL, "enabled");
    add(&b, "\1", 1);
    name(&b, MC_BSON_DATETIME, "updated");
    add_u64(&b, 5);
    finish(&b, doc);
    for (int round = 0; round < test_rounds(20); round++) {
        uint64_t taken;
        (void)clock_gettime(CLOCK_MONOTONIC, &from);
        for (int i = 0; i < 10000; i++) {
            CHECK_EQ(mc_bson_validate(b.bytes, b.len, NULL), MC_OK);
        }
        (void)clock_gettime(CLOCK_MONOTONIC, &to);
        taken = (uint64_t)((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec);
        best = taken < best ? taken : best;
    }
    printf("validating %zu bytes, 13 fields: %.0f ns\n", b.len, (double)best / 10000);
}

int main(void)
{
    test_begin("test_bson");
    test_size();
    test_everything();
    test_content();
    test_duplicates();
    test_long_names();
    test_utf8();
    test_depth();
    test_damage();
    test_again();
    report_speed();
    return 0;
}
