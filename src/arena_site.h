/* arena_site.h - stretches of the arena that are being cleared, so that large blocks come of them.
 *
 * What is free in a site is kept from the allocator, which would fill its holes again. Who clears
 * it moves what is live to other places; that becomes free here in time. At the end all of it goes
 * back to the allocator, where it merges.
 *
 * Offsets and sizes are in granules. Private memory. The loader only.
 */
#ifndef MMAPCACHE_ARENA_SITE_H
#define MMAPCACHE_ARENA_SITE_H

#include <stdbool.h>
#include <stdint.h>

#include "buddy.h"
#include "status.h"

#define MC_SITES 256u /* at most */

struct mc_site {
    uint64_t start, end;
    uint64_t *kept; /* a bit per granule: free, and kept */
};

struct mc_sites {
    struct mc_site items[MC_SITES]; /* in their order, none overlaps another */
    unsigned count;
    uint64_t held; /* granules kept in all of them */
};

/* Adds a site behind the others, and takes what is free of [start, start + granules) from the
 * allocator. MC_NOMEM. */
enum mc_status mc_sites_add(struct mc_sites *sites, struct mc_buddy *buddy, uint64_t start,
                            uint64_t granules);

/* The site in which an extent begins or ends; NULL: none. */
struct mc_site *mc_sites_find(struct mc_sites *sites, uint64_t offset, uint64_t granules);

/* Frees an extent that a site was found for: the part within is kept, the rest goes to the
 * allocator. */
void mc_sites_give(struct mc_sites *sites, struct mc_site *site, struct mc_buddy *buddy,
                   uint64_t offset, uint64_t granules);

/* Gives everything that is kept to the allocator; there is no site any more. Returns how much it
 * was. */
uint64_t mc_sites_end(struct mc_sites *sites, struct mc_buddy *buddy);

void mc_sites_destroy(struct mc_sites *sites);

#endif
