/* errors.h - the exception classes, and core errors as Python exceptions. */
#ifndef MMAPCACHE_ERRORS_H
#define MMAPCACHE_ERRORS_H

#include "module.h"

/* Makes the exception classes and adds them to the module: 0, or -1 with an exception. */
int mc_errors_init(PyObject *module, struct mc_module *state);

/* Sets the exception for a core error; always NULL. The only place that knows both. */
PyObject *mc_raise(struct mc_module *state, const struct mc_error *error);

/* The same for a status and a sentence: a PyErr_Format. */
PyObject *mc_raise_text(struct mc_module *state, enum mc_status status, const char *format, ...);

/* A core's sentence as a str: a new reference, or NULL. It may hold a path, which need not be
 * UTF-8: what is not is shown as \xNN, which can be printed, logged and written anywhere, unlike a
 * surrogate. */
PyObject *mc_error_text(const struct mc_error *error);

/* What a loader wrote into a field of `size` bytes, up to a NUL, as a str: a new reference, or
 * NULL. What is not UTF-8 is replaced. */
PyObject *mc_field_str(const char *field, size_t size);

#endif
