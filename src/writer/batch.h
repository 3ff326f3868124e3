/* batch.h - what one commit consists of: puts, deletions, replaced collections, the loader's state.
 *
 * One batch of a writer is open at a time; it publishes one generation,
 * or nothing when nothing changed.
 *
 * Every failure of a batch operation leaves the batch as it was before that operation, MC_FULL and
 * MC_NOMEM included; the caller then goes on, or aborts the batch.
 */
#ifndef MMAPCACHE_BATCH_H
#define MMAPCACHE_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "key.h"
#include "status.h"
#include "writer.h"

struct mc_batch_counts {
    uint64_t puts, deletes, unchanged; /* deletes: single ones and what a replace removed */
    uint64_t duplicates;               /* puts of a key that the replace had been given already */
};

/* MC_USAGE: one is open. */
enum mc_status mc_batch_begin(struct mc_writer *writer, struct mc_error *err);

/* Says that a put of this key comes next: prefetches what that will read, while the caller has its
 * document to validate. Of no other effect. */
void mc_batch_expect(struct mc_writer *writer, const char *name, size_t name_len,
                     const struct mc_key *key);

/* value: one valid BSON document (the caller validated it). *changed: its bytes were not there yet.
 * The key needs no hash. */
enum mc_status mc_batch_put(struct mc_writer *writer, const char *name, size_t name_len,
                            const struct mc_key *key, const uint8_t *value, size_t value_len,
                            bool *changed, struct mc_error *err);

/* Validates and puts each of the concatenated documents in the buffer under its _id. *documents:
 * how many. MC_INVALID says which document; what came before it stays put. May take long. In a
 * replace the smallest of several documents with one _id stays, by memcmp: then the same documents
 * in another order are the same content. */
enum mc_status mc_batch_put_raw(struct mc_writer *writer, const char *name, size_t name_len,
                                const uint8_t *buffer, size_t len, uint64_t *documents,
                                struct mc_error *err);

enum mc_status mc_batch_delete(struct mc_writer *writer, const char *name, size_t name_len,
                               const struct mc_key *key, bool *existed, struct mc_error *err);
enum mc_status mc_batch_drop(struct mc_writer *writer, const char *name, size_t name_len,
                             bool *existed, struct mc_error *err);

/* The loader's own state, at most MC_STATE_MAX bytes (MC_LIMIT), published with the batch. */
enum mc_status mc_batch_state(struct mc_writer *writer, const uint8_t *state, size_t len,
                              struct mc_error *err);

/* Makes an index of a collection, which need not exist: of a field, by its dotted path. kind:
 * MC_INDEX_UNIQUE or MC_INDEX_MULTI; one that is there becomes one of this kind. The commits of
 * this batch and of each later one bring it up to date, and it outlasts the collection. *changed:
 * there was none of this kind. MC_LIMIT: a bad name or path, or too many. */
enum mc_status mc_batch_index(struct mc_writer *writer, const char *name, size_t name_len,
                              const char *path, size_t path_len, uint32_t kind, bool *changed,
                              struct mc_error *err);
enum mc_status mc_batch_drop_index(struct mc_writer *writer, const char *name, size_t name_len,
                                   const char *path, size_t path_len, bool *existed,
                                   struct mc_error *err);

/* From here to end or cancel, what is put into `name` replaces its whole content; other operations
 * go on as before, and a cancelled replace takes back exactly what was done to `name` in between.
 * One that ends with the content that it began with has changed nothing. One at a time:
 * MC_USAGE. */
enum mc_status mc_replace_begin(struct mc_writer *writer, const char *name, size_t name_len,
                                struct mc_error *err);
enum mc_status mc_replace_end(struct mc_writer *writer, struct mc_error *err);
void mc_replace_cancel(struct mc_writer *writer);

struct mc_batch_counts mc_batch_counts(const struct mc_writer *writer);

/* Publishes the batch as one generation (*generation), or nothing when nothing changed (0). On a
 * failure the batch is still open: abort it. MC_LIMIT: two documents have one value in a unique
 * index. */
enum mc_status mc_batch_commit(struct mc_writer *writer, uint64_t *generation,
                               struct mc_error *err);

/* Whether a commit now would be over in a few microseconds: it has little to publish and no
 * checkpoint's mark to take from the disk. */
bool mc_batch_is_short(const struct mc_writer *writer);

/* Forgets the batch. Never fails; no batch: nothing happens. */
void mc_batch_abort(struct mc_writer *writer);

#endif
