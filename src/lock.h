/* lock.h - the writer's locks: one loader per cache, and whether there is one. */
#ifndef MMAPCACHE_LOCK_H
#define MMAPCACHE_LOCK_H

#include <stdbool.h>

#include "status.h"

/* Held from open to close or to the death of the process, whichever comes first; a forked child's
 * copy of the descriptor is closed in the child before fork returns there. The lock at a path of
 * its own covers creating and replacing, when there is no cache file yet or there are two; the lock
 * on the file itself holds where somebody removed the other's, and tells readers who is alive. */
struct mc_lock;

/* Takes the lock at `path`, creating the file if needed, for its owner alone; never waits.
 * MC_LOCKED. MC_OS: something else is at the path; the sentence says what to do. MC_NOMEM. */
enum mc_status mc_lock_take(const char *path, struct mc_lock **out, struct mc_error *err);

/* Locks the cache file that `fd` opened for writing, for this alone, and takes fd over: it is
 * closed on failure too. Call between mc_lock_forks and mc_unlock_forks. `path` is where that file
 * has to be; NULL: it has no name. Whoever may read the file can put a read lock on it: that keeps
 * the lock from being taken, and is no failure, but see mc_lock_is_obstructed. MC_LOCKED: another
 * loader has it. MC_OS, MC_NOMEM. */
enum mc_status mc_lock_file(int fd, const char *path, struct mc_lock **out, struct mc_error *err);

/* Says that the file at `path` is another one by now: MC_LOCKED. */
enum mc_status mc_lock_moved(const char *path, struct mc_error *err);

/* Whether a reader's lock was in the way of mc_lock_file: the file is ours by the other lock only,
 * and nobody sees a loader. */
bool mc_lock_is_obstructed(const struct mc_lock *lock);

/* Whether a loader holds the lock on the file behind fd. Takes nothing, keeps nobody out. */
bool mc_lock_is_held(int fd);

/* False in a child of the process that took it. */
bool mc_lock_is_ours(const struct mc_lock *lock);

/* NULL is harmless. */
void mc_lock_release(struct mc_lock *lock);

/* No thread can fork between the two. Whatever will carry a lock is opened and locked between them:
 * a child would keep a descriptor that it does not know of, and the lock with it. MC_NOMEM: no
 * child could be kept from that. */
enum mc_status mc_lock_forks(struct mc_error *err);
void mc_unlock_forks(void);

#endif
