/* fault_scenarios.h - states of a cache and what is done to them, for test_faults.c. */
#ifndef MMAPCACHE_TEST_FAULT_SCENARIOS_H
#define MMAPCACHE_TEST_FAULT_SCENARIOS_H

#include "faults.h"
#include "store_support.h"

/* What a scenario works on. */
struct fault_world {
    struct mc_writer *writer; /* NULL: none is open */
    struct mc_map *reader;    /* opened before the fault; NULL: there was nothing to read */
    struct mc_view view;      /* the reader's */
    struct oracle before, after;
    struct mc_writer_options options;
};

extern struct fault_world world;

struct resources {
    long blocks, descriptors, mappings;
};

struct resources count_resources(void);

void check_resources(struct resources expected);

void close_writer(void);

void must(enum mc_status status);

enum mc_status commit(void);

/* Some documents in two of the collections, committed; the writer stays open. */
void open_filled(void);

void patch_file(uint64_t offset);

/* Puts the keys into a collection, in an open batch; `after` knows of them. */
enum mc_status put_keys(int c, int from, int to, int version);

enum mc_status run_small(void);

struct fault_scenario {
    const char *name;
    void (*prepare)(void);
    enum mc_status (*run)(void);
    uint32_t kinds; /* what fails */
    bool reopens;   /* `run` opens the writer */
    bool collapse;
};

extern const struct fault_scenario fault_scenarios[];
extern const size_t fault_scenario_count;

#endif
