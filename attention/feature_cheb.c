/* cheb:G: the Chebyshev series of e^s on [-B, B], cut at degree G. */
#include "attention/feature_monomials.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

/* I_k(B) / (B/2)^k = sum_i (B^2/4)^i / (i! (i+k)!): no underflow for small B. */
static long double bessel_scaled(size_t k, long double bound)
{
    const long double x = bound * bound / 4.0L;
    long double term = 1.0L;
    for (size_t i = 1; i <= k; i++) term /= (long double)i;
    long double sum = term;
    for (size_t i = 1; term > sum * 1e-22L; i++) {
        term *= x / ((long double)i * (long double)(i + k));
        sum += term;
    }
    return sum;
}

/* e^{Bt} = I_0(B) + 2 sum_k I_k(B) T_k(t), cut at k = degree, rewritten in s = B t:
 * the coefficient t_kj of T_k enters c_j with I_k B^-j = bessel_scaled 2^-k B^{k-j}. */
int feature_cheb_series(size_t degree, double bound, long double *c, double *promised)
{
    (void)promised;
    const long double b = bound;
    long double before[FEATURE_MAX_DEGREE + 1] = { 0 }, now[FEATURE_MAX_DEGREE + 1] = { 0 };   /* T_{k-1}, T_k */
    for (size_t j = 0; j <= degree; j++) c[j] = 0.0L;
    now[0] = 1.0L;
    for (size_t k = 0; k <= degree; k++) {
        const long double weight = ldexpl(bessel_scaled(k, b), (k ? 1 : 0) - (int)k);
        long double power = 1.0L;
        for (size_t j = k + 1; j-- > 0; power *= b)
            if (now[j] != 0.0L) c[j] += weight * now[j] * power;
        long double next[FEATURE_MAX_DEGREE + 1] = { 0 };
        for (size_t j = 0; j <= k && j < degree; j++) next[j + 1] = (k ? 2.0L : 1.0L) * now[j];
        for (size_t j = 0; k && j < k; j++) next[j] -= before[j];
        memcpy(before, now, sizeof now);
        memcpy(now, next, sizeof next);
    }
    return GSL_SUCCESS;
}

const struct feature_ops feature_cheb = {
    .name = "cheb", FEATURE_MONOMIALS, .needs_bound = true, .series = feature_cheb_series,
};
