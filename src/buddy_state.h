/* buddy_state.h - the allocator's state, for buddy.c (which says what it means), buddy_query.c and
 * buddy_check.c. */
#ifndef MMAPCACHE_BUDDY_STATE_H
#define MMAPCACHE_BUDDY_STATE_H

#include "buddy.h"
#include "buddy_words.h"

#define LEVELS 7u      /* 64^7 granules > MC_BUDDY_MAX_GRANULES */
#define RADIX 6u       /* log2 of a word's bits; also the orders per level */
#define INDEX_LEVEL 2u /* the lowest level with summaries: has[] */
#define EXACT 64u      /* runs shorter than this have a class for each length */
#define CLASSES 192u   /* 184 are possible: see run_class */
#define MASKS (CLASSES / 64)
#define UNKNOWN UINT64_MAX /* no run is so long */

struct level {
    uint64_t *words;   /* level 0: granules; above: units of 64^level granules */
    uint64_t *has;     /* from INDEX_LEVEL up: CLASSES words per node */
    uint64_t nodes;    /* words in use */
    uint64_t capacity; /* words allocated */
};

struct mc_buddy {
    uint64_t nonempty[MASKS]; /* bit c: a run of class c starts somewhere */
    uint64_t free_granules;
    uint64_t granules;
    uint64_t max_granules;
    uint64_t largest;    /* the longest run, or UNKNOWN */
    uint64_t operations; /* only spaces the checks of MC_DEBUG */
    uint8_t *classes;    /* one per leaf, in whole groups */
    uint64_t groups;     /* in use */
    uint64_t class_room; /* groups allocated */
    unsigned root;
    struct level level[LEVELS];
};

/* The class of a run: its length below 64, then four classes per octave; 2^36 is class 184. */
static inline unsigned run_class(uint64_t length)
{
    assert(length > 0 && length <= MC_BUDDY_MAX_GRANULES);
    if (length < EXACT) {
        return (unsigned)length;
    }
    unsigned octave = highest(length);
    return EXACT + 4 * (octave - RADIX) + (unsigned)(length >> (octave - 2) & 3);
}

/* The level at which this granule is free: its own bit, or the bit of a unit around it. root + 1:
 * it is not. */
static inline unsigned free_level(const struct mc_buddy *b, uint64_t granule)
{
    unsigned level = 0;
    assert(granule < b->granules);
    while (level <= b->root &&
           (b->level[level].words[granule >> RADIX] >> (granule % 64) & 1) == 0) {
        granule >>= RADIX;
        level++;
    }
    return level;
}

/* The first class at or above this one that is not empty; CLASSES when there is none. */
static inline unsigned class_from(const struct mc_buddy *b, unsigned size_class)
{
    assert(size_class < CLASSES);
    uint64_t mask = b->nonempty[size_class / 64] >> (size_class % 64) << (size_class % 64);
    unsigned word = size_class / 64;
    while (mask == 0) {
        if (++word == MASKS) {
            return CLASSES;
        }
        mask = b->nonempty[word];
    }
    return word * 64 + lowest(mask);
}

/* The longest run that starts in the leaf: its length (0: none starts here)
 * and its first granule. */
uint64_t mc_buddy_longest_start(const struct mc_buddy *b, uint64_t leaf, uint64_t *start);

/* The first granule from `from` on that is not free; `from` itself when it is not, the arena's size
 * when all are. */
uint64_t mc_buddy_run_end(const struct mc_buddy *b, uint64_t from);

/* Makes the leaf's class byte true again after a run that starts in it changed. */
void mc_buddy_refresh(struct mc_buddy *b, uint64_t leaf);

#endif
