/* test_lanes.c - threads that read one cache by lanes of their own, while a loader commits.
 *
 * The loader changes half of the documents with each commit, and once it begins a new file in the
 * place of the first. The threads ask for documents by key objects that all of them share, as a
 * service does; each ends after a while, and another one takes its place. What they get must be of
 * the key, and no older than what they had of it before. Then the cache is closed under them, and
 * everything has to have come back.
 *
 * Before that one thread reads in the orders in which a front cache could keep an answer that
 * the change log has taken from it (vouch.h): beside snapshots, a drop, a destructor that reads.
 */
#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

#include "arguments.h"
#include "collection.h"
#include "fake_python.h"
#include "harness.h"
#include "lane_owner.h"
#include "writer/batch.h"
#include "writer/writer.h"

enum { THREADS = 4, LIVES = 3, KEYS = 96, COMMITS = 120, MISSING = 8, FRONT_ENTRIES = 64 };

static struct mc_module module;
static struct mc_options options = {.state = &module.documents, .references = 1};
static PyTypeObject collection_type = {.ob_base = {1, &fake_text_type, 0},
                                       .tp_name = "Collection",
                                       .tp_basicsize = sizeof(mc_collection_object)};
static PyTypeObject snapshot_type = {.ob_base = {1, &fake_text_type, 0},
                                     .tp_name = "Snapshot",
                                     .tp_basicsize = sizeof(mc_snapshot_object)};
static void document_dealloc(PyObject *document);
static PyTypeObject document_type = {
    .ob_base = {1, &fake_text_type, 0}, .tp_name = "Document", .tp_dealloc = document_dealloc};

static struct mc_reader *reader;
static mc_collection_object *collection;
static PyObject *keys[KEYS + MISSING];
static _Thread_local enum mc_status raised;
static char path[256];

/* ---- what the rest of the binding does ---- */

PyObject *mc_raise(struct mc_module *state, const struct mc_error *error)
{
    (void)state;
    raised = error->status;
    return NULL;
}

PyObject *mc_raise_text(struct mc_module *state, enum mc_status status, const char *format, ...)
{
    (void)state;
    (void)format;
    raised = status;
    return NULL;
}

int mc_name_sought(PyObject *object, const char **name, size_t *len)
{
    Py_ssize_t length;
    *name = PyUnicode_AsUTF8AndSize(object, &length);
    *len = (size_t)length;
    return 1;
}

struct fake_document {
    PyObject_HEAD
    size_t len;
    uint8_t bytes[];
};

PyObject *mc_document_new(struct mc_options *unused, size_t len, unsigned blocks, uint8_t **bytes)
{
    struct fake_document *document = fake_alloc(sizeof *document + len, false);
    (void)unused;
    (void)blocks;
    (void)PyObject_Init((PyObject *)document, &document_type);
    document->len = len;
    *bytes = document->bytes;
    return (PyObject *)document;
}

/* Runs once, at the next Document's end: what a destructor could do. */
static _Thread_local void (*at_end)(void);

static void document_dealloc(PyObject *document)
{
    void (*then)(void) = at_end;
    at_end = NULL;
    fake_free(document);
    Py_DECREF(&document_type);
    if (then != NULL) {
        then();
    }
}

size_t mc_document_memory(PyObject *document)
{
    return sizeof(struct fake_document) + ((struct fake_document *)(void *)document)->len;
}

/* A thread is one of pthread's here, and ends when live() does. */
static _Thread_local struct mc_lane_owner *me;

struct mc_lane_owner *mc_lane_owner_known(void)
{
    return me;
}

struct mc_lane_owner *mc_lane_owner_needed(void)
{
    if (me == NULL) {
        me = mc_lane_owner_new();
    }
    return me;
}

static void end_thread(void)
{
    if (me != NULL) {
        mc_lane_owner_ends(me);
        me = NULL;
    }
}

/* ---- the loader ---- */

/* BSON of {k: key, n: number}, both int64. */
static size_t make_bson(uint8_t *out, int64_t key, int64_t number)
{
    uint32_t len = 4 + 2 * (3 + 8) + 1;
    memcpy(out, &len, 4);
    memcpy(out + 4, "\x12k\0", 3);
    memcpy(out + 7, &key, 8);
    memcpy(out + 15, "\x12n\0", 3);
    memcpy(out + 18, &number, 8);
    out[26] = 0;
    return len;
}

static void put(struct mc_writer *writer, const char *name, int64_t number, int64_t value)
{
    struct mc_error error;
    struct mc_key key;
    uint8_t bson[32];
    bool changed;
    mc_key_from_int64(number, &key);
    size_t len = make_bson(bson, number, value);
    CHECK_EQ(mc_batch_put(writer, name, strlen(name), &key, bson, len, &changed, &error), MC_OK);
}

static void commit(struct mc_writer *writer, int64_t number, bool all)
{
    struct mc_error error;
    uint64_t generation;
    CHECK_EQ(mc_batch_begin(writer, &error), MC_OK);
    for (int64_t i = 0; i < KEYS; i++) {
        if (all || i % 2 == number % 2) {
            put(writer, "sites", i, number);
        }
    }
    CHECK_EQ(mc_batch_commit(writer, &generation, &error), MC_OK);
}

static struct mc_writer *open_writer(bool discard)
{
    const struct mc_writer_options how = {
        .max_size = 16u << 20, .mode = 0600, .discard = discard, .retention_ns = 20000000};
    struct mc_writer *writer;
    struct mc_error error;
    CHECK_EQ(mc_writer_open(path, &how, &writer, &error), MC_OK);
    return writer;
}

static void *loader(void *argument)
{
    struct mc_writer *writer = argument;
    int commits = test_rounds(COMMITS);
    for (int i = 1; i <= commits; i++) {
        bool begin_anew = i == commits / 2;
        if (begin_anew) {
            mc_writer_close(writer);
            writer = open_writer(true);
        }
        commit(writer, i, begin_anew);
        usleep(500);
    }
    mc_reader_close(reader); /* under all that read */
    mc_writer_close(writer);
    return NULL;
}

/* ---- the threads ---- */

/* A Document as Collection.get() finds it: a new reference; NULL: none, or with `raised`. */
static PyObject *get(mc_collection_object *handle, PyObject *object, int64_t number)
{
    struct mc_reading *reading = mc_collection_reading(handle);
    const struct mc_manner manner = {.form = MC_FORM_DOCUMENT, .asks = true};
    struct mc_front_entry *entry;
    struct mc_key key;
    enum mc_status status;
    PyObject *document;
    unsigned tries = 0;
    if (reading == NULL) {
        return NULL;
    }
    entry = mc_front_by_object(mc_reader_front(reader), handle->channel, object);
    if (mc_collection_fronted(handle, reading) &&
        mc_collection_holds(handle, mc_reader_front(reader), reading, entry)) {
        mc_front_hit(mc_reader_front(reader), entry);
        return Py_XNewRef(entry->document);
    }
    mc_key_from_int64(number, &key);
    do {
        document = NULL;
        status = mc_collection_begin(handle, &reading);
        if (status == MC_OK) {
            struct mc_front *front = mc_reader_front(reader);
            key.hash = mc_view_hash(&reading->view, &key);
            entry = mc_front_find(front, handle->channel, &key);
            if (entry != NULL) {
                mc_front_set_alias(front, entry, object);
            }
            if (mc_collection_holds(handle, front, reading, entry)) {
                mc_front_hit(front, entry);
                return Py_XNewRef(entry->document);
            }
            document = mc_collection_find(handle, reading, manner, &key, NULL, &status);
        }
        status = mc_collection_judge(handle, status, &tries);
    } while (status == MC_EXPIRED);
    return document;
}

/* What the thread gets of a key, checked against what it had of it before. */
static void ask(int64_t number, int64_t had[KEYS])
{
    PyObject *document = get(collection, keys[number], number);
    if (document == NULL) {
        CHECK(raised == MC_CLOSED || (raised == MC_OK && number >= KEYS));
        return;
    }
    const uint8_t *bytes = ((struct fake_document *)(void *)document)->bytes;
    int64_t is = (int64_t)mc_bson_u64(bytes + 18);
    CHECK_EQ(mc_bson_u64(bytes + 7), number);
    CHECK(is >= had[number]);
    had[number] = is;
    Py_DECREF(document);
}

/* Some reads within one generation, whichever the others go on to. */
static void hold_one(void)
{
    struct mc_reading *reading = mc_reader_now(reader);
    if (reading != NULL) {
        uint64_t generation = mc_reading_generation(reading);
        mc_reading_retain(reading);
        for (int i = 0; i < 5; i++) {
            Py_XDECREF(get(collection, keys[i], i));
        }
        CHECK_EQ(mc_reading_generation(reading), generation);
        mc_reading_release(reading);
    }
}

/* One life of a thread; it ends early when the cache is closed. */
static void *live(void *argument)
{
    int64_t had[KEYS] = {0};
    uint64_t random = (uintptr_t)argument;
    raised = MC_OK;
    for (int round = 0; round < 6000 && raised == MC_OK; round++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        ask((int64_t)((random >> 33) % (KEYS + MISSING)), had);
        if (round % 100 == 0) {
            hold_one();
            /* as when another cache's lane has taken the place */
            mc_lane_table[reader->lanes.number % MC_LANE_ENTRIES].number = 0;
        }
    }
    end_thread();
    return NULL;
}

static void *lives(void *argument)
{
    while (!mc_reader_closed(reader)) {
        pthread_t threads[LIVES];
        for (uintptr_t i = 0; i < LIVES; i++) {
            void *seed = (void *)((uintptr_t)argument * LIVES + i + 1);
            CHECK_EQ(pthread_create(&threads[i], NULL, live, seed), 0);
        }
        for (int i = 0; i < LIVES; i++) {
            CHECK_EQ(pthread_join(threads[i], NULL), 0);
        }
        struct mc_front sum = {0};
        mc_lanes_sum(&reader->lanes, &sum);
        CHECK(mc_reader_closed(reader) || sum.hits > 0);
    }
    return NULL;
}

/* ---- one thread, and what the log tells it ---- */

static struct mc_writer *told_by;
static mc_collection_object *told;

static void drop(mc_collection_object *handle)
{
    mc_snapshot_object *snapshot = handle->snapshot;
    mc_reader_release(handle->reader);
    Py_DECREF(handle->name);
    Py_DECREF(handle);
    if (snapshot != NULL) {
        mc_reading_release(snapshot->reading);
        Py_DECREF(snapshot);
    }
}

/* The collection as it is now. */
static mc_collection_object *told_now(void)
{
    mc_snapshot_object *snapshot = PyObject_New(mc_snapshot_object, &snapshot_type);
    snapshot->reading = snapshot->held = mc_reading_retain(mc_reader_now(reader));
    PyObject *handle = mc_collection_bind(told, snapshot);
    Py_DECREF(snapshot); /* the handle has it */
    return (mc_collection_object *)(void *)handle;
}

/* Commits `number` to the keys from `first` to before `end`; anew: to no others. */
static void tell(int64_t first, int64_t end, int64_t number, bool anew)
{
    struct mc_error error;
    bool existed;
    uint64_t generation;
    CHECK_EQ(mc_batch_begin(told_by, &error), MC_OK);
    if (anew) {
        CHECK_EQ(mc_batch_drop(told_by, "told", 4, &existed, &error), MC_OK);
    }
    for (int64_t i = first; i < end; i++) {
        put(told_by, "told", i, number);
    }
    CHECK_EQ(mc_batch_commit(told_by, &generation, &error), MC_OK);
}

/* The number that a key has; -1: there is none. */
static int64_t number_of(mc_collection_object *handle, int64_t key)
{
    PyObject *document = get(handle, keys[key], key);
    int64_t number = -1;
    if (document != NULL) {
        number = (int64_t)mc_bson_u64(((struct fake_document *)(void *)document)->bytes + 18);
        Py_DECREF(document);
    }
    return number;
}

static mc_collection_object *newer;

static void *another_thread(void *unused)
{
    (void)unused;
    tell(20, 21, 200, false);
    tell(60, 61, 600, false);
    newer = told_now();
    end_thread();
    return NULL;
}

/* A snapshot that another thread took tells this one's front cache of what comes after the reading
 * that it has; then that reading is asked, as one that is not the latest. */
static void told_by_a_newer_snapshot(void)
{
    pthread_t one;
    mc_collection_object *old;
    tell(49, 50, 490, false);
    CHECK_EQ(number_of(told, 10), 0);
    old = told_now();
    CHECK_EQ(pthread_create(&one, NULL, another_thread, NULL), 0);
    CHECK_EQ(pthread_join(one, NULL), 0);
    CHECK_EQ(number_of(newer, 11), 0);
    CHECK_EQ(number_of(old, 20), 0);
    CHECK_EQ(number_of(old, 60), 0);
    CHECK_EQ(number_of(told, 12), 0);
    CHECK_EQ(number_of(told, 20), 200);
    CHECK_EQ(number_of(told, 60), 600);
    drop(old);
    drop(newer);
}

static void read_the_same(void)
{
    CHECK_EQ(number_of(told, 91), 50);
    CHECK_EQ(number_of(told, 91), 50);
}

/* How often the front cache has a key. */
static unsigned entries_of(int64_t number)
{
    const struct mc_front *front = mc_reader_front(reader);
    struct mc_key key;
    unsigned found = 0;
    mc_key_from_int64(number, &key);
    for (uint32_t i = 0; i < front->used; i++) {
        const struct mc_front_entry *entry = &front->entries[i];
        found += entry->state != MC_FRONT_FREE && entry->key_len == key.len &&
                 memcmp(mc_front_key(entry), key.data, key.len) == 0;
    }
    return found;
}

/* Changes key 90 while it is being taken in, and learns of it. */
static void change_and_learn(void)
{
    struct mc_reading *reading;
    tell(90, 91, 900, false);
    CHECK_EQ(mc_collection_begin(told, &reading), MC_OK);
}

static void told_alone(struct mc_writer *writer)
{
    mc_collection_object *old;
    PyObject *name = fake_text("told", 4, true);
    told_by = writer;
    told = (mc_collection_object *)(void *)mc_collection_new(reader, &options, name, NULL);
    Py_DECREF(name); /* the handle has it */
    tell(0, KEYS, 0, false);
    for (int64_t i = 3; i < 50; i++) {
        CHECK_EQ(number_of(told, i), 0);
    }
    told_by_a_newer_snapshot();
    old = told_now(); /* which is asked for a key only after the log has said that it changed */
    tell(2, 3, 20, false);
    CHECK_EQ(number_of(told, 10), 0);
    CHECK_EQ(number_of(old, 2), 0);
    CHECK_EQ(number_of(told, 2), 20);
    drop(old);
    tell(4, 5, 40, false);
    old = told_now(); /* in which a key is right that was not asked for since before */
    tell(3, 4, 30, false);
    CHECK_EQ(number_of(told, 10), 0);
    CHECK_EQ(number_of(old, 3), 0);
    CHECK_EQ(number_of(told, 11), 0); /* now it knows the table, and looks at the entry twice */
    CHECK_EQ(number_of(told, 3), 30);
    CHECK_EQ(number_of(told, 4), 40);
    drop(old);
    tell(5, KEYS, 50, true);
    CHECK_EQ(number_of(told, 4), -1);
    CHECK_EQ(number_of(told, 5), 50);
    for (int64_t i = 5; i < 5 + 2 * FRONT_ENTRIES; i++) { /* each twice: the cache is full */
        (void)number_of(told, 5 + i % FRONT_ENTRIES);
    }
    CHECK_EQ(number_of(told, 90), 50);
    at_end = change_and_learn; /* at its second visit, when it is taken in */
    CHECK_EQ(number_of(told, 90), 50);
    CHECK(at_end == NULL);
    CHECK_EQ(number_of(told, 90), 900);
    CHECK_EQ(number_of(told, 91), 50);
    at_end = read_the_same;
    CHECK_EQ(number_of(told, 91), 50);
    CHECK(at_end == NULL);
    CHECK_EQ(entries_of(91), 1);
    drop(told);
    end_thread();
}

int main(void)
{
    const char *folder = getenv("TMPDIR");
    pthread_t threads[THREADS], one;
    struct mc_writer *writer;
    struct mc_view view;
    struct mc_error error;
    PyObject *name = fake_text("sites", 5, true);
    test_begin("test_lanes");
    (void)snprintf(path, sizeof path, "%s/test_lanes.%d", folder != NULL ? folder : "/tmp",
                   (int)getpid());
    module.collection = &collection_type;
    for (int i = 0; i < KEYS + MISSING; i++) {
        keys[i] = fake_long(i);
    }
    writer = open_writer(false);
    commit(writer, 0, true);
    CHECK_EQ(mc_reader_open(path, -1, -1, false, &view, &error), MC_OK);
    reader = mc_reader_new(
        &module, path, &view,
        (struct mc_reader_limits){.front_bytes = 1 << 20, .front_entries = FRONT_ENTRIES});
    CHECK(reader != NULL);
    collection = (mc_collection_object *)(void *)mc_collection_new(reader, &options, name, NULL);
    told_alone(writer);
    CHECK_EQ(pthread_create(&one, NULL, loader, writer), 0);
    for (uintptr_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, lives, (void *)i), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    CHECK_EQ(pthread_join(one, NULL), 0);
    unsigned lanes = 0;
    for (struct mc_own_lane *lane = reader->lanes.first; lane != NULL; lane = lane->next) {
        lanes++;
    }
    CHECK(lanes <= THREADS * LIVES); /* however many threads there were, one after the other */
    drop(collection);
    mc_reader_release(reader);
    Py_DECREF(name);
    for (int i = 0; i < KEYS + MISSING; i++) {
        CHECK_EQ(keys[i]->references, 1);
        Py_DECREF(keys[i]);
    }
    CHECK_EQ(fake_blocks, 0);
    (void)unlink(path);
    (void)snprintf(path + strlen(path), sizeof path - strlen(path), ".bell");
    (void)unlink(path);
    return 0;
}
