/* slots.c - reports and positions: see slots.h. */
#include "slots.h"

#include <string.h>

#include "hash.h"
#include "mutant.h"
#include "shm.h"

/* A reader so slow that both slots were rewritten under it looks again. */
#define ATTEMPTS 16
#define SLOTS 2u
#define CHECKED 2044u /* bytes, from the first one, which the checksum behind them covers */

/* What a report and a position have in common. */
struct record {
    uint64_t sequence;
    uint8_t content[CHECKED - sizeof(uint64_t)];
    uint32_t checksum;
};
_Static_assert(MC_REPORT_SLOTS == SLOTS, "slots");
_Static_assert(sizeof(struct record) == sizeof(struct mc_report) &&
                   offsetof(struct mc_report, checksum) == CHECKED,
               "report");
_Static_assert(sizeof(struct record) == sizeof(struct mc_position) &&
                   offsetof(struct mc_position, checksum) == CHECKED,
               "position");

/* `slot` is one of the structs that the assertions name. */
static void record_write(const struct mc_space *space, uint64_t offset, void *slot)
{
    struct record record;
    memcpy(&record, slot, sizeof record);
    shm_fence_release(); /* the record before this one is whole before its rival is overwritten */
    record.sequence++;   /* a file may say 2^64 - 1: then this one counts for none, the next does */
    record.checksum = mc_checksum(&record, CHECKED);
    uint64_t place = MC_MUTANT_IS(306) ? 0 : record.sequence % SLOTS; /* 306: no turns */
    shm_write(space->base + offset + place * sizeof record, &record, sizeof record);
    memcpy(slot, &record, sizeof record);
}

static void record_read(const struct mc_space *space, uint64_t offset, void *out)
{
    struct record record, found = {0};
    for (int attempt = 0; attempt < ATTEMPTS && found.sequence == 0; attempt++) {
        for (uint64_t place = 0; place < SLOTS; place++) {
            shm_read(&record, space->base + offset + place * sizeof record, sizeof record);
            if (record.sequence > found.sequence &&
                record.checksum == mc_checksum(&record, CHECKED)) {
                found = record;
            }
        }
        shm_fence_acquire();
    }
    memcpy(out, &found, sizeof found);
}

void mc_report_write(const struct mc_space *space, struct mc_report *slot)
{
    record_write(space, MC_REPORT_OFFSET, slot);
}

void mc_report_read(const struct mc_space *space, struct mc_report *out)
{
    record_read(space, MC_REPORT_OFFSET, out);
}

void mc_position_write(const struct mc_space *space, struct mc_position *slot)
{
    record_write(space, MC_POSITION_OFFSET, slot);
}

void mc_position_read(const struct mc_space *space, struct mc_position *out)
{
    record_read(space, MC_POSITION_OFFSET, out);
    if (out->length > MC_POSITION_MAX && !MC_MUTANT_IS(311)) { /* 311: as long as the file says */
        uint64_t sequence = out->sequence;                     /* that of the next goes on */
        *out = (struct mc_position){.sequence = sequence};
    }
}

bool mc_position_is_of(const struct mc_position *position, const struct mc_root *root)
{
    if (MC_MUTANT_IS(312)) { /* 312: of whichever generation */
        return true;
    }
    return position->generation == root->generation &&
           (position->published_at == root->published_at || MC_MUTANT_IS(313)); /* 313: by number */
}
