/* Neural tangent kernels of the prefix model: empirical, infinite-prefix limit.
 *
 * Kernel matrices are (n d, n d), row i d + k for sample i, output k; symmetric,
 * both triangles filled. Full kernel K: all of dF/dw; key kernel H: the softmax
 * (key) path only. Conventions of prefix_model.h (layout, codes, threads). */
#ifndef PREFIX_NTK_NTK_H
#define PREFIX_NTK_NTK_H
#include "prefix_ntk/prefix_model.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ntk_kernel { NTK_FULL, NTK_KEY };

/* Bytes ntk_gram needs beyond its arguments. */
PREFIX_NTK_API size_t ntk_gram_workspace(size_t num_samples, size_t dim, size_t prefix_len, int num_threads);

/* K or H of the prefix W at its current value: (1/m) sum_r <dF_k(x_i)/dw_r, dF_l(x_j)/dw_r>. */
PREFIX_NTK_API int ntk_gram(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                            enum ntk_kernel kernel, gsl_matrix *gram, int num_threads);

/* The same by the features-and-SYRK route: slower, best conditioned; the cross-check. */
PREFIX_NTK_API int ntk_gram_syrk(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                                 enum ntk_kernel kernel, gsl_matrix *gram, int num_threads);

/* Infinite-prefix limit between two sets of inputs: (n1 d, n2 d). `law` matters
 * through E[a] (positive: 1, else 0). */
PREFIX_NTK_API int ntk_limit(const gsl_matrix *X1, const gsl_matrix *X2, double sigma,
                             enum prefix_signs law, enum ntk_kernel kernel, gsl_matrix *limit);

/* How far a finite prefix is from the limit, to first order in 1/sqrt(m):
 *
 *   sqrt(E ||K_m - K*||_F^2) / ||K*||_F  ->  constant / sqrt(m)
 *
 * Exact in the limit for every law (closed form, docs/derivations.md). The variance
 * is carried by tokens 2 sigma ||x_i + x_j|| standard deviations out; until the
 * prefix holds such tokens the error looks smaller than this and falls more slowly.
 * *prefix_len_min (may be NULL) receives the m at which one of them is expected.
 * GSL_EDOM when sigma is not positive, X not finite, or the limit is 0;
 * GSL_EOVRFLW when the variance exceeds the range of a double. */
PREFIX_NTK_API int ntk_error_constant(const gsl_matrix *X, double sigma, enum prefix_signs law,
                                      enum ntk_kernel kernel, double *constant,
                                      double *prefix_len_min);

/* Eigenvalues of a symmetric matrix in ascending order; each is off by at most
 * about size * DBL_EPSILON * (the largest), whatever its own size. */
PREFIX_NTK_API int ntk_eigenvalues(const gsl_matrix *symmetric, gsl_vector *eigenvalues);

/* The smallest of them alone. */
PREFIX_NTK_API int ntk_lambda_min(const gsl_matrix *symmetric, double *lambda_min);

#ifdef __cplusplus
}
#endif
#endif
