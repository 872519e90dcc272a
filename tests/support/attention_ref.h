/* Attention with a prefix or a summary in double, plain loops over the equations of
 * attention.h: the reference of every kernel test. Arrays have no gaps. */
#ifndef TESTS_SUPPORT_ATTENTION_REF_H
#define TESTS_SUPPORT_ATTENTION_REF_H
#include <stddef.h>

struct attn_ref {
    size_t batch, heads, kv_heads, len_q, len_k, head_dim;
    size_t prefix_len, feat_dim;        /* 0: none */
    int causal;
    const size_t *key_lengths;          /* NULL or (batch) */
    double scale;
    const double *q;                    /* (batch, heads, len_q, head_dim) */
    const double *k, *v;                /* (batch, kv_heads, len_k, head_dim) */
    const double *prefix_k, *prefix_v;  /* (batch, kv_heads, prefix_len, head_dim) */
    const double *phi;                  /* (batch, heads, len_q, feat_dim) */
    const double *log_scale;            /* NULL, or (batch, heads, len_q): phi is e^{log_scale} times the above */
    const double *Z, *kvec;             /* (batch, heads, feat_dim, head_dim), (batch, heads, feat_dim) */
};

/* out (batch, heads, len_q, head_dim); lse (batch, heads, len_q) = ln D or NULL. Returns
 * the number of rows whose D is not positive (their out is 0, lse NaN). */
size_t attn_ref_forward(const struct attn_ref *p, double *out, double *lse);

/* Gradients of sum(d_out * out), each NULL or of the shape of its array (d_phi with
 * respect to phi as given, log_scale held fixed). */
struct attn_ref_grads { double *q, *k, *v, *prefix_k, *prefix_v, *phi, *Z, *kvec; };
void attn_ref_backward(const struct attn_ref *p, const double *d_out, const struct attn_ref_grads *g);

/* elu(z) + 1 of z = x / head_dim^{1/4}, and d_x += its Jacobian transposed times d_phi. */
void attn_ref_elu1(const double *x, size_t rows, size_t head_dim, double *phi);
void attn_ref_elu1_backward(const double *x, const double *d_phi, size_t rows, size_t head_dim, double *d_x);

#endif
