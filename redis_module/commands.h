/* commands.h - the commands; docs/ring.md says what each takes and replies. */
#ifndef RING_MODULE_COMMANDS_H
#define RING_MODULE_COMMANDS_H

#include "redis_api.h"

#define COMMAND(name) int name(RedisModuleCtx *ctx, RedisModuleString **argv, int argc)

/* commands_value.c: what clients do with values */
COMMAND(command_get);
COMMAND(command_mget);
COMMAND(command_meta);
COMMAND(command_set);
COMMAND(command_del);
COMMAND(command_incr);
COMMAND(command_expire);

/* commands_copies.c: what agents do with the copies */
COMMAND(command_fill);
COMMAND(command_dump);
COMMAND(command_drop);
COMMAND(command_owe);
COMMAND(command_owed);
COMMAND(command_paid);

/* commands_node.c: what the node is */
COMMAND(command_hello);
COMMAND(command_ready);
COMMAND(command_ring);

#undef COMMAND

#endif
