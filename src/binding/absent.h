/* absent.h - KeyError for a collection that is not there, which says which ones are. */
#ifndef MMAPCACHE_ABSENT_H
#define MMAPCACHE_ABSENT_H

#include "reader.h"

/* Sets KeyError with a sentence that names the collections of that reading, the likeliest first; a
 * name that is no str is its own sentence. Always NULL. */
PyObject *mc_absent_collection(struct mc_reader *reader, struct mc_reading *reading,
                               PyObject *name);

#endif
