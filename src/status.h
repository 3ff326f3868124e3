/* status.h - how the core says what happened.
 *
 * Every core function that can fail returns an enum mc_status; results go through out-parameters. A
 * function whose failure carries more than its name takes a struct mc_error, which may be NULL, and
 * fills it through mc_fail(), so that a status and its text are always written together. The
 * binding turns an mc_error into a Python exception in exactly one place.
 */
#ifndef MMAPCACHE_STATUS_H
#define MMAPCACHE_STATUS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum mc_status {
    MC_OK = 0,
    MC_ABSENT,          /* no such key, collection or field: an answer, not an error */
    MC_EXPIRED,         /* the generation read from was reclaimed meanwhile */
    MC_NOT_READY,       /* no file, or no generation in it that may be read */
    MC_FULL,            /* no room: mc_error holds needed, free, largest and limit, all in bytes */
    MC_NOMEM,           /* malloc failed in this process */
    MC_LOCKED,          /* another loader holds the lock */
    MC_CLOSED,          /* the handle was closed, or belongs to the parent process */
    MC_CORRUPT,         /* our file, but its bytes contradict each other */
    MC_FORMAT,          /* not our file, another byte order, or an unsafe kind of file */
    MC_VERSION_DIFFERS, /* our file, in another version of the format */
    MC_INVALID,         /* the document is not valid BSON, or is nothing we can key */
    MC_LIMIT,           /* a named limit would be passed */
    MC_USAGE,           /* the caller broke a rule of the API: a batch within a batch, say */
    MC_OS,              /* a system call failed: mc_error.os_errno */
};

struct mc_error {
    enum mc_status status;
    int os_errno; /* 0 unless the status is MC_OS */
    uint64_t needed, free, largest, limit;
    char text[512]; /* a sentence that says what is wrong and what to do */
};

/* How much of the first len bytes of longer UTF-8 is whole characters: all, or all but 1 to 3. */
static inline size_t mc_whole_characters(const char *text, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned byte = (uint8_t)text[len - back];
        if ((byte & 0xC0) != 0x80) {
            size_t size = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
            return size > back ? len - back : len;
        }
    }
    return len;
}

/* Fills *err (may be NULL) with a status and a printf-formatted sentence; the value is the status.
 * A macro around the function, so that a reader of the caller, the compiler too,
 * sees what it is. */
#define mc_fail(err, status, ...) (mc_error_fill((err), (status), __VA_ARGS__), (status))

__attribute__((format(printf, 3, 4))) static inline void
mc_error_fill(struct mc_error *err, enum mc_status status, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        *err = (struct mc_error){.status = status};
        va_start(args, format);
        int len = vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        if (len >= (int)sizeof err->text) {
            err->text[mc_whole_characters(err->text, sizeof err->text - 1)] = '\0';
        }
    }
}

/* Want of memory in this process. */
static inline enum mc_status mc_no_memory(struct mc_error *err)
{
    return mc_fail(err, MC_NOMEM, "out of memory");
}

#endif
