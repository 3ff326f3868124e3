/* cache_report.h - status(), stats(), catalogue() and check(), as methods of Cache. */
#ifndef MMAPCACHE_CACHE_REPORT_H
#define MMAPCACHE_CACHE_REPORT_H

#include <Python.h>

PyObject *mc_cache_status(PyObject *self, PyObject *ignored);
PyObject *mc_cache_stats(PyObject *self, PyObject *ignored);
PyObject *mc_cache_catalogue(PyObject *self, PyObject *ignored);
PyObject *mc_cache_check(PyObject *self, PyObject *ignored);

#endif
