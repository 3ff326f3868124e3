/* pykey.c - Python objects to canonical keys and back (see pykey.h).
 *
 *      exact str, int            inline in pykey.h
 *      str, int, float, bool,    here, without Python code
 *      bytes, None
 *      datetime                  here, by its attributes
 *      UUID, ObjectId            here, by their slots; their modules are not imported for it: an
 *                                object of such a class exists only where they are already
 *      Document                  its bytes
 *      dict, Binary, Decimal128  bson.encode({"": key}), then the canonical key of that element
 *      and all other types
 */
#include "pykey.h"

#include "document/classes.h"
#include "document/decode.h"
#include "document/decode_classes.h"

enum { UUID_UNSPECIFIED = 0, UUID_STANDARD = 4 };

static enum mc_pykey_result never(struct mc_error *err, enum mc_status status, const char *why)
{
    (void)mc_fail(err, status, "%s", why);
    return MC_PYKEY_NEVER;
}

static enum mc_pykey_result result_of(struct mc_options *options, enum mc_status status,
                                      struct mc_error *err)
{
    switch (status) {
    case MC_OK:
        return MC_PYKEY_OK;
    case MC_LIMIT:
        return never(err, MC_LIMIT, "a key may have 1024 bytes at most");
    default:
        (void)mc_value_corrupt(options->state);
        return MC_PYKEY_ERROR;
    }
}

/* A key of at most sizeof inline_data bytes, copied. */
static enum mc_pykey_result small_key(struct mc_key *key, uint8_t type, const void *data,
                                      size_t len)
{
    memcpy(key->inline_data, data, len);
    key->data = key->inline_data;
    key->len = (uint16_t)len;
    key->type = type;
    return MC_PYKEY_OK;
}

/* A binary key: subtype, then data. */
static enum mc_pykey_result binary_key(struct mc_key *key, uint8_t subtype, const void *data,
                                       size_t len, uint8_t *scratch, struct mc_error *err)
{
    if (len > MC_KEY_BYTES_MAX) {
        return never(err, MC_LIMIT, "a key may have 1024 bytes at most");
    }
    scratch[0] = subtype;
    memcpy(scratch + 1, data, len);
    key->data = scratch;
    key->len = (uint16_t)(len + 1);
    key->type = MC_BSON_BINARY;
    return MC_PYKEY_OK;
}

/* ---- text and numbers ---- */

static enum mc_pykey_result text_key(PyObject *object, struct mc_key *key, struct mc_error *err)
{
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(object, &len);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        PyErr_Clear();
        return never(err, MC_INVALID, "a key with a lone surrogate cannot be written as UTF-8");
    }
    if (text == NULL) {
        return MC_PYKEY_ERROR;
    }
    if (mc_key_from_text(text, (size_t)len, key, err) != MC_OK) {
        return MC_PYKEY_NEVER;
    }
    return MC_PYKEY_OK;
}

/* The 128 low bits of a non-negative int as two words; false when it has more, or with an error. */
static bool int_words(PyObject *number, uint64_t words[2])
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

/* An int beyond int64 may still be a double or a decimal in the database. */
static enum mc_pykey_result large_int_key(PyObject *object, struct mc_key *key, uint8_t *scratch,
                                          struct mc_error *err)
{
    static const char why[] = "no number in MongoDB is exactly this int";
    double real = PyLong_AsDouble(object);
    PyObject *again = PyErr_Occurred() ? NULL : PyLong_FromDouble(real);
    int same = again != NULL ? PyObject_RichCompareBool(again, object, Py_EQ) : 0;
    PyObject *absolute;
    uint64_t words[2];
    bool fits;
    Py_XDECREF(again);
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_OverflowError)) {
        return MC_PYKEY_ERROR;
    }
    PyErr_Clear(); /* no double is so large */
    if (same == 1) {
        mc_key_from_double(real, key);
        return MC_PYKEY_OK;
    }
    absolute = PyNumber_Absolute(object);
    fits = absolute != NULL && int_words(absolute, words) && words[1] <= 0x1ED09BEAD87C0u;
    Py_XDECREF(absolute);
    if (PyErr_Occurred()) {
        return MC_PYKEY_ERROR;
    }
    if (!fits || (words[1] == 0x1ED09BEAD87C0u && words[0] > 0x378D8E63FFFFFFFFu)) {
        return never(err, MC_INVALID, why); /* more than 34 digits */
    }
    words[1] |= (uint64_t)6176 << 49 | (uint64_t)(real < 0) << 63;
    return mc_key_from_bson(&(struct mc_bson_element){.type = MC_BSON_DECIMAL128,
                                                      .value = (uint8_t *)words,
                                                      .value_len = 16},
                            key, scratch, NULL) == MC_OK
               ? MC_PYKEY_OK
               : never(err, MC_INVALID, why);
}

static enum mc_pykey_result int_key(PyObject *object, struct mc_key *key, uint8_t *scratch,
                                    struct mc_error *err)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0) {
        return large_int_key(object, key, scratch, err);
    }
    if (value == -1 && PyErr_Occurred()) {
        return MC_PYKEY_ERROR;
    }
    mc_key_from_int64(value, key);
    return MC_PYKEY_OK;
}

/* ---- dates ---- */

/* Days from 1970 to a date, the inverse of civil_from_days in decode_classes.c. */
static int64_t days_from_civil(int year, int month, int day)
{
    int64_t from_march = year - (month <= 2), era = from_march / 400; /* years 1 to 9999 */
    int64_t year_of_era = from_march - era * 400;
    int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year -
           719468;
}

/* Milliseconds from 1970, microseconds cut off as PyMongo does; naive ones are in UTC. */
static enum mc_pykey_result datetime_key(struct mc_options *options, PyObject *object,
                                         struct mc_key *key)
{
    struct mc_document_state *state = options->state;
    PyObject *delta = PyObject_CallMethodNoArgs(object, state->texts[MC_TEXT_UTCOFFSET]);
    int at[7], offset[3] = {0}; /* year to microsecond; days, seconds, microseconds */
    int64_t micros;
    int result = delta != NULL ? mc_numbers_of(state, object, MC_TEXT_YEAR, 7, at) : -1;
    if (result == 0 && delta != Py_None) {
        result = mc_numbers_of(state, delta, MC_TEXT_DAYS, 3, offset);
    }
    Py_XDECREF(delta);
    if (result < 0) {
        return MC_PYKEY_ERROR;
    }
    micros = days_from_civil(at[0], at[1], at[2]) * 86400000000 +
             (at[3] * INT64_C(3600) + at[4] * INT64_C(60) + at[5]) * 1000000 + at[6];
    micros -= (offset[0] * INT64_C(86400) + offset[1]) * 1000000 + offset[2];
    micros = micros / 1000 - (micros % 1000 < 0); /* towards the past */
    return small_key(key, MC_BSON_DATETIME, &micros, sizeof micros);
}

/* ---- classes of uuid and bson ---- */

/* Whether the object is of a class that we know by now, or would know by its name if its module is
 * imported: 1, 0, -1. Never imports anything. */
static int is_a(struct mc_document_state *state, PyObject *object, enum mc_class which,
                const char *name, const char *module)
{
    PyObject *cls = mc_load(&state->classes[which]);
    if (cls == NULL) {
        int imported = strcmp(Py_TYPE(object)->tp_name, name) != 0 ? 0 : mc_is_imported(module);
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

static enum mc_pykey_result objectid_key(struct mc_document_state *state, PyObject *object,
                                         struct mc_key *key)
{
    bool direct = (PyObject *)Py_TYPE(object) == mc_load(&state->classes[MC_CLASS_OBJECTID]) &&
                  mc_peek(&state->objectid_direct);
    PyObject *data = direct ? PyObject_GenericGetAttr(object, state->texts[MC_TEXT_OID])
                            : PyObject_GetAttr(object, state->texts[MC_TEXT_BINARY]);
    enum mc_pykey_result result = MC_PYKEY_ERROR;
    if (data != NULL && PyBytes_Check(data) && PyBytes_GET_SIZE(data) == 12) {
        result = small_key(key, MC_BSON_OID, PyBytes_AS_STRING(data), 12);
    } else if (data != NULL) {
        PyErr_SetString(PyExc_TypeError, "an ObjectId has 12 bytes");
    }
    Py_XDECREF(data);
    return result;
}

static enum mc_pykey_result uuid_key(struct mc_options *options, PyObject *object,
                                     struct mc_key *key, uint8_t *scratch, struct mc_error *err)
{
    PyObject *number;
    uint64_t words[2];
    uint8_t bytes[16], ordered[16];
    bool fits;
    if (options->uuid_representation == UUID_UNSPECIFIED) {
        PyErr_SetString(PyExc_ValueError,
                        "codec_options with uuid_representation UNSPECIFIED cannot look up a UUID: "
                        "take UuidRepresentation.STANDARD, or a Binary as the key");
        return MC_PYKEY_ERROR;
    }
    number = PyObject_GetAttr(object, options->state->texts[MC_TEXT_INT]);
    fits = number != NULL && int_words(number, words);
    Py_XDECREF(number);
    if (!fits) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "a UUID has 128 bits");
        }
        return MC_PYKEY_ERROR;
    }
    words[0] = __builtin_bswap64(words[0]);
    words[1] = __builtin_bswap64(words[1]);
    memcpy(bytes, &words[1], 8);
    memcpy(bytes + 8, &words[0], 8);
    mc_uuid_order(options->uuid_representation, bytes, ordered);
    return binary_key(key, options->uuid_representation == UUID_STANDARD ? 4 : 3, ordered, 16,
                      scratch, err);
}

/* ---- everything else ---- */

/* CodecOptions to encode a key with: the user's, or such that UUIDs can be written. Borrowed. */
static PyObject *options_to_encode(struct mc_options *options)
{
    return options->source != NULL ? options->source : mc_encode_options(options->state);
}

/* The canonical key of the only element; moved to scratch where it points into the document. */
static enum mc_pykey_result key_of_encoded(struct mc_options *options, PyObject *encoded,
                                           struct mc_key *key, uint8_t *scratch,
                                           struct mc_error *err)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status = MC_INVALID;
    struct mc_error local;
    if (!PyBytes_Check(encoded)) {
        PyErr_SetString(PyExc_TypeError, "bson.encode did not return bytes");
        return MC_PYKEY_ERROR;
    }
    if (mc_bson_open(&cursor, (uint8_t *)PyBytes_AS_STRING(encoded),
                     (size_t)PyBytes_GET_SIZE(encoded)) == MC_OK &&
        mc_bson_next(&cursor, &element) == MC_OK) {
        status = mc_key_from_bson(&element, key, scratch, &local);
    }
    if (status == MC_INVALID) {
        PyErr_SetString(PyExc_TypeError, "an array cannot be a key: MongoDB allows none as _id");
        return MC_PYKEY_ERROR;
    }
    if (status == MC_OK && key->data != scratch && key->data != key->inline_data) {
        memcpy(scratch, key->data, key->len);
        key->data = scratch;
    }
    return result_of(options, status, err);
}

/* Whether the object is of a kind that bson may know: dict, Mapping, re.Pattern, its own types. */
static int may_be_encoded(struct mc_document_state *state, PyObject *object)
{
    if (PyDict_Check(object) || PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_MAPPING) ||
        strcmp(Py_TYPE(object)->tp_name, "re.Pattern") == 0) {
        return 1;
    }
    return PyObject_HasAttr((PyObject *)Py_TYPE(object), state->texts[MC_TEXT_MARKER]);
}

static enum mc_pykey_result rare_key(struct mc_options *options, PyObject *object,
                                     struct mc_key *key, uint8_t *scratch, struct mc_error *err)
{
    struct mc_document_state *state = options->state;
    PyObject *encode, *wrapped, *encoded = NULL, *codec;
    enum mc_pykey_result result;
    if (!may_be_encoded(state, object)) {
        PyErr_Format(PyExc_TypeError, "'%.200s' cannot be a key: MongoDB has no such type",
                     Py_TYPE(object)->tp_name);
        return MC_PYKEY_ERROR;
    }
    encode = mc_document_class(state, MC_CLASS_ENCODE);
    codec = encode != NULL ? options_to_encode(options) : NULL;
    wrapped = codec != NULL ? PyDict_New() : NULL;
    if (wrapped != NULL && PyDict_SetItem(wrapped, state->texts[MC_TEXT_EMPTY], object) == 0) {
        encoded = PyObject_CallFunctionObjArgs(encode, wrapped, Py_False, codec, NULL);
    }
    Py_XDECREF(wrapped);
    if (encoded == NULL) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            return never(err, MC_INVALID, "MongoDB has no integers of more than 8 bytes");
        }
        return MC_PYKEY_ERROR;
    }
    result = key_of_encoded(options, encoded, key, scratch, err);
    Py_DECREF(encoded);
    return result;
}

/* bson's InvalidDocument for something within the key: for our caller the wrong type. */
static void raise_type_error(struct mc_document_state *state)
{
    PyObject *type, *value, *traceback;
    PyObject *invalid = mc_load(&state->classes[MC_CLASS_INVALID_DOCUMENT]);
    PyErr_Fetch(&type, &value, &traceback);
    if (invalid == NULL && mc_load(&state->classes[MC_CLASS_ENCODE]) != NULL) {
        invalid = mc_document_class(state, MC_CLASS_INVALID_DOCUMENT);
    }
    if (invalid != NULL && type != NULL && PyErr_GivenExceptionMatches(type, invalid)) {
        PyErr_NormalizeException(&type, &value, &traceback);
        PyErr_Format(PyExc_TypeError, "this cannot be a key: %S", value);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
    } else {
        PyErr_Restore(type, value, traceback);
    }
}

static enum mc_pykey_result class_key(struct mc_options *options, PyObject *object,
                                      struct mc_key *key, uint8_t *scratch, struct mc_error *err)
{
    struct mc_document_state *state = options->state;
    enum mc_pykey_result result;
    int is = is_a(state, object, MC_CLASS_OBJECTID, "ObjectId", "bson.objectid");
    if (is > 0) {
        return objectid_key(state, object, key);
    }
    is = is == 0 ? is_a(state, object, MC_CLASS_UUID, "UUID", "uuid") : is;
    if (is != 0) {
        return is > 0 ? uuid_key(options, object, key, scratch, err) : MC_PYKEY_ERROR;
    }
    if (PyList_Check(object) || PyTuple_Check(object) || Py_TYPE(object) == state->array_type) {
        PyErr_Format(PyExc_TypeError, "'%.200s' cannot be a key: MongoDB allows no array as _id",
                     Py_TYPE(object)->tp_name);
        return MC_PYKEY_ERROR;
    }
    result = rare_key(options, object, key, scratch, err);
    if (result == MC_PYKEY_ERROR) {
        raise_type_error(state);
    }
    return result;
}

enum mc_pykey_result mc_pykey_convert(struct mc_options *options, PyObject *object,
                                      struct mc_key *key, uint8_t scratch[MC_KEY_MAX],
                                      struct mc_error *err)
{
    struct mc_document_state *state = options->state;
    int is_datetime;
    if (PyUnicode_Check(object) &&
        (PyUnicode_CheckExact(object) ||
         !PyObject_HasAttr((PyObject *)Py_TYPE(object), state->texts[MC_TEXT_MARKER]))) {
        return text_key(object, key, err); /* bson.Code is a str, too, but another key */
    }
    if (PyBool_Check(object)) {
        return small_key(key, MC_BSON_BOOL, object == Py_True ? "\1" : "", 1);
    }
    if (PyLong_Check(object)) {
        return int_key(object, key, scratch, err);
    }
    if (PyFloat_Check(object)) {
        mc_key_from_double(PyFloat_AS_DOUBLE(object), key);
        return MC_PYKEY_OK;
    }
    if (PyBytes_CheckExact(object)) {
        return binary_key(key, 0, PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object),
                          scratch, err);
    }
    if (object == Py_None) {
        return small_key(key, MC_BSON_NULL, "", 0);
    }
    if (Py_TYPE(object) == state->document_type) {
        size_t len;
        const uint8_t *bytes = mc_document_bytes(object, &len);
        return result_of(options, mc_key_from_document(bytes, len, key, scratch, NULL), err);
    }
    is_datetime = mc_datetime_check(state, object);
    if (is_datetime != 0) {
        return is_datetime > 0 ? datetime_key(options, object, key) : MC_PYKEY_ERROR;
    }
    return class_key(options, object, key, scratch, err);
}

/* ---- back ---- */

PyObject *mc_pykey_to_python(struct mc_options *options, uint8_t type, const uint8_t *data,
                             size_t len)
{
    uint8_t buffer[MC_KEY_VALUE_MAX];
    struct mc_bson_element element;
    if (type == MC_BSON_STRING) {
        return mc_text(options->state, data, len);
    }
    if (type == MC_BSON_INT64 && len == 8) {
        return PyLong_FromLongLong((int64_t)mc_bson_u64(data));
    }
    if (mc_key_to_bson(type, data, len, buffer, &element) != MC_OK) {
        return mc_value_corrupt(options->state);
    }
    return mc_value_from_element(options, &element);
}
