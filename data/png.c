#include "data/png.h"

#include "common/input_file.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <png.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SIGNATURE = 8, CHUNK_FRAME = 12 };      /* a chunk is length, type, data, CRC */

/* CRC-32 of PNG (ISO 3309), four bits at a time. */
static uint32_t crc_of(const unsigned char *bytes, size_t size)
{
    uint32_t table[16], crc = UINT32_MAX;
    for (uint32_t i = 0; i < 16; i++) {
        table[i] = i;
        for (int bit = 0; bit < 4; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? UINT32_C(0xEDB88320) : 0);
    }
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t big_endian(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Every chunk is whole and as it was written, those libpng does not look at too, and IEND ends the file. */
static int check_chunks(const unsigned char *bytes, size_t size, struct reason why)
{
    if (size < SIGNATURE || png_sig_cmp(bytes, 0, SIGNATURE)) return refuse(why, GSL_EINVAL, "not a PNG image");
    for (size_t at = SIGNATURE; at < size;) {
        if (size - at < CHUNK_FRAME || size - at - CHUNK_FRAME < big_endian(bytes + at))
            return refuse(why, GSL_EINVAL, "a damaged PNG image: truncated");
        const size_t length = big_endian(bytes + at);
        if (crc_of(bytes + at + 4, length + 4) != big_endian(bytes + at + 8 + length))
            return refuse(why, GSL_EINVAL, "a damaged PNG image: wrong checksum at byte %zu", at);
        const int last = !memcmp(bytes + at + 4, "IEND", 4);
        at += CHUNK_FRAME + length;
        if (last) return at == size ? GSL_SUCCESS : refuse(why, GSL_EINVAL, "%zu bytes after the PNG image", size - at);
    }
    return refuse(why, GSL_EINVAL, "a damaged PNG image: truncated");
}

/* What libpng reads from, and where it says what it does not like. */
struct source { const unsigned char *at, *end; struct reason why; };

static void give(png_structp png, png_bytep to, size_t size)
{
    struct source *source = png_get_io_ptr(png);
    if (size > (size_t)(source->end - source->at)) png_error(png, "truncated");
    memcpy(to, source->at, size);
    source->at += size;
}

static void on_error(png_structp png, png_const_charp message)
{
    const struct source *source = png_get_error_ptr(png);
    refuse(source->why, GSL_EINVAL, "a damaged PNG image: %.64s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

/* Rows of RGBA, whatever the file has; libpng leaves by on_error, so all that is to be freed lies in *out and *rows. */
static int read_rows(png_structp png, png_infop info, struct png_rgb *out, png_bytep **rows, struct reason why)
{
    if (setjmp(png_jmpbuf(png))) return GSL_EINVAL;
    png_read_info(png, info);
    const size_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    if ((uint64_t)width * height > PNG_MAX_PIXELS)
        return refuse(why, GSL_ERANGE, "%zu x %zu pixels are too many", width, height);
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != 4 * width)
        return refuse(why, GSL_EINVAL, "a PNG image of an unknown colour type");
    out->data = malloc(4 * width * height);
    *rows = malloc(height * sizeof **rows);
    if (!out->data || !*rows) return refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t y = 0; y < height; y++) (*rows)[y] = out->data + y * 4 * width;
    png_read_image(png, *rows);
    png_read_end(png, NULL);
    out->width = width;
    out->height = height;
    return GSL_SUCCESS;
}

/* RGBA to RGB over white, in place. */
static void lay_on_white(struct png_rgb *image)
{
    unsigned char *to = image->data;
    const unsigned char *from = image->data;
    for (size_t i = 0; i < image->width * image->height; i++, from += 4) {
        const unsigned alpha = from[3];
        for (int c = 0; c < 3; c++) *to++ = (unsigned char)((from[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
}

static int decode(const unsigned char *bytes, size_t size, struct png_rgb *out, struct reason why)
{
    struct source source = { bytes, bytes + size, why };
    struct png_rgb image = { 0, 0, NULL };
    png_bytep *rows = NULL;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    int status = info ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "out of memory");
    if (!status) {
        png_set_read_fn(png, &source, give);
        status = read_rows(png, info, &image, &rows, why);
    }
    png_destroy_read_struct(&png, &info, NULL);
    free(rows);
    if (status) {
        free(image.data);
        return status;
    }
    lay_on_white(&image);
    *out = image;
    return GSL_SUCCESS;
}

int png_read_rgb(const char *path, struct png_rgb *out, struct reason why)
{
    size_t size;
    unsigned char *bytes;
    int status = input_file_whole(path, &bytes, &size, why);
    if (!status) status = check_chunks(bytes, size, why);
    if (!status) status = decode(bytes, size, out, why);
    free(bytes);
    return status;
}
