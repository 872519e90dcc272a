/* minimax:G: the polynomial of degree G whose relative error of e^s on [-B, B] is the least, by the exchange of
 * Remez. */
#include "attention/feature_monomials.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

enum { NUM_COEFS = FEATURE_MAX_DEGREE + 1 };

static const long double PI_L = 3.14159265358979323846264338327950288L;

struct exchange {
    size_t n;                               /* degree + 2 reference points */
    long double bound;
    long double t[NUM_COEFS + 1];           /* increasing in [-1, 1], s = bound t */
    long double weight[NUM_COEFS + 1];      /* 1 / prod_{j != i} (t_i - t_j) */
    long double p[NUM_COEFS + 1];           /* the polynomial at the points */
    long double floor;                      /* 1 - level: the least p e^-s */
};

/* Levels the error at the reference: p e^-s is floor and 2 - floor in turn. The
 * divided difference of p vanishes and that of e^s is positive, so the last point
 * is low, and floor = 2 H/(L + H) with L, H the sums of |weight| e^s over low and
 * high points: sums of positive terms, accurate even when the level is 1 - 1e-30. */
static void exchange_level(struct exchange *x)
{
    long double low = 0.0L, high = 0.0L;
    for (size_t i = 0; i < x->n; i++) {
        long double product = 1.0L;
        for (size_t j = 0; j < x->n; j++)
            if (j != i) product *= 2.0L * (x->t[i] - x->t[j]);   /* 2: keeps the product in range */
        x->weight[i] = 1.0L / product;
        const long double term = fabsl(x->weight[i]) * expl(x->bound * x->t[i]);
        if ((x->n - 1 - i) % 2 == 0) low += term; else high += term;
    }
    x->floor = 2.0L * high / (low + high);
    for (size_t i = 0; i < x->n; i++)
        x->p[i] = expl(x->bound * x->t[i]) * ((x->n - 1 - i) % 2 == 0 ? x->floor : 2.0L - x->floor);
}

/* p(t) by the barycentric formula: p has degree n - 2, so all n points serve. */
static long double exchange_value(const struct exchange *x, long double t)
{
    long double above = 0.0L, below = 0.0L;
    for (size_t i = 0; i < x->n; i++) {
        if (t == x->t[i]) return x->p[i];
        const long double w = x->weight[i] / (t - x->t[i]);
        above += w * x->p[i];
        below += w;
    }
    return above / below;
}

static long double exchange_error(const struct exchange *x, long double t)
{
    return exchange_value(x, t) * expl(-x->bound * t) - 1.0L;
}

/* The zero of the error between points i and i + 1, where it changes sign. */
static long double exchange_zero(const struct exchange *x, size_t i)
{
    long double lo = x->t[i], hi = x->t[i + 1];
    const int rising = (x->n - 1 - i) % 2 == 0;              /* low at i */
    for (int step = 0; step < 70 && lo < hi; step++) {
        const long double mid = 0.5L * (lo + hi);
        if ((exchange_error(x, mid) < 0.0L) == rising) lo = mid; else hi = mid;
    }
    return 0.5L * (lo + hi);
}

/* The extremum between two zeros. (p' - p) e^-s has at most `degree` zeros, one in
 * each of the `degree` gaps, so the error is unimodal there and monotone outside. */
static long double exchange_peak(const struct exchange *x, long double lo, long double hi, int low)
{
    const long double golden = 0.61803398874989484820458683436563812L;
    long double a = hi - golden * (hi - lo), b = lo + golden * (hi - lo);
    long double fa = exchange_error(x, a), fb = exchange_error(x, b);
    for (int step = 0; step < 60; step++) {
        if (low ? fa < fb : fa > fb) {
            hi = b; b = a; fb = fa;
            a = hi - golden * (hi - lo); fa = exchange_error(x, a);
        } else {
            lo = a; a = b; fa = fb;
            b = lo + golden * (hi - lo); fb = exchange_error(x, b);
        }
    }
    return 0.5L * (lo + hi);
}

/* Runs the exchange at x->bound from the points in x->t. */
static int exchange_run(struct exchange *x)
{
    for (int round = 0; round < 100; round++) {
        long double zero[NUM_COEFS + 1], next[NUM_COEFS + 1];
        exchange_level(x);
        for (size_t i = 0; i + 1 < x->n; i++) zero[i] = exchange_zero(x, i);
        next[0] = -1.0L;
        next[x->n - 1] = 1.0L;
        for (size_t i = 1; i + 1 < x->n; i++)
            next[i] = exchange_peak(x, zero[i - 1], zero[i], (x->n - 1 - i) % 2 == 0);
        long double moved = 0.0L;
        for (size_t i = 0; i < x->n; i++) {
            const long double gap = i + 1 < x->n ? next[i + 1] - next[i] : next[i] - next[i - 1];
            if (!(gap > 0.0L)) return GSL_EMAXITER;
            moved = fmaxl(moved, fabsl(next[i] - x->t[i]) / gap);
        }
        memcpy(x->t, next, sizeof next);
        /* The error is flat at its extrema: 1e-7 settles the level to 1e-14 of itself. A
         * small level's extrema cannot be placed better than rounding lets them. */
        if (moved < fmaxl(1e-7L, 100.0L * sqrtl(1e-18L / (1.0L - x->floor)))) {
            exchange_level(x);
            return GSL_SUCCESS;
        }
    }
    return GSL_EMAXITER;
}

/* The polynomial through the points, Newton's form from the small end up, expanded. */
static void exchange_coefs(const struct exchange *x, long double *c)
{
    long double d[NUM_COEFS];
    const size_t n = x->n - 1;
    for (size_t i = 0; i < n; i++) d[i] = x->p[i];
    for (size_t k = 1; k < n; k++)
        for (size_t i = n - 1; i >= k; i--) d[i] = (d[i] - d[i - 1]) / (x->bound * (x->t[i] - x->t[i - k]));
    for (size_t j = 0; j < n; j++) c[j] = 0.0L;
    for (size_t k = n; k-- > 0;) {                            /* c = c (s - s_k) + d_k */
        for (size_t j = n - 1; j > 0; j--) c[j] = c[j - 1] - x->bound * x->t[k] * c[j];
        c[0] = d[k] - x->bound * x->t[k] * c[0];
    }
}

static int series(size_t degree, double bound, long double *c, double *promised)
{
    /* Below the resolution of the exchange the Chebyshev series is the best there is. */
    const long double size = expl(2.0L * bound + (long double)(degree + 1) * logl(bound / 2.0L + 1e-300L) -
                                  lgammal((long double)degree + 2.0L));
    if (size < 1e-15L) {
        *promised = (double)size;
        return feature_cheb_series(degree, bound, c, promised);
    }
    struct exchange x = { .n = degree + 2 };
    for (size_t i = 0; i < x.n; i++)
        x.t[i] = -cosl(PI_L * (long double)i / (long double)(degree + 1));
    int status = GSL_SUCCESS;
    /* The extrema crowd at the small end as the bound grows: approach it in steps. */
    for (long double b = fminl(bound, 2.0L); !status; b = fminl(bound, 1.5L * b)) {
        x.bound = b;
        status = exchange_run(&x);
        if (b >= (long double)bound) break;
    }
    if (status) return status;
    exchange_coefs(&x, c);
    *promised = (double)(1.0L - x.floor);
    return GSL_SUCCESS;
}

const struct feature_ops feature_minimax = {
    .name = "minimax", FEATURE_MONOMIALS, .needs_bound = true, .series = series,
};
