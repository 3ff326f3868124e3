/* test_fuzz.c - what the fuzzers found once, again; and a few thousand of their runs, for everybody
 * who has no libFuzzer.
 *
 * Each file of tests/fuzz/regressions/image and .../bson is run as it is. Then real images and
 * documents are changed by the fuzzers' own mutator, from the seed that is printed.
 */
#include <dirent.h>
#include <string.h>

#include "bson_run.h"
#include "buddy.h"
#include "commit_check.h"
#include "harness.h"
#include "image.h"
#include "memory_region.h"
#include "mutate.h"
#include "writer/batch.h"
#include "writer/writer.h"

static uint8_t input[IMAGE_MOST];

static size_t read_input(const char *path)
{
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    size_t len = fread(input, 1, sizeof input, file);
    CHECK(fclose(file) == 0);
    return len;
}

static int replay(const char *kind, int (*run)(const uint8_t *data, size_t len))
{
    char folder[512], path[1024];
    const char *here = strrchr(__FILE__, '/');
    int count = 0;
    CHECK(here != NULL);
    (void)snprintf(folder, sizeof folder, "%.*s/../fuzz/regressions/%s", (int)(here - __FILE__),
                   __FILE__, kind);
    DIR *directory = opendir(folder);
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] != '.') {
            (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            (void)run(input, read_input(path));
            count++;
        }
    }
    CHECK(closedir(directory) == 0);
    return count;
}

/* A real image, in place: returns its length. */
static size_t make_image(int documents)
{
    struct mc_writer_options options = {
        .max_size = 2 * MC_EXTENT, .mode = 0600, .ring_slots = 4, .log_size = 512, .history = 4};
    struct mc_writer *writer;
    struct mc_error error;
    uint8_t document[64];
    uint64_t generation, count;
    bool changed;
    memory_reset();
    CHECK_EQ(mc_writer_open(IMAGE_PATH, &options, &writer, &error), MC_OK);
    CHECK_EQ(mc_batch_begin(writer, &error), MC_OK);
    CHECK_EQ(mc_batch_index(writer, "sites", 5, "_id", 3, MC_INDEX_MULTI, &changed, &error), MC_OK);
    for (int k = 0; k < documents; k++) {
        size_t len = small_document(document, k);
        const char *name = k % 3 == 0 ? "limits" : "sites";
        CHECK_EQ(mc_batch_put_raw(writer, name, strlen(name), document, len, &count, &error),
                 MC_OK);
    }
    for (int k = 0; k < documents / 8; k++) { /* one value of several documents */
        struct mc_key key;
        size_t len = small_document(document, k / 4);
        mc_key_from_int64(1000 + k, &key);
        CHECK_EQ(mc_batch_put(writer, "sites", 5, &key, document, len, &changed, &error), MC_OK);
    }
    CHECK_EQ(mc_batch_state(writer, (const uint8_t *)"", 0, &error), MC_OK);
    CHECK_EQ(mc_batch_commit(writer, &generation, &error), MC_OK);
    for (int k = 0; k < 3; k++) { /* something to log */
        struct mc_key key;
        bool existed;
        size_t len = small_document(document, documents + k);
        CHECK_EQ(mc_batch_begin(writer, &error), MC_OK);
        CHECK_EQ(mc_batch_put_raw(writer, "flags", 5, document, len, &count, &error), MC_OK);
        mc_key_from_int64(k, &key);
        CHECK_EQ(mc_batch_delete(writer, "sites", 5, &key, &existed, &error), MC_OK);
        CHECK_EQ(mc_batch_commit(writer, &generation, &error), MC_OK);
    }
    mc_writer_close(writer);
    return image_take(input);
}

int main(void)
{
    static uint8_t changed[IMAGE_MOST];
    test_begin("test_fuzz");
    mc_buddy_test_unchecked = commit_check_off = true;
    int images = replay("image", run_image), documents = replay("bson", run_bson);
    printf("test_fuzz: %d images, %d documents\n", images, documents);
    CHECK(images > 0 && documents > 0);
    for (int round = 0; round < test_rounds(3000); round++) {
        static size_t len;
        if (round % 100 == 0) {
            len = make_image(round / 100 % 15 * 17);
            (void)run_image(input, len);
        }
        memcpy(changed, input, len);
        (void)run_image(changed, change_image(changed, len, sizeof changed, test_random()));
    }
    return 0;
}
