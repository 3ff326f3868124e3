/* table_page.h - a page of the table in private memory, where a writer puts it together, and the
 * entries that its slots name. */
#ifndef MMAPCACHE_TABLE_PAGE_H
#define MMAPCACHE_TABLE_PAGE_H

#include <stdint.h>

#include "format.h"
#include "status.h"
#include "table.h"
#include "table_ref.h"

struct mc_page {
    uint64_t slots[MC_PAGE_SLOTS_MAX];
    unsigned lines, depth, count;
};

/* Slots that a page of these lines holds before it grows: 6.5 of 8 a line. */
unsigned mc_lines_capacity(unsigned lines);

/* The fewest lines for `count` slots. */
unsigned mc_lines_for(unsigned count);

/* Lines for a page that grows to hold `count`: an eighth more, so that it does not grow at every
 * insert; at most `most`. */
unsigned mc_lines_grown(unsigned count, unsigned most);

/* An empty page. */
void mc_page_begin(struct mc_page *page, unsigned lines, unsigned depth);

/* The used slots of a page in the map, in no order, and how many they are. MC_CORRUPT: they are not
 * what the reference says, as in a file that was truncated. */
enum mc_status mc_page_gather(const struct mc_table_writer *writer, uint64_t ref,
                              uint64_t slots[MC_PAGE_SLOTS_MAX], unsigned *gathered,
                              struct mc_error *err);

/* Adds these slots, for which there is room, to the page and writes it to a new block. MC_FULL and
 * whatever the arena said. */
enum mc_status mc_page_write_all(struct mc_table_writer *writer, struct mc_page *page,
                                 const uint64_t *slots, unsigned count, uint64_t *offset,
                                 struct mc_error *err);

/* Writes an entry of the generation being written to a new block: a key of at most MC_KEY_MAX
 * bytes, without its hash, and a value of at most UINT32_MAX. MC_FULL and whatever the arena
 * said. */
enum mc_status mc_entry_write(struct mc_table_writer *writer, const struct mc_key *key,
                              const void *value, size_t value_len, unsigned blocks,
                              uint64_t *offset, struct mc_error *err);

#endif
