/* encode_classes.c - values of classes to BSON: of Python's library, ours, and bson's.
 *
 * What we do not know ourselves is asked of bson, one value at a time, so that a document is always
 * written here, whatever is installed.
 */
#include "classes.h"
#include "decode_classes.h"
#include "document_object.h"
#include "encode.h"
#include "encoder.h"

enum { UUID_STANDARD = 4 };

int mc_uuid_bytes(struct mc_document_state *state, PyObject *uuid, uint8_t representation,
                  uint8_t out[16])
{
    PyObject *number = PyObject_GetAttr(uuid, state->texts[MC_TEXT_INT]); /* a slot */
    uint64_t words[2], bytes[2];
    bool fits = number != NULL && PyLong_Check(number) && mc_int_words(number, words);
    Py_XDECREF(number);
    if (!fits) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "a UUID has 128 bits");
        }
        return -1;
    }
    bytes[0] = __builtin_bswap64(words[1]);
    bytes[1] = __builtin_bswap64(words[0]);
    mc_uuid_order(representation, (const uint8_t *)bytes, out);
    return 0;
}

static int write_uuid(struct mc_encoder *self, struct mc_encode_name name, PyObject *value)
{
    uint8_t representation = self->options->uuid_representation;
    uint8_t binary[5 + 16] = {16, 0, 0, 0, representation == UUID_STANDARD ? 4 : 3};
    if (mc_uuid_bytes(self->options->state, value, representation, binary + 5) < 0) {
        return -1;
    }
    return mc_write_copy(self, name, MC_BSON_BINARY, binary, sizeof binary);
}

bool mc_only_element(PyObject *bytes, struct mc_bson_element *only)
{
    struct mc_bson_cursor cursor;
    return PyBytes_Check(bytes) &&
           mc_bson_open(&cursor, (uint8_t *)PyBytes_AS_STRING(bytes),
                        (size_t)PyBytes_GET_SIZE(bytes)) == MC_OK &&
           mc_bson_next(&cursor, only) == MC_OK;
}

/* The value of {"": value}, whose bytes somebody else made (consumed; NULL is passed on). */
static int write_only(struct mc_encoder *self, struct mc_encode_name name, PyObject *bytes)
{
    struct mc_bson_element only;
    int result = -1;
    if (bytes != NULL && mc_only_element(bytes, &only)) {
        result = mc_write_copy(self, name, only.type, only.value, only.value_len);
    } else if (bytes != NULL) {
        PyErr_SetString(PyExc_TypeError, "bson.encode did not return a document");
    }
    Py_XDECREF(bytes);
    return result;
}

/* InvalidDocument for what says that it is of a class of bson's and is of none: bson's encoder may
 * fail over that without saying why. 0 for anything else, or -1. */
static int refuse_false_marker(struct mc_encoder *self, PyObject *value)
{
    struct mc_document_state *state = self->options->state;
    long marker = 1;
    if (PyObject_HasAttr(value, state->texts[MC_TEXT_MARKER])) {
        marker = mc_marker_of(state, value);
    }
    return marker > 0   ? 0
           : marker < 0 ? -1
                        : mc_unfit(self, NULL,
                                   "'%.200s' has a _type_marker that is none of PyMongo's: MongoDB "
                                   "has no such type",
                                   Py_TYPE(value)->tp_name);
}

static int write_by_bson(struct mc_encoder *self, struct mc_encode_name name, PyObject *value)
{
    struct mc_options *options = self->options;
    struct mc_document_state *state = options->state;
    PyObject *encode, *codec = NULL, *wrapped, *bytes = NULL;
    int have;
    if (refuse_false_marker(self, value) < 0) {
        return -1;
    }
    have = mc_have_bson(state);
    if (have == 0) {
        return mc_unfit(
            self, NULL,
            "'%.200s' is none of the types that a document takes without PyMongo; those "
            "of its bson package need: pip install 'mmapcache[mongodb]'",
            Py_TYPE(value)->tp_name);
    }
    encode = have > 0 ? mc_document_class(state, MC_CLASS_ENCODE) : NULL;
    if (encode != NULL) {
        codec = options->source != NULL ? options->source : mc_encode_options(state);
    }
    wrapped = codec != NULL ? PyDict_New() : NULL;
    if (wrapped != NULL && PyDict_SetItem(wrapped, state->texts[MC_TEXT_EMPTY], value) == 0) {
        bytes = PyObject_CallFunctionObjArgs(encode, wrapped, Py_False, codec, NULL);
    }
    Py_XDECREF(wrapped);
    return write_only(self, name, bytes);
}

/* What has an attribute with the very bytes of its value: 1 when it was written, 0, -1. */
static int write_bytes_of(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                          enum mc_texts attribute, uint8_t type)
{
    PyObject *bytes = PyObject_GetAttr(value, self->options->state->texts[attribute]);
    int result = bytes != NULL ? 0 : -1;
    if (bytes != NULL && PyBytes_Check(bytes)) {
        const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(bytes);
        size_t len = (size_t)PyBytes_GET_SIZE(bytes);
        size_t right = type == MC_BSON_OID          ? 12
                       : type == MC_BSON_DECIMAL128 ? 16
                                                    : mc_bson_size(data, len);
        if (len == right && len > 0) {
            result = mc_write_copy(self, name, type, data, len) < 0 ? -1 : 1;
        }
    }
    Py_XDECREF(bytes);
    return result;
}

/* An attribute that is a number of at most `most`: 1, 0 when it is none, -1 with an exception. */
static int number_of(PyObject *value, const char *attribute, uint32_t most, uint32_t *out)
{
    PyObject *object = mc_attribute(value, attribute);
    unsigned long number = 0;
    bool is = object != NULL && PyLong_Check(object);
    if (is) {
        number = PyLong_AsUnsignedLong(object);
        if (PyErr_Occurred()) {
            PyErr_Clear(); /* bson says what is wrong with it */
            is = false;
        }
    }
    *out = (uint32_t)number;
    Py_XDECREF(object);
    return object == NULL ? -1 : is && number <= most;
}

/* One of bson's frequent classes: 1 when it was written, 0, -1. */
static int write_marked(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                        long marker)
{
    uint32_t stamp[2];
    int done = 0;
    switch (marker) {
    case MC_MARKER_INT64:
        return !PyLong_Check(value) ? 0 : mc_write_int(self, name, value, true) < 0 ? -1 : 1;
    case MC_MARKER_DECIMAL128:
        return write_bytes_of(self, name, value, MC_TEXT_BID, MC_BSON_DECIMAL128);
    case MC_MARKER_RAW:
        return write_bytes_of(self, name, value, MC_TEXT_RAW, MC_BSON_DOCUMENT);
    case MC_MARKER_TIMESTAMP:
        done = number_of(value, "inc", UINT32_MAX, &stamp[0]);
        done = done > 0 ? number_of(value, "time", UINT32_MAX, &stamp[1]) : done;
        if (done > 0 && mc_write_copy(self, name, MC_BSON_TIMESTAMP, stamp, sizeof stamp) < 0) {
            done = -1;
        }
        return done;
    case MC_MARKER_BINARY:
        done = PyBytes_Check(value) ? number_of(value, "subtype", UINT8_MAX, &stamp[0]) : 0;
        if (done > 0 && stamp[0] == 2) {
            return 0; /* the old one repeats its length inside */
        }
        if (done > 0 && mc_write_binary(self, name, (uint8_t)stamp[0], PyBytes_AS_STRING(value),
                                        (size_t)PyBytes_GET_SIZE(value)) < 0) {
            done = -1;
        }
        return done;
    default:
        return 0;
    }
}

int mc_write_derived(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                     unsigned depth)
{
    int result, mapping;
    if (PyUnicode_Check(value)) {
        result = mc_write_text(self, name, value);
    } else if (PyLong_Check(value)) {
        result = mc_write_int(self, name, value, false);
    } else if (PyFloat_Check(value)) {
        double real = PyFloat_AS_DOUBLE(value);
        result = mc_write_copy(self, name, MC_BSON_DOUBLE, &real, sizeof real);
    } else if (PyBytes_Check(value)) {
        result = mc_write_binary(self, name, 0, PyBytes_AS_STRING(value),
                                 (size_t)PyBytes_GET_SIZE(value));
    } else if (PyList_Check(value) || PyTuple_Check(value)) {
        result = mc_write_nested(self, name, value, true, depth);
    } else {
        mapping =
            PyDict_Check(value) ? 1 : PyObject_IsInstance(value, self->options->state->mapping_abc);
        if (mapping <= 0) {
            return mapping;
        }
        result = mc_write_nested(self, name, value, false, depth);
    }
    return result < 0 ? -1 : 1;
}

/* What is of one of the classes that we know by name: 1 when it was written, 0, -1. */
static int write_known(struct mc_encoder *self, struct mc_encode_name name, PyObject *value)
{
    struct mc_document_state *state = self->options->state;
    int is = mc_is_a(state, value, MC_CLASS_OBJECTID);
    if (is > 0) {
        return write_bytes_of(self, name, value, MC_TEXT_BINARY, MC_BSON_OID);
    }
    is = is == 0 ? mc_is_a(state, value, MC_CLASS_UUID) : is;
    if (is > 0) { /* which bson refuses with a reason when it is told no representation */
        bool told = self->options->uuid_representation != 0;
        return !told ? 0 : write_uuid(self, name, value) < 0 ? -1 : 1;
    }
    is = is == 0 ? mc_is_a(state, value, MC_CLASS_RARE) : is;
    if (is > 0) {
        return write_only(self, name, mc_attribute(value, "_bson")) < 0 ? -1 : 1;
    }
    return is;
}

int mc_write_other(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                   unsigned depth)
{
    struct mc_document_state *state = self->options->state;
    PyTypeObject *type = Py_TYPE(value);
    long marker;
    int done;
    if (type == state->document_type || type == state->array_type) {
        const struct mc_document *document = (struct mc_document *)value;
        return mc_write_copy(self, name,
                             type == state->array_type ? MC_BSON_ARRAY : MC_BSON_DOCUMENT,
                             document->data, document->len);
    }
    if (type == state->object_id_type) {
        return mc_write_copy(self, name, MC_BSON_OID, mc_object_id_bytes(value), 12);
    }
    done = mc_datetime_check(state, value);
    if (done != 0) {
        return done > 0 ? mc_write_datetime(self, name, value) : -1;
    }
    done = write_known(self, name, value);
    if (done == 0) {
        marker = mc_marker_of(state, (PyObject *)Py_TYPE(value));
        done = marker < 0    ? -1
               : marker == 0 ? mc_write_derived(self, name, value, depth)
                             : write_marked(self, name, value, marker);
    }
    return done == 0 ? write_by_bson(self, name, value) : done < 0 ? -1 : 0;
}
