/* test_threads.c - readers and a committing writer as threads of one process, for ThreadSanitizer.
 *
 * There the funnel's relaxed accesses are acquire and release, because that sanitizer knows no
 * stand-alone fences; whatever else is shared without an order is reported. Without it this is a
 * stress test of the same: every answer must be whole and of a generation that does not go back.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "store_support.h"

#define READERS 2
#define COMMITS 250
#define LIVE_KEYS 60

static atomic_bool over;
static atomic_long answers, retries;

/* All documents of one generation have the version that the generation has. */
static void read_generation(struct mc_map *map, uint64_t *last)
{
    struct mc_view view;
    struct mc_collection collection;
    struct mc_error error;
    enum mc_status status = mc_view_open(map, &view, &error);
    if (status == MC_NOT_READY) {
        return;
    }
    CHECK(status == MC_OK || status == MC_EXPIRED);
    if (status == MC_OK) {
        CHECK(view.root.generation >= *last);
        *last = view.root.generation;
        status = mc_view_collection(&view, "sites", 5, &collection);
    }
    for (int k = 0; k < LIVE_KEYS && status == MC_OK; k += 7) {
        uint8_t want[DOCUMENT_MOST], got[DOCUMENT_MOST];
        struct mc_key key;
        struct mc_hit hit = {0};
        mc_key_from_int64(k, &key);
        key.hash = mc_view_hash(&view, &key);
        status = mc_find(&view, collection.root, &key, &hit);
        if (status == MC_OK && hit.value_len <= sizeof got) {
            mc_copy(got, hit.value, hit.value_len);
        }
        status = mc_view_settle(&view, status);
        if (status == MC_OK) {
            size_t len = make_document(want, k, (int)view.root.generation);
            CHECK(hit.value_len == len && memcmp(want, got, len) == 0);
            answers++;
        }
    }
    CHECK(status == MC_OK || status == MC_EXPIRED);
    retries += status == MC_EXPIRED;
}

static void *reader(void *argument)
{
    struct mc_map *map = argument;
    struct mc_loader_report status;
    uint64_t last = 0;
    while (!over) {
        read_generation(map, &last);
        mc_map_report(map, &status);
        CHECK(strcmp(status.state, status.error) == 0);
        (void)mc_map_wait(map, last, 100000);
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
    test_begin("test_threads");
    mc_buddy_test_unchecked = true;
    writer = open_new_cache(&options);
    for (int i = 0; i < READERS; i++) {
        CHECK_OK(mc_map_open(test_path(), &maps[i], &test_error));
        CHECK(pthread_create(&threads[i], NULL, reader, maps[i]) == 0);
    }
    for (int commit = 1; commit <= COMMITS; commit++) {
        CHECK_OK(mc_batch_begin(writer, &test_error));
        for (int k = 0; k < LIVE_KEYS; k++) {
            CHECK_OK(put_version(writer, 0, k, commit));
        }
        CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        CHECK_EQ(generation, commit);
        mc_writer_report(writer, commit % 2 ? "odd" : "even", commit % 2 ? "odd" : "even", NULL, -1,
                         NULL);
        usleep(500);
    }
    over = true;
    for (int i = 0; i < READERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        mc_map_release(maps[i]);
    }
    mc_writer_close(writer);
    printf("test_threads: %ld answers, %ld retries\n", answers, retries);
    CHECK(answers > 100);
    remove_cache(test_path());
    return 0;
}
