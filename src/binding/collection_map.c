/* collection_map.c - Collection.map(): what a service builds from a document, kept beside it.
 *
 *      map --> front cache of its own --> built --> value         hit: what a get() costs
 *                    |
 *                    +-- none, or of a document that has changed:
 *                        the Document --> function(document) --> value
 *
 * The map's values are entries of a front cache like the reader's (front_cache.h), so they follow
 * generations and snapshots as Documents do: a value is right for as long as the table leads its
 * key to the same offset and birth. Absent keys are not kept: asking for them pushes nothing out.
 *
 * The function runs without anything held: it may read this map, close the cache, take its time
 * while other threads build the same, or fork. Of two values for one document the first one that
 * is there stays, and both callers get it.
 *
 * A value is an object of the service, whose destructor may do anything, and a front cache must not
 * be in the middle of a change then. So what a front cache owns is a `built`, whose death only puts
 * it on the map's list; drain() lets the values go when all is whole.
 */
#include "collection_map.h"

#include "arguments.h"
#include "collection_views.h"
#include "pykey.h"

enum { SWEEP = 8 }; /* entries that a read of the file looks at on the way */
enum { CHANNEL = 0 };

typedef struct map_object map_object;

struct built {
    PyObject_HEAD
    PyObject *value;    /* owned */
    map_object *map;    /* the one whose front cache owns this: it lives longer */
    struct built *next; /* dead ones */
};

struct map_object {
    PyObject_HEAD
    mc_collection_object *collection; /* owned */
    PyObject *function;               /* owned; NULL: the garbage collector was here */
    PyObject *missing;                /* owned; NULL likewise */
    uint64_t epoch;                   /* of the file that the front cache speaks of */
    uint32_t swept;                   /* the entry that was looked at last */
    struct built *dead;
    struct mc_front front;
};

typedef struct {
    PyObject_HEAD
    map_object *map; /* owned */
    PyObject *keys;  /* owned: an iterator over the collection's */
    enum mc_mapping_view kind;
} iterator_object;

/* ---- values ---- */

static void built_dealloc(PyObject *object)
{
    struct built *self = (struct built *)object;
    self->next = self->map->dead;
    self->map->dead = self;
}

static PyObject *value_of(struct mc_front *front, struct mc_front_entry *entry)
{
    mc_front_hit(front, entry);
    return Py_NewRef(((struct built *)entry->document)->value);
}

/* Lets the dead values go: runs whatever their destructors run. */
static void drain(map_object *self)
{
    while (self->dead != NULL) {
        struct built *built = self->dead;
        PyObject *value = built->value;
        PyTypeObject *type = Py_TYPE(built);
        self->dead = built->next;
        PyObject_Free(built);
        Py_DECREF(type);
        Py_DECREF(value);
    }
}

/* Keeps a value for the document of that fact, unless memory is short or others come first. */
static void keep(map_object *self, const struct mc_key *key, struct mc_front_fact *fact,
                 PyObject *value)
{
    struct built *built = PyObject_New(struct built, self->collection->reader->module->built);
    if (built == NULL) {
        PyErr_Clear(); /* the caller gets the value all the same */
        return;
    }
    built->value = Py_NewRef(value);
    built->map = self;
    fact->document = (PyObject *)built;
    mc_front_put(&self->front, CHANNEL, key, fact);
    Py_DECREF(built);
}

/* The value for a document, whose reference this takes. NULL with the function's exception. */
static PyObject *build(map_object *self, const struct mc_key *key, PyObject *document,
                       struct mc_front_fact *fact)
{
    uint64_t epoch = self->epoch;
    PyObject *function = Py_XNewRef(self->function);
    PyObject *value = NULL;
    struct mc_front_entry *entry;
    if (function == NULL) {
        PyErr_SetString(PyExc_ReferenceError, "this map is being destroyed");
    } else {
        value = PyObject_CallOneArg(function, document);
        Py_DECREF(function);
    }
    Py_DECREF(document);
    if (value == NULL || self->epoch != epoch || fact->birth > fact->seen) {
        return value; /* of a file that was left meanwhile, or of one that is lying */
    }
    entry = mc_front_find(&self->front, CHANNEL, key);
    if (entry != NULL && entry->offset == fact->offset && entry->birth == fact->birth) {
        PyObject *first = value_of(&self->front, entry);
        Py_DECREF(value);
        return first;
    }
    keep(self, key, fact, value);
    return value;
}

/* ---- reading ---- */

/* Looks at some of the values whose generation has passed: those of documents that have changed or
 * gone are dropped, though nobody asks for their keys any more. */
static void sweep(map_object *self, const struct mc_reading *reading)
{
    const struct mc_view *view = &reading->view;
    uint64_t generation = view->root.generation;
    for (unsigned i = 0; i < SWEEP && self->front.used > 0; i++) {
        struct mc_front_entry *entry;
        struct mc_key key;
        bool still;
        self->swept = self->swept + 1 < self->front.used ? self->swept + 1 : 0;
        entry = &self->front.entries[self->swept];
        if (entry->state == MC_FRONT_FREE || mc_front_holds(entry, generation)) {
            continue;
        }
        key = mc_front_key(entry);
        key.hash = mc_view_hash(view, &key);
        still = mc_table_still(&view->space, self->collection->table.root, key.hash, entry->offset,
                               entry->birth);
        if (mc_view_settle(view, MC_OK) != MC_OK) {
            return;
        }
        if (still) {
            entry->seen = generation;
        } else {
            mc_front_forget(&self->front, entry);
        }
    }
}

/* The value that is kept for a key, if it is right in this reading; else NULL, MC_OK, or MC_EXPIRED
 * to try again. */
static PyObject *kept(map_object *self, const struct mc_reading *reading, const struct mc_key *key,
                      PyObject *object, enum mc_status *status)
{
    struct mc_front_entry *entry = mc_front_find(&self->front, CHANNEL, key);
    uint64_t generation = reading->view.root.generation;
    if (entry == NULL) {
        return NULL;
    }
    if (mc_front_may_alias(object)) {
        mc_front_set_alias(&self->front, entry, object);
    }
    if (!mc_front_holds(entry, generation)) {
        bool still = mc_table_still(&reading->view.space, self->collection->table.root, key->hash,
                                    entry->offset, entry->birth);
        *status = mc_view_settle(&reading->view, MC_OK);
        if (!still || *status != MC_OK) {
            return NULL;
        }
        mc_front_revalidated(&self->front, entry, generation);
    }
    return value_of(&self->front, entry);
}

/* The Document of a key, or NULL with what mc_collection_find says. */
static PyObject *document_of(mc_collection_object *collection, struct mc_reading *reading,
                             const struct mc_key *key, struct mc_front_fact *fact,
                             enum mc_status *status)
{
    static const struct mc_manner as_document = {.form = MC_FORM_DOCUMENT, .asks = true};
    struct mc_front *front = &collection->reader->front;
    uint64_t generation = reading->view.root.generation;
    struct mc_front_entry *entry = mc_collection_fronted(collection, reading)
                                       ? mc_front_find(front, collection->channel, key)
                                       : NULL;
    if (entry == NULL || !mc_front_holds(entry, generation)) {
        return mc_collection_find(collection, reading, as_document, key, entry, fact, status);
    }
    mc_front_hit(front, entry);
    if (entry->document == NULL) {
        *status = MC_ABSENT;
        return NULL;
    }
    *fact = (struct mc_front_fact){
        .offset = entry->offset, .birth = entry->birth, .seen = generation};
    return Py_NewRef(entry->document);
}

/* One attempt at a key: the value; or NULL with the Document it has to be built from; or NULL with
 * neither. */
static PyObject *attempt(map_object *self, struct mc_key *key, PyObject *object,
                         struct mc_front_fact *fact, PyObject **document, enum mc_status *status)
{
    struct mc_reading *reading;
    PyObject *value;
    *status = mc_collection_begin(self->collection, &reading);
    if (*status != MC_OK) {
        return NULL;
    }
    if (reading->epoch != self->epoch) {
        mc_front_clear(&self->front);
        self->epoch = reading->epoch;
        self->swept = 0;
    }
    key->hash = mc_view_hash(&reading->view, key);
    value = kept(self, reading, key, object, status);
    if (value == NULL && *status == MC_OK) {
        *document = document_of(self->collection, reading, key, fact, status);
    }
    if (*status == MC_ABSENT) {
        struct mc_front_entry *gone = mc_front_find(&self->front, CHANNEL, key);
        if (gone != NULL) {
            mc_front_forget(&self->front, gone);
        }
    }
    if (*status == MC_OK || *status == MC_ABSENT) {
        sweep(self, reading);
    }
    return value;
}

/* A key that has no alias here: a new reference, or NULL, with *absent set or with an exception. */
static PyObject *fetch(map_object *self, PyObject *object, bool *absent)
{
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    struct mc_front_fact fact;
    enum mc_status status;
    unsigned tries = 0;
    PyObject *value, *document;
    if (mc_document_meet_pymongo(&self->collection->reader->module->documents) < 0) {
        return NULL;
    }
    switch (mc_pykey_from(self->collection->options, object, &key, scratch, NULL)) {
    case MC_PYKEY_ERROR:
        return NULL;
    case MC_PYKEY_NEVER:
        *absent = mc_collection_reading(self->collection) != NULL;
        return NULL;
    case MC_PYKEY_OK:
        break;
    }
    do {
        document = NULL;
        value = attempt(self, &key, object, &fact, &document, &status);
        status = mc_collection_judge(self->collection, status, &tries);
    } while (status == MC_EXPIRED);
    if (status == MC_OK && value == NULL) {
        value = build(self, &key, document, &fact);
    }
    *absent = status == MC_ABSENT;
    drain(self);
    return value;
}

static inline PyObject *lookup(map_object *self, PyObject *object, bool *absent)
{
    struct mc_reading *reading = mc_collection_reading(self->collection);
    *absent = false;
    if (reading == NULL) {
        return NULL;
    }
    if (reading->epoch == self->epoch) {
        struct mc_front_entry *entry = mc_front_by_object(&self->front, CHANNEL, object,
                                                          reading->view.root.generation);
        if (entry != NULL) {
            return value_of(&self->front, entry);
        }
    }
    return fetch(self, object, absent);
}

/* What map[key] is for a key that is not there. */
static PyObject *answer_missing(map_object *self, PyObject *key)
{
    PyObject *missing = Py_XNewRef(self->missing);
    PyObject *answer = missing == NULL ? NULL : PyObject_CallOneArg(missing, key);
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
    PyObject *value = lookup((map_object *)self, key, &absent);
    return absent ? answer_missing((map_object *)self, key) : value;
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
    value = lookup((map_object *)self, values[0], &absent);
    return absent ? Py_NewRef(values[1]) : value;
}

/* ---- the rest of a mapping: the collection's, but for the values ---- */

static int map_contains(PyObject *self, PyObject *key)
{
    return PySequence_Contains((PyObject *)((map_object *)self)->collection, key);
}

static Py_ssize_t map_length(PyObject *self)
{
    return PyObject_Size((PyObject *)((map_object *)self)->collection);
}

static PyObject *map_iter(PyObject *self)
{
    return mc_iterator_new(((map_object *)self)->collection, MC_KEYS);
}

static PyObject *iterate(PyObject *mapping, enum mc_mapping_view kind)
{
    iterator_object *self;
    struct mc_module *module = ((map_object *)mapping)->collection->reader->module;
    PyObject *keys = map_iter(mapping);
    if (keys == NULL || kind == MC_KEYS) {
        return keys;
    }
    self = PyObject_GC_New(iterator_object, module->map_iterator);
    if (self == NULL) {
        Py_DECREF(keys);
        return NULL;
    }
    self->map = (map_object *)Py_NewRef(mapping);
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
        PyObject *value = lookup(self->map, key, &absent);
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
    return mc_view_new(((map_object *)self)->collection->reader->module, self, kind, iterate);
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
    map_object *self;
    if (map_arguments(args, kwargs, &function, &missing, &entries) < 0) {
        return NULL;
    }
    self = PyObject_GC_New(map_object, collection->reader->module->map);
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
    map_object *self = (map_object *)self_object;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->missing);
    for (uint32_t i = 0; i < self->front.used; i++) {
        if (self->front.entries[i].state != MC_FRONT_FREE) {
            Py_VISIT(((struct built *)self->front.entries[i].document)->value);
        }
    }
    for (struct built *dead = self->dead; dead != NULL; dead = dead->next) {
        Py_VISIT(dead->value);
    }
    return 0;
}

static int map_clear(PyObject *self_object)
{
    map_object *self = (map_object *)self_object;
    mc_front_clear(&self->front);
    drain(self);
    Py_CLEAR(self->function);
    Py_CLEAR(self->missing);
    return 0;
}

static void map_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)map_clear(self);
    Py_DECREF(((map_object *)self)->collection);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *map_repr(PyObject *self_object)
{
    map_object *self = (map_object *)self_object;
    return PyUnicode_FromFormat("<mmapcache.CollectionMap of %R by %R>", self->collection->name,
                                self->function);
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))map_get, METH_FASTCALL | METH_KEYWORDS, get_doc},
    {"keys", map_keys, METH_NOARGS, "keys($self, /)\n--\n\nA view of the keys."},
    {"values", map_values, METH_NOARGS,
     "values($self, /)\n--\n\nA view of the values, each built as it is come to."},
    {"items", map_items, METH_NOARGS,
     "items($self, /)\n--\n\nA view of the pairs of key and value, each built as it is come to."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(type_doc,
             "A read-only mapping from key to what a function makes of the key's Document.\n\n"
             "Made by Collection.map(), whose text says when a value is built and dropped.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_traverse, map_traverse},
    {Py_tp_clear, map_clear},
    {Py_tp_repr, map_repr},
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
    .basicsize = sizeof(map_object),
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
    {Py_tp_dealloc, built_dealloc},
    {0, NULL},
};

static PyType_Spec built_spec = {
    .name = "mmapcache.Built",
    .basicsize = sizeof(struct built),
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
