/* document_views.c - doc.keys(), doc.values(), doc.items() and the iterator behind all of them.
 *
 * The views behave as a dict's: keys and items are sets as far as comparison and & | - ^ go, and
 * they hold no state but the document, which cannot change. The iterator walks the BSON, so that a
 * pass over a document needs no memory.
 */
#include "document_views.h"

#include "classes.h"
#include "compare.h"
#include "fields.h"

struct fields {
    PyObject_HEAD
    struct mc_document *document; /* owned */
    enum mc_mapping_view kind;
};

struct iterator {
    PyObject_HEAD
    struct mc_field_walk walk; /* its document is owned */
    enum mc_mapping_view kind;
};

/* ---- iterator ---- */

PyObject *mc_fields_iterator(struct mc_document *self, enum mc_mapping_view kind)
{
    struct iterator *iterator = PyObject_New(struct iterator, mc_state_of(self)->iterator_type);
    if (iterator == NULL) {
        return NULL;
    }
    iterator->kind = kind;
    iterator->walk.document = (struct mc_document *)Py_NewRef((PyObject *)self);
    if (mc_fields_begin(&iterator->walk, self) < 0) {
        Py_CLEAR(iterator);
    }
    return (PyObject *)iterator;
}

static void iterator_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)((struct iterator *)object)->walk.document);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *iterator_next(PyObject *object)
{
    struct iterator *self = (struct iterator *)object;
    struct mc_bson_element element;
    struct mc_field_walk walk; /* ours, whoever else asks for the next one meanwhile */
    PyObject *name = NULL, *value = NULL, *pair = NULL;
    int more;
    MC_SECTION_BEGIN(object);
    more = mc_fields_next(&self->walk, &element);
    walk = self->walk;
    MC_SECTION_END();
    if (more <= 0) {
        return NULL;
    }
    if (self->kind == MC_KEYS) {
        return mc_fields_name(&walk, &element);
    }
    if (self->kind == MC_VALUES) {
        return mc_fields_value(&walk, &element);
    }
    name = mc_fields_name(&walk, &element);
    value = name != NULL ? mc_fields_value(&walk, &element) : NULL;
    if (value != NULL) {
        pair = PyTuple_Pack(2, name, value);
    }
    Py_XDECREF(name);
    Py_XDECREF(value);
    return pair;
}

static PyObject *iterator_hint(PyObject *object, PyObject *ignored)
{
    struct mc_field_walk walk;
    (void)ignored;
    MC_SECTION_BEGIN(object);
    walk = ((struct iterator *)object)->walk;
    MC_SECTION_END();
    return PyLong_FromLong((long)(mc_load(&walk.document->count) - walk.position));
}

static PyMethodDef iterator_methods[] = {
    {"__length_hint__", iterator_hint, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {Py_tp_methods, iterator_methods},
    {0, NULL},
};

PyType_Spec mc_iterator_spec = {
    .name = "mmapcache._FieldIterator",
    .basicsize = sizeof(struct iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

/* ---- views ---- */

PyObject *mc_fields_view(struct mc_document *self, enum mc_mapping_view kind)
{
    struct fields *view = PyObject_New(struct fields, mc_state_of(self)->view_types[kind]);
    if (view != NULL) {
        view->document = (struct mc_document *)Py_NewRef((PyObject *)self);
        view->kind = kind;
    }
    return (PyObject *)view;
}

static void fields_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Py_DECREF((PyObject *)((struct fields *)object)->document);
    PyObject_Free(object);
    Py_DECREF(type);
}

static Py_ssize_t fields_length(PyObject *object)
{
    return mc_fields_count(((struct fields *)object)->document);
}

static PyObject *fields_iter(PyObject *object)
{
    struct fields *self = (struct fields *)object;
    return mc_fields_iterator(self->document, self->kind);
}

/* Whether one of the values is equal. */
static int contains_value(PyObject *object, PyObject *value)
{
    PyObject *iterator = fields_iter(object), *found;
    int same = 0;
    while (iterator != NULL && same == 0 && (found = PyIter_Next(iterator)) != NULL) {
        same = PyObject_RichCompareBool(found, value, Py_EQ);
        Py_DECREF(found);
    }
    Py_XDECREF(iterator);
    return PyErr_Occurred() ? -1 : same;
}

static int fields_contains(PyObject *object, PyObject *value)
{
    struct fields *self = (struct fields *)object;
    PyObject *found;
    int same;
    if (self->kind == MC_KEYS) {
        return PySequence_Contains((PyObject *)self->document, value);
    }
    if (self->kind == MC_VALUES) {
        return contains_value(object, value);
    }
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 2) {
        return 0;
    }
    found = mc_field_get(self->document, PyTuple_GET_ITEM(value, 0));
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    same = PyObject_RichCompareBool(found, PyTuple_GET_ITEM(value, 1), Py_EQ);
    Py_DECREF(found);
    return same;
}

/* One of our views that is a set: keys or items. */
static bool is_fields(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == fields_dealloc &&
           ((struct fields *)object)->kind != MC_VALUES;
}

/* Whether the object may stand on either side of a comparison of sets. */
static bool is_set_like(PyObject *object)
{
    return PyAnySet_Check(object) || PyDictKeys_Check(object) || PyDictItems_Check(object) ||
           is_fields(object);
}

/* True when every member of a is in b: 1, 0, -1. */
static int all_in(PyObject *a, PyObject *b)
{
    PyObject *iterator = PyObject_GetIter(a), *member;
    int in = 1;
    while (iterator != NULL && in == 1 && (member = PyIter_Next(iterator)) != NULL) {
        in = PySequence_Contains(b, member);
        Py_DECREF(member);
    }
    Py_XDECREF(iterator);
    return PyErr_Occurred() ? -1 : in;
}

static PyObject *fields_compare(PyObject *left, PyObject *right, int operation)
{
    Py_ssize_t lengths[2];
    int result = 0;
    if (!is_fields(left) || !is_set_like(right)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    lengths[0] = PyObject_Size(left);
    lengths[1] = PyObject_Size(right);
    if (lengths[0] < 0 || lengths[1] < 0) {
        return NULL;
    }
    switch (operation) {
    case Py_EQ:
    case Py_NE:
        result = lengths[0] == lengths[1] ? all_in(left, right) : 0;
        result = operation == Py_NE && result >= 0 ? !result : result;
        break;
    case Py_LT:
        result = lengths[0] < lengths[1] ? all_in(left, right) : 0;
        break;
    case Py_LE:
        result = lengths[0] <= lengths[1] ? all_in(left, right) : 0;
        break;
    case Py_GT:
        result = lengths[0] > lengths[1] ? all_in(right, left) : 0;
        break;
    default:
        result = lengths[0] >= lengths[1] ? all_in(right, left) : 0;
        break;
    }
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* The set operation `name` on a set of the left members and the right ones. */
static PyObject *combine(PyObject *left, PyObject *right, const char *name)
{
    PyObject *set, *result;
    set = PySet_New(left);
    result = set != NULL ? mc_call_method(set, name, right) : NULL;
    Py_XDECREF(set);
    return result;
}

static PyObject *fields_and(PyObject *left, PyObject *right)
{
    return combine(left, right, "intersection");
}

static PyObject *fields_or(PyObject *left, PyObject *right)
{
    return combine(left, right, "union");
}

static PyObject *fields_subtract(PyObject *left, PyObject *right)
{
    return combine(left, right, "difference");
}

static PyObject *fields_xor(PyObject *left, PyObject *right)
{
    return combine(left, right, "symmetric_difference");
}

static PyObject *fields_isdisjoint(PyObject *self, PyObject *other)
{
    PyObject *both = fields_and(self, other);
    if (both != NULL) {
        Py_SETREF(both, PyBool_FromLong(PySet_GET_SIZE(both) == 0));
    }
    return both;
}

static PyObject *fields_repr(PyObject *object)
{
    static const char *const names[] = {"keys", "values", "items"};
    struct fields *self = (struct fields *)object;
    PyObject *document = mc_object_repr((PyObject *)self->document), *result = NULL;
    if (document != NULL) {
        result = PyUnicode_FromFormat("%U.%s()", document, names[self->kind]);
        Py_DECREF(document);
    }
    return result;
}

static PyMethodDef fields_methods[] = {
    {"isdisjoint", fields_isdisjoint, METH_O, "Whether no member is in the other."},
    {NULL, NULL, 0, NULL},
};

/* What all three have; only keys and items are sets. */
#define FIELDS_SLOTS                                                                               \
    {Py_tp_dealloc, fields_dealloc}, {Py_tp_iter, fields_iter}, {Py_tp_repr, fields_repr},         \
        {Py_sq_length, fields_length},                                                             \
    {                                                                                              \
        Py_sq_contains, fields_contains                                                            \
    }

static PyType_Slot set_slots[] = {
    FIELDS_SLOTS,
    {Py_tp_richcompare, fields_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_methods, fields_methods},
    {Py_nb_and, fields_and},
    {Py_nb_or, fields_or},
    {Py_nb_subtract, fields_subtract},
    {Py_nb_xor, fields_xor},
    {0, NULL},
};

static PyType_Slot values_slots[] = {FIELDS_SLOTS, {0, NULL}};

#define VIEW_SPEC(title, its_slots)                                                                \
    {                                                                                              \
        .name = "mmapcache." title, .basicsize = sizeof(struct fields),                            \
        .flags =                                                                                   \
            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,     \
        .slots = its_slots,                                                                        \
    }

PyType_Spec mc_view_specs[3] = {
    [MC_KEYS] = VIEW_SPEC("_DocumentKeys", set_slots),
    [MC_VALUES] = VIEW_SPEC("_DocumentValues", values_slots),
    [MC_ITEMS] = VIEW_SPEC("_DocumentItems", set_slots),
};
