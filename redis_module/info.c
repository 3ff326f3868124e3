/* info.c - what an operator asks for: INFO ring. */
#include "info.h"

#include <stdio.h>
#include <string.h>

#include "clients.h"
#include "membership.h"
#include "node.h"
#include "owed.h"

static void write_owed(RedisModuleInfoCtx *ctx)
{
    for (unsigned i = 0; i < node.record.count; i++) {
        const struct owed *owed = owed_of(&node.record, i);
        char name[sizeof "owed_" + RING_ID_MAX];
        if (owed != NULL) {
            (void)snprintf(name, sizeof name, "owed_%s", node.record.ids[i]);
            char text[64];
            (void)snprintf(text, sizeof text, "keys=%llu,overflow=%llu",
                           (unsigned long long)owed_count(owed),
                           (unsigned long long)owed_overflow(owed));
            (void)RedisModule_InfoAddFieldCString(ctx, name, text);
        }
    }
}

static void write_counts(RedisModuleInfoCtx *ctx)
{
    const struct {
        const char *name;
        unsigned long long count;
    } counts[] = {
        {"maybe", node.counts.maybe},     {"newer", node.counts.newer},
        {"late", node.counts.late},       {"stopped", node.counts.stopped},
        {"full", node.counts.full},       {"lives", node.counts.lives},
        {"connections", clients_count()}, {"records_refused", node.counts.records_refused},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        (void)RedisModule_InfoAddFieldULongLong(ctx, counts[i].name, counts[i].count);
    }
}

void info_write(RedisModuleInfoCtx *ctx, int for_crash_report)
{
    (void)RedisModule_InfoAddSection(ctx, "");
    (void)RedisModule_InfoAddFieldCString(ctx, "id", node.id);
    (void)RedisModule_InfoAddFieldCString(ctx, "run_id", node.run_id);
    (void)RedisModule_InfoAddFieldCString(ctx, "state", node_state_name(node.state));
    (void)RedisModule_InfoAddFieldULongLong(ctx, "since", node.since);
    (void)RedisModule_InfoAddFieldULongLong(ctx, "epoch", node.record.epoch);
    (void)RedisModule_InfoAddFieldULongLong(ctx, "nodes", node.record.count);
    (void)RedisModule_InfoAddFieldULongLong(ctx, "dropped_keys", node.dropped);
    (void)RedisModule_InfoAddFieldULongLong(ctx, "fence_ms", node.fence);
    if (node.record_wrong != NULL) {
        (void)RedisModule_InfoAddFieldCString(ctx, "record_refused_as", node.record_wrong);
    }
    if (node.with_zookeeper) {
        struct membership_status status = membership_status();
        (void)RedisModule_InfoAddFieldCString(ctx, "zookeeper",
                                              status.connected ? "connected" : "away");
        (void)RedisModule_InfoAddFieldCString(ctx, "zookeeper_registration", status.failure);
        (void)RedisModule_InfoAddFieldULongLong(ctx, "zookeeper_since", status.since);
        (void)RedisModule_InfoAddFieldULongLong(ctx, "zookeeper_sessions", status.sessions);
    }
    if (!for_crash_report) {
        write_counts(ctx);
        write_owed(ctx);
    }
}
