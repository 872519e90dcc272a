#include "data/png.h"

#include "common/input_file.h"

#include <gsl/gsl_errno.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

int png_read_rgb(const char *path, struct png_rgb *out, struct reason why)
{
    uint64_t bytes;
    FILE *file = input_file_open(path, &bytes, why.text, why.size);
    if (!file) return GSL_EFAILED;
    png_image image;
    memset(&image, 0, sizeof image);
    image.version = PNG_IMAGE_VERSION;
    const png_color white = { 255, 255, 255 };
    unsigned char *data = NULL;
    int status = GSL_SUCCESS;
    if (!png_image_begin_read_from_stdio(&image, file)) status = refuse(why, GSL_EINVAL, "not a PNG image: %.64s", image.message);
    else if ((uint64_t)image.width * image.height > PNG_MAX_PIXELS) status = refuse(why, GSL_ERANGE, "%u x %u pixels are too many", image.width, image.height);
    image.format = PNG_FORMAT_RGB;
    if (!status && !(data = malloc(PNG_IMAGE_SIZE(image)))) status = refuse(why, GSL_ENOMEM, "out of memory");
    /* A warning is a damaged image as well. */
    if (!status && (!png_image_finish_read(&image, &white, data, 0, NULL) || image.warning_or_error > 1))
        status = refuse(why, GSL_EINVAL, "a damaged PNG image: %.64s", image.message);
    png_image_free(&image);
    fclose(file);
    if (status) free(data);
    else *out = (struct png_rgb){ image.width, image.height, data };
    return status;
}
