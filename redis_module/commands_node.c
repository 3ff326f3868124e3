/* commands_node.c - RING.HELLO, READY and RING. */
#include "commands.h"

#include <string.h>

#include "clients.h"
#include "fault.h"
#include "fence.h"
#include "node.h"

#ifndef RING_MODULE_VERSION /* the Makefile says it */
#define RING_MODULE_VERSION "unknown"
#endif

enum { NODES_TEXT = RING_NODES_MAX * (RING_ID_MAX + 1) };

static void pair(RedisModuleCtx *ctx, const char *name, const char *value)
{
    (void)RedisModule_ReplyWithStringBuffer(ctx, name, strlen(name));
    (void)RedisModule_ReplyWithStringBuffer(ctx, value, strlen(value));
}

static void number_pair(RedisModuleCtx *ctx, const char *name, uint64_t value)
{
    (void)RedisModule_ReplyWithStringBuffer(ctx, name, strlen(name));
    (void)RedisModule_ReplyWithLongLong(ctx, (long long)value);
}

/* The ids with commas between them. */
static void join_ids(char text[NODES_TEXT])
{
    size_t at = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < node.record.count; i++) {
        size_t length = strlen(node.record.ids[i]);
        if (i > 0) {
            text[at++] = ',';
        }
        memcpy(text + at, node.record.ids[i], length + 1);
        at += length;
    }
}

int command_hello(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    (void)argv;
    if (argc < 1) {
        return RedisModule_WrongArity(ctx);
    }
    (void)node_stood_still(ctx);
    if (node.state == NODE_READY || node.state == NODE_JOINING) {
        clients_greet(RedisModule_GetClientId(ctx));
    }
    char nodes[NODES_TEXT];
    join_ids(nodes);
    (void)RedisModule_ReplyWithArray(ctx, 2 * 9);
    pair(ctx, "id", node.id);
    pair(ctx, "run_id", node.run_id);
    pair(ctx, "state", node_state_name(node.state));
    number_pair(ctx, "epoch", node.record.epoch);
    number_pair(ctx, "final", node.state == NODE_READY && !node.dropped);
    pair(ctx, "nodes", nodes);
    number_pair(ctx, "now", node_now());
    number_pair(ctx, "fence", node.fence);
    pair(ctx, "module", RING_MODULE_VERSION);
    return REDISMODULE_OK;
}

int command_ready(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 3) {
        return RedisModule_WrongArity(ctx);
    }
    if (!fence_admits(ctx)) {
        return REDISMODULE_OK;
    }
    size_t length;
    const char *run_id = RedisModule_StringPtrLen(argv[1], &length);
    bool same = length == strlen(node.run_id) && memcmp(run_id, node.run_id, length) == 0;
    if (!same && !RING_FAULT_IS(17)) { /* 17: what filled another life makes this one ready */
        return fence_stopped(ctx, "that was another life of the node: say HELLO");
    }
    if (!fence_is_at(ctx, argv[2])) {
        return REDISMODULE_OK;
    }
    if (node.state != NODE_READY) {
        RedisModule_Log(ctx, "notice", "life %llu of node %s is filled: it is ready",
                        node.counts.lives, node.id);
    }
    node_enter(NODE_READY);
    return RedisModule_ReplyWithSimpleString(ctx, "OK");
}

int command_ring(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)
{
    if (argc != 2) {
        return RedisModule_WrongArity(ctx);
    }
    (void)node_stood_still(ctx);
    if (node.with_zookeeper) {
        return fence_malformed(ctx, "this node takes the record of the ring from ZooKeeper alone");
    }
    if (node.state == NODE_STARTING || node.state == NODE_LEAVING) {
        return fence_stopped(ctx, "the node is starting or leaving");
    }
    size_t length;
    const char *json = RedisModule_StringPtrLen(argv[1], &length);
    switch (node_take_record(ctx, json, length)) {
    case NODE_TAKEN:
        return RedisModule_ReplyWithSimpleString(ctx, "OK");
    case NODE_TOO_OLD:
        return fence_epoch(ctx);
    default:
        return fence_malformed(ctx, node.record_wrong);
    }
}
