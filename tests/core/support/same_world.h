/* same_world.h - what the kernel would say differently each time: the clock, the process id, random
 * numbers. A child that asks for the same world always hears the same.
 *
 * Linked into the programs that include it, and not into the library: there, whatever calls
 * getpid would pull it in.
 */
#ifndef MMAPCACHE_TEST_SAME_WORLD_H
#define MMAPCACHE_TEST_SAME_WORLD_H

#include <stdbool.h>

extern bool same_world;

#endif
