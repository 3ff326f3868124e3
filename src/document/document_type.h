/* document_type.h - the Document type. */
#ifndef MMAPCACHE_DOCUMENT_TYPE_H
#define MMAPCACHE_DOCUMENT_TYPE_H

#include "document.h"

extern PyType_Spec mc_document_spec;

#endif
