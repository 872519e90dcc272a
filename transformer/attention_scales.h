/* What the attention of a block of a base model does on a batch, as summaries and prefixes are measured by it. Float32
 * rows, sums in double. */
#ifndef TRANSFORMER_ATTENTION_SCALES_H
#define TRANSFORMER_ATTENTION_SCALES_H
#include "transformer/encoder.h"

/* The rows of a block, text t being rows offsets[t] .. offsets[t + 1]: row i of query head h at q + i stride + h
 * head_dim, of key head g likewise. A summary's features may be of other queries (UNROTATED). */
struct scale_rows {
    size_t heads, kv_heads, head_dim, num_seqs, rows;
    const size_t *offsets;
    int causal;                     /* a row sees the rows of its text up to itself */
    const float *q, *keys, *feature_q, *context;
    size_t stride, feature_stride, context_stride;
};

/* The arrays of a struct head_scales. mean_mass: the geometric mean where a few rows would be a million times the mean,
 * and never above 1e30. moment: unless NULL, of `map`, its rows divided by A 1 where `divided`. GSL_ENOMEM, codes of
 * feature_forward_f32. */
int attention_scales(const struct scale_rows *rows, const feature_map *map, int divided, double *mean_mass,
                     double *moment, double *size);

/* model_prefix_scores, of keys K (prefix_len, kv_heads head_dim). */
void attention_prefix_scores(const struct scale_rows *rows, const float *K, size_t prefix_len, double *mass,
                             double *spread);

#endif
