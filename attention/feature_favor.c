/* favor:R and favor-orth:R: e^{<omega_r, z> - ||z||^2/2}/sqrt(R) for random directions omega_r. */
#include "attention/feature_internal.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>

#include "common/random.h"

static int order_status(size_t order)
{
    return order > 0 && order <= FEATURE_MAX_EXPLICIT ? GSL_SUCCESS : GSL_EDOM;
}

static int count(const struct feature_spec *spec, size_t dim, size_t *feat_dim)
{
    (void)dim;
    *feat_dim = spec->order;
    return GSL_SUCCESS;
}

/* ---- directions ---------------------------------------------------------------- */

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Rows in groups of dim are orthogonalised (twice: once leaves cond * 2^-53) and
 * given the lengths of independent Gaussian rows, so each row by itself is N(0, I). */
static int orthogonalise(struct feature_map *map, uint64_t seed)
{
    const size_t d = map->dim;
    double *other = malloc(d * sizeof *other);
    if (!other) return GSL_ENOMEM;
    for (size_t r = 0; r < map->feat_dim; r++) {
        double *row = map->omega + r * d;
        const double *group = map->omega + r / d * d * d;
        for (int pass = 0; pass < 2; pass++) {
            for (const double *base = group; base < row; base += d) {
                const double along = dot(row, base, d) / dot(base, base, d);
                for (size_t c = 0; c < d; c++) row[c] -= along * base[c];
            }
        }
        random_normal(seed, RANDOM_FEATURES, 1, r, other, d);
        const double stretch = sqrt(dot(other, other, d) / dot(row, row, d));
        for (size_t c = 0; c < d; c++) row[c] *= stretch;
    }
    free(other);
    return GSL_SUCCESS;
}

/* The caller's directions, or independent Gaussian rows. */
static int make_free(struct feature_map *map, const struct feature_source *source)
{
    size_t size;
    map->feat_dim = map->spec.order;
    if (__builtin_mul_overflow(map->feat_dim, map->dim, &size) ||
        __builtin_mul_overflow(size, sizeof *map->omega, &size))
        return GSL_EOVRFLW;
    map->omega = malloc(size);
    if (!map->omega) return GSL_ENOMEM;
    if (source->omega) {
        for (size_t i = 0; i < map->feat_dim * map->dim; i++)
            if (!isfinite(map->omega[i] = source->omega[i])) return GSL_EDOM;
        return GSL_SUCCESS;
    }
    for (size_t r = 0; r < map->feat_dim; r++)
        random_normal(source->seed, RANDOM_FEATURES, 0, r, map->omega + r * map->dim, map->dim);
    return GSL_SUCCESS;
}

static int make_orthogonal(struct feature_map *map, const struct feature_source *source)
{
    const int status = make_free(map, source);
    return status || source->omega ? status : orthogonalise(map, source->seed);
}

/* ---- rows ---------------------------------------------------------------------- */

/* As many as keep the exponents of a block within a megabyte of numbers. */
static size_t block(const struct feature_map *map)
{
    const size_t rows = ((size_t)1 << 20) / map->feat_dim;
    return rows > 64 ? 64 : rows ? rows : 1;
}

/* Per row: z, dz (dim), exponents, weights (feat_dim). */
static size_t scratch(const struct feature_map *map, size_t rows)
{
    return 2 * rows * (map->dim + map->feat_dim);
}

/* ||z||^2/2 + ln(R)/2: what favor subtracts from <omega_r, z>. */
static double favor_offset(const feature_map *map, const double *z)
{
    double square = 0.0;
    for (size_t c = 0; c < map->dim; c++) square += z[c] * z[c];
    return 0.5 * (square + log((double)map->feat_dim));
}

#define REAL float
#define NAME(f) f##_f32
#define KERNEL(f) f##_32
#include "attention/feature_favor_rows.h"
#undef REAL
#undef NAME
#undef KERNEL

#define REAL double
#define NAME(f) f##_f64
#define KERNEL(f) f##_64
#include "attention/feature_favor_rows.h"
#undef REAL
#undef NAME
#undef KERNEL

#define FAVOR_ROWS                                                                                              \
    .takes_order = true, .takes_omega = true, .positive = true, .order_status = order_status, .count = count,  \
    .block = block, .scratch = scratch, .forward_f32 = forward_f32, .forward_f64 = forward_f64,                \
    .backward_f32 = backward_f32, .backward_f64 = backward_f64

const struct feature_ops feature_favor = { .name = "favor", FAVOR_ROWS, .make = make_free };
const struct feature_ops feature_favor_orth = { .name = "favor-orth", FAVOR_ROWS, .make = make_orthogonal };
