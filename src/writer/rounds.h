/* rounds.h - what a loader writes into the history, see history.h, beside its generations. */
#ifndef MMAPCACHE_ROUNDS_H
#define MMAPCACHE_ROUNDS_H

#include <stdint.h>

#include "status.h"
#include "writer.h"

/* Records in the history of a file of that maximum size; asked: what was asked for, or 0. */
uint32_t mc_rounds_slots(uint64_t max_size, uint32_t asked);

/* Finds where the history of the file goes on. */
void mc_rounds_recover(struct mc_writer *writer);

/* Takes over the history of the file that this writer's succeeds. */
void mc_rounds_inherit(struct mc_writer *writer, const struct mc_writer *old);

struct mc_round {
    const char *reason; /* at most 31 bytes of it are kept */
    const char *error;  /* at most 151; empty: none */
    int64_t started_at; /* microseconds since 1970 */
    uint64_t duration;  /* microseconds */
    uint64_t put, deleted, bytes;
    uint32_t rounds;
};

/* Notes a round, without a commit, in the place of the oldest one; in a file without a history,
 * nothing. MC_CORRUPT: the file was truncated. */
enum mc_status mc_writer_record(struct mc_writer *writer, const struct mc_round *round,
                                struct mc_error *err);

#endif
