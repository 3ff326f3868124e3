/* encode.c - Python objects to BSON, without PyMongo (see encode.h).
 *
 * One pass over the objects into one growing buffer; the length of a document is filled in when its
 * end is known. What is not plain is in encode_classes.c.
 *
 * A tzinfo or a Mapping of the caller's may run any code: a value is held while it is written, and
 * a dict that has grown or shrunk meanwhile is an error.
 */
#include "encode.h"

#include <stdarg.h>

#include "classes.h"
#include "encoder.h"

enum { INDEX_DIGITS = 20 };

int mc_unfit(struct mc_encoder *self, PyObject *exception, const char *format, ...)
{
    struct mc_document_state *state = self->options->state;
    PyObject *what, *text = NULL;
    const char *utf8;
    struct mc_error error;
    va_list args;
    va_start(args, format);
    what = PyUnicode_FromFormatV(format, args);
    va_end(args);
    if (what != NULL) {
        text = self->field != NULL ? PyUnicode_FromFormat("field %.100R: %U", self->field, what)
                                   : Py_NewRef(what);
        Py_DECREF(what);
    }
    if (text != NULL && exception != NULL) {
        PyErr_SetObject(exception, text);
    } else if (text != NULL && (utf8 = PyUnicode_AsUTF8(text)) != NULL) {
        (void)mc_fail(&error, MC_INVALID, "%s", utf8);
        state->raise(state->module, &error);
    }
    Py_XDECREF(text);
    return -1;
}

/* ---- bytes ---- */

static int grow(struct mc_encoder *self, size_t len)
{
    size_t capacity = self->len + len;
    uint8_t *data;
    if (len > INT32_MAX || capacity > INT32_MAX) {
        return mc_unfit(self, NULL, "a BSON document has 2,147,483,647 bytes at most");
    }
    capacity = capacity < 2 * self->capacity ? 2 * self->capacity : capacity;
    data = PyMem_Realloc(self->data == self->small ? NULL : self->data, capacity);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (self->data == self->small) {
        memcpy(data, self->small, self->len);
    }
    self->data = data;
    self->capacity = capacity;
    return 0;
}

/* The next len bytes, to be filled before the next call; or NULL with an exception. */
static inline uint8_t *room(struct mc_encoder *self, size_t len)
{
    uint8_t *at;
    if (len > self->capacity - self->len && grow(self, len) < 0) {
        return NULL;
    }
    at = self->data + self->len;
    self->len += len;
    return at;
}

/* Type and name of an element, and the place of its value; or NULL with an exception. */
static inline uint8_t *element(struct mc_encoder *self, struct mc_encode_name name, uint8_t type,
                               size_t len)
{
    uint8_t *at = room(self, 1 + name.len + 1 + len);
    if (at == NULL) {
        return NULL;
    }
    at[0] = type;
    memcpy(at + 1, name.text, name.len);
    at[1 + name.len] = 0;
    return at + 1 + name.len + 1;
}

int mc_write_copy(struct mc_encoder *self, struct mc_encode_name name, uint8_t type,
                  const void *value, size_t len)
{
    uint8_t *at = element(self, name, type, len);
    if (at == NULL) {
        return -1;
    }
    memcpy(at, value, len);
    return 0;
}

/* The place for len bytes behind a length, with one byte more before or after them; or NULL. */
static uint8_t *sized(struct mc_encoder *self, struct mc_encode_name name, uint8_t type,
                      uint32_t size, size_t len)
{
    uint8_t *at;
    if (len >= INT32_MAX) {
        mc_unfit(self, NULL, "a BSON document has 2,147,483,647 bytes at most");
        return NULL;
    }
    at = element(self, name, type, 4 + 1 + len);
    if (at != NULL) {
        memcpy(at, &size, 4);
    }
    return at;
}

int mc_write_binary(struct mc_encoder *self, struct mc_encode_name name, uint8_t subtype,
                    const void *data, size_t len)
{
    uint8_t *at = sized(self, name, MC_BSON_BINARY, (uint32_t)len, len);
    if (at == NULL) {
        return -1;
    }
    at[4] = subtype;
    memcpy(at + 5, data, len);
    return 0;
}

static int write_utf8(struct mc_encoder *self, struct mc_encode_name name, const void *text,
                      size_t len)
{
    uint8_t *at = sized(self, name, MC_BSON_STRING, (uint32_t)len + 1, len);
    if (at == NULL) {
        return -1;
    }
    memcpy(at + 4, text, len);
    at[4 + len] = 0;
    return 0;
}

/* ---- plain values ---- */

int mc_write_text(struct mc_encoder *self, struct mc_encode_name name, PyObject *value)
{
    Py_ssize_t len;
    const char *text;
    if (PyUnicode_IS_COMPACT_ASCII(value)) {
        return write_utf8(self, name, PyUnicode_1BYTE_DATA(value),
                          (size_t)PyUnicode_GET_LENGTH(value));
    }
    text = PyUnicode_AsUTF8AndSize(value, &len);
    return text != NULL ? write_utf8(self, name, text, (size_t)len) : -1;
}

int mc_write_int(struct mc_encoder *self, struct mc_encode_name name, PyObject *value, bool wide)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) {
        return mc_unfit(self, PyExc_OverflowError,
                        "an int of more than 64 bits has no place in BSON; a str has, or a float");
    }
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (number == (int32_t)number && !wide) {
        int32_t small = (int32_t)number;
        return mc_write_copy(self, name, MC_BSON_INT32, &small, sizeof small);
    }
    return mc_write_copy(self, name, MC_BSON_INT64, &number, sizeof number);
}

/* Days from 1970 to a date, the inverse of civil_from_days in decode_classes.c. */
static int64_t days_from_civil(int year, int month, int day)
{
    int64_t from_march = year - (month <= 2), era = from_march / 400; /* years 1 to 9999 */
    int64_t year_of_era = from_march - era * 400;
    int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year -
           719468;
}

int mc_datetime_millis(struct mc_document_state *state, PyObject *object, int64_t *millis)
{
    PyObject *delta = PyObject_CallMethodNoArgs(object, state->texts[MC_TEXT_UTCOFFSET]);
    int at[7], offset[3] = {0}; /* year to microsecond; days, seconds, microseconds */
    int64_t micros;
    int result = delta != NULL ? mc_numbers_of(state, object, MC_TEXT_YEAR, 7, at) : -1;
    if (result == 0 && delta != Py_None) {
        result = mc_numbers_of(state, delta, MC_TEXT_DAYS, 3, offset);
    }
    Py_XDECREF(delta);
    if (result < 0) {
        return -1;
    }
    micros = days_from_civil(at[0], at[1], at[2]) * 86400000000 +
             (at[3] * INT64_C(3600) + at[4] * INT64_C(60) + at[5]) * 1000000 + at[6];
    micros -= (offset[0] * INT64_C(86400) + offset[1]) * 1000000 + offset[2];
    *millis = micros / 1000 - (micros % 1000 < 0); /* towards the past */
    return 0;
}

int mc_write_datetime(struct mc_encoder *self, struct mc_encode_name name, PyObject *value)
{
    struct mc_document_state *state = self->options->state;
    int64_t millis;
    if (mc_datetime_millis(state, value, &millis) < 0) {
        return -1;
    }
    if (millis < state->options->min_millis || millis > state->options->max_millis) {
        return mc_unfit(self, PyExc_OverflowError,
                        "this date is, in UTC, outside of the years 1 to 9999");
    }
    return mc_write_copy(self, name, MC_BSON_DATETIME, &millis, sizeof millis);
}

/* ---- documents and lists ---- */

/* The length and the end of a document whose first byte was at `start`. */
static int finish(struct mc_encoder *self, size_t start)
{
    uint8_t *end = room(self, 1);
    uint32_t len = (uint32_t)(self->len - start);
    if (end == NULL) {
        return -1;
    }
    *end = 0;
    memcpy(self->data + start, &len, 4);
    return 0;
}

/* One field, unless it is the `_id` that was written first. */
static int write_field(struct mc_encoder *self, PyObject *key, PyObject *value, unsigned depth,
                       bool without_id)
{
    struct mc_encode_name name;
    Py_ssize_t len;
    PyObject *around = self->field;
    int result;
    if (!PyUnicode_Check(key)) {
        return mc_unfit(self, NULL, "the names within a document are str, not %.100s",
                        Py_TYPE(key)->tp_name);
    }
    name.text = PyUnicode_AsUTF8AndSize(key, &len);
    if (name.text == NULL) {
        return -1;
    }
    name.len = (size_t)len;
    if (memchr(name.text, 0, name.len) != NULL) {
        return mc_unfit(self, NULL, "the name %.100R has a NUL in it, which BSON cannot write",
                        key);
    }
    if (without_id && name.len == 3 && memcmp(name.text, "_id", 3) == 0) {
        return 0;
    }
    self->field = key;
    result = mc_write_value(self, name, value, depth);
    self->field = around;
    return result;
}

/* The dict's next pair, as new references, as it may change as soon as it is let go. */
static inline int next_pair(PyObject *dict, Py_ssize_t *at, PyObject **key, PyObject **value)
{
    int more;
    MC_SECTION_BEGIN(dict);
    more = PyDict_Next(dict, at, key, value);
    if (more) {
        Py_INCREF(*key);
        Py_INCREF(*value);
    }
    MC_SECTION_END();
    return more;
}

static int write_dict(struct mc_encoder *self, PyObject *dict, unsigned depth, bool without_id)
{
    PyObject *key, *value;
    Py_ssize_t at = 0, size = PyDict_GET_SIZE(dict);
    int result = 0;
    while (result == 0 && next_pair(dict, &at, &key, &value)) {
        result = write_field(self, key, value, depth, without_id);
        Py_DECREF(key);
        Py_DECREF(value);
        if (result == 0 && PyDict_GET_SIZE(dict) != size) {
            result = mc_unfit(self, PyExc_RuntimeError, "the dict changed while it was written");
        }
    }
    return result;
}

/* `items` is what a Mapping gives, a list. */
static int write_items(struct mc_encoder *self, PyObject *items, unsigned depth, bool without_id)
{
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(items, i));
        if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
            result = write_field(self, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), depth,
                                 without_id);
        } else {
            result = mc_unfit(self, PyExc_TypeError, "the items() of a Mapping are pairs");
        }
        Py_DECREF(pair);
    }
    return result;
}

/* The `_id` of a dict or of items: new reference, or NULL, with an exception or without. */
static PyObject *id_of(struct mc_encoder *self, PyObject *dict, PyObject *items)
{
    PyObject *name = self->options->state->texts[MC_TEXT_ID];
    if (items == NULL) {
        return mc_dict_get(dict, name);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = PyList_GET_ITEM(items, i);
        if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 &&
            PyUnicode_Check(PyTuple_GET_ITEM(pair, 0)) &&
            PyUnicode_Compare(PyTuple_GET_ITEM(pair, 0), name) == 0) {
            return Py_NewRef(PyTuple_GET_ITEM(pair, 1));
        }
    }
    return NULL;
}

/* The bytes of a document: of a dict, or of another Mapping by its items. */
static int write_document(struct mc_encoder *self, PyObject *mapping, unsigned depth)
{
    size_t start = self->len;
    PyObject *items = NULL, *id = NULL;
    bool without_id = false;
    int result = 0;
    if (depth > MC_BSON_DEPTH_MAX) {
        return mc_unfit(self, NULL, "more than 200 documents are nested within each other");
    }
    if (!PyDict_Check(mapping) && (items = PyMapping_Items(mapping)) == NULL) {
        return -1;
    }
    if (room(self, 4) == NULL) {
        result = -1;
    } else if (depth == 1 && (id = id_of(self, mapping, items)) != NULL) {
        self->field = self->options->state->texts[MC_TEXT_ID];
        result = mc_write_value(self, (struct mc_encode_name){"_id", 3}, id, depth);
        self->field = NULL;
        without_id = true;
        Py_DECREF(id);
    } else if (PyErr_Occurred()) {
        result = -1;
    }
    if (result == 0) {
        result = items == NULL ? write_dict(self, mapping, depth, without_id)
                               : write_items(self, items, depth, without_id);
    }
    Py_XDECREF(items);
    return result == 0 ? finish(self, start) : -1;
}

/* "0", "1", ... at the end of the buffer. */
static struct mc_encode_name index_name(char digits[INDEX_DIGITS], size_t index)
{
    size_t at = INDEX_DIGITS;
    do {
        digits[--at] = (char)('0' + index % 10);
        index /= 10;
    } while (index > 0);
    return (struct mc_encode_name){digits + at, INDEX_DIGITS - at};
}

static int write_array(struct mc_encoder *self, PyObject *members, unsigned depth)
{
    size_t start = self->len;
    char digits[INDEX_DIGITS];
    bool list = PyList_Check(members);
    int result = 0;
    if (depth > MC_BSON_DEPTH_MAX) {
        return mc_unfit(self, NULL, "more than 200 documents are nested within each other");
    }
    if (room(self, 4) == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0;
         result == 0 && i < (list ? PyList_GET_SIZE(members) : PyTuple_GET_SIZE(members)); i++) {
        PyObject *member = list ? mc_list_get(members, i) : Py_NewRef(PyTuple_GET_ITEM(members, i));
        result = member == NULL
                     ? -1
                     : mc_write_value(self, index_name(digits, (size_t)i), member, depth);
        Py_XDECREF(member);
    }
    return result == 0 ? finish(self, start) : -1;
}

int mc_write_nested(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                    bool array, unsigned depth)
{
    if (element(self, name, array ? MC_BSON_ARRAY : MC_BSON_DOCUMENT, 0) == NULL) {
        return -1;
    }
    return array ? write_array(self, value, depth + 1) : write_document(self, value, depth + 1);
}

int mc_write_value(struct mc_encoder *self, struct mc_encode_name name, PyObject *value,
                   unsigned depth)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type) {
        return mc_write_text(self, name, value);
    }
    if (type == &PyLong_Type) {
        return mc_write_int(self, name, value, false);
    }
    if (type == &PyBool_Type) {
        return mc_write_copy(self, name, MC_BSON_BOOL, value == Py_True ? "\1" : "", 1);
    }
    if (value == Py_None) {
        return mc_write_copy(self, name, MC_BSON_NULL, "", 0);
    }
    if (type == &PyDict_Type) {
        return mc_write_nested(self, name, value, false, depth);
    }
    if (type == &PyList_Type || type == &PyTuple_Type) {
        return mc_write_nested(self, name, value, true, depth);
    }
    if (type == &PyFloat_Type || type == &PyBytes_Type) {
        return mc_write_derived(self, name, value, depth) < 0 ? -1 : 0;
    }
    return mc_write_other(self, name, value, depth);
}

/* ---- the whole ---- */

static PyObject *encoded(struct mc_options *options, PyObject *object, bool value)
{
    struct mc_encoder self; /* not cleared: most of it is room */
    PyObject *bytes = NULL;
    int result;
    self.options = options;
    self.field = NULL;
    self.data = self.small;
    self.len = 0;
    self.capacity = MC_ENCODE_SMALL;
    if (value) {
        result = room(&self, 4) == NULL
                     ? -1
                     : mc_write_value(&self, (struct mc_encode_name){"", 0}, object, 1);
        result = result == 0 ? finish(&self, 0) : -1;
    } else {
        result = write_document(&self, object, 1);
    }
    if (result == 0) {
        bytes = PyBytes_FromStringAndSize((const char *)self.data, (Py_ssize_t)self.len);
    }
    if (self.data != self.small) {
        PyMem_Free(self.data);
    }
    return bytes;
}

PyObject *mc_encode_document(struct mc_options *options, PyObject *mapping)
{
    return encoded(options, mapping, false);
}

PyObject *mc_encode_value(struct mc_options *options, PyObject *value)
{
    return encoded(options, value, true);
}
