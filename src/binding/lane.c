/* lane.c - finding and making a thread's lane (lane.h has the picture). */
#include "lane.h"

#include "lane_owner.h"
#include "mutant.h"

#if MC_FREE_THREADED

_Thread_local struct mc_lane_entry mc_lane_table[MC_LANE_ENTRIES];

static uint64_t numbers;

void mc_lanes_init(struct mc_lanes *lanes)
{
    lanes->number = mc_count_next(&numbers);
    lanes->first = NULL;
}

/* ---- owners ---- */

struct mc_lane_owner *mc_lane_owner_new(void)
{
    struct mc_lane_owner *owner = PyMem_Calloc(1, sizeof *owner);
    if (owner != NULL) {
        owner->users = 1;
    }
    return owner;
}

static void release(struct mc_lane_owner *owner)
{
    if (mc_count_down(&owner->users)) {
        PyMem_Free(owner);
    }
}

void mc_lane_owner_ends(struct mc_lane_owner *owner)
{
    for (int i = 0; i < MC_LANE_ENTRIES; i++) { /* this thread may come again as another one */
        if (mc_lane_table[i].owner == owner) {
            mc_lane_table[i] = (struct mc_lane_entry){0};
        }
    }
    mc_reveal(&owner->gone, true);
    release(owner);
}

/* ---- lanes ---- */

static struct mc_own_lane *enter(struct mc_lanes *lanes, struct mc_own_lane *lane)
{
    mc_lane_table[lanes->number % MC_LANE_ENTRIES] =
        (struct mc_lane_entry){.number = lanes->number, .lane = lane, .owner = lane->owner};
    return lane;
}

struct mc_own_lane *mc_lane_find(struct mc_lanes *lanes)
{
    const struct mc_lane_owner *owner = mc_lane_owner_known();
    struct mc_own_lane *lane = NULL;
    if (owner != NULL) {
        mc_lock(&lanes->mutex);
        lane = lanes->first;
        while (lane != NULL && lane->owner != owner && !MC_MUTANT_IS(700)) { /* 700: any will do */
            lane = lane->next;
        }
        mc_unlock(&lanes->mutex);
    }
    return lane == NULL ? NULL : enter(lanes, lane);
}

/* Gives the owner the lane of a thread that has ended: NULL when there is none. */
static struct mc_own_lane *take_over(struct mc_lanes *lanes, struct mc_lane_owner *owner)
{
    struct mc_lane_owner *before = NULL;
    struct mc_own_lane *lane;
    mc_lock(&lanes->mutex);
    lane = lanes->first;
    while (lane != NULL && !mc_load(&lane->owner->gone)) {
        lane = lane->next;
    }
    if (lane != NULL) {
        before = lane->owner;
        lane->owner = owner;
    }
    mc_unlock(&lanes->mutex);
    if (before != NULL) {
        release(before);
    }
    return lane;
}

struct mc_own_lane *mc_lane_take(struct mc_lanes *lanes, const struct mc_front *limits)
{
    struct mc_lane_owner *owner = mc_lane_owner_needed();
    struct mc_own_lane *lane = owner == NULL ? NULL : take_over(lanes, owner);
    if (owner == NULL) {
        return NULL;
    }
    if (lane == NULL) {
        lane = PyMem_Calloc(1, sizeof *lane);
        if (lane == NULL) {
            return NULL;
        }
        lane->owner = owner;
        mc_front_init(&lane->lane.front, limits->max_bytes, limits->max_entries);
        mc_lock(&lanes->mutex);
        lane->next = lanes->first;
        lanes->first = lane;
        mc_unlock(&lanes->mutex);
    }
    mc_count_up(&owner->users);
    lane->lane.countdown = lane->lane.period = 1;
    return enter(lanes, lane);
}

void mc_lanes_free(struct mc_lanes *lanes)
{
    while (lanes->first != NULL) {
        struct mc_own_lane *lane = lanes->first;
        lanes->first = lane->next;
        release(lane->owner);
        PyMem_Free(lane);
    }
}

void mc_lanes_sum(struct mc_lanes *lanes, struct mc_front *sum)
{
    mc_lock(&lanes->mutex);
    for (struct mc_own_lane *lane = lanes->first; lane != NULL; lane = lane->next) {
        mc_front_add(sum, &lane->lane.front);
    }
    mc_unlock(&lanes->mutex);
}

#else

typedef int nothing_here; /* a file of C has a declaration */

#endif
