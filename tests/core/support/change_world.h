/* change_world.h - a cache whose change log is looked at, and what was in it when.
 *
 * The functions do to the cache and to an oracle the same.
 */
#ifndef MMAPCACHE_TEST_CHANGE_WORLD_H
#define MMAPCACHE_TEST_CHANGE_WORLD_H

#include "change_judge.h"

#define HISTORY 64

struct log_world {
    struct mc_writer *writer;
    struct mc_writer_options options;
    struct oracle working;          /* with what the open batch did */
    struct oracle history[HISTORY]; /* generation g as it was: at g mod HISTORY */
    uint64_t now;                   /* the current generation */
};

extern struct log_world log_world;

void log_open(void);

/* A new file with a log of so many bytes, or as options.log_size says. */
void log_open_new(uint32_t log_size);

void log_begin(void);
void log_commit(void);
void log_put(int c, int k, int version);
void log_delete(int c, int k);
void log_empty(int c);
void log_drop(int c);
void log_replace(int c);

struct mc_view log_view(void);

/* The changes from `since` on as text: "sites +3 -4, limits *", "all", "unknown". */
const char *list_changes(uint64_t since);

#define CHECK_CHANGES(since, expected)                                                             \
    do {                                                                                           \
        const char *said = list_changes(since);                                                    \
        if (strcmp(said, expected) != 0) {                                                         \
            test_failed(__FILE__, __LINE__, "changes: \"%s\", expected: \"%s\"", said, expected);  \
        }                                                                                          \
    } while (0)

#endif
