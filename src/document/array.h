/* array.h - the Array type. */
#ifndef MMAPCACHE_ARRAY_H
#define MMAPCACHE_ARRAY_H

#include "document.h"

extern PyType_Spec mc_array_spec;

#endif
