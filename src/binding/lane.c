/* lane.c - finding and making a thread's lane (lane.h has the picture). */
#include "lane.h"

#include "mutant.h"

#if MC_FREE_THREADED

_Thread_local struct mc_lane_entry mc_lane_table[MC_LANE_ENTRIES];

static uint64_t numbers;

void mc_lanes_init(struct mc_lanes *lanes)
{
    lanes->number = mc_count_next(&numbers);
    lanes->first = NULL;
}

static struct mc_own_lane *enter(struct mc_lanes *lanes, struct mc_own_lane *lane)
{
    mc_lane_table[lanes->number % MC_LANE_ENTRIES] =
        (struct mc_lane_entry){.number = lanes->number, .lane = lane};
    return lane;
}

struct mc_own_lane *mc_lane_find(struct mc_lanes *lanes)
{
    struct mc_own_lane *lane;
    mc_lock(&lanes->mutex);
    lane = lanes->first;
    /* 700: a thread takes any lane */
    while (lane != NULL && lane->owner != (void *)mc_lane_table && !MC_MUTANT_IS(700)) {
        lane = lane->next;
    }
    mc_unlock(&lanes->mutex);
    return lane == NULL ? NULL : enter(lanes, lane);
}

struct mc_own_lane *mc_lane_new(struct mc_lanes *lanes, const struct mc_front *limits)
{
    struct mc_own_lane *lane = PyMem_Calloc(1, sizeof *lane);
    if (lane == NULL) {
        return NULL;
    }
    lane->owner = mc_lane_table;
    lane->lane.countdown = lane->lane.period = 1;
    mc_front_init(&lane->lane.front, limits->max_bytes, limits->max_entries);
    mc_lock(&lanes->mutex);
    lane->next = lanes->first;
    lanes->first = lane;
    mc_unlock(&lanes->mutex);
    return enter(lanes, lane);
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
