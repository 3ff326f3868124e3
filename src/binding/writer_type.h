/* writer_type.h - the type Writer. */
#ifndef MMAPCACHE_WRITER_TYPE_H
#define MMAPCACHE_WRITER_TYPE_H

#include "module.h"

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_writer_type_init(PyObject *module, struct mc_module *state);

#endif
