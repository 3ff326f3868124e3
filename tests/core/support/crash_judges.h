/* crash_judges.h - what must hold of a file that a killed loader left, for the scenarios of
 * crash_scenarios.h: as readers see it, and the next loader.
 */
#ifndef MMAPCACHE_TEST_CRASH_JUDGES_H
#define MMAPCACHE_TEST_CRASH_JUDGES_H

#include "crash_scenarios.h"

/* The states after each commit of the scenario. */
int list_states(const struct scenario *scenario, struct oracle *states);

/* A reader that has the file mapped looks at the current generation: returns it, 0 for none. */
uint64_t judge_reader(const struct scenario *scenario, const struct oracle *states, int count,
                      struct mc_map *map);

/* A reader that comes after the kill: returns the generation that it sees, 0 for none. */
uint64_t judge_new_reader(const struct scenario *scenario, const struct oracle *states, int count,
                          const char *path);

/* The next loader: opens, finds nothing lost or leaked, and commits. Returns what it found. */
int judge_next_loader(const struct oracle *states, int count, const char *path);

/* A view that was open before the kill. */
void judge_old_view(const struct mc_view *view);

#endif
