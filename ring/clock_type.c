/* clock_type.c - the type Clock. Its methods run under the GIL, or under the object's own lock. */
#include "extension.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

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
    PyObject *os = PyImport_ImportModule("os"); /* which knows how, with each C library */
    PyObject *name = PyUnicode_InternFromString("urandom"); /* a name made anew stays in caches */
    PyObject *size = PyLong_FromLong(RING_WRITER_BYTES);
    PyObject *random = os == NULL || name == NULL || size == NULL
                           ? NULL
                           : PyObject_CallMethodObjArgs(os, name, size, NULL);
    int result = -1;
    if (random != NULL && PyBytes_Check(random) && PyBytes_GET_SIZE(random) == RING_WRITER_BYTES) {
        memcpy(self->clock.writer, PyBytes_AS_STRING(random), RING_WRITER_BYTES);
        self->process = process;
        result = 0;
    } else if (random != NULL) {
        PyErr_SetString(PyExc_OSError, "os.urandom() gave something else than 8 bytes");
    }
    Py_XDECREF(random);
    Py_XDECREF(size);
    Py_XDECREF(name);
    Py_XDECREF(os);
    return result;
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
    if (of_time ? ring_time_argument(what, "a time", &time) < 0
                : ring_version_argument(what, &version) < 0) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (of_time) {
        ring_clock_learn_time(&self->clock, time);
    } else {
        ring_clock_learn(&self->clock, &version);
    }
    Py_END_CRITICAL_SECTION();
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

PyType_Spec ring_clock_spec = {
    .name = "mmapcache.ring._ring.Clock",
    .basicsize = sizeof(struct clock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = clock_slots,
};
