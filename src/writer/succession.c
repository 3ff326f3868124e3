/* succession.c - see succession.h. */
#include "succession.h"

#include "batch.h"
#include "mutant.h"
#include "publish.h"
#include "writer_state.h"

/* The documents of one collection. */
static enum mc_status carry_documents(const struct mc_writer *from, struct mc_writer *to,
                                      const char *name, size_t name_len, uint64_t root,
                                      struct mc_error *err)
{
    struct mc_walk documents;
    struct mc_hit hit;
    bool changed;
    enum mc_status walked = MC_OK, status = mc_replace_begin(to, name, name_len, err);
    mc_walk_begin(&documents, &from->table.space, root);
    while (status == MC_OK && (walked = mc_walk_entry(&documents, &hit)) == MC_OK) {
        struct mc_key key = {.type = hit.key_type, .len = hit.key_len, .data = shm_expose(hit.key)};
        status = mc_batch_put(to, name, name_len, &key, shm_expose(hit.value), hit.value_len,
                              &changed, err);
    }
    if (status == MC_OK && walked != MC_ABSENT && !MC_MUTANT_IS(692)) { /* 692: half will do */
        status = mc_table_damaged(err);
    }
    return status == MC_OK ? mc_replace_end(to, err) : status;
}

/* What one entry of the catalogue stands for. */
static enum mc_status carry_one(const struct mc_writer *from, struct mc_writer *to,
                                const struct mc_hit *name, struct mc_error *err)
{
    struct mc_collection collection;
    struct mc_index index;
    bool changed;
    if (mc_hit_index(name, &index) == MC_OK) {
        return mc_batch_index(to, index.name, index.name_len, index.path, index.path_len,
                              index.record.kind, &changed, err);
    }
    enum mc_status status = mc_hit_collection(name, &collection);
    if (status == MC_OK) {
        return carry_documents(from, to, (const char *)shm_expose(name->key), name->key_len,
                               collection.root, err);
    }
    return status == MC_ABSENT ? mc_batch_state(to, shm_expose(name->value), name->value_len, err)
                               : mc_table_damaged(err);
}

enum mc_status mc_succession_carry_over(const struct mc_writer *from, struct mc_writer *to,
                                        struct mc_error *err)
{
    struct mc_walk names;
    struct mc_hit name;
    uint64_t generation;
    enum mc_status walked = MC_OK, status = mc_batch_begin(to, err);
    mc_walk_begin(&names, &from->table.space, from->root.catalogue);
    while (status == MC_OK && (walked = mc_walk_entry(&names, &name)) == MC_OK) {
        status = carry_one(from, to, &name, err);
    }
    if (status == MC_OK && walked != MC_ABSENT) {
        status = mc_table_damaged(err);
    }
    if (status == MC_OK) { /* what was cut off meanwhile reads as zeros */
        status = mc_writer_whole(from, err);
    }
    if (status == MC_OK) {
        status = mc_batch_commit(to, &generation, err);
    }
    if (status == MC_OK && generation == 0 &&
        from->root.generation > from->superblock.base_generation) {
        struct mc_root root = to->root; /* nothing to carry over, yet it has been published */
        status = mc_writer_publish(to, &root, err);
    }
    return status;
}

void mc_succession_end(struct mc_writer *old)
{
    struct mc_root root = old->root;
    root.flags |= MC_ROOT_SUPERSEDED;
    if (root.generation > old->superblock.base_generation) {
        (void)mc_writer_publish(old, &root, NULL);
    }
}
