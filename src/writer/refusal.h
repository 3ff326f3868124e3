/* refusal.h - the sentence about a key that cannot be stored. */
#ifndef MMAPCACHE_REFUSAL_H
#define MMAPCACHE_REFUSAL_H

#include "writer_state.h"

/* MC_LIMIT, with how many keys have the hash of this one, and two of them; as mc_table_put says in
 * `result`. */
enum mc_status mc_writer_refuse(const struct mc_writer *writer,
                                const struct mc_writer_collection *collection,
                                const struct mc_key *key, const struct mc_put_result *result,
                                struct mc_error *err);

#endif
