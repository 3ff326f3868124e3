/* cache.h - the object Cache: one open file, and its collections by name. */
#ifndef MMAPCACHE_CACHE_H
#define MMAPCACHE_CACHE_H

#include "collection.h"
#include "mapping.h"

typedef struct {
    mc_mapping_object head;
    struct mc_reader *reader;   /* counted */
    struct mc_options *options; /* counted: what collections have unless they are given their own */
    PyObject *path;             /* owned str, as it was given; empty: anonymous */
    PyObject *handles; /* owned dict: name, or (name, id of codec options), to Collection */
} mc_cache_object;

static inline struct mc_reader *mc_cache_reader(PyObject *cache)
{
    return ((mc_cache_object *)cache)->reader;
}

/* The live handle of a name, whether there is such a collection or not, as the cache keeps it.
 * codec_options: NULL for the cache's own. A new reference, or NULL with an exception. */
PyObject *mc_cache_collection(PyObject *cache, PyObject *name, PyObject *codec_options);

#endif
