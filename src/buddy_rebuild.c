/* buddy_rebuild.c - the allocator's state made of a list of live extents in any order.
 *
 * Most extents are neighbours of others, and what lies between them when half of them are known is
 * of no use to anybody. So while the list is read a leaf's word has a bit per *marked* granule and
 * nothing is said of runs; at the end the words are turned over, whole ones go up, and each leaf
 * gets its class byte, from the first to the last.
 */
#include "buddy_state.h"
#include "mutant.h"

void mc_buddy_rebuild_begin(struct mc_buddy *b)
{
    enum mc_status status = mc_buddy_reserve(b, 0, b->granules); /* all words are zero then */
    assert(status == MC_OK);
    (void)status;
    b->free_granules = b->granules; /* less each mark */
}

void mc_buddy_mark_ahead(const struct mc_buddy *b, uint64_t offset)
{
    if (offset < b->granules) {
        __builtin_prefetch(&b->level[0].words[offset / 64], 1, 3);
    }
}

/* Marks granules of one word: those of them that were marked before. */
static inline uint64_t mark_bits(uint64_t *word, uint64_t bits)
{
    uint64_t before = *word;
    *word = before | bits;
    return before & bits;
}

enum mc_status mc_buddy_mark(struct mc_buddy *b, uint64_t offset, uint64_t granules)
{
    if (granules == 0 || granules > b->granules || offset > b->granules - granules) {
        return MC_CORRUPT;
    }
    uint64_t *word = &b->level[0].words[offset / 64];
    uint64_t from = offset % 64, to = from + granules, twice = 0;
    for (; to > 64; to -= 64, from = 0) {
        twice |= mark_bits(word++, span(from, 64));
    }
    twice |= mark_bits(word, span(from, to));
    b->free_granules -= MC_MUTANT_IS(118) ? 0 : granules;        /* 118: the count forgets marks */
    return twice == 0 || MC_MUTANT_IS(117) ? MC_OK : MC_CORRUPT; /* 117: extents may overlap */
}

/* The unit of this node is wholly free: its bit in the parent's word stands for it. */
static inline void raise_node(struct mc_buddy *b, unsigned level, uint64_t node)
{
    b->level[level + 1].words[node / 64] |= UINT64_C(1) << (node % 64);
}

/* Turns the leaves over. One without marks is not written: where nothing is, no page of the array
 * is taken from the system. */
static void turn_leaves(struct mc_buddy *b)
{
    uint64_t *words = b->level[0].words;
    for (uint64_t leaf = 0; leaf < b->level[0].nodes; leaf++) {
        uint64_t rest = b->granules - leaf * 64;
        uint64_t unmarked = span(0, rest < 64 ? rest : 64) & ~words[leaf];
        if (unmarked == FULL_WORD) {
            raise_node(b, 0, leaf);
        } else {
            words[leaf] = unmarked;
        }
    }
}

static void merge(struct mc_buddy *b)
{
    for (unsigned level = 1; level < b->root; level++) {
        uint64_t *words = b->level[level].words;
        for (uint64_t node = 0; node < b->level[level].nodes; node++) {
            if (words[node] == FULL_WORD && !MC_MUTANT_IS(120)) { /* 120: no merging */
                words[node] = 0;
                raise_node(b, level, node);
            }
        }
    }
}

/* Gives each leaf in which a run starts its class. */
static void index_leaves(struct mc_buddy *b)
{
    uint64_t leaves = b->level[0].nodes;
    for (uint64_t leaf = 0, next; leaf < leaves; leaf = next) {
        next = leaf + 1;
        if (b->level[0].words[leaf] == 0 && free_level(b, leaf * 64) > b->root) {
            continue; /* all of it is marked, as nearly everywhere */
        }
        mc_buddy_refresh(b, leaf);
        uint64_t last = next * 64 - 1 + MC_MUTANT_IS(121); /* 121: passes over a start */
        if (next < leaves) {
            uint64_t end = mc_buddy_run_end(b, last) / 64;
            next = end > next ? end : next; /* none starts in the leaves that a run crosses */
        }
    }
}

void mc_buddy_rebuild_end(struct mc_buddy *b)
{
    turn_leaves(b);
    merge(b);
    index_leaves(b);
}
