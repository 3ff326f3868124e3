/* placement_type.c - the type Placement. One does not change once it is made. */
#include "extension.h"

struct placement {
    PyObject_HEAD
    struct ring ring;
    PyObject *ids; /* a tuple of str: those that are read, then the one that only the other has */
};

static void raise_wrong(enum ring_wrong wrong)
{
    switch (wrong) {
    case RING_NO_NODE:
        PyErr_SetString(PyExc_ValueError, "a ring needs a node: there is no id");
        break;
    case RING_TOO_MANY:
        PyErr_Format(PyExc_ValueError, "a ring has %d nodes at most", RING_NODES_MAX);
        break;
    case RING_BAD_ID:
        PyErr_Format(PyExc_ValueError,
                     "an id of a node has 1 to %d characters of A-Z, a-z, 0-9, '.', '_' and '-'",
                     RING_ID_MAX);
        break;
    default:
        PyErr_SetString(PyExc_ValueError, "an id of a node is there twice");
    }
}

/* Makes the ring of a tuple of ids. */
static int make(struct ring *ring, PyObject *ids, enum ring_change change, size_t changing)
{
    struct ring_id list[RING_NODES_MAX];
    Py_ssize_t count = PyTuple_GET_SIZE(ids);
    if (count > RING_NODES_MAX) {
        raise_wrong(RING_TOO_MANY);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length;
        list[i].bytes = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(ids, i), &length);
        if (list[i].bytes == NULL) {
            return -1;
        }
        list[i].length = (size_t)length;
    }
    enum ring_wrong wrong = ring_make(ring, list, (size_t)count, change, changing);
    if (wrong != RING_FINE) {
        raise_wrong(wrong);
        return -1;
    }
    return 0;
}

/* A new tuple of the str in an iterable. */
static PyObject *ids_argument(PyObject *object)
{
    if (PyUnicode_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "ids must be several str, not one");
        return NULL;
    }
    PyObject *ids = PySequence_Tuple(object);
    for (Py_ssize_t i = 0; ids != NULL && i < PyTuple_GET_SIZE(ids); i++) {
        PyObject *id = PyTuple_GET_ITEM(ids, i);
        if (!PyUnicode_Check(id)) {
            PyErr_Format(PyExc_TypeError, "an id must be str, not %.100s", Py_TYPE(id)->tp_name);
            Py_CLEAR(ids);
        }
    }
    return ids;
}

/* The index of the one id in `more` that is not in `fewer`; -1 and an error if it is not one. */
static Py_ssize_t one_more(PyObject *more, PyObject *fewer)
{
    Py_ssize_t found = -1;
    Py_ssize_t count = PyTuple_GET_SIZE(more);
    for (Py_ssize_t i = 0; i < count; i++) {
        int there = PySequence_Contains(fewer, PyTuple_GET_ITEM(more, i));
        if (there < 0) {
            return -1;
        }
        if (there == 0 && found >= 0) {
            count = -1; /* a second one */
        } else if (there == 0) {
            found = i;
        }
    }
    if (found < 0 || count < 0 || PyTuple_GET_SIZE(fewer) != count - 1) {
        PyErr_SetString(PyExc_ValueError,
                        "change_to must be ids with one node more, or with one node less");
        return -1;
    }
    return found;
}

/* Makes self of the rings that are read and written; steals neither. */
static int make_both(struct placement *self, PyObject *ids, PyObject *other)
{
    struct ring checked; /* as both have to be valid by themselves, with no id twice */
    if (make(&checked, other, RING_STILL, 0) < 0 || make(&checked, ids, RING_STILL, 0) < 0) {
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(ids);
    if (PyTuple_GET_SIZE(other) < count) {
        Py_ssize_t changing = one_more(ids, other);
        self->ids = Py_NewRef(ids);
        return changing < 0 ? -1 : make(&self->ring, ids, RING_READ_WITH, (size_t)changing);
    }
    Py_ssize_t changing = one_more(other, ids);
    if (changing < 0) {
        return -1;
    }
    PyObject *added = PyTuple_GetSlice(other, changing, changing + 1);
    self->ids = added == NULL ? NULL : PySequence_Concat(ids, added);
    Py_XDECREF(added);
    return self->ids == NULL ? -1 : make(&self->ring, self->ids, RING_READ_WITHOUT, (size_t)count);
}

static PyObject *placement_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ids", "change_to", NULL};
    PyObject *ids_object, *other_object = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:Placement", names, &ids_object,
                                     &other_object)) {
        return NULL;
    }
    PyObject *ids = ids_argument(ids_object);
    PyObject *other = ids == NULL || other_object == Py_None ? NULL : ids_argument(other_object);
    struct placement *self = NULL;
    if (ids != NULL && (other != NULL || other_object == Py_None)) {
        self = (struct placement *)type->tp_alloc(type, 0);
    }
    int result = -1;
    if (self != NULL && other == NULL) {
        self->ids = Py_NewRef(ids);
        result = make(&self->ring, ids, RING_STILL, 0);
    } else if (self != NULL) {
        result = make_both(self, ids, other);
    }
    Py_XDECREF(ids);
    Py_XDECREF(other);
    if (result < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void placement_dealloc(struct placement *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->ids);
    type->tp_free(self);
    Py_DECREF(type);
}

/* A tuple of the first `count` of the nodes. */
static PyObject *tuple_of(const struct ring_holders *holders, unsigned count)
{
    PyObject *tuple = PyTuple_New(count);
    for (unsigned i = 0; tuple != NULL && i < count; i++) {
        PyObject *index = PyLong_FromLong(holders->node[i]); /* a small one: it is there already */
        if (index == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SET_ITEM(tuple, i, index);
        }
    }
    return tuple;
}

static PyObject *placement_holders(struct placement *self, PyObject *key)
{
    Py_ssize_t length;
    const char *bytes = ring_text_or_bytes(key, "a key", &length);
    if (bytes == NULL) {
        return NULL;
    }
    struct ring_holders holders = ring_holders(&self->ring, ring_hash(bytes, (size_t)length));
    return tuple_of(&holders, holders.count);
}

static PyObject *placement_pair(struct placement *self, PyObject *key)
{
    Py_ssize_t length;
    const char *bytes = ring_text_or_bytes(key, "a key", &length);
    if (bytes == NULL) {
        return NULL;
    }
    struct ring_holders holders = ring_holders(&self->ring, ring_hash(bytes, (size_t)length));
    return tuple_of(&holders, holders.pair);
}

/* Appends the index of a key to the list of the node that is asked first for it. */
static int append_to_primary(struct placement *self, PyObject *lists, PyObject *key,
                             Py_ssize_t index)
{
    Py_ssize_t length;
    const char *bytes = ring_text_or_bytes(key, "a key", &length);
    if (bytes == NULL) {
        return -1;
    }
    struct ring_holders holders = ring_holders(&self->ring, ring_hash(bytes, (size_t)length));
    PyObject *number = PyLong_FromSsize_t(index);
    int result =
        number == NULL ? -1 : PyList_Append(PyList_GET_ITEM(lists, holders.node[0]), number);
    Py_XDECREF(number);
    return result;
}

static PyObject *placement_primaries(struct placement *self, PyObject *object)
{
    PyObject *keys = PySequence_Tuple(object); /* of its own: nobody changes it meanwhile */
    Py_ssize_t nodes = PyTuple_GET_SIZE(self->ids);
    PyObject *lists = keys == NULL ? NULL : PyList_New(nodes);
    for (Py_ssize_t i = 0; lists != NULL && i < nodes; i++) {
        PyObject *list = PyList_New(0);
        if (list == NULL) {
            Py_CLEAR(lists);
        } else {
            PyList_SET_ITEM(lists, i, list);
        }
    }
    for (Py_ssize_t i = 0; lists != NULL && i < PyTuple_GET_SIZE(keys); i++) {
        if (append_to_primary(self, lists, PyTuple_GET_ITEM(keys, i), i) < 0) {
            Py_CLEAR(lists);
        }
    }
    Py_XDECREF(keys);
    return lists;
}

static PyObject *placement_ids(struct placement *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->ids);
}

PyDoc_STRVAR(
    placement_doc,
    "Placement(ids, change_to=None)\n--\n\n"
    "Which nodes of a ring hold a key: the two with the highest scores (docs/ring.md).\n\n"
    ":param ids: the ids (str) of the nodes that reads follow, 1 to 128; each has 1 to 64\n"
    "    characters of A-Z, a-z, 0-9, '.', '_' and '-'\n"
    ":param change_to: while a node comes or goes, the ids of the ring that is written,\n"
    "    too: the same with one node more, or with one less\n"
    ":raises ValueError: an id is malformed or there twice; no node; too many; change_to\n"
    "    differs by more than one node\n"
    ":raises TypeError: ids or change_to is one str, or holds something else than str\n\n"
    "It never changes: threads share it, and it may be used after a fork.");

PyDoc_STRVAR(placement_holders_doc,
             "holders($self, key, /)\n--\n\n"
             "Whom to write to: indexes into `ids`, one to three. First come those of pair().\n\n"
             ":param key: bytes, or str, which stands for its UTF-8\n"
             ":raises TypeError: it is neither\n"
             ":raises UnicodeEncodeError: a str with half of a surrogate pair");

PyDoc_STRVAR(
    placement_pair_doc,
    "pair($self, key, /)\n--\n\n"
    "Whom to read from, in this order: indexes into `ids`, two, or one in a ring of one.\n\n"
    ":param key: bytes, or str, which stands for its UTF-8\n"
    ":raises TypeError: it is neither\n"
    ":raises UnicodeEncodeError: a str with half of a surrogate pair");

PyDoc_STRVAR(placement_primaries_doc,
             "primaries($self, keys, /)\n--\n\n"
             "For each of `ids`, a list of the indexes of the keys whose pair() it begins.\n\n"
             ":param keys: an iterable of bytes and str, as for pair()\n"
             ":raises TypeError: a key is neither\n"
             ":raises UnicodeEncodeError: a str with half of a surrogate pair");

static PyMethodDef placement_methods[] = {
    {"holders", METHOD(placement_holders), METH_O, placement_holders_doc},
    {"pair", METHOD(placement_pair), METH_O, placement_pair_doc},
    {"primaries", METHOD(placement_primaries), METH_O, placement_primaries_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef placement_getset[] = {
    {"ids", (getter)placement_ids, NULL,
     "The ids (a tuple of str) that the indexes mean: those given, then the one that only\n"
     "change_to has.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot placement_slots[] = {
    {Py_tp_doc, (void *)placement_doc}, {Py_tp_new, placement_new},
    {Py_tp_dealloc, placement_dealloc}, {Py_tp_methods, placement_methods},
    {Py_tp_getset, placement_getset},   {0, NULL},
};

PyType_Spec ring_placement_spec = {
    .name = "mmapcache.ring._ring.Placement",
    .basicsize = sizeof(struct placement),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = placement_slots,
};
