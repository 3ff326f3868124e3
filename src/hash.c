/* hash.c - folded multiplication over 16 bytes a step.
 *
 *   a, b = the next two words        state = fold(a ^ state, b ^ k)
 *
 * where fold(x, y) is the xor of the two halves of the 128-bit product. The tail is read as the
 * last 16 bytes of the input (overlapping), so that no byte loop is needed; inputs under 16 bytes
 * are read as two overlapping words of 8, 4 or 1 bytes. The length goes in at the end.
 * docs/format.md gives the definition byte by byte: files depend on it.
 */
#include "hash.h"

#include <string.h>

#define K0 0x9E3779B97F4A7C15ull /* 2^64 / golden ratio */
#define K1 0xD1B54A32D192ED03ull /* its two-dimensional relatives (Roberts, 2018), made odd */
#define K2 0xABC98388FB8FAC03ull

static inline uint64_t fold(uint64_t x, uint64_t y)
{
    unsigned __int128 product = (unsigned __int128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t read64(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static inline uint64_t read32(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Two words that together hold every byte of an input of fewer than 16. */
static inline void read_short(const uint8_t *bytes, size_t len, uint64_t *a, uint64_t *b)
{
    if (len >= 8) {
        *a = read64(bytes);
        *b = read64(bytes + len - 8);
    } else if (len >= 4) {
        *a = read32(bytes);
        *b = read32(bytes + len - 4);
    } else if (len > 0) {
        *a = bytes[0];
        *b = (uint64_t)bytes[len / 2] << 8 | bytes[len - 1];
    } else {
        *a = *b = 0;
    }
}

static inline uint64_t mix(uint64_t state, uint64_t key, const uint8_t *bytes, size_t len)
{
    uint64_t a, b;
    uint64_t other = key;
    size_t left = len;
    for (; left > 32; left -= 32, bytes += 32) { /* two chains keep both multipliers busy */
        state = fold(read64(bytes) ^ state, read64(bytes + 8) ^ K1);
        other = fold(read64(bytes + 16) ^ other, read64(bytes + 24) ^ K2);
    }
    state ^= other;
    if (left > 16) {
        state = fold(read64(bytes) ^ state, read64(bytes + 8) ^ K1);
        bytes += left - 16;
        a = read64(bytes);
        b = read64(bytes + 8);
    } else if (left == 16) {
        a = read64(bytes);
        b = read64(bytes + 8);
    } else {
        read_short(bytes, left, &a, &b);
    }
    state = fold(a ^ state, b ^ key);
    return fold(state ^ K0, len ^ K1);
}

uint64_t mc_hash(const uint64_t seed[2], uint8_t type, const void *data, size_t len)
{
    return mix(seed[0] ^ (uint64_t)type * K2, seed[1], data, len);
}

uint32_t mc_checksum(const void *data, size_t len)
{
    uint64_t sum = mix(K1, K0, data, len);
    return (uint32_t)(sum ^ (sum >> 32));
}

uint32_t mc_entry_checksum(uint32_t value_len, uint64_t stamp, const void *key, size_t key_len,
                           const void *value, size_t value_bytes)
{
    uint64_t sum = mix(stamp ^ K1, value_len ^ K0, key, key_len);
    sum = mix(sum, K0, value, value_bytes);
    return (uint32_t)(sum ^ (sum >> 32));
}
