/* object_id.c - the type object_id: MongoDB's ObjectId without PyMongo.
 *
 * Twelve bytes and a hash. It equals bson.ObjectId, hashes as one does and is ordered among them,
 * so that either finds what the other was stored under, in a dict and in a collection. bson knows
 * it by `_type_marker` and `binary` and writes it as an ObjectId.
 */
#include "object_id.h"

#include "classes.h"

enum { OBJECT_ID = 12 };

struct object_id {
    PyObject_HEAD
    Py_hash_t hash; /* -1: not asked yet */
    uint8_t bytes[OBJECT_ID];
};

static struct object_id *alloc(PyTypeObject *type, const uint8_t *bytes)
{
    struct object_id *self = PyObject_New(struct object_id, type);
    if (self != NULL) {
        self->hash = -1;
        memcpy(self->bytes, bytes, OBJECT_ID);
    }
    return self;
}

PyObject *mc_object_id_new(struct mc_document_state *state, const uint8_t bytes[12])
{
    return (PyObject *)alloc(state->object_id_type, bytes);
}

const uint8_t *mc_object_id_bytes(PyObject *object)
{
    return ((struct object_id *)object)->bytes;
}

bool mc_object_id_read(PyObject *text, uint8_t out[12])
{
    if (!PyUnicode_Check(text) || PyUnicode_GET_LENGTH(text) != 2 * (Py_ssize_t)OBJECT_ID ||
        !PyUnicode_IS_ASCII(text)) {
        return false;
    }
    for (int i = 0; i < 2 * OBJECT_ID; i++) {
        uint8_t digit = PyUnicode_1BYTE_DATA(text)[i];
        uint8_t letter = digit | 0x20; /* in lower case */
        if (digit >= '0' && digit <= '9') {
            digit -= '0';
        } else if (letter >= 'a' && letter <= 'f') {
            digit = (uint8_t)(letter - 'a' + 10);
        } else {
            return false;
        }
        out[i / 2] = (uint8_t)(i % 2 == 0 ? digit << 4 : out[i / 2] | digit);
    }
    return true;
}

/* The bytes of an object_id, or of what marks itself as an ObjectId as bson's do: 1, 0, -1. */
static int bytes_of(struct mc_document_state *state, PyObject *object, uint8_t out[12])
{
    PyObject *binary;
    long marker;
    int found = 0;
    if (Py_TYPE(object) == state->object_id_type) {
        memcpy(out, mc_object_id_bytes(object), OBJECT_ID);
        return 1;
    }
    marker = mc_marker_of(state, (PyObject *)Py_TYPE(object));
    if (marker != MC_MARKER_OBJECTID) {
        return marker < 0 ? -1 : 0;
    }
    binary = PyObject_GetAttr(object, state->texts[MC_TEXT_BINARY]);
    if (binary != NULL && PyBytes_Check(binary) && PyBytes_GET_SIZE(binary) == OBJECT_ID) {
        memcpy(out, PyBytes_AS_STRING(binary), OBJECT_ID);
        found = 1;
    }
    Py_XDECREF(binary);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyErr_Clear();
    return found;
}

static PyObject *from_call(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct mc_document_state *state = PyType_GetModuleState(type);
    static char *names[] = {"", NULL};
    uint8_t bytes[OBJECT_ID];
    PyObject *given;
    int found;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:object_id", names, &given)) {
        return NULL;
    }
    if (mc_object_id_read(given, bytes)) {
        return (PyObject *)alloc(type, bytes);
    }
    if (PyBytes_Check(given) && PyBytes_GET_SIZE(given) == OBJECT_ID) {
        return (PyObject *)alloc(type, (const uint8_t *)PyBytes_AS_STRING(given));
    }
    if (PyUnicode_Check(given) || PyBytes_Check(given)) {
        return PyErr_Format(PyExc_ValueError,
                            "%.100R is no ObjectId: give its 24 hexadecimal digits, or 12 bytes",
                            given);
    }
    found = bytes_of(state, given, bytes);
    if (found == 0) {
        PyErr_Format(PyExc_TypeError,
                     "an object_id is made of 24 hexadecimal digits, 12 bytes or an ObjectId, not "
                     "of %.100s",
                     Py_TYPE(given)->tp_name);
    }
    return found > 0 ? (PyObject *)alloc(type, bytes) : NULL;
}

static void dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *binary_of(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBytes_FromStringAndSize((const char *)mc_object_id_bytes(self), OBJECT_ID);
}

/* That of its bytes, as bson has it. */
static Py_hash_t hash(PyObject *object)
{
    struct object_id *self = (struct object_id *)object;
    Py_hash_t known = mc_peek(&self->hash);
    if (known == -1) {
        PyObject *bytes = binary_of(object, NULL);
        known = bytes != NULL ? PyObject_Hash(bytes) : -1;
        Py_XDECREF(bytes);
        mc_poke(&self->hash, known); /* of several threads each writes the same */
    }
    return known;
}

static PyObject *compare(PyObject *self, PyObject *other, int operation)
{
    uint8_t bytes[OBJECT_ID];
    int order, found = bytes_of(PyType_GetModuleState(Py_TYPE(self)), other, bytes);
    if (found <= 0) {
        return found < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    }
    order = memcmp(mc_object_id_bytes(self), bytes, OBJECT_ID);
    Py_RETURN_RICHCOMPARE(order, 0, operation);
}

static PyObject *text(PyObject *self)
{
    static const char digits[] = "0123456789abcdef";
    char out[2 * OBJECT_ID];
    for (int i = 0; i < OBJECT_ID; i++) {
        out[2 * i] = digits[mc_object_id_bytes(self)[i] >> 4];
        out[2 * i + 1] = digits[mc_object_id_bytes(self)[i] & 15];
    }
    return PyUnicode_FromStringAndSize(out, sizeof out);
}

static PyObject *repr(PyObject *self)
{
    PyObject *digits = text(self);
    PyObject *shown = digits != NULL ? PyUnicode_FromFormat("object_id('%U')", digits) : NULL;
    Py_XDECREF(digits);
    return shown;
}

static PyObject *reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("O(N)", Py_TYPE(self), binary_of(self, NULL));
}

static PyMethodDef methods[] = {
    {"__reduce__", reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"binary", binary_of, NULL, "Its 12 bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(doc, "object_id(value, /)\n--\n\n"
                  "MongoDB's ObjectId as a key, without PyMongo: sites[object_id(\"6b0b...\")].\n\n"
                  "value: 24 hexadecimal digits, 12 bytes, or an ObjectId. It equals bson.ObjectId "
                  "and hashes as one does; str() gives the digits. Raises ValueError, TypeError.\n"
                  "Immutable: any thread and any forked child may use it.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)doc},     {Py_tp_new, from_call},
    {Py_tp_dealloc, dealloc},     {Py_tp_hash, hash},
    {Py_tp_richcompare, compare}, {Py_tp_str, text},
    {Py_tp_repr, repr},           {Py_tp_methods, methods},
    {Py_tp_getset, getset},       {0, NULL},
};

PyType_Spec mc_object_id_spec = {
    .name = "mmapcache.object_id",
    .basicsize = sizeof(struct object_id),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
