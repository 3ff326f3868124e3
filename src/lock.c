/* lock.c - see lock.h.
 *
 * Both locks belong to the open file description, which a
 * forked child shares: as long as the child has the descriptor open, the parent's death would not
 * free the lock. So every held lock is on a list, and a handler of pthread_atfork closes the
 * descriptors in the child. It runs for every fork() of libc, also where Python's own fork hooks do
 * not, as under uWSGI. From the opening of such a descriptor until it is on the list no thread can
 * fork.
 *
 * held_mutex is the only mutex of the library, and nobody locks it before the handlers are there,
 * so no child inherits it locked. The table of guard.c needs none.
 */
#define _GNU_SOURCE
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guard.h"
#include "mutant.h"
#include "os.h"
#include "system.h"

#define MODE 0600 /* of a lock file: who can open it can lock it, and no loader would start */

struct mc_lock {
    int fd;
    bool obstructed;
    struct mc_lock *next;
};

static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct mc_lock *held; /* guarded by held_mutex */
static int fork_handlers;    /* see mc_once_begin */

static void before_fork(void)
{
    (void)pthread_mutex_lock(&held_mutex);
}

static void after_fork_in_parent(void)
{
    (void)pthread_mutex_unlock(&held_mutex);
}

static void after_fork_in_child(void)
{
    struct mc_lock *first = MC_MUTANT_IS(504) ? NULL : held; /* 504: the child holds it too */
    for (struct mc_lock *lock = first; lock != NULL; lock = lock->next) {
        (void)close(lock->fd);
        lock->fd = -1;
    }
    held = NULL;
    (void)pthread_mutex_unlock(&held_mutex);
}

enum mc_status mc_lock_forks(struct mc_error *err)
{
    if (mc_once_begin(&fork_handlers)) {
        bool there = MC_MUTANT_IS(518) || /* 518: a child may inherit the mutex locked */
                     pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
        mc_once_end(&fork_handlers, there);
        if (!there) {
            return mc_no_memory(err);
        }
    }
    (void)pthread_mutex_lock(&held_mutex);
    return MC_OK;
}

void mc_unlock_forks(void)
{
    (void)pthread_mutex_unlock(&held_mutex);
}

enum mc_status mc_lock_moved(const char *path, struct mc_error *err)
{
    return mc_fail(err, MC_LOCKED, "%s was removed while it was being locked: try again", path);
}

/* Whether `path` still names the file behind fd: a lock on a removed file keeps nobody out. */
static enum mc_status check_place(int fd, const char *path, struct mc_error *err)
{
    struct stat locked, named;
    bool there = fstat(fd, &locked) == 0 && stat(path, &named) == 0 &&
                 locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
    return there ? MC_OK : mc_lock_moved(path, err);
}

static enum mc_status is_taken(const char *path, struct mc_error *err)
{
    return mc_fail(err, MC_LOCKED,
                   "another loader holds %s: one writes a cache at a time; stop it, or "
                   "give timeout= to wait for it",
                   path);
}

/* Puts the lock on the list. `fd` is taken over: it is closed on failure too. */
static enum mc_status hold(int fd, bool obstructed, struct mc_lock **out, struct mc_error *err)
{
    struct mc_lock *lock = malloc(sizeof *lock);
    if (lock == NULL) {
        (void)close(fd);
        free(lock);
        return mc_no_memory(err);
    }
    *lock = (struct mc_lock){.fd = fd, .obstructed = obstructed, .next = held};
    held = *out = lock;
    return MC_OK;
}

/* What is at a lock's path, if not a file of ours: it could not be opened, or must not be used. A
 * lock that others may open can be held by them, and no loader would start any more. */
static enum mc_status is_in_the_way(const char *path, int number, struct mc_error *err)
{
    static const char *const cure =
        "remove it, and keep the cache in a directory that only its loader may write";
    struct stat file;
    if (number == ENOENT) {
        (void)mc_fail(err, MC_OS,
                      "there is no directory for %s: create it, so that only the loader may write "
                      "there",
                      path);
    } else if (lstat(path, &file) != 0 || (S_ISREG(file.st_mode) && file.st_uid == geteuid())) {
        errno = number;
        return mc_os_error(err, "cannot open the lock file", path);
    } else if (S_ISREG(file.st_mode)) {
        (void)mc_fail(
            err, MC_OS,
            "the lock file %s belongs to uid %u, and this loader runs as uid %u: run it as "
            "the owner, or %s",
            path, (unsigned)file.st_uid, (unsigned)geteuid(), cure);
    } else {
        (void)mc_fail(err, MC_OS,
                      "%s is not a regular file, and the loader's lock has to be one: %s", path,
                      cure);
    }
    if (err != NULL) {
        err->os_errno = number;
    }
    return MC_OS;
}

/* The lock file, open and for us alone, or a negative number. */
static int open_lock_file(const char *path, struct mc_error *err)
{
    struct stat file;
    /* O_NONBLOCK: as in mc_region_open. */
    int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int fd = mc_os_open(path, flags, MODE);
    if (fd < 0) {
        (void)is_in_the_way(path, errno, err);
        return -1;
    }
    if (fstat(fd, &file) != 0) {
        (void)mc_os_error(err, "cannot stat", path);
    } else if (!S_ISREG(file.st_mode) ||
               (file.st_uid != geteuid() && !MC_MUTANT_IS(508))) { /* 508: anybody's */
        (void)is_in_the_way(path, EEXIST, err);
    } else if ((file.st_mode & 077) != 0 && fchmod(fd, MODE) != 0) { /* an older version's */
        (void)mc_os_error(err, "cannot set the mode of", path);
    } else {
        return fd;
    }
    (void)close(fd);
    return -1;
}

/* Locks the lock file, which is opened for this, between mc_lock_forks and mc_unlock_forks. */
static enum mc_status take(const char *path, struct mc_lock **out, struct mc_error *err)
{
    enum mc_status status;
    int fd = open_lock_file(path, err);
    if (fd < 0) {
        return MC_OS;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        status = check_place(fd, path, err);
    } else {
        status = errno == EWOULDBLOCK ? is_taken(path, err) : mc_os_error(err, "cannot lock", path);
    }
    if (status != MC_OK) {
        (void)close(fd);
        return status;
    }
    return hold(fd, false, out, err);
}

enum mc_status mc_lock_take(const char *path, struct mc_lock **out, struct mc_error *err)
{
    enum mc_status status = mc_lock_forks(err);
    if (status == MC_OK) {
        status = take(path, out, err);
        mc_unlock_forks();
    }
    return status;
}

enum mc_status mc_lock_file(int fd, const char *path, struct mc_lock **out, struct mc_error *err)
{
    enum mc_status status = MC_OK;
    bool locked = mc_system_lock(fd);
    if (!locked && errno != EAGAIN && errno != EACCES) {
        status = mc_os_error(err, "cannot lock", path);
    } else if (!locked && (mc_lock_is_held(fd) || MC_MUTANT_IS(509))) { /* 509: whatever lock */
        status = is_taken(path, err);
    } else if (path != NULL) {
        status = check_place(fd, path, err);
    }
    if (status != MC_OK) {
        (void)close(fd);
        return status;
    }
    return hold(fd, !locked, out, err);
}

bool mc_lock_is_obstructed(const struct mc_lock *lock)
{
    return lock->obstructed;
}

bool mc_lock_is_held(int fd)
{
    return mc_system_is_locked(fd);
}

bool mc_lock_is_ours(const struct mc_lock *lock)
{
    return lock->fd >= 0; /* the fork handler closed the child's */
}

void mc_lock_release(struct mc_lock *lock)
{
    if (lock == NULL) { /* a reader's, which has nothing to do with the mutex */
        return;
    }
    (void)pthread_mutex_lock(&held_mutex);
    for (struct mc_lock **link = &held; *link != NULL; link = &(*link)->next) {
        if (*link == lock) {
            /* unlocked, not only closed: a child that has just been forked has its copy still */
            *link = lock->next;
            mc_system_unlock(lock->fd);
            (void)flock(lock->fd, LOCK_UN);
            (void)close(lock->fd);
            break;
        }
    }
    (void)pthread_mutex_unlock(&held_mutex);
    free(lock);
}
