/* node.h - what this server is in the ring: its record, its state, its lives.
 *
 * A life begins when the server has started, and anew whenever what it holds can no longer be
 * vouched for: it stood still for too long, or its data was flushed or swapped by hand. All of
 * this belongs to the server's main thread.
 */
#ifndef RING_MODULE_NODE_H
#define RING_MODULE_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "record.h"
#include "redis_api.h"

enum node_state { NODE_STARTING, NODE_SPARE, NODE_JOINING, NODE_READY, NODE_LEAVING };

enum {
    NODE_PROCESS_HEX = 32, /* of a run_id: the process; the rest is the life in it */
    NODE_RUN_ID = 40
};

struct node_counts {
    unsigned long long maybe, newer, late, stopped, full;
    unsigned long long lives;           /* begun */
    unsigned long long records_refused; /* not readable, or older than the one known */
};

struct node {
    char id[RING_ID_MAX + 1];
    char run_id[NODE_RUN_ID + 1];
    enum node_state state;
    uint64_t since;     /* when it came into that state: ms since 1970 */
    uint64_t seen;      /* the main thread's last sign of life: ms of node_uptime() */
    uint64_t fence;     /* ms that it may stand still */
    bool authoritative; /* what it holds at its start is kept */
    bool served;        /* since it was emptied: something may be left of that */
    bool dropped;       /* in this life keys went that nobody deleted: no miss is final */
    bool evicts;        /* the server's maxmemory-policy is another than noeviction */
    bool propagates;    /* the server writes an append-only file */
    bool flushing;      /* the flush that is seen is its own */
    bool with_zookeeper;
    int self; /* its index in the record, -1: it is a spare */
    struct record record;
    const char *record_wrong; /* why the last one was refused; NULL: it was taken */
    struct node_counts counts;
};

extern struct node node;

const char *node_state_name(enum node_state state);

/* Milliseconds of a clock that nobody sets and that goes on while the machine sleeps. */
uint64_t node_uptime(void);

/* Milliseconds since 1970. */
uint64_t node_now(void);

/* Draws the first part of the run_id; false when no random number can be had. */
bool node_init(void);

/* A life begins: another run_id, no connection, `joining` or `spare`; with `flush` no data. */
void node_begin_life(RedisModuleCtx *ctx, const char *why, bool flush);

/* Looks at the clock, and begins another life when the main thread stood still; true if it did. */
bool node_stood_still(RedisModuleCtx *ctx);

void node_enter(enum node_state state);

enum node_take { NODE_TAKEN, NODE_TOO_OLD, NODE_REFUSED };

/* Takes a record over, or says in `record_wrong` why it does not. */
enum node_take node_take_record(RedisModuleCtx *ctx, const char *json, size_t length);

/* A key went that nobody deleted. */
void node_lost_a_key(void);

#endif
