#include "tests/support/fuzz.h"
#include "transformer/onnx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Two float tensors, one with packed dimensions, and one of integers. */
static const char model[] =
    "\010\010:c\022\005graph*(\010\002\010\003\020\001B\006weightJ\030333\077ff\246\277\232\2319@\315\314\314"
    "=\000\000\240@\000\000\300@*\031\012\001\003\020\001B\004biasJ\014333\077ff\246\277\232\2319@*\025\010"
    "\001\020\007B\005shapeJ\010\000\000\000\000\000\000\000\000B\002\020\021";

const struct fuzz_seed fuzz_seeds[] = { { model, sizeof model - 1 } };
const size_t fuzz_num_seeds = 1;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[256] = "";
    struct tensors *tensors;
    if (onnx_read(fuzz_file(bytes, size), &tensors, (struct reason){ why, sizeof why })) {
        /* A refusal is one line. */
        if (!*why || strchr(why, '\n')) abort();
        return 0;
    }
    size_t total = 0;
    for (size_t i = 0; i < tensors_count(tensors); i++) {
        const struct tensor *t = tensors_at(tensors, i);
        size_t count = 1;
        for (size_t d = 0; d < t->rank; d++) count *= t->dims[d];
        total += count;
        if (4 * total > size || tensors_find(tensors, t->name) != t) abort();
        for (size_t k = 0; k < count; k++)
            if (!isfinite(t->data[k])) abort();
    }
    tensors_free(tensors);
    return 0;
}
