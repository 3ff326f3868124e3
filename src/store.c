/* store.c - the protocol: the only file that reads or writes the words `commit` and `horizon`.
 *
 *   loader                                          reader
 *   ------                                          ------
 *   entries, pages, nodes in free blocks            g = commit                      (acquire)
 *   root of g+1 in its slot of the ring             copy root g, entry, ...         (relaxed)
 *   commit = g+1                     (release)      acquire fence
 *                                                   valid iff horizon <= g          (relaxed)
 *   before reusing a block that only
 *   generations < H refer to:
 *   horizon = H, release fence
 *
 * Why a valid copy is whole. The acquire of `commit` makes everything that generation g refers to
 * visible. If one copied word came from a later store into a reused block, that store follows a
 * release fence which follows the store of an H > g; the reader's acquire fence comes after the
 * copied load, so the two fences synchronise and its load of `horizon` must see H or more: the copy
 * does not count. Nothing that the current commit refers to is ever overwritten, so a dead loader
 * costs no retry. The idea is MICA's log tail (Lim et al.: MICA, NSDI 2014) over LMDB's
 * copy-on-write trees, with the horizon in the place of LMDB's table of readers. docs/design.md has
 * the whole argument.
 *
 * A loader killed between any two stores leaves `commit` = g and blocks that nothing refers to. The
 * next one opens the file as always.
 */
#include "store.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mutant.h"
#include "region.h"
#include "slots.h"
#include "users.h"

struct mc_map {
    struct mc_region region;
    struct mc_superblock superblock;
    uint8_t boot_id[16];
    bool of_this_boot; /* found so once: it does not change while this process lives */
    unsigned users;
};

/* A view that is overwritten while it is opened is a reader that slept through a
 * whole ring of commits. */
#define VIEW_ATTEMPTS 64

/* ---- superblock ---- */

/* Whether the history, if there is one, is between `from` and `to`. */
static bool history_fits(const struct mc_superblock *superblock, uint64_t from, uint64_t to)
{
    uint64_t at = superblock->history_offset, slots = superblock->history_slots;
    if (slots == 0) {
        return at == 0;
    }
    return at >= from && at <= to && slots * sizeof(struct mc_round_record) <= to - at &&
           at % MC_LINE_BYTES == 0;
}

/* Roots, change log, history and arena stand one behind the other. What a later loader puts between
 * the last two is its business. */
static bool rings_fit(const struct mc_superblock *superblock)
{
    uint64_t roots = MC_RING_OFFSET + (uint64_t)superblock->ring_slots * sizeof(struct mc_root);
    uint64_t arena = superblock->arena_offset, log = superblock->log_offset;
    uint32_t size = superblock->log_size;
    if (arena < roots || arena >= MC_MAP_MIN || arena % MC_LINE_BYTES != 0) {
        return false;
    }
    if (size == 0) { /* nothing is between the roots and the history */
        log = log == 0 ? roots : 0;
    } else if (size < MC_LOG_MIN || (size & (size - 1)) != 0) {
        return false;
    }
    return log >= roots && log <= arena && size <= arena - log && log % MC_LINE_BYTES == 0 &&
           history_fits(superblock, log + size, arena);
}

static enum mc_status check_superblock(const struct mc_superblock *superblock, struct mc_error *err)
{
    if (memcmp(superblock->magic, MC_MAGIC, sizeof superblock->magic) != 0) {
        return mc_fail(err, MC_FORMAT, "this is not a cache file of mmapcache");
    }
    if (superblock->byte_order != MC_BYTE_ORDER) {
        return mc_fail(err, MC_FORMAT,
                       "the cache was written on a machine of another byte order: "
                       "load it again on this one");
    }
    if (superblock->version != MC_VERSION) {
        return mc_fail(err, MC_VERSION_DIFFERS,
                       "the cache has format version %u and this mmapcache reads version %u: let a "
                       "loader of this version recreate it",
                       (unsigned)superblock->version, MC_VERSION);
    }
    bool sound =
        superblock->checksum == mc_checksum(superblock, offsetof(struct mc_superblock, checksum)) &&
        superblock->granule == MC_GRANULE && superblock->ring_slots >= 2 && rings_fit(superblock) &&
        superblock->max_size >= MC_MAP_MIN && superblock->max_size <= MC_MAP_MAX &&
        superblock->max_size % MC_EXTENT == 0 && superblock->base_generation < MC_GENERATION_MAX;
    return sound
               ? MC_OK
               : mc_fail(err, MC_CORRUPT, "the cache's superblock is damaged: recreate the cache");
}

/* Adds the file that a sentence is about, and what to do where nothing of ours is in it. The path
 * goes last: where it is too long for the text, the rest still stands. NULL: anonymous. */
static void error_names(struct mc_error *err, const char *path)
{
    if (err != NULL && path != NULL &&
        (err->status == MC_FORMAT || err->status == MC_VERSION_DIFFERS ||
         err->status == MC_CORRUPT)) {
        struct mc_error said = *err;
        const char *cure =
            said.status == MC_FORMAT
                ? "; `mmapcache sync --recreate` or Writer(recreate=True) replaces it"
                : "";
        mc_error_fill(err, said.status, "%s%s: %s", said.text, cure, path);
    }
}

enum mc_status mc_superblock_read(const struct mc_region *region, struct mc_superblock *superblock,
                                  const char *path, struct mc_error *err)
{
    enum mc_status status = mc_region_peek(region, superblock, sizeof *superblock, err);
    if (status == MC_OK) {
        status = check_superblock(superblock, err);
    }
    if (status == MC_OK && region->file_size < MC_MAP_MIN) {
        status = mc_fail(err, MC_CORRUPT, "the cache file was truncated: recreate the cache");
    }
    if (status != MC_OK) {
        error_names(err, path);
    }
    return status;
}

/* ---- map ---- */

/* Checks and maps what is in map->region; closes everything on failure. */
static enum mc_status map_finish(struct mc_map *map, const char *path, struct mc_map **out,
                                 struct mc_error *err)
{
    assert(map->users == 1);
    enum mc_status status = mc_superblock_read(&map->region, &map->superblock, path, err);
    if (status == MC_OK) {
        status = mc_region_map(&map->region, map->superblock.max_size, err);
    }
    if (status != MC_OK) {
        mc_map_release(map);
        return status;
    }
    assert(map->region.base != NULL && map->region.map_size == map->superblock.max_size);
    *out = map;
    return MC_OK;
}

/* On failure *out is NULL, or a map for mc_map_release. */
static enum mc_status map_new(struct mc_map **out, struct mc_error *err)
{
    struct mc_map *map = *out = calloc(1, sizeof *map);
    if (map == NULL) {
        return mc_no_memory(err);
    }
    map->region.fd = -1;
    map->users = 1;
    return mc_boot_id(map->boot_id, err);
}

enum mc_status mc_map_open(const char *path, struct mc_map **out, struct mc_error *err)
{
    return mc_map_open_of(path, MC_OWNER_TRUSTED, out, err);
}

enum mc_status mc_map_open_of(const char *path, int64_t owner, struct mc_map **out,
                              struct mc_error *err)
{
    struct mc_map *map;
    enum mc_status status = map_new(&map, err);
    if (status == MC_OK) {
        status = mc_region_open(path, false, owner, &map->region, err);
    }
    if (status != MC_OK) {
        mc_map_release(map);
        return status;
    }
    return map_finish(map, path, out, err);
}

enum mc_status mc_map_open_fd(int fd, struct mc_map **out, struct mc_error *err)
{
    struct mc_map *map;
    enum mc_status status = map_new(&map, err);
    if (status == MC_OK) {
        status = mc_region_open_fd(fd, &map->region, err);
    }
    if (status != MC_OK) {
        mc_map_release(map);
        return status;
    }
    return map_finish(map, NULL, out, err);
}

uint32_t mc_map_owner(const struct mc_map *map)
{
    return map->region.owner;
}

struct mc_map *mc_map_retain(struct mc_map *map)
{
    assert(mc_users_any(&map->users));
    mc_users_add(&map->users);
    return map;
}

void mc_map_release(struct mc_map *map)
{
    assert(map == NULL || mc_users_any(&map->users));
    if (map != NULL && mc_users_drop(&map->users)) {
        mc_region_close(&map->region);
        free(map);
    }
}

bool mc_map_is_at(const struct mc_map *map, const char *path)
{
    return mc_region_is_at(&map->region, path);
}

enum mc_status mc_map_populate(struct mc_map *map, struct mc_error *err)
{
    return mc_region_populate(&map->region, err);
}

static struct mc_space map_space(const struct mc_map *map)
{
    return (struct mc_space){.base = map->region.base, .limit = map->region.file_size};
}

bool mc_map_wait(struct mc_map *map, uint64_t generation, int64_t nanoseconds)
{
    /* of the region its address alone, as a thread that reads may measure the file meanwhile */
    struct mc_space space = {.base = map->region.base, .limit = MC_MAP_MIN};
    const uint64_t *word = &mc_control_of(&space)->commit;
    int64_t end = mc_clock_ns() + nanoseconds;
    /* Whoever begins to wait just after a wake-up may miss the commits of the quiet time that
     * follows it, and looks again when that is over. Nobody who waits for longer can: a commit
     * without a wake-up has one within the quiet time before it, which would have been his. */
    int64_t patience = INT64_C(2) * MC_WAKE_QUIET_NS;
    for (;;) {
        int64_t left = end - mc_clock_ns();
        if (shm_load_acquire(word) != generation) {
            return true;
        }
        if (left <= 0) {
            return false;
        }
        /* little-endian: the low half comes first */
        mc_futex_wait(word, (uint32_t)generation, left < patience ? left : patience);
        patience = INT64_MAX;
    }
}

const struct mc_superblock *mc_map_superblock(const struct mc_map *map)
{
    return &map->superblock;
}

void mc_map_report(const struct mc_map *map, struct mc_loader_report *out)
{
    struct mc_report slot;
    struct mc_space space = map_space(map);
    mc_report_read(&space, &slot);
    *out = (struct mc_loader_report){.confirmed_at = slot.confirmed_at,
                                     .confirmed_boot = slot.confirmed_boot,
                                     .running = slot.running != 0,
                                     .following = (slot.flags & MC_REPORT_FOLLOWING) != 0,
                                     .pid = slot.pid,
                                     .position_at = slot.position_at,
                                     .events = slot.events,
                                     .disconnects = slot.disconnects,
                                     .counts_len = slot.counts_len};
    if (slot.counts_len > sizeof out->counts) { /* whoever wrote that wrote no counts */
        out->counts_len = 0;
    }
    memcpy(out->counts, slot.counts, sizeof out->counts);
    memcpy(out->boot_id, slot.boot_id, sizeof out->boot_id);
    memcpy(out->state, slot.state, sizeof out->state - 1);
    memcpy(out->source, slot.source, sizeof out->source - 1);
    memcpy(out->error, slot.error, sizeof out->error - 1);
}

/* From a moment that a file names to now. */
static int64_t passed_since(int64_t then, int64_t now)
{
    int64_t passed;
    return __builtin_sub_overflow(now, then, &passed) ? INT64_MAX : passed;
}

int64_t mc_map_age(const struct mc_map *map, const struct mc_loader_report *report,
                   int64_t published_at)
{
    static const uint8_t unknown[sizeof map->boot_id];
    int64_t at = report->confirmed_at;
    bool comparable = at != 0 && memcmp(map->boot_id, unknown, sizeof unknown) != 0 &&
                      memcmp(map->boot_id, report->boot_id, sizeof report->boot_id) == 0;
    if (comparable && !MC_MUTANT_IS(310)) { /* 310: whoever sets the clock sets the age */
        int64_t age = passed_since(report->confirmed_boot, mc_boot_us());
        if (age >= 0) { /* else a time namespace has another offset than the loader's */
            return age;
        }
    }
    int64_t age = passed_since(at != 0 ? at : published_at, mc_time_us());
    return age > 0 ? age : 0;
}

enum mc_loader mc_map_loader(const struct mc_map *map)
{
    struct mc_loader_report status;
    if (mc_region_is_locked(&map->region)) {
        return MC_LOADER_ALIVE;
    }
    mc_map_report(map, &status);
    return status.running ? MC_LOADER_DEAD : MC_LOADER_NONE;
}

/* ---- view ---- */

enum mc_status mc_root_read(const struct mc_space *space, const struct mc_superblock *superblock,
                            uint64_t generation, struct mc_root *out, struct mc_error *err)
{
    assert(superblock->ring_slots > 0);
    uint64_t slot = generation % superblock->ring_slots;
    shm_read(out, space->base + MC_RING_OFFSET + slot * sizeof *out, sizeof *out);
    if (out->generation != generation || generation > MC_GENERATION_MAX ||
        out->checksum != mc_checksum(out, offsetof(struct mc_root, checksum))) {
        return mc_fail(err, MC_CORRUPT,
                       "the root of generation %llu is damaged: recreate the cache",
                       (unsigned long long)generation);
    }
    return MC_OK;
}

void mc_view_lose(const struct mc_view *view)
{
    if (view->map != NULL && !MC_MUTANT_IS(308)) { /* 308: and the next view is opened as ever */
        mc_region_lose(&view->map->region);
    }
}

/* Whether everything that the root may refer to is inside the file as it is now. */
static enum mc_status view_fits(struct mc_map *map, const struct mc_root *root,
                                struct mc_error *err)
{
    if (root->file_size < MC_MAP_MIN || root->file_size % MC_GRANULE != 0) {
        return mc_fail(err, MC_CORRUPT, "the cache's root is damaged: recreate the cache");
    }
    if (root->file_size > map->region.file_size) {
        mc_region_measure(&map->region);
    }
    if (root->file_size > map->region.file_size || root->file_size > map->region.map_size) {
        return mc_fail(err, MC_CORRUPT,
                       "the cache file was truncated to %llu of %llu bytes: recreate the cache",
                       (unsigned long long)map->region.file_size,
                       (unsigned long long)root->file_size);
    }
    return MC_OK;
}

enum mc_status mc_view_open(struct mc_map *map, struct mc_view *out, struct mc_error *err)
{
    struct mc_space space = map_space(map);
    for (int attempt = 0; attempt < VIEW_ATTEMPTS; attempt++) {
        uint64_t generation = shm_load_acquire(&mc_control_of(&space)->commit);
        *out = (struct mc_view){.map = map,
                                .control = mc_control_of(&space),
                                .tail = mc_tail_mark(&space, MC_MAP_MIN),
                                .space = space};
        memcpy(out->hash_secret, map->superblock.hash_secret, sizeof out->hash_secret);
        out->arena_offset = map->superblock.arena_offset;
        out->log = mc_superblock_log(&map->superblock);
        if (mc_region_is_lost(&map->region)) {
            return mc_fail(err, MC_CORRUPT,
                           "the cache file was truncated while it was in use: let the "
                           "loader recreate it");
        }
        if (generation == 0) {
            return mc_fail(err, MC_NOT_READY, "the loader has not published anything yet");
        }
        if (!map->of_this_boot) {
            map->of_this_boot =
                mc_boot_is_current(&space, &map->superblock, map->boot_id, generation);
        }
        if (!map->of_this_boot) {
            return mc_fail(err, MC_NOT_READY,
                           "the machine was restarted since the cache was written: it is served "
                           "again as soon as a loader has verified it");
        }
        enum mc_status status = mc_root_read(&space, &map->superblock, generation, &out->root, err);
        out->root.generation = generation; /* what validity is judged by */
        if (mc_view_kept(out) && status == MC_OK) {
            status = view_fits(map, &out->root, err);
            out->space.limit = out->root.file_size;
            if (status == MC_OK) {
                out->tail = mc_tail_mark(&space, out->root.file_size);
            }
        }
        if (status == MC_OK ? mc_view_valid(out) : mc_view_kept(out)) {
            assert(status != MC_OK || out->space.limit <= map->region.map_size);
            return status;
        }
        shm_fence_acquire(); /* the horizon that was seen is behind the commit word that is read
                                next */
    }
    uint64_t horizon = mc_horizon(&space); /* it never passes the commit word, which only rises */
    if (horizon > mc_commit_word(&space)) {
        return mc_fail(err, MC_CORRUPT,
                       "the cache's control words are damaged: recreate the cache");
    }
    return mc_fail(err, MC_EXPIRED, "the loader commits faster than this process can follow");
}

static enum mc_status record_read(const struct mc_hit *hit, struct mc_collection *out)
{
    struct mc_collection_record record;
    if (hit->value_len != sizeof record) {
        return MC_CORRUPT;
    }
    shm_read(&record, hit->value, sizeof record);
    *out = (struct mc_collection){.root = record.root,
                                  .count = record.count,
                                  .content = record.content,
                                  .created = record.created,
                                  .changed = MC_MUTANT_IS(314) ? record.created /* 314: ever */
                                                               : hit->birth};
    return MC_OK;
}

enum mc_status mc_view_collection(const struct mc_view *view, const char *name, size_t len,
                                  struct mc_collection *out)
{
    struct mc_hit hit;
    struct mc_key key = {.type = MC_KEY_NAME, .len = (uint16_t)len, .data = (const uint8_t *)name};
    *out = (struct mc_collection){.changed = view->root.generation};
    if (len > MC_NAME_MAX) {
        return MC_ABSENT;
    }
    key.hash = mc_view_hash(view, &key);
    enum mc_status status = mc_find(view, view->root.catalogue, &key, &hit);
    if (status == MC_OK) {
        status = record_read(&hit, out);
        if (out->changed > view->root.generation && /* damaged, or hostile: nothing is known */
            !MC_MUTANT_IS(315)) {                   /* 315: as it says */
            out->changed = view->root.generation;
        }
    }
    assert(out->changed <= view->root.generation);
    if (status == MC_ABSENT && MC_MUTANT_IS(305)) { /* 305: absent without validation */
        return status;
    }
    return mc_view_settle(view, status);
}

enum mc_status mc_walk_entry(struct mc_walk *walk, struct mc_hit *out)
{
    struct mc_item item;
    for (;;) {
        enum mc_status status = mc_walk_next(walk, &item);
        if (status != MC_OK) {
            return status;
        }
        if (item.kind == MC_ITEM_ENTRY) {
            *out = item.hit;
            return MC_OK;
        }
    }
}

enum mc_status mc_hit_collection(const struct mc_hit *hit, struct mc_collection *out)
{
    if (hit->key_type == MC_KEY_NAME) {
        return record_read(hit, out);
    }
    bool known = hit->key_type == MC_KEY_STATE || hit->key_type == MC_KEY_INDEX ||
                 MC_MUTANT_IS(309); /* 309: whatever it is */
    return known ? MC_ABSENT : MC_CORRUPT;
}

enum mc_status mc_find_state(const struct mc_view *view, struct mc_hit *out)
{
    struct mc_key key = {.type = MC_KEY_STATE, .data = key.inline_data};
    key.hash = mc_view_hash(view, &key);
    return mc_find(view, view->root.catalogue, &key, out);
}

/* ---- the loader's half ---- */

void mc_raise_horizon(const struct mc_space *space, uint64_t horizon)
{
    struct mc_control *control = mc_control_of(space);
    if (MC_MUTANT_IS(300)) { /* 300: blocks are reused without a word */
        return;
    }
    if (horizon > shm_load(&control->horizon)) {
        shm_store_release(&control->horizon, horizon); /* after the commit word that it may equal */
    }
    /* Also when it stands high enough already: a killed loader may not have come to its fence.
     * Pairs with the acquire fence of mc_view_valid. */
    shm_fence_release();
}

uint64_t mc_horizon(const struct mc_space *space)
{
    return shm_load_acquire(&mc_control_of(space)->horizon);
}

uint64_t mc_commit_word(const struct mc_space *space)
{
    return shm_load_acquire(&mc_control_of(space)->commit);
}

void mc_publish(const struct mc_space *space, const struct mc_superblock *superblock,
                struct mc_root *root)
{
    struct mc_control *control = mc_control_of(space);
    uint64_t slots = superblock->ring_slots, slot = root->generation % slots;
    uint64_t first = superblock->base_generation + 1; /* no older one was ever in this ring */
    assert(slots >= 2 && root->generation > 0 && root->generation <= MC_GENERATION_MAX);
    if (MC_MUTANT_IS(303)) { /* 303: as if the file had had all generations: horizon > commit */
        first = 1;
    }
    if (root->generation >= first + slots &&
        !MC_MUTANT_IS(301)) { /* 301: a root overwritten in use */
        mc_raise_horizon(space, root->generation - slots + (MC_MUTANT_IS(304) ? 0 : 1)); /* 304 */
    }
    root->checksum = mc_checksum(root, offsetof(struct mc_root, checksum));
    if (MC_MUTANT_IS(302)) { /* 302: commit before root */
        shm_store_release(&control->commit, root->generation);
    }
    shm_write(space->base + MC_RING_OFFSET + slot * sizeof *root, root, sizeof *root);
    shm_store_release(&control->commit,
                      root->generation); /* pairs with the acquire of mc_view_open */
}

void mc_wake(const struct mc_space *space)
{
    mc_futex_wake(&mc_control_of(space)->commit);
}

void mc_tail_write(const struct mc_space *space, uint64_t end)
{
    assert(end >= MC_MAP_MIN && end % MC_GRANULE == 0);
    shm_store(mc_tail_mark(space, end), MC_TAIL_MARK);
}

/* ---- reboots ---- */

static uint32_t checkpoint_checksum(const struct mc_superblock *superblock, uint64_t generation)
{
    uint8_t bytes[sizeof superblock->file_id + sizeof generation];
    memcpy(bytes, superblock->file_id, sizeof superblock->file_id);
    memcpy(bytes + sizeof superblock->file_id, &generation, sizeof generation);
    return mc_checksum(bytes, sizeof bytes);
}

bool mc_boot_is_current(const struct mc_space *space, const struct mc_superblock *superblock,
                        const uint8_t boot_id[16], uint64_t generation)
{
    struct mc_control control;
    shm_read(&control, space->base + MC_CONTROL_OFFSET, sizeof control);
    if (MC_MUTANT_IS(307)) { /* 307: whatever the machine went through */
        return true;
    }
    return memcmp(boot_id, control.boot_id, sizeof control.boot_id) == 0 ||
           (control.checkpoint == generation &&
            control.checkpoint_checksum == checkpoint_checksum(superblock, generation));
}

void mc_boot_confirm(const struct mc_space *space, const uint8_t boot_id[16])
{
    shm_write(space->base + MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id), boot_id, 16);
}

void mc_checkpoint_mark(const struct mc_space *space, const struct mc_superblock *superblock,
                        uint64_t generation)
{
    struct mc_control *control = mc_control_of(space);
    uint32_t checksum = checkpoint_checksum(superblock, generation);
    shm_write(space->base + MC_CONTROL_OFFSET + offsetof(struct mc_control, checkpoint_checksum),
              &checksum, sizeof checksum);
    shm_store(&control->checkpoint, generation);
}

uint64_t mc_checkpoint(const struct mc_space *space)
{
    return shm_load(&mc_control_of(space)->checkpoint);
}
