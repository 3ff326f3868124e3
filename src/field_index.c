/* field_index.c - the fields of a large document, found by a byte of each (see field_index.h). */
#include "field_index.h"

#include <assert.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define LINE 64u
#define PREFETCH_BYTES 4096 /* of 32 fields: longer values are passed over, not looked at */

/* Any hash will do: a mark that two names share costs a walk over a few fields. */
static uint8_t mark_of(const uint8_t *name, size_t len)
{
    uint32_t hash = 2166136261u; /* FNV-1a: Fowler, Noll and Vo */
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ name[i]) * 16777619u;
    }
    hash ^= hash >> 15;
    return (uint8_t)(hash % 255 + 1);
}

unsigned mc_field_index_blocks(const uint8_t *value, size_t len)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    enum mc_status status;
    unsigned fields = 0, blocks;
    if (len < MC_FIELD_INDEX_MIN || mc_bson_size(value, len) != len) {
        return 0;
    }
    (void)mc_bson_open(&cursor, value, len);
    while ((status = mc_bson_next(&cursor, &element)) == MC_OK &&
           fields <= MC_BLOCKS_MAX * MC_BLOCK_FIELDS) {
        fields++;
    }
    blocks = (fields + MC_BLOCK_FIELDS - 1) / MC_BLOCK_FIELDS;
    if (status != MC_ABSENT || fields < MC_BLOCK_FIELDS || blocks > MC_BLOCKS_MAX) {
        return 0;
    }
    return blocks * MC_BLOCK_BYTES <= len / MC_FIELD_INDEX_SHARE ? blocks : 0;
}

void mc_field_index_make(const uint8_t *value, size_t len, unsigned blocks, uint8_t *index)
{
    struct mc_bson_cursor cursor;
    struct mc_bson_element element;
    memset(index, 0, (size_t)blocks * MC_BLOCK_BYTES);
    (void)mc_bson_open(&cursor, value, len);
    for (unsigned field = 0; field < blocks * MC_BLOCK_FIELDS; field++) {
        uint32_t offset = (uint32_t)(cursor.at - value);
        if (mc_bson_next(&cursor, &element) != MC_OK) {
            return;
        }
        uint8_t *block = index + (size_t)(field / MC_BLOCK_FIELDS) * MC_BLOCK_BYTES;
        unsigned place = field % MC_BLOCK_FIELDS;
        if (place % MC_BLOCK_GROUP == 0) {
            memcpy(block + 4 * (place / MC_BLOCK_GROUP), &offset, sizeof offset);
        }
        block[4 * MC_BLOCK_OFFSETS + place] = mark_of(element.name, element.name_len);
    }
}

/* Bit i is set when byte i of the 16 is the mark. */
static inline uint32_t alike_of_16(const uint8_t *marks, uint8_t mark)
{
#ifdef __SSE2__
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)marks);
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8((char)mark)));
#else
    uint32_t alike = 0;
    for (unsigned i = 0; i < 16; i++) {
        alike |= (uint32_t)(marks[i] == mark) << i;
    }
    return alike;
#endif
}

/* The field at a place of a block, in a document whose fields have `mean` bytes on average: MC_OK,
 * or MC_INVALID where there is none. */
static enum mc_status field_at(const uint8_t *value, size_t size, const uint8_t *block,
                               unsigned place, size_t mean, struct mc_bson_element *element)
{
    enum mc_status status;
    const uint8_t *offsets = block + 4 * (size_t)(place / MC_BLOCK_GROUP);
    uint32_t offset = mc_bson_u32(offsets);
    if (offset < 4 || offset >= size) {
        return MC_INVALID;
    }
    struct mc_bson_cursor cursor = {.at = value + offset, .end = value + size - 1};
    unsigned left = place % MC_BLOCK_GROUP;
    size_t most = left * mean + LINE;
    for (size_t at = 0; at < most && at < PREFETCH_BYTES && at < size - offset; at += LINE) {
        __builtin_prefetch(cursor.at + at);
    }
    do {
        status = mc_bson_next(&cursor, element);
    } while (status == MC_OK && left-- > 0);
    return status == MC_OK ? MC_OK : MC_INVALID;
}

enum mc_status mc_field_index_find(const uint8_t *value, size_t len, const uint8_t *index,
                                   unsigned blocks, const char *name, size_t name_len,
                                   struct mc_bson_element *element)
{
    size_t size = mc_bson_size(value, len);
    uint8_t mark = mark_of((const uint8_t *)name, name_len);
    assert(blocks > 0 && blocks <= MC_BLOCKS_MAX);
    if (size == 0) {
        return MC_INVALID;
    }
    size_t mean = size / (blocks * MC_BLOCK_FIELDS) + 1;
    for (unsigned i = 0; i < blocks * MC_BLOCK_FIELDS; i += 16) {
        const uint8_t *block = index + (size_t)(i / MC_BLOCK_FIELDS) * MC_BLOCK_BYTES;
        unsigned first = i % MC_BLOCK_FIELDS;
        uint32_t alike = alike_of_16(block + 4 * MC_BLOCK_OFFSETS + first, mark);
        for (; alike != 0; alike &= alike - 1) {
            unsigned place = first + (unsigned)__builtin_ctz(alike);
            enum mc_status status = field_at(value, size, block, place, mean, element);
            if (status != MC_OK) {
                return status;
            }
            if (element->name_len == name_len && memcmp(element->name, name, name_len) == 0) {
                return MC_OK;
            }
        }
    }
    return MC_ABSENT;
}

enum mc_status mc_field_index_pluck(const uint8_t *value, size_t len, const uint8_t *index,
                                    unsigned blocks, const char *path, size_t path_len,
                                    struct mc_bson_element *element)
{
    if (blocks == 0) {
        return mc_bson_pluck(value, len, path, path_len, element);
    }
    const char *dot = memchr(path, '.', path_len);
    size_t part = dot != NULL ? (size_t)(dot - path) : path_len;
    enum mc_status status = mc_field_index_find(value, len, index, blocks, path, part, element);
    if (status != MC_OK || dot == NULL) {
        return status;
    }
    return mc_bson_pluck_on(element, path + part + 1, path_len - part - 1);
}
