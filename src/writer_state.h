/* writer_state.h - what writer.c and batch.c share: a writer and its open batch. */
#ifndef MMAPCACHE_WRITER_STATE_H
#define MMAPCACHE_WRITER_STATE_H

#include "arena.h"
#include "region.h"
#include "table.h"
#include "writer.h"

/* Bytes: a file grows by no more at a time, unless a document needs it. The fuzzers' caches are
 * small, and what follows from this would be most of their work. */
#ifndef MC_GROWTH_MAX
#define MC_GROWTH_MAX (64u << 20)
#endif

/* A collection as the open batch sees it, and as it was committed. */
struct mc_work {
    char name[MC_NAME_MAX];
    uint8_t name_len;
    bool exists, committed_exists;
    bool changed;         /* may differ from what was committed */
    bool listed;          /* is on the batch's list of changed collections */
    uint32_t next_listed; /* index plus one */
    struct mc_collection_record record, committed;
};

/* The collection that is being replaced. */
struct mc_replace {
    bool open;
    size_t work; /* index of the collection */
    struct mc_work before;
    struct mc_batch_counts counts_before;
    uint64_t *kept; /* a bit per granule: entries put since the replace began */
    size_t kept_words;
    uint64_t kept_count;
    bool smallest;      /* of documents with one key the smallest stays, not the last */
    int change;         /* what the put under way adds to `differing` */
    uint64_t differing; /* puts to take back before the content is the one before, or more */
};

struct mc_batch {
    bool open;
    uint64_t catalogue;   /* reference, with the state but without changed collections */
    uint32_t collections; /* how many there are now */
    uint32_t listed;      /* first of the changed collections: index plus one */
    struct mc_batch_counts counts;
    struct mc_replace replace;
};

struct mc_writer {
    struct mc_region region;
    struct mc_lock *lock; /* at the lock file; NULL: anonymous */
    struct mc_superblock superblock;
    struct mc_writer_options options;
    char *path; /* NULL: anonymous */
    uint8_t boot_id[16];
    struct mc_root root; /* the committed generation */
    struct mc_arena arena;
    struct mc_table_writer table;
    uint64_t huge;    /* bytes collapsed */
    int64_t woken_at; /* mc_clock_ns of the last wake-up */
    struct mc_status_slot report;
    struct mc_error room; /* why make_room found none */
    struct mc_batch batch;
    struct mc_work *works; /* every collection that this writer has touched */
    size_t work_count, work_capacity;
    uint32_t *work_index;   /* open addressing by name: index into works plus one */
    size_t work_index_size; /* a power of two */
    size_t last_work;
};

/* ---- room.c ---- */

/* See mc_make_room in arena.h; context is the writer. */
enum mc_status mc_writer_make_room(void *context, uint64_t bytes);

/* The file ends at `end` from now on: there is its tail. The last generation's own stays where that
 * generation's readers look for it, until the next commit retires it. */
void mc_writer_end_at(struct mc_writer *writer, uint64_t end);

/* After a commit at `now` (mc_clock_ns): announces and frees some of the blocks whose retention is
 * over, more than a commit retires. */
void mc_writer_reclaim_some(struct mc_writer *writer, int64_t now);

/* Turns a status of the arena or the table into one with a sentence. */
enum mc_status mc_writer_explain(const struct mc_writer *writer, enum mc_status status,
                                 struct mc_error *err);

/* ---- report.c ---- */

/* Says that this process has opened the cache, or that it closes it; the rest of the report stays.
 */
void mc_writer_running(struct mc_writer *writer, bool running);

/* ---- writer.c ---- */

/* Publishes the root given, with everything that the writer knows filled in, as the next
 * generation. */
enum mc_status mc_writer_publish(struct mc_writer *writer, struct mc_root *root,
                                 struct mc_error *err);

#endif
