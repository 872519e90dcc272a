/* Closed forms of the approximation study (docs/derivations.md). */
#ifndef ATTENTION_APPROX_THEORY_H
#define ATTENTION_APPROX_THEORY_H
#include <stddef.h>

/* Even Taylor degree g at score mean 0 shrinks the output of a long Gaussian prefix by
 * E p_{g-1}(t) / E p_g(t) = sum_{i <= g/2-1} (s^2/2)^i/i! / sum_{i <= g/2} (s^2/2)^i/i!,
 * t ~ N(0, s^2) (Stein); odd degree by nothing. */
double taylor_shrink(size_t degree, double sd);

/* Relative root-mean-square distance of a Gaussian prefix of length m to its limit:
 * sqrt( sum_i e^{s_i^2} (||W_V||_F^2 + ||u_i W_V||^2) / (m sum_i ||u_i W_V||^2) ), with
 * s_i the score spread and u_i W_V the limit output of query i; arrays of n. */
double gaussian_limit_rate(const double *spread, const double *limit_norm2, size_t n, double wv_norm2,
                           double prefix_len);

/* log C(dim + degree, degree): features of a polynomial map. */
double log_feature_count(double dim, double degree);

/* Smallest degree g with b^{g+1} e^b/(g+1)! <= eps: Taylor's guarantee for relative error eps on
 * [-b, b]. */
size_t taylor_degree_bound(double b, double log_eps);

/* The Aggarwal-Alman order max(b, log(1/eps) / log(log(1/eps)/b)); the second term counts only
 * where log(1/eps) > b, elsewhere the rate is b. */
double aggarwal_alman_rate(double b, double log_inv_eps);

#endif
