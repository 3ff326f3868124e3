/* array.c - the Array type: a read-only Sequence on a BSON array.
 *
 * The first touch of a member makes an index of all offsets, so that every further one is found
 * directly. Iteration alone needs no index: it walks, and remembers nested documents only.
 */
#include "array.h"

#include "compare.h"
#include "decode.h"
#include "document_views.h"
#include "fields.h"

static Py_ssize_t array_length(PyObject *object)
{
    return mc_fields_count((struct mc_document *)object);
}

/* Python has added the length to a negative index once. */
static PyObject *array_item(PyObject *object, Py_ssize_t index)
{
    Py_ssize_t count = array_length(object);
    if (count < 0) {
        return NULL;
    }
    if (index < 0 || index >= count) {
        PyErr_SetString(PyExc_IndexError, "array index out of range");
        return NULL;
    }
    return mc_member_get((struct mc_document *)object, index);
}

/* A slice is a list of the members: there is no BSON that it could be a view on. */
static PyObject *array_slice(PyObject *object, PyObject *slice)
{
    Py_ssize_t start, stop, step, len, count = array_length(object);
    PyObject *list;
    if (count < 0 || PySlice_Unpack(slice, &start, &stop, &step) < 0) {
        return NULL;
    }
    len = PySlice_AdjustIndices(count, &start, &stop, step);
    list = PyList_New(len);
    for (Py_ssize_t i = 0; i < len && list != NULL; i++) {
        PyObject *member = array_item(object, start + i * step);
        if (member == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, i, member);
        }
    }
    return list;
}

static PyObject *array_subscript(PyObject *object, PyObject *key)
{
    Py_ssize_t index;
    if (PySlice_Check(key)) {
        return array_slice(object, key);
    }
    if (!PyIndex_Check(key)) {
        return PyErr_Format(PyExc_TypeError, "array indices must be integers or slices, not %.200s",
                            Py_TYPE(key)->tp_name);
    }
    index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (index < 0) {
        Py_ssize_t count = array_length(object);
        if (count < 0) {
            return NULL;
        }
        index += count;
    }
    return array_item(object, index);
}

static PyObject *array_iter(PyObject *self)
{
    return mc_fields_iterator((struct mc_document *)self, MC_VALUES);
}

/* Where the value is found, counting from start to stop; -1 with an exception, count if nowhere.
 * Counts the places in *times when that is not NULL. */
static Py_ssize_t search(PyObject *object, PyObject *value, Py_ssize_t start, Py_ssize_t stop,
                         Py_ssize_t *times)
{
    Py_ssize_t count = array_length(object);
    for (Py_ssize_t i = start; i < stop && i < count; i++) {
        PyObject *member = array_item(object, i);
        int same = member != NULL ? PyObject_RichCompareBool(member, value, Py_EQ) : -1;
        Py_XDECREF(member);
        if (same < 0) {
            return -1;
        }
        if (same > 0 && times == NULL) {
            return i;
        }
        if (same > 0) {
            (*times)++;
        }
    }
    return count;
}

static PyObject *array_index(PyObject *object, PyObject *args)
{
    Py_ssize_t start = 0, stop = PY_SSIZE_T_MAX, count = array_length(object), at;
    PyObject *value;
    if (count < 0 || !PyArg_ParseTuple(args, "O|nn:index", &value, &start, &stop)) {
        return NULL;
    }
    start += start < 0 ? count : 0;
    stop += stop < 0 ? count : 0;
    at = search(object, value, start < 0 ? 0 : start, stop, NULL);
    if (at == count) {
        return PyErr_Format(PyExc_ValueError, "%R is not in the array", value);
    }
    return at < 0 ? NULL : PyLong_FromSsize_t(at);
}

static PyObject *array_count(PyObject *object, PyObject *value)
{
    Py_ssize_t times = 0;
    if (search(object, value, 0, PY_SSIZE_T_MAX, &times) < 0) {
        return NULL;
    }
    return PyLong_FromSsize_t(times);
}

static int array_contains(PyObject *object, PyObject *value)
{
    Py_ssize_t count = array_length(object), at;
    if (count < 0) {
        return -1;
    }
    at = search(object, value, 0, count, NULL);
    return at < 0 ? -1 : at < count;
}

static PyObject *array_to_list(PyObject *object, PyObject *ignored)
{
    struct mc_document *self = (struct mc_document *)object;
    (void)ignored;
    return mc_plain_array(mc_options_of(self), self->data, self->len, 1);
}

static PyMethodDef array_methods[] = {
    {"index", array_index, METH_VARARGS,
     "index($self, value, start=0, stop=9223372036854775807, /)\n--\n\nThe first place of the "
     "value.\n\nRaises ValueError when it is not there."},
    {"count", array_count, METH_O, "How many members are equal to the value."},
    {"to_list", array_to_list, METH_NOARGS,
     "A new list of plain dicts, lists and values, all the way down."},
    MC_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef array_getset[] = {
    {"raw", mc_object_raw, NULL, "The BSON of the array as bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static const char array_doc[] =
    "Array(data, codec_options=None, /)\n--\n\n"
    "A read-only sequence on one BSON array. Members are decoded when they are first read.\n\n"
    "data: the array as bytes of BSON, which are validated and copied.\n"
    "codec_options: PyMongo's CodecOptions, or None.\n\n"
    "It cannot change and needs no cache: threads may share it, and a forked child has it.\n\n"
    "Raises InvalidDocument when the bytes are not exactly one valid BSON array.";

static PyType_Slot array_slots[] = {
    {Py_tp_doc, (void *)array_doc},
    {Py_tp_new, mc_object_from_call},
    {Py_tp_dealloc, mc_object_dealloc},
    {Py_tp_methods, array_methods},
    {Py_tp_getset, array_getset},
    {Py_tp_iter, array_iter},
    {Py_tp_richcompare, mc_object_compare},
    {Py_tp_hash, mc_object_hash},
    {Py_tp_repr, mc_object_repr},
    {Py_mp_subscript, array_subscript},
    {Py_mp_length, array_length},
    {Py_sq_length, array_length},
    {Py_sq_item, array_item},
    {Py_sq_contains, array_contains},
    {0, NULL},
};

PyType_Spec mc_array_spec = {
    .name = "mmapcache.Array",
    .basicsize = sizeof(struct mc_document),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_SEQUENCE,
    .slots = array_slots,
};
