/* test_arena.c - the life of blocks against a model that knows each block's state by name.
 *
 *   free -> young (of the batch or of the replace) -> live -> retired -> queued -> free
 *
 * The model keeps every extent and, for each granule, whether it is in use. After each step the
 * arena must agree on what is young, free and retired, in bytes and block by block, and no block is
 * ever given twice.
 */
#include <string.h>

#include "arena.h"
#include "faults.h"
#include "harness.h"

#define GRANULES_MAX (8192u * 8)
#define EXTENTS_MAX 40000

enum state { FREE, YOUNG, YOUNG_INNER, LIVE, RETIRED, RETIRED_INNER, QUEUED };

struct extent {
    uint64_t offset, granules; /* granules */
    enum state state;
    bool was_young; /* RETIRED_INNER: of the batch, else live */
};

static struct mc_arena arena;
static struct mc_error error;
static const shm_byte nowhere; /* a map that nothing is loaded from */
static struct extent extents[EXTENTS_MAX];
static int count;
static bool used[GRANULES_MAX];
static uint64_t granules, granules_most; /* the arena's size, and how far it may grow */
static uint64_t generation;

/* Retired extents in the order in which they were given up, and the groups of the queue. */
static int queue[EXTENTS_MAX];
static int queued, retired_batch[EXTENTS_MAX], retired_inner[EXTENTS_MAX];
static int retired_batch_count, retired_inner_count;
static struct group {
    uint64_t generation, bytes;
    int64_t time;
    int count;
} groups[EXTENTS_MAX];
static int group_count;

static enum mc_status make_room(void *context, uint64_t bytes, struct mc_error *err)
{
    (void)context;
    uint64_t more = bytes / MC_GRANULE + 64;
    if (granules + more > granules_most) {
        return mc_fail(err, MC_FULL, "no room for %llu bytes", (unsigned long long)bytes);
    }
    enum mc_status status = mc_buddy_grow(arena.buddy, granules + more);
    granules += status == MC_OK ? more : 0;
    return status == MC_OK ? status : mc_no_memory(err);
}

/* ---- the model ---- */

static void mark(const struct extent *extent, bool as)
{
    for (uint64_t i = extent->offset; i < extent->offset + extent->granules; i++) {
        CHECK(i < granules && used[i] != as);
        used[i] = as;
    }
}

static void set_free(struct extent *extent)
{
    mark(extent, false);
    extent->state = FREE;
}

static enum state young_now(void)
{
    return arena.scope == MC_SCOPE_BATCH ? YOUNG : YOUNG_INNER;
}

/* Forgets extents that are free; queue and lists keep their order. */
static void compact(void)
{
    static int place[EXTENTS_MAX];
    int kept = 0;
    for (int i = 0; i < count; i++) {
        place[i] = kept;
        if (extents[i].state != FREE) {
            extents[kept++] = extents[i];
        }
    }
    count = kept;
    for (int i = 0; i < queued; i++) {
        queue[i] = place[queue[i]];
    }
    CHECK(retired_batch_count == 0 && retired_inner_count == 0);
}

static void compare(void)
{
    uint64_t in_use = 0, retired = 0;
    for (int i = 0; i < count; i++) {
        const struct extent *extent = &extents[i];
        if (extent->state != FREE) {
            in_use += extent->granules;
            /* The batch's own block stays its own until the replace that gave it up has ended. */
            bool young = extent->state == young_now() ||
                         (extent->state == RETIRED_INNER && extent->was_young &&
                          arena.scope == MC_SCOPE_BATCH);
            CHECK_EQ(mc_arena_is_young(&arena, extent->offset * MC_GRANULE), young);
        }
        retired += extent->state == QUEUED || extent->state == RETIRED ? extent->granules : 0;
    }
    CHECK_EQ(mc_arena_free(&arena), (granules - in_use) * MC_GRANULE);
    CHECK_EQ(mc_arena_retired(&arena), retired * MC_GRANULE);
    CHECK_EQ(mc_buddy_check(arena.buddy), MC_OK);
}

/* ---- operations ---- */

static void do_alloc(uint64_t most)
{
    uint64_t bytes = 1 + test_below(most * MC_GRANULE), offset;
    uint64_t align = test_below(3) == 0 ? MC_LINE_BYTES : MC_GRANULE;
    bool small = test_below(2) == 0;
    mc_arena_bulk(&arena, test_below(2) == 0);
    enum mc_status status = small ? mc_arena_alloc_small(&arena, bytes, align, &offset, &error)
                                  : mc_arena_alloc(&arena, bytes, align, &offset, &error);
    if (status != MC_OK) {
        CHECK(status == MC_FULL || status == MC_NOMEM);
        CHECK_EQ(error.status, status);
        return;
    }
    CHECK(offset % align == 0 && count < EXTENTS_MAX);
    extents[count] = (struct extent){.offset = offset / MC_GRANULE,
                                     .granules = (bytes + MC_GRANULE - 1) / MC_GRANULE,
                                     .state = young_now()};
    mark(&extents[count++], true);
}

static void do_release(void)
{
    if (count == 0 || mc_arena_prepare(&arena, 1) != MC_OK) {
        return;
    }
    struct extent *extent = &extents[test_below((uint64_t)count)];
    bool inner = arena.scope == MC_SCOPE_REPLACE;
    if (extent->state == LIVE && !inner) {
        extent->state = RETIRED;
        retired_batch[retired_batch_count++] = (int)(extent - extents);
    } else if ((extent->state == LIVE || extent->state == YOUNG) && inner) {
        extent->was_young = extent->state == YOUNG;
        extent->state = RETIRED_INNER;
        retired_inner[retired_inner_count++] = (int)(extent - extents);
    } else if (extent->state == young_now()) {
        set_free(extent);
    } else {
        return;
    }
    mc_arena_release(&arena, extent->offset * MC_GRANULE, extent->granules * MC_GRANULE);
}

static void do_replace_end(void)
{
    if (mc_arena_replace_end(&arena) != MC_OK) {
        return; /* no memory: as it was */
    }
    for (int i = 0; i < retired_inner_count; i++) {
        struct extent *extent = &extents[retired_inner[i]];
        if (extent->was_young) {
            set_free(extent);
        } else {
            extent->state = RETIRED;
            retired_batch[retired_batch_count++] = retired_inner[i];
        }
    }
    retired_inner_count = 0;
    for (int i = 0; i < count; i++) {
        if (extents[i].state == YOUNG_INNER) {
            extents[i].state = YOUNG;
        }
    }
}

static void model_cancel(void)
{
    for (int i = 0; i < count; i++) {
        if (extents[i].state == YOUNG_INNER) {
            set_free(&extents[i]);
        } else if (extents[i].state == RETIRED_INNER) {
            extents[i].state = extents[i].was_young ? YOUNG : LIVE;
        }
    }
    retired_inner_count = 0;
}

static void do_abort(void)
{
    mc_arena_abort(&arena);
    model_cancel();
    for (int i = 0; i < count; i++) {
        if (extents[i].state == YOUNG) {
            set_free(&extents[i]);
        } else if (extents[i].state == RETIRED) {
            extents[i].state = LIVE;
        }
    }
    retired_batch_count = 0;
}

static void do_commit(void)
{
    if (mc_arena_prepare_commit(&arena) != MC_OK) {
        do_abort();
        return;
    }
    struct group *group = &groups[group_count];
    generation++;
    mc_arena_commit(&arena, generation, (int64_t)generation * 10);
    *group = (struct group){.generation = generation, .time = (int64_t)generation * 10};
    for (int i = 0; i < retired_batch_count; i++) {
        extents[retired_batch[i]].state = QUEUED;
        group->bytes += extents[retired_batch[i]].granules * MC_GRANULE;
        group->count++;
        queue[queued++] = retired_batch[i];
    }
    group_count += group->count > 0;
    retired_batch_count = 0;
    for (int i = 0; i < count; i++) {
        if (extents[i].state == YOUNG) {
            extents[i].state = LIVE;
        }
    }
}

/* Oldest first, whole groups up to a generation, cut off after `most` extents. */
static void do_reclaim(uint64_t up_to, size_t most)
{
    uint64_t expected = 0;
    int freed = 0, done_groups = 0;
    for (int g = 0; g < group_count && groups[g].generation <= up_to; g++) {
        while (groups[g].count > 0 && (size_t)freed < most) {
            struct extent *extent = &extents[queue[freed++]];
            CHECK_EQ(extent->state, QUEUED);
            expected += extent->granules * MC_GRANULE;
            groups[g].bytes -= extent->granules * MC_GRANULE;
            groups[g].count--;
            set_free(extent);
        }
        done_groups += groups[g].count == 0;
    }
    CHECK_EQ(mc_arena_reclaim(&arena, up_to, most), expected);
    memmove(queue, queue + freed, (size_t)(queued - freed) * sizeof *queue);
    queued -= freed;
    memmove(groups, groups + done_groups, (size_t)(group_count - done_groups) * sizeof *groups);
    group_count -= done_groups;
}

/* What the writer asks of the queue before it raises the horizon. */
static void compare_queue(void)
{
    int64_t time = (int64_t)test_below(generation * 10 + 20);
    uint64_t expired = 0, left = 0, keep = test_below(20000), older = 0;
    for (int g = 0; g < group_count; g++) {
        expired = groups[g].time <= time ? groups[g].generation : expired;
        left += groups[g].bytes;
    }
    CHECK_EQ(mc_arena_expired(&arena, time), expired);
    for (int g = 0; g < group_count && left > keep; g++) {
        older = groups[g].generation;
        left -= groups[g].bytes;
    }
    CHECK_EQ(mc_arena_older(&arena, keep), older);
}

static void operations(int many, uint64_t most)
{
    for (int i = 0; i < many; i++) {
        if (test_below(5) < 3) {
            do_alloc(most);
        } else {
            do_release();
        }
    }
    compare();
}

/* A batch of some operations, with or without a replace in its middle, ended in every way. */
static void random_batch(int many, uint64_t most, bool may_fail)
{
    if (may_fail && test_below(2) == 0) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), (long)test_below(6), true, 0);
    }
    arena.scope = MC_SCOPE_BATCH;
    operations(many, most);
    if (test_below(2) == 0) {
        arena.scope = MC_SCOPE_REPLACE;
        operations(many, most);
        if (test_below(2) == 0) { /* work on other collections goes on meanwhile */
            arena.scope = MC_SCOPE_BATCH;
            operations(many / 4, most);
            arena.scope = MC_SCOPE_REPLACE;
        }
        if (test_below(3) == 0) {
            mc_arena_replace_cancel(&arena);
            model_cancel();
        } else if (test_below(8) != 0) { /* else the batch is ended with the replace open */
            do_replace_end();
        }
        if (arena.scope == MC_SCOPE_REPLACE) {
            do_abort();
        }
        CHECK_EQ(arena.scope, MC_SCOPE_BATCH);
        compare();
        operations(many / 4, most);
    }
    if (test_below(4) == 0) {
        do_abort();
    } else {
        do_commit();
    }
    (void)faults_disarm();
    compare();
    compact();
}

static void test_life(uint64_t start, uint64_t most_granules, int batches, int many,
                      uint64_t largest, bool may_fail)
{
    granules = start;
    granules_most = most_granules;
    count = queued = group_count = 0;
    generation = 0;
    memset(used, 0, sizeof used);
    CHECK_EQ(mc_arena_create(&arena, &nowhere, granules * MC_GRANULE, granules_most * MC_GRANULE,
                             make_room, NULL),
             MC_OK);
    for (int batch = 0; batch < batches; batch++) {
        random_batch(1 + (int)test_below((uint64_t)many), largest, may_fail);
        compare_queue();
        if (test_below(3) == 0) {
            do_reclaim(generation - test_below(generation < 3 ? generation + 1 : 3),
                       test_below(2) ? SIZE_MAX : test_below(40));
            compare();
            compact();
        }
    }
    do_reclaim(generation, SIZE_MAX);
    compare();
    compact();
    arena.scope = MC_SCOPE_BATCH; /* give up everything: all of it comes back */
    for (int i = 0; i < count; i++) {
        CHECK_EQ(mc_arena_prepare(&arena, 1), MC_OK);
        mc_arena_release(&arena, extents[i].offset * MC_GRANULE, extents[i].granules * MC_GRANULE);
    }
    CHECK_EQ(mc_arena_prepare_commit(&arena), MC_OK);
    mc_arena_commit(&arena, generation + 1, 0);
    (void)mc_arena_reclaim(&arena, generation + 1, SIZE_MAX);
    CHECK_EQ(mc_arena_free(&arena), granules * MC_GRANULE);
    CHECK_EQ(mc_arena_retired(&arena), 0);
    mc_arena_destroy(&arena);
}

static enum mc_status no_room(void *context, uint64_t bytes, struct mc_error *err)
{
    (void)context;
    return mc_fail(err, MC_FULL, "no room for %llu bytes", (unsigned long long)bytes);
}

/* Small allocations that the stretch set aside for them cannot hold, and more freed small blocks
 * than are kept at hand. */
static void test_edges(void)
{
    const uint64_t bytes = 16u << 20, block = (uint64_t)MC_QUICK_MOST * MC_GRANULE;
    static uint64_t offsets[MC_QUICK_GRANULES / MC_QUICK_MOST + 10];
    const size_t blocks = sizeof offsets / sizeof offsets[0];
    uint64_t offset, first;
    CHECK_EQ(mc_arena_create(&arena, &nowhere, bytes, bytes, no_room, NULL), MC_OK);
    arena.scope = MC_SCOPE_BATCH;
    CHECK_EQ(mc_arena_alloc_small(&arena, 40000, MC_LINE_BYTES, &offset, &error), MC_OK);
    CHECK_EQ(offset % MC_LINE_BYTES, 0);
    CHECK_EQ(mc_arena_alloc(&arena, MC_GRANULE, MC_GRANULE, &first, &error), MC_OK);
    CHECK_EQ(mc_arena_alloc_small(&arena, 16384, MC_LINE_BYTES, &offset, &error), MC_OK);
    CHECK(offset % MC_LINE_BYTES == 0 && arena.small_left > 0); /* the stretch starts elsewhere */
    for (size_t i = 0; i < blocks; i++) {
        CHECK_EQ(mc_arena_alloc(&arena, block, MC_GRANULE, &offsets[i], &error), MC_OK);
    }
    for (size_t i = 0; i < blocks; i++) {
        mc_arena_release(&arena, offsets[i], block);
    }
    CHECK(arena.quick_granules > MC_QUICK_GRANULES - MC_QUICK_MOST);
    CHECK(arena.quick_granules <= MC_QUICK_GRANULES);
    mc_arena_abort(&arena);
    CHECK_EQ(mc_arena_free(&arena), bytes);
    /* all of it merges */
    CHECK_EQ(mc_arena_alloc(&arena, bytes, MC_GRANULE, &offset, &error), MC_OK);
    mc_arena_destroy(&arena);
}

/* The entries of a load lie one behind the other, also where holes would fit them; a large one, and
 * all of them where no stretch is free, go where there is room. */
static void test_bulk(void)
{
    const uint64_t bytes = 1u << 20, entry = 20 * (uint64_t)MC_GRANULE;
    uint64_t offset, before, hole;
    CHECK_EQ(mc_arena_create(&arena, &nowhere, bytes, bytes, no_room, NULL), MC_OK);
    CHECK_EQ(mc_arena_alloc(&arena, 30 * (uint64_t)MC_GRANULE, MC_GRANULE, &hole, &error), MC_OK);
    CHECK_EQ(mc_arena_alloc(&arena, MC_GRANULE, MC_GRANULE, &offset, &error), MC_OK);
    mc_arena_release(&arena, hole, 30 * (uint64_t)MC_GRANULE);
    mc_arena_merge(&arena);
    mc_arena_bulk(&arena, true);
    CHECK_EQ(mc_arena_alloc(&arena, entry, MC_GRANULE, &before, &error), MC_OK);
    CHECK(before > offset);
    for (int i = 0; i < 100; i++, before = offset) {
        CHECK_EQ(mc_arena_alloc(&arena, entry, MC_GRANULE, &offset, &error), MC_OK);
        CHECK_EQ(offset, before + entry);
    }
    CHECK(arena.bulk_left > 0);
    CHECK_EQ(mc_arena_alloc(&arena, 8192, MC_GRANULE, &offset, &error), MC_OK);
    CHECK(offset != before + entry);
    mc_arena_bulk(&arena, false);
    CHECK_EQ(mc_arena_alloc(&arena, entry, MC_GRANULE, &offset, &error), MC_OK);
    CHECK_EQ(offset, hole); /* the tightest place again */
    mc_arena_bulk(&arena, true);
    CHECK_EQ(mc_arena_alloc(&arena, entry, MC_LINE_BYTES, &offset, &error), MC_OK);
    CHECK(offset != before + entry && offset % MC_LINE_BYTES == 0);
    CHECK_EQ(mc_arena_alloc(&arena, 24 * entry, MC_GRANULE, &offset, &error), MC_OK);
    while (mc_arena_alloc(&arena, entry, MC_GRANULE, &offset, &error) == MC_OK) {
    } /* to the last place, that of the stretches included */
    CHECK(mc_buddy_largest(arena.buddy) * MC_GRANULE < entry && arena.bulk_left == 0);
    mc_arena_abort(&arena);
    CHECK_EQ(mc_arena_free(&arena), bytes);
    CHECK_EQ(mc_arena_alloc(&arena, bytes, MC_GRANULE, &offset, &error), MC_OK);
    mc_arena_destroy(&arena);
}

int main(void)
{
    test_begin("test_arena");
    mc_buddy_test_unchecked = true; /* compare() checks */
    for (int round = 0; round < test_rounds(20); round++) {
        test_life(4096, GRANULES_MAX, 300, 12, 60, false); /* small batches: short lists */
        test_life(4096, GRANULES_MAX, 60, 200, 60, false); /* bits */
        test_life(2048, 2048, 80, 60, 100, false);         /* full all the time */
        test_life(3000, 20000, 40, 40, 700, false);        /* large blocks */
        test_life(1024, GRANULES_MAX, 120, 60, 60, true);  /* no memory */
    }
    test_edges();
    test_bulk();
    return 0;
}
