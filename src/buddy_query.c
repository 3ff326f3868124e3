/* buddy_query.c - what is free, for who plans with more than the next request. */
#include "buddy_state.h"

bool mc_buddy_is_free(const struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    assert(granules > 0);
    if (granules > b->granules || offset > b->granules - granules) {
        return false;
    }
    return mc_buddy_run_end(b, offset) >= offset + granules;
}

/* The first granule from `from` on that is free, the arena's size when none is. */
static uint64_t used_end(const struct mc_buddy *b, uint64_t from)
{
    while (from < b->granules && free_level(b, from) > b->root) {
        uint64_t word = b->level[0].words[from / 64] >> (from % 64);
        from += word == 0 ? 64 - from % 64 : lowest(word);
    }
    return from < b->granules ? from : b->granules;
}

uint64_t mc_buddy_run(const struct mc_buddy *b, uint64_t offset, bool *is_free)
{
    uint64_t end = mc_buddy_run_end(b, offset);
    *is_free = end > offset;
    return *is_free ? end : used_end(b, offset);
}

/* The shortest run of a class: see run_class. */
static uint64_t class_least(unsigned size_class)
{
    unsigned above = size_class - EXACT;
    return size_class < EXACT ? size_class : (uint64_t)(4 + above % 4) << (above / 4 + RADIX - 2);
}

uint64_t mc_buddy_room(const struct mc_buddy *b, uint64_t granules, uint64_t most)
{
    const struct level *level = &b->level[INDEX_LEVEL];
    unsigned first = run_class(granules) + 1; /* the request's own may be a little too short */
    uint64_t room = 0;
    /* A class that is not empty has one run at least: mostly that is enough, and has[] is long. */
    for (unsigned c = class_from(b, first); c < CLASSES && room < most; c = class_from(b, c + 1)) {
        room += class_least(c) / granules;
    }
    if (room >= most) {
        return most;
    }
    room = 0;
    for (unsigned c = class_from(b, first); c < CLASSES && room < most; c = class_from(b, c + 1)) {
        uint64_t each = class_least(c) / granules;
        for (uint64_t node = 0; node < level->nodes && room < most; node++) {
            room += each * (unsigned)__builtin_popcountll(level->has[node * CLASSES + c]);
        }
    }
    return room < most ? room : most;
}
