/* hash.h - the seeded hash of a key and the checksum of bytes in the file.
 *
 * One function serves both: a folded 64 x 64 -> 128 bit multiplication per 16 bytes, the idea of
 * wyhash (Wang Yi) and of Rust's foldhash, written for this format. It is no MAC: the seed makes
 * collisions unpredictable to whoever chooses keys, the checksum finds accidents, not forgery.
 */
#ifndef MMAPCACHE_HASH_H
#define MMAPCACHE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* The hash of a key of `len` bytes and of its type. Any process; never fails. */
uint64_t mc_hash(const uint64_t seed[2], uint8_t type, const void *data, size_t len);

/* The checksum of `len` bytes. Any process; never fails. */
uint32_t mc_checksum(const void *data, size_t len);

/* The checksum of an entry: of its lengths, its stamp,
 * its key and its value of value_bytes bytes. */
uint32_t mc_entry_checksum(uint32_t value_len, uint64_t stamp, const void *key, size_t key_len,
                           const void *value, size_t value_bytes);

#endif
