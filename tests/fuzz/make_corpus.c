/* make_corpus.c - real images of several shapes for the fuzzers to start from: make_corpus
 * DIRECTORY.
 *
 * Small on purpose: a ring of four roots puts the arena at 17408, and what follows the last byte
 * that is not zero is left out.
 */
#include <string.h>

#include "bson.h"
#include "harness.h"
#include "image.h"
#include "memory_region.h"
#include "writer/batch.h"
#include "writer/writer.h"

static struct mc_error error;

static void must(enum mc_status status)
{
    if (status != MC_OK) {
        fprintf(stderr, "make_corpus: %s\n", error.text);
        exit(1);
    }
}

/* {_id: k, v: {a: [..]}} with a text of some length. */
static size_t document(uint8_t *to, int64_t k, uint32_t text)
{
    size_t at = small_document(to, k) - 1;
    uint32_t inner, len;
    to[at++] = MC_BSON_STRING;
    memcpy(to + at, "s", 2);
    len = text + 1;
    memcpy(to + at + 2, &len, 4);
    memset(to + at + 6, 'x', text);
    at += 6 + text;
    to[at++] = 0;
    to[at++] = MC_BSON_ARRAY;
    memcpy(to + at, "a", 2);
    at += 2;
    inner = 4 + 1 + 2 + 4 + 1; /* [int32] */
    memcpy(to + at, &inner, 4);
    to[at + 4] = MC_BSON_INT32;
    memcpy(to + at + 5, "0", 2);
    memcpy(to + at + 7, &text, 4);
    to[at + 11] = 0;
    at += inner;
    to[at++] = 0;
    len = (uint32_t)at;
    memcpy(to, &len, 4);
    return at;
}

/* Of a field that differs in all documents, and of one that is the same. */
static void make_indexes(struct mc_writer *writer)
{
    bool changed;
    must(mc_batch_index(writer, "sites", 5, "_id", 3, MC_INDEX_UNIQUE, &changed, &error));
    must(mc_batch_index(writer, "sites", 5, "a", 1, MC_INDEX_MULTI, &changed, &error));
}

static void save(const char *directory, const char *name)
{
    static uint8_t bytes[IMAGE_MOST];
    char target[512];
    size_t len = image_take(bytes);
    (void)snprintf(target, sizeof target, "%s/%s", directory, name);
    FILE *file = fopen(target, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int collections, documents, commits;
        uint32_t text;
        bool with_state, with_indexes;
    } shapes[] = {{"empty", 0, 0, 0, 0, false, false},   {"state", 0, 0, 1, 0, true, false},
                  {"one", 1, 1, 1, 5, false, false},     {"page", 1, 40, 1, 5, false, false},
                  {"split", 2, 130, 1, 0, false, false}, {"three", 3, 20, 3, 30, true, false},
                  {"many", 12, 2, 2, 3, false, false},   {"long", 1, 5, 1, 1500, false, false},
                  {"ring", 1, 3, 9, 10, false, false},   {"index", 2, 40, 2, 5, false, true}};
    static const char *const names[] = {"sites", "limits", "flags", "big", "e", "f",
                                        "g",     "h",      "i",     "j",   "k", "l"};
    static uint8_t bytes[4096];
    CHECK(argc == 2);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct mc_writer_options options = {.max_size = 4 * MC_EXTENT,
                                            .mode = 0600,
                                            .ring_slots = 4,
                                            .log_size = 1024,
                                            .history = 4};
        struct mc_writer *writer;
        uint64_t generation, documents;
        memory_reset();
        must(mc_writer_open(IMAGE_PATH, &options, &writer, &error));
        for (int commit = 0; commit < shapes[i].commits; commit++) {
            must(mc_batch_begin(writer, &error));
            if (shapes[i].with_indexes && commit == 0) {
                make_indexes(writer);
            }
            for (int c = 0; c < shapes[i].collections; c++) {
                for (int k = 0; k < shapes[i].documents; k++) {
                    size_t len = document(bytes, k, shapes[i].text + (uint32_t)commit);
                    must(mc_batch_put_raw(writer, names[c], strlen(names[c]), bytes, len,
                                          &documents, &error));
                }
            }
            if (shapes[i].with_state) {
                must(mc_batch_state(writer, (const uint8_t *)"position", 8, &error));
            }
            must(mc_batch_commit(writer, &generation, &error));
        }
        mc_writer_close(writer);
        save(argv[1], shapes[i].name);
    }
    return 0;
}
