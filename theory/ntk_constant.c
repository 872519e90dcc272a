/* The constant of the m^{-1/2} law, in closed form (docs/derivations.md).
 *
 * To first order K_m - K* is the average over tokens of psi(w), whose block (i,j) is
 *
 *   rho_i rho_j M - K*_ij (rho_i + rho_j - 1) - abar g (rho_j x_j B' + rho_i A x_i')
 *   M = kappa (I + x_j B' + A x_i') + c A B',   A = w - abar sigma^2 x_i,  B = w - abar sigma^2 x_j
 *   g = e^{sigma^2 c} (kappa + sigma^2 c)
 *
 * a sum of terms rho_i^alpha rho_j^beta Q(w) with Q one of the five matrices below.
 * Such a weight is a constant times the density ratio of N(sigma^2 p, sigma^2 I),
 * p = alpha x_i + beta x_j, so every covariance of two terms is a Gaussian moment of a
 * polynomial of degree at most four, and depends on the three inner products of x_i
 * and x_j alone. E psi = 0: covariances are summed, not second moments, so that
 * nothing cancels as sigma -> 0. */
#include "prefix_ntk/ntk.h"

#include <math.h>
#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>

enum { TERM_I, TERM_XB, TERM_AX, TERM_AB, TERM_LIMIT, NUM_TERMS };   /* I, x_j B', A x_i', A B', K*_ij */
enum { NUM_WEIGHTS = 3 };                                            /* rho_i rho_j, rho_i, rho_j */

/* A vector alpha x_i + beta x_j. */
struct combination { double i, j; };

/* One pair of samples: its inner products, the law's constants, its limit block. */
struct pair {
    double ii, ij, jj;              /* ||x_i||^2, c, ||x_j||^2 */
    double dim, s2, abar, kappa;
    double weight;                  /* e^{sigma^2 c} */
    struct combination A, B;        /* means of A and B in the limit block */
    double trace;                   /* of K*_ij */
};

static const struct combination X_I = { 1.0, 0.0 }, X_J = { 0.0, 1.0 };

static double dot(const struct pair *q, struct combination u, struct combination v)
{
    return u.i * v.i * q->ii + (u.i * v.j + u.j * v.i) * q->ij + u.j * v.j * q->jj;
}

/* Means of A and B under the tilt p. */
static struct combination mean_A(const struct pair *q, struct combination p)
{
    return (struct combination){ q->s2 * (p.i - q->abar), q->s2 * p.j };
}

static struct combination mean_B(const struct pair *q, struct combination p)
{
    return (struct combination){ q->s2 * p.i, q->s2 * (p.j - q->abar) };
}

/* u' K*_ij v */
static double limit_form(const struct pair *q, struct combination u, struct combination v)
{
    return q->weight * ((q->kappa + q->s2 * q->ij) * dot(q, u, v) +
                        q->kappa * (dot(q, u, X_J) * dot(q, q->B, v) + dot(q, u, q->A) * dot(q, X_I, v)) +
                        q->ij * dot(q, u, q->A) * dot(q, q->B, v));
}

/* ||K*_ij||_F^2 */
static double limit_norm2(const struct pair *q)
{
    return q->weight * ((q->kappa + q->s2 * q->ij) * q->trace +
                        q->kappa * (limit_form(q, X_J, q->B) + limit_form(q, q->A, X_I)) +
                        q->ij * limit_form(q, q->A, q->B));
}

static struct pair pair_of(const double *x, const double *y, size_t d, double s2, double abar, double kappa)
{
    struct pair q = { .dim = (double)d, .s2 = s2, .abar = abar, .kappa = kappa };
    for (size_t k = 0; k < d; k++) {
        q.ii += x[k] * x[k];
        q.ij += x[k] * y[k];
        q.jj += y[k] * y[k];
    }
    const struct combination u = { 1.0, 1.0 };
    q.weight = exp(s2 * q.ij);
    q.A = mean_A(&q, u);
    q.B = mean_B(&q, u);
    q.trace = q.weight * ((kappa + s2 * q.ij) * q.dim + kappa * (dot(&q, X_J, q.B) + dot(&q, q.A, X_I)) +
                          q.ij * dot(&q, q.A, q.B));
    return q;
}

/* E<Q_s, Q_t> when A = z + a, B = z + b, z ~ N(0, sigma^2 I); s <= t. */
static double second_moment(const struct pair *q, int s, int t, struct combination a, struct combination b)
{
    const double aa = dot(q, a, a), ab = dot(q, a, b), bb = dot(q, b, b), v = q->s2, dv = q->dim * v;
    switch (s * NUM_TERMS + t) {
    case TERM_I * NUM_TERMS + TERM_XB: return dot(q, X_J, b);
    case TERM_I * NUM_TERMS + TERM_AX: return dot(q, X_I, a);
    case TERM_I * NUM_TERMS + TERM_AB: return dv + ab;
    case TERM_XB * NUM_TERMS + TERM_XB: return q->jj * (dv + bb);
    case TERM_XB * NUM_TERMS + TERM_AX: return v * q->ij + dot(q, X_J, a) * dot(q, X_I, b);
    case TERM_XB * NUM_TERMS + TERM_AB: return dot(q, X_J, a) * (dv + bb) + 2.0 * v * dot(q, X_J, b);
    case TERM_XB * NUM_TERMS + TERM_LIMIT: return limit_form(q, X_J, b);
    case TERM_AX * NUM_TERMS + TERM_AX: return q->ii * (dv + aa);
    case TERM_AX * NUM_TERMS + TERM_AB: return dot(q, X_I, b) * (dv + aa) + 2.0 * v * dot(q, X_I, a);
    case TERM_AX * NUM_TERMS + TERM_LIMIT: return limit_form(q, a, X_I);
    case TERM_AB * NUM_TERMS + TERM_AB: return (dv + aa) * (dv + bb) + 4.0 * v * ab + 2.0 * v * dv;
    case TERM_AB * NUM_TERMS + TERM_LIMIT: return v * q->trace + limit_form(q, a, b);
    case TERM_I * NUM_TERMS + TERM_I: return q->dim;
    case TERM_I * NUM_TERMS + TERM_LIMIT: return q->trace;
    default: return limit_norm2(q);
    }
}

/* <E Q_s, E Q_t>, s with means (a, b), t with means (a2, b2); s <= t. */
static double mean_product(const struct pair *q, int s, int t, struct combination a, struct combination b,
                           struct combination a2, struct combination b2)
{
    const double v = q->s2, dv = q->dim * v;
    switch (s * NUM_TERMS + t) {
    case TERM_I * NUM_TERMS + TERM_XB: return dot(q, X_J, b2);
    case TERM_I * NUM_TERMS + TERM_AX: return dot(q, X_I, a2);
    case TERM_I * NUM_TERMS + TERM_AB: return dv + dot(q, a2, b2);
    case TERM_XB * NUM_TERMS + TERM_XB: return q->jj * dot(q, b, b2);
    case TERM_XB * NUM_TERMS + TERM_AX: return dot(q, X_J, a2) * dot(q, b, X_I);
    case TERM_XB * NUM_TERMS + TERM_AB: return v * dot(q, X_J, b) + dot(q, X_J, a2) * dot(q, b, b2);
    case TERM_XB * NUM_TERMS + TERM_LIMIT: return limit_form(q, X_J, b);
    case TERM_AX * NUM_TERMS + TERM_AX: return q->ii * dot(q, a, a2);
    case TERM_AX * NUM_TERMS + TERM_AB: return v * dot(q, X_I, a) + dot(q, a, a2) * dot(q, X_I, b2);
    case TERM_AX * NUM_TERMS + TERM_LIMIT: return limit_form(q, a, X_I);
    case TERM_AB * NUM_TERMS + TERM_AB:
        return v * (dv + dot(q, a, b) + dot(q, a2, b2)) + dot(q, a, a2) * dot(q, b, b2);
    case TERM_AB * NUM_TERMS + TERM_LIMIT: return v * q->trace + limit_form(q, a, b);
    case TERM_I * NUM_TERMS + TERM_I: return q->dim;
    case TERM_I * NUM_TERMS + TERM_LIMIT: return q->trace;
    default: return limit_norm2(q);
    }
}

/* E ||psi_ij||_F^2. */
static double block_variance(const struct pair *q)
{
    const struct combination exponent[NUM_WEIGHTS] = { { 1.0, 1.0 }, { 1.0, 0.0 }, { 0.0, 1.0 } };
    const double scale[NUM_WEIGHTS] = { q->weight, 1.0, 1.0 };      /* E rho_i rho_j, E rho_i, E rho_j */
    const double g = q->abar * q->weight * (q->kappa + q->s2 * q->ij);
    const double coef[NUM_WEIGHTS][NUM_TERMS] = {
        { [TERM_I] = q->kappa, [TERM_XB] = q->kappa, [TERM_AX] = q->kappa, [TERM_AB] = q->ij },
        { [TERM_LIMIT] = -1.0, [TERM_AX] = -g },
        { [TERM_LIMIT] = -1.0, [TERM_XB] = -g },
    };
    double variance = 0.0;
    for (int e = 0; e < NUM_WEIGHTS; e++) {
        for (int f = 0; f < NUM_WEIGHTS; f++) {
            const struct combination p = exponent[e], r = exponent[f], both = { p.i + r.i, p.j + r.j };
            /* E of a product of two weights over the product of their E is e^{sigma^2 <p,r>}. */
            const double tilt = expm1(q->s2 * dot(q, p, r));
            const struct combination a = mean_A(q, p), b = mean_B(q, p), a2 = mean_A(q, r), b2 = mean_B(q, r);
            const struct combination a_both = mean_A(q, both), b_both = mean_B(q, both);
            for (int s = 0; s < NUM_TERMS; s++) {
                for (int t = 0; t < NUM_TERMS; t++) {
                    const double w = coef[e][s] * coef[f][t];
                    if (w == 0.0) continue;
                    const int lo = s < t ? s : t, hi = s < t ? t : s;
                    const double moment = second_moment(q, lo, hi, a_both, b_both);
                    const double means = s <= t ? mean_product(q, s, t, a, b, a2, b2)
                                                : mean_product(q, t, s, a2, b2, a, b);
                    variance += w * scale[e] * scale[f] * (tilt * moment + (moment - means));
                }
            }
        }
    }
    return variance;
}

int ntk_error_constant(const gsl_matrix *X, double sigma, enum prefix_signs law,
                       enum ntk_kernel kernel, double *constant, double *prefix_len_min)
{
    const size_t n = X->size1, d = X->size2;
    if (!(sigma > 0.0)) return GSL_EDOM;
    const double abar = law == PREFIX_SIGNS_POSITIVE ? 1.0 : 0.0, kappa = kernel == NTK_FULL ? 1.0 : 0.0;
    double variance = 0.0, norm2 = 0.0, longest = 0.0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            const struct pair q = pair_of(gsl_matrix_const_ptr(X, i, 0), gsl_matrix_const_ptr(X, j, 0), d,
                                          sigma * sigma, abar, kappa);
            const double twice = i == j ? 1.0 : 2.0, u2 = q.ii + 2.0 * q.ij + q.jj;
            if (!isfinite(u2)) return GSL_EDOM;
            variance += twice * block_variance(&q);
            norm2 += twice * limit_norm2(&q);
            if (u2 > longest) longest = u2;
        }
    if (!(norm2 > 0.0)) return GSL_EDOM;
    /* Only half of the mirrored tokens are drawn: twice the variance. */
    const double C2 = (law == PREFIX_SIGNS_MIRRORED ? 2.0 : 1.0) * variance / norm2;
    if (!isfinite(C2)) return GSL_EOVRFLW;
    *constant = sqrt(fmax(C2, 0.0));
    if (prefix_len_min) *prefix_len_min = 1.0 / gsl_cdf_ugaussian_Q(2.0 * sigma * sqrt(longest));
    return GSL_SUCCESS;
}
