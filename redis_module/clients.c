/* clients.c - a set of connection ids: open addressing, at most half full, 0 where nothing is. */
#include "clients.h"

#include <string.h>

enum { FIRST_SIZE = 64 };

static uint64_t *table;
static size_t size; /* a power of two, or 0 */
static size_t count;

static size_t home(uint64_t id)
{
    return (size_t)(id * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (size - 1);
}

/* Where the id is, or the free place where it would be. */
static size_t find(uint64_t id)
{
    size_t at = home(id);
    while (table[at] != 0 && table[at] != id) {
        at = (at + 1) & (size - 1);
    }
    return at;
}

static void grow(void)
{
    uint64_t *old = table;
    size_t old_size = size;
    size = old_size == 0 ? FIRST_SIZE : 2 * old_size;
    table = RedisModule_Alloc(size * sizeof *table);
    memset(table, 0, size * sizeof *table);
    for (size_t i = 0; i < old_size; i++) {
        if (old[i] != 0) {
            table[find(old[i])] = old[i];
        }
    }
    RedisModule_Free(old);
}

void clients_greet(uint64_t id)
{
    if (id == 0 || clients_know(id)) {
        return;
    }
    if (2 * (count + 1) > size) {
        grow();
    }
    table[find(id)] = id;
    count++;
}

bool clients_know(uint64_t id)
{
    return size != 0 && id != 0 && table[find(id)] == id;
}

void clients_forget(uint64_t id)
{
    if (!clients_know(id)) {
        return;
    }
    size_t hole = find(id);
    table[hole] = 0;
    count--;
    /* Whoever stands behind the hole and could not be found any more moves into it. */
    for (size_t at = (hole + 1) & (size - 1); table[at] != 0; at = (at + 1) & (size - 1)) {
        size_t from_home = (at - home(table[at])) & (size - 1);
        if (from_home >= ((at - hole) & (size - 1))) {
            table[hole] = table[at];
            table[at] = 0;
            hole = at;
        }
    }
}

unsigned long long clients_count(void)
{
    return count;
}

void clients_drop(RedisModuleCtx *ctx)
{
    uint64_t *old = table;
    size_t old_size = size;
    table = NULL; /* closing one calls clients_forget */
    size = 0;
    count = 0;
    for (size_t i = 0; i < old_size; i++) {
        if (old[i] != 0) {
            (void)RedisModule_DeauthenticateAndCloseClient(ctx, old[i]);
        }
    }
    RedisModule_Free(old);
}
