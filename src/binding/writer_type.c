/* writer_type.c - Writer: the loader's side of one cache file (writer_object.h has the picture).
 *
 * What may take long - opening, checkpoint - runs without the GIL. After a fork the child's
 * copy of a Writer says ClosedError to everything but reader() of an anonymous cache, which is what
 * that one is made for.
 */
#include "writer_type.h"

#include "arguments.h"
#include "batch_type.h"
#include "cache_report.h"
#include "cache_type.h"
#include "errors.h"
#include "index_type.h"
#include "region.h"
#include "writer/publish.h"
#include "writer_report.h"
#include "writer_upkeep.h"

#define LOCK_RETRY 10000000ll /* nanoseconds between two tries to get the lock */

/* ---- opening ---- */

/* Tries until the lock is had or the time is over: 0, or -1 with an exception. */
static int open_waiting(struct mc_module *module, const char *path,
                        const struct mc_writer_options *options, int64_t timeout,
                        struct mc_writer **out)
{
    int64_t start = mc_clock_ns();
    for (;;) {
        struct mc_error error;
        enum mc_status status;
        int64_t left;
        Py_BEGIN_ALLOW_THREADS
        status = path == NULL ? mc_writer_open_anonymous(options, out, &error)
                              : mc_writer_open(path, options, out, &error);
        Py_END_ALLOW_THREADS
        if (status == MC_OK) {
            return 0;
        }
        left = timeout == MC_FOREVER ? MC_FOREVER : timeout - (mc_clock_ns() - start);
        if (status != MC_LOCKED || left <= 0) {
            mc_raise(module, &error);
            return -1;
        }
        if (mc_sleep(left < LOCK_RETRY ? left : LOCK_RETRY) < 0) {
            return -1;
        }
    }
}

/* Takes over text (a reference), absolute and the core's writer, in any case. */
static PyObject *writer_object(struct mc_module *module, PyObject *text, char *absolute,
                               struct mc_writer *writer)
{
    mc_writer_object *self = PyObject_New(mc_writer_object, module->writer);
    if (self == NULL) {
        Py_DECREF(text);
        PyMem_Free(absolute);
        mc_writer_close(writer);
        return NULL;
    }
    self->module = module;
    self->writer = writer;
    self->path = text;
    self->absolute = absolute;
    self->cache = NULL;
    self->batch = NULL;
    self->busy = self->lost_batch = self->lost_replace = false;
    return (PyObject *)self;
}

/* Converts what was given, NULL ones being left at their defaults: 0, or -1 with an exception. */
static int options_from(PyObject *max_size, PyObject *retention, int collapse,
                        struct mc_writer_options *options)
{
    *options = (struct mc_writer_options){
        .mode = 0640, .collapse = collapse != 0, .retention_ns = 1000000000};
    if (max_size != NULL && max_size != Py_None &&
        mc_size(max_size, "max_size", &options->max_size) < 0) {
        return -1;
    }
    if (max_size != NULL && max_size != Py_None && options->max_size == 0) {
        PyErr_SetString(PyExc_ValueError, "max_size is 0: a cache needs room");
        return -1;
    }
    return retention == NULL ? 0 : mc_seconds(retention, "retention", &options->retention_ns);
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path",      "max_size", "mode",    "timeout", "recreate",
                            "retention", "collapse", "discard", NULL};
    struct mc_module *module = PyType_GetModuleState(type);
    PyObject *given, *max_size = NULL, *timeout = NULL, *retention = NULL;
    PyObject *encoded = NULL, *text = NULL;
    struct mc_writer_options options;
    struct mc_writer *writer;
    int64_t nanoseconds = 0;
    int mode = 0640, recreate = 0, collapse = 1, discard = 0;
    char *absolute;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OiOpOpp:Writer", names, &given, &max_size,
                                     &mode, &timeout, &recreate, &retention, &collapse, &discard) ||
        options_from(max_size, retention, collapse, &options) < 0 ||
        (timeout != NULL && mc_seconds(timeout, "timeout", &nanoseconds) < 0)) {
        return NULL;
    }
    if (mode < 0 || (mode & ~0777) != 0 || (mode & 0600) != 0600 || (mode & 0002) != 0) {
        PyErr_SetString(PyExc_ValueError,
                        "mode: permission bits such as 0o640, readable and writable "
                        "for the owner and not writable for everybody");
        return NULL;
    }
    options.mode = (uint32_t)mode;
    options.recreate = recreate != 0;
    options.discard = discard != 0;
    if (!PyUnicode_FSConverter(given, &encoded)) {
        return NULL;
    }
    text = PyUnicode_DecodeFSDefaultAndSize(PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded));
    absolute = text == NULL ? NULL : mc_absolute_path(encoded);
    Py_DECREF(encoded);
    if (absolute == NULL || open_waiting(module, absolute, &options, nanoseconds, &writer) < 0) {
        Py_XDECREF(text);
        PyMem_Free(absolute);
        return NULL;
    }
    return writer_object(module, text, absolute, writer);
}

static PyObject *writer_anonymous(PyObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_size", "retention", "collapse", NULL};
    struct mc_module *module = PyType_GetModuleState((PyTypeObject *)type);
    PyObject *max_size = NULL, *retention = NULL, *text;
    struct mc_writer_options options;
    struct mc_writer *writer;
    int collapse = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOp:anonymous", names, &max_size, &retention,
                                     &collapse) ||
        options_from(max_size, retention, collapse, &options) < 0 ||
        open_waiting(module, NULL, &options, 0, &writer) < 0) {
        return NULL;
    }
    text = PyUnicode_FromStringAndSize("", 0);
    if (text == NULL) {
        mc_writer_close(writer);
        return NULL;
    }
    return writer_object(module, text, NULL, writer);
}

/* ---- closing ---- */

static void close_writer(mc_writer_object *self)
{
    struct mc_writer *writer = self->writer;
    mc_batch_orphan(self);
    self->writer = NULL;
    if (writer != NULL) {
        mc_writer_close(writer);
    }
    Py_CLEAR(self->cache);
}

static PyObject *writer_close(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    /* a child may close its copy, whatever a thread of its parent was doing with the writer */
    if (self->busy && mc_writer_is_mine(self->writer) && mc_writer_enter(self) == NULL) {
        return NULL;
    }
    close_writer(self);
    Py_RETURN_NONE;
}

static void writer_dealloc(PyObject *self_object)
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    PyTypeObject *type = Py_TYPE(self);
    close_writer(self);
    Py_DECREF(self->path);
    PyMem_Free(self->absolute);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *writer_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return mc_writer_enter((mc_writer_object *)self) == NULL ? NULL : Py_NewRef(self);
}

static PyObject *writer_exit(PyObject *self, PyObject *const *Py_UNUSED(args),
                             Py_ssize_t Py_UNUSED(nargs))
{
    return writer_close(self, NULL);
}

/* ---- reading back ---- */

static PyObject *make_reader(mc_writer_object *self, const struct mc_cache_options *options)
{
    struct mc_view view;
    struct mc_error error;
    enum mc_status status;
    if (self->writer == NULL) {
        return mc_raise_text(self->module, MC_CLOSED, "this writer was closed");
    }
    status = mc_reader_open(self->absolute, mc_writer_fd(self->writer), -1, true, &view, &error);
    if (status != MC_OK && !self->busy && mc_writer_is_mine(self->writer)) {
        (void)mc_writer_whole(self->writer, &error); /* says more, if that is what is wrong */
    }
    return status == MC_OK ? mc_cache_new(self->module, self->path, self->absolute, &view, options)
                           : mc_raise(self->module, &error);
}

static PyObject *writer_reader(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"populate", "codec_options", "front_bytes", "front_entries", NULL};
    PyObject *codec_options = NULL, *bytes = NULL, *entries = NULL;
    struct mc_cache_options options;
    int fill = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$pOOO:reader", names, &fill, &codec_options,
                                     &bytes, &entries) ||
        mc_cache_options_from(codec_options, bytes, entries, fill, &options) < 0) {
        return NULL;
    }
    return make_reader((mc_writer_object *)self, &options);
}

/* The Cache that answers status() and stats() for us: a new reference, as that may run code that
 * closes us, or NULL with an exception. */
static PyObject *own_cache(mc_writer_object *self)
{
    const struct mc_cache_options options = {0}; /* no front cache */
    if (mc_writer_enter(self) == NULL) {
        return NULL;
    }
    if (self->cache == NULL) {
        self->cache = make_reader(self, &options);
    }
    return Py_XNewRef(self->cache);
}

static PyObject *writer_status(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *cache = own_cache((mc_writer_object *)self);
    PyObject *status = cache == NULL ? NULL : mc_cache_status(cache, NULL);
    Py_XDECREF(cache);
    return status;
}

static PyObject *writer_stats(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *cache = own_cache((mc_writer_object *)self);
    PyObject *stats = cache == NULL ? NULL : mc_cache_stats(cache, NULL);
    Py_XDECREF(cache);
    return stats;
}

static PyObject *writer_state(PyObject *self_object, void *Py_UNUSED(closure))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    struct mc_view view;
    enum mc_status status;
    PyObject *bytes;
    if (mc_writer_enter(self) == NULL) {
        return NULL;
    }
    mc_writer_view(self->writer, &view);
    bytes = mc_view_state_bytes(self->module, &view, &status);
    if (bytes == NULL && status == MC_EXPIRED) { /* ours expires by truncation alone */
        return mc_raise_text(self->module, MC_CORRUPT, MC_TRUNCATED_TEXT);
    }
    return bytes;
}

static PyObject *writer_indexes(PyObject *self_object, void *Py_UNUSED(closure))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    PyObject *all = mc_writer_enter(self) == NULL ? NULL : PyDict_New();
    for (size_t i = 0; all != NULL && i < mc_writer_indexes(self->writer); i++) {
        const struct mc_index *index = mc_writer_index(self->writer, i);
        PyObject *name = PyUnicode_DecodeUTF8(index->name, index->name_len, "replace");
        PyObject *field = PyUnicode_DecodeUTF8(index->path, index->path_len, "replace");
        PyObject *kind = mc_index_kind_text(index->record.kind);
        PyObject *none = PyDict_New();
        PyObject *own = NULL;
        if (name != NULL && field != NULL && kind != NULL && none != NULL) {
            own = PyDict_SetDefault(all, name, none); /* borrowed */
        }
        if (own == NULL || PyDict_SetItem(own, field, kind) < 0) {
            Py_CLEAR(all);
        }
        Py_XDECREF(name);
        Py_XDECREF(field);
        Py_XDECREF(kind);
        Py_XDECREF(none);
    }
    return all;
}

static PyObject *writer_generation(PyObject *self_object, void *Py_UNUSED(closure))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    struct mc_view view;
    if (mc_writer_enter(self) == NULL) {
        return NULL;
    }
    mc_writer_view(self->writer, &view);
    return PyLong_FromUnsignedLongLong(mc_view_generation(&view));
}

static PyObject *writer_path(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((mc_writer_object *)self)->path);
}

static PyObject *writer_closed(PyObject *self_object, void *Py_UNUSED(closure))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    return PyBool_FromLong(self->writer == NULL || !mc_writer_is_mine(self->writer));
}

/* ---- checkpoints, batches ---- */

static PyObject *writer_checkpoint(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    struct mc_error error;
    enum mc_status status;
    struct mc_writer *writer = mc_writer_enter(self);
    if (writer == NULL) {
        return NULL;
    }
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    status = mc_writer_checkpoint(writer, &error);
    Py_END_ALLOW_THREADS
    mc_writer_leave(self);
    if (status != MC_OK) {
        return mc_raise(self->module, &error);
    }
    Py_RETURN_NONE;
}

static PyObject *writer_batch(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    return mc_writer_enter(self) == NULL ? NULL : mc_batch_new(self);
}

static PyObject *writer_repr(PyObject *self_object)
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    return PyUnicode_FromFormat(self->writer == NULL ? "<mmapcache.Writer %R, closed>"
                                                     : "<mmapcache.Writer %R>",
                                self->path);
}

PyDoc_STRVAR(anonymous_doc,
             "anonymous($type, /, *, max_size=None, retention=1.0, collapse=True)\n--\n\n"
             "A cache without a file, for children that are forked later: a sealed memfd.\n\n"
             "max_size: bytes. retention: seconds. They are as of Writer(); threads and forks, "
             "too.\n\nRaises FullError, LimitError, OSError.");
PyDoc_STRVAR(reader_doc,
             "reader($self, /, *, populate=False, codec_options=None, front_bytes=16777216,\n"
             "       front_entries=16384)\n--\n\n"
             "A Cache of this writer's file; empty, with generation 0, before the first commit.\n\n"
             "The arguments are those of mmapcache.open().\n\nRaises ClosedError, OSError.");

MC_LOCKED_KEYWORDS(writer_reader, mc_writer_itself)
MC_LOCKED_KEYWORDS(mc_writer_object_report, mc_writer_itself)
MC_LOCKED_KEYWORDS(mc_writer_object_record, mc_writer_itself)
MC_LOCKED_METHOD(mc_writer_object_mark, mc_writer_itself)
MC_LOCKED_METHOD(writer_batch, mc_writer_itself)
MC_LOCKED_FASTCALL(mc_writer_object_put, mc_writer_itself)
MC_LOCKED_FASTCALL(mc_writer_object_delete, mc_writer_itself)
MC_LOCKED_METHOD(writer_status, mc_writer_itself)
MC_LOCKED_METHOD(writer_stats, mc_writer_itself)
MC_LOCKED_METHOD(writer_checkpoint, mc_writer_itself)
MC_LOCKED_METHOD(mc_writer_object_tidy, mc_writer_itself)
MC_LOCKED_METHOD(mc_writer_object_shrink, mc_writer_itself)
MC_LOCKED_METHOD(writer_close, mc_writer_itself)
MC_LOCKED_METHOD(writer_enter, mc_writer_itself)
MC_LOCKED_FASTCALL(writer_exit, mc_writer_itself)
MC_LOCKED_GETTER(writer_generation, mc_writer_itself)
MC_LOCKED_GETTER(writer_state, mc_writer_itself)
MC_LOCKED_GETTER(writer_indexes, mc_writer_itself)
MC_LOCKED_GETTER(mc_writer_object_position, mc_writer_itself)
MC_LOCKED_GETTER(mc_writer_object_in_use, mc_writer_itself)
MC_LOCKED_GETTER(writer_closed, mc_writer_itself)

static PyMethodDef methods[] = {
    {"anonymous", (PyCFunction)(void (*)(void))writer_anonymous,
     METH_VARARGS | METH_KEYWORDS | METH_CLASS, anonymous_doc},
    {"reader", (PyCFunction)(void (*)(void))MC_LOCKED(writer_reader), METH_VARARGS | METH_KEYWORDS,
     reader_doc},
    {"report", (PyCFunction)(void (*)(void))MC_LOCKED(mc_writer_object_report),
     METH_VARARGS | METH_KEYWORDS, mc_report_doc},
    {"record", (PyCFunction)(void (*)(void))MC_LOCKED(mc_writer_object_record),
     METH_VARARGS | METH_KEYWORDS, mc_record_doc},
    {"mark", MC_LOCKED(mc_writer_object_mark), METH_O,
     "mark($self, position, /)\n--\n\n"
     "Stores where the loader goes on in its source's changes: bytes, without a commit.\n\n"
     "They belong to the current generation; the next one makes them void. What has to outlive it\n"
     "belongs into batch.state. Raises LimitError for more than MAX_POSITION_BYTES."},
    {"batch", MC_LOCKED(writer_batch), METH_NOARGS,
     "batch($self, /)\n--\n\n"
     "A Batch, for `with`: one generation, published at its end or abandoned on an exception.\n\n"
     "Raises ClosedError."},
    {"put", (PyCFunction)(void (*)(void))MC_LOCKED(mc_writer_object_put), METH_FASTCALL,
     "put($self, name, key, document, /)\n--\n\n"
     "Batch.put in a batch of its own: one document, one generation; True when that changed "
     "anything.\n\n"
     "Raises what Batch.put and the end of a batch raise; then nothing is published."},
    {"delete", (PyCFunction)(void (*)(void))MC_LOCKED(mc_writer_object_delete), METH_FASTCALL,
     "delete($self, name, key, /)\n--\n\n"
     "Batch.delete in a batch of its own; whether the key was there.\n\n"
     "Raises what Batch.delete and the end of a batch raise."},
    {"status", MC_LOCKED(writer_status), METH_NOARGS,
     "status($self, /)\n--\n\nWhat Cache.status() says of this file. Raises ClosedError."},
    {"stats", MC_LOCKED(writer_stats), METH_NOARGS,
     "stats($self, /)\n--\n\nWhat Cache.stats() says of this file. Raises ClosedError."},
    {"checkpoint", MC_LOCKED(writer_checkpoint), METH_NOARGS,
     "checkpoint($self, /)\n--\n\n"
     "Writes everything to the disk and marks the generation as good after a reboot.\n\n"
     "It takes as long as the disk does. Raises ClosedError, OSError."},
    {"tidy", MC_LOCKED(mc_writer_object_tidy), METH_NOARGS, mc_tidy_doc},
    {"shrink", MC_LOCKED(mc_writer_object_shrink), METH_NOARGS, mc_shrink_doc},
    {"close", MC_LOCKED(writer_close), METH_NOARGS,
     "close($self, /)\n--\n\nAbandons an open batch and releases the file; harmless twice."},
    {"__enter__", MC_LOCKED(writer_enter), METH_NOARGS,
     "__enter__($self, /)\n--\n\nThe writer itself."},
    {"__exit__", (PyCFunction)(void (*)(void))MC_LOCKED(writer_exit), METH_FASTCALL,
     "__exit__($self, /, *args)\n--\n\nCloses the writer."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"path", writer_path, NULL, "The path as it was given; empty for an anonymous cache.", NULL},
    {"generation", MC_LOCKED(writer_generation), NULL,
     "The last published generation; 0: none yet.", NULL},
    {"state", MC_LOCKED(writer_state), NULL,
     "The bytes last published as batch.state; b\"\" before.", NULL},
    {"indexes", MC_LOCKED(writer_indexes), NULL,
     "The indexes of the last generation, as a dict: each collection with a dict, and in that each "
     "field\nwith \"unique\" or \"multi\". Raises ClosedError.",
     NULL},
    {"position", MC_LOCKED(mc_writer_object_position), NULL,
     "What mark() stored for the current generation, as bytes; b\"\" for nothing.", NULL},
    {"in_use", MC_LOCKED(mc_writer_object_in_use), NULL,
     "How many bytes of the file are in use: by the last generation, and by older ones for\n"
     "`retention` seconds. Raises ClosedError.",
     NULL},
    {"closed", MC_LOCKED(writer_closed), NULL, "Whether it was closed, or is the parent process's.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    type_doc,
    "Writer(path, *, max_size=None, mode=416, timeout=0.0, recreate=False, retention=1.0,\n"
    "       collapse=True, discard=False)\n--\n\n"
    "The one loader of a cache file, which is created when there is none.\n\n"
    "max_size: bytes, an int or text like \"512MiB\"; without it an existing file keeps its own "
    "and a\n"
    "new one has 1 GiB. Another size builds a successor with the content carried over.\n"
    "mode: permission bits of a new file. timeout: seconds to wait while another loader holds\n"
    "it, None for ever. recreate: replace a file that is foreign, corrupt or of another version.\n"
    "retention: seconds that what was superseded is kept for snapshots while memory lasts.\n"
    "collapse: use huge pages where the kernel can. discard: begin an empty file in the place of "
    "a\n"
    "sound one, too, as after a CorruptError while it was read; generations go on.\n\n"
    "One thread at a time may use it, the others get MmapCacheError; a forked child cannot\n"
    "(ClosedError), and its exit closes nothing of the parent's.\n\n"
    "Raises LockTimeout, FormatError, CorruptError, FullError, LimitError, OSError; ValueError.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)type_doc},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_repr, writer_repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "mmapcache.Writer",
    .basicsize = sizeof(mc_writer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int mc_writer_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &spec, &state->writer);
}
