/* Attention linear in the length: the feature map stands in for exp everywhere.
 *
 *   T_i = phi(q_i)^T ( Z + sum_j phi(k_j) v_j^T ) / D_i
 *   D_i = phi(q_i)^T ( k + sum_j phi(k_j) )               O(L r d) instead of O(L^2 d)
 *
 * over the input keys j that query i may see: j < key_lengths[b], and with `causal`
 * j <= i + len_k - len_q (then by prefix sums in chunks of 64). Shapes, views, status
 * codes, workspace and threads as in attention.h (the scale is the map's own,
 * 1/sqrt(head_dim)); arithmetic is double, as a polynomial map's sums cancel. Work is
 * shared out by batch entry and key/value head. The map must be explicit. Products go through
 * CBLAS: let OpenBLAS have one thread (OPENBLAS_NUM_THREADS=1, or openblas_set_num_threads), or
 * its own wait for each other wherever other work is running. */
#ifndef PREFIX_NTK_LINEAR_H
#define PREFIX_NTK_LINEAR_H
#include <stddef.h>
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"

#ifdef __cplusplus
extern "C" {
#endif

PREFIX_NTK_API size_t attn_linear_forward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                                    int num_threads);

/* summary->map is required; with summary->Z.data NULL there is no prefix (kvec is not
 * read either). q (batch, heads, len_q, head_dim), k and v (batch, kv_heads, len_k, head_dim). GSL_EUNSUP
 * the map is not explicit; GSL_EDOM some D_i is not positive and finite, or row i sees a key or
 * value that is not finite: that row of out is 0, *failure names the first. */
PREFIX_NTK_API int attn_linear_forward(const struct attn_shape *shape,
                                       struct attn_in q, struct attn_in k, struct attn_in v,
                                       const struct attn_summary *summary, struct attn_out out,
                                       void *work, size_t work_bytes, int num_threads,
                                       struct attn_failure *failure);

PREFIX_NTK_API size_t attn_linear_backward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                                     int num_threads);

/* Gradients of sum(d_out * out); `out` is not needed. Rows whose D_i is not positive
 * contribute nothing (GSL_EDOM is then returned as by forward, the rest being right; GSL_EOVRFLW
 * where a gradient is out of range).
 * grads: q, k, v, Z, kvec as attn_ntk_backward's, of the summary's shape, each with
 * data NULL when not wanted; a summary head shared by query heads or by batch entries
 * (stride 0) receives the sum over them; those of q, k, v must not overlap (GSL_EINVAL). */
PREFIX_NTK_API int attn_linear_backward(const struct attn_shape *shape,
                                        struct attn_in q, struct attn_in k, struct attn_in v,
                                        const struct attn_summary *summary, struct attn_in d_out,
                                        const struct attn_ntk_grads *grads,
                                        void *work, size_t work_bytes, int num_threads);

#ifdef __cplusplus
}
#endif
#endif
