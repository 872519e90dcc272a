/* What a prefix can fit: second-order minimisation of the loss; and how fast its kernel
 * can be made to change. Conventions of prefix_model.h. */
#ifndef PREFIX_NTK_PREFIX_FIT_H
#define PREFIX_NTK_PREFIX_FIT_H
#include "prefix_ntk/ntk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Minimises L by Levenberg-Marquardt (GSL's nonlinear least squares) from the start in
 * W, which receives the end point. Stops at loss <= stop_loss, after max_iterations,
 * or when no further progress is possible (all GSL_SUCCESS; *loss tells). */
PREFIX_NTK_API int prefix_fit(gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                              const gsl_matrix *Y, size_t max_iterations, double stop_loss,
                              double *loss, size_t *iterations);

/* Gradient in W of <G, K(W)> = sum_ab G_ab K_ab, K the full or the key kernel, G (n dim,
 * n dim) symmetric; dW (m, dim). */
PREFIX_NTK_API int ntk_gram_gradient(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                                     enum ntk_kernel kernel, const gsl_matrix *G, gsl_matrix *dW);

/* Moves every token by exactly `radius` so as to change the kernel most: W <- W0 +
 * radius g_r/||g_r||, g the gradient of ||K(W) - K(W0)||_F^2 at the last W, for
 * `iterations` rounds from the shift W - W0 given. W0, signs, X in; W in the start and out the
 * best W met (the start among them); *change out its ||K(W) - K(W0)||_F. GSL_EBADLEN shapes,
 * GSL_ENOMEM, GSL_EDOM not finite; W is then somewhere on the way. */
PREFIX_NTK_API int ntk_adversarial_shift(const gsl_matrix *W0, const gsl_vector *signs, const gsl_matrix *X,
                                         enum ntk_kernel kernel, double radius, size_t iterations,
                                         gsl_matrix *W, double *change, int num_threads);

#ifdef __cplusplus
}
#endif
#endif
