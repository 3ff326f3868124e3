/* users.h - counts of who uses a piece of this process's memory, in whatever thread. */
#ifndef MMAPCACHE_USERS_H
#define MMAPCACHE_USERS_H

#include <stdbool.h>

static inline void mc_users_add(unsigned *users)
{
    (void)__atomic_add_fetch(users, 1, __ATOMIC_RELAXED);
}

/* For assertions: one's own use is among them. */
static inline bool mc_users_any(const unsigned *users)
{
    return __atomic_load_n(users, __ATOMIC_RELAXED) > 0;
}

/* True for the last one: what others have done to the memory is seen then. */
static inline bool mc_users_drop(unsigned *users)
{
    return __atomic_sub_fetch(users, 1, __ATOMIC_ACQ_REL) == 0;
}

#endif
