/* change_log.c - reading the ring of changes; see change_log.h for the protocol.
 *
 * Nothing that was copied is believed before the announcement was looked at: neither a length that
 * leads to the group before, nor the groups. What is believed then may still be a hostile file's:
 * each step back is at least a header, none leads out of the ring, and records are parsed within
 * the copy. A group has a checksum for the zeros of a file that is being truncated, and for
 * accidents.
 */
#include "change_log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "mutant.h"

#define CHECKED_FROM offsetof(struct mc_log_group, bytes)

/* ---- the ring ---- */

void mc_log_announce(const struct mc_space *space, uint64_t position)
{
    struct mc_control *control = mc_control_of(space);
    /* A killed loader may have announced more. The difference is small, and right around 2^64. */
    if ((int64_t)(position - shm_load(&control->log_written)) > 0) {
        shm_store(&control->log_written, position);
    }
    shm_fence_release(); /* also then: it may not have come to its fence */
}

uint64_t mc_log_announced(const struct mc_space *space)
{
    return shm_load(&mc_control_of(space)->log_written);
}

void mc_log_read(const struct mc_space *space, const struct mc_log *log, uint64_t position,
                 void *to, size_t len)
{
    uint64_t from = position & (log->size - 1);
    size_t first = len < log->size - from ? len : (size_t)(log->size - from);
    assert(len <= log->size);
    shm_read(to, space->base + log->offset + from, first);
    if (len > first) {
        shm_read((uint8_t *)to + first, space->base + log->offset, len - first);
    }
}

void mc_log_write(const struct mc_space *space, const struct mc_log *log, uint64_t position,
                  const void *from, size_t len)
{
    uint64_t to = position & (log->size - 1);
    size_t first = len < log->size - to ? len : (size_t)(log->size - to);
    assert(len <= log->size);
    shm_write(space->base + log->offset + to, from, first);
    if (len > first) {
        shm_write(space->base + log->offset, (const uint8_t *)from + first, len - first);
    }
}

/* Whether what was copied from `position` on is what was logged there: no more than a ring has been
 * announced since. */
static bool is_kept(const struct mc_view *view, uint64_t position)
{
    shm_fence_acquire(); /* pairs with the release fence of mc_log_announce */
    return mc_log_announced(&view->space) - position <= view->log.size;
}

/* ---- from generation to position ---- */

/* Goes back from the view's end to where the changes after `since` begin. MC_OK; MC_ABSENT: the
 * log begins at *start, which is later, or they are more than `most` bytes; MC_CORRUPT. */
static enum mc_status find_start(const struct mc_view *view, uint64_t since, uint64_t most,
                                 uint64_t *start)
{
    struct mc_log_group group;
    uint64_t end = view->root.log_end, generation = view->root.generation;
    uint32_t bytes = view->root.log_last;
    for (*start = end; bytes != 0;) {
        uint64_t at = *start - bytes;
        if (end - at > view->log.size) {
            return MC_ABSENT;
        }
        mc_log_read(&view->space, &view->log, at, &group, sizeof group);
        if (!is_kept(view, at) && !MC_MUTANT_IS(351)) { /* 351: wherever that leads */
            return MC_ABSENT;
        }
        if (mc_log_is_odd(bytes) || group.bytes != bytes || group.generation > generation) {
            return MC_CORRUPT;
        }
        if (group.generation <= since) {
            return MC_OK;
        }
        if (end - at > most) {
            return MC_ABSENT;
        }
        *start = at;
        if ((group.flags & MC_LOG_ALL) != 0) {
            return MC_OK; /* whatever was before */
        }
        generation = group.generation - 1;
        bytes = group.before;
    }
    return MC_ABSENT;
}

/* Copies [start, the view's end); MC_ABSENT when it was overwritten meanwhile. */
static enum mc_status copy_groups(const struct mc_view *view, uint64_t start,
                                  struct mc_changes *out)
{
    size_t len = (size_t)(view->root.log_end - start);
    assert(len <= view->log.size);
    if (len == 0) {
        return MC_OK;
    }
    out->bytes = malloc(len);
    if (out->bytes == NULL) {
        return MC_NOMEM;
    }
    mc_log_read(&view->space, &view->log, start, out->bytes, len);
    if (!is_kept(view, start) && !MC_MUTANT_IS(350)) { /* 350: whatever was copied */
        return MC_ABSENT;
    }
    out->len = len;
    return MC_OK;
}

enum mc_status mc_changes_open(const struct mc_view *view, uint64_t since, uint64_t most,
                               struct mc_changes *out)
{
    uint64_t start;
    *out = (struct mc_changes){0};
    if (since == view->root.generation) {
        return mc_view_settle(view, MC_OK);
    }
    if (view->log.size == 0 || since > view->root.generation) {
        return mc_view_settle(view, MC_ABSENT);
    }
    enum mc_status status = find_start(view, since, most, &start);
    if (status == MC_OK) {
        status = copy_groups(view, start, out);
    }
    status = mc_view_settle(view, status); /* zeros of a truncated file are no damage of the log */
    if (status != MC_OK) {
        mc_changes_close(out);
    }
    return status;
}

void mc_changes_close(struct mc_changes *changes)
{
    free(changes->bytes);
    *changes = (struct mc_changes){0};
}

/* ---- from bytes to changes ---- */

/* Enters the group at changes->end: MC_OK, MC_ABSENT, MC_CORRUPT. */
static enum mc_status enter_group(struct mc_changes *changes, struct mc_log_group *header)
{
    size_t left = changes->len - changes->end;
    changes->group = changes->end;
    if (left == 0) {
        return MC_ABSENT;
    }
    if (left < sizeof *header) {
        return MC_CORRUPT;
    }
    const uint8_t *group = changes->bytes + changes->group;
    memcpy(header, group, sizeof *header);
    if (mc_log_is_odd(header->bytes) || header->bytes > left ||
        header->checksum != mc_checksum(group + CHECKED_FROM, header->bytes - CHECKED_FROM)) {
        return MC_CORRUPT;
    }
    changes->at = changes->group + sizeof *header;
    changes->end = changes->group + header->bytes;
    changes->name = NULL;
    return MC_OK;
}

/* Whether nothing but the zeros that fill a group up is left of it. */
static bool is_over(const struct mc_changes *changes)
{
    for (size_t at = changes->at; at < changes->end; at++) {
        if (changes->bytes[at] != 0) {
            return false;
        }
    }
    return changes->end - changes->at < MC_LOG_ALIGN;
}

/* The record at changes->at, which is not the end of the group: MC_OK and a change; MC_ABSENT: it
 * names the collection of those that follow; MC_CORRUPT. */
static enum mc_status parse_record(struct mc_changes *changes, struct mc_change *out)
{
    struct mc_log_record record;
    size_t left = changes->end - changes->at;
    if (left < sizeof record) {
        return MC_CORRUPT;
    }
    memcpy(&record, changes->bytes + changes->at, sizeof record);
    const uint8_t *text = changes->bytes + changes->at + sizeof record;
    if (record.len > left - sizeof record) {
        return MC_CORRUPT;
    }
    changes->at += sizeof record + record.len;
    bool names = record.kind == MC_LOG_COLLECTION || record.kind == MC_LOG_WHOLE;
    if (names) {
        changes->name = (const char *)text;
        changes->name_len = record.len;
        out->kind = MC_CHANGE_COLLECTION;
    } else {
        out->kind = record.kind == MC_LOG_PUT ? MC_CHANGE_PUT : MC_CHANGE_DELETE;
        out->key = (struct mc_key){.type = record.type, .len = record.len, .data = text};
    }
    bool sound = names ? record.type == MC_KEY_NAME && record.len > 0 && record.len <= MC_NAME_MAX
                       : (record.kind == MC_LOG_PUT || record.kind == MC_LOG_DELETE) &&
                             record.type < MC_KEY_TYPES && record.len <= MC_KEY_MAX &&
                             changes->name != NULL;
    out->name = changes->name;
    out->name_len = changes->name_len;
    if (!sound) {
        return MC_CORRUPT;
    }
    return record.kind == MC_LOG_COLLECTION ? MC_ABSENT : MC_OK;
}

enum mc_status mc_changes_next(struct mc_changes *changes, struct mc_change *out)
{
    struct mc_log_group header;
    enum mc_status status;
    *out = (struct mc_change){0};
    do {
        while (is_over(changes)) {
            status = enter_group(changes, &header);
            if (status != MC_OK) {
                return status;
            }
            if ((header.flags & MC_LOG_ALL) != 0) {
                *out = (struct mc_change){.kind = MC_CHANGE_ALL, .generation = header.generation};
                changes->at = changes->end;
                return MC_OK;
            }
        }
        status = parse_record(changes, out);
    } while (status == MC_ABSENT);
    memcpy(&header, changes->bytes + changes->group, sizeof header);
    out->generation = header.generation;
    return status;
}

enum mc_status mc_changes_check(const struct mc_view *view)
{
    struct mc_changes changes = {0};
    struct mc_change change;
    uint64_t start;
    if (view->log.size == 0) {
        return MC_OK;
    }
    enum mc_status status = find_start(view, 0, MC_CHANGES_UNLIMITED, &start);
    if (status != MC_CORRUPT) {
        status = copy_groups(view, start, &changes);
    }
    while (status == MC_OK) {
        status = mc_changes_next(&changes, &change);
    }
    mc_changes_close(&changes);
    return mc_view_settle(view, status == MC_ABSENT ? MC_OK : status);
}
