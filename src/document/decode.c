/* decode.c - BSON values to Python objects: the common types, and whole documents as plain dicts.
 *
 * Text is most of what a document holds, and most text is ASCII: it is copied into a str directly,
 * eight bytes at a time being looked at, without going through a codec. Names of fields are made
 * once per interpreter and then taken from a small cache; a dict that is built from them does not
 * hash them again. The cache prefers the very object that code used for a lookup, so that later
 * lookups by that code find it by its address.
 */
#include "decode.h"

#include "decode_classes.h"
#include "hash.h"

enum { NAME_CACHED_MAX = 48 }; /* bytes of a name in the cache */

/* ---- text ---- */

static inline bool is_ascii(const uint8_t *text, size_t len)
{
    const uint64_t high = 0x8080808080808080u;
    uint64_t seen = 0;
    size_t at = 0;
    for (; len - at >= 8; at += 8) {
        seen |= mc_bson_u64(text + at);
    }
    for (; at < len; at++) {
        seen |= text[at];
    }
    return (seen & high) == 0;
}

PyObject *mc_text(struct mc_document_state *state, const uint8_t *text, size_t len)
{
    PyObject *result;
    if (len > 1 && is_ascii(text, len)) { /* of one character there are shared objects */
        result = PyUnicode_New((Py_ssize_t)len, 127);
        if (result != NULL) {
            memcpy(PyUnicode_1BYTE_DATA(result), text, len);
        }
        return result;
    }
    result = PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)len, "strict");
    if (result == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return mc_value_corrupt(state);
    }
    return result;
}

static inline PyObject **name_place(struct mc_document_state *state, const uint8_t *name,
                                    size_t len)
{
    return &state->names[mc_hash(state->secret, 0, name, len) & (MC_NAME_CACHE - 1)];
}

/* Keeps a name. Without a GIL a place is filled once, by a name that all of Python shares then: who
 * reads it takes a reference to what nobody can free. */
static inline void name_keep(PyObject **place, PyObject **name)
{
    if (!MC_FREE_THREADED) {
        Py_XSETREF(*place, Py_NewRef(*name));
    } else if (mc_load(place) == NULL) {
        PyUnicode_InternInPlace(name);
        (void)mc_set_once(place, Py_NewRef(*name));
    }
}

PyObject *mc_name(struct mc_document_state *state, const uint8_t *name, size_t len)
{
    PyObject **place, *kept, *made;
    if (len > NAME_CACHED_MAX || len == 0) {
        return mc_text(state, name, len);
    }
    place = name_place(state, name, len);
    kept = mc_load(place);
    if (kept != NULL && (size_t)PyUnicode_GET_LENGTH(kept) == len &&
        memcmp(PyUnicode_1BYTE_DATA(kept), name, len) == 0) {
        return Py_NewRef(kept);
    }
    made = mc_text(state, name, len);
    if (made != NULL && PyUnicode_IS_COMPACT_ASCII(made)) {
        name_keep(place, &made);
    }
    return made;
}

void mc_name_offer(struct mc_document_state *state, PyObject *name, const uint8_t *text, size_t len)
{
    if (len > 0 && len <= NAME_CACHED_MAX && PyUnicode_CheckExact(name) &&
        PyUnicode_CHECK_INTERNED(name) && PyUnicode_IS_COMPACT_ASCII(name)) {
        PyObject **place = name_place(state, text, len);
        if (mc_load(place) != name) {
            name_keep(place, &name);
        }
    }
}

/* ---- single values ---- */

/* Documents and arrays apart, and what needs a class. NULL with an exception. */
static inline PyObject *plain_scalar(struct mc_options *options,
                                     const struct mc_bson_element *element, unsigned depth)
{
    const uint8_t *text;
    uint32_t len;
    double real;
    switch (element->type) {
    case MC_BSON_STRING:
    case MC_BSON_SYMBOL:
        (void)mc_bson_text(element, &text, &len); /* the walker has seen to the length */
        return mc_text(options->state, text, len);
    case MC_BSON_INT32:
        return PyLong_FromLong((int32_t)mc_bson_u32(element->value));
    case MC_BSON_INT64:
        return PyLong_FromLongLong((int64_t)mc_bson_u64(element->value));
    case MC_BSON_DOUBLE:
        memcpy(&real, element->value, sizeof real);
        return PyFloat_FromDouble(real);
    case MC_BSON_BOOL:
        return PyBool_FromLong(element->value[0]);
    case MC_BSON_NULL:
    case MC_BSON_UNDEFINED:
        Py_RETURN_NONE;
    default:
        return mc_scalar(options, element, depth);
    }
}

/* True when a subdocument may be a DBRef, which bson.decode turns into an object of its own. */
static bool may_be_dbref(const struct mc_bson_element *element)
{
    struct mc_bson_element field;
    return memchr(element->value, '$', element->value_len) != NULL &&
           mc_bson_find(element->value, element->value_len, "$ref", 4, &field) == MC_OK &&
           mc_bson_find(element->value, element->value_len, "$id", 3, &field) == MC_OK;
}

/* Whether it is one and bson is there: then the DBRef, or NULL with an exception. */
static bool is_dbref(struct mc_options *options, const struct mc_bson_element *element,
                     PyObject **reference)
{
    int have = mc_have_bson(options->state);
    *reference = have > 0 ? mc_plain_value(options, element, 1) : NULL;
    if (*reference != NULL && PyDict_CheckExact(*reference)) {
        Py_CLEAR(*reference);
        return false;
    }
    return have != 0;
}

PyObject *mc_value(const struct mc_document *parent, const struct mc_bson_element *element)
{
    struct mc_options *options = mc_options_of(parent);
    struct mc_document_state *state = options->state;
    PyTypeObject *type = NULL;
    if (element->type == MC_BSON_DOCUMENT) {
        PyObject *reference;
        type = state->document_type;
        if (may_be_dbref(element) && is_dbref(options, element, &reference)) {
            return reference;
        }
    } else if (element->type == MC_BSON_ARRAY) {
        type = state->array_type;
    }
    if (type == NULL) {
        return plain_scalar(options, element, 1);
    }
    return mc_nested_new(type, parent, element->value, element->value_len);
}

PyObject *mc_value_from_element(struct mc_options *options, const struct mc_bson_element *element)
{
    struct mc_document_state *state = options->state;
    struct mc_document *root;
    uint8_t *bytes;
    if (mc_document_meet_pymongo(state) < 0) {
        return NULL;
    }
    if (element->type == MC_BSON_DOCUMENT && may_be_dbref(element)) {
        PyObject *reference;
        if (is_dbref(options, element, &reference)) {
            return reference;
        }
    }
    if (element->type != MC_BSON_DOCUMENT && element->type != MC_BSON_ARRAY) {
        return plain_scalar(options, element, 1);
    }
    root = mc_owner_new(element->type == MC_BSON_ARRAY ? state->array_type : state->document_type,
                        options, element->value_len, &bytes);
    if (root != NULL) {
        memcpy(bytes, element->value, element->value_len);
    }
    return (PyObject *)root;
}

/* ---- whole documents ---- */

PyObject *mc_plain_value(struct mc_options *options, const struct mc_bson_element *element,
                         unsigned depth)
{
    PyObject *dict;
    switch (element->type) {
    case MC_BSON_DOCUMENT:
        dict = mc_plain_document(options, element->value, element->value_len, depth);
        return dict != NULL && memchr(element->value, '$', element->value_len) != NULL
                   ? mc_dbref_or(options, dict)
                   : dict;
    case MC_BSON_ARRAY:
        return mc_plain_array(options, element->value, element->value_len, depth);
    default:
        return plain_scalar(options, element, depth);
    }
}

/* Of equal names the first counts. PyDict_SetDefault would do it in one, and breaks the dict for
 * want of memory in CPython 3.13. */
static int set_default(PyObject *dict, PyObject *name, PyObject *value)
{
    int contains = PyDict_Contains(dict, name);
    return contains == 0 ? PyDict_SetItem(dict, name, value) : contains;
}

PyObject *mc_plain_document(struct mc_options *options, const uint8_t *data, size_t len,
                            unsigned depth)
{
    struct mc_document_state *state = options->state;
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status = mc_bson_open(&cursor, data, len);
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    if (depth > MC_BSON_DEPTH_MAX) {
        status = MC_INVALID;
    }
    while (status == MC_OK && (status = mc_bson_next(&cursor, &element)) == MC_OK) {
        PyObject *name = mc_name(state, element.name, element.name_len), *value = NULL;
        int set = -1;
        if (name != NULL) {
            value = mc_plain_value(options, &element, depth + 1);
        }
        if (value != NULL) {
            set = set_default(dict, name, value);
        }
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (set < 0) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    if (status != MC_ABSENT) {
        Py_DECREF(dict);
        return mc_value_corrupt(state);
    }
    return dict;
}

PyObject *mc_plain_array(struct mc_options *options, const uint8_t *data, size_t len,
                         unsigned depth)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status = mc_bson_open(&cursor, data, len);
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    if (depth > MC_BSON_DEPTH_MAX) {
        status = MC_INVALID;
    }
    while (status == MC_OK && (status = mc_bson_next(&cursor, &element)) == MC_OK) {
        PyObject *value = mc_plain_value(options, &element, depth + 1);
        if (value == NULL || PyList_Append(list, value) < 0) {
            Py_XDECREF(value);
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(value);
    }
    if (status != MC_ABSENT) {
        Py_DECREF(list);
        return mc_value_corrupt(options->state);
    }
    return list;
}
