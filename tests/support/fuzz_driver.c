/* fuzz_X [SECONDS [FOLDER]]: feeds mutated seeds, the target's and the files of the folder, to it; a crash is a
 * failure. */
#include "tests/support/fuzz.h"

#include <glob.h>
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
    glob_t files = { 0 };
    char pattern[4096];
    snprintf(pattern, sizeof pattern, "%s/*", argc > 2 ? argv[2] : "/dev/null");
    if (glob(pattern, 0, NULL, &files)) files.gl_pathc = 0;
    while (difftime(time(NULL), start) < seconds) {
        uint8_t bytes[MAX_SIZE];
        const size_t which = draw(fuzz_num_seeds + files.gl_pathc);
        size_t size;
        if (which < fuzz_num_seeds) {
            size = fuzz_seeds[which].size;
            memcpy(bytes, fuzz_seeds[which].bytes, size);
        } else {
            FILE *file = fopen(files.gl_pathv[which - fuzz_num_seeds], "rb");
            size = file ? fread(bytes, 1, MAX_SIZE, file) : 0;
            if (file) fclose(file);
        }
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
    globfree(&files);
    return 0;
}
