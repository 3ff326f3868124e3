/* fake_python.h - objects for the tests, made without an interpreter. */
#ifndef MMAPCACHE_FAKE_PYTHON_H
#define MMAPCACHE_FAKE_PYTHON_H

#include <Python.h>

struct fake_long {
    PyObject_HEAD
    int64_t number;
};

/* A str; interned: such as stands in code. And an int. */
PyObject *fake_text(const char *bytes, size_t len, bool interned);
PyObject *fake_long(int64_t number);

static inline int64_t fake_number(PyObject *object)
{
    return ((struct fake_long *)(void *)object)->number;
}

#endif
