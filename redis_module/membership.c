/* membership.c - the thread that keeps this node's place in ZooKeeper. */
#define _GNU_SOURCE
#define THREADED /* of the two libraries that the header is for */
#include "membership.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

#include "fault.h"
#include "record.h"

enum {
    SESSION_MS = 4000, /* ZooKeeper makes it 2 to 20 of its ticks */
    PATIENCE_MS = 2 * SESSION_MS,
    LOOK_MS = 1000, /* between two looks when nothing happens, and two tries of what failed */
    PATH_BYTES = 1024,
    LIVE_BYTES = 1024, /* of another server's JSON */
};

/* Handed over between threads. */
static _Atomic(struct membership_message *) to_publish;
static _Atomic(struct membership_message *) record;
static struct membership_message *plain_record; /* fault 24 */
static atomic_bool connected, replaced, leave, left, expired, look_at_record, look_at_live;
static atomic_ullong since;
static atomic_uint sessions;
static atomic_int failure; /* of the last try, ZooKeeper's number; ZOK: it did not fail */
static int bell = -1;      /* an eventfd: something is to be done */

/* Of the thread alone. */
static const char *hosts_and_root, *own_id, *own_process;
static char hosts[PATH_BYTES], root[PATH_BYTES], live_path[PATH_BYTES], record_path[PATH_BYTES];
static zhandle_t *handle;
static struct membership_message *wanted; /* what the live node is to be */
static bool registered_once;
static uint64_t connected_at; /* when it last was, or tried to be */

static uint64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void ring_bell(void)
{
    uint64_t one = 1;
    ssize_t done = write(bell, &one, sizeof one);
    (void)done; /* full: it rings already */
}

static struct membership_message *message(const char *text, size_t length)
{
    struct membership_message *made = malloc(sizeof *made + length + 1);
    if (made != NULL) {
        made->length = length;
        memcpy(made->text, text, length);
        made->text[length] = '\0';
    }
    return made;
}

/* ---- the main thread's side ---- */

const char *membership_check(const char *zookeeper)
{
    const char *path = strchr(zookeeper, '/');
    if (path == NULL || path == zookeeper || strlen(zookeeper) >= PATH_BYTES / 2) {
        return "zookeeper= must be HOST:PORT[,HOST:PORT...]/ROOT";
    }
    size_t length = strlen(path);
    if (length < 2 || path[length - 1] == '/' || strstr(path, "//") != NULL) {
        return "the path /ROOT of zookeeper= must name a node, without a slash at its end";
    }
    return NULL;
}

void membership_publish(const char *json, size_t length)
{
    struct membership_message *made = message(json, length);
    if (made != NULL) {
        free(atomic_exchange(&to_publish, made));
        atomic_store(&look_at_live, true);
        ring_bell();
    }
}

struct membership_message *membership_take_record(void)
{
    if (RING_FAULT_IS(24)) { /* 24: a message is handed over as if there were one thread */
        struct membership_message *taken = plain_record;
        plain_record = NULL;
        return taken;
    }
    return atomic_load(&record) == NULL ? NULL : atomic_exchange(&record, NULL);
}

struct membership_status membership_status(void)
{
    return (struct membership_status){.connected = atomic_load(&connected),
                                      .since = atomic_load(&since),
                                      .sessions = atomic_load(&sessions),
                                      .failure = zerror(atomic_load(&failure)),
                                      .replaced = atomic_load(&replaced)};
}

void membership_leave(const char *json, size_t length, unsigned patience)
{
    if (bell < 0) {
        return;
    }
    membership_publish(json, length);
    atomic_store(&leave, true);
    ring_bell();
    const struct timespec pause = {.tv_nsec = 1000000};
    for (unsigned waited = 0; waited < patience && !atomic_load(&left); waited++) {
        (void)nanosleep(&pause, NULL);
    }
}

/* ---- what libzookeeper calls, in its threads ---- */

static void note_connection(bool is_connected)
{
    if (atomic_exchange(&connected, is_connected) != is_connected) {
        atomic_store(&since, now(CLOCK_REALTIME));
    }
}

static void on_event(zhandle_t *from, int type, int state, const char *path, void *context)
{
    (void)from;
    (void)context;
    if (type == ZOO_SESSION_EVENT) {
        note_connection(state == ZOO_CONNECTED_STATE);
        if (state == ZOO_EXPIRED_SESSION_STATE || state == ZOO_AUTH_FAILED_STATE) {
            atomic_store(&expired, true);
        }
        atomic_store(&look_at_record, true);
        atomic_store(&look_at_live, true);
    } else if (path != NULL && strcmp(path, record_path) == 0) {
        atomic_store(&look_at_record, true);
    } else {
        atomic_store(&look_at_live, true);
    }
    ring_bell();
}

/* ---- the thread ---- */

/* Reads the record, and asks to be told when it changes or appears. */
static bool read_record(void)
{
    char *buffer = malloc(RECORD_MAX_BYTES + 1);
    if (buffer == NULL) {
        return false;
    }
    int length = RECORD_MAX_BYTES + 1;
    struct Stat stat;
    int result = zoo_wget(handle, record_path, on_event, NULL, buffer, &length, &stat);
    if (result == ZOK && length >= 0) {
        struct membership_message *made = message(buffer, (size_t)length);
        if (RING_FAULT_IS(24)) {
            plain_record = made;
        } else {
            free(made == NULL ? NULL : atomic_exchange(&record, made));
        }
    } else if (result == ZNONODE) {
        result = zoo_wexists(handle, record_path, on_event, NULL, &stat);
        if (result == ZOK) { /* it has come in between */
            atomic_store(&look_at_record, true);
            ring_bell();
        }
        result = result == ZNONODE ? ZOK : result;
    }
    free(buffer);
    return result == ZOK;
}

/* Makes the persistent nodes above the live one. */
static void make_parents(void)
{
    char path[PATH_BYTES];
    size_t length = strlen(live_path);
    for (size_t i = 1; i < length; i++) {
        if (live_path[i] == '/') {
            memcpy(path, live_path, i);
            path[i] = '\0';
            (void)zoo_create(handle, path, "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
        }
    }
}

/* Whether the node that is there is of an earlier session of this process, or may be replaced as
 * this process has only just begun: the one before it was killed. */
static bool may_replace(const char *json)
{
    return !registered_once || strstr(json, own_process) != NULL;
}

/* Makes the node that is there say what is wanted, or removes it if it is of another session. */
static int update_live(void)
{
    char json[LIVE_BYTES];
    int length = sizeof json - 1;
    struct Stat stat;
    int result = zoo_wget(handle, live_path, on_event, NULL, json, &length, &stat);
    if (result != ZOK) {
        return result;
    }
    json[length > 0 ? length : 0] = '\0';
    if (stat.ephemeralOwner == zoo_client_id(handle)->client_id) {
        if ((size_t)length == wanted->length && memcmp(json, wanted->text, wanted->length) == 0) {
            return ZOK;
        }
        return zoo_set(handle, live_path, wanted->text, (int)wanted->length, -1);
    }
    if (!may_replace(json) && !RING_FAULT_IS(18)) { /* 18: two servers with one id take turns */
        atomic_store(&replaced, true);
        return ZOK;
    }
    result = zoo_delete(handle, live_path, stat.version);
    return result == ZOK ? ZNONODE : result;
}

static int register_live(void)
{
    int result = update_live();
    if (result == ZNONODE) {
        result = zoo_create(handle, live_path, wanted->text, (int)wanted->length,
                            &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0);
        if (result == ZNONODE) {
            make_parents();
            result = zoo_create(handle, live_path, wanted->text, (int)wanted->length,
                                &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0);
        }
        if (result == ZOK) {
            registered_once = true;
            struct Stat stat;
            result = zoo_wexists(handle, live_path, on_event, NULL, &stat);
        }
    }
    return result;
}

/* A session that has expired, or whose servers do not take it back: that is never said by servers
 * which have lost their data, nor by those that have moved to another address. */
static bool is_lost(void)
{
    if (zoo_state(handle) == ZOO_CONNECTED_STATE) {
        connected_at = now(CLOCK_MONOTONIC);
    }
    return atomic_exchange(&expired, false) ||
           (now(CLOCK_MONOTONIC) - connected_at > (uint64_t)PATIENCE_MS &&
            !RING_FAULT_IS(20)); /* 20: the session is tried for ever */
}

static void open_session(void)
{
    if (handle != NULL && !is_lost()) {
        return;
    }
    connected_at = now(CLOCK_MONOTONIC);
    if (handle != NULL) {
        (void)zookeeper_close(handle);
        note_connection(false);
        atomic_store(&expired, false); /* what it said at its end is not of the next one */
    }
    handle = zookeeper_init(hosts, on_event, SESSION_MS, NULL, NULL, 0);
    if (handle != NULL) {
        (void)atomic_fetch_add(&sessions, 1);
    }
}

/* Does what is to be done; what fails is tried again at the next look. */
static void look(void)
{
    open_session();
    if (handle == NULL || zoo_state(handle) != ZOO_CONNECTED_STATE) {
        return;
    }
    if (atomic_exchange(&look_at_live, false)) {
        struct membership_message *newer = atomic_exchange(&to_publish, NULL);
        if (newer != NULL) {
            free(wanted);
            wanted = newer;
        }
        int result = wanted == NULL ? ZOK : register_live();
        atomic_store(&failure, result);
        if (result != ZOK) {
            atomic_store(&look_at_live, true);
        }
    }
    if (atomic_exchange(&look_at_record, false) && !read_record()) {
        atomic_store(&look_at_record, true);
    }
}

static void wait_for_bell(void)
{
    struct pollfd rings = {.fd = bell, .events = POLLIN};
    if (poll(&rings, 1, LOOK_MS) > 0) {
        uint64_t count;
        ssize_t done = read(bell, &count, sizeof count);
        (void)done;
    }
}

static void *keep(void *unused)
{
    (void)unused;
    while (!atomic_load(&leave) && !atomic_load(&replaced)) {
        look();
        if (!atomic_load(&leave)) {
            wait_for_bell();
        }
    }
    if (!atomic_load(&replaced)) {
        look(); /* says "leaving" */
    }
    if (handle != NULL) {
        (void)zookeeper_close(handle); /* which removes the node */
        handle = NULL;
    }
    note_connection(false);
    atomic_store(&left, true);
    return NULL;
}

/* Splits HOST:PORT[,...]/ROOT. */
static void set_paths(void)
{
    const char *path = strchr(hosts_and_root, '/');
    (void)snprintf(hosts, sizeof hosts, "%.*s", (int)(path - hosts_and_root), hosts_and_root);
    (void)snprintf(root, sizeof root, "%s", path);
    (void)snprintf(live_path, sizeof live_path, "%.*s/live/%.*s", PATH_BYTES / 2, root, RING_ID_MAX,
                   own_id);
    (void)snprintf(record_path, sizeof record_path, "%.*s/ring", PATH_BYTES / 2, root);
}

bool membership_start(const char *zookeeper, const char *id, const char *process)
{
    hosts_and_root = zookeeper;
    own_id = id;
    own_process = process;
    set_paths();
    zoo_set_debug_level((ZooLogLevel)0); /* it would write to the server's standard error */
    atomic_store(&since, now(CLOCK_REALTIME));
    bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bell < 0) {
        return false;
    }
    /* Signals are the main thread's. */
    sigset_t all, before;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    bool started = pthread_create(&thread, NULL, keep, NULL) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started) {
        (void)pthread_detach(thread);
    } else {
        (void)close(bell);
        bell = -1;
    }
    return started;
}
