/* Kernels of a real attention layer with a prefix: W_Q, W_K, W_V and input tokens
 * that share the softmax with it (the layer of prefix_descent.h).
 *
 *   x~_i = W_K W_Q^T q_i / sqrt(head_dim)   scores <x~_i, w_r>, <x~_i, z_j> in one softmax
 *   F(q_i) = m W_V^T ( sum_r a_r S_ir w_r + sum_j S_ij z_j )
 *
 * X (num_samples, dim) holds the x~_i, inputs (seq_len, dim) the z_j (NULL: none),
 * W_V is (dim, out_dim). Kernel matrices are (n out_dim, n out_dim), row i out_dim + k,
 * gradients taken in the w_r. Conventions of ntk.h: inputs are const, the last matrix is
 * written. Every function returns GSL_SUCCESS, GSL_EBADLEN (shapes disagree), GSL_ENOMEM, or
 * GSL_EDOM (an input or the kernel is not finite, sigma is not positive). */
#ifndef PREFIX_NTK_NTK_LAYER_H
#define PREFIX_NTK_NTK_LAYER_H
#include "prefix_ntk/ntk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Infinite-prefix limit, the sandwich (I (x) W_V)^T K*(X1, X2) (I (x) W_V): the input
 * tokens have left the softmax. (n1 out_dim, n2 out_dim). */
PREFIX_NTK_API int ntk_layer_limit(const gsl_matrix *X1, const gsl_matrix *X2, const gsl_matrix *W_V,
                                   double sigma, enum prefix_signs law, enum ntk_kernel kernel,
                                   gsl_matrix *limit);

/* The kernel of the prefix W (prefix_len, dim), signs (prefix_len), at its current value: gram
 * (n out_dim, n out_dim). */
PREFIX_NTK_API int ntk_layer_gram(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                                  const gsl_matrix *inputs, const gsl_matrix *W_V,
                                  enum ntk_kernel kernel, gsl_matrix *gram, int num_threads);

/* What the input tokens (not NULL here) change: m (kernel with inputs - kernel without) ->
 * correction (n out_dim, n out_dim) as m grows. */
PREFIX_NTK_API int ntk_layer_correction(const gsl_matrix *X, const gsl_matrix *inputs, const gsl_matrix *W_V,
                                        double sigma, enum prefix_signs law, enum ntk_kernel kernel,
                                        gsl_matrix *correction);

#ifdef __cplusplus
}
#endif
#endif
