/* counts.h - counts by name in the little room of a report: one BSON document,
 *
 *      {loads: {reason: int64, ...}, errors: {name: int64, ...}}
 *
 * A writer never fails for want of room: each of the two has its share of it, the largest counts
 * keep their names, and what is left over is counted under MC_COUNTS_OTHER. A reader believes
 * nothing: bytes that are no such document hold no counts.
 */
#ifndef MMAPCACHE_COUNTS_H
#define MMAPCACHE_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bson.h"
#include "format.h"
#include "status.h"

#define MC_COUNTS_ROOM sizeof(((struct mc_report *)0)->counts)
#define MC_COUNTS_NAME_MAX 64u  /* bytes; a longer name is counted under the next */
#define MC_COUNTS_OTHER "other" /* what found no room */

enum mc_counts_kind { MC_COUNTS_LOADS, MC_COUNTS_ERRORS, MC_COUNTS_KINDS };

struct mc_count {
    const char *name; /* UTF-8 */
    size_t name_len;
    uint64_t count; /* written as at most INT64_MAX */
};

struct mc_counts {
    struct mc_count *items; /* will be sorted */
    size_t number;
};

/* The document of `room` (MC_COUNTS_ROOM bytes, *len of them in use) with other loads, errors or
 * both; NULL: as they were. */
void mc_counts_update(uint8_t *room, uint32_t *len, const struct mc_counts *loads,
                      const struct mc_counts *errors);

/* Begins to read the counts of that kind: false where there are none. The bytes must not change
 * before the last mc_counts_next. */
bool mc_counts_open(const uint8_t *data, size_t len, enum mc_counts_kind kind,
                    struct mc_bson_cursor *cursor);

/* The next count: false after the last one. What is no count is passed over. */
bool mc_counts_next(struct mc_bson_cursor *cursor, struct mc_count *out);

#endif
