/* refusal.c - the sentence about a key that shares its hash with too many others.
 *
 * Whoever meets it has to find out where such keys come from: chance does not make them. So it
 * names the collection and some of the keys, in characters that are harmless wherever they are
 * printed.
 */
#include "refusal.h"

#include <string.h>

#include "bson.h"

#define SHOWN_BYTES 12 /* of a key */
#define NAME_BYTES 48  /* of a collection's name */

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

enum mc_status mc_writer_refuse(const struct mc_writer *writer,
                                const struct mc_writer_collection *collection,
                                const struct mc_key *key, const struct mc_put_result *result,
                                struct mc_error *err)
{
    char name[4 * NAME_BYTES + 4];
    escape(name, (const uint8_t *)collection->name, collection->name_len, NAME_BYTES);
    struct shown refused = show(key->data, key->len);
    struct shown first = show_entry(writer, result->alike[0]);
    struct shown second = show_entry(writer, result->alike[1]);
    return mc_fail(err, MC_LIMIT,
                   "collection %s: the key \"%s\" has the hash of %u others, \"%s\" and \"%s\" "
                   "among them, and no more can be stored: find out who makes such keys",
                   name, refused.text, result->same_tag, first.text, second.text);
}
