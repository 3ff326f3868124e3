/* refusal.c - the sentences about a key that shares its hash with too many others, or its value.
 *
 * Whoever meets it has to find out where such keys come from: chance does not make them. So it
 * names the collection and some of the keys, in characters that are harmless wherever they are
 * printed.
 */
#include "refusal.h"

#include <string.h>

#include "bson.h"

#define SHOWN_BYTES 12 /* of a key */
#define WHOLE_BYTES 30 /* of a key that is all there is to say */
#define NAME_BYTES 48  /* of a name */

/* The bytes as printable ASCII, each in up to four characters, and whether there were more. */
static void escape(char *to, const uint8_t *bytes, size_t len, size_t most)
{
    size_t shown = len < most ? len : most;
    for (size_t i = 0; i < shown; i++) {
        bool plain = bytes[i] >= ' ' && bytes[i] <= '~' && bytes[i] != '"' && bytes[i] != '\\';
        to += snprintf(to, 5, plain ? "%c" : "\\x%02x", bytes[i]);
    }
    (void)snprintf(to, 4, "%s", shown < len ? "..." : "");
}

struct shown {
    char text[4 * SHOWN_BYTES + 4];
};

static struct shown show(const uint8_t *key, size_t len)
{
    struct shown shown;
    escape(shown.text, key, len, SHOWN_BYTES);
    return shown;
}

static struct shown show_entry(const struct mc_writer *writer, uint64_t offset)
{
    struct mc_hit hit;
    uint8_t bytes[MC_KEY_MAX];
    if (mc_entry_read(&writer->table.space, offset, &hit) != MC_OK) { /* a page may name anything */
        return show((const uint8_t *)"", 0);
    }
    shm_read(bytes, hit.key, hit.key_len);
    return show(bytes, hit.key_len);
}

enum mc_status mc_writer_refuse(const struct mc_writer *writer, const char *name, size_t name_len,
                                const struct mc_key *key, const struct mc_put_result *result,
                                struct mc_error *err)
{
    char collection[4 * NAME_BYTES + 4];
    escape(collection, (const uint8_t *)name, name_len, NAME_BYTES);
    struct shown refused = show(key->data, key->len);
    struct shown first = show_entry(writer, result->alike[0]);
    struct shown second = show_entry(writer, result->alike[1]);
    return mc_fail(err, MC_LIMIT,
                   "collection %s: the key \"%s\" has the hash of %u others, \"%s\" and \"%s\" "
                   "among them, and no more can be stored: find out who makes such keys",
                   collection, refused.text, result->same_tag, first.text, second.text);
}

struct shown_key {
    char text[4 * WHOLE_BYTES + 6];
};

/* A key as it would be written: numbers and ids as digits, all else as characters. */
static struct shown_key show_key(const struct mc_key *key)
{
    struct shown_key shown;
    uint64_t word = 0;
    double real;
    memcpy(&word, key->data, key->len < sizeof word ? key->len : sizeof word);
    memcpy(&real, &word, sizeof real);
    if (key->type == MC_BSON_INT64) {
        (void)snprintf(shown.text, sizeof shown.text, "%lld", (long long)word);
    } else if (key->type == MC_BSON_DOUBLE) {
        (void)snprintf(shown.text, sizeof shown.text, "%.17g", real);
    } else if (key->type == MC_BSON_OID) {
        for (unsigned i = 0; i < 12 && i < key->len; i++) {
            (void)snprintf(shown.text + 2 * (size_t)i, 3, "%02x", key->data[i]);
        }
    } else {
        char text[4 * WHOLE_BYTES + 4];
        escape(text, key->data, key->len, WHOLE_BYTES);
        (void)snprintf(shown.text, sizeof shown.text, "\"%s\"", text);
    }
    return shown;
}

enum mc_status mc_writer_refuse_duplicate(const struct mc_index *index, const struct mc_key *value,
                                          const struct mc_key *first, const struct mc_key *second,
                                          struct mc_error *err)
{
    char name[4 * NAME_BYTES + 4], path[4 * NAME_BYTES + 4];
    escape(name, (const uint8_t *)index->name, index->name_len, NAME_BYTES);
    escape(path, (const uint8_t *)index->path, index->path_len, NAME_BYTES);
    struct shown_key what = show_key(value), one = show_key(first), two = show_key(second);
    return mc_fail(err, MC_LIMIT,
                   "collection %s: the documents with _id %s and %s both have %s = %s, and the "
                   "index of that field is unique",
                   name, one.text, two.text, path, what.text);
}
