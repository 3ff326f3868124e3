/* cache_type.c - mmapcache.open() and the type Cache: a mapping from name to Collection. */
#include "cache_type.h"

#include "absent.h"
#include "arguments.h"
#include "cache.h"
#include "cache_changes.h"
#include "cache_history.h"
#include "cache_report.h"
#include "errors.h"
#include "not_ready.h"
#include "region.h"
#include "snapshot_type.h"

#define OPEN_RETRY 10000000ll /* nanoseconds between two tries to open a file that is not there */
#define WAIT_SLICE 50000000ll /* nanoseconds between two looks at signals and at the path */

/* ---- making ---- */

static PyObject *names_of(PyObject *self);
static PyObject *find(PyObject *self, PyObject *name);

static const struct mc_mapping mapping = {names_of, mc_cache_collection, find};

int mc_cache_options_from(PyObject *codec_options, PyObject *front_bytes, PyObject *front_entries,
                          bool populate, struct mc_cache_options *out)
{
    uint64_t entries = MC_FRONT_ENTRIES_DEFAULT;
    *out = (struct mc_cache_options){.populate = populate};
    out->codec_options = codec_options == Py_None ? NULL : codec_options;
    out->limits.front_bytes = MC_FRONT_BYTES_DEFAULT;
    if ((front_bytes != NULL &&
         mc_size(front_bytes, "front_bytes", &out->limits.front_bytes) < 0) ||
        (front_entries != NULL && mc_size(front_entries, "front_entries", &entries) < 0)) {
        return -1;
    }
    if (entries > MC_FRONT_ENTRIES_MAX) {
        PyErr_Format(PyExc_ValueError, "front_entries is %R: at most %u", front_entries,
                     MC_FRONT_ENTRIES_MAX);
        return -1;
    }
    out->limits.front_entries = (uint32_t)entries;
    return 0;
}

static int populate(struct mc_module *module, struct mc_reading *reading)
{
    struct mc_error error;
    enum mc_status status;
    mc_reading_retain(reading);
    Py_BEGIN_ALLOW_THREADS
    status = mc_map_populate(reading->view.map, &error);
    Py_END_ALLOW_THREADS
    mc_reading_release(reading);
    if (status != MC_OK) {
        mc_raise(module, &error);
        return -1;
    }
    return 0;
}

PyObject *mc_cache_new(struct mc_module *module, PyObject *path, const char *absolute,
                       const struct mc_view *view, const struct mc_cache_options *options)
{
    mc_cache_object *self;
    struct mc_reader *reader = mc_reader_new(module, absolute, view, options->limits);
    if (reader == NULL) {
        return NULL;
    }
    self = PyObject_New(mc_cache_object, module->cache);
    if (self == NULL) {
        mc_reader_release(reader);
        return NULL;
    }
    if (options->owner > 0) {
        reader->owner = options->owner;
    }
    self->head.mapping = &mapping;
    self->reader = reader;
    self->path = Py_NewRef(path);
    self->options = NULL;
    self->handles = PyDict_New();
    if (self->handles != NULL) { /* else there is an exception, with which nothing must be run */
        self->options = mc_options_from(
            &module->documents, options->codec_options == NULL ? Py_None : options->codec_options);
    }
    if (self->options == NULL || (options->populate && populate(module, reader->lane.now) < 0)) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* Opens the file, waiting for its first generation until `deadline`: 0, or -1 with an exception. */
static int open_waiting(struct mc_module *module, const char *path, int64_t owner, int64_t timeout,
                        struct mc_view *view)
{
    int64_t start = mc_clock_ns();
    for (;;) {
        struct mc_error error;
        enum mc_status status;
        int64_t left;
        Py_BEGIN_ALLOW_THREADS
        status = mc_reader_open(path, -1, owner, false, view, &error);
        Py_END_ALLOW_THREADS
        if (status == MC_OK) {
            return 0;
        }
        left = timeout == MC_FOREVER ? MC_FOREVER : timeout - (mc_clock_ns() - start);
        /* after an upgrade the loader will make it anew, as a rule */
        bool worth_waiting = status == MC_NOT_READY || status == MC_VERSION_DIFFERS;
        if (!worth_waiting || left <= 0) {
            if (status == MC_NOT_READY) {
                mc_raise_not_ready(module, path, owner, &error);
            } else {
                mc_raise(module, &error);
            }
            return -1;
        }
        if (mc_sleep(left < OPEN_RETRY ? left : OPEN_RETRY) < 0) {
            return -1;
        }
    }
}

const char mc_open_doc[] = PyDoc_STR(
    "open($module, /, path, timeout=0.0, *, populate=False, codec_options=None,\n"
    "     front_bytes=16777216, front_entries=16384, owner=None)\n--\n\n"
    "Opens a cache file for reading, before or after a fork.\n\n"
    "path: str or path object. timeout: seconds to wait for the first generation; None for ever.\n"
    "populate: map all pages now instead of at their first use.\n"
    "codec_options: PyMongo's CodecOptions for tz_aware, tzinfo, uuid_representation and\n"
    "datetime_conversion.\n"
    "front_bytes, front_entries: how many bytes and Documents this process may keep in front of\n"
    "the file, an int or text like \"64MiB\"; 0 turns the front cache off.\n"
    "owner: the loader's user, a uid or a name. A file is trusted when it belongs to root, to\n"
    "this process's own user, or to that one; others are refused.\n\n"
    "Any number of threads, and children forked later, may use the Cache.\n\n"
    "Raises NotReadyError, FormatError, CorruptError, OSError; ValueError, TypeError.");

PyObject *mc_open(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path",        "timeout",       "populate", "codec_options",
                            "front_bytes", "front_entries", "owner",    NULL};
    struct mc_module *state = PyModule_GetState(module);
    PyObject *given, *encoded = NULL, *text = NULL, *cache = NULL;
    PyObject *timeout = NULL, *codec_options = NULL, *bytes = NULL, *entries = NULL;
    PyObject *user = NULL;
    struct mc_cache_options options;
    struct mc_view view;
    int64_t nanoseconds = 0;
    int fill = 0;
    char *absolute = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$pOOOO:open", names, &given, &timeout, &fill,
                                     &codec_options, &bytes, &entries, &user) ||
        (timeout != NULL && mc_seconds(timeout, "timeout", &nanoseconds) < 0) ||
        mc_cache_options_from(codec_options, bytes, entries, fill, &options) < 0 ||
        (user != NULL && mc_user(user, "owner", &options.owner) < 0) ||
        !PyUnicode_FSConverter(given, &encoded)) {
        return NULL;
    }
    text = PyUnicode_DecodeFSDefaultAndSize(PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded));
    absolute = text == NULL ? NULL : mc_absolute_path(encoded);
    if (absolute != NULL && open_waiting(state, absolute, options.owner, nanoseconds, &view) == 0) {
        cache = mc_cache_new(state, text, absolute, &view, &options);
    }
    PyMem_Free(absolute);
    Py_XDECREF(text);
    Py_DECREF(encoded);
    return cache;
}

static void cache_dealloc(PyObject *self_object)
{
    mc_cache_object *self = (mc_cache_object *)self_object;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->handles);
    Py_DECREF(self->path);
    if (self->options != NULL) {
        mc_options_release(self->options);
    }
    mc_reader_release(self->reader);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- collections ---- */

/* Makes the handle's table right: 1 when the collection is there, 0, or -1 with an exception. */
static int is_there(mc_collection_object *handle)
{
    struct mc_reading *reading;
    return mc_collection_ready(handle, &reading) == MC_OK
               ? mc_collection_table(handle)->created != 0
               : -1;
}

static PyObject *find(PyObject *self, PyObject *name)
{
    PyObject *handle;
    if (!PyUnicode_Check(name)) {
        (void)mc_reader_now(mc_cache_reader(self)); /* a cache that was closed says so */
        return NULL;
    }
    handle = mc_cache_collection(self, name, NULL);
    if (handle != NULL && is_there((mc_collection_object *)handle) <= 0) {
        Py_CLEAR(handle);
    }
    return handle;
}

static PyObject *cache_subscript(PyObject *self, PyObject *name)
{
    PyObject *found = find(self, name);
    return found != NULL || PyErr_Occurred()
               ? found
               : mc_absent_collection(mc_cache_reader(self),
                                      mc_reader_lane(mc_cache_reader(self))->now, name);
}

static int cache_contains(PyObject *self, PyObject *name)
{
    PyObject *found = find(self, name);
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(found);
    return 1;
}

static Py_ssize_t cache_length(PyObject *self)
{
    struct mc_reading *reading = mc_reader_now(mc_cache_reader(self));
    return reading == NULL ? -1 : (Py_ssize_t)reading->view.root.collections;
}

static PyObject *names_of(PyObject *self)
{
    struct mc_reader *reader = mc_cache_reader(self);
    unsigned tries = 0;
    for (;;) {
        enum mc_status status;
        struct mc_reading *reading = mc_reader_now(reader);
        PyObject *names;
        if (reading == NULL) {
            return NULL;
        }
        mc_reading_retain(reading);
        names = mc_reading_names(reader, reading, PY_SSIZE_T_MAX, &status);
        mc_reading_release(reading);
        if (names != NULL || status != MC_EXPIRED || !mc_reader_again(reader, &tries)) {
            return names;
        }
    }
}

/* ---- generations ---- */

static PyObject *cache_generation(PyObject *self, void *Py_UNUSED(closure))
{
    struct mc_reading *reading = mc_reader_now(mc_cache_reader(self));
    return reading == NULL ? NULL : PyLong_FromUnsignedLongLong(mc_reading_generation(reading));
}

static PyObject *cache_snapshot(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct mc_reader *reader = mc_cache_reader(self);
    struct mc_reading *reading = mc_reader_now(reader);
    return reading == NULL ? NULL : mc_snapshot_new(reader->module, self, reading);
}

/* One slice of waiting for the reading's successor: 0, or -1 with an exception. */
static int wait_slice(struct mc_reader *reader, struct mc_reading *reading, int64_t nanoseconds)
{
    bool moved;
    struct mc_map *map = mc_map_retain(reading->view.map);
    uint64_t generation = reading->view.root.generation;
    Py_BEGIN_ALLOW_THREADS
    moved = mc_map_wait(map, generation, nanoseconds);
    Py_END_ALLOW_THREADS
    mc_map_release(map);
    if (moved && mc_reader_lane(reader)->now == reading && mc_reader_update(reader) == reading &&
        reading->view.root.generation == generation) {
        return mc_sleep(OPEN_RETRY); /* published, but not to be read yet */
    }
    return PyErr_CheckSignals();
}

static PyObject *cache_wait(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"generation", "timeout"};
    struct mc_reader *reader = mc_cache_reader(self);
    PyObject *values[2];
    int64_t timeout, start = mc_clock_ns();
    if (!mc_arguments("wait", names, 1, args, nargs, kwnames, values) ||
        mc_seconds_left(values[1], "timeout", &timeout) < 0) {
        return NULL;
    }
    if (!PyLong_Check(values[0])) {
        PyErr_Format(PyExc_TypeError, "a generation is an int, not %.100s",
                     Py_TYPE(values[0])->tp_name);
        return NULL;
    }
    for (;;) {
        PyObject *now;
        int same;
        int64_t left;
        struct mc_reading *reading = mc_reader_update(reader);
        now = reading == NULL ? NULL : PyLong_FromUnsignedLongLong(mc_reading_generation(reading));
        same = now == NULL ? -1 : PyObject_RichCompareBool(now, values[0], Py_EQ);
        Py_XDECREF(now);
        if (same < 0) {
            return NULL;
        }
        left = timeout == MC_FOREVER ? MC_FOREVER : timeout - (mc_clock_ns() - start);
        if (!same || left <= 0) {
            return PyBool_FromLong(!same);
        }
        if (mc_reader_lane(reader)->now ==
                reading && /* unless the number's own == closed the cache, or read on */
            wait_slice(reader, reading, left < WAIT_SLICE ? left : WAIT_SLICE) < 0) {
            return NULL;
        }
    }
}

static PyObject *cache_state(PyObject *self, void *Py_UNUSED(closure))
{
    struct mc_reader *reader = mc_cache_reader(self);
    unsigned tries = 0;
    for (;;) {
        enum mc_status status;
        struct mc_reading *reading = mc_reader_now(reader);
        PyObject *bytes =
            reading == NULL ? NULL : mc_view_state_bytes(reader->module, &reading->view, &status);
        if (bytes != NULL || reading == NULL || status != MC_EXPIRED ||
            !mc_reader_again(reader, &tries)) {
            return bytes;
        }
    }
}

/* ---- the object ---- */

static PyObject *cache_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    mc_reader_close(mc_cache_reader(self));
    Py_RETURN_NONE;
}

static PyObject *cache_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mc_reader_now(mc_cache_reader(self)) == NULL ? NULL : Py_NewRef(self);
}

static PyObject *cache_exit(PyObject *self, PyObject *const *Py_UNUSED(args),
                            Py_ssize_t Py_UNUSED(nargs))
{
    return cache_close(self, NULL);
}

static PyObject *cache_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(mc_reader_closed(mc_cache_reader(self)));
}

static PyObject *cache_path(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((mc_cache_object *)self)->path);
}

static PyObject *cache_repr(PyObject *self)
{
    return PyUnicode_FromFormat(mc_reader_closed(mc_cache_reader(self))
                                    ? "<mmapcache.Cache %R, closed>"
                                    : "<mmapcache.Cache %R>",
                                ((mc_cache_object *)self)->path);
}

static PyMethodDef methods[] = {
    {"get", (PyCFunction)(void (*)(void))mc_mapping_get, METH_FASTCALL | METH_KEYWORDS,
     "get($self, /, name, default=None)\n--\n\nThe Collection of that name, or default.\n\n"
     "Raises ClosedError, CorruptError."},
    {"collection", (PyCFunction)(void (*)(void))mc_mapping_collection,
     METH_FASTCALL | METH_KEYWORDS,
     "collection($self, /, name, codec_options=None)\n--\n\n"
     "The Collection of that name, there or not: an absent one is empty until it appears, so a\n"
     "wrong name is not noticed here. repr() says that it is absent, and [key] on it raises a\n"
     "KeyError with the collections that there are, as cache[name] does at once.\n\n"
     "codec_options: PyMongo's CodecOptions for this collection's values and keys.\n\n"
     "Raises ClosedError; LimitError for a name that none can have."},
    {"keys", mc_mapping_keys, METH_NOARGS, "keys($self, /)\n--\n\nThe collections' names."},
    {"values", mc_mapping_values, METH_NOARGS, "values($self, /)\n--\n\nThe Collections."},
    {"items", mc_mapping_items, METH_NOARGS,
     "items($self, /)\n--\n\nPairs of name and Collection."},
    {"_ipython_key_completions_", mc_mapping_completions, METH_NOARGS, NULL},
    {"snapshot", cache_snapshot, METH_NOARGS,
     "snapshot($self, /)\n--\n\nThe current generation of all collections, for `with`: a "
     "Snapshot.\n\nRaises ClosedError, CorruptError."},
    {"wait", (PyCFunction)(void (*)(void))cache_wait, METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, generation, timeout=None)\n--\n\n"
     "True as soon as the cache's generation is another one; False after timeout seconds.\n\n"
     "timeout: seconds; None for ever, 0 to look once. Other threads run meanwhile, and signals\n"
     "are handled. Raises ClosedError, also when another thread closes the cache; CorruptError."},
    {"changes", mc_cache_changes, METH_NOARGS,
     "changes($self, /)\n--\n\n"
     "What changes from now on, for `for` (which blocks) and `async for`: Changes.\n\n"
     "Each Change has the generation and the keys put or deleted, by collection, or None where\n"
     "they are not known. What was committed within 5 ms is one Change. Ends when the cache is\n"
     "closed. For one thread or task; a forked child goes on with its own copy.\n\n"
     "Raises CorruptError."},
    {"subscribe", (PyCFunction)(void (*)(void))mc_cache_subscribe, METH_VARARGS | METH_KEYWORDS,
     "subscribe($self, /, callback, loop=None)\n--\n\n"
     "Has callback(change) called in an asyncio event loop after each change: a Subscription.\n\n"
     "loop: None for the running one. The callback runs in the loop's thread; what it raises goes\n"
     "to the loop's exception handler. Ends by close(), with the cache, and with the loop; a\n"
     "forked child has to subscribe itself. May be called in any thread.\n\n"
     "Raises TypeError, ClosedError, CorruptError; RuntimeError without an event loop."},
    {"_news", mc_cache_news, METH_O, NULL},
    {"status", mc_cache_status, METH_NOARGS,
     "status($self, /)\n--\n\n"
     "How fresh the cache is and how its loader does: a dict, mmapcache.types.Status.\n\n"
     "Times are Unix seconds, age and lag are seconds. It asks the file, never the loader.\n\n"
     "Raises ClosedError, CorruptError."},
    {"stats", mc_cache_stats, METH_NOARGS,
     "stats($self, /)\n--\n\n"
     "What the cache holds and what it costs: a dict, mmapcache.types.Stats. Sizes are bytes.\n\n"
     "Raises ClosedError, CorruptError."},
    {"check", mc_cache_check, METH_NOARGS,
     "check($self, /)\n--\n\n"
     "Verifies every structure and checksum of the current generation; a dict of what was "
     "counted.\n\n"
     "Raises CorruptError. Takes about a quarter of a second per million documents."},
    {"catalogue", mc_cache_catalogue, METH_NOARGS,
     "catalogue($self, /)\n--\n\n"
     "What the file says of each collection, by name: a dict of dicts.\n\n"
     "documents, bytes (of keys and values), created and changed (generations), changed_at (Unix\n"
     "seconds; None where that generation is too long ago). It costs no walk over the documents.\n"
     "Any thread of any process may ask, also after a fork. Raises ClosedError, CorruptError."},
    {"history", mc_cache_history, METH_NOARGS, mc_history_doc},
    {"close", cache_close, METH_NOARGS,
     "close($self, /)\n--\n\nUnmaps the file and empties the front cache; harmless twice.\n\n"
     "Documents stay as they are. In a forked child it closes the child's copy alone."},
    {"__enter__", cache_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nThe cache itself."},
    {"__exit__", (PyCFunction)(void (*)(void))cache_exit, METH_FASTCALL,
     "__exit__($self, /, *args)\n--\n\nCloses the cache."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"path", cache_path, NULL, "The path as it was given; empty for an anonymous cache.", NULL},
    {"generation", cache_generation, NULL,
     "The current generation: an int that never goes back. 0 before the first commit.", NULL},
    {"state", cache_state, NULL, "What the loader keeps with its data (batch.state), as bytes.",
     NULL},
    {"closed", cache_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(type_doc, "A read-only mapping from name to Collection: one cache file.\n\n"
                       "Made by mmapcache.open() and Writer.reader(). Any number of threads may "
                       "use it, and forked\nchildren go on with it; another thread's read ends "
                       "well when one closes it. Each read is\nof the newest generation. Raises "
                       "KeyError for an unknown name, ClosedError, CorruptError.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_richcompare, mc_snapshot_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, cache_repr},
    {Py_tp_iter, mc_mapping_iter},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_mp_length, cache_length},
    {Py_mp_subscript, cache_subscript},
    {Py_sq_contains, cache_contains},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "mmapcache.Cache",
    .basicsize = sizeof(mc_cache_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_MAPPING,
    .slots = slots,
};

int mc_cache_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &spec, &state->cache);
}
