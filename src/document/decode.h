/* decode.h - BSON values to Python objects. */
#ifndef MMAPCACHE_DECODE_H
#define MMAPCACHE_DECODE_H

#include "document_object.h"

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

/* Puts a name object that code uses into the cache,
 * so that names made from BSON are that object. */
void mc_name_offer(struct mc_document_state *state, PyObject *name, const uint8_t *text,
                   size_t len);

#endif
