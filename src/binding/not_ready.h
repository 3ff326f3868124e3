/* not_ready.h - the exception for a cache that cannot be read yet. */
#ifndef MMAPCACHE_NOT_READY_H
#define MMAPCACHE_NOT_READY_H

#include "module.h"

/* Sets NotReadyError for `error`, a core's MC_NOT_READY about the file at `path`, with what the
 * file's loader says of itself, if there is a file. `owner`: see mc_region_open. Always NULL. */
PyObject *mc_raise_not_ready(struct mc_module *state, const char *path, int64_t owner,
                             const struct mc_error *error);

#endif
