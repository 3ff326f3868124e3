/* membership.h - this node in ZooKeeper: its own ephemeral node, and the record of the ring.
 *
 * A thread of its own talks to ZooKeeper, and libzookeeper_mt has two more. They call nothing of
 * the server's, and share no lock with its main thread: whole messages are handed over by one
 * atomic exchange of a pointer, and the latest one counts. So the main thread never waits for
 * ZooKeeper, and a child that is forked for a dump meets no lock that nobody will open.
 */
#ifndef RING_MODULE_MEMBERSHIP_H
#define RING_MODULE_MEMBERSHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct membership_message {
    size_t length;
    char text[]; /* ends with a NUL, which is not counted */
};

struct membership_status {
    bool connected;
    uint64_t since;      /* when that changed last: ms since 1970 */
    unsigned sessions;   /* that were begun */
    const char *failure; /* of the last registration, a word or two; "ok" */
    bool replaced;       /* another server has registered with this id: this one is to stop */
};

/* Checks HOST:PORT[,...]/ROOT and begins; an error in a sentence, or NULL. `process` is how the
 * run_ids of this process begin. The strings stay the caller's, and have to stay. */
const char *membership_check(const char *zookeeper);
bool membership_start(const char *zookeeper, const char *id, const char *process);

/* What /ROOT/live/ID is to be: JSON. */
void membership_publish(const char *json, size_t length);

/* The record of the ring, when another one has come since; the caller frees it with free(). */
struct membership_message *membership_take_record(void);

struct membership_status membership_status(void);

/* Says "leaving" (the last JSON), removes the node and ends; waits for this so many ms at most. */
void membership_leave(const char *json, size_t length, unsigned patience);

#endif
