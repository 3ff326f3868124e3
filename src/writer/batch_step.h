/* batch_step.h - the steps of an operation that batch.c lends to raw.c. */
#ifndef MMAPCACHE_BATCH_STEP_H
#define MMAPCACHE_BATCH_STEP_H

#include "writer_state.h"

/* MC_LIMIT for a document that is too long. */
enum mc_status mc_batch_check_size(size_t len, struct mc_error *err);

/* What every operation needs first: an open batch and the collection's place. */
enum mc_status mc_batch_step(struct mc_writer *writer, const char *name, size_t name_len,
                             size_t *index, struct mc_error *err);

/* Puts a key with its hash. The failures of mc_batch_put. */
enum mc_status mc_batch_put_hashed(struct mc_writer *writer, size_t index, const struct mc_key *key,
                                   const uint8_t *value, size_t value_len, bool *changed,
                                   struct mc_error *err);

#endif
