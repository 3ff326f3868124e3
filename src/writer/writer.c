/* writer.c - opening a cache for writing, and replacing its file.
 *
 * Opening is recovery: take the lock, walk everything that the current root refers to and mark
 * it in a new arena. What a killed loader left half-written is referred to by nothing, hence free.
 * The horizon is raised to the current generation first, since blocks that only older ones refer to
 * are free too.
 *
 * A file of another maximum size is never changed in place: its successor is built under a
 * temporary name, renamed over the path,
 * and then the old file gets a last generation that says "superseded".
 */
#include "writer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "bell.h"
#include "changes.h"
#include "check.h"
#include "indexes.h"
#include "make_room.h"
#include "mutant.h"
#include "place.h"
#include "publish.h"
#include "rebuild.h"
#include "rounds.h"
#include "succession.h"
#include "writer_state.h"

#define TEMPORARY_SUFFIX ".new"

/* ---- creating ---- */

/* The maximum of a new file. */
static uint64_t new_size(const struct mc_writer *writer)
{
    return writer->options.max_size != 0 ? writer->options.max_size : MC_MAX_SIZE_DEFAULT;
}

/* Gives the writer's empty region a first extent and a superblock, and maps it. */
static enum mc_status format(struct mc_writer *writer, uint64_t max_size, uint64_t base_generation,
                             struct mc_error *err)
{
    struct mc_region *region = &writer->region;
    uint32_t ring_slots = writer->options.ring_slots;
    uint32_t log_size = writer->options.log_size != MC_LOG_NONE
                            ? mc_changes_log_size(max_size, writer->options.log_size)
                            : 0;
    uint32_t history_slots = writer->options.history != MC_HISTORY_NONE
                                 ? mc_rounds_slots(max_size, writer->options.history)
                                 : 0;
    uint64_t roots_end = MC_RING_OFFSET + (uint64_t)ring_slots * sizeof(struct mc_root);
    uint64_t log_end = roots_end + log_size;
    assert(max_size >= MC_MAP_MIN && max_size <= MC_MAP_MAX && max_size % MC_EXTENT == 0);
    struct mc_superblock superblock = {
        .version = MC_VERSION,
        .byte_order = MC_BYTE_ORDER,
        .max_size = max_size,
        .arena_offset = log_end + history_slots * sizeof(struct mc_round_record),
        .granule = MC_GRANULE,
        .ring_slots = ring_slots,
        .created_at = mc_time_us(),
        .base_generation = base_generation,
        .log_offset = log_size != 0 ? roots_end : 0,
        .log_size = log_size,
        .history_slots = history_slots,
        .history_offset = history_slots != 0 ? log_end : 0,
    };
    memcpy(superblock.magic, MC_MAGIC, sizeof superblock.magic);
    enum mc_status status = mc_random(superblock.hash_secret, sizeof superblock.hash_secret, err);
    if (status == MC_OK) {
        status = mc_random(superblock.file_id, sizeof superblock.file_id, err);
    }
    if (status == MC_OK) {
        status = mc_region_map(region, max_size, err);
    }
    if (status == MC_OK) {
        status = mc_region_grow(region, writer->path, MC_EXTENT, &writer->options.collapse,
                                &writer->huge, err);
    }
    if (status != MC_OK) {
        return status;
    }
    superblock.checksum = mc_checksum(&superblock, offsetof(struct mc_superblock, checksum));
    struct mc_space space = {.base = region->base, .limit = region->file_size};
    mc_boot_confirm(&space, writer->boot_id);
    mc_tail_write(&space, space.limit);
    shm_write(region->base, &superblock, sizeof superblock);
    writer->superblock = superblock;
    return MC_OK;
}

static enum mc_status check_options(struct mc_writer_options *options, struct mc_error *err)
{
    if (options->ring_slots == 0) {
        options->ring_slots = MC_RING_SLOTS;
    }
    if (options->max_size == 0) {
        return MC_OK;
    }
    if (options->max_size < MC_MAP_MIN || options->max_size > MC_MAP_MAX) {
        return mc_fail(err, MC_LIMIT, "max_size is %llu bytes and must be between %llu and %llu",
                       (unsigned long long)options->max_size, MC_MAP_MIN, MC_MAP_MAX);
    }
    options->max_size = mc_whole_extents(options->max_size);
    return MC_OK;
}

/* ---- opening ---- */

/* After a reboot, everything is verified before anybody may read it again. */
static enum mc_status verify_after_reboot(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_check_report report;
    struct mc_view view;
    uint64_t generation = writer->root.generation;
    /* before the first generation there is nothing to verify: it will be of this boot */
    bool nothing = mc_commit_word(&writer->table.space) == 0;
    if (nothing && MC_MUTANT_IS(618)) { /* 618: a file of an earlier boot stays one */
        return MC_OK;
    }
    if (nothing || mc_boot_is_current(&writer->table.space, &writer->superblock, writer->boot_id,
                                      generation)) {
        mc_boot_confirm(&writer->table.space, writer->boot_id); /* a checkpoint's mark goes */
        return MC_OK;
    }
    mc_writer_view(writer, &view);
    view.log.size = 0; /* which may be half written: no reason to refuse the rest */
    enum mc_status status = mc_check(&view, &report, err);
    if (status == MC_OK) {
        if (!MC_MUTANT_IS(655)) { /* 655: half written, it goes on */
            mc_changes_restart(writer);
        }
        mc_boot_confirm(&writer->table.space, writer->boot_id);
    }
    return status;
}

/* Takes up the file where its last loader left it; writer->region is mapped. */
static enum mc_status recover(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_space *space = &writer->table.space;
    uint64_t file_end = writer->region.file_size;
    *space = (struct mc_space){.base = writer->region.base, .limit = file_end};
    uint64_t generation = mc_commit_word(space);
    enum mc_status status = MC_OK;
    /* all of it: a damaged file may have been looked at before this one */
    writer->root = (struct mc_root){.generation = writer->superblock.base_generation};
    if (generation != 0) {
        status = mc_root_read(space, &writer->superblock, generation, &writer->root, err);
        if (!MC_MUTANT_IS(658)) { /* 658: the next root has what a later loader said of this one */
            memset(writer->root.reserved, 0, sizeof writer->root.reserved);
        }
    }
    if (status == MC_OK && mc_horizon(space) > generation) {
        status =
            mc_fail(err, MC_CORRUPT, "the cache's control words are damaged: recreate the cache");
    }
    uint64_t end = mc_root_end(&writer->root);
    if (status == MC_OK && (end < MC_MAP_MIN || end > file_end || end % MC_GRANULE != 0 ||
                            shm_load(mc_tail_mark(space, end)) != MC_TAIL_MARK)) {
        status = mc_fail(err, MC_CORRUPT, "the cache file was truncated: recreate the cache");
    }
    if (status == MC_OK) {
        status = verify_after_reboot(writer, err);
    }
    if (status != MC_OK) {
        return status;
    }
    if (generation != 0) {
        writer->huge = writer->root.huge;
    }
    space->limit = end;
    status = mc_writer_rebuild(writer, err);
    if (status != MC_OK) {
        return status;
    }
    /* before anything is reused, and not before all was found sound */
    if (!MC_MUTANT_IS(601)) { /* 601: a restart that does not raise */
        mc_raise_horizon(space, generation);
    }
    mc_changes_recover(writer);
    mc_rounds_recover(writer);
    mc_writer_end_at(writer, file_end);
    assert(space->limit == file_end && !writer->batch.open);
    return MC_OK;
}

/* On failure *out is NULL, or a writer for writer_free. */
static enum mc_status writer_new(const struct mc_writer_options *options, struct mc_writer **out,
                                 struct mc_error *err)
{
    struct mc_writer *writer = *out = calloc(1, sizeof *writer);
    if (writer == NULL) {
        return mc_no_memory(err);
    }
    writer->options = *options;
    writer->region.fd = -1;
    writer->bell = MC_BELL_NONE;
    return mc_boot_id(writer->boot_id, err);
}

void mc_writer_free(struct mc_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    mc_arena_destroy(&writer->arena);
    mc_region_close(&writer->region);
    free(writer->batch.replace.kept);
    free(writer->collections.items);
    free(writer->collections.index);
    mc_changes_destroy(writer);
    mc_indexes_destroy(writer);
    free(writer->compaction.names);
    mc_bell_close(writer->bell);
    free(writer->path);
    mc_lock_release(writer->lock); /* last: who waits for it must not find the file locked */
    free(writer);
}

static char *path_with(const char *path, const char *suffix)
{
    size_t len = strlen(path), extra = strlen(suffix) + 1;
    char *joined = malloc(len + extra);
    if (joined != NULL) {
        memcpy(joined, path, len);
        memcpy(joined + len, suffix, extra);
    }
    return joined;
}

/* Makes an empty cache under the temporary name and opens it in `writer`. */
static enum mc_status build(struct mc_writer *writer, const char *temporary, uint64_t max_size,
                            uint64_t base_generation, struct mc_error *err)
{
    mc_file_remove(temporary); /* a killed loader's; the lock is ours */
    enum mc_status status = mc_region_create(temporary, &writer->region, err);
    if (status != MC_OK) {
        return status;
    }
    status = mc_region_lock(&writer->region, temporary, err); /* nobody else can open it yet */
    if (status == MC_OK) {
        status = mc_region_set_mode(&writer->region, writer->options.mode, err);
    }
    if (status == MC_OK) {
        status = format(writer, max_size, base_generation, err);
    }
    if (status == MC_OK) {
        status = recover(writer, err);
    }
    if (status != MC_OK) {
        mc_file_remove(temporary);
    }
    return status;
}

/* Opens the file that is at path in `writer`. */
static enum mc_status attach(struct mc_writer *writer, const char *path, struct mc_error *err)
{
    enum mc_status status = mc_region_open(path, true, MC_OWNER_TRUSTED, &writer->region, err);
    if (status == MC_OK) {
        status = mc_region_lock(&writer->region, path, err);
        status = MC_MUTANT_IS(609) ? MC_OK : status; /* 609: only the lock file keeps others out */
    }
    if (status == MC_OK) {
        status = mc_superblock_read(&writer->region, &writer->superblock, path, err);
    }
    if (status == MC_OK) { /* what is behind is not ours */
        uint64_t size = writer->region.file_size, most = writer->superblock.max_size;
        writer->region.file_size = (size < most ? size : most) / MC_GRANULE * MC_GRANULE;
    }
    if (status == MC_OK) { /* a hole in the file would be a SIGBUS on a full file system */
        status = mc_region_fill(&writer->region, path, err);
    }
    if (status == MC_OK) {
        status = mc_region_map(&writer->region, writer->superblock.max_size, err);
    }
    return status == MC_OK ? recover(writer, err) : status;
}

/* ---- replacing ---- */

/* Puts a new file in the place of the one that `old` has open,
 * or of an unusable one (old is NULL). */
static enum mc_status replace_file(struct mc_writer *writer, struct mc_writer *old,
                                   uint64_t base_generation, struct mc_error *err)
{
    assert(writer->path != NULL);
    char *temporary = path_with(writer->path, TEMPORARY_SUFFIX);
    assert(old == NULL || old->region.base != NULL);
    if (temporary == NULL) {
        return mc_no_memory(err);
    }
    enum mc_status status = build(writer, temporary, new_size(writer), base_generation, err);
    if (status == MC_OK && old != NULL) {
        status = mc_succession_carry_over(old, writer, err);
        if (status != MC_OK) {
            mc_file_remove(temporary);
        } else if (!MC_MUTANT_IS(621)) { /* 621: nobody remembers */
            mc_writer_inherit(writer, old);
            mc_rounds_inherit(writer, old);
        }
    }
    if (status == MC_OK) {
        status = mc_file_rename(temporary, writer->path, err);
        if (status != MC_OK) {
            mc_file_remove(temporary);
        }
    }
    if (status == MC_OK && old != NULL) {
        mc_succession_end(old);
    }
    free(temporary);
    return status;
}

/* ---- public ---- */

/* The generation that a damaged file of ours was at, as far as that can be believed. */
static uint64_t last_generation(const struct mc_writer *writer)
{
    uint64_t generation = writer->region.base != NULL ? mc_commit_word(&writer->table.space) : 0;
    return generation < MC_GENERATION_MAX / 2 ? generation : 0;
}

enum mc_status mc_writer_successor(struct mc_writer *writer, struct mc_writer **out,
                                   struct mc_error *err)
{
    struct mc_writer *successor;
    enum mc_status status = writer_new(&writer->options, &successor, err);
    if (status == MC_OK && (successor->path = path_with(writer->path, "")) == NULL) {
        status = mc_no_memory(err);
    }
    if (status == MC_OK) {
        if (successor->options.max_size == 0) {
            successor->options.max_size = writer->superblock.max_size;
        }
        status = replace_file(successor, writer, writer->root.generation, err);
    }
    if (status != MC_OK) {
        mc_writer_free(successor);
        return status;
    }
    assert(successor->root.generation >= writer->root.generation);
    *out = successor;
    return MC_OK;
}

/* Replaces the writer's file by a successor with the same content, of the maximum size asked for.
 * On a failure the writer is as before. */
static enum mc_status succeed(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_writer *successor;
    enum mc_status status = mc_writer_successor(writer, &successor, err);
    if (status == MC_OK) { /* it moves into the caller's handle, which keeps the lock */
        struct mc_writer old = *writer;
        *writer = *successor;
        writer->lock = old.lock;
        writer->table.arena = &writer->arena;
        writer->arena.context = writer;
        old.lock = NULL;
        *successor = old;
        assert(writer->lock != NULL);
        mc_writer_free(successor);
    }
    return status;
}

/* What to do about the file at the path, the lock being held. */
static enum mc_status open_locked(struct mc_writer *writer, struct mc_error *err)
{
    enum mc_status status = attach(writer, writer->path, err);
    bool unusable = status == MC_FORMAT || status == MC_VERSION_DIFFERS || status == MC_CORRUPT;
    bool unwanted = status == MC_OK && writer->options.discard;
    unwanted = unwanted && !MC_MUTANT_IS(614); /* 614: a file that opens is never discarded */
    if (status == MC_NOT_READY || (unusable && writer->options.recreate) || unwanted) {
        uint64_t base = last_generation(writer);
        struct mc_region replaced = writer->region; /* keeps its lock until the new one is there */
        mc_arena_destroy(&writer->arena);
        writer->region = (struct mc_region){.fd = -1};
        writer->huge = 0;
        status = replace_file(writer, NULL, base, err);
        mc_region_close(&replaced);
        return status;
    }
    if (status != MC_OK) {
        return status;
    }
    if ((writer->options.max_size != 0 &&
         writer->options.max_size != writer->superblock.max_size) ||
        writer->region.overlaid) {
        return succeed(writer, err);
    }
    if (mc_lock_is_obstructed(writer->region.lock) && !MC_MUTANT_IS(610)) { /* 610: without it */
        status = succeed(writer, err);
        /* Where there is no room for two, the other lock has to do, and readers see no loader. */
        return status == MC_FULL ? MC_OK : status;
    }
    return MC_OK;
}

/* A successor that a loader was killed over takes room for nothing. Nobody builds one: the lock is
 * ours. */
static void remove_unfinished(const struct mc_writer *writer)
{
    char *temporary = path_with(writer->path, TEMPORARY_SUFFIX);
    if (temporary != NULL && !MC_MUTANT_IS(694)) { /* 694: it stays */
        mc_file_remove(temporary);
    }
    free(temporary);
}

/* Opens the bell and rings it: there may be another file at the path now. */
static enum mc_status open_bell(struct mc_writer *writer, struct mc_error *err)
{
    char *path = path_with(writer->path, MC_BELL_SUFFIX);
    if (path == NULL) {
        return mc_no_memory(err);
    }
    writer->bell = mc_bell_open(path, writer->region.fd);
    free(path);
    mc_bell_ring(writer->bell);
    return MC_OK;
}

enum mc_status mc_writer_open(const char *path, const struct mc_writer_options *options,
                              struct mc_writer **out, struct mc_error *err)
{
    struct mc_writer *writer;
    char *lock_path = path_with(path, MC_LOCK_SUFFIX);
    enum mc_status status = writer_new(options, &writer, err);
    if (status == MC_OK && (lock_path == NULL || (writer->path = path_with(path, "")) == NULL)) {
        status = mc_no_memory(err);
    }
    if (status == MC_OK) {
        status = check_options(&writer->options, err);
    }
    if (status == MC_OK) { /* a wrong path is left as it is, without a lock file beside it */
        status = mc_place_check(path, &writer->options, err);
    }
    if (status == MC_OK) {
        status = mc_lock_take(lock_path, &writer->lock, err);
    }
    if (status == MC_OK) {
        status = open_locked(writer, err);
    }
    if (status == MC_OK) {
        remove_unfinished(writer);
        status = open_bell(writer, err);
    }
    free(lock_path);
    if (status != MC_OK) {
        mc_writer_free(writer);
        return status;
    }
    assert(writer->lock != NULL && writer->region.base != NULL && !writer->batch.open);
    mc_writer_running(writer, true);
    *out = writer;
    return MC_OK;
}

enum mc_status mc_writer_open_anonymous(const struct mc_writer_options *options,
                                        struct mc_writer **out, struct mc_error *err)
{
    struct mc_writer *writer;
    enum mc_status status = writer_new(options, &writer, err);
    if (status == MC_OK) {
        status = check_options(&writer->options, err);
    }
    if (status == MC_OK) {
        status = mc_region_create_anonymous(&writer->region, err);
    }
    if (status == MC_OK) {
        status = format(writer, new_size(writer), 0, err);
    }
    if (status == MC_OK) {
        status = mc_region_seal(&writer->region, err);
    }
    if (status == MC_OK) {
        status = recover(writer, err);
    }
    if (status != MC_OK) {
        mc_writer_free(writer);
        return status;
    }
    mc_writer_running(writer, true);
    *out = writer;
    return MC_OK;
}

bool mc_writer_is_mine(const struct mc_writer *writer)
{
    return mc_lock_is_ours(writer->region.lock);
}

void mc_writer_close(struct mc_writer *writer)
{
    if (mc_writer_is_mine(writer) || MC_MUTANT_IS(619)) { /* 619: a child frees what it finds */
        mc_batch_abort(writer);
        mc_writer_running(writer, false);
        mc_writer_free(writer);
        return;
    }
    /* A child's copy. The fork may have come while a thread of the parent was changing it, so no
     * list in it can be trusted, nor what it says is allocated: its memory is left alone. The
     * mapping is not here, and the locks' descriptors are closed. */
    struct mc_region rest = {.fd = writer->region.fd};
    mc_region_close(&rest);
    mc_bell_close(writer->bell);
}

int mc_writer_fd(const struct mc_writer *writer)
{
    return writer->path == NULL ? writer->region.fd : -1;
}

void mc_writer_view(const struct mc_writer *writer, struct mc_view *out)
{
    assert(writer->region.base != NULL);
    *out = (struct mc_view){
        .control = mc_control_of(&writer->table.space),
        .tail = mc_tail_mark(&writer->table.space, mc_root_end(&writer->root)),
        .space = writer->table.space,
        .arena_offset = writer->superblock.arena_offset,
        .log = mc_superblock_log(&writer->superblock),
        .root = writer->root,
    };
    out->space.limit = mc_root_end(&writer->root);
    memcpy(out->hash_secret, writer->superblock.hash_secret, sizeof out->hash_secret);
}
