#include "attention/approx_theory.h"

#include <math.h>

/* E t^j for t ~ N(mean, sd^2), j = 0..degree by the recurrence
 * E t^{j+1} = mean E t^j + j sd^2 E t^{j-1} (Stein), summed against weights. */
static double expectation(const double *c, size_t degree, double mean, double sd, int slope)
{
    double before = 0.0, now = 1.0, sum = 0.0;
    for (size_t j = 0; j <= degree; j++) {
        if (!slope) sum += c[j] * now;
        else if (j < degree) sum += (double)(j + 1) * c[j + 1] * now;
        const double next = mean * now + (double)j * sd * sd * before;
        before = now;
        now = next;
    }
    return sum;
}

double gaussian_moment(const double *c, size_t degree, double mean, double sd)
{
    return expectation(c, degree, mean, sd, 0);
}

double gaussian_moment_slope(const double *c, size_t degree, double mean, double sd)
{
    return expectation(c, degree, mean, sd, 1);
}

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
