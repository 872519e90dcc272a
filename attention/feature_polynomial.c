/* Polynomials in the score that stand in for e^s. */
#include "attention/feature_internal.h"

#include <gsl/gsl_errno.h>
#include <math.h>

static const long double PI_L = 3.14159265358979323846264338327950288L;

/* Beyond it e^B times the largest monomial may leave the range of a double. */
static const double BOUND_MAX = 600.0;

static double horner(size_t degree, const double *c, double s)
{
    double p = c[degree];
    for (size_t j = degree; j-- > 0;) p = p * s + c[j];
    return p;
}

/* Largest |p(s)/e^s - 1| on a grid dense at both ends. */
static double measured_error(size_t degree, const double *c, double bound)
{
    const size_t points = 400 + 64 * degree;
    double worst = 0.0;
    for (size_t i = 0; i <= points; i++) {
        const double s = -bound * cos((double)PI_L * (double)i / (double)points);
        const double e = fabs(horner(degree, c, s) * exp(-s) - 1.0);
        if (!(e <= worst)) worst = e;
    }
    return worst;
}

int feature_degrees(const struct feature_spec *spec, size_t *value, size_t *mass)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    if (!ops || !ops->polynomial) return GSL_EINVAL;
    *value = spec->order + ops->above;
    *mass = spec->order;
    return GSL_SUCCESS;
}

int feature_polynomial(const struct feature_spec *spec, double bound,
                       double *value, double *mass, double *rel_error)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    if (!ops || !ops->series) return GSL_EINVAL;
    int status = ops->order_status(spec->order);
    if (status) return status;
    if (ops->needs_bound) {
        if (!(bound >= 0.0) || !isfinite(bound)) return GSL_EINVAL;
        if (bound > BOUND_MAX) return GSL_EOVRFLW;
    }
    long double c[FEATURE_MAX_DEGREE + 1] = { 0 };
    double promised = HUGE_VAL;
    const size_t degree = spec->order + ops->above;
    if ((status = ops->series(degree, bound, c, &promised))) return status;
    for (size_t j = 0; j <= degree; j++) {
        value[j] = (double)c[j];
        if (!isfinite(value[j])) return GSL_EOVRFLW;
        if (mass) mass[j] = j > spec->order ? 0.0 : value[j];
    }
    if (rel_error || promised < HUGE_VAL) {
        const double error = bound >= 0.0 && isfinite(bound) ? measured_error(degree, value, bound) : HUGE_VAL;
        if (rel_error) *rel_error = error;
        /* Rounding the coefficients to double costs e^{2B} 2^-53: more than they are worth. */
        if (promised < HUGE_VAL && !(error <= 1.5 * promised + 1e-9)) return GSL_EMAXITER;
    }
    return GSL_SUCCESS;
}

int feature_score(const feature_map *map, size_t n, const double *score, double *value, double *mass)
{
    if (!feature_is_polynomial(map)) return GSL_EINVAL;
    for (size_t i = 0; i < n; i++) {
        const double s = score[i];                            /* score may alias value */
        if (mass) mass[i] = horner(map->degree, map->mass, s);
        value[i] = horner(map->degree, map->value, s);
    }
    return GSL_SUCCESS;
}

static double horner_slope(size_t degree, const double *c, double s)
{
    double p = 0.0;
    for (size_t j = degree; j > 0; j--) p = p * s + (double)j * c[j];
    return p;
}

int feature_score_slope(const feature_map *map, size_t n, const double *score, double *value, double *mass)
{
    if (!feature_is_polynomial(map)) return GSL_EINVAL;
    for (size_t i = 0; i < n; i++) {
        const double s = score[i];
        if (mass) mass[i] = horner_slope(map->degree, map->mass, s);
        value[i] = horner_slope(map->degree, map->value, s);
    }
    return GSL_SUCCESS;
}
