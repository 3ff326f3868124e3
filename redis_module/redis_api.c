/* redis_api.c - fetches the server's functions by name. */
#include "redis_api.h"

#include <string.h>

#define DEFINE(result, name, arguments) result(*RedisModule_##name) arguments;
REDIS_API(DEFINE)
#undef DEFINE

const char *redis_api_fetch(RedisModuleCtx *ctx)
{
    /* The API's convention: the function that finds the others is where the context begins. */
    int (*get_api)(const char *, void *);
    memcpy(&get_api, ctx, sizeof get_api);
#define FETCH(result, name, arguments)                                                             \
    if (get_api("RedisModule_" #name, (void *)&RedisModule_##name) != REDISMODULE_OK) {            \
        return "RedisModule_" #name;                                                               \
    }
    REDIS_API(FETCH)
#undef FETCH
    return NULL;
}
