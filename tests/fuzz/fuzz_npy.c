#include "common/npy.h"
#include "tests/support/fuzz.h"

#include <math.h>
#include <stdlib.h>

#define ONE "\0\0\0\0\0\0\xf0\x3f"
#define DATA ONE ONE ONE ONE ONE ONE

static const char one[] = "\x93NUMPY\x01\x00\x3c\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n" DATA;
static const char two[] = "\x93NUMPY\x02\x00\x3c\x00\x00\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), "
                          "}\n" DATA;
static const char single[] = "\x93NUMPY\x01\x00\x3c\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }\n"
    DATA;

const struct fuzz_seed fuzz_seeds[] = { { one, sizeof one - 1 }, { two, sizeof two - 1 },
                                        { single, sizeof single - 1 } };
const size_t fuzz_num_seeds = 3;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[64];
    for (int single_precision = 0; single_precision < 2; single_precision++) {
        struct npy a;
        if (npy_read(fuzz_file(bytes, size), single_precision, &a, why, sizeof why)) continue;
        /* An array that is accepted is whole and finite. */
        size_t count = 1;
        for (size_t i = 0; i < a.rank; i++) count *= a.shape[i];
        if (count != a.size || a.size * 4 > size) abort();
        for (size_t i = 0; i < a.size; i++)
            if (!isfinite(single_precision ? (double)a.f32[i] : a.f64[i])) abort();
        npy_free(&a);
    }
    return 0;
}
