/* test_writer.c - a loader's odd moments: successors without memory, empty ones, long reports, a
 * child that closes what it inherited.
 */
#include <sys/wait.h>

#include "faults.h"
#include "store_support.h"

static struct mc_writer *writer;

static uint64_t commit_one(int version)
{
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, version));
    CHECK_OK(mc_batch_state(writer, (const uint8_t *)"position", 8, &test_error));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    return generation;
}

/* Another max_size with each allocation failing in turn: the old file stays as it was until one
 * attempt has all it needs; then content and state are in the successor. */
static void test_resize_without_memory(void)
{
    struct mc_writer_options options = small_options();
    struct mc_view view;
    struct mc_hit hit;
    long failures = 0;
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    uint64_t generation = commit_one(1);
    mc_writer_close(writer);
    options.max_size *= 2;
    for (long left = 0;; left++) {
        faults_arm(FAULT_BIT(FAULT_MEMORY), left, true, 0);
        enum mc_status status = mc_writer_open(test_path(), &options, &writer, &test_error);
        (void)faults_disarm();
        if (status == MC_OK) {
            break;
        }
        CHECK_EQ(status, MC_NOMEM);
        failures++;
    }
    CHECK(failures > 10);
    mc_writer_view(writer, &view);
    CHECK(view.root.generation > generation && view.root.documents == 1);
    CHECK_EQ(mc_find_state(&view, &hit), MC_OK);
    CHECK(hit.value_len == 8 && shm_equal(hit.value, "position", 8));
    check_clean(&view);
    mc_writer_close(writer);
}

/* A cache that was published empty is published empty again in its successor; one that never was is
 * not. */
static void test_resize_of_nothing(void)
{
    for (int published = 0; published < 2; published++) {
        struct mc_writer_options options = small_options();
        struct mc_map *map;
        struct mc_view view;
        uint64_t generation;
        bool existed;
        remove_cache(test_path());
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        if (published) {
            CHECK_OK(mc_batch_begin(writer, &test_error));
            CHECK_OK(put_version(writer, 0, 1, 1));
            CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
            CHECK_OK(mc_batch_begin(writer, &test_error));
            CHECK_OK(mc_batch_drop(writer, "sites", 5, &existed, &test_error));
            CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
        }
        mc_writer_close(writer);
        options.max_size *= 2;
        CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
        CHECK_OK(mc_map_open(test_path(), &map, &test_error));
        CHECK_EQ(mc_view_open(map, &view, &test_error), published ? MC_OK : MC_NOT_READY);
        CHECK_EQ(view.root.documents, 0);
        mc_map_release(map);
        mc_writer_close(writer);
    }
}

/* A report that does not fit is cut between characters. */
static void test_long_report(void)
{
    struct mc_writer_options options = small_options();
    struct mc_loader_status status;
    struct mc_map *map;
    char text[1000];
    for (size_t i = 0; i + 1 < sizeof text; i += 2) {
        memcpy(text + i, "\xC3\xA9", 2);
    }
    text[998] = '\0';
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    mc_writer_report(writer, text, text, text, 5);
    mc_writer_report(writer, NULL, NULL, NULL, -1);
    CHECK_OK(mc_map_open(test_path(), &map, &test_error));
    mc_map_status(map, &status);
    CHECK_EQ(strlen(status.state), 30);
    CHECK_EQ(strlen(status.source), 254);
    CHECK_EQ(strlen(status.error), 478);
    CHECK(status.running && status.confirmed_at == 5 && mc_writer_fd(writer) == -1);
    mc_map_release(map);
    mc_writer_close(writer);
}

/* The child lets go of everything, and the parent notices nothing. */
static void test_close_in_child(void)
{
    struct mc_writer_options options = small_options();
    int status;
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), &options, &writer, &test_error));
    (void)commit_one(1);
    pid_t child = fork();
    if (child == 0) {
        mc_writer_close(writer);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(commit_one(2), 2);
    mc_writer_close(writer);
}

int main(void)
{
    test_begin("test_writer");
    test_resize_without_memory();
    test_resize_of_nothing();
    test_long_report();
    test_close_in_child();
    remove_cache(test_path());
    return 0;
}
