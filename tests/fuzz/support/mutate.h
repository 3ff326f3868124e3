/* mutate.h - changes images so that most of them get past the checksums.
 *
 * The mutator changes bytes anywhere, or a word that something refers to, or what the tables look
 * like, and then makes checksums, and now and then counts, tags and the header, right again: most
 * of the code lies behind them.
 */
#ifndef MMAPCACHE_FUZZ_MUTATE_H
#define MMAPCACHE_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* A mutation of the image in data, of which `most` bytes may be used; its new length. */
size_t change_image(uint8_t *data, size_t len, size_t most, uint64_t seed);

#endif
