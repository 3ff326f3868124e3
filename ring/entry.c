/* entry.c - versions and stored values, to and from bytes. */
#include "entry.h"

#include <string.h>

enum { MAGIC = 0xA7, KIND_AT = 1, ZERO_AT = 2, VERSION_AT = 4, END_AT = 20 };
/* The first eight bytes of a version are one number: time and counter. */
enum { COUNTER_BITS = 16, WRITER_AT = 8 };

/* Big-endian numbers; this project is built for little-endian machines alone. */
static inline void store(unsigned char *at, uint64_t number)
{
    number = __builtin_bswap64(number);
    memcpy(at, &number, sizeof number);
}

static inline uint64_t load(const unsigned char *at)
{
    uint64_t number;
    memcpy(&number, at, sizeof number);
    return __builtin_bswap64(number);
}

int ring_version_compare(const struct ring_version *a, const struct ring_version *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

uint64_t ring_version_time(const struct ring_version *version)
{
    return load(version->bytes) >> COUNTER_BITS;
}

/* Moves the clock to a time and counter, unless it is beyond them. */
static void move(struct ring_clock *clock, uint64_t time, uint16_t counter)
{
    if (time > clock->time || (time == clock->time && counter > clock->counter)) {
        clock->time = time;
        clock->counter = counter;
    }
}

struct ring_version ring_clock_next(struct ring_clock *clock, uint64_t now)
{
    if (now > clock->time) {
        clock->time = now;
        clock->counter = 0;
    } else if (++clock->counter == 0) { /* all of this millisecond are given away */
        clock->time++;
    }
    struct ring_version version;
    store(version.bytes, clock->time << COUNTER_BITS | clock->counter);
    memcpy(version.bytes + WRITER_AT, clock->writer, sizeof clock->writer);
    return version;
}

void ring_clock_learn(struct ring_clock *clock, const struct ring_version *version)
{
    move(clock, ring_version_time(version), (uint16_t)load(version->bytes));
}

void ring_clock_learn_time(struct ring_clock *clock, uint64_t time)
{
    move(clock, time, 0);
}

uint64_t ring_tombstone_end(const struct ring_version *version)
{
    return ring_version_time(version) + RING_TOMBSTONE_MS;
}

void ring_entry_header(unsigned char header[RING_HEADER_BYTES], enum ring_kind kind,
                       const struct ring_version *version, uint64_t end)
{
    header[0] = MAGIC;
    header[KIND_AT] = (unsigned char)kind;
    header[ZERO_AT] = 0;
    header[ZERO_AT + 1] = 0;
    memcpy(header + VERSION_AT, version->bytes, sizeof version->bytes);
    store(header + END_AT, end);
}

bool ring_entry_decode(struct ring_entry *entry, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    if (length < RING_HEADER_BYTES || at[0] != MAGIC || at[ZERO_AT] != 0 || at[ZERO_AT + 1] != 0 ||
        (at[KIND_AT] != RING_VALUE && at[KIND_AT] != RING_TOMBSTONE)) {
        return false;
    }
    entry->kind = at[KIND_AT] == RING_VALUE ? RING_VALUE : RING_TOMBSTONE;
    memcpy(entry->version.bytes, at + VERSION_AT, sizeof entry->version.bytes);
    entry->end = load(at + END_AT);
    entry->value = at + RING_HEADER_BYTES;
    entry->length = length - RING_HEADER_BYTES;
    if (ring_version_time(&entry->version) > RING_TIME_MAX || entry->end > RING_TIME_MAX) {
        return false;
    }
    return entry->kind == RING_VALUE ||
           (entry->length == 0 && entry->end == ring_tombstone_end(&entry->version));
}
