/* system_posix.c - see system.h: what POSIX has, and calls of macOS where it has a better one.
 *
 * A build for Linux can have it, too (MMAPCACHE_PORTABLE=1), which is how it is tested.
 */
#define _GNU_SOURCE
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach/vm_inherit.h>
#include <sys/random.h>
#include <sys/sysctl.h>
#endif

#include "os.h"

#define MILLISECOND 1000000 /* nanoseconds */
#define POLL (2 * MILLISECOND)
#define LOCK_TRIES 20 /* a millisecond apart: whoever asks for a lock has it for a moment */

const char mc_system_name[] = "posix";

/* Less than a second. False: a signal came. */
static bool pause_for(int64_t nanoseconds)
{
    struct timespec time = {.tv_nsec = (long)nanoseconds};
    return nanosleep(&time, NULL) == 0;
}

/* ---- files ---- */

void mc_system_room(int fd, struct mc_room *out)
{
    struct statvfs system = {0};
    (void)fstatvfs(fd, &system);
    *out = (struct mc_room){.bytes = (uint64_t)system.f_blocks * system.f_frsize,
                            .free = (uint64_t)system.f_bavail * system.f_frsize};
}

bool mc_system_is_overlaid(int fd)
{
    (void)fd;
    return false;
}

/* A new file under a name that nobody can know before, opened; `path` is told. */
static int open_unnamed(char *path, size_t size)
{
    const char *folder = getenv("TMPDIR");
    int fd;
    do {
        uint64_t name;
        if (!mc_system_random(&name, sizeof name)) {
            return -1;
        }
        int len = snprintf(path, size, "%s/mmapcache-%016llx", folder != NULL ? folder : "/tmp",
                           (unsigned long long)name);
        if (len >= (int)size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        fd = mc_os_open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    } while (fd < 0 && errno == EEXIST);
    return fd;
}

bool mc_system_anonymous(int *fd, int *again)
{
    char path[1024];
    *again = -1;
    *fd = open_unnamed(path, sizeof path);
    if (*fd >= 0) {
        *again = mc_system_reopen(*fd, path);
        int number = errno;
        (void)unlink(path);
        errno = number;
    }
    return *again >= 0;
}

bool mc_system_seal(int fd)
{
    (void)fd;
    return true;
}

int mc_system_reopen(int fd, const char *path)
{
    struct stat ours, named;
    int again = mc_os_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
    if (again < 0) {
        errno = errno == ENOENT ? ESTALE : errno;
        return -1;
    }
    if (fstat(fd, &ours) != 0 || fstat(again, &named) != 0) {
        int number = errno;
        (void)close(again);
        errno = number;
        return -1;
    }
    if (ours.st_dev != named.st_dev || ours.st_ino != named.st_ino) {
        (void)close(again);
        errno = ESTALE;
        return -1;
    }
    return again;
}

/* Zeros from `from` to `to`. An errno, or 0. */
static int write_zeros(int fd, uint64_t from, uint64_t to)
{
    static const uint8_t zeros[1 << 14];
    while (from < to) {
        uint64_t some = to - from < sizeof zeros ? to - from : sizeof zeros;
        ssize_t done = pwrite(fd, zeros, some, (off_t)from);
        if (done < 0 && errno != EINTR) {
            return errno;
        }
        from += done > 0 ? (uint64_t)done : 0;
    }
    return 0;
}

/* Zeros where the file has holes in [at, to). A file system that knows no holes says so, one way or
 * the other. Nobody else writes to the file: the loader's lock is ours. */
static int fill_holes(int fd, uint64_t at, uint64_t to)
{
    int result = 0;
    while (result == 0 && at < to) {
        off_t hole = lseek(fd, (off_t)at, SEEK_HOLE);
        if (hole < 0 || (uint64_t)hole >= to) {
            return hole < 0 && errno == EIO ? errno : 0;
        }
        off_t data = lseek(fd, hole, SEEK_DATA);
        if (data < 0 && errno != ENXIO) {
            return errno;
        }
        at = data < 0 || (uint64_t)data > to ? to : (uint64_t)data;
        result = write_zeros(fd, (uint64_t)hole, at);
    }
    return result;
}

int mc_system_allocate(int fd, uint64_t from, uint64_t to)
{
    struct stat file;
    if (fstat(fd, &file) != 0) {
        return errno;
    }
    uint64_t end = (uint64_t)file.st_size;
    int result = fill_holes(fd, from, end < to ? end : to);
    if (result == 0 && end < to) {
        result = write_zeros(fd, end, to);
        if (result != 0) {
            (void)!ftruncate(fd, file.st_size); /* as if nothing had been tried */
        }
    }
    return result;
}

bool mc_system_make_huge(int fd, uint64_t offset, shm_byte *at)
{
    (void)fd;
    (void)offset;
    (void)at;
    return false;
}

/* Each page is touched: the guard is there when the file has become shorter. */
bool mc_system_populate(shm_byte *at, uint64_t len)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t done = 0; done < len; done += page) {
        (void)shm_load(at + done);
    }
    return true;
}

/* ---- the lock on the cache file itself ---- */

/* Of the open file description, as Linux's is; but whoever may read the file can take it, and who
 * asks whether it is held has it for a moment. */
bool mc_system_lock(int fd)
{
    int result = flock(fd, LOCK_EX | LOCK_NB);
    for (int i = 0; result != 0 && errno == EWOULDBLOCK && i < LOCK_TRIES; i++) {
        (void)pause_for(MILLISECOND);
        result = flock(fd, LOCK_EX | LOCK_NB);
    }
    return result == 0;
}

bool mc_system_is_locked(int fd)
{
    if (flock(fd, LOCK_SH | LOCK_NB) == 0) {
        (void)flock(fd, LOCK_UN);
        return false;
    }
    return errno == EWOULDBLOCK;
}

void mc_system_unlock(int fd)
{
    (void)fd; /* the caller gives all locks of flock back */
}

/* ---- mappings ---- */

void mc_system_keep_from_children(void *at, size_t len)
{
#ifdef MADV_DONTFORK
    (void)madvise(at, len, MADV_DONTFORK);
#else
    (void)minherit(at, len, VM_INHERIT_NONE);
#endif
}

/* A file of one page, which a mapping can be put in the place of another page with, in one step.
 * There is none when fd is negative, or has become another file's: who makes itself a daemon closes
 * descriptors that it does not know. */
static struct {
    int fd;
    dev_t device;
    ino_t inode;
} ready = {.fd = -1};

void mc_system_prepare(size_t page, size_t offset, uint64_t value)
{
    char path[1024];
    struct stat file;
    int fd = open_unnamed(path, sizeof path);
    if (fd < 0) {
        return; /* mc_system_replace does without */
    }
    (void)unlink(path);
    if (fstat(fd, &file) != 0 || write_zeros(fd, 0, page) != 0 ||
        pwrite(fd, &value, sizeof value, (off_t)offset) != (ssize_t)sizeof value) {
        (void)close(fd);
        return;
    }
    ready.device = file.st_dev;
    ready.inode = file.st_ino;
    ready.fd = fd;
}

/* Without the file it takes two steps: for a moment a reader finds zeros, as in a cache in which
 * nothing has been published. */
bool mc_system_replace(void *at, size_t page, size_t offset, uint64_t value, bool writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    struct stat file;
    if (ready.fd >= 0 && fstat(ready.fd, &file) == 0 && file.st_dev == ready.device &&
        file.st_ino == ready.inode) {
        return mmap(at, page, protection, MAP_PRIVATE | MAP_FIXED, ready.fd, 0) != MAP_FAILED;
    }
    if (mmap(at, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        MAP_FAILED) {
        return false;
    }
    shm_store((shm_byte *)at + offset, value);
    return mprotect(at, page, protection) == 0;
}

/* ---- waiting, time, identity ---- */

void mc_system_wait(const void *word, uint32_t value, int64_t nanoseconds)
{
    while (nanoseconds > 0 && shm_load_half(word) == value &&
           pause_for(nanoseconds < POLL ? nanoseconds : POLL)) {
        nanoseconds -= POLL;
    }
}

void mc_system_wake(const void *word)
{
    (void)word; /* who waits looks by himself */
}

/* macOS counts here while it sleeps, too; Linux does not. */
int64_t mc_system_boot_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

bool mc_system_random(void *to, size_t len)
{
    return getentropy(to, len) == 0;
}

int mc_system_boot(char *to, size_t size)
{
#ifdef __APPLE__
    return sysctlbyname("kern.bootsessionuuid", to, &size, NULL, 0) == 0 ? (int)size - 1 : 0;
#else
    (void)to;
    (void)size;
    return 0;
#endif
}
