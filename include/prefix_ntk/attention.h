/* Attention with a prefix, and NTK-Attention: float32 kernels, forward and backward.
 *
 * One query row q_i of one head, s_j = scale <q_i, k_j>:
 *
 *   exact   T_i = ( sum_P e^{s_j} v_j + sum_j e^{s_j} v_j ) / ( sum_P e^{s_j} + sum_j e^{s_j} )
 *   ntk     T_i = ( sum_j e^{s_j} v_j + phi(q_i) Z ) / D_i,   D_i = sum_j e^{s_j} + phi(q_i).k
 *
 * where P runs over the prefix (all of it, for every query) and j over the input
 * keys that i may see: j < key_lengths[b], and with `causal` j <= i + len_k - len_q.
 * arXiv:2406.14036v2, ledger M1. Scores are shifted by their joint row maximum over
 * the *allowed* keys and log|phi(q).k|; Z = k = 0 and prefix_len = 0 both give plain
 * attention, the same bits (to rounding where few heads meet 2,048 keys or more: the keys
 * of exact attention are then split over threads, those beside a summary are not). The vector k of a summary is `kvec` in code and options, so that it
 * is not taken for the keys.
 *
 * Conventions of every function here
 *   data       float32, (batch, head, row, column), columns contiguous; other
 *              strides are in elements, any sign, 0 to share (see struct attn_in).
 *   aliasing   outputs may overlap neither inputs nor each other.
 *   workspace  `work` of at least the bytes the matching *_workspace function
 *              returns for the same arguments, any alignment; nothing is then
 *              allocated. NULL: the call allocates and frees for itself. The
 *              *_workspace functions return 0 for arguments that the call refuses.
 *   threads    at most num_threads (>= 1), the caller's among them, and at most 256;
 *              results do not depend on it. Functions are thread-safe. The threads, made by
 *              the first call on two or more, are all the library keeps between calls: they
 *              sleep, block all signals, and a child made by fork makes its own. Nobody
 *              waits for a thread that has not begun its piece of the work.
 *   status     GSL_SUCCESS, or
 *              GSL_EINVAL   sizes or pointers that make no sense (head_dim 0, kv_heads not
 *                           dividing heads, a key length above len_k, scale not finite, arrays
 *                           of more than 2^44 numbers, ...)
 *              GSL_EBADLEN  work_bytes too small, or a packed prefix or a feature map
 *                           of another size
 *              GSL_ENOMEM   allocation failed
 *              GSL_EUNSUP   the summary's map is not explicit
 *              GSL_EDOM     some row has a normaliser D that is not positive and finite
 *                           (a polynomial feature map, a row that may see no key at
 *                           all, scores that overflow, a query or a key it sees that is not
 *                           finite). *failure (when not NULL) names the first such row in
 *                           (batch, head, row) order; those rows of the output are 0 and
 *                           enter no gradient, all others are right.
 *              GSL_EOVRFLW  (backward) a gradient through the features is out of range; all are
 *                           written
 *              Nothing is written on the first four. What lies behind a mask or beyond a
 *              key length may hold anything, NaN too. A value that is not finite reaches
 *              the outputs of the rows that see it, and no others. */
#ifndef PREFIX_NTK_ATTENTION_H
#define PREFIX_NTK_ATTENTION_H
#include <stddef.h>
#include <gsl/gsl_errno.h>
#include "prefix_ntk/export.h"

#ifdef __cplusplus
extern "C" {
#endif

struct feature_map;                 /* prefix_ntk/feature.h */

/* Sizes of one call. Query head h reads key/value head h / (heads / kv_heads). */
struct attn_shape {
    size_t batch, heads;
    size_t kv_heads;                /* divides heads */
    size_t len_q, len_k;            /* len_k may be 0 */
    size_t head_dim;                /* any; fastest for multiples of 16 */
    int causal;                     /* key j is hidden from query i when j > i + len_k - len_q */
    const size_t *key_lengths;      /* NULL, or (batch): keys from key_lengths[b] on are hidden */
};

/* Element (b, h, i, c) is data[b * batch + h * head + i * row + c]. */
struct attn_in  { const float *data; ptrdiff_t batch, head, row; };
/* A gradient (but that of q) with batch or head stride 0 receives the sum over it. A
 * gradient with data NULL is not wanted. Other outputs need distinct rows. */
struct attn_out { float *data; ptrdiff_t batch, head, row; };

/* Views of arrays without gaps, (batch, heads, len, dim). */
static inline struct attn_in attn_dense_in(const float *data, size_t heads, size_t len, size_t dim)
{
    const struct attn_in view = { data, (ptrdiff_t)(heads * len * dim), (ptrdiff_t)(len * dim), (ptrdiff_t)dim };
    return view;
}
static inline struct attn_out attn_dense_out(float *data, size_t heads, size_t len, size_t dim)
{
    const struct attn_out view = { data, (ptrdiff_t)(heads * len * dim), (ptrdiff_t)(len * dim), (ptrdiff_t)dim };
    return view;
}

/* The row that made a call return GSL_EDOM; head counts query heads. */
struct attn_failure { size_t batch, head, row; };

/* Where a forward pass leaves what its backward needs: (batch, heads, len_q, 2)
 * without gaps, M and D 2^-M: the shift M is the exponent of a power of two, an integer, and
 * the normaliser stands relative to it:
 *   log-sum-exp = ln 2 * rows[0] + ln rows[1]
 * Two numbers, since one float32 loses 2^-24 |s| of every probability. */
typedef float attn_row[2];

/* ---- prefix ------------------------------------------------------------- */

/* A prefix in the layout the kernels read (keys transposed in panels of 64), made
 * once per change of the prefix instead of once per call. */
struct attn_packed;

/* prefix_len rows for kv_heads heads and `batch` entries (1 when shared). With
 * `backward` it also serves the backward pass, at twice the memory. The caller's, to be freed.
 * NULL: no memory, or a size that is 0 or overflows. */
PREFIX_NTK_API struct attn_packed *attn_packed_alloc(size_t batch, size_t kv_heads, size_t prefix_len,
                                                     size_t head_dim, int backward);
PREFIX_NTK_API void attn_packed_free(struct attn_packed *packed);
/* What the numbers of a packed prefix are: float32, or half of the bytes, where a call of few queries takes
 * half of the time: bfloat16 (float32's range, relative error 2^-8) or IEEE binary16 (2^-11 from 6.1e-5 on,
 * 2^-25 below, largest number 65504). Sums, scores and weights are float32 in any case. */
enum attn_storage { ATTN_F32, ATTN_BF16, ATTN_F16 };
/* As attn_packed_alloc, for the forward pass alone. NULL, too, for a storage that does not exist. */
PREFIX_NTK_API struct attn_packed *attn_packed_alloc_as(enum attn_storage storage, size_t batch, size_t kv_heads,
                                                        size_t prefix_len, size_t head_dim);
/* Bytes the object holds; 0 for NULL. */
PREFIX_NTK_API size_t attn_packed_bytes(const struct attn_packed *packed);
/* Takes the values of K_P, V_P (batch, kv_heads, prefix_len, head_dim); may be called again when
 * they change. GSL_EINVAL: a NULL, no thread.
 * In half precision numbers are rounded to nearest, ties to even; NaN and infinity stay what they are, and a
 * finite number beyond the largest becomes infinite: all are set, and GSL_EOVRFLW says so. */
PREFIX_NTK_API int attn_packed_set(struct attn_packed *packed, struct attn_in k, struct attn_in v, int num_threads);

/* K_P, V_P: (batch, kv_heads, len, head_dim); strides 0 share one prefix between
 * batch entries or heads. With `packed` the rows come from there and k, v are not read. A call of at
 * most 8 queries may sum in another order with `packed` than without: the two agree to rounding, all others in
 * every bit. */
struct attn_prefix {
    size_t len;                     /* 0: no prefix */
    struct attn_in k, v;
    const struct attn_packed *packed;
};

/* ---- exact prefix attention ------------------------------------------------ */

PREFIX_NTK_API size_t attn_exact_forward_workspace(const struct attn_shape *shape, size_t prefix_len, int num_threads);

/* q (batch, heads, len_q, head_dim), k and v (batch, kv_heads, len_k, head_dim); `prefix` NULL: none.
 * out like q. `rows` NULL unless a backward pass follows. */
PREFIX_NTK_API int attn_exact_forward(const struct attn_shape *shape, float scale,
                                      struct attn_in q, struct attn_in k, struct attn_in v,
                                      const struct attn_prefix *prefix,
                                      struct attn_out out, attn_row *rows,
                                      void *work, size_t work_bytes, int num_threads,
                                      struct attn_failure *failure);

/* Gradients of sum(d_out * out): dS_ij = P_ij (d_out_i.v_j - d_out_i.T_i), then
 * dQ = scale dS K, dK = scale dS^T Q, dV = P^T d_out, over prefix and input keys alike. */
struct attn_exact_grads { struct attn_out q, k, v, prefix_k, prefix_v; };

PREFIX_NTK_API size_t attn_exact_backward_workspace(const struct attn_shape *shape, size_t prefix_len,
                                                    const struct attn_exact_grads *grads, int num_threads);

/* q, k, v, prefix, out and rows of the forward call; gradients are overwritten. Keys
 * no query sees get 0; rows whose D is not positive and finite contribute nothing. */
PREFIX_NTK_API int attn_exact_backward(const struct attn_shape *shape, float scale,
                                       struct attn_in q, struct attn_in k, struct attn_in v,
                                       const struct attn_prefix *prefix,
                                       struct attn_in out, const attn_row *rows, struct attn_in d_out,
                                       const struct attn_exact_grads *grads,
                                       void *work, size_t work_bytes, int num_threads);

/* ---- NTK-Attention ------------------------------------------------------------- */

/* A prefix folded into (Z, k). Z: (batch, heads, feat_dim, head_dim), row = feature;
 * kvec: (batch, heads, feat_dim), its row stride unused. `heads` is that of the shape or
 * kv_heads; query head h reads summary head h / (shape heads / heads). */
struct attn_summary {
    const struct feature_map *map;
    size_t heads;
    struct attn_in Z, kvec;
};

PREFIX_NTK_API size_t attn_ntk_forward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                                 int num_threads);

PREFIX_NTK_API int attn_ntk_forward(const struct attn_shape *shape, float scale,
                                    struct attn_in q, struct attn_in k, struct attn_in v,
                                    const struct attn_summary *summary,
                                    struct attn_out out, attn_row *rows,
                                    void *work, size_t work_bytes, int num_threads,
                                    struct attn_failure *failure);

/* dZ = Phi^T (d_out / D), dk = -Phi^T ((d_out.T) / D),
 * dQ += J_phi^T ( (d_out Z^T - (d_out.T) k^T) / D ); the rest as above. Z and kvec here have the
 * shape of the summary's. */
struct attn_ntk_grads { struct attn_out q, k, v, Z, kvec; };

PREFIX_NTK_API size_t attn_ntk_backward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                                  const struct attn_ntk_grads *grads, int num_threads);

PREFIX_NTK_API int attn_ntk_backward(const struct attn_shape *shape, float scale,
                                     struct attn_in q, struct attn_in k, struct attn_in v,
                                     const struct attn_summary *summary,
                                     struct attn_in out, const attn_row *rows, struct attn_in d_out,
                                     const struct attn_ntk_grads *grads,
                                     void *work, size_t work_bytes, int num_threads);

/* ---- partial results: a prefix in pieces ------------------------------------------ */

/* What a block of keys contributes to each query row, before normalisation: the exponent M of
 * the shift 2^M (an integer), mass = sum_j 2^{s_j log2(e) - M}, values = sum_j 2^{...} v_j.
 * rows (batch, heads, len_q, 2) as above, values (batch, heads, len_q, head_dim).
 * No key at all: M = -inf, mass = values = 0, the neutral element of the merge. */
PREFIX_NTK_API size_t attn_partial_workspace(const struct attn_shape *shape, size_t prefix_len, int num_threads);

/* The partial result of `prefix` together with the input keys (len_k may be 0, a
 * prefix alone). Arguments as attn_exact_forward. */
PREFIX_NTK_API int attn_partial_forward(const struct attn_shape *shape, float scale,
                                        struct attn_in q, struct attn_in k, struct attn_in v,
                                        const struct attn_prefix *prefix,
                                        struct attn_out values, attn_row *rows,
                                        void *work, size_t work_bytes, int num_threads);

/* into = into + from, values and rows alike; `into` is read and written. Shifts are integers, so
 * rescaling is by powers of two and exact: merging rounds once per sum, whatever the order. */
PREFIX_NTK_API void attn_partial_merge(const struct attn_shape *shape,
                                       struct attn_out into, attn_row *into_rows,
                                       struct attn_in from, const attn_row *from_rows);

/* values -> values / mass in place. GSL_EDOM as above (a row of no keys); no other status. */
PREFIX_NTK_API int attn_partial_finish(const struct attn_shape *shape, struct attn_out values, const attn_row *rows,
                                       struct attn_failure *failure);

#ifdef __cplusplus
}
#endif
#endif
