/* The Jacobian of a short prefix, entry by entry:
 * dF_k(x_i)/dw_r = m S_ir [ a_r e_k + (a_r w_rk - mu_ik) x_i ], the key kernel without a_r e_k. */
#include "prefix_ntk/ntk.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>

int ntk_jacobian(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, enum ntk_kernel kernel,
                 gsl_matrix *jacobian)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    if (signs->size != m || X->size2 != d || jacobian->size1 != n * d || jacobian->size2 != m * d) return GSL_EBADLEN;
    double *S = malloc((m + d) * sizeof *S), *mu = S ? S + m : NULL;
    if (!S) return GSL_ENOMEM;
    int status = GSL_SUCCESS;
    for (size_t i = 0; i < n && !status; i++) {
        double top = -INFINITY, mass = 0.0;
        for (size_t r = 0; r < m; r++) {
            S[r] = 0.0;
            for (size_t q = 0; q < d; q++) S[r] += gsl_matrix_get(W, r, q) * gsl_matrix_get(X, i, q);
            if (!isfinite(S[r])) status = GSL_EDOM;
            if (S[r] > top) top = S[r];
        }
        for (size_t r = 0; r < m; r++) mass += S[r] = exp(S[r] - top);
        for (size_t k = 0; k < d; k++) {
            mu[k] = 0.0;
            for (size_t r = 0; r < m; r++) mu[k] += gsl_vector_get(signs, r) * S[r] / mass * gsl_matrix_get(W, r, k);
        }
        for (size_t r = 0; r < m; r++) {
            const double mS = (double)m * S[r] / mass, a = gsl_vector_get(signs, r);
            for (size_t k = 0; k < d; k++)
                for (size_t q = 0; q < d; q++) {
                    const double value = kernel == NTK_FULL && k == q ? a : 0.0;
                    const double key = (a * gsl_matrix_get(W, r, k) - mu[k]) * gsl_matrix_get(X, i, q);
                    gsl_matrix_set(jacobian, i * d + k, r * d + q, mS * (value + key));
                }
        }
    }
    free(S);
    return status;
}
