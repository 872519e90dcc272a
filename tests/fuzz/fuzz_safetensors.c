#include "tests/support/fuzz.h"
#include "transformer/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char one[] =
    "9\000\000\000\000\000\000\000{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}333\077"
    "ff\246\277\232\2319@\315\314\314=\000\000\240@\000\000\300@";
static const char two[] =
    "\310\000\000\000\000\000\000\000{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"F16\",\"shape\":[2"
    "],\"data_offsets\":[0,4]},\"c\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[4,8]},\"positio"
    "n_ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}}\23293\2753\077\246\277\000\000\000"
    "\000\000\000\000\000";

const struct fuzz_seed fuzz_seeds[] = { { one, sizeof one - 1 }, { two, sizeof two - 1 } };
const size_t fuzz_num_seeds = 2;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[256] = "";
    struct tensors *tensors;
    if (tensors_read(fuzz_file(bytes, size), &tensors, (struct reason){ why, sizeof why })) {
        /* A refusal is one line. */
        if (!*why || strchr(why, '\n')) abort();
        return 0;
    }
    /* What is accepted is whole, finite and under names of its own. */
    size_t total = 0;
    for (size_t i = 0; i < tensors_count(tensors); i++) {
        const struct tensor *t = tensors_at(tensors, i);
        size_t count = 1;
        for (size_t d = 0; d < t->rank; d++) count *= t->dims[d];
        total += count;
        if (2 * total > size || tensors_find(tensors, t->name) != t) abort();
        for (size_t k = 0; k < count; k++)
            if (!isfinite(t->data[k])) abort();
    }
    tensors_free(tensors);
    return 0;
}
