/* Feature maps in double, straight from their definitions: every monomial from its
 * own list of indices, Chebyshev coefficients from the integral. */
#ifndef TESTS_SUPPORT_FEATURE_REF_H
#define TESTS_SUPPORT_FEATURE_REF_H
#include <stddef.h>

/* c[0..degree]: the Chebyshev series of e^s on [-bound, bound] cut at `degree`. */
void feature_ref_cheb(size_t degree, double bound, double *c);

/* Number of monomials of degree <= `degree` in dim variables, by counting them. */
size_t feature_ref_count(size_t dim, size_t degree);

/* sqrt(|c_j| j!/alpha!) z^alpha, times the sign of c_j when `key`, in the order of
 * combinations_with_replacement degree by degree. */
void feature_ref_monomials(const double *x, size_t dim, size_t degree, const double *c, int key, double *phi);

/* e^{<omega_r,z> - ||z||^2/2} / sqrt(count) */
void feature_ref_favor(const double *x, size_t dim, size_t count, const double *omega, double *phi);

void feature_ref_elu1(const double *x, size_t dim, double *phi);

#endif
