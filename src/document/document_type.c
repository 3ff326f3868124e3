/* document_type.c - the Document type: a read-only Mapping on BSON.
 *
 * Only what a Mapping does is here; how fields are found is in fields.c, how values are made in
 * decode.c. The subscript is the reason for the whole design: when code asks with the same string
 * object as before it is one or two comparisons of pointers and no hash.
 */
#include "document_type.h"

#include "classes.h"
#include "compare.h"
#include "decode.h"
#include "document_views.h"
#include "fields.h"
#include "memo.h"

/* New reference, or NULL without exception when there is no such field. */
static inline PyObject *lookup(PyObject *object, PyObject *name)
{
    struct mc_document *self = (struct mc_document *)object;
    PyObject *value = mc_document_recall(self, name);
    return value != NULL ? Py_NewRef(value) : mc_field_get(self, name);
}

static PyObject *document_subscript(PyObject *object, PyObject *name)
{
    PyObject *value = lookup(object, name);
    if (value == NULL && !PyErr_Occurred()) {
        mc_key_error(name);
    }
    return value;
}

static int document_contains(PyObject *object, PyObject *name)
{
    struct mc_document *self = (struct mc_document *)object;
    struct mc_bson_element element;
    const char *text;
    Py_ssize_t len;
    PyObject *value = mc_document_recall(self, name);
    if (value != NULL) {
        return 1;
    }
    if (mc_load(&self->index) == NULL && PyUnicode_Check(name) &&
        PyUnicode_IS_COMPACT_ASCII(name)) {
        text = (const char *)PyUnicode_1BYTE_DATA(name);
        len = PyUnicode_GET_LENGTH(name);
        switch (mc_bson_find(self->data, self->len, text, (size_t)len, &element)) {
        case MC_OK:
            return 1;
        case MC_ABSENT:
            return 0;
        default:
            mc_value_corrupt(mc_state_of(self));
            return -1;
        }
    }
    value = mc_field_get(self, name);
    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(value);
    return 1;
}

static Py_ssize_t document_length(PyObject *object)
{
    return mc_fields_count((struct mc_document *)object);
}

static PyObject *document_get(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    PyObject *value;
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "get expected 1 or 2 arguments, got %zd", count);
    }
    value = lookup(object, args[0]);
    if (value == NULL && !PyErr_Occurred()) {
        value = Py_NewRef(count == 2 ? args[1] : Py_None);
    }
    return value;
}

static PyObject *document_pluck(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct mc_document *self = (struct mc_document *)object;
    struct mc_bson_element element;
    enum mc_status status;
    const char *path;
    Py_ssize_t len;
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "pluck expected 1 or 2 arguments, got %zd", count);
    }
    if (!PyUnicode_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError, "a path is a str like 'limits.qps', not %.200s",
                            Py_TYPE(args[0])->tp_name);
    }
    path = PyUnicode_AsUTF8AndSize(args[0], &len);
    if (path == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return NULL;
        }
        PyErr_Clear();
        status = MC_ABSENT;
    } else {
        status = mc_bson_pluck(self->data, self->len, path, (size_t)len, &element);
    }
    if (status == MC_ABSENT) {
        return Py_NewRef(count == 2 ? args[1] : Py_None);
    }
    return status == MC_OK ? mc_value(self, &element) : mc_value_corrupt(mc_state_of(self));
}

static PyObject *document_iter(PyObject *self)
{
    return mc_fields_iterator((struct mc_document *)self, MC_KEYS);
}

static PyObject *document_keys(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return mc_fields_view((struct mc_document *)self, MC_KEYS);
}

static PyObject *document_values(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return mc_fields_view((struct mc_document *)self, MC_VALUES);
}

static PyObject *document_items(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return mc_fields_view((struct mc_document *)self, MC_ITEMS);
}

/* For IPython: what may stand between the brackets. */
static PyObject *document_completions(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return PySequence_List(self);
}

static PyObject *document_to_dict(PyObject *object, PyObject *ignored)
{
    struct mc_document *self = (struct mc_document *)object;
    (void)ignored;
    return mc_plain_document(mc_options_of(self), self->data, self->len, 1);
}

/* doc | mapping and mapping | doc: a plain dict, as {**left, **right}. */
static PyObject *document_or(PyObject *left, PyObject *right)
{
    PyObject *sides[2] = {left, right}, *result;
    for (int i = 0; i < 2; i++) {
        if (!PyDict_Check(sides[i]) && !PyType_HasFeature(Py_TYPE(sides[i]), Py_TPFLAGS_MAPPING)) {
            Py_RETURN_NOTIMPLEMENTED;
        }
    }
    result = PyDict_New();
    for (int i = 0; i < 2 && result != NULL; i++) {
        if (PyDict_Update(result, sides[i]) < 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static PyMethodDef document_methods[] = {
    {"get", (PyCFunction)(void (*)(void))document_get, METH_FASTCALL,
     "get($self, name, default=None, /)\n--\n\nThe value of the field, or the default.\n\n"
     "Raises ImportError for a value that PyMongo has a type for, when it is not installed."},
    {"keys", document_keys, METH_NOARGS, "The names of the fields, as a set-like view."},
    {"values", document_values, METH_NOARGS, "The values of the fields, as a view."},
    {"items", document_items, METH_NOARGS, "Pairs of name and value, as a set-like view."},
    {"pluck", (PyCFunction)(void (*)(void))document_pluck, METH_FASTCALL,
     "pluck($self, path, default=None, /)\n--\n\n"
     "The value at a dotted path such as 'limits.qps' or 'hosts.0.name', or the default."},
    {"to_dict", document_to_dict, METH_NOARGS,
     "A new dict of plain dicts, lists and values, all the way down."},
    {"_ipython_key_completions_", document_completions, METH_NOARGS, NULL},
    MC_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef document_getset[] = {
    {"raw", mc_object_raw, NULL, "The BSON of the document as bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static const char document_doc[] =
    "Document(data, codec_options=None, /)\n--\n\n"
    "A read-only mapping on one BSON document. Fields are decoded when they are first read.\n\n"
    "data: the document as bytes, which are validated and copied; or a Mapping, such as a dict,\n"
    "which PyMongo encodes.\n"
    "codec_options: PyMongo's CodecOptions, or None.\n\n"
    "It cannot change and needs no cache: threads may share it, and a forked child has it.\n\n"
    "Raises InvalidDocument when the bytes are not exactly one valid BSON document, or a value of\n"
    "the Mapping has no BSON; ImportError for a Mapping without PyMongo.";

static PyType_Slot document_slots[] = {
    {Py_tp_doc, (void *)document_doc},
    {Py_tp_new, mc_object_from_call},
    {Py_tp_dealloc, mc_object_dealloc},
    {Py_tp_methods, document_methods},
    {Py_tp_getset, document_getset},
    {Py_tp_iter, document_iter},
    {Py_tp_richcompare, mc_object_compare},
    {Py_tp_hash, mc_object_hash},
    {Py_tp_repr, mc_object_repr},
    {Py_mp_subscript, document_subscript},
    {Py_mp_length, document_length},
    {Py_sq_contains, document_contains},
    {Py_nb_or, document_or},
    {0, NULL},
};

PyType_Spec mc_document_spec = {
    .name = "mmapcache.Document",
    .basicsize = sizeof(struct mc_document),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_MAPPING,
    .slots = document_slots,
};
