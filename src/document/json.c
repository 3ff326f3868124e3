/* json.c - json_default: what json.dumps(value, default=mmapcache.json_default)
 * makes of our values.
 *
 * Plain JSON for people and browsers, which does not come back as what it was; PyMongo's
 * bson.json_util.dumps writes Extended JSON, which does, and takes a Document as it is.
 *
 *      Document, Array         object, array
 *      datetime                ISO 8601; a naive one is UTC and says so with a Z
 *      UUID, ObjectId          text, as str() gives it
 *      Decimal128              text: a JSON number would lose digits
 *      bytes                   base64
 *      Code                    its text
 *      Timestamp, Regex, ...   their Extended JSON: {"$timestamp": {"t": 5, "i": 1}}
 *      NaN, Infinity           null, within a Document or Array: JSON has no such numbers
 *
 * Encoders differ in what they ask us about and what they write themselves: msgspec and orjson
 * write dates their own way, without a zone where there is none. So a Document leaves here with
 * all that they would not agree on made plain, and each of them writes the same of it.
 */
#include "json.h"

#include <math.h>

#include "classes.h"
#include "decode.h"
#include "encode.h"
#include "options.h"

static PyObject *json_datetime(PyObject *value)
{
    PyObject *zone = mc_attribute(value, "tzinfo"), *text = NULL;
    if (zone != NULL) {
        text = mc_call_method(value, "isoformat", NULL);
    }
    if (text != NULL && zone == Py_None) {
        Py_SETREF(text, PyUnicode_FromFormat("%UZ", text));
    }
    Py_XDECREF(zone);
    return text;
}

static PyObject *json_bytes(PyObject *value)
{
    PyObject *module = PyImport_ImportModule("base64"), *encoded = NULL, *text = NULL;
    if (module != NULL) {
        encoded = mc_call_method(module, "b64encode", value);
        Py_DECREF(module);
    }
    if (encoded != NULL) {
        text = PyUnicode_FromEncodedObject(encoded, "ascii", "strict");
        Py_DECREF(encoded);
    }
    return text;
}

/* Whether str(value) is what JSON shall hold: 1, 0, -1. */
static int is_text(struct mc_document_state *state, PyObject *value)
{
    PyObject *uuid = mc_document_class(state, MC_CLASS_UUID);
    long marker;
    int result = uuid != NULL ? PyObject_IsInstance(value, uuid) : -1;
    if (result != 0) {
        return result;
    }
    marker = mc_marker_of(state, (PyObject *)Py_TYPE(value));
    return marker < 0 ? -1 : marker == MC_MARKER_OBJECTID || marker == MC_MARKER_DECIMAL128;
}

static int settle_members(struct mc_document_state *state, PyObject *plain);

/* What all encoders write the same: the value itself or what takes its place. A new reference. */
static PyObject *settled(struct mc_document_state *state, PyObject *value)
{
    int is_datetime;
    if (PyDict_CheckExact(value) || PyList_CheckExact(value)) {
        return settle_members(state, value) < 0 ? NULL : Py_NewRef(value);
    }
    if (PyFloat_CheckExact(value)) {
        return Py_NewRef(isfinite(PyFloat_AS_DOUBLE(value)) ? value : Py_None);
    }
    if (PyUnicode_Check(value)) {
        return PyUnicode_FromObject(value);
    }
    if (PyLong_Check(value) || PyBytes_Check(value) || value == Py_None) {
        return Py_NewRef(value);
    }
    is_datetime = mc_datetime_check(state, value);
    if (is_datetime != 0) {
        return is_datetime > 0 ? json_datetime(value) : NULL;
    }
    return Py_NewRef(value);
}

/* The same for all that a new dict or list holds, which nests no deeper than a document does. */
static int settle_members(struct mc_document_state *state, PyObject *plain)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    if (PyList_CheckExact(plain)) {
        for (; at < PyList_GET_SIZE(plain); at++) {
            value = settled(state, PyList_GET_ITEM(plain, at));
            if (value == NULL || PyList_SetItem(plain, at, value) < 0) {
                return -1;
            }
        }
        return 0;
    }
    while (PyDict_Next(plain, &at, &key, &value)) {
        PyObject *other = settled(state, value);
        int failed = other == NULL || (other != value && PyDict_SetItem(plain, key, other) < 0);
        Py_XDECREF(other);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

/* A new dict or list, or NULL when it could not be made. Takes the reference. */
static PyObject *agreed(struct mc_document_state *state, PyObject *plain)
{
    if (plain != NULL && settle_members(state, plain) < 0) {
        Py_CLEAR(plain);
    }
    return plain;
}

/* An object of bson's that has no plain form, as Extended JSON; NULL without an exception for an
 * object that MongoDB does not know. */
static PyObject *extended(struct mc_document_state *state, PyObject *value)
{
    struct mc_bson_element element;
    PyObject *bytes, *rare = NULL, *result = NULL;
    if (mc_marker_of(state, (PyObject *)Py_TYPE(value)) <= 0) {
        return NULL;
    }
    bytes = mc_encode_value(state->options, value);
    if (bytes == NULL || !mc_only_element(bytes, &element)) {
        Py_XDECREF(bytes);
        return NULL;
    }
    if (element.type == MC_BSON_DOCUMENT) { /* a DBRef: its members are the encoder's business */
        result =
            agreed(state, mc_plain_document(state->options, element.value, element.value_len, 1));
    } else {
        rare = mc_rare_value(state, &element);
        result = rare != NULL ? mc_call_method(rare, "plain", NULL) : NULL;
    }
    Py_XDECREF(rare);
    Py_DECREF(bytes);
    return result;
}

/* A Document or an Array as a new dict or list, which needs no bson. */
static PyObject *plain_of(struct mc_document_state *state, const struct mc_document *self)
{
    struct mc_options options = mc_options_to_show(mc_options_of(self));
    return agreed(state, (PyTypeObject *)Py_TYPE(self) == state->array_type
                             ? mc_plain_array(&options, self->data, self->len, 1)
                             : mc_plain_document(&options, self->data, self->len, 1));
}

static PyObject *json_default(PyObject *module, PyObject *value)
{
    struct mc_document_state *state = PyModule_GetState(module);
    PyObject *result;
    int rare, is_datetime, text;
    if (Py_TYPE(value) == state->document_type || Py_TYPE(value) == state->array_type) {
        return plain_of(state, (struct mc_document *)value);
    }
    rare = mc_is_a(state, value, MC_CLASS_RARE);
    if (rare != 0) {
        return rare > 0 ? mc_call_method(value, "plain", NULL) : NULL;
    }
    is_datetime = mc_datetime_check(state, value);
    if (is_datetime != 0) {
        return is_datetime > 0 ? json_datetime(value) : NULL;
    }
    if (PyBytes_Check(value)) {
        return json_bytes(value);
    }
    if (PyUnicode_Check(value)) { /* bson.Code, which json takes for text and others do not */
        return PyUnicode_FromObject(value);
    }
    text = is_text(state, value);
    if (text != 0) {
        return text > 0 ? PyObject_Str(value) : NULL;
    }
    result = extended(state, value);
    if (result != NULL || PyErr_Occurred()) {
        return result;
    }
    return PyErr_Format(PyExc_TypeError,
                        "'%.200s' has no place in plain JSON: MongoDB has no such type",
                        Py_TYPE(value)->tp_name);
}

PyMethodDef mc_json_functions[] = {
    {"json_default", json_default, METH_O,
     "json_default($module, value, /)\n--\n\n"
     "Makes a Document, and the values in it that JSON does not know, into something that it "
     "does:\n"
     "json.dumps(document, default=mmapcache.json_default), msgspec.json.encode(document,\n"
     "enc_hook=mmapcache.json_default) and orjson.dumps(document,\n"
     "default=mmapcache.json_default) write the same of a Document. What has no plain form, such\n"
     "as a Timestamp, becomes Extended JSON. It keeps nothing between calls: any thread and any\n"
     "forked child may call it. Raises TypeError for what MongoDB has no type for."},
    {NULL, NULL, 0, NULL},
};
