/* replace_type.c - Replace: one collection's new content, within an open batch (batch_type.c). */
#include "replace_type.h"

#include "arguments.h"
#include "batch_type.h"
#include "errors.h"

/* The core's writer for a call within an open replace; NULL with an exception. */
static struct mc_writer *in_replace(mc_replace_object *self)
{
    struct mc_writer *writer = mc_batch_enter(self->batch);
    if (writer != NULL && self->stage != MC_BATCH_OPEN) {
        bool over = self->stage == MC_BATCH_DONE;
        return (void *)mc_raise_text(
            self->batch->writer->module, over ? MC_CLOSED : MC_USAGE,
            over ? "this replace is over: begin another one"
                 : "a replace is used with `with batch.replace(name) as full:`");
    }
    return writer;
}

static void cancel_replace(mc_replace_object *self, struct mc_writer *writer)
{
    self->stage = MC_BATCH_DONE;
    self->batch->replace = NULL;
    self->batch->writer->busy = true;
    Py_BEGIN_ALLOW_THREADS
    mc_replace_cancel(writer);
    Py_END_ALLOW_THREADS
    mc_writer_leave(self->batch->writer);
}

static void replace_dealloc(PyObject *self_object)
{
    mc_replace_object *self = (mc_replace_object *)self_object;
    PyTypeObject *type = Py_TYPE(self);
    MC_SECTION_BEGIN(self->batch->writer);
    if (self->stage == MC_BATCH_OPEN) {
        self->batch->replace = NULL;
        mc_writer_lost(self->batch->writer, false);
    }
    MC_SECTION_END();
    Py_DECREF(self->batch);
    Py_DECREF(self->name);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *replace_enter(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_replace_object *self = (mc_replace_object *)self_object;
    struct mc_module *module = self->batch->writer->module;
    struct mc_writer *writer = mc_batch_enter(self->batch);
    struct mc_error error;
    const char *text;
    size_t len;
    if (writer == NULL || mc_collection_name(module, self->name, &text, &len) < 0) {
        return NULL;
    }
    if (self->stage != MC_BATCH_NEW) {
        return mc_raise_text(module, self->stage == MC_BATCH_DONE ? MC_CLOSED : MC_USAGE,
                             "a replace is entered once: begin another one");
    }
    if (self->batch->replace != NULL) {
        return mc_raise_text(module, MC_USAGE,
                             "this batch has an open replace: leave that one first");
    }
    if (mc_replace_begin(writer, text, len, &error) != MC_OK) {
        return mc_raise(module, &error);
    }
    self->stage = MC_BATCH_OPEN;
    self->batch->replace = self;
    return Py_NewRef(self_object);
}

static PyObject *replace_exit(PyObject *self_object, PyObject *const *args, Py_ssize_t nargs)
{
    mc_replace_object *self = (mc_replace_object *)self_object;
    struct mc_writer *writer = self->batch->writer->writer;
    bool failed = nargs > 0 && args[0] != Py_None;
    struct mc_error error;
    enum mc_status status;
    if (failed && (self->stage != MC_BATCH_OPEN || writer == NULL || !mc_writer_is_mine(writer))) {
        Py_RETURN_FALSE;
    }
    writer = in_replace(self);
    if (writer == NULL) {
        return NULL;
    }
    if (failed) {
        cancel_replace(self, writer);
        Py_RETURN_FALSE;
    }
    self->batch->writer->busy = true;
    Py_BEGIN_ALLOW_THREADS
    status = mc_replace_end(writer, &error);
    Py_END_ALLOW_THREADS
    mc_writer_leave(self->batch->writer);
    if (status != MC_OK) {
        cancel_replace(self, writer);
        return mc_raise(self->batch->writer->module, &error);
    }
    self->stage = MC_BATCH_DONE;
    self->batch->replace = NULL;
    Py_RETURN_FALSE;
}

static PyObject *replace_put(PyObject *self_object, PyObject *const *args, Py_ssize_t nargs)
{
    mc_replace_object *self = (mc_replace_object *)self_object;
    if (!mc_arguments_are("put", nargs, 2) || in_replace(self) == NULL) {
        return NULL;
    }
    return mc_batch_put_object(self->batch, self->name, args[0], args[1]);
}

static PyObject *replace_put_raw(PyObject *self_object, PyObject *buffer)
{
    mc_replace_object *self = (mc_replace_object *)self_object;
    return in_replace(self) == NULL ? NULL : mc_batch_put_buffer(self->batch, self->name, buffer);
}

MC_LOCKED_FASTCALL(replace_put, mc_writer_of_replace)
MC_LOCKED_METHOD(replace_put_raw, mc_writer_of_replace)
MC_LOCKED_METHOD(replace_enter, mc_writer_of_replace)
MC_LOCKED_FASTCALL(replace_exit, mc_writer_of_replace)

static PyMethodDef replace_methods[] = {
    {"put", (PyCFunction)(void (*)(void))MC_LOCKED(replace_put), METH_FASTCALL,
     "put($self, key, document, /)\n--\n\n"
     "Puts a Mapping, RawBSONDocument or BSON bytes under a key; True when that changed "
     "anything.\n\nRaises what Batch.put() raises."},
    {"put_raw", MC_LOCKED(replace_put_raw), METH_O,
     "put_raw($self, buffer, /)\n--\n\n"
     "Puts each of the concatenated BSON documents in the buffer under its _id; how many they "
     "were. The smallest of several with one _id stays.\n\nRaises what Batch.put_raw() raises."},
    {"__enter__", MC_LOCKED(replace_enter), METH_NOARGS,
     "__enter__($self, /)\n--\n\nThe replace, begun."},
    {"__exit__", (PyCFunction)(void (*)(void))MC_LOCKED(replace_exit), METH_FASTCALL,
     "__exit__($self, /, *args)\n--\n\n"
     "Removes what was not put, or takes all of the replace back after an exception."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot replace_slots[] = {
    {Py_tp_doc, (void *)"One collection's new content. Made by Batch.replace(), used once.\n\n"
                        "At the end of its `with` what was not put is gone; after an exception "
                        "the collection is\nas it was. For the thread and the process of its "
                        "Writer."},
    {Py_tp_dealloc, replace_dealloc},
    {Py_tp_methods, replace_methods},
    {0, NULL},
};

static PyType_Spec replace_spec = {
    .name = "mmapcache.Replace",
    .basicsize = sizeof(mc_replace_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = replace_slots,
};

int mc_replace_type_init(PyObject *module, struct mc_module *state)
{
    return mc_add_type(module, &replace_spec, &state->replace);
}
