/* options.h - codec options, for the files of this folder (the binding's half is in document.h). */
#ifndef MMAPCACHE_OPTIONS_H
#define MMAPCACHE_OPTIONS_H

#include "document.h"

/* The default options; NULL with MemoryError. */
struct mc_options *mc_options_new(struct mc_document_state *state);

#endif
