/* redis_api.h - the part of the server's module API that this module uses.
 *
 * Written from the public documentation of the API, which Redis 7 and Valkey have in common. The
 * functions are fetched by name when the module is loaded: nothing is linked.
 */
#ifndef RING_MODULE_REDIS_API_H
#define RING_MODULE_REDIS_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct RedisModuleCtx RedisModuleCtx;
typedef struct RedisModuleKey RedisModuleKey;
typedef struct RedisModuleString RedisModuleString;
typedef struct RedisModuleCallReply RedisModuleCallReply;
typedef struct RedisModuleDict RedisModuleDict;
typedef struct RedisModuleDictIter RedisModuleDictIter;
typedef struct RedisModuleInfoCtx RedisModuleInfoCtx;

typedef struct RedisModuleEvent {
    uint64_t id;
    uint64_t dataver;
} RedisModuleEvent;

typedef struct RedisModuleFlushInfo {
    uint64_t version;
    int32_t sync;
    int32_t dbnum; /* -1: all */
} RedisModuleFlushInfo;

typedef struct RedisModuleSwapDbInfo {
    uint64_t version;
    int32_t dbnum_first;
    int32_t dbnum_second;
} RedisModuleSwapDbInfo;

typedef struct RedisModuleClientInfo {
    uint64_t version;
    uint64_t flags;
    uint64_t id; /* more follows */
} RedisModuleClientInfo;

typedef int (*RedisModuleCmdFunc)(RedisModuleCtx *, RedisModuleString **, int);
typedef void (*RedisModuleEventCallback)(RedisModuleCtx *, RedisModuleEvent, uint64_t, void *);
typedef int (*RedisModuleNotificationFunc)(RedisModuleCtx *, int, const char *,
                                           RedisModuleString *);
typedef void (*RedisModuleTimerProc)(RedisModuleCtx *, void *);
typedef void (*RedisModuleInfoFunc)(RedisModuleInfoCtx *, int);

enum { REDISMODULE_OK = 0, REDISMODULE_ERR = 1, REDISMODULE_APIVER_1 = 1 };
enum { REDISMODULE_READ = 1 << 0, REDISMODULE_WRITE = 1 << 1 };
enum { REDISMODULE_KEYTYPE_EMPTY = 0, REDISMODULE_KEYTYPE_STRING = 1 };
enum { REDISMODULE_NO_EXPIRE = -1, REDISMODULE_POSTPONED_LEN = -1 };
enum { REDISMODULE_NOTIFY_EVICTED = 1 << 9 };
enum {
    REDISMODULE_CTX_FLAGS_SLAVE = 1 << 3,
    REDISMODULE_CTX_FLAGS_AOF = 1 << 6,
    REDISMODULE_CTX_FLAGS_EVICT = 1 << 9,
    REDISMODULE_CTX_FLAGS_LOADING = 1 << 13,
};
enum {
    REDISMODULE_EVENT_FLUSHDB = 2,
    REDISMODULE_EVENT_LOADING = 3,
    REDISMODULE_EVENT_CLIENT_CHANGE = 4,
    REDISMODULE_EVENT_SHUTDOWN = 5,
    REDISMODULE_EVENT_SWAPDB = 11,
};
enum { REDISMODULE_SUBEVENT_FLUSHDB_END = 1 };
enum {
    REDISMODULE_SUBEVENT_LOADING_RDB_START = 0,
    REDISMODULE_SUBEVENT_LOADING_AOF_START = 1,
    REDISMODULE_SUBEVENT_LOADING_REPL_START = 2,
};
enum { REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED = 1 };

/* X(result, name, arguments) of each function. */
#define REDIS_API(X)                                                                               \
    X(void *, Alloc, (size_t))                                                                     \
    X(void, Free, (void *))                                                                        \
    X(int, IsModuleNameBusy, (const char *))                                                       \
    X(void, SetModuleAttribs, (RedisModuleCtx *, const char *, int, int))                          \
    X(int, CreateCommand,                                                                          \
      (RedisModuleCtx *, const char *, RedisModuleCmdFunc, const char *, int, int, int))           \
    X(int, WrongArity, (RedisModuleCtx *))                                                         \
    X(int, ReplyWithError, (RedisModuleCtx *, const char *))                                       \
    X(int, ReplyWithSimpleString, (RedisModuleCtx *, const char *))                                \
    X(int, ReplyWithStringBuffer, (RedisModuleCtx *, const char *, size_t))                        \
    X(int, ReplyWithLongLong, (RedisModuleCtx *, long long))                                       \
    X(int, ReplyWithArray, (RedisModuleCtx *, long))                                               \
    X(void, ReplySetArrayLength, (RedisModuleCtx *, long))                                         \
    X(int, ReplyWithNull, (RedisModuleCtx *))                                                      \
    X(int, ReplyWithCallReply, (RedisModuleCtx *, RedisModuleCallReply *))                         \
    X(const char *, StringPtrLen, (const RedisModuleString *, size_t *))                           \
    X(int, StringToLongLong, (const RedisModuleString *, long long *))                             \
    X(RedisModuleKey *, OpenKey, (RedisModuleCtx *, RedisModuleString *, int))                     \
    X(void, CloseKey, (RedisModuleKey *))                                                          \
    X(int, KeyType, (RedisModuleKey *))                                                            \
    X(int, DeleteKey, (RedisModuleKey *))                                                          \
    X(char *, StringDMA, (RedisModuleKey *, size_t *, int))                                        \
    X(int, StringTruncate, (RedisModuleKey *, size_t))                                             \
    X(int, SetAbsExpire, (RedisModuleKey *, long long))                                            \
    X(unsigned long long, GetClientId, (RedisModuleCtx *))                                         \
    X(int, GetSelectedDb, (RedisModuleCtx *))                                                      \
    X(int, DeauthenticateAndCloseClient, (RedisModuleCtx *, uint64_t))                             \
    X(int, GetContextFlags, (RedisModuleCtx *))                                                    \
    X(float, GetUsedMemoryRatio, (void))                                                           \
    X(void, ResetDataset, (int, int))                                                              \
    X(uint64_t, CreateTimer, (RedisModuleCtx *, long long, RedisModuleTimerProc, void *))          \
    X(int, SubscribeToServerEvent, (RedisModuleCtx *, RedisModuleEvent, RedisModuleEventCallback)) \
    X(int, SubscribeToKeyspaceEvents, (RedisModuleCtx *, int, RedisModuleNotificationFunc))        \
    X(void, Log, (RedisModuleCtx *, const char *, const char *, ...))                              \
    X(RedisModuleCallReply *, Call, (RedisModuleCtx *, const char *, const char *, ...))           \
    X(RedisModuleCallReply *, CallReplyArrayElement, (RedisModuleCallReply *, size_t))             \
    X(const char *, CallReplyStringPtr, (RedisModuleCallReply *, size_t *))                        \
    X(void, FreeCallReply, (RedisModuleCallReply *))                                               \
    X(int, Replicate, (RedisModuleCtx *, const char *, const char *, ...))                         \
    X(RedisModuleDict *, CreateDict, (RedisModuleCtx *))                                           \
    X(void, FreeDict, (RedisModuleCtx *, RedisModuleDict *))                                       \
    X(uint64_t, DictSize, (RedisModuleDict *))                                                     \
    X(int, DictSetC, (RedisModuleDict *, void *, size_t, void *))                                  \
    X(void *, DictGetC, (RedisModuleDict *, void *, size_t, int *))                                \
    X(int, DictDelC, (RedisModuleDict *, void *, size_t, void *))                                  \
    X(RedisModuleDictIter *, DictIteratorStartC,                                                   \
      (RedisModuleDict *, const char *, void *, size_t))                                           \
    X(void *, DictNextC, (RedisModuleDictIter *, size_t *, void **))                               \
    X(void, DictIteratorStop, (RedisModuleDictIter *))                                             \
    X(int, RegisterInfoFunc, (RedisModuleCtx *, RedisModuleInfoFunc))                              \
    X(int, InfoAddSection, (RedisModuleInfoCtx *, const char *))                                   \
    X(int, InfoAddFieldCString, (RedisModuleInfoCtx *, const char *, const char *))                \
    X(int, InfoAddFieldULongLong, (RedisModuleInfoCtx *, const char *, unsigned long long))

#define DECLARE(result, name, arguments) extern result(*RedisModule_##name) arguments;
REDIS_API(DECLARE)
#undef DECLARE

/* Fetches all of them; the name of one that this server does not have, or NULL. */
const char *redis_api_fetch(RedisModuleCtx *ctx);

#endif
