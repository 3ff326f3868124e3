/* system.h - what each kind of operating system does in its own way.
 *
 * Two files keep its word, and a build has one of them: system_linux.c, and system_posix.c for
 * everything else, which does with what POSIX has and promises less (docs/macos.md). What fails
 * says why in errno.
 */
#ifndef MMAPCACHE_SYSTEM_H
#define MMAPCACHE_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm.h"

/* "linux" or "posix". */
extern const char mc_system_name[];

/* ---- files ---- */

/* What is known of the file system that fd is on. Zeros where it does not tell. */
struct mc_room {
    bool tmpfs;
    uint64_t bytes, free;
};
void mc_system_room(int fd, struct mc_room *out);

/* Whether who has opened the file before may have another copy of it: on overlayfs, opening for
 * writing makes a copy of what was in a lower layer. Who has the lower one open stays with it, and
 * device and inode are the same for both. */
bool mc_system_is_overlaid(int fd);

/* An empty file without a name, and a file description of its own for it that can carry a lock;
 * both are at least 3 and close-on-exec. False: there is neither. */
bool mc_system_anonymous(int *fd, int *again);

/* Keeps the anonymous file from shrinking, and from being written by anybody else, as far as the
 * system can. */
bool mc_system_seal(int fd);

/* Another file description, open for writing, of the file behind fd, which is at `path`; negative:
 * failed, with ESTALE when another one is there. */
int mc_system_reopen(int fd, const char *path);

/* Makes every block of [from, to) be there, `from` being within the file: what is there stays. An
 * errno, or 0. */
int mc_system_allocate(int fd, uint64_t from, uint64_t to);

/* Makes one huge page of [offset, offset + MC_EXTENT), which is not there yet and mapped at
 * `at`. False: it cannot be had, here or at all. */
bool mc_system_make_huge(int fd, uint64_t offset, shm_byte *at);

/* Faults in the pages of [at, at + len), which the file has. */
bool mc_system_populate(shm_byte *at, uint64_t len);

/* ---- the lock on the cache file itself ---- */

/* Takes it for the file description fd, never waits. False with EAGAIN or EACCES: somebody
 * has a lock, another loader or not. True without one where there are no such locks. */
bool mc_system_lock(int fd);

/* Whether a loader has it, by another file description. */
bool mc_system_is_locked(int fd);

void mc_system_unlock(int fd);

/* ---- mappings ---- */

/* Children that are forked do not have [at, at + len). */
void mc_system_keep_from_children(void *at, size_t len);

/* Has ready what mc_system_replace needs: pages of `page` bytes with `value` at `offset`. Once in a
 * process, before the first. */
void mc_system_prepare(size_t page, size_t offset, uint64_t value);

/* Puts a private page in the place of the one at `at`, in one step: zeros, but for `value` at
 * `offset`. In a signal handler. */
bool mc_system_replace(void *at, size_t page, size_t offset, uint64_t value, bool writable);

/* ---- waiting, time, identity: see region.h ---- */

void mc_system_wait(const void *word, uint32_t value, int64_t nanoseconds);
void mc_system_wake(const void *word);
int64_t mc_system_boot_us(void);
bool mc_system_random(void *to, size_t len);

/* The text that names this boot of the machine, without a NUL: its length; 0: the system does not
 * tell; negative: it could not be asked now. */
int mc_system_boot(char *to, size_t size);

#endif
