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
    [MC_CLASS_RARE] = {"mmapcache.rare", "RareValue"},
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
    [MC_TEXT_BID] = "bid",
    [MC_TEXT_ID] = "_id",
    [MC_TEXT_BSON_OBJECTID] = "bson.objectid",
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

static PyObject *needs_bson(enum mc_class which)
{
    return PyErr_Format(PyExc_ImportError,
                        "a value of type %s needs PyMongo's bson package: pip install "
                        "'mmapcache[mongodb]'",
                        classes[which].name);
}

/* Whether the module of that name has been imported: 1, 0, or -1 with MemoryError. */
static int is_there(PyObject *name)
{
    PyObject *module = mc_dict_get(PyImport_GetModuleDict(), name);
    if (module == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(module);
    return 1;
}

/* Whether bson was not there, and still is not: 1, 0, -1. To try an import that fails takes a walk
 * over sys.path each time. Who imports it later has it in sys.modules. */
static int is_known_absent(struct mc_document_state *state)
{
    bool absent = mc_peek(&state->bson_absent);
    int imported = absent ? is_there(state->texts[MC_TEXT_BSON_OBJECTID]) : 0;
    if (imported > 0) {
        mc_poke(&state->bson_absent, false);
        absent = false;
    }
    return imported < 0 ? -1 : absent;
}

PyObject *mc_document_class(struct mc_document_state *state, enum mc_class which)
{
    PyObject *module, *found = mc_load(&state->classes[which]), *safe = NULL;
    if (found != NULL) {
        return found;
    }
    if (which < MC_CLASS_UUID && mc_peek(&state->bson_absent)) {
        int absent = is_known_absent(state);
        if (absent != 0) {
            return absent > 0 ? needs_bson(which) : NULL;
        }
    }
    module = PyImport_ImportModule(classes[which].module);
    if (module == NULL) {
        if (which < MC_CLASS_UUID && PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
            PyErr_Clear();
            mc_poke(&state->bson_absent, true);
            needs_bson(which);
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

int mc_have_bson(struct mc_document_state *state)
{
    int absent = 0;
    if (mc_load(&state->classes[MC_CLASS_OBJECTID]) != NULL) {
        return 1;
    }
    if (mc_peek(&state->bson_absent) && (absent = is_known_absent(state)) != 0) {
        return absent > 0 ? 0 : -1;
    }
    if (mc_document_class(state, MC_CLASS_OBJECTID) != NULL) {
        return 1;
    }
    return mc_only_bson_missing(state) ? 0 : -1;
}

bool mc_only_bson_missing(struct mc_document_state *state)
{
    if (!mc_peek(&state->bson_absent) || !PyErr_ExceptionMatches(PyExc_ImportError)) {
        return false;
    }
    PyErr_Clear();
    return true;
}

PyObject *mc_rare_value(struct mc_document_state *state, const struct mc_bson_element *element)
{
    PyObject *cls = mc_document_class(state, MC_CLASS_RARE), *bytes, *value;
    uint32_t len = 4 + 2 + element->value_len + 1; /* {"": value} */
    uint8_t *at;
    bytes = cls != NULL ? PyBytes_FromStringAndSize(NULL, len) : NULL;
    if (bytes == NULL) {
        return NULL;
    }
    at = (uint8_t *)PyBytes_AS_STRING(bytes);
    memcpy(at, &len, 4);
    at[4] = element->type;
    at[5] = 0;
    memcpy(at + 6, element->value, element->value_len);
    at[len - 1] = 0;
    value = PyObject_CallOneArg(cls, bytes);
    Py_DECREF(bytes);
    return value;
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
    PyObject *text = PyUnicode_InternFromString(name);
    int imported = text != NULL ? is_there(text) : -1;
    Py_XDECREF(text);
    return imported;
}

PyTypeObject *mc_type_new(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL && !PyErr_Occurred()) { /* Python forgets to when memory is short */
        PyErr_NoMemory();
    }
    return (PyTypeObject *)type;
}

int mc_is_a(struct mc_document_state *state, PyObject *object, enum mc_class which)
{
    PyObject *cls = mc_load(&state->classes[which]);
    if (cls == NULL) {
        int imported = strcmp(Py_TYPE(object)->tp_name, classes[which].name) != 0
                           ? 0
                           : mc_is_imported(classes[which].module);
        if (imported <= 0) {
            return imported;
        }
        cls = mc_document_class(state, which);
        if (cls == NULL) {
            return -1;
        }
    }
    return PyObject_TypeCheck(object, (PyTypeObject *)cls);
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

long mc_marker_of(struct mc_document_state *state, PyObject *holder)
{
    PyObject *marker = PyObject_GetAttr(holder, state->texts[MC_TEXT_MARKER]);
    long number = marker != NULL && PyLong_Check(marker) ? PyLong_AsLong(marker) : 0;
    Py_XDECREF(marker);
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return number > 0 ? number : 0;
}

bool mc_int_words(PyObject *number, uint64_t words[2])
{
    PyObject *shift = PyLong_FromLong(64), *high = NULL, *rest = NULL;
    bool fits = false;
    if (shift != NULL) {
        high = PyNumber_Rshift(number, shift);
    }
    if (high != NULL) {
        rest = PyNumber_Rshift(high, shift);
    }
    if (rest != NULL) {
        words[0] = PyLong_AsUnsignedLongLongMask(number);
        words[1] = PyLong_AsUnsignedLongLongMask(high);
        fits = PyObject_IsTrue(rest) == 0;
    }
    Py_XDECREF(shift);
    Py_XDECREF(high);
    Py_XDECREF(rest);
    return fits;
}

void mc_key_error(PyObject *key)
{
    PyObject *args = PyTuple_Pack(1, key);
    if (args != NULL) {
        PyErr_SetObject(PyExc_KeyError, args);
        Py_DECREF(args);
    }
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
