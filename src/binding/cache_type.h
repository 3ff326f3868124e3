/* cache_type.h - what a Cache is, for the files that make, use and report on one. */
#ifndef MMAPCACHE_CACHE_TYPE_H
#define MMAPCACHE_CACHE_TYPE_H

#include "collection_type.h"

typedef struct {
    PyObject_HEAD
    struct mc_reader *reader;   /* counted */
    struct mc_options *options; /* counted: what collections have unless they are given their own */
    PyObject *path;             /* owned str, as it was given; empty: anonymous */
    PyObject *handles; /* owned dict: name, or (name, id of codec options), to Collection */
} mc_cache_object;

/* How a cache is to be opened: what open() and Writer.reader() have in common. */
struct mc_cache_options {
    PyObject *codec_options; /* borrowed, or NULL */
    struct mc_reader_limits limits;
    bool populate;
};

/* Checks and converts the common arguments, NULL ones being left at their defaults. 0, or -1. */
int mc_cache_options_from(PyObject *codec_options, PyObject *front_bytes, PyObject *front_entries,
                          bool populate, struct mc_cache_options *out);

/* A Cache of that view, whose map it takes over in any case. path is the text to show, absolute the
 * path to look at later (NULL: anonymous). NULL with an exception. */
PyObject *mc_cache_new(struct mc_module *module, PyObject *path, const char *absolute,
                       const struct mc_view *view, const struct mc_cache_options *options);

/* cache_report.c: methods of Cache. */
PyObject *mc_cache_status(PyObject *self, PyObject *ignored);
PyObject *mc_cache_stats(PyObject *self, PyObject *ignored);
PyObject *mc_cache_check(PyObject *self, PyObject *ignored);

#endif
