/* document_object.h - what Document and Array are made of, for the files that implement them.
 *
 *   root: one allocation                          view: a nested document or array
 *   +-----------------------------+               +----------------+
 *   | struct mc_document          |<--- Python -- | (of no parent) |
 *   |   memo --- values ----------|--- owns ----> |  block --------|--+
 *   +-----------------------------+               +----------------+  |
 *   | struct mc_block: references |<-----------------------------------+  counted, not by Python
 *   +-----------------------------+
 *   | the bytes                   |
 *   +-----------------------------+
 *
 * A parent remembers its nested views, and a view needs its parent's bytes: with Python references
 * both ways that were a cycle. So a view counts itself in the block instead, and the memory of a
 * dead root stays until the last view of its bytes has gone. Nothing here needs the garbage
 * collector, because no remembered value leads back.
 *
 * What a document remembers, in the order in which it grows:
 *
 *   first   one field in the object itself: enough for most nested documents
 *   memo    a small hash table from the name *object* to the value: names in code are the same
 *           string object each time, so that most lookups compare one pointer
 *   index   all fields by the hash of their name's bytes, for documents with many fields
 *
 * Arrays have only the index, without names. Invariants: a field's value is made once, so that
 * doc["a"] is doc["a"]; entries are never removed while the object lives; every change happens
 * under the GIL, or in a section of the document, without Python code in between.
 *
 * Without a GIL, other threads read meanwhile and take no lock. So the name of an entry is stored
 * last, memo and index are published when they are whole, a value once there stays, and a memo that
 * a larger one has replaced is kept until the document dies. A reader compares the address of its
 * own name with the names here, and follows none of them: those may be replaced and freed.
 */
#ifndef MMAPCACHE_DOCUMENT_OBJECT_H
#define MMAPCACHE_DOCUMENT_OBJECT_H

#include "document.h"
#include "field_index.h"

struct mc_block {
    Py_ssize_t references; /* the root and each view */
    struct mc_options *options;
};

#define MC_COUNT_UNKNOWN UINT32_MAX
enum { MC_MEMO_MAX = 24 }; /* fields in a memo; more make an index */

struct mc_memo_slot {
    PyObject *name; /* NULL: free */
    PyObject *value;
};

struct mc_memo {
    uint32_t mask; /* slots - 1 */
    uint32_t used; /* < slots: a probe always ends */
    union {
        uint32_t *offsets;     /* of the elements in the document, one per slot; behind the slots */
        struct mc_memo *older; /* of one that was replaced: the one that was before it */
    };
    struct mc_memo_slot slots[];
};

struct mc_field {
    uint32_t offset; /* of the element's type byte in the document */
    uint32_t name_len;
    PyObject *name;  /* NULL until needed */
    PyObject *value; /* NULL until touched */
};

struct mc_index {
    uint32_t count;           /* fields; of equal names only the first is here */
    uint32_t mask;            /* buckets - 1; 0 for arrays, which have none */
    uint32_t *buckets;        /* field number + 1; 0: free */
    struct mc_field fields[]; /* in the document's order */
};

struct mc_document {
    PyObject_HEAD
    struct mc_block *block;
    const uint8_t *data;
    uint32_t len;
    uint32_t count; /* distinct fields or members, or MC_COUNT_UNKNOWN */
    uint32_t first_offset;
    uint16_t long_walks; /* lookups that had to walk past many fields, until there is an index */
    uint8_t depth;       /* documents around it, itself included: 1 for a root */
    uint8_t blocks;      /* of the index of its fields, behind its bytes: see field_index.h */
    PyObject *first_name, *first_value;
    struct mc_memo *memo;
    struct mc_index *index;
#if MC_FREE_THREADED
    struct mc_memo *older; /* replaced: memory that a thread may still be reading */
#endif
};

struct mc_owner {
    struct mc_document document;
    struct mc_block block;
    uint8_t bytes[];
};

static inline struct mc_options *mc_options_of(const struct mc_document *self)
{
    return self->block->options;
}

static inline struct mc_document_state *mc_state_of(const struct mc_document *self)
{
    return self->block->options->state;
}

/* The slot in which the search for a name object starts. */
static inline uint32_t mc_memo_start(const struct mc_memo *memo, const PyObject *name)
{
    return (uint32_t)(((uintptr_t)name >> 4) * 0x9E3779B1u >> 8) & memo->mask;
}

/* Sets CorruptError: bytes that were validated when they came in are not valid now. NULL. */
PyObject *mc_value_corrupt(struct mc_document_state *state);

/* A root of the given type with len bytes to be filled. */
struct mc_document *mc_owner_new(PyTypeObject *type, struct mc_options *options, size_t len,
                                 uint8_t **bytes);

/* A view of the given type on bytes of its parent. What nests deeper than any valid document is
 * CorruptError: so whatever follows views down, death too, needs no more than so many frames. */
PyObject *mc_nested_new(PyTypeObject *type, const struct mc_document *parent, const uint8_t *data,
                        size_t len);

void mc_object_dealloc(PyObject *object);

/* What Document(...) and Array(...) do: one validated copy of the bytes given. */
PyObject *mc_object_from_call(PyTypeObject *type, PyObject *args, PyObject *kwargs);

/* Copies (the object itself: it cannot change), pickling by bytes, size:
 * the same for both types. */
PyObject *mc_object_self(PyObject *self, PyObject *ignored);
PyObject *mc_object_reduce(PyObject *object, PyObject *ignored);
PyObject *mc_object_sizeof(PyObject *object, PyObject *ignored);

/* The attribute `raw`. */
PyObject *mc_object_raw(PyObject *object, void *ignored);

#define MC_OBJECT_METHODS                                                                          \
    {"copy", mc_object_self, METH_NOARGS, "The object itself, which cannot change."},              \
        {"__copy__", mc_object_self, METH_NOARGS, NULL},                                           \
        {"__deepcopy__", mc_object_self, METH_O, NULL},                                            \
        {"__reduce__", mc_object_reduce, METH_NOARGS, NULL},                                       \
    {                                                                                              \
        "__sizeof__", mc_object_sizeof, METH_NOARGS, NULL                                          \
    }

#endif
