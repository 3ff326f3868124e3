/* full_world.h - a cache that is nearly full, with documents of many sizes and an index of several
 * documents a value, whose documents change at random.
 *
 * A document is {g: [few, some, own], p: bytes that all equal its version}: `few` is one of eight
 * values, each of which a thousand documents may have, so that their tables of keys have nodes;
 * a dozen documents have one value of `some`, and one document has `own`.
 */
#ifndef MMAPCACHE_TEST_FULL_WORLD_H
#define MMAPCACHE_TEST_FULL_WORLD_H

#include "index.h"
#include "store_support.h"

#define FULL_MOST 20000 /* documents */
#define FULL_UPDATES 60 /* of a commit */

struct full_document {
    uint32_t size;
    int32_t groups[3]; /* few, some, own */
    uint8_t version;
};

struct full_world {
    struct mc_writer *writer;
    struct mc_map *map;
    int64_t over; /* bytes more than at the beginning */
    int count;
    struct full_document documents[FULL_MOST];
};

extern struct full_world full_world;

/* The document's bytes, which are as many as it says. */
const uint8_t *full_bytes(const struct full_document *document);

/* A new cache at test_path() with an index, filled with documents up to a share of its maximum. The
 * largest has a 256th of that. */
void full_begin(uint64_t max_size, double share, int64_t retention_ns);

/* Opens it anew, as the next loader does. */
void full_open_again(void);

/* Changes documents, whose sizes' sum stays where it was, and commits. `before_commit` is called
 * then, if it is not NULL. When it fails, everything is as before. */
enum mc_status full_update(void (*before_commit)(void));

/* Whether the view has these documents, each of which the index leads to by its values, and to no
 * others. */
void full_check(const struct mc_view *view, const struct full_world *expected);

/* Checks all of the file as well, and that nothing in it is lost: closes it and opens it anew. */
void full_end(void);

#endif
