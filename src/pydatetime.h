/* pydatetime.h - CPython's datetime.h without its static variable: the module state keeps the
 * pointer, as each interpreter has a datetime module of its own.
 */
#ifndef MMAPCACHE_PYDATETIME_H
#define MMAPCACHE_PYDATETIME_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-variable"
#include <datetime.h>
#pragma GCC diagnostic pop

#endif
