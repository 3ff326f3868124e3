/* publish.c - generations and reports: what a loader makes visible.
 *
 * A generation is published by one store of the commit word, after everything that it refers to. A
 * report and a position move without a generation: slots.c writes them into one of two slots.
 */
#include "publish.h"

#include <assert.h>
#include <string.h>

#include "bell.h"
#include "changes.h"
#include "make_room.h"
#include "mutant.h"
#include "slots.h"
#include "writer_state.h"

/* ---- generations ---- */

/* Where the file ends within a huge page there is no fault, and only its last bytes tell. */
enum mc_status mc_writer_whole(const struct mc_writer *writer, struct mc_error *err)
{
    const struct mc_space *space = &writer->table.space;
    bool ends = shm_load(mc_tail_mark(space, mc_root_end(&writer->root))) == MC_TAIL_MARK &&
                shm_load(mc_tail_mark(space, space->limit)) == MC_TAIL_MARK;
    if (mc_region_is_lost(&writer->region) || (!ends && !MC_MUTANT_IS(620))) { /* 620: unseen */
        return mc_fail(err, MC_CORRUPT, MC_TRUNCATED_TEXT);
    }
    return MC_OK;
}

enum mc_status mc_writer_publish(struct mc_writer *writer, struct mc_root *root,
                                 struct mc_error *err)
{
    struct mc_space *space = &writer->table.space;
    if (writer->root.generation >= MC_GENERATION_MAX) {
        return mc_fail(err, MC_LIMIT, "the cache has had %llu generations: recreate it",
                       (unsigned long long)MC_GENERATION_MAX);
    }
    enum mc_status status = mc_writer_whole(writer, err);
    if (status != MC_OK) {
        return status;
    }
    uint64_t end = mc_root_end(&writer->root);
    assert(space->limit >= end);                         /* a file never becomes smaller */
    assert(root->generation == writer->root.generation); /* made from the one before */
    if (mc_arena_prepare(&writer->arena, 1) != MC_OK) {
        return mc_no_memory(err);
    }
    if (space->limit != end) { /* the generation that ends here is the last that needs its tail */
        mc_arena_release(&writer->arena, end - sizeof(struct mc_tail), sizeof(struct mc_tail));
    }
    if (mc_arena_prepare_commit(&writer->arena) != MC_OK) {
        return mc_no_memory(err);
    }
    if (mc_checkpoint(space) != 0 && !MC_MUTANT_IS(603)) { /* 603: the mark stays */
        /* from here on the disk may hold half a generation */
        mc_checkpoint_mark(space, &writer->superblock, 0);
        status = mc_region_sync(&writer->region, writer->superblock.arena_offset, err);
        if (status != MC_OK) {
            return status;
        }
    }
    root->generation = writer->root.generation + 1;
    root->file_size = space->limit;
    root->published_at = mc_time_us();
    root->free = mc_arena_free(&writer->arena);
    root->used = space->limit - root->free - mc_arena_retired(&writer->arena);
    root->largest_free = mc_buddy_largest(writer->arena.buddy) * MC_GRANULE;
    root->huge = writer->huge;
    assert(root->used + root->free <= root->file_size && root->file_size % MC_GRANULE == 0);
    mc_changes_log(writer, root);
    mc_publish(space, &writer->superblock, root);
    int64_t now = mc_clock_ns(); /* not earlier: a wake-up is left out for what came before it */
    if (now - writer->woken_at >= MC_WAKE_QUIET_NS) { /* see mc_map_wait for those not woken */
        mc_wake(space);
        mc_bell_ring(MC_MUTANT_IS(659) ? MC_BELL_NONE : writer->bell); /* 659: a futex is enough */
        writer->woken_at = now;
    }
    writer->root = *root;
    mc_arena_commit(&writer->arena, root->generation, now);
    mc_writer_reclaim_some(writer, now);
    return MC_OK;
}

enum mc_status mc_writer_checkpoint(struct mc_writer *writer, struct mc_error *err)
{
    enum mc_status status = mc_writer_whole(writer, err);
    assert(writer->region.file_size >= writer->superblock.arena_offset);
    if (status == MC_OK) {
        status = mc_region_sync(&writer->region, writer->region.file_size, err);
    }
    if (status == MC_OK) {
        mc_checkpoint_mark(&writer->table.space, &writer->superblock, writer->root.generation);
        status = mc_region_sync(&writer->region, writer->superblock.arena_offset, err);
    }
    return status;
}

/* ---- reports ---- */

void mc_writer_running(struct mc_writer *writer, bool running)
{
    mc_report_read(&writer->table.space, &writer->report);
    mc_position_read(&writer->table.space, &writer->position);
    writer->report.running = running;
    writer->report.flags &= ~MC_REPORT_FOLLOWING; /* not yet, and no more */
    writer->report.pid = mc_process();
    mc_report_write(&writer->table.space, &writer->report);
}

void mc_writer_inherit(struct mc_writer *writer, const struct mc_writer *old)
{
    struct mc_position position;
    mc_report_read(&old->table.space, &writer->report);
    if (writer->report.sequence != 0) {
        mc_report_write(&writer->table.space, &writer->report);
    }
    mc_position_read(&old->table.space, &position);
    if (position.length != 0 && mc_position_is_of(&position, &old->root)) {
        (void)mc_writer_mark(writer, position.bytes, position.length, NULL);
    }
}

void mc_field_text(char *field, size_t size, const char *text)
{
    assert(size > 0 && text != NULL);
    size_t len = strlen(text);
    if (len >= size) {
        len = mc_whole_characters(text, size - 1);
    }
    memset(field, 0, size);
    memcpy(field, text, len);
}

static void report_stream(struct mc_report *report, const struct mc_report_stream *stream)
{
    if (stream->following >= 0) {
        report->flags &= ~MC_REPORT_FOLLOWING;
        report->flags |= stream->following > 0 ? MC_REPORT_FOLLOWING : 0;
    }
    if (stream->position_at_us >= 0) {
        report->position_at = stream->position_at_us;
    }
    if (stream->events >= 0) {
        report->events = (uint64_t)stream->events;
    }
    if (stream->disconnects >= 0) {
        report->disconnects = (uint64_t)stream->disconnects;
    }
    if (stream->loads != NULL || stream->errors != NULL) {
        mc_counts_update(report->counts, &report->counts_len, stream->loads, stream->errors);
    }
}

void mc_writer_report(struct mc_writer *writer, const char *state, const char *error,
                      const char *source, int64_t confirmed_at_us,
                      const struct mc_report_stream *stream)
{
    struct mc_report *report = &writer->report;
    if (state != NULL) {
        mc_field_text(report->state, sizeof report->state, state);
    }
    if (error != NULL) {
        mc_field_text(report->error, sizeof report->error, error);
    }
    if (source != NULL) {
        mc_field_text(report->source, sizeof report->source, source);
    }
    if (confirmed_at_us >= 0) {
        report->confirmed_at = confirmed_at_us;
        report->confirmed_boot = mc_boot_of(confirmed_at_us);
        memcpy(report->boot_id, writer->boot_id, sizeof report->boot_id);
    }
    if (stream != NULL) {
        report_stream(report, stream);
    }
    mc_report_write(&writer->table.space, report);
}

/* ---- positions ---- */

enum mc_status mc_writer_mark(struct mc_writer *writer, const void *bytes, size_t len,
                              struct mc_error *err)
{
    struct mc_position *position = &writer->position;
    if (len > MC_POSITION_MAX) {
        return mc_fail(err, MC_LIMIT, "the position has %zu bytes, the limit is %u", len,
                       MC_POSITION_MAX);
    }
    enum mc_status status = mc_writer_whole(writer, err);
    if (status != MC_OK) {
        return status;
    }
    position->generation = writer->root.generation;
    position->published_at = writer->root.published_at;
    position->length = (uint32_t)len;
    memset(position->bytes, 0, sizeof position->bytes);
    memcpy(position->bytes, bytes, len);
    mc_position_write(&writer->table.space, position);
    return MC_OK;
}

size_t mc_writer_position(const struct mc_writer *writer, const uint8_t **bytes)
{
    *bytes = writer->position.bytes;
    return mc_position_is_of(&writer->position, &writer->root) ? writer->position.length : 0;
}
