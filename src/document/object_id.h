/* object_id.h - the type object_id: MongoDB's ObjectId without PyMongo. */
#ifndef MMAPCACHE_OBJECT_ID_H
#define MMAPCACHE_OBJECT_ID_H

#include "document.h"

extern PyType_Spec mc_object_id_spec;

#endif
