/* owed.c - a dictionary of keys for each node that something is owed to. */
#include "owed.h"

#include <string.h>

#include "fault.h"
#include "redis_api.h"

struct owed {
    char id[RING_ID_MAX + 1]; /* empty: the place is free */
    RedisModuleDict *keys;    /* key -> struct ring_version */
    uint64_t overflow;
};

static struct owed places[RING_NODES_MAX];
static uint64_t overflows; /* the last number that was given out */

static void forget_keys(struct owed *owed)
{
    RedisModuleDictIter *at = RedisModule_DictIteratorStartC(owed->keys, "^", NULL, 0);
    size_t length;
    void *version;
    while (RedisModule_DictNextC(at, &length, &version) != NULL) {
        RedisModule_Free(version);
    }
    RedisModule_DictIteratorStop(at);
    RedisModule_FreeDict(NULL, owed->keys);
    owed->keys = NULL;
}

static void forget(struct owed *owed)
{
    if (owed->id[0] != '\0') {
        forget_keys(owed);
        memset(owed, 0, sizeof *owed);
    }
}

struct owed *owed_of(const struct record *record, unsigned index)
{
    for (unsigned i = 0; i < RING_NODES_MAX; i++) {
        if (strcmp(places[i].id, record->ids[index]) == 0) {
            return &places[i];
        }
    }
    return NULL;
}

void owed_note(const struct record *record, unsigned index, const char *key, size_t length,
               const struct ring_version *version)
{
    struct owed *owed = owed_of(record, index);
    for (unsigned i = 0; owed == NULL; i++) { /* those of the ring's nodes alone are kept */
        if (places[i].id[0] == '\0') {
            owed = &places[i];
            memcpy(owed->id, record->ids[index], sizeof owed->id);
            owed->keys = RedisModule_CreateDict(NULL);
        }
    }
    struct ring_version *noted = RedisModule_DictGetC(owed->keys, (void *)key, length, NULL);
    if (noted != NULL) {
        if (ring_version_compare(noted, version) < 0) {
            *noted = *version;
        }
        return;
    }
    if (RedisModule_DictSize(owed->keys) >= OWED_MAX) {
        forget_keys(owed);
        owed->keys = RedisModule_CreateDict(NULL);
        owed->overflow = RING_FAULT_IS(22) ? 0 : ++overflows; /* 22: forgotten without a word */
    }
    noted = RedisModule_Alloc(sizeof *noted);
    *noted = *version;
    (void)RedisModule_DictSetC(owed->keys, (void *)key, length, noted);
}

bool owed_strike(struct owed *owed, const char *key, size_t length,
                 const struct ring_version *version)
{
    struct ring_version *noted = RedisModule_DictGetC(owed->keys, (void *)key, length, NULL);
    if (noted == NULL || ring_version_compare(noted, version) > 0) {
        return false;
    }
    (void)RedisModule_DictDelC(owed->keys, (void *)key, length, NULL);
    RedisModule_Free(noted);
    return true;
}

uint64_t owed_count(const struct owed *owed)
{
    return RedisModule_DictSize(owed->keys);
}

uint64_t owed_overflow(const struct owed *owed)
{
    return owed->overflow;
}

bool owed_settle(struct owed *owed, uint64_t overflow)
{
    bool same = overflow != 0 && owed->overflow == overflow;
    owed->overflow = same ? 0 : owed->overflow;
    return same;
}

void owed_walk(struct owed *owed, const char *after, size_t length, uint64_t count,
               void (*each)(void *context, const char *key, size_t length,
                            const struct ring_version *version),
               void *context)
{
    RedisModuleDictIter *at = RedisModule_DictIteratorStartC(
        owed->keys, after == NULL ? "^" : ">", (void *)after, after == NULL ? 0 : length);
    size_t key_length;
    void *version;
    const char *key;
    while (count-- > 0 && (key = RedisModule_DictNextC(at, &key_length, &version)) != NULL) {
        each(context, key, key_length, version);
    }
    RedisModule_DictIteratorStop(at);
}

void owed_keep(const struct record *record)
{
    for (unsigned i = 0; i < RING_NODES_MAX; i++) {
        if (places[i].id[0] != '\0' &&
            record_index(record, places[i].id, strlen(places[i].id)) < 0) {
            forget(&places[i]);
        }
    }
}

void owed_clear(void)
{
    for (unsigned i = 0; i < RING_NODES_MAX; i++) {
        forget(&places[i]);
    }
}
