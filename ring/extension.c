/* extension.c - mmapcache.ring._ring: placement, clock and stored values for Python.
 *
 * Multi-phase initialisation, state in the module, heap types: each interpreter, with a lock of its
 * own or not, has a module of its own. A Placement does not change once it is made. A Clock does:
 * its methods run under the GIL, or under the object's own lock where there is none.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "entry.h"
#include "ring.h"

#ifndef Py_BEGIN_CRITICAL_SECTION /* before CPython 3.13: the GIL is held */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

#define METHOD(function) ((PyCFunction)(void (*)(void))(function))

struct module_state {
    PyTypeObject *placement, *clock;
};

/* ---- arguments ---- */

/* The bytes of a bytes object, or of a str in UTF-8; they are the object's. */
static const char *text_or_bytes(PyObject *object, const char *what, Py_ssize_t *length)
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

static int version_argument(PyObject *object, struct ring_version *version)
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
    return 0;
}

static int time_argument(PyObject *object, const char *what, uint64_t *time)
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

/* ---- Placement ---- */

struct placement {
    PyObject_HEAD
    struct ring ring;
    PyObject *ids; /* a tuple of str: those that are read, then the one that only the other has */
};

static void raise_wrong(enum ring_wrong wrong)
{
    switch (wrong) {
    case RING_NO_NODE:
        PyErr_SetString(PyExc_ValueError, "a ring needs a node: there is no id");
        break;
    case RING_TOO_MANY:
        PyErr_Format(PyExc_ValueError, "a ring has %d nodes at most", RING_NODES_MAX);
        break;
    case RING_BAD_ID:
        PyErr_Format(PyExc_ValueError,
                     "an id of a node has 1 to %d characters of A-Z, a-z, 0-9, '.', '_' and '-'",
                     RING_ID_MAX);
        break;
    default:
        PyErr_SetString(PyExc_ValueError, "an id of a node is there twice");
    }
}

/* Makes the ring of a tuple of ids. */
static int make(struct ring *ring, PyObject *ids, enum ring_change change, size_t changing)
{
    struct ring_id list[RING_NODES_MAX];
    Py_ssize_t count = PyTuple_GET_SIZE(ids);
    if (count > RING_NODES_MAX) {
        raise_wrong(RING_TOO_MANY);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length;
        list[i].bytes = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(ids, i), &length);
        if (list[i].bytes == NULL) {
            return -1;
        }
        list[i].length = (size_t)length;
    }
    enum ring_wrong wrong = ring_make(ring, list, (size_t)count, change, changing);
    if (wrong != RING_FINE) {
        raise_wrong(wrong);
        return -1;
    }
    return 0;
}

/* A new tuple of the str in an iterable. */
static PyObject *ids_argument(PyObject *object)
{
    if (PyUnicode_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "ids must be several str, not one");
        return NULL;
    }
    PyObject *ids = PySequence_Tuple(object);
    for (Py_ssize_t i = 0; ids != NULL && i < PyTuple_GET_SIZE(ids); i++) {
        PyObject *id = PyTuple_GET_ITEM(ids, i);
        if (!PyUnicode_Check(id)) {
            PyErr_Format(PyExc_TypeError, "an id must be str, not %.100s", Py_TYPE(id)->tp_name);
            Py_CLEAR(ids);
        }
    }
    return ids;
}

/* The index of the one id in `more` that is not in `fewer`; -1 and an error if it is not just one. */
static Py_ssize_t one_more(PyObject *more, PyObject *fewer)
{
    Py_ssize_t found = -1;
    Py_ssize_t count = PyTuple_GET_SIZE(more);
    for (Py_ssize_t i = 0; i < count; i++) {
        int there = PySequence_Contains(fewer, PyTuple_GET_ITEM(more, i));
        if (there < 0) {
            return -1;
        }
        if (there == 0 && found >= 0) {
            count = -1; /* a second one */
        } else if (there == 0) {
            found = i;
        }
    }
    if (found < 0 || count < 0 || PyTuple_GET_SIZE(fewer) != count - 1) {
        PyErr_SetString(PyExc_ValueError,
                        "change_to must be ids with one node more, or with one node less");
        return -1;
    }
    return found;
}

/* Makes self of the rings that are read and written; steals neither. */
static int make_both(struct placement *self, PyObject *ids, PyObject *other)
{
    struct ring checked; /* as both have to be valid by themselves, with no id twice */
    if (make(&checked, other, RING_STILL, 0) < 0 || make(&checked, ids, RING_STILL, 0) < 0) {
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(ids);
    if (PyTuple_GET_SIZE(other) < count) {
        Py_ssize_t changing = one_more(ids, other);
        self->ids = Py_NewRef(ids);
        return changing < 0 ? -1 : make(&self->ring, ids, RING_READ_WITH, (size_t)changing);
    }
    Py_ssize_t changing = one_more(other, ids);
    if (changing < 0) {
        return -1;
    }
    PyObject *added = PyTuple_GetSlice(other, changing, changing + 1);
    self->ids = added == NULL ? NULL : PySequence_Concat(ids, added);
    Py_XDECREF(added);
    return self->ids == NULL ? -1 : make(&self->ring, self->ids, RING_READ_WITHOUT, (size_t)count);
}

static PyObject *placement_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ids", "change_to", NULL};
    PyObject *ids_object, *other_object = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:Placement", names, &ids_object,
                                     &other_object)) {
        return NULL;
    }
    PyObject *ids = ids_argument(ids_object);
    PyObject *other = ids == NULL || other_object == Py_None ? NULL : ids_argument(other_object);
    struct placement *self = NULL;
    if (ids != NULL && (other != NULL || other_object == Py_None)) {
        self = (struct placement *)type->tp_alloc(type, 0);
    }
    int result = -1;
    if (self != NULL && other == NULL) {
        self->ids = Py_NewRef(ids);
        result = make(&self->ring, ids, RING_STILL, 0);
    } else if (self != NULL) {
        result = make_both(self, ids, other);
    }
    Py_XDECREF(ids);
    Py_XDECREF(other);
    if (result < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void placement_dealloc(struct placement *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->ids);
    type->tp_free(self);
    Py_DECREF(type);
}

/* A tuple of the first `count` of the nodes. */
static PyObject *tuple_of(const struct ring_holders *holders, unsigned count)
{
    PyObject *tuple = PyTuple_New(count);
    for (unsigned i = 0; tuple != NULL && i < count; i++) {
        PyObject *index = PyLong_FromLong(holders->node[i]); /* a small one: it is there already */
        if (index == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SET_ITEM(tuple, i, index);
        }
    }
    return tuple;
}

static PyObject *placement_holders(struct placement *self, PyObject *key)
{
    Py_ssize_t length;
    const char *bytes = text_or_bytes(key, "a key", &length);
    if (bytes == NULL) {
        return NULL;
    }
    struct ring_holders holders = ring_holders(&self->ring, ring_hash(bytes, (size_t)length));
    return tuple_of(&holders, holders.count);
}

static PyObject *placement_pair(struct placement *self, PyObject *key)
{
    Py_ssize_t length;
    const char *bytes = text_or_bytes(key, "a key", &length);
    if (bytes == NULL) {
        return NULL;
    }
    struct ring_holders holders = ring_holders(&self->ring, ring_hash(bytes, (size_t)length));
    return tuple_of(&holders, holders.pair);
}

static PyObject *placement_ids(struct placement *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self->ids);
}

PyDoc_STRVAR(
    placement_doc,
    "Placement(ids, change_to=None)\n--\n\n"
    "Which nodes of a ring hold a key: the two with the highest scores (docs/ring.md).\n\n"
    ":param ids: the ids (str) of the nodes that reads follow, 1 to 128; each has 1 to 64\n"
    "    characters of A-Z, a-z, 0-9, '.', '_' and '-'\n"
    ":param change_to: while a node comes or goes, the ids of the ring that is written,\n"
    "    too: the same with one node more, or with one less\n"
    ":raises ValueError: an id is malformed or there twice; no node; too many; change_to\n"
    "    differs by more than one node\n"
    ":raises TypeError: ids or change_to is one str, or holds something else than str\n\n"
    "It never changes: threads share it, and it may be used after a fork.");

PyDoc_STRVAR(placement_holders_doc,
             "holders($self, key, /)\n--\n\n"
             "Whom to write to: indexes into `ids`, one to three. First come those of pair().\n\n"
             ":param key: bytes, or str, which stands for its UTF-8\n"
             ":raises TypeError: it is neither\n"
             ":raises UnicodeEncodeError: a str with half of a surrogate pair");

PyDoc_STRVAR(
    placement_pair_doc,
    "pair($self, key, /)\n--\n\n"
    "Whom to read from, in this order: indexes into `ids`, two, or one in a ring of one.\n\n"
    ":param key: bytes, or str, which stands for its UTF-8\n"
    ":raises TypeError: it is neither\n"
    ":raises UnicodeEncodeError: a str with half of a surrogate pair");

static PyMethodDef placement_methods[] = {
    {"holders", METHOD(placement_holders), METH_O, placement_holders_doc},
    {"pair", METHOD(placement_pair), METH_O, placement_pair_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef placement_getset[] = {
    {"ids", (getter)placement_ids, NULL,
     "The ids (a tuple of str) that the indexes mean: those given, then the one that only\n"
     "change_to has.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot placement_slots[] = {
    {Py_tp_doc, (void *)placement_doc}, {Py_tp_new, placement_new},
    {Py_tp_dealloc, placement_dealloc}, {Py_tp_methods, placement_methods},
    {Py_tp_getset, placement_getset},   {0, NULL},
};

static PyType_Spec placement_spec = {
    .name = "mmapcache.ring._ring.Placement",
    .basicsize = sizeof(struct placement),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = placement_slots,
};

/* ---- Clock ---- */

struct clock {
    PyObject_HEAD
    struct ring_clock clock;
    pid_t process; /* whose writer it is; 0: the caller's own, whatever the process */
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* A writer of its own for this process: two that give out the same version would be lost. */
static int draw_writer(struct clock *self, pid_t process)
{
    if (getentropy(self->clock.writer, sizeof self->clock.writer) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    self->process = process;
    return 0;
}

static PyObject *clock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"writer", NULL};
    PyObject *writer = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Clock", names, &writer)) {
        return NULL;
    }
    if (writer != Py_None && !PyBytes_Check(writer)) {
        return PyErr_Format(PyExc_TypeError, "writer must be bytes or None, not %.100s",
                            Py_TYPE(writer)->tp_name);
    }
    if (writer != Py_None && PyBytes_GET_SIZE(writer) != RING_WRITER_BYTES) {
        return PyErr_Format(PyExc_ValueError, "writer has %d bytes, not %zd", RING_WRITER_BYTES,
                            PyBytes_GET_SIZE(writer));
    }
    struct clock *self = (struct clock *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (writer != Py_None) {
        memcpy(self->clock.writer, PyBytes_AS_STRING(writer), sizeof self->clock.writer);
    } else if (draw_writer(self, getpid()) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void clock_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *clock_next(struct clock *self, PyObject *ignored)
{
    (void)ignored;
    struct ring_version version;
    int result = 0;
    Py_BEGIN_CRITICAL_SECTION(self);
    pid_t process = self->process == 0 ? 0 : getpid();
    if (process != self->process) {
        result = draw_writer(self, process);
    }
    version = ring_clock_next(&self->clock, now());
    Py_END_CRITICAL_SECTION();
    return result < 0 ? NULL
                      : PyBytes_FromStringAndSize((const char *)version.bytes, RING_VERSION_BYTES);
}

static PyObject *clock_learn(struct clock *self, PyObject *what)
{
    struct ring_version version;
    uint64_t time = 0;
    bool of_time = PyLong_Check(what);
    if (of_time ? time_argument(what, "a time", &time) < 0 : version_argument(what, &version) < 0) {
        return NULL;
    }
    bool learned;
    Py_BEGIN_CRITICAL_SECTION(self);
    learned = of_time ? ring_clock_learn_time(&self->clock, time)
                      : ring_clock_learn(&self->clock, &version);
    Py_END_CRITICAL_SECTION();
    if (!learned) {
        return PyErr_Format(PyExc_ValueError, "a version's time must be 0 to %llu ms",
                            (unsigned long long)RING_TIME_MAX);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    clock_doc,
    "Clock(writer=None)\n--\n\n"
    "A hybrid logical clock: makes versions, each above all that it made or saw.\n\n"
    ":param writer: the last 8 bytes of its versions. None: drawn at random, anew in each\n"
    "    process and after each fork. Bytes: kept, for tests\n"
    ":raises ValueError: writer has not 8 bytes\n"
    ":raises TypeError: it is neither bytes nor None\n\n"
    "Threads may share it; a child of a fork goes on with a writer of its own.");

PyDoc_STRVAR(clock_next_doc,
             "next($self, /)\n--\n\n"
             "A new version: 16 bytes, above every one before it.\n\n"
             ":raises OSError: no random number could be had for the writer, after a fork");

PyDoc_STRVAR(clock_learn_doc,
             "learn($self, what, /)\n--\n\n"
             "From now on versions are above this one, or not of an earlier time.\n\n"
             ":param what: a version (16 bytes), or a time (int, ms since 1970)\n"
             ":raises ValueError: not 16 bytes, or a time beyond 2**47 - 1 ms\n"
             ":raises TypeError: it is neither bytes nor int");

static PyMethodDef clock_methods[] = {
    {"next", METHOD(clock_next), METH_NOARGS, clock_next_doc},
    {"learn", METHOD(clock_learn), METH_O, clock_learn_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot clock_slots[] = {
    {Py_tp_doc, (void *)clock_doc},
    {Py_tp_new, clock_new},
    {Py_tp_dealloc, clock_dealloc},
    {Py_tp_methods, clock_methods},
    {0, NULL},
};

static PyType_Spec clock_spec = {
    .name = "mmapcache.ring._ring.Clock",
    .basicsize = sizeof(struct clock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = clock_slots,
};

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
    if ((kind == -1 && PyErr_Occurred()) || version_argument(args[1], &version) < 0 ||
        time_argument(args[2], "end", &end) < 0) {
        return NULL;
    }
    const char *value = text_or_bytes(args[3], "a value", &length);
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

static int module_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    state->placement = (PyTypeObject *)PyType_FromModuleAndSpec(module, &placement_spec, NULL);
    state->clock = (PyTypeObject *)PyType_FromModuleAndSpec(module, &clock_spec, NULL);
    if (state->placement == NULL || state->clock == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->placement) | PyModule_AddType(module, state->clock) |
           PyModule_AddIntConstant(module, "VALUE", RING_VALUE) |
           PyModule_AddIntConstant(module, "TOMBSTONE", RING_TOMBSTONE) |
           PyModule_AddIntConstant(module, "HEADER_BYTES", RING_HEADER_BYTES) |
           PyModule_AddIntConstant(module, "VERSION_BYTES", RING_VERSION_BYTES) |
           PyModule_AddIntConstant(module, "TOMBSTONE_MS", RING_TOMBSTONE_MS) |
           PyModule_AddIntConstant(module, "MAX_NODES", RING_NODES_MAX) |
           PyModule_AddIntConstant(module, "MAX_ID_CHARACTERS", RING_ID_MAX) |
           PyModule_AddIntConstant(module, "MAX_TIME", (long)RING_TIME_MAX);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->placement);
    Py_VISIT(state->clock);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->placement);
    Py_CLEAR(state->clock);
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear(module);
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
    .m_size = sizeof(struct module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModuleDef_Init(&module_def);
}
