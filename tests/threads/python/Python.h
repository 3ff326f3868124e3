/* Python.h - stands in for a free-threaded CPython's: what the binding's parts that threads share
 * need of it, so that ThreadSanitizer sees them without an interpreter.
 *
 * An object is a count, a type and a lock. Counts are atomic and checked: a reference to what is
 * dead aborts. A critical section is a lock that nobody takes twice; it is never given up within,
 * as no Python code runs here. The rest says what the compiler has to know of calls that nobody
 * makes.
 */
#ifndef MMAPCACHE_TEST_PYTHON_H
#define MMAPCACHE_TEST_PYTHON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define Py_GIL_DISABLED 1
#define PY_VERSION_HEX 0x030E0000

typedef ssize_t Py_ssize_t;
typedef ssize_t Py_hash_t;
#define PY_SSIZE_T_MAX INTPTR_MAX

typedef struct _typeobject PyTypeObject;
typedef struct _object {
    long references;
    PyTypeObject *type;
    int locked;
} PyObject;
#define PyObject_HEAD PyObject ob_base;

struct _typeobject {
    PyObject ob_base;
    const char *tp_name;
    size_t tp_basicsize;
    void (*tp_dealloc)(PyObject *);
};

/* ---- memory: counted, so that a test can tell that all of it came back ---- */

extern long fake_blocks;

void *fake_alloc(size_t size, bool zero);
void fake_free(void *block);

#define PyMem_Malloc(size) fake_alloc(size, false)
#define PyMem_Calloc(count, size) fake_alloc((size_t)(count) * (size), true)
#define PyMem_Free(block) fake_free(block)
#define PyObject_Malloc(size) fake_alloc(size, false)
#define PyObject_Free(block) fake_free(block)
void *PyMem_Realloc(void *block, size_t size);

/* ---- objects ---- */

#define Py_TYPE(object) (((PyObject *)(object))->type)

PyObject *PyObject_Init(PyObject *object, PyTypeObject *type);
#define PyObject_New(kind, type)                                                                   \
    ((kind *)(void *)PyObject_Init(fake_alloc((type)->tp_basicsize, false), type))

void Py_INCREF_(PyObject *object);
void Py_DECREF_(PyObject *object);

#define Py_INCREF(object) Py_INCREF_((PyObject *)(object))
#define Py_DECREF(object) Py_DECREF_((PyObject *)(object))
#define Py_XINCREF(object) ((object) != NULL ? Py_INCREF(object) : (void)0)
#define Py_XDECREF(object) fake_xdecref((PyObject *)(object))

static inline void fake_xdecref(PyObject *object)
{
    if (object != NULL) {
        Py_DECREF(object);
    }
}

static inline PyObject *Py_NewRef(PyObject *object)
{
    Py_INCREF(object);
    return object;
}

static inline PyObject *Py_XNewRef(PyObject *object)
{
    return object == NULL ? NULL : Py_NewRef(object);
}

#define Py_CLEAR(place)                                                                            \
    do {                                                                                           \
        PyObject *fake_old = (PyObject *)(place);                                                  \
        (place) = NULL;                                                                            \
        Py_XDECREF(fake_old);                                                                      \
    } while (0)
#define Py_SETREF(place, value)                                                                    \
    do {                                                                                           \
        PyObject *fake_old = (PyObject *)(place);                                                  \
        (place) = (value);                                                                         \
        Py_XDECREF(fake_old);                                                                      \
    } while (0)
#define Py_XSETREF Py_SETREF

/* ---- threads ---- */

void fake_section_begin(PyObject *object);
void fake_section_end(PyObject *object);

#define Py_BEGIN_CRITICAL_SECTION(object)                                                          \
    {                                                                                              \
        PyObject *fake_section = (PyObject *)(object);                                             \
        fake_section_begin(fake_section);
#define Py_END_CRITICAL_SECTION()                                                                  \
    fake_section_end(fake_section);                                                                \
    }
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }

/* ---- text: ASCII with its length, as compact text is ---- */

struct fake_text {
    PyObject_HEAD
    Py_hash_t hash;
    bool interned;
    Py_ssize_t len;
    char bytes[];
};
typedef struct fake_text PyASCIIObject;

extern PyTypeObject fake_text_type, fake_long_type, fake_bytes_type;

#define PyUnicode_Check(object) (Py_TYPE(object) == &fake_text_type)
#define PyUnicode_CheckExact PyUnicode_Check
#define PyUnicode_CHECK_INTERNED(object) (((struct fake_text *)(void *)(object))->interned)
#define PyUnicode_IS_COMPACT_ASCII(object) ((void)(object), 1)
#define PyUnicode_1BYTE_DATA(object) ((uint8_t *)((struct fake_text *)(void *)(object))->bytes)
#define PyUnicode_GET_LENGTH(object) (((struct fake_text *)(void *)(object))->len)
#define PyLong_CheckExact(object) (Py_TYPE(object) == &fake_long_type)
#define PyBytes_CheckExact(object) (Py_TYPE(object) == &fake_bytes_type)

/* ---- what is only named ---- */

typedef int (*visitproc)(PyObject *, void *);
typedef struct {
    void *buf;
    Py_ssize_t len;
} Py_buffer;
typedef struct {
    int slot;
    void *pfunc;
} PyType_Slot;
typedef struct {
    const char *name;
    int basicsize, itemsize;
    unsigned flags;
    PyType_Slot *slots;
} PyType_Spec;
typedef struct {
    const char *ml_name;
    void *ml_meth;
    int ml_flags;
    const char *ml_doc;
} PyMethodDef;
typedef struct {
    PyObject_HEAD
} PyBytesObject;

extern PyObject *PyExc_UnicodeDecodeError, *PyExc_UnicodeEncodeError;

void *PyType_GetModuleState(PyTypeObject *type);
int PyModule_AddType(PyObject *module, PyTypeObject *type);
void *PyErr_NoMemory(void);
PyObject *PyErr_Occurred(void);
void PyErr_Clear(void);
int PyErr_ExceptionMatches(PyObject *exception);
Py_hash_t PyObject_Hash(PyObject *object);
int PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **value);
PyObject *PyList_GetItemRef(PyObject *list, Py_ssize_t index);
PyObject *PyList_New(Py_ssize_t len);
int PyList_Append(PyObject *list, PyObject *object);
Py_ssize_t PyList_GET_SIZE(PyObject *list);
long long PyLong_AsLongLongAndOverflow(PyObject *number, int *overflow);
PyObject *PyBytes_FromStringAndSize(const char *bytes, Py_ssize_t len);
char *PyBytes_AS_STRING(PyObject *bytes);
const char *PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *len);
const char *PyUnicode_AsUTF8(PyObject *text);
PyObject *PyUnicode_DecodeUTF8(const char *bytes, Py_ssize_t len, const char *errors);
PyObject *PyUnicode_FromFormat(const char *format, ...);

#endif
