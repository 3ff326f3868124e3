/* table_path.h - the way from a table's root to a page, for who changes what is at its end:
 * table_write.c and table_move.c. */
#ifndef MMAPCACHE_TABLE_PATH_H
#define MMAPCACHE_TABLE_PATH_H

#include <stdint.h>

#include "status.h"
#include "table.h"

/* Releases that one operation may need: the path, a page, a node that grew, an entry. */
#define MC_PATH_RELEASES (MC_TABLE_LEVELS + 3)

struct mc_path {
    uint64_t *root;
    struct mc_step {
        uint64_t ref; /* of the node */
        uint32_t index;
    } steps[MC_TABLE_LEVELS];
    unsigned levels;   /* nodes on the path */
    uint64_t page;     /* the reference below them; 0: none */
    unsigned same_tag; /* slots of a page that can grow no more, */
    uint64_t alike[2]; /* and two of them */
};

/* The page's depth within the node above it; a missing page fills one reference. */
unsigned mc_path_depth(const struct mc_path *path);

/* Its depth from the root. */
unsigned mc_path_total_depth(const struct mc_path *path);

/* The way to the page of this hash. MC_CORRUPT. */
enum mc_status mc_path_find(const struct mc_table_writer *writer, uint64_t *root, uint64_t hash,
                            struct mc_path *path, struct mc_error *err);

/* Makes the references to what hangs below `level` nodes name `ref` instead: a run of 2^(bits -
 * depth) in the young node above, or the root. */
void mc_path_link(const struct mc_table_writer *writer, struct mc_path *path, unsigned level,
                  unsigned depth, uint64_t ref);

/* Makes every node of the path young: MC_FULL and whatever the arena said. */
enum mc_status mc_path_own(struct mc_table_writer *writer, struct mc_path *path,
                           struct mc_error *err);

/* Links a new page of the same depth in place of the path's, which is released. */
void mc_path_replace_page(struct mc_table_writer *writer, struct mc_path *path, uint64_t offset,
                          unsigned lines, unsigned used);

#endif
