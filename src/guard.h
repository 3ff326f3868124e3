/* guard.h - mappings whose file may be truncated by accident:
 * a SIGBUS in them becomes a lost map. */
#ifndef MMAPCACHE_GUARD_H
#define MMAPCACHE_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "shm.h"

struct mc_guarded; /* one of them */

/* Guards a mapping of a cache file, any number of them; NULL: no memory. */
struct mc_guarded *mc_guard_add(const void *base, uint64_t size, bool writable);

/* Call before unmapping. */
void mc_guard_remove(struct mc_guarded *map);

/* Declares the mapping lost, as a fault in it would: every view of it becomes invalid. For who sees
 * by other signs that the file was truncated. */
void mc_guard_lose(struct mc_guarded *map);

/* True when the file ended before a byte that was touched: nothing in the map can be believed. */
bool mc_guard_is_lost(const struct mc_guarded *map);

/* For what is done once in a process, as pthread_once is, but a child that is forked while another
 * thread is at it does not wait for that thread. *by begins as 0. True: do it, and say how it went
 * with mc_once_end; false: it was done. */
bool mc_once_begin(int *by);
void mc_once_end(int *by, bool done);

#ifdef MC_TEST
/* The handler is there, and not known to be. */
void mc_guard_test_forget(void);
#endif

#endif
