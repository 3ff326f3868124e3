/* test_change_damage.c - change logs that nobody may believe: of a file without one, of another
 * boot, damaged, hostile. A loader begins them anew, a reader is told so or that they are damaged.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "change_world.h"
#include "commit_check.h"
#include "hash.h"

/* ---- logs that begin anew ---- */

static void log_patch(uint64_t offset, const void *bytes, size_t len)
{
    int fd = open(test_path(), O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, bytes, len, (off_t)offset) == (ssize_t)len && close(fd) == 0);
}

/* Another end of the log in the current root, under a checksum that is right. */
static void patch_root(uint64_t log_end, uint32_t log_last)
{
    struct mc_view view = log_view();
    struct mc_root root = view.root;
    root.log_end = log_end;
    root.log_last = log_last;
    root.checksum = mc_checksum(&root, offsetof(struct mc_root, checksum));
    log_patch(MC_RING_OFFSET + root.generation % log_world.options.ring_slots * sizeof root, &root,
              sizeof root);
}

static void make_three(void)
{
    log_open_new(1024);
    for (int i = 1; i < 4; i++) {
        log_begin();
        log_put(0, i, 1);
        log_commit();
    }
    CHECK_CHANGES(1, "sites +2, sites +3");
}

/* The next loader finds that the log is not what the root says: readers know nothing of what was
 * before, and all that comes. */
static void expect_anew(void)
{
    mc_writer_close(log_world.writer);
    for (int i = 0; i < 2; i++) { /* also when the first one logs nothing */
        log_open();
        CHECK_CHANGES(2, "unknown");
        CHECK_CHANGES(3, "");
        mc_writer_close(log_world.writer);
    }
    log_open();
    log_begin();
    log_put(0, 4, 1);
    log_commit();
    CHECK_CHANGES(2, "all");
    CHECK_CHANGES(3, "all");
    log_begin();
    log_put(0, 5, 1);
    log_commit();
    CHECK_CHANGES(3, "all, sites +5");
    CHECK_CHANGES(4, "sites +5");
    mc_writer_close(log_world.writer);
}

static void test_anew(void)
{
    uint64_t word;
    struct mc_log_group group;
    for (int what = 0; what < 10; what++) {
        make_three();
        struct mc_view view = log_view();
        const struct mc_root *root = &view.root;
        uint64_t last = root->log_end - root->log_last;
        uint64_t at = view.log.offset + last % view.log.size;
        CHECK(last % view.log.size + sizeof group < view.log.size);
        mc_log_read(&view.space, &view.log, last, &group, sizeof group);
        switch (what) {
        case 0: /* by a loader that knows no log */
            patch_root(0, 0);
            break;
        case 1:
            patch_root(root->log_end + 1, root->log_last);
            break;
        case 2:
            patch_root(root->log_end, root->log_last - 1);
            break;
        case 3:
            patch_root(root->log_end, 2048);
            break;
        case 4: /* behind what was announced */
            patch_root(root->log_end + 8, root->log_last);
            break;
        case 5:
            patch_root(root->log_end, root->log_last + 8);
            break;
        case 6:
            group.generation = 4;
            log_patch(at, &group, sizeof group);
            break;
        case 7: /* announced: more than one commit could have written */
            word = mc_log_announced(&view.space) + 1024;
            log_patch(MC_CONTROL_OFFSET + offsetof(struct mc_control, log_written), &word, 8);
            break;
        case 8: /* another boot, which finds an older control page than root */
            word = root->log_end - 600;
            log_patch(MC_CONTROL_OFFSET + offsetof(struct mc_control, log_written), &word, 8);
            word = 1;
            log_patch(MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id), &word, 8);
            break;
        default: /* another boot: parts of the log may be older than others */
            word = 1;
            log_patch(MC_CONTROL_OFFSET + offsetof(struct mc_control, boot_id), &word, 8);
        }
        expect_anew();
    }
}

/* Positions go on behind 2^64 - 1 at 0. */
static void test_positions_wrap(void)
{
    uint64_t word = UINT64_MAX - 1500;
    make_three();
    patch_root(word, 0);
    log_patch(MC_CONTROL_OFFSET + offsetof(struct mc_control, log_written), &word, 8);
    mc_writer_close(log_world.writer);
    log_open();
    CHECK_CHANGES(2, "unknown");
    bool wrapped = false;
    for (int i = 4; i < 60; i++) {
        log_begin();
        log_put(0, 4, i);
        log_commit();
        struct mc_view view = log_view();
        wrapped |= view.root.log_end < 1000;
        if (i > 4) {
            CHECK_CHANGES(log_world.now - 1, "sites +4");
        }
        if (i > 6) {
            CHECK_CHANGES(log_world.now - 3, "sites +4, sites +4, sites +4");
        }
        if (i % 7 == 0) {
            mc_writer_close(log_world.writer);
            log_open();
        }
    }
    CHECK(wrapped);
    mc_writer_close(log_world.writer);
}

/* A file as loaders made them that knew no log. */
static void test_without(void)
{
    log_open_new(MC_LOG_NONE);
    for (int i = 1; i < 4; i++) {
        log_begin();
        log_put(0, i, 1);
        log_commit();
        CHECK_CHANGES(log_world.now - 1, "unknown");
        CHECK_CHANGES(log_world.now, "");
        mc_writer_close(log_world.writer);
        log_open();
    }
    struct mc_view view = log_view();
    uint64_t behind_roots = MC_RING_OFFSET + 4 * sizeof(struct mc_root);
    CHECK(view.log.size == 0 &&
          view.arena_offset == behind_roots + 8 * sizeof(struct mc_round_record));
    CHECK(view.root.log_end == 0 && view.root.log_last == 0);
    mc_writer_close(log_world.writer);
}

/* Its successor of another size has a log; whoever knew the old file is told that all changed. */
static void test_succession(void)
{
    struct mc_map *map;
    struct mc_view view;
    log_open_new(1024);
    log_begin();
    log_put(0, 1, 1);
    log_commit();
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_writer_close(log_world.writer);
    log_world.options.max_size *= 2;
    log_world.options.log_size = 0;
    log_open();
    CHECK_CHANGES(1, "all");
    CHECK_OK(mc_view_open(map, &view, &test_error));
    CHECK_EQ(view.root.flags, MC_ROOT_SUPERSEDED);
    CHECK_EQ(judge_changes(&view, 1, &log_world.working, &log_world.working), MC_OK);
    mc_map_release(map);
    view = log_view();
    CHECK_EQ(view.log.size, 64u << 10);
    mc_writer_close(log_world.writer);
    static const struct {
        uint64_t max_size;
        uint32_t log_size;
    } sizes[] = {{2u << 20, 64u << 10},    {64u << 20, 64u << 10}, {126u << 20, 64u << 10},
                 {128u << 20, 128u << 10}, {1u << 30, 1u << 20},   {UINT64_C(1) << 40, 1u << 20}};
    /* valgrind has no room for the largest */
    size_t count = sizeof sizes / sizeof sizes[0] - (getenv("EMULATED") != NULL);
    for (size_t i = 0; i < count; i++) {
        remove_cache(test_path());
        log_world.options.max_size = sizes[i].max_size;
        log_open();
        view = log_view();
        CHECK_EQ(view.log.size, sizes[i].log_size);
        mc_writer_close(log_world.writer);
    }
}

/* ---- hostile bytes ---- */

#define HOSTILE 512u

/* A group of these records, whose length and checksum are right; returns its length. */
static uint32_t make_group(uint8_t to[HOSTILE], uint64_t generation, uint32_t flags,
                           const void *records, size_t len)
{
    struct mc_log_group group = {.generation = generation, .flags = flags};
    group.bytes = (uint32_t)(sizeof group + len + 7) / 8 * 8;
    CHECK(group.bytes <= HOSTILE);
    memset(to, 0, group.bytes);
    memcpy(to, &group, sizeof group);
    if (len > 0) {
        memcpy(to + sizeof group, records, len);
    }
    group.checksum = mc_checksum(to + 4, group.bytes - 4);
    memcpy(to, &group, sizeof group);
    return group.bytes;
}

/* Reads groups to their end: what that is, and how many changes came before it. */
static enum mc_status read_groups(const uint8_t *bytes, size_t len, int *count)
{
    struct mc_change change;
    struct mc_changes changes = {.bytes = malloc(len), .len = len}; /* exactly: ASan sees more */
    enum mc_status status;
    CHECK(changes.bytes != NULL);
    memcpy(changes.bytes, bytes, len);
    for (*count = 0; (status = mc_changes_next(&changes, &change)) == MC_OK; ++*count) {
        CHECK(*count < (int)HOSTILE);
        if (change.kind == MC_CHANGE_ALL) {
            CHECK(change.name == NULL);
            continue;
        }
        CHECK(change.name_len > 0 && change.name_len <= MC_NAME_MAX);
        CHECK(change.name >= (char *)changes.bytes &&
              change.name + change.name_len <= (char *)changes.bytes + len);
        if (change.kind != MC_CHANGE_COLLECTION) {
            CHECK(change.key.len <= MC_KEY_MAX && change.key.data >= changes.bytes &&
                  change.key.data + change.key.len <= changes.bytes + len);
        }
    }
    mc_changes_close(&changes);
    mc_changes_close(&changes);
    return status;
}

static void test_records(void)
{
    static const struct {
        const char *what;
        size_t len;
        uint32_t flags;
        enum mc_status status;
        int count;
    } cases[] = {
        {"", 0, 0, MC_ABSENT, 0},
        {"", 0, MC_LOG_ALL, MC_ABSENT, 1},
        {"\1\2\2\0ab\3\2\1\0x", 11, 0, MC_ABSENT, 1},
        {"\1\2\2\0ab\3\12\0\0\4\2\1\0y", 15, 0, MC_ABSENT, 2}, /* a key without bytes */
        {"\2\2\1\0a\1\2\1\0b", 10, 0, MC_ABSENT, 1},
        {"\1\2\2\0ab\0\0\0\0\0\0\0\0\0\0", 16, 0, MC_CORRUPT, 0},   /* too many zeros */
        {"\1\2\2\0ab\0x", 8, 0, MC_CORRUPT, 0},                     /* no zeros */
        {"\3\2\1\0x", 5, 0, MC_CORRUPT, 0},                         /* of no collection */
        {"\2\3\1\0a", 5, 0, MC_CORRUPT, 0},                         /* a name is a string */
        {"\1\2\0\0", 4, 0, MC_CORRUPT, 0},                          /* an empty name */
        {"\1\2\1\0a\5\2\1\0x", 10, 0, MC_CORRUPT, 0},               /* of no kind */
        {"\1\2\1\0a\3\40\1\0x", 10, 0, MC_CORRUPT, 0},              /* a key of no type */
        {"\1\2\1\0a\3\2\377\0x", 10, 0, MC_CORRUPT, 0},             /* behind the group */
        {"\1\2\21\0abcdefghijklmnopq\3\2\1", 24, 0, MC_CORRUPT, 0}, /* half a record */
    };
    uint8_t bytes[2 * HOSTILE], records[HOSTILE] = {1, 2, 0, 1};
    int count;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t len = make_group(bytes, 7, cases[i].flags, cases[i].what, cases[i].len);
        CHECK_EQ(read_groups(bytes, len, &count), cases[i].status);
        CHECK_EQ(count, cases[i].count);
        len += make_group(bytes + len, 8, MC_LOG_ALL, NULL, 0);
        CHECK_EQ(read_groups(bytes, len, &count), cases[i].status);
        CHECK_EQ(count, cases[i].count + (cases[i].status == MC_ABSENT));
    }
    uint32_t len = make_group(bytes, 7, 0, records, 4 + 256); /* a name of 256 bytes */
    CHECK_EQ(read_groups(bytes, len, &count), MC_CORRUPT);
    records[2] = 255;
    records[3] = 0;
    len = make_group(bytes, 7, 0, records, 4 + 255);
    CHECK_EQ(read_groups(bytes, len, &count), MC_ABSENT);
    for (uint32_t cut = 1; cut < len; cut++) {
        CHECK_EQ(read_groups(bytes, len - cut, &count), MC_CORRUPT);
    }
    for (uint32_t at = 0; at < len; at++) {
        uint8_t bit = at % 2 == 0 ? 1 : 16; /* of its length: an odd one, and one too long */
        bytes[at] ^= bit;
        CHECK_EQ(read_groups(bytes, len, &count), MC_CORRUPT);
        bytes[at] ^= bit;
    }
}

/* The longest key, and one that is a byte longer. */
static void test_long_key(void)
{
    static uint8_t bytes[2048];
    struct mc_log_group group = {.generation = 1, .bytes = (24 + 5 + 4 + MC_KEY_MAX + 7) / 8 * 8};
    int count;
    for (int more = 0; more < 2; more++) {
        memset(bytes, 0, sizeof bytes);
        memcpy(bytes, &group, sizeof group);
        memcpy(bytes + 24, "\1\2\1\0a\3\2", 7);
        bytes[24 + 7] = (uint8_t)(MC_KEY_MAX + more);
        bytes[24 + 8] = (uint8_t)((MC_KEY_MAX + more) >> 8);
        group.checksum = mc_checksum(bytes + 4, group.bytes - 4);
        memcpy(bytes, &group.checksum, sizeof group.checksum);
        CHECK_EQ(read_groups(bytes, group.bytes, &count), more ? MC_CORRUPT : MC_ABSENT);
        CHECK_EQ(count, more ? 0 : 1);
    }
}

/* What a reader of the current generation is told, from any earlier one, in bounded time. */
static enum mc_status read_current(const struct mc_view *view, uint64_t since)
{
    struct mc_changes changes;
    struct mc_change change;
    enum mc_status status = mc_changes_open(view, since, MC_CHANGES_UNLIMITED, &changes);
    if (status == MC_OK) {
        for (int i = 0; (status = mc_changes_next(&changes, &change)) == MC_OK; i++) {
            CHECK(i < 1024);
        }
        status = status == MC_ABSENT ? MC_OK : status;
        mc_changes_close(&changes);
    }
    CHECK(status == MC_OK || status == MC_ABSENT || status == MC_CORRUPT);
    return status;
}

/* Each word of the log, and what the root says of it, is something else. */
static void test_words(void)
{
    long seen[MC_CORRUPT + 1] = {0};
    make_three();
    struct mc_view view = log_view();
    uint8_t *ring = (uint8_t *)view.space.base + view.log.offset, kept[1024];
    memcpy(kept, ring, sizeof kept);
    for (int round = 0; round < test_rounds(20000); round++) {
        struct mc_view other = view;
        uint64_t word = test_below(3) == 0 ? test_below(64) : test_random();
        memcpy(ring + 8 * test_below(sizeof kept / 8), &word, 8);
        if (test_below(4) == 0) {
            uint64_t end = view.root.log_end - 8 * test_below(20) + (test_below(8) == 0);
            other.root.log_end = end;
            other.root.log_last = (uint32_t)(test_below(2) ? 8 * test_below(20) : word);
        }
        for (uint64_t since = 0; since < 4; since++) {
            seen[read_current(&other, since)]++;
        }
        enum mc_status status = mc_changes_check(&other);
        CHECK(status == MC_OK || status == MC_CORRUPT);
        if (test_below(4) != 0) {
            memcpy(ring, kept, sizeof kept);
        }
    }
    CHECK(seen[MC_OK] > 0 && seen[MC_ABSENT] > 0 && seen[MC_CORRUPT] > 0);
    memcpy(ring, kept, sizeof kept);
    CHECK_CHANGES(1, "sites +2, sites +3");
    ring[(view.root.log_end - 1) % sizeof kept] ^= 1;
    CHECK_EQ(mc_changes_check(&view), MC_CORRUPT);
    struct mc_check_report report;
    CHECK_EQ(mc_check(&view, &report, &test_error), MC_CORRUPT);
    CHECK(strstr(test_error.text, "change log") != NULL);
    mc_writer_close(log_world.writer);
}

/* A view that has expired has no changes, whatever the log says. */
static void test_expired(void)
{
    make_three();
    struct mc_view view = log_view();
    struct mc_changes changes;
    mc_raise_horizon(&view.space, 3);
    view.root.generation = 2;
    CHECK_EQ(mc_changes_open(&view, 2, MC_CHANGES_UNLIMITED, &changes), MC_EXPIRED);
    CHECK_EQ(mc_changes_open(&view, 1, MC_CHANGES_UNLIMITED, &changes), MC_EXPIRED);
    CHECK_EQ(mc_changes_open(&view, 3, MC_CHANGES_UNLIMITED, &changes), MC_EXPIRED);
    CHECK_EQ(mc_changes_check(&view), MC_EXPIRED);
    mc_writer_close(log_world.writer);
}

/* A reader that comes to the header of a group when the loader has announced to write there. */
static void test_announced(void)
{
    make_three();
    struct mc_view view = log_view();
    struct mc_changes changes;
    mc_log_announce(&view.space, view.root.log_end - view.root.log_last + view.log.size);
    CHECK_CHANGES(2, "unknown"); /* the group that it would know it by is gone */
    mc_log_announce(&view.space, view.root.log_end + view.log.size);
    mc_log_announce(&view.space, 0); /* never goes back */
    CHECK_EQ(mc_changes_open(&view, 2, MC_CHANGES_UNLIMITED, &changes), MC_ABSENT);
    CHECK_EQ(mc_changes_open(&view, 3, MC_CHANGES_UNLIMITED, &changes), MC_OK);
    CHECK_EQ(mc_changes_check(&view), MC_OK);
    mc_writer_close(log_world.writer);
}

int main(void)
{
    test_begin("test_change_damage");
    mc_buddy_test_unchecked = true;
    commit_check_off = true; /* damage is the point */
    test_anew();
    test_positions_wrap();
    test_without();
    test_succession();
    test_records();
    test_long_key();
    test_words();
    test_expired();
    test_announced();
    remove_cache(test_path());
    return 0;
}
