/* fuzz_bson.c - libFuzzer on BSON: bson_run.h says what a run is. */
#include <string.h>

#include "bson.h"
#include "bson_run.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t most);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    return run_bson(data, len);
}

/* The outer length is right, most of the time: everything else lies behind it. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t most, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t most, unsigned seed)
{
    len = LLVMFuzzerMutate(data, len, most);
    if (seed % 8 != 0 && len >= MC_BSON_SIZE_MIN) {
        uint32_t size = (uint32_t)len;
        memcpy(data, &size, sizeof size);
        data[len - 1] = 0;
    }
    return len;
}
