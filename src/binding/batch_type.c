/* batch_type.c - Batch: what one commit consists of (replace_type.c has Replace).
 *
 *      Batch    new --enter--> open --exit--> done       Replace    the same, inside an open batch
 *
 * Each is a context manager that is used once. Leaving a batch normally publishes it, leaving it by
 * an exception abandons it; leaving a replace by an exception takes back that replace alone. A
 * batch or replace that is dropped without being left is abandoned too.
 *
 * Long calls - a large buffer, the end of a replace, the commit of more than a few changes, abort -
 * run without the GIL and with the writer marked busy.
 */
#include "batch_type.h"

#include "arguments.h"
#include "errors.h"
#include "pykey.h"

#define LONG_BUFFER 65536 /* bytes from which on a buffer is worth giving up the GIL */

/* ---- steps ---- */

/* The core's writer for a call within an open batch; NULL with an exception. */
struct mc_writer *mc_batch_enter(mc_batch_object *self)
{
    struct mc_writer *writer = mc_writer_enter(self->writer);
    if (writer != NULL && self->stage != MC_BATCH_OPEN) {
        bool over = self->stage == MC_BATCH_DONE;
        return (void *)mc_raise_text(self->writer->module, over ? MC_CLOSED : MC_USAGE,
                                     over ? "this batch is over: begin another one"
                                          : "a batch is used with `with writer.batch() as batch:`");
    }
    return writer;
}

static void abort_batch(mc_batch_object *self, struct mc_writer *writer)
{
    self->stage = MC_BATCH_DONE;
    self->counts = (struct mc_batch_counts){0};
    self->writer->batch = NULL;
    if (self->replace != NULL) {
        ((mc_replace_object *)self->replace)->stage = MC_BATCH_DONE;
        self->replace = NULL;
    }
    self->writer->busy = true;
    Py_BEGIN_ALLOW_THREADS
    mc_batch_abort(writer);
    Py_END_ALLOW_THREADS
    mc_writer_leave(self->writer);
}

void mc_batch_orphan(mc_writer_object *writer)
{
    mc_batch_object *batch = writer->batch;
    writer->batch = NULL;
    if (batch != NULL) {
        batch->stage = MC_BATCH_DONE;
        if (batch->replace != NULL) {
            ((mc_replace_object *)batch->replace)->stage = MC_BATCH_DONE;
            batch->replace = NULL;
        }
    }
}

/* A key for the file: 0, or -1 with an exception. */
static int key_from(mc_batch_object *self, PyObject *object, struct mc_key *key,
                    uint8_t scratch[MC_KEY_MAX])
{
    struct mc_module *module = self->writer->module;
    struct mc_error error;
    switch (mc_pykey_from(module->documents.options, object, key, scratch, &error)) {
    case MC_PYKEY_OK:
        return 0;
    case MC_PYKEY_NEVER:
        mc_raise(module, &error);
        return -1;
    case MC_PYKEY_ERROR:
        break;
    }
    return -1;
}

PyObject *mc_batch_put_object(mc_batch_object *self, PyObject *name, PyObject *key_object,
                              PyObject *document)
{
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer;
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    struct mc_error error;
    Py_buffer bson;
    const char *text;
    size_t len;
    bool changed = false;
    enum mc_status status = MC_CLOSED;
    if (mc_batch_enter(self) == NULL || mc_collection_name(module, name, &text, &len) < 0 ||
        key_from(self, key_object, &key, scratch) < 0) {
        return NULL;
    }
    /* a key or document of a foreign type may have run any code: ask again */
    writer = mc_batch_enter(self);
    if (writer == NULL) {
        return NULL;
    }
    mc_batch_expect(writer, text, len, &key);
    if (mc_bson_argument(module, document, &bson) < 0) {
        return NULL;
    }
    writer = mc_batch_enter(self);
    if (writer != NULL) {
        status =
            mc_batch_put(writer, text, len, &key, bson.buf, (size_t)bson.len, &changed, &error);
        if (status != MC_OK) {
            mc_raise(module, &error);
        }
    }
    PyBuffer_Release(&bson);
    return status == MC_OK ? PyBool_FromLong(changed) : NULL;
}

PyObject *mc_batch_put_buffer(mc_batch_object *self, PyObject *name, PyObject *buffer)
{
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer;
    struct mc_error error;
    PyObject *frozen;
    const uint8_t *bytes;
    const char *text;
    size_t len, size;
    uint64_t documents = 0;
    enum mc_status status;
    if (mc_collection_name(module, name, &text, &len) < 0) {
        return NULL;
    }
    frozen = mc_frozen(buffer);
    writer = frozen == NULL ? NULL : mc_batch_enter(self);
    if (writer == NULL) {
        Py_XDECREF(frozen);
        return NULL;
    }
    bytes = (const uint8_t *)PyBytes_AS_STRING(frozen);
    size = (size_t)PyBytes_GET_SIZE(frozen);
    if (size >= LONG_BUFFER) {
        self->counts = mc_batch_counts(writer); /* what others are told meanwhile */
        self->writer->busy = true;
        Py_BEGIN_ALLOW_THREADS
        status = mc_batch_put_raw(writer, text, len, bytes, size, &documents, &error);
        Py_END_ALLOW_THREADS
        mc_writer_leave(self->writer);
    } else {
        status = mc_batch_put_raw(writer, text, len, bytes, size, &documents, &error);
    }
    Py_DECREF(frozen);
    return status == MC_OK ? PyLong_FromUnsignedLongLong(documents) : mc_raise(module, &error);
}

/* ---- Batch ---- */

PyObject *mc_batch_new(mc_writer_object *writer)
{
    mc_batch_object *self = PyObject_New(mc_batch_object, writer->module->batch);
    if (self != NULL) {
        self->writer = (mc_writer_object *)Py_NewRef((PyObject *)writer);
        self->stage = MC_BATCH_NEW;
        self->counts = (struct mc_batch_counts){0};
        self->generation = 0;
        self->replace = NULL;
    }
    return (PyObject *)self;
}

static void batch_dealloc(PyObject *self_object)
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    PyTypeObject *type = Py_TYPE(self);
    MC_SECTION_BEGIN(self->writer);
    if (self->stage == MC_BATCH_OPEN) {
        self->writer->batch = NULL;
        mc_writer_lost(self->writer, true);
    }
    MC_SECTION_END();
    Py_DECREF(self->writer);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *batch_enter(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    struct mc_error error;
    struct mc_writer *writer = mc_writer_enter(self->writer);
    if (writer == NULL) {
        return NULL;
    }
    if (self->stage != MC_BATCH_NEW) {
        return mc_raise_text(module, self->stage == MC_BATCH_DONE ? MC_CLOSED : MC_USAGE,
                             "a batch is entered once: begin another one");
    }
    if (self->writer->batch != NULL) {
        return mc_raise_text(module, MC_USAGE,
                             "this writer has an open batch: leave that one first");
    }
    if (mc_batch_begin(writer, &error) != MC_OK) {
        return mc_raise(module, &error);
    }
    self->stage = MC_BATCH_OPEN;
    self->writer->batch = self;
    return Py_NewRef(self_object);
}

static PyObject *commit(mc_batch_object *self, struct mc_writer *writer)
{
    struct mc_error error;
    enum mc_status status;
    uint64_t generation = 0;
    if (mc_batch_is_short(writer)) { /* giving up the GIL would take as long */
        status = mc_batch_commit(writer, &generation, &error);
    } else {
        self->writer->busy = true;
        Py_BEGIN_ALLOW_THREADS
        status = mc_batch_commit(writer, &generation, &error);
        Py_END_ALLOW_THREADS
        mc_writer_leave(self->writer);
    }
    if (status != MC_OK) {
        abort_batch(self, writer);
        return mc_raise(self->writer->module, &error);
    }
    self->stage = MC_BATCH_DONE;
    self->writer->batch = NULL;
    self->generation = generation;
    Py_RETURN_FALSE;
}

static PyObject *batch_exit(PyObject *self_object, PyObject *const *args, Py_ssize_t nargs)
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_writer *writer = self->writer->writer;
    bool failed = nargs > 0 && args[0] != Py_None;
    if (failed && (self->stage != MC_BATCH_OPEN || writer == NULL || !mc_writer_is_mine(writer))) {
        Py_RETURN_FALSE; /* closed meanwhile, or in a forked child: the exception says enough */
    }
    writer = mc_batch_enter(self);
    if (writer == NULL) {
        return NULL;
    }
    if (!failed && self->replace != NULL) {
        abort_batch(self, writer);
        return mc_raise_text(self->writer->module, MC_USAGE,
                             "the batch ended within a replace and was abandoned: leave the "
                             "replace first");
    }
    if (failed) {
        abort_batch(self, writer);
        Py_RETURN_FALSE;
    }
    self->counts = mc_batch_counts(writer);
    return commit(self, writer);
}

static PyObject *batch_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return mc_arguments_are("put", nargs, 3)
               ? mc_batch_put_object((mc_batch_object *)self, args[0], args[1], args[2])
               : NULL;
}

static PyObject *batch_put_raw(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return mc_arguments_are("put_raw", nargs, 2)
               ? mc_batch_put_buffer((mc_batch_object *)self, args[0], args[1])
               : NULL;
}

static PyObject *batch_delete(PyObject *self_object, PyObject *const *args, Py_ssize_t nargs)
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer;
    struct mc_error error;
    struct mc_key key;
    uint8_t scratch[MC_KEY_MAX];
    const char *text;
    size_t len;
    bool existed;
    enum mc_pykey_result converted;
    if (!mc_arguments_are("delete", nargs, 2) ||
        mc_collection_name(module, args[0], &text, &len) < 0) {
        return NULL;
    }
    converted = mc_pykey_from(module->documents.options, args[1], &key, scratch, NULL);
    writer = converted == MC_PYKEY_ERROR ? NULL : mc_batch_enter(self);
    if (writer == NULL) {
        return NULL;
    }
    if (converted == MC_PYKEY_NEVER) {
        Py_RETURN_FALSE;
    }
    if (mc_batch_delete(writer, text, len, &key, &existed, &error) != MC_OK) {
        return mc_raise(module, &error);
    }
    return PyBool_FromLong(existed);
}

static PyObject *batch_drop(PyObject *self_object, PyObject *name)
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer = mc_batch_enter(self);
    struct mc_error error;
    const char *text;
    size_t len;
    bool existed;
    if (writer == NULL || mc_collection_name(module, name, &text, &len) < 0) {
        return NULL;
    }
    if (mc_batch_drop(writer, text, len, &existed, &error) != MC_OK) {
        return mc_raise(module, &error);
    }
    return PyBool_FromLong(existed);
}

static PyObject *batch_replace(PyObject *self_object, PyObject *name)
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    mc_replace_object *made;
    const char *text;
    size_t len;
    if (mc_batch_enter(self) == NULL || mc_collection_name(module, name, &text, &len) < 0) {
        return NULL;
    }
    made = PyObject_New(mc_replace_object, module->replace);
    if (made != NULL) {
        made->batch = (mc_batch_object *)Py_NewRef(self_object);
        made->name = Py_NewRef(name);
        made->stage = MC_BATCH_NEW;
    }
    return (PyObject *)made;
}

static int batch_set_state(PyObject *self_object, PyObject *value, void *Py_UNUSED(closure))
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer;
    struct mc_error error;
    PyObject *frozen;
    enum mc_status status = MC_CLOSED;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "state cannot be deleted: set it to b\"\"");
        return -1;
    }
    frozen = mc_frozen(value);
    if (frozen == NULL) {
        return -1;
    }
    writer = mc_batch_enter(self);
    if (writer != NULL) {
        status = mc_batch_state(writer, (const uint8_t *)PyBytes_AS_STRING(frozen),
                                (size_t)PyBytes_GET_SIZE(frozen), &error);
        if (status != MC_OK) {
            mc_raise(module, &error);
        }
    }
    Py_DECREF(frozen);
    return status == MC_OK ? 0 : -1;
}

static struct mc_batch_counts counts_of(const mc_batch_object *self)
{
    return self->stage == MC_BATCH_OPEN && !self->writer->busy && self->writer->writer != NULL &&
                   mc_writer_is_mine(self->writer->writer)
               ? mc_batch_counts(self->writer->writer)
               : self->counts;
}

/* One of the counts; closure: its offset. */
static PyObject *batch_count(PyObject *self, void *closure)
{
    struct mc_batch_counts counts = counts_of((mc_batch_object *)self);
    const uint64_t *count = (const void *)((const char *)&counts + (size_t)closure);
    return PyLong_FromUnsignedLongLong(*count);
}

static PyObject *batch_generation(PyObject *self_object, void *Py_UNUSED(closure))
{
    uint64_t generation = ((mc_batch_object *)self_object)->generation;
    return generation == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(generation);
}

/* ---- a batch of one change ---- */

typedef PyObject *(*change_function)(PyObject *batch, PyObject *const *args, Py_ssize_t nargs);

/* Publishes what a change makes of a new batch: what it gave, or NULL with an exception. */
static PyObject *alone(PyObject *writer, change_function change, PyObject *const *args,
                       Py_ssize_t nargs)
{
    PyObject *made = mc_batch_new((mc_writer_object *)writer);
    PyObject *done = made == NULL ? NULL : batch_enter(made, NULL);
    PyObject *result = done == NULL ? NULL : change(made, args, nargs);
    Py_CLEAR(done);
    if (result != NULL) {
        done = batch_exit(made, NULL, 0); /* the change may have run any code */
        if (done == NULL) {
            Py_CLEAR(result);
        }
        Py_XDECREF(done);
    }
    Py_XDECREF(made); /* abandons it, if it is still open */
    return result;
}

PyObject *mc_writer_object_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return alone(self, batch_put, args, nargs);
}

PyObject *mc_writer_object_delete(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return alone(self, batch_delete, args, nargs);
}

/* ---- the type ---- */

/* The arguments of both: 0, or -1 with an exception. */
static int index_names(struct mc_module *module, PyObject *name, PyObject *field, const char **text,
                       size_t *len, const char **path, size_t *path_len)
{
    Py_ssize_t size;
    if (mc_collection_name(module, name, text, len) < 0) {
        return -1;
    }
    if (!PyUnicode_Check(field)) {
        PyErr_Format(PyExc_TypeError, "an index is of a field, whose path is a str, not %.100s",
                     Py_TYPE(field)->tp_name);
        return -1;
    }
    *path = PyUnicode_AsUTF8AndSize(field, &size);
    *path_len = (size_t)size;
    return *path == NULL ? -1 : 0;
}

PyDoc_STRVAR(index_doc,
             "index($self, name, field, /, *, unique=True)\n--\n\n"
             "Makes an index of a collection, for Collection.by(field); True when there was none "
             "of this\nkind.\n\n"
             "field: a dotted path. The end of this batch and of each later one bring it up to "
             "date; it\nis in the file until drop_index(), whatever becomes of the collection. "
             "unique: that two\ndocuments have one value is raised as a LimitError at the end "
             "of the batch, which publishes\nnothing. Raises TypeError, ValueError, LimitError.");

static PyObject *batch_index(PyObject *self_object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", "unique", NULL};
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer;
    struct mc_error error;
    PyObject *name, *field;
    const char *text, *path;
    size_t len, path_len;
    int unique = 1;
    bool changed;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$p:index", names, &name, &field, &unique) ||
        index_names(module, name, field, &text, &len, &path, &path_len) < 0) {
        return NULL;
    }
    writer = mc_batch_enter(self);
    if (writer == NULL) {
        return NULL;
    }
    if (mc_batch_index(writer, text, len, path, path_len, unique ? MC_INDEX_UNIQUE : MC_INDEX_MULTI,
                       &changed, &error) != MC_OK) {
        return mc_raise(module, &error);
    }
    return PyBool_FromLong(changed);
}

static PyObject *batch_drop_index(PyObject *self_object, PyObject *const *args, Py_ssize_t nargs)
{
    mc_batch_object *self = (mc_batch_object *)self_object;
    struct mc_module *module = self->writer->module;
    struct mc_writer *writer;
    struct mc_error error;
    const char *text, *path;
    size_t len, path_len;
    bool existed;
    if (!mc_arguments_are("drop_index", nargs, 2) ||
        index_names(module, args[0], args[1], &text, &len, &path, &path_len) < 0) {
        return NULL;
    }
    writer = mc_batch_enter(self);
    if (writer == NULL) {
        return NULL;
    }
    if (mc_batch_drop_index(writer, text, len, path, path_len, &existed, &error) != MC_OK) {
        return mc_raise(module, &error);
    }
    return PyBool_FromLong(existed);
}

MC_LOCKED_KEYWORDS(batch_index, mc_writer_of_batch)
MC_LOCKED_FASTCALL(batch_drop_index, mc_writer_of_batch)
MC_LOCKED_FASTCALL(batch_put, mc_writer_of_batch)
MC_LOCKED_FASTCALL(batch_put_raw, mc_writer_of_batch)
MC_LOCKED_FASTCALL(batch_delete, mc_writer_of_batch)
MC_LOCKED_METHOD(batch_drop, mc_writer_of_batch)
MC_LOCKED_METHOD(batch_replace, mc_writer_of_batch)
MC_LOCKED_METHOD(batch_enter, mc_writer_of_batch)
MC_LOCKED_FASTCALL(batch_exit, mc_writer_of_batch)
MC_LOCKED_SETTER(batch_set_state, mc_writer_of_batch)
MC_LOCKED_GETTER(batch_generation, mc_writer_of_batch)
MC_LOCKED_GETTER(batch_count, mc_writer_of_batch)

static PyMethodDef batch_methods[] = {
    {"index", (PyCFunction)(void (*)(void))MC_LOCKED(batch_index), METH_VARARGS | METH_KEYWORDS,
     index_doc},
    {"drop_index", (PyCFunction)(void (*)(void))MC_LOCKED(batch_drop_index), METH_FASTCALL,
     "drop_index($self, name, field, /)\n--\n\n"
     "Takes an index away; whether there was one.\n\nRaises TypeError, ValueError, LimitError."},
    {"put", (PyCFunction)(void (*)(void))MC_LOCKED(batch_put), METH_FASTCALL,
     "put($self, name, key, document, /)\n--\n\n"
     "Puts a Mapping, RawBSONDocument or BSON bytes under a key; True when that changed "
     "anything.\n\n"
     "Raises InvalidDocument, LimitError, FullError, TypeError; the batch goes on without it."},
    {"put_raw", (PyCFunction)(void (*)(void))MC_LOCKED(batch_put_raw), METH_FASTCALL,
     "put_raw($self, name, buffer, /)\n--\n\n"
     "Puts each of the concatenated BSON documents in the buffer under its _id; how many they "
     "were.\n\nRaises what put() raises; those before the one at fault are in the batch."},
    {"delete", (PyCFunction)(void (*)(void))MC_LOCKED(batch_delete), METH_FASTCALL,
     "delete($self, name, key, /)\n--\n\nRemoves a key; whether it was there.\n\n"
     "Raises TypeError, LimitError, FullError."},
    {"drop", MC_LOCKED(batch_drop), METH_O,
     "drop($self, name, /)\n--\n\nRemoves a collection; whether it was there.\n\n"
     "Raises TypeError, LimitError, FullError."},
    {"replace", MC_LOCKED(batch_replace), METH_O,
     "replace($self, name, /)\n--\n\n"
     "A Replace, for `with`: what is put within it becomes the collection's whole content.\n\n"
     "Raises TypeError, LimitError."},
    {"__enter__", MC_LOCKED(batch_enter), METH_NOARGS,
     "__enter__($self, /)\n--\n\nThe batch itself, begun."},
    {"__exit__", (PyCFunction)(void (*)(void))MC_LOCKED(batch_exit), METH_FASTCALL,
     "__exit__($self, /, *args)\n--\n\nPublishes the batch, or abandons it after an exception."},
    {NULL, NULL, 0, NULL},
};

#define COUNT(field) ((void *)offsetof(struct mc_batch_counts, field))
static PyGetSetDef batch_getset[] = {
    {"state", NULL, MC_LOCKED(batch_set_state),
     "The loader's own bytes (write only), published with the batch: at most 64 KiB.", NULL},
    {"generation", MC_LOCKED(batch_generation), NULL,
     "The generation that was published; None when nothing was, or not yet.", NULL},
    {"puts", MC_LOCKED(batch_count), NULL, "Documents that were new or different.", COUNT(puts)},
    {"deletes", MC_LOCKED(batch_count), NULL, "Documents removed, by a replace too.",
     COUNT(deletes)},
    {"unchanged", MC_LOCKED(batch_count), NULL, "Documents that were there already, byte for byte.",
     COUNT(unchanged)},
    {"duplicates", MC_LOCKED(batch_count), NULL,
     "Documents whose key a replace had been given already.", COUNT(duplicates)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc, (void *)"Changes that become one generation. Made by Writer.batch(), used once.\n\n"
                        "They are published when the `with` ends, or none of them after an "
                        "exception. For the\nthread and the process of its Writer: a forked "
                        "child's use of it raises ClosedError.\nRaises FullError at the end, "
                        "too."},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_methods, batch_methods},
    {Py_tp_getset, batch_getset},
    {0, NULL},
};

static PyType_Spec batch_spec = {
    .name = "mmapcache.Batch",
    .basicsize = sizeof(mc_batch_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = batch_slots,
};

int mc_batch_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &batch_spec, &state->batch);
}
