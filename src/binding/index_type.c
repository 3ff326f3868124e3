/* index_type.c - Collection.by() and the type Index: a read-only mapping from the value of a field
 * to the Document that has it, or to a tuple of those that do.
 *
 *      value --index--> key --front cache, or collection--> Document
 *
 * Each answer is of one generation: the index and the documents are read through one reading, and
 * what was copied is validated before anybody sees it. So is what goes over the index as a whole.
 */
#include "index_type.h"

#include "arguments.h"
#include "collection_views.h"
#include "document/classes.h"
#include "index.h"
#include "pykey.h"

typedef struct {
    PyObject_HEAD
    mc_collection_object *collection; /* owned */
    PyObject *field;                  /* owned str */
    uint64_t serial;                  /* of the reading that `record` belongs to; 0: none */
    struct mc_index_record record;    /* both in sections of the Index */
} index_object;

PyObject *mc_index_kind_text(uint32_t kind)
{
    return PyUnicode_InternFromString(kind == MC_INDEX_UNIQUE ? "unique" : "multi");
}

/* ---- which indexes there are ---- */

/* Adds an index to the dict if it is the collection's: MC_OK, MC_CORRUPT, or MC_CLOSED with an
 * exception. */
static enum mc_status list_one(const struct mc_reading *reading, const struct mc_index *index,
                               PyObject *dict)
{
    struct mc_index_record record;
    /* a changed name would be under another hash */
    enum mc_status status = mc_view_index(&reading->view, index->name, index->name_len, index->path,
                                          index->path_len, &record);
    if (status != MC_OK) {
        return status == MC_ABSENT ? MC_CORRUPT : status;
    }
    PyObject *field = mc_name_text(index->path, index->path_len);
    if (field == NULL && !PyErr_Occurred()) {
        return MC_CORRUPT;
    }
    PyObject *kind = field == NULL ? NULL : mc_index_kind_text(record.kind);
    bool added = kind != NULL && PyDict_SetItem(dict, field, kind) == 0;
    Py_XDECREF(field);
    Py_XDECREF(kind);
    return added ? MC_OK : MC_CLOSED;
}

static enum mc_status list_all(mc_collection_object *self, const struct mc_reading *reading,
                               PyObject *dict)
{
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_index index;
    const char *name;
    size_t len;
    int possible = mc_name_sought(self->name, &name, &len);
    if (possible <= 0) {
        return possible < 0 ? MC_CLOSED : MC_OK;
    }
    enum mc_status status;
    mc_walk_begin(&walk, &reading->view.space, reading->view.root.catalogue);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        status = mc_hit_index(&hit, &index);
        if (status == MC_OK && index.name_len == len && memcmp(index.name, name, len) == 0) {
            status = list_one(reading, &index, dict);
        }
        if (status != MC_OK && status != MC_ABSENT) {
            return status == MC_CLOSED ? status : mc_view_settle(&reading->view, status);
        }
    }
    return mc_view_settle(&reading->view, status == MC_ABSENT ? MC_OK : status);
}

PyObject *mc_collection_indexes(PyObject *collection, void *Py_UNUSED(closure))
{
    mc_collection_object *self = (mc_collection_object *)collection;
    PyObject *dict = PyDict_New();
    enum mc_status status;
    unsigned tries = 0;
    if (dict == NULL) {
        return NULL;
    }
    do {
        struct mc_reading *reading;
        PyDict_Clear(dict);
        status = mc_collection_begin(self, &reading);
        if (status == MC_OK) {
            status = list_all(self, reading, dict);
        }
        status = mc_collection_judge(self, status, &tries);
    } while (status == MC_EXPIRED);
    if (status != MC_OK) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* LookupError, with the indexes that there are. Always MC_CLOSED. */
static enum mc_status no_index(const index_object *self)
{
    PyObject *known = mc_collection_indexes((PyObject *)self->collection, NULL);
    PyObject *names = known == NULL ? NULL : PyDict_Keys(known);
    PyObject *text = NULL;
    if (names != NULL && PyList_Sort(names) == 0) {
        text = PyList_GET_SIZE(names) == 0
                   ? PyUnicode_FromFormat("no index %.100R of collection %.100R: it has none",
                                          self->field, self->collection->name)
                   : PyUnicode_FromFormat("no index %.100R of collection %.100R: there are %R",
                                          self->field, self->collection->name, names);
    }
    if (text != NULL) {
        PyErr_SetObject(PyExc_LookupError, text);
    }
    Py_XDECREF(text);
    Py_XDECREF(names);
    Py_XDECREF(known);
    return MC_CLOSED;
}

/* ---- steps ---- */

/* Whether it is known where the index is in the reading: then that. */
static bool is_known(index_object *self, const struct mc_reading *reading,
                     struct mc_index_record *record)
{
    bool known;
    MC_SECTION_BEGIN(self);
    known = self->serial == reading->serial;
    *record = self->record;
    MC_SECTION_END();
    return known;
}

static void know(index_object *self, const struct mc_reading *reading,
                 const struct mc_index_record *record)
{
    MC_SECTION_BEGIN(self);
    self->serial = reading->serial;
    self->record = *record;
    MC_SECTION_END();
}

/* The reading to answer from, and where the index is in it: MC_OK, MC_EXPIRED, MC_CORRUPT, or
 * MC_CLOSED with an exception. */
static enum mc_status begin(index_object *self, struct mc_reading **reading,
                            struct mc_index_record *record)
{
    const char *name, *field;
    size_t name_len, len;
    enum mc_status status = mc_collection_begin(self->collection, reading);
    if (status != MC_OK || is_known(self, *reading, record)) {
        return status;
    }
    int possible = mc_name_sought(self->collection->name, &name, &name_len);
    if (possible == 1) {
        possible = mc_name_sought(self->field, &field, &len);
    }
    if (possible != 1) {
        return possible < 0 ? MC_CLOSED : no_index(self);
    }
    status = mc_view_index(&(*reading)->view, name, name_len, field, len, record);
    if (status == MC_OK) {
        know(self, *reading, record);
    }
    return status == MC_ABSENT ? no_index(self) : status;
}

/* The Document of a key that the index has: NULL with the reason in *status. One that is not there
 * contradicts the index. */
static PyObject *document_of(index_object *self, struct mc_reading *reading, struct mc_key *key,
                             enum mc_status *status)
{
    mc_collection_object *collection = self->collection;
    PyObject *document;
    if (!mc_collection_knows(collection, reading)) { /* a destructor has read it meanwhile */
        *status = MC_EXPIRED;
        return NULL;
    }
    key->hash = mc_view_hash(&reading->view, key);
    document = mc_collection_document(collection, reading, key, NULL, status);
    *status = *status == MC_ABSENT ? MC_CORRUPT : *status;
    return document;
}

/* The keys in the table of a value that several documents have, in order. */
static enum mc_status keys_of(const struct mc_reading *reading, uint64_t root,
                              struct mc_values *keys)
{
    struct mc_walk walk;
    struct mc_hit hit;
    enum mc_status status;
    uint8_t key[MC_KEY_MAX];
    mc_walk_begin(&walk, &reading->view.space, root);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        mc_copy(key, hit.key, hit.key_len);
        status = mc_values_add(keys, hit.key_type, key, hit.key_len);
        if (status != MC_OK) {
            return status;
        }
    }
    status = mc_view_settle(&reading->view, status == MC_ABSENT ? MC_OK : status);
    mc_values_sort(keys);
    return status;
}

static PyObject *documents_of(index_object *self, struct mc_reading *reading,
                              struct mc_posting *posting, enum mc_status *status)
{
    struct mc_values keys = {0};
    PyObject *tuple = NULL;
    *status = posting->one
                  ? mc_values_add(&keys, posting->key.type, posting->key.data, posting->key.len)
                  : keys_of(reading, posting->root, &keys);
    if (posting->one) {
        mc_values_sort(&keys);
    }
    if (*status == MC_OK) {
        tuple = PyTuple_New((Py_ssize_t)keys.count);
        *status = tuple == NULL ? MC_CLOSED : MC_OK;
    }
    for (size_t i = 0; i < keys.count && *status == MC_OK; i++) {
        const struct mc_value *value = &keys.items[i];
        struct mc_key key = {.type = value->type, .len = value->len, .data = value->data};
        PyObject *document = document_of(self, reading, &key, status);
        if (document != NULL) {
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, document);
        }
    }
    if (*status != MC_OK) {
        Py_CLEAR(tuple);
    }
    if (*status == MC_NOMEM && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    mc_values_free(&keys);
    return tuple;
}

/* What one attempt makes of a value: the Document or the tuple, or NULL with the reason. */
static PyObject *attempt(index_object *self, struct mc_key *value, enum mc_status *status)
{
    struct mc_reading *reading;
    struct mc_index_record record;
    struct mc_posting posting;
    struct mc_hit hit;
    *status = begin(self, &reading, &record);
    if (*status != MC_OK) {
        return NULL;
    }
    value->hash = mc_view_hash(&reading->view, value);
    *status = mc_find(&reading->view, record.root, value, &hit);
    if (*status == MC_OK) {
        *status = mc_hit_posting(&hit, &posting);
    }
    *status = mc_view_settle_value(&reading->view, &hit, *status);
    if (*status != MC_OK) {
        return NULL;
    }
    if (record.kind == MC_INDEX_MULTI) {
        mc_reading_retain(reading); /* a tuple may start the garbage collector, and that anything */
        PyObject *tuple = documents_of(self, reading, &posting, status);
        mc_reading_release(reading);
        return tuple;
    }
    if (!posting.one) {
        *status = MC_CORRUPT;
        return NULL;
    }
    return document_of(self, reading, &posting.key, status);
}

/* A new reference, or NULL: with *absent set, or with an exception. */
static PyObject *lookup(index_object *self, PyObject *object, bool *absent)
{
    struct mc_key value;
    uint8_t scratch[MC_KEY_MAX];
    enum mc_status status;
    unsigned tries = 0;
    PyObject *found = NULL;
    *absent = false;
    if (mc_document_meet_pymongo(&self->collection->reader->module->documents) < 0) {
        return NULL;
    }
    enum mc_pykey_result converted =
        mc_pykey_from(self->collection->options, object, &value, scratch, NULL);
    if (converted == MC_PYKEY_ERROR) {
        return NULL;
    }
    do {
        struct mc_reading *reading;
        struct mc_index_record record;
        if (converted == MC_PYKEY_NEVER) { /* no document has it, if there is such an index */
            status = begin(self, &reading, &record);
            status = status == MC_OK ? MC_ABSENT : status;
        } else {
            found = attempt(self, &value, &status);
        }
        status = mc_collection_judge(self->collection, status, &tries);
    } while (status == MC_EXPIRED);
    *absent = status == MC_ABSENT;
    return found;
}

/* ---- the mapping ---- */

static PyObject *index_subscript(PyObject *self, PyObject *value)
{
    bool absent;
    PyObject *found = lookup((index_object *)self, value, &absent);
    if (absent) {
        mc_key_error(value);
    }
    return found;
}

static PyObject *index_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[] = {"value", "default"};
    PyObject *values[2] = {NULL, Py_None};
    bool absent;
    if (!mc_arguments("get", names, 1, args, nargs, kwnames, values)) {
        return NULL;
    }
    PyObject *found = lookup((index_object *)self, values[0], &absent);
    return absent ? Py_NewRef(values[1]) : found;
}

static int index_contains(PyObject *self, PyObject *value)
{
    bool absent;
    PyObject *found = lookup((index_object *)self, value, &absent);
    Py_XDECREF(found);
    return found != NULL ? 1 : absent ? 0 : -1;
}

static Py_ssize_t index_length(PyObject *self_object)
{
    index_object *self = (index_object *)self_object;
    struct mc_reading *reading;
    struct mc_index_record record = {.values = 0};
    enum mc_status status;
    unsigned tries = 0;
    do {
        status = mc_collection_judge(self->collection, begin(self, &reading, &record), &tries);
    } while (status == MC_EXPIRED);
    return status == MC_OK ? (Py_ssize_t)(record.values & PY_SSIZE_T_MAX) : -1;
}

/* Copies the values of the index out of the file. */
static enum mc_status copy_values(index_object *self, struct mc_values *values)
{
    struct mc_reading *reading;
    struct mc_index_record record;
    enum mc_status status = begin(self, &reading, &record);
    values->count = values->used = 0;
    return status == MC_OK ? keys_of(reading, record.root, values) : status;
}

/* All values of one generation in MongoDB's order, as a list. */
static PyObject *list_values(index_object *self)
{
    struct mc_values values = {0};
    enum mc_status status;
    unsigned tries = 0;
    do {
        status = mc_collection_judge(self->collection, copy_values(self, &values), &tries);
    } while (status == MC_EXPIRED);
    PyObject *list = status == MC_OK ? PyList_New((Py_ssize_t)values.count) : NULL;
    for (size_t i = 0; list != NULL && i < values.count; i++) {
        const struct mc_value *value = &values.items[i];
        PyObject *item =
            mc_pykey_to_python(self->collection->options, value->type, value->data, value->len);
        if (item == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        }
    }
    if (list == NULL && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    mc_values_free(&values);
    return list;
}

/* An iterator over a list made of all values, or of what they lead to: what goes meanwhile is left
 * out. */
static PyObject *iterate(PyObject *mapping, enum mc_mapping_view kind)
{
    PyObject *values = list_values((index_object *)mapping);
    PyObject *list = kind == MC_KEYS || values == NULL ? values : PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && list != values && i < PyList_GET_SIZE(values); i++) {
        bool absent;
        PyObject *value = PyList_GET_ITEM(values, i);
        PyObject *found = lookup((index_object *)mapping, value, &absent);
        if (found != NULL && kind == MC_ITEMS) {
            Py_SETREF(found, PyTuple_Pack(2, value, found));
        }
        if (!absent && (found == NULL || PyList_Append(list, found) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(found);
    }
    PyObject *iterator = list == NULL ? NULL : PyObject_GetIter(list);
    if (list != values) {
        Py_XDECREF(values);
    }
    Py_XDECREF(list);
    return iterator;
}

static PyObject *index_iter(PyObject *self)
{
    return iterate(self, MC_KEYS);
}

static PyObject *view(PyObject *self, enum mc_mapping_view kind)
{
    return mc_view_new(((index_object *)self)->collection->reader->module, self, kind, iterate);
}

static PyObject *index_keys(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return view(self, MC_KEYS);
}

static PyObject *index_values(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return view(self, MC_VALUES);
}

static PyObject *index_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return view(self, MC_ITEMS);
}

/* ---- the object ---- */

const char mc_collection_by_doc[] = PyDoc_STR(
    "by($self, field, /)\n--\n\n"
    "A read-only mapping from the value of another field to the Document that has it, or, of an\n"
    "index that is not unique, to a tuple of those that do, in the order of their _id.\n\n"
    "field: a dotted path of which the loader keeps an index (`mmapcache sync --index`). An array\n"
    "stands for each of its members; a document without the field is not found. The mapping\n"
    "follows the cache, or stays with the snapshot, as its collection does. Threads may share it.\n"
    "Raises LookupError, with the indexes that there are, when there is none of the field, also\n"
    "later when the loader has none any more; KeyError is for a value that no document has.");

PyObject *mc_collection_by(PyObject *collection, PyObject *field)
{
    struct mc_module *module = ((mc_collection_object *)collection)->reader->module;
    if (!PyUnicode_Check(field)) {
        return PyErr_Format(PyExc_TypeError, "by() takes the path of a field, a str, not %.100s",
                            Py_TYPE(field)->tp_name);
    }
    index_object *self = PyObject_New(index_object, module->index);
    if (self == NULL) {
        return NULL;
    }
    self->collection = (mc_collection_object *)Py_NewRef(collection);
    self->field = Py_NewRef(field);
    self->serial = 0;
    self->record = (struct mc_index_record){0};
    if (index_length((PyObject *)self) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void index_dealloc(PyObject *self_object)
{
    index_object *self = (index_object *)self_object;
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(self->collection);
    Py_DECREF(self->field);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *index_repr(PyObject *self_object)
{
    index_object *self = (index_object *)self_object;
    return PyUnicode_FromFormat("<mmapcache.Index of %R by %R>", self->collection->name,
                                self->field);
}

static PyObject *index_unique(PyObject *self_object, void *Py_UNUSED(closure))
{
    bool unique;
    MC_SECTION_BEGIN(self_object);
    unique = ((index_object *)self_object)->record.kind == MC_INDEX_UNIQUE;
    MC_SECTION_END();
    return PyBool_FromLong(unique);
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))index_get, METH_FASTCALL | METH_KEYWORDS,
     "get($self, /, value, default=None)\n--\n\n"
     "What the value leads to, or default when no document has it.\n\n"
     "Raises TypeError for what can never be a key, LookupError when there is no such index any\n"
     "more, CorruptError, ClosedError; in a snapshot SnapshotExpired."},
    {"keys", index_keys, METH_NOARGS, "keys($self, /)\n--\n\nA view of the values of the field."},
    {"values", index_values, METH_NOARGS,
     "values($self, /)\n--\n\nA view of what the values lead to."},
    {"items", index_items, METH_NOARGS,
     "items($self, /)\n--\n\nA view of the pairs of a value and what it leads to."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"unique", index_unique, NULL,
     "Whether a value leads to one Document, not to a tuple, at the last read; never raises.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(type_doc,
             "A read-only mapping from the value of a field to the Document that has it, or to a\n"
             "tuple of those that do. Made by Collection.by().\n\n"
             "Any number of threads may share it, and a forked child goes on with it. Raises\n"
             "LookupError when there is no such index any more, KeyError for a value that no "
             "document\nhas, TypeError, CorruptError, ClosedError.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_dealloc, index_dealloc},
    {Py_tp_repr, index_repr},
    {Py_tp_richcompare, mc_mapping_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, index_iter},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_mp_length, index_length},
    {Py_mp_subscript, index_subscript},
    {Py_sq_contains, index_contains},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "mmapcache.Index",
    .basicsize = sizeof(index_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_MAPPING,
    .slots = slots,
};

int mc_index_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &spec, &state->index);
}
