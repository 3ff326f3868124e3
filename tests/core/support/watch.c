/* watch.c - see watch.h. */
#define _GNU_SOURCE
#include "watch.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

#define WATCH_ALL_EACH 1024 /* instructions */

static int watch_file(struct watch *watch, const char *name, const struct stat *info)
{
    CHECK(watch->file_count < WATCH_FILES);
    struct watched_file *file = &watch->files[watch->file_count];
    memset(file, 0, sizeof *file);
    file->inode = info->st_ino;
    file->fd = open(name, O_RDONLY | O_CLOEXEC);
    CHECK(file->fd >= 0);
    /* Beyond the file's end neither is touched. */
    file->now = mmap(NULL, WATCH_BYTES, PROT_READ, MAP_SHARED, file->fd, 0);
    file->last =
        mmap(NULL, WATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(file->now != MAP_FAILED && file->last != MAP_FAILED);
    return watch->file_count++;
}

/* Whether a name is another file's than before, or a file has another size. */
static bool watch_names(struct watch *watch)
{
    bool changed = false;
    for (int i = 0; i < WATCH_NAMES; i++) {
        struct stat info;
        int file = -1;
        if (stat(watch->names[i], &info) == 0) {
            for (file = watch->file_count - 1; file >= 0; file--) {
                if (watch->files[file].inode == info.st_ino) {
                    break;
                }
            }
            if (file < 0) {
                file = watch_file(watch, watch->names[i], &info);
            }
            changed |= watch->files[file].size != (size_t)info.st_size;
            watch->files[file].size = (size_t)info.st_size;
            CHECK(watch->files[file].size <= WATCH_BYTES);
        }
        changed |= watch->named[i] != file;
        watch->named[i] = file;
    }
    return changed;
}

static void make_runs(struct watched_file *file)
{
    file->run_count = 0;
    for (size_t page = 0; page < WATCH_PAGES; page++) {
        if (file->mapped[page] && (page == 0 || !file->mapped[page - 1])) {
            file->runs[file->run_count++].from = page * WATCH_PAGE;
        }
        if (file->mapped[page]) {
            file->runs[file->run_count - 1].to = (page + 1) * WATCH_PAGE;
        }
    }
}

/* Adds the pages that one writable mapping of the process has in its page table. */
static void add_mapped(struct watched_file *file, int pagemap, uint64_t begin, uint64_t end,
                       uint64_t offset)
{
    static uint64_t entries[WATCH_PAGES];
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE), pages = (end - begin) / page_size;
    CHECK(offset + (end - begin) <= WATCH_BYTES);
    ssize_t len = (ssize_t)(pages * sizeof entries[0]);
    CHECK(pread(pagemap, entries, (size_t)len, (off_t)(begin / page_size * 8)) == len);
    for (size_t i = 0; i < pages; i++) {
        if (entries[i] >> 62 != 0) { /* present, or swapped out */
            size_t from = (offset + i * page_size) / WATCH_PAGE;
            memset(file->mapped + from, true, page_size / WATCH_PAGE);
        }
    }
}

/* Which pages the process could have stored to by now; none is ever taken back. */
static void find_mapped(struct watch *watch)
{
    char path[64], line[512];
    (void)snprintf(path, sizeof path, "/proc/%ld/pagemap", (long)watch->pid);
    int pagemap = open(path, O_RDONLY | O_CLOEXEC);
    (void)snprintf(path, sizeof path, "/proc/%ld/maps", (long)watch->pid);
    FILE *maps = fopen(path, "re");
    CHECK(pagemap >= 0 && maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        char rights[5];
        uint64_t begin, end, offset, inode;
        /* NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion): the kernel wrote it */
        CHECK(sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %" SCNu64, &begin, &end,
                     rights, &offset, &inode) == 5);
        for (int i = 0; i < watch->file_count && strcmp(rights, "rw-s") == 0; i++) {
            if (watch->files[i].inode == inode) {
                add_mapped(&watch->files[i], pagemap, begin, end, offset);
            }
        }
    }
    for (int i = 0; i < watch->file_count; i++) {
        make_runs(&watch->files[i]);
    }
    CHECK(fclose(maps) == 0 && close(pagemap) == 0);
}

/* Whether one of the mapped pages is not as it was. */
static bool mapped_differ(const struct watched_file *file)
{
    for (size_t i = 0; i < file->run_count; i++) {
        size_t from = file->runs[i].from, to = file->runs[i].to;
        to = to < file->size ? to : file->size;
        if (from < to && memcmp(file->now + from, file->last + from, to - from) != 0) {
            return true;
        }
    }
    return false;
}

/* Compares all pages and takes over what changed; false: nothing did. */
static bool take_over(struct watch *watch, struct watched_file *file)
{
    bool changed = false;
    for (size_t at = 0; at < file->size; at += WATCH_PAGE) {
        size_t len = file->size - at < WATCH_PAGE ? file->size - at : WATCH_PAGE;
        if (memcmp(file->now + at, file->last + at, len) == 0) {
            continue;
        }
        CHECK(file->mapped[at / WATCH_PAGE]); /* nothing but stores to the mapping */
        for (size_t i = at; i < at + len; i++) {
            watch->bytes += file->now[i] != file->last[i];
        }
        memcpy(file->last + at, file->now + at, len);
        changed = true;
    }
    return changed;
}

bool watch_step(struct watch *watch, long n, long faults)
{
    bool changed = watch_names(watch), all = changed || n % WATCH_ALL_EACH == 0;
    if (faults != watch->faults) {
        watch->faults = faults;
        find_mapped(watch);
        all = true;
    }
    for (int i = 0; i < watch->file_count; i++) {
        struct watched_file *file = &watch->files[i];
        if (all || mapped_differ(file)) {
            changed |= take_over(watch, file);
        }
    }
    return changed;
}

void watch_begin(struct watch *watch, pid_t pid, const char *const names[WATCH_NAMES])
{
    watch->pid = pid;
    watch->file_count = 0;
    watch->faults = watch->bytes = 0;
    memcpy(watch->names, names, sizeof watch->names);
    memset(watch->named, -1, sizeof watch->named);
    (void)watch_names(watch);
    for (int i = 0; i < watch->file_count; i++) {
        memcpy(watch->files[i].last, watch->files[i].now, watch->files[i].size);
    }
}

void watch_copy(const struct watch *watch, const char *const names[WATCH_NAMES])
{
    for (int i = 0; i < WATCH_NAMES; i++) {
        (void)unlink(names[i]);
        if (watch->named[i] >= 0) {
            const struct watched_file *file = &watch->files[watch->named[i]];
            size_t used = file->size;
            while (used >= WATCH_PAGE && file->last[used - 1] == 0) {
                used--;
            }
            int fd = open(names[i], O_RDWR | O_CREAT | O_EXCL, 0600);
            CHECK(fd >= 0 && write(fd, file->last, used) == (ssize_t)used);
            CHECK(ftruncate(fd, (off_t)file->size) == 0 && close(fd) == 0);
        }
    }
}

void watch_end(struct watch *watch)
{
    for (int i = 0; i < watch->file_count; i++) {
        struct watched_file *file = &watch->files[i];
        CHECK(munmap((void *)(uintptr_t)file->now, WATCH_BYTES) == 0);
        CHECK(munmap(file->last, WATCH_BYTES) == 0 && close(file->fd) == 0);
    }
}
