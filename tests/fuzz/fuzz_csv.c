#include "common/npy.h"
#include "tests/support/fuzz.h"

#include <math.h>
#include <stdlib.h>

static const char table[] = "0.7,-1.3,2.9\n1e-3,4,+5.5E2\n";
static const char windows[] = "1,2\r\n 3 ,\t4\r\n\r\n";

const struct fuzz_seed fuzz_seeds[] = { { table, sizeof table - 1 }, { windows, sizeof windows - 1 } };
const size_t fuzz_num_seeds = 2;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[64];
    struct npy a;
    if (csv_read_numbers(fuzz_file(bytes, size), &a, why, sizeof why)) return 0;
    if (a.rank != 2 || !a.size || a.shape[0] * a.shape[1] != a.size || a.size > size) abort();
    for (size_t i = 0; i < a.size; i++)
        if (!isfinite(a.f64[i])) abort();
    npy_free(&a);
    return 0;
}
