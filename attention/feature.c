/* Features of rows, forward and backward, in both number types. */
#include "attention/feature_internal.h"

#include <gsl/gsl_errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/isa.h"
#include "common/parallel.h"

extern const struct feature_kernels feature_kernels_portable, feature_kernels_avx2, feature_kernels_avx512,
    feature_kernels_neon;

const struct feature_kernels *feature_kernels_get(void)
{
#define KERNELS(isa) &feature_kernels_##isa
    static const struct feature_kernels *const all[] = ISA_TABLE(KERNELS);
    return all[isa_current()];
}

enum { ALIGN = 64 };

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Scratch of one thread. */
static size_t thread_bytes(const feature_map *map)
{
    return align_up(map->ops->scratch(map, map->ops->block(map)) * sizeof(double));
}

size_t feature_workspace(const feature_map *map, int num_threads)
{
    return thread_bytes(map) * (size_t)(num_threads > 0 ? num_threads : 1) + ALIGN;
}

enum { BAD_INPUT = 1, BAD_FEATURE = 2 };

static int bad_status(int bad)
{
    return bad & BAD_INPUT ? GSL_EDOM : bad & BAD_FEATURE ? GSL_EOVRFLW : GSL_SUCCESS;
}

#define REAL float
#define NAME(f) f##_f32
#define KERNEL(f) f##_32
#include "attention/feature_rows.h"
#undef REAL
#undef NAME
#undef KERNEL

#define REAL double
#define NAME(f) f##_f64
#define KERNEL(f) f##_64
#include "attention/feature_rows.h"
#undef REAL
#undef NAME
#undef KERNEL
