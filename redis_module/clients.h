/* clients.h - the connections that have said HELLO in this life of the node.
 *
 * Only they are served. So a command that waited in the socket of a connection from before a hang
 * or a flush is never executed, even if the connection cannot be closed in time.
 */
#ifndef RING_MODULE_CLIENTS_H
#define RING_MODULE_CLIENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "redis_api.h"

void clients_greet(uint64_t id);
bool clients_know(uint64_t id);
void clients_forget(uint64_t id);
unsigned long long clients_count(void);

/* Closes all of them, the one of the command that runs after its reply. */
void clients_drop(RedisModuleCtx *ctx);

#endif
