/* history.h - what the loader's last rounds did: a ring of records beside the generations.
 *
 * Each record has a sequence number and a checksum, and takes the place of the oldest. A reader
 * believes a slot whose checksum is right and whose number belongs there, so that a record that is
 * half written, by a killed loader or at this moment, is not there yet: the oldest is gone already,
 * and all others are as they were. Nothing here needs a generation or a lock.
 */
#ifndef MMAPCACHE_HISTORY_H
#define MMAPCACHE_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "table.h"

/* Where the history of a file is. */
struct mc_history {
    uint64_t offset; /* bytes */
    uint32_t slots;  /* 0: there is none */
};

static inline struct mc_history mc_superblock_history(const struct mc_superblock *superblock)
{
    return (struct mc_history){.offset = superblock->history_offset,
                               .slots = superblock->history_slots};
}

/* ---- reading: any process ---- */

/* Copies what counts, oldest first, into `to`, which has room for all slots; how many that are.
 * *damaged (may be NULL): how many slots hold something that does not count. */
size_t mc_history_read(const struct mc_space *space, const struct mc_history *history,
                       struct mc_round_record *to, size_t *damaged);

/* ---- the loader's half, for src/writer/ ---- */

/* The number of the last record; 0: there is none. */
uint64_t mc_history_last(const struct mc_space *space, const struct mc_history *history);

/* Writes the record into the slot of its sequence, and fills in its checksum. */
void mc_history_write(const struct mc_space *space, const struct mc_history *history,
                      struct mc_round_record *record);

#endif
