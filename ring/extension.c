/* extension.c - mmapcache.ring._ring: placement, clock and stored values for Python.
 *
 * Multi-phase initialisation and heap types: each interpreter, with a lock of its own or not, has a
 * module of its own. placement_type.c and clock_type.c have the types.
 */
#include "extension.h"

#include <string.h>

/* ---- arguments ---- */

const char *ring_text_or_bytes(PyObject *object, const char *what, Py_ssize_t *length)
{
    if (PyBytes_Check(object)) {
        *length = PyBytes_GET_SIZE(object);
        return PyBytes_AS_STRING(object);
    }
    if (PyUnicode_Check(object)) {
        return PyUnicode_AsUTF8AndSize(object, length);
    }
    PyErr_Format(PyExc_TypeError, "%s must be bytes or str, not %.100s", what,
                 Py_TYPE(object)->tp_name);
    return NULL;
}

int ring_version_argument(PyObject *object, struct ring_version *version)
{
    if (!PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "a version must be bytes, not %.100s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    if (PyBytes_GET_SIZE(object) != RING_VERSION_BYTES) {
        PyErr_Format(PyExc_ValueError, "a version has %d bytes, not %zd", RING_VERSION_BYTES,
                     PyBytes_GET_SIZE(object));
        return -1;
    }
    memcpy(version->bytes, PyBytes_AS_STRING(object), sizeof version->bytes);
    if (ring_version_time(version) > RING_TIME_MAX) {
        PyErr_Format(PyExc_ValueError, "a version's time must be 0 to %llu ms, not %llu",
                     (unsigned long long)RING_TIME_MAX,
                     (unsigned long long)ring_version_time(version));
        return -1;
    }
    return 0;
}

int ring_time_argument(PyObject *object, const char *what, uint64_t *time)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(object);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Format(PyExc_ValueError, "%s must be 0 to %llu ms, not %R", what,
                         (unsigned long long)RING_TIME_MAX, object);
        }
        return -1;
    }
    if (number > RING_TIME_MAX) {
        PyErr_Format(PyExc_ValueError, "%s must be 0 to %llu ms, not %llu", what,
                     (unsigned long long)RING_TIME_MAX, number);
        return -1;
    }
    *time = number;
    return 0;
}

/* ---- stored values ---- */

static PyObject *encode(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 4) {
        return PyErr_Format(PyExc_TypeError,
                            "encode() takes kind, version, end and value: "
                            "4 arguments, not %zd",
                            count);
    }
    long kind = PyLong_AsLong(args[0]);
    struct ring_version version;
    uint64_t end;
    Py_ssize_t length;
    if ((kind == -1 && PyErr_Occurred()) || ring_version_argument(args[1], &version) < 0 ||
        ring_time_argument(args[2], "end", &end) < 0) {
        return NULL;
    }
    const char *value = ring_text_or_bytes(args[3], "a value", &length);
    if (value == NULL) {
        return NULL;
    }
    if (length > PY_SSIZE_T_MAX - RING_HEADER_BYTES) {
        return PyErr_NoMemory();
    }
    PyObject *entry = PyBytes_FromStringAndSize(NULL, RING_HEADER_BYTES + length);
    if (entry == NULL) {
        return NULL;
    }
    unsigned char *at = (unsigned char *)PyBytes_AS_STRING(entry);
    ring_entry_header(at, kind == RING_TOMBSTONE ? RING_TOMBSTONE : RING_VALUE, &version, end);
    memcpy(at + RING_HEADER_BYTES, value, (size_t)length);
    struct ring_entry decoded;
    if ((kind != RING_VALUE && kind != RING_TOMBSTONE) ||
        !ring_entry_decode(&decoded, at, (size_t)PyBytes_GET_SIZE(entry))) {
        Py_DECREF(entry);
        PyErr_SetString(PyExc_ValueError, "kind must be 1, a value, or 2, a tombstone, which has "
                                          "no value and ends an hour after its version");
        return NULL;
    }
    return entry;
}

static PyObject *decode(PyObject *module, PyObject *object)
{
    (void)module;
    if (!PyBytes_Check(object)) {
        return PyErr_Format(PyExc_TypeError, "an entry must be bytes, not %.100s",
                            Py_TYPE(object)->tp_name);
    }
    struct ring_entry entry;
    if (!ring_entry_decode(&entry, PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object))) {
        PyErr_SetString(PyExc_ValueError, "these bytes are not those of a value of the ring");
        return NULL;
    }
    return Py_BuildValue("(iy#Ky#)", (int)entry.kind, (const char *)entry.version.bytes,
                         (Py_ssize_t)RING_VERSION_BYTES, (unsigned long long)entry.end,
                         (const char *)entry.value, (Py_ssize_t)entry.length);
}

PyDoc_STRVAR(encode_doc,
             "encode($module, kind, version, end, value, /)\n--\n\n"
             "The bytes that a holder stores for a value.\n\n"
             ":param kind: 1 a value, 2 a tombstone\n"
             ":param version: 16 bytes\n"
             ":param end: ms since 1970; 0: never. A tombstone ends an hour after its version\n"
             ":param value: bytes, or str, which stands for its UTF-8; of a tombstone empty\n"
             ":raises ValueError: another kind; a version, end or tombstone that cannot be\n"
             ":raises TypeError: an argument of another type");

PyDoc_STRVAR(decode_doc, "decode($module, entry, /)\n--\n\n"
                         "(kind, version, end, value) of the bytes that a holder stores.\n\n"
                         ":param entry: bytes\n"
                         ":raises ValueError: they are not those of a value of the ring\n"
                         ":raises TypeError: not bytes");

static PyMethodDef module_methods[] = {
    {"encode", METHOD(encode), METH_FASTCALL, encode_doc},
    {"decode", METHOD(decode), METH_O, decode_doc},
    {NULL, NULL, 0, NULL},
};

/* ---- the module ---- */

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int status = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return status;
}

static int module_exec(PyObject *module)
{
    if (add_type(module, &ring_placement_spec) != 0 || add_type(module, &ring_clock_spec) != 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "VALUE", RING_VALUE) |
           PyModule_AddIntConstant(module, "TOMBSTONE", RING_TOMBSTONE) |
           PyModule_AddIntConstant(module, "HEADER_BYTES", RING_HEADER_BYTES) |
           PyModule_AddIntConstant(module, "VERSION_BYTES", RING_VERSION_BYTES) |
           PyModule_AddIntConstant(module, "TOMBSTONE_MS", RING_TOMBSTONE_MS) |
           PyModule_AddIntConstant(module, "MAX_NODES", RING_NODES_MAX) |
           PyModule_AddIntConstant(module, "MAX_ID_CHARACTERS", RING_ID_MAX) |
           PyModule_AddIntConstant(module, "MAX_TIME", (long)RING_TIME_MAX);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if defined(Py_GIL_DISABLED) && defined(MC_NO_GIL)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mmapcache.ring._ring",
    .m_doc = "The C half of mmapcache.ring: placement, versions, stored values.",
    .m_size = 0,
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModuleDef_Init(&module_def);
}
