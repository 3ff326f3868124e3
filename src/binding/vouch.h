/* vouch.h - which Documents of a front cache are right in a new generation without a look.
 *
 *   generation     from                 to                     the next one
 *                   |  the log: K, M     |  the log: K          |
 *   entry of A      seen ....................................... right, unless it is doubted
 *   entry of K           seen            doubted                doubted
 *
 * After a commit to a collection each of its entries would have to be asked for in the new table.
 * The change log (change_log.h) says in a line or two which keys the commit touched: where it does,
 * these are doubted, and all others are right. So a commit costs a reader by what was changed, not
 * by what it holds.
 *
 * A place says: whatever the log has of this collection after `from` and up to `to` was told to the
 * front cache. Then an entry that was right in generation `from` or later, and is not doubted, is
 * right in all from there to `to`. An entry is doubted from when its key changes until the latest
 * generation, which is the reader's current one and `to`, has been asked for it. What an older one
 * (a snapshot's) says of a key comes after the change was told, so it is doubted from the
 * beginning; what was found before a destructor read on is not taken in at all. Where the log does
 * not say what changed, `from` begins anew. No key is in the front cache twice.
 *
 * A Document that moves within the file is no change of it, and is not in the log: offset and birth
 * of an entry may be those of a place that it has left.
 */
#ifndef MMAPCACHE_VOUCH_H
#define MMAPCACHE_VOUCH_H

#include "front_cache.h"
#include "store.h"

/* Where a collection's table is in one generation. */
struct mc_place {
    uint64_t serial;  /* of the reading that `table` belongs to, 0: none */
    uint32_t channel; /* the collection */
    struct mc_collection table;
    uint64_t epoch;    /* of the file that these are generations of: */
    uint64_t from, to; /* as above; to 0: none yet */
};

/* Tells the front cache what the log has of the collection `name`, whose table in the view place
 * has already, up to the view; the file's epoch. Nothing of Python's runs. */
void mc_vouch_follow(struct mc_place *place, struct mc_front *front, const struct mc_view *view,
                     uint64_t epoch, const char *name, size_t len);

/* Whether an entry of the front cache that was told is right in a generation, not before it was
 * born. */
static inline bool mc_vouch(const struct mc_place *place, const struct mc_front_entry *entry,
                            uint64_t generation)
{
    return entry->seen >= place->from && generation <= place->to && entry->page != MC_FRONT_DOUBTED;
}

#endif
