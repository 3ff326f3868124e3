/* bell.h - the FIFO beside a cache file, by which a loader wakes event loops.
 *
 * A futex wakes a thread that sleeps on it, and an event loop sleeps in epoll. So there is a FIFO
 * as well, which always holds a byte: the loader takes it out and puts another one in, and each
 * process that watches the FIFO for edges (EPOLLET) is woken. Nobody else reads it, so that nobody
 * takes a ring away from the others; there is no list of listeners, and no limit for them but the
 * descriptors of each.
 *
 * It is a convenience: who cannot hear looks at the commit word by himself. So nothing that is
 * wrong with it is a loader's error.
 */
#ifndef MMAPCACHE_BELL_H
#define MMAPCACHE_BELL_H

#define MC_BELL_SUFFIX ".bell"
#define MC_BELL_NONE (-1)

/* Opens the FIFO at `path` for ringing, making it when nothing is there: a descriptor, or
 * MC_BELL_NONE. Who may read the file that `fd` has open may listen. What is at the path and is no
 * FIFO of this user's is left alone. */
int mc_bell_open(const char *path, int fd);

/* Wakes everybody who listens: two system calls, which never wait. MC_BELL_NONE is harmless. */
void mc_bell_ring(int bell);

/* MC_BELL_NONE is harmless. */
void mc_bell_close(int bell);

#endif
