/* succession.h - what passes from a cache file to the one that takes its place. */
#ifndef MMAPCACHE_SUCCESSION_H
#define MMAPCACHE_SUCCESSION_H

#include "writer.h"

/* Copies every collection and the state of one writer's generation into a generation of another,
 * whose file is empty. MC_CORRUPT: the content cannot be read to its end, or the file was truncated
 * meanwhile. */
enum mc_status mc_succession_carry_over(const struct mc_writer *from, struct mc_writer *to,
                                        struct mc_error *err);

/* The old file's last word: the same content once more, with the flag that sends readers to the
 * path. */
void mc_succession_end(struct mc_writer *old);

#endif
