#include "approximation/approx_theory.h"

#include <math.h>

double taylor_shrink(size_t degree, double sd)
{
    if (degree % 2) return 1.0;
    if (degree == 0) return 0.0;
    double term = 1.0, lower = 1.0;
    for (size_t i = 1; i < degree / 2; i++) {
        term *= 0.5 * sd * sd / (double)i;
        lower += term;
    }
    term *= 0.5 * sd * sd / (double)(degree / 2);
    return lower / (lower + term);
}

double gaussian_limit_rate(const double *spread, const double *limit_norm2, size_t n, double wv_norm2,
                           double prefix_len)
{
    double above = 0.0, below = 0.0;
    for (size_t i = 0; i < n; i++) {
        above += exp(spread[i] * spread[i]) * (wv_norm2 + limit_norm2[i]);
        below += limit_norm2[i];
    }
    return sqrt(above / (prefix_len * below));
}

double log_feature_count(double dim, double degree)
{
    return lgamma(dim + degree + 1.0) - lgamma(dim + 1.0) - lgamma(degree + 1.0);
}

size_t taylor_degree_bound(double b, double log_eps)
{
    if (!(b > 0.0)) return 0;
    /* The bound falls only once g + 1 > b, and then for ever: bisect beyond b. */
    size_t lo = 0, hi = (size_t)b + 2;
    if (b + log(b) <= log_eps) return 0;
    while ((double)(hi + 1) * log(b) + b - lgamma((double)hi + 2.0) > log_eps) {
        lo = hi;
        hi *= 2;
    }
    while (hi - lo > 1) {
        const size_t mid = lo + (hi - lo) / 2;
        if ((double)(mid + 1) * log(b) + b - lgamma((double)mid + 2.0) > log_eps) lo = mid;
        else hi = mid;
    }
    return hi;
}

double aggarwal_alman_rate(double b, double log_inv_eps)
{
    if (!(log_inv_eps > M_E * b)) return fmax(b, log_inv_eps);
    return fmax(b, log_inv_eps / log(log_inv_eps / b));
}
