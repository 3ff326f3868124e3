/* pykey.c - Python objects to canonical keys and back (see pykey.h).
 *
 *      exact str, int            inline in pykey.h
 *      str, int, float, bool,    here, without Python code
 *      bytes, None
 *      datetime                  here, by its attributes
 *      UUID, ObjectId            here, by their slots; their modules are not imported for it: an
 *                                object of such a class exists only where they are already
 *      object_id, Document       their bytes
 *      dict, Binary, Decimal128  the BSON of {"": key}, then the canonical key of that element
 *      and all other types
 */
#include "pykey.h"

#include "document/classes.h"
#include "document/decode.h"
#include "document/decode_classes.h"
#include "document/encode.h"
#include "module.h"

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
    fits = absolute != NULL && mc_int_words(absolute, words) && words[1] <= 0x1ED09BEAD87C0u;
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

static enum mc_pykey_result datetime_key(struct mc_options *options, PyObject *object,
                                         struct mc_key *key)
{
    int64_t millis;
    if (mc_datetime_millis(options->state, object, &millis) < 0) {
        return MC_PYKEY_ERROR;
    }
    return small_key(key, MC_BSON_DATETIME, &millis, sizeof millis);
}

/* ---- classes of uuid and bson ---- */

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
    uint8_t ordered[16];
    if (options->uuid_representation == UUID_UNSPECIFIED) {
        PyErr_SetString(PyExc_ValueError,
                        "codec_options with uuid_representation UNSPECIFIED cannot look up a UUID: "
                        "take UuidRepresentation.STANDARD, or a Binary as the key");
        return MC_PYKEY_ERROR;
    }
    if (mc_uuid_bytes(options->state, object, options->uuid_representation, ordered) < 0) {
        return MC_PYKEY_ERROR;
    }
    return binary_key(key, options->uuid_representation == UUID_STANDARD ? 4 : 3, ordered, 16,
                      scratch, err);
}

/* ---- everything else ---- */

/* The canonical key of the only element; moved to scratch where it points into the document. */
static enum mc_pykey_result key_of_encoded(struct mc_options *options, PyObject *encoded,
                                           struct mc_key *key, uint8_t *scratch,
                                           struct mc_error *err)
{
    struct mc_bson_element element;
    enum mc_status status = MC_INVALID;
    struct mc_error local;
    if (mc_only_element(encoded, &element)) {
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
    PyObject *encoded;
    enum mc_pykey_result result;
    if (!may_be_encoded(state, object)) {
        PyErr_Format(PyExc_TypeError, "'%.200s' cannot be a key: MongoDB has no such type",
                     Py_TYPE(object)->tp_name);
        return MC_PYKEY_ERROR;
    }
    encoded = mc_encode_value(options, object);
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

/* InvalidDocument, ours or bson's, for something within the key: for our caller the wrong type. */
static void raise_type_error(struct mc_document_state *state)
{
    PyObject *type, *value, *traceback;
    PyObject *invalid = mc_load(&state->classes[MC_CLASS_INVALID_DOCUMENT]);
    PyObject *ours = ((struct mc_module *)(void *)state)->errors[MC_ERROR_INVALID];
    PyErr_Fetch(&type, &value, &traceback);
    if (invalid == NULL && mc_load(&state->classes[MC_CLASS_ENCODE]) != NULL) {
        invalid = mc_document_class(state, MC_CLASS_INVALID_DOCUMENT);
    }
    if (type != NULL && (PyErr_GivenExceptionMatches(type, ours) ||
                         (invalid != NULL && PyErr_GivenExceptionMatches(type, invalid)))) {
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
    int is;
    is = mc_is_a(state, object, MC_CLASS_OBJECTID);
    if (is > 0) {
        return objectid_key(state, object, key);
    }
    is = is == 0 ? mc_is_a(state, object, MC_CLASS_UUID) : is;
    if (is != 0) {
        return is > 0 ? uuid_key(options, object, key, scratch, err) : MC_PYKEY_ERROR;
    }
    if (PyList_Check(object) || PyTuple_Check(object) || Py_TYPE(object) == state->array_type) {
        PyErr_Format(PyExc_TypeError, "'%.200s' cannot be a key: MongoDB allows no array as _id",
                     Py_TYPE(object)->tp_name);
        return MC_PYKEY_ERROR;
    }
    is = mc_is_a(state, object, MC_CLASS_RARE);
    if (is != 0) {
        PyObject *bytes = is > 0 ? mc_attribute(object, "_bson") : NULL;
        result = bytes != NULL ? key_of_encoded(options, bytes, key, scratch, err) : MC_PYKEY_ERROR;
        Py_XDECREF(bytes);
        return result;
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
    if (Py_TYPE(object) == state->object_id_type) {
        return small_key(key, MC_BSON_OID, mc_object_id_bytes(object), 12);
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
    PyObject *value;
    if (type == MC_BSON_STRING) {
        return mc_text(options->state, data, len);
    }
    if (type == MC_BSON_INT64 && len == 8) {
        return PyLong_FromLongLong((int64_t)mc_bson_u64(data));
    }
    if (mc_key_to_bson(type, data, len, buffer, &element) != MC_OK) {
        return mc_value_corrupt(options->state);
    }
    value = mc_value_from_element(options, &element);
    if (value == NULL && mc_only_bson_missing(options->state)) { /* a key can be listed anyway */
        value = mc_rare_value(options->state, &element);
    }
    return value;
}
