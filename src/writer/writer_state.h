/* writer_state.h - what the files of this folder share: a writer and its open batch. */
#ifndef MMAPCACHE_WRITER_STATE_H
#define MMAPCACHE_WRITER_STATE_H

#include "arena.h"
#include "batch.h"
#include "hash.h"
#include "index.h"
#include "region.h"
#include "table.h"
#include "writer.h"

/* Bytes: no more is kept free for what will be needed. The fuzzers' caches are small, and what
 * follows from this would be most of their work. */
#ifndef MC_GROWTH_MAX
#define MC_GROWTH_MAX (64u << 20)
#endif

/* A collection as the open batch sees it, and as it was committed. */
struct mc_writer_collection {
    char name[MC_NAME_MAX];
    uint8_t name_len;
    bool exists, committed_exists;
    bool changed;         /* may differ from what was committed */
    bool listed;          /* is on the batch's list of changed collections */
    uint32_t next_listed; /* index plus one */
    struct mc_collection_record record, committed;
    bool whole;                     /* the batch may have changed any key of it: see changes.c */
    uint32_t first_note, last_note; /* the batch's notes of its keys: places plus one */
    uint32_t noted;                 /* bytes of them */
};

/* Every collection that this writer has touched. */
struct mc_collections {
    struct mc_writer_collection *items;
    size_t count, capacity;
    uint32_t *index;   /* open addressing by name: index into items plus one */
    size_t index_size; /* a power of two */
    size_t last;       /* the one found last */
};

/* The collection that is being replaced. */
struct mc_replace {
    bool open;
    size_t collection; /* its index */
    struct mc_writer_collection before;
    struct mc_batch_counts counts_before;
    uint64_t *kept; /* a bit per granule: entries put since the replace began */
    size_t kept_words;
    uint64_t kept_count;
    bool smallest;      /* of documents with one key the smallest stays, not the last */
    int change;         /* what the put under way adds to `differing` */
    uint64_t differing; /* puts to take back before the content is the one before, or more */
};

/* An index as the open batch sees it, and as it was committed. */
struct mc_writer_index {
    struct mc_index now;
    struct mc_index_record committed;
    bool exists, committed_exists;
    bool fresh; /* to be built from the whole collection */
};

/* Every index of the file: see indexes.c. */
struct mc_indexes {
    struct mc_writer_index *items;
    size_t count, capacity;
    bool changed;                   /* the batch has made one, or taken one away */
    struct mc_values before, after; /* of a document: room that is used again */
};

/* What the open batch changed, for the change log. */
struct mc_notes {
    uint8_t *bytes;
    size_t used, capacity;
    struct mc_log_group *group; /* what is logged, at last */
    size_t group_capacity;      /* bytes */
    uint64_t end;               /* position in the log where the next group begins */
    uint32_t last;              /* bytes of the one before it; 0: there is none */
};

/* The clearing of a site: see compact.c. */
struct mc_compaction {
    uint64_t given;      /* bytes that the last batch gave up, but for what moved */
    uint64_t largest;    /* bytes of the largest entry that this writer has met */
    uint64_t until;      /* generation before which no site is looked for */
    uint64_t drain;      /* all has moved: the sites are whole when what this one retired is free */
    bool moving;         /* just now: no room is made for what moves */
    bool alone;          /* a commit of its own, with no changes, while there is time */
    bool rests;          /* it has begun with sites so, and nothing has changed since */
    struct mc_move move; /* through the table under way */
    uint8_t *names;      /* of the collections to go through, each after a byte with its length */
    size_t names_len, names_at;
    size_t index;        /* of the indexes, which come next: the one under way */
    uint64_t value;      /* hash of the value in it whose documents' keys are under way, or were */
    struct mc_move keys; /* through their table */
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
    int bell;         /* see bell.h; MC_BELL_NONE: nobody is woken by it */
    struct mc_report report;
    struct mc_position position; /* the last one stored: of this generation or another */
    uint64_t rounds;             /* number of the last record in the history */
    struct mc_batch batch;
    struct mc_collections collections;
    struct mc_indexes indexes;
    struct mc_notes notes;
    struct mc_compaction compaction;
};

/* The hash of a key in this file. */
static inline uint64_t mc_writer_hash(const struct mc_writer *writer, const struct mc_key *key)
{
    return mc_hash(writer->superblock.hash_secret, key->type, key->data, key->len);
}

#endif
