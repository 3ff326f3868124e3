/* raw.c - put_raw: many documents at once, as a server sends them. */
#include <assert.h>

#include "batch_step.h"

#define RAW_GROUP 16u /* documents whose cache misses overlap; at most MC_FIND_MANY */

/* Adds which document it was to what is wrong with it. */
static enum mc_status blame(struct mc_error *err, enum mc_status status, uint64_t document,
                            size_t offset)
{
    if (err != NULL) {
        struct mc_error inner = *err;
        (void)mc_fail(err, status, "document %llu of the buffer, at byte %zu: %s",
                      (unsigned long long)document, offset, inner.text);
    }
    return status;
}

struct raw_group {
    struct mc_key keys[RAW_GROUP];
    const uint8_t *documents[RAW_GROUP];
    size_t lens[RAW_GROUP];
    uint8_t scratch[RAW_GROUP][MC_KEY_MAX];
    unsigned count;
};

/* Validates the document at the start of [data, data + len) and adds it to the group. */
static enum mc_status raw_add(const struct mc_writer *writer, struct raw_group *group,
                              const uint8_t *data, size_t len, struct mc_error *err)
{
    struct mc_bson_element id;
    struct mc_key *key = &group->keys[group->count];
    size_t size = mc_bson_size(data, len);
    if (size == 0) {
        return mc_fail(err, MC_INVALID, "its length does not fit the %zu bytes that are left", len);
    }
    enum mc_status status = mc_batch_check_size(size, err);
    if (status == MC_OK) {
        status = mc_bson_validate(data, size, err);
    }
    if (status != MC_OK) {
        return status;
    }
    if (mc_bson_find(data, size, "_id", 3, &id) != MC_OK) {
        return mc_fail(err, MC_INVALID, "it has no _id to be its key");
    }
    status = mc_key_from_bson(&id, key, group->scratch[group->count], err);
    if (status == MC_OK) {
        key->hash = mc_writer_hash(writer, key);
        group->documents[group->count] = data;
        group->lens[group->count] = size;
        group->count++;
    }
    return status;
}

enum mc_status mc_batch_put_raw(struct mc_writer *writer, const char *name, size_t name_len,
                                const uint8_t *buffer, size_t len, uint64_t *documents,
                                struct mc_error *err)
{
    struct raw_group group;
    size_t index, offset = 0;
    *documents = 0;
    enum mc_status status = mc_batch_step(writer, name, name_len, &index, err);
    writer->batch.replace.smallest = true;
    while (status == MC_OK && offset < len) {
        uint64_t before = writer->collections.items[index].record.count;
        enum mc_status added = MC_OK;
        group.count = 0;
        while (group.count < RAW_GROUP && offset < len && added == MC_OK) {
            added = raw_add(writer, &group, buffer + offset, len - offset, err);
            if (added == MC_OK) {
                assert(group.count > 0 && group.count <= RAW_GROUP);
                offset += group.lens[group.count - 1];
            }
        }
        mc_table_warm(&writer->table.space, writer->collections.items[index].record.root,
                      group.keys, group.count);
        for (unsigned i = 0; i < group.count && status == MC_OK; i++) {
            bool changed;
            status = mc_batch_put_hashed(writer, index, &group.keys[i], group.documents[i],
                                         group.lens[i], &changed, err);
            *documents += status == MC_OK;
        }
        if (status == MC_OK && added != MC_OK) {
            status = blame(err, added, *documents, offset);
        }
        /* all were new, so most likely the next ones are */
        uint64_t fresh = writer->collections.items[index].record.count - before;
        mc_arena_bulk(&writer->arena, fresh == RAW_GROUP);
    }
    mc_arena_bulk(&writer->arena, false);
    return status;
}
