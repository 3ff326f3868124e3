/* region.c - see region.h.
 *
 * Growth. A mapping is made once, at the maximum; the file behind it grows by mc_system_allocate
 * only, and no byte of it is used before that has said that all of it is there: on a full tmpfs a
 * hole would be a SIGBUS for whoever touches it first.
 */
#define _GNU_SOURCE
#include "region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "format.h"
#include "guard.h"
#include "lock.h"
#include "mutant.h"
#include "os.h"
#include "system.h"

/* ---- a file and its mapping ---- */

static void remember(struct mc_region *region, const struct stat *file)
{
    region->file_size = (uint64_t)file->st_size;
    region->device = (uint64_t)file->st_dev;
    region->inode = file->st_ino;
    region->owner = file->st_uid;
}

/* Who owns a file can change it at any time, whatever its mode. So a loader fills no file of
 * another user, even as root: in a directory like /dev/shm anybody may have put one there. */
static enum mc_status check_owner(uint32_t uid, bool writable, int64_t owner, const char *path,
                                  struct mc_error *err)
{
    uint32_t self = geteuid();
    if (writable && uid != self && !MC_MUTANT_IS(511)) { /* 511: root fills whatever it finds */
        return mc_fail(err, MC_FORMAT,
                       "%s belongs to uid %u, and this loader runs as uid %u: run it as the owner, "
                       "or remove the file and use a directory that only the loader may write",
                       path, uid, self);
    }
    bool trusted = uid == self || uid == 0 || uid == owner;
    if (!writable && !trusted && !MC_MUTANT_IS(512)) { /* 512: a reader believes everybody */
        return mc_fail(
            err, MC_FORMAT,
            "%s belongs to uid %u, and only caches of root and of one's own uid, here "
            "%u, are trusted: if the loader runs as that user, say owner=%u (--owner %u); "
            "if not, remove the file",
            path, uid, self, uid, uid);
    }
    return MC_OK;
}

static enum mc_status check_safe(const struct stat *file, bool writable, int64_t owner,
                                 const char *path, struct mc_error *err)
{
    if (!S_ISREG(file->st_mode)) {
        return mc_fail(err, MC_FORMAT, "%s is not a regular file: a cache must be one", path);
    }
    if (file->st_mode & S_IWOTH && !MC_MUTANT_IS(506)) { /* 506: no matter who can write */
        return mc_fail(err, MC_FORMAT,
                       "%s is writable for everybody, so its content cannot be trusted: "
                       "chmod o-w it, or remove it and load again",
                       path);
    }
    return check_owner(file->st_uid, writable, owner, path, err);
}

enum mc_status mc_region_open(const char *path, bool writable, int64_t owner, struct mc_region *out,
                              struct mc_error *err)
{
    struct stat file;
    /* O_NONBLOCK: a FIFO at this path must be refused, not waited for. */
    int flags = (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int fd = mc_os_open(path, flags, 0);
    *out = (struct mc_region){.fd = fd, .writable = writable};
    if (fd < 0 && errno == ENOENT) {
        return mc_fail(err, MC_NOT_READY, "there is no cache at %s yet: is the loader running?",
                       path);
    }
    if (fd < 0 && errno == ELOOP) {
        return mc_fail(err, MC_FORMAT, "%s is a symbolic link: give the path of the file itself",
                       path);
    }
    if (fd < 0 && errno == EISDIR) {
        return mc_fail(err, MC_FORMAT, "%s is not a regular file: a cache must be one", path);
    }
    if (fd < 0) {
        return mc_os_error(err, "cannot open", path);
    }
    if (fstat(fd, &file) != 0) {
        (void)mc_os_error(err, "cannot stat", path);
        mc_region_close(out);
        return MC_OS;
    }
    enum mc_status status = check_safe(&file, writable, owner, path, err);
    if (status != MC_OK) {
        mc_region_close(out);
        return status;
    }
    remember(out, &file);
    out->overlaid = writable && mc_system_is_overlaid(fd);
    return MC_OK;
}

enum mc_status mc_region_open_fd(int fd, struct mc_region *out, struct mc_error *err)
{
    struct stat file;
    *out = (struct mc_region){.fd = mc_os_duplicate(fd)};
    if (out->fd < 0 || fstat(out->fd, &file) != 0) {
        (void)mc_os_error(err, "cannot use the anonymous cache's descriptor", NULL);
        mc_region_close(out);
        return MC_OS;
    }
    remember(out, &file);
    return MC_OK;
}

/* Why there is something at `path` although it was removed just now. */
static enum mc_status is_in_the_way(const char *path, struct mc_error *err)
{
    (void)mc_fail(
        err, MC_OS,
        "%s is in the way of a new cache file and cannot be removed: it is a directory, or "
        "belongs to another user. Remove it, and keep the cache in a directory that only "
        "its loader may write",
        path);
    if (err != NULL) {
        err->os_errno = EEXIST;
    }
    return MC_OS;
}

enum mc_status mc_region_create(const char *path, struct mc_region *out, struct mc_error *err)
{
    struct stat file;
    int fd = mc_os_open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    *out = (struct mc_region){.fd = fd, .writable = true};
    if (fd < 0) {
        return errno == EEXIST ? is_in_the_way(path, err) : mc_os_error(err, "cannot create", path);
    }
    if (fstat(fd, &file) != 0) {
        (void)mc_os_error(err, "cannot stat", path);
        mc_region_close(out);
        return MC_OS;
    }
    remember(out, &file);
    return MC_OK;
}

enum mc_status mc_region_set_mode(const struct mc_region *region, uint32_t mode,
                                  struct mc_error *err)
{
    if (fchmod(region->fd, mode) != 0) {
        return mc_os_error(err, "cannot set the mode of the new cache file", NULL);
    }
    return MC_OK;
}

enum mc_status mc_region_create_anonymous(struct mc_region *out, struct mc_error *err)
{
    struct stat file;
    int fd, again; /* which carries the lock */
    *out = (struct mc_region){.fd = -1, .writable = true};
    enum mc_status status = mc_lock_forks(err);
    if (status != MC_OK) {
        return status;
    }
    status = mc_system_anonymous(&fd, &again)
                 ? mc_lock_file(again, NULL, &out->lock, err)
                 : mc_os_error(err, "cannot create an anonymous file", NULL);
    mc_unlock_forks();
    out->fd = fd;
    if (status == MC_OK && fstat(fd, &file) != 0) {
        status = mc_os_error(err, "cannot create an anonymous file", NULL);
    }
    if (status != MC_OK) {
        mc_region_close(out);
        return status;
    }
    remember(out, &file);
    return MC_OK;
}

enum mc_status mc_region_seal(struct mc_region *region, struct mc_error *err)
{
    return mc_system_seal(region->fd) ? MC_OK
                                      : mc_os_error(err, "cannot seal the anonymous file", NULL);
}

enum mc_status mc_region_peek(const struct mc_region *region, void *to, size_t len,
                              struct mc_error *err)
{
    ssize_t got = pread(region->fd, to, len, 0);
    if (got < 0) {
        return mc_os_error(err, "cannot read the cache file", NULL);
    }
    if ((size_t)got < len) {
        return mc_fail(err, MC_FORMAT, "the file is too short to be a cache");
    }
    return MC_OK;
}

enum mc_status mc_region_map(struct mc_region *region, uint64_t map_size, struct mc_error *err)
{
    /* Reserve more than needed, keep the part that starts on a huge page's boundary. */
    uint64_t wanted = mc_whole_extents(map_size);
    uint64_t reserved = wanted + MC_EXTENT;
    uint8_t *space =
        mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) {
        return mc_os_error(
            err,
            "cannot reserve address space for the cache (is RLIMIT_AS, ulimit -v, too "
            "small for its maximum size?)",
            NULL);
    }
    uint8_t *base = (uint8_t *)(((uintptr_t)space + MC_EXTENT - 1) & ~(uintptr_t)(MC_EXTENT - 1));
    int protection = region->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    if (mmap(base, wanted, protection, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, region->fd, 0) ==
        MAP_FAILED) {
        (void)mc_os_error(err, "cannot map the cache file", NULL);
        (void)munmap(space, reserved);
        return MC_OS;
    }
    if (base > space) {
        (void)munmap(space, (size_t)(base - space));
    }
    (void)munmap(base + wanted, (size_t)(space + reserved - (base + wanted)));
    if (region->writable && !MC_MUTANT_IS(505)) { /* a child that could write could corrupt it */
        mc_system_keep_from_children(base, wanted);
    }
    region->guard = mc_guard_add(base, wanted, region->writable);
    if (region->guard == NULL) {
        (void)munmap(base, wanted);
        return mc_no_memory(err);
    }
    region->base = (shm_byte *)base;
    region->map_size = wanted;
    return MC_OK;
}

/* Where the file system of `path`, which the region is on, begins: the highest directory on the
 * same device. */
static void mount_point(const struct mc_region *region, const char *path, char *to, size_t size)
{
    struct stat above;
    int len = snprintf(to, size, "%s", path);
    for (size_t end = len < (int)size ? (size_t)len : size - 1; end-- > 0;) {
        size_t cut = end == 0 ? 1 : end; /* the root keeps its slash */
        char kept = to[cut];
        if (to[end] != '/') {
            continue;
        }
        to[cut] = '\0';
        if (stat(to, &above) != 0 || (uint64_t)above.st_dev != region->device) {
            to[cut] = kept;
            return;
        }
    }
}

/* What to do about it. */
static const char *cure_of(const struct mc_region *region, const struct mc_room *room, int number)
{
    struct stat shm = {0}; /* of no device, where there is none */
    if (number == EFBIG) {
        return "raise the limit of a file's size (ulimit -f, LimitFSIZE=), or load less";
    }
    if (number == ENOMEM) {
        return "raise the memory limit of the container or service, or load less";
    }
    if (number == EDQUOT || !room->tmpfs) {
        return "make room there, or load less";
    }
    (void)stat("/dev/shm", &shm);
    if ((uint64_t)shm.st_dev == region->device) {
        return "make it larger (docker run --shm-size=1g, Compose: shm_size, Kubernetes: an "
               "emptyDir with medium: Memory there, else: mount -o remount,size=1g), or load less";
    }
    return "make it larger (mount -o remount,size=1g, Docker: tmpfs-size, Kubernetes: sizeLimit of "
           "the volume), or load less";
}

/* Says that the file system, not the cache's own limit, is what is full; `number`: an errno. */
static void tell_no_room(const struct mc_region *region, const char *path, uint64_t bytes,
                         int number, struct mc_error *err)
{
    struct mc_room room;
    char reason[MC_REASON], at[128] = "memory";
    const char *why = mc_os_reason(number, reason);
    mc_system_room(region->fd, &room);
    if (path != NULL) {
        mount_point(region, path, at, sizeof at);
    }
    (void)mc_fail(err, MC_FULL,
                  "the file system at %s (%s%llu bytes, %llu of them free) has no room for %llu "
                  "more bytes of %s (%s): %s",
                  at, room.tmpfs ? "tmpfs, " : "", (unsigned long long)room.bytes,
                  (unsigned long long)room.free, (unsigned long long)bytes,
                  path != NULL ? path : "an anonymous file", why, cure_of(region, &room, number));
    if (err != NULL) {
        err->needed = bytes;
    }
}

/* Allocates every block of [from, to): nothing happens to those that are there. */
static enum mc_status allocate(struct mc_region *region, const char *path, uint64_t from,
                               uint64_t to, struct mc_error *err)
{
    int result = mc_system_allocate(region->fd, from, to);
    if (result == ENOSPC || result == EDQUOT || result == EFBIG || result == ENOMEM) {
        tell_no_room(region, path, to - from, result, err);
        return MC_FULL;
    }
    if (result != 0) {
        errno = result;
        return mc_os_error(err, "cannot grow the cache file", path);
    }
    return MC_OK;
}

enum mc_status mc_region_grow(struct mc_region *region, const char *path, uint64_t size, bool *huge,
                              uint64_t *collapsed, struct mc_error *err)
{
    uint64_t made = 0;
    bool can = *huge;
    for (uint64_t at = region->file_size; can && at < size; at += MC_EXTENT) {
        can = mc_system_make_huge(region->fd, at, region->base + at);
        made += can ? MC_EXTENT : 0;
    }
    enum mc_status status = allocate(region, path, region->file_size, size, err);
    if (status == MC_OK) {
        region->file_size = size;
        *collapsed += made;
        *huge = can; /* where there was no room, nothing was learnt */
    }
    return status;
}

enum mc_status mc_region_fill(struct mc_region *region, const char *path, struct mc_error *err)
{
    return allocate(region, path, 0, region->file_size, err);
}

bool mc_region_is_lost(const struct mc_region *region)
{
    return region->base != NULL && mc_guard_is_lost(region->guard);
}

void mc_region_lose(const struct mc_region *region)
{
    mc_guard_lose(region->guard);
}

void mc_region_measure(struct mc_region *region)
{
    struct stat file;
    if (fstat(region->fd, &file) == 0) {
        region->file_size = (uint64_t)file.st_size;
    }
}

/* Where there is a hole there is nothing to be had in advance, and a tmpfs would fill it: a sparse
 * file that claims a terabyte would cost as much memory. */
enum mc_status mc_region_populate(struct mc_region *region, struct mc_error *err)
{
    mc_region_measure(region);
    uint64_t len = region->file_size < region->map_size ? region->file_size : region->map_size;
    off_t end = 0;
    while ((uint64_t)end < len) {
        off_t from = MC_MUTANT_IS(514) ? end : lseek(region->fd, end, SEEK_DATA); /* 514: all */
        if (from < 0 && errno == ENXIO) {
            break; /* holes to the end */
        }
        end = from < 0 || MC_MUTANT_IS(514) ? (off_t)len : lseek(region->fd, from, SEEK_HOLE);
        if (from < 0 || end < 0) {
            return mc_os_error(err, "cannot ask what of the cache file is there", NULL);
        }
        uint64_t to = (uint64_t)end < len ? (uint64_t)end : len;
        if ((uint64_t)from < to && !mc_system_populate(region->base + from, to - (uint64_t)from)) {
            return mc_os_error(err, "cannot populate the mapping", NULL);
        }
    }
    return MC_OK;
}

enum mc_status mc_region_sync(struct mc_region *region, uint64_t len, struct mc_error *err)
{
    if (msync(region->base, len, MS_SYNC) != 0 || fsync(region->fd) != 0) {
        return mc_os_error(err, "cannot write the cache to its disk", NULL);
    }
    return MC_OK;
}

void mc_region_close(struct mc_region *region)
{
    if (region->base != NULL) {
        mc_guard_remove(region->guard);
        (void)munmap(region->base, region->map_size);
    }
    if (region->fd >= 0) {
        (void)close(region->fd);
    }
    mc_lock_release(region->lock);
    *region = (struct mc_region){.fd = -1};
}

bool mc_path_is_directory(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISDIR(file.st_mode);
}

bool mc_region_is_at(const struct mc_region *region, const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && (uint64_t)file.st_dev == region->device &&
           file.st_ino == region->inode;
}

enum mc_status mc_file_rename(const char *from, const char *to, struct mc_error *err)
{
    if (rename(from, to) != 0) {
        return mc_os_error(err, "cannot put the new cache file at", to);
    }
    return MC_OK;
}

void mc_file_remove(const char *path)
{
    (void)unlink(path);
}

enum mc_status mc_region_lock(struct mc_region *region, const char *path, struct mc_error *err)
{
    enum mc_status status = mc_lock_forks(err);
    if (status != MC_OK) {
        return status;
    }
    int fd = mc_system_reopen(region->fd, path); /* a file description of its own carries it */
    if (fd >= 0) {
        status = mc_lock_file(fd, path, &region->lock, err);
    } else {
        status = errno == ESTALE ? mc_lock_moved(path, err)
                                 : mc_os_error(err, "cannot reopen the cache file", path);
    }
    mc_unlock_forks();
    return status;
}

bool mc_region_is_locked(const struct mc_region *region)
{
    return mc_lock_is_held(region->fd);
}

/* ---- waiting, time, identity ---- */

void mc_futex_wait(const void *word, uint32_t value, int64_t nanoseconds)
{
    mc_system_wait(word, value, nanoseconds);
}

void mc_futex_wake(const void *word)
{
    mc_system_wake(word);
}

int64_t mc_time_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t mc_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t mc_boot_us(void)
{
    return mc_system_boot_us();
}

uint32_t mc_process(void)
{
    return (uint32_t)getpid();
}

enum mc_status mc_random(void *to, size_t len, struct mc_error *err)
{
    return mc_system_random(to, len) ? MC_OK : mc_os_error(err, "cannot get random bytes", NULL);
}

enum mc_status mc_boot_id(uint8_t id[16], struct mc_error *err)
{
    char text[40];
    size_t nibbles = 0;
    int got = mc_system_boot(text, sizeof text);
    enum mc_status status =
        got < 0 ? mc_os_error(err, "cannot ask which boot this is", NULL) : MC_OK;
    memset(id, 0, 16);
    for (int i = 0; i < got && nibbles < 32; i++) {
        if (text[i] != '-') { /* a digit, in either case */
            int digit = text[i] <= '9' ? text[i] - '0' : (text[i] | 0x20) - 'a' + 10;
            id[nibbles / 2] = (uint8_t)(id[nibbles / 2] << 4 | (digit & 15));
            nibbles++;
        }
    }
    return status;
}
