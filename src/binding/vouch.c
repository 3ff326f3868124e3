/* vouch.c - telling a front cache what the change log says (vouch.h has the picture).
 *
 * The log is bytes of the file: whatever is odd in it is as if it said nothing.
 */
#include "vouch.h"

#include <string.h>

#include "change_log.h"
#include "mutant.h"

/* What is read of the log is at most so much for each entry that may be spared a look, and never
 * more than some hundred changes. */
#define LOG_BYTES_EACH 16u
#define LOG_BYTES_MOST (16u << 10)

static void doubt(struct mc_front *front, uint32_t channel, const struct mc_key *key)
{
    struct mc_front_entry *entry = mc_front_find(front, channel, key);
    if (entry != NULL && !MC_MUTANT_IS(730)) { /* 730: what the log says is not told */
        entry->page = MC_FRONT_DOUBTED;
    }
}

/* Doubts what changed after generation `since`: false when that is not known key by key. */
static bool doubt_changed(uint32_t channel, struct mc_front *front, const struct mc_view *view,
                          uint64_t since, const char *name, size_t len)
{
    uint64_t most = (uint64_t)front->count * LOG_BYTES_EACH;
    struct mc_changes changes;
    struct mc_change change;
    enum mc_status status;
    most = most < LOG_BYTES_MOST ? most : LOG_BYTES_MOST;
    if (mc_changes_open(view, since, most, &changes) != MC_OK) {
        return false;
    }
    while ((status = mc_changes_next(&changes, &change)) == MC_OK) {
        bool ours = change.kind != MC_CHANGE_ALL && change.name_len == len &&
                    memcmp(change.name, name, len) == 0;
        if (change.kind == MC_CHANGE_ALL || (ours && change.kind == MC_CHANGE_COLLECTION)) {
            if (!MC_MUTANT_IS(731)) { /* 731: all of it, and nobody is told */
                break;
            }
        } else if (ours) {
            change.key.hash = mc_view_hash(view, &change.key);
            doubt(front, channel, &change.key);
            doubt(front, channel | MC_FRONT_RAW, &change.key);
        }
    }
    mc_changes_close(&changes);
    return status == MC_ABSENT;
}

void mc_vouch_follow(struct mc_place *place, struct mc_front *front, const struct mc_view *view,
                     uint64_t epoch, const char *name, size_t len)
{
    uint64_t generation = view->root.generation;
    bool known = place->to != 0 && place->epoch == epoch;
    if (known && generation <= place->to) { /* a snapshot's: told already */
        return;
    }
    if (!known || (place->table.changed > place->to &&
                   !doubt_changed(place->channel, front, view, place->to, name, len))) {
        place->from = generation;
    }
    place->epoch = epoch;
    place->to = generation;
    front->told++;
}
