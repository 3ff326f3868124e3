/* document_object.h - inside of Document and Array, for the files that implement them.
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
 * under the GIL without Python code in between, so that other threads see whole entries.
 */
#ifndef MMAPCACHE_DOCUMENT_OBJECT_H
#define MMAPCACHE_DOCUMENT_OBJECT_H

#include "document.h"

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
    uint32_t mask;     /* slots - 1 */
    uint32_t used;     /* < slots: a probe always ends */
    uint32_t *offsets; /* of the elements in the document, one per slot; behind the slots */
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
    uint16_t depth;      /* documents around it, itself included: 1 for a root */
    PyObject *first_name, *first_value;
    struct mc_memo *memo;
    struct mc_index *index;
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

/* ---- options.c ---- */

/* The default options; NULL with MemoryError. */
struct mc_options *mc_options_new(struct mc_document_state *state);

/* ---- classes.c ---- */

/* Interns the names of attributes: 0, or -1 with MemoryError. */
int mc_texts_init(struct mc_document_state *state);

/* PyObject_GetAttrString and PyObject_CallMethod with interned names: a name made anew each time
 * would take a place in the interpreter's cache of attributes each time. arg may be NULL. */
PyObject *mc_attribute(PyObject *object, const char *name);
PyObject *mc_call_method(PyObject *object, const char *name, PyObject *arg);

/* The module of that name if it has been imported, borrowed; NULL without an exception when it has
 * not, or with MemoryError. */
PyObject *mc_imported(const char *name);

/* Whether the object is a datetime: 1, 0, -1. Does not import datetime for it. */
int mc_datetime_check(struct mc_document_state *state, PyObject *object);

/* The whole numbers that count attributes hold, whose names begin with `first` in enum mc_texts:
 * 0 or -1. Attributes, as datetime's classes are not in C everywhere (classes.c). */
int mc_numbers_of(struct mc_document_state *state, PyObject *object, enum mc_texts first, int count,
                  int *out);

/* ---- document_object.c: life and death ---- */

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

/* Copies (the object itself: it cannot change), pickling by bytes, size: the same for both types.
 */
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

/* ---- fields.c: finding, remembering ---- */

/* The value of a field by its name: a new reference; NULL without exception when there is none. */
PyObject *mc_field_get(struct mc_document *self, PyObject *name);

/* The element of a field by its name's bytes: 1, 0 when there is none, -1 with an exception. */
int mc_field_find(struct mc_document *self, const uint8_t *name, size_t len,
                  struct mc_bson_element *element);

/* The number of distinct fields (members, for an array), or -1 with an exception. Afterwards either
 * the document has an index or no two names are equal. */
Py_ssize_t mc_fields_count(struct mc_document *self);

/* Builds the index if there is none. 0, or -1 with an exception. */
int mc_fields_index(struct mc_document *self);

/* A walk over the distinct fields in order. */
struct mc_field_walk {
    struct mc_document *document; /* borrowed */
    uint32_t position;            /* fields seen */
    uint32_t offset;              /* of the next element */
};

/* Begins; 0, or -1 with an exception. */
int mc_fields_begin(struct mc_field_walk *walk, struct mc_document *document);

/* The next element: 1, 0 at the end, -1 with an exception. */
int mc_fields_next(struct mc_field_walk *walk, struct mc_bson_element *element);

/* The name (new reference) and the value (new reference) of the element that mc_fields_next gave.
 * Nested documents and arrays are remembered, other values are made anew unless remembered. */
PyObject *mc_fields_name(struct mc_field_walk *walk, const struct mc_bson_element *element);
PyObject *mc_fields_value(struct mc_field_walk *walk, const struct mc_bson_element *element);

/* The member of an array, remembered; 0 <= index < count. New reference or NULL with exception. */
PyObject *mc_member_get(struct mc_document *self, Py_ssize_t index);

void mc_fields_forget(struct mc_document *self);

/* ---- decode.c: BSON to Python ---- */

/* Sets CorruptError: bytes that were validated when they came in are not valid now. Returns NULL.
 */
PyObject *mc_value_corrupt(struct mc_document_state *state);

/* The value of an element within `parent`; nested ones are views on its block. New reference. */
PyObject *mc_value(const struct mc_document *parent, const struct mc_bson_element *element);

/* The same with plain dicts and lists all the way down. depth counts the documents around it. */
PyObject *mc_plain_value(struct mc_options *options, const struct mc_bson_element *element,
                         unsigned depth);
PyObject *mc_plain_document(struct mc_options *options, const uint8_t *data, size_t len,
                            unsigned depth);
PyObject *mc_plain_array(struct mc_options *options, const uint8_t *data, size_t len,
                         unsigned depth);

/* str from UTF-8 that was validated: NULL with CorruptError if it is not UTF-8 after all. */
PyObject *mc_text(struct mc_document_state *state, const uint8_t *text, size_t len);

/* A field's name as str, from the cache of names where it can be. New reference. */
PyObject *mc_name(struct mc_document_state *state, const uint8_t *name, size_t len);

/* Puts a name object that code uses into the cache, so that names made from BSON are that object.
 */
void mc_name_offer(struct mc_document_state *state, PyObject *name, const uint8_t *text,
                   size_t len);

/* ---- decode_classes.c: the types that need a class ---- */

/* Dates, UUIDs and all that needs the bson package. New reference. depth as above. */
PyObject *mc_scalar(struct mc_options *options, const struct mc_bson_element *element,
                    unsigned depth);

/* The 16 bytes of a UUID in the order of a representation (PyMongo's number), or back: each of them
 * is its own inverse. JAVA_LEGACY turns both halves round, CSHARP_LEGACY has little-endian fields.
 */
void mc_uuid_order(uint8_t representation, const uint8_t from[16], uint8_t to[16]);

/* A DBRef from the plain dict of a subdocument (consumed), as PyMongo makes it; the dict itself
 * when it is none. */
PyObject *mc_dbref_or(struct mc_options *options, PyObject *dict);

/* ---- compare.c, document_views.c, document.c, array.c ---- */
PyObject *mc_object_compare(PyObject *object, PyObject *other, int operation);
Py_hash_t mc_object_hash(PyObject *object);
PyObject *mc_object_repr(PyObject *object);

extern PyMethodDef mc_json_functions[]; /* json.c: json_default */

PyObject *mc_fields_view(struct mc_document *self, enum mc_mapping_view kind);
PyObject *mc_fields_iterator(struct mc_document *self, enum mc_mapping_view kind);

extern PyType_Spec mc_document_spec, mc_array_spec, mc_iterator_spec, mc_view_specs[3];

#endif
