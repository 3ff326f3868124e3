/* system_linux.c - see system.h: futex, memfd, fallocate, huge pages, locks of file descriptions.
 *
 * A C library from glibc 2.17 on, or musl, and its headers are enough to build this: what only
 * newer ones or the kernel's own headers have is named here.
 */
#define _GNU_SOURCE
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "format.h"
#include "mutant.h"
#include "os.h"

/* Newer than the headers of the oldest systems that we build on. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SHRINK 0x0002
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 0x0001U
#define MFD_ALLOW_SEALING 0x0002U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define OVERLAYFS_MAGIC 0x794c7630
#define TMPFS_MAGIC 0x01021994

/* Both system calls are older than their names in glibc. */
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 27)
#include <sys/random.h>
#else
#define memfd_create(name, flags) ((int)syscall(SYS_memfd_create, name, flags))
#define getrandom(to, len, flags) syscall(SYS_getrandom, to, len, flags)
#endif
#else
#include <sys/random.h>
#endif

#define SMALL_PAGE 4096 /* bytes: no kernel that runs this has a smaller one */

const char mc_system_name[] = "linux";

/* ---- files ---- */

void mc_system_room(int fd, struct mc_room *out)
{
    struct statfs system = {0};
    (void)fstatfs(fd, &system);
    uint64_t unit = (uint64_t)(system.f_frsize != 0 ? system.f_frsize : system.f_bsize);
    *out = (struct mc_room){.tmpfs = system.f_type == TMPFS_MAGIC,
                            .bytes = (uint64_t)system.f_blocks * unit,
                            .free = (uint64_t)system.f_bavail * unit};
}

bool mc_system_is_overlaid(int fd)
{
    struct statfs system;
    return fstatfs(fd, &system) == 0 && system.f_type == OVERLAYFS_MAGIC &&
           !MC_MUTANT_IS(513); /* 513: the copy will do */
}

bool mc_system_anonymous(int *fd, int *again)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    *again = -1;
    *fd = mc_os_raise(memfd_create("mmapcache", flags | MFD_NOEXEC_SEAL));
    if (*fd < 0 && errno == EINVAL) { /* Linux < 6.3 does not know NOEXEC */
        *fd = mc_os_raise(memfd_create("mmapcache", flags));
    }
    if (*fd >= 0) {
        *again = mc_system_reopen(*fd, NULL);
    }
    return *again >= 0;
}

bool mc_system_seal(int fd)
{
    int seals = F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE;
    return fcntl(fd, F_ADD_SEALS, seals) == 0 ||
           fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0; /* Linux < 5.1: no FUTURE_WRITE */
}

int mc_system_reopen(int fd, const char *path)
{
    char own[32];
    (void)path; /* may name another file by now */
    (void)snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    return mc_os_open(own, O_RDWR, 0);
}

int mc_system_allocate(int fd, uint64_t from, uint64_t to)
{
    int result;
    do {
        result = posix_fallocate(fd, (off_t)from, (off_t)(to - from));
    } while (result == EINTR);
    return result;
}

/* Only the last page is allocated before: what is missing of it comes zeroed with the huge page,
 * whereas pages that exist would have to be copied. (For 256 MiB: 40-70 ms against 700-960 ms for
 * allocating all and then collapsing.) */
bool mc_system_make_huge(int fd, uint64_t offset, shm_byte *at)
{
    off_t last = (off_t)(offset + MC_EXTENT - SMALL_PAGE);
    return fallocate(fd, 0, last, SMALL_PAGE) == 0 && madvise(at, MC_EXTENT, MADV_COLLAPSE) == 0;
}

bool mc_system_populate(shm_byte *at, uint64_t len)
{
    return madvise(at, len, MADV_POPULATE_READ) == 0;
}

/* ---- the lock on the cache file itself ---- */

/* A write lock of the open file description, for which the file must be open for writing: workers
 * cannot take it, whereas anybody who may read a file can flock it. */
bool mc_system_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    /* EINVAL: a kernel that has no such locks; the lock file has to do, as with a reader's */
    return fcntl(fd, F_OFD_SETLK, &whole) == 0 || errno == EINVAL;
}

/* A read lock, which is what is asked for, has only write locks to fear. */
bool mc_system_is_locked(int fd)
{
    struct flock question = {.l_type = MC_MUTANT_IS(510) ? F_WRLCK : F_RDLCK, /* 510: any lock */
                             .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_GETLK, &question) == 0 && question.l_type != F_UNLCK;
}

void mc_system_unlock(int fd)
{
    struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    (void)fcntl(fd, F_OFD_SETLK, &whole);
}

/* ---- mappings ---- */

void mc_system_keep_from_children(void *at, size_t len)
{
    (void)madvise(at, len, MADV_DONTFORK);
}

void mc_system_prepare(size_t page, size_t offset, uint64_t value)
{
    (void)page;
    (void)offset;
    (void)value;
}

/* The page is complete before it is moved into its place. */
bool mc_system_replace(void *at, size_t page, size_t offset, uint64_t value, bool writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    uint8_t *made = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) {
        return false;
    }
    memcpy(made + offset, &value, sizeof value);
    if (mprotect(made, page, protection) != 0 ||
        mremap(made, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED) {
        (void)munmap(made, page);
        return false;
    }
    return true;
}

/* ---- waiting, time, identity ---- */

/* The word is the low half of a 64-bit generation: it differs after any fewer than 2^32 commits. */
void mc_system_wait(const void *word, uint32_t value, int64_t nanoseconds)
{
    struct timespec time = {.tv_sec = nanoseconds / 1000000000,
                            .tv_nsec = nanoseconds % 1000000000};
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, &time, NULL, 0);
}

void mc_system_wake(const void *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

int64_t mc_system_boot_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

bool mc_system_random(void *to, size_t len)
{
    return getrandom(to, len, 0) == (ssize_t)len; /* up to 256 bytes come whole or not at all */
}

/* Whether a call failed for want of something that this process or the machine may have again. */
static bool is_shortage(int number)
{
    return number == EMFILE || number == ENFILE || number == ENOMEM;
}

int mc_system_boot(char *to, size_t size)
{
    int fd = mc_os_open("/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
    if (fd < 0) {
        return is_shortage(errno) ? -1 : 0;
    }
    ssize_t got = read(fd, to, size);
    int number = errno;
    (void)close(fd);
    errno = number;
    return (int)got;
}
