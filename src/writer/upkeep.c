/* upkeep.c - see upkeep.h.
 *
 * A file that is to be smaller is never cut off: readers have it mapped, and what is live is
 * anywhere in it. Its successor is built beside it instead, as for another maximum size, and has
 * only what is live.
 */
#include "upkeep.h"

#include <assert.h>

#include "batch.h"
#include "bell.h"
#include "compact.h"
#include "make_room.h"
#include "mutant.h"
#include "publish.h"
#include "writer_state.h"

uint64_t mc_writer_in_use(const struct mc_writer *writer)
{
    const struct mc_arena *arena = &writer->arena;
    uint64_t held = mc_arena_held(arena, mc_clock_ns() - writer->options.retention_ns);
    held = MC_MUTANT_IS(695) ? 0 : held; /* 695: what was replaced is needed no more */
    return writer->table.space.limit - mc_arena_free(arena) - arena->queued + held;
}

/* Moves a little of what lies in the way of large blocks, by a commit of its own. What fails is put
 * off, or said by the next commit. */
static bool compact_ahead(struct mc_writer *writer)
{
    uint64_t generation = 0;
    if (!mc_compact_is_due(writer)) {
        return false;
    }
    enum mc_status status = mc_batch_begin(writer, NULL);
    assert(status == MC_OK);                       /* none is open */
    writer->compaction.alone = !MC_MUTANT_IS(696); /* 696: only commits with changes move */
    status = mc_batch_commit(writer, &generation, NULL);
    writer->compaction.alone = false;
    if (status != MC_OK) {
        mc_batch_abort(writer);
        writer->compaction.until = 0; /* the next commit meets it again, and says it */
    }
    return generation != 0;
}

bool mc_writer_tidy(struct mc_writer *writer)
{
    return !writer->batch.open && mc_writer_whole(writer, NULL) == MC_OK &&
           (mc_writer_grow_ahead(writer) || compact_ahead(writer));
}

enum mc_status mc_writer_shrink(struct mc_writer *writer, struct mc_writer **out,
                                struct mc_error *err)
{
    if (writer->path == NULL) {
        return mc_fail(err, MC_USAGE, "an anonymous cache cannot be replaced by a smaller one");
    }
    if (writer->batch.open) {
        return mc_fail(err, MC_USAGE, "a batch is open: end it before the file is replaced");
    }
    if (!mc_region_is_at(&writer->region, writer->path) && !MC_MUTANT_IS(693)) { /* 693: whose? */
        return mc_fail(err, MC_NOT_READY, "%s was removed or replaced: there is nothing to shrink",
                       writer->path);
    }
    enum mc_status status = mc_writer_successor(writer, out, err);
    if (status == MC_OK) {
        (*out)->lock = writer->lock;
        (*out)->bell = writer->bell;
        writer->lock = NULL;
        writer->bell = MC_BELL_NONE;
        mc_bell_ring((*out)->bell); /* there is another file at the path */
    }
    return status;
}
