/* collection_get_many.h - get_many() and pluck(), as methods of Collection. */
#ifndef MMAPCACHE_COLLECTION_GET_MANY_H
#define MMAPCACHE_COLLECTION_GET_MANY_H

#include "collection.h"

PyObject *mc_collection_get_many(PyObject *self, PyObject *keys);
PyObject *mc_collection_pluck(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames);

#endif
