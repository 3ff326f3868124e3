/* fields.h - finding the fields of a document, walking them, and remembering their values. */
#ifndef MMAPCACHE_FIELDS_H
#define MMAPCACHE_FIELDS_H

#include "document_object.h"

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

#endif
