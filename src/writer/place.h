/* place.h - whether a cache may be at a path, before anything is made there. */
#ifndef MMAPCACHE_PLACE_H
#define MMAPCACHE_PLACE_H

#include "writer.h"

/* MC_FORMAT or MC_OS when no writer with these options could have its file at `path`, such as a
 * directory, somebody else's file, or one that is no cache and must stay. Only a first look, made
 * without a lock: what is there is judged again under it. */
enum mc_status mc_place_check(const char *path, const struct mc_writer_options *options,
                              struct mc_error *err);

#endif
