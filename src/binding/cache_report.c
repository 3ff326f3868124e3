/* cache_report.c - Cache.status(), stats(), catalogue(), check(): dicts for people and monitors.
 *
 * All of a report comes from one reading: the root record carries the counts, so stats() costs no
 * walk. check() is the one long call here and runs without the GIL.
 */
#include "cache_report.h"

#include "cache.h"
#include "cache_history.h"
#include "check.h"
#include "errors.h"
#include "region.h"

/* Adds a new reference (or NULL with an exception) to a dict: 0, or -1. */
static int put(PyObject *dict, const char *name, PyObject *value)
{
    int result = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);
    Py_XDECREF(value);
    return result;
}

static int put_count(PyObject *dict, const char *name, uint64_t value)
{
    return put(dict, name, PyLong_FromUnsignedLongLong(value));
}

/* Microseconds since 1970 as Unix seconds; None for never. */
static int put_time(PyObject *dict, const char *name, int64_t microseconds)
{
    return put(dict, name,
               microseconds == 0 ? Py_NewRef(Py_None)
                                 : PyFloat_FromDouble((double)microseconds / 1e6));
}

static int put_text(PyObject *dict, const char *name, const char *text, size_t size)
{
    return put(dict, name, mc_field_str(text, size));
}

/* The counts of one kind: a dict, empty where the file holds none, or bytes that are none. */
static PyObject *counts(const struct mc_loader_report *status, enum mc_counts_kind kind)
{
    struct mc_bson_cursor cursor;
    struct mc_count count;
    PyObject *dict = PyDict_New();
    if (dict == NULL || !mc_counts_open(status->counts, status->counts_len, kind, &cursor)) {
        return dict;
    }
    while (dict != NULL && mc_counts_next(&cursor, &count)) {
        PyObject *name = PyUnicode_DecodeUTF8(count.name, (Py_ssize_t)count.name_len, "replace");
        PyObject *value = PyLong_FromUnsignedLongLong(count.count);
        if (name == NULL || value == NULL || PyDict_SetItem(dict, name, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return dict;
}

/* What the loader says of its stream of changes: 0, or -1. */
static int put_stream(PyObject *dict, const struct mc_loader_report *status)
{
    return put_time(dict, "position_at", status->position_at) < 0 ||
                   put_count(dict, "events", status->events) < 0 ||
                   put_count(dict, "disconnects", status->disconnects) < 0 ||
                   put(dict, "loads", counts(status, MC_COUNTS_LOADS)) < 0 ||
                   put(dict, "errors", counts(status, MC_COUNTS_ERRORS)) < 0
               ? -1
               : 0;
}

/* Seconds since the data was last known to be current; None before there was any. */
static PyObject *age(const struct mc_reading *reading, const struct mc_loader_report *status)
{
    int64_t published = reading->view.root.published_at;
    if (status->confirmed_at == 0 && published == 0) {
        return Py_NewRef(Py_None);
    }
    return PyFloat_FromDouble((double)mc_map_age(reading->view.map, status, published) / 1e6);
}

/* The age, and the lag, which is the same while the loader follows its source: 0, or -1. */
static int put_ages(PyObject *dict, const struct mc_reading *reading,
                    const struct mc_loader_report *status)
{
    PyObject *seconds = age(reading, status);
    int result = seconds == NULL ? -1 : PyDict_SetItemString(dict, "age", seconds);
    if (result == 0) {
        result = PyDict_SetItemString(dict, "lag", status->following ? seconds : Py_None);
    }
    Py_XDECREF(seconds);
    return result;
}

static PyObject *file_id(const struct mc_superblock *superblock)
{
    char text[37];
    const uint8_t *id = superblock->file_id;
    size_t at = 0;
    for (size_t i = 0; i < sizeof superblock->file_id; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            text[at++] = '-';
        }
        at += (size_t)snprintf(text + at, sizeof text - at, "%02x", id[i]);
    }
    return PyUnicode_FromStringAndSize(text, 36);
}

PyObject *mc_cache_status(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct mc_reader *reader = mc_cache_reader(self);
    struct mc_reading *reading = mc_reader_seek(reader);
    struct mc_loader_report status;
    PyObject *dict;
    if (reading == NULL) {
        return NULL;
    }
    mc_reading_retain(reading); /* a new dict may start a collection of garbage */
    mc_map_report(reading->view.map, &status);
    dict = PyDict_New();
    if (dict == NULL || put(dict, "path", Py_NewRef(((mc_cache_object *)self)->path)) < 0 ||
        put(dict, "file_id", file_id(mc_map_superblock(reading->view.map))) < 0 ||
        put_count(dict, "generation", mc_reading_generation(reading)) < 0 ||
        put_time(dict, "published_at", reading->view.root.published_at) < 0 ||
        put_time(dict, "confirmed_at", status.confirmed_at) < 0 ||
        put_ages(dict, reading, &status) < 0 ||
        put(dict, "loader",
            PyUnicode_FromString(mc_loader_name(mc_map_loader(reading->view.map)))) < 0 ||
        put_text(dict, "state", status.state, sizeof status.state) < 0 ||
        (status.error[0] == '\0'
             ? put(dict, "error", Py_NewRef(Py_None))
             : put_text(dict, "error", status.error, sizeof status.error)) < 0 ||
        put_text(dict, "source", status.source, sizeof status.source) < 0 ||
        put_stream(dict, &status) < 0) {
        Py_CLEAR(dict);
    }
    mc_reading_release(reading);
    return dict;
}

static PyObject *front_stats(struct mc_reader *reader)
{
#if MC_FREE_THREADED
    struct mc_front sum = {0}, *front = &sum;
    mc_lanes_sum(&reader->lanes, front);
#else
    const struct mc_front *front = &reader->lane.front;
#endif
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K}", "entries", (unsigned long long)front->count,
                         "bytes", (unsigned long long)front->bytes, "hits",
                         (unsigned long long)front->hits, "misses",
                         (unsigned long long)front->misses, "revalidations",
                         (unsigned long long)front->revalidations, "evictions",
                         (unsigned long long)front->evictions);
}

PyObject *mc_cache_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct mc_reader *reader = mc_cache_reader(self);
    struct mc_reading *reading = mc_reader_seek(reader);
    const struct mc_root *root;
    PyObject *dict;
    if (reading == NULL) {
        return NULL;
    }
    mc_reading_retain(reading);
    root = &reading->view.root;
    dict = PyDict_New();
    if (dict == NULL || put_count(dict, "collections", root->collections) < 0 ||
        put_count(dict, "documents", root->documents) < 0 ||
        put_count(dict, "bytes_used", root->used) < 0 ||
        put_count(dict, "bytes_free", root->free) < 0 ||
        put_count(dict, "largest_free", root->largest_free) < 0 ||
        put_count(dict, "file_size", root->file_size) < 0 ||
        put_count(dict, "max_size", mc_map_superblock(reading->view.map)->max_size) < 0 ||
        put_count(dict, "huge_bytes", root->huge) < 0 ||
        put(dict, "front_cache", front_stats(reader)) < 0) {
        Py_CLEAR(dict);
    }
    mc_reading_release(reading);
    return dict;
}

/* ---- the catalogue ---- */

/* When that generation was published; None where the ring has it no more. */
static PyObject *published_at(const struct mc_view *view, uint64_t generation)
{
    struct mc_root root;
    if (mc_root_read(&view->space, mc_map_superblock(view->map), generation, &root, NULL) !=
        MC_OK) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)root.published_at / 1e6);
}

/* What a dict says of a collection; occupied: NULL, or its bytes. NULL with an exception. */
static PyObject *collection_dict(const struct mc_view *view, const struct mc_collection *collection,
                                 const uint64_t *occupied)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL || put_count(dict, "documents", collection->count) < 0 ||
        put_count(dict, "bytes", collection->content) < 0 ||
        (occupied != NULL && put_count(dict, "occupied", *occupied) < 0) ||
        put_count(dict, "created", collection->created) < 0 ||
        put_count(dict, "changed", collection->changed) < 0 ||
        put(dict, "changed_at", published_at(view, collection->changed)) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

static int add_collection(struct mc_reader *reader, PyObject *dict, const struct mc_view *view,
                          const struct mc_hit *hit, const uint64_t *occupied)
{
    char name[MC_NAME_MAX];
    PyObject *key, *value;
    struct mc_collection collection;
    enum mc_status status;
    int result = -1;
    mc_copy(name, hit->key, hit->key_len);
    /* A changed name is under another hash: who asked for it would be told that it is absent. */
    status = mc_view_collection(view, name, hit->key_len, &collection);
    if (status == MC_EXPIRED) { /* the caller finds out, too */
        return 0;
    }
    key = status == MC_OK ? mc_name_text(name, hit->key_len) : NULL;
    if (key == NULL && !PyErr_Occurred()) {
        mc_reader_corrupt(reader, "the name of a collection");
        return -1;
    }
    value = key == NULL ? NULL : collection_dict(view, &collection, occupied);
    if (value != NULL) {
        result = PyDict_SetItem(dict, key, value);
    }
    Py_XDECREF(key);
    Py_XDECREF(value);
    return result;
}

/* The collections of a generation by name; occupied: the bytes of each of the first
 * `room` ones. NULL with *status, or with an exception. */
static PyObject *collections_of(struct mc_reader *reader, const struct mc_view *view,
                                const uint64_t *occupied, size_t room, enum mc_status *status)
{
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_collection collection;
    PyObject *dict = PyDict_New();
    size_t index = 0;
    mc_walk_begin(&walk, &view->space, view->root.catalogue);
    while (dict != NULL && (*status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        if (hit.key_len <= MC_NAME_MAX && mc_hit_collection(&hit, &collection) == MC_OK) {
            const uint64_t *bytes = index < room ? &occupied[index] : NULL;
            if (add_collection(reader, dict, view, &hit, bytes) < 0) {
                Py_CLEAR(dict);
            }
            index++;
        }
    }
    if (dict != NULL) {
        *status = mc_view_settle(view, *status == MC_ABSENT ? MC_OK : *status);
        if (*status != MC_OK) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

PyObject *mc_cache_catalogue(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct mc_reader *reader = mc_cache_reader(self);
    unsigned tries = 0;
    for (;;) {
        struct mc_reading *reading = mc_reader_seek(reader);
        enum mc_status status = MC_OK;
        PyObject *result;
        if (reading == NULL) {
            return NULL;
        }
        mc_reading_retain(reading);
        result = collections_of(reader, &reading->view, NULL, 0, &status);
        mc_reading_release(reading);
        if (result != NULL || PyErr_Occurred()) {
            return result;
        }
        if (status != MC_EXPIRED) {
            return mc_reader_corrupt(reader, "the catalogue");
        }
        if (!mc_reader_again(reader, &tries)) {
            return NULL;
        }
    }
}

/* ---- check ---- */

static PyObject *free_blocks(const struct mc_check_report *report)
{
    PyObject *dict = PyDict_New();
    for (unsigned order = 0; dict != NULL && order < MC_CHECK_ORDERS; order++) {
        if (report->free_blocks[order] != 0) {
            PyObject *size = PyLong_FromUnsignedLongLong((unsigned long long)MC_GRANULE << order);
            PyObject *count = PyLong_FromUnsignedLongLong(report->free_blocks[order]);
            if (size == NULL || count == NULL || PyDict_SetItem(dict, size, count) < 0) {
                Py_CLEAR(dict);
            }
            Py_XDECREF(size);
            Py_XDECREF(count);
        }
    }
    return dict;
}

static PyObject *check_report(const struct mc_reading *reading, PyObject *collections,
                              const struct mc_check_report *report)
{
    PyObject *dict = PyDict_New();
    size_t rounds, damaged;
    PyMem_Free(mc_reading_history(reading, &rounds, &damaged));
    if (PyErr_Occurred()) {
        Py_CLEAR(dict);
    }
    if (dict == NULL || put_count(dict, "generation", mc_reading_generation(reading)) < 0 ||
        put(dict, "collections", Py_NewRef(collections)) < 0 ||
        put_count(dict, "entries", report->entries) < 0 ||
        put_count(dict, "pages", report->pages) < 0 ||
        put_count(dict, "nodes", report->nodes) < 0 ||
        put_count(dict, "bytes_used", report->used) < 0 ||
        put(dict, "free_blocks", free_blocks(report)) < 0 ||
        put_count(dict, "largest_free", report->largest_free) < 0 ||
        put_count(dict, "history", rounds) < 0 || put_count(dict, "history_damaged", damaged) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

PyObject *mc_cache_check(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct mc_reader *reader = mc_cache_reader(self);
    unsigned tries = 0;
    for (;;) {
        struct mc_reading *reading = mc_reader_update(reader);
        struct mc_check_report report;
        struct mc_error error;
        enum mc_status status, walked = MC_OK;
        PyObject *collections = NULL;
        PyObject *result = NULL;
        uint64_t *occupied;
        size_t room;
        if (reading == NULL) {
            return NULL;
        }
        room = reading->view.root.collections; /* as it says: it was not checked yet */
        room = room < MC_COLLECTIONS_MAX ? room : MC_COLLECTIONS_MAX;
        occupied = PyMem_New(uint64_t, room + 1);
        if (occupied == NULL) {
            return PyErr_NoMemory();
        }
        mc_reading_retain(reading);
        Py_BEGIN_ALLOW_THREADS
        status = mc_check_each(&reading->view, &report, occupied, room, &error);
        Py_END_ALLOW_THREADS
        if (status == MC_OK) {
            collections = collections_of(reader, &reading->view, occupied, room, &walked);
            result = collections == NULL ? NULL : check_report(reading, collections, &report);
            Py_XDECREF(collections);
        }
        PyMem_Free(occupied);
        mc_reading_release(reading);
        if (status != MC_OK && status != MC_EXPIRED) {
            return mc_raise(reader->module, &error);
        }
        bool expired = status == MC_EXPIRED || (result == NULL && !PyErr_Occurred());
        if (!expired || !mc_reader_again(reader, &tries) || PyErr_CheckSignals() < 0) {
            return result;
        }
    }
}
