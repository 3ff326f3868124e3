/* collection_map_type.c - Collection.map() and the type CollectionMap: a mapping like its
 * collection, but for the values.
 */
#include "collection_map_type.h"

#include "absent.h"
#include "arguments.h"
#include "collection_map.h"
#include "collection_views.h"
#include "document/classes.h"

typedef struct {
    PyObject_HEAD
    mc_map_object *map; /* owned */
    PyObject *keys;     /* owned: an iterator over the collection's */
    enum mc_mapping_view kind;
} iterator_object;

/* What map[key] is for a key that is not there. */
static PyObject *answer_missing(mc_map_object *self, PyObject *key)
{
    PyObject *missing = Py_XNewRef(self->missing);
    PyObject *answer = NULL;
    if (missing == PyExc_KeyError) { /* the usual one says more than the key, where it can */
        mc_absent_key(self->collection, key);
    } else if (missing != NULL) {
        answer = PyObject_CallOneArg(missing, key);
    }
    if (missing == NULL) {
        PyErr_SetString(PyExc_ReferenceError, "this map is being destroyed");
    } else if (answer != NULL && PyExceptionClass_Check(missing)) {
        if (PyExceptionInstance_Check(answer)) {
            PyErr_SetObject((PyObject *)Py_TYPE(answer), answer);
        } else {
            PyErr_Format(PyExc_TypeError, "%R made %.200s, which is no exception", missing,
                         Py_TYPE(answer)->tp_name);
        }
        Py_CLEAR(answer);
    }
    Py_XDECREF(missing);
    return answer;
}

static PyObject *map_subscript(PyObject *self, PyObject *key)
{
    bool absent;
    PyObject *value = mc_map_lookup((mc_map_object *)self, key, &absent);
    return absent ? answer_missing((mc_map_object *)self, key) : value;
}

PyDoc_STRVAR(get_doc, "get($self, /, key, default=None)\n--\n\n"
                      "What the function made of the key's Document, or default when there is no "
                      "such key. `missing` is not asked.");

static PyObject *map_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"key", "default"};
    PyObject *values[2] = {NULL, Py_None};
    PyObject *value;
    bool absent;
    if (kwnames == NULL && (nargs == 1 || nargs == 2)) {
        values[0] = args[0];
        values[1] = nargs == 2 ? args[1] : Py_None;
    } else if (!mc_arguments("get", names, 1, args, nargs, kwnames, values)) {
        return NULL;
    }
    value = mc_map_lookup((mc_map_object *)self, values[0], &absent);
    return absent ? Py_NewRef(values[1]) : value;
}

/* ---- the rest of a mapping: the collection's, but for the values ---- */

static int map_contains(PyObject *self, PyObject *key)
{
    return PySequence_Contains((PyObject *)((mc_map_object *)self)->collection, key);
}

static Py_ssize_t map_length(PyObject *self)
{
    return PyObject_Size((PyObject *)((mc_map_object *)self)->collection);
}

static PyObject *map_iter(PyObject *self)
{
    return mc_iterator_new(((mc_map_object *)self)->collection, MC_KEYS);
}

static PyObject *iterate(PyObject *mapping, enum mc_mapping_view kind)
{
    iterator_object *self;
    struct mc_module *module = ((mc_map_object *)mapping)->collection->reader->module;
    PyObject *keys = map_iter(mapping);
    if (keys == NULL || kind == MC_KEYS) {
        return keys;
    }
    self = PyObject_GC_New(iterator_object, module->map_iterator);
    if (self == NULL) {
        Py_DECREF(keys);
        return NULL;
    }
    self->map = (mc_map_object *)Py_NewRef(mapping);
    self->keys = keys;
    self->kind = kind;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

static PyObject *iterator_next(PyObject *self_object)
{
    iterator_object *self = (iterator_object *)self_object;
    PyObject *key;
    while ((key = PyIter_Next(self->keys)) != NULL) {
        bool absent;
        PyObject *pair = NULL;
        PyObject *value = mc_map_lookup(self->map, key, &absent);
        if (value != NULL && self->kind == MC_ITEMS) {
            pair = PyTuple_Pack(2, key, value);
            Py_SETREF(value, pair);
        }
        Py_DECREF(key);
        if (!absent) { /* what goes while others are built is left out */
            return value;
        }
    }
    return NULL;
}

static int iterator_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((iterator_object *)self)->map);
    return 0;
}

static void iterator_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_DECREF(((iterator_object *)self)->map);
    Py_DECREF(((iterator_object *)self)->keys);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *view(PyObject *self, enum mc_mapping_view kind)
{
    return mc_view_new(((mc_map_object *)self)->collection->reader->module, self, kind, iterate);
}

static PyObject *map_keys(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return view(self, MC_KEYS);
}

static PyObject *map_values(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return view(self, MC_VALUES);
}

static PyObject *map_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return view(self, MC_ITEMS);
}

/* ---- the object ---- */

const char mc_collection_map_doc[] = PyDoc_STR(
    "map($self, /, function, *, missing=KeyError, entries=16384)\n--\n\n"
    "A read-only mapping from key to function(document): what a service builds from its\n"
    "documents, such as a model, a compiled pattern or a rate limiter.\n\n"
    "function: gets the Document; what it returns is kept, in this process, until the document\n"
    "changes or goes. What it raises passes to the caller and is not remembered: the next read\n"
    "calls it again.\n"
    "missing: for map[key] when there is no such key: an exception class, raised with the key, or\n"
    "else a function, called with the key, whose answer is not kept. get() takes a default "
    "instead.\n"
    "entries: how many values are kept at most, an int; the least used go first and are built\n"
    "again when asked for, so give no less than there are documents to what counts or collects.\n\n"
    "Make a map once and keep it: each has values of its own. Threads may share it; when two need\n"
    "the same value at once both may run the function, the first value is kept and both get it. A\n"
    "forked child goes on with what its parent had built. The values of documents that changed or\n"
    "went are let go while the map is read after it. A new file (recreated by the loader) begins "
    "anew.");

static int map_arguments(PyObject *args, PyObject *kwargs, PyObject **function, PyObject **missing,
                         uint64_t *entries)
{
    static char *names[] = {"function", "missing", "entries", NULL};
    PyObject *limit = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OO:map", names, function, missing, &limit) ||
        (limit != NULL && mc_size(limit, "entries", entries) < 0)) {
        return -1;
    }
    if (!PyCallable_Check(*function)) {
        PyErr_Format(PyExc_TypeError, "map() takes a function of a Document, not %.100s",
                     Py_TYPE(*function)->tp_name);
        return -1;
    }
    if (!PyCallable_Check(*missing)) {
        PyErr_Format(PyExc_TypeError,
                     "missing is an exception class, or a function of the key, not %.100s",
                     Py_TYPE(*missing)->tp_name);
        return -1;
    }
    if (*entries > MC_FRONT_ENTRIES_MAX) {
        PyErr_Format(PyExc_ValueError, "entries is %R: at most %u", limit, MC_FRONT_ENTRIES_MAX);
        return -1;
    }
    return 0;
}

PyObject *mc_collection_map(PyObject *collection_object, PyObject *args, PyObject *kwargs)
{
    mc_collection_object *collection = (mc_collection_object *)collection_object;
    PyObject *function, *missing = PyExc_KeyError;
    uint64_t entries = MC_FRONT_ENTRIES_DEFAULT;
    mc_map_object *self;
    if (map_arguments(args, kwargs, &function, &missing, &entries) < 0) {
        return NULL;
    }
    self = PyObject_GC_New(mc_map_object, collection->reader->module->map);
    if (self != NULL) {
        self->collection = (mc_collection_object *)Py_NewRef(collection_object);
        self->function = Py_NewRef(function);
        self->missing = Py_NewRef(missing);
        self->epoch = 0;
        self->swept = 0;
        self->dead = NULL;
        mc_front_init(&self->front, UINT64_MAX, (uint32_t)entries);
        PyObject_GC_Track((PyObject *)self);
    }
    return (PyObject *)self;
}

static int map_traverse(PyObject *self_object, visitproc visit, void *arg)
{
    mc_map_object *self = (mc_map_object *)self_object;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->missing);
    return mc_map_visit_values(self, visit, arg);
}

static int map_clear(PyObject *self_object)
{
    mc_map_object *self = (mc_map_object *)self_object;
    mc_map_drop_values(self);
    Py_CLEAR(self->function);
    Py_CLEAR(self->missing);
    return 0;
}

static void map_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)map_clear(self);
    Py_DECREF(((mc_map_object *)self)->collection);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *map_repr(PyObject *self_object)
{
    mc_map_object *self = (mc_map_object *)self_object;
    return PyUnicode_FromFormat("<mmapcache.CollectionMap of %R by %R>", self->collection->name,
                                self->function);
}

static PyObject *map_completions(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mc_call_method((PyObject *)((mc_map_object *)self)->collection,
                          "_ipython_key_completions_", NULL);
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))map_get, METH_FASTCALL | METH_KEYWORDS, get_doc},
    {"keys", map_keys, METH_NOARGS, "keys($self, /)\n--\n\nA view of the keys."},
    {"values", map_values, METH_NOARGS,
     "values($self, /)\n--\n\nA view of the values, each built as it is come to."},
    {"items", map_items, METH_NOARGS,
     "items($self, /)\n--\n\nA view of the pairs of key and value, each built as it is come to."},
    {"_ipython_key_completions_", map_completions, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(type_doc,
             "A read-only mapping from key to what a function makes of the key's Document.\n\n"
             "Made by Collection.map(), whose text says when a value is built and dropped. Any "
             "number of\nthreads may use it; a forked child goes on with it. Raises what the "
             "function raises, and\nwhat Collection.get() raises.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_traverse, map_traverse},
    {Py_tp_clear, map_clear},
    {Py_tp_repr, map_repr},
    {Py_tp_richcompare, mc_mapping_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, map_iter},
    {Py_tp_methods, methods},
    {Py_mp_length, map_length},
    {Py_mp_subscript, map_subscript},
    {Py_sq_contains, map_contains},
    {0, NULL},
};

#define FLAGS Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION

static PyType_Spec spec = {
    .name = "mmapcache.CollectionMap",
    .basicsize = sizeof(mc_map_object),
    .flags = FLAGS | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_MAPPING,
    .slots = slots,
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, (void *)"Walks one generation's keys, and what is built for them."},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "mmapcache.CollectionMapIterator",
    .basicsize = sizeof(iterator_object),
    .flags = FLAGS | Py_TPFLAGS_HAVE_GC,
    .slots = iterator_slots,
};

static PyType_Slot built_slots[] = {
    {Py_tp_doc, (void *)"What a map keeps for one document."},
    {Py_tp_dealloc, mc_built_dealloc},
    {0, NULL},
};

static PyType_Spec built_spec = {
    .name = "mmapcache.Built",
    .basicsize = sizeof(struct mc_built),
    .flags = FLAGS,
    .slots = built_slots,
};

/* Only the first has a name in the module: nobody sees the others but through a map. */
int mc_collection_map_init(PyObject *module, struct mc_module *state)
{
    state->map_iterator = mc_type_new(module, &iterator_spec);
    state->built = mc_type_new(module, &built_spec);
    if (state->map_iterator == NULL || state->built == NULL) {
        return -1;
    }
    return mc_add_type(module, &spec, &state->map);
}
