/* test_change_threads.c - readers follow the change log while a loader goes round it, as threads of
 * one process, for ThreadSanitizer.
 *
 * What each generation changes is known beforehand, so a reader checks the whole list, in its
 * order. The log has room for a few generations only, and readers sleep now and then.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "change_log.h"
#include "store_support.h"

#define READERS 2
#define COMMITS 1000

static atomic_bool over;
static atomic_long lists, lost, changes_seen;

/* The n-th key that a generation puts; false: there are no more. */
static bool expected(uint64_t generation, uint64_t n, int64_t *k)
{
    *k = (int64_t)((generation * 7 + n) % KEYS);
    return n <= generation % 3;
}

static void check_list(struct mc_changes *changes, uint64_t since, uint64_t until)
{
    struct mc_change change;
    int64_t k, got;
    for (uint64_t generation = since + 1; generation <= until; generation++) {
        for (uint64_t n = 0; expected(generation, n, &k); n++) {
            CHECK_EQ(mc_changes_next(changes, &change), MC_OK);
            CHECK_EQ(change.generation, generation);
            if (change.kind == MC_CHANGE_ALL) { /* the first one */
                CHECK_EQ(generation, 1);
                break;
            }
            CHECK(change.kind == MC_CHANGE_PUT && change.key.len == sizeof got);
            CHECK(change.name_len == 5 && memcmp(change.name, "sites", 5) == 0);
            memcpy(&got, change.key.data, sizeof got);
            CHECK_EQ(got, k);
            changes_seen++;
        }
    }
    CHECK_EQ(mc_changes_next(changes, &change), MC_ABSENT);
}

static void *reader(void *argument)
{
    struct mc_map *map = argument;
    uint64_t last = 0;
    for (unsigned round = 0; !over; round++) {
        struct mc_view view;
        struct mc_error error;
        struct mc_changes changes;
        enum mc_status status = mc_view_open(map, &view, &error);
        if (status == MC_OK) {
            status = mc_changes_open(&view, last, MC_CHANGES_UNLIMITED, &changes);
            if (status == MC_OK) {
                check_list(&changes, last, view.root.generation);
                mc_changes_close(&changes);
                lists++;
            }
            lost += status == MC_ABSENT;
            last = status != MC_EXPIRED ? view.root.generation : last;
        }
        CHECK(status == MC_OK || status == MC_ABSENT || status == MC_EXPIRED ||
              status == MC_NOT_READY);
        if (round % 8 == 0) {
            usleep(200);
        }
    }
    return NULL;
}

int main(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer;
    struct mc_map *maps[READERS];
    pthread_t threads[READERS];
    uint64_t generation;
    int64_t k;
    test_begin("test_change_threads");
    mc_buddy_test_unchecked = true;
    options.ring_slots = 64;
    writer = open_new_cache(&options);
    for (int i = 0; i < READERS; i++) {
        CHECK_OK(mc_map_open(test_path(), &maps[i], &test_error));
        CHECK(pthread_create(&threads[i], NULL, reader, maps[i]) == 0);
    }
    for (uint64_t commit = 1; commit <= (uint64_t)test_rounds(COMMITS); commit++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        for (uint64_t n = 0; expected(commit, n, &k); n++) {
            CHECK_OK(put_version(writer, 0, (int)k, (int)commit));
        }
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        CHECK_EQ(generation, commit);
        if (commit % 32 == 0) {
            usleep(100);
        }
    }
    usleep(20000); /* both are at the end, or lost */
    over = true;
    for (int i = 0; i < READERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        mc_map_release(maps[i]);
    }
    mc_writer_close(writer);
    printf("test_change_threads: %ld lists, %ld changes, %ld times lost\n", lists, changes_seen,
           lost);
    CHECK(lists > 0);
    remove_cache(test_path());
    return 0;
}
