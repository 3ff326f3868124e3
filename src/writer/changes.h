/* changes.h - what the open batch changed: noted while it is open, logged with its commit. */
#ifndef MMAPCACHE_CHANGES_H
#define MMAPCACHE_CHANGES_H

#include "key.h"
#include "store.h"
#include "writer_state.h"

/* Bytes of the change log of a file whose maximum is this; 0 asked for: as many as suit it. */
uint32_t mc_changes_log_size(uint64_t max_size, uint32_t asked);

/* Finds where the log of the file just opened goes on. Where that cannot be told, it begins anew,
 * and readers know nothing of what was before. */
void mc_changes_recover(struct mc_writer *writer);

/* Begins the log anew: what it says so far is not known to belong to the content. */
void mc_changes_restart(struct mc_writer *writer);

/* Notes that a key was put (MC_LOG_PUT) or deleted (MC_LOG_DELETE). Cannot fail: where it cannot be
 * kept, the collection is said to have changed as a whole. */
void mc_changes_note(struct mc_writer *writer, struct mc_writer_collection *collection,
                     uint8_t kind, const struct mc_key *key);

/* Notes that any key of the collection may have changed. */
void mc_changes_whole(struct mc_writer *writer, struct mc_writer_collection *collection);

/* The keys that were noted of a collection that has not changed as a whole, one after the other and
 * perhaps several times: *place is its first_note at first. False at the end. The key has no hash
 * and lives until the next note. */
bool mc_changes_noted(const struct mc_writer *writer, uint32_t *place, struct mc_key *key);

/* Takes back what was noted of a collection since it was as in `before`. */
void mc_changes_take_back(struct mc_writer *writer, struct mc_writer_collection *collection,
                          const struct mc_writer_collection *before);

/* Forgets all notes: the batch is over, and no collection has any. */
void mc_changes_forget(struct mc_writer *writer);

/* Logs what was noted, or that it was too much, as the changes of this root, which is published
 * next. Cannot fail. */
void mc_changes_log(struct mc_writer *writer, struct mc_root *root);

/* Frees everything. */
void mc_changes_destroy(struct mc_writer *writer);

#endif
