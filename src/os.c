/* os.c - see os.h. */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "mutant.h"

#define STANDARD_STREAMS 3 /* descriptors: input, output, errors */

const char *mc_os_reason(int number, char room[MC_REASON])
{
#ifdef __GLIBC__ /* GNU's gives the text, in room or elsewhere; POSIX's, as in musl, a status */
    return strerror_r(number, room, MC_REASON);
#else
    return strerror_r(number, room, MC_REASON) == 0 ? room : "unknown error";
#endif
}

enum mc_status mc_os_error(struct mc_error *err, const char *doing, const char *path)
{
    int number = errno;
    char room[MC_REASON];
    (void)mc_fail(err, MC_OS, "%s%s%s: %s", doing, path != NULL ? " " : "",
                  path != NULL ? path : "", mc_os_reason(number, room));
    if (err != NULL) {
        err->os_errno = number;
    }
    return MC_OS;
}

int mc_os_duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, STANDARD_STREAMS);
}

int mc_os_raise(int fd)
{
    if (fd < 0 || fd >= STANDARD_STREAMS || MC_MUTANT_IS(507)) { /* 507: any number will do */
        return fd;
    }
    int raised = mc_os_duplicate(fd), number = errno;
    (void)close(fd);
    errno = number;
    return raised;
}

int mc_os_open(const char *path, int flags, uint32_t mode)
{
    return mc_os_raise(open(path, flags | O_CLOEXEC, mode));
}

void mc_yield(void)
{
    (void)sched_yield();
}
