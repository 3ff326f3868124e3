/* pykey.h - Python key <-> canonical key.
 *
 * Text, integers, floats, bytes, bool, None, datetime, UUID, ObjectId and Document are read in C;
 * the rarer kinds of `_id` are encoded once. A lookup must not need pymongo for the common kinds,
 * and must not raise for a key that merely cannot be in the database: see the three results below.
 */
#ifndef MMAPCACHE_PYKEY_H
#define MMAPCACHE_PYKEY_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>

#include "document/document.h"
#include "key.h"

enum mc_pykey_result {
    MC_PYKEY_ERROR = -1, /* a Python exception is set: TypeError, ImportError, MemoryError */
    MC_PYKEY_OK = 0,
    MC_PYKEY_NEVER = 1, /* no `_id` can be this (too long, a lone surrogate, an int of 40 digits):
                           *err is filled, no exception is set. A lookup answers "absent", a put
                           raises *err. */
};

/* The key points into `object`, into itself or into scratch, and lives as long as all three.
 * key->hash is left for the store. err may be NULL. */
enum mc_pykey_result mc_pykey_convert(struct mc_options *options, PyObject *object,
                                      struct mc_key *key, uint8_t scratch[MC_KEY_MAX],
                                      struct mc_error *err);

/* The same, with exact str and exact int inlined into the caller: a few nanoseconds. */
static inline enum mc_pykey_result mc_pykey_from(struct mc_options *options, PyObject *object,
                                                 struct mc_key *key, uint8_t scratch[MC_KEY_MAX],
                                                 struct mc_error *err)
{
    if (PyUnicode_CheckExact(object) && PyUnicode_IS_COMPACT_ASCII(object) &&
        PyUnicode_GET_LENGTH(object) <= MC_KEY_BYTES_MAX) {
        key->type = MC_BSON_STRING;
        key->data = PyUnicode_1BYTE_DATA(object);
        key->len = (uint16_t)PyUnicode_GET_LENGTH(object);
        return MC_PYKEY_OK;
    }
    if (PyLong_CheckExact(object)) {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (overflow == 0) {
            mc_key_from_int64(value, key);
            return MC_PYKEY_OK;
        }
    }
    return mc_pykey_convert(options, object, key, scratch, err);
}

/* The natural Python key of canonical (type, data, len), which must be private bytes: str, int,
 * float, bytes, UUID, ObjectId, Document, ... NULL with an exception (CorruptError for bytes that
 * no key can have). */
PyObject *mc_pykey_to_python(struct mc_options *options, uint8_t type, const uint8_t *data,
                             size_t len);

#endif
