/* watch.h - the files of a stepped process: did the last instruction change one of them, or a name?
 *
 *   the cache's path, its successor's  ---->  files, each watched from its first name to the end
 *   file                               ---->  mapped here, and `last`: how it was before
 *
 * Comparing whole files after each instruction would be nearly all of the time. A process stores to
 * a page of a mapping only when the page is in its page table; a page comes into it by a fault; and
 * wait4 says how many faults there were. So only the pages that /proc/PID/pagemap has shown are
 * compared, and everything is when there was a fault, when a name or a size changed, and every 1024
 * instructions, when a change elsewhere is a failure: something would write by another way.
 */
#ifndef MMAPCACHE_TEST_WATCH_H
#define MMAPCACHE_TEST_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define WATCH_NAMES 2
#define WATCH_FILES 4
#define WATCH_BYTES (16u << 20) /* of the largest file */
#define WATCH_PAGE 4096u        /* what is compared and copied at once */
#define WATCH_PAGES (WATCH_BYTES / WATCH_PAGE)

struct watched_file {
    ino_t inode;
    int fd; /* keeps the inode from being given to another file */
    size_t size;
    const uint8_t *now; /* the file */
    uint8_t *last;      /* how it was */
    bool mapped[WATCH_PAGES];
    struct page_run {
        size_t from, to;     /* bytes */
    } runs[WATCH_PAGES / 2]; /* of mapped pages */
    size_t run_count;
};

struct watch {
    pid_t pid;
    const char *names[WATCH_NAMES];
    int named[WATCH_NAMES]; /* which file has the name; -1: there is none */
    struct watched_file files[WATCH_FILES];
    int file_count;
    long faults, bytes; /* page faults so far, bytes changed */
};

/* After the n-th instruction, with the number of page faults as wait4 has it: whether it changed
 * what a kill would leave now. */
bool watch_step(struct watch *watch, long n, long faults);

/* Begins with what is there: the process has not run yet. */
void watch_begin(struct watch *watch, pid_t pid, const char *const names[WATCH_NAMES]);

/* What a kill would leave now, under other names. */
void watch_copy(const struct watch *watch, const char *const names[WATCH_NAMES]);

void watch_end(struct watch *watch);

#endif
