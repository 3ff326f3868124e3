/* cache.c - the collections of a Cache, by name.
 *
 * cache["sites"] gives the same Collection each time, so that what it has learned (where its table
 * is, its share of the front cache) is learned once. A handle that was made with codec options of
 * its own is kept under their identity; it owns them, so the identity stays theirs.
 */
#include "cache.h"

/* The key of a handle in the dict: a new reference, or NULL. */
static PyObject *handle_key(PyObject *name, PyObject *codec_options)
{
    return codec_options == NULL ? Py_NewRef(name)
                                 : Py_BuildValue("(On)", name, (Py_ssize_t)codec_options);
}

static PyObject *make_handle(mc_cache_object *self, PyObject *key, PyObject *name,
                             PyObject *codec_options)
{
    PyObject *handle;
    struct mc_options *options =
        codec_options == NULL ? mc_options_retain(self->options)
                              : mc_options_from(&self->reader->module->documents, codec_options);
    if (options == NULL) {
        return NULL;
    }
    handle = mc_collection_new(self->reader, options, name, codec_options);
    mc_options_release(options);
    if (handle != NULL) {
        /* names that come and go must not pile up; a dropped handle is simply made again */
        if (PyDict_GET_SIZE(self->handles) >= (Py_ssize_t)MC_COLLECTIONS_MAX) {
            PyDict_Clear(self->handles);
        }
        if (PyDict_SetItem(self->handles, key, handle) < 0) {
            Py_CLEAR(handle);
        }
    }
    return handle;
}

PyObject *mc_cache_collection(PyObject *cache, PyObject *name, PyObject *codec_options)
{
    mc_cache_object *self = (mc_cache_object *)cache;
    PyObject *key = handle_key(name, codec_options);
    PyObject *handle;
    if (key == NULL) {
        return NULL;
    }
    handle = mc_dict_get(self->handles, key);
    if (handle == NULL && !PyErr_Occurred()) {
        MC_SECTION_BEGIN(cache);
        handle = MC_FREE_THREADED ? mc_dict_get(self->handles, key) : NULL;
        if (handle == NULL && !PyErr_Occurred()) {
            handle = make_handle(self, key, name, codec_options);
        }
        MC_SECTION_END();
    }
    Py_DECREF(key);
    return handle;
}
