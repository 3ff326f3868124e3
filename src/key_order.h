/* key_order.h - the order of canonical keys: the one in which MongoDB sorts `_id`. */
#ifndef MMAPCACHE_KEY_ORDER_H
#define MMAPCACHE_KEY_ORDER_H

#include <stddef.h>
#include <stdint.h>

/* Negative, 0 or positive, as memcmp; 0 for the same key alone. Subdocuments, regular expressions
 * and code go by their bytes, and decimals that a double tells not apart, too. The bytes may be
 * anything. */
int mc_key_compare(uint8_t type, const uint8_t *data, size_t len, uint8_t other_type,
                   const uint8_t *other, size_t other_len);

#endif
