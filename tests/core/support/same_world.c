/* same_world.c - see same_world.h. These stand before libc's. */
#define _GNU_SOURCE
#include "same_world.h"

#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

bool same_world;

int clock_gettime(clockid_t clock, struct timespec *time)
{
    if (same_world) {
        *time = (struct timespec){.tv_sec = 1000000000};
        return 0;
    }
    return (int)syscall(SYS_clock_gettime, clock, time);
}

pid_t getpid(void)
{
    return same_world ? 4242 : (pid_t)syscall(SYS_getpid);
}

ssize_t getrandom(void *to, size_t len, unsigned flags)
{
    if (same_world) {
        memset(to, 0x5A, len);
        return (ssize_t)len;
    }
    return (ssize_t)syscall(SYS_getrandom, to, len, flags);
}

int getentropy(void *to, size_t len)
{
    return getrandom(to, len, 0) == (ssize_t)len ? 0 : -1;
}
