/* not_ready.c - NotReadyError with the loader's own words.
 *
 * A loader that cannot load has a report in the file long before there is a generation: it says
 * why. Whoever opens the cache is told that, and not only that nothing is there. The words are made
 * safe for a terminal in the sentence; the attributes have them as they are, as status() does.
 */
#include "not_ready.h"

#include "errors.h"
#include "store.h"

/* What a loader says of itself; all NULL where there is no file. */
struct words {
    PyObject *loader, *state, *error, *source;
    enum mc_loader which; /* loader is its name */
};

static void words_clear(struct words *words)
{
    Py_CLEAR(words->loader);
    Py_CLEAR(words->state);
    Py_CLEAR(words->error);
    Py_CLEAR(words->source);
}

/* Reads the report of the file at `path`, if one can be had: 0, or -1 with an exception. */
static int listen(const char *path, int64_t owner, struct words *words)
{
    struct mc_map *map;
    struct mc_loader_report report;
    enum mc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = mc_map_open_of(path, owner, &map, NULL);
    Py_END_ALLOW_THREADS
    if (status != MC_OK) {
        return 0;
    }
    mc_map_report(map, &report);
    words->which = mc_map_loader(map);
    mc_map_release(map);
    words->loader = PyUnicode_FromString(mc_loader_name(words->which));
    words->state = mc_field_str(report.state, sizeof report.state);
    words->error = report.error[0] == '\0' ? Py_NewRef(Py_None)
                                           : mc_field_str(report.error, sizeof report.error);
    words->source = mc_field_str(report.source, sizeof report.source);
    return words->loader == NULL || words->state == NULL || words->error == NULL ||
                   words->source == NULL
               ? -1
               : 0;
}

/* The text as a part of one line of a terminal: a new reference, or NULL. */
static PyObject *printable(PyObject *text)
{
    PyObject *module = PyImport_ImportModule("mmapcache.printing");
    PyObject *safe = module == NULL ? NULL : PyObject_CallMethod(module, "printable", "O", text);
    Py_XDECREF(module);
    return safe;
}

/* The sentence, and what the loader adds to it: a new reference, or NULL. */
static PyObject *sentence(const struct mc_error *error, const struct words *words)
{
    static const char *const how[] = {[MC_LOADER_NONE] = "it has ended",
                                      [MC_LOADER_ALIVE] = "it is running",
                                      [MC_LOADER_DEAD] = "it was killed"};
    PyObject *first = mc_error_text(error);
    PyObject *text, *safe;
    if (first == NULL || words->loader == NULL) {
        return first;
    }
    if (words->error == Py_None && PyUnicode_GET_LENGTH(words->state) == 0) {
        return first; /* it has said nothing */
    }
    if (words->error == Py_None) {
        text =
            PyUnicode_FromFormat("%U (%s, its state: %U)", first, how[words->which], words->state);
    } else {
        text = PyUnicode_FromFormat("%U (%s). It says why: %U", first, how[words->which],
                                    words->error);
    }
    Py_DECREF(first);
    safe = text == NULL ? NULL : printable(text);
    Py_XDECREF(text);
    return safe;
}

/* 0, or -1; a value that is NULL stays what the class has: None. */
static int set(PyObject *exception, const char *name, PyObject *value)
{
    return value == NULL ? 0 : PyObject_SetAttrString(exception, name, value);
}

PyObject *mc_raise_not_ready(struct mc_module *state, const char *path, int64_t owner,
                             const struct mc_error *error)
{
    PyObject *cls = state->errors[MC_ERROR_NOT_READY], *exception = NULL;
    struct words words = {.loader = NULL};
    PyObject *text = listen(path, owner, &words) < 0 ? NULL : sentence(error, &words);
    if (text != NULL) {
        exception = PyObject_CallOneArg(cls, text);
    }
    if (exception != NULL && set(exception, "loader", words.loader) == 0 &&
        set(exception, "state", words.state) == 0 && set(exception, "error", words.error) == 0 &&
        set(exception, "source", words.source) == 0) {
        PyErr_SetObject(cls, exception);
    }
    Py_XDECREF(exception);
    Py_XDECREF(text);
    words_clear(&words);
    return NULL;
}
