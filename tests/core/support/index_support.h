/* index_support.h - documents and indexes for the tests of indexes: a world with one writer. */
#ifndef MMAPCACHE_INDEX_SUPPORT_H
#define MMAPCACHE_INDEX_SUPPORT_H

#include "index.h"
#include "store_support.h"

extern struct mc_writer *writer;
extern struct mc_writer_options index_options;

/* A new file at test_path(), and the end of it. */
void open_new(void);
void end(void);

/* ---- documents ---- */

struct bson {
    uint8_t bytes[4000];
    size_t len;
    size_t open[8]; /* where documents that have not ended begin */
    int depth;
};

struct bson begin(void);
void name(struct bson *to, uint8_t type, const char *text);
void number(struct bson *to, const char *text, int64_t value);
void string(struct bson *to, const char *text, size_t len);
void nested(struct bson *to, uint8_t type, const char *text);
void stop(struct bson *to);

/* {_id: k, f: f, t: [t, t + 1]}; without f if that is negative. */
struct bson document(int64_t k, int64_t f, int64_t t);

/* ---- batches ---- */

enum mc_status put(const char *collection, int64_t k, int64_t f, int64_t t);

/* The same under a text as the key. */
enum mc_status put_named(const char *collection, const char *key, int64_t f, int64_t t);
enum mc_status take(const char *collection, int64_t k);
enum mc_status make(const char *collection, const char *path, uint32_t kind);
bool unmake(const char *collection, const char *path);

/* Commits, and checks everything when that succeeded. */
enum mc_status commit_checked(void);

/* What the last generation says of an index; all zero when it has none. */
struct mc_index_record record_of(const char *collection, const char *path);

/* A unique index of f and one of t of some documents in "sites", many more of which have one value
 * of t, and other indexes besides. */
void start_world(int many);

/* A batch that changes what is in them, or that makes them anew. */
enum mc_status change_world(bool anew);

#endif
