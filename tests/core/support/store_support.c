/* store_support.c - see store_support.h. */
#include "store_support.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

const char *const collection_names[COLLECTIONS] = {"sites", "limits", "flags"};

struct mc_error test_error;

size_t make_document(uint8_t *to, int key, int version)
{
    int64_t id = key;
    uint32_t pad = 20 + (uint32_t)(key * 7 + version * 13) % 200, len;
    size_t at = 4;
    to[at++] = MC_BSON_INT64;
    memcpy(to + at, "_id", 4);
    memcpy(to + at + 4, &id, 8);
    at += 12;
    to[at++] = MC_BSON_INT32;
    memcpy(to + at, "v", 2);
    memcpy(to + at + 2, &version, 4);
    at += 6;
    to[at++] = MC_BSON_BINARY;
    memcpy(to + at, "pad", 4);
    memcpy(to + at + 4, &pad, 4);
    to[at + 8] = 0;
    memset(to + at + 9, version & 0xFF, pad);
    at += 9 + pad;
    to[at++] = 0;
    len = (uint32_t)at;
    memcpy(to, &len, 4);
    return at;
}

/* So many fields that a document of this size has an index of them. */
#define MANY_FIELDS 70
#define MANY_FIELDS_FROM 8192

void fill_document(uint8_t *to, uint32_t len, uint8_t byte)
{
    size_t at = 4;
    memset(to, byte, len);
    memcpy(to, &len, 4);
    for (int i = 0; len >= MANY_FIELDS_FROM && i < MANY_FIELDS; i++, at += 5) {
        const uint8_t field[5] = {MC_BSON_BOOL, 'f', (uint8_t)('0' + i), 0, byte & 1};
        memcpy(to + at, field, sizeof field);
    }
    const uint32_t pad = len - (uint32_t)at - 9;
    memcpy(to + at, "\x05p", 3);
    memcpy(to + at + 3, &pad, 4);
    to[at + 7] = 0;
    to[len - 1] = 0;
}

void oracle_clear(struct oracle *oracle)
{
    oracle->state = ABSENT;
    for (int c = 0; c < COLLECTIONS; c++) {
        oracle->exists[c] = false;
        for (int k = 0; k < KEYS; k++) {
            oracle->version[c][k] = ABSENT;
        }
    }
}

/* Whether the loader's state is what the oracle says; settled. */
static enum mc_status state_equals(const struct mc_view *view, const struct oracle *oracle,
                                   bool *equal)
{
    struct mc_hit hit;
    int got = ABSENT;
    enum mc_status status = mc_find_state(view, &hit);
    if (status == MC_OK && hit.value_len == sizeof got) {
        mc_copy((uint8_t *)&got, hit.value, sizeof got);
    }
    status = mc_view_settle(view, status);
    CHECK(status == MC_OK || status == MC_ABSENT || status == MC_EXPIRED);
    *equal = got == oracle->state && (status == MC_OK) == (oracle->state != ABSENT);
    return status == MC_EXPIRED ? status : MC_OK;
}

enum mc_status find_document(const struct mc_view *view, uint64_t root, int k, struct mc_hit *hit,
                             uint8_t got[DOCUMENT_MOST])
{
    struct mc_key key;
    mc_key_from_int64(k, &key);
    key.hash = mc_view_hash(view, &key);
    enum mc_status status = mc_find(view, root, &key, hit);
    if (status == MC_OK && hit->value_len <= DOCUMENT_MOST) {
        mc_copy(got, hit->value, hit->value_len);
    }
    return status;
}

enum mc_status view_equals(const struct mc_view *view, const struct oracle *oracle, bool *equal)
{
    if (state_equals(view, oracle, equal) == MC_EXPIRED) {
        return MC_EXPIRED;
    }
    for (int c = 0; c < COLLECTIONS; c++) {
        struct mc_collection collection;
        uint64_t count = 0;
        enum mc_status status =
            mc_view_collection(view, collection_names[c], strlen(collection_names[c]), &collection);
        if (status == MC_EXPIRED) {
            return status;
        }
        CHECK(status == MC_OK || status == MC_ABSENT);
        *equal &= (status == MC_OK) == oracle->exists[c];
        for (int k = 0; k < KEYS; k++) {
            uint8_t expected[DOCUMENT_MOST], got[DOCUMENT_MOST];
            struct mc_hit hit;
            status = mc_view_settle(view, find_document(view, collection.root, k, &hit, got));
            if (status == MC_EXPIRED) {
                return status;
            }
            CHECK(status == MC_OK || status == MC_ABSENT);
            if (status == MC_ABSENT) {
                *equal &= oracle->version[c][k] == ABSENT;
                continue;
            }
            count++;
            size_t len = make_document(expected, k, oracle->version[c][k]);
            *equal &= hit.value_len == len && memcmp(expected, got, len) == 0;
        }
        *equal &= count == collection.count;
    }
    return MC_OK;
}

void check_clean(const struct mc_view *view)
{
    struct mc_check_report report;
    CHECK_OK(mc_check(view, &report, &test_error));
}

struct mc_view view_of(struct mc_map *map)
{
    struct mc_view view;
    CHECK_OK(mc_view_open(map, &view, &test_error));
    return view;
}

void close_checked(struct mc_writer *writer, struct mc_map *map)
{
    struct mc_view view;
    mc_writer_view(writer, &view);
    check_clean(&view);
    mc_map_release(map);
    mc_writer_close(writer);
}

enum mc_status put_version(struct mc_writer *writer, int c, int k, int version)
{
    uint8_t document[DOCUMENT_MOST];
    struct mc_key key;
    bool changed;
    size_t len = make_document(document, k, version);
    mc_key_from_int64(k, &key);
    return mc_batch_put(writer, collection_names[c], strlen(collection_names[c]), &key, document,
                        len, &changed, &test_error);
}

enum mc_status put_state(struct mc_writer *writer, int version)
{
    return mc_batch_state(writer, (const uint8_t *)&version, sizeof version, &test_error);
}

enum mc_status commit_state(struct mc_writer *writer)
{
    static int version;
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    enum mc_status status = put_state(writer, ++version);
    if (status == MC_OK) {
        status = mc_batch_commit(writer, &generation, &test_error);
    }
    if (status != MC_OK) {
        mc_batch_abort(writer);
    }
    return status;
}

enum mc_status delete_key_of(struct mc_writer *writer, int c, int k, bool *existed)
{
    struct mc_key key;
    mc_key_from_int64(k, &key);
    return mc_batch_delete(writer, collection_names[c], strlen(collection_names[c]), &key, existed,
                           &test_error);
}

/* With what a test that was killed has left under this name, an empty directory among it. */
void remove_cache(const char *path)
{
    static const char *const suffixes[] = {"", MC_LOCK_SUFFIX, ".new", MC_BELL_SUFFIX};
    char name[96];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        (void)snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        (void)remove(name);
    }
}

static char test_path_text[64];
pid_t test_owner;

/* A test that fails or is ended leaves nothing on tmpfs, which is memory. */
static void test_clean_up(void)
{
    if (getpid() == test_owner) {
        remove_cache(test_path_text);
    }
}

void on_test_end(int number)
{
    test_clean_up();
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

const char *test_path(void)
{
    if (test_owner == 0) {
        static const int ends[] = {SIGABRT, SIGTERM, SIGINT, SIGHUP, SIGALRM};
        test_owner = getpid();
        (void)snprintf(test_path_text, sizeof test_path_text, "/dev/shm/mmapcache-test-%ld",
                       (long)test_owner);
        for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
            (void)signal(ends[i], on_test_end);
        }
        (void)atexit(test_clean_up);
    }
    return test_path_text;
}

struct mc_writer_options small_options(void)
{
    return (struct mc_writer_options){
        .max_size = 8u << 20, .mode = 0600, .ring_slots = 4, .log_size = 512, .history = 8};
}

struct mc_writer *open_new_cache(const struct mc_writer_options *options)
{
    struct mc_writer *writer;
    remove_cache(test_path());
    CHECK_OK(mc_writer_open(test_path(), options, &writer, &test_error));
    return writer;
}

void make_small_cache(void)
{
    struct mc_writer_options options = small_options();
    struct mc_writer *writer = open_new_cache(&options);
    uint64_t generation;
    CHECK_OK(mc_batch_begin(writer, &test_error));
    CHECK_OK(put_version(writer, 0, 1, 1));
    CHECK_OK(mc_batch_commit(writer, &generation, &test_error));
    mc_writer_close(writer);
}

void in_child(void (*body)(void), int expected)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        body();
        exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(expected == 0 ? WIFEXITED(status) && WEXITSTATUS(status) == 0
                        : WIFSIGNALED(status) && WTERMSIG(status) == expected);
}
