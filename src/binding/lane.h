/* lane.h - what a thread has of a reader for itself, so that a read that finds its answer here
 * shares nothing that is written with other threads.
 *
 *      with a GIL      mc_reader has one lane, which all threads use in turn
 *      without         each thread has its own, found by the reader's number:
 *
 *          reader ---- lanes ----> lane ----> lane ----> ...     one for each thread that came
 *                                    ^
 *          thread's table  number ---+                           no lock to find one's own
 *
 * A lane is its thread's alone, as a reader is the GIL's: nothing in it is atomic, but for what
 * the statistics of all lanes add up. Its Documents were made by that thread, and so are counted
 * cheaply: of one Document for all threads, the count would be what they wait for.
 *
 * A reader's number is never used again, so an entry of the table whose number is right leads to a
 * lane of a living reader. Lanes go with their reader. When a thread has ended (lane_owner.h), the
 * next one that comes takes its lane over, so there are no more than there were threads at a time.
 * So it is in a forked child: CPython stops all threads where they are in no lane while one of them
 * forks, and the child has the others end.
 */
#ifndef MMAPCACHE_LANE_H
#define MMAPCACHE_LANE_H

#include "vouch.h"

struct mc_reading;

struct mc_lane {
    struct mc_reading *now; /* counted; NULL: closed, or none yet */
    int32_t countdown;      /* reads until the clock is looked at */
    int32_t period;         /* reads from one look to the next: few when reads are rare */
    int64_t looked_at;      /* nanoseconds: the last look at the clock */
    struct mc_front front;
};

#if MC_FREE_THREADED

enum { MC_LANE_PLACES = 256, MC_LANE_ENTRIES = 16 }; /* powers of two */

struct mc_own_lane {
    struct mc_lane lane;
    struct mc_lane_owner *owner; /* counted */
    struct mc_own_lane *next;
    struct mc_place places[MC_LANE_PLACES]; /* of collections, by their channel */
};

struct mc_lanes {
    struct mc_mutex mutex; /* of the reader, too: held for what lanes have in common */
    uint64_t number;       /* of the reader; not 0 */
    struct mc_own_lane *first;
};

/* A thread, as its lanes know it: counted by them and by what tells that it ends. */
struct mc_lane_owner {
    unsigned users;
    bool gone; /* its lanes may be taken over */
};

struct mc_lane_owner *mc_lane_owner_new(void);

/* Called by the thread that ends, or when it cannot run any more. */
void mc_lane_owner_ends(struct mc_lane_owner *owner);

struct mc_lane_entry {
    uint64_t number;
    struct mc_own_lane *lane;
    const struct mc_lane_owner *owner;
};

extern _Thread_local struct mc_lane_entry mc_lane_table[MC_LANE_ENTRIES];

void mc_lanes_init(struct mc_lanes *lanes);

/* The calling thread's lane, or NULL: it has none yet, or out of memory. */
struct mc_own_lane *mc_lane_find(struct mc_lanes *lanes);

static inline struct mc_own_lane *mc_lane_of(struct mc_lanes *lanes)
{
    const struct mc_lane_entry *entry = &mc_lane_table[lanes->number % MC_LANE_ENTRIES];
    return entry->number == lanes->number ? entry->lane : mc_lane_find(lanes);
}

/* The same for a thread that has none: a new one with these limits, or one of a thread that has
 * ended, whatever is in it. NULL: out of memory. */
struct mc_own_lane *mc_lane_take(struct mc_lanes *lanes, const struct mc_front *limits);

/* Frees all lanes, which are empty, of a reader that nobody has any more. */
void mc_lanes_free(struct mc_lanes *lanes);

/* What all lanes' front caches hold, and have counted. */
void mc_lanes_sum(struct mc_lanes *lanes, struct mc_front *sum);

#endif

#endif
