/* batch.c - what happens between begin and commit.
 *
 * A batch works on private copies of the collections' records (struct mc_writer_collection): each
 * points to the root of a table whose changed nodes and pages are young, that is, this batch's own.
 * Commit writes the changed records into the catalogue, which is a table like the others, and
 * publishes the catalogue's root. Abort frees what is young and takes the committed records back.
 *
 * A replace marks every entry that is put, changed or not, with a bit in private memory; at its end
 * the entries without one are deleted. When as many are marked as there are, nothing has to be
 * looked for: a refresh that changes nothing costs one lookup and one comparison per document.
 */
#include "batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "batch_step.h"
#include "collections.h"
#include "compact.h"
#include "indexes.h"
#include "mutant.h"
#include "publish.h"
#include "refusal.h"

#define SHORT_BATCH 16u /* puts and deletes */

/* ---- what a replace keeps ---- */

static bool is_replaced(const struct mc_writer *writer, size_t collection)
{
    return writer->batch.replace.open && writer->batch.replace.collection == collection;
}

static bool kept_test(const struct mc_replace *replace, uint64_t offset)
{
    uint64_t granule = offset / MC_GRANULE;
    assert(granule / 64 < replace->kept_words);
    return (replace->kept[granule / 64] >> (granule % 64) & 1) != 0;
}

static void kept_set(struct mc_replace *replace, uint64_t offset, bool keep)
{
    uint64_t granule = offset / MC_GRANULE, bit = UINT64_C(1) << (granule % 64);
    if (kept_test(replace, offset) != keep) {
        assert(keep || replace->kept_count > 0); /* as many as there are bits */
        replace->kept[granule / 64] ^= bit;
        replace->kept_count += keep ? 1 : UINT64_MAX; /* up or down by one */
    }
}

/* See mc_table_writer: a put into the collection that is being replaced meets another value. */
static bool replaces(void *context, const struct mc_key *key, const struct mc_hit *old,
                     const uint8_t *value, size_t len)
{
    struct mc_writer *writer = context;
    struct mc_replace *replace = &writer->batch.replace;
    struct mc_hit before;
    const uint8_t *old_value = shm_expose(old->value);
    size_t common = len < old->value_len ? len : old->value_len; /* at least: their lengths */
    if (!kept_test(replace, old->offset)) {
        return true; /* the first one of this key */
    }
    if (replace->smallest && memcmp(value, old_value, common) > 0 &&
        !MC_MUTANT_IS(640)) { /* 640: the last one stays, whatever the order */
        return false;
    }
    replace->change = 0;
    if (replace->before.exists &&
        mc_table_find(&writer->table.space, replace->before.record.root, key, &before) == MC_OK) {
        replace->change =
            mc_hit_equals(&before, old_value, old->value_len) - mc_hit_equals(&before, value, len);
    }
    return true;
}

/* Makes sure that every entry has its bit, in the file as the next put may make it: setting a bit
 * after the put must not fail. */
static enum mc_status kept_prepare(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_replace *replace = &writer->batch.replace;
    uint64_t limit = writer->table.space.limit + 2 * (uint64_t)MC_GROWTH_MAX;
    size_t words = (size_t)(limit / MC_GRANULE / 64) + 1;
    return mc_bits_grow(&replace->kept, &replace->kept_words, words) == MC_OK ? MC_OK
                                                                              : mc_no_memory(err);
}

/* ---- put, delete, drop ---- */

/* Operations on the collection that is being replaced belong to the replace,
 * all others to the batch. */
static void enter_scope(struct mc_writer *writer, size_t collection)
{
    writer->arena.scope = is_replaced(writer, collection) ? MC_SCOPE_REPLACE : MC_SCOPE_BATCH;
}

/* An operation that failed may have left its collection a young copy of nodes, with the same
 * content: then an abort has to take the collection back, and a commit to publish it. */
static void note_copies(struct mc_writer *writer, size_t index, uint64_t root_before)
{
    if (writer->collections.items[index].record.root != root_before &&
        !MC_MUTANT_IS(606)) { /* 606: an abort leaves them */
        mc_collections_change(writer, index);
    }
}

enum mc_status mc_batch_put_hashed(struct mc_writer *writer, size_t index, const struct mc_key *key,
                                   const uint8_t *value, size_t value_len, bool *changed,
                                   struct mc_error *err)
{
    struct mc_writer_collection *collection = &writer->collections.items[index];
    struct mc_replace *replace = &writer->batch.replace;
    struct mc_put_result result;
    bool replaced = is_replaced(writer, index), existed = collection->exists;
    uint64_t root = collection->record.root;
    enum mc_status status = mc_collections_create(writer, index, err);
    if (status != MC_OK) {
        return status;
    }
    enter_scope(writer, index);
    if (replaced) {
        status = kept_prepare(writer, err);
        replace->change = 1; /* unless `replaces` knows better */
    }
    if (status == MC_OK) {
        writer->table.replaces = replaced ? replaces : NULL;
        writer->table.replaces_context = writer;
        status = mc_table_put(&writer->table, &collection->record.root, key, value, value_len,
                              &result, err);
        writer->table.replaces = NULL;
    }
    if (status != MC_OK) {
        note_copies(writer, index, root);
        if (!existed) {
            mc_collections_remove(writer, index);
        }
        return status == MC_LIMIT ? mc_writer_refuse(writer, collection->name, collection->name_len,
                                                     key, &result, err)
                                  : status;
    }
    assert(existed || !result.replaced); /* a collection begins without documents */
    *changed = result.changed;
    uint64_t there = result.replaced ? result.old_offset : result.offset;
    bool again = replaced && kept_test(replace, there);
    writer->batch.counts.duplicates += again;
    if (result.changed) {
        mc_compact_note(writer, result.bytes);
        mc_collections_change_key(writer, index, MC_LOG_PUT, key);
        collection->record.content += key->len + value_len - result.old_content;
        collection->record.count += !result.replaced;
        writer->batch.counts.puts++;
        if (replaced && result.replaced) {
            kept_set(replace, result.old_offset, false);
        }
    } else {
        writer->batch.counts.unchanged += !again;
    }
    if (replaced) {
        replace->differing += result.changed ? (uint64_t)replace->change : 0;
        kept_set(replace, result.offset, true);
    }
    return MC_OK;
}

static enum mc_status check_open(const struct mc_writer *writer, struct mc_error *err)
{
    return writer->batch.open ? MC_OK : mc_fail(err, MC_USAGE, "no batch is open");
}

enum mc_status mc_batch_check_size(size_t len, struct mc_error *err)
{
    return len <= MC_DOCUMENT_MAX
               ? MC_OK
               : mc_fail(err, MC_LIMIT, "a document of %zu bytes: the limit is %u", len,
                         MC_DOCUMENT_MAX);
}

enum mc_status mc_batch_step(struct mc_writer *writer, const char *name, size_t name_len,
                             size_t *index, struct mc_error *err)
{
    enum mc_status status = check_open(writer, err);
    return status == MC_OK ? mc_collections_find(writer, name, name_len, index, err) : status;
}

void mc_batch_expect(struct mc_writer *writer, const char *name, size_t name_len,
                     const struct mc_key *key)
{
    size_t index;
    if (mc_batch_step(writer, name, name_len, &index, NULL) == MC_OK) {
        mc_table_touch(&writer->table.space, writer->collections.items[index].record.root,
                       mc_writer_hash(writer, key));
    }
}

enum mc_status mc_batch_put(struct mc_writer *writer, const char *name, size_t name_len,
                            const struct mc_key *key, const uint8_t *value, size_t value_len,
                            bool *changed, struct mc_error *err)
{
    size_t index;
    enum mc_status status = mc_batch_check_size(value_len, err);
    if (status == MC_OK) {
        status = mc_batch_step(writer, name, name_len, &index, err);
    }
    if (status != MC_OK) {
        return status;
    }
    struct mc_key hashed = *key; /* borrows key's bytes, which outlive this call */
    writer->batch.replace.smallest = false;
    hashed.hash = mc_writer_hash(writer, key);
    return mc_batch_put_hashed(writer, index, &hashed, value, value_len, changed, err);
}

/* Deletes a key with its hash from a collection. */
static enum mc_status delete_key(struct mc_writer *writer, size_t index, const struct mc_key *key,
                                 struct mc_error *err)
{
    struct mc_collection_record *record = &writer->collections.items[index].record;
    struct mc_hit old;
    uint64_t root = record->root;
    assert(writer->batch.open && index < writer->collections.count);
    enter_scope(writer, index);
    enum mc_status status = mc_table_delete(&writer->table, &record->root, key, &old, err);
    if (status == MC_OK) {
        mc_collections_change_key(writer, index, MC_LOG_DELETE, key);
        record->count--;
        record->content -= (uint64_t)old.key_len + old.value_len;
        writer->batch.counts.deletes++;
        if (is_replaced(writer, index)) {
            kept_set(&writer->batch.replace, old.offset, false);
        }
    } else {
        note_copies(writer, index, root);
    }
    return status;
}

enum mc_status mc_batch_delete(struct mc_writer *writer, const char *name, size_t name_len,
                               const struct mc_key *key, bool *existed, struct mc_error *err)
{
    size_t index;
    enum mc_status status = mc_batch_step(writer, name, name_len, &index, err);
    *existed = false;
    if (status != MC_OK || !writer->collections.items[index].exists) {
        return status;
    }
    struct mc_key hashed = *key;
    hashed.hash = mc_writer_hash(writer, key);
    status = delete_key(writer, index, &hashed, err);
    *existed = status == MC_OK;
    return status == MC_ABSENT ? MC_OK : status;
}

enum mc_status mc_batch_drop(struct mc_writer *writer, const char *name, size_t name_len,
                             bool *existed, struct mc_error *err)
{
    size_t index;
    enum mc_status status = mc_batch_step(writer, name, name_len, &index, err);
    *existed = false;
    if (status != MC_OK || !writer->collections.items[index].exists) {
        return status;
    }
    if (is_replaced(writer, index)) {
        return mc_fail(err, MC_USAGE, "a collection cannot be dropped while it is being replaced");
    }
    struct mc_writer_collection *collection = &writer->collections.items[index];
    enter_scope(writer, index);
    status = mc_table_clear(&writer->table, &collection->record.root, err);
    if (status == MC_OK) {
        writer->batch.counts.deletes += collection->record.count;
        mc_collections_remove(writer, index);
        *existed = true;
    }
    return status;
}

enum mc_status mc_batch_state(struct mc_writer *writer, const uint8_t *state, size_t len,
                              struct mc_error *err)
{
    struct mc_put_result result;
    struct mc_key key = {.type = MC_KEY_STATE, .data = (const uint8_t *)""};
    enum mc_status status = check_open(writer, err);
    if (status == MC_OK && len > MC_STATE_MAX) {
        status =
            mc_fail(err, MC_LIMIT, "the state has %zu bytes: the limit is %u", len, MC_STATE_MAX);
    }
    if (status != MC_OK) {
        return status;
    }
    writer->arena.scope = MC_SCOPE_BATCH;
    key.hash = mc_writer_hash(writer, &key);
    return mc_table_put(&writer->table, &writer->batch.catalogue, &key, state, len, &result, err);
}

/* ---- replace ---- */

enum mc_status mc_replace_begin(struct mc_writer *writer, const char *name, size_t name_len,
                                struct mc_error *err)
{
    struct mc_replace *replace = &writer->batch.replace;
    size_t index;
    enum mc_status status = mc_batch_step(writer, name, name_len, &index, err);
    if (status == MC_OK && replace->open) {
        status = mc_fail(err, MC_USAGE, "another replace of this batch is still open");
    }
    if (status != MC_OK) {
        return status;
    }
    struct mc_writer_collection before = writer->collections.items[index];
    struct mc_batch_counts counts = writer->batch.counts;
    status = kept_prepare(writer, err);
    if (status == MC_OK) {
        status = mc_collections_create(writer, index, err);
    }
    if (status == MC_OK) {
        memset(replace->kept, 0, replace->kept_words * sizeof *replace->kept);
        replace->open = true;
        replace->collection = index;
        replace->before = before;
        replace->counts_before = counts;
        replace->kept_count = 0;
        replace->differing = 0;
    }
    return status;
}

/* Offsets of the entries that nothing was put for. */
static enum mc_status find_unkept(const struct mc_writer *writer, uint64_t **offsets, size_t *count,
                                  struct mc_error *err)
{
    const struct mc_replace *replace = &writer->batch.replace;
    const struct mc_writer_collection *collection = &writer->collections.items[replace->collection];
    struct mc_walk walk;
    struct mc_hit hit;
    enum mc_status status;
    size_t expected = (size_t)(collection->record.count - replace->kept_count);
    *count = 0;
    *offsets = NULL;
    if (expected > writer->table.space.limit / MC_GRANULE) { /* more than there are granules */
        return mc_table_damaged(err);
    }
    *offsets = malloc((expected + 1) * sizeof **offsets);
    if (*offsets == NULL) {
        return mc_no_memory(err);
    }
    mc_walk_begin(&walk, &writer->table.space, collection->record.root);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        if (!kept_test(replace, hit.offset)) {
            if (*count == expected) { /* more entries than the record says */
                return mc_table_damaged(err);
            }
            (*offsets)[(*count)++] = hit.offset;
        }
    }
    return status == MC_ABSENT ? MC_OK : mc_table_damaged(err);
}

static enum mc_status delete_unkept(struct mc_writer *writer, size_t index, struct mc_error *err)
{
    uint64_t *offsets = NULL;
    size_t count;
    enum mc_status status = find_unkept(writer, &offsets, &count, err);
    for (size_t i = 0; i < count && status == MC_OK; i++) {
        uint8_t bytes[MC_KEY_MAX];
        struct mc_hit hit;
        status = mc_entry_read(&writer->table.space, offsets[i], &hit);
        if (status == MC_OK) {
            shm_read(bytes, hit.key, hit.key_len);
            struct mc_key key = {.type = hit.key_type, .len = hit.key_len, .data = bytes};
            key.hash = mc_writer_hash(writer, &key);
            status = delete_key(writer, index, &key, err);
        }
        if (status == MC_CORRUPT || status == MC_ABSENT) { /* it was found there */
            status = mc_table_damaged(err);
        }
    }
    free(offsets);
    return status;
}

enum mc_status mc_replace_end(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_replace *replace = &writer->batch.replace;
    enum mc_status status = MC_OK;
    if (!replace->open) {
        return mc_fail(err, MC_USAGE, "no replace is open");
    }
    const struct mc_collection_record *now = &writer->collections.items[replace->collection].record;
    const struct mc_collection_record *before = &replace->before.record;
    uint64_t count = now->count, duplicates = writer->batch.counts.duplicates;
    if (replace->differing == 0 && replace->before.exists && before->count == count &&
        before->root != now->root &&
        (replace->kept_count == count || MC_MUTANT_IS(641))) { /* 641: forgets what to delete */
        mc_replace_cancel(writer);                             /* every change was taken back */
        writer->batch.counts.unchanged += count;
        writer->batch.counts.duplicates = duplicates;
        return MC_OK;
    }
    if (replace->kept_count != count) {
        status = delete_unkept(writer, replace->collection, err);
    }
    if (status == MC_OK && mc_arena_replace_end(&writer->arena) != MC_OK) {
        status = mc_no_memory(err);
    }
    if (status == MC_OK) {
        replace->open = false;
    }
    return status;
}

void mc_replace_cancel(struct mc_writer *writer)
{
    struct mc_replace *replace = &writer->batch.replace;
    if (!replace->open) {
        return;
    }
    mc_arena_replace_cancel(&writer->arena);
    mc_collections_take_back(writer, replace->collection, &replace->before);
    writer->batch.counts = replace->counts_before;
    replace->open = false;
}

/* ---- begin, commit, abort ---- */

enum mc_status mc_batch_begin(struct mc_writer *writer, struct mc_error *err)
{
    struct mc_batch *batch = &writer->batch;
    if (batch->open) {
        return mc_fail(err, MC_USAGE, "a batch is open already: one at a time");
    }
    assert(batch->listed == 0 && !batch->replace.open); /* commit and abort leave nothing */
    batch->open = true;
    batch->catalogue = writer->root.catalogue;
    batch->collections = writer->root.collections;
    batch->counts = (struct mc_batch_counts){0};
    writer->table.birth = writer->root.generation + 1;
    writer->arena.scope = MC_SCOPE_BATCH;
    return MC_OK;
}

struct mc_batch_counts mc_batch_counts(const struct mc_writer *writer)
{
    return writer->batch.counts;
}

bool mc_batch_is_short(const struct mc_writer *writer)
{
    const struct mc_batch_counts *counts = &writer->batch.counts;
    return counts->puts + counts->deletes <= SHORT_BATCH && !writer->indexes.changed &&
           mc_checkpoint(&writer->table.space) == 0 && !mc_compact_is_due(writer);
}

enum mc_status mc_batch_commit(struct mc_writer *writer, uint64_t *generation, struct mc_error *err)
{
    struct mc_batch *batch = &writer->batch;
    struct mc_root root = writer->root;
    enum mc_status status = check_open(writer, err);
    *generation = 0;
    if (status == MC_OK && batch->replace.open) {
        status = mc_fail(err, MC_USAGE, "a replace of this batch is still open");
    }
    if (status != MC_OK) {
        return status;
    }
    writer->arena.scope = MC_SCOPE_BATCH;
    status = mc_compact_some(writer, err);
    if (status == MC_OK && writer->indexes.count != 0) {
        status = mc_indexes_update(writer, err);
    }
    mc_compact_given(writer);
    if (status != MC_OK || (status = mc_collections_store(writer, &root, err)) != MC_OK) {
        return status;
    }
    if (root.catalogue == writer->root.catalogue) { /* nothing to publish, if it is still there */
        status = mc_writer_whole(writer, err);
        mc_batch_abort(writer);
        return status;
    }
    root.collections = (uint32_t)batch->collections;
    root.flags = 0;
    status = mc_writer_publish(writer, &root, err);
    if (status != MC_OK) {
        return status;
    }
    while (batch->listed != 0) {
        struct mc_writer_collection *collection = mc_collections_unlist(writer);
        collection->committed = collection->record;
        collection->committed_exists = collection->exists;
    }
    mc_indexes_end(writer, true);
    batch->open = false;
    mc_collections_trim(writer);
    *generation = root.generation;
    return MC_OK;
}

void mc_batch_abort(struct mc_writer *writer)
{
    if (!writer->batch.open) {
        return;
    }
    mc_arena_abort(&writer->arena);
    while (writer->batch.listed != 0) {
        struct mc_writer_collection *collection = mc_collections_unlist(writer);
        collection->record = collection->committed;
        collection->exists = collection->committed_exists;
    }
    mc_indexes_end(writer, false);
    writer->batch.replace.open = false;
    writer->batch.open = false;
    mc_collections_trim(writer);
}
