/* fuzz_X [SECONDS]: feeds mutated seeds to the target; a crash is a failure. */
#include "tests/support/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/random.h"

enum { MAX_SIZE = 4096 };

static uint64_t drawn;

static size_t draw(size_t n)
{
    return random_index(20240614, RANDOM_OTHER, 0, drawn++, n);
}

/* One of: a changed bit, a byte that means something to a parser, a cut, a copied
 * piece. */
static size_t mutate(uint8_t *bytes, size_t size)
{
    static const char telling[] = "0123456789-+.,:'\"(){}[]<>eEfFxX \n\r\t#\xff\x80\x7f";
    const size_t at = size ? draw(size) : 0;
    switch (draw(4)) {
    case 0:
        if (size) bytes[at] ^= (uint8_t)(1u << draw(8));
        return size;
    case 1:
        if (size) bytes[at] = (uint8_t)telling[draw(sizeof telling)];
        return size;
    case 2:
        return draw(8) ? size : at;
    default: {
        const size_t count = 1 + draw(16), from = size ? draw(size) : 0;
        if (from + count > size || size + count > MAX_SIZE) return size;
        memmove(bytes + at + count, bytes + at, size - at);
        memmove(bytes + at, bytes + from, count);
        return size + count;
    }
    }
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 10.0;
    const time_t start = time(NULL);
    size_t runs = 0;
    while (difftime(time(NULL), start) < seconds) {
        uint8_t bytes[MAX_SIZE];
        const struct fuzz_seed *seed = &fuzz_seeds[draw(fuzz_num_seeds)];
        size_t size = seed->size;
        memcpy(bytes, seed->bytes, size);
        for (size_t count = draw(8); count; count--) size = mutate(bytes, size);
        /* A copy of its own size, so that reading beyond its end is seen. */
        uint8_t *exact = malloc(size ? size : 1);
        if (!exact) return 1;
        memcpy(exact, bytes, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
        runs++;
    }
    printf("%zu inputs\n", runs);
    return 0;
}
