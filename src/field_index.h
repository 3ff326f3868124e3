/* field_index.h - where the fields of a large document begin: one is found without a walk over
 * those before it, each of which is another line of memory.
 *
 *   entry    header | key | value: a BSON document | block | block | ...
 *   block    2 offsets of 4 bytes | 64 marks of a byte           64 fields, in the document's order
 *
 * A mark is a byte of a hash of the field's name, 1 to 255; 0: there are no more fields. An offset,
 * from the start of the document, is where the first of 32 fields begins. So a search looks at a
 * byte of each field, goes to where 32 of them begin that have one with the right mark, and walks
 * on from there: 1.1 bytes a field, and some ten lines of memory for a document of any size.
 *
 * Only the fields of the document itself count, not those of documents in it.
 */
#ifndef MMAPCACHE_FIELD_INDEX_H
#define MMAPCACHE_FIELD_INDEX_H

#include "bson.h"

#define MC_FIELD_INDEX_MIN 4096u /* bytes of the smallest document that has one */
#define MC_FIELD_INDEX_SHARE 40u /* an index has at most this part of its document's bytes */
#define MC_BLOCK_FIELDS 64u
#define MC_BLOCK_GROUP 32u /* fields behind an offset */
#define MC_BLOCK_OFFSETS (MC_BLOCK_FIELDS / MC_BLOCK_GROUP)
#define MC_BLOCK_BYTES (4u * MC_BLOCK_OFFSETS + MC_BLOCK_FIELDS)
#define MC_BLOCKS_MAX 127u /* what 7 bits of an entry's header can say */
#define MC_FIELD_INDEX_MAX (MC_BLOCKS_MAX * MC_BLOCK_BYTES) /* bytes of the largest */

/* How many blocks the index of a value is to have; 0: none, as it is small, has few fields or too
 * many, or is no document. */
unsigned mc_field_index_blocks(const uint8_t *value, size_t len);

/* Writes the blocks of a document, as many as mc_field_index_blocks said. With another number,
 * which a file that lies may have, some fields are missing, or the last blocks empty. */
void mc_field_index_make(const uint8_t *value, size_t len, unsigned blocks, uint8_t *index);

/* As mc_bson_find, by the index of a document, which has so many blocks. The bytes of neither are
 * trusted: an index that lies makes a field absent, or the document invalid. */
enum mc_status mc_field_index_find(const uint8_t *value, size_t len, const uint8_t *index,
                                   unsigned blocks, const char *name, size_t name_len,
                                   struct mc_bson_element *element);

/* As mc_bson_pluck, in a document with an index of so many blocks, perhaps none. */
enum mc_status mc_field_index_pluck(const uint8_t *value, size_t len, const uint8_t *index,
                                    unsigned blocks, const char *path, size_t path_len,
                                    struct mc_bson_element *element);

#endif
