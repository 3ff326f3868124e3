/* check.c - verifies one generation completely, from any process.
 *
 * Every block found on a walk is reserved in a private allocator, so two blocks that overlap are
 * found. Every entry is checked against its checksum and then looked up by its own key: if the
 * search ends at this very entry, every reference, tag and slot on its path is right. What is left
 * over is free space. An index is right when each value of each document is found in it, and it has
 * no more than that.
 */
#include "check.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bson.h"
#include "buddy.h"
#include "change_log.h"
#include "index.h"
#include "mutant.h"

struct check {
    const struct mc_view *view;
    struct mc_check_report *report;
    struct mc_buddy *buddy;
    uint8_t *bytes; /* a private copy of one entry's key and value */
    size_t capacity;
    uint64_t *occupied; /* NULL, or room for so many numbers */
    size_t room;
    struct mc_values values; /* of a document in an index */
    struct mc_error *err;
};

static enum mc_status wrong(struct check *check, uint64_t offset, const char *what)
{
    assert(offset < check->view->space.limit);
    return mc_fail(check->err, MC_CORRUPT, "at byte %llu: %s", (unsigned long long)offset, what);
}

static enum mc_status no_memory(struct check *check)
{
    return mc_fail(check->err, MC_NOMEM, "out of memory");
}

static enum mc_status copy_entry(struct check *check, const struct mc_hit *hit)
{
    size_t len = (size_t)mc_hit_bytes(hit) - sizeof(struct mc_entry);
    assert(hit->key_len <= MC_KEY_MAX && hit->offset < check->view->space.limit);
    if (len >= check->capacity) { /* a byte for an empty one too: NULL is no place to copy to */
        uint8_t *bytes = realloc(check->bytes, len + 1);
        if (bytes == NULL) {
            return no_memory(check);
        }
        check->bytes = bytes;
        check->capacity = len + 1;
    }
    assert(check->bytes != NULL && len < check->capacity);
    shm_read(check->bytes, hit->key, len);
    return MC_OK;
}

/* Whether the copied value has the index of fields that the loader makes of it. */
static bool index_is_right(const struct check *check, const struct mc_hit *hit)
{
    uint8_t index[MC_FIELD_INDEX_MAX];
    const uint8_t *value = check->bytes + hit->key_len;
    if (mc_field_index_blocks(value, hit->value_len) != hit->blocks) {
        return false;
    }
    if (hit->blocks == 0) {
        return true;
    }
    mc_field_index_make(value, hit->value_len, hit->blocks, index);
    return memcmp(index, value + hit->value_len, (size_t)hit->blocks * MC_BLOCK_BYTES) == 0;
}

/* The entry's checksum, its index of fields, and that a search for its key ends at it. */
static enum mc_status check_entry(struct check *check, uint64_t root, const struct mc_hit *hit)
{
    struct mc_hit found;
    const struct mc_space *space = &check->view->space;
    enum mc_status status = copy_entry(check, hit);
    if (status != MC_OK) {
        return status;
    }
    const shm_byte *entry = space->base + hit->offset;
    uint32_t stored = (uint32_t)shm_load(entry);
    uint64_t stamp = shm_load(entry + offsetof(struct mc_entry, stamp));
    if (!MC_MUTANT_IS(604) && stored != mc_hit_checksum(hit, stamp, check->bytes)) {
        return wrong(check, hit->offset, "an entry's checksum does not match its bytes");
    }
    if (!MC_MUTANT_IS(691) && !index_is_right(check, hit)) { /* 691: fields may be hidden */
        return wrong(check, hit->offset, "an index of fields is not that of its document");
    }
    if (hit->birth > check->view->root.generation) {
        return wrong(check, hit->offset, "an entry is younger than its generation");
    }
    assert(check->capacity > (size_t)hit->key_len + hit->value_len);
    struct mc_key key = {.type = hit->key_type, .len = hit->key_len, .data = check->bytes};
    key.hash = mc_view_hash(check->view, &key);
    if (mc_table_find(space, root, &key, &found) != MC_OK || found.offset != hit->offset) {
        return wrong(check, hit->offset, "an entry is not where a search for its key looks");
    }
    return MC_OK;
}

/* Counts an item and makes sure that nothing else has its bytes. */
static enum mc_status take(struct check *check, const struct mc_item *item)
{
    uint64_t granules = mc_granules(item->bytes);
    assert(granules > 0 && item->offset % MC_GRANULE == 0);
    assert(item->offset + item->bytes <= check->view->space.limit); /* the walk stays in the file */
    enum mc_status status = mc_buddy_reserve(check->buddy, item->offset / MC_GRANULE, granules);
    check->report->nodes += item->kind == MC_ITEM_NODE;
    check->report->pages += item->kind == MC_ITEM_PAGE;
    check->report->entries += item->kind == MC_ITEM_ENTRY;
    check->report->used += granules * MC_GRANULE;
    bool fine = status == MC_OK || MC_MUTANT_IS(605); /* 605: blocks may overlap */
    return fine ? MC_OK : wrong(check, item->offset, "two blocks overlap");
}

/* The end of a walk: MC_ABSENT is success, and MC_CORRUPT gets a sentence if it has none. */
static enum mc_status walk_end(struct check *check, enum mc_status status, bool explained)
{
    assert(status != MC_OK); /* a walk ends by MC_ABSENT */
    if (status == MC_ABSENT) {
        return MC_OK;
    }
    return status == MC_CORRUPT && !explained
               ? mc_fail(check->err, MC_CORRUPT, "a table's references are damaged")
               : status;
}

/* Every block of a table, each of whose entries is counted and given to `entry`, its bytes copied,
 * with whatever that wants. */
struct table_walk {
    enum mc_status (*entry)(struct check *check, const struct mc_hit *hit, void *context);
    void *context;
    uint64_t count;
};

static enum mc_status check_table(struct check *check, uint64_t root, struct table_walk *table)
{
    struct mc_walk walk;
    struct mc_item item;
    bool explained = false;
    enum mc_status status;
    mc_walk_begin(&walk, &check->view->space, root);
    while ((status = mc_walk_next(&walk, &item)) == MC_OK) {
        explained = true;
        status = take(check, &item);
        if (status == MC_OK && item.kind == MC_ITEM_ENTRY) {
            table->count++;
            status = check_entry(check, root, &item.hit);
            if (status == MC_OK) {
                status = table->entry(check, &item.hit, table->context);
            }
        }
        if (status != MC_OK) {
            break;
        }
        explained = false;
    }
    return walk_end(check, status, explained);
}

/* context: adds the key and value bytes. */
static enum mc_status check_document(struct check *check, const struct mc_hit *hit, void *context)
{
    uint64_t *content = context;
    *content += (uint64_t)hit->key_len + hit->value_len;
    return mc_bson_validate(check->bytes + hit->key_len, hit->value_len, NULL) == MC_OK
               ? MC_OK
               : wrong(check, hit->offset, "a document is not valid BSON");
}

static enum mc_status check_collection(struct check *check, const struct mc_collection *collection)
{
    uint64_t content = 0;
    struct table_walk table = {.entry = check_document, .context = &content};
    enum mc_status status = check_table(check, collection->root, &table);
    assert(table.count <= check->report->entries);
    if (status == MC_OK && (table.count != collection->count || content != collection->content)) {
        status =
            mc_fail(check->err, MC_CORRUPT, "a collection's counts do not match its documents");
    }
    check->report->documents += table.count;
    check->report->content += content;
    return status;
}

/* One more collection, and what it occupies. */
static enum mc_status check_next(struct check *check, const struct mc_collection *collection)
{
    uint64_t before = check->report->used, index = check->report->collections++;
    enum mc_status status = check_collection(check, collection);
    if (check->occupied != NULL && index < check->room) {
        check->occupied[index] = check->report->used - before;
    }
    return status;
}

/* ---- indexes ---- */

static enum mc_status check_key(struct check *check, const struct mc_hit *hit, void *context)
{
    (void)context;
    return hit->value_len == 0 ? MC_OK : wrong(check, hit->offset, "a key of an index has a value");
}

/* How many pairs were found, and of what kind the index is. */
struct postings {
    uint64_t pairs;
    uint32_t kind;
};

static enum mc_status check_posting(struct check *check, const struct mc_hit *hit, void *context)
{
    struct postings *postings = context;
    struct mc_posting posting;
    struct table_walk keys = {.entry = check_key};
    if (mc_hit_posting(hit, &posting) != MC_OK ||
        (!posting.one && postings->kind == MC_INDEX_UNIQUE)) {
        return wrong(check, hit->offset, "this is no entry of an index");
    }
    if (posting.one) {
        postings->pairs++;
        return MC_OK;
    }
    enum mc_status status = check_table(check, posting.root, &keys);
    if (status == MC_OK && keys.count != posting.count) {
        status = wrong(check, hit->offset, "an index's counts do not match its entries");
    }
    postings->pairs += keys.count;
    return status;
}

/* Whether the index leads from a value to the document with this key. */
static bool leads_to(const struct check *check, uint64_t root, const struct mc_value *value,
                     struct mc_key *key)
{
    const struct mc_space *space = &check->view->space;
    struct mc_key name = {.type = value->type, .len = value->len, .data = value->data};
    struct mc_posting posting = {.one = true};
    struct mc_hit hit;
    name.hash = mc_view_hash(check->view, &name);
    if (mc_table_find(space, root, &name, &hit) != MC_OK) {
        return false;
    }
    (void)mc_hit_posting(&hit, &posting); /* which was found sound; no key equals another's rest */
    if (posting.one) {
        return mc_key_equal(&posting.key, key);
    }
    key->hash = mc_view_hash(check->view, key);
    return mc_table_find(space, posting.root, key, &hit) == MC_OK;
}

/* Counts the values of the documents, each of which is in the index. */
static enum mc_status check_values(struct check *check, const struct mc_index *index,
                                   uint64_t documents, uint64_t *pairs)
{
    struct mc_walk walk;
    struct mc_hit hit;
    enum mc_status status;
    mc_walk_begin(&walk, &check->view->space, documents);
    while ((status = mc_walk_entry(&walk, &hit)) == MC_OK) {
        status = copy_entry(check, &hit);
        struct mc_key key = {.type = hit.key_type, .len = hit.key_len, .data = check->bytes};
        if (status == MC_OK &&
            mc_index_values(check->bytes + hit.key_len, hit.value_len, index->path, index->path_len,
                            &check->values) != MC_OK) {
            status = no_memory(check);
        }
        if (status != MC_OK) {
            return status;
        }
        for (size_t i = 0; i < check->values.count; i++) {
            if (!leads_to(check, index->record.root, &check->values.items[i], &key) &&
                !MC_MUTANT_IS(681)) { /* 681: nobody looks */
                return wrong(check, hit.offset, "a document is not in an index of its collection");
            }
        }
        *pairs += check->values.count;
    }
    return walk_end(check, status, false);
}

static enum mc_status check_index(struct check *check, const struct mc_index *index)
{
    struct postings postings = {.kind = index->record.kind};
    struct table_walk table = {.entry = check_posting, .context = &postings};
    struct mc_collection collection;
    uint64_t pairs = 0;
    enum mc_status status = check_table(check, index->record.root, &table);
    if (status == MC_OK &&
        (table.count != index->record.values || postings.pairs != index->record.pairs)) {
        return mc_fail(check->err, MC_CORRUPT, "an index's counts do not match its entries");
    }
    /* where there is none, or it is damaged, no document has anything that is in the index */
    (void)mc_view_collection(check->view, index->name, index->name_len, &collection);
    if (status == MC_OK) {
        status = check_values(check, index, collection.root, &pairs);
    }
    if (status == MC_OK && pairs != postings.pairs && !MC_MUTANT_IS(682)) { /* 682: nor there */
        return mc_fail(check->err, MC_CORRUPT, "an index has what no document has");
    }
    return status;
}

/* ---- all of it ---- */

static enum mc_status check_record(struct check *check, const struct mc_hit *hit, void *context)
{
    struct mc_collection collection;
    struct mc_index index;
    (void)context;
    enum mc_status kind = mc_hit_collection(hit, &collection);
    enum mc_status its = mc_hit_index(hit, &index);
    if (kind == MC_CORRUPT || its == MC_CORRUPT) {
        return wrong(check, hit->offset, "this is no entry of a catalogue");
    }
    if (kind == MC_OK) {
        return check_next(check, &collection);
    }
    return its == MC_OK ? check_index(check, &index) : MC_OK;
}

static enum mc_status check_catalogue(struct check *check)
{
    struct table_walk table = {.entry = check_record};
    enum mc_status status = check_table(check, check->view->root.catalogue, &table);
    assert(check->report->collections <= check->report->entries);
    return status;
}

/* Reserves what every file has: its header, and the tail at its end. */
static enum mc_status check_frame(struct check *check)
{
    const struct mc_view *view = check->view;
    uint64_t header = view->arena_offset;
    uint64_t tail = mc_root_end(&view->root) - sizeof(struct mc_tail);
    check->report->used += header + sizeof(struct mc_tail);
    bool fits = mc_buddy_reserve(check->buddy, 0, header / MC_GRANULE) == MC_OK;
    (void)mc_buddy_reserve(check->buddy, tail / MC_GRANULE, 1); /* behind any header that fits */
    return fits ? MC_OK : wrong(check, 0, "the file is too short");
}

/* What the root says of itself against what was found. */
static enum mc_status check_root(struct check *check)
{
    const struct mc_root *root = &check->view->root;
    struct mc_check_report *report = check->report;
    assert(report->used <= check->view->space.limit); /* no two blocks overlap */
    if (root->generation == 0) {
        return MC_OK;
    }
    if (root->documents != report->documents || root->content != report->content ||
        root->collections != report->collections) {
        return mc_fail(check->err, MC_CORRUPT, "the root's counts do not match its collections");
    }
    if (root->used != report->used) {
        return mc_fail(check->err, MC_CORRUPT,
                       "the root accounts for %llu bytes and %llu are in use: blocks were leaked",
                       (unsigned long long)root->used, (unsigned long long)report->used);
    }
    return MC_OK;
}

/* What of the change log this generation leads to. MC_EXPIRED comes without a sentence. */
static enum mc_status check_log(struct check *check)
{
    enum mc_status status = mc_changes_check(check->view);
    if (status == MC_NOMEM) {
        return no_memory(check);
    }
    return status == MC_CORRUPT
               ? mc_fail(check->err, MC_CORRUPT, "the change log is damaged: recreate the cache")
               : status;
}

enum mc_status mc_check(const struct mc_view *view, struct mc_check_report *out,
                        struct mc_error *err)
{
    return mc_check_each(view, out, NULL, 0, err);
}

enum mc_status mc_check_each(const struct mc_view *view, struct mc_check_report *out,
                             uint64_t *occupied, size_t room, struct mc_error *err)
{
    struct check check = {
        .view = view, .report = out, .occupied = occupied, .room = room, .err = err};
    uint64_t granules = view->space.limit / MC_GRANULE;
    assert(view->space.limit % MC_GRANULE == 0);
    *out = (struct mc_check_report){0};
    if (mc_buddy_create(granules, granules, &check.buddy) != MC_OK) {
        return no_memory(&check);
    }
    enum mc_status status = check_frame(&check);
    if (status == MC_OK) {
        status = check_catalogue(&check);
    }
    if (status == MC_OK) {
        status = check_root(&check);
    }
    if (status == MC_OK) {
        status = check_log(&check);
    }
    for (unsigned order = 0; order < MC_CHECK_ORDERS; order++) {
        out->free_blocks[order] = mc_buddy_free_blocks(check.buddy, order);
    }
    out->largest_free = mc_buddy_largest(check.buddy) * MC_GRANULE;
    assert(out->largest_free <= view->space.limit);
    assert(status == MC_OK || status == MC_EXPIRED || err == NULL ||
           err->status == status); /* it says why */
    mc_buddy_destroy(check.buddy);
    free(check.bytes);
    mc_values_free(&check.values);
    return mc_view_settle(view, status);
}
