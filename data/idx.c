#include "data/idx.h"

#include "common/input_file.h"
#include "common/reason.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdint.h>
#include <stdlib.h>

enum { TYPE_UBYTE = 0x08 };

static int read_header(FILE *file, uint64_t file_size, size_t rank, struct idx *a, struct reason why)
{
    unsigned char bytes[4];
    int status = input_file_read(file, bytes, 4, "not an IDX file: too short", why);
    if (status) return status;
    if (bytes[0] || bytes[1]) return refuse(why, GSL_EINVAL, "not an IDX file: wrong magic number");
    if (bytes[2] != TYPE_UBYTE)
        return refuse(why, GSL_EINVAL, "IDX element type 0x%02x; only unsigned bytes (0x08) are read", bytes[2]);
    if (bytes[3] != rank || rank > IDX_MAX_RANK)
        return refuse(why, GSL_EINVAL, "%d dimensions where %zu are wanted", bytes[3], rank);
    a->rank = rank;
    a->size = 1;
    for (size_t i = 0; i < rank; i++) {
        if ((status = input_file_read(file, bytes, 4, "truncated header", why))) return status;
        a->shape[i] = (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
        if (!a->shape[i]) return refuse(why, GSL_EINVAL, "an empty array");
        if (__builtin_mul_overflow(a->size, a->shape[i], &a->size))
            return refuse(why, GSL_EINVAL, "absurd shape: more than 2^64 elements");
    }
    const uint64_t data_size = file_size - 4 * (rank + 1);
    if (data_size < a->size)
        return refuse(why, GSL_EINVAL, "truncated: %llu bytes of data, the shape needs %zu",
                      (unsigned long long)data_size, a->size);
    if (data_size > a->size)
        return refuse(why, GSL_EINVAL, "%llu trailing bytes after the data",
                      (unsigned long long)(data_size - a->size));
    return GSL_SUCCESS;
}

int idx_read(const char *path, size_t rank, struct idx *out, char *why_text, size_t why_size)
{
    const struct reason why = { why_text, why_size };
    struct idx a = { 0 };
    *out = a;
    uint64_t file_size;
    FILE *file = input_file_open(path, &file_size, why_text, why_size);
    if (!file) return input_file_status(errno);
    int status = read_header(file, file_size, rank, &a, why);
    if (!status && !(a.data = malloc(a.size))) status = refuse(why, GSL_ENOMEM, "out of memory");
    if (!status) status = input_file_read(file, a.data, a.size, "truncated while it was read", why);
    fclose(file);
    if (status) idx_free(&a);
    else *out = a;
    return status;
}

void idx_free(struct idx *a)
{
    if (!a) return;
    free(a->data);
    *a = (struct idx){ 0 };
}
