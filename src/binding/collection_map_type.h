/* collection_map_type.h - the type CollectionMap: what collection.map(function) gives. */
#ifndef MMAPCACHE_COLLECTION_MAP_TYPE_H
#define MMAPCACHE_COLLECTION_MAP_TYPE_H

#include "module.h"

extern const char mc_collection_map_doc[];
PyObject *mc_collection_map(PyObject *collection, PyObject *args, PyObject *kwargs);

/* Adds the types to the module: 0, or -1 with an exception. */
int mc_collection_map_init(PyObject *module, struct mc_module *state);

#endif
