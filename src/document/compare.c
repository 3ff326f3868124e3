/* compare.c - equality, hash and repr of Document and Array.
 *
 * Equality is that of the dicts and lists that they stand for: deep, in any order of fields,
 * numbers by value. What is equal byte for byte is equal without decoding; a NaN, too, equals
 * itself then, as an object in a dict does. The hash goes with it: the order of fields does not
 * count, 1 and 1.0 hash alike, and what holds an unhashable value is unhashable.
 */
#include "compare.h"

#include "classes.h"

#include "decode.h"
#include "fields.h"
#include "options.h"

static bool same_bytes(const struct mc_bson_element *a, const struct mc_bson_element *b)
{
    return a->type == b->type && a->value_len == b->value_len &&
           memcmp(a->value, b->value, a->value_len) == 0;
}

/* For a value that could not be made: 0 if only for want of bson, which is then equal to nothing
 * but to the same bytes, else -1. */
static int unequal_without_bson(struct mc_document *self)
{
    return mc_only_bson_missing(mc_state_of(self)) ? 0 : -1;
}

/* Whether the value of the walk's element equals `other`: 1, 0, -1. */
static int value_equals(struct mc_field_walk *walk, const struct mc_bson_element *element,
                        PyObject *other)
{
    PyObject *value = mc_fields_value(walk, element);
    int same = value != NULL ? PyObject_RichCompareBool(value, other, Py_EQ)
                             : unequal_without_bson(walk->document);
    Py_XDECREF(value);
    return same;
}

static int documents_equal(struct mc_document *a, struct mc_document *b)
{
    struct mc_field_walk walk;
    struct mc_bson_element element, other;
    int more, same = 1;
    Py_ssize_t counts[2] = {mc_fields_count(a), mc_fields_count(b)};
    if (counts[0] < 0 || counts[1] < 0 || mc_fields_begin(&walk, a) < 0) {
        return -1;
    }
    if (counts[0] != counts[1]) {
        return 0;
    }
    while (same == 1 && (more = mc_fields_next(&walk, &element)) != 0) {
        PyObject *name, *value;
        if (more < 0) {
            return -1;
        }
        same = mc_field_find(b, element.name, element.name_len, &other);
        if (same != 1 || same_bytes(&element, &other)) {
            continue;
        }
        name = mc_fields_name(&walk, &element);
        value = name != NULL ? mc_field_get(b, name) : NULL;
        same = value != NULL ? value_equals(&walk, &element, value) : unequal_without_bson(b);
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return same;
}

/* `other` is a dict or another Mapping. */
static int mapping_equals(struct mc_document *self, PyObject *other)
{
    struct mc_field_walk walk;
    struct mc_bson_element element;
    Py_ssize_t count = mc_fields_count(self);
    Py_ssize_t other_count = count < 0 ? -1 : PyObject_Size(other);
    int more, same = 1;
    if (other_count < 0 || mc_fields_begin(&walk, self) < 0) {
        return -1;
    }
    if (count != other_count) {
        return 0;
    }
    while (same == 1 && (more = mc_fields_next(&walk, &element)) != 0) {
        PyObject *name = more > 0 ? mc_fields_name(&walk, &element) : NULL, *value = NULL;
        if (name == NULL) {
            return -1;
        }
        if (PyDict_Check(other)) {
            value = mc_dict_get(other, name);
        } else {
            value = PyObject_GetItem(other, name);
            if (value == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
                PyErr_Clear();
            }
        }
        Py_DECREF(name);
        if (value == NULL) {
            return PyErr_Occurred() ? -1 : 0;
        }
        same = value_equals(&walk, &element, value);
        Py_DECREF(value);
    }
    return same;
}

/* Whether `other` is a document of PyMongo's with the very bytes of ours: 1, 0, -1. What its own
 * codec options would make of them does not matter then. */
static int raw_equals(struct mc_document *self, PyObject *other)
{
    PyObject *raw = PyObject_GetAttr(other, mc_state_of(self)->texts[MC_TEXT_RAW]);
    Py_buffer buffer;
    int same = 0;
    if (raw == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    if (PyObject_CheckBuffer(raw)) {
        if (PyObject_GetBuffer(raw, &buffer, PyBUF_SIMPLE) < 0) {
            PyErr_Clear();
        } else {
            same = buffer.len == (Py_ssize_t)self->len &&
                   memcmp(buffer.buf, self->data, self->len) == 0;
            PyBuffer_Release(&buffer);
        }
    }
    Py_DECREF(raw);
    return same;
}

static int arrays_equal(struct mc_document *a, struct mc_document *b)
{
    struct mc_field_walk walk;
    struct mc_bson_element element;
    Py_ssize_t counts[2] = {mc_fields_count(a), mc_fields_count(b)};
    int more, same = 1;
    if (counts[0] < 0 || counts[1] < 0 || mc_fields_begin(&walk, a) < 0) {
        return -1;
    }
    if (counts[0] != counts[1]) {
        return 0;
    }
    while (same == 1 && (more = mc_fields_next(&walk, &element)) != 0) {
        PyObject *other = more > 0 ? mc_member_get(b, (Py_ssize_t)walk.position - 1) : NULL;
        same = other != NULL ? value_equals(&walk, &element, other) : unequal_without_bson(b);
        Py_XDECREF(other);
    }
    return same;
}

static int list_equals(struct mc_document *self, PyObject *list)
{
    struct mc_field_walk walk;
    struct mc_bson_element element;
    Py_ssize_t count = mc_fields_count(self);
    int more, same = 1;
    if (count < 0 || mc_fields_begin(&walk, self) < 0) {
        return -1;
    }
    if (count != PyList_GET_SIZE(list)) {
        return 0;
    }
    while (same == 1 && (more = mc_fields_next(&walk, &element)) != 0) {
        PyObject *other;
        if (more < 0) {
            return -1;
        }
        if ((Py_ssize_t)walk.position > PyList_GET_SIZE(list)) {
            return 0; /* a comparison has changed the list */
        }
        other = mc_list_get(list, (Py_ssize_t)walk.position - 1);
        if (other == NULL) {
            PyErr_Clear(); /* another thread was faster than the line above */
            return 0;
        }
        same = value_equals(&walk, &element, other);
        Py_DECREF(other);
    }
    return same;
}

PyObject *mc_object_compare(PyObject *object, PyObject *other, int operation)
{
    struct mc_document *self = (struct mc_document *)object, *peer = (struct mc_document *)other;
    struct mc_document_state *state = mc_state_of(self);
    bool array = Py_TYPE(object) == state->array_type;
    int same;
    if (operation != Py_EQ && operation != Py_NE) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (object == other) {
        same = 1;
    } else if (Py_TYPE(object) == Py_TYPE(other)) {
        if (self->len == peer->len && memcmp(self->data, peer->data, self->len) == 0) {
            same = 1;
        } else {
            same = array ? arrays_equal(self, peer) : documents_equal(self, peer);
        }
    } else if (array) {
        if (!PyList_Check(other)) {
            Py_RETURN_NOTIMPLEMENTED;
        }
        same = list_equals(self, other);
    } else {
        int mapping = PyDict_Check(other) ? 1 : PyObject_IsInstance(other, state->mapping_abc);
        if (mapping == 0) {
            Py_RETURN_NOTIMPLEMENTED;
        }
        same = mapping < 0 ? -1 : PyDict_Check(other) ? 0 : raw_equals(self, other);
        same = same == 0 ? mapping_equals(self, other) : same;
    }
    return same < 0 ? NULL : PyBool_FromLong(same == (operation == Py_EQ));
}

/* ---- hash ---- */

static inline uint64_t mix(uint64_t hash)
{
    hash ^= hash >> 32;
    hash *= 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

/* -1 with TypeError when the value is unhashable. */
static Py_hash_t hash_element(struct mc_field_walk *walk, const struct mc_bson_element *element)
{
    PyObject *value = mc_fields_value(walk, element);
    Py_hash_t hash = -1;
    if (value == NULL && unequal_without_bson(walk->document) == 0) {
        value = mc_rare_value(mc_state_of(walk->document), element);
    }
    if (value != NULL && PyFloat_CheckExact(value) && Py_IS_NAN(PyFloat_AS_DOUBLE(value))) {
        hash = 0; /* Python hashes a NaN by its address; equal documents must hash alike */
    } else if (value != NULL) {
        hash = PyObject_Hash(value);
    }
    Py_XDECREF(value);
    return hash;
}

Py_hash_t mc_object_hash(PyObject *object)
{
    struct mc_document *self = (struct mc_document *)object;
    bool array = Py_TYPE(object) == mc_state_of(self)->array_type;
    struct mc_field_walk walk;
    struct mc_bson_element element;
    uint64_t sum = array ? 1 : 2;
    int more;
    if (mc_fields_begin(&walk, self) < 0) {
        return -1;
    }
    while ((more = mc_fields_next(&walk, &element)) > 0) {
        PyObject *name = array ? NULL : mc_fields_name(&walk, &element);
        Py_hash_t hash = name != NULL || array ? hash_element(&walk, &element) : -1;
        if (hash == -1) {
            Py_XDECREF(name);
            return -1;
        }
        if (array) { /* in order */
            sum = mix(sum * 3 + (uint64_t)hash);
        } else { /* in any order */
            sum += mix((uint64_t)PyObject_Hash(name) ^ mix((uint64_t)hash));
            Py_DECREF(name);
        }
    }
    sum = mix(sum);
    return more < 0 ? -1 : (Py_hash_t)sum == -1 ? -2 : (Py_hash_t)sum;
}

/* ---- repr ---- */

enum {
    REPR_ELEMENTS = 60, /* shown in all */
    REPR_DEPTH = 6,
    REPR_BYTES = 120, /* of one text or binary value */
};

struct writer {
    struct mc_options options; /* the document's, but what needs bson is shown without it, too */
    PyObject *parts;           /* list of str */
    int left;                  /* elements that may still be shown */
};

/* Appends and consumes a str; NULL is an error that is passed on. */
static int write_part(struct writer *writer, PyObject *part)
{
    int result = part != NULL ? PyList_Append(writer->parts, part) : -1;
    Py_XDECREF(part);
    return result;
}

static int write_literal(struct writer *writer, const char *text)
{
    return write_part(writer, PyUnicode_FromString(text));
}

/* The repr of a text or of bytes, cut off where it is long. */
static int write_long(struct writer *writer, const uint8_t *data, size_t len, bool text)
{
    size_t shown = len <= REPR_BYTES ? len : REPR_BYTES;
    PyObject *value, *repr;
    while (text && shown < len && shown > 0 && (data[shown] & 0xC0) == 0x80) {
        shown--; /* not within a character */
    }
    value = text ? PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)shown, "replace")
                 : PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)shown);
    repr = value != NULL ? PyObject_Repr(value) : NULL;
    Py_XDECREF(value);
    if (write_part(writer, repr) < 0) {
        return -1;
    }
    return shown < len ? write_literal(writer, "...") : 0;
}

static int write_scalar(struct writer *writer, const struct mc_bson_element *element)
{
    const uint8_t *text, *v = element->value;
    PyObject *value = NULL, *repr;
    uint32_t len;
    if (mc_bson_text(element, &text, &len) == MC_OK && element->type != MC_BSON_CODE) {
        return write_long(writer, text, len, true);
    }
    if (element->type == MC_BSON_BINARY && (v[4] == 0 || element->value_len > REPR_BYTES)) {
        return write_long(writer, v + 5, element->value_len - 5, false);
    }
    if (element->type == MC_BSON_OID) { /* shown without bson, too */
        return write_part(writer,
                          PyUnicode_FromFormat(
                              "ObjectId('%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x')", v[0],
                              v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]));
    }
    if (element->value_len <= REPR_BYTES) {
        value = mc_plain_value(&writer->options, element, MC_BSON_DEPTH_MAX / 2);
        if (value == NULL && (!PyErr_ExceptionMatches(PyExc_Exception) ||
                              PyErr_ExceptionMatches(PyExc_MemoryError))) {
            return -1;
        }
    }
    if (value == NULL) { /* too long, or its class is missing: a repr should not fail for that */
        PyErr_Clear();
        return write_part(writer, PyUnicode_FromFormat("<BSON type %d, %u bytes>", element->type,
                                                       element->value_len));
    }
    repr = PyObject_Repr(value);
    Py_DECREF(value);
    return write_part(writer, repr);
}

static int write_elements(struct writer *writer, const uint8_t *data, size_t len, bool array,
                          int depth)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    const char *between = "";
    int result = write_literal(writer, array ? "[" : "{");
    if (mc_bson_open(&cursor, data, len) != MC_OK) {
        cursor.end = cursor.at;
    }
    while (result == 0 && mc_bson_next(&cursor, &element) == MC_OK) {
        bool nested = element.type == MC_BSON_DOCUMENT || element.type == MC_BSON_ARRAY;
        result = write_literal(writer, between);
        between = ", ";
        if (writer->left-- <= 0 || depth >= REPR_DEPTH) {
            result = result == 0 ? write_literal(writer, "...") : -1;
            break;
        }
        if (result == 0 && !array) {
            result = write_long(writer, element.name, element.name_len, true);
            result = result == 0 ? write_literal(writer, ": ") : -1;
        }
        if (result == 0) {
            result = nested ? write_elements(writer, element.value, element.value_len,
                                             element.type == MC_BSON_ARRAY, depth + 1)
                            : write_scalar(writer, &element);
        }
    }
    return result == 0 ? write_literal(writer, array ? "]" : "}") : -1;
}

PyObject *mc_object_repr(PyObject *object)
{
    struct mc_document *self = (struct mc_document *)object;
    bool array = Py_TYPE(object) == mc_state_of(self)->array_type;
    struct writer writer = {.options = mc_options_to_show(mc_options_of(self)),
                            .left = REPR_ELEMENTS};
    PyObject *empty, *result = NULL;
    if (mc_document_meet_pprint(mc_state_of(self)) < 0) {
        return NULL;
    }
    writer.parts = PyList_New(0);
    empty = PyUnicode_FromString("");
    if (writer.parts != NULL && empty != NULL &&
        write_literal(&writer, array ? "Array(" : "Document(") == 0 &&
        write_elements(&writer, self->data, self->len, array, 0) == 0 &&
        write_literal(&writer, ")") == 0) {
        result = PyUnicode_Join(empty, writer.parts);
    }
    Py_XDECREF(writer.parts);
    Py_XDECREF(empty);
    return result;
}
