/* store_support.h - a small world for tests of the store: documents, an oracle, and a comparison of
 * the two.
 *
 * The oracle is a plain array: what version each of a few keys has in each of a few collections,
 * and the loader's state. Documents are made from (key, version), so a document that mixes two
 * versions is seen.
 */
#ifndef MMAPCACHE_STORE_SUPPORT_H
#define MMAPCACHE_STORE_SUPPORT_H

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "bell.h"
#include "buddy.h"
#include "check.h"
#include "harness.h"
#include "writer/batch.h"
#include "writer/publish.h"
#include "writer/writer.h"

#define COLLECTIONS 3
#define KEYS 200
#define ABSENT (-1)

struct oracle {
    bool exists[COLLECTIONS];
    int version[COLLECTIONS][KEYS]; /* ABSENT, or the document's version */
    int state;                      /* of the loader: ABSENT, or its version */
};

extern const char *const collection_names[COLLECTIONS];

#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        enum mc_status check_status = (call);                                                      \
        if (check_status != MC_OK) {                                                               \
            test_failed(__FILE__, __LINE__, "%s: status %d: %s", #call, check_status,              \
                        test_error.text);                                                          \
        }                                                                                          \
    } while (0)

extern struct mc_error test_error;

/* {_id: key, v: version, pad: bytes that all equal the version}; returns its length. */
size_t make_document(uint8_t *to, int key, int version);

#define DOCUMENT_MOST 300

/* {p: bytes that all equal `byte`}, of `len` bytes in all; of many with fields enough before p for
 * an index of fields. */
void fill_document(uint8_t *to, uint32_t len, uint8_t byte);

void oracle_clear(struct oracle *oracle);

/* Looks for document `k` and copies it, unless it is larger than any. The status is not settled. */
enum mc_status find_document(const struct mc_view *view, uint64_t root, int k, struct mc_hit *hit,
                             uint8_t got[DOCUMENT_MOST]);

/* Whether what the view answers is what the oracle says. Every answer is settled: MC_EXPIRED as
 * soon as one is not valid. */
enum mc_status view_equals(const struct mc_view *view, const struct oracle *oracle, bool *equal);

void check_clean(const struct mc_view *view);

/* The current generation, which there is. */
struct mc_view view_of(struct mc_map *map);

/* Checks what the writer has committed, then closes both. */
void close_checked(struct mc_writer *writer, struct mc_map *map);

enum mc_status put_version(struct mc_writer *writer, int c, int k, int version);

enum mc_status put_state(struct mc_writer *writer, int version);

/* Commits a state that was not there, and nothing else. */
enum mc_status commit_state(struct mc_writer *writer);

enum mc_status delete_key_of(struct mc_writer *writer, int c, int k, bool *existed);

void remove_cache(const char *path);

extern pid_t test_owner;

void on_test_end(int number);

/* A path for this test's cache, on tmpfs; the test's children share it. */
const char *test_path(void);

struct mc_writer_options small_options(void);

/* The writer of a new cache at test_path(). */
struct mc_writer *open_new_cache(const struct mc_writer_options *options);

/* A new cache at test_path() with small_options() and one document, which nobody has open. */
void make_small_cache(void);

/* Forks a child that calls this and exits with 0 (expected: 0), or is ended by a signal. */
void in_child(void (*body)(void), int expected);

#endif
