/* collection_type.h - the type Collection. */
#ifndef MMAPCACHE_COLLECTION_TYPE_H
#define MMAPCACHE_COLLECTION_TYPE_H

#include "module.h"

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_collection_type_init(PyObject *module, struct mc_module *state);

#endif
