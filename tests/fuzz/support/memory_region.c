/* memory_region.c - see memory_region.h. */
#include "memory_region.h"

#include <string.h>
#include <sys/mman.h>

#include "bell.h"
#include "harness.h"

#define MEMORY_FILES 2u           /* a cache and its successor */
#define MEMORY_SPACE (4ull << 30) /* bytes of address space around each */
static struct memory_file memory_files[MEMORY_FILES];

static uint64_t memory_ticks, memory_identities;

static struct mc_lock memory_lock; /* at the lock file */

/* Makes the file's first `reach` bytes accessible, and no others. */
static void memory_reach(struct memory_file *file, uint64_t reach)
{
    uint64_t low = reach < file->reach ? reach : file->reach;
    uint64_t high = reach < file->reach ? file->reach : reach;
    int protection = reach < file->reach ? PROT_NONE : PROT_READ | PROT_WRITE;
    CHECK(low == high || mprotect(file->base + low, high - low, protection) == 0);
    file->reach = reach;
}

struct memory_file *memory_make(unsigned index, const char *name, uint64_t size, uint64_t dirty)
{
    struct memory_file *file = &memory_files[index];
    if (file->base == NULL) {
        uint8_t *space =
            mmap(NULL, MEMORY_SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(space != MAP_FAILED);
        file->base = (uint8_t *)(((uintptr_t)space + MC_EXTENT - 1) & ~(uintptr_t)(MC_EXTENT - 1));
        (void)madvise(file->base, MEMORY_MOST, MADV_NOHUGEPAGE); /* little of it is written to */
    }
    if (file->reach > dirty) { /* only pages that were written to are there to be dropped */
        CHECK(madvise(file->base + dirty, file->reach - dirty, MADV_DONTNEED) == 0);
    }
    memory_reach(file, size);
    (void)snprintf(file->name, sizeof file->name, "%s", name);
    file->size = size;
    file->identity = ++memory_identities;
    return file;
}

void memory_reset(void)
{
    for (unsigned i = 0; i < MEMORY_FILES; i++) {
        memory_files[i].name[0] = '\0';
    }
    memory_ticks = memory_identities = 0;
    CHECK(!memory_lock.held);
}

struct memory_file *memory_find(const char *name)
{
    for (unsigned i = 0; i < MEMORY_FILES; i++) {
        if (strcmp(memory_files[i].name, name) == 0) {
            return &memory_files[i];
        }
    }
    return NULL;
}

/* ---- a file and its mapping ---- */

static void memory_describe(struct mc_region *region, bool writable, unsigned index)
{
    *region = (struct mc_region){.fd = (int)index,
                                 .writable = writable,
                                 .file_size = memory_files[index].size,
                                 .inode = memory_files[index].identity};
}

enum mc_status mc_region_open(const char *path, bool writable, int64_t owner, struct mc_region *out,
                              struct mc_error *err)
{
    (void)owner;
    struct memory_file *file = memory_find(path);
    *out = (struct mc_region){.fd = -1};
    if (file == NULL) {
        return mc_fail(err, MC_NOT_READY, "there is no file %s", path);
    }
    memory_describe(out, writable, (unsigned)(file - memory_files));
    return MC_OK;
}

enum mc_status mc_region_open_fd(int fd, struct mc_region *out, struct mc_error *err)
{
    (void)err;
    memory_describe(out, false, (unsigned)fd);
    return MC_OK;
}

enum mc_status mc_region_create(const char *path, struct mc_region *out, struct mc_error *err)
{
    *out = (struct mc_region){.fd = -1};
    struct memory_file *unused = memory_find("");
    if (memory_find(path) != NULL || unused == NULL) {
        return mc_fail(err, MC_OS, "%s is there, or too many others are", path);
    }
    unsigned index = (unsigned)(unused - memory_files);
    (void)memory_make(index, path, 0, 0);
    memory_describe(out, true, index);
    return MC_OK;
}

enum mc_status mc_region_set_mode(const struct mc_region *region, uint32_t mode,
                                  struct mc_error *err)
{
    (void)region;
    (void)mode;
    (void)err;
    return MC_OK;
}

enum mc_status mc_region_create_anonymous(struct mc_region *out, struct mc_error *err)
{
    *out = (struct mc_region){.fd = -1};
    return mc_fail(err, MC_OS, "every file has a name here");
}

enum mc_status mc_region_seal(struct mc_region *region, struct mc_error *err)
{
    (void)region;
    (void)err;
    return MC_OK;
}

enum mc_status mc_region_peek(const struct mc_region *region, void *to, size_t len,
                              struct mc_error *err)
{
    const struct memory_file *file = &memory_files[region->fd];
    if (file->size < len) {
        return mc_fail(err, MC_FORMAT, "the file is too short to be a cache");
    }
    memcpy(to, file->base, len);
    return MC_OK;
}

enum mc_status mc_region_map(struct mc_region *region, uint64_t map_size, struct mc_error *err)
{
    struct memory_file *file = &memory_files[region->fd];
    (void)err;
    if (map_size < file->reach) {
        memory_reach(file, map_size);
    }
    region->base = (shm_byte *)file->base;
    region->map_size = map_size;
    return MC_OK;
}

enum mc_status mc_region_grow(struct mc_region *region, const char *path, uint64_t size, bool *huge,
                              uint64_t *collapsed, struct mc_error *err)
{
    (void)path;
    struct memory_file *file = &memory_files[region->fd];
    (void)collapsed;
    if (size > MEMORY_MOST) {
        return mc_fail(err, MC_FULL, "the file system has no room");
    }
    CHECK(size >= file->size && size <= region->map_size);
    memory_reach(file, size);
    region->file_size = file->size = size;
    *huge = false;
    return MC_OK;
}

enum mc_status mc_region_fill(struct mc_region *region, const char *path, struct mc_error *err)
{
    (void)path;
    (void)region;
    (void)err;
    return MC_OK;
}

bool mc_region_is_lost(const struct mc_region *region)
{
    (void)region;
    return false;
}

void mc_region_lose(const struct mc_region *region)
{
    (void)region; /* the next view is opened as ever, and finds the tail missing again */
}

void mc_region_measure(struct mc_region *region)
{
    region->file_size = memory_files[region->fd].size;
}

enum mc_status mc_region_populate(struct mc_region *region, struct mc_error *err)
{
    (void)err;
    mc_region_measure(region);
    return MC_OK;
}

enum mc_status mc_region_sync(struct mc_region *region, uint64_t len, struct mc_error *err)
{
    (void)err;
    CHECK(len <= memory_files[region->fd].size);
    return MC_OK;
}

void mc_region_close(struct mc_region *region)
{
    mc_lock_release(region->lock);
    *region = (struct mc_region){.fd = -1};
}

bool mc_path_is_directory(const char *path)
{
    (void)path;
    return false;
}

bool mc_region_is_at(const struct mc_region *region, const char *path)
{
    const struct memory_file *file = memory_find(path);
    return file != NULL && file->identity == region->inode;
}

enum mc_status mc_file_rename(const char *from, const char *to, struct mc_error *err)
{
    struct memory_file *file = memory_find(from);
    if (file == NULL) {
        return mc_fail(err, MC_OS, "there is no file %s", from);
    }
    mc_file_remove(to);
    (void)snprintf(file->name, sizeof file->name, "%s", to);
    return MC_OK;
}

void mc_file_remove(const char *path)
{
    struct memory_file *file = memory_find(path);
    if (file != NULL) {
        file->name[0] = '\0';
    }
}

/* ---- the writer's locks ---- */

static enum mc_status memory_take(struct mc_lock *lock, struct mc_lock **out, struct mc_error *err)
{
    if (lock->held) {
        return mc_fail(err, MC_LOCKED, "another loader holds the cache");
    }
    lock->held = true;
    *out = lock;
    return MC_OK;
}

enum mc_status mc_lock_take(const char *path, struct mc_lock **out, struct mc_error *err)
{
    (void)path;
    return memory_take(&memory_lock, out, err);
}

bool mc_lock_is_obstructed(const struct mc_lock *lock)
{
    (void)lock;
    return false;
}

bool mc_lock_is_ours(const struct mc_lock *lock)
{
    return lock->held;
}

void mc_lock_release(struct mc_lock *lock)
{
    if (lock != NULL) {
        lock->held = false;
    }
}

enum mc_status mc_region_lock(struct mc_region *region, const char *path, struct mc_error *err)
{
    (void)path;
    return memory_take(&memory_files[region->fd].lock, &region->lock, err);
}

bool mc_region_is_locked(const struct mc_region *region)
{
    return memory_files[region->fd].lock.held;
}

/* ---- waiting, time, identity ---- */

void mc_futex_wait(const void *word, uint32_t value, int64_t nanoseconds)
{
    (void)word;
    (void)value;
    (void)nanoseconds;
}

void mc_futex_wake(const void *word)
{
    (void)word;
}

int64_t mc_time_us(void)
{
    return (int64_t)++memory_ticks;
}

int64_t mc_boot_us(void)
{
    return 1000000;
}

int64_t mc_clock_ns(void) /* a millisecond later each time */
{
    return (int64_t)++memory_ticks * 1000000;
}

uint32_t mc_process(void)
{
    return 1;
}

enum mc_status mc_random(void *to, size_t len, struct mc_error *err)
{
    (void)err;
    memset(to, 0x5A, len);
    return MC_OK;
}

enum mc_status mc_boot_id(uint8_t id[16], struct mc_error *err)
{
    (void)err;
    memset(id, 0xB0, 16);
    return MC_OK;
}

int mc_bell_open(const char *path, int fd)
{
    (void)path;
    (void)fd;
    return MC_BELL_NONE;
}

void mc_bell_ring(int bell)
{
    (void)bell;
}

void mc_bell_close(int bell)
{
    (void)bell;
}
