/* state.c - what the document types need per interpreter: types, classes imported late, options.
 *
 * Importing mmapcache and reading text, numbers, dates and UUIDs must not import bson: its classes
 * are looked up one by one when a value first needs them. Codec options are read by their attribute
 * names only, so that PyMongo's CodecOptions need not be known.
 *
 * Those of datetime come late, too, and are used as any class is, not through CPython's C API for
 * them: in an interpreter with a lock of its own Python 3.12 has no such API, and its datetime is
 * the one written in Python (python/cpython#117398).
 */
#include "object.h"

/* ---- classes ---- */

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

/* Whether an ObjectId made by its slot is the one that its class makes: 1, 0, or -1 with
 * MemoryError. */
static int objectid_works_directly(struct mc_document_state *state, PyObject *class)
{
    PyObject *data = PyBytes_FromStringAndSize("mmapcache_12", 12), *oid = NULL, *read = NULL;
    int works;
    if (data != NULL) {
        oid = ((PyTypeObject *)class)->tp_alloc((PyTypeObject *)class, 0);
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
    PyObject *module, *found, *safe = NULL;
    if (state->classes[which] != NULL) {
        return state->classes[which];
    }
    module = PyImport_ImportModule(classes[which].module);
    if (module == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ImportError,
                         "a value of type %s needs PyMongo's bson package: pip install pymongo",
                         classes[which].name);
        }
        return NULL;
    }
    found = PyObject_GetAttrString(module, classes[which].name);
    if (found != NULL && which == MC_CLASS_UUID && state->uuid_unknown == NULL) {
        safe = PyObject_GetAttrString(module, "SafeUUID");
        state->uuid_unknown = safe != NULL ? PyObject_GetAttrString(safe, "unknown") : NULL;
        Py_XDECREF(safe);
        if (state->uuid_unknown == NULL) {
            Py_CLEAR(found);
        }
    }
    if (found != NULL && which == MC_CLASS_OBJECTID) {
        int works = PyType_Check(found) ? objectid_works_directly(state, found) : 0;
        state->objectid_direct = works > 0;
        if (works < 0) {
            Py_CLEAR(found);
        }
    }
    Py_DECREF(module);
    Py_XSETREF(state->classes[which],
               found); /* importing may have let another thread do the same */
    return found;
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
    module = text != NULL ? PyDict_GetItemWithError(PyImport_GetModuleDict(), text) : NULL;
    Py_XDECREF(text);
    return module;
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
    if (state->classes[MC_CLASS_DATETIME] == NULL) {
        if (mc_imported("datetime") == NULL) {
            return PyErr_Occurred() ? -1 : 0; /* nobody has a datetime yet */
        }
        if (mc_document_class(state, MC_CLASS_DATETIME) == NULL) {
            return -1;
        }
    }
    return PyObject_TypeCheck(object, (PyTypeObject *)state->classes[MC_CLASS_DATETIME]);
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

/* ---- options ---- */

void mc_options_release(struct mc_options *options)
{
    if (--options->references == 0) {
        Py_XDECREF(options->source);
        Py_XDECREF(options->utc);
        Py_XDECREF(options->tzinfo);
        PyMem_Free(options);
    }
}

static struct mc_options *options_new(struct mc_document_state *state)
{
    struct mc_options *options = PyMem_Malloc(sizeof *options);
    if (options == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *options = (struct mc_options){
        .state = state,
        .references = 1,
        .min_millis = -62135596800000, /* the first and the last millisecond of years 1 to 9999 */
        .max_millis = 253402300799999,
        .uuid_representation = 4,
        .datetime_conversion = 4,
    };
    return options;
}

/* The UTC offset of tzinfo at one end of datetime's range, in milliseconds, into *millis. */
static int offset_at(struct mc_options *options, bool end, int64_t *millis)
{
    struct mc_document_state *state = options->state;
    PyObject *class = mc_document_class(state, MC_CLASS_DATETIME), *delta = NULL;
    PyObject *when = class != NULL ? mc_attribute(class, end ? "max" : "min") : NULL;
    PyObject *timedelta = when != NULL ? mc_document_class(state, MC_CLASS_TIMEDELTA) : NULL;
    int numbers[2]; /* days, seconds */
    int result = -1;
    if (timedelta != NULL) {
        delta = PyObject_CallMethodOneArg(options->tzinfo, state->texts[MC_TEXT_UTCOFFSET], when);
    }
    if (delta == Py_None) {
        *millis = 0;
        result = 0;
    } else if (delta != NULL && PyObject_TypeCheck(delta, (PyTypeObject *)timedelta)) {
        result = mc_numbers_of(state, delta, MC_TEXT_DAYS, 2, numbers);
        *millis = result == 0 ? (numbers[0] * INT64_C(86400) + numbers[1]) * 1000 : 0;
    } else if (delta != NULL) {
        PyErr_SetString(PyExc_TypeError, "tzinfo.utcoffset() must return a timedelta");
    }
    Py_XDECREF(when);
    Py_XDECREF(delta);
    return result;
}

/* Datetimes become aware: first in UTC, then in tzinfo if that is not None. */
static int options_timezone(struct mc_options *options, PyObject *tzinfo)
{
    PyObject *module = mc_imported("bson.tz_util");
    PyObject *timezone;
    int64_t first, last;
    /* PyMongo's own object for UTC when it is there: what bson.decode would give */
    options->utc = module != NULL ? mc_attribute(module, "utc") : NULL;
    if (options->utc == NULL) {
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        timezone = mc_document_class(options->state, MC_CLASS_TIMEZONE);
        options->utc = timezone != NULL ? mc_attribute(timezone, "utc") : NULL;
        if (options->utc == NULL) {
            return -1;
        }
    }
    if (tzinfo == Py_None) {
        return 0;
    }
    options->tzinfo = Py_NewRef(tzinfo);
    if (offset_at(options, false, &first) < 0 || offset_at(options, true, &last) < 0) {
        return -1;
    }
    options->min_millis -= first < 0 ? first : 0;
    options->max_millis -= last > 0 ? last : 0;
    return 0;
}

/* An attribute that must be a small number. */
static int number_of(PyObject *source, const char *name, long least, long most, uint8_t *out)
{
    PyObject *value = mc_attribute(source, name);
    long number = value == NULL ? -1 : value == Py_None ? *out : PyLong_AsLong(value);
    Py_XDECREF(value);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (number < least || number > most) {
        PyErr_Format(PyExc_ValueError, "codec_options: %s is %ld, which mmapcache does not know",
                     name, number);
        return -1;
    }
    *out = (uint8_t)number;
    return 0;
}

/* 0 when nothing is asked for that would need other types than ours; -1 with ValueError. */
static int refuse_unsupported(PyObject *source)
{
    PyObject *class = mc_attribute(source, "document_class");
    PyObject *registry = class != NULL ? mc_attribute(source, "type_registry") : NULL;
    PyObject *codecs = registry != NULL ? mc_attribute(registry, "codecs") : NULL;
    PyObject *fallback = codecs != NULL ? mc_attribute(registry, "fallback_encoder") : NULL;
    PyObject *handler =
        fallback != NULL ? mc_attribute(source, "unicode_decode_error_handler") : NULL;
    int full = handler != NULL ? PyObject_IsTrue(codecs) : -1;
    if (full >= 0 && class != (PyObject *)&PyDict_Type) {
        PyErr_Format(PyExc_ValueError,
                     "codec_options: document_class %R cannot be honoured, documents are always "
                     "mmapcache.Document; leave it at dict and use to_dict()",
                     class);
        full = -1;
    } else if (full > 0 || (full == 0 && fallback != Py_None)) {
        PyErr_SetString(PyExc_ValueError,
                        "codec_options: a type registry cannot be honoured, values are made in C; "
                        "convert them after reading");
        full = -1;
    } else if (full == 0 && (!PyUnicode_Check(handler) ||
                             PyUnicode_CompareWithASCIIString(handler, "strict") != 0)) {
        PyErr_SetString(PyExc_ValueError,
                        "codec_options: only the unicode_decode_error_handler 'strict' can be "
                        "honoured, the cache holds valid UTF-8 only");
        full = -1;
    }
    Py_XDECREF(class);
    Py_XDECREF(registry);
    Py_XDECREF(codecs);
    Py_XDECREF(fallback);
    Py_XDECREF(handler);
    return full;
}

static int options_fill(struct mc_options *options, PyObject *source)
{
    PyObject *aware, *tzinfo;
    int result, is_aware;
    if (refuse_unsupported(source) < 0 ||
        number_of(source, "uuid_representation", 0, 6, &options->uuid_representation) < 0 ||
        number_of(source, "datetime_conversion", 1, 4, &options->datetime_conversion) < 0) {
        return -1;
    }
    aware = mc_attribute(source, "tz_aware");
    tzinfo = aware != NULL ? mc_attribute(source, "tzinfo") : NULL;
    is_aware = tzinfo != NULL ? PyObject_IsTrue(aware) : -1;
    result = is_aware > 0 ? options_timezone(options, tzinfo) : is_aware;
    Py_XDECREF(aware);
    Py_XDECREF(tzinfo);
    return result;
}

struct mc_options *mc_options_from(struct mc_document_state *state, PyObject *codec_options)
{
    struct mc_options *options;
    if (codec_options == Py_None) {
        return mc_options_retain(state->options);
    }
    options = options_new(state);
    if (options == NULL) {
        return NULL;
    }
    options->source = Py_NewRef(codec_options);
    if (options_fill(options, codec_options) < 0) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError,
                         "codec_options must be PyMongo's CodecOptions or None, not %.200s",
                         Py_TYPE(codec_options)->tp_name);
        }
        mc_options_release(options);
        return NULL;
    }
    return options;
}

/* ---- the state itself ---- */

static int make_types(PyObject *module, struct mc_document_state *state)
{
    struct {
        PyType_Spec *spec;
        PyTypeObject **place;
    } types[] = {
        {&mc_document_spec, &state->document_type},
        {&mc_array_spec, &state->array_type},
        {&mc_iterator_spec, &state->iterator_type},
        {&mc_view_specs[MC_KEYS], &state->view_types[MC_KEYS]},
        {&mc_view_specs[MC_VALUES], &state->view_types[MC_VALUES]},
        {&mc_view_specs[MC_ITEMS], &state->view_types[MC_ITEMS]},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        *types[i].place = mc_type_new(module, types[i].spec);
        if (*types[i].place == NULL) {
            return -1;
        }
    }
    if (PyModule_AddObjectRef(module, "Document", (PyObject *)state->document_type) < 0 ||
        PyModule_AddObjectRef(module, "Array", (PyObject *)state->array_type) < 0 ||
        PyModule_AddFunctions(module, mc_json_functions) < 0) {
        return -1;
    }
    return 0;
}

/* Tells collections.abc what the types are. */
static int register_types(struct mc_document_state *state)
{
    const struct {
        const char *name;
        PyTypeObject *type;
    } abstract[] = {
        {"Mapping", state->document_type},          {"Sequence", state->array_type},
        {"KeysView", state->view_types[MC_KEYS]},   {"ValuesView", state->view_types[MC_VALUES]},
        {"ItemsView", state->view_types[MC_ITEMS]},
    };
    PyObject *module = PyImport_ImportModule("collections.abc");
    bool done = module != NULL;
    for (size_t i = 0; i < sizeof abstract / sizeof abstract[0] && done; i++) {
        PyObject *class = mc_attribute(module, abstract[i].name), *result = NULL;
        if (class != NULL) {
            result = mc_call_method(class, "register", (PyObject *)abstract[i].type);
        }
        if (i == 0) {
            state->mapping_abc = Py_XNewRef(class);
        }
        done = result != NULL;
        Py_XDECREF(class);
        Py_XDECREF(result);
    }
    Py_XDECREF(module);
    return done ? 0 : -1;
}

/* PyMongo's encoder writes objects with this class attribute by their `raw` bytes. */
static int mark_document(struct mc_document_state *state)
{
    PyObject *marker = PyLong_FromLong(101);
    int result = -1;
    if (marker != NULL) {
        result =
            PyDict_SetItem(state->document_type->tp_dict, state->texts[MC_TEXT_MARKER], marker);
        PyType_Modified(state->document_type);
        Py_DECREF(marker);
    }
    return result;
}

/* In an interpreter with a lock of its own Python 3.12 refuses datetime's C half only once it has
 * run its initialisation, which corrupts memory from the second such interpreter on unless the main
 * one has it already. So there nobody may try: datetime does without, as it does when refused. */
static int keep_c_datetime_out(void)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
    PyObject *modules = PyImport_GetModuleDict();
    if (_PyInterpreterState_HasFeature(PyInterpreterState_Get(),
                                       Py_RTFLAGS_MULTI_INTERP_EXTENSIONS) &&
        PyDict_GetItemString(modules, "_datetime") == NULL) {
        return PyDict_SetItemString(modules, "_datetime", Py_None); /* its import will fail */
    }
#endif
    return 0;
}

int mc_document_state_init(PyObject *module, struct mc_document_state *state,
                           mc_raise_function raise)
{
    PyObject *seed;
    *state = (struct mc_document_state){.module = module, .raise = raise};
    for (int i = 0; i < MC_TEXTS; i++) {
        if (texts[i] != NULL) {
            state->texts[i] = PyUnicode_InternFromString(texts[i]);
            if (state->texts[i] == NULL) {
                return -1;
            }
        }
    }
    for (int i = 0; i < 2; i++) { /* as hard to guess as Python's own hash of strings */
        seed = PyUnicode_FromFormat("mmapcache field names %d", i);
        if (seed == NULL) {
            return -1;
        }
        state->seed[i] = (uint64_t)PyObject_Hash(seed);
        Py_DECREF(seed);
    }
    state->options = options_new(state);
    if (state->options == NULL || keep_c_datetime_out() < 0) {
        return -1;
    }
    return make_types(module, state) < 0 || mark_document(state) < 0 || register_types(state) < 0
               ? -1
               : 0;
}

int mc_document_state_traverse(struct mc_document_state *state, visitproc visit, void *arg)
{
    Py_VISIT(state->document_type);
    Py_VISIT(state->array_type);
    Py_VISIT(state->iterator_type);
    for (int i = 0; i < 3; i++) {
        Py_VISIT(state->view_types[i]);
    }
    Py_VISIT(state->mapping_abc);
    for (int i = 0; i < MC_CLASSES; i++) {
        Py_VISIT(state->classes[i]);
    }
    Py_VISIT(state->encode_options);
    Py_VISIT(state->uuid_unknown);
    return 0;
}

int mc_document_state_clear(struct mc_document_state *state)
{
    Py_CLEAR(state->document_type);
    Py_CLEAR(state->array_type);
    Py_CLEAR(state->iterator_type);
    for (int i = 0; i < 3; i++) {
        Py_CLEAR(state->view_types[i]);
    }
    Py_CLEAR(state->mapping_abc);
    for (int i = 0; i < MC_CLASSES; i++) {
        Py_CLEAR(state->classes[i]);
    }
    Py_CLEAR(state->encode_options);
    Py_CLEAR(state->uuid_unknown);
    for (int i = 0; i < MC_TEXTS; i++) {
        Py_CLEAR(state->texts[i]);
    }
    for (int i = 0; i < MC_NAME_CACHE; i++) {
        Py_CLEAR(state->names[i]);
    }
    while (state->free_views != NULL) {
        struct mc_document *view = state->free_views;
        state->free_views = (struct mc_document *)(void *)view->memo;
        PyObject_Free(view);
    }
    state->free_view_count = 0;
    if (state->options != NULL) {
        mc_options_release(state->options);
        state->options = NULL;
    }
    return 0;
}
