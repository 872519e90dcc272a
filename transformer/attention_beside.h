/* phi(q) Z beside the softmax (Prefix-Tuning+): T_i = softmax part + phi(q_i) Z, one Z per head. */
#ifndef TRANSFORMER_ATTENTION_BESIDE_H
#define TRANSFORMER_ATTENTION_BESIDE_H
#include <stddef.h>

#include "prefix_ntk/feature.h"

/* Head h of row i of q and dq stands at i q_stride + h dim; of results and their gradients at i stride + h dim. */
struct attention_beside {
    const struct feature_map *map;
    size_t heads, dim, rows;
    const float *q;
    size_t q_stride, stride;
    const float *Z;                     /* (heads, feat_dim, dim) */
};

/* Bytes of `work`. */
size_t attention_beside_bytes(const struct feature_map *map);

/* out += phi(q) Z. GSL codes of the features. */
int attention_beside_forward(const struct attention_beside *beside, float *out, char *work);
/* dZ += phi^T d_out; dq (NULL: not wanted) += J_phi^T (d_out Z^T). */
int attention_beside_backward(const struct attention_beside *beside, const float *d_out, float *dq, float *dZ,
                              char *work);

#endif
