/* guard.h - mappings whose file may be truncated by accident:
 * a SIGBUS in them becomes a lost map. */
#ifndef MMAPCACHE_GUARD_H
#define MMAPCACHE_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "shm.h"

#define MC_GUARD_MAPS 1024u /* mappings of one process that are guarded; further ones are not */

/* Guards a mapping of a cache file; returns its slot, or -1 when there is none left. */
int mc_guard_add(const void *base, uint64_t size, bool writable);

/* Call before unmapping; -1 is allowed. */
void mc_guard_remove(int slot);

/* Declares the mapping lost, as a fault in it would: every view of it becomes invalid. For who sees
 * by other signs that the file was truncated. -1 is allowed, and nothing happens. */
void mc_guard_lose(int slot);

/* True when the file ended before a byte that was touched: nothing in the map can be believed. */
bool mc_guard_is_lost(int slot);

#endif
