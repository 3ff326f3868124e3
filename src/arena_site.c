/* arena_site.c - see arena_site.h. */
#include "arena_site.h"

#include <assert.h>
#include <stdlib.h>

#include "buddy_words.h"

/* The granules from `at` on that are alike, kept or not: where that ends. */
static uint64_t alike_end(const struct mc_site *site, uint64_t at, bool *kept)
{
    uint64_t bit = at - site->start, end = site->end - site->start;
    assert(at >= site->start && at < site->end);
    *kept = (site->kept[bit / 64] >> (bit % 64) & 1) != 0;
    while (bit < end) {
        uint64_t word = *kept ? ~site->kept[bit / 64] : site->kept[bit / 64];
        uint64_t others = word >> (bit % 64);
        if (others != 0) {
            bit += lowest(others);
            break;
        }
        bit += 64 - bit % 64;
    }
    return site->start + (bit < end ? bit : end);
}

static void keep(struct mc_sites *sites, struct mc_site *site, uint64_t from, uint64_t to)
{
    assert(from >= site->start && to <= site->end);
    for (uint64_t bit = from - site->start, end = to - site->start, count; bit < end;
         bit += count) {
        count = 64 - bit % 64 < end - bit ? 64 - bit % 64 : end - bit;
        uint64_t bits = span(bit % 64, bit % 64 + count);
        assert((site->kept[bit / 64] & bits) == 0);
        site->kept[bit / 64] |= bits;
    }
    sites->held += to - from;
}

enum mc_status mc_sites_add(struct mc_sites *sites, struct mc_buddy *buddy, uint64_t start,
                            uint64_t granules)
{
    struct mc_site *site = &sites->items[sites->count];
    assert(sites->count < MC_SITES && granules > 0);
    assert(sites->count == 0 || start >= sites->items[sites->count - 1].end);
    assert(start + granules <= mc_buddy_granules(buddy));
    *site = (struct mc_site){.start = start, .end = start + granules};
    site->kept = calloc((size_t)(granules / 64) + 1, sizeof *site->kept);
    if (site->kept == NULL) {
        return MC_NOMEM;
    }
    sites->count++;
    for (uint64_t at = start, to; at < site->end; at = to) {
        bool is_free;
        to = mc_buddy_run(buddy, at, &is_free);
        to = to < site->end ? to : site->end;
        if (is_free) {
            (void)mc_buddy_reserve(buddy, at, to - at); /* it is free */
            keep(sites, site, at, to);
        }
    }
    return MC_OK;
}

struct mc_site *mc_sites_find(struct mc_sites *sites, uint64_t offset, uint64_t granules)
{
    unsigned low = 0, high = sites->count;
    while (low < high) { /* the first that ends behind the extent's begin */
        unsigned middle = (low + high) / 2;
        if (sites->items[middle].end <= offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    struct mc_site *site = &sites->items[low];
    return low < sites->count && offset + granules > site->start ? site : NULL;
}

void mc_sites_give(struct mc_sites *sites, struct mc_site *site, struct mc_buddy *buddy,
                   uint64_t offset, uint64_t granules)
{
    uint64_t end = offset + granules;
    uint64_t from = offset > site->start ? offset : site->start;
    uint64_t to = end < site->end ? end : site->end;
    keep(sites, site, from, to);
    if (offset < from) {
        mc_buddy_free(buddy, offset, from - offset);
    }
    if (to < end) {
        mc_buddy_free(buddy, to, end - to);
    }
}

uint64_t mc_sites_end(struct mc_sites *sites, struct mc_buddy *buddy)
{
    uint64_t held = sites->held;
    for (unsigned i = 0; i < sites->count; i++) {
        const struct mc_site *site = &sites->items[i];
        for (uint64_t at = site->start, to; at < site->end; at = to) {
            bool kept;
            to = alike_end(site, at, &kept);
            if (kept) {
                mc_buddy_free(buddy, at, to - at);
            }
        }
    }
    mc_sites_destroy(sites);
    return held;
}

void mc_sites_destroy(struct mc_sites *sites)
{
    for (unsigned i = 0; i < sites->count; i++) {
        free(sites->items[i].kept);
    }
    sites->count = 0;
    sites->held = 0;
}
