/* fake_python.c - what python/Python.h declares. */
#include <Python.h>
#include <sched.h>

#include "fake_python.h"
#include "harness.h"

enum { DEAD = -1000000 };

long fake_blocks;

PyTypeObject fake_type_type = {.ob_base = {1, &fake_type_type, 0}, .tp_name = "type"};
PyTypeObject fake_text_type = {.ob_base = {1, &fake_type_type, 0}, .tp_name = "str"};
PyTypeObject fake_long_type = {
    .ob_base = {1, &fake_type_type, 0}, .tp_name = "int", .tp_basicsize = sizeof(struct fake_long)};
PyTypeObject fake_bytes_type = {.ob_base = {1, &fake_type_type, 0}, .tp_name = "bytes"};
PyObject *PyExc_UnicodeDecodeError, *PyExc_UnicodeEncodeError;

/* ---- memory ---- */

void *fake_alloc(size_t size, bool zero)
{
    void *block = zero ? calloc(1, size) : malloc(size);
    CHECK(block != NULL);
    __atomic_add_fetch(&fake_blocks, 1, __ATOMIC_RELAXED);
    return block;
}

void fake_free(void *block)
{
    if (block != NULL) {
        __atomic_sub_fetch(&fake_blocks, 1, __ATOMIC_RELAXED);
        free(block);
    }
}

void *PyMem_Realloc(void *block, size_t size)
{
    void *other = block != NULL ? realloc(block, size) : fake_alloc(size, false);
    CHECK(other != NULL);
    return other;
}

/* ---- objects ---- */

PyObject *PyObject_Init(PyObject *object, PyTypeObject *type)
{
    object->references = 1;
    object->type = type;
    object->locked = 0;
    Py_INCREF(type);
    return object;
}

void Py_INCREF_(PyObject *object)
{
    CHECK(__atomic_add_fetch(&object->references, 1, __ATOMIC_RELAXED) > 1);
}

void Py_DECREF_(PyObject *object)
{
    long left = __atomic_sub_fetch(&object->references, 1, __ATOMIC_ACQ_REL);
    CHECK(left >= 0);
    if (left == 0) {
        PyTypeObject *type = object->type;
        object->references = DEAD;
        if (type->tp_dealloc != NULL) {
            type->tp_dealloc(object);
        } else {
            fake_free(object);
            Py_DECREF(type);
        }
    }
}

PyObject *fake_text(const char *bytes, size_t len, bool interned)
{
    struct fake_text *text = fake_alloc(sizeof *text + len + 1, true);
    (void)PyObject_Init((PyObject *)text, &fake_text_type);
    text->interned = interned;
    text->len = (Py_ssize_t)len;
    memcpy(text->bytes, bytes, len);
    return (PyObject *)text;
}

PyObject *fake_long(int64_t number)
{
    struct fake_long *object = PyObject_New(struct fake_long, &fake_long_type);
    object->number = number;
    return (PyObject *)object;
}

/* ---- threads ---- */

void fake_section_begin(PyObject *object)
{
    int none = 0;
    while (!__atomic_compare_exchange_n(&object->locked, &none, 1, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
        none = 0;
        (void)sched_yield();
    }
}

void fake_section_end(PyObject *object)
{
    __atomic_store_n(&object->locked, 0, __ATOMIC_RELEASE);
}

/* ---- text ---- */

const char *PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *len)
{
    *len = PyUnicode_GET_LENGTH(text);
    return (const char *)PyUnicode_1BYTE_DATA(text);
}

/* ---- what nobody should call here ---- */

#define NEVER(declaration)                                                                         \
    declaration                                                                                    \
    {                                                                                              \
        test_failed(__FILE__, __LINE__, "%s was called", __func__);                                \
    }

#pragma GCC diagnostic ignored "-Wunused-parameter"
/* NOLINTBEGIN(misc-unused-parameters) */

NEVER(void *PyType_GetModuleState(PyTypeObject *type))
NEVER(int PyModule_AddType(PyObject *module, PyTypeObject *type))
NEVER(void *PyErr_NoMemory(void))
NEVER(PyObject *PyErr_Occurred(void))
NEVER(void PyErr_Clear(void))
NEVER(int PyErr_ExceptionMatches(PyObject *exception))
NEVER(Py_hash_t PyObject_Hash(PyObject *object))
NEVER(int PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **value))
NEVER(PyObject *PyList_GetItemRef(PyObject *list, Py_ssize_t index))
NEVER(PyObject *PyList_New(Py_ssize_t len))
NEVER(int PyList_Append(PyObject *list, PyObject *object))
NEVER(Py_ssize_t PyList_GET_SIZE(PyObject *list))
NEVER(PyObject *PyBytes_FromStringAndSize(const char *bytes, Py_ssize_t len))
NEVER(char *PyBytes_AS_STRING(PyObject *bytes))
NEVER(const char *PyUnicode_AsUTF8(PyObject *text))
NEVER(PyObject *PyUnicode_DecodeUTF8(const char *bytes, Py_ssize_t len, const char *errors))
NEVER(PyObject *PyUnicode_FromFormat(const char *format, ...))
/* NOLINTEND(misc-unused-parameters) */
