/* lock.h - the writer's locks: one loader per cache, and whether there is one. */
#ifndef MMAPCACHE_LOCK_H
#define MMAPCACHE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"

/* Held from open to close or to the death of the process, whichever comes first; a forked child's
 * copy of the descriptor is closed in the child before fork returns there. The lock at a path of
 * its own covers creating and replacing, when there is no cache file yet or there are two; the lock
 * on the file itself holds where somebody removed the other's, and tells readers who is alive. */
struct mc_lock;

/* Takes the lock at `path`, creating the file if needed; never waits. MC_LOCKED, MC_OS, MC_NOMEM.
 */
enum mc_status mc_lock_take(const char *path, uint32_t mode, struct mc_lock **out,
                            struct mc_error *err);

/* False in a child of the process that took it. */
bool mc_lock_is_ours(const struct mc_lock *lock);

/* NULL is harmless. */
void mc_lock_release(struct mc_lock *lock);

/* No thread can fork between the two. Whatever will carry a lock is opened and locked between them:
 * a child would keep a descriptor that it does not know of, and the lock with it. MC_NOMEM: no
 * child could be kept from that. */
enum mc_status mc_lock_forks(struct mc_error *err);
void mc_unlock_forks(void);

/* Locks what `fd` opened for this alone, between the two above, and takes it over: it is closed on
 * failure too. `path` is where that file has to be. MC_LOCKED, MC_OS, MC_NOMEM. */
enum mc_status mc_lock_descriptor(int fd, const char *path, struct mc_lock **out,
                                  struct mc_error *err);

/* Whether somebody holds the lock on the file behind fd. Takes nothing, keeps nobody out. */
bool mc_lock_is_held(int fd);

#endif
