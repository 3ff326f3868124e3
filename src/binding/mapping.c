/* mapping.c - the methods that Cache and Snapshot share (mapping.h). */
#include "mapping.h"

#include "arguments.h"

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

/* keys(), values() or items() of a dict of all collections there are now. */
static PyObject *side(PyObject *self, const char *method)
{
    PyObject *names = mapping_of(self)->names(self);
    PyObject *dict = names == NULL ? NULL : PyDict_New();
    PyObject *view;
    for (Py_ssize_t i = 0; dict != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *name = PyList_GET_ITEM(names, i);
        PyObject *collection = mapping_of(self)->collection(self, name, NULL);
        if (collection == NULL || PyDict_SetItem(dict, name, collection) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(collection);
    }
    Py_XDECREF(names);
    view = dict == NULL ? NULL : PyObject_CallMethod(dict, method, NULL);
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
    PyObject *values[2];
    PyObject *collection;
    if (!mc_arguments("get", names, 1, args, nargs, kwnames, values)) {
        return NULL;
    }
    collection = PyObject_GetItem(self, values[0]);
    if (collection == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        return Py_NewRef(values[1]);
    }
    return collection;
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
