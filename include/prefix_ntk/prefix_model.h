/* The one-layer prefix model and its random prefixes.
 *
 *   S_i = softmax(W x_i) in R^m      F(x_i) = m sum_r a_r S_ir w_r
 *   L(W) = 1/2 sum_i ||F(x_i) - y_i||^2        arXiv:2406.14036, ledger T1
 *
 * Matrices are row-major: W (prefix_len, dim), row r is token w_r; X, Y, F
 * (num_samples, dim); signs (prefix_len). Double precision. All functions return
 * GSL_SUCCESS or a GSL code (GSL_EBADLEN shapes disagree, GSL_ENOMEM, GSL_EDOM not
 * finite), use at most num_threads threads, and give the same bits for any number
 * of threads. Inputs are const; outputs are owned by the caller and may not alias.
 * GSL's own error handler ends the process where memory is short: turn it off
 * (gsl_set_error_handler_off) to have GSL_ENOMEM returned. In a child made by fork OpenMP's
 * threads are not there, and these functions use one.
 *
 * An _alloc whose only failures are memory and shapes returns the object or NULL; one that
 * can fail in more ways returns a code and leaves the object, or NULL, in *out. Either way it
 * is the caller's, and its _free accepts NULL. */
#ifndef PREFIX_NTK_PREFIX_MODEL_H
#define PREFIX_NTK_PREFIX_MODEL_H
#include <stdint.h>
#include <gsl/gsl_matrix.h>
#include <gsl/gsl_vector.h>
#include "prefix_ntk/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the fixed signs a_r are drawn: +-1 (the paper's), all 1 (what one value
 * matrix really gives), or w_{r+m/2} = w_r with a_{r+m/2} = -a_r (F(0) = 0). */
enum prefix_signs { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_MIRRORED };

/* Draws w_r ~ N(0, sigma^2 I) and signs. Token r of trial `trial` depends on
 * (seed, trial, r) alone. Mirrored: row r + m/2 repeats row r (GSL_EINVAL for odd m). */
PREFIX_NTK_API int prefix_draw(uint64_t seed, uint64_t trial, enum prefix_signs law, double sigma,
                               gsl_matrix *W, gsl_vector *signs, int num_threads);

/* F(x_i), all samples. */
PREFIX_NTK_API int prefix_model_forward(const gsl_matrix *W, const gsl_vector *signs,
                                        const gsl_matrix *X, gsl_matrix *F, int num_threads);

/* 1/2 sum_i ||F_i - y_i||^2. */
PREFIX_NTK_API int prefix_model_loss(const gsl_matrix *F, const gsl_matrix *Y, double *loss);

/* dL/dW (prefix_len, dim); F and loss receive their values when not NULL.
 *   dL/dw_r = m sum_i S_ir [ a_r R_i + x_i (a_r <R_i,w_r> - <R_i,mu_i>) ] */
PREFIX_NTK_API int prefix_model_gradient(const gsl_matrix *W, const gsl_vector *signs,
                                         const gsl_matrix *X, const gsl_matrix *Y, gsl_matrix *dW,
                                         gsl_matrix *F, double *loss, int num_threads);

#ifdef __cplusplus
}
#endif
#endif
