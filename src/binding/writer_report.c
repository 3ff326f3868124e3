/* writer_report.c - Writer.report(), record(), mark(), position: what is said without a commit. */
#include "writer_report.h"

#include "arguments.h"
#include "errors.h"
#include "region.h"
#include "writer/publish.h"
#include "writer/rounds.h"
#include "writer_object.h"

/* ---- arguments ---- */

static bool is_given(PyObject *object)
{
    return object != NULL && object != Py_None;
}

/* UTF-8 of an argument that is a str or None: 0, or -1 with an exception. Where a str has none, as
 * with the surrogates of a path that is not UTF-8, they are escaped, and *owned has the bytes. */
static int optional_text(PyObject *object, const char *what, const char **text, PyObject **owned)
{
    *text = NULL;
    *owned = NULL;
    if (!is_given(object)) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s is a str or None, not %.100s", what,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    *text = PyUnicode_AsUTF8(object);
    if (*text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        PyErr_Clear();
        *owned = PyUnicode_AsEncodedString(object, "utf-8", "backslashreplace");
        *text = *owned == NULL ? NULL : PyBytes_AS_STRING(*owned);
    }
    return *text == NULL ? -1 : 0;
}

/* Unix seconds; -1 for what is not given. 0, or -1 with an exception. */
static int optional_time(PyObject *object, const char *what, int64_t *microseconds)
{
    double seconds;
    *microseconds = -1;
    if (!is_given(object)) {
        return 0;
    }
    seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds >= 0 && seconds < 9e12)) {
        PyErr_SetString(PyExc_ValueError, what);
        return -1;
    }
    *microseconds = (int64_t)(seconds * 1e6);
    return 0;
}

static int confirmed_time(PyObject *object, int64_t *microseconds)
{
    if (object == Py_True) {
        *microseconds = mc_time_us();
        return 0;
    }
    return optional_time(object == Py_False ? NULL : object,
                         "confirmed: Unix seconds, or True for now", microseconds);
}

/* A count as an int; -1 for what is not given, and the largest for larger ones. 0, or -1 with
 * TypeError or ValueError. */
static int optional_count(PyObject *object, const char *what, int64_t *count)
{
    PyObject *number;
    int overflow;
    *count = -1;
    if (!is_given(object)) {
        return 0;
    }
    number = PyNumber_Index(object);
    if (number == NULL) {
        return -1;
    }
    *count = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow < 0 || (overflow == 0 && *count < 0)) {
        PyErr_Format(PyExc_ValueError, "%s: a count is 0 or more", what);
        return -1;
    }
    *count = overflow > 0 ? INT64_MAX : *count;
    return 0;
}

/* ---- counts by name ---- */

struct names {
    struct mc_counts counts;
    PyObject *texts; /* owned list of the bytes that its names are in */
};

static void free_names(struct names *names)
{
    Py_XDECREF(names->texts);
    PyMem_Free(names->counts.items);
}

/* One pair of items(): 0, or -1 with TypeError or ValueError. */
static int add_name(struct names *names, PyObject *pair, const char *what)
{
    struct mc_count *out = &names->counts.items[names->counts.number];
    PyObject *text;
    int64_t count;
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
        !PyUnicode_Check(PyTuple_GET_ITEM(pair, 0)) || PyTuple_GET_ITEM(pair, 1) == Py_None) {
        PyErr_Format(PyExc_TypeError, "%s: give a mapping of str to int", what);
        return -1;
    }
    if (optional_count(PyTuple_GET_ITEM(pair, 1), what, &count) < 0) {
        return -1;
    }
    text = PyUnicode_AsEncodedString(PyTuple_GET_ITEM(pair, 0), "utf-8", "backslashreplace");
    if (text == NULL || PyList_Append(names->texts, text) < 0) {
        Py_XDECREF(text);
        return -1;
    }
    Py_DECREF(text); /* the list has it */
    *out = (struct mc_count){.name = PyBytes_AS_STRING(text),
                             .name_len = (size_t)PyBytes_GET_SIZE(text),
                             .count = (uint64_t)count};
    names->counts.number++;
    return 0;
}

/* The counts of a mapping or None, *given saying which: 0, or -1 with an exception. */
static int optional_names(PyObject *object, const char *what, struct names *names,
                          const struct mc_counts **given)
{
    PyObject *items;
    int result = -1;
    *given = NULL;
    if (!is_given(object)) {
        return 0;
    }
    items = PyMapping_Items(object);
    if (items == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Format(PyExc_TypeError, "%s is a mapping of str to int or None, not %.100s", what,
                         Py_TYPE(object)->tp_name);
        }
        return -1;
    }
    Py_ssize_t number = PyList_GET_SIZE(items);
    names->texts = PyList_New(0);
    names->counts.items = PyMem_New(struct mc_count, (size_t)number + 1);
    if (names->texts != NULL && names->counts.items != NULL) {
        result = 0;
        for (Py_ssize_t i = 0; i < number && result == 0; i++) {
            result = add_name(names, PyList_GET_ITEM(items, i), what);
        }
    } else {
        PyErr_NoMemory();
    }
    Py_DECREF(items);
    *given = &names->counts;
    return result;
}

/* ---- methods ---- */

const char mc_report_doc[] = PyDoc_STR(
    "report($self, /, *, state=None, error=None, source=None, confirmed=None, following=None,\n"
    "       position_at=None, events=None, disconnects=None, loads=None, errors=None)\n--\n\n"
    "Updates what Cache.status() shows, without a commit. None keeps what is there.\n\n"
    "state: at most 31 bytes, such as \"polling\". error: at most 479 bytes, \"\" for none.\n"
    "source: at most 255 bytes; longer text is cut.\n"
    "confirmed: when the data was last known to be current, Unix seconds, or True for now.\n"
    "following: whether each change is heard of as it happens; opening and closing end it.\n"
    "position_at: the moment of the source that the data has reached, Unix seconds, 0 for none.\n"
    "events, disconnects: counts over the file's life.\n"
    "loads, errors: such counts by name, which take the place of the ones before. There is room\n"
    "for some 20 names of loads and 35 of errors: the largest counts keep theirs, the others and\n"
    "those with a name of more than 64 bytes are added up as \"other\".\n\n"
    "Raises ClosedError, ValueError, TypeError.");

PyObject *mc_writer_object_report(PyObject *self_object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"state",     "error",       "source", "confirmed",
                               "following", "position_at", "events", "disconnects",
                               "loads",     "errors",      NULL};
    mc_writer_object *self = (mc_writer_object *)self_object;
    PyObject *given[10] = {NULL}, *owned[3] = {NULL}, *result = NULL;
    const char *state, *error, *source;
    struct names loads = {.texts = NULL}, errors = {.texts = NULL};
    struct mc_report_stream stream = {.following = -1};
    int64_t confirmed;
    if (PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOOOOOOOO:report", keywords, &given[0],
                                    &given[1], &given[2], &given[3], &given[4], &given[5],
                                    &given[6], &given[7], &given[8], &given[9]) &&
        optional_text(given[0], "state", &state, &owned[0]) == 0 &&
        optional_text(given[1], "error", &error, &owned[1]) == 0 &&
        optional_text(given[2], "source", &source, &owned[2]) == 0 &&
        confirmed_time(given[3], &confirmed) == 0 &&
        (!is_given(given[4]) || (stream.following = PyObject_IsTrue(given[4])) >= 0) &&
        optional_time(given[5], "position_at: Unix seconds, or 0 for none",
                      &stream.position_at_us) == 0 &&
        optional_count(given[6], "events", &stream.events) == 0 &&
        optional_count(given[7], "disconnects", &stream.disconnects) == 0 &&
        optional_names(given[8], "loads", &loads, &stream.loads) == 0 &&
        optional_names(given[9], "errors", &errors, &stream.errors) == 0 &&
        mc_writer_enter(self) != NULL) {
        mc_writer_report(self->writer, state, error, source, confirmed, &stream);
        result = Py_NewRef(Py_None);
    }
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(owned[i]);
    }
    free_names(&loads);
    free_names(&errors);
    return result;
}

const char mc_record_doc[] = PyDoc_STR(
    "record($self, /, reason, *, started=None, seconds=0.0, put=0, deleted=0, bytes=0, rounds=1,\n"
    "       error=None)\n--\n\n"
    "Notes what a round did, for Cache.history(), without a commit; the oldest record goes.\n\n"
    "reason: why there was a round, at most 31 bytes. started: Unix seconds; None: seconds ago.\n"
    "put, deleted: documents. bytes: of what came from the source.\n"
    "rounds: how many of one kind this record stands for.\n"
    "error: at most 151 bytes, None or \"\" for none; longer text is cut.\n\n"
    "Not from two threads at once, and not in a forked child: it has no writer. Raises\n"
    "ClosedError, ValueError, TypeError.");

/* A count that may be left out, and is then `otherwise`: 0, or -1 with an exception. */
static int count_or(PyObject *object, const char *what, uint64_t otherwise, uint64_t *out)
{
    int64_t count;
    if (optional_count(object, what, &count) < 0) {
        return -1;
    }
    *out = count < 0 ? otherwise : (uint64_t)count;
    return 0;
}

PyObject *mc_writer_object_record(PyObject *self_object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"reason", "started", "seconds", "put", "deleted",
                               "bytes",  "rounds",  "error",   NULL};
    mc_writer_object *self = (mc_writer_object *)self_object;
    PyObject *given[8] = {NULL}, *owned[2] = {NULL}, *result = NULL;
    struct mc_round round = {.reason = ""};
    const char *reason, *error;
    int64_t duration;
    uint64_t rounds;
    if (PyArg_ParseTupleAndKeywords(args, kwargs, "U|$OOOOOOO:record", keywords, &given[0],
                                    &given[1], &given[2], &given[3], &given[4], &given[5],
                                    &given[6], &given[7]) &&
        optional_text(given[0], "reason", &reason, &owned[0]) == 0 &&
        optional_time(given[1], "started: Unix seconds", &round.started_at) == 0 &&
        optional_time(given[2], "seconds: 0 or more", &duration) == 0 &&
        count_or(given[3], "put", 0, &round.put) == 0 &&
        count_or(given[4], "deleted", 0, &round.deleted) == 0 &&
        count_or(given[5], "bytes", 0, &round.bytes) == 0 &&
        count_or(given[6], "rounds", 1, &rounds) == 0 &&
        optional_text(given[7], "error", &error, &owned[1]) == 0 && mc_writer_enter(self) != NULL) {
        struct mc_error problem;
        round.duration = duration < 0 ? 0 : (uint64_t)duration;
        round.rounds = rounds < UINT32_MAX ? (uint32_t)rounds : UINT32_MAX;
        round.reason = reason;
        round.error = error == NULL ? "" : error;
        if (round.started_at < 0) {
            round.started_at = mc_time_us() - (int64_t)round.duration;
        }
        result = mc_writer_record(self->writer, &round, &problem) == MC_OK
                     ? Py_NewRef(Py_None)
                     : mc_raise(self->module, &problem);
    }
    Py_XDECREF(owned[0]);
    Py_XDECREF(owned[1]);
    return result;
}

PyObject *mc_writer_object_mark(PyObject *self_object, PyObject *position)
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    PyObject *bytes = mc_frozen(position);
    PyObject *result = NULL;
    struct mc_error error;
    if (bytes != NULL && mc_writer_enter(self) != NULL) {
        enum mc_status status = mc_writer_mark(self->writer, PyBytes_AS_STRING(bytes),
                                               (size_t)PyBytes_GET_SIZE(bytes), &error);
        result = status == MC_OK ? Py_NewRef(Py_None) : mc_raise(self->module, &error);
    }
    Py_XDECREF(bytes);
    return result;
}

PyObject *mc_writer_object_position(PyObject *self_object, void *Py_UNUSED(closure))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    const uint8_t *bytes;
    size_t len;
    if (mc_writer_enter(self) == NULL) {
        return NULL;
    }
    len = mc_writer_position(self->writer, &bytes);
    return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)len);
}
