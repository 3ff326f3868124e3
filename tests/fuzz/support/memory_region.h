/* memory_region.h - region.h without an operating system: files are stretches of this process's
 * memory.
 *
 * What a hostile file does to the core depends on its bytes alone, and making, mapping and freeing
 * a real one costs ten times what all of the reading does. So the fuzzers have the core's system in
 * here, and everything above it is the core as it is. A program that links this file's functions
 * links none of region.c, lock.c, os.c and guard.c.
 *
 * Nothing past a file's end can be accessed: where a real reader would get the guard's zeros, this
 * one dies. Time, random bytes and the boot are always the same, so that an input is all that a run
 * depends on.
 */
#ifndef MMAPCACHE_FUZZ_MEMORY_REGION_H
#define MMAPCACHE_FUZZ_MEMORY_REGION_H

#include <stdint.h>

#include "format.h"
#include "region.h"

#define MEMORY_MOST (4 * MC_EXTENT) /* bytes of a file: the file system is full then */

struct mc_lock {
    bool held;
};

struct memory_file {
    char name[32]; /* empty: removed */
    uint8_t *base;
    uint64_t size, identity;
    uint64_t reach; /* bytes that can be accessed: less than its size when less is mapped */
    struct mc_lock lock;
};

/* A file of `size` bytes, all of them zero but for the first `dirty`, which stay as they were. */
struct memory_file *memory_make(unsigned index, const char *name, uint64_t size, uint64_t dirty);

/* Removes every file, and begins time anew. */
void memory_reset(void);

struct memory_file *memory_find(const char *name);

#endif
