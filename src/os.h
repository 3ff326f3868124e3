/* os.h - what the files that talk to the operating system have in common. */
#ifndef MMAPCACHE_OS_H
#define MMAPCACHE_OS_H

#include "status.h"

/* Says what the system call that has just failed was for, `path` (may be NULL), and why by errno.
 * Returns MC_OS. */
enum mc_status mc_os_error(struct mc_error *err, const char *doing, const char *path);

#endif
