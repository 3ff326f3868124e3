/* hash.c - folded multiplication over 16 bytes a step.
 *
 *   a, b = the next two words        state = fold(a ^ state, b ^ secret)
 *
 * where fold(x, y) is the xor of the two halves of the 128-bit product, plus x and y. The tail is
 * read as the last 16 bytes of the input (overlapping), so that no byte loop is needed; inputs
 * under 16 bytes are read as two overlapping words of 8, 4 or 1 bytes. The length and the type go
 * in at the end, by a plain product: nobody chooses its factors.
 *
 * A product with a factor of 0 says nothing of the other one, nor does the xor of its halves where
 * one has all bits set. So both factors of every multiplication are masked by a secret word: with a
 * public constant in its place, a word of the key that is equal to it cancels whatever came before,
 * under any seed. (wyhash had that: https://github.com/wangyi-fudan/wyhash/issues/49, XXH3 too:
 * https://github.com/Cyan4973/xxHash/issues/180.) Where such a factor is met by chance, once in
 * 2^64, it still cancels nothing, because the factors are in the result as well: the idea of the
 * "protected" variants of wyhash and rapidhash. They are added here: with an xor, a factor of 1
 * would cancel the other. So no bit of a secret has to be set: four random words will do.
 * docs/format.md gives the definition byte by byte: files depend on it.
 */
#include "hash.h"

#include <string.h>

#include "mutant.h"

/* In the place of secrets, for checksums. */
static const uint64_t constants[MC_SECRETS] = {
    UINT64_C(0xD1B54A32D192ED03), /* Roberts, 2018: relatives in two and three dimensions of */
    UINT64_C(0x9E3779B97F4A7C15), /* 2^64 / golden ratio, made odd */
    UINT64_C(0xABC98388FB8FAC03),
    UINT64_C(0x8CB92BA72F3D8DD7),
};

/* The xor of the two halves of the product. */
static inline uint64_t halves(uint64_t x, uint64_t y)
{
    unsigned __int128 product = (unsigned __int128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t fold(uint64_t x, uint64_t y)
{
    uint64_t factors = MC_MUTANT_IS(202) ? 0 : x + y; /* 202: a factor of 0 cancels the other */
    return halves(x, y) + factors;
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

/* The caller's start, its other 32 bits and the bytes. */
static inline uint64_t mix(const uint64_t secret[MC_SECRETS], uint64_t start, uint32_t more,
                           const uint8_t *bytes, size_t len)
{
    uint64_t a, b;
    uint64_t state = secret[0] ^ start, other = secret[1];
    size_t left = len;
    for (; left > 32; left -= 32, bytes += 32) { /* two chains keep both multipliers busy */
        state = fold(read64(bytes) ^ state, read64(bytes + 8) ^ secret[2]);
        other = fold(read64(bytes + 16) ^ other, read64(bytes + 24) ^ secret[3]);
    }
    state ^= other;
    if (left > 16) {
        state = fold(read64(bytes) ^ state, read64(bytes + 8) ^ secret[2]);
        bytes += left - 16;
        a = read64(bytes);
        b = read64(bytes + 8);
    } else if (left == 16) {
        a = read64(bytes);
        b = read64(bytes + 8);
    } else {
        read_short(bytes, left, &a, &b);
    }
    state = fold(a ^ state, b ^ secret[1]);
    return halves(state ^ secret[2], ((uint64_t)more << 32 | len) ^ secret[3]);
}

uint64_t mc_hash(const uint64_t secret[MC_SECRETS], uint8_t type, const void *data, size_t len)
{
    if (MC_MUTANT_IS(203)) { /* 203: constants in the place of secrets, but for a seed */
        const uint64_t known[MC_SECRETS] = {secret[0], secret[1], constants[2], constants[3]};
        return mix(known, 0, type, data, len);
    }
    return mix(secret, 0, type, data, len);
}

uint32_t mc_checksum(const void *data, size_t len)
{
    uint64_t sum = mix(constants, 0, 0, data, len);
    return (uint32_t)(sum ^ (sum >> 32));
}

uint32_t mc_entry_checksum(uint32_t lengths, uint64_t stamp, const void *key, size_t key_len,
                           const void *value, size_t value_bytes)
{
    uint64_t sum = mix(constants, stamp, lengths, key, key_len);
    sum = mix(constants, sum, 0, value, value_bytes);
    return (uint32_t)(sum ^ (sum >> 32));
}
