/* options.c - codec options: how values become Python objects.
 *
 * They are read by their attribute names only, so that PyMongo's CodecOptions need not be known.
 */
#include "options.h"

#include "classes.h"

void mc_options_release(struct mc_options *options)
{
    if (mc_count_down(&options->references)) {
        Py_XDECREF(options->source);
        Py_XDECREF(options->utc);
        Py_XDECREF(options->tzinfo);
        PyMem_Free(options);
    }
}

struct mc_options *mc_options_new(struct mc_document_state *state)
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

/* All but the count, which other threads change. */
struct mc_options mc_options_to_show(const struct mc_options *options)
{
    return (struct mc_options){
        .state = options->state,
        .source = options->source,
        .utc = options->utc,
        .tzinfo = options->tzinfo,
        .min_millis = options->min_millis,
        .max_millis = options->max_millis,
        .uuid_representation = options->uuid_representation,
        .datetime_conversion = options->datetime_conversion,
        .rare = true,
    };
}

/* The UTC offset of tzinfo at one end of datetime's range, in milliseconds, into *millis. */
static int offset_at(struct mc_options *options, bool end, int64_t *millis)
{
    struct mc_document_state *state = options->state;
    PyObject *cls = mc_document_class(state, MC_CLASS_DATETIME), *delta = NULL;
    PyObject *when = cls != NULL ? mc_attribute(cls, end ? "max" : "min") : NULL;
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
    Py_XDECREF(module);
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
    PyObject *cls = mc_attribute(source, "document_class");
    PyObject *registry = cls != NULL ? mc_attribute(source, "type_registry") : NULL;
    PyObject *codecs = registry != NULL ? mc_attribute(registry, "codecs") : NULL;
    PyObject *fallback = codecs != NULL ? mc_attribute(registry, "fallback_encoder") : NULL;
    PyObject *handler =
        fallback != NULL ? mc_attribute(source, "unicode_decode_error_handler") : NULL;
    int full = handler != NULL ? PyObject_IsTrue(codecs) : -1;
    if (full >= 0 && cls != (PyObject *)&PyDict_Type) {
        PyErr_Format(PyExc_ValueError,
                     "codec_options: document_class %R cannot be honoured, documents are always "
                     "mmapcache.Document; leave it at dict and use to_dict()",
                     cls);
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
    Py_XDECREF(cls);
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
    options = mc_options_new(state);
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

PyObject *mc_encode_options(struct mc_document_state *state)
{
    PyObject *options = mc_load(&state->encode_options);
    if (options == NULL) {
        PyObject *cls = mc_document_class(state, MC_CLASS_CODEC_OPTIONS), *args = NULL;
        PyObject *kwargs = NULL;
        if (cls != NULL) {
            args = PyTuple_New(0);
            kwargs = args == NULL ? NULL : Py_BuildValue("{s:i}", "uuid_representation", 4);
        }
        if (kwargs != NULL) {
            options = mc_set_once(&state->encode_options, PyObject_Call(cls, args, kwargs));
        }
        Py_XDECREF(args);
        Py_XDECREF(kwargs);
    }
    return options;
}
