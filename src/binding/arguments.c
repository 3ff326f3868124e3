/* arguments.c - what callers pass, checked: seconds, sizes, names, documents.
 *
 * Each function gives the value or a sentence that names the argument. Documents come in four
 * shapes and leave as BSON bytes that were validated here, which is the only time they ever are:
 *
 *      Document                    its own bytes
 *      bytes                       as they are
 *      bytearray, memoryview, ...  a copy: they may change while we look
 *      RawBSONDocument             .raw, known by _type_marker 101 as PyMongo's encoder does
 *      any other Mapping           encode.c
 */
#include "arguments.h"

#include <errno.h>
#include <math.h>

#include "document/classes.h"
#include "document/encode.h"
#include "errors.h"
#include "format.h"
#include "region.h"

static int seconds_from(PyObject *object, const char *what, bool less_is_nothing,
                        int64_t *nanoseconds)
{
    double seconds;
    if (object == Py_None) {
        *nanoseconds = MC_FOREVER;
        return 0;
    }
    seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_Format(PyExc_ValueError,
                     "%s is not a number: give seconds from 0 on, or None for ever", what);
        return -1;
    }
    if (seconds < 0 && !less_is_nothing) {
        PyErr_Format(PyExc_ValueError, "%s is %.50R: give seconds from 0 on, or None for ever",
                     what, object);
        return -1;
    }
    if (seconds <= 0) {
        *nanoseconds = 0;
    } else if (seconds > 9e9) { /* 285 years */
        *nanoseconds = MC_FOREVER;
    } else {
        *nanoseconds = (int64_t)(seconds * 1e9);
    }
    return 0;
}

int mc_seconds(PyObject *object, const char *what, int64_t *nanoseconds)
{
    return seconds_from(object, what, false, nanoseconds);
}

int mc_seconds_left(PyObject *object, const char *what, int64_t *nanoseconds)
{
    return seconds_from(object, what, true, nanoseconds);
}

/* The factor of a unit's name, or 0. */
static uint64_t unit_of(const char *unit)
{
    static const char prefixes[] = "kmgt";
    const char *prefix;
    uint64_t factor = 1;
    unsigned power;
    char first = (char)Py_TOLOWER((unsigned char)unit[0]);
    if (first == '\0' || (first == 'b' && unit[1] == '\0')) {
        return 1;
    }
    prefix = memchr(prefixes, first, sizeof prefixes - 1);
    if (prefix == NULL) {
        return 0;
    }
    power = (unsigned)(prefix - prefixes) + 1;
    unit++;
    if (Py_TOLOWER((unsigned char)unit[0]) == 'i') {
        unit++;
    } else if (Py_TOLOWER((unsigned char)unit[0]) == 'b') { /* "MB" is the metric one */
        while (power-- > 0) {
            factor *= 1000;
        }
        return unit[1] == '\0' ? factor : 0;
    }
    if (Py_TOLOWER((unsigned char)unit[0]) == 'b') {
        unit++;
    }
    return unit[0] == '\0' ? 1ull << (10 * power) : 0;
}

static int size_from_text(PyObject *object, const char *what, uint64_t *bytes)
{
    const char *text = PyUnicode_AsUTF8(object);
    char *end = NULL;
    double number;
    uint64_t unit;
    if (text == NULL) {
        return -1;
    }
    number = PyOS_string_to_double(text, &end, NULL);
    if (number == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
        end = NULL;
    }
    while (end != NULL && *end == ' ') {
        end++;
    }
    unit = end == NULL ? 0 : unit_of(end);
    if (unit == 0 || !(number >= 0) || number * (double)unit >= 9e18) {
        PyErr_Format(PyExc_ValueError,
                     "%s is %R: give a number of bytes, or text like \"512MiB\" or \"1.5GiB\"",
                     what, object);
        return -1;
    }
    *bytes = (uint64_t)(number * (double)unit);
    return 0;
}

int mc_size(PyObject *object, const char *what, uint64_t *bytes)
{
    PyObject *number;
    if (PyUnicode_Check(object)) {
        return size_from_text(object, what, bytes);
    }
    number = PyNumber_Index(object);
    if (number == NULL) {
        return -1;
    }
    *bytes = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (*bytes == (uint64_t)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is %R: give a number of bytes", what, object);
        return -1;
    }
    return 0;
}

/* The system's number for a user's name: a new reference, or NULL with an exception. */
static PyObject *uid_of(PyObject *name, const char *what)
{
    PyObject *pwd = PyImport_ImportModule("pwd");
    PyObject *entry = pwd == NULL ? NULL : PyObject_CallMethod(pwd, "getpwnam", "O", name);
    PyObject *uid = entry == NULL ? NULL : PyObject_GetAttrString(entry, "pw_uid");
    if (pwd != NULL && entry == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is %R: there is no such user here; give the uid", what,
                     name);
    }
    Py_XDECREF(entry);
    Py_XDECREF(pwd);
    return uid;
}

int mc_user(PyObject *object, const char *what, int64_t *uid)
{
    PyObject *number;
    int overflow;
    if (object == Py_None) {
        *uid = -1;
        return 0;
    }
    number = PyUnicode_Check(object) ? uid_of(object, what) : PyNumber_Index(object);
    if (number == NULL) {
        return -1;
    }
    *uid = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow != 0 || *uid < 0 || *uid > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s is %R: give a uid or a user's name", what, object);
        return -1;
    }
    return 0;
}

int mc_name_sought(PyObject *object, const char **name, size_t *len)
{
    Py_ssize_t size;
    *name = PyUnicode_AsUTF8AndSize(object, &size);
    if (*name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    *len = (size_t)size;
    return size != 0 && size <= (Py_ssize_t)MC_NAME_MAX && memchr(*name, 0, *len) == NULL;
}

int mc_collection_name(struct mc_module *state, PyObject *object, const char **name, size_t *len)
{
    Py_ssize_t size;
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a collection's name is a str, not %.100s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    *name = PyUnicode_AsUTF8AndSize(object, &size);
    if (*name == NULL) {
        return -1;
    }
    *len = (size_t)size;
    if (size == 0) {
        PyErr_SetString(PyExc_ValueError, "a collection's name must not be empty");
        return -1;
    }
    if (size > (Py_ssize_t)MC_NAME_MAX) {
        mc_raise_text(state, MC_LIMIT, "a collection's name has %zd bytes of UTF-8: at most %u",
                      size, MC_NAME_MAX);
        return -1;
    }
    if (memchr(*name, 0, *len) != NULL) {
        PyErr_SetString(PyExc_ValueError, "a collection's name must not contain NUL");
        return -1;
    }
    return 0;
}

/* True for objects that say they are BSON already, as RawBSONDocument does;
 * -1 with an exception. */
static int is_raw(struct mc_module *state, PyObject *object)
{
    long marker;
    PyObject *value = PyObject_GetAttr(object, state->text_marker);
    if (value == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    marker = PyLong_Check(value) ? PyLong_AsLong(value) : 0;
    Py_DECREF(value);
    if (marker == -1 && PyErr_Occurred()) {
        PyErr_Clear();
    }
    return marker == MC_MARKER_RAW;
}

/* The BSON of a Mapping or a RawBSONDocument as a new object with a buffer. */
static PyObject *encoded(struct mc_module *state, PyObject *object)
{
    int raw = PyDict_CheckExact(object) ? 0 : is_raw(state, object);
    if (raw < 0) {
        return NULL;
    }
    if (raw) {
        return PyObject_GetAttr(object, state->text_raw);
    }
    if (!PyDict_Check(object)) {
        int mapping = PyObject_IsInstance(object, state->documents.mapping_abc);
        if (mapping == 0) {
            PyErr_Format(PyExc_TypeError,
                         "a document is a Mapping, a RawBSONDocument or BSON bytes, not %.100s",
                         Py_TYPE(object)->tp_name);
        }
        if (mapping <= 0) {
            return NULL;
        }
    }
    return mc_encode_document(state->documents.options, object);
}

/* Turns what bson raised about a value into InvalidDocument, its text kept. */
static void translate_encoding_error(struct mc_module *state)
{
    PyObject *type, *value, *traceback;
    PyObject *invalid;
    if (mc_load(&state->documents.classes[MC_CLASS_ENCODE]) == NULL) {
        return; /* it was not asked */
    }
    PyErr_Fetch(&type, &value, &traceback);
    invalid = mc_document_class(&state->documents, MC_CLASS_INVALID_DOCUMENT);
    if (invalid != NULL && PyErr_GivenExceptionMatches(type, invalid)) {
        PyErr_NormalizeException(&type, &value, &traceback);
        mc_raise_text(state, MC_INVALID, "%S", value);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return;
    }
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
}

PyObject *mc_frozen(PyObject *object)
{
    Py_buffer view;
    PyObject *bytes;
    if (PyBytes_CheckExact(object)) {
        return Py_NewRef(object);
    }
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    bytes = PyBytes_FromStringAndSize(view.buf, view.len);
    PyBuffer_Release(&view);
    return bytes;
}

int mc_bson_argument(struct mc_module *state, PyObject *object, Py_buffer *view)
{
    struct mc_error error;
    PyObject *bytes, *frozen;
    int result;
    if (mc_document_check(&state->documents, object)) {
        size_t len;
        const uint8_t *bytes = mc_document_bytes(object, &len);
        return PyBuffer_FillInfo(view, object, (void *)bytes, (Py_ssize_t)len, 1, PyBUF_SIMPLE);
    }
    bytes = PyObject_CheckBuffer(object) ? Py_NewRef(object) : encoded(state, object);
    if (bytes == NULL) {
        translate_encoding_error(state);
        return -1;
    }
    frozen = mc_frozen(bytes);
    Py_DECREF(bytes);
    result = frozen == NULL ? -1 : PyObject_GetBuffer(frozen, view, PyBUF_SIMPLE);
    Py_XDECREF(frozen);
    if (result < 0) {
        return -1;
    }
    if (mc_bson_validate(view->buf, (size_t)view->len, &error) != MC_OK) {
        PyBuffer_Release(view);
        mc_raise(state, &error);
        return -1;
    }
    return 0;
}

int mc_sleep(int64_t nanoseconds)
{
    static const uint32_t never_woken = 0;
    Py_BEGIN_ALLOW_THREADS
    mc_futex_wait(&never_woken, 0, nanoseconds);
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals();
}

bool mc_arguments(const char *method, const char *const *names, Py_ssize_t required,
                  PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **values)
{
    Py_ssize_t total = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    for (Py_ssize_t i = 0; i <= required; i++) {
        values[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t i = nargs; i < total; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i - nargs);
        Py_ssize_t j = 0;
        while (j <= required && PyUnicode_CompareWithASCIIString(name, names[j]) != 0) {
            j++;
        }
        if (j > required || values[j] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected argument %R", method, name);
            return false;
        }
        values[j] = args[i];
    }
    for (Py_ssize_t i = 0; i < required || nargs > required + 1; i++) {
        if (values[i] == NULL || nargs > required + 1) {
            PyErr_Format(PyExc_TypeError, "%s() takes %zd or %zd arguments, %zd were given", method,
                         required, required + 1, total);
            return false;
        }
    }
    if (values[required] == NULL) {
        values[required] = Py_None;
    }
    return true;
}

char *mc_absolute_path(PyObject *path)
{
    const char *given = PyBytes_AS_STRING(path);
    PyObject *os, *directory, *encoded;
    char *absolute = NULL;
    size_t len;
    if (given[0] == '/') {
        len = (size_t)PyBytes_GET_SIZE(path) + 1;
        absolute = PyMem_Malloc(len);
        return absolute == NULL ? (char *)PyErr_NoMemory() : memcpy(absolute, given, len);
    }
    os = PyImport_ImportModule("os");
    directory = os == NULL ? NULL : PyObject_CallMethod(os, "getcwdb", NULL);
    encoded =
        directory == NULL ? NULL : PyBytes_FromFormat("%s/%s", PyBytes_AsString(directory), given);
    if (encoded != NULL) {
        len = (size_t)PyBytes_GET_SIZE(encoded) + 1;
        absolute = PyMem_Malloc(len);
        if (absolute == NULL) {
            PyErr_NoMemory();
        } else {
            memcpy(absolute, PyBytes_AS_STRING(encoded), len);
        }
    }
    Py_XDECREF(os);
    Py_XDECREF(directory);
    Py_XDECREF(encoded);
    return absolute;
}

bool mc_arguments_are(const char *method, Py_ssize_t nargs, Py_ssize_t expected)
{
    if (nargs != expected) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, %zd were given", method, expected,
                     nargs);
    }
    return nargs == expected;
}
