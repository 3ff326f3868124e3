/* record.h - the record of the ring: who belongs to it, at which epoch, and what is changing. */
#ifndef RING_MODULE_RECORD_H
#define RING_MODULE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "ring.h"

enum { RECORD_MAX_BYTES = 64 * 1024 };

struct record {
    uint64_t epoch; /* 0: there is none yet */
    unsigned count; /* of ids, those of both rings while a node comes or goes */
    char ids[RING_NODES_MAX][RING_ID_MAX + 1];
    struct ring ring;
};

/* Reads the JSON that docs/ring.md defines; NULL, or what is wrong with it in a sentence. */
const char *record_parse(struct record *record, const char *json, size_t length);

/* The index of a node, -1 when it is not in either ring. */
int record_index(const struct record *record, const char *id, size_t length);

/* Whether both place keys alike. */
bool record_is_alike(const struct record *a, const struct record *b);

#endif
