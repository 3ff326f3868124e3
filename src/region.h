/* region.h - the operating system: files, mappings, futexes, clocks. Nothing here knows what the
 * bytes mean. */
#ifndef MMAPCACHE_REGION_H
#define MMAPCACHE_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lock.h"
#include "shm.h"
#include "status.h"

/* ---- a file and its mapping ---- */

struct mc_region {
    int fd;
    bool writable;
    shm_byte *base;     /* on a 2 MiB boundary, so that huge pages fit; NULL: not mapped */
    uint64_t map_size;  /* bytes of address space, may reach past the end of the file */
    uint64_t file_size; /* bytes that the file had when last looked at */
    uint64_t device, inode;
    uint32_t owner; /* uid */
    bool overlaid;  /* on overlayfs: who opened it before a writer may have another copy */
    struct mc_guarded *guard; /* see guard.h; there while it is mapped */
    struct mc_lock *lock;     /* a writer's, on the file itself; NULL: none */
};

/* Opens `path` without following a link and checks that it is a regular file, not writable for
 * everybody, and whose it is: a writer's own; for a reader its own, root's, or the one of the user
 * `owner` (a uid; MC_OWNER_TRUSTED: nobody else's). MC_NOT_READY: no such file. MC_FORMAT: unsafe.
 * MC_OS. */
#define MC_OWNER_TRUSTED (-1)
enum mc_status mc_region_open(const char *path, bool writable, int64_t owner, struct mc_region *out,
                              struct mc_error *err);

/* The same for a duplicate of `fd`, read-only. */
enum mc_status mc_region_open_fd(int fd, struct mc_region *out, struct mc_error *err);

/* Creates an empty file at `path`, which must not exist, for its owner alone: nobody else may open
 * it, and lock it, before we have. */
enum mc_status mc_region_create(const char *path, struct mc_region *out, struct mc_error *err);

/* Gives the new file exactly these permission bits, whatever the umask says. */
enum mc_status mc_region_set_mode(const struct mc_region *region, uint32_t mode,
                                  struct mc_error *err);

/* Creates an anonymous file, and takes the lock on it. */
enum mc_status mc_region_create_anonymous(struct mc_region *out, struct mc_error *err);

/* Seals an anonymous file for good, where the system can: it cannot shrink, and nobody else can map
 * or write it. */
enum mc_status mc_region_seal(struct mc_region *region, struct mc_error *err);

/* Reads the first bytes of the file without a mapping; short files: MC_FORMAT. */
enum mc_status mc_region_peek(const struct mc_region *region, void *to, size_t len,
                              struct mc_error *err);

/* Maps `map_size` bytes, shared; a writer's mapping is not inherited by its children. */
enum mc_status mc_region_map(struct mc_region *region, uint64_t map_size, struct mc_error *err);

/* Makes the mapped file `size` bytes long, a multiple of MC_EXTENT, with every block really there:
 * MC_FULL when the file system has no room, with a sentence about that of `path` (NULL: anonymous).
 * *huge is told to try huge pages and becomes false where the file has grown without them, as the
 * kernel or the file system cannot (Linux >= 6.1 and tmpfs can); *collapsed counts their bytes. */
enum mc_status mc_region_grow(struct mc_region *region, const char *path, uint64_t size, bool *huge,
                              uint64_t *collapsed, struct mc_error *err);

/* Makes sure that the file as it is has no holes: MC_FULL, MC_OS. */
enum mc_status mc_region_fill(struct mc_region *region, const char *path, struct mc_error *err);

/* True when somebody truncated the file under the mapping. */
bool mc_region_is_lost(const struct mc_region *region);

/* Makes it so: the file's end is not where it was. */
void mc_region_lose(const struct mc_region *region);

/* Looks at the file's size again. */
void mc_region_measure(struct mc_region *region);

/* Faults in what of [0, file_size) is no hole. MC_OS: Linux >= 5.14 can. */
enum mc_status mc_region_populate(struct mc_region *region, struct mc_error *err);

/* Writes [0, len) to the disk and waits for it. */
enum mc_status mc_region_sync(struct mc_region *region, uint64_t len, struct mc_error *err);

/* Unmaps and closes; harmless twice. */
void mc_region_close(struct mc_region *region);

bool mc_path_is_directory(const char *path);

/* True while `path` names this very file. */
bool mc_region_is_at(const struct mc_region *region, const char *path);

/* Renames `from` over `to`, and removes `path`. */
enum mc_status mc_file_rename(const char *from, const char *to, struct mc_error *err);
void mc_file_remove(const char *path);

/* ---- the lock on the file itself ---- */

/* Takes the lock on the writable region's own file, until the region is closed. `path` is where it
 * has to be. See mc_lock_file. MC_LOCKED, MC_OS, MC_NOMEM. */
enum mc_status mc_region_lock(struct mc_region *region, const char *path, struct mc_error *err);

/* Whether a loader holds the lock on the region's file. Takes nothing, keeps nobody out. */
bool mc_region_is_locked(const struct mc_region *region);

/* ---- waiting, time, identity ---- */

/* Sleeps until the word changes from `value`, is woken, or time is over; may wake early. */
void mc_futex_wait(const void *word, uint32_t value, int64_t nanoseconds);
void mc_futex_wake(const void *word);

int64_t mc_time_us(void);  /* microseconds since 1970 */
int64_t mc_clock_ns(void); /* nanoseconds since some start; never goes back */
int64_t mc_boot_us(void);  /* microseconds since the machine was started, asleep or not */
uint32_t mc_process(void); /* this process's pid */
enum mc_status mc_random(void *to, size_t len, struct mc_error *err);

/* What mc_boot_us was when mc_time_us was `at_us`; at most what it is now. */
static inline int64_t mc_boot_of(int64_t at_us)
{
    int64_t passed = mc_time_us() - at_us; /* negative: the clock was set back */
    return mc_boot_us() - (passed > 0 ? passed : 0);
}

/* Which boot of the machine this is: zero where the kernel does not tell. MC_OS: it could not be
 * asked now. */
enum mc_status mc_boot_id(uint8_t id[16], struct mc_error *err);

#endif
