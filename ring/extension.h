/* extension.h - what the parts of the extension mmapcache.ring._ring share. */
#ifndef MMAPCACHE_RING_EXTENSION_H
#define MMAPCACHE_RING_EXTENSION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "entry.h"
#include "ring.h"

#ifndef Py_BEGIN_CRITICAL_SECTION /* before CPython 3.13: the GIL is held */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

#define METHOD(function) ((PyCFunction)(void (*)(void))(function))

/* The bytes of a bytes object, or of a str in UTF-8; they are the object's. */
const char *ring_text_or_bytes(PyObject *object, const char *what, Py_ssize_t *length);

/* -1 and an error if it is not one, or of a time above RING_TIME_MAX. */
int ring_version_argument(PyObject *object, struct ring_version *version);
int ring_time_argument(PyObject *object, const char *what, uint64_t *time);

extern PyType_Spec ring_placement_spec;
extern PyType_Spec ring_clock_spec;

#endif
