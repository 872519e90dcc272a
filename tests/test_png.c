/* PNG: every colour type and depth as it was written, every damaged file refused. */
#include "data/png.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 5, HEIGHT = 3, MAX_FILE = 4096 };

static char why[256];

static const png_color palette[] = { { 1, 2, 3 }, { 255, 0, 7 }, { 100, 110, 120 }, { 9, 200, 90 } };
static const png_byte palette_alpha[] = { 255, 0, 255, 255 };

/* Sample c of pixel (x, y), of `depth` bits; alpha is all or nothing. */
static unsigned sample(int x, int y, int c, int depth, bool is_alpha)
{
    const unsigned most = (1u << depth) - 1;
    if (is_alpha) return (x + y) % 3 ? most : 0;
    return (unsigned)(x * 7919 + y * 104729 + c * 15485863 + 12345) & most;
}

static int channels_of(int colour)
{
    return colour == PNG_COLOR_TYPE_RGB ? 3 : colour == PNG_COLOR_TYPE_RGB_ALPHA ? 4
        : colour == PNG_COLOR_TYPE_GRAY_ALPHA ? 2 : 1;
}

/* Packs one row as PNG has it: big-endian, pixels of less than a byte from the high end. */
static void pack_row(int y, int colour, int depth, unsigned char row[WIDTH * 8])
{
    const int channels = channels_of(colour);
    memset(row, 0, WIDTH * 8);
    for (int x = 0; x < WIDTH; x++)
        for (int c = 0; c < channels; c++) {
            const bool is_alpha = (colour & PNG_COLOR_MASK_ALPHA) && c == channels - 1;
            const unsigned v = sample(x, y, c, depth, is_alpha);
            const int bit = (x * channels + c) * depth;
            if (depth == 16) {
                row[bit / 8] = (unsigned char)(v >> 8);
                row[bit / 8 + 1] = (unsigned char)v;
            } else {
                row[bit / 8] |= (unsigned char)(v << (8 - depth - bit % 8));
            }
        }
}

static const char *write_png(void *state, int colour, int depth, int interlace)
{
    const char *path = scratch_path(state, "a.png");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    unsigned char rows[HEIGHT][WIDTH * 8], *pointers[HEIGHT];
    if (setjmp(png_jmpbuf(png))) fail_msg("libpng refuses to write");
    png_init_io(png, file);
    png_set_IHDR(png, info, WIDTH, HEIGHT, depth, colour, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (colour == PNG_COLOR_TYPE_PALETTE) {
        png_set_PLTE(png, info, palette, depth == 1 ? 2 : 4);
        png_set_tRNS(png, info, palette_alpha, 2, NULL);
    }
    for (int y = 0; y < HEIGHT; y++) {
        pack_row(y, colour, depth, rows[y]);
        pointers[y] = rows[y];
    }
    png_write_info(png, info);
    png_write_image(png, pointers);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* What pixel (x, y), channel c, should be; -1 when it is not known. */
static int expected(int x, int y, int c, int colour, int depth)
{
    const int channels = channels_of(colour);
    if ((colour & PNG_COLOR_MASK_ALPHA) && !sample(x, y, channels - 1, depth, true)) return 255;
    const bool grey = !(colour & PNG_COLOR_MASK_COLOR);
    const unsigned v = sample(x, y, grey ? 0 : c, depth, false);
    if (colour == PNG_COLOR_TYPE_PALETTE) {
        const unsigned index = sample(x, y, 0, depth, false);
        if (index == 1) return 255;
        if (index > 3) return -1;
        const png_color *p = &palette[index];
        return c == 0 ? p->red : c == 1 ? p->green : p->blue;
    }
    return (int)((v * 255.0) / ((1u << depth) - 1) + 0.5);
}

static void check_type(void *state, int colour, int depth, int interlace)
{
    struct png_rgb image = { 0, 0, NULL };
    if (png_read_rgb(write_png(state, colour, depth, interlace), &image, (struct reason){ why, sizeof why }))
        fail_msg("colour type %d, %d bits: %s", colour, depth, why);
    assert_int_equal(image.width, WIDTH);
    assert_int_equal(image.height, HEIGHT);
    /* libpng scales sixteen bits to eight in integers, one step off at most. */
    const int off = depth == 16 ? 1 : 0;
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < 3; c++) {
                const int got = image.data[(y * WIDTH + x) * 3 + c], want = expected(x, y, c, colour, depth);
                if (want >= 0 && abs(got - want) > off)
                    fail_msg("colour type %d, %d bits, interlace %d: (%d, %d, %d) is %d, not %d", colour, depth,
                             interlace, x, y, c, got, want);
            }
    free(image.data);
}

static void test_colour_types(void **state)
{
    static const struct { int colour, depths[6]; } types[] = {
        { PNG_COLOR_TYPE_GRAY, { 1, 2, 4, 8, 16, 0 } }, { PNG_COLOR_TYPE_RGB, { 8, 16, 0 } },
        { PNG_COLOR_TYPE_PALETTE, { 1, 2, 0 } },
        { PNG_COLOR_TYPE_GRAY_ALPHA, { 8, 16, 0 } }, { PNG_COLOR_TYPE_RGB_ALPHA, { 8, 16, 0 } },
    };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (const int *depth = types[t].depths; *depth; depth++)
            for (int interlace = 0; interlace < 2; interlace++)
                check_type(*state, types[t].colour, *depth, interlace ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE);
}

static size_t load(const char *path, unsigned char bytes[MAX_FILE])
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    const size_t size = fread(bytes, 1, MAX_FILE, file);
    fclose(file);
    assert_true(size > 40 && size < MAX_FILE);
    return size;
}

static void refuses(void *state, const unsigned char *bytes, size_t size, int code, const char *says)
{
    const char *path = scratch_path(state, "bad.png");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite(bytes, 1, size, file);
    fclose(file);
    struct png_rgb image = { 0, 0, NULL };
    why[0] = '\0';
    const int status = png_read_rgb(path, &image, (struct reason){ why, sizeof why });
    if (status != code) fail_msg("%zu bytes: %d %s", size, status, why);
    assert_null(image.data);
    if (!strstr(why, says) || strchr(why, '\n')) fail_msg("expected '%s' in one line, not '%s'", says, why);
}

/* Cut at any byte, any byte changed, a byte more: refused. */
static void test_refuses_damage(void **state)
{
    unsigned char bytes[MAX_FILE];
    const size_t size = load(write_png(*state, PNG_COLOR_TYPE_RGB_ALPHA, 8, PNG_INTERLACE_NONE), bytes);
    for (size_t cut = 0; cut < size; cut++) refuses(*state, bytes, cut, GSL_EINVAL, "PNG");
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= (unsigned char)(1u << i % 8);
        refuses(*state, bytes, size, GSL_EINVAL, "PNG");
        bytes[i] ^= (unsigned char)(1u << i % 8);
    }
    bytes[size] = 0;
    refuses(*state, bytes, size + 1, GSL_EINVAL, "1 bytes after");
}

/* Right checksums around nonsense. */
static void test_refuses_contents(void **state)
{
    /* IHDR of 2^31 - 1 pixels a side, and IEND: nothing is allocated for it. */
    static const unsigned char huge[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
                                         "\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\x9a\x10\x9e\x4d";
    unsigned char bytes[MAX_FILE];
    refuses(*state, huge, sizeof huge - 1, GSL_EINVAL, "PNG");
    refuses(*state, (const unsigned char *)"GIF89a", 6, GSL_EINVAL, "not a PNG");
    refuses(*state, (const unsigned char *)"", 0, GSL_EINVAL, "not a PNG");
    /* Signature and IEND alone. */
    memcpy(bytes, "\x89PNG\r\n\x1a\n\0\0\0\0IEND\xae\x42\x60\x82", 20);
    refuses(*state, bytes, 20, GSL_EINVAL, "damaged");
    struct png_rgb image;
    assert_int_equal(png_read_rgb(scratch_path(*state, "missing"), &image, (struct reason){ why, sizeof why }),
                     GSL_EFAILED);
    assert_int_equal(png_read_rgb(scratch_path(*state, "."), &image, (struct reason){ why, sizeof why }), GSL_EFAILED);
}

/* More pixels than allowed: said from the header, before memory is asked for. */
static void test_refuses_size(void **state)
{
    const char *path = scratch_path(*state, "large.png");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    static unsigned char row[20000 / 8];
    if (setjmp(png_jmpbuf(png))) fail_msg("libpng refuses to write");
    png_init_io(png, file);
    png_set_IHDR(png, info, 20000, 20000, 1, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < 20000; y++) png_write_row(png, row);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    fclose(file);
    struct png_rgb image = { 0, 0, NULL };
    assert_int_equal(png_read_rgb(path, &image, (struct reason){ why, sizeof why }), GSL_ERANGE);
    assert_non_null(strstr(why, "20000 x 20000"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_colour_types), cmocka_unit_test(test_refuses_damage),
            cmocka_unit_test(test_refuses_contents),
        cmocka_unit_test(test_refuses_size),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
