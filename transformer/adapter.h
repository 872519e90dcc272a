/* Adapters: what is trained beside, or in place of, the weights of a backbone.
 *
 *   full         every weight (embeddings too), no number of its own
 *   head         the classifier alone
 *   lora         y = x W^T + b + (alpha/rank) (x A^T) B^T on `targets`; A Kaiming-uniform, B = 0
 *                (arXiv:2106.09685)
 *   ptuning      K_P, V_P (prefix_len, hidden) per block, keys and values of every head in front of
 *                the input's (P-Tuning V2, arXiv:2110.07602), plain or by an MLP (Linear-Tanh-Linear)
 *                of an embedding (prefix_len, hidden)
 *   tied-prefix  P (prefix_len, hidden) per block through the block's own frozen projections:
 *                K_P = P W_K^T + b_K, V_P = P W_V^T + b_V (arXiv:2406.14036)
 *   ntk          T = D^-1 (A V + phi(Q) Z), D = A 1 + phi(Q) k, per block and head Z (r, d), k (r)
 *                (arXiv:2406.14036 NTK-Attention)
 *   prefix-plus  T = softmax(Q K^T / sqrt d) V + phi(Q) Z (Prefix-Tuning+, arXiv:2506.13674)
 *
 * Start: full, head, lora, prefix-plus and ntk with k zero or linear give the base model bit for
 * bit; ntk with k = exp(theta) starts from mass `start_mass` relative to the unit of k; a prefix
 * (ptuning, tied-prefix) takes its share of the softmax from the first step.
 *
 * A method is one file adapter_<name>.c with one struct adapter_ops (encoder.h) and one row of the
 * table in adapter.c. */
#ifndef TRANSFORMER_ADAPTER_H
#define TRANSFORMER_ADAPTER_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"

enum adapter_method {
    ADAPTER_FULL, ADAPTER_HEAD, ADAPTER_LORA, ADAPTER_PTUNING, ADAPTER_TIED_PREFIX, ADAPTER_NTK,
    ADAPTER_PREFIX_PLUS, NUM_ADAPTER_METHODS
};

/* The matrices of a block, also the bits 1u << PROJ_... of adapter_options.targets. */
enum projection { PROJ_Q, PROJ_K, PROJ_V, PROJ_O, PROJ_FC1, PROJ_FC2, NUM_PROJECTIONS };

enum adapter_k_mode {
    ADAPTER_K_LOG,          /* k = exp(theta), theta trained */
    ADAPTER_K_LINEAR,       /* k trained from 0, projected to k >= 0 by model_after_update */
    ADAPTER_K_ZERO,         /* k = 0: D = A 1 */
    ADAPTER_K_TIED          /* k = exp(theta), one theta (r) per block, shared by its heads */
};

enum { ADAPTER_LAYER_DEFAULT = -1 };

struct adapter_options {
    enum adapter_method method;
    int first_layer, last_layer;    /* the blocks adapted, inclusive; ADAPTER_LAYER_DEFAULT: the first, the last */
    /* lora */
    size_t rank;
    double alpha;
    unsigned targets;               /* of 1u << PROJ_Q ... */
    /* ptuning, tied-prefix */
    size_t prefix_len;
    double init_scale;              /* standard deviation of the start of a prefix */
    int reparameterise;             /* ptuning: 1 by the MLP */
    size_t mlp_dim;                 /* its inner width; 0: the hidden size */
    int shift_positions;            /* ptuning of texts: 1: the first token is at position prefix_len, as PEFT has it */
    /* ntk, prefix-plus */
    char feature[32];               /* feature.h: "elu1", "taylor:1", "favor:64", ... */
    double bound;                   /* of cheb and minimax */
    /* stream of favor's omega; 0: the model's seed. model_options gives the one in use */
    uint64_t feature_seed;
    size_t z_rank;                  /* 0: Z itself; else Z = Z_A Z_B of this rank, Z_B Gaussian, Z_A = 0 */
    enum adapter_k_mode k_mode;     /* ntk */
    double start_mass;              /* ntk: k's mass phi(q).k at the start is about this many units */
    int units;                      /* ntk: 1: Z and k are in units of the mean of A 1 (model_calibrate) */
    int whiten;                     /* ntk, prefix-plus: 1: Z is trained in the basis in which the features of the first
                                       batch, as they weigh in T, have E[phi phi^T] = 1 (model_calibrate) */
};

/* The defaults of a method: rank 8, alpha 16, Q and V; prefix_len 16, init_scale 0.02; "elu1", full Z,
 * k = exp(theta) from mass 1e-2, units on. */
struct adapter_options adapter_defaults(enum adapter_method method);

/* "full", "head", ...: GSL_EINVAL when there is no such method. */
int adapter_method_parse(const char *name, enum adapter_method *method);
const char *adapter_method_name(enum adapter_method method);
/* One line for a listing. */
const char *adapter_method_summary(enum adapter_method method);

/* "q,v" or "all" -> bits; GSL_EINVAL. */
int adapter_targets_parse(const char *text, unsigned *targets);
/* "log", "linear", "zero", "tied", by adapter_k_mode, NULL at the end; parse: GSL_EINVAL. */
extern const char *const adapter_k_mode_names[];
int adapter_k_mode_parse(const char *text, enum adapter_k_mode *mode);
const char *adapter_k_mode_name(enum adapter_k_mode mode);

#endif
