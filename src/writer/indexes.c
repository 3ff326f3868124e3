/* indexes.c - the indexes of a file, kept by each commit: see index.h for what they are.
 *
 * Nothing is done about an index while a batch is open: put, delete and replace are as quick, and
 * fail as they do, with or without one. The commit knows which keys the batch changed (changes.c
 * notes them; where it was too much, the collection is walked), what each document was (the
 * committed table stays whole until the batch is over) and what it is now. First it takes away
 * what has gone, of all documents, then it adds what has come: so two documents that exchange
 * their values meet in no order.
 *
 * Both steps may be done twice for a key. An index entry has one document's key in it, or else a
 * table of keys, so that a value of a million documents costs no more to add to.
 */
#include "indexes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "changes.h"
#include "collections.h"
#include "key_order.h"
#include "mutant.h"
#include "refusal.h"

/* ---- the list ---- */

static struct mc_writer_index *find(struct mc_writer *writer, const char *name, size_t name_len,
                                    const char *path, size_t path_len)
{
    for (size_t i = 0; i < writer->indexes.count; i++) {
        struct mc_index *index = &writer->indexes.items[i].now;
        if (index->name_len == name_len && memcmp(index->name, name, name_len) == 0 &&
            index->path_len == path_len && memcmp(index->path, path, path_len) == 0) {
            return &writer->indexes.items[i];
        }
    }
    return NULL;
}

/* Adds one that exists neither in the batch nor in the file: NULL without memory. */
static struct mc_writer_index *append(struct mc_writer *writer)
{
    struct mc_indexes *list = &writer->indexes;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 4 : list->capacity * 2;
        struct mc_writer_index *items = realloc(list->items, capacity * sizeof *items);
        if (items == NULL) {
            return NULL;
        }
        list->items = items;
        list->capacity = capacity;
    }
    assert(list->count < list->capacity);
    list->items[list->count] = (struct mc_writer_index){0};
    return &list->items[list->count++];
}

enum mc_status mc_indexes_found(struct mc_writer *writer, const struct mc_index *index,
                                struct mc_error *err)
{
    struct mc_writer_index *item = append(writer);
    if (item == NULL) {
        return mc_no_memory(err);
    }
    item->now = *index;
    item->committed = index->record;
    item->exists = item->committed_exists = true;
    return MC_OK;
}

static enum mc_status check(struct mc_writer *writer, const char *name, size_t name_len,
                            const char *path, size_t path_len, struct mc_error *err)
{
    size_t index;
    if (!writer->batch.open) {
        return mc_fail(err, MC_USAGE, "no batch is open");
    }
    if (path_len == 0 || path_len > MC_FIELD_MAX || memchr(path, 0, path_len) != NULL) {
        return mc_fail(err, MC_LIMIT,
                       "an index is of a field with 1 to %u bytes of UTF-8, none of them NUL, and "
                       "this one has %zu",
                       MC_FIELD_MAX, path_len);
    }
    return mc_collections_find(writer, name, name_len, &index, err);
}

enum mc_status mc_batch_index(struct mc_writer *writer, const char *name, size_t name_len,
                              const char *path, size_t path_len, uint32_t kind, bool *changed,
                              struct mc_error *err)
{
    size_t count = 0;
    assert(kind == MC_INDEX_UNIQUE || kind == MC_INDEX_MULTI);
    *changed = false;
    enum mc_status status = check(writer, name, name_len, path, path_len, err);
    if (status != MC_OK) {
        return status;
    }
    struct mc_writer_index *item = find(writer, name, name_len, path, path_len);
    if (item != NULL && item->exists && item->now.record.kind == kind) {
        return MC_OK;
    }
    for (size_t i = 0; i < writer->indexes.count; i++) {
        count += writer->indexes.items[i].exists;
    }
    if (count >= MC_INDEXES_MAX && (item == NULL || !item->exists)) {
        return mc_fail(err, MC_LIMIT, "a cache has at most %u indexes", MC_INDEXES_MAX);
    }
    item = item != NULL ? item : append(writer);
    if (item == NULL) {
        return mc_no_memory(err);
    }
    item->now.name_len = (uint8_t)name_len;
    item->now.path_len = (uint8_t)path_len;
    memcpy(item->now.name, name, name_len);
    memcpy(item->now.path, path, path_len);
    item->now.record.kind = kind;
    item->exists = item->fresh = true;
    *changed = writer->indexes.changed = true;
    return MC_OK;
}

enum mc_status mc_batch_drop_index(struct mc_writer *writer, const char *name, size_t name_len,
                                   const char *path, size_t path_len, bool *existed,
                                   struct mc_error *err)
{
    *existed = false;
    enum mc_status status = check(writer, name, name_len, path, path_len, err);
    struct mc_writer_index *item =
        status == MC_OK ? find(writer, name, name_len, path, path_len) : NULL;
    if (item != NULL && item->exists) {
        item->exists = item->fresh = false;
        *existed = writer->indexes.changed = true;
    }
    return status;
}

void mc_indexes_end(struct mc_writer *writer, bool published)
{
    struct mc_indexes *list = &writer->indexes;
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++) {
        struct mc_writer_index *item = &list->items[i];
        if (published) {
            item->committed = item->now.record;
            item->committed_exists = item->exists;
        }
        item->now.record = item->committed;
        item->exists = item->committed_exists;
        item->fresh = false;
        if (item->exists) {
            list->items[kept++] = *item;
        }
    }
    list->count = kept;
    list->changed = false;
}

size_t mc_writer_indexes(const struct mc_writer *writer)
{
    size_t count = 0;
    while (count < writer->indexes.count && writer->indexes.items[count].committed_exists) {
        count++; /* those that only the open batch has come behind them */
    }
    return count;
}

const struct mc_index *mc_writer_index(const struct mc_writer *writer, size_t number)
{
    assert(number < writer->indexes.count && writer->indexes.items[number].exists);
    return &writer->indexes.items[number].now;
}

void mc_indexes_destroy(struct mc_writer *writer)
{
    free(writer->indexes.items);
    mc_values_free(&writer->indexes.before);
    mc_values_free(&writer->indexes.after);
}

/* ---- one pair of a value and a document ---- */

static struct mc_key value_key(const struct mc_writer *writer, const struct mc_value *value)
{
    struct mc_key key = {.type = value->type, .len = value->len, .data = value->data};
    key.hash = mc_writer_hash(writer, &key);
    return key;
}

static enum mc_status put(struct mc_writer *writer, const struct mc_index *index, uint64_t *root,
                          const struct mc_key *key, const void *value, size_t len, bool *changed,
                          struct mc_error *err)
{
    struct mc_put_result result;
    enum mc_status status = mc_table_put(&writer->table, root, key, value, len, &result, err);
    *changed = status == MC_OK && result.changed;
    return status == MC_LIMIT
               ? mc_writer_refuse(writer, index->name, index->name_len, key, &result, err)
               : status;
}

static enum mc_status put_one(struct mc_writer *writer, struct mc_index *index,
                              const struct mc_key *value, const struct mc_key *key,
                              struct mc_error *err)
{
    uint8_t bytes[1 + MC_KEY_MAX];
    bool changed;
    bytes[0] = key->type;
    memcpy(bytes + 1, key->data, key->len);
    return put(writer, index, &index->record.root, value, bytes, 1 + (size_t)key->len, &changed,
               err);
}

static enum mc_status put_many(struct mc_writer *writer, struct mc_index *index,
                               const struct mc_key *value, uint64_t root, uint64_t count,
                               struct mc_error *err)
{
    struct mc_index_keys keys = {.zero = 0};
    bool changed;
    memcpy(keys.root, &root, sizeof keys.root);
    memcpy(keys.count, &count, sizeof keys.count);
    return put(writer, index, &index->record.root, value, &keys, sizeof keys, &changed, err);
}

/* Adds a document to a value that has one already, or more. */
static enum mc_status add_another(struct mc_writer *writer, struct mc_index *index,
                                  const struct mc_key *value, const struct mc_key *key,
                                  struct mc_posting *there, struct mc_error *err)
{
    bool changed;
    uint64_t root = there->one ? 0 : there->root, count = there->one ? 1 : there->count;
    enum mc_status status = MC_OK;
    if (there->one) {
        if (index->record.kind == MC_INDEX_UNIQUE && !MC_MUTANT_IS(680)) { /* 680: both stay */
            return mc_writer_refuse_duplicate(index, value, &there->key, key, err);
        }
        there->key.hash = mc_writer_hash(writer, &there->key);
        status = put(writer, index, &root, &there->key, "", 0, &changed, err);
    }
    if (status == MC_OK) {
        status = put(writer, index, &root, key, "", 0, &changed, err);
    }
    if (status == MC_OK) {
        index->record.pairs += changed;
        status = put_many(writer, index, value, root, count + changed, err);
    }
    return status;
}

static enum mc_status add(struct mc_writer *writer, struct mc_index *index,
                          const struct mc_value *value, const struct mc_key *key,
                          struct mc_error *err)
{
    struct mc_key name = value_key(writer, value);
    struct mc_posting there;
    struct mc_hit hit;
    enum mc_status status = mc_table_find(&writer->table.space, index->record.root, &name, &hit);
    if (status == MC_ABSENT) {
        index->record.values++;
        index->record.pairs++;
        return put_one(writer, index, &name, key, err);
    }
    if (status != MC_OK || mc_hit_posting(&hit, &there) != MC_OK) {
        return mc_table_damaged(err);
    }
    return there.one && mc_key_equal(&there.key, key)
               ? MC_OK
               : add_another(writer, index, &name, key, &there, err);
}

static enum mc_status take(struct mc_writer *writer, struct mc_index *index,
                           const struct mc_value *value, const struct mc_key *key,
                           struct mc_error *err)
{
    struct mc_key name = value_key(writer, value);
    struct mc_posting there;
    struct mc_hit hit;
    uint64_t *root = &index->record.root;
    enum mc_status status = mc_table_find(&writer->table.space, *root, &name, &hit);
    if (status == MC_ABSENT) { /* taken already */
        return MC_OK;
    }
    if (status != MC_OK || mc_hit_posting(&hit, &there) != MC_OK ||
        (there.one && !mc_key_equal(&there.key, key))) {
        return mc_table_damaged(err);
    }
    if (!there.one) {
        status = mc_table_delete(&writer->table, &there.root, key, &hit, err);
        if (status == MC_OK && there.root != 0) {
            index->record.pairs--;
            return put_many(writer, index, &name, there.root, there.count - 1, err);
        }
        if (status != MC_OK) {
            return status == MC_ABSENT ? MC_OK : status;
        }
    }
    index->record.values--;
    index->record.pairs--;
    return mc_table_delete(&writer->table, root, &name, &hit, err);
}

/* ---- one document ---- */

enum step { TAKE, ADD };

/* A collection before and after the batch, and one of its indexes. */
struct update {
    struct mc_writer *writer;
    struct mc_index *index;
    uint64_t before, after; /* roots */
    struct mc_error *err;
};

static enum mc_status values_of(struct update *update, const struct mc_hit *hit,
                                struct mc_values *out)
{
    const struct mc_index *index = update->index;
    if (hit == NULL) {
        out->count = 0;
        return MC_OK;
    }
    return mc_index_values(shm_expose(hit->value), hit->value_len, index->path, index->path_len,
                           out) == MC_OK
               ? MC_OK
               : mc_no_memory(update->err);
}

/* Takes, or adds, what a document has in one of the two sorted lists and not in the other. */
static enum mc_status merge(struct update *update, enum step step, const struct mc_key *key)
{
    struct mc_indexes *indexes = &update->writer->indexes;
    const struct mc_values *own = step == TAKE ? &indexes->before : &indexes->after;
    const struct mc_values *other = step == TAKE ? &indexes->after : &indexes->before;
    enum mc_status status = MC_OK;
    size_t j = 0;
    for (size_t i = 0; i < own->count && status == MC_OK; i++) {
        const struct mc_value *value = &own->items[i];
        int order = 1;
        assert(i == 0 || mc_key_compare(value[-1].type, value[-1].data, value[-1].len, value->type,
                                        value->data, value->len) < 0); /* mc_values_sort */
        while (j < other->count &&
               (order = mc_key_compare(value->type, value->data, value->len, other->items[j].type,
                                       other->items[j].data, other->items[j].len)) > 0) {
            j++;
        }
        if (order != 0) {
            status = step == TAKE ? take(update->writer, update->index, value, key, update->err)
                                  : add(update->writer, update->index, value, key, update->err);
        }
    }
    return status;
}

/* One step for a key (with its hash); NULL: there is no such document before, or after. */
static enum mc_status update_document(struct update *update, enum step step,
                                      const struct mc_key *key, const struct mc_hit *before,
                                      const struct mc_hit *after)
{
    struct mc_indexes *indexes = &update->writer->indexes;
    if ((step == TAKE ? before : after) == NULL ||
        (before != NULL && after != NULL && before->offset == after->offset)) {
        return MC_OK; /* an entry never changes */
    }
    enum mc_status status = values_of(update, before, &indexes->before);
    if (status == MC_OK) {
        status = values_of(update, after, &indexes->after);
    }
    return status == MC_OK ? merge(update, step, key) : status;
}

/* Looks a key up: *out is `hit`, or NULL when it is absent. */
static enum mc_status look(struct update *update, uint64_t root, const struct mc_key *key,
                           struct mc_hit *hit, const struct mc_hit **out)
{
    enum mc_status status = mc_table_find(&update->writer->table.space, root, key, hit);
    *out = status == MC_OK ? hit : NULL;
    return status == MC_CORRUPT ? mc_table_damaged(update->err) : MC_OK;
}

static enum mc_status update_key(struct update *update, enum step step, const struct mc_key *key)
{
    struct mc_hit hits[2];
    const struct mc_hit *before, *after;
    enum mc_status status = look(update, update->before, key, &hits[0], &before);
    if (status == MC_OK) {
        status = look(update, update->after, key, &hits[1], &after);
    }
    return status == MC_OK ? update_document(update, step, key, before, after) : status;
}

/* ---- one collection ---- */

/* One step for every key of the table that it concerns: the other one is asked for its document. */
static enum mc_status update_whole(struct update *update, enum step step)
{
    struct mc_writer *writer = update->writer;
    uint64_t own = step == TAKE ? update->before : update->after;
    uint64_t other = step == TAKE ? update->after : update->before;
    struct mc_walk walk;
    struct mc_hit found, hit;
    const struct mc_hit *there;
    enum mc_status status;
    mc_walk_begin(&walk, &writer->table.space, own);
    while ((status = mc_walk_entry(&walk, &found)) == MC_OK) {
        struct mc_value name = {
            .data = shm_expose(found.key), .len = found.key_len, .type = found.key_type};
        struct mc_key key = value_key(writer, &name);
        status = look(update, other, &key, &hit, &there);
        if (status == MC_OK) {
            status = update_document(update, step, &key, step == TAKE ? &found : there,
                                     step == TAKE ? there : &found);
        }
        if (status != MC_OK) {
            return status;
        }
    }
    return status == MC_ABSENT ? MC_OK : mc_table_damaged(update->err);
}

/* One step for every key that was noted. */
static enum mc_status update_noted(struct update *update, enum step step, uint32_t place)
{
    struct mc_key key;
    enum mc_status status = MC_OK;
    while (status == MC_OK && mc_changes_noted(update->writer, &place, &key)) {
        key.hash = mc_writer_hash(update->writer, &key);
        status = update_key(update, step, &key);
    }
    return status;
}

/* Releases all of an index. */
static enum mc_status clear(struct mc_writer *writer, struct mc_index *index, struct mc_error *err)
{
    struct mc_walk walk;
    struct mc_hit hit;
    struct mc_posting posting;
    enum mc_status status;
    mc_walk_begin(&walk, &writer->table.space, index->record.root);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        status = mc_hit_posting(&hit, &posting);
        if (status == MC_OK && !posting.one) {
            status = mc_table_clear(&writer->table, &posting.root, err);
        }
        if (status != MC_OK) {
            return status == MC_NOMEM ? status : mc_table_damaged(err);
        }
    }
    index->record =
        (struct mc_index_record){.root = index->record.root, .kind = index->record.kind};
    return status == MC_ABSENT ? mc_table_clear(&writer->table, &index->record.root, err)
                               : mc_table_damaged(err);
}

/* collection: NULL for an index that has gone. */
static enum mc_status update_index(struct mc_writer *writer, struct mc_writer_index *item,
                                   const struct mc_writer_collection *collection,
                                   struct mc_error *err)
{
    enum mc_status status = MC_OK;
    assert(item->exists ? collection != NULL : !item->fresh);
    if (!item->exists) {
        return clear(writer, &item->now, err);
    }
    struct update update = {.writer = writer,
                            .index = &item->now,
                            .before = item->fresh ? 0 : collection->committed.root,
                            .after = collection->record.root,
                            .err = err};
    bool whole = item->fresh || collection->whole;
    if (item->fresh || update.after == 0) {
        status = clear(writer, &item->now, err);
        update.before = 0;
    }
    for (enum step step = TAKE; step <= ADD && status == MC_OK; step++) {
        status = whole ? update_whole(&update, step)
                       : update_noted(&update, step, collection->first_note);
    }
    return status;
}

/* Writes an index into the batch's catalogue, or takes it out. */
static enum mc_status store(struct mc_writer *writer, const struct mc_writer_index *item,
                            struct mc_error *err)
{
    const struct mc_index *index = &item->now;
    struct mc_put_result result;
    struct mc_hit old;
    struct mc_key key;
    uint8_t scratch[MC_INDEX_KEY_MAX];
    mc_index_key(index->name, index->name_len, index->path, index->path_len, &key, scratch);
    key.hash = mc_writer_hash(writer, &key);
    if (item->exists) {
        return mc_table_put(&writer->table, &writer->batch.catalogue, &key, &index->record,
                            sizeof index->record, &result, err);
    }
    enum mc_status status =
        mc_table_delete(&writer->table, &writer->batch.catalogue, &key, &old, err);
    return status == MC_ABSENT ? MC_OK : status;
}

/* The collection of an index, if the batch has changed it: among those few, so that a commit to
 * another one costs a comparison. */
static const struct mc_writer_collection *changed(const struct mc_writer *writer,
                                                  const struct mc_index *index)
{
    const struct mc_writer_collection *items = writer->collections.items;
    for (uint32_t at = writer->batch.listed; at != 0; at = items[at - 1].next_listed) {
        const struct mc_writer_collection *collection = &items[at - 1];
        if (collection->changed && collection->name_len == index->name_len &&
            memcmp(collection->name, index->name, index->name_len) == 0) {
            return collection;
        }
    }
    return NULL;
}

enum mc_status mc_indexes_update(struct mc_writer *writer, struct mc_error *err)
{
    enum mc_status status = MC_OK;
    assert(writer->batch.open && !writer->batch.replace.open);
    for (size_t i = 0; i < writer->indexes.count && status == MC_OK; i++) {
        struct mc_writer_index *item = &writer->indexes.items[i];
        const struct mc_writer_collection *collection = changed(writer, &item->now);
        if (item->fresh) { /* or one that the batch has left as it was: mc_batch_index found it */
            size_t at = 0;
            (void)mc_collections_find(writer, item->now.name, item->now.name_len, &at, NULL);
            collection = &writer->collections.items[at];
        }
        bool kept = item->exists && collection == NULL;
        bool moved = item->now.record.root != item->committed.root; /* by compact.c */
        if (kept && (!moved || MC_MUTANT_IS(683))) { /* 683: what has moved is not stored */
            continue;
        }
        if (!kept) {
            status = update_index(writer, item, collection, err);
        }
        if (status == MC_OK) {
            status = store(writer, item, err);
        }
    }
    return status;
}
