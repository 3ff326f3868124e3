/* store.h - reading: a map, a view of one generation in it, and the answers found there.
 *
 * A read is always the same four steps, and the caller writes them out:
 *
 *   1. mc_view_open(map, &view, &error)                   the current generation's root: a copy
 *      mc_view_collection(&view, name, len, &collection)  where its table is: a copy
 *   2. mc_find(&view, collection.root, &key, &hit)        NOT validated: hit points into the map
 *   3. mc_copy(buffer, hit.value, hit.value_len)          NOT validated: into private memory
 *   4. mc_view_settle_value(&view, &hit, status)          validates 2 and 3: status or MC_EXPIRED
 *      mc_view_settle(&view, status)                      the same where no value was copied
 *
 * What step 1 gives is validated already and serves any number of reads, of that generation.
 * mc_view_current() says, for one load and one comparison, whether it is still the current one.
 *
 * Nothing that steps 2 and 3 gave may be believed, returned or followed further before step 4, and
 * "absent" and "corrupt" are no exceptions: a block that the loader reuses may look like anything.
 * After MC_EXPIRED a reader of the current generation starts again at step 1; a reader of an older
 * one (a snapshot) cannot, and says that it has expired.
 *
 * Any process may call all of this; nothing here writes to the map, takes a lock or, but for
 * opening and mc_map_loader, enters the kernel. Many threads may read through one map, retain it
 * and release it: its count of users is atomic (users.h).
 */
#ifndef MMAPCACHE_STORE_H
#define MMAPCACHE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "counts.h"
#include "format.h"
#include "hash.h"
#include "key.h"
#include "shm.h"
#include "status.h"
#include "table.h"

/* ---- map ---- */

struct mc_map; /* one file, mapped read-only at its maximum size */

/* Opens and checks the file at `path`, which belongs to root or to this process's user.
 * MC_NOT_READY: there is none. MC_FORMAT, MC_VERSION_DIFFERS, MC_CORRUPT, MC_OS. */
enum mc_status mc_map_open(const char *path, struct mc_map **out, struct mc_error *err);

/* The same, and the file may belong to the user with the uid `owner` as well (negative: nobody). */
enum mc_status mc_map_open_of(const char *path, int64_t owner, struct mc_map **out,
                              struct mc_error *err);

/* The uid of the mapped file's owner. */
uint32_t mc_map_owner(const struct mc_map *map);

/* The same for a file descriptor, which is duplicated: an anonymous cache's memfd. */
enum mc_status mc_map_open_fd(int fd, struct mc_map **out, struct mc_error *err);

/* One more user of the map; returns it. */
struct mc_map *mc_map_retain(struct mc_map *map);

/* One user less; the last one unmaps. NULL is allowed. */
void mc_map_release(struct mc_map *map);

/* True while `path` still names the file that is mapped here: one stat. */
bool mc_map_is_at(const struct mc_map *map, const char *path);

/* Faults all pages of the file in now (madvise MADV_POPULATE_READ);
 * MC_OS where the kernel cannot. */
enum mc_status mc_map_populate(struct mc_map *map, struct mc_error *err);

/* Sleeps until `commit` differs from `generation`, at most `nanoseconds`. True when it differs. */
bool mc_map_wait(struct mc_map *map, uint64_t generation, int64_t nanoseconds);

const struct mc_superblock *mc_map_superblock(const struct mc_map *map); /* a private copy */

struct mc_loader_report {
    int64_t confirmed_at;   /* microseconds since 1970; 0: never */
    int64_t confirmed_boot; /* the same by mc_boot_us, in the boot of boot_id */
    uint8_t boot_id[16];
    bool running;   /* opened and not closed: alive or killed, see mc_map_loader */
    bool following; /* hears of each change as it happens */
    uint32_t pid;
    int64_t position_at; /* microseconds since 1970; 0: not known */
    uint64_t events, disconnects;
    uint32_t counts_len; /* of counts, which nobody has validated: see mc_counts_open */
    uint8_t counts[MC_COUNTS_ROOM];
    char state[32], source[256], error[480]; /* NUL-terminated; UTF-8 if the loader wrote UTF-8 */
};

/* The loader's last complete report; all zero when there was none. */
void mc_map_report(const struct mc_map *map, struct mc_loader_report *out);

/* Microseconds since the report's confirmation or, where there is none, since published_at; never
 * negative. By the clock that nobody sets, where the confirmation is of this start of the machine.
 */
int64_t mc_map_age(const struct mc_map *map, const struct mc_loader_report *report,
                   int64_t published_at);

enum mc_loader { MC_LOADER_NONE, MC_LOADER_ALIVE, MC_LOADER_DEAD };

/* "none", "alive" or "dead". */
static inline const char *mc_loader_name(enum mc_loader loader)
{
    static const char *const names[] = {
        [MC_LOADER_NONE] = "none", [MC_LOADER_ALIVE] = "alive", [MC_LOADER_DEAD] = "dead"};
    return names[loader];
}

/* Whether a loader holds the lock now (ALIVE), died without closing (DEAD), or neither. Asks the
 * kernel without taking the lock, so that a reader stopped here cannot keep a loader out. */
enum mc_loader mc_map_loader(const struct mc_map *map);

/* ---- view ---- */

/* Where the change log of a file is: see change_log.h. */
struct mc_log {
    uint64_t offset; /* bytes */
    uint32_t size;   /* bytes; 0: there is none */
};

struct mc_view {
    struct mc_map *map; /* borrowed: the caller keeps it retained */
    const struct mc_control *control;
    const shm_byte *tail;  /* where MC_TAIL_MARK stands as long as the file is whole */
    struct mc_space space; /* the mapping; its limit is at most the file's size */
    uint64_t hash_secret[MC_SECRETS];
    uint64_t arena_offset;
    struct mc_log log;
    struct mc_root root; /* a private copy; all zero for generation 0 */
};

/* The current generation. MC_NOT_READY before the first one (out is then a view of generation 0,
 * empty and usable) and when the machine was restarted since it was verified; MC_CORRUPT. */
enum mc_status mc_view_open(struct mc_map *map, struct mc_view *out, struct mc_error *err);

static inline uint64_t mc_view_generation(const struct mc_view *view)
{
    return view->root.generation;
}

/* True while no newer generation was published. Pairs with the release store of mc_publish. */
static inline bool mc_view_current(const struct mc_view *view)
{
    return shm_load_acquire(&view->control->commit) == view->root.generation;
}

/* True when the loader has not announced yet that it overwrites what `generation` refers to: the
 * view's own, or an earlier one of the same file. */
static inline bool mc_view_kept_since(const struct mc_view *view, uint64_t generation)
{
    shm_fence_acquire(); /* pairs with the release fence of mc_raise_horizon */
    return shm_load(&view->control->horizon) <= generation;
}

/* The same for what this view refers to. */
static inline bool mc_view_kept(const struct mc_view *view)
{
    return mc_view_kept_since(view, view->root.generation);
}

/* Makes every view of the map invalid for good: the file lost its end. Where that end was in a huge
 * page, the kernel may show zeros in the place of data, without a fault. */
void mc_view_lose(const struct mc_view *view);

/* True when nothing that this view refers to has been overwritten or truncated so far. */
static inline bool mc_view_valid(const struct mc_view *view)
{
    uint64_t mark = shm_load(view->tail);
    bool kept = mc_view_kept(view);
    if (kept && mark != MC_TAIL_MARK) {
        mc_view_lose(view);
        return false;
    }
    return kept;
}

/* What an answer is worth: `status` if the view is valid, else MC_EXPIRED. */
static inline enum mc_status mc_view_settle(const struct mc_view *view, enum mc_status status)
{
    return mc_view_valid(view) ? status : MC_EXPIRED;
}

struct mc_collection {
    uint64_t root; /* reference of its table */
    uint64_t count;
    uint64_t content; /* key and value bytes */
    uint64_t created; /* generation in which the name appeared */
    uint64_t changed; /* generation from which on its table has been what it is */
};

/* The collection called `name`, validated: MC_OK, MC_ABSENT (out is then empty, and changed the
 * view's generation), MC_EXPIRED, MC_CORRUPT. */
enum mc_status mc_view_collection(const struct mc_view *view, const char *name, size_t len,
                                  struct mc_collection *out);

/* ---- entries ---- */

/* The hash that mc_find needs in key->hash. */
static inline uint64_t mc_view_hash(const struct mc_view *view, const struct mc_key *key)
{
    return mc_hash(view->hash_secret, key->type, key->data, key->len);
}

/* Looks `key` (with its hash) up in the table at `root`. NOT validated: MC_OK,
 * MC_ABSENT, MC_CORRUPT. */
static inline enum mc_status mc_find(const struct mc_view *view, uint64_t root,
                                     const struct mc_key *key, struct mc_hit *out)
{
    return mc_table_find(&view->space, root, key, out);
}

/* The same for up to MC_FIND_MANY keys at once, with the cold loads of different keys overlapped.
 * Fills statuses[i] and hits[i]. NOT validated. */
static inline void mc_find_many(const struct mc_view *view, uint64_t root,
                                const struct mc_key *keys, size_t count, struct mc_hit *hits,
                                enum mc_status *statuses)
{
    mc_table_find_many(&view->space, root, keys, count, hits, statuses);
}

/* Copies map bytes that a hit named into private memory. */
static inline void mc_copy(void *to, const shm_byte *from, size_t len)
{
    shm_read(to, from, len);
}

/* The same as mc_view_settle for a value that was read, which needs one look more. A truncation
 * within a huge page makes the kernel zero what was cut off, from its low end to its high one. So
 * the tail, which mc_view_valid looks at, goes last; but a value's header goes before the value. */
static inline enum mc_status mc_view_settle_value(const struct mc_view *view,
                                                  const struct mc_hit *hit, enum mc_status status)
{
    shm_fence_acquire();
    bool stands = status != MC_OK || mc_hit_stands(hit);
    return mc_view_valid(view) && stands ? status : MC_EXPIRED;
}

/* ---- iteration ---- */

/* A walk over every entry of the table at `root` (a collection's, or view->root.catalogue), in hash
 * order: mc_walk_begin(&walk, &view->space, root), then mc_walk_entry until MC_ABSENT. NOT
 * validated: MC_OK, MC_ABSENT at the end, MC_CORRUPT. */
enum mc_status mc_walk_entry(struct mc_walk *walk, struct mc_hit *out);

/* In a walk over the catalogue: MC_OK and the collection, MC_ABSENT for the loader's state and for
 * an index (see index.h), or MC_CORRUPT. */
enum mc_status mc_hit_collection(const struct mc_hit *hit, struct mc_collection *out);

/* The entry that holds the loader's own state (batch.state), NOT validated: MC_OK or MC_ABSENT. */
enum mc_status mc_find_state(const struct mc_view *view, struct mc_hit *out);

/* ---- the loader's half of the protocol, for src/writer/ ---- */

/* The superblock of the open file, and whether it is one: MC_OK, MC_FORMAT (not ours),
 * MC_VERSION_DIFFERS, MC_CORRUPT, MC_OS. The sentence names `path`; NULL: anonymous. */
struct mc_region;
enum mc_status mc_superblock_read(const struct mc_region *region, struct mc_superblock *superblock,
                                  const char *path, struct mc_error *err);

static inline struct mc_log mc_superblock_log(const struct mc_superblock *superblock)
{
    return (struct mc_log){.offset = superblock->log_offset, .size = superblock->log_size};
}

/* Bytes of the file that the generation of this root may refer to, up to and with its tail. */
static inline uint64_t mc_root_end(const struct mc_root *root)
{
    return root->file_size != 0 ? root->file_size : MC_MAP_MIN;
}

/* The words that move without a generation. */
static inline struct mc_control *mc_control_of(const struct mc_space *space)
{
    return (struct mc_control *)(void *)(space->base + MC_CONTROL_OFFSET);
}

/* Where the mark is in a file that ends at `end`. */
static inline shm_byte *mc_tail_mark(const struct mc_space *space, uint64_t end)
{
    return space->base + end - sizeof(struct mc_tail) + offsetof(struct mc_tail, mark);
}

/* Marks the end of a file whose last granule nothing refers to. */
void mc_tail_write(const struct mc_space *space, uint64_t end);

/* The root of generation `generation`, copied; MC_CORRUPT when it is not whole. */
enum mc_status mc_root_read(const struct mc_space *space, const struct mc_superblock *superblock,
                            uint64_t generation, struct mc_root *out, struct mc_error *err);

/* Announces that generations below `horizon` may be overwritten from now on. Call before the first
 * store into anything that only they refer to. Never beyond the current generation. */
void mc_raise_horizon(const struct mc_space *space, uint64_t horizon);
uint64_t mc_horizon(const struct mc_space *space);

/* Publishes root->generation, which is one more than the current one: its root record, then the
 * commit word. Everything that it refers to was stored before. */
void mc_publish(const struct mc_space *space, const struct mc_superblock *superblock,
                struct mc_root *root);

/* Wakes everybody in mc_map_wait. A wake-up is a system call, a quarter of a small commit, so a
 * loader may leave it out for commits within MC_WAKE_QUIET_NS of the last one. */
#define MC_WAKE_QUIET_NS 1000000
void mc_wake(const struct mc_space *space);

uint64_t mc_commit_word(const struct mc_space *space);

/* Whether the content was verified in this boot of the machine, or is a clean checkpoint. */
bool mc_boot_is_current(const struct mc_space *space, const struct mc_superblock *superblock,
                        const uint8_t boot_id[16], uint64_t generation);
void mc_boot_confirm(const struct mc_space *space, const uint8_t boot_id[16]);

/* Marks `generation` as wholly on disk; 0 takes the mark away.
 * The caller syncs before and after. */
void mc_checkpoint_mark(const struct mc_space *space, const struct mc_superblock *superblock,
                        uint64_t generation);
uint64_t mc_checkpoint(const struct mc_space *space);

#endif
