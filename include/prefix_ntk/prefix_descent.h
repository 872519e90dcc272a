/* Full-batch gradient descent on a prefix, and what the linearised (lazy) dynamics say.
 *
 * Conventions of prefix_model.h: shapes, codes, threads. Ledger T6-T8, T11. */
#ifndef PREFIX_NTK_PREFIX_DESCENT_H
#define PREFIX_NTK_PREFIX_DESCENT_H
#include "prefix_ntk/prefix_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- a real attention layer around the prefix --------------------------------- */

/* Queries q_i, input tokens z_j, weights W_Q, W_K (dim, head_dim), W_V (dim, out_dim):
 *   x~_i = W_K W_Q^T q_i / sqrt(head_dim)     scores <x~_i, w_r>, <x~_i, z_j> in one softmax
 *   F(q_i) = m W_V^T ( sum_r a_r S_ir w_r + sum_j S_ij z_j )                          */
struct prefix_layer;

/* queries (num_samples, dim), inputs (seq_len, dim) or NULL. All that is needed of them is copied;
 * the layer is the caller's, to be freed. NULL: memory is short, or shapes disagree. */
PREFIX_NTK_API struct prefix_layer *prefix_layer_alloc(const gsl_matrix *queries, const gsl_matrix *inputs,
                                                       const gsl_matrix *W_Q, const gsl_matrix *W_K,
                                                       const gsl_matrix *W_V);
PREFIX_NTK_API void prefix_layer_free(struct prefix_layer *layer);
/* x~ (num_samples, dim): the inputs of the one-layer model this layer is equal to. */
PREFIX_NTK_API const gsl_matrix *prefix_layer_queries(const struct prefix_layer *layer);

/* ---- descent -------------------------------------------------------------------- */

struct prefix_descent;

/* Bytes a descent needs, the copy of W included. */
PREFIX_NTK_API size_t prefix_descent_bytes(size_t prefix_len, size_t dim, size_t num_samples, int num_threads);

/* Starts at a copy of W. layer NULL: the one-layer model on X (num_samples, dim);
 * else X is NULL and the layer's queries are used; it must outlive the descent.
 * Y (num_samples, outputs). On success *out is the caller's. */
PREFIX_NTK_API int prefix_descent_alloc(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                                        const struct prefix_layer *layer, const gsl_matrix *Y,
                                        int num_threads, struct prefix_descent **out);
PREFIX_NTK_API void prefix_descent_free(struct prefix_descent *descent);

/* W <- W - step_size dL/dW. GSL_EDOM once the loss is not finite; then only
 * prefix_descent_free may follow. */
PREFIX_NTK_API int prefix_descent_step(struct prefix_descent *descent, double step_size);

/* At the current W: 1/2 sum ||F - Y||^2, F (num_samples, outputs), W, F - Y. */
PREFIX_NTK_API double prefix_descent_loss(const struct prefix_descent *descent);
PREFIX_NTK_API const gsl_matrix *prefix_descent_outputs(const struct prefix_descent *descent);
PREFIX_NTK_API const gsl_matrix *prefix_descent_prefix(const struct prefix_descent *descent);
PREFIX_NTK_API const gsl_matrix *prefix_descent_residual(const struct prefix_descent *descent);

/* The state of a descent as numbers: loaded into one of the same shapes, data and
 * layer it goes on bit by bit as the saved one would have. */
PREFIX_NTK_API size_t prefix_descent_state_size(const struct prefix_descent *descent);
PREFIX_NTK_API void prefix_descent_save(const struct prefix_descent *descent, double *state);
PREFIX_NTK_API int prefix_descent_load(struct prefix_descent *descent, const double *state);

/* Root mean square and maximum over tokens of ||w_r - w0_r||. */
PREFIX_NTK_API int prefix_movement(const gsl_matrix *W, const gsl_matrix *W0, double *rms, double *max);

/* ---- the linearised dynamics -------------------------------------------------------- */

/* R_t = (I - step_size m K)^t R_0 in the eigenbasis of K. */
struct prefix_linear {
    size_t size;            /* num_samples * dim                             */
    double *eigenvalues;    /* ascending                                     */
    double *energy;         /* (u_j, R_0)^2                                  */
    gsl_matrix *vectors;    /* column j is u_j                               */
};

/* K (size, size) symmetric, R0 (num_samples, dim) in its order. */
PREFIX_NTK_API int prefix_linear_alloc(const gsl_matrix *K, const gsl_matrix *R0, struct prefix_linear **out);
PREFIX_NTK_API void prefix_linear_free(struct prefix_linear *linear);
/* 1/2 ||R_t||^2 with rate = step_size m. */
PREFIX_NTK_API double prefix_linear_loss(const struct prefix_linear *linear, double rate, double steps);
/* Smallest number of steps (a real number) with loss <= target; INFINITY when none. */
PREFIX_NTK_API double prefix_linear_steps(const struct prefix_linear *linear, double rate, double target);

#ifdef __cplusplus
}
#endif
#endif
