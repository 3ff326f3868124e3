/* lock.c - see lock.h.
 *
 * flock and the open-file-description lock belong to the open file description, which a
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

struct mc_lock {
    int fd;
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

/* Whether `path` still names the file behind fd: a lock on a removed file keeps nobody out. */
static bool is_at(int fd, const char *path)
{
    struct stat locked, named;
    return fstat(fd, &locked) == 0 && stat(path, &named) == 0 && locked.st_dev == named.st_dev &&
           locked.st_ino == named.st_ino;
}

/* flock keeps a second loader out; an open-file-description lock beside it lets anybody ask without
 * taking anything. */
static enum mc_status lock_whole(int fd, const char *path, struct mc_error *err)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK
                   ? mc_fail(err, MC_LOCKED,
                             "another loader holds %s: one writes a cache at a time; stop it, or "
                             "give timeout= to wait for it",
                             path)
                   : mc_os_error(err, "cannot lock", path);
    }
    if (!is_at(fd, path)) {
        return mc_fail(err, MC_LOCKED, "%s was removed while it was being locked: try again", path);
    }
    (void)fcntl(fd, F_OFD_SETLK, &whole);
    return MC_OK;
}

enum mc_status mc_lock_descriptor(int fd, const char *path, struct mc_lock **out,
                                  struct mc_error *err)
{
    struct mc_lock *lock = malloc(sizeof *lock);
    enum mc_status status = lock != NULL ? lock_whole(fd, path, err) : mc_no_memory(err);
    if (status != MC_OK) {
        (void)close(fd);
        free(lock);
        return status;
    }
    *lock = (struct mc_lock){.fd = fd, .next = held};
    held = *out = lock;
    return MC_OK;
}

enum mc_status mc_lock_take(const char *path, uint32_t mode, struct mc_lock **out,
                            struct mc_error *err)
{
    enum mc_status status = mc_lock_forks(err);
    if (status != MC_OK) {
        return status;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        status = mc_os_error(err, "cannot open the lock file", path);
    } else {
        (void)fchmod(fd, mode); /* the umask had its say; another uid may be the next loader's */
        status = mc_lock_descriptor(fd, path, out, err);
    }
    mc_unlock_forks();
    return status;
}

bool mc_lock_is_held(int fd)
{
    struct flock question = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_GETLK, &question) == 0 && question.l_type != F_UNLCK;
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
            struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
            *link = lock->next;
            (void)fcntl(lock->fd, F_OFD_SETLK, &whole);
            (void)flock(lock->fd, LOCK_UN);
            (void)close(lock->fd);
            break;
        }
    }
    (void)pthread_mutex_unlock(&held_mutex);
    free(lock);
}
