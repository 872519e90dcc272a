/* PNG images as RGB bytes, through libpng. */
#ifndef DATA_PNG_H
#define DATA_PNG_H
#include <stddef.h>

#include "common/reason.h"

struct png_rgb { size_t width, height; unsigned char *data; };      /* (height, width, 3) */

enum { PNG_MAX_PIXELS = 1 << 26 };

/* Reads `path` whatever its colour type and depth, colours as they are (no gamma), transparent parts over white; the
 * caller frees out->data. The whole file is checked, to the last byte. GSL_EFAILED cannot be opened, REASON_SYSTEM the
 * system failed, GSL_EINVAL not a PNG or damaged, GSL_ERANGE more than PNG_MAX_PIXELS, GSL_ENOMEM; one line in *why. */
int png_read_rgb(const char *path, struct png_rgb *out, struct reason why);

#endif
