/* placement.c - how many keys are placed in a second of processor time: 8 nodes, keys of 20 bytes.
 *
 *     make -C redis_module load
 *     build/placement [KEYS]
 *
 * It prints the number, the best of some rounds.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ring.h"

enum { NODES = 8, KEY = 20, DISTINCT = 4096, ROUNDS = 9 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    static char keys[DISTINCT][KEY + 1];
    static char names[NODES][16];
    unsigned count = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 2000000;
    struct ring_id ids[NODES];
    struct ring ring;
    for (int i = 0; i < NODES; i++) {
        int length = snprintf(names[i], sizeof names[i], "redis-%d", i);
        ids[i] = (struct ring_id){.bytes = names[i], .length = (size_t)length};
    }
    for (unsigned i = 0; i < DISTINCT; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "key:%016u", i * 2654435761U);
    }
    if (ring_make(&ring, ids, NODES, RING_STILL, 0) != RING_FINE) {
        return 1;
    }
    double best = 0;
    unsigned used = 0; /* so that nothing is left out */
    for (int round = 0; round < ROUNDS; round++) {
        double begun = seconds();
        for (unsigned i = 0; i < count; i++) {
            struct ring_holders holders = ring_holders(&ring, ring_hash(keys[i % DISTINCT], KEY));
            used += holders.node[0] + holders.node[1];
        }
        double rate = count / (seconds() - begun);
        best = rate > best ? rate : best;
    }
    (void)printf("%.0f\n", best);
    return used == 0;
}
