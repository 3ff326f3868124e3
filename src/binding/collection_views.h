/* collection_views.h - views of a Collection as a dict has them, and iterators over it. */
#ifndef MMAPCACHE_COLLECTION_VIEWS_H
#define MMAPCACHE_COLLECTION_VIEWS_H

#include "collection.h"

/* What keys(), values() and items() give, and what iter() of those gives: new references. */
PyObject *mc_collection_view(mc_collection_object *collection, enum mc_mapping_view kind);
PyObject *mc_iterator_new(mc_collection_object *collection, enum mc_mapping_view kind);

/* The same view of whatever else is a mapping with a collection's keys; `iterate` makes its
 * iterators. */
typedef PyObject *(*mc_iterate)(PyObject *mapping, enum mc_mapping_view kind);
PyObject *mc_view_new(struct mc_module *module, PyObject *mapping, enum mc_mapping_view kind,
                      mc_iterate iterate);

/* Adds the types to the module: 0, or -1 with an exception. */
int mc_views_init(PyObject *module, struct mc_module *state);

#endif
