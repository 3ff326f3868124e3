/* testing.h - what the core offers to its own tests, in builds with MC_TEST only; included after
 * <stdlib.h>. */
#ifndef MMAPCACHE_TESTING_H
#define MMAPCACHE_TESTING_H

#ifdef MC_TEST
#include <stddef.h>
#include <stdlib.h>

/* Allocations of the core that still succeed; negative: all do. */
extern long mc_test_allocations_left;
void *mc_test_realloc(void *old, size_t bytes);
void *mc_test_malloc(size_t bytes);
void *mc_test_calloc(size_t count, size_t bytes);

#ifndef MC_TESTING_OWN
#define realloc mc_test_realloc
#define malloc mc_test_malloc
#define calloc mc_test_calloc
#endif
#endif

#endif
