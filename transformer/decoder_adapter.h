/* Prefixes and summaries of a decoder from a directory: adapter_config.json and adapter_model.safetensors.
 *
 *   peft_type PREFIX_TUNING   prompt_embeddings (prefix_len, 2 num_layers kv_heads head_dim): of block L its keys,
 * then its
 *                             values, of each head head_dim columns (PEFT's layout)
 *   peft_type NTK_ATTENTION   of block L layer.L.Z (heads, feat_dim, head_dim) and layer.L.k (heads, feat_dim), heads
 *                             num_heads or kv_heads; a block without them has no summary
 *
 * An object `prefix_ntk` of the config may say: feature ("elu1"), bound (of cheb and minimax), rotation
 * ("rotated", the default, or "unrotated": decoder.h) and positions, the position of the first token of the text (the
 * length of a prefix, 0 for a summary). Keys, and the features of a summary, are in the frame of the model's own file:
 * rotation of adjacent
 * pairs for a GGUF file, of halves for a Hugging Face directory (of which a summary is not read, as its features would
 * be
 * others). */
#ifndef TRANSFORMER_DECODER_ADAPTER_H
#define TRANSFORMER_DECODER_ADAPTER_H
#include "transformer/decoder.h"

struct decoder_adapter;

/* GSL_EFAILED cannot be read, GSL_EINVAL bad data or not of the decoder's shape, GSL_ENOMEM; *why names the file. */
int decoder_adapter_open(const char *dir, const struct decoder *decoder, struct decoder_adapter **out,
                         struct reason why);
void decoder_adapter_free(struct decoder_adapter *adapter);             /* accepts NULL */
/* Valid as long as the adapter. */
const struct decoder_prefix *decoder_adapter_prefix(const struct decoder_adapter *adapter);

#endif
