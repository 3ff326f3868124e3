/* entry.h - versions, the clock that makes them, and the bytes of a stored value.
 *
 * docs/ring.md has both byte by byte. Pure functions but for the clock, which is its owner's:
 * whoever shares one among threads locks it. Times are milliseconds since 1970.
 */
#ifndef MMAPCACHE_RING_ENTRY_H
#define MMAPCACHE_RING_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RING_VERSION_BYTES = 16,
    RING_WRITER_BYTES = 8,
    RING_HEADER_BYTES = 28,
    RING_TOMBSTONE_MS = 3600 * 1000 /* from a deletion's version to its end */
};

/* The latest time that a version or an end can say: the year 6429. A clock has room above it. */
#define RING_TIME_MAX ((UINT64_C(1) << 47) - 1)

struct ring_version {
    unsigned char bytes[RING_VERSION_BYTES];
};

/* Below zero, 0 or above, as memcmp. */
int ring_version_compare(const struct ring_version *a, const struct ring_version *b);
uint64_t ring_version_time(const struct ring_version *version);

/* ---- a hybrid logical clock (Kulkarni et al., 2014) ---- */

struct ring_clock {
    uint64_t time; /* of the last version */
    uint16_t counter;
    unsigned char writer[RING_WRITER_BYTES];
};

/* A version above every one that this clock made or saw. */
struct ring_version ring_clock_next(struct ring_clock *clock, uint64_t now);

/* From now on the clock's versions are above this one, whose time is RING_TIME_MAX at most. */
void ring_clock_learn(struct ring_clock *clock, const struct ring_version *version);

/* From now on they are not of an earlier time than this one, RING_TIME_MAX at most. */
void ring_clock_learn_time(struct ring_clock *clock, uint64_t time);

/* ---- a stored value ---- */

enum ring_kind { RING_VALUE = 1, RING_TOMBSTONE = 2 };

struct ring_entry {
    enum ring_kind kind;
    struct ring_version version;
    uint64_t end;               /* 0: never */
    const unsigned char *value; /* within the bytes that were decoded */
    size_t length;
};

/* The first bytes of an entry; those of the value follow. */
void ring_entry_header(unsigned char header[RING_HEADER_BYTES], enum ring_kind kind,
                       const struct ring_version *version, uint64_t end);

/* False: these are not the bytes of a stored value. */
bool ring_entry_decode(struct ring_entry *entry, const void *bytes, size_t length);

/* When the tombstone of a deletion with this version ends. */
uint64_t ring_tombstone_end(const struct ring_version *version);

#endif
