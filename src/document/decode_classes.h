/* decode_classes.h - the BSON types that need a Python class. */
#ifndef MMAPCACHE_DECODE_CLASSES_H
#define MMAPCACHE_DECODE_CLASSES_H

#include "document.h"

/* Dates, UUIDs and all that needs the bson package. New reference. depth as above. */
PyObject *mc_scalar(struct mc_options *options, const struct mc_bson_element *element,
                    unsigned depth);

/* The 16 bytes of a UUID in the order of a representation (PyMongo's number), or back: each of them
 * is its own inverse. JAVA_LEGACY turns both halves round,
 * CSHARP_LEGACY has little-endian fields. */
void mc_uuid_order(uint8_t representation, const uint8_t from[16], uint8_t to[16]);

/* A DBRef from the plain dict of a subdocument (consumed), as PyMongo makes it; the dict itself
 * when it is none. */
PyObject *mc_dbref_or(struct mc_options *options, PyObject *dict);

#endif
