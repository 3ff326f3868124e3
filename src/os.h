/* os.h - what the files that talk to the operating system have in common. */
#ifndef MMAPCACHE_OS_H
#define MMAPCACHE_OS_H

#include <stdint.h>

#include "status.h"

#define MC_REASON 96u /* bytes for the text of an errno */

/* What an errno means, for as long as room is there; any thread. */
const char *mc_os_reason(int number, char room[MC_REASON]);

/* Says what the system call that has just failed was for, `path` (may be NULL), and why by errno.
 * Returns MC_OS. */
enum mc_status mc_os_error(struct mc_error *err, const char *doing, const char *path);

/* open with O_CLOEXEC. The descriptor is never 0, 1 or 2, even in a process that has closed those:
 * whatever is printed there would go into the cache. */
int mc_os_open(const char *path, int flags, uint32_t mode);

/* `fd`, which is close-on-exec, or a number of at least 3 for it; negative with errno as open says
 * it. */
int mc_os_raise(int fd);

/* A descriptor of its own for what fd is: at least 3, close-on-exec; negative with errno. */
int mc_os_duplicate(int fd);

/* Lets another thread run. */
void mc_yield(void);

#endif
