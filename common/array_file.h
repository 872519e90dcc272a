/* Arrays in files, by the extension of the name: .npy, or .csv without a header. */
#ifndef COMMON_ARRAY_FILE_H
#define COMMON_ARRAY_FILE_H
#include <stdio.h>
#include "common/npy.h"

enum array_format { ARRAY_OTHER, ARRAY_NPY, ARRAY_CSV };

/* By the extension, in upper or lower case. */
enum array_format array_file_format(const char *path);

/* Reads as npy_read or csv_read_numbers do, with their codes; GSL_EINVAL for another
 * extension. want_float32 narrows a CSV file's numbers, too. */
int array_file_read(const char *path, int want_float32, struct npy *out, char *why, size_t why_size);

/* The bytes of an array at the stream: NPY, or CSV when `path` is called so. Exactly one of f32
 * and f64 is given. GSL_EINVAL when a CSV file cannot hold the shape (more than two dimensions),
 * GSL_EDOM for NaN and Inf. A failed write is the stream's to report. */
int array_file_put(FILE *stream, const char *path, const float *f32, const double *f64, size_t rank,
                   const size_t *shape, char *why, size_t why_size);

#endif
