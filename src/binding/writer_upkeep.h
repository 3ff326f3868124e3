/* writer_upkeep.h - in_use, tidy() and shrink(), as members of Writer. */
#ifndef MMAPCACHE_WRITER_UPKEEP_H
#define MMAPCACHE_WRITER_UPKEEP_H

#include <Python.h>

PyObject *mc_writer_object_in_use(PyObject *self, void *closure);
PyObject *mc_writer_object_tidy(PyObject *self, PyObject *ignored);
PyObject *mc_writer_object_shrink(PyObject *self, PyObject *ignored);

extern const char mc_tidy_doc[];
extern const char mc_shrink_doc[];

#endif
