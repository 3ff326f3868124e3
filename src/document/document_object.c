/* document_object.c - both objects: allocation, death, construction, copying, pickling.
 *
 * Memory: a root is one block of Python's allocator, a view another, and dead views wait in a short
 * list for reuse because most documents that are touched at all are touched in a nested one. See
 * document_object.h for who keeps whose bytes alive.
 */
#include "document_object.h"

#include "classes.h"
#include "memo.h"

PyObject *mc_value_corrupt(struct mc_document_state *state)
{
    struct mc_error error;
    (void)mc_fail(&error, MC_CORRUPT,
                  "a stored document is not valid BSON: the file is damaged, have it rebuilt");
    return state->raise(state->module, &error);
}

/* PyMongo takes documents of two kinds: MutableMapping and RawBSONDocument. The second is what we
 * are: bytes that are written as they are. It is an abstract base class, so we register with it, as
 * soon as PyMongo is there: looked for whenever the number of imported modules has changed. */
int mc_document_look_for_pymongo(struct mc_document_state *state)
{
    Py_ssize_t count = PyDict_GET_SIZE(PyImport_GetModuleDict());
    PyObject *module, *cls, *done = NULL;
    if (count == mc_peek(&state->modules_seen)) {
        return 0;
    }
    module = mc_imported("bson.raw_bson");
    cls = module != NULL ? PyObject_GetAttrString(module, "RawBSONDocument") : NULL;
    if (cls != NULL) { /* absent while bson is just being imported: next time */
        done = PyObject_CallMethod(cls, "register", "O", state->document_type);
        Py_DECREF(cls);
    }
    Py_XDECREF(module);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyErr_Clear(); /* PyMongo then says itself which types it takes */
    mc_poke(&state->registered, done != NULL);
    mc_poke(&state->modules_seen, count);
    Py_XDECREF(done);
    return 0;
}

static void set_up(struct mc_document *self, struct mc_block *block, const uint8_t *data,
                   size_t len, unsigned depth)
{
    _Static_assert(MC_BSON_DEPTH_MAX <= UINT8_MAX, "depth");
    self->block = block;
    self->data = data;
    self->len = (uint32_t)len;
    self->count = MC_COUNT_UNKNOWN;
    self->first_offset = 0;
    self->long_walks = 0;
    self->depth = (uint8_t)depth;
    self->blocks = 0;
    self->first_name = NULL;
    self->first_value = NULL;
    self->memo = NULL;
    self->index = NULL;
#if MC_FREE_THREADED
    self->older = NULL;
#endif
}

struct mc_document *mc_owner_new(PyTypeObject *type, struct mc_options *options, size_t len,
                                 uint8_t **bytes)
{
    struct mc_owner *root = PyObject_Malloc(sizeof *root + len);
    if (root == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    (void)PyObject_Init((PyObject *)root, type);
    root->block.references = 1;
    root->block.options = mc_options_retain(options);
    set_up(&root->document, &root->block, root->bytes, len, 1);
    *bytes = root->bytes;
    return &root->document;
}

PyObject *mc_document_new(struct mc_options *options, size_t len, unsigned blocks, uint8_t **bytes)
{
    size_t room = len + (size_t)blocks * MC_BLOCK_BYTES;
    struct mc_document *self = mc_owner_new(options->state->document_type, options, room, bytes);
    if (self != NULL) {
        self->len = (uint32_t)len;
        self->blocks = (uint8_t)blocks;
    }
    return (PyObject *)self;
}

PyObject *mc_nested_new(PyTypeObject *type, const struct mc_document *parent, const uint8_t *data,
                        size_t len)
{
    struct mc_block *block = parent->block;
    struct mc_document_state *state = block->options->state;
    struct mc_document *view = state->free_nested;
    if (parent->depth >= MC_BSON_DEPTH_MAX) {
        return mc_value_corrupt(state);
    }
    if (MC_KEEPS_BLOCKS && view != NULL) {
        state->free_nested = (struct mc_document *)(void *)view->memo;
        state->free_nested_count--;
    } else {
        view = PyObject_Malloc(sizeof *view);
        if (view == NULL) {
            return PyErr_NoMemory();
        }
    }
    (void)PyObject_Init((PyObject *)view, type);
    mc_count_up(&block->references);
    set_up(view, block, data, len, parent->depth + 1u);
    return (PyObject *)view;
}

static void release_block(struct mc_block *block)
{
    if (mc_count_down(&block->references)) {
        struct mc_options *options = block->options;
        PyObject_Free((uint8_t *)block - offsetof(struct mc_owner, block));
        mc_options_release(options);
    }
}

void mc_object_dealloc(PyObject *object)
{
    struct mc_document *self = (struct mc_document *)object;
    struct mc_document_state *state = mc_state_of(self);
    struct mc_block *block = self->block;
    PyTypeObject *type = Py_TYPE(object);
    bool root = (void *)self == (uint8_t *)block - offsetof(struct mc_owner, block);
    mc_document_forget(self); /* may run any Python code: the object is not reachable any more */
    if (!root) {
        if (MC_KEEPS_BLOCKS && state->free_nested_count < MC_FREE_NESTED) {
            self->memo = (struct mc_memo *)(void *)state->free_nested;
            state->free_nested = self;
            state->free_nested_count++;
        } else {
            PyObject_Free(self);
        }
    }
    release_block(block);
    Py_DECREF(type); /* last: it may take the module and its state along */
}

/* The BSON that a Document or an Array is made from: bytes; for a Document a Mapping, too. */
static int bson_given(PyTypeObject *type, PyObject *data, Py_buffer *buffer)
{
    struct mc_document_state *state = PyType_GetModuleState(type);
    if (type == state->document_type && !PyObject_CheckBuffer(data)) {
        return state->encode(state->module, data, buffer);
    }
    return PyObject_GetBuffer(data, buffer, PyBUF_SIMPLE);
}

PyObject *mc_object_from_call(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "codec_options", NULL};
    struct mc_document_state *state = PyType_GetModuleState(type);
    PyObject *data, *codec_options = Py_None;
    struct mc_document *self = NULL;
    struct mc_options *options;
    struct mc_error error;
    Py_buffer buffer;
    uint8_t *bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O", names, &data, &codec_options) ||
        bson_given(type, data, &buffer) < 0) {
        return NULL;
    }
    options = mc_document_meet_pymongo(state) < 0 ? NULL : mc_options_from(state, codec_options);
    if (options != NULL && buffer.len > INT32_MAX) {
        (void)mc_fail(&error, MC_INVALID, "a BSON document has 2,147,483,647 bytes at most");
        state->raise(state->module, &error);
    } else if (options != NULL) {
        self = mc_owner_new(type, options, (size_t)buffer.len, &bytes);
    }
    if (self != NULL) { /* the copy is judged: a bytearray may change behind our back */
        memcpy(bytes, buffer.buf, (size_t)buffer.len);
        if (mc_bson_validate(bytes, (size_t)buffer.len, &error) != MC_OK) {
            Py_CLEAR(self);
            state->raise(state->module, &error);
        }
    }
    if (options != NULL) {
        mc_options_release(options);
    }
    PyBuffer_Release(&buffer);
    return (PyObject *)self;
}

const uint8_t *mc_document_bytes(PyObject *document, size_t *len)
{
    const struct mc_document *self = (struct mc_document *)document;
    *len = self->len;
    return self->data;
}

size_t mc_document_memory(PyObject *document)
{
    const struct mc_document *self = (struct mc_document *)document;
    return sizeof(struct mc_owner) + self->len + (size_t)self->blocks * MC_BLOCK_BYTES;
}

/* ---- methods that both types have ---- */

PyObject *mc_object_self(PyObject *self, PyObject *ignored)
{
    (void)ignored; /* immutable: a copy is the object itself */
    return Py_NewRef(self);
}

PyObject *mc_object_reduce(PyObject *object, PyObject *ignored)
{
    struct mc_document *self = (struct mc_document *)object;
    PyObject *source = mc_options_of(self)->source;
    (void)ignored;
    return Py_BuildValue("O(y#O)", Py_TYPE(object), (const char *)self->data, (Py_ssize_t)self->len,
                         source != NULL ? source : Py_None);
}

PyObject *mc_object_sizeof(PyObject *object, PyObject *ignored)
{
    struct mc_document *self = (struct mc_document *)object;
    const struct mc_memo *memo = mc_load(&self->memo);
    const struct mc_index *index = mc_load(&self->index);
    size_t size = sizeof *self;
    (void)ignored;
    if (self->data == ((struct mc_owner *)self)->bytes) {
        size = mc_document_memory(object);
    }
    if (memo != NULL) {
        size += sizeof *memo + (memo->mask + 1) * (sizeof(struct mc_memo_slot) + 4);
    }
    if (index != NULL) {
        size += sizeof *index + index->count * sizeof(struct mc_field) +
                (index->mask + 1) * sizeof(uint32_t);
    }
    return PyLong_FromSize_t(size);
}

PyObject *mc_object_raw(PyObject *object, void *ignored)
{
    const struct mc_document *self = (struct mc_document *)object;
    (void)ignored;
    return PyBytes_FromStringAndSize((const char *)self->data, self->len);
}
