/* Features of rows, forward and backward, in both number types. */
#include "attention/feature_internal.h"

#include <cblas.h>
#include <float.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/* Rows that are worked on together: a function of the map alone, so that neither
 * the thread that takes them nor their number changes a bit. */
static size_t block_rows(const feature_map *map)
{
    if (!map->omega) return 16;
    const size_t rows = ((size_t)1 << 20) / map->feat_dim;
    return rows > 64 ? 64 : rows ? rows : 1;
}

enum { ALIGN = 64 };

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Scratch of one thread. Polynomial: z, dz (dim), raw, draw (feat_dim). Favor, per
 * row of a block: z, dz (dim), exponents, weights (feat_dim); in double. */
static size_t thread_bytes(const feature_map *map)
{
    if (map->spec.family == FEATURE_ELU1) return 0;
    const size_t rows = map->omega ? block_rows(map) : 1;
    return align_up(2 * rows * (map->dim + map->feat_dim) * sizeof(double));
}

size_t feature_workspace(const feature_map *map, int num_threads)
{
    return thread_bytes(map) * (size_t)(num_threads > 0 ? num_threads : 1) + ALIGN;
}

/* ||z||^2/2 + ln(R)/2: what favor subtracts from <omega_r, z>. */
static double favor_offset(const feature_map *map, const double *z)
{
    double square = 0.0;
    for (size_t c = 0; c < map->dim; c++) square += z[c] * z[c];
    return 0.5 * (square + log((double)map->feat_dim));
}

/* Factors of the monomials by degree, and the power of two z is divided by, so that
 * no feature leaves the range. Returns the base-2 logarithm taken out. */
static long polynomial_scale(const feature_map *map, enum feature_side side, double z_max, int scaled,
                             double limit, int *z_shift, double *factor)
{
    const double degree = (double)map->degree;
    int shift = 0;
    long peak = 0;
    if (scaled && degree * log2(fmax(z_max, 1.0)) + fmax(map->log2_peak, 0.0) > limit) {
        frexp(z_max, &shift);                                /* z_max < 2^shift */
        if (shift < 0) shift = 0;
        peak = (long)ceil(fmax(map->log2_peak, 0.0));
    }
    /* z^alpha = (z/2^e)^alpha 2^{e j}; taking out 2^{e G + peak} leaves 2^{-e (G - j) - peak}. */
    for (size_t j = 0; j <= map->degree; j++)
        factor[j] = ldexp(map->side[side][j], (int)(-(long)shift * (long)(map->degree - j) - peak));
    *z_shift = shift;
    return (long)shift * (long)map->degree + peak;
}

enum { BAD_INPUT = 1, BAD_FEATURE = 2 };

static int bad_status(int bad)
{
    return bad & BAD_INPUT ? GSL_EDOM : bad & BAD_FEATURE ? GSL_EOVRFLW : GSL_SUCCESS;
}

#define REAL float
#define NAME(f) f##_f32
#define KERNEL(f) f##_32
#define LIMIT 50.0                      /* features below 2^50: products of two and sums fit */
#include "attention/feature_rows.h"
#undef REAL
#undef NAME
#undef KERNEL
#undef LIMIT

#define REAL double
#define NAME(f) f##_f64
#define KERNEL(f) f##_64
#define LIMIT 480.0
#include "attention/feature_rows.h"
#undef REAL
#undef NAME
#undef KERNEL
#undef LIMIT
