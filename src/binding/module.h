/* module.h - what the files of the Python binding share.
 *
 *      _mmapcache.c     module, constants, what exec, traverse and clear do
 *      errors.c         exception classes; the one function from status to exception
 *      arguments.c      seconds, sizes, names, BSON out of Python arguments
 *      reader.c         one open cache: the current reading, refreshing it, moving to a successor
 *      front_cache.c          the front cache
 *      cache_type.c     open(), Cache         cache_report.c   status(), stats(), check()
 *      snapshot_type.c  Snapshot              collection_type.c, collection_get_many.c   Collection
 *      collection_views.c          keys(), items(), values() and their iterators
 *      writer_type.c    Writer                batch_type.c, replace_type.c           Batch, Replace
 *
 * All Python objects live in struct mc_module, one per interpreter: nothing here is static but
 * constants. No type of the binding takes part in garbage collection, on purpose: a Cache refers to
 * its collections, a Collection, Snapshot, view or iterator to C structs and text, and nothing
 * refers back, so that no cycle can form, and making one costs an allocation and no bookkeeping.
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
    PyTypeObject *writer, *batch, *replace;
    PyObject *text_pluck, *text_raw, *text_marker;
    PyObject *encode_options; /* for bson.encode; NULL until it is needed */
};

static inline struct mc_module *mc_module_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

/* ---- errors.c ---- */

/* Makes the exception classes and adds them to the module: 0, or -1 with an exception. */
int mc_errors_init(PyObject *module, struct mc_module *state);

/* Sets the exception for a core error; always NULL. The only place that knows both. */
PyObject *mc_raise(struct mc_module *state, const struct mc_error *error);

/* The same for a status and a sentence: a PyErr_Format. */
PyObject *mc_raise_text(struct mc_module *state, enum mc_status status, const char *format, ...);

/* ---- arguments.c ---- */

/* Whether a method that takes `expected` positional arguments got them: false with TypeError. */
bool mc_arguments_are(const char *method, Py_ssize_t nargs, Py_ssize_t expected);

/* Seconds as a number into nanoseconds, clamped to what 63 bits hold; None is for ever where the
 * caller allows it. 0, or -1 with TypeError or ValueError. */
#define MC_FOREVER INT64_MAX
int mc_seconds(PyObject *object, bool none_is_forever, const char *what, int64_t *nanoseconds);

/* Bytes as an int or as text like "512MiB": 0, or -1 with TypeError or ValueError. */
int mc_size(PyObject *object, const char *what, uint64_t *bytes);

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

/* `path` (bytes in the file system's encoding) made absolute, in memory of PyMem_Malloc; or NULL.
 */
char *mc_absolute_path(PyObject *path);

/* Sleeps without the GIL; signal handlers run before it returns: 0, or -1 with an exception. */
int mc_sleep(int64_t nanoseconds);

/* ---- the types: each adds itself to the module, 0 or -1 with an exception ---- */

int mc_cache_type_init(PyObject *module, struct mc_module *state);
int mc_collection_type_init(PyObject *module, struct mc_module *state);
int mc_snapshot_type_init(PyObject *module, struct mc_module *state);
int mc_views_init(PyObject *module, struct mc_module *state);
int mc_writer_type_init(PyObject *module, struct mc_module *state);
int mc_batch_type_init(PyObject *module, struct mc_module *state);
int mc_replace_type_init(PyObject *module, struct mc_module *state);

/* Makes one type from its spec: 0, or -1 with an exception. */
static inline int mc_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    *out = mc_type_new(module, spec);
    return *out == NULL ? -1 : PyModule_AddType(module, *out);
}

/* mmapcache.open */
PyObject *mc_open(PyObject *module, PyObject *args, PyObject *kwargs);
extern const char mc_open_doc[];

#endif
