/* collections.h - the collections that a writer works on: found by name, changed by a batch, stored
 * at its commit. */
#ifndef MMAPCACHE_COLLECTIONS_H
#define MMAPCACHE_COLLECTIONS_H

#include "writer_state.h"

/* The collection's index in writer->collections.items; it need not exist. MC_LIMIT for a bad name,
 * MC_NOMEM, MC_CORRUPT. */
enum mc_status mc_collections_find(struct mc_writer *writer, const char *name, size_t len,
                                   size_t *out, struct mc_error *err);

/* Puts the collection on the batch's list: commit and abort look at no other. */
void mc_collections_change(struct mc_writer *writer, size_t index);

/* The same for one of whose keys was put (MC_LOG_PUT) or deleted (MC_LOG_DELETE), to be logged. */
void mc_collections_change_key(struct mc_writer *writer, size_t index, uint8_t kind,
                               const struct mc_key *key);

/* Makes the collection exist in the batch: MC_LIMIT when there are too many. */
enum mc_status mc_collections_create(struct mc_writer *writer, size_t index, struct mc_error *err);

/* Takes the collection away again. */
void mc_collections_remove(struct mc_writer *writer, size_t index);

/* Takes back what was done to the collection since it was as in `before`. */
void mc_collections_take_back(struct mc_writer *writer, size_t index,
                              const struct mc_writer_collection *before);

/* Takes the first collection off the batch's list, which is not empty. */
struct mc_writer_collection *mc_collections_unlist(struct mc_writer *writer);

/* Writes each changed collection into the batch's catalogue, or takes it out, and adds it to the
 * root's counts. A failure leaves a batch to be aborted. */
enum mc_status mc_collections_store(struct mc_writer *writer, struct mc_root *root,
                                    struct mc_error *err);

/* Once no batch is open: forgets the list when most names on it are of no collection any more. */
void mc_collections_trim(struct mc_writer *writer);

#endif
