/* bell.c - see bell.h. */
#define _GNU_SOURCE
#include "bell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mutant.h"
#include "os.h"

#define READERS 0444 /* the permission bits of a cache file that a bell has, too */
#define OWNER 0600

/* Opened for both directions: it can be opened while nobody listens, and never is at its end. */
static int open_fifo(const char *path)
{
    return mc_os_open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY, 0);
}

/* Whether this is a FIFO of ours. Lets those listen who may read the file, as far as we can. */
static bool share(int bell, const struct stat *file)
{
    struct stat fifo;
    if (fstat(bell, &fifo) != 0 || !S_ISFIFO(fifo.st_mode) ||
        (fifo.st_uid != geteuid() && !MC_MUTANT_IS(530))) { /* 530: anybody's */
        return false;
    }
    mode_t mode = (file->st_mode & READERS) | OWNER;
    if (fifo.st_gid != file->st_gid && fchown(bell, (uid_t)-1, file->st_gid) != 0) {
        mode &= ~(mode_t)070; /* which would be for another group */
    }
    return fchmod(bell, mode) == 0;
}

int mc_bell_open(const char *path, int fd)
{
    struct stat file;
    if (fstat(fd, &file) != 0) {
        return MC_BELL_NONE;
    }
    int bell = open_fifo(path);
    if (bell < 0 && errno == ENOENT && mkfifo(path, OWNER) == 0) {
        bell = open_fifo(path);
    }
    if (bell >= 0 && !share(bell, &file)) {
        (void)close(bell);
        return MC_BELL_NONE;
    }
    return bell >= 0 ? bell : MC_BELL_NONE;
}

void mc_bell_ring(int bell)
{
    char bytes[64];
    if (bell < 0) {
        return;
    }
    /* Emptied first: a kernel may wake nobody for what is put into a pipe that is not empty, and a
     * full one takes nothing. What a child of ours may put in meanwhile is within these bytes. */
    if (!MC_MUTANT_IS(531)) { /* 531: until it is full */
        (void)!read(bell, bytes, sizeof bytes);
    }
    (void)!write(bell, "", 1);
}

void mc_bell_close(int bell)
{
    if (bell >= 0) {
        (void)close(bell);
    }
}
