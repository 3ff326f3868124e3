/* encode.h - Python objects to BSON, without PyMongo. */
#ifndef MMAPCACHE_ENCODE_H
#define MMAPCACHE_ENCODE_H

#include "document.h"

/* The BSON of a dict or another Mapping, as bytes that bson.encode gives, too: `_id` comes first.
 *
 *      None, bool, int, float, str, bytes, datetime, UUID, dict, list, tuple and what is derived
 *      from them; any Mapping; Document, Array, object_id, RareValue      are written here
 *      bson's own classes and re.Pattern                                  value by value by bson
 *
 * UUIDs are written as the options say, or as MongoDB's standard has them. New reference. NULL with
 * InvalidDocument (a field's name, a type, more than 200 documents within each other),
 * OverflowError (an int, a date), UnicodeEncodeError or whatever a Mapping of the caller's raises;
 * bson's InvalidDocument for what bson refuses. */
PyObject *mc_encode_document(struct mc_options *options, PyObject *mapping);

/* The BSON of {"": value}. */
PyObject *mc_encode_value(struct mc_options *options, PyObject *value);

/* The element of bytes that hold one, as mc_encode_value() makes them; false when they do not. */
bool mc_only_element(PyObject *bytes, struct mc_bson_element *element);

/* Milliseconds from 1970 of a datetime: microseconds are cut off as PyMongo does, one without a
 * zone is in UTC. 0, or -1 with an exception. */
int mc_datetime_millis(struct mc_document_state *state, PyObject *object, int64_t *millis);

/* A UUID's 16 bytes in the order of the representation, which is not UNSPECIFIED: 0, or -1. */
int mc_uuid_bytes(struct mc_document_state *state, PyObject *uuid, uint8_t representation,
                  uint8_t out[16]);

#endif
