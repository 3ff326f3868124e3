/* mapping.h - what Cache and Snapshot have in common: both are mappings from name to Collection.
 *
 * Each says how it finds names and collections; get(), collection(), keys(), values(), items() and
 * iter() follow from that. Subscript, `in` and len() are each type's own: they must be fast. == is
 * here too, for whatever else is a mapping.
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
    /* The same when there is such a collection: NULL without an exception when there is none. */
    PyObject *(*find)(PyObject *self, PyObject *name);
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
PyObject *mc_mapping_completions(PyObject *self, PyObject *ignored);

/* A new dict of names and Collections, and any mapping as a dict: itself or a new one. */
PyObject *mc_mapping_dict(PyObject *self);
PyObject *mc_dict_of(PyObject *mapping);

/* Whether self == other may be asked: 1 for == and != with a Mapping, 0, or -1 with an exception.
 * And tp_richcompare of any mapping of ours, as collections.abc.Mapping has it: by content. It
 * walks self.items() once. */
int mc_mapping_comparable(struct mc_module *module, PyObject *other, int operation);
PyObject *mc_mapping_compare(PyObject *self, PyObject *other, int operation);

#endif
