/* snapshot_type.h - the type Snapshot: all collections of a cache in one generation. */
#ifndef MMAPCACHE_SNAPSHOT_TYPE_H
#define MMAPCACHE_SNAPSHOT_TYPE_H

#include "reader.h"

/* A Snapshot of that reading: a new reference, or NULL with MemoryError. */
PyObject *mc_snapshot_new(struct mc_module *module, PyObject *cache, struct mc_reading *reading);

/* tp_richcompare of Cache and Snapshot: a Cache is what its current generation is. */
PyObject *mc_snapshot_compare(PyObject *self, PyObject *other, int operation);

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_snapshot_type_init(PyObject *module, struct mc_module *state);

#endif
