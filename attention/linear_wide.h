/* Prefixes folded in double, for callers who want every digit: the parts of
 * NTK-Attention and of the linear form that features contribute are computed in double
 * from a summary in double, beside the float32 kernels for the input keys. Hidden.
 * Shapes, views, statuses and threads as in attention.h; scale is 1/sqrt(head_dim).
 * Memory is allocated per call. */
#ifndef ATTENTION_LINEAR_WIDE_H
#define ATTENTION_LINEAR_WIDE_H
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"

/* Summaries (Z, k) as states of linear_state.h: e^{scale} Zk, Zk (feat_dim, head_dim + 1)
 * with k in the last column. That of batch entry b, summary head h is number
 * b * batch + h * head (strides 0: shared). Zk NULL: no prefix. */
struct attn_wide_summary {
    const feature_map *map;
    size_t heads;                  /* those of the shape, or kv_heads */
    const double *Zk, *scale;
    size_t batch, head;
};

/* Gradients of sum(d_out * out). dZk: of the summaries as stored, indexed like them,
 * summed where they are shared; NULL: not wanted. q, k, v must be given. */
struct attn_wide_grads {
    struct attn_out q, k, v;
    double *dZk;
};

/* T_i = N_i / D_i with features for prefix and input keys alike. grads NULL: forward only
 * (d_out is not read). */
int attn_wide_linear(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                     const struct attn_wide_summary *summary, struct attn_out out, struct attn_in d_out,
                     const struct attn_wide_grads *grads, int num_threads, struct attn_failure *failure);

/* The same with e^s for the input keys, by the kernels of attention.h. */
int attn_wide_ntk(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                  const struct attn_wide_summary *summary, struct attn_out out, struct attn_in d_out,
                  const struct attn_wide_grads *grads, int num_threads, struct attn_failure *failure);

/* Both without features: p(s) on the scores themselves, O(len_q prefix_len d), for
 * polynomial maps with too many monomials. `linear`: p for the input keys too. */
struct attn_score_grads { struct attn_out q, k, v, prefix_k, prefix_v; };
int attn_wide_scores(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                     const struct attn_prefix *prefix, const feature_map *map, int linear,
                     struct attn_out out, struct attn_in d_out, const struct attn_score_grads *grads,
                     int num_threads, struct attn_failure *failure);

/* Softmax attention over prefix (NULL: none) and input keys: the same, without features. */
int attn_wide_exact(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                    const struct attn_prefix *prefix, struct attn_out out, struct attn_in d_out,
                    const struct attn_exact_grads *grads, int num_threads, struct attn_failure *failure);

/* Bytes the calls take beyond their arguments. */
size_t attn_wide_bytes(const struct attn_shape *shape, const struct attn_wide_summary *summary, int backward,
                       int num_threads);
size_t attn_wide_scores_bytes(const struct attn_shape *shape, size_t prefix_len, int backward, int num_threads);

size_t attn_wide_exact_bytes(const struct attn_shape *shape, int backward);

/* ---- for the implementations ------------------------------------------------------- */

/* What softmax attention over some keys has summed up, per (batch, head, query) row:
 * sums (rows, head_dim + 1) = [sum e^s v, sum e^s] in units of 2^shift, shift -inf without
 * keys. The kernels run over blocks of keys and their sums are added in double: the
 * values of a long prefix cancel, and float32 sums of n of them lose sqrt(n) 2^-25 of
 * what is left. */
struct attn_dense { double *sums, *shift; };

int attn_dense_alloc(const struct attn_shape *shape, struct attn_dense *dense);    /* empty sums */
void attn_dense_free(struct attn_dense *dense);
/* Adds the prefix (NULL: none) and the input keys. */
int attn_dense_forward(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                       const struct attn_prefix *prefix, const struct attn_dense *dense, int num_threads);

/* num = [N, D] (head_dim + 1), in units of e^{*unit}, plus row `at` of dense; *unit
 * becomes that of the sum. */
void attn_dense_add(double *num, size_t head_dim, double *unit, const struct attn_dense *dense, size_t at);

/* Whether [N, D] is finite. Where it is not (a value that is not finite was seen), the calls above
 * treat the row as one without a normaliser. */
int attn_sums_finite(const double *num, size_t head_dim);

/* ln D = unit + ln d as a row of attention.h. */
void attn_dense_row(double unit, double d, float *row);

/* Gradients of the dense part once the rows of the whole are known; that in q is added
 * to what grads->q holds. */
int attn_dense_backward(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                        struct attn_out out, const attn_row *rows, struct attn_in d_out,
                        struct attn_out dq, struct attn_out dk, struct attn_out dv, int num_threads);

#endif
