/* cache_changes.h - changes() and subscribe(), as methods of Cache. */
#ifndef MMAPCACHE_CACHE_CHANGES_H
#define MMAPCACHE_CACHE_CHANGES_H

#include <Python.h>

PyObject *mc_cache_changes(PyObject *self, PyObject *ignored);
PyObject *mc_cache_subscribe(PyObject *self, PyObject *args, PyObject *kwargs);

/* _news(seen): what changed since then. seen: None, or what was given last. A pair: what is seen
 * now, which is the generation and which file it is of; and the keys by collection, as a dict from
 * str to frozenset, or None when it is not known what changed. */
PyObject *mc_cache_news(PyObject *self, PyObject *seen);

#endif
