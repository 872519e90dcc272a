/* Attention for callers who want every digit: the sums over keys and features in double.
 *
 * Inputs and outputs are the float32 views of attention.h, with its shapes, statuses, failures and
 * threads; scale is 1/sqrt(head_dim). Softmax weights come from the float32 kernels, block by block of
 * 256 keys, and are added in double, since the values of a long prefix cancel; features, and the summary
 * they meet, are double throughout. Results are rounded to float32 once. One call gives the output and,
 * where `grads` is not NULL, the gradients of sum(d_out * out); without it d_out is not read. Memory is
 * allocated per call (the *_bytes functions tell how much, 0 for arguments that are refused): these are
 * for single evaluations, not for training loops. Products go through CBLAS, as in linear.h.
 *
 * Statuses as in attention.h; on GSL_EDOM the output and the gradients are written, but for bad rows'. */
#ifndef PREFIX_NTK_ATTENTION_F64_H
#define PREFIX_NTK_ATTENTION_F64_H
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Softmax attention over prefix (NULL: none; rows, not packed: GSL_EINVAL) and input keys. grads->q must
 * be given, the others as wanted. */
PREFIX_NTK_API int attn_exact_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                                  const struct attn_prefix *prefix, struct attn_out out, struct attn_in d_out,
                                  const struct attn_exact_grads *grads, int num_threads, struct attn_failure *failure);
PREFIX_NTK_API size_t attn_exact_f64_bytes(const struct attn_shape *shape, int backward);

/* Summaries (Z, k) in double: e^{log_scale} times (feat_dim, head_dim + 1) numbers without gaps, row a
 * being Z_a and then k_a. That of batch entry b, summary head h is number b * batch + h * head (strides
 * 0: shared); query head h reads summary head h / (shape heads / heads). Zk NULL: no prefix. */
struct attn_summary_f64 {
    const feature_map *map;         /* explicit */
    size_t heads;                   /* those of the shape, or kv_heads */
    const double *Zk, *log_scale;
    size_t batch, head;
};

/* q, k, v must be given. dZk: of the summaries as stored, indexed like them, summed where they are
 * shared; NULL: not wanted. */
struct attn_grads_f64 {
    struct attn_out q, k, v;
    double *dZk;
};

/* NTK-Attention: e^s for the input keys, features for the summary. */
PREFIX_NTK_API int attn_ntk_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                                const struct attn_summary_f64 *summary, struct attn_out out, struct attn_in d_out,
                                const struct attn_grads_f64 *grads, int num_threads, struct attn_failure *failure);

/* The form of linear.h: features for prefix and input keys alike. */
PREFIX_NTK_API int attn_linear_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                                   const struct attn_summary_f64 *summary, struct attn_out out, struct attn_in d_out,
                                   const struct attn_grads_f64 *grads, int num_threads, struct attn_failure *failure);

PREFIX_NTK_API size_t attn_summary_f64_bytes(const struct attn_shape *shape, const struct attn_summary_f64 *summary,
                                             int backward, int num_threads);

/* Both without features: p(s) on the scores themselves, O(len_q prefix_len d), for polynomial maps
 * (GSL_EINVAL others) with too many monomials; the prefix as rows. `linear`: p for the input keys too.
 * Of grads, q, and k and v (with a prefix prefix_k and prefix_v, too) must be given. */
PREFIX_NTK_API int attn_scores_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                                   const struct attn_prefix *prefix, const feature_map *map, int linear,
                                   struct attn_out out, struct attn_in d_out, const struct attn_exact_grads *grads,
                                   int num_threads, struct attn_failure *failure);
PREFIX_NTK_API size_t attn_scores_f64_bytes(const struct attn_shape *shape, size_t prefix_len, int backward,
                                            int num_threads);

#ifdef __cplusplus
}
#endif
#endif
