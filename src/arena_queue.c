/* arena_queue.c - what the queue of given up blocks says: how old, how much. */
#include "arena.h"

uint64_t mc_arena_retired(const struct mc_arena *arena)
{
    return arena->queued + arena->scopes[MC_SCOPE_BATCH].retired_bytes;
}

uint64_t mc_arena_expired(const struct mc_arena *arena, int64_t time_ns)
{
    const struct mc_words *groups = &arena->groups;
    uint64_t generation = 0;
    size_t low = 0, high = groups->count / MC_GROUP_WORDS; /* times only rise: search by halves */
    if (high == 0 || (int64_t)groups->items[groups->head + 1] > time_ns) {
        return 0; /* as after nearly every commit: the oldest is too young */
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const uint64_t *group = groups->items + groups->head + middle * MC_GROUP_WORDS;
        if ((int64_t)group[1] <= time_ns) {
            generation = group[0];
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return generation;
}

uint64_t mc_arena_held(const struct mc_arena *arena, int64_t time_ns)
{
    const struct mc_words *groups = &arena->groups;
    uint64_t held = 0;
    for (size_t i = groups->count; i > 0; i -= MC_GROUP_WORDS) {
        const uint64_t *group = groups->items + groups->head + i - MC_GROUP_WORDS;
        if ((int64_t)group[1] <= time_ns) {
            break;
        }
        held += group[3];
    }
    return held < arena->queued ? held : arena->queued; /* of the oldest a part may be free */
}

uint64_t mc_arena_older(const struct mc_arena *arena, uint64_t keep)
{
    uint64_t left = arena->queued, generation = 0;
    for (size_t i = 0; i < arena->groups.count && left > keep; i += MC_GROUP_WORDS) {
        const uint64_t *group = arena->groups.items + arena->groups.head + i;
        generation = group[0];
        left -= group[3] < left ? group[3] : left;
    }
    return generation;
}
