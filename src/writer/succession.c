/* succession.c - see succession.h. */
#include "succession.h"

#include "batch.h"
#include "publish.h"
#include "writer_state.h"

enum mc_status mc_succession_carry_over(const struct mc_writer *from, struct mc_writer *to,
                                        struct mc_error *err)
{
    struct mc_walk names, documents;
    struct mc_hit name, hit;
    uint64_t generation;
    enum mc_status status = mc_batch_begin(to, err);
    mc_walk_begin(&names, &from->table.space, from->root.catalogue);
    while (status == MC_OK && mc_walk_entry(&names, &name) == MC_OK) {
        struct mc_collection collection;
        struct mc_index index;
        bool changed;
        if (mc_hit_index(&name, &index) == MC_OK) {
            status = mc_batch_index(to, index.name, index.name_len, index.path, index.path_len,
                                    index.record.kind, &changed, err);
            continue;
        }
        if (mc_hit_collection(&name, &collection) != MC_OK) {
            status = mc_batch_state(to, shm_expose(name.value), name.value_len, err);
            continue;
        }
        status = mc_replace_begin(to, (const char *)shm_expose(name.key), name.key_len, err);
        mc_walk_begin(&documents, &from->table.space, collection.root);
        while (status == MC_OK && mc_walk_entry(&documents, &hit) == MC_OK) {
            struct mc_key key = {
                .type = hit.key_type, .len = hit.key_len, .data = shm_expose(hit.key)};
            status = mc_batch_put(to, (const char *)shm_expose(name.key), name.key_len, &key,
                                  shm_expose(hit.value), hit.value_len, &changed, err);
        }
        if (status == MC_OK) {
            status = mc_replace_end(to, err);
        }
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
