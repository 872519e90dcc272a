/* The predictor of an infinitely long trained prefix (kernel regression).
 *
 *   f(x) = F_0(x) + K(x, X) K(X, X)^{-1} (Y - F_0(X))          ledger T13
 *
 * K is K* or H* of ntk.h; F_0 = 0 for signs of mean 0 in the limit, or the outputs of
 * the untrained prefix. Conventions of prefix_model.h. */
#ifndef PREFIX_NTK_NTK_PREDICT_H
#define PREFIX_NTK_NTK_PREDICT_H
#include "prefix_ntk/ntk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How K(X, X) was solved. No jitter is ever added. */
struct ntk_solve_report {
    size_t size, rank;      /* rank < size: the pseudo-inverse was used (singular K) */
    double rcond;           /* 1-norm estimate of the reciprocal condition number of
                               K scaled to a diagonal of ones                        */
    double residual;        /* max |B - K alpha| / max |B|                           */
};

/* Solves K alpha = B for symmetric positive semidefinite K (size, size), B (size,
 * columns). K is scaled to a diagonal of ones, so that samples of different norms do not
 * count as ill-conditioned. Cholesky with iterative refinement (residuals in extended
 * precision), or the pseudo-inverse of the scaled matrix (eigenvalues below size *
 * DBL_EPSILON * lambda_max count as 0) when rcond is below size * DBL_EPSILON, unless that
 * misses B and Cholesky does not. alpha (size, columns) out, may be B. report may be NULL.
 * GSL_EBADLEN shapes; GSL_EDOM K is not finite; GSL_ENOMEM; GSL_EFAILED the eigenvalues of a
 * singular K did not settle. alpha is not to be used after a failure. */
PREFIX_NTK_API int ntk_solve(const gsl_matrix *K, const gsl_matrix *B, gsl_matrix *alpha,
                             struct ntk_solve_report *report);

/* F (n_at, dim): predictions at X_at from X (n, dim), Y (n, dim). F0, F0_at: outputs of
 * the untrained prefix at X and X_at, or both NULL. law matters through E[a]. F is written on
 * success only. GSL_EBADLEN shapes, or only one of F0 and F0_at; GSL_EDOM sigma is not positive or
 * a kernel is not finite; and the codes of ntk_solve. */
PREFIX_NTK_API int ntk_predict(const gsl_matrix *X, const gsl_matrix *Y, const gsl_matrix *X_at,
                               double sigma, enum prefix_signs law, enum ntk_kernel kernel,
                               const gsl_matrix *F0, const gsl_matrix *F0_at, gsl_matrix *F,
                               struct ntk_solve_report *report);

#ifdef __cplusplus
}
#endif
#endif
