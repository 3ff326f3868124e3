/* index_type.h - Collection.by() and the type Index: lookup by another field. */
#ifndef MMAPCACHE_INDEX_TYPE_H
#define MMAPCACHE_INDEX_TYPE_H

#include "collection.h"

/* Collection.by(field), and Collection.indexes. */
extern const char mc_collection_by_doc[];
PyObject *mc_collection_by(PyObject *collection, PyObject *field);
PyObject *mc_collection_indexes(PyObject *collection, void *closure);

/* "unique" or "multi", as a new reference. */
PyObject *mc_index_kind_text(uint32_t kind);

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_index_type_init(PyObject *module, struct mc_module *state);

#endif
