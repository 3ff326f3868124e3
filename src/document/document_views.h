/* document_views.h - keys(), values() and items() of a document, and its iterator. */
#ifndef MMAPCACHE_DOCUMENT_VIEWS_H
#define MMAPCACHE_DOCUMENT_VIEWS_H

#include "document_object.h"

/* A view, and an iterator, over the fields of a document or the members of an array: a new
 * reference, or NULL with an exception. */
PyObject *mc_fields_view(struct mc_document *self, enum mc_mapping_view kind);
PyObject *mc_fields_iterator(struct mc_document *self, enum mc_mapping_view kind);

extern PyType_Spec mc_iterator_spec, mc_view_specs[MC_MAPPING_VIEWS];

#endif
