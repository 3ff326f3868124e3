/* test_changes.c - the change log against what really changed.
 *
 * Exact lists for each way of changing something; then random batches, aborts, replaces and drops
 * over a ring that goes round many times, judged from every generation that the log may still
 * reach; and a reader that is stopped before each of its loads while the loader goes on.
 * test_change_damage.c is about logs that nobody may believe.
 */
#include "change_world.h"
#include "faults.h"

/* ---- exact lists ---- */

static void test_lists(void)
{
    log_open_new(4096);
    CHECK_CHANGES(0, "");
    log_begin();
    log_put(0, 1, 1);
    log_commit();
    CHECK_CHANGES(0, "all"); /* nothing is known of what was before */
    CHECK_CHANGES(1, "");
    CHECK_CHANGES(2, "unknown");
    log_begin();
    log_put(0, 2, 1);
    log_put(1, 7, 1);
    log_put(0, 1, 1); /* nothing new */
    log_put(0, 3, 1);
    log_delete(0, 9); /* never was there */
    log_commit();
    CHECK_CHANGES(1, "limits +7, sites +2 +3");
    log_begin();
    log_delete(0, 2);
    log_put(0, 3, 2);
    log_put(0, 3, 3);
    log_commit();
    CHECK_CHANGES(2, "sites -2 +3 +3");
    CHECK_CHANGES(1, "limits +7, sites +2 +3, sites -2 +3 +3");
    log_begin();
    CHECK_OK(put_state(log_world.writer, 1));
    log_commit();
    CHECK_EQ(log_world.now, 4);
    CHECK_CHANGES(3, ""); /* the loader's state is its own business */
    CHECK_CHANGES(2, "sites -2 +3 +3");
    log_begin();
    log_drop(1);
    log_commit();
    CHECK_CHANGES(4, "limits *");
    log_begin();
    log_put(1, 7, 1);
    log_drop(1); /* as if nothing had been */
    log_put(0, 4, 1);
    log_commit();
    CHECK_CHANGES(5, "sites +4");
    log_begin();
    log_drop(0);
    log_put(0, 4, 2);
    log_commit();
    CHECK_CHANGES(6, "sites *");
    mc_writer_close(log_world.writer);
    log_open();
    CHECK_CHANGES(5, "sites +4, sites *");
    log_begin();
    log_put(0, 4, 3);
    log_commit();
    CHECK_CHANGES(6, "sites *, sites +4");
    CHECK_CHANGES(0, "all, limits +7, sites +2 +3, sites -2 +3 +3, limits *, sites +4, sites *, "
                     "sites +4");
    mc_writer_close(log_world.writer);
}

static void end_replace(void)
{
    CHECK_OK(mc_replace_end(log_world.writer, &test_error));
}

static void test_replaces(void)
{
    log_open_new(4096);
    log_begin();
    for (int k = 0; k < 5; k++) {
        log_put(0, k, 1);
    }
    log_commit();
    log_begin(); /* only what differs is logged */
    log_replace(0);
    for (int k = 1; k < 7; k++) {
        log_put(0, k, k == 3 ? 2 : 1);
    }
    end_replace();
    log_commit();
    CHECK_CHANGES(1, "sites +3 +5 +6 -0");
    log_begin(); /* the same again */
    log_replace(0);
    for (int k = 1; k < 7; k++) {
        log_put(0, k, k == 3 ? 2 : 1);
    }
    end_replace();
    log_commit();
    CHECK_EQ(log_world.now, 2);
    log_begin(); /* the same in the end */
    log_replace(0);
    for (int k = 1; k < 7; k++) {
        log_put(0, k, 9);
        log_put(0, k, k == 3 ? 2 : 1);
    }
    end_replace();
    log_put(1, 1, 1);
    log_commit();
    CHECK_CHANGES(2, "limits +1");
    struct oracle before = log_world.working;
    log_begin(); /* a cancelled one takes back what it did, and no more */
    log_put(0, 1, 3);
    log_replace(0);
    log_put(0, 1, 4);
    log_put(1, 1, 4);
    log_put(0, 2, 4);
    mc_replace_cancel(log_world.writer);
    log_world.working = before;
    log_world.working.version[0][1] = 3;
    log_world.working.version[1][1] = 4;
    log_put(0, 6, 4);
    log_commit();
    CHECK_CHANGES(3, "limits +1, sites +1 +6");
    log_begin(); /* a collection that is cancelled away, and one that is empty from the start */
    log_replace(2);
    mc_replace_cancel(log_world.writer);
    log_world.working.exists[2] = false;
    log_replace(2);
    end_replace();
    log_commit();
    CHECK_CHANGES(4, "flags *");
    log_begin();
    log_drop(2);
    log_commit();
    log_begin();
    log_replace(2);
    log_put(2, 1, 1);
    end_replace();
    log_commit();
    CHECK_CHANGES(6, "flags +1");
    mc_writer_close(log_world.writer);
}

static void test_aborts(void)
{
    log_open_new(1024);
    log_begin();
    log_put(0, 1, 1);
    log_commit();
    for (int i = 0; i < 50; i++) { /* more than the notes have room for */
        struct oracle before = log_world.working;
        log_begin();
        for (int k = 0; k < 14; k++) {
            log_put(0, k, 2 + i);
        }
        mc_batch_abort(log_world.writer);
        log_world.working = before;
    }
    log_begin();
    log_put(0, 2, 1);
    log_commit();
    CHECK_CHANGES(1, "sites +2");
    mc_writer_close(log_world.writer);
}

/* ---- too much ---- */

static void test_too_much(void)
{
    char name[40];
    log_open_new(
        1024); /* a collection has 256 bytes of notes: 16 keys of 8 bytes; a batch has 512 */
    log_begin();
    log_put(1, 1, 1);
    log_commit();
    log_begin();
    for (int k = 0; k < 16; k++) {
        log_put(0, k, 2);
    }
    log_put(1, 2, 2);
    log_commit();
    CHECK_CHANGES(1, "limits +2, sites +0 +1 +2 +3 +4 +5 +6 +7 +8 +9 +10 +11 +12 +13 +14 +15");
    log_begin(); /* one more: its room is there for others */
    for (int k = 0; k < 17; k++) {
        log_put(0, k, 3);
    }
    for (int k = 0; k < 16; k++) {
        log_put(1, k, 3);
    }
    log_put(0, 3, 4);
    log_put(2, 1, 3);
    log_commit();
    CHECK_CHANGES(2, "flags +1, limits +0 +1 +2 +3 +4 +5 +6 +7 +8 +9 +10 +11 +12 +13 +14 +15, "
                     "sites *");
    log_begin(); /* by turns: who comes to the end of the room first has changed as a whole */
    for (int k = 0; k < 16; k++) {
        log_put(0, k, 5);
        log_put(1, k, 5);
    }
    log_put(2, 1, 5);
    log_commit();
    CHECK_CHANGES(3, "flags *, limits +0 +1 +2 +3 +4 +5 +6 +7 +8 +9 +10 +11 +12 +13 +14 +15, "
                     "sites +0 +1 +2 +3 +4 +5 +6 +7 +8 +9 +10 +11 +12 +13 +14 +15");
    log_begin(); /* more names than there is room for */
    for (int i = 0; i < 30; i++) {
        struct mc_key key;
        bool changed;
        uint8_t document[DOCUMENT_MOST];
        size_t len = make_document(document, 1, 1);
        mc_key_from_int64(1, &key);
        (void)snprintf(name, sizeof name, "a collection, number %d", i);
        CHECK_OK(mc_batch_put(log_world.writer, name, strlen(name), &key, document, len, &changed,
                              &test_error));
    }
    log_commit();
    CHECK_CHANGES(4, "all");
    mc_writer_close(log_world.writer);
}

/* Notes of the longest keys: their room grows by more than it was. */
static void test_long_keys(void)
{
    static const char text[MC_KEY_MAX];
    struct mc_changes changes;
    struct mc_change change;
    log_open_new(16384);
    for (int version = 1; version < 3; version++) {
        if (version == 2) { /* a loader without any room yet */
            mc_writer_close(log_world.writer);
            log_open();
        }
        log_begin();
        for (int k = 0; k < 3; k++) {
            uint8_t document[DOCUMENT_MOST], bytes[MC_KEY_MAX];
            struct mc_key key = {.type = MC_BSON_STRING, .len = MC_KEY_MAX, .data = bytes};
            bool existed;
            memcpy(bytes, text, sizeof bytes);
            bytes[0] = (uint8_t)('a' + k);
            CHECK_OK(mc_batch_put(log_world.writer, "sites", 5, &key, document,
                                  make_document(document, k, version), &existed, &test_error));
        }
        log_commit();
    }
    struct mc_view view = log_view();
    CHECK_EQ(mc_changes_open(&view, 1, view.root.log_last - 1, &changes), MC_ABSENT);
    CHECK_OK(mc_changes_open(&view, 1, view.root.log_last, &changes));
    mc_changes_close(&changes);
    CHECK_OK(mc_changes_open(&view, 1, MC_CHANGES_UNLIMITED, &changes));
    for (int k = 0; k < 3; k++) {
        CHECK_EQ(mc_changes_next(&changes, &change), MC_OK);
        CHECK(change.kind == MC_CHANGE_PUT && change.key.type == MC_BSON_STRING);
        CHECK(change.key.len == MC_KEY_MAX && change.key.data[0] == 'a' + k);
    }
    CHECK_EQ(mc_changes_next(&changes, &change), MC_ABSENT);
    mc_changes_close(&changes);
    mc_writer_close(log_world.writer);
}

/* Too much within a replace that is cancelled. */
static void test_too_much_cancelled(void)
{
    log_open_new(1024);
    for (int version = 1; version < 5; version++) {
        log_begin();
        log_put(version % 2, 1, version);
        log_commit();
    }
    CHECK_CHANGES(3, "sites +1");
    log_begin(); /* what was noted before it is lost */
    log_put(0, 1, 6);
    log_put(1, 1, 6);
    struct oracle before = log_world.working;
    log_replace(0);
    for (int k = 0; k < 30; k++) {
        log_put(0, k, 7);
    }
    mc_replace_cancel(log_world.writer);
    log_world.working = before;
    log_commit();
    CHECK_CHANGES(4, "limits +1, sites *");
    log_begin(); /* what was noted only within it is gone */
    log_replace(0);
    for (int k = 0; k < 30; k++) {
        log_put(0, k, 7);
    }
    mc_replace_cancel(log_world.writer);
    log_world.working = before;
    log_put(0, 2, 8);
    log_commit();
    CHECK_CHANGES(5, "sites +2");
    mc_writer_close(log_world.writer);
}

/* A commit does not fail for want of memory for its log. */
static void test_no_memory(void)
{
    static const char *const expected[] = {"sites *", "all", "sites +1"};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const char *said = "";
        for (long left = 0; strcmp(said, expected[i]) != 0; left++) {
            uint64_t generation = 0;
            CHECK(left < 40);
            log_open_new(1024);
            log_begin();
            log_put(0, 1, 1);
            log_commit();
            mc_writer_close(log_world.writer);
            log_open(); /* has no memory for notes yet */
            log_begin();
            faults_arm(FAULT_BIT(FAULT_MEMORY), left, false, 0);
            enum mc_status status = put_version(log_world.writer, 0, 1, 2);
            if (status == MC_OK) {
                status = mc_batch_commit(log_world.writer, &generation, &test_error);
            }
            (void)faults_disarm();
            said = status == MC_OK ? list_changes(1) : "";
            CHECK(status == MC_OK || status == MC_NOMEM);
            mc_writer_close(log_world.writer);
        }
    }
}

/* The first allocation of a reader's fails. */
static void test_reader_no_memory(void)
{
    struct mc_changes changes;
    log_open_new(1024);
    for (int version = 1; version < 3; version++) {
        log_begin();
        log_put(0, 1, version);
        log_commit();
    }
    struct mc_view view = log_view();
    faults_arm(FAULT_BIT(FAULT_MEMORY), 0, false, 0);
    CHECK_EQ(mc_changes_open(&view, 1, MC_CHANGES_UNLIMITED, &changes), MC_NOMEM);
    CHECK_EQ(faults_disarm(), 1);
    faults_arm(FAULT_BIT(FAULT_MEMORY), 0, false, 0);
    CHECK_EQ(mc_changes_check(&view), MC_NOMEM);
    CHECK_EQ(faults_disarm(), 1);
    mc_writer_close(log_world.writer);
}

/* ---- random batches ---- */

static void random_operations(int version)
{
    for (uint64_t i = 1 + test_below(test_below(4) == 0 ? 40 : 6); i > 0; i--) {
        int c = (int)test_below(COLLECTIONS), k = (int)test_below(KEYS);
        uint64_t what = test_below(20);
        if (what == 0) {
            log_drop(c);
        } else if (what < 6) {
            log_delete(c, k);
        } else {
            log_put(c, k, version + (int)test_below(2));
        }
    }
}

static void random_replace(int version)
{
    struct oracle before = log_world.working;
    int c = (int)test_below(COLLECTIONS), other = (c + 1) % COLLECTIONS;
    bool subset = test_below(2) == 0;
    log_replace(c);
    for (int k = 0; k < KEYS; k++) {
        int old = before.version[c][k];
        if (old != ABSENT && (!subset || test_below(8) != 0)) {
            log_put(c, k, test_below(20) == 0 ? version : old);
        }
        if (test_below(KEYS) == 0) {
            log_put(other, k, version);
            before.version[other][k] = version;
            before.exists[other] = true;
        }
    }
    if (test_below(3) == 0) {
        mc_replace_cancel(log_world.writer);
        log_world.working = before;
    } else {
        CHECK_OK(mc_replace_end(log_world.writer, &test_error));
    }
}

/* From every generation that there may still be something of. */
static void judge_all(const struct mc_view *view)
{
    uint64_t oldest = log_world.now > HISTORY - 1 ? log_world.now - (HISTORY - 1) : 0;
    bool known = true;
    for (uint64_t since = log_world.now; since > oldest; since--) {
        enum mc_status status = judge_changes(view, since, &log_world.history[since % HISTORY],
                                              &log_world.history[log_world.now % HISTORY]);
        CHECK(status == MC_OK || (status == MC_ABSENT && since + 1 < log_world.now));
        CHECK(known || status == MC_ABSENT); /* what is lost is lost for all before, too */
        known = status == MC_OK;
    }
}

static void test_batches(uint32_t log_size, int commits)
{
    struct change_tally first = change_tally;
    struct mc_map *map;
    struct mc_view view = {.map = NULL};
    log_open_new(log_size);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    for (int i = 1; i <= commits; i++) {
        struct oracle before = log_world.working;
        log_begin();
        random_operations(2 * i);
        if (test_below(4) == 0) {
            random_replace(2 * i);
        }
        if (test_below(8) == 0) {
            mc_batch_abort(log_world.writer);
            log_world.working = before;
        } else {
            log_commit();
        }
        if (test_below(16) == 0) {
            mc_writer_close(log_world.writer);
            log_open();
        }
        if (log_world.now > 0) {
            CHECK_OK(mc_view_open(map, &view, &test_error));
            CHECK_EQ(view.root.generation, log_world.now);
            judge_all(&view);
        }
    }
    printf("  log of %6u bytes, at byte %8llu: %6ld keys, %5ld collections, %4ld all, "
           "%5ld unknown\n",
           log_size, (unsigned long long)view.root.log_end, change_tally.keys - first.keys,
           change_tally.collections - first.collections, change_tally.alls - first.alls,
           change_tally.unknown - first.unknown);
    CHECK(view.root.log_end > 8 * (uint64_t)log_size || commits < 300);
    mc_map_release(map);
    mc_writer_close(log_world.writer);
}

/* ---- a reader that is stopped ---- */

static long loads_left;
static int commits_to_make, pause_version;

static void on_load(enum shm_access access, const void *address, size_t len)
{
    (void)address;
    (void)len;
    if (access == SHM_LOAD && loads_left-- == 0) {
        mc_shm_hook = NULL;
        for (int i = 0; i < commits_to_make; i++) {
            log_begin();
            pause_version++;
            log_put(0, pause_version % 50, pause_version);
            log_commit();
        }
        mc_shm_hook = on_load;
    }
}

/* Reads what changed from `back` generations ago; false: it has fewer loads than that. */
static bool pause_reader(struct mc_map *map, uint64_t back, long pause_at)
{
    struct mc_view view;
    CHECK_OK(mc_view_open(map, &view, &test_error));
    uint64_t since = log_world.now - back;
    struct oracle then = log_world.history[log_world.now % HISTORY];
    struct oracle from = log_world.history[since % HISTORY];
    loads_left = pause_at;
    mc_shm_hook = on_load;
    (void)judge_changes(&view, since, &from, &then);
    mc_shm_hook = NULL;
    return loads_left < 0;
}

/* The loader overtakes the reader before any of its loads by any number of commits. */
static void test_pauses(void)
{
    struct change_tally first = change_tally;
    struct mc_map *map;
    long pauses = 0;
    log_open_new(512);
    mc_writer_close(log_world.writer);
    remove_cache(test_path());
    log_world.options.retention_ns = INT64_MAX / 2;
    log_world.options.ring_slots = 64; /* it is the log that is to go round */
    log_open();
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    for (int i = 0; i < 6; i++) {
        log_begin();
        log_put(0, i, 1);
        log_commit();
    }
    for (commits_to_make = 1; commits_to_make < 14; commits_to_make++) {
        for (uint64_t back = 1; back < 6; back++) {
            for (long at = 0; pause_reader(map, back, at); at++) {
                pauses++;
            }
        }
    }
    printf("  %ld pauses, of which %ld cost the reader the log\n", pauses,
           change_tally.unknown - first.unknown);
    CHECK(change_tally.unknown > first.unknown && change_tally.keys > first.keys);
    mc_map_release(map);
    mc_writer_close(log_world.writer);
}

/* ---- a loader that is stopped ---- */

static struct mc_map *stopped_map;
static long stops;

/* Whoever reads before any store of the loader finds the log right, or is told to be too late. */
static void on_store(enum shm_access access, const void *address, size_t len)
{
    struct mc_view view;
    (void)address;
    (void)len;
    if (access != SHM_STORE) {
        return;
    }
    mc_shm_hook = NULL;
    CHECK_OK(mc_view_open(stopped_map, &view, &test_error));
    uint64_t generation = view.root.generation;
    CHECK(generation == log_world.now || generation == log_world.now + 1);
    log_world.history[(log_world.now + 1) % HISTORY] = log_world.working;
    for (uint64_t since = generation - 5; since < generation; since++) {
        (void)judge_changes(&view, since, &log_world.history[since % HISTORY],
                            &log_world.history[generation % HISTORY]);
    }
    stops++;
    mc_shm_hook = on_store;
}

static void test_stops(void)
{
    log_open_new(256);
    for (int i = 1; i < 40; i++) {
        log_begin();
        log_put(0, i % 5, i);
        if (i == 6) {
            CHECK_OK(mc_map_open(test_path(), &stopped_map, &test_error));
        }
        mc_shm_hook = i > 6 ? on_store : NULL;
        log_commit();
        mc_shm_hook = NULL;
    }
    printf("  %ld stores of a loader looked between\n", stops);
    CHECK(stops > 1000);
    mc_map_release(stopped_map);
    mc_writer_close(log_world.writer);
}

int main(void)
{
    test_begin("test_changes");
    mc_buddy_test_unchecked = true;
    test_lists();
    test_replaces();
    test_aborts();
    test_too_much();
    test_too_much_cancelled();
    test_long_keys();
    test_no_memory();
    test_reader_no_memory();
    for (uint32_t log_size = MC_LOG_MIN; log_size <= 32768; log_size *= log_size < 1024 ? 2 : 4) {
        test_batches(log_size, test_rounds(log_size <= 1024 ? 400 : 120));
    }
    test_pauses();
    test_stops();
    remove_cache(test_path());
    return 0;
}
