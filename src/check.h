/* check.h - verifies everything that one generation refers to, and counts it. */
#ifndef MMAPCACHE_CHECK_H
#define MMAPCACHE_CHECK_H

#include "status.h"
#include "store.h"

#define MC_CHECK_ORDERS 37u
struct mc_check_report {
    uint64_t collections, documents, entries, pages, nodes, content, used;
    uint64_t free_blocks[MC_CHECK_ORDERS]; /* blocks of MC_GRANULE << order bytes outside of it */
    uint64_t largest_free; /* bytes: the largest extent that one request could have */
};

/* Every structure, count and checksum of the view's generation. MC_OK; MC_CORRUPT with what is
 * wrong and where; MC_EXPIRED when the loader overwrote it meanwhile (open a new view and start
 * again); MC_NOMEM. Takes about a quarter of a second per million documents. */
enum mc_status mc_check(const struct mc_view *view, struct mc_check_report *out,
                        struct mc_error *err);

/* The same; occupied (may be NULL) has room for `room` numbers: the bytes of entries, pages and
 * nodes of each collection, in the order of a walk over the catalogue. */
enum mc_status mc_check_each(const struct mc_view *view, struct mc_check_report *out,
                             uint64_t *occupied, size_t room, struct mc_error *err);

#endif
