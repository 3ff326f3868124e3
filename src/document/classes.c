/* classes.c - Python classes and attribute names, each looked up when a value first needs it.
 *
 * Importing mmapcache and reading text, numbers, dates and UUIDs must not import bson: its classes
 * are looked up one by one.
 *
 * Those of datetime come late, too, and are used as any class is, not through CPython's C API for
 * them: in an interpreter with a lock of its own Python 3.12 has no such API, and its datetime is
 * the one written in Python (python/cpython#117398).
 */
#include "classes.h"

static const struct {
    const char *module, *name;
} classes[MC_CLASSES] = {
    [MC_CLASS_OBJECTID] = {"bson.objectid", "ObjectId"},
    [MC_CLASS_BINARY] = {"bson.binary", "Binary"},
    [MC_CLASS_DECIMAL128] = {"bson.decimal128", "Decimal128"},
    [MC_CLASS_REGEX] = {"bson.regex", "Regex"},
    [MC_CLASS_CODE] = {"bson.code", "Code"},
    [MC_CLASS_TIMESTAMP] = {"bson.timestamp", "Timestamp"},
    [MC_CLASS_DBREF] = {"bson.dbref", "DBRef"},
    [MC_CLASS_MINKEY] = {"bson.min_key", "MinKey"},
    [MC_CLASS_MAXKEY] = {"bson.max_key", "MaxKey"},
    [MC_CLASS_DATETIME_MS] = {"bson.datetime_ms", "DatetimeMS"},
    [MC_CLASS_INVALID_DOCUMENT] = {"bson.errors", "InvalidDocument"},
    [MC_CLASS_CODEC_OPTIONS] = {"bson.codec_options", "CodecOptions"},
    [MC_CLASS_ENCODE] = {"bson", "encode"},
    [MC_CLASS_UUID] = {"uuid", "UUID"},
    [MC_CLASS_DATETIME] = {"datetime", "datetime"},
    [MC_CLASS_TIMEDELTA] = {"datetime", "timedelta"},
    [MC_CLASS_TIMEZONE] = {"datetime", "timezone"},
};

static const char *const texts[MC_TEXTS] = {
    [MC_TEXT_BINARY] = "binary",
    [MC_TEXT_SUBTYPE] = "subtype",
    [MC_TEXT_RAW] = "raw",
    [MC_TEXT_MARKER] = "_type_marker",
    [MC_TEXT_OID] = "_ObjectId__id",
    [MC_TEXT_INT] = "int",
    [MC_TEXT_IS_SAFE] = "is_safe",
    [MC_TEXT_UTCOFFSET] = "utcoffset",
    [MC_TEXT_ASTIMEZONE] = "astimezone",
    [MC_TEXT_YEAR] = "year",
    [MC_TEXT_MONTH] = "month",
    [MC_TEXT_DAY] = "day",
    [MC_TEXT_HOUR] = "hour",
    [MC_TEXT_MINUTE] = "minute",
    [MC_TEXT_SECOND] = "second",
    [MC_TEXT_MICROSECOND] = "microsecond",
    [MC_TEXT_DAYS] = "days",
    [MC_TEXT_SECONDS] = "seconds",
    [MC_TEXT_MICROSECONDS] = "microseconds",
    [MC_TEXT_DOLLAR_REF] = "$ref",
    [MC_TEXT_DOLLAR_ID] = "$id",
    [MC_TEXT_DOLLAR_DB] = "$db",
    [MC_TEXT_EMPTY] = "",
};

int mc_texts_init(struct mc_document_state *state)
{
    for (int i = 0; i < MC_TEXTS; i++) {
        if (texts[i] != NULL) {
            state->texts[i] = PyUnicode_InternFromString(texts[i]);
            if (state->texts[i] == NULL) {
                return -1;
            }
        }
    }
    return 0;
}

/* Whether an ObjectId made by its slot is the one that its class makes: 1, 0,
 * or -1 with MemoryError. */
static int objectid_works_directly(struct mc_document_state *state, PyObject *cls)
{
    PyObject *data = PyBytes_FromStringAndSize("mmapcache_12", 12), *oid = NULL, *read = NULL;
    int works;
    if (data != NULL) {
        oid = ((PyTypeObject *)cls)->tp_alloc((PyTypeObject *)cls, 0);
    }
    if (oid != NULL && PyObject_GenericSetAttr(oid, state->texts[MC_TEXT_OID], data) == 0) {
        read = PyObject_GetAttr(oid, state->texts[MC_TEXT_BINARY]);
    }
    works = read == data && read != NULL;
    Py_XDECREF(data);
    Py_XDECREF(oid);
    Py_XDECREF(read);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyErr_Clear();
    return works;
}

PyObject *mc_document_class(struct mc_document_state *state, enum mc_class which)
{
    PyObject *module, *found = mc_load(&state->classes[which]), *safe = NULL;
    if (found != NULL) {
        return found;
    }
    module = PyImport_ImportModule(classes[which].module);
    if (module == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
            PyErr_Clear();
            bool encode = which == MC_CLASS_ENCODE || which == MC_CLASS_CODEC_OPTIONS;
            PyErr_Format(PyExc_ImportError,
                         "%s%s needs PyMongo's bson package: pip install pymongo",
                         encode ? "a Mapping as a document" : "a value of type ",
                         encode ? "" : classes[which].name);
        }
        return NULL;
    }
    found = PyObject_GetAttrString(module, classes[which].name);
    if (found != NULL && which == MC_CLASS_UUID && mc_load(&state->uuid_unknown) == NULL) {
        safe = PyObject_GetAttrString(module, "SafeUUID");
        PyObject *unknown = safe != NULL ? PyObject_GetAttrString(safe, "unknown") : NULL;
        Py_XDECREF(safe);
        if (mc_set_once(&state->uuid_unknown, unknown) == NULL) {
            Py_CLEAR(found);
        }
    }
    if (found != NULL && which == MC_CLASS_OBJECTID) {
        int works = PyType_Check(found) ? objectid_works_directly(state, found) : 0;
        mc_poke(&state->objectid_direct, works > 0); /* before the class, which publishes it */
        if (works < 0) {
            Py_CLEAR(found);
        }
    }
    Py_DECREF(module);
    /* importing may have let another thread do the same */
    return mc_set_once(&state->classes[which], found);
}

PyObject *mc_attribute(PyObject *object, const char *name)
{
    PyObject *text = PyUnicode_InternFromString(name), *value;
    value = text != NULL ? PyObject_GetAttr(object, text) : NULL;
    Py_XDECREF(text);
    return value;
}

PyObject *mc_call_method(PyObject *object, const char *name, PyObject *arg)
{
    PyObject *method = mc_attribute(object, name), *result = NULL;
    if (method != NULL) {
        result = arg != NULL ? PyObject_CallOneArg(method, arg) : PyObject_CallNoArgs(method);
        Py_DECREF(method);
    }
    return result;
}

PyObject *mc_imported(const char *name)
{
    PyObject *text = PyUnicode_InternFromString(name), *module;
    module = text != NULL ? mc_dict_get(PyImport_GetModuleDict(), text) : NULL;
    Py_XDECREF(text);
    return module;
}

int mc_is_imported(const char *name)
{
    PyObject *module = mc_imported(name);
    if (module == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(module);
    return 1;
}

PyTypeObject *mc_type_new(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL && !PyErr_Occurred()) { /* Python forgets to when memory is short */
        PyErr_NoMemory();
    }
    return (PyTypeObject *)type;
}

int mc_datetime_check(struct mc_document_state *state, PyObject *object)
{
    PyObject *datetime = mc_load(&state->classes[MC_CLASS_DATETIME]);
    if (datetime == NULL) {
        int imported = mc_is_imported("datetime");
        if (imported <= 0) {
            return imported; /* nobody has a datetime yet */
        }
        datetime = mc_document_class(state, MC_CLASS_DATETIME);
        if (datetime == NULL) {
            return -1;
        }
    }
    return PyObject_TypeCheck(object, (PyTypeObject *)datetime);
}

int mc_numbers_of(struct mc_document_state *state, PyObject *object, enum mc_texts first, int count,
                  int *out)
{
    for (int i = 0; i < count; i++) {
        PyObject *value = PyObject_GetAttr(object, state->texts[first + i]);
        long number = value != NULL ? PyLong_AsLong(value) : -1;
        Py_XDECREF(value);
        if (number == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (number != (int)number) {
            PyErr_Format(PyExc_OverflowError, "%ld is too large for %U", number,
                         state->texts[first + i]);
            return -1;
        }
        out[i] = (int)number;
    }
    return 0;
}

int mc_document_meet_pprint(struct mc_document_state *state)
{
    PyObject *printing, *done = NULL;
    int imported = mc_peek(&state->pretty) ? 0 : mc_is_imported("pprint");
    if (imported <= 0) {
        return imported;
    }
    printing = PyImport_ImportModule("mmapcache.printing");
    if (printing != NULL) {
        done = PyObject_CallMethod(printing, "register_pprint", "OO", state->document_type,
                                   state->array_type);
        Py_DECREF(printing);
    }
    if (done == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyErr_Clear(); /* then it prints one line, as before */
    mc_poke(&state->pretty, true);
    Py_XDECREF(done);
    return 0;
}
