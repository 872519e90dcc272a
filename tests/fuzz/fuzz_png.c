#include "data/png.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

/* 2 x 2 with transparency, 3 x 1 of a palette, 2 x 2 grey of 16 bits. */
static const char rgba[] =
    "\211PNG\015\012\032\012\000\000\000\015IHDR\000\000\000\002\000\000\000\002\010\006\000\000\000r\266\015"
    "$\000\000\000\025IDATx\332c`e8\301\000\302\014\374\"'\376\2030\000\"\256\005o\276\270m\243\000\000\000"
    "\000IEND\256B`\202";
static const char palette[] =
    "\211PNG\015\012\032\012\000\000\000\015IHDR\000\000\000\003\000\000\000\001\002\003\000\000\000f\216\374"
    "'\000\000\000\011PLTE\001\002\003dnx\377\000\007\334\305M>\000\000\000\012IDATx\332c\220\000\000\000\032"
    "\000\031\200\000\216\273\000\000\000\000IEND\256B`\202";
static const char grey[] =
    "\211PNG\015\012\032\012\000\000\000\015IHDR\000\000\000\002\000\000\000\002\020\000\000\000\000\007M\216"
    "\273\000\000\000\022IDATx\332c\0202\371\377\237\201\201\241\201\001\000\020\077\002\305s\254\011\243\000"
    "\000\000\000IEND\256B`\202";

const struct fuzz_seed fuzz_seeds[] = {
    { rgba, sizeof rgba - 1 }, { palette, sizeof palette - 1 }, { grey, sizeof grey - 1 },
};
const size_t fuzz_num_seeds = 3;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char why[256] = "";
    struct png_rgb image;
    if (png_read_rgb(fuzz_file(bytes, size), &image, (struct reason){ why, sizeof why })) {
        /* A refusal is one line. */
        if (!*why || strchr(why, '\n')) abort();
        return 0;
    }
    if (!image.width || !image.height || image.width * image.height > PNG_MAX_PIXELS) abort();
    free(image.data);
    return 0;
}
