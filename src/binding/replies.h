/* replies.h - what the loader cuts out of a server's replies, as functions of the module. */
#ifndef MMAPCACHE_REPLIES_H
#define MMAPCACHE_REPLIES_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include "module.h"

extern PyMethodDef mc_reply_functions[];

#endif
