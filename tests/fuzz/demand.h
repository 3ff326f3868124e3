/* demand.h - what a fuzzer holds to be true of every input: else it says so and aborts. */
#ifndef MMAPCACHE_FUZZ_DEMAND_H
#define MMAPCACHE_FUZZ_DEMAND_H

#include <stdio.h>
#include <stdlib.h>

#define DEMAND(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
