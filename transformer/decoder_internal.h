/* Shared by decoder.c, decoder_prefix.c and decoder_open.c. */
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
size_t decoder_prefix_floats(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t n);

#endif
