/* test_buddy_state.c - the buddy allocator from inside: its words, its memory, damage to its state.
 *
 * 1. the word arithmetic of buddy_words.h against loops over bits
 * 2. every malloc made to fail in turn: MC_NOMEM, nothing changed, and it goes on
 * 3. every bit of the state flipped: mc_buddy_check says so
 * 4. the memory held, counted at malloc, stays below 1 % of the arena
 */
#include "buddy_state.h"
#include "faults.h"
#include "naive_buddy.h"

#define GRANULE_BYTES 16u

/* -- 1 -- */

static bool ones(uint64_t word, unsigned from, unsigned length)
{
    for (unsigned i = from; i < from + length; i++) {
        if (i >= 64 || (word >> i & 1) == 0) {
            return false;
        }
    }
    return true;
}

static void check_word(uint64_t word)
{
    unsigned longest = 0;
    for (unsigned length = 1; length <= 64; length++) {
        uint64_t starts = 0;
        for (unsigned from = 0; from < 64; from++) {
            starts |= (uint64_t)ones(word, from, length) << from;
        }
        CHECK_EQ(starts_of(word, length), starts);
        if (starts != 0) {
            longest = length;
        }
    }
    if (word != 0 && word != FULL_WORD) {
        unsigned at;
        CHECK_EQ(longest_run(word, &at), longest);
        CHECK_EQ(at, lowest(starts_of(word, longest)));
    }
}

static void words(void)
{
    for (unsigned from = 0; from < 64; from += (unsigned)test_sample) {
        for (unsigned to = from + 1; to <= 64; to++) {
            uint64_t word = span(from, to);
            CHECK(ones(word, from, to - from));
            CHECK_EQ(__builtin_popcountll(word), to - from);
            CHECK_EQ(lowest(word), from);
            CHECK_EQ(highest(word), to - 1);
            check_word(word);
            check_word(~word);
        }
    }
    for (unsigned i = 0; i < (unsigned)test_rounds(500); i++) {
        uint64_t word = test_random();
        check_word(word);
        check_word(word | test_random());
        check_word(word | test_random() | test_random() | test_random());
    }
    unsigned last = 0;
    for (uint64_t length = 1; length < 1 << 20; length++) {
        unsigned size_class = run_class(length);
        CHECK(size_class == last || size_class == last + 1);
        CHECK_EQ(size_class == last, naive_class(length) == naive_class(length - 1) && length > 1);
        last = size_class;
    }
    CHECK(run_class(MC_BUDDY_MAX_GRANULES) < CLASSES);
}

/* -- 2 -- */

/* A copy of the whole state: words of array i at copy[i]. */
static void copy_state(struct mc_buddy *b, uint64_t *copy[], uint64_t count[])
{
    for (unsigned which = 0; which < MC_BUDDY_TEST_ARRAYS; which++) {
        const uint64_t *array = mc_buddy_test_words(b, which, &count[which]);
        copy[which] = malloc(count[which] * sizeof(uint64_t) + 1);
        CHECK(copy[which] != NULL);
        if (count[which] > 0) {
            memcpy(copy[which], array, count[which] * sizeof(uint64_t));
        }
    }
}

static void compare_state(struct mc_buddy *b, uint64_t *copy[], const uint64_t count[])
{
    for (unsigned which = 0; which < MC_BUDDY_TEST_ARRAYS; which++) {
        uint64_t words;
        const uint64_t *array = mc_buddy_test_words(b, which, &words);
        CHECK_EQ(words, count[which]);
        CHECK(words == 0 || memcmp(array, copy[which], words * sizeof(uint64_t)) == 0);
        free(copy[which]);
    }
}

/* Growth with the k-th allocation failing, for k = 0, 1, ..., until it passes; how often it
 * failed. */
static unsigned failing_growth(struct mc_buddy *b, uint64_t granules)
{
    for (unsigned k = 0;; k++) {
        uint64_t *copy[MC_BUDDY_TEST_ARRAYS], count[MC_BUDDY_TEST_ARRAYS];
        uint64_t before = mc_buddy_granules(b), offset;
        copy_state(b, copy, count);
        faults_arm(FAULT_BIT(FAULT_MEMORY), k, true, 0);
        enum mc_status status = mc_buddy_grow(b, granules);
        (void)faults_disarm();
        if (status == MC_OK) {
            for (unsigned which = 0; which < MC_BUDDY_TEST_ARRAYS; which++) {
                free(copy[which]);
            }
            CHECK_EQ(mc_buddy_granules(b), granules);
            return k;
        }
        CHECK_EQ(status, MC_NOMEM);
        CHECK_EQ(mc_buddy_granules(b), before);
        compare_state(b, copy, count);
        CHECK_EQ(mc_buddy_check(b), MC_OK);
        CHECK_EQ(mc_buddy_alloc(b, 30, &offset), MC_OK);
    }
}

static void failing_memory(void)
{
    struct mc_buddy *b = NULL;
    unsigned failed = 0;
    enum mc_status status;
    do {
        faults_arm(FAULT_BIT(FAULT_MEMORY), failed, true, 0);
        status = mc_buddy_create(5000, NAIVE_MAX, &b);
        (void)faults_disarm();
        CHECK(status == MC_OK || (status == MC_NOMEM && b == NULL));
        failed += status != MC_OK;
    } while (status != MC_OK);
    CHECK_EQ(failed, 6); /* itself, the class bytes, three levels of words, one has[] */
    failed += failing_growth(b, 5001);
    failed += failing_growth(b, 70000);
    failed += failing_growth(b, 262143);
    failed += failing_growth(b, 262144); /* the root rises */
    failed += failing_growth(b, 300000);
    mc_buddy_destroy(b);
    CHECK(failed >= 15);
    printf("  %u failed allocations\n", failed);
}

/* -- 3 -- */

/* Flips each bit of the state, or a sample of them; every flip must be seen. */
static unsigned flip_every_bit(struct mc_buddy *b)
{
    unsigned flips = 0;
    CHECK_EQ(mc_buddy_check(b), MC_OK);
    for (unsigned which = 0; which < MC_BUDDY_TEST_ARRAYS; which++) {
        uint64_t count, *array = mc_buddy_test_words(b, which, &count);
        uint64_t step = (uint64_t)test_sample;
        for (uint64_t bit = test_below(step); bit < count * 64; bit += step, flips++) {
            array[bit / 64] ^= UINT64_C(1) << (bit % 64);
            CHECK_EQ(mc_buddy_check(b), MC_CORRUPT);
            array[bit / 64] ^= UINT64_C(1) << (bit % 64);
        }
    }
    CHECK_EQ(mc_buddy_check(b), MC_OK);
    return flips;
}

/* Two faults that keep the count right: only the structure shows them. */
static void move_a_bit(struct mc_buddy *b)
{
    uint64_t count, *words = mc_buddy_test_words(b, 0, &count);
    uint64_t *units = mc_buddy_test_words(b, 1, &count);
    uint64_t *free_granules = mc_buddy_test_words(b, 2 * LEVELS + 1, &count);
    /* An unmerged leaf: all ones below, where the parent's bit should stand. */
    unsigned unit = lowest(units[0]);
    units[0] ^= UINT64_C(1) << unit;
    words[unit] = FULL_WORD;
    CHECK_EQ(mc_buddy_check(b), MC_CORRUPT);
    /* Free twice, once below the parent's bit. */
    units[0] ^= UINT64_C(1) << unit;
    words[unit] = 1;
    *free_granules += 1;
    CHECK_EQ(mc_buddy_check(b), MC_CORRUPT);
    words[unit] = 0;
    *free_granules -= 1;
    CHECK_EQ(mc_buddy_check(b), MC_OK);
}

static void damage(void)
{
    const uint64_t arenas[] = {70, 4200};
    unsigned flips = 0;
    for (unsigned i = 0; i < 2; i++) {
        struct mc_buddy *b;
        CHECK_EQ(mc_buddy_create(arenas[i], arenas[i], &b), MC_OK);
        for (unsigned k = 0; k < arenas[i] / 70; k++) {
            (void)mc_buddy_reserve(b, i == 0 ? 20 : 200 + test_below(3900), 3);
        }
        flips += flip_every_bit(b);
        if (i == 1) {
            move_a_bit(b);
        }
        mc_buddy_destroy(b);
    }
    printf("  %u flipped bits\n", flips);
}

/* Arenas with a level more, whose check is too slow to flip every bit: some hundred bits. */
static void damage_to_many_levels(void)
{
    struct mc_buddy *b;
    CHECK_EQ(mc_buddy_create(300000, 300000, &b), MC_OK);
    for (uint64_t at = 0; at < 300000; at += 1000) {
        CHECK_EQ(mc_buddy_reserve(b, at, 1 + test_below(900)), MC_OK);
    }
    for (unsigned which = 0; which < MC_BUDDY_TEST_ARRAYS; which++) {
        uint64_t count, *array = mc_buddy_test_words(b, which, &count);
        for (unsigned i = 0; i < (unsigned)test_rounds(40) && count > 0; i++) {
            uint64_t bit = test_below(count * 64);
            array[bit / 64] ^= UINT64_C(1) << (bit % 64);
            CHECK_EQ(mc_buddy_check(b), MC_CORRUPT);
            array[bit / 64] ^= UINT64_C(1) << (bit % 64);
        }
    }
    mc_buddy_destroy(b);
}

/* -- 4 -- */

static struct block {
    const void *pointer;
    uint64_t bytes;
} held[32]; /* what the allocator in hand has; of one only, since it frees unseen */

static void count_block(const void *old, const void *now, size_t bytes)
{
    unsigned slot = 0;
    while (held[slot].pointer != old) {
        CHECK(++slot < 32);
    }
    held[slot] = (struct block){now, bytes};
}

static uint64_t bytes_held(void)
{
    uint64_t bytes = 0;
    for (unsigned slot = 0; slot < 32; slot++) {
        bytes += held[slot].bytes;
    }
    return bytes;
}

static void memory_of(uint64_t granules, uint64_t step)
{
    struct mc_buddy *b;
    memset(held, 0, sizeof held);
    faults_watch = count_block;
    CHECK_EQ(mc_buddy_create(step, granules, &b), MC_OK);
    while (mc_buddy_granules(b) + step <= granules) {
        CHECK_EQ(mc_buddy_grow(b, mc_buddy_granules(b) + step), MC_OK);
        uint64_t arena_bytes = mc_buddy_granules(b) * GRANULE_BYTES;
        CHECK_EQ(bytes_held(), mc_buddy_state_bytes(b));
        CHECK(bytes_held() <= arena_bytes / 100);
    }
    printf("  %" PRIu64 " MiB in steps of %" PRIu64 ": %.3f %% held\n",
           granules * GRANULE_BYTES >> 20, step * GRANULE_BYTES >> 20,
           100.0 * (double)bytes_held() / (double)(mc_buddy_granules(b) * GRANULE_BYTES));
    faults_watch = NULL;
    mc_buddy_destroy(b);
}

/* Free to its end, on the border of a unit that has all of the words below it. */
static void test_free_to_the_end(void)
{
    struct mc_buddy *b;
    CHECK_EQ(mc_buddy_create(8192, 8192, &b), MC_OK);
    CHECK_EQ(mc_buddy_free_blocks(b, 0), 0);
    CHECK_EQ(mc_buddy_free_blocks(b, 13), 1);
    CHECK_EQ(mc_buddy_reserve(b, 4095, 1), MC_OK);
    CHECK_EQ(mc_buddy_free_blocks(b, 0), 1);
    CHECK_EQ(mc_buddy_free_blocks(b, 12), 1);
    mc_buddy_destroy(b);
}

int main(void)
{
    test_begin("test_buddy_state");
    words();
    failing_memory();
    damage();
    damage_to_many_levels();
    memory_of(1 << 17, 1 << 17);
    memory_of(1 << 22, 1 << 17);
    memory_of(1 << 25, 1 << 23);
    test_free_to_the_end();
    return 0;
}
