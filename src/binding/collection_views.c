/* collection_views.c - keys(), items() and values() of a Collection, and the iterators over them.
 *
 * A view is the collection seen from one side, as a dict's views are: it holds nothing, and answers
 * with what the collection holds when asked. An iterator is different: it keeps the reading it
 * began with and walks that generation to the end, or raises SnapshotExpired when the loader had to
 * reclaim it. Each step validates what it copied before anybody sees it. The order is that of the
 * keys' hashes: any, and another one in another file.
 *
 * The iterator looks AHEAD entries ahead and prefetches their memory, so that a walk waits for the
 * memory's bandwidth and not for each entry in turn.
 */
#include "collection_views.h"

#include "document/classes.h"
#include "pykey.h"

enum {
    AHEAD = 16,
    LINE = 64,      /* bytes */
    PREFETCH = 384, /* bytes */
};

typedef struct {
    PyObject_HEAD
    PyObject *mapping; /* owned: a Collection, or what mc_view_new was given */
    mc_iterate iterate;
    enum mc_mapping_view kind;
} view_object;

typedef struct {
    PyObject_HEAD
    mc_collection_object *collection; /* owned */
    struct mc_reading *reading;       /* counted; NULL: exhausted */
    struct mc_walk walk;
    enum mc_mapping_view kind;
    enum mc_status status; /* of the entry behind the last one fetched */
    unsigned next, fetched;
    struct mc_hit hits[AHEAD];
} iterator_object;

/* ---- iterator ---- */

PyObject *mc_iterator_new(mc_collection_object *collection, enum mc_mapping_view kind)
{
    struct mc_module *module = collection->reader->module;
    struct mc_reading *reading;
    iterator_object *self;
    if (mc_document_meet_pymongo(&module->documents) < 0 ||
        mc_collection_ready(collection, &reading) != MC_OK) {
        return NULL;
    }
    self = PyObject_New(iterator_object, module->iterator);
    if (self != NULL) {
        self->collection = (mc_collection_object *)Py_NewRef((PyObject *)collection);
        self->reading = mc_reading_retain(reading);
        self->kind = kind;
        self->status = MC_OK;
        self->next = self->fetched = 0;
        mc_walk_begin(&self->walk, &reading->view.space, mc_collection_table(collection)->root);
    }
    return (PyObject *)self;
}

static void iterator_dealloc(PyObject *self_object)
{
    iterator_object *self = (iterator_object *)self_object;
    PyTypeObject *type = Py_TYPE(self);
    mc_reading_release(self->reading);
    Py_DECREF(self->collection);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* Prefetches the first lines of a value; its first one came with the key. */
static void prefetch(const struct mc_hit *hit)
{
    for (uint32_t at = LINE; at < PREFETCH && at < hit->value_len; at += LINE) {
        shm_prefetch(hit->value + at);
    }
}

/* Finds the next entries and prefetches their values. */
static void fetch_ahead(iterator_object *self)
{
    self->next = self->fetched = 0;
    while (self->fetched < AHEAD && self->status == MC_OK) {
        struct mc_hit *hit = &self->hits[self->fetched];
        self->status = mc_walk_entry(&self->walk, hit);
        if (self->status == MC_OK) {
            if (hit->key_len > MC_KEY_MAX || hit->value_len < MC_BSON_SIZE_MIN) {
                self->status = MC_CORRUPT;
            } else {
                self->fetched++;
                if (self->kind != MC_KEYS) {
                    prefetch(hit);
                }
            }
        }
    }
}

/* Nothing more: NULL, with an exception unless it was the plain end. */
static PyObject *finish(iterator_object *self)
{
    enum mc_status status = mc_view_settle(&self->reading->view, self->status);
    struct mc_reading *reading = self->reading;
    self->reading = NULL;
    mc_reading_release(reading);
    if (status == MC_EXPIRED) {
        mc_raise_text(
            self->collection->reader->module, MC_EXPIRED,
            "the loader reclaimed the generation that is iterated over: give the writer a "
            "longer retention or a larger max_size");
    } else if (status == MC_CORRUPT) {
        mc_collection_corrupt(self->collection);
    }
    return NULL;
}

/* The next one. Once Python code runs in here the iterator is not looked at again: it may have gone
 * on by then. */
static PyObject *step(iterator_object *self)
{
    const struct mc_hit *hit;
    uint8_t bytes[MC_KEY_MAX];
    PyObject *key = NULL;
    PyObject *document = NULL;
    PyObject *pair = NULL;
    if (self->reading == NULL) {
        return NULL;
    }
    if (self->next == self->fetched) {
        fetch_ahead(self);
        if (self->fetched == 0) {
            return finish(self);
        }
    }
    hit = &self->hits[self->next++];
    if (self->kind != MC_VALUES) {
        mc_copy(bytes, hit->key, hit->key_len);
    }
    if (self->kind != MC_KEYS) {
        document = mc_collection_copy(self->collection, MC_FORM_DOCUMENT, hit);
        if (document == NULL) {
            return NULL;
        }
    }
    if (mc_view_settle_value(&self->reading->view, hit, MC_OK) != MC_OK) {
        self->status = MC_EXPIRED;
        Py_XDECREF(document);
        return finish(self);
    }
    if (self->kind == MC_VALUES) {
        return document;
    }
    key = mc_pykey_to_python(self->collection->options, hit->key_type, bytes, hit->key_len);
    if (self->kind == MC_KEYS) {
        return key;
    }
    if (key != NULL) {
        pair = PyTuple_Pack(2, key, document);
        Py_DECREF(key);
    }
    Py_DECREF(document);
    return pair;
}

static PyObject *iterator_next(PyObject *self)
{
    PyObject *next;
    MC_SECTION_BEGIN(self);
    next = step((iterator_object *)self);
    MC_SECTION_END();
    return next;
}

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, (void *)"Walks one generation of a collection."},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "mmapcache.CollectionIterator",
    .basicsize = sizeof(iterator_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

/* ---- views ---- */

PyObject *mc_view_new(struct mc_module *module, PyObject *mapping, enum mc_mapping_view kind,
                      mc_iterate iterate)
{
    view_object *self = PyObject_GC_New(view_object, module->views[kind]);
    if (self != NULL) {
        self->mapping = Py_NewRef(mapping);
        self->iterate = iterate;
        self->kind = kind;
        PyObject_GC_Track((PyObject *)self);
    }
    return (PyObject *)self;
}

static PyObject *iterate_collection(PyObject *mapping, enum mc_mapping_view kind)
{
    return mc_iterator_new((mc_collection_object *)mapping, kind);
}

PyObject *mc_collection_view(mc_collection_object *collection, enum mc_mapping_view kind)
{
    return mc_view_new(collection->reader->module, (PyObject *)collection, kind,
                       iterate_collection);
}

static int view_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((view_object *)self)->mapping);
    return 0;
}

static void view_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_DECREF(((view_object *)self)->mapping);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *view_iter(PyObject *self)
{
    return ((view_object *)self)
        ->iterate(((view_object *)self)->mapping, ((view_object *)self)->kind);
}

static Py_ssize_t view_length(PyObject *self)
{
    return PyObject_Size(((view_object *)self)->mapping);
}

static PyObject *view_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<%s of %R>", Py_TYPE(self)->tp_name,
                                ((view_object *)self)->mapping);
}

static PyObject *view_mapping(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((view_object *)self)->mapping);
}

static int keys_contain(PyObject *self, PyObject *key)
{
    return PySequence_Contains(((view_object *)self)->mapping, key);
}

static int items_contain(PyObject *self, PyObject *pair)
{
    PyObject *get, *found = NULL;
    int result;
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
        return 0;
    }
    get = mc_attribute(((view_object *)self)->mapping, "get");
    if (get != NULL) {
        found = PyObject_CallFunctionObjArgs(get, PyTuple_GET_ITEM(pair, 0), self, NULL);
        Py_DECREF(get);
    }
    if (found == NULL) {
        return -1;
    }
    result = found == self ? 0 : PyObject_RichCompareBool(found, PyTuple_GET_ITEM(pair, 1), Py_EQ);
    Py_DECREF(found);
    return result;
}

/* Set operations are those of a set made of both sides, as dict's views have them. */
static PyObject *as_sets(PyObject *left, PyObject *right, binaryfunc operation)
{
    PyObject *result = NULL;
    PyObject *a = PySet_New(left);
    PyObject *b = a == NULL ? NULL : PySet_New(right);
    if (b != NULL) {
        result = operation(a, b);
    }
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

static PyObject *view_and(PyObject *left, PyObject *right)
{
    return as_sets(left, right, PyNumber_And);
}

static PyObject *view_or(PyObject *left, PyObject *right)
{
    return as_sets(left, right, PyNumber_Or);
}

static PyObject *view_subtract(PyObject *left, PyObject *right)
{
    return as_sets(left, right, PyNumber_Subtract);
}

static PyObject *view_xor(PyObject *left, PyObject *right)
{
    return as_sets(left, right, PyNumber_Xor);
}

static PyObject *view_compare(PyObject *self, PyObject *other, int operation)
{
    PyObject *a, *b;
    PyObject *result = NULL;
    struct mc_module *module = mc_module_of(self);
    PyTypeObject *type = Py_TYPE(other);
    if (!PyAnySet_Check(other) && !PyDictKeys_Check(other) && !PyDictItems_Check(other) &&
        type != module->views[MC_KEYS] && type != module->views[MC_ITEMS]) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    a = PySet_New(self);
    b = a == NULL ? NULL : PySet_New(other);
    if (b != NULL) {
        result = PyObject_RichCompare(a, b, operation);
    }
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

static PyObject *view_isdisjoint(PyObject *self, PyObject *other)
{
    int common;
    PyObject *both = as_sets(self, other, PyNumber_And);
    if (both == NULL) {
        return NULL;
    }
    common = PyObject_IsTrue(both);
    Py_DECREF(both);
    return PyBool_FromLong(!common);
}

static PyMethodDef set_methods[] = {
    {"isdisjoint", view_isdisjoint, METH_O,
     "isdisjoint($self, other, /)\n--\n\nTrue when the view and the iterable share nothing."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef view_getset[] = {
    {"mapping", view_mapping, NULL, "The collection that this is a view of.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define COMMON_SLOTS                                                                               \
    {Py_tp_dealloc, view_dealloc}, {Py_tp_traverse, view_traverse}, {Py_tp_iter, view_iter},       \
        {Py_tp_repr, view_repr}, {Py_tp_getset, view_getset},                                      \
    {                                                                                              \
        Py_mp_length, view_length                                                                  \
    }
#define SET_SLOTS                                                                                  \
    {Py_tp_methods, set_methods}, {Py_tp_richcompare, view_compare},                               \
        {Py_tp_hash, PyObject_HashNotImplemented}, {Py_nb_and, view_and}, {Py_nb_or, view_or},     \
        {Py_nb_subtract, view_subtract},                                                           \
    {                                                                                              \
        Py_nb_xor, view_xor                                                                        \
    }

static PyType_Slot keys_slots[] = {
    {Py_tp_doc, (void *)"The keys of a collection: a set-like view."},
    COMMON_SLOTS,
    SET_SLOTS,
    {Py_sq_contains, keys_contain},
    {0, NULL},
};

static PyType_Slot values_slots[] = {
    {Py_tp_doc, (void *)"The Documents of a collection: a view."},
    COMMON_SLOTS,
    {0, NULL},
};

static PyType_Slot items_slots[] = {
    {Py_tp_doc, (void *)"The pairs of key and Document of a collection: a set-like view."},
    COMMON_SLOTS,
    SET_SLOTS,
    {Py_sq_contains, items_contain},
    {0, NULL},
};

#define VIEW_FLAGS                                                                                 \
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION |            \
        Py_TPFLAGS_HAVE_GC

static PyType_Spec view_specs[MC_MAPPING_VIEWS] = {
    [MC_KEYS] = {"mmapcache.CollectionKeys", sizeof(view_object), 0, VIEW_FLAGS, keys_slots},
    [MC_VALUES] = {"mmapcache.CollectionValues", sizeof(view_object), 0, VIEW_FLAGS, values_slots},
    [MC_ITEMS] = {"mmapcache.CollectionItems", sizeof(view_object), 0, VIEW_FLAGS, items_slots},
};

/* They have no name in the module: nobody makes one but through a Collection. */
int mc_views_init(PyObject *module, struct mc_module *state)
{
    for (int kind = 0; kind < MC_MAPPING_VIEWS; kind++) {
        state->views[kind] = mc_type_new(module, &view_specs[kind]);
        if (state->views[kind] == NULL) {
            return -1;
        }
    }
    state->iterator = mc_type_new(module, &iterator_spec);
    return state->iterator == NULL ? -1 : 0;
}
