/* collections.c - the collections that a writer works on, and how they enter the catalogue.
 *
 * The list outlasts the batch: a loader that commits one document at a time looks its collection up
 * in the catalogue once. It is forgotten as a whole when it has become much longer than the
 * catalogue, by names that are gone or never were: what is used again is looked up again. What the
 * open batch changed is linked by index, so that commit and abort cost the number of changed
 * collections, not of known ones.
 */
#include "collections.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "changes.h"
#include "mutant.h"

#define FORGOTTEN_MIN 64u /* names beyond twice those of the catalogue */

static struct mc_key name_key(const struct mc_writer *writer, const char *name, size_t len)
{
    struct mc_key key = {.type = MC_KEY_NAME, .len = (uint16_t)len, .data = (const uint8_t *)name};
    key.hash = mc_writer_hash(writer, &key);
    return key;
}

static bool is_named(const struct mc_writer_collection *collection, const char *name, size_t len)
{
    return collection->name_len == len && memcmp(collection->name, name, len) == 0;
}

static void index_add(struct mc_writer *writer, size_t collection)
{
    assert(collection < writer->collections.count);
    assert(writer->collections.count * 2 <= writer->collections.index_size); /* one is unused */
    const struct mc_writer_collection *added = &writer->collections.items[collection];
    size_t mask = writer->collections.index_size - 1;
    size_t at = (size_t)name_key(writer, added->name, added->name_len).hash & mask;
    while (writer->collections.index[at] != 0) {
        at = (at + 1) & mask;
    }
    writer->collections.index[at] = (uint32_t)collection + 1;
}

/* Makes room for one more collection in the list and in the index. */
static enum mc_status prepare(struct mc_writer *writer, struct mc_error *err)
{
    if (writer->collections.count == writer->collections.capacity) {
        size_t capacity = writer->collections.capacity == 0 ? 8 : writer->collections.capacity * 2;
        struct mc_writer_collection *items =
            realloc(writer->collections.items, capacity * sizeof *items);
        if (items == NULL) {
            return mc_no_memory(err);
        }
        writer->collections.items = items;
        writer->collections.capacity = capacity;
    }
    if ((writer->collections.count + 1) * 2 > writer->collections.index_size) {
        size_t size = writer->collections.index_size == 0 ? 32 : writer->collections.index_size * 2;
        uint32_t *index = calloc(size, sizeof *index);
        if (index == NULL) {
            return mc_no_memory(err);
        }
        free(writer->collections.index);
        writer->collections.index = index;
        writer->collections.index_size = size;
        for (size_t i = 0; i < writer->collections.count; i++) {
            index_add(writer, i);
        }
    }
    assert(writer->collections.count < writer->collections.capacity);
    assert((writer->collections.count + 1) * 2 <= writer->collections.index_size);
    return MC_OK;
}

/* Reads what was committed of a collection. */
static enum mc_status load(const struct mc_writer *writer, struct mc_writer_collection *collection,
                           struct mc_error *err)
{
    struct mc_hit hit;
    struct mc_collection found;
    assert(!collection->exists && !collection->listed);
    struct mc_key key = name_key(writer, collection->name, collection->name_len);
    enum mc_status status = mc_table_find(&writer->table.space, writer->root.catalogue, &key, &hit);
    if (status == MC_OK && (status = mc_hit_collection(&hit, &found)) == MC_OK) {
        collection->committed = (struct mc_collection_record){.root = found.root,
                                                              .count = found.count,
                                                              .content = found.content,
                                                              .created = found.created};
        collection->record = collection->committed;
        collection->exists = collection->committed_exists = true;
    }
    return status == MC_CORRUPT ? mc_table_damaged(err) : MC_OK;
}

enum mc_status mc_collections_find(struct mc_writer *writer, const char *name, size_t len,
                                   size_t *out, struct mc_error *err)
{
    if (writer->collections.last < writer->collections.count &&
        is_named(&writer->collections.items[writer->collections.last], name, len)) {
        *out = writer->collections.last;
        return MC_OK;
    }
    if (len == 0 || len > MC_NAME_MAX) {
        return mc_fail(err, MC_LIMIT,
                       "a collection's name has 1 to %u bytes of UTF-8, this one %zu", MC_NAME_MAX,
                       len);
    }
    size_t mask = writer->collections.index_size - 1;
    size_t at = (size_t)name_key(writer, name, len).hash & mask;
    for (; writer->collections.index_size > 0 && writer->collections.index[at] != 0;
         at = (at + 1) & mask) {
        if (is_named(&writer->collections.items[writer->collections.index[at] - 1], name, len)) {
            *out = writer->collections.last = writer->collections.index[at] - 1;
            return MC_OK;
        }
    }
    enum mc_status status = prepare(writer, err);
    struct mc_writer_collection *collection = &writer->collections.items[writer->collections.count];
    if (status == MC_OK) {
        *collection = (struct mc_writer_collection){.name_len = (uint8_t)len};
        memcpy(collection->name, name, len);
        status = load(writer, collection, err);
    }
    if (status != MC_OK) {
        return status;
    }
    *out = writer->collections.last = writer->collections.count++;
    index_add(writer, *out);
    assert(is_named(&writer->collections.items[*out], name, len));
    return MC_OK;
}

void mc_collections_change(struct mc_writer *writer, size_t index)
{
    assert(writer->batch.open && index < writer->collections.count);
    struct mc_writer_collection *collection = &writer->collections.items[index];
    collection->changed = true;
    if (!collection->listed) {
        collection->listed = true;
        collection->next_listed = writer->batch.listed;
        writer->batch.listed = (uint32_t)index + 1;
    }
}

void mc_collections_change_key(struct mc_writer *writer, size_t index, uint8_t kind,
                               const struct mc_key *key)
{
    mc_collections_change(writer, index);
    mc_changes_note(writer, &writer->collections.items[index], kind, key);
}

enum mc_status mc_collections_create(struct mc_writer *writer, size_t index, struct mc_error *err)
{
    struct mc_writer_collection *collection = &writer->collections.items[index];
    if (collection->exists) {
        return MC_OK;
    }
    if (writer->batch.collections >= MC_COLLECTIONS_MAX) {
        return mc_fail(err, MC_LIMIT, "a cache has at most %u collections", MC_COLLECTIONS_MAX);
    }
    mc_collections_change(writer, index);
    assert(collection->record.count == 0 && collection->record.root == 0);
    collection->exists = true;
    collection->record = (struct mc_collection_record){.created = writer->root.generation + 1};
    writer->batch.collections++;
    return MC_OK;
}

void mc_collections_remove(struct mc_writer *writer, size_t index)
{
    struct mc_writer_collection *collection = &writer->collections.items[index];
    assert(collection->exists);
    mc_collections_change(writer, index);
    collection->exists = false;
    collection->record = (struct mc_collection_record){0};
    mc_changes_whole(writer, collection);
    writer->batch.collections--;
}

void mc_collections_take_back(struct mc_writer *writer, size_t index,
                              const struct mc_writer_collection *before)
{
    struct mc_writer_collection *collection = &writer->collections.items[index];
    writer->batch.collections -= !before->exists; /* while it is replaced it exists */
    collection->exists = before->exists; /* it may stay on the list: commit finds it unchanged */
    collection->changed = before->changed;
    collection->record = before->record;
    mc_changes_take_back(writer, collection, before);
}

struct mc_writer_collection *mc_collections_unlist(struct mc_writer *writer)
{
    assert(writer->batch.listed != 0 && writer->batch.listed <= writer->collections.count);
    struct mc_writer_collection *collection = &writer->collections.items[writer->batch.listed - 1];
    assert(collection->listed);
    writer->batch.listed = collection->next_listed;
    collection->listed = collection->changed = false;
    collection->next_listed = 0;
    if (!MC_MUTANT_IS(653)) { /* 653: the notes of a batch that is over stay */
        collection->whole = false;
        collection->first_note = collection->last_note = collection->noted = 0;
    }
    if (writer->batch.listed == 0) { /* the batch is over */
        mc_changes_forget(writer);
    }
    return collection;
}

/* Writes one changed collection into the batch's catalogue, or takes it out. */
static enum mc_status store(struct mc_writer *writer, struct mc_writer_collection *collection,
                            struct mc_root *root, struct mc_error *err)
{
    assert(writer->batch.open && collection->listed && collection->changed);
    struct mc_key key = name_key(writer, collection->name, collection->name_len);
    uint64_t *catalogue = &writer->batch.catalogue;
    struct mc_put_result result;
    struct mc_hit old;
    root->documents += collection->record.count - collection->committed.count;
    root->content += collection->record.content - collection->committed.content;
    if (collection->exists) {
        return mc_table_put(&writer->table, catalogue, &key, &collection->record,
                            sizeof collection->record, &result, err);
    }
    if (!collection->committed_exists) {
        return MC_OK;
    }
    enum mc_status status = mc_table_delete(&writer->table, catalogue, &key, &old, err);
    return status == MC_ABSENT ? mc_table_damaged(err) : status; /* it was there */
}

enum mc_status mc_collections_store(struct mc_writer *writer, struct mc_root *root,
                                    struct mc_error *err)
{
    enum mc_status status = MC_OK;
    for (uint32_t at = writer->batch.listed; at != 0 && status == MC_OK;) {
        struct mc_writer_collection *collection = &writer->collections.items[at - 1];
        if (collection->changed) {
            status = store(writer, collection, root, err);
        }
        at = collection->next_listed;
    }
    root->catalogue = writer->batch.catalogue;
    return status;
}

void mc_collections_trim(struct mc_writer *writer)
{
    struct mc_collections *list = &writer->collections;
    assert(!writer->batch.open && writer->batch.listed == 0); /* nobody holds an index */
    assert(writer->notes.used == 0 && !writer->indexes.changed);
    if (list->count > 2 * (size_t)writer->root.collections + FORGOTTEN_MIN &&
        !MC_MUTANT_IS(612)) { /* 612: every name for ever */
        free(list->items);
        free(list->index);
        *list = (struct mc_collections){0};
    }
}
