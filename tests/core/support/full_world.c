/* full_world.c - see full_world.h. */
#include "full_world.h"

#include <math.h>

#include "writer/writer_state.h"

#define LARGEST (64u << 10)
#define HEAD 42u /* bytes of a document before and behind those of its version */
#define NAME "sites"
#define FEW 8
#define SOME 500

struct full_world full_world;

static struct mc_writer_options full_options;

static double uniform(void)
{
    return (double)(test_random() >> 11) / (double)(UINT64_C(1) << 53);
}

/* Lognormal, from 60 bytes. */
static uint32_t draw_size(void)
{
    double normal = sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
    double bytes = exp(6.5 + 1.5 * normal);
    double largest = (double)(full_options.max_size >> 8);
    return (uint32_t)(bytes < 60 ? 60 : bytes > largest ? largest : bytes);
}

static size_t add_int32(uint8_t *to, const char *name, int32_t value)
{
    size_t len = strlen(name) + 1;
    to[0] = MC_BSON_INT32;
    memcpy(to + 1, name, len);
    memcpy(to + 1 + len, &value, sizeof value);
    return 1 + len + sizeof value;
}

const uint8_t *full_bytes(const struct full_document *document)
{
    static uint8_t bytes[LARGEST];
    static const char *const names[] = {"0", "1", "2"};
    uint32_t len = document->size, array, pad = len - HEAD;
    size_t at = 4, start;
    memset(bytes, document->version, len);
    memcpy(bytes, &len, 4);
    memcpy(bytes + at, "\x04g", 3);
    start = at += 3;
    at += 4;
    for (int i = 0; i < 3; i++) {
        at += add_int32(bytes + at, names[i], document->groups[i]);
    }
    bytes[at++] = 0;
    array = (uint32_t)(at - start);
    memcpy(bytes + start, &array, 4);
    memcpy(bytes + at, "\x05p", 3);
    memcpy(bytes + at + 3, &pad, 4);
    bytes[at + 7] = 0;
    bytes[len - 1] = 0;
    CHECK_EQ(at + 8 + pad + 1, len);
    return bytes;
}

static enum mc_status put(int k)
{
    const struct full_document *document = &full_world.documents[k];
    struct mc_key key;
    bool changed;
    mc_key_from_int64(k, &key);
    return mc_batch_put(full_world.writer, NAME, strlen(NAME), &key, full_bytes(document),
                        document->size, &changed, &test_error);
}

/* Another size and version of a document, and other values. */
static void change(int k, uint32_t size)
{
    struct full_document *document = &full_world.documents[k];
    document->size = size;
    document->version++;
    if (document->version == 1 || test_below(8) == 0) {
        document->groups[0] = (int32_t)test_below(FEW);
    }
    if (document->version == 1 || test_below(2) == 0) {
        document->groups[1] = FEW + (int32_t)test_below(SOME);
    }
    document->groups[2] = 1000000 + k * 256 + document->version;
}

static void commit(void)
{
    uint64_t generation;
    CHECK_OK(mc_batch_commit(full_world.writer, &generation, &test_error));
}

void full_begin(uint64_t max_size, double share, int64_t retention_ns)
{
    uint64_t sum = 0;
    bool changed;
    memset(&full_world, 0, sizeof full_world);
    full_options = small_options();
    full_options.max_size = max_size;
    full_options.retention_ns = retention_ns;
    full_options.log_size = 1u << 16;
    full_options.ring_slots = 64;
    full_world.writer = open_new_cache(&full_options);
    CHECK_OK(mc_map_open(test_path(), &full_world.map, &test_error));
    CHECK_OK(mc_batch_begin(full_world.writer, &test_error));
    CHECK_OK(mc_batch_index(full_world.writer, NAME, strlen(NAME), "g", 1, MC_INDEX_MULTI, &changed,
                            &test_error));
    while ((double)sum < share * (double)max_size) {
        CHECK(full_world.count < FULL_MOST);
        change(full_world.count, draw_size());
        sum += full_world.documents[full_world.count].size;
        CHECK_OK(put(full_world.count++));
    }
    commit();
}

void full_open_again(void)
{
    mc_writer_close(full_world.writer);
    CHECK_OK(mc_writer_open(test_path(), &full_options, &full_world.writer, &test_error));
}

enum mc_status full_update(void (*before_commit)(void))
{
    struct {
        int k;
        struct full_document document;
    } before[FULL_UPDATES];
    uint64_t generation;
    int64_t over = full_world.over;
    enum mc_status status = MC_OK;
    int done = 0;
    CHECK_OK(mc_batch_begin(full_world.writer, &test_error));
    for (; done < FULL_UPDATES && status == MC_OK; done++) {
        int k = (int)test_below((uint64_t)full_world.count);
        struct full_document *document = &full_world.documents[k];
        uint32_t size = draw_size(), old = document->size;
        before[done].k = k;
        before[done].document = *document;
        change(k, (full_world.over > 0 ? size > old : size < old) ? old : size);
        full_world.over += (int64_t)document->size - (int64_t)old;
        status = put(k);
    }
    if (status == MC_OK) {
        if (before_commit != NULL) {
            before_commit();
        }
        status = mc_batch_commit(full_world.writer, &generation, &test_error);
    }
    if (status != MC_OK) {
        mc_batch_abort(full_world.writer);
        full_world.over = over;
        while (done-- > 0) {
            full_world.documents[before[done].k] = before[done].document;
        }
    }
    return status;
}

/* ---- what must hold ---- */

/* Of each document what the index has of one of its values. */
static void check_value(const struct mc_view *view, uint64_t root, int32_t value, int k,
                        uint64_t expected)
{
    struct mc_posting posting;
    struct mc_key key, document;
    struct mc_hit hit;
    mc_key_from_int64(value, &key);
    key.hash = mc_view_hash(view, &key);
    mc_key_from_int64(k, &document);
    document.hash = mc_view_hash(view, &document);
    CHECK_OK(mc_find(view, root, &key, &hit));
    CHECK(hit.birth <= view->root.generation); /* what was published does not change */
    CHECK_OK(mc_hit_posting(&hit, &posting));
    if (posting.one) {
        CHECK_EQ(expected, 1);
        CHECK(mc_key_equal(&posting.key, &document));
    } else {
        CHECK_EQ(posting.count, expected);
        CHECK_OK(mc_find(view, posting.root, &document, &hit));
    }
}

void full_check(const struct mc_view *view, const struct full_world *expected)
{
    static uint32_t counts[FEW + SOME];
    struct mc_collection collection;
    struct mc_index_record record;
    uint64_t values = (uint64_t)expected->count;
    CHECK_OK(mc_view_collection(view, NAME, strlen(NAME), &collection));
    CHECK_OK(mc_view_index(view, NAME, strlen(NAME), "g", 1, &record));
    CHECK_EQ(collection.count, expected->count);
    memset(counts, 0, sizeof counts);
    for (int k = 0; k < expected->count; k++) {
        for (int i = 0; i < 2; i++) {
            values += counts[expected->documents[k].groups[i]]++ == 0;
        }
    }
    for (int k = 0; k < expected->count; k++) {
        const struct full_document *document = &expected->documents[k];
        struct mc_key key;
        struct mc_hit hit;
        mc_key_from_int64(k, &key);
        key.hash = mc_view_hash(view, &key);
        CHECK_OK(mc_find(view, collection.root, &key, &hit));
        CHECK(mc_hit_equals(&hit, full_bytes(document), document->size));
        for (int i = 0; i < 3; i++) {
            int32_t value = document->groups[i];
            check_value(view, record.root, value, k, i == 2 ? 1 : counts[value]);
        }
    }
    CHECK_EQ(record.values, values);
    CHECK_EQ(record.pairs, 3 * (uint64_t)expected->count);
}

static uint64_t bytes_in_use(void)
{
    const struct mc_arena *arena = &full_world.writer->arena;
    return full_world.writer->table.space.limit - mc_arena_free(arena) - mc_arena_retired(arena);
}

void full_end(void)
{
    struct mc_view view = view_of(full_world.map);
    uint64_t used = bytes_in_use();
    full_check(&view, &full_world);
    full_open_again();
    CHECK_EQ(bytes_in_use(), used); /* what is reachable, and no more */
    close_checked(full_world.writer, full_world.map);
}
