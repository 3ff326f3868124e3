/* history.c - the ring of rounds: see history.h. */
#include "history.h"

#include <assert.h>
#include <stdlib.h>

#include "hash.h"
#include "mutant.h"
#include "shm.h"

#define CHECKED offsetof(struct mc_round_record, checksum)

enum slot { SLOT_UNUSED, SLOT_DAMAGED, SLOT_COUNTS };

static enum slot slot_read(const struct mc_space *space, const struct mc_history *history,
                           uint32_t slot, struct mc_round_record *out)
{
    shm_read(out, space->base + history->offset + slot * sizeof *out, sizeof *out);
    if (out->sequence == 0) {
        return SLOT_UNUSED;
    }
    bool whole = out->checksum == mc_checksum(out, CHECKED) || MC_MUTANT_IS(360); /* 360: half */
    bool here = out->sequence % history->slots == slot && out->sequence <= MC_GENERATION_MAX;
    return whole && (here || MC_MUTANT_IS(361)) /* 361: whatever its number */ ? SLOT_COUNTS
                                                                               : SLOT_DAMAGED;
}

static int by_sequence(const void *left, const void *right)
{
    uint64_t a = ((const struct mc_round_record *)left)->sequence;
    uint64_t b = ((const struct mc_round_record *)right)->sequence;
    return (a > b) - (a < b);
}

size_t mc_history_read(const struct mc_space *space, const struct mc_history *history,
                       struct mc_round_record *to, size_t *damaged)
{
    size_t found = 0, odd = 0;
    for (uint32_t slot = 0; slot < history->slots; slot++) {
        enum slot kind = slot_read(space, history, slot, &to[found]);
        found += kind == SLOT_COUNTS;
        odd += kind == SLOT_DAMAGED;
    }
    if (!MC_MUTANT_IS(362)) { /* 362: as they lie */
        qsort(to, found, sizeof *to, by_sequence);
    }
    if (damaged != NULL) {
        *damaged = odd;
    }
    return found;
}

uint64_t mc_history_last(const struct mc_space *space, const struct mc_history *history)
{
    struct mc_round_record record;
    uint64_t last = 0;
    for (uint32_t slot = 0; slot < history->slots; slot++) {
        if (slot_read(space, history, slot, &record) == SLOT_COUNTS && record.sequence > last) {
            last = record.sequence;
        }
    }
    return last;
}

void mc_history_write(const struct mc_space *space, const struct mc_history *history,
                      struct mc_round_record *record)
{
    assert(history->slots > 0 && record->sequence > 0);
    uint64_t slot = record->sequence % history->slots;
    record->checksum = mc_checksum(record, CHECKED);
    shm_write(space->base + history->offset + slot * sizeof *record, record, sizeof *record);
}
