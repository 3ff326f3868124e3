/* owed.h - writes that this node took and another one did not: an agent brings them there.
 *
 * For each node of the ring at most 100,000 keys with a version. One more, and nobody can say which
 * keys are owed: all of them may be. That is an overflow, which has a number. The list begins anew
 * then, so that what is noted while an agent compares everything is not lost when it strikes that
 * overflow off.
 */
#ifndef RING_MODULE_OWED_H
#define RING_MODULE_OWED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "entry.h"
#include "record.h"

enum { OWED_MAX = 100000 };

struct owed; /* of one node */

/* That of a node by its index in the record; NULL: nothing was ever noted for it. */
struct owed *owed_of(const struct record *record, unsigned index);

/* Notes a key for a node of the record. */
void owed_note(const struct record *record, unsigned index, const char *key, size_t length,
               const struct ring_version *version);

/* Strikes a key off if what is noted is not above the version. */
bool owed_strike(struct owed *owed, const char *key, size_t length,
                 const struct ring_version *version);

uint64_t owed_count(const struct owed *owed);

/* The number of the overflow that is to be dealt with; 0: none. */
uint64_t owed_overflow(const struct owed *owed);
bool owed_settle(struct owed *owed, uint64_t overflow);

/* Calls `each` for up to `count` keys in order, those after `after`; NULL: from the first. */
void owed_walk(struct owed *owed, const char *after, size_t length, uint64_t count,
               void (*each)(void *context, const char *key, size_t length,
                            const struct ring_version *version),
               void *context);

/* Forgets nodes that are in the ring no more; forgets everything. */
void owed_keep(const struct record *record);
void owed_clear(void);

#endif
