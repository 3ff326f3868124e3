/* work.c - the collections that a writer works on, and how they enter the catalogue.
 *
 * The list lasts as long as the writer: a loader that commits one document at a time looks its
 * collection up in the catalogue once. What the open batch changed is linked by index, so that
 * commit and abort cost the number of changed collections, not of known ones.
 */
#include "work.h"

#include <stdlib.h>
#include <string.h>

static uint64_t name_hash(const struct mc_writer *writer, const char *name, size_t len)
{
    return mc_hash(writer->superblock.hash_seed, MC_KEY_NAME, name, len);
}

static struct mc_key name_key(const struct mc_writer *writer, const char *name, size_t len)
{
    return (struct mc_key){.type = MC_KEY_NAME,
                           .len = (uint16_t)len,
                           .data = (const uint8_t *)name,
                           .hash = name_hash(writer, name, len)};
}

static bool work_is(const struct mc_work *work, const char *name, size_t len)
{
    return work->name_len == len && memcmp(work->name, name, len) == 0;
}

static void index_add(struct mc_writer *writer, size_t work)
{
    const struct mc_work *added = &writer->works[work];
    size_t mask = writer->work_index_size - 1;
    size_t at = (size_t)name_hash(writer, added->name, added->name_len) & mask;
    while (writer->work_index[at] != 0) {
        at = (at + 1) & mask;
    }
    writer->work_index[at] = (uint32_t)work + 1;
}

/* Makes room for one more collection in the list and in the index. */
static enum mc_status works_prepare(struct mc_writer *writer)
{
    if (writer->work_count == writer->work_capacity) {
        size_t capacity = writer->work_capacity == 0 ? 8 : writer->work_capacity * 2;
        struct mc_work *works = realloc(writer->works, capacity * sizeof *works);
        if (works == NULL) {
            return MC_NOMEM;
        }
        writer->works = works;
        writer->work_capacity = capacity;
    }
    if ((writer->work_count + 1) * 2 > writer->work_index_size) {
        size_t size = writer->work_index_size == 0 ? 32 : writer->work_index_size * 2;
        uint32_t *index = calloc(size, sizeof *index);
        if (index == NULL) {
            return MC_NOMEM;
        }
        free(writer->work_index);
        writer->work_index = index;
        writer->work_index_size = size;
        for (size_t i = 0; i < writer->work_count; i++) {
            index_add(writer, i);
        }
    }
    return MC_OK;
}

/* Reads what was committed of a collection. */
static enum mc_status work_load(const struct mc_writer *writer, struct mc_work *work)
{
    struct mc_hit hit;
    struct mc_collection found;
    struct mc_key key = name_key(writer, work->name, work->name_len);
    enum mc_status status = mc_table_find(&writer->table.space, writer->root.catalogue, &key, &hit);
    if (status == MC_OK && (status = mc_hit_collection(&hit, &found)) == MC_OK) {
        work->committed = (struct mc_collection_record){.root = found.root,
                                                        .count = found.count,
                                                        .content = found.content,
                                                        .created = found.created};
        work->record = work->committed;
        work->exists = work->committed_exists = true;
    }
    return status == MC_ABSENT ? MC_OK : status;
}

enum mc_status mc_work_find(struct mc_writer *writer, const char *name, size_t len, size_t *out,
                            struct mc_error *err)
{
    if (writer->last_work < writer->work_count &&
        work_is(&writer->works[writer->last_work], name, len)) {
        *out = writer->last_work;
        return MC_OK;
    }
    if (len == 0 || len > MC_NAME_MAX) {
        return mc_fail(err, MC_LIMIT,
                       "a collection's name has 1 to %u bytes of UTF-8, this one %zu", MC_NAME_MAX,
                       len);
    }
    size_t mask = writer->work_index_size - 1;
    size_t at = (size_t)name_hash(writer, name, len) & mask;
    for (; writer->work_index_size > 0 && writer->work_index[at] != 0; at = (at + 1) & mask) {
        if (work_is(&writer->works[writer->work_index[at] - 1], name, len)) {
            *out = writer->last_work = writer->work_index[at] - 1;
            return MC_OK;
        }
    }
    enum mc_status status = works_prepare(writer);
    struct mc_work *work = &writer->works[writer->work_count];
    if (status == MC_OK) {
        *work = (struct mc_work){.name_len = (uint8_t)len};
        memcpy(work->name, name, len);
        status = work_load(writer, work);
    }
    if (status != MC_OK) {
        return mc_writer_explain(writer, status, err);
    }
    *out = writer->last_work = writer->work_count++;
    index_add(writer, *out);
    return MC_OK;
}

void mc_work_change(struct mc_writer *writer, size_t index)
{
    struct mc_work *work = &writer->works[index];
    work->changed = true;
    if (!work->listed) {
        work->listed = true;
        work->next_listed = writer->batch.listed;
        writer->batch.listed = (uint32_t)index + 1;
    }
}

enum mc_status mc_work_create(struct mc_writer *writer, size_t index, struct mc_error *err)
{
    struct mc_work *work = &writer->works[index];
    if (work->exists) {
        return MC_OK;
    }
    if (writer->batch.collections >= MC_COLLECTIONS_MAX) {
        return mc_fail(err, MC_LIMIT, "a cache has at most %u collections", MC_COLLECTIONS_MAX);
    }
    mc_work_change(writer, index);
    work->exists = true;
    work->record = (struct mc_collection_record){.created = writer->root.generation + 1};
    writer->batch.collections++;
    return MC_OK;
}

void mc_work_remove(struct mc_writer *writer, size_t index)
{
    struct mc_work *work = &writer->works[index];
    mc_work_change(writer, index);
    work->exists = false;
    work->record = (struct mc_collection_record){0};
    writer->batch.collections--;
}

struct mc_work *mc_work_unlist(struct mc_writer *writer)
{
    struct mc_work *work = &writer->works[writer->batch.listed - 1];
    writer->batch.listed = work->next_listed;
    work->listed = work->changed = false;
    work->next_listed = 0;
    return work;
}

enum mc_status mc_work_store(struct mc_writer *writer, struct mc_work *work, struct mc_root *root)
{
    struct mc_key key = name_key(writer, work->name, work->name_len);
    struct mc_put_result result;
    struct mc_hit old;
    root->documents += work->record.count - work->committed.count;
    root->content += work->record.content - work->committed.content;
    if (work->exists) {
        return mc_table_put(&writer->table, &root->catalogue, &key, &work->record,
                            sizeof work->record, &result);
    }
    if (!work->committed_exists) {
        return MC_OK;
    }
    return mc_table_delete(&writer->table, &root->catalogue, &key, &old);
}
