/* json.h - json_default, as a function of the module. */
#ifndef MMAPCACHE_JSON_H
#define MMAPCACHE_JSON_H

#include "document.h"

extern PyMethodDef mc_json_functions[];

#endif
