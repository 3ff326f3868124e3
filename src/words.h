/* words.h - a growing list of words, first in, first out. */
#ifndef MMAPCACHE_WORDS_H
#define MMAPCACHE_WORDS_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"

struct mc_words {
    uint64_t *items;
    size_t head, count, capacity; /* items[head .. head + count) are in use */
};

/* Makes sure that `more` words can be pushed: MC_NOMEM, and it is as it was. */
static inline enum mc_status words_prepare(struct mc_words *words, size_t more)
{
    if (words->head + words->count + more <= words->capacity) {
        return MC_OK;
    }
    if (words->head > 0 && words->head >= words->count && words->count + more <= words->capacity) {
        memmove(words->items, words->items + words->head, words->count * sizeof *words->items);
        words->head = 0;
        return MC_OK;
    }
    size_t capacity = words->capacity * 2 > 64 ? words->capacity * 2 : 64;
    while (capacity < words->head + words->count + more) {
        capacity *= 2;
    }
    uint64_t *items = realloc(words->items, capacity * sizeof *items);
    if (items == NULL) {
        return MC_NOMEM;
    }
    words->items = items;
    words->capacity = capacity;
    return MC_OK;
}

static inline void words_push(struct mc_words *words, uint64_t item)
{
    assert(words->head + words->count < words->capacity);
    words->items[words->head + words->count++] = item;
}

/* Takes the oldest ones away. */
static inline void words_pop(struct mc_words *words, size_t count)
{
    words->count -= count;
    words->head = words->count > 0 ? words->head + count : 0;
}

static inline void words_clear(struct mc_words *words)
{
    words->head = words->count = 0;
}

static inline void words_free(struct mc_words *words)
{
    free(words->items);
    *words = (struct mc_words){0};
}

#endif
