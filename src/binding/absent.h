/* absent.h - KeyError for what is not there, which says what is. */
#ifndef MMAPCACHE_ABSENT_H
#define MMAPCACHE_ABSENT_H

#include "collection.h"

/* Sets KeyError with a sentence that names the collections of that reading, the likeliest first; a
 * name that is no str is its own sentence. Always NULL. */
PyObject *mc_absent_collection(struct mc_reader *reader, struct mc_reading *reading,
                               PyObject *name);

/* Sets KeyError with a key that the collection has not; or with a sentence, where the key is the
 * digits of an ObjectId that is there. */
void mc_absent_key(mc_collection_object *self, PyObject *object);

#endif
