/* options.h - codec options, for the files of this folder (the binding's half is in document.h). */
#ifndef MMAPCACHE_OPTIONS_H
#define MMAPCACHE_OPTIONS_H

#include "document.h"

/* The default options; NULL with MemoryError. */
struct mc_options *mc_options_new(struct mc_document_state *state);

/* Those by which a value is shown and not used: the same, but what needs bson is shown without it,
 * too. They are the caller's and own nothing, so they must not outlive the others. */
struct mc_options mc_options_to_show(const struct mc_options *options);

#endif
