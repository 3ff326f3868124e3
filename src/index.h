/* index.h - lookup by another field: how an index is found and read, and what it has of a document.
 *
 *   catalogue   (collection, field) ---> root, values, pairs, kind
 *   index       value of the field  ---> the key of the document that has it, or a table of keys
 *   collection  key                 ---> document
 *
 * As in MongoDB's multikey indexes, an array is not a value: each of its members is, and a path
 * goes through the documents in an array. What a document has not is not in the index, nor what
 * no key can be: more than MC_KEY_BYTES_MAX bytes, or an array in an array.
 */
#ifndef MMAPCACHE_INDEX_H
#define MMAPCACHE_INDEX_H

#include "store.h"

/* ---- keys in a list ---- */

struct mc_value {
    const uint8_t *data; /* valid once the list is sorted */
    size_t at;
    uint16_t len;
    uint8_t type;
};

struct mc_values { /* all zero: empty */
    struct mc_value *items;
    size_t count, room;
    uint8_t *bytes;
    size_t used, capacity;
};

/* Adds a canonical key. MC_NOMEM. */
enum mc_status mc_values_add(struct mc_values *values, uint8_t type, const uint8_t *data,
                             size_t len);

/* Puts the keys in MongoDB's order, each once. */
void mc_values_sort(struct mc_values *values);
void mc_values_free(struct mc_values *values);

/* What an index of this field has of a document, sorted. MC_NOMEM. The path has no NUL. The bytes
 * may be anything; those that make no sense have no values. */
enum mc_status mc_index_values(const uint8_t *document, size_t len, const char *path,
                               size_t path_len, struct mc_values *out);

/* ---- in a file ---- */

struct mc_index {
    struct mc_index_record record;
    uint8_t name_len, path_len;
    char name[MC_NAME_MAX], path[MC_FIELD_MAX];
};

/* The key of an index in the catalogue, without its hash. */
#define MC_INDEX_KEY_MAX (1u + MC_NAME_MAX + MC_FIELD_MAX)
void mc_index_key(const char *name, size_t name_len, const char *path, size_t path_len,
                  struct mc_key *key, uint8_t scratch[MC_INDEX_KEY_MAX]);

/* The index of the collection and field, validated: MC_OK, MC_ABSENT, MC_EXPIRED, MC_CORRUPT. */
enum mc_status mc_view_index(const struct mc_view *view, const char *name, size_t name_len,
                             const char *path, size_t path_len, struct mc_index_record *out);

/* In a walk over the catalogue: MC_OK and the index, MC_ABSENT for another entry, or MC_CORRUPT.
 * NOT validated. */
enum mc_status mc_hit_index(const struct mc_hit *hit, struct mc_index *out);

/* What an entry of an index leads to. */
struct mc_posting {
    bool one;             /* key, or else the table of keys at root */
    struct mc_key key;    /* in `bytes`, without its hash */
    uint64_t root, count; /* in the form of struct mc_index_keys */
    uint8_t bytes[1 + MC_KEY_MAX];
};

/* MC_OK or MC_CORRUPT. NOT validated. */
enum mc_status mc_hit_posting(const struct mc_hit *hit, struct mc_posting *out);

/* The tables below a catalogue: what an entry of one refers to. */
enum mc_table { MC_TABLE_CATALOGUE, MC_TABLE_INDEX, MC_TABLE_PLAIN };

/* MC_OK with the reference and kind of the table that this entry refers to, MC_ABSENT when it
 * refers to none, or MC_CORRUPT. */
enum mc_status mc_hit_table(enum mc_table kind, const struct mc_hit *hit, uint64_t *root,
                            enum mc_table *below);

#endif
