/* users.h - counts of who uses a piece of this process's memory, in whatever thread. */
#ifndef MMAPCACHE_USERS_H
#define MMAPCACHE_USERS_H

#include <stdbool.h>

static inline void mc_users_add(unsigned *users)
{
    (void)__atomic_add_fetch(users, 1, __ATOMIC_RELAXED);
}

/* True for the last one: what others have done to the memory is seen then. */
static inline bool mc_users_drop(unsigned *users)
{
    return __atomic_sub_fetch(users, 1, __ATOMIC_ACQ_REL) == 0;
}

#endif
