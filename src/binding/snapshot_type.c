/* snapshot_type.c - Snapshot: all collections of a cache in one generation.
 *
 * A snapshot is a counted reference to a reading and nothing more: making one reads no file and
 * takes no lock, and it pins nothing either. The loader does not know of it, so a snapshot kept for
 * longer than the writer's retention may expire; every answer is validated, so it never mixes.
 */
#include "snapshot_type.h"

#include "absent.h"
#include "arguments.h"
#include "cache.h"
#include "errors.h"

static PyObject *names_of(PyObject *self);
static PyObject *bound(PyObject *self, PyObject *name, PyObject *codec_options);
static PyObject *find(PyObject *self, PyObject *name);

static const struct mc_mapping mapping = {names_of, bound, find};

PyObject *mc_snapshot_new(struct mc_module *module, PyObject *cache, struct mc_reading *reading)
{
    mc_snapshot_object *self = mc_pool_new(&mc_cache_reader(cache)->snapshots, module->snapshot);
    if (self != NULL) {
        self->head.mapping = &mapping;
        self->reading = mc_reading_retain(reading);
#if MC_FREE_THREADED
        self->held = reading;
#endif
        self->cache = Py_NewRef(cache);
    }
    return (PyObject *)self;
}

static void snapshot_dealloc(PyObject *self_object)
{
    mc_snapshot_object *self = (mc_snapshot_object *)self_object;
    PyObject *cache = self->cache;
#if MC_FREE_THREADED
    mc_reading_release(self->held);
#else
    mc_reading_release(self->reading);
#endif
    mc_pool_free(&mc_cache_reader(cache)->snapshots, self);
    Py_DECREF(cache);
}

/* The reading, or NULL with ClosedError. */
static struct mc_reading *open_reading(PyObject *self_object)
{
    mc_snapshot_object *self = (mc_snapshot_object *)self_object;
    return mc_snapshot_reading(self, mc_cache_reader(self->cache));
}

/* Lets the live collection know its table in the snapshot's generation while that is the current
 * one, for the snapshots after this: false with an exception. */
static bool is_told(mc_collection_object *live, struct mc_reading *reading)
{
    return mc_collection_knows(live, reading) || mc_reader_lane(live->reader)->now != reading ||
           mc_collection_resolve(live, &reading) != MC_CLOSED;
}

/* The collection `name` in the snapshot, there or not: a new reference, or NULL. */
static PyObject *bound(PyObject *self, PyObject *name, PyObject *codec_options)
{
    struct mc_reading *reading = open_reading(self);
    PyObject *live, *collection = NULL;
    if (reading == NULL) {
        return NULL;
    }
    live = mc_cache_collection(((mc_snapshot_object *)self)->cache, name, codec_options);
    reading = live == NULL ? NULL : open_reading(self); /* a name may have code of its own */
    if (reading != NULL && is_told((mc_collection_object *)live, reading)) {
        collection = mc_collection_bind((mc_collection_object *)live, (mc_snapshot_object *)self);
    }
    Py_XDECREF(live);
    return collection;
}

/* Whether a collection is there: 1, 0, or -1 with an exception. */
static int contains(PyObject *self, PyObject *name)
{
    struct mc_reading *reading = open_reading(self);
    struct mc_collection found;
    const char *text;
    size_t len;
    int possible;
    if (reading == NULL) {
        return -1;
    }
    possible = PyUnicode_Check(name) ? mc_name_sought(name, &text, &len) : 0;
    if (possible <= 0) {
        return possible;
    }
    switch (mc_view_collection(&reading->view, text, len, &found)) {
    case MC_OK:
        return 1;
    case MC_ABSENT:
        return 0;
    case MC_EXPIRED:
        mc_raise_text(mc_module_of(self), MC_EXPIRED,
                      "the loader reclaimed the snapshot's generation");
        return -1;
    default:
        mc_reader_corrupt(mc_cache_reader(((mc_snapshot_object *)self)->cache), "its catalogue");
        return -1;
    }
}

static PyObject *find(PyObject *self, PyObject *name)
{
    PyObject *collection;
    mc_collection_object *handle;
    struct mc_reading *reading;
    if (open_reading(self) == NULL || !PyUnicode_Check(name)) {
        return NULL;
    }
    collection = bound(self, name, NULL);
    if (collection == NULL) {
        return NULL;
    }
    handle = (mc_collection_object *)collection;
    reading = open_reading(self); /* another thread may have closed it */
    if (reading == NULL) {
        Py_DECREF(collection);
        return NULL;
    }
    if (mc_collection_knows(handle, reading) && mc_collection_table(handle)->created != 0) {
        return collection; /* the live handle knew that it is there */
    }
    if (contains(self, name) <= 0) {
        Py_CLEAR(collection);
    }
    return collection;
}

static PyObject *snapshot_subscript(PyObject *self_object, PyObject *name)
{
    mc_snapshot_object *self = (mc_snapshot_object *)self_object;
    PyObject *found = find(self_object, name);
    struct mc_reading *reading;
    if (found != NULL || PyErr_Occurred()) {
        return found;
    }
    reading = open_reading(self_object);
    return reading == NULL ? NULL
                           : mc_absent_collection(mc_cache_reader(self->cache), reading, name);
}

static PyObject *names_of(PyObject *self)
{
    struct mc_reading *reading = open_reading(self);
    enum mc_status status;
    PyObject *names;
    if (reading == NULL) {
        return NULL;
    }
    mc_reading_retain(reading); /* a new list may start a collection of garbage */
    names = mc_reading_names(mc_cache_reader(((mc_snapshot_object *)self)->cache), reading,
                             PY_SSIZE_T_MAX, &status);
    mc_reading_release(reading);
    if (names == NULL && status == MC_EXPIRED) {
        mc_raise_text(mc_module_of(self), MC_EXPIRED,
                      "the loader reclaimed the snapshot's generation");
    }
    return names;
}

static Py_ssize_t snapshot_length(PyObject *self)
{
    struct mc_reading *reading = open_reading(self);
    return reading == NULL ? -1 : (Py_ssize_t)reading->view.root.collections;
}

static PyObject *snapshot_close(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_snapshot_object *self = (mc_snapshot_object *)self_object;
    struct mc_reading *reading = self->reading;
    mc_reveal(&self->reading, NULL);
    if (!MC_FREE_THREADED) { /* else at the snapshot's end */
        mc_reading_release(reading);
    }
    Py_RETURN_NONE;
}

static PyObject *snapshot_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return open_reading(self) == NULL ? NULL : Py_NewRef(self);
}

static PyObject *snapshot_exit(PyObject *self, PyObject *const *Py_UNUSED(args),
                               Py_ssize_t Py_UNUSED(nargs))
{
    return snapshot_close(self, NULL);
}

static PyObject *snapshot_generation(PyObject *self, void *Py_UNUSED(closure))
{
    struct mc_reading *reading = open_reading(self);
    return reading == NULL ? NULL : PyLong_FromUnsignedLongLong(mc_reading_generation(reading));
}

static PyObject *snapshot_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(mc_load(&((mc_snapshot_object *)self)->reading) == NULL);
}

/* A dict of the collections of one generation; of a foreign mapping whatever it has. */
static PyObject *content_of(struct mc_module *module, PyObject *mapping)
{
    struct mc_reading *reading;
    PyObject *dict, *snapshot;
    if (Py_TYPE(mapping) == module->snapshot) {
        return mc_mapping_dict(mapping);
    }
    if (Py_TYPE(mapping) != module->cache) {
        return mc_dict_of(mapping);
    }
    reading = mc_reader_now(mc_cache_reader(mapping));
    snapshot = reading == NULL ? NULL : mc_snapshot_new(module, mapping, reading);
    dict = snapshot == NULL ? NULL : mc_mapping_dict(snapshot);
    Py_XDECREF(snapshot);
    return dict;
}

PyObject *mc_snapshot_compare(PyObject *self, PyObject *other, int operation)
{
    struct mc_module *module = mc_module_of(self);
    int comparable = mc_mapping_comparable(module, other, operation);
    PyObject *left, *right, *result = NULL;
    if (comparable <= 0) {
        return comparable < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    }
    if (self == other) {
        return PyBool_FromLong(operation == Py_EQ);
    }
    left = content_of(module, self);
    right = left == NULL ? NULL : content_of(module, other);
    if (right != NULL) {
        result = PyObject_RichCompare(left, right, operation);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static PyObject *snapshot_repr(PyObject *self_object)
{
    const struct mc_reading *reading = mc_load(&((mc_snapshot_object *)self_object)->reading);
    if (reading == NULL) {
        return PyUnicode_FromString("<mmapcache.Snapshot, closed>");
    }
    return PyUnicode_FromFormat("<mmapcache.Snapshot of generation %llu>",
                                (unsigned long long)mc_reading_generation(reading));
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))mc_mapping_get, METH_FASTCALL | METH_KEYWORDS,
     "get($self, /, name, default=None)\n--\n\nThe Collection of that name, or default."},
    {"collection", (PyCFunction)(void (*)(void))mc_mapping_collection,
     METH_FASTCALL | METH_KEYWORDS,
     "collection($self, /, name, codec_options=None)\n--\n\n"
     "The Collection of that name, there or not: an absent one is empty, as Cache.collection()\n"
     "says."},
    {"keys", mc_mapping_keys, METH_NOARGS, "keys($self, /)\n--\n\nThe collections' names."},
    {"values", mc_mapping_values, METH_NOARGS, "values($self, /)\n--\n\nThe Collections."},
    {"items", mc_mapping_items, METH_NOARGS,
     "items($self, /)\n--\n\nPairs of name and Collection."},
    {"_ipython_key_completions_", mc_mapping_completions, METH_NOARGS, NULL},
    {"close", snapshot_close, METH_NOARGS,
     "close($self, /)\n--\n\nLets go of the generation; harmless twice. Documents stay as they "
     "are."},
    {"__enter__", snapshot_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nThe snapshot itself."},
    {"__exit__", (PyCFunction)(void (*)(void))snapshot_exit, METH_FASTCALL,
     "__exit__($self, /, *args)\n--\n\nCloses the snapshot."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"generation", snapshot_generation, NULL, "The generation that is read.", NULL},
    {"closed", snapshot_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    type_doc,
    "A read-only mapping from name to Collection, all of one generation.\n\n"
    "Reading raises SnapshotExpired when the loader had to reclaim that generation, which it "
    "does not before the writer's retention (1 second by default) has passed unless its memory "
    "is short.\nRaises ClosedError after close(), CorruptError. Threads may share it, and a forked "
    "child goes\non with it.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_dealloc, snapshot_dealloc},
    {Py_tp_richcompare, mc_snapshot_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, snapshot_repr},
    {Py_tp_iter, mc_mapping_iter},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_mp_length, snapshot_length},
    {Py_mp_subscript, snapshot_subscript},
    {Py_sq_contains, contains},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "mmapcache.Snapshot",
    .basicsize = sizeof(mc_snapshot_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_MAPPING,
    .slots = slots,
};

int mc_snapshot_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &spec, &state->snapshot);
}
