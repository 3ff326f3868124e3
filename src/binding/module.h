/* module.h - the state of the module: what the files of the Python binding share.
 *
 *      _mmapcache.c     module, constants, what exec, traverse and clear do
 *      errors.c         exception classes; the one function from status to exception
 *      not_ready.c      NotReadyError with the loader's own words
 *      arguments.c      seconds, sizes, names, BSON out of Python arguments
 *      pykey.c          Python keys to canonical ones and back
 *      front_cache.c    the map from key to Document in front of the file
 *      vouch.c          which of them are right after a commit, by the change log
 *      lane.c, lane_owner.c    what a thread has of a reader for itself, where there is no GIL
 *      reader.c         one open cache: the current reading, refreshing it, moving to a successor
 *      mapping.c        what Cache and Snapshot have in common
 *      collection.c     the object Collection, and the steps that every read through one shares
 *      absent.c         KeyError for a collection or a key that is not there
 *      collection_get_many.c   get_many(), pluck()
 *      collection_views.c      keys(), items(), values() and their iterators
 *      collection_map.c        what a service builds from a document, kept beside it
 *      collection_map_type.c   map(): the type CollectionMap
 *      index_type.c     by(): the type Index, lookup by another field
 *      collection_type.c       get(), [], in, len(): the type Collection
 *      cache.c          the object Cache: its collections by name
 *      cache_history.c  history()
 *      cache_report.c   status(), stats(), catalogue(), check()
 *      cache_changes.c  changes(), subscribe(): the change log as keys
 *      snapshot_type.c  the type Snapshot
 *      cache_type.c     open(), the type Cache
 *      writer_object.c  what Writer, Batch and Replace know of each other
 *      writer_report.c  report(), record(), mark(), position of a Writer
 *      writer_upkeep.c  in_use, tidy(), shrink() of a Writer
 *      batch_type.c, replace_type.c, writer_type.c      the types Batch, Replace and Writer
 *      replies.c        what the loader cuts out of a server's replies
 *
 * Each file includes the headers of those before it only; a header is named like its file.
 *
 * All Python objects live in struct mc_module, one per interpreter: nothing here is static but
 * constants. Few types of the binding take part in garbage collection, on purpose: a Cache refers
 * to its collections, a Collection, Snapshot or iterator to C structs and text, and nothing refers
 * back, so that no cycle can form, and making one costs an allocation and no bookkeeping. But a
 * CollectionMap holds a service's own objects, and a view may be of a CollectionMap.
 *
 * A destructor must not look at the module: during the interpreter's shutdown it may be cleared
 * before the last object goes.
 */
#ifndef MMAPCACHE_MODULE_H
#define MMAPCACHE_MODULE_H

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "document/document.h"
#include "status.h"

/* The exception classes, in the order in which errors.c makes them. */
enum mc_exception {
    MC_ERROR, /* MmapCacheError */
    MC_ERROR_CORRUPT,
    MC_ERROR_FORMAT,
    MC_ERROR_VERSION,
    MC_ERROR_FULL,
    MC_ERROR_NOT_READY,
    MC_ERROR_EXPIRED, /* SnapshotExpired */
    MC_ERROR_LOCK_TIMEOUT,
    MC_ERROR_CLOSED,
    MC_ERROR_INVALID, /* InvalidDocument */
    MC_ERROR_LIMIT,
    MC_ERRORS,
};

struct mc_module {
    struct mc_document_state documents; /* the first member: document.h says why */
    PyObject *errors[MC_ERRORS];
    PyTypeObject *cache, *collection, *snapshot, *views[MC_MAPPING_VIEWS], *iterator;
    PyTypeObject *map, *map_iterator, *built, *index;
    PyTypeObject *writer, *batch, *replace;
    PyObject *text_pluck, *text_raw, *text_marker;
};

static inline struct mc_module *mc_module_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

/* Makes one type from its spec: 0, or -1 with an exception. */
static inline int mc_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    *out = mc_type_new(module, spec);
    return *out == NULL ? -1 : PyModule_AddType(module, *out);
}

#endif
