/* cache_changes.c - what changed between two generations, as Python objects.
 *
 * How a process waits for a change is in mmapcache/changes.py, which is imported by the first
 * changes() or subscribe(). Here the change log becomes a dict of keys.
 *
 * The log is bytes of the file. Whatever cannot be believed, or cannot be said (a collection that
 * changed as a whole, a key that no set can hold), is "not known": the reader still has documents
 * that are validated one by one, and looks at all of them.
 */
#include "cache_changes.h"

#include "cache.h"
#include "change_log.h"
#include "document/classes.h"
#include "pykey.h"

/* ---- keys ---- */

/* The set of a collection's name in the dict, made when it is not there: borrowed; NULL with an
 * exception, or without one when this is no name. */
static PyObject *set_of(PyObject *dict, const struct mc_change *change)
{
    PyObject *name = mc_name_text(change->name, change->name_len), *set = NULL;
    if (name == NULL) {
        return NULL;
    }
    set = PyDict_GetItemWithError(dict, name);
    if (set == NULL && !PyErr_Occurred()) {
        PyObject *made = PySet_New(NULL);
        if (made != NULL && PyDict_SetItem(dict, name, made) == 0) {
            set = made;
        }
        Py_XDECREF(made); /* the dict has it */
    }
    Py_DECREF(name);
    return set;
}

/* Adds the change's key: 1; 0 when it cannot be said which; -1 with an exception. */
static int add_key(struct mc_module *module, struct mc_options *options, PyObject *set,
                   const struct mc_change *change)
{
    PyObject *key =
        mc_pykey_to_python(options, change->key.type, change->key.data, change->key.len);
    PyObject *expected = module->errors[MC_ERROR_CORRUPT];
    int added = -1;
    if (key != NULL) {
        added = PySet_Add(set, key);
        expected = PyExc_TypeError; /* a document in which there is a regular expression, say */
        Py_DECREF(key);
    }
    if (added == 0) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(expected)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* Gathers the changes as sets: 1; 0 when they are not known; -1 with an exception. */
static int gather(PyObject *cache, struct mc_changes *changes, PyObject *dict)
{
    struct mc_module *module = mc_cache_reader(cache)->module;
    struct mc_options *options = ((mc_cache_object *)cache)->options;
    const char *name = NULL;
    PyObject *set = NULL;
    struct mc_change change;
    enum mc_status status;
    while ((status = mc_changes_next(changes, &change)) == MC_OK) {
        int added;
        if (change.kind != MC_CHANGE_PUT && change.kind != MC_CHANGE_DELETE) {
            return 0;
        }
        if (change.name != name) { /* it stands in the log once for each run of its keys */
            name = change.name;
            set = set_of(dict, &change);
        }
        if (set == NULL) {
            return PyErr_Occurred() ? -1 : 0;
        }
        added = add_key(module, options, set, &change);
        if (added != 1) {
            return added;
        }
    }
    return status == MC_ABSENT;
}

/* The dict with frozensets in the place of its sets, None when the keys are not known, or NULL. */
static PyObject *keys_of(PyObject *cache, struct mc_changes *changes)
{
    PyObject *dict = PyDict_New(), *name, *set;
    Py_ssize_t at = 0;
    int known = dict != NULL ? gather(cache, changes, dict) : -1;
    while (known == 1 && PyDict_Next(dict, &at, &name, &set)) {
        PyObject *frozen = PyFrozenSet_New(set);
        if (frozen == NULL || PyDict_SetItem(dict, name, frozen) < 0) { /* no key is new */
            known = -1;
        }
        Py_XDECREF(frozen);
    }
    if (known != 1) {
        Py_XDECREF(dict);
        dict = known == 0 ? Py_NewRef(Py_None) : NULL;
    }
    return dict;
}

/* ---- generations ---- */

/* What was seen last, as numbers: 0, or -1 with an exception. */
static int seen_from(PyObject *seen, uint64_t out[2])
{
    if (!PyTuple_Check(seen) || PyTuple_GET_SIZE(seen) != 2) {
        PyErr_SetString(PyExc_TypeError, "None, or what was given last");
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        out[i] = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(seen, i));
        if (out[i] == UINT64_MAX && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

PyObject *mc_cache_news(PyObject *self, PyObject *seen)
{
    struct mc_reader *reader = mc_cache_reader(self);
    struct mc_changes changes = {0};
    uint64_t last[2] = {0}, generation, epoch;
    unsigned tries = 0;
    enum mc_status status;
    PyObject *keys;
    if ((seen != Py_None && seen_from(seen, last) < 0) ||
        mc_document_meet_pymongo(&reader->module->documents) < 0) {
        return NULL;
    }
    do {
        struct mc_reading *reading = mc_reader_update(reader);
        if (reading == NULL) {
            return NULL;
        }
        generation = mc_reading_generation(reading);
        epoch = reading->epoch;
        /* Another file's log says nothing of the step to it. The same one's numbers are ours but
         * for what is added to all of them. */
        status = seen == Py_None || epoch != last[1] || last[0] < reading->ahead
                     ? MC_ABSENT
                     : mc_changes_open(&reading->view, last[0] - reading->ahead,
                                       MC_CHANGES_UNLIMITED, &changes);
        if (status == MC_EXPIRED && !mc_reader_again(reader, &tries)) {
            return NULL;
        }
    } while (status == MC_EXPIRED);
    /* from here on Python's code may run, and the reader go on: only the copy is used */
    if (status == MC_OK) {
        keys = keys_of(self, &changes);
    } else {
        keys = status == MC_NOMEM ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    mc_changes_close(&changes);
    if (keys == NULL) {
        return NULL;
    }
    return Py_BuildValue("((KK)N)", (unsigned long long)generation, (unsigned long long)epoch,
                         keys);
}

/* ---- methods ---- */

/* mmapcache.changes.<name>: a new reference, or NULL. */
static PyObject *class_of(const char *name)
{
    PyObject *module = PyImport_ImportModule("mmapcache.changes"), *found = NULL;
    if (module != NULL) {
        found = mc_attribute(module, name);
        Py_DECREF(module);
    }
    return found;
}

/* Where the cache file is, as bytes, from the root; None: nowhere. */
static PyObject *place_of(PyObject *cache)
{
    const char *path = mc_cache_reader(cache)->path;
    return path == NULL ? Py_NewRef(Py_None) : PyBytes_FromString(path);
}

/* An object of the class `name`, for which callback and loop are both needed or both NULL: a new
 * reference, or NULL. */
static PyObject *make(const char *name, PyObject *cache, PyObject *callback, PyObject *loop)
{
    PyObject *cls = class_of(name), *place = NULL, *made = NULL;
    if (cls != NULL && (place = place_of(cache)) != NULL) {
        made = PyObject_CallFunctionObjArgs(cls, cache, place, callback, loop, NULL);
    }
    Py_XDECREF(place);
    Py_XDECREF(cls);
    return made;
}

PyObject *mc_cache_changes(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return make("Changes", self, NULL, NULL);
}

PyObject *mc_cache_subscribe(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"callback", "loop", NULL};
    PyObject *callback, *loop = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:subscribe", names, &callback, &loop)) {
        return NULL;
    }
    return make("Subscription", self, callback, loop);
}
