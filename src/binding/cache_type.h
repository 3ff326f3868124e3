/* cache_type.h - mmapcache.open() and the type Cache. */
#ifndef MMAPCACHE_CACHE_TYPE_H
#define MMAPCACHE_CACHE_TYPE_H

#include "reader.h"

/* How a cache is to be opened: what open() and Writer.reader() have in common. */
struct mc_cache_options {
    PyObject *codec_options; /* borrowed, or NULL */
    struct mc_reader_limits limits;
    bool populate;
    int64_t owner; /* uid that the file may have besides root's and our own; 0 or less: none */
};

/* Checks and converts the common arguments, NULL ones being left at their defaults. 0, or -1. */
int mc_cache_options_from(PyObject *codec_options, PyObject *front_bytes, PyObject *front_entries,
                          bool populate, struct mc_cache_options *out);

/* A Cache of that view, whose map it takes over in any case. path is the text to show, absolute the
 * path to look at later (NULL: anonymous). NULL with an exception. */
PyObject *mc_cache_new(struct mc_module *module, PyObject *path, const char *absolute,
                       const struct mc_view *view, const struct mc_cache_options *options);

/* mmapcache.open */
PyObject *mc_open(PyObject *module, PyObject *args, PyObject *kwargs);
extern const char mc_open_doc[];

/* Adds the type to the module: 0, or -1 with an exception. */
int mc_cache_type_init(PyObject *module, struct mc_module *state);

#endif
