#include "common/multiplicity.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_sort.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

/* What stats_rate computes twice differs by nothing; what a table keeps in 17 digits, by less. */
static const double RATE_ROUNDING = 1e-12;

/* Whether x is the interval that stats_rate gives for a whole number of successes. */
static bool is_rate(struct interval x, double level, double *successes)
{
    struct interval again;
    if (x.n == 0 || !(x.value >= 0.0 && x.value <= 1.0)) return false;
    *successes = round(x.value * (double)x.n);
    return !stats_rate(*successes, (double)x.n, level, &again) && fabs(again.value - x.value) < RATE_ROUNDING &&
           fabs(again.lo - x.lo) < RATE_ROUNDING && fabs(again.hi - x.hi) < RATE_ROUNDING;
}

/* P(a measurement at least this far above `edge`) where the truth is `edge`; far below with above = false. */
static double tail(struct interval x, double level, double edge, bool above)
{
    if (isinf(edge)) return (edge < 0.0) == above ? 0.0 : 1.0;
    double successes;
    const double n = (double)x.n;
    if (is_rate(x, level, &successes)) {
        if (above) return successes > 0.0 ? gsl_cdf_beta_P(fmax(edge, 0.0), successes, n - successes + 1.0) : 1.0;
        return successes < n ? gsl_cdf_beta_Q(fmin(edge, 1.0), successes + 1.0, n - successes) : 1.0;
    }
    const double distance = above ? x.value - edge : edge - x.value;
    const double half = above ? x.value - x.lo : x.hi - x.value;
    if (half == 0.0) return distance >= 0.0 ? 0.0 : 1.0;
    if (!(half > 0.0) || isinf(half)) return 1.0;
    const double upper = 0.5 + 0.5 * level;
    if (x.n < 2) return gsl_cdf_ugaussian_Q(gsl_cdf_ugaussian_Pinv(upper) * distance / half);
    return gsl_cdf_tdist_Q(gsl_cdf_tdist_Pinv(upper, n - 1.0) * distance / half, n - 1.0);
}

double verdict_p_value(struct interval measured, double level, struct margin margin)
{
    if (!isfinite(measured.value) || !(measured.lo <= measured.hi) || !(margin.lo <= margin.hi)) return 1.0;
    const double inside = fmax(tail(measured, level, margin.lo, true), tail(measured, level, margin.hi, false));
    const double outside = fmin(tail(measured, level, margin.lo, false), tail(measured, level, margin.hi, true));
    const double p = fmin(inside, outside);
    return p >= 0.0 && p <= 1.0 ? p : 1.0;
}

int holm_adjust(const double *p, size_t n, double *adjusted)
{
    for (size_t i = 0; i < n; i++)
        if (!(p[i] >= 0.0 && p[i] <= 1.0)) return GSL_EDOM;
    size_t *order = malloc((n ? n : 1) * sizeof *order);
    if (!order) return GSL_ENOMEM;
    gsl_sort_index(order, p, 1, n);
    double largest = 0.0;
    for (size_t k = 0; k < n; k++) {
        largest = fmax(largest, fmin(1.0, (double)(n - k) * p[order[k]]));
        adjusted[order[k]] = largest;
    }
    free(order);
    return GSL_SUCCESS;
}
