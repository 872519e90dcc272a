#include "data/idx.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>

static const char labels[] = "\0\0\x08\x01\0\0\0\x04\x07\x02\x01\x00";
static const char images[] = "\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02" "abcdefgh";

const struct fuzz_seed fuzz_seeds[] = { { labels, sizeof labels - 1 }, { images, sizeof images - 1 } };
const size_t fuzz_num_seeds = 2;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[64];
    struct idx a;
    for (size_t rank = 1; rank <= 3; rank += 2) {
        if (idx_read(fuzz_file(bytes, size), rank, &a, why, sizeof why)) continue;
        if (a.rank != rank || a.size + 4 * (rank + 1) != size) abort();
        idx_free(&a);
    }
    return 0;
}
