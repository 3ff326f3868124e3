/* document.h - what the binding needs of Document and Array, which read BSON lazily. What the files
 * of this folder need of each other is in headers named like them.
 *
 * How the binding gets a document out of the map, with one allocation and one copy:
 *
 *      uint8_t *bytes;
 *      PyObject *document = mc_document_new(options, hit.value_len, hit.blocks, &bytes);
 *      mc_copy(bytes, hit.value, hit.value_len + (size_t)hit.blocks * MC_BLOCK_BYTES);
 *      if (mc_view_settle_value(&view, &hit, MC_OK) != MC_OK)
 *          Py_DECREF(document), try again;                  else return document
 *
 * Until the copy has been validated, no Python code may see the object. A Document holds no
 * reference that leads back to it and is not tracked by the garbage collector. Any number of
 * references to it may be kept (front cache); it is immutable but for its memo of decoded fields.
 *
 * State. The types and what they need live in struct mc_document_state, which MUST be the first
 * member of the module's state: methods find it by PyType_GetModuleState(Py_TYPE(self)). Objects
 * keep their type, types their module, the module its state: it outlives every document.
 */
#ifndef MMAPCACHE_DOCUMENT_H
#define MMAPCACHE_DOCUMENT_H

#include "threads.h" /* Python.h is the first header of all */

#include <stdint.h>

#include "bson.h"
#include "status.h"

enum {
    MC_NAME_CACHE = 1024, /* field names kept as Python strings; a power of two */
    MC_FREE_NESTED = 256, /* nested views kept for reuse */
};

/* Classes that are imported on first need; mc_document_class() fills them. */
enum mc_class {
    MC_CLASS_OBJECTID,
    MC_CLASS_BINARY,
    MC_CLASS_DECIMAL128,
    MC_CLASS_REGEX,
    MC_CLASS_CODE,
    MC_CLASS_TIMESTAMP,
    MC_CLASS_DBREF,
    MC_CLASS_MINKEY,
    MC_CLASS_MAXKEY,
    MC_CLASS_DATETIME_MS,
    MC_CLASS_INVALID_DOCUMENT, /* bson.errors.InvalidDocument */
    MC_CLASS_CODEC_OPTIONS,
    MC_CLASS_ENCODE, /* bson.encode, a function */
    MC_CLASS_UUID,   /* uuid.UUID: needs no pymongo, and neither do these */
    MC_CLASS_RARE,   /* our own, of a value whose class is bson's */
    MC_CLASS_DATETIME,
    MC_CLASS_TIMEDELTA,
    MC_CLASS_TIMEZONE,
    MC_CLASSES,
};

/* Interned strings: attributes of PyMongo's and Python's classes. */
enum mc_texts {
    MC_TEXT_BINARY,
    MC_TEXT_SUBTYPE,
    MC_TEXT_RAW,
    MC_TEXT_MARKER,
    MC_TEXT_OID,
    MC_TEXT_INT,
    MC_TEXT_IS_SAFE,
    MC_TEXT_UTCOFFSET,
    MC_TEXT_ASTIMEZONE,
    MC_TEXT_YEAR, /* of a datetime, from here on one after the other */
    MC_TEXT_MONTH,
    MC_TEXT_DAY,
    MC_TEXT_HOUR,
    MC_TEXT_MINUTE,
    MC_TEXT_SECOND,
    MC_TEXT_MICROSECOND,
    MC_TEXT_DAYS, /* of a timedelta, likewise */
    MC_TEXT_SECONDS,
    MC_TEXT_MICROSECONDS,
    MC_TEXT_DOLLAR_REF,
    MC_TEXT_DOLLAR_ID,
    MC_TEXT_DOLLAR_DB,
    MC_TEXT_EMPTY,
    MC_TEXT_BID,
    MC_TEXT_ID,
    MC_TEXT_BSON_OBJECTID,
    MC_TEXTS,
};

/* What keys(), values() and items() of our mappings give. */
enum mc_mapping_view { MC_KEYS, MC_VALUES, MC_ITEMS, MC_MAPPING_VIEWS };

/* How values become Python objects. Counted; one per codec_options given, plus the default one in
 * the state. */
struct mc_options {
    struct mc_document_state *state;
    Py_ssize_t references;
    PyObject *source; /* the CodecOptions they were made from, for pickling; or NULL */
    PyObject *utc;    /* what a datetime gets at first; NULL: datetimes are naive */
    PyObject *tzinfo; /* what it is then converted to; NULL: nothing */
    int64_t min_millis, max_millis; /* of what fits into a datetime after the conversion */
    uint8_t uuid_representation;    /* PyMongo's numbers; UNSPECIFIED 0, STANDARD 4 */
    uint8_t datetime_conversion;    /* PyMongo's numbers; DATETIME 1, CLAMP 2, MS 3, AUTO 4 */
    bool rare; /* a value whose class is bson's and not there is a RareValue, no ImportError */
};

struct mc_document; /* a Document or an Array: document_object.h */

/* Sets the Python exception for a core error; the binding's one function. Returns NULL. */
typedef PyObject *(*mc_raise_function)(PyObject *module, const struct mc_error *error);

/* The BSON of a Mapping, in *view until PyBuffer_Release(view); the binding's, too, as it writes
 * documents. 0, or -1 with an exception. */
typedef int (*mc_encode_function)(PyObject *module, PyObject *object, Py_buffer *view);

struct mc_document_state {
    PyObject *module; /* borrowed: the module owns this state */
    mc_raise_function raise;
    mc_encode_function encode;
    PyTypeObject *document_type, *array_type, *iterator_type, *object_id_type;
    PyTypeObject *view_types[MC_MAPPING_VIEWS]; /* of keys(), values() and items() */
    PyObject *mapping_abc;                      /* collections.abc.Mapping */
    PyObject *classes[MC_CLASSES];
    PyObject *texts[MC_TEXTS];
    PyObject *encode_options;   /* see mc_encode_options */
    PyObject *uuid_unknown;     /* uuid.SafeUUID.unknown, with the class UUID */
    bool objectid_direct;       /* an ObjectId can be filled without calling its class */
    bool bson_absent;           /* it could not be imported when that was tried last */
    bool registered;            /* Document is known to PyMongo */
    bool pretty;                /* and to pprint, or it will not have it */
    Py_ssize_t modules_seen;    /* len(sys.modules) when we last looked for PyMongo there */
    uint64_t secret[4];         /* MC_SECRETS: of the hash of field names */
    struct mc_options *options; /* the default */
    struct mc_document *free_nested;
    unsigned free_nested_count;
    PyObject *names[MC_NAME_CACHE];
};

/* Makes the types and adds Document, Array and json_default to the module. 0, or -1 with a Python
 * exception. Call from the module's exec slot; the next two from its hooks of these names. */
int mc_document_state_init(PyObject *module, struct mc_document_state *state,
                           mc_raise_function raise, mc_encode_function encode);
int mc_document_state_traverse(struct mc_document_state *state, visitproc visit, void *arg);
int mc_document_state_clear(struct mc_document_state *state);

/* Options from a PyMongo CodecOptions (by duck typing: pymongo is not imported) or None, which
 * gives a new reference to the default. NULL with TypeError or ValueError when something in it
 * cannot be honoured (document_class, type registry). Release with mc_options_release(). */
struct mc_options *mc_options_from(struct mc_document_state *state, PyObject *codec_options);
void mc_options_release(struct mc_options *options);

/* A CodecOptions that writes UUIDs as MongoDB's standard has them, for bson.encode; made on first
 * need. Borrowed, or NULL with an exception. */
PyObject *mc_encode_options(struct mc_document_state *state);

static inline struct mc_options *mc_options_retain(struct mc_options *options)
{
    mc_count_up(&options->references);
    return options;
}

/* A Document of len bytes (5 or more), behind them an index of its fields of so many blocks
 * (field_index.h). The caller fills both through *bytes before anything else happens; NULL with
 * MemoryError. Takes its own reference to options. */
PyObject *mc_document_new(struct mc_options *options, size_t len, unsigned blocks, uint8_t **bytes);

/* Makes a Document what PyMongo takes as it is, once PyMongo is there: 0, or -1 with MemoryError.
 * Runs Python code, so it is for the beginning of whatever makes Documents. */
int mc_document_look_for_pymongo(struct mc_document_state *state);

static inline int mc_document_meet_pymongo(struct mc_document_state *state)
{
    return mc_peek(&state->registered) ? 0 : mc_document_look_for_pymongo(state);
}

static inline bool mc_document_check(const struct mc_document_state *state, PyObject *object)
{
    return Py_TYPE(object) == state->document_type;
}

/* The bytes of a Document (any, nested ones too); valid while the object lives. */
const uint8_t *mc_document_bytes(PyObject *document, size_t *len);

/* The memory that this one document takes, its bytes included, its memo excluded. */
size_t mc_document_memory(PyObject *document);

/* The Python value of one element whose bytes are private and will not change, for instance what
 * mc_bson_pluck() found in the map and the caller copied. Nested documents and arrays get a copy of
 * their bytes. NULL with an exception. */
PyObject *mc_value_from_element(struct mc_options *options, const struct mc_bson_element *element);

/* An imported class or function (borrowed),
 * or NULL with ImportError that says to install pymongo. */
PyObject *mc_document_class(struct mc_document_state *state, enum mc_class which);

/* The 12 bytes of an object_id, and a new one of them: what an ObjectId is without bson. */
const uint8_t *mc_object_id_bytes(PyObject *object);
PyObject *mc_object_id_new(struct mc_document_state *state, const uint8_t bytes[12]);

/* The ObjectId that a str of 24 hexadecimal digits writes; false when the object is none. */
bool mc_object_id_read(PyObject *text, uint8_t out[12]);

/* Whether bson is there: 1, 0, -1 with an exception. Imports it when that was not tried yet. */
int mc_have_bson(struct mc_document_state *state);

/* A RareValue (mmapcache/rare.py) of an element whose class is bson's. New reference. */
PyObject *mc_rare_value(struct mc_document_state *state, const struct mc_bson_element *element);

/* A new type of the module: NULL with an exception. */
PyTypeObject *mc_type_new(PyObject *module, PyType_Spec *spec);

#endif
