/* image.h - one run of the image fuzzer: everything that a reader and a loader do, over one file of
 * any bytes.
 *
 * An image is the beginning of a cache file; zeros follow up to 2 MiB. Any answer is right, but for
 * these: a crash, a loop that does not end, an access past the end of the file, a file that `check`
 * calls clean and a loader cannot use or leaves unclean, and a snapshot that is called valid and
 * reads differently after the commits of a loader that had opened the file.
 */
#ifndef MMAPCACHE_FUZZ_IMAGE_H
#define MMAPCACHE_FUZZ_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "region.h"

#define IMAGE_BYTES MC_MAP_MIN
#define IMAGE_MOST (64u << 10) /* bytes of an input */
#define IMAGE_PATH "image"     /* names a file of memory_region.h */

/* How the loader goes about it, chosen by the image: its time of creation means nothing else. */
enum {
    CHOOSE_RETENTION = 1,  /* superseded blocks wait, so that old views stay valid */
    CHOOSE_RESIZE = 2,     /* another maximum size: a successor is made */
    CHOOSE_RECREATE = 4,   /* what cannot be opened is replaced */
    CHOOSE_CHECKPOINT = 8, /* before the commits */
    CHOOSE_ABORT = 16,     /* the first batch is given up */
    CHOOSE_SHORT = 32,     /* half of the file is missing */
    CHOOSE_LONG = 64,      /* a killed loader had begun to make it grow */
    CHOOSE_INDEX = 128,    /* an index is made, and one is taken away */
    CHOOSE_LARGE = 0x3F00, /* all of these: documents that make the file grow, which takes long */
};

/* The file as it is now, without the zeros after it. */
size_t image_take(uint8_t to[IMAGE_MOST]);

size_t small_document(uint8_t to[64], int64_t id);

int run_image(const uint8_t *data, size_t len);

#endif
