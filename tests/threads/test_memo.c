/* test_memo.c - threads that read one document: its memo, its index, its arrays.
 *
 * Each round makes documents that nobody has read. All threads read all their fields at once, in
 * orders of their own, by names that code would use and by names made for one request; some walk it
 * meanwhile. Whoever comes first decides which object a field's value is, and all others must have
 * the same one. Half of the threads only look at what is there. At the end nothing may be left.
 */
#include <pthread.h>

#include "document/decode.h"
#include "document/fields.h"
#include "document/memo.h"
#include "fake_python.h"
#include "harness.h"

enum { THREADS = 4, FIELDS = 40, ROUNDS = 25, DOCUMENTS = 16, READERS = THREADS / 2 };

static struct mc_document_state state;
static struct mc_options options = {.state = &state, .references = 1};
static PyTypeObject document_type = {.ob_base = {1, &fake_text_type, 0}, .tp_name = "Document"};
static PyTypeObject array_type = {.ob_base = {1, &fake_text_type, 0}, .tp_name = "Array"};

static struct mc_document *documents[DOCUMENTS];
static PyObject *names[FIELDS];
static PyObject *first[DOCUMENTS][FIELDS]; /* the value that somebody got first, borrowed */
static int at;                             /* the document that is read just now */
static int finished;                       /* readers that have read all of a round */
static pthread_barrier_t barrier;

/* ---- what the rest of src/document does ---- */

PyObject *mc_value(const struct mc_document *parent, const struct mc_bson_element *element)
{
    (void)parent;
    return fake_long((int32_t)mc_bson_u32(element->value));
}

PyObject *mc_name(struct mc_document_state *unused, const uint8_t *name, size_t len)
{
    (void)unused;
    return fake_text((const char *)name, len, false);
}

void mc_name_offer(struct mc_document_state *unused, PyObject *name, const uint8_t *text,
                   size_t len)
{
    (void)unused;
    (void)name;
    (void)text;
    (void)len;
}

PyObject *mc_value_corrupt(struct mc_document_state *unused)
{
    (void)unused;
    test_failed(__FILE__, __LINE__, "a document is corrupt");
}

/* ---- the document ---- */

/* BSON of int32 fields: f00 to f39, each its own number. */
static size_t make_bson(uint8_t *out, int fields)
{
    size_t at = 4;
    for (int i = 0; i < fields; i++) {
        int32_t number = i;
        out[at++] = MC_BSON_INT32;
        at += (size_t)sprintf((char *)out + at, "f%02d", i) + 1;
        memcpy(out + at, &number, 4);
        at += 4;
    }
    out[at++] = 0;
    uint32_t len = (uint32_t)at;
    memcpy(out, &len, 4);
    return at;
}

static struct mc_document *make_document(PyTypeObject *type, const uint8_t *bytes, size_t len)
{
    struct mc_owner *root = fake_alloc(sizeof *root + len, true);
    (void)PyObject_Init((PyObject *)root, type);
    memcpy(root->bytes, bytes, len);
    root->block = (struct mc_block){.references = 1, .options = &options};
    root->document.block = &root->block;
    root->document.data = root->bytes;
    root->document.len = (uint32_t)len;
    root->document.count = MC_COUNT_UNKNOWN;
    return &root->document;
}

static void drop_document(struct mc_document *document)
{
    Py_DECREF(Py_TYPE(document));
    mc_document_forget(document);
    fake_free(document);
}

/* ---- threads ---- */

static void same_as_first(int number, int field, PyObject *value)
{
    PyObject *none = NULL;
    CHECK(value != NULL);
    CHECK_EQ(fake_number(value), field);
    if (!__atomic_compare_exchange_n(&first[number][field], &none, value, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        CHECK(none == value);
    }
    Py_DECREF(value);
}

static void read_field(int number, int field, bool by_code)
{
    struct mc_document *document = documents[number];
    PyObject *name = names[field], *value;
    if (!by_code) {
        struct fake_text *text = (struct fake_text *)(void *)name;
        name = fake_text(text->bytes, (size_t)text->len, false);
    }
    value = mc_document_recall(document, name);
    same_as_first(number, field, value != NULL ? Py_NewRef(value) : mc_field_get(document, name));
    if (!by_code) {
        Py_DECREF(name);
    }
}

static void walk(struct mc_document *document)
{
    struct mc_field_walk walk;
    struct mc_bson_element element;
    int more, count = 0;
    CHECK_EQ(mc_fields_begin(&walk, document), 0);
    while ((more = mc_fields_next(&walk, &element)) > 0) {
        PyObject *name = mc_fields_name(&walk, &element);
        PyObject *value = mc_fields_value(&walk, &element);
        CHECK_EQ(PyUnicode_GET_LENGTH(name), 3);
        CHECK_EQ(fake_number(value), count);
        Py_DECREF(name);
        Py_DECREF(value);
        count++;
    }
    CHECK_EQ(more, 0);
    CHECK_EQ(count, (int)mc_load(&document->count));
}

static void read_document(int number, int me, int round)
{
    struct mc_document *document = documents[number];
    int fields = (int)mc_fields_count(document);
    if (Py_TYPE(document) == &array_type) {
        for (int i = 0; i < fields; i++) {
            same_as_first(number, i, mc_member_get(document, i));
        }
        return;
    }
    for (int i = 0; i < fields; i++) {
        read_field(number, (i * 7 + me * (round % 5)) % fields, (i + me + round) % 3 != 0);
        mc_yield(); /* to those that watch */
    }
    if ((me + round) % 3 == 0) {
        walk(document);
    }
    for (int i = 0; i < fields; i++) {
        read_field(number, i, true);
    }
}

/* Looks at what the others put there, and takes no lock. */
static void watch_document(int number)
{
    for (int i = 0; i < FIELDS; i++) {
        PyObject *value = mc_document_recall(documents[number], names[i]);
        if (value != NULL) {
            same_as_first(number, i, Py_NewRef(value));
        }
    }
    mc_yield();
}

static void *reader(void *argument)
{
    int me = (int)(intptr_t)argument;
    for (int round = 0; round < test_rounds(ROUNDS); round++) {
        (void)pthread_barrier_wait(&barrier); /* there are documents */
        for (int i = 0; i < DOCUMENTS && me < READERS; i++) {
            mc_poke(&at, i);
            read_document(i, me, round + i);
        }
        if (me < READERS) {
            mc_count_up(&finished);
        }
        while (mc_peek(&finished) < (round + 1) * READERS) {
            watch_document(mc_peek(&at));
        }
        (void)pthread_barrier_wait(&barrier); /* they may go */
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    uint8_t bytes[16 * FIELDS + 16];
    test_begin("test_memo");
    state.document_type = &document_type;
    state.array_type = &array_type;
    for (int i = 0; i < 4; i++) {
        state.secret[i] = test_random() | 1;
    }
    for (int i = 0; i < FIELDS; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "f%02d", i);
        names[i] = fake_text(name, 3, true);
    }
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
    for (intptr_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, reader, (void *)i), 0);
    }
    long before = fake_blocks;
    for (int round = 0; round < test_rounds(ROUNDS); round++) {
        memset(first, 0, sizeof first);
        for (int i = 0; i < DOCUMENTS; i++) {
            /* few fields stay in the memo, many make an index */
            int fields = i % 4 == 0 ? 1 + round % 3 : i % 4 == 1 ? FIELDS : 20;
            size_t len = make_bson(bytes, fields);
            documents[i] = make_document(i % 8 == 7 ? &array_type : &document_type, bytes, len);
        }
        (void)pthread_barrier_wait(&barrier);
        (void)pthread_barrier_wait(&barrier);
        for (int i = 0; i < DOCUMENTS; i++) {
            drop_document(documents[i]);
        }
        CHECK_EQ(fake_blocks, before);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    for (int i = 0; i < FIELDS; i++) {
        Py_DECREF(names[i]);
    }
    CHECK_EQ(fake_blocks, 0);
    return 0;
}
