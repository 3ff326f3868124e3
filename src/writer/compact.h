/* compact.h - makes large free blocks of small ones, so that a cache is not full while there is
 * room. */
#ifndef MMAPCACHE_COMPACT_H
#define MMAPCACHE_COMPACT_H

#include "writer_state.h"

/* There is an entry of so many bytes: blocks of its size will be needed. */
static inline void mc_compact_note(struct mc_writer *writer, uint64_t bytes)
{
    if (bytes > writer->compaction.largest) {
        writer->compaction.largest = bytes;
    }
}

/* The open batch is about to be published: the next one may need as much room as it gave up. */
static inline void mc_compact_given(struct mc_writer *writer)
{
    uint64_t moved = writer->compaction.move.bytes + writer->compaction.keys.bytes;
    uint64_t bytes = writer->arena.scopes[MC_SCOPE_BATCH].retired_bytes;
    if (!writer->compaction.alone) {
        writer->compaction.given = bytes > moved ? bytes - moved : 0;
    }
}

/* Whether the next commit will have something to do. */
bool mc_compact_is_due(const struct mc_writer *writer);

/* With the open batch's commit, before its collections are stored: clears some more of a site, or
 * begins with one. Moves nothing in a batch that changed nothing, but for one of its own
 * (compaction.alone). Where there is no room or no memory for it, it is put off, which is no
 * failure. MC_CORRUPT. */
enum mc_status mc_compact_some(struct mc_writer *writer, struct mc_error *err);

#endif
