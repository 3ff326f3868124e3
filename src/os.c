/* os.c - see os.h. */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <string.h>

enum mc_status mc_os_error(struct mc_error *err, const char *doing, const char *path)
{
    int number = errno;
    char reason[96];
    const char *text = strerror_r(number, reason, sizeof reason);
    (void)mc_fail(err, MC_OS, "%s%s%s: %s", doing, path != NULL ? " " : "",
                  path != NULL ? path : "", text);
    if (err != NULL) {
        err->os_errno = number;
    }
    return MC_OS;
}
