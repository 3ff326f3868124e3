/* test_hash.c - that nobody can choose keys that collide without knowing a file's secrets, and that
 * chance does not make them either.
 *
 * Each family of keys is one that some function of this kind has fallen for: words that are equal
 * to a constant of the function, so that a multiplication by zero cancels what came before; words
 * that differ so that the difference cancels; words that are exchanged. A family's keys are all
 * hashed under many secrets, and no two of them may agree: of so few, chance makes two of 64 bits
 * agree less than once in a million years of runs.
 */
#include <stdbool.h>
#include <string.h>

#include "harness.h"
#include "hash.h"

#define KEYS_MOST 512
#define LEN_MOST 160
#define WORDS_MOST (LEN_MOST / 8)

/* What stands in hash.c, what stood there once, and what is special to a multiplication. */
static const uint64_t known[] = {
    0x9E3779B97F4A7C15u, 0xD1B54A32D192ED03u, 0xABC98388FB8FAC03u, 0x8CB92BA72F3D8DD7u, 0, 1, 2,
    UINT64_MAX,          UINT64_MAX - 1,      UINT64_C(1) << 63,   UINT64_C(1) << 32,
};
#define KNOWN (sizeof known / sizeof *known)

/* One length of every way through the function. */
static const size_t lens[] = {4,  7,  8,  12, 15, 16, 17, 20,  31,
                              32, 33, 36, 48, 64, 65, 96, 100, 160};
#define LENS (sizeof lens / sizeof *lens)

static uint64_t hashes[KEYS_MOST];
static int count;
static uint64_t secret[MC_SECRETS];

static void new_secret(void)
{
    for (unsigned i = 0; i < MC_SECRETS; i++) {
        secret[i] = test_random();
    }
}

static void add(uint8_t type, const void *bytes, size_t len)
{
    CHECK(count < KEYS_MOST);
    hashes[count++] = mc_hash(secret, type, bytes, len);
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* The end of a family of different keys. */
static void all_differ(void)
{
    qsort(hashes, (size_t)count, sizeof *hashes, compare);
    for (int i = 1; i < count; i++) {
        CHECK(hashes[i] != hashes[i - 1]);
    }
    count = 0;
}

static void random_bytes(uint8_t *to, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        to[i] = (uint8_t)test_random();
    }
}

/* Writes a word into a key: at the distance from its end where the tail is read, or from its start.
 */
static void set_word(uint8_t *key, size_t len, size_t word, bool from_end, uint64_t value)
{
    size_t bytes = len < 8 ? 4 : 8;
    size_t at = from_end ? len - bytes * (word + 1) : bytes * word;
    memcpy(key + at, &value, bytes);
}

static size_t words_of(size_t len)
{
    return len / (len < 8 ? 4 : 8);
}

/* One word is a constant and every other bit of the key varies: nothing may be cancelled. */
static void test_constants(void)
{
    for (size_t l = 0; l < LENS; l++) {
        for (size_t word = 0; word < words_of(lens[l]); word++) {
            for (size_t k = 0; k < KNOWN; k++) {
                for (int from_end = 0; from_end < 2; from_end++) {
                    uint8_t key[LEN_MOST];
                    new_secret();
                    for (int i = 0; i < 16; i++) {
                        random_bytes(key, lens[l]);
                        set_word(key, lens[l], word, from_end != 0, known[k]);
                        if (words_of(lens[l]) > 1) {
                            add(2, key, lens[l]);
                        }
                    }
                    all_differ();
                }
            }
        }
    }
}

/* The attack on constants in full: one makes a factor zero, which leaves the rest linear, and a
 * word further on takes back what differs. */
static void test_taken_back(void)
{
    for (size_t l = 0; l < LENS; l++) {
        size_t words = words_of(lens[l]);
        for (size_t k = 0; k < KNOWN; k++) {
            for (size_t at = 1; at + 1 < words; at++) {
                for (size_t back = at + 1; back < words; back++) {
                    uint8_t base[LEN_MOST], key[LEN_MOST];
                    new_secret();
                    random_bytes(base, lens[l]);
                    for (uint64_t i = 0; i < 8; i++) {
                        memcpy(key, base, lens[l]);
                        set_word(key, lens[l], at - 1, false, i << 60 | i);
                        set_word(key, lens[l], at, false, known[k]);
                        set_word(key, lens[l], back, false, i << 60 | i);
                        add(5, key, lens[l]);
                    }
                    all_differ();
                }
            }
        }
    }
}

/* Two words change by the same, by the opposite, or their places. */
static void test_differences(void)
{
    for (size_t l = 0; l < LENS; l++) {
        size_t words = words_of(lens[l]);
        for (size_t first = 0; first < words; first++) {
            for (size_t second = first + 1; second < words; second++) {
                uint8_t base[LEN_MOST], key[LEN_MOST];
                uint64_t a = test_random(), b = test_random();
                new_secret();
                random_bytes(base, lens[l]);
                memcpy(key, base, lens[l]);
                for (size_t k = 0; k < KNOWN; k++) {
                    set_word(key, lens[l], first, false, a ^ known[k]);
                    set_word(key, lens[l], second, false, b ^ known[k]);
                    add(5, key, lens[l]);
                }
                all_differ();
                for (size_t k = 0; k < KNOWN; k++) {
                    set_word(key, lens[l], first, false, a + known[k]);
                    set_word(key, lens[l], second, false, b - known[k]);
                    add(5, key, lens[l]);
                }
                all_differ();
                set_word(key, lens[l], first, false, a);
                set_word(key, lens[l], second, false, b);
                add(5, key, lens[l]);
                set_word(key, lens[l], first, false, b);
                set_word(key, lens[l], second, false, a);
                add(5, key, lens[l]);
                set_word(key, lens[l], second, false, b);
                add(5, key, lens[l]);
                all_differ();
            }
        }
    }
}

/* Whole blocks change places: of the two chains, and along one. */
static void test_blocks(void)
{
    for (int i = 0; i < test_rounds(1000); i++) {
        uint8_t base[LEN_MOST], key[LEN_MOST];
        size_t len = 96 + test_below(LEN_MOST - 96);
        new_secret();
        random_bytes(base, len);
        add(5, base, len);
        for (size_t first = 0; first < 6; first++) {
            for (size_t second = first + 1; second < 6; second++) {
                memcpy(key, base, len);
                memcpy(key + 16 * first, base + 16 * second, 16);
                memcpy(key + 16 * second, base + 16 * first, 16);
                add(5, key, len);
            }
        }
        all_differ();
    }
}

/* Types and lengths are part of the hash, also where the bytes are all alike. */
static void test_types_and_lengths(void)
{
    static const uint8_t fillings[] = {0, 0xFF, 0x15};
    for (int i = 0; i < test_rounds(200); i++) {
        for (size_t f = 0; f < sizeof fillings; f++) {
            uint8_t key[LEN_MOST];
            memset(key, fillings[f], sizeof key);
            new_secret();
            for (size_t len = 0; len <= LEN_MOST; len++) {
                add(2, key, len);
            }
            all_differ();
            for (uint8_t type = 0; type < 32; type++) {
                for (size_t l = 0; l < 8; l++) {
                    add(type, key, lens[l]);
                }
            }
            all_differ();
        }
    }
}

/* Every bit counts, wherever it is. */
static void test_bits(void)
{
    for (size_t len = 1; len < 60; len++) {
        uint8_t key[LEN_MOST];
        random_bytes(key, len);
        new_secret();
        add(2, key, len);
        for (size_t bit = 0; bit < 8 * len && bit + 2 < KEYS_MOST; bit++) {
            key[bit / 8] ^= (uint8_t)(1u << bit % 8);
            add(2, key, len);
            key[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        all_differ();
    }
}

/* Even a word that is its mask, or the mask but for a bit, cancels nothing: of other bytes, all are
 * still in the hash. That is what is left where chance, or knowledge of one secret, hits one. */
static void test_hit(void)
{
    for (size_t l = 0; l < LENS; l++) {
        for (size_t word = 0; word < words_of(lens[l]) && lens[l] > 8; word++) {
            for (size_t k = 0; k < KNOWN * MC_SECRETS; k++) {
                uint8_t key[LEN_MOST];
                new_secret();
                for (int i = 0; i < 16; i++) {
                    random_bytes(key, lens[l]);
                    set_word(key, lens[l], word, true,
                             secret[k % MC_SECRETS] ^ known[k / MC_SECRETS]);
                    add(2, key, lens[l]);
                }
                all_differ();
            }
        }
    }
}

/* An int64 that counts up spreads over the bits that are used first, and over the last ones. */
static void test_spread(void)
{
    for (int round = 0; round < 10; round++) {
        uint64_t low[64] = {0}, high[64] = {0};
        new_secret();
        for (uint64_t i = 0; i < 64000; i++) {
            uint64_t hash = mc_hash(secret, 18, &i, sizeof i);
            low[hash & 63]++;
            high[hash >> 58]++;
        }
        for (int i = 0; i < 64; i++) { /* 1000 expected: eight standard deviations */
            CHECK(low[i] > 750 && low[i] < 1250 && high[i] > 750 && high[i] < 1250);
        }
    }
}

/* The checksum's constants are no secret, and still a word that is one of them hides nothing. */
static void test_checksum(void)
{
    for (size_t l = 4; l < LENS; l++) {
        for (size_t word = 0; word < words_of(lens[l]); word++) {
            for (size_t k = 0; k < KNOWN; k++) {
                uint8_t bytes[LEN_MOST];
                int equal = 0;
                random_bytes(bytes, lens[l]);
                set_word(bytes, lens[l], word, true, known[k]);
                uint32_t sum = mc_checksum(bytes, lens[l]);
                uint32_t entry = mc_entry_checksum(1, 2, bytes, 4, bytes, lens[l]);
                for (size_t at = 0; at < lens[l]; at++) {
                    size_t end = lens[l] - 8 * word;
                    if (at >= end || at + 8 < end) {
                        bytes[at] ^= 0x10;
                        equal += mc_checksum(bytes, lens[l]) == sum;
                        equal += mc_entry_checksum(1, 2, bytes, 4, bytes, lens[l]) == entry;
                        bytes[at] ^= 0x10;
                    }
                }
                CHECK(equal <= 1); /* of 32 bits, chance makes two agree now and then */
            }
        }
    }
}

int main(void)
{
    test_begin("test_hash");
    for (int i = 0; i < test_rounds(4); i++) {
        test_constants();
        test_taken_back();
        test_differences();
        test_hit();
    }
    test_blocks();
    test_types_and_lengths();
    test_bits();
    test_spread();
    test_checksum();
    return 0;
}
