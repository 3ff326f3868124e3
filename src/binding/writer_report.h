/* writer_report.h - report(), record(), mark() and position, as members of Writer. */
#ifndef MMAPCACHE_WRITER_REPORT_H
#define MMAPCACHE_WRITER_REPORT_H

#include <Python.h>

PyObject *mc_writer_object_report(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *mc_writer_object_record(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *mc_writer_object_mark(PyObject *self, PyObject *position);
PyObject *mc_writer_object_position(PyObject *self, void *closure);

extern const char mc_report_doc[];
extern const char mc_record_doc[];

#endif
