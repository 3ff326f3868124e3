/* batch_type.h - the type Batch. */
#ifndef MMAPCACHE_BATCH_TYPE_H
#define MMAPCACHE_BATCH_TYPE_H

#include "writer_object.h"

/* A new Batch, not begun. */
PyObject *mc_batch_new(mc_writer_object *writer);

/* The core's writer for a call within an open batch; NULL with an exception. */
struct mc_writer *mc_batch_enter(mc_batch_object *self);

/* put and put_raw, of a batch and of a replace alike. NULL with an exception. */
PyObject *mc_batch_put_object(mc_batch_object *self, PyObject *name, PyObject *key_object,
                              PyObject *document);
PyObject *mc_batch_put_buffer(mc_batch_object *self, PyObject *name, PyObject *buffer);

/* The methods put and delete of a Writer: a batch of one change. */
PyObject *mc_writer_object_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *mc_writer_object_delete(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

/* Forgets an open batch of a writer that is being closed. */
void mc_batch_orphan(mc_writer_object *writer);

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_batch_type_init(PyObject *module, struct mc_module *state);

#endif
