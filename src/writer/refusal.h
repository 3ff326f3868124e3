/* refusal.h - the sentences about a key or a value that cannot be stored. */
#ifndef MMAPCACHE_REFUSAL_H
#define MMAPCACHE_REFUSAL_H

#include "writer_state.h"

/* MC_LIMIT, with how many keys of the collection `name`, or values of one of its indexes, have the
 * hash of this one, and two of them; as mc_table_put says in `result`. */
enum mc_status mc_writer_refuse(const struct mc_writer *writer, const char *name, size_t name_len,
                                const struct mc_key *key, const struct mc_put_result *result,
                                struct mc_error *err);

/* MC_LIMIT: the documents with these two keys have one value in a unique index. */
enum mc_status mc_writer_refuse_duplicate(const struct mc_index *index, const struct mc_key *value,
                                          const struct mc_key *first, const struct mc_key *second,
                                          struct mc_error *err);

#endif
