/* faults.c - see faults.h. The linker calls __wrap_x for x, and x for __real_x. */
#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "hash.h"
#include "shm.h"

#define OVERLAYFS_MAGIC 0x794c7630

_Thread_local void (*mc_shm_hook)(enum shm_access access, const void *address, size_t len);
void (*faults_watch)(const void *old, const void *now, size_t bytes);
void (*faults_before)(enum fault kind);
long faults_user = -1;
void *faults_map_at;
bool faults_overlay;
long faults_page;
struct faults_room faults_room;
bool faults_equal_hashes;
int64_t faults_clock = -1;
int64_t faults_wall;

static struct {
    uint32_t kinds;
    long left;
    bool lasting;
    int number;
    long failed;
    uint32_t failed_kinds;
} plan;
static _Thread_local bool paused;
static long failed_of[FAULTS];
static atomic_long blocks;

static const int numbers[FAULTS] = {
    [FAULT_MEMORY] = ENOMEM,   [FAULT_BLOCK] = 0,          [FAULT_ROOM] = 0,
    [FAULT_OPEN] = EMFILE,     [FAULT_STAT] = EIO,         [FAULT_MODE] = EPERM,
    [FAULT_MEMFD] = EMFILE,    [FAULT_FCNTL] = ENOLCK,     [FAULT_READ] = EIO,
    [FAULT_MAP] = ENOMEM,      [FAULT_ADVISE] = EINVAL,    [FAULT_PROTECT] = ENOMEM,
    [FAULT_ALLOCATE] = ENOSPC, [FAULT_FALLOCATE] = ENOSPC, [FAULT_SYNC] = EIO,
    [FAULT_RENAME] = EACCES,   [FAULT_UNLINK] = EACCES,    [FAULT_LOCK] = ENOLCK,
    [FAULT_RANDOM] = ENOSYS,   [FAULT_ATFORK] = ENOMEM,    [FAULT_SEEK] = EIO,
};

void faults_arm(uint32_t kinds, long left, bool lasting, int number)
{
    plan.kinds = kinds;
    plan.left = left;
    plan.lasting = lasting;
    plan.number = number;
    plan.failed = 0;
    plan.failed_kinds = 0;
}

void faults_pause(bool pause)
{
    paused = pause;
}

long faults_disarm(void)
{
    plan.kinds = 0;
    return plan.failed;
}

uint32_t faults_kinds(void)
{
    return plan.failed_kinds;
}

long faults_failed(enum fault kind)
{
    return failed_of[kind];
}

long faults_blocks(void)
{
    return atomic_load(&blocks);
}

/* Whether this call is one that fails; then errno is set. */
static bool fails(enum fault kind)
{
    if (paused) {
        return false;
    }
    if (faults_before != NULL) {
        faults_before(kind);
    }
    if ((plan.kinds & FAULT_BIT(kind)) == 0) {
        return false;
    }
    if (plan.left > 0) {
        plan.left--;
        return false;
    }
    if (plan.failed > 0 && !plan.lasting) {
        return false;
    }
    plan.failed++;
    plan.failed_kinds |= FAULT_BIT(kind);
    failed_of[kind]++;
    errno = plan.number != 0 ? plan.number : numbers[kind];
    return true;
}

/* ---- memory ---- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void __real_free(void *block);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void __wrap_free(void *block);

static void *allocated(const void *old, void *now, size_t bytes)
{
    if (now != NULL && old == NULL) {
        atomic_fetch_add(&blocks, 1);
    }
    if (now != NULL && faults_watch != NULL) {
        faults_watch(old, now, bytes);
    }
    return now;
}

void *__wrap_malloc(size_t bytes)
{
    return fails(FAULT_MEMORY) ? NULL : allocated(NULL, __real_malloc(bytes), bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails(FAULT_MEMORY) ? NULL : allocated(NULL, __real_calloc(count, bytes), count * bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    if (fails(FAULT_MEMORY)) {
        return NULL;
    }
    const bool first = old == NULL; /* old may be gone afterwards: only its address is passed on */
    const uintptr_t address = (uintptr_t)old;
    void *now = __real_realloc(old, bytes);
    return allocated(first ? NULL : (const void *)address, now, bytes);
}

void __wrap_free(void *block)
{
    if (block != NULL) {
        atomic_fetch_sub(&blocks, 1);
    }
    __real_free(block);
}

/* ---- wrapping ---- */

/* A function that says with `failure` that it failed; one of libc, in errno why. */
#define WRAP(kind, failure, type, name, parameters, arguments)                                     \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        return fails(kind) ? (failure) : __real_##name arguments;                                  \
    }

/* What the arena says: as errno has it. */
#define REFUSED(err) (errno == ENOMEM ? mc_no_memory(err) : mc_fail(err, MC_FULL, "no room"))

WRAP(FAULT_BLOCK, MC_FULL, enum mc_status, mc_buddy_alloc,
     (struct mc_buddy * b, uint64_t granules, uint64_t *offset), (b, granules, offset))
WRAP(FAULT_ROOM, REFUSED(err), enum mc_status, mc_arena_alloc,
     (struct mc_arena * arena, uint64_t bytes, uint64_t alignment, uint64_t *offset,
      struct mc_error *err),
     (arena, bytes, alignment, offset, err))
WRAP(FAULT_ROOM, REFUSED(err), enum mc_status, mc_arena_alloc_small,
     (struct mc_arena * arena, uint64_t bytes, uint64_t alignment, uint64_t *offset,
      struct mc_error *err),
     (arena, bytes, alignment, offset, err))

WRAP(FAULT_STAT, -1, int, stat, (const char *path, struct stat *file), (path, file))
WRAP(FAULT_STAT, -1, int, fstat, (int fd, struct stat *file), (fd, file))
WRAP(FAULT_STAT, -1, int, lstat, (const char *path, struct stat *file), (path, file))
WRAP(FAULT_SEEK, -1, off_t, lseek, (int fd, off_t at, int whence), (fd, at, whence))
WRAP(FAULT_MODE, -1, int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(FAULT_MODE, -1, int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
WRAP(FAULT_MEMFD, -1, int, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(FAULT_READ, -1, ssize_t, read, (int fd, void *to, size_t len), (fd, to, len))
WRAP(FAULT_READ, -1, ssize_t, pread, (int fd, void *to, size_t len, off_t at), (fd, to, len, at))
WRAP(FAULT_MAP, MAP_FAILED, void *, mmap,
     (void *at, size_t len, int protection, int flags, int fd, off_t offset),
     (at != NULL ? at : faults_map_at, len, protection, flags, fd, offset))
WRAP(FAULT_ADVISE, -1, int, madvise, (void *at, size_t len, int advice), (at, len, advice))
WRAP(FAULT_PROTECT, -1, int, mprotect, (void *at, size_t len, int to), (at, len, to))
WRAP(FAULT_FALLOCATE, -1, int, fallocate, (int fd, int mode, off_t at, off_t len),
     (fd, mode, at, len))
WRAP(FAULT_ALLOCATE, errno, int, posix_fallocate, (int fd, off_t at, off_t len), (fd, at, len))
WRAP(FAULT_ALLOCATE, -1, ssize_t, pwrite, (int fd, const void *from, size_t len, off_t at),
     (fd, from, len, at))
WRAP(FAULT_SYNC, -1, int, msync, (void *at, size_t len, int flags), (at, len, flags))
WRAP(FAULT_SYNC, -1, int, fsync, (int fd), (fd))
WRAP(FAULT_RENAME, -1, int, rename, (const char *from, const char *to), (from, to))
WRAP(FAULT_UNLINK, -1, int, unlink, (const char *path), (path))
WRAP(FAULT_LOCK, -1, int, flock, (int fd, int operation), (fd, operation))
WRAP(FAULT_RANDOM, -1, ssize_t, getrandom, (void *to, size_t len, unsigned flags), (to, len, flags))
WRAP(FAULT_RANDOM, -1, int, getentropy, (void *to, size_t len), (to, len))
WRAP(FAULT_ATFORK, errno, int, pthread_atfork,
     (void (*before)(void), void (*in_parent)(void), void (*in_child)(void)),
     (before, in_parent, in_child))

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);

int __wrap_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return fails(FAULT_OPEN) ? -1 : __real_open(path, flags, mode);
}

void *__real_mremap(void *old, size_t old_len, size_t len, int flags, ...);
void *__wrap_mremap(void *old, size_t old_len, size_t len, int flags, ...);

void *__wrap_mremap(void *old, size_t old_len, size_t len, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    void *to = va_arg(rest, void *);
    va_end(rest);
    return fails(FAULT_PROTECT) ? MAP_FAILED : __real_mremap(old, old_len, len, flags, to);
}

int __wrap_fcntl(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *); /* an int is read from the same place */
    va_end(rest);
    return fails(FAULT_FCNTL) ? -1 : __real_fcntl(fd, command, argument);
}

int __real_fstatfs(int fd, struct statfs *system);
int __wrap_fstatfs(int fd, struct statfs *system);

int __wrap_fstatfs(int fd, struct statfs *system)
{
    int result = fails(FAULT_STAT) ? -1 : __real_fstatfs(fd, system);
    system->f_type = faults_overlay ? OVERLAYFS_MAGIC : system->f_type;
    if (faults_room.told) {
        system->f_blocks = faults_room.blocks;
        system->f_bavail = faults_room.free;
    }
    return result;
}

int __real_fstatvfs(int fd, struct statvfs *system);
int __wrap_fstatvfs(int fd, struct statvfs *system);

int __wrap_fstatvfs(int fd, struct statvfs *system) /* system_posix.c asks this one */
{
    int result = fails(FAULT_STAT) ? -1 : __real_fstatvfs(fd, system);
    if (faults_room.told) {
        system->f_blocks = faults_room.blocks;
        system->f_bavail = faults_room.free;
    }
    return result;
}

uid_t __real_geteuid(void);
uid_t __wrap_geteuid(void);

uid_t __wrap_geteuid(void)
{
    return faults_user >= 0 ? (uid_t)faults_user : __real_geteuid();
}

long __real_sysconf(int name);
long __wrap_sysconf(int name);

long __wrap_sysconf(int name)
{
    return faults_page != 0 && name == _SC_PAGESIZE ? faults_page : __real_sysconf(name);
}

uint64_t __real_mc_hash(const uint64_t secret[MC_SECRETS], uint8_t type, const void *data,
                        size_t len);
uint64_t __wrap_mc_hash(const uint64_t secret[MC_SECRETS], uint8_t type, const void *data,
                        size_t len);

uint64_t __wrap_mc_hash(const uint64_t secret[MC_SECRETS], uint8_t type, const void *data,
                        size_t len)
{
    return faults_equal_hashes ? 0 : __real_mc_hash(secret, type, data, len);
}

int __real_clock_gettime(clockid_t clock, struct timespec *time);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time);

int __wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
    if (faults_clock < 0) {
        return __real_clock_gettime(clock, time);
    }
    int64_t shown = faults_clock + (clock == CLOCK_REALTIME ? faults_wall : 0);
    *time = (struct timespec){.tv_sec = shown / 1000000000, .tv_nsec = shown % 1000000000};
    return 0;
}
