/* work.h - the collections that a writer works on: found by name, changed by a batch, stored at its
 * commit. */
#ifndef MMAPCACHE_WORK_H
#define MMAPCACHE_WORK_H

#include "writer_state.h"

/* The collection's index in writer->works; it need not exist. MC_LIMIT for a bad name, MC_NOMEM,
 * MC_CORRUPT. */
enum mc_status mc_work_find(struct mc_writer *writer, const char *name, size_t len, size_t *out,
                            struct mc_error *err);

/* Puts the collection on the batch's list: commit and abort look at no other. */
void mc_work_change(struct mc_writer *writer, size_t index);

/* Makes the collection exist in the batch: MC_LIMIT when there are too many. */
enum mc_status mc_work_create(struct mc_writer *writer, size_t index, struct mc_error *err);

/* Takes the collection away again. */
void mc_work_remove(struct mc_writer *writer, size_t index);

/* Takes the first collection off the batch's list, which is not empty. */
struct mc_work *mc_work_unlist(struct mc_writer *writer);

/* Writes one changed collection into root->catalogue, or takes it out, and adds it to the root's
 * counts. */
enum mc_status mc_work_store(struct mc_writer *writer, struct mc_work *work, struct mc_root *root);

#endif
