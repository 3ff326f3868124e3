/* cache_history.h - history(), as a method of Cache. */
#ifndef MMAPCACHE_CACHE_HISTORY_H
#define MMAPCACHE_CACHE_HISTORY_H

#include <Python.h>

#include "history.h"
#include "reader.h"

extern const char mc_history_doc[];

PyObject *mc_cache_history(PyObject *self, PyObject *ignored);

/* A copy of the records of the reading's file, oldest first, for PyMem_Free: NULL with an
 * exception. *damaged (may be NULL): how many slots hold something that counts for none. */
struct mc_round_record *mc_reading_history(const struct mc_reading *reading, size_t *number,
                                           size_t *damaged);

#endif
