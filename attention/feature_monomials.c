/* Monomials of z by degree, forward and backward: the features of every polynomial family. */
#include "attention/feature_monomials.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>

int feature_monomial_order(size_t order)
{
    return order <= FEATURE_MAX_DEGREE ? GSL_SUCCESS : GSL_EDOM;
}

int feature_monomial_count(const struct feature_spec *spec, size_t dim, size_t *feat_dim)
{
    size_t value, mass;
    const int status = feature_degrees(spec, &value, &mass);
    return status ? status : feature_count(dim, value, feat_dim);
}

/* Places of the monomials, and sqrt(j!/alpha!) of each. Degree j in the order of
 * combinations_with_replacement is, for i = 0, 1, ..: z_i times the monomials of
 * degree j - 1 whose least index is >= i, which are the last ones of that degree. */
static int list_monomials(struct feature_map *map)
{
    const size_t d = map->dim, r = map->feat_dim;
    map->first = malloc((map->degree + 1) * (d + 1) * sizeof *map->first);
    map->root64 = malloc(r * sizeof *map->root64);
    map->root32 = malloc(r * sizeof *map->root32);
    uint32_t *least = malloc(r * sizeof *least);              /* least index of a monomial ... */
    uint8_t *power = malloc(r * sizeof *power);               /* ... and its exponent */
    int status = GSL_ENOMEM;
    if (!map->first || !map->root64 || !map->root32 || !least || !power) goto done;
    for (size_t i = 0; i <= d; i++) map->first[i] = i < d ? 0 : 1;
    map->root64[0] = 1.0;
    least[0] = (uint32_t)d;
    power[0] = 0;
    size_t at = 1;
    for (size_t j = 1; j <= map->degree; j++) {
        size_t *first = map->first + j * (d + 1);
        const size_t *before = first - (d + 1);
        for (size_t i = 0; i < d; i++) {
            first[i] = at;
            /* Degree 0 has no least index: its one monomial is continued by every i. */
            for (size_t b = j == 1 ? 0 : before[i]; b < before[d]; b++, at++) {
                least[at] = (uint32_t)i;
                power[at] = (uint8_t)(least[b] == i ? power[b] + 1 : 1);
                /* j!/alpha! of the product from that of its factor; squares until the end. */
                map->root64[at] = map->root64[b] * (double)j / (double)power[at];
            }
        }
        first[d] = at;
    }
    for (size_t a = 0; a < r; a++) {
        map->root64[a] = sqrt(map->root64[a]);
        map->root32[a] = (float)map->root64[a];
    }
    status = GSL_SUCCESS;
done:
    free(least);
    free(power);
    return status;
}

/* The two sides share sqrt(b_j), b_j = max(|value_j|, |mass_j|); the key side
 * carries the sign, and the ratio where numerator and denominator differ. */
static void set_sides(struct feature_map *map)
{
    map->log2_peak = -HUGE_VAL;
    double log2_factorial = 0.0;
    for (size_t j = 0; j <= map->degree; j++) {
        const double b = fmax(fabs(map->value[j]), fabs(map->mass[j])), root = sqrt(b);
        map->side[FEATURE_QUERY][j] = root;
        map->side[FEATURE_VALUE][j] = b > 0.0 ? map->value[j] / b * root : 0.0;
        map->side[FEATURE_MASS][j] = b > 0.0 ? map->mass[j] / b * root : 0.0;
        if (j > 1) log2_factorial += log2((double)j);
        if (b > 0.0) map->log2_peak = fmax(map->log2_peak, 0.5 * (log2(b) + log2_factorial));
    }
    if (!(map->log2_peak > -HUGE_VAL)) map->log2_peak = 0.0;
}

int feature_monomial_list(struct feature_map *map)
{
    int status = feature_count(map->dim, map->degree, &map->feat_dim);
    if (status) return status;
    set_sides(map);
    return map->feat_dim <= FEATURE_MAX_EXPLICIT ? list_monomials(map) : GSL_SUCCESS;
}

int feature_monomial_make(struct feature_map *map, const struct feature_source *source)
{
    size_t mass;
    int status = feature_degrees(&map->spec, &map->degree, &mass);
    if (!status) status = feature_polynomial(&map->spec, source->bound, map->value, map->mass, NULL);
    return status ? status : feature_monomial_list(map);
}

size_t feature_monomial_block(const struct feature_map *map)
{
    (void)map;
    return 16;
}

/* z, dz (dim), raw, draw (feat_dim): rows are taken one by one. */
size_t feature_monomial_scratch(const struct feature_map *map, size_t rows)
{
    (void)rows;
    return 2 * (map->dim + map->feat_dim);
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

#define REAL float
#define NAME(f) f##_f32
#define KERNEL(f) f##_32
#define LIMIT 50.0                      /* features below 2^50: products of two and sums fit */
#include "attention/feature_monomial_rows.h"
#undef REAL
#undef NAME
#undef KERNEL
#undef LIMIT

#define REAL double
#define NAME(f) f##_f64
#define KERNEL(f) f##_64
#define LIMIT 480.0
#include "attention/feature_monomial_rows.h"
#undef REAL
#undef NAME
#undef KERNEL
#undef LIMIT
