#include "common/array_file.h"

#include "common/reason.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum array_format array_file_format(const char *path)
{
    const char *dot = strrchr(path, '.');
    if (dot && !strcasecmp(dot, ".npy")) return ARRAY_NPY;
    return dot && !strcasecmp(dot, ".csv") ? ARRAY_CSV : ARRAY_OTHER;
}

/* The numbers of a CSV file as float32. */
static int narrow(struct npy *a, struct reason why)
{
    a->f32 = malloc((a->size ? a->size : 1) * sizeof *a->f32);
    if (!a->f32) return refuse(why, GSL_ENOMEM, "out of memory");
    for (size_t i = 0; i < a->size; i++) {
        a->f32[i] = (float)a->f64[i];
        if (!isfinite(a->f32[i])) return refuse(why, GSL_EDOM, "%g at element %zu is beyond float32", a->f64[i], i);
    }
    free(a->f64);
    a->f64 = NULL;
    return GSL_SUCCESS;
}

int array_file_read(const char *path, int want_float32, struct npy *out, char *why_text, size_t why_size)
{
    const struct reason why = { why_text, why_size };
    *out = (struct npy){ 0 };
    switch (array_file_format(path)) {
    case ARRAY_NPY:
        return npy_read(path, want_float32, out, why_text, why_size);
    case ARRAY_CSV: {
        int status = csv_read_numbers(path, out, why_text, why_size);
        if (!status && want_float32 && (status = narrow(out, why))) npy_free(out);
        return status;
    }
    default:
        return refuse(why, GSL_EINVAL, "neither .npy nor .csv");
    }
}
