/* load.c - what the module's commands cost the server, beside SET and GET.
 *
 *     make -C redis_module load
 *     build/load SOCKET|PORT [REQUESTS [PIPELINE]]
 *
 * SOCKET or PORT is of a server whose node is ready, and which nobody else uses. 50 connections
 * have PIPELINE requests (1) each under way, with values of 100 bytes. The rounds of the commands
 * take turns; of each the best counts, and the server's own time for a command.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "entry.h"

enum { CONNECTIONS = 50, ROUNDS = 5, KEYS = 100000, VALUE = 100, BUFFER = 1 << 16, KINDS = 4 };

static const char *const names[KINDS] = {"SET", "RING.SET", "GET", "RING.GET"};
static const size_t reply_bytes[KINDS] = {5, 5, VALUE + 8, VALUE + 8};
static struct ring_clock ring_clock;
static char entry[RING_HEADER_BYTES + VALUE];
static char epoch[32];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Of a port of this host, or of a socket's path. */
static int connect_to(const char *path)
{
    if (strspn(path, "0123456789") == strlen(path)) {
        struct sockaddr_in host = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)strtoul(path, NULL, 10)),
                                   .sin_addr = {htonl(INADDR_LOOPBACK)}};
        int one = 1;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&host, sizeof host) != 0) {
            fail(path);
        }
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return fd;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        fail(path);
    }
    return fd;
}

/* Sends a text and returns what comes at once. */
static const char *ask(int fd, const char *text)
{
    static char answer[BUFFER];
    if (write(fd, text, strlen(text)) < 0) {
        fail("write");
    }
    ssize_t got = read(fd, answer, sizeof answer - 1);
    if (got <= 0) {
        fail("read");
    }
    answer[got] = '\0';
    return answer;
}

static double cpu_of_server(int fd)
{
    const char *info = ask(fd, "INFO cpu\r\n");
    const char *sys = strstr(info, "used_cpu_sys:");
    const char *user = strstr(info, "used_cpu_user:");
    if (sys == NULL || user == NULL) {
        fail("INFO cpu");
    }
    return strtod(sys + strlen("used_cpu_sys:"), NULL) +
           strtod(user + strlen("used_cpu_user:"), NULL);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static size_t argument(char *at, const void *bytes, size_t length)
{
    size_t head = (size_t)sprintf(at, "$%zu\r\n", length);
    memcpy(at + head, bytes, length);
    memcpy(at + head + length, "\r\n", 2);
    return head + length + 2;
}

static size_t text(char *at, const char *word)
{
    return argument(at, word, strlen(word));
}

/* One request: of plain commands and of the ring's the keys are different, and as long. */
static size_t request(char *at, int kind, unsigned number)
{
    static const int counts[KINDS] = {3, 4, 2, 3};
    char key[32];
    (void)sprintf(key, "%s:%012u", kind % 2 == 0 ? "plain" : "rings", number * 7919U % KEYS);
    char *begin = at;
    at += sprintf(at, "*%d\r\n", counts[kind]);
    at += text(at, names[kind]);
    if (kind % 2 == 1) {
        at += text(at, epoch);
    }
    at += text(at, key);
    if (kind == 1) {
        struct ring_version version = ring_clock_next(&ring_clock, milliseconds());
        ring_entry_header((unsigned char *)entry, RING_VALUE, &version, 0);
    }
    if (kind < 2) { /* the value alone, or with the header before it */
        size_t header = kind == 1 ? RING_HEADER_BYTES : 0;
        at += argument(at, entry + RING_HEADER_BYTES - header, header + VALUE);
    }
    return (size_t)(at - begin);
}

static void send_requests(int fd, int kind, unsigned number, unsigned count)
{
    static char buffer[BUFFER];
    size_t length = 0;
    for (unsigned i = 0; i < count; i++) {
        length += request(buffer + length, kind, number + i);
    }
    if (write(fd, buffer, length) != (ssize_t)length) {
        fail("write");
    }
}

/* Requests in a second. */
static double run(int kind, const int *fds, unsigned requests, unsigned pipeline)
{
    static char buffer[BUFFER];
    size_t left[CONNECTIONS];
    unsigned sent = 0;
    unsigned done = 0;
    int poller = epoll_create1(0);
    double begun = seconds();
    for (int i = 0; i < CONNECTIONS; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = i};
        (void)epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event);
        send_requests(fds[i], kind, sent, pipeline);
        sent += pipeline;
        left[i] = pipeline * reply_bytes[kind];
    }
    while (done < requests) {
        struct epoll_event events[CONNECTIONS];
        int ready = epoll_wait(poller, events, CONNECTIONS, -1);
        for (int e = 0; e < ready; e++) {
            int i = events[e].data.fd;
            ssize_t got = read(fds[i], buffer, sizeof buffer);
            if (got <= 0 || buffer[0] == '-') {
                (void)fprintf(stderr, "%s: %.*s\n", names[kind], (int)(got < 0 ? 0 : got), buffer);
                exit(1);
            }
            left[i] -= (size_t)got;
            if (left[i] == 0) {
                done += pipeline;
                if (sent < requests) {
                    send_requests(fds[i], kind, sent, pipeline);
                    sent += pipeline;
                    left[i] = pipeline * reply_bytes[kind];
                }
            }
        }
    }
    (void)close(poller);
    return requests / (seconds() - begun);
}

int main(int argc, char **argv)
{
    unsigned requests = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200000;
    unsigned pipeline = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 1;
    if (argc < 2 || pipeline < 1 || pipeline > 100 || requests % (CONNECTIONS * pipeline) != 0) {
        (void)fprintf(stderr,
                      "load SOCKET|PORT [REQUESTS [PIPELINE]]; 50 * PIPELINE divides REQUESTS\n");
        return 2;
    }
    int control = connect_to(argv[1]);
    int fds[CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++) {
        fds[i] = connect_to(argv[1]);
        const char *hello = ask(fds[i], "RING.HELLO\r\n");
        const char *at = strstr(hello, "epoch");
        (void)snprintf(epoch, sizeof epoch, "%ld", at == NULL ? 0 : strtol(at + 8, NULL, 10));
    }
    memset(entry, 'x', sizeof entry);
    double best[KINDS] = {0};
    double cpu[KINDS] = {1, 1, 1, 1};
    for (int round = 0; round < ROUNDS; round++) {
        for (int kind = 0; kind < KINDS; kind++) {
            double before = cpu_of_server(control);
            double rate = run(kind, fds, requests, pipeline);
            double spent = (cpu_of_server(control) - before) / requests;
            best[kind] = rate > best[kind] ? rate : best[kind];
            cpu[kind] = spent < cpu[kind] ? spent : cpu[kind];
        }
    }
    for (int kind = 0; kind < KINDS; kind++) {
        (void)printf("%-9s %8.0f /s  %5.2f us of the server's time", names[kind], best[kind],
                     cpu[kind] * 1e6);
        if (kind % 2 == 1) {
            (void)printf("  /s %.2f, time %.2f of %s's", best[kind] / best[kind - 1],
                         cpu[kind] / cpu[kind - 1], names[kind - 1]);
        }
        (void)printf("\n");
    }
    return 0;
}
