/* errors.c - the exceptions, and the one function that turns a core status into one.
 *
 *      MmapCacheError
 *        CorruptError   SnapshotExpired
 *        NotReadyError    loader, state, error, source: what its loader says, see not_ready.c
 *        FormatError
 *          VersionError
 *        FullError        needed, free, largest, limit: bytes
 *        LockTimeout      is a TimeoutError too
 *        ClosedError      is a ValueError too, as are the next two
 *        InvalidDocument
 *        LimitError
 *
 * What the system refuses is an OSError with its errno, and no memory is MemoryError: these two are
 * Python's own. A lookup that finds nothing is no error here; KeyError is for the types to raise.
 */
#include "errors.h"

struct exception_kind {
    const char *name;
    enum mc_exception index, parent; /* MC_ERROR is the only one that is its own */
    PyObject **extra;                /* a second base, or NULL */
    const char *doc;
};

static int add_exception(PyObject *module, struct mc_module *state,
                         const struct exception_kind *spec)
{
    PyObject *made;
    PyObject *bases = NULL;
    PyObject *values = NULL;
    if (spec->index != MC_ERROR) {
        PyObject *base = state->errors[spec->parent];
        bases = spec->extra == NULL ? PyTuple_Pack(1, base) : PyTuple_Pack(2, base, *spec->extra);
        if (bases == NULL) {
            return -1;
        }
    }
    if (spec->index == MC_ERROR_FULL) { /* an instance that was not raised by us has them too */
        values =
            Py_BuildValue("{s:i,s:i,s:i,s:i}", "needed", 0, "free", 0, "largest", 0, "limit", 0);
    } else if (spec->index == MC_ERROR_NOT_READY) {
        values = Py_BuildValue("{s:O,s:O,s:O,s:O}", "loader", Py_None, "state", Py_None, "error",
                               Py_None, "source", Py_None);
    }
    if (values == NULL && PyErr_Occurred()) {
        Py_XDECREF(bases);
        return -1;
    }
    made = PyErr_NewExceptionWithDoc(spec->name, spec->doc, bases, values);
    Py_XDECREF(bases);
    Py_XDECREF(values);
    if (made == NULL) {
        return -1;
    }
    state->errors[spec->index] = made;
    return PyModule_AddObjectRef(module, spec->name + sizeof "mmapcache." - 1, made);
}

int mc_errors_init(PyObject *module, struct mc_module *state)
{
    const struct exception_kind specs[] = {
        {"mmapcache.MmapCacheError", MC_ERROR, MC_ERROR, NULL,
         "Base of everything that mmapcache raises."},
        {"mmapcache.CorruptError", MC_ERROR_CORRUPT, MC_ERROR, NULL,
         "The file is a cache, but its bytes contradict each other: let the loader recreate it."},
        {"mmapcache.FormatError", MC_ERROR_FORMAT, MC_ERROR, NULL,
         "Not a cache file, one of another version, or an unsafe kind of file."},
        {"mmapcache.VersionError", MC_ERROR_VERSION, MC_ERROR_FORMAT, NULL,
         "A cache file in another version of the format: let a loader of this version recreate "
         "it."},
        {"mmapcache.FullError", MC_ERROR_FULL, MC_ERROR, NULL,
         "What was put does not fit. The batch fails as a whole, the last generation stays.\n\n"
         "needed: bytes asked for.\nfree: bytes free in all.\nlargest: bytes of the largest free "
         "block.\nlimit: bytes that the cache may have."},
        {"mmapcache.NotReadyError", MC_ERROR_NOT_READY, MC_ERROR, NULL,
         "There is no cache file yet, or no generation in it that may be read.\n\n"
         "loader, state, error, source: as in Cache.status(), what the file's loader says of "
         "itself; None where there is no file."},
        {"mmapcache.SnapshotExpired", MC_ERROR_EXPIRED, MC_ERROR, NULL,
         "The loader had to reclaim the generation that a snapshot or an iteration reads from."},
        {"mmapcache.LockTimeout", MC_ERROR_LOCK_TIMEOUT, MC_ERROR, &PyExc_TimeoutError,
         "Another loader holds the file."},
        {"mmapcache.ClosedError", MC_ERROR_CLOSED, MC_ERROR, &PyExc_ValueError,
         "The object was closed or is over, or belongs to the parent process."},
        {"mmapcache.InvalidDocument", MC_ERROR_INVALID, MC_ERROR, &PyExc_ValueError,
         "Not a valid BSON document, or one without a usable _id."},
        {"mmapcache.LimitError", MC_ERROR_LIMIT, MC_ERROR, &PyExc_ValueError,
         "One of the MAX_ constants would be passed."},
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        if (add_exception(module, state, &specs[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *exception_of(struct mc_module *state, enum mc_status status)
{
    switch (status) {
    case MC_EXPIRED:
        return state->errors[MC_ERROR_EXPIRED];
    case MC_NOT_READY:
        return state->errors[MC_ERROR_NOT_READY];
    case MC_FULL:
        return state->errors[MC_ERROR_FULL];
    case MC_LOCKED:
        return state->errors[MC_ERROR_LOCK_TIMEOUT];
    case MC_CLOSED:
        return state->errors[MC_ERROR_CLOSED];
    case MC_CORRUPT:
        return state->errors[MC_ERROR_CORRUPT];
    case MC_FORMAT:
        return state->errors[MC_ERROR_FORMAT];
    case MC_VERSION_DIFFERS:
        return state->errors[MC_ERROR_VERSION];
    case MC_INVALID:
        return state->errors[MC_ERROR_INVALID];
    case MC_LIMIT:
        return state->errors[MC_ERROR_LIMIT];
    case MC_OK:
    case MC_ABSENT:
    case MC_USAGE:
    case MC_NOMEM:
    case MC_OS:
        break;
    }
    return state->errors[MC_ERROR];
}

/* Sets one of FullError's numbers. */
static int set_bytes(PyObject *exception, const char *name, uint64_t bytes)
{
    PyObject *value = PyLong_FromUnsignedLongLong(bytes);
    int result = value == NULL ? -1 : PyObject_SetAttrString(exception, name, value);
    Py_XDECREF(value);
    return result;
}

PyObject *mc_error_text(const struct mc_error *error)
{
    size_t len = strnlen(error->text, sizeof error->text);
    return PyUnicode_DecodeUTF8(error->text, (Py_ssize_t)len, "backslashreplace");
}

PyObject *mc_field_str(const char *field, size_t size)
{
    return PyUnicode_DecodeUTF8(field, (Py_ssize_t)strnlen(field, size), "replace");
}

static void raise_full(PyObject *cls, PyObject *text, const struct mc_error *error)
{
    PyObject *exception = PyObject_CallOneArg(cls, text);
    if (exception == NULL) {
        return;
    }
    if (set_bytes(exception, "needed", error->needed) == 0 &&
        set_bytes(exception, "free", error->free) == 0 &&
        set_bytes(exception, "largest", error->largest) == 0 &&
        set_bytes(exception, "limit", error->limit) == 0) {
        PyErr_SetObject(cls, exception);
    }
    Py_DECREF(exception);
}

PyObject *mc_raise(struct mc_module *state, const struct mc_error *error)
{
    PyObject *cls = exception_of(state, error->status), *text, *value;
    if (error->status == MC_NOMEM) {
        return PyErr_NoMemory();
    }
    text = mc_error_text(error);
    if (text == NULL) {
        return NULL;
    }
    switch (error->status) {
    case MC_OS: /* called with an errno, OSError becomes the subclass for it */
        value = Py_BuildValue("(iO)", error->os_errno, text);
        if (value != NULL) {
            PyErr_SetObject(PyExc_OSError, value);
            Py_DECREF(value);
        }
        break;
    case MC_FULL:
        raise_full(cls, text, error);
        break;
    case MC_NOMEM:
    case MC_OK:
    case MC_ABSENT:
    case MC_EXPIRED:
    case MC_NOT_READY:
    case MC_LOCKED:
    case MC_CLOSED:
    case MC_CORRUPT:
    case MC_FORMAT:
    case MC_VERSION_DIFFERS:
    case MC_INVALID:
    case MC_LIMIT:
    case MC_USAGE:
        PyErr_SetObject(cls, text);
        break;
    }
    Py_DECREF(text);
    return NULL;
}

PyObject *mc_raise_text(struct mc_module *state, enum mc_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyErr_FormatV(exception_of(state, status), format, args);
    va_end(args);
    return NULL;
}
