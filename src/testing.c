/* testing.c - see testing.h. Empty in every build but the core's tests. */
#define MC_TESTING_OWN
#include "testing.h"

#ifdef MC_TEST
#include "shm.h"

_Thread_local void (*mc_shm_hook)(enum shm_access access, const void *address, size_t len);
long mc_test_allocations_left = -1;

static int allowed(void)
{
    if (mc_test_allocations_left == 0) {
        return 0;
    }
    mc_test_allocations_left -= mc_test_allocations_left > 0;
    return 1;
}

void *mc_test_realloc(void *old, size_t bytes)
{
    return allowed() ? realloc(old, bytes) : NULL;
}

void *mc_test_malloc(size_t bytes)
{
    return allowed() ? malloc(bytes) : NULL;
}

void *mc_test_calloc(size_t count, size_t bytes)
{
    return allowed() ? calloc(count, bytes) : NULL;
}
#else
typedef int mc_testing_is_empty; /* C wants a declaration in every file */
#endif
