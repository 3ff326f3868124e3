/* mapping.h - what Cache and Snapshot have in common: both are mappings from name to Collection.
 *
 * Each says how it finds names and collections; get(), collection(), keys(), values(), items() and
 * iter() follow from that. Subscript, `in` and len() are each type's own: they must be fast.
 */
#ifndef MMAPCACHE_MAPPING_H
#define MMAPCACHE_MAPPING_H

#include "module.h"

struct mc_mapping {
    /* The names there are, as a new list, or NULL with an exception. */
    PyObject *(*names)(PyObject *self);
    /* The Collection of a name, there or not: a new reference, or NULL with an exception.
     * codec_options may be NULL. */
    PyObject *(*collection)(PyObject *self, PyObject *name, PyObject *codec_options);
};

/* How objects of both types begin. */
typedef struct {
    PyObject_HEAD
    const struct mc_mapping *mapping;
} mc_mapping_object;

PyObject *mc_mapping_iter(PyObject *self);
PyObject *mc_mapping_get(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
PyObject *mc_mapping_collection(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *mc_mapping_keys(PyObject *self, PyObject *ignored);
PyObject *mc_mapping_values(PyObject *self, PyObject *ignored);
PyObject *mc_mapping_items(PyObject *self, PyObject *ignored);

#endif
