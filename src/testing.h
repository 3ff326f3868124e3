/* testing.h - what the core offers to its own tests, in builds with MC_TEST only. */
#ifndef MMAPCACHE_TESTING_H
#define MMAPCACHE_TESTING_H

#include <stddef.h>
#include <stdint.h>

/* Every allocation of arena.c, store.c and writer.c goes through it: fails the one after
 * mc_test_allocations_left others; negative: never. */
extern long mc_test_allocations_left;
void *mc_test_realloc(void *old, size_t bytes);

#endif
