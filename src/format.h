/* format.h - every byte of a cache file. docs/format.md says the same in prose.
 *
 *   0        superblock   written once, checksummed
 *   4096     control      what moves without a generation: commit, horizon, boot, checkpoint
 *   8192     reports      what the loader says of itself, in two slots
 *   12288    positions    where a change stream goes on, in two slots
 *   16384    root ring    MC_RING_SLOTS roots; generation g is in slot g mod ring_slots
 *   ...      change log   a ring of bytes: the keys that the last generations put and deleted
 *   ...      history      a ring of records: what the loader's last rounds did
 *   ...      arena        entries, pages and nodes: copy-on-write, found only through a root
 *   the end  tail         one word, the last of the file: a truncated file has it no more
 *
 * All integers are little-endian (a big-endian machine is refused at build time). Offsets are in
 * bytes from the start of the file unless their name ends in _granule. The arena's addresses are
 * file offsets too: the header is simply never free. There is no allocator state, no lock and no
 * reader table in the file, so that no killed process can leave one behind.
 */
#ifndef MMAPCACHE_FORMAT_H
#define MMAPCACHE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mmapcache files are little-endian and read in place: big-endian machines are not supported"
#endif
_Static_assert(sizeof(void *) == 8, "mmapcache maps up to 1 TiB: a 64-bit machine is needed");

/* ---- limits: each has a test at it and one past it ---- */
#define MC_KEY_BYTES_MAX 1024u                      /* bytes of a key's text, data or BSON */
#define MC_KEY_MAX (MC_KEY_BYTES_MAX + 1)           /* of a canonical key: data has a subtype */
#define MC_DOCUMENT_MAX ((16u << 20) + (16u << 10)) /* bytes of a document: MongoDB's own limit */
#define MC_NAME_MAX 255u                            /* bytes of a collection's name */
#define MC_COLLECTIONS_MAX 10000u                   /* collections in one cache */
#define MC_STATE_MAX (64u << 10)                    /* bytes of the loader's own state */
#define MC_MAP_MIN (2ull << 20)                     /* bytes of the smallest cache */
#define MC_MAP_MAX (1ull << 40)                     /* bytes of the largest cache */
#define MC_GENERATION_MAX ((1ull << 48) - 1)        /* nine years of a million commits a second */

/* ---- units ---- */
#define MC_GRANULE 16u         /* bytes: the unit of allocation */
#define MC_EXTENT (2ull << 20) /* bytes: files grow by multiples of a huge page */

/* The granules that so many bytes need. */
static inline uint64_t mc_granules(uint64_t bytes)
{
    return (bytes + MC_GRANULE - 1) / MC_GRANULE;
}

/* So many bytes, rounded up to whole extents. */
static inline uint64_t mc_whole_extents(uint64_t bytes)
{
    return (bytes + MC_EXTENT - 1) / MC_EXTENT * MC_EXTENT;
}

/* ---- superblock ---- */
#define MC_SECRETS 4u
#define MC_MAGIC "mmapcach"
#define MC_VERSION 3u
#define MC_LOCK_SUFFIX ".lock" /* the lock file of a cache is its path and this */
#define MC_BYTE_ORDER 0x01020304u

struct mc_superblock {
    char magic[8];
    uint32_t version;
    uint32_t byte_order;
    uint64_t max_size;                /* bytes: what every process maps */
    uint64_t arena_offset;            /* bytes: the first that may be allocated */
    uint32_t granule;                 /* bytes */
    uint32_t ring_slots;              /* roots in the ring */
    uint64_t hash_secret[MC_SECRETS]; /* random: see hash.h */
    uint8_t file_id[16];              /* a random UUID */
    int64_t created_at;               /* microseconds since 1970 */
    uint64_t base_generation; /* the last of the files that this one succeeds: generations go on */
    uint64_t log_offset;      /* bytes: where the change log is */
    uint32_t log_size;        /* bytes of it, a power of two; 0: there is none */
    uint32_t history_slots;   /* records in the history; 0: there is none */
    uint64_t history_offset;  /* bytes: where it is */
    uint8_t reserved[124];
    uint32_t checksum; /* of the 252 bytes before it */
};
_Static_assert(sizeof(struct mc_superblock) == 256, "superblock");
_Static_assert(offsetof(struct mc_superblock, log_offset) == 104, "superblock");
_Static_assert(offsetof(struct mc_superblock, history_offset) == 120, "superblock");
_Static_assert(offsetof(struct mc_superblock, checksum) == 252, "superblock");

/* ---- control ---- */
#define MC_CONTROL_OFFSET 4096u

/* The two words of the protocol share a line: a reader needs both for every read, and the loader
 * dirties both for a commit, so that one line costs a reader one miss and two would cost two. */
struct mc_control {
    uint64_t commit;  /* the current generation; 0: none yet */
    uint64_t horizon; /* generations below it may have been overwritten */
    uint8_t line0[48];
    uint8_t boot_id[16];          /* the boot of the machine in which the content was verified */
    uint64_t checkpoint;          /* the generation that is wholly on disk; 0: none */
    uint32_t checkpoint_checksum; /* of checkpoint and the superblock's file_id */
    uint8_t line1[4];
    uint64_t log_written; /* position in the change log before which bytes may be written by now */
    uint8_t line1_rest[24];
};
_Static_assert(sizeof(struct mc_control) == 128, "control");
_Static_assert(offsetof(struct mc_control, log_written) == 96, "control");
_Static_assert(offsetof(struct mc_control, boot_id) == 64, "control");

/* ---- reports ---- */

/* What the loader says of itself. Two slots, written in turn: a reader takes the valid one with the
 * higher sequence, so that a loader killed between two stores costs one report, not both. */
#define MC_REPORT_OFFSET 8192u
#define MC_REPORT_SLOTS 2u
struct mc_report {
    uint64_t sequence;    /* slot = sequence mod 2; 0: never written */
    int64_t confirmed_at; /* microseconds since 1970: when the data was last known to be current */
    int64_t confirmed_boot; /* the same moment in microseconds since the machine was started */
    uint8_t boot_id[16];    /* which start that was; zero: not known */
    uint32_t running;       /* 1 from open to a clean close */
    uint32_t pid;
    char state[32]; /* NUL-terminated UTF-8, as are the next two */
    char source[256];
    char error[480];
    int64_t position_at;  /* microseconds since 1970: the moment of the source that the data has
                             reached; 0: not known */
    uint64_t events;      /* changes that the source sent, over the file's life */
    uint64_t disconnects; /* connections lost, likewise */
    uint32_t flags;
    uint32_t counts_len;  /* bytes of counts; 0: none */
    uint8_t counts[1196]; /* one BSON document: see counts.h */
    uint32_t checksum;    /* of the 2044 bytes before it */
};
_Static_assert(sizeof(struct mc_report) == 2048, "report");
#define MC_REPORT_FOLLOWING 1u /* flag: the loader hears of each change as it happens */

/* ---- positions ---- */

/* Where a loader goes on in the source's stream of changes, while nothing changes: bytes of its own
 * that moved without a generation. Two slots, written and taken as reports are. What is taken
 * counts only while the generation that it belongs to is the current one. Two generations may have
 * had the same number, where a machine failed before the first one was on disk: the moment of its
 * publication tells them apart. */
#define MC_POSITION_OFFSET 12288u
#define MC_POSITION_MAX 2016u
struct mc_position {
    uint64_t sequence;              /* as of a report */
    uint64_t generation;            /* whose data it belongs to */
    int64_t published_at;           /* of that generation's root */
    uint32_t length;                /* of bytes */
    uint8_t bytes[MC_POSITION_MAX]; /* zeros behind the length */
    uint32_t checksum;              /* of the 2044 bytes before it */
};
_Static_assert(sizeof(struct mc_position) == 2048, "position");
_Static_assert(offsetof(struct mc_position, checksum) == 2044, "position");

/* ---- root ring ---- */
#define MC_RING_OFFSET 16384u
#define MC_RING_SLOTS 1024u
#define MC_ROOT_SUPERSEDED 1u /* a successor was renamed over this file's path */

struct mc_root {
    uint64_t generation;
    uint64_t catalogue;    /* reference of the table of collections */
    uint64_t file_size;    /* bytes that this generation may refer to */
    int64_t published_at;  /* microseconds since 1970 */
    uint64_t documents;    /* in all collections */
    uint64_t content;      /* key and value bytes of all documents */
    uint64_t used;         /* bytes allocated to this generation, header included */
    uint64_t free;         /* bytes of the file that the loader may use now */
    uint64_t largest_free; /* bytes: the largest free block */
    uint64_t huge;         /* bytes collapsed into huge pages */
    uint32_t collections;
    uint32_t flags;
    uint64_t log_end;  /* position in the change log where this generation's changes end */
    uint32_t log_last; /* bytes of the group that ends there; 0: nothing was ever logged */
    uint8_t reserved[152];
    uint32_t checksum; /* of the 252 bytes before it */
};
_Static_assert(sizeof(struct mc_root) == 256, "root");
_Static_assert(offsetof(struct mc_root, log_end) == 88, "root");
_Static_assert(MC_RING_OFFSET % MC_GRANULE == 0 && sizeof(struct mc_root) % MC_GRANULE == 0,
               "the arena starts on a granule");

/* ---- change log ---- */
/* A ring of log_size bytes. A position is a count of bytes that never goes back (it may wrap around
 * 2^64): its byte is at log_offset + position mod log_size. A generation that changed documents has
 * a group of records there, which ends at its root's log_end. */
#define MC_LOG_MIN 256u /* bytes */
#define MC_LOG_ALIGN 8u /* groups begin at multiples of so many bytes */

struct mc_log_group {
    uint32_t checksum; /* of the bytes of the group after it */
    uint32_t bytes;    /* of the group: this header, records, zeros up to a multiple of 8 */
    uint64_t generation;
    uint32_t before; /* bytes of the group before this one; 0: there is none */
    uint32_t flags;
    /* records */
};
_Static_assert(sizeof(struct mc_log_group) == 24, "group");
_Static_assert(sizeof(struct mc_log_group) % MC_LOG_ALIGN == 0, "group");
#define MC_LOG_ALL 1u /* everything may have changed: no records follow */

/* A record: what happened, and to which name or key. None begins with a zero byte. */
struct mc_log_record {
    uint8_t kind; /* MC_LOG_* */
    uint8_t type; /* of a name MC_KEY_NAME, else the key's type */
    uint16_t len; /* bytes of the name or the canonical key, which follow */
};
_Static_assert(sizeof(struct mc_log_record) == 4, "record");
enum {
    MC_LOG_COLLECTION = 1, /* keys of this collection follow */
    MC_LOG_WHOLE = 2,      /* whatever is or was in this collection may have changed */
    MC_LOG_PUT = 3,
    MC_LOG_DELETE = 4,
};

/* ---- history ---- */
/* What a round of the loader did, written without a generation. Record number `sequence` is in slot
 * sequence mod history_slots. One that a killed loader left half written counts for none. */
struct mc_round_record {
    uint64_t sequence;    /* 1, 2, 3 ... to MC_GENERATION_MAX; 0: never written */
    uint64_t generation;  /* the current one when the record was written */
    int64_t started_at;   /* microseconds since 1970 */
    int64_t started_boot; /* the same moment in microseconds since the machine was started */
    uint64_t duration;    /* microseconds */
    uint64_t put;         /* documents */
    uint64_t deleted;     /* documents */
    uint64_t bytes;       /* of documents that came from the source */
    uint32_t rounds;      /* how many of one kind the record stands for */
    char reason[32];      /* NUL-terminated UTF-8, as is the next: why there was a round */
    char error[152];      /* empty: none */
    uint32_t checksum;    /* of the 252 bytes before it */
};
_Static_assert(sizeof(struct mc_round_record) == 256, "round");
_Static_assert(offsetof(struct mc_round_record, checksum) == 252, "round");

/* ---- arena: the tail ---- */
/* The last granule of the file as a generation knows it (mc_root.file_size); of generation 0, of
 * the smallest file. Whatever a file loses when it is truncated, it loses its last byte. */
struct mc_tail {
    uint64_t reserved;
    uint64_t mark; /* MC_TAIL_MARK, none of whose bytes is zero */
};
_Static_assert(sizeof(struct mc_tail) == MC_GRANULE, "tail");
#define MC_TAIL_MARK UINT64_C(0x6C6961742D636D6D) /* "mmc-tail" */

/* ---- arena: entries ---- */
/* One key and its value. The catalogue's entries are the same: key a name, value a
 * mc_collection_record, or key MC_KEY_STATE and value the loader's own state. */
struct mc_entry {
    uint32_t checksum; /* of everything after it: 12 header bytes, key, value, blocks */
    uint32_t lengths;  /* bytes of the value, at most MC_DOCUMENT_MAX : 25 | blocks : 7 */
    uint64_t stamp;    /* birth generation : 48 | key type : 5 | key length : 11 */
    /* key_len bytes of key, then the value, then the blocks of its index of fields, if it has one:
     * see field_index.h */
};
_Static_assert(sizeof(struct mc_entry) == 16, "entry");
#define MC_LENGTHS_BLOCKS_SHIFT 25
#define MC_STAMP_TYPE_SHIFT 48
#define MC_STAMP_LEN_SHIFT 53
#define MC_KEY_TYPES 32u

/* The key types of the catalogue. Any other is damage: what its entry refers to is not known. */
#define MC_KEY_NAME 2u   /* BSON's number of a string: the key type of a collection's name */
#define MC_KEY_STATE 10u /* BSON's number of null: the key type of the loader's state */
#define MC_KEY_INDEX 4u  /* BSON's number of an array, which no _id is: the key type of an index */

struct mc_collection_record {
    uint64_t root;    /* reference of the collection's table; 0: empty */
    uint64_t count;   /* documents */
    uint64_t content; /* key and value bytes */
    uint64_t created; /* generation in which the name appeared */
};
_Static_assert(sizeof(struct mc_collection_record) == 32, "collection record");

/* The key of an index: one byte with the length of the collection's name, the name, the field. */
#define MC_FIELD_MAX 255u /* bytes of the field's dotted path */
#define MC_INDEXES_MAX 64u
#define MC_INDEX_UNIQUE 1u
#define MC_INDEX_MULTI 2u

struct mc_index_record {
    uint64_t root;   /* reference of the index's table; 0: empty */
    uint64_t values; /* entries in it */
    uint64_t pairs;  /* of a value and a document */
    uint32_t kind;   /* MC_INDEX_UNIQUE or MC_INDEX_MULTI */
    uint32_t reserved;
};
_Static_assert(sizeof(struct mc_index_record) == 32, "index record");

/* An entry of an index: a field's value as the key, and as the value either one document's key (its
 * type, then its bytes) or this, when the value is of several. No key has type 0. */
struct mc_index_keys {
    uint8_t zero;
    uint8_t root[8];  /* reference of a table with the documents' keys, and no values */
    uint8_t count[8]; /* how many there are */
};
_Static_assert(sizeof(struct mc_index_keys) == 17, "index keys");

/* ---- arena: the table (see table.h) ---- */
#define MC_LINE_SLOTS 8u /* slots of 8 bytes in a cache line */
#define MC_LINE_BYTES 64u
/* An unused slot of a page, and an unused reference of a node: no word of either is ever 0, so that
 * zeros where a file was truncated, or never written, are not mistaken for "absent". No entry and
 * no page is at granule 1, which is in the superblock. */
#define MC_UNUSED UINT64_C(1)

#endif
