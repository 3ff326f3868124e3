/* rounds.c - the history of a file as its loader writes it: see rounds.h. */
#include "rounds.h"

#include <stdlib.h>

#include "history.h"
#include "mutant.h"
#include "publish.h"
#include "writer_state.h"

#define HISTORY_SHIFT 7 /* the history has a 128th of the file, */
#define SLOTS_MOST 512u /* but no more records than this: 128 KiB */

uint32_t mc_rounds_slots(uint64_t max_size, uint32_t asked)
{
    uint64_t slots = (max_size >> HISTORY_SHIFT) / sizeof(struct mc_round_record);
    if (asked != 0) {
        return asked;
    }
    return slots < SLOTS_MOST ? (uint32_t)slots : SLOTS_MOST;
}

void mc_rounds_recover(struct mc_writer *writer)
{
    struct mc_history history = mc_superblock_history(&writer->superblock);
    writer->rounds = mc_history_last(&writer->table.space, &history);
}

/* Gives the record the next number, and writes it. */
static void add(struct mc_writer *writer, struct mc_round_record *record)
{
    struct mc_history history = mc_superblock_history(&writer->superblock);
    bool begins = writer->rounds >= MC_GENERATION_MAX; /* no loader counted so far */
    writer->rounds = begins ? 1 : writer->rounds + 1;
    record->sequence = writer->rounds;
    mc_history_write(&writer->table.space, &history, record);
}

void mc_rounds_inherit(struct mc_writer *writer, const struct mc_writer *old)
{
    struct mc_history history = mc_superblock_history(&old->superblock);
    struct mc_round_record *records = malloc((history.slots + (size_t)1) * sizeof *records);
    if (records == NULL || writer->superblock.history_slots == 0) { /* it is no reason to fail */
        free(records);
        return;
    }
    size_t number = mc_history_read(&old->table.space, &history, records, NULL);
    for (size_t i = MC_MUTANT_IS(670) ? number : 0; i < number; i++) { /* 670: nothing of it */
        add(writer, &records[i]);
    }
    free(records);
}

enum mc_status mc_writer_record(struct mc_writer *writer, const struct mc_round *round,
                                struct mc_error *err)
{
    struct mc_round_record record = {
        .generation = writer->root.generation,
        .started_at = round->started_at,
        .started_boot = mc_boot_of(round->started_at),
        .duration = round->duration,
        .put = round->put,
        .deleted = round->deleted,
        .bytes = round->bytes,
        .rounds = round->rounds,
    };
    enum mc_status status = mc_writer_whole(writer, err);
    if (status != MC_OK || writer->superblock.history_slots == 0) {
        return status;
    }
    mc_field_text(record.reason, sizeof record.reason, round->reason);
    mc_field_text(record.error, sizeof record.error, round->error);
    add(writer, &record);
    return MC_OK;
}
