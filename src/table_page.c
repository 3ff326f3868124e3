/* table_page.c - see table_page.h. */
#include "table_page.h"

#include <assert.h>

#include "arena.h"

/* Slots that a page of these lines holds before it grows: 6.5 of 8 a line. */
unsigned mc_lines_capacity(unsigned lines)
{
    assert(lines <= MC_PAGE_LINES_MAX);
    return lines * 13 / 2;
}

/* The fewest lines for `count` slots. */
unsigned mc_lines_for(unsigned count)
{
    assert(count <= MC_PAGE_SLOTS_MAX + 1); /* a full page and one that does not fit */
    return (count * 2 + 12) / 13;
}

/* Lines for a page that grows to hold `count`: an eighth more,
 * so that it does not grow at every insert. */
unsigned mc_lines_grown(unsigned count, unsigned most)
{
    assert(count > 0 && most <= MC_PAGE_LINES_MAX);
    unsigned lines = mc_lines_for(count);
    lines += lines / 8;
    return lines < most ? lines : most;
}

void mc_page_begin(struct mc_page *page, unsigned lines, unsigned depth)
{
    assert(lines > 0 && lines <= MC_PAGE_LINES_MAX && depth <= MC_TAG_BITS);
    page->lines = lines;
    page->depth = depth;
    page->count = 0;
    for (unsigned i = 0; i < lines * MC_LINE_SLOTS; i++) {
        page->slots[i] = MC_UNUSED;
    }
}

/* The used slots of a page in the map, in no order, and how many they are. MC_CORRUPT: they are not
 * what the reference says, as in a file that was truncated. */
enum mc_status mc_page_gather(const struct mc_table_writer *writer, uint64_t ref,
                              uint64_t slots[MC_PAGE_SLOTS_MAX], unsigned *gathered,
                              struct mc_error *err)
{
    unsigned count = 0;
    unsigned total = ref_size(ref) * MC_LINE_SLOTS;
    assert(!ref_is_node(ref) && total <= MC_PAGE_SLOTS_MAX);
    assert(ref_offset(ref) + ref_bytes(ref) <= writer->space.limit);
    shm_read(slots, writer->space.base + ref_offset(ref), (size_t)total * 8);
    for (unsigned i = 0; i < total; i++) {
        if (slots[i] == 0) {
            return mc_table_damaged(err);
        }
        if (slots[i] != MC_UNUSED) {
            slots[count++] = slots[i];
        }
    }
    *gathered = count;
    return count == ref_used(ref) ? MC_OK : mc_table_damaged(err);
}

/* Writes a private page to a new block. */
static enum mc_status page_write(struct mc_table_writer *writer, const struct mc_page *page,
                                 uint64_t *offset, struct mc_error *err)
{
    size_t bytes = (size_t)page->lines * MC_LINE_BYTES;
    assert(page->count > 0); /* an empty page is no page */
    enum mc_status status = mc_arena_alloc_small(writer->arena, bytes, MC_LINE_BYTES, offset, err);
    if (status == MC_OK) {
        assert(*offset % MC_LINE_BYTES == 0 && *offset + bytes <= writer->space.limit);
        shm_write(writer->space.base + *offset, page->slots, bytes);
    }
    return status;
}

enum mc_status mc_page_write_all(struct mc_table_writer *writer, struct mc_page *page,
                                 const uint64_t *slots, unsigned count, uint64_t *offset,
                                 struct mc_error *err)
{
    assert(page->count == 0 && count > 0 && count <= page->lines * MC_LINE_SLOTS);
    uint8_t used[MC_PAGE_LINES_MAX] = {0}; /* slots of each line */
    for (unsigned i = 0; i < count; i++) {
        uint32_t line = first_line(slot_tag(slots[i]), page->depth, page->lines);
        while (used[line] == MC_LINE_SLOTS) {
            line = line + 1 == page->lines ? 0 : line + 1;
        }
        page->slots[line * MC_LINE_SLOTS + used[line]++] = slots[i];
    }
    page->count = count;
    return page_write(writer, page, offset, err);
}
