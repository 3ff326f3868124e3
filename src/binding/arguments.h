/* arguments.h - arguments of Python functions as C values, checked. */
#ifndef MMAPCACHE_ARGUMENTS_H
#define MMAPCACHE_ARGUMENTS_H

#include "module.h"

/* Whether a method that takes `expected` positional arguments got them: false with TypeError. */
bool mc_arguments_are(const char *method, Py_ssize_t nargs, Py_ssize_t expected);

/* Seconds as a number into nanoseconds, clamped to what 63 bits hold; None is for ever. 0, or -1
 * with TypeError or ValueError. mc_seconds_left is for what a caller has left of a time: it may be
 * less than nothing, which is nothing. */
#define MC_FOREVER INT64_MAX
int mc_seconds(PyObject *object, const char *what, int64_t *nanoseconds);
int mc_seconds_left(PyObject *object, const char *what, int64_t *nanoseconds);

/* Bytes as an int or as text like "512MiB": 0, or -1 with TypeError or ValueError. */
int mc_size(PyObject *object, const char *what, uint64_t *bytes);

/* A user: None (-1), a uid, or a name that the system knows. 0, or -1 with TypeError or
 * ValueError. */
int mc_user(PyObject *object, const char *what, int64_t *uid);

/* A collection's name as UTF-8 that lives as long as the object. A bad name for a writer is an
 * exception: TypeError, ValueError or LimitError. */
int mc_collection_name(struct mc_module *state, PyObject *object, const char **name, size_t *len);

/* The same for a reader, to whom a name that no collection can have is simply absent: 1, 0 then, or
 * -1 with MemoryError. The object must be a str. */
int mc_name_sought(PyObject *object, const char **name, size_t *len);

/* The bytes of a bytes-like object as exact `bytes`: the object itself, or a copy, as any other
 * may change while we look, whatever it says of itself. New reference, or NULL. */
PyObject *mc_frozen(PyObject *object);

/* One BSON document out of a Document, RawBSONDocument, bytes-like object or Mapping. Fills *view
 * and bytes that live until PyBuffer_Release(view); validated. 0, or -1 with an exception. */
int mc_bson_argument(struct mc_module *state, PyObject *object, Py_buffer *view);

/* Arguments of a method of `required` ones and one more, None by default, each by position or by
 * name, into values (borrowed): false with TypeError. */
bool mc_arguments(const char *method, const char *const *names, Py_ssize_t required,
                  PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **values);

/* `path` (bytes in the file system's encoding) made absolute,
 * in memory of PyMem_Malloc; or NULL. */
char *mc_absolute_path(PyObject *path);

/* Sleeps without the GIL; signal handlers run before it returns: 0, or -1 with an exception. */
int mc_sleep(int64_t nanoseconds);

#endif
