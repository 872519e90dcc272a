/* Shared by the files of the decoder. */
#ifndef TRANSFORMER_DECODER_INTERNAL_H
#define TRANSFORMER_DECODER_INTERNAL_H
#include "prefix_ntk/attention.h"
#include "transformer/decoder.h"

/* Lays the weights of `config` out in decoder->weights and points everything at them; `untied`: an
 * output matrix of its own. GSL_ENOMEM, GSL_EOVRFLW. */
int decoder_place_weights(struct decoder *decoder, int untied);

/* Merges what the prefix of one layer contributes into the partial results of the text.
 *
 * q (num_heads, n, head_dim) by strides, rotated or not as the prefix wants it; values and rows as
 * attn_partial_forward left them. work: decoder_prefix_floats numbers. */
int decoder_prefix_merge(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t layer,
                         size_t n,
                         struct attn_in q, struct attn_out values, attn_row *rows, float *work, int num_threads);
/* Adds what stands beside the softmax to its result. */
int decoder_prefix_beside(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t layer,
                          size_t n, struct attn_in q, struct attn_out out, float *work);
size_t decoder_prefix_floats(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t n,
                             int num_threads);

/* Keys and values of one key/value head, (len, head_dim) each. */
struct decoder_keys { const float *K, *V; size_t len; };
/* Merges what one query of every head (head stride q_head) gets from the keys (kv_heads) into values and rows
 * (num_heads), which decoder_few_start makes those of no key. work: decoder_few_floats of the longest. */
void decoder_few_start(const struct decoder_config *config, struct attn_out values, attn_row *rows);
void decoder_few_merge(const struct decoder_config *config, const struct decoder_keys *keys, const float *q,
                       ptrdiff_t q_head, struct attn_out values, attn_row *rows, float *work, int num_threads);
size_t decoder_few_floats(const struct decoder_config *config, size_t len, int num_threads);

/* cos and sin of every pair at positions first .. first + n - 1: (n, head_dim), for ops_turn. */
void decoder_turns(const struct decoder_config *config, size_t first, size_t n, float *turn);
/* out = x factor weight over one row; returns factor = 1 / sqrt(mean x^2 + eps). */
float decoder_norm_row(const float *x, const float *weight, size_t width, double eps, float *out);
/* out = silu(gate) up of one row, gate_up (2 mlp_dim); out may be its first half. */
void decoder_gate_row(const float *gate_up, size_t mlp_dim, float *out);
/* d_gate and d_up over gate and up, from d_out (mlp_dim). */
void decoder_gate_row_backward(float *gate_up, size_t mlp_dim, const float *d_out);

#endif
