/* announce.c - the JSON of /ROOT/live/ID. */
#define _GNU_SOURCE
#include "announce.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "membership.h"
#include "node.h"

enum { HOST_BYTES = 256, ADDRESS_BYTES = 320, JSON_BYTES = 1024 };

static char address[ADDRESS_BYTES], tls_address[ADDRESS_BYTES];
static char process[NODE_PROCESS_HEX + 1];
static char announced[NODE_RUN_ID + 1];
static enum node_state announced_state;

/* Copies one of the server's settings; empty if there is none. */
static void read_setting(RedisModuleCtx *ctx, const char *name, char *text, size_t size)
{
    text[0] = '\0';
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "CONFIG", "cc", "GET", name);
    if (reply == NULL) {
        return;
    }
    RedisModuleCallReply *value = RedisModule_CallReplyArrayElement(reply, 1);
    size_t length = 0;
    const char *bytes = value == NULL ? NULL : RedisModule_CallReplyStringPtr(value, &length);
    if (bytes != NULL) {
        (void)snprintf(text, size, "%.*s", (int)length, bytes);
    }
    RedisModule_FreeCallReply(reply);
}

/* The first address that the server listens at, if it says one, or else the host's name. */
static void find_host(RedisModuleCtx *ctx, char host[HOST_BYTES])
{
    char bound[HOST_BYTES];
    read_setting(ctx, "bind", bound, sizeof bound);
    const char *first = bound + strspn(bound, "- ");
    size_t length = strcspn(first, " ");
    bool any = length == 0 || first[0] == '*' || strncmp(first, "0.0.0.0", length) == 0 ||
               strncmp(first, "::", length) == 0 || strncmp(first, "::*", length) == 0;
    if (!any && memchr(first, ':', length) != NULL) {
        (void)snprintf(host, HOST_BYTES, "[%.*s]", (int)length, first);
    } else if (!any) {
        (void)snprintf(host, HOST_BYTES, "%.*s", (int)length, first);
    } else if (gethostname(host, HOST_BYTES) != 0) {
        (void)snprintf(host, HOST_BYTES, "localhost");
    }
    host[HOST_BYTES - 1] = '\0';
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:[]";
    if (strspn(host, letters) != strlen(host)) { /* it goes into JSON as it is */
        (void)snprintf(host, HOST_BYTES, "localhost");
    }
}

void announce_find_address(RedisModuleCtx *ctx, const char *given)
{
    char host[HOST_BYTES], port[16], tls_port[16];
    find_host(ctx, host);
    read_setting(ctx, "port", port, sizeof port);
    read_setting(ctx, "tls-port", tls_port, sizeof tls_port);
    if (port[0] == '\0') { /* CONFIG was renamed */
        (void)snprintf(port, sizeof port, "0");
    }
    bool plain = strtol(port, NULL, 10) > 0;
    bool tls = strtol(tls_port, NULL, 10) > 0;
    if (given != NULL) { /* the same host for the other port */
        (void)snprintf(address, sizeof address, "%s", given);
        (void)snprintf(host, sizeof host, "%.*s", (int)(strrchr(given, ':') - given), given);
    } else {
        (void)snprintf(address, sizeof address, "%s:%s", host, plain || !tls ? port : tls_port);
    }
    if (tls) {
        (void)snprintf(tls_address, sizeof tls_address, "%s:%s", host, tls_port);
    }
    if (given == NULL && !plain && !tls) {
        RedisModule_Log(ctx, "warning", "the port is not known: give the module address=HOST:PORT");
    }
    RedisModule_Log(ctx, "notice", "node %s is announced as %s", node.id, address);
}

const char *announce_process(void)
{
    (void)snprintf(process, sizeof process, "%.*s", NODE_PROCESS_HEX, node.run_id);
    return process;
}

static size_t write_json(char json[JSON_BYTES])
{
    int length = snprintf(json, JSON_BYTES,
                          "{\"address\": \"%s\", %s%s%s\"run_id\": \"%s\", \"state\": \"%s\", "
                          "\"since\": %llu}",
                          address, tls_address[0] != '\0' ? "\"tls_address\": \"" : "", tls_address,
                          tls_address[0] != '\0' ? "\", " : "", node.run_id,
                          node_state_name(node.state), (unsigned long long)node.since);
    return length < JSON_BYTES ? (size_t)length : JSON_BYTES - 1;
}

void announce_state(void)
{
    if (node.state == announced_state && strcmp(node.run_id, announced) == 0) {
        return;
    }
    announced_state = node.state;
    memcpy(announced, node.run_id, sizeof announced);
    char json[JSON_BYTES];
    membership_publish(json, write_json(json));
}

void announce_leave(unsigned patience)
{
    char json[JSON_BYTES];
    membership_leave(json, write_json(json), patience);
}
