/* NPY v1/v2 arrays: little-endian float32/float64, C order, finite values. */
#ifndef COMMON_NPY_H
#define COMMON_NPY_H
#include <stddef.h>

enum { NPY_MAX_RANK = 8 };

struct npy {
    size_t rank, shape[NPY_MAX_RANK], size;   /* size: number of elements */
    int is_float32;                           /* what the file held */
    char type[8];                             /* its dtype: "<f4", "<f8", "|u1", "<i8", ... */
    double *f64;                              /* one of the two is set ...   */
    float *f32;                               /* ... as the caller asked     */
};

/* Reads `path` into f64 (want_float32 = 0) or f32 (1). On failure returns a GSL
 * code (GSL_EFAILED cannot be opened, REASON_SYSTEM the system failed, GSL_EINVAL malformed
 * or refused dtype, order, shape; GSL_EDOM NaN or Inf; GSL_ENOMEM) and writes one line without the
 * path's name into why[why_size]. Nothing to free on failure. */
int npy_read(const char *path, int want_float32, struct npy *out, char *why, size_t why_size);
void npy_free(struct npy *a);                 /* accepts a zeroed struct */

/* The same into f64, of integers too (8 to 64 bits, little-endian, signed or not); a 64-bit integer beyond 2^53 is
 * refused (GSL_EDOM). */
int npy_read_numbers(const char *path, struct npy *out, char *why, size_t why_size);

/* Writes by atomic_file.h: to a temporary name that is renamed. A path that ends in .csv gets
 * CSV of one or two dimensions. Refuses NaN and Inf (GSL_EDOM). */
int npy_write_f64(const char *path, const double *x, size_t rank, const size_t *shape,
                  char *why, size_t why_size);
int npy_write_f32(const char *path, const float *x, size_t rank, const size_t *shape,
                  char *why, size_t why_size);

/* Numeric CSV without a header into a (rows, cols) array; the same codes. */
int csv_read_numbers(const char *path, struct npy *out, char *why, size_t why_size);

#endif
