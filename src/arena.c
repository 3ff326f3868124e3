/* arena.c - see arena.h.
 *
 * An extent is packed into one word: 36 bits of offset and 28 of size, both in granules, so that a
 * million retired documents wait in 8 MB. Young bits are set for every granule of an extent, which
 * is what lets a walk over words free them again without knowing where one block ends.
 */
#include "arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "mutant.h"
#include "words.h"

#define EXTENT_SHIFT 28
#define EXTENT_MASK ((UINT64_C(1) << EXTENT_SHIFT) - 1)
#define LINE_GRANULES (MC_LINE_BYTES / MC_GRANULE)
#define SMALL_GRANULES 1024u /* 16 KiB: the stretch that small blocks are cut from */
#define BULK_GRANULES 4096u  /* 64 KiB: the one for a load, */
#define BULK_PARTS 16u       /* which has room for so many of the largest entry that it is for */

static void retired_forget(struct mc_arena_scope *scope)
{
    words_clear(&scope->retired);
    scope->retired_bytes = 0;
}

/* ---- young bits ---- */

/* Bits [first, first + count) of one word. */
static uint64_t bits(unsigned first, unsigned count)
{
    return (count >= 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << first;
}

enum mc_status mc_bits_grow(uint64_t **bits, size_t *words, size_t needed)
{
    if (needed > *words) {
        size_t grown = *words * 2 > needed ? *words * 2 : needed;
        uint64_t *larger = realloc(*bits, grown * sizeof *larger);
        if (larger == NULL) {
            return MC_NOMEM;
        }
        memset(larger + *words, 0, (grown - *words) * sizeof *larger);
        *bits = larger;
        *words = grown;
    }
    return MC_OK;
}

static void bits_set(struct mc_arena_scope *scope, uint64_t offset, uint64_t granules)
{
    while (granules > 0) {
        uint64_t word = offset / 64;
        unsigned first = (unsigned)(offset % 64);
        unsigned count = granules < 64 - first ? (unsigned)granules : 64 - first;
        if (scope->young[word] == 0) {
            words_push(&scope->touched, word);
        }
        scope->young[word] |= bits(first, count);
        offset += count;
        granules -= count;
    }
}

static void bits_clear(struct mc_arena_scope *scope, uint64_t offset, uint64_t granules)
{
    while (granules > 0) {
        unsigned first = (unsigned)(offset % 64);
        unsigned count = granules < 64 - first ? (unsigned)granules : 64 - first;
        scope->young[offset / 64] &= ~bits(first, count);
        offset += count;
        granules -= count;
    }
}

/* Words of bits that an extent can touch. */
static size_t words_touched(uint64_t granules)
{
    return (size_t)(granules / 64) + 2;
}

/* Turns the list into bits; `more` words will be touched besides. */
static enum mc_status young_spill(struct mc_arena_scope *scope, uint64_t arena_granules,
                                  size_t more)
{
    enum mc_status status =
        mc_bits_grow(&scope->young, &scope->words, (size_t)(arena_granules / 64) + 1);
    for (unsigned i = 0; i < scope->few_count; i++) {
        more += words_touched(scope->few[i].granules);
    }
    if (status == MC_OK) {
        status = words_prepare(&scope->touched, more);
    }
    if (status == MC_OK && !scope->spilled) {
        for (unsigned i = 0; i < scope->few_count; i++) {
            bits_set(scope, scope->few[i].offset, scope->few[i].granules);
        }
        scope->few_count = 0;
        scope->spilled = true;
    }
    return status;
}

/* Makes sure that one more extent can be marked. */
static enum mc_status young_prepare(const struct mc_arena *arena, struct mc_arena_scope *scope,
                                    uint64_t granules)
{
    if (!scope->spilled && scope->few_count < MC_YOUNG_FEW) {
        return MC_OK;
    }
    return young_spill(scope, mc_buddy_granules(arena->buddy), words_touched(granules));
}

static void young_set(struct mc_arena_scope *scope, uint64_t offset, uint64_t granules)
{
    if (scope->spilled) {
        bits_set(scope, offset, granules);
    } else {
        assert(scope->few_count < MC_YOUNG_FEW);
        scope->few[scope->few_count++] = (struct mc_young){offset, granules};
    }
}

/* Forgets one young extent, which was marked as it is given here. */
static void young_clear(struct mc_arena_scope *scope, uint64_t offset, uint64_t granules)
{
    if (scope->spilled) {
        bits_clear(scope, offset, granules);
        return;
    }
    unsigned i = 0;
    while (scope->few[i].offset != offset) {
        i++;
        assert(i < scope->few_count);
    }
    assert(scope->few[i].granules == granules);
    scope->few[i] = scope->few[--scope->few_count];
}

static void young_forget_all(struct mc_arena_scope *scope)
{
    for (size_t i = 0; i < scope->touched.count; i++) {
        scope->young[scope->touched.items[i]] = 0;
    }
    words_clear(&scope->touched);
    scope->few_count = 0;
    scope->spilled = false;
}

/* Frees everything young in a scope: runs of set bits are allocated extents or parts of them. */
static void young_free_all(struct mc_arena *arena, struct mc_arena_scope *scope)
{
    for (unsigned i = 0; i < scope->few_count; i++) {
        mc_buddy_free(arena->buddy, scope->few[i].offset, scope->few[i].granules);
    }
    for (size_t i = 0; i < scope->touched.count; i++) {
        uint64_t word = scope->touched.items[i];
        uint64_t left = scope->young[word];
        scope->young[word] = 0;
        while (left != 0) {
            unsigned first = (unsigned)__builtin_ctzll(left);
            uint64_t shifted = ~(left >> first);
            unsigned count = shifted == 0 ? 64 : (unsigned)__builtin_ctzll(shifted);
            mc_buddy_free(arena->buddy, word * 64 + first, count);
            left &= ~bits(first, count);
        }
    }
    young_forget_all(scope);
}

/* ---- life ---- */

enum mc_status mc_arena_create(struct mc_arena *arena, const shm_byte *base, uint64_t bytes,
                               uint64_t max_bytes, mc_make_room make_room, void *context)
{
    *arena = (struct mc_arena){.base = base, .make_room = make_room, .context = context};
    return mc_buddy_create(bytes / MC_GRANULE, max_bytes / MC_GRANULE, &arena->buddy);
}

void mc_arena_destroy(struct mc_arena *arena)
{
    for (int i = 0; i < MC_SCOPES; i++) {
        free(arena->scopes[i].young);
        words_free(&arena->scopes[i].touched);
        words_free(&arena->scopes[i].retired);
    }
    for (unsigned i = 0; i <= MC_QUICK_MOST; i++) {
        words_free(&arena->quick[0][i]);
        words_free(&arena->quick[1][i]);
    }
    words_free(&arena->queue);
    words_free(&arena->groups);
    mc_sites_destroy(&arena->sites);
    mc_buddy_destroy(arena->buddy);
    *arena = (struct mc_arena){0};
}

/* ---- blocks kept by size ---- */

static struct mc_words *quick_list(struct mc_arena *arena, uint64_t offset, uint64_t granules)
{
    return &arena->quick[offset % LINE_GRANULES == 0][granules];
}

/* Frees a block; true when it stays at hand. */
static bool give(struct mc_arena *arena, uint64_t offset, uint64_t granules)
{
    struct mc_site *site = mc_sites_find(&arena->sites, offset, granules);
    if (site != NULL) {
        mc_sites_give(&arena->sites, site, arena->buddy, offset, granules);
        return false;
    }
    if (granules <= MC_QUICK_MOST && arena->quick_granules + granules <= MC_QUICK_GRANULES) {
        struct mc_words *list = quick_list(arena, offset, granules);
        if (words_prepare(list, 1) == MC_OK) {
            words_push(list, offset);
            arena->quick_granules += granules;
            return true;
        }
    }
    mc_buddy_free(arena->buddy, offset, granules);
    return false;
}

/* Prefetches the lines of a block that will be written soon. */
static void block_prefetch(const struct mc_arena *arena, uint64_t offset, uint64_t granules)
{
    uint64_t end = offset + granules;
    for (uint64_t line = offset / LINE_GRANULES; line * LINE_GRANULES < end; line++) {
        shm_prefetch_store(arena->base + line * MC_LINE_BYTES);
    }
}

/* A block that was kept, of exactly this size: UINT64_MAX when there is none. */
static uint64_t quick_take(struct mc_arena *arena, uint64_t granules, uint64_t align)
{
    for (int aligned = align > 1; granules <= MC_QUICK_MOST && aligned < 2; aligned++) {
        struct mc_words *list = &arena->quick[aligned][granules];
        if (list->count > 0) {
            arena->quick_granules -= granules;
            return list->items[--list->count];
        }
    }
    return UINT64_MAX;
}

/* Gives back what is left of a stretch that was set aside. */
static void give_back(struct mc_arena *arena, uint64_t at, uint64_t *left)
{
    if (*left > 0) {
        mc_buddy_free(arena->buddy, at, *left);
        *left = 0;
    }
}

void mc_arena_merge(struct mc_arena *arena)
{
    for (int aligned = 0; aligned < 2; aligned++) {
        for (uint64_t granules = 1; granules <= MC_QUICK_MOST; granules++) {
            struct mc_words *list = &arena->quick[aligned][granules];
            while (list->count > 0) {
                mc_buddy_free(arena->buddy, list->items[--list->count], granules);
            }
        }
    }
    arena->quick_granules = 0;
    give_back(arena, arena->small_at, &arena->small_left);
    give_back(arena, arena->bulk_at, &arena->bulk_left);
}

/* Granules from the allocator, with room made for them if need be: first by what was kept at hand,
 * which is also where reclaimed blocks go. */
static enum mc_status take(struct mc_arena *arena, uint64_t granules, uint64_t *found,
                           struct mc_error *err)
{
    for (;;) {
        if (mc_buddy_alloc(arena->buddy, granules, found) == MC_OK) {
            return MC_OK;
        }
        if (arena->small_left + arena->bulk_left + arena->quick_granules > 0) {
            mc_arena_merge(arena);
            continue;
        }
        enum mc_status status = arena->make_room(arena->context, granules * MC_GRANULE, err);
        if (status != MC_OK) {
            return status;
        }
    }
}

/* Gives back what lies before and behind the aligned part of a larger extent. */
static uint64_t trim(struct mc_arena *arena, uint64_t found, uint64_t taken, uint64_t granules,
                     uint64_t align)
{
    uint64_t start = (found + align - 1) / align * align;
    uint64_t behind = found + taken - (start + granules);
    if (start > found) {
        mc_buddy_free(arena->buddy, found, start - found);
    }
    if (behind > 0) {
        mc_buddy_free(arena->buddy, start + granules, behind);
    }
    return start;
}

/* Hands out granules that were found. */
static enum mc_status hand_out(struct mc_arena *arena, uint64_t found, uint64_t granules,
                               uint64_t *offset, struct mc_error *err)
{
    struct mc_arena_scope *scope = &arena->scopes[arena->scope];
    if (young_prepare(arena, scope, granules) != MC_OK) {
        (void)give(arena, found, granules);
        return mc_no_memory(err);
    }
    young_set(scope, found, granules);
    *offset = found * MC_GRANULE;
    return MC_OK;
}

/* Cuts granules from the stretch for a load, or from a new one: UINT64_MAX when there is none. */
static uint64_t bulk_cut(struct mc_arena *arena, uint64_t granules)
{
    if (granules > BULK_GRANULES / BULK_PARTS) {
        return UINT64_MAX;
    }
    if (arena->bulk_left < granules) {
        give_back(arena, arena->bulk_at, &arena->bulk_left);
        if (mc_buddy_alloc(arena->buddy, BULK_GRANULES, &arena->bulk_at) != MC_OK) {
            return UINT64_MAX;
        }
        arena->bulk_left = BULK_GRANULES;
    }
    uint64_t found = arena->bulk_at;
    arena->bulk_at += granules;
    arena->bulk_left -= granules;
    return found;
}

enum mc_status mc_arena_alloc(struct mc_arena *arena, uint64_t bytes, uint64_t alignment,
                              uint64_t *offset, struct mc_error *err)
{
    uint64_t granules = mc_granules(bytes), align = alignment / MC_GRANULE;
    uint64_t taken = granules + align - 1, found = quick_take(arena, granules, align);
    assert(granules > 0 && taken <= EXTENT_MASK && (align == 1 || align == LINE_GRANULES));
    if (found == UINT64_MAX && arena->bulk && align == 1) {
        found = bulk_cut(arena, granules);
    }
    if (found == UINT64_MAX) {
        enum mc_status status = take(arena, taken, &found, err);
        if (status != MC_OK) {
            return status;
        }
        found = trim(arena, found, taken, granules, align);
    }
    return hand_out(arena, found, granules, offset, err);
}

/* Cuts granules from the stretch that is set aside, or from a new one:
 * UINT64_MAX when there is none. */
static uint64_t small_cut(struct mc_arena *arena, uint64_t granules, uint64_t align)
{
    uint64_t pad = (align - arena->small_at % align) % align;
    if (arena->small_left < pad + granules) {
        give_back(arena, arena->small_at, &arena->small_left);
        if (granules > SMALL_GRANULES ||
            mc_buddy_alloc(arena->buddy, SMALL_GRANULES, &arena->small_at) != MC_OK) {
            return UINT64_MAX;
        }
        arena->small_left = SMALL_GRANULES;
        pad = (align - arena->small_at % align) % align;
        if (arena->small_left < pad + granules) {
            return UINT64_MAX;
        }
    }
    if (pad > 0) {
        mc_buddy_free(arena->buddy, arena->small_at, pad);
    }
    uint64_t found = arena->small_at + pad;
    arena->small_at += pad + granules;
    arena->small_left -= pad + granules;
    return found;
}

enum mc_status mc_arena_alloc_small(struct mc_arena *arena, uint64_t bytes, uint64_t alignment,
                                    uint64_t *offset, struct mc_error *err)
{
    uint64_t granules = mc_granules(bytes), align = alignment / MC_GRANULE;
    uint64_t found = quick_take(arena, granules, align);
    if (found == UINT64_MAX) {
        found = small_cut(arena, granules, align);
    }
    return found == UINT64_MAX
               ? mc_arena_alloc(arena, bytes, alignment, offset, err) /* makes room */
               : hand_out(arena, found, granules, offset, err);
}

uint64_t mc_arena_free(const struct mc_arena *arena)
{
    return (mc_buddy_free_granules(arena->buddy) + arena->small_left + arena->bulk_left +
            arena->quick_granules + arena->sites.held) *
           MC_GRANULE;
}

enum mc_status mc_arena_site_add(struct mc_arena *arena, uint64_t offset, uint64_t bytes)
{
    assert(offset % MC_GRANULE == 0 && bytes % MC_GRANULE == 0);
    mc_arena_merge(arena); /* nothing of it is at hand */
    return mc_sites_add(&arena->sites, arena->buddy, offset / MC_GRANULE, bytes / MC_GRANULE);
}

uint64_t mc_arena_sites_end(struct mc_arena *arena)
{
    return mc_sites_end(&arena->sites, arena->buddy) * MC_GRANULE;
}

enum mc_status mc_arena_prepare(struct mc_arena *arena, size_t count)
{
    return words_prepare(&arena->scopes[arena->scope].retired, count);
}

void mc_arena_release(struct mc_arena *arena, uint64_t offset, uint64_t bytes)
{
    struct mc_arena_scope *scope = &arena->scopes[arena->scope];
    uint64_t granule = offset / MC_GRANULE, granules = mc_granules(bytes);
    if (mc_arena_is_young(arena, offset) ||
        MC_MUTANT_IS(500)) { /* 500: a live block is freed at once */
        young_clear(scope, granule, granules);
        (void)give(arena, granule, granules);
    } else {
        words_push(&scope->retired, granule << EXTENT_SHIFT | granules);
        scope->retired_bytes += granules * MC_GRANULE;
    }
}

/* ---- the inner scope ---- */

enum mc_status mc_arena_replace_end(struct mc_arena *arena)
{
    struct mc_arena_scope *outer = &arena->scopes[MC_SCOPE_BATCH];
    struct mc_arena_scope *inner = &arena->scopes[MC_SCOPE_REPLACE];
    uint64_t granules = mc_buddy_granules(arena->buddy);
    enum mc_status status = young_spill(inner, granules, 0);
    if (status == MC_OK) {
        status = young_spill(outer, granules, inner->touched.count);
    }
    if (status == MC_OK) {
        status = words_prepare(&outer->retired, inner->retired.count);
    }
    if (status != MC_OK) {
        return status;
    }
    for (size_t i = 0; i < inner->touched.count; i++) {
        uint64_t word = inner->touched.items[i];
        if (outer->young[word] == 0 && inner->young[word] != 0) {
            words_push(&outer->touched, word);
        }
        outer->young[word] |= inner->young[word];
    }
    young_forget_all(inner);
    arena->scope = MC_SCOPE_BATCH;
    for (size_t i = 0; i < inner->retired.count; i++) { /* the batch's own blocks are free now */
        uint64_t extent = inner->retired.items[i];
        mc_arena_release(arena, (extent >> EXTENT_SHIFT) * MC_GRANULE,
                         (extent & EXTENT_MASK) * MC_GRANULE);
    }
    retired_forget(inner);
    return MC_OK;
}

void mc_arena_replace_cancel(struct mc_arena *arena)
{
    struct mc_arena_scope *inner = &arena->scopes[MC_SCOPE_REPLACE];
    young_free_all(arena, inner);
    retired_forget(inner);
    arena->scope = MC_SCOPE_BATCH;
}

/* ---- the batch ---- */

enum mc_status mc_arena_prepare_commit(struct mc_arena *arena)
{
    size_t retired = arena->scopes[MC_SCOPE_BATCH].retired.count;
    enum mc_status status = words_prepare(&arena->queue, retired);
    return status == MC_OK ? words_prepare(&arena->groups, MC_GROUP_WORDS) : status;
}

void mc_arena_commit(struct mc_arena *arena, uint64_t generation, int64_t time_ns)
{
    struct mc_arena_scope *scope = &arena->scopes[MC_SCOPE_BATCH];
    assert(arena->scope == MC_SCOPE_BATCH);
    if (scope->retired.count > 0) {
        words_push(&arena->groups, generation);
        words_push(&arena->groups, (uint64_t)time_ns);
        words_push(&arena->groups, scope->retired.count);
        words_push(&arena->groups, scope->retired_bytes);
    }
    for (size_t i = 0; i < scope->retired.count; i++) {
        uint64_t extent = scope->retired.items[i];
        words_push(&arena->queue, extent);
    }
    arena->queued += scope->retired_bytes;
    retired_forget(scope);
    if (!MC_MUTANT_IS(501)) { /* 501: what is published stays young: changed in place */
        young_forget_all(scope);
    }
}

void mc_arena_abort(struct mc_arena *arena)
{
    mc_arena_replace_cancel(arena);
    young_free_all(arena, &arena->scopes[MC_SCOPE_BATCH]);
    if (MC_MUTANT_IS(502)) { /* 502: what a failed batch gave up stays given up */
        return;
    }
    retired_forget(&arena->scopes[MC_SCOPE_BATCH]);
}

/* ---- the queue ---- */

uint64_t mc_arena_reclaim(struct mc_arena *arena, uint64_t generation, size_t most)
{
    uint64_t freed = 0;
    size_t done = 0;
    while (arena->groups.count > 0 && done < most) {
        uint64_t *group = arena->groups.items + arena->groups.head;
        if (group[0] > generation && !MC_MUTANT_IS(503)) { /* 503: more than was announced */
            break;
        }
        bool few = group[2] <= MC_YOUNG_FEW; /* the next commit is like it and takes them again */
        size_t count = group[2] < most - done ? (size_t)group[2] : most - done;
        for (size_t i = 0; i < count; i++) {
            uint64_t extent = arena->queue.items[arena->queue.head + i];
            uint64_t offset = extent >> EXTENT_SHIFT, granules = extent & EXTENT_MASK;
            if (give(arena, offset, granules) && few) {
                block_prefetch(arena, offset, granules);
            }
            freed += granules * MC_GRANULE;
            group[3] -= granules * MC_GRANULE;
        }
        words_pop(&arena->queue, count);
        group[2] -= count;
        done += count;
        if (group[2] == 0) {
            words_pop(&arena->groups, MC_GROUP_WORDS);
        }
    }
    arena->queued -= freed;
    return freed;
}
