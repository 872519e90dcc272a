/* The softmax part of attention in blocks of keys, summed in double. */
#ifndef ATTENTION_DENSE_SUMS_H
#define ATTENTION_DENSE_SUMS_H
#include "prefix_ntk/attention.h"

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
