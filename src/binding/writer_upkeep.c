/* writer_upkeep.c - Writer.in_use, tidy(), shrink(): for when there is nothing to commit. */
#include "writer_upkeep.h"

#include "errors.h"
#include "writer/upkeep.h"
#include "writer_object.h"

PyObject *mc_writer_object_in_use(PyObject *self_object, void *Py_UNUSED(closure))
{
    struct mc_writer *writer = mc_writer_enter((mc_writer_object *)self_object);
    return writer == NULL ? NULL : PyLong_FromUnsignedLongLong(mc_writer_in_use(writer));
}

const char mc_tidy_doc[] = PyDoc_STR(
    "tidy($self, /)\n--\n\n"
    "Does a little of what the next commits would have to do; True when there is more.\n\n"
    "It makes the file 2 MiB longer when less than a 32nd of it is free in large pieces. In a\n"
    "file that is at max_size, and whose free room is in pieces, it moves 256 KiB of documents\n"
    "closer together, which is a generation without changes. It does nothing while a batch is\n"
    "open. It takes as long as the system takes for a huge page, or as a commit of that size.\n"
    "Raises ClosedError.");

PyObject *mc_writer_object_tidy(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    struct mc_writer *writer = mc_writer_enter(self);
    bool more;
    if (writer == NULL) {
        return NULL;
    }
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    more = mc_writer_tidy(writer);
    Py_END_ALLOW_THREADS
    mc_writer_leave(self);
    return PyBool_FromLong(more);
}

const char mc_shrink_doc[] = PyDoc_STR(
    "shrink($self, /)\n--\n\n"
    "Puts a file with the same content, and no longer than that needs, in this file's place.\n\n"
    "The writer goes on with it; readers move over by themselves, as for another max_size. State,\n"
    "position, indexes and history stay, generations go on. It takes as long as writing the whole\n"
    "content, and meanwhile there has to be room for both files.\n\n"
    "Raises FullError, CorruptError, OSError, NotReadyError (the path names another file by now);\n"
    "then all is as before. ClosedError; MmapCacheError while a batch is open, and for an\n"
    "anonymous cache.");

PyObject *mc_writer_object_shrink(PyObject *self_object, PyObject *Py_UNUSED(ignored))
{
    mc_writer_object *self = (mc_writer_object *)self_object;
    struct mc_writer *writer = mc_writer_enter(self), *successor = NULL;
    struct mc_error error;
    enum mc_status status;
    if (writer == NULL) {
        return NULL;
    }
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    status = mc_writer_shrink(writer, &successor, &error);
    Py_END_ALLOW_THREADS
    if (status == MC_OK) { /* not earlier: others may look at ours, and see that it is busy */
        self->writer = successor;
        Py_BEGIN_ALLOW_THREADS
        mc_writer_free(writer);
        Py_END_ALLOW_THREADS
    }
    mc_writer_leave(self);
    if (status != MC_OK) {
        return mc_raise(self->module, &error);
    }
    Py_RETURN_NONE;
}
