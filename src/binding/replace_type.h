/* replace_type.h - the type Replace. */
#ifndef MMAPCACHE_REPLACE_TYPE_H
#define MMAPCACHE_REPLACE_TYPE_H

#include "module.h"

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_replace_type_init(PyObject *module, struct mc_module *state);

#endif
