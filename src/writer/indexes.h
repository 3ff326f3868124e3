/* indexes.h - the indexes of a file, kept by each commit; batch.h has how they are made. */
#ifndef MMAPCACHE_INDEXES_H
#define MMAPCACHE_INDEXES_H

#include "writer_state.h"

/* Adds an index that was found in the catalogue of the file just opened. MC_NOMEM. */
enum mc_status mc_indexes_found(struct mc_writer *writer, const struct mc_index *index,
                                struct mc_error *err);

/* Brings every index up to date with the collections of the open batch, and stores it in the
 * batch's catalogue. A failure leaves a batch to be aborted. */
enum mc_status mc_indexes_update(struct mc_writer *writer, struct mc_error *err);

/* The batch was published, or aborted. */
void mc_indexes_end(struct mc_writer *writer, bool published);

void mc_indexes_destroy(struct mc_writer *writer);

#endif
