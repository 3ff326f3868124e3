/* old_glibc.h - system calls that a glibc older than they are leaves to its callers.
 *
 * For wheels that run on such a one (manylinux_2_17). Where libc has them nothing is defined here.
 */
#ifndef MMAPCACHE_OLD_GLIBC_H
#define MMAPCACHE_OLD_GLIBC_H

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __GLIBC__
#if !__GLIBC_PREREQ(2, 27)
static inline int memfd_create(const char *name, unsigned flags)
{
    return (int)syscall(SYS_memfd_create, name, flags);
}
#endif
#if !__GLIBC_PREREQ(2, 25)
static inline ssize_t getrandom(void *to, size_t len, unsigned flags)
{
    return syscall(SYS_getrandom, to, len, flags);
}
#endif
#endif

#endif
