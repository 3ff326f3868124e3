/* slots.h - reports and positions: records of 2 KiB, each in two slots that are written in turn.
 *
 * A reader takes the valid record with the higher sequence, so that a loader killed between two
 * stores costs the newest one, not both. Nothing here needs a generation or a lock.
 */
#ifndef MMAPCACHE_SLOTS_H
#define MMAPCACHE_SLOTS_H

#include "format.h"
#include "table.h"

/* Writes the record after the one in `slot`, whose sequence and checksum are updated. */
void mc_report_write(const struct mc_space *space, struct mc_report *slot);
void mc_position_write(const struct mc_space *space, struct mc_position *slot);

/* The last complete record; all zero when there is none. A position's length is in bounds. */
void mc_report_read(const struct mc_space *space, struct mc_report *out);
void mc_position_read(const struct mc_space *space, struct mc_position *out);

/* Whether a position belongs to the data of this root. */
bool mc_position_is_of(const struct mc_position *position, const struct mc_root *root);

#endif
