/* IDX arrays of unsigned bytes, the format of MNIST. */
#ifndef DATA_IDX_H
#define DATA_IDX_H
#include <stddef.h>

enum { IDX_MAX_RANK = 4 };

struct idx {
    size_t rank, shape[IDX_MAX_RANK], size;   /* size: number of elements */
    unsigned char *data;                      /* row-major */
};

/* Reads `path`, which must have `rank` dimensions. On failure returns a GSL code
 * (GSL_EFAILED cannot be opened; REASON_SYSTEM the system failed; GSL_EINVAL wrong magic,
 * type, rank or length; GSL_ENOMEM) with one line, without the path, in why[why_size]. */
int idx_read(const char *path, size_t rank, struct idx *out, char *why, size_t why_size);
void idx_free(struct idx *a);                 /* accepts a zeroed struct */

#endif
