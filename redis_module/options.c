/* options.c - reads the module's arguments. */
#define _GNU_SOURCE
#include "options.h"

#include <stdlib.h>
#include <string.h>

#include "membership.h"

enum { FENCE_MS = 300, FENCE_MIN_MS = 100, FENCE_MAX_MS = 60000, ADDRESS_MAX = 300 };

/* The value of `name=value`, NULL if it is another name. */
static const char *value_of(const char *argument, const char *name)
{
    size_t length = strlen(name);
    return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1
                                                                           : NULL;
}

static const char *read_id(struct options *options, const char *value)
{
    struct ring_id id = {value, strlen(value)};
    if (!ring_id_valid(id)) {
        return "id= must be 1 to 64 characters of A-Z a-z 0-9 . _ -, and not . or ..";
    }
    memcpy(options->id, value, id.length + 1);
    return NULL;
}

static const char *read_address(struct options *options, const char *value)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:_-[]";
    const char *colon = strrchr(value, ':');
    char *end = NULL;
    long port = colon == NULL ? 0 : strtol(colon + 1, &end, 10);
    if (colon == NULL || colon == value || *end != '\0' || port < 1 || port > 65535 ||
        strlen(value) > ADDRESS_MAX || strspn(value, letters) != strlen(value)) {
        return "address= must be HOST:PORT";
    }
    options->address = strdup(value);
    return NULL;
}

static const char *read_fence(struct options *options, const char *value)
{
    char *end;
    long fence = strtol(value, &end, 10);
    if (*value == '\0' || *end != '\0' || fence < FENCE_MIN_MS || fence > FENCE_MAX_MS) {
        return "fence= must be 100 to 60000 ms";
    }
    options->fence = (uint64_t)fence;
    return NULL;
}

static const char *read_one(struct options *options, const char *argument)
{
    const char *value;
    if ((value = value_of(argument, "id")) != NULL) {
        return read_id(options, value);
    }
    if ((value = value_of(argument, "zookeeper")) != NULL) {
        options->zookeeper = strdup(value);
        return membership_check(value);
    }
    if ((value = value_of(argument, "address")) != NULL) {
        return read_address(options, value);
    }
    if ((value = value_of(argument, "fence")) != NULL) {
        return read_fence(options, value);
    }
    if ((value = value_of(argument, "authoritative")) != NULL) {
        options->authoritative = strcmp(value, "yes") == 0;
        return options->authoritative || strcmp(value, "no") == 0 ? NULL
                                                                  : "authoritative= is yes or no";
    }
    return "it must be id=, zookeeper=, address=, authoritative= or fence=";
}

bool options_read(RedisModuleCtx *ctx, struct options *options, RedisModuleString **argv, int argc)
{
    *options = (struct options){.fence = FENCE_MS};
    for (int i = 0; i < argc; i++) {
        size_t length;
        const char *argument = RedisModule_StringPtrLen(argv[i], &length);
        const char *wrong =
            strlen(argument) == length ? read_one(options, argument) : "there is a NUL in it";
        if (wrong != NULL) {
            RedisModule_Log(ctx, "warning", "argument \"%.200s\" of the module: %s", argument,
                            wrong);
            return false;
        }
    }
    if (options->id[0] == '\0') {
        RedisModule_Log(ctx, "warning", "the module needs id=ID: the node's name in the ring");
        return false;
    }
    return true;
}
