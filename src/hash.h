/* hash.h - the hash of a key, keyed by secrets of the file, and the checksum of bytes in the file.
 *
 * One function serves both: a folded 64 x 64 -> 128 bit multiplication per 16 bytes, the idea of
 * wyhash (Wang Yi) and of Rust's foldhash, written for this format. It is no MAC. The secrets make
 * collisions unpredictable to whoever chooses keys without having read the file. The checksum has
 * constants in their place: it finds accidents, and whoever wants to can write bytes to match it.
 */
#ifndef MMAPCACHE_HASH_H
#define MMAPCACHE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* The hash of a key of `len` bytes, fewer than 2^32, and of its type. Any process; never fails. */
uint64_t mc_hash(const uint64_t secret[MC_SECRETS], uint8_t type, const void *data, size_t len);

/* The checksum of `len` bytes. Any process; never fails. */
uint32_t mc_checksum(const void *data, size_t len);

/* The checksum of an entry: of its lengths, its stamp,
 * its key and its value of value_bytes bytes. Where there are blocks their checksum is xored. */
uint32_t mc_entry_checksum(uint32_t lengths, uint64_t stamp, const void *key, size_t key_len,
                           const void *value, size_t value_bytes);

#endif
