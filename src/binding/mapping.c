/* mapping.c - the methods that Cache and Snapshot share (mapping.h). */
#include "mapping.h"

#include "arguments.h"
#include "document/classes.h"

static const struct mc_mapping *mapping_of(PyObject *self)
{
    return ((mc_mapping_object *)self)->mapping;
}

PyObject *mc_mapping_iter(PyObject *self)
{
    PyObject *names = mapping_of(self)->names(self);
    PyObject *iterator = names == NULL ? NULL : PyObject_GetIter(names);
    Py_XDECREF(names);
    return iterator;
}

PyObject *mc_mapping_dict(PyObject *self)
{
    PyObject *names = mapping_of(self)->names(self);
    PyObject *dict = names == NULL ? NULL : PyDict_New();
    for (Py_ssize_t i = 0; dict != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *name = PyList_GET_ITEM(names, i);
        PyObject *collection = mapping_of(self)->collection(self, name, NULL);
        if (collection == NULL || PyDict_SetItem(dict, name, collection) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(collection);
    }
    Py_XDECREF(names);
    return dict;
}

/* keys(), values() or items() of a dict of all collections there are now. */
static PyObject *side(PyObject *self, const char *method)
{
    PyObject *dict = mc_mapping_dict(self);
    PyObject *view = dict == NULL ? NULL : mc_call_method(dict, method, NULL);
    Py_XDECREF(dict);
    return view;
}

PyObject *mc_mapping_keys(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return side(self, "keys");
}

PyObject *mc_mapping_values(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return side(self, "values");
}

PyObject *mc_mapping_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return side(self, "items");
}

PyObject *mc_mapping_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"name", "default"};
    PyObject *values[2], *found;
    if (!mc_arguments("get", names, 1, args, nargs, kwnames, values)) {
        return NULL;
    }
    found = mapping_of(self)->find(self, values[0]);
    return found != NULL || PyErr_Occurred() ? found : Py_NewRef(values[1]);
}

PyObject *mc_mapping_collection(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    static const char *const names[] = {"name", "codec_options"};
    PyObject *values[2];
    if (!mc_arguments("collection", names, 1, args, nargs, kwnames, values)) {
        return NULL;
    }
    if (!PyUnicode_Check(values[0])) {
        PyErr_Format(PyExc_TypeError, "a collection's name is a str, not %.100s",
                     Py_TYPE(values[0])->tp_name);
        return NULL;
    }
    return mapping_of(self)->collection(self, values[0], values[1] == Py_None ? NULL : values[1]);
}

/* For IPython: what may stand between the brackets. */
PyObject *mc_mapping_completions(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mapping_of(self)->names(self);
}

/* ---- == ---- */

PyObject *mc_dict_of(PyObject *mapping)
{
    PyObject *dict, *items;
    if (PyDict_CheckExact(mapping)) {
        return Py_NewRef(mapping);
    }
    dict = PyDict_New();
    items = dict == NULL ? NULL : mc_call_method(mapping, "items", NULL);
    if (items == NULL || PyDict_MergeFromSeq2(dict, items, 1) < 0) {
        Py_CLEAR(dict);
    }
    Py_XDECREF(items);
    return dict;
}

/* Whether the dict has the pair: 1, 0, or -1 with an exception. */
static int has_pair(PyObject *dict, PyObject *pair)
{
    PyObject *value = mc_dict_get(dict, PyTuple_GET_ITEM(pair, 0));
    int result;
    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    result = PyObject_RichCompareBool(PyTuple_GET_ITEM(pair, 1), value, Py_EQ);
    Py_DECREF(value);
    return result;
}

/* Whether the mapping has exactly the pairs of the dict: 1, 0, or -1 with an exception. */
static int same_pairs(PyObject *self, PyObject *dict)
{
    int result = 1;
    Py_ssize_t count = PyObject_Size(self), seen = 0;
    PyObject *items, *iterator, *pair;
    if (count < 0 || count != PyDict_GET_SIZE(dict)) {
        return count < 0 ? -1 : 0;
    }
    items = mc_call_method(self, "items", NULL);
    iterator = items == NULL ? NULL : PyObject_GetIter(items);
    while (iterator != NULL && result == 1 && (pair = PyIter_Next(iterator)) != NULL) {
        result = has_pair(dict, pair);
        seen++;
        Py_DECREF(pair);
    }
    Py_XDECREF(items);
    Py_XDECREF(iterator);
    if (result == 1 && PyErr_Occurred()) {
        return -1;
    }
    return result == 1 ? seen == PyDict_GET_SIZE(dict) : result;
}

int mc_mapping_comparable(struct mc_module *module, PyObject *other, int operation)
{
    if (operation != Py_EQ && operation != Py_NE) {
        return 0;
    }
    return PyDict_Check(other) ? 1 : PyObject_IsInstance(other, module->documents.mapping_abc);
}

PyObject *mc_mapping_compare(PyObject *self, PyObject *other, int operation)
{
    int same = 1, comparable = mc_mapping_comparable(mc_module_of(self), other, operation);
    if (comparable <= 0) {
        return comparable < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    }
    if (self != other) {
        PyObject *dict = mc_dict_of(other);
        same = dict == NULL ? -1 : same_pairs(self, dict);
        Py_XDECREF(dict);
    }
    return same < 0 ? NULL : PyBool_FromLong(same == (operation == Py_EQ));
}
