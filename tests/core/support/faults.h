/* faults.h - makes what the core asks of libc and of the kernel fail, one call after another.
 *
 * The linker puts faults.c between the test programs and libc (-Wl,--wrap in the Makefile), so that
 * the core is compiled without a word about it. A test arms a plan, calls the core, disarms:
 *
 *     for (long left = 0;; left++) {
 *         faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
 *         status = mc_writer_open(...);
 *         if (faults_disarm() == 0) {
 *             break;                        // every call has had its turn
 *         }
 *         CHECK_EQ(status, MC_NOMEM);
 *     }
 *
 * Besides, it knows how many blocks of memory there are, for tests that look for leaks.
 */
#ifndef MMAPCACHE_TEST_FAULTS_H
#define MMAPCACHE_TEST_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What can fail, and with which errno when the test asks for none. */
enum fault {
    FAULT_MEMORY,    /* malloc, calloc, realloc */
    FAULT_BLOCK,     /* mc_buddy_alloc, as called by arena.c: MC_FULL, and room is looked for */
    FAULT_ROOM,      /* mc_arena_alloc and _small, for the table: MC_FULL, or MC_NOMEM by ENOMEM */
    FAULT_OPEN,      /* open: EMFILE */
    FAULT_STAT,      /* stat, fstat, lstat, fstatfs, fstatvfs: EIO */
    FAULT_MODE,      /* fchmod, fchown: EPERM */
    FAULT_MEMFD,     /* memfd_create: EMFILE */
    FAULT_FCNTL,     /* fcntl: ENOLCK */
    FAULT_READ,      /* read, pread: EIO */
    FAULT_MAP,       /* mmap: ENOMEM */
    FAULT_ADVISE,    /* madvise: EINVAL */
    FAULT_PROTECT,   /* mprotect, mremap: ENOMEM */
    FAULT_ALLOCATE,  /* posix_fallocate, pwrite: ENOSPC */
    FAULT_FALLOCATE, /* fallocate: ENOSPC */
    FAULT_SYNC,      /* msync, fsync: EIO */
    FAULT_RENAME,    /* rename: EACCES */
    FAULT_UNLINK,    /* unlink: EACCES */
    FAULT_LOCK,      /* flock: ENOLCK */
    FAULT_RANDOM,    /* getrandom, getentropy: ENOSYS */
    FAULT_ATFORK,    /* pthread_atfork: ENOMEM */
    FAULT_SEEK,      /* lseek: EIO */
    FAULTS,
};

#define FAULT_BIT(kind) (UINT32_C(1) << (kind))
#define FAULT_SYSTEM ((FAULT_BIT(FAULTS) - 1) & ~(FAULT_BIT(FAULT_OPEN) - 1)) /* all from there */

/* From now on `left` calls of these kinds succeed and the next one fails; when `lasting`, so do all
 * after it. number: the errno; 0: the kind's own. */
void faults_arm(uint32_t kinds, long left, bool lasting, int number);

/* Everything succeeds again. Returns how many calls failed. */
long faults_disarm(void);

/* While it is paused, calls of this thread neither fail nor count: for checks between two steps. */
void faults_pause(bool pause);

/* A bit for each kind that has failed since the plan was armed; how many of a kind have ever. */
uint32_t faults_kinds(void);
long faults_failed(enum fault kind);

/* Blocks that malloc, calloc and realloc gave out and free has not had back. */
long faults_blocks(void);

/* Called after each allocation that succeeded; NULL: nobody watches. */
extern void (*faults_watch)(const void *old, const void *now, size_t bytes);

/* Called before each call that could fail; NULL: nobody watches. */
extern void (*faults_before)(enum fault kind);

/* What a test may want to be otherwise than it is. */
extern long faults_user;    /* what geteuid says; negative: the truth */
extern void *faults_map_at; /* where mmap without an address tries to map first; NULL: anywhere */
extern bool faults_overlay; /* every file is on overlayfs */
extern long faults_page;    /* bytes of a page, as sysconf says; 0: the truth */
extern struct faults_room { /* what fstatfs and fstatvfs say; unless told, the truth */
    bool told;
    unsigned long blocks, free;
} faults_room;
extern bool faults_equal_hashes; /* all keys have one hash */
extern int64_t faults_wall;      /* nanoseconds that the wall clock is ahead of the others */
extern int64_t faults_clock;     /* nanoseconds that the clocks show; negative: the truth */

#endif
