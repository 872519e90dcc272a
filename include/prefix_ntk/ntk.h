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

#ifdef __cplusplus
}
#endif
#endif
