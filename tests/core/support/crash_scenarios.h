/* crash_scenarios.h - what test_crash.c kills and stops, and singlestep.c steps through: a world
 * that repeats itself, and scenarios.
 *
 * A scenario is a state of the file, saved as an image, and one thing that a loader does to it. In
 * children the world is the same each time (same_world.h), so that two runs of a scenario make the
 * same stores.
 */
#ifndef MMAPCACHE_TEST_CRASH_SCENARIOS_H
#define MMAPCACHE_TEST_CRASH_SCENARIOS_H

#include <signal.h>
#include <sys/wait.h>

#include "same_world.h"
#include "store_support.h"

extern struct oracle before; /* what the scenario starts from */

extern uint64_t generation_before;
extern uint64_t generation_again; /* what a second loader began with; 0: there was none */

/* Positions that are stored: by the loader before the scenario, and by one of them. */
#define MARK_BEFORE "before"
#define MARK_FIRST "the first"
#define MARK_SECOND "the second one"
extern struct mc_writer_options options;

struct image {
    uint8_t *bytes;
    size_t len;  /* of the file; 0: no file at all */
    size_t used; /* of bytes: the rest of the file is zeros */
};

extern struct image image; /* the file before the scenario */

void save_image(struct image *to);

void forget_image(struct image *which);

/* A new file with the saved content. */
void restore_image(const struct image *from);

void commit_all(struct mc_writer *writer);

void put_range(struct mc_writer *writer, struct oracle *oracle, int c, int from, int to,
               int version);

void do_nothing(struct mc_writer *writer, struct oracle *oracle);

void put_filler(struct mc_writer *writer, int k, uint32_t len);

struct scenario {
    const char *name;
    int setup_commits; /* how many generations there are before; 0: no file */
    int commits;       /* how many the scenario makes */
    void (*act)(struct mc_writer *writer, struct oracle *oracle);
    int64_t retention_ns;
    enum peculiarity {
        PLAIN,
        FILLED,   /* the file is full to a few KiB: the commit needs another extent */
        RESIZED,  /* the loader asks for another max_size: a successor is built */
        DAMAGED,  /* the last root is damaged, and the loader may recreate */
        REBOOTED, /* the file names another boot of the machine */
        DEEP,     /* a page is about to hang below a second node */
        BROKEN,   /* free are holes between blocks of an index and others: the commit moves these */
        KILLED,   /* the last loader was killed in the middle of a batch */
    } peculiarity;
};

extern const struct scenario crash_scenarios[];
extern const size_t crash_scenario_count;

/* One commit of the scenario; versions differ from commit to commit. */
void run_commit(const struct scenario *scenario, struct mc_writer *writer, struct oracle *oracle,
                int number);

/* What a loader does in the scenario after it has opened the file, closing included. */
void run_commits(const struct scenario *scenario, struct mc_writer *writer, struct oracle *oracle);

/* What a loader does in the scenario, from open to close. */
void run_scenario(const struct scenario *scenario, struct oracle *oracle);

void set_up(const struct scenario *scenario);

#endif
