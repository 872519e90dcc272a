/* What ntk and prefix-plus share: Z of every block and head, full or of low rank. */
#ifndef TRANSFORMER_ADAPTER_SUMMARY_H
#define TRANSFORMER_ADAPTER_SUMMARY_H
#include "transformer/encoder.h"

/* Of one block. Z (heads, r, d) = unit * basis * the parameter, or unit * basis * Z_A Z_B with Z_A (heads, r, z_rank),
 * Z_B (heads, z_rank, d). k (heads, r). Parameters of more than two dimensions are listed as (heads r, d) and so on. */
struct summary {
    float *Z_value, *dZ_value, *A, *dA, *B, *dB;    /* parameters; Z_value or A and B */
    float *theta, *d_theta; /* (heads, r), tied: (1, r); log k, or k itself when linear; NULL: k = 0 */
    float *unit;                                    /* (heads), NULL: 1 */
    float *basis;                                   /* (heads, r, r), NULL: the identity */
    float *Z, *dZ, *k, *dk;                         /* effective values, of the adapter */
};
struct summaries {
    feature_map *map;
    size_t feat_dim;
    float *white;           /* (2, r, d): Z and dZ of one head in the basis; NULL without one */
    struct summary layers[];
};

/* Makes the map and, for every adapted block, Z (and k = 0). Frees nothing on failure: summary_close does. */
int summary_open(struct adapter *adapter, int with_k, struct reason why);
void summary_close(struct adapter *adapter);
/* Z_A = 0 (or Z = 0), Z_B ~ N(0, 1/z_rank). */
void summary_start(struct adapter *adapter);
/* The effective Z of a block from its parameters, and back: gradients of the parameters from dZ. */
void summary_prepare_Z(struct adapter *adapter, size_t layer);
void summary_finish_Z(struct adapter *adapter, size_t layer);
const feature_map *summary_map(const struct adapter *adapter);
/* The basis of a block from what its features do (adapter_ops.set_unit): with moment = L L^T, unit * basis = size *
 * L^-T. GSL_ENOMEM. */
int summary_set_basis(struct adapter *adapter, size_t layer, const struct head_scales *scales);

static inline struct summary *summary_at(const struct adapter *adapter, size_t layer)
{
    return &((struct summaries *)adapter->own)->layers[layer];
}

#endif
