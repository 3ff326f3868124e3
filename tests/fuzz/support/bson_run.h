/* bson_run.h - one run of the BSON fuzzer: validator, walker, paths and keys over any bytes.
 *
 * Besides not crashing: the walker never points outside of the bytes, and whatever the validator
 * accepts can be walked to its end, has texts that are UTF-8, and has a key that comes back.
 */
#ifndef MMAPCACHE_FUZZ_BSON_RUN_H
#define MMAPCACHE_FUZZ_BSON_RUN_H

#include <stddef.h>
#include <stdint.h>

int run_bson(const uint8_t *data, size_t len);

#endif
