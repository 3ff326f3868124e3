/* module.c - the module: its arguments, its commands, its beat, and what it hears of the server. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "announce.h"
#include "clients.h"
#include "commands.h"
#include "fault.h"
#include "info.h"
#include "membership.h"
#include "node.h"
#include "options.h"

enum { TICK_MS = 50, LEAVE_MS = 1000 };

static struct options options;

/* ---- the beat ---- */

/* The first tick comes when the server has loaded what it had, and before it serves. */
static void start(RedisModuleCtx *ctx)
{
    static bool begun;
    bool flush = !node.authoritative;
    if (RING_FAULT_IS(3)) { /* 3: an old dump is served */
        flush = false;
    }
    node_begin_life(ctx, "the server has started", flush);
    if (!begun && options.zookeeper != NULL) {
        announce_find_address(ctx, options.address);
        if (!membership_start(options.zookeeper, node.id, announce_process())) {
            RedisModule_Log(ctx, "warning", "no thread could be made for ZooKeeper");
        }
    }
    begun = true;
}

/* What ZooKeeper's thread has handed over, and what it is to say of this node. */
static void exchange(RedisModuleCtx *ctx)
{
    static unsigned sessions;
    static bool connected;
    struct membership_status status = membership_status();
    if (status.connected != connected) {
        connected = status.connected;
        RedisModule_Log(ctx, "notice", "ZooKeeper is %s", connected ? "connected" : "away");
    }
    if (status.sessions != sessions) {
        if (RING_FAULT_IS(4) && sessions != 0) { /* 4: a new session empties the node */
            node_begin_life(ctx, "a new session of ZooKeeper", true);
        }
        sessions = status.sessions;
    }
    if (status.replaced && node.state != NODE_LEAVING) {
        node_enter(NODE_LEAVING);
        RedisModule_Log(ctx, "warning",
                        "another server has registered as %s: this one serves no more; restart it "
                        "with an id of its own, or to take the place again",
                        node.id);
    }
    struct membership_message *record = membership_take_record();
    if (record != NULL) {
        (void)node_take_record(ctx, record->text, record->length);
        free(record);
    }
    announce_state();
}

static void tick(RedisModuleCtx *ctx, void *unused)
{
    (void)unused;
    (void)RedisModule_CreateTimer(ctx, TICK_MS, tick, NULL);
    int flags = RedisModule_GetContextFlags(ctx);
    if ((flags & REDISMODULE_CTX_FLAGS_LOADING) != 0) {
        return; /* what is being loaded is flushed when it is all there */
    }
    node.evicts = (flags & REDISMODULE_CTX_FLAGS_EVICT) != 0;
    node.propagates = (flags & REDISMODULE_CTX_FLAGS_AOF) != 0;
    bool replica = (flags & REDISMODULE_CTX_FLAGS_SLAVE) != 0;
    if (replica && node.state != NODE_LEAVING) { /* what it holds is another server's */
        clients_drop(ctx);
        node_enter(NODE_STARTING);
    } else if (node.state == NODE_STARTING) {
        start(ctx);
    } else {
        (void)node_stood_still(ctx);
    }
    if (options.zookeeper != NULL) {
        exchange(ctx);
    }
}

/* ---- what is heard of the server ----
 *
 * While it loads what it had, or what a master sends, data is flushed and swapped, too: a life
 * begins when all of it is there, and without it. And a server that another one has replaced is
 * leaving until it ends, whatever becomes of its data.
 */

static bool is_leaving(void)
{
    return node.state == NODE_LEAVING && !RING_FAULT_IS(30); /* 30: it joins again */
}

/* Whether there is a life that can end. */
static bool lives(void)
{
    /* 29: what is replayed begins a life, which keeps the rest */
    return (node.state != NODE_STARTING || RING_FAULT_IS(29)) && !is_leaving();
}

static void on_flush(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t part, void *data)
{
    (void)event;
    const RedisModuleFlushInfo *info = data;
    bool ours = info->dbnum == 0 || info->dbnum == -1;
    if (part == REDISMODULE_SUBEVENT_FLUSHDB_END && ours && !node.flushing && lives() &&
        !RING_FAULT_IS(10)) { /* 10: emptied, and still ready */
        node_begin_life(ctx, "the data was flushed", false);
    }
}

static void on_swap(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t part, void *data)
{
    (void)event;
    (void)part;
    const RedisModuleSwapDbInfo *info = data;
    if ((info->dbnum_first == 0 || info->dbnum_second == 0) &&
        info->dbnum_first != info->dbnum_second && lives()) {
        node_begin_life(ctx, "database 0 was swapped", true);
    }
}

static void on_loading(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t part, void *data)
{
    (void)event;
    (void)data;
    if (part <= REDISMODULE_SUBEVENT_LOADING_REPL_START && !is_leaving()) {
        clients_drop(ctx);
        node_enter(NODE_STARTING); /* the next tick begins a life */
    }
}

static void on_client(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t part, void *data)
{
    (void)ctx;
    (void)event;
    const RedisModuleClientInfo *info = data;
    if (part == REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED) {
        clients_forget(info->id);
    }
}

static void on_shutdown(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t part, void *data)
{
    (void)ctx;
    (void)event;
    (void)part;
    (void)data;
    node_enter(NODE_LEAVING);
    if (options.zookeeper != NULL) {
        announce_leave(LEAVE_MS);
    }
}

static int on_eviction(RedisModuleCtx *ctx, int type, const char *event, RedisModuleString *key)
{
    (void)type;
    (void)event;
    (void)key;
    if (RedisModule_GetSelectedDb(ctx) == 0 && !RING_FAULT_IS(14)) { /* 14: misses stay final */
        node_lost_a_key();
    }
    return REDISMODULE_OK;
}

static bool subscribe(RedisModuleCtx *ctx)
{
    const struct {
        uint64_t event;
        RedisModuleEventCallback heard;
    } events[] = {
        {REDISMODULE_EVENT_FLUSHDB, on_flush},     {REDISMODULE_EVENT_SWAPDB, on_swap},
        {REDISMODULE_EVENT_LOADING, on_loading},   {REDISMODULE_EVENT_CLIENT_CHANGE, on_client},
        {REDISMODULE_EVENT_SHUTDOWN, on_shutdown},
    };
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        RedisModuleEvent event = {.id = events[i].event, .dataver = 1};
        if (RedisModule_SubscribeToServerEvent(ctx, event, events[i].heard) != REDISMODULE_OK) {
            return false;
        }
    }
    return RedisModule_SubscribeToKeyspaceEvents(ctx, REDISMODULE_NOTIFY_EVICTED, on_eviction) ==
           REDISMODULE_OK;
}

/* ---- loading ---- */

static pid_t process; /* this one */

/* In a child that is forked to write a dump. It has the clients' sockets, too: while it outlived a
 * server that is killed, they would hang instead of ending at once.
 */
static void die_with_parent(void)
{
    pid_t parent = process;
    process = getpid();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) { /* it is dead already */
        _exit(1);
    }
}

/* Fault 1: the fence comes after the command. */
static int set_before_fence(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    int result = command_set(ctx, argv, argc);
    (void)node_stood_still(ctx);
    return result;
}

static bool create_commands(RedisModuleCtx *ctx)
{
    static const struct {
        const char *name;
        RedisModuleCmdFunc function;
        const char *flags;
        int first, last, step; /* where its keys are */
    } commands[] = {
        {"ring.get", command_get, "readonly fast deny-script", 2, 2, 1},
        {"ring.mget", command_mget, "readonly fast deny-script", 2, -1, 1},
        {"ring.meta", command_meta, "readonly fast deny-script", 2, 2, 1},
        {"ring.set", command_set, "write fast deny-script", 2, 2, 1},
        {"ring.del", command_del, "write fast deny-script", 3, 3, 1},
        {"ring.incr", command_incr, "write fast deny-script", 3, 3, 1},
        {"ring.expire", command_expire, "write fast deny-script", 3, 3, 1},
        {"ring.fill", command_fill, "write deny-script", 2, -1, 2},
        {"ring.dump", command_dump, "readonly deny-script", 1, -1, 1},
        {"ring.drop", command_drop, "write deny-script", 2, -1, 2},
        {"ring.owe", command_owe, "fast deny-script", 3, 3, 1},
        {"ring.owed", command_owed, "deny-script", 0, 0, 0},
        {"ring.paid", command_paid, "deny-script", 0, 0, 0},
        {"ring.hello", command_hello, "fast deny-script", 0, 0, 0},
        {"ring.ready", command_ready, "fast deny-script", 0, 0, 0},
        {"ring.ring", command_ring, "admin deny-script", 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        RedisModuleCmdFunc function = commands[i].function;
        if (RING_FAULT_IS(1) && function == command_set) {
            function = set_before_fence;
        }
        if (RedisModule_CreateCommand(ctx, commands[i].name, function, commands[i].flags,
                                      commands[i].first, commands[i].last,
                                      commands[i].step) != REDISMODULE_OK) {
            return false;
        }
    }
    return true;
}

__attribute__((visibility("default"))) int RedisModule_OnLoad(RedisModuleCtx *ctx,
                                                              RedisModuleString **argv, int argc)
{
    const char *missing = redis_api_fetch(ctx);
    if (missing != NULL) { /* there may be no function to log with */
        (void)fprintf(stderr, "ring: this server has no %s: Redis 7 or Valkey is needed\n",
                      missing);
        return REDISMODULE_ERR;
    }
    if (RedisModule_IsModuleNameBusy("ring")) {
        return REDISMODULE_ERR;
    }
    RedisModule_SetModuleAttribs(ctx, "ring", 1, REDISMODULE_APIVER_1);
    if (!options_read(ctx, &options, argv, argc)) {
        return REDISMODULE_ERR;
    }
    memcpy(node.id, options.id, sizeof node.id);
    node.fence = options.fence;
    node.authoritative = options.authoritative;
    node.with_zookeeper = options.zookeeper != NULL;
    if (!node_init()) {
        RedisModule_Log(ctx, "warning", "no random number could be had for the run_id");
        return REDISMODULE_ERR;
    }
    if (!create_commands(ctx) || !subscribe(ctx) ||
        RedisModule_RegisterInfoFunc(ctx, info_write) != REDISMODULE_OK) {
        RedisModule_Log(ctx, "warning", "the server does not let the module register itself");
        return REDISMODULE_ERR;
    }
    if (!RING_FAULT_IS(25)) { /* 25: the sockets of a killed server hang while a child writes */
        process = getpid();
        (void)pthread_atfork(NULL, NULL, die_with_parent);
    }
    (void)RedisModule_CreateTimer(ctx, 1, tick, NULL);
    return REDISMODULE_OK;
}

/* Threads of it run, and what clients were told would not hold: it stays until the server ends. */
__attribute__((visibility("default"))) int RedisModule_OnUnload(RedisModuleCtx *ctx)
{
    RedisModule_Log(ctx, "warning", "the ring's module cannot be unloaded: stop the server");
    return REDISMODULE_ERR;
}
