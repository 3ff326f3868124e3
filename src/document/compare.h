/* compare.h - what Document and Array have for ==, hash() and repr(). */
#ifndef MMAPCACHE_COMPARE_H
#define MMAPCACHE_COMPARE_H

#include "document_object.h"

/* tp_richcompare, tp_hash and tp_repr of both. */
PyObject *mc_object_compare(PyObject *object, PyObject *other, int operation);
Py_hash_t mc_object_hash(PyObject *object);
PyObject *mc_object_repr(PyObject *object);

#endif
