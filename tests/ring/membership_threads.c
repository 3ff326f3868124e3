/* membership_threads.c - the module's thread for ZooKeeper, alone: for ThreadSanitizer.
 *
 *     membership_threads HOST:PORT/ROOT [SECONDS]
 *
 * What the server's main thread does, far more often: it publishes states and takes records over,
 * while a test changes the record. Prints how many records came; says goodbye at the end.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "membership.h"

int main(int argc, char **argv)
{
    static const char process[] = "0123456789abcdef0123456789abcdef";
    if (argc < 2 || membership_check(argv[1]) != NULL) {
        return 2;
    }
    time_t end = time(NULL) + (argc > 2 ? strtol(argv[2], NULL, 10) : 3);
    if (!membership_start(argv[1], "a", process)) {
        return 1;
    }
    unsigned records = 0;
    unsigned connected = 0;
    char json[256];
    for (unsigned round = 0; time(NULL) < end; round++) {
        int length =
            snprintf(json, sizeof json,
                     "{\"address\": \"h:1\", \"run_id\": \"%s%08u\", \"state\": \"ready\", "
                     "\"since\": %u}",
                     process, round, round);
        membership_publish(json, (size_t)length);
        struct membership_message *record = membership_take_record();
        records += record != NULL;
        free(record);
        connected += membership_status().connected;
        const struct timespec pause = {.tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL);
    }
    membership_leave(json, strlen(json), 5000);
    (void)printf("%u records\n", records);
    return connected > 0 ? 0 : 1;
}
