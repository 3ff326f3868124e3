/* collection_type.c - the type Collection: get, [], in, len.
 *
 *      key object --alias--> front entry                             hit: no hash, no comparison
 *      canonical key, hash --> front entry                           hit
 *                          --> table --> copy, validate, remember    a new Document
 *
 * An entry of an earlier generation is a hit, too, where mc_collection_still says so.
 *
 * Everything up to the copy happens under the GIL without running Python code, so the reading that
 * a read begins with stays alive until it ends.
 */
#include "collection_type.h"

#include "absent.h"
#include "arguments.h"
#include "collection.h"
#include "collection_get_many.h"
#include "collection_map_type.h"
#include "collection_views.h"
#include "index_type.h"
#include "pykey.h"

enum { COMPLETIONS = 10000 }; /* keys that IPython is given at most */

/* ---- get ---- */

/* A Document (new reference), or NULL: with *absent set, or with an exception. */
static PyObject *answer(struct mc_front *front, struct mc_front_entry *entry, bool *absent)
{
    mc_front_hit(front, entry);
    if (entry->document == NULL) {
        *absent = true;
        return NULL;
    }
    return Py_NewRef(entry->document);
}

/* The whole way of one key, as in the picture above. */
static PyObject *fetch(mc_collection_object *self, struct mc_manner manner, PyObject *object,
                       bool *absent)
{
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    unsigned tries = 0;
    if (!mc_collection_key(self, object, &key, scratch, absent)) {
        return NULL;
    }
    enum mc_status status;
    PyObject *document;
    do {
        struct mc_reading *reading;
        struct mc_front_entry *entry = NULL;
        document = NULL;
        status = mc_collection_begin(self, &reading);
        if (status == MC_OK) {
            struct mc_front *front = mc_reader_front(self->reader);
            key.hash = mc_view_hash(&reading->view, &key);
            if (manner.asks && mc_collection_fronted(self, reading)) {
                if (front->misses > front->hits) { /* then both will be cold: one wait for two */
                    mc_table_touch(&reading->view.space, mc_collection_table(self)->root, key.hash);
                }
                entry = mc_front_find(front, mc_collection_channel(self, manner.form), &key);
            }
            if (entry != NULL && mc_front_may_alias(object)) {
                mc_front_set_alias(front, entry, object);
            }
            if (mc_collection_holds(self, front, reading, entry)) {
                return answer(front, entry, absent);
            }
            document = mc_collection_find(self, reading, manner, &key, NULL, &status);
        }
        status = mc_collection_judge(self, status, &tries);
    } while (status == MC_EXPIRED);
    *absent = status == MC_ABSENT;
    return status == MC_OK ? document : NULL;
}

/* The same, with the shortest way first: a key object that was seen before. */
static inline PyObject *lookup(mc_collection_object *self, struct mc_manner manner,
                               PyObject *object, bool *absent)
{
    struct mc_reading *reading = mc_collection_reading(self);
    struct mc_front_entry *entry;
    *absent = false;
    if (reading == NULL) {
        return NULL;
    }
    if (manner.asks && mc_collection_fronted(self, reading)) {
        struct mc_front *front = mc_reader_front(self->reader);
        entry = mc_front_by_object(front, mc_collection_channel(self, manner.form), object);
        if (mc_collection_holds(self, front, reading, entry)) {
            return answer(front, entry, absent);
        }
    }
    return fetch(self, manner, object, absent);
}

static const struct mc_manner as_document = {.form = MC_FORM_DOCUMENT, .asks = true};

PyDoc_STRVAR(get_doc,
             "get($self, /, key, default=None)\n--\n\n"
             "The Document of a key, or default when there is none.\n\n"
             "key: str, int, float, bytes, UUID, ObjectId or whatever else can be an _id.\n"
             "The same object comes back for as long as the document has not changed and the front "
             "cache keeps it.\n\nRaises TypeError for what can never be a key, CorruptError, "
             "ClosedError; in a snapshot SnapshotExpired.");

static PyObject *collection_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    static const char *const names[] = {"key", "default"};
    PyObject *values[2];
    PyObject *document;
    bool absent;
    if (kwnames == NULL && (nargs == 1 || nargs == 2)) {
        values[0] = args[0];
        values[1] = nargs == 2 ? args[1] : Py_None;
    } else if (!mc_arguments("get", names, 1, args, nargs, kwnames, values)) {
        return NULL;
    }
    document = lookup((mc_collection_object *)self, as_document, values[0], &absent);
    return document == NULL && absent ? Py_NewRef(values[1]) : document;
}

static PyObject *collection_subscript(PyObject *self, PyObject *key)
{
    bool absent;
    PyObject *document = lookup((mc_collection_object *)self, as_document, key, &absent);
    if (document == NULL && absent) {
        mc_collection_object *collection = (mc_collection_object *)self;
        struct mc_reading *reading = mc_collection_reading(collection);
        if (reading == NULL) {
            return NULL;
        }
        if (mc_collection_knows(collection, reading) &&
            mc_collection_table(collection)->created == 0) {
            return mc_absent_collection(collection->reader, reading, collection->name);
        }
        mc_absent_key(collection, key);
    }
    return document;
}

PyDoc_STRVAR(get_raw_doc, "get_raw($self, key, /)\n--\n\n"
                          "The document's BSON as MongoDB sent it, as bytes, or None.\n\n"
                          "Raises what get() raises.");

static PyObject *collection_get_raw(PyObject *self_object, PyObject *key)
{
    mc_collection_object *self = (mc_collection_object *)self_object;
    struct mc_lane *lane = mc_reader_need_lane(self->reader);
    if (lane == NULL) {
        return NULL;
    }
    struct mc_front *front = &lane->front;
    struct mc_manner manner = {.form = MC_FORM_RAW, .asks = mc_front_worth_asking(front)};
    uint64_t before = front->hits;
    bool absent;
    PyObject *bytes = lookup(self, manner, key, &absent);
    if (manner.asks) {
        mc_front_asked(front, front->hits != before);
    }
    return bytes == NULL && absent ? Py_NewRef(Py_None) : bytes;
}

/* ---- in, len ---- */

static int collection_contains(PyObject *self_object, PyObject *object)
{
    mc_collection_object *self = (mc_collection_object *)self_object;
    struct mc_reading *reading = mc_collection_reading(self);
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    if (reading == NULL) {
        return -1;
    }
    if (mc_collection_fronted(self, reading)) {
        struct mc_front *front = mc_reader_front(self->reader);
        struct mc_front_entry *entry = mc_front_by_object(front, self->channel, object);
        if (mc_collection_holds(self, front, reading, entry)) {
            mc_front_hit(front, entry);
            return entry->document != NULL;
        }
    }
    switch (mc_pykey_from(self->options, object, &key, scratch, NULL)) {
    case MC_PYKEY_ERROR:
        return -1;
    case MC_PYKEY_NEVER:
        return 0;
    case MC_PYKEY_OK:
        break;
    }
    return mc_collection_has(self, &key);
}

static Py_ssize_t collection_length(PyObject *self_object)
{
    mc_collection_object *self = (mc_collection_object *)self_object;
    struct mc_reading *reading;
    return mc_collection_ready(self, &reading) == MC_OK
               ? (Py_ssize_t)(mc_collection_table(self)->count & PY_SSIZE_T_MAX)
               : -1;
}

/* ---- the object ---- */

static void collection_dealloc(PyObject *self_object)
{
    mc_collection_object *self = (mc_collection_object *)self_object;
    struct mc_reader *reader = self->reader;
    Py_XDECREF(self->snapshot);
    mc_options_release(self->options);
    Py_XDECREF(self->codec_options);
    Py_DECREF(self->name);
    mc_pool_free(&reader->collections, self);
    mc_reader_release(reader);
}

/* Whether there is no such collection, as far as can be said: a cache or snapshot that is closed is
 * not asked, and what cannot be read is not called absent. Never an exception, and one that is set
 * stays. */
static bool is_absent(mc_collection_object *self)
{
    PyObject *type, *value, *traceback;
    struct mc_reading *reading;
    bool absent = false;
    if (mc_reader_closed(self->reader) ||
        (self->snapshot != NULL && mc_load(&self->snapshot->reading) == NULL)) {
        return false;
    }
    PyErr_Fetch(&type, &value, &traceback);
    if (mc_collection_ready(self, &reading) == MC_OK) {
        absent = mc_collection_table(self)->created == 0;
    }
    PyErr_Restore(type, value, traceback);
    return absent;
}

static PyObject *collection_repr(PyObject *self_object)
{
    mc_collection_object *self = (mc_collection_object *)self_object;
    return PyUnicode_FromFormat("<mmapcache.Collection %R%s%s>", self->name,
                                self->snapshot == NULL ? "" : " of a snapshot",
                                is_absent(self) ? ", absent" : "");
}

static PyObject *collection_iter(PyObject *self)
{
    return mc_iterator_new((mc_collection_object *)self, MC_KEYS);
}

static PyObject *collection_keys(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mc_collection_view((mc_collection_object *)self, MC_KEYS);
}

static PyObject *collection_values(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mc_collection_view((mc_collection_object *)self, MC_VALUES);
}

static PyObject *collection_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mc_collection_view((mc_collection_object *)self, MC_ITEMS);
}

static PyObject *collection_name(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((mc_collection_object *)self)->name);
}

PyDoc_STRVAR(get_many_doc,
             "get_many($self, keys, /)\n--\n\n"
             "A dict of those keys that are there, with their Documents, all of one generation.\n\n"
             "keys: an iterable of keys.\n\nRaises what get() raises; TypeError for a key that "
             "Python cannot hash.");
PyDoc_STRVAR(
    pluck_doc,
    "pluck($self, /, key, path, default=None)\n--\n\n"
    "One field of a document, read in place without copying the rest.\n\n"
    "path: \"limits.qps\" or \"hosts.0.name\"; an array is entered by index. default: what to "
    "return when there is no such document or field.\n\nRaises what get() raises.");
PyDoc_STRVAR(keys_doc, "keys($self, /)\n--\n\nA view of the keys.");
PyDoc_STRVAR(values_doc, "values($self, /)\n--\n\nA view of the Documents.");
PyDoc_STRVAR(items_doc, "items($self, /)\n--\n\nA view of the pairs of key and Document.");

/* For IPython: what may stand between the brackets, of a large collection a part. */
static PyObject *collection_completions(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *key, *keys = PyList_New(0);
    PyObject *iterator = keys == NULL ? NULL : collection_iter(self);
    if (iterator == NULL) {
        Py_XDECREF(keys);
        return NULL;
    }
    while (PyList_GET_SIZE(keys) < COMPLETIONS && (key = PyIter_Next(iterator)) != NULL) {
        int failed = PyList_Append(keys, key);
        Py_DECREF(key);
        if (failed) {
            break;
        }
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        Py_CLEAR(keys);
    }
    return keys;
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))collection_get, METH_FASTCALL | METH_KEYWORDS, get_doc},
    {"get_many", mc_collection_get_many, METH_O, get_many_doc},
    {"get_raw", collection_get_raw, METH_O, get_raw_doc},
    {"pluck", (PyCFunction)(void (*)(void))mc_collection_pluck, METH_FASTCALL | METH_KEYWORDS,
     pluck_doc},
    {"map", (PyCFunction)(void (*)(void))mc_collection_map, METH_VARARGS | METH_KEYWORDS,
     mc_collection_map_doc},
    {"by", mc_collection_by, METH_O, mc_collection_by_doc},
    {"_ipython_key_completions_", collection_completions, METH_NOARGS, NULL},
    {"keys", collection_keys, METH_NOARGS, keys_doc},
    {"values", collection_values, METH_NOARGS, values_doc},
    {"items", collection_items, METH_NOARGS, items_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"name", collection_name, NULL, "The collection's name.", NULL},
    {"indexes", mc_collection_indexes, NULL,
     "The fields that by() takes, as a dict: each with \"unique\" or \"multi\". Raises "
     "CorruptError,\nClosedError; in a snapshot SnapshotExpired.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    type_doc,
    "A read-only mapping from key to Document: one collection of a cache.\n\n"
    "Follows the cache from generation to generation. A collection that is dropped acts as "
    "empty, and works again when it is back. From a snapshot, it stays with the snapshot.\n\n"
    "Any number of threads may use it, and forked children go on with it. An iteration is of the\n"
    "generation in which it began, and raises SnapshotExpired when the loader had to reclaim "
    "that.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_dealloc, collection_dealloc},
    {Py_tp_repr, collection_repr},
    {Py_tp_richcompare, mc_mapping_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, collection_iter},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_mp_length, collection_length},
    {Py_mp_subscript, collection_subscript},
    {Py_sq_contains, collection_contains},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "mmapcache.Collection",
    .basicsize = sizeof(mc_collection_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_MAPPING,
    .slots = slots,
};

int mc_collection_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &spec, &state->collection);
}
