/* fuzz_image.c - libFuzzer on cache files: image.h says what a run is, mutate.h what a mutation. */
#include "image.h"
#include "mutate.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t most);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    return run_image(data, len);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t most, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t most, unsigned seed)
{
    if (seed % 4 == 0) { /* bytes anywhere */
        len = LLVMFuzzerMutate(data, len, most);
    }
    return change_image(data, len, most, seed);
}
