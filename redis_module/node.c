/* node.c - lives, states and the record of this node. */
#define _GNU_SOURCE
#include "node.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "clients.h"
#include "fault.h"
#include "owed.h"

struct node node = {.fence = 300, .self = -1};

static uint64_t milliseconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

uint64_t node_uptime(void)
{
    return milliseconds(CLOCK_BOOTTIME);
}

uint64_t node_now(void)
{
    return milliseconds(CLOCK_REALTIME_COARSE); /* to a few ms, for a fifth of the price */
}

const char *node_state_name(enum node_state state)
{
    static const char *const names[] = {
        [NODE_STARTING] = "starting", [NODE_SPARE] = "spare",     [NODE_JOINING] = "joining",
        [NODE_READY] = "ready",       [NODE_LEAVING] = "leaving",
    };
    return names[state];
}

bool node_init(void)
{
    unsigned char random[NODE_PROCESS_HEX / 2];
    if (getentropy(random, sizeof random) != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof random; i++) {
        (void)snprintf(node.run_id + 2 * i, 3, "%02x", random[i]);
    }
    node.since = node_now();
    return true;
}

void node_enter(enum node_state state)
{
    if (node.state != state) {
        node.state = state;
        node.since = node_now();
    }
}

void node_begin_life(RedisModuleCtx *ctx, const char *why, bool flush)
{
    node.counts.lives++;
    (void)snprintf(node.run_id + NODE_PROCESS_HEX, NODE_RUN_ID - NODE_PROCESS_HEX + 1, "%08llx",
                   node.counts.lives & 0xFFFFFFFF);
    node.state = node.self < 0 ? NODE_SPARE : NODE_JOINING;
    node.since = node_now();
    node.served = node.state == NODE_JOINING || (node.served && !flush);
    node.authoritative &= node.state == NODE_SPARE; /* until it serves for the first time */
    node.dropped = false;
    owed_clear();
    if (!RING_FAULT_IS(11)) { /* 11: connections live on, and what waits in them is executed */
        clients_drop(ctx);
    }
    if (flush) {
        /* What is freed beside the commands counts as used until then: a node that is refilled
         * meanwhile has to have the room. */
        bool beside = RedisModule_GetUsedMemoryRatio() < 0.5F;
        node.flushing = true;
        RedisModule_ResetDataset(1, beside);
        node.flushing = false;
    }
    node.seen = node_uptime(); /* flushing is no standing still */
    RedisModule_Log(ctx, "notice", "%s: life %llu of node %s begins%s, it is %s", why,
                    node.counts.lives, node.id, flush ? " without data" : "",
                    node_state_name(node.state));
}

bool node_stood_still(RedisModuleCtx *ctx)
{
    uint64_t now = node_uptime();
    uint64_t still = now - node.seen;
    node.seen = now;
    bool serves = node.state == NODE_JOINING || node.state == NODE_READY;
    if (still <= node.fence || !serves ||
        RING_FAULT_IS(31)) { /* 31: it goes on as if nothing were */
        return false;
    }
    RedisModule_Log(ctx, "warning", "the server stood still for %llu ms; the fence is %llu ms",
                    (unsigned long long)still, (unsigned long long)node.fence);
    node_begin_life(ctx, "others may have gone on without it", true);
    return true;
}

/* What another record means for the state. A node that comes into the ring brings nothing along.
 * Nor does one that was cut off while a step of a change was taken: the others went on as if it
 * were dead, and did not bring what it holds by now; it may even have left the ring and be back. */
static void follow_record(RedisModuleCtx *ctx, bool missed_a_step)
{
    owed_keep(&node.record);
    bool serves = node.state == NODE_JOINING || node.state == NODE_READY;
    if (node.self >= 0 && node.state == NODE_SPARE) {
        bool flush = node.served && !RING_FAULT_IS(15); /* 15: it brings along what it once held */
        node_begin_life(ctx, "the node came into the ring", flush);
    } else if (node.self >= 0 && serves && missed_a_step && !RING_FAULT_IS(26)) {
        /* 26: it goes on as if it had been there */
        node_begin_life(ctx, "a step of a change was taken without the node", true);
    } else if (node.self < 0 && serves) {
        node_enter(NODE_SPARE);
        RedisModule_Log(ctx, "notice", "node %s is in the ring no more: it is a spare", node.id);
    }
}

enum node_take node_take_record(RedisModuleCtx *ctx, const char *json, size_t length)
{
    static struct record record; /* 9 KiB */
    enum node_take result = NODE_REFUSED;
    const char *wrong = record_parse(&record, json, length);
    if (wrong == NULL && record.epoch < node.record.epoch) {
        wrong = "its epoch is older than the one that this node knows";
        result = NODE_TOO_OLD;
    } else if (wrong == NULL && record.epoch == node.record.epoch &&
               !record_is_alike(&record, &node.record)) {
        wrong = "it differs from the one that this node knows, and its epoch is the same";
    }
    node.record_wrong = wrong;
    if (wrong != NULL) {
        node.counts.records_refused++;
        RedisModule_Log(ctx, "warning", "a record of the ring is refused: %s", wrong);
        return result;
    }
    if (record.epoch != node.record.epoch) {
        RedisModule_Log(ctx, "notice", "the ring is at epoch %llu, with %u nodes",
                        (unsigned long long)record.epoch, record.count);
    }
    /* In ZooKeeper each step moves the epoch by one. */
    bool missed = node.with_zookeeper && record.epoch > node.record.epoch + 1;
    node.record = record;
    node.self = record_index(&record, node.id, strlen(node.id));
    if (node.state != NODE_STARTING) {
        follow_record(ctx, missed);
    }
    return NODE_TAKEN;
}

void node_lost_a_key(void)
{
    node.dropped = true;
}
