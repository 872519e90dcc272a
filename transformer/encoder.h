/* The blocks of an encoder: forward, backward, and the places where an adapter acts. Internal to the room:
 * model.h is what others use.
 *
 * Rows are packed: sequence i of a batch is rows offsets[i] .. offsets[i + 1] - 1 of every (rows, ...) array; nothing
 * is padded. Projections run over all rows at once, attention per sequence: runs of sequences of equal length go to the
 * attention library in one call. Sums over sequences (gradients of what all share) run over groups of sequences that
 * depend on the batch only, in their order. */
#ifndef TRANSFORMER_ENCODER_H
#define TRANSFORMER_ENCODER_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"
#include "transformer/adapter.h"
#include "transformer/arena.h"
#include "transformer/model.h"
#include "transformer/parameters.h"

/* Weights (out, in) and biases (out); gradients NULL: frozen. */
struct linear { const float *weight, *bias; float *d_weight, *d_bias; };
struct norm { const float *weight, *bias; float *d_weight, *d_bias; };

struct block {
    struct linear qkv;                  /* (3 hidden, hidden): q, k, v one below the other */
    struct linear o, fc1, fc2;
    struct norm norm1, norm2;
    const float *scale1, *scale2;       /* layer scale (hidden) or NULL */
    float *d_scale1, *d_scale2;
};

/* What a block leaves for its backward. */
struct block_state {
    const float *input;                 /* (rows, hidden) */
    float *normed1;                     /* what q, k, v read: LayerNorm of the input (pre-norm) or NULL: the input */
    float *qkv, *soft, *context; /* (rows, 3 hidden), (rows, hidden) twice; soft: the softmax part, prefix-plus only */
    attn_row *attention;                /* (rows, heads), (heads, length) inside a sequence */
    float *branch1, *branch2;           /* branches before layer scale, where that is trained */
    float *sum1, *sum2;                 /* input + attention; post-norm: normed2 + MLP, the input of norm2 */
    float *stats1, *stats2;             /* of norm1, norm2: (rows, 2) */
    float *normed2;                     /* what the MLP reads (rows, hidden) */
    float *mlp, *slope;                 /* GELU and its derivative (rows, mlp_dim) */
    float *output;                      /* (rows, hidden) */
};

/* What an adapter adds to the attention of one block. Gradients are filled by the backward. */
enum attention_kind { ATTENTION_PLAIN, ATTENTION_PREFIX, ATTENTION_SUMMARY, ATTENTION_BESIDE };
struct attention_extra {
    enum attention_kind kind;
    /* ATTENTION_PREFIX */
    size_t prefix_len;
    const float *K, *V;                 /* (prefix_len, kv_width), key/value head h at column h head_dim */
    const struct attn_packed *packed;
    float *dK, *dV;
    /* ATTENTION_SUMMARY: inside the softmax's normaliser; ATTENTION_BESIDE: phi(q) Z added to its result */
    const feature_map *map;
    const float *Z, *k;                 /* (heads, feat_dim, head_dim), (heads, feat_dim) */
    float *dZ, *dk;                     /* dk NULL: not wanted */
};

/* Groups of sequences a batch is cut into, at most. */
enum { ATTENTION_GROUPS = 16 };

struct adapter;

/* The shape of a batch. groups (num_groups + 1) cuts the sequences. */
struct packing { size_t num_seqs, rows, num_groups; const size_t *offsets; size_t *groups; };

struct encoder {
    size_t hidden, heads, head_dim, mlp_dim, num_blocks;
    float eps;
    int pre_norm;
    struct block *blocks;
    const float *relative_bias;         /* (relative_buckets, heads) or NULL */
    float *d_relative_bias;
    size_t relative_buckets;
    struct adapter *adapter;
    size_t first_trained;               /* blocks below have nothing to train, themselves or below them */
    int trains_input;                   /* whether the gradient in the input of block 0 is wanted */
    /* The plan. */
    size_t max_rows, max_seqs, max_len;
    int training, num_threads;
    struct block_state *states;         /* (num_blocks), those from first_trained on own their memory when training */
    struct packing packing;             /* of the last forward */
    float *narrow, *wide;               /* (rows, hidden), (rows, max(mlp_dim, 3 hidden)) of the backward */
    size_t work_bytes, extra_floats;
    char *work;                         /* (num_threads, work_bytes) of the attention calls */
    float *partial;                     /* (groups + threads, extra_floats): shared gradients */
    int last_training;
    size_t last_first;
};

/* ---- adapters ------------------------------------------------------------------------------------- */

/* What a block's attention does on a batch, per head. */
struct head_scales {
    const double *mean_mass;    /* (heads): mean over rows of A 1, see attention_scales.h */
    /* (heads, r, r): mean over rows of w^2 phi(q) phi(q)^T, w = 1 or 1 / (A 1); NULL: not asked */
    const double *moment;
    const double *size;         /* (heads): root mean square of an entry of the attention's result */
};

/* The hooks of one method; NULL: nothing to do there. */
struct adapter_ops {
    const char *name, *summary;
    int trains_backbone;                /* the blocks first..last (with embeddings and final norm when first is 0) */
    int changes_blocks;                 /* whether there is anything in blocks first..last to train */
    /* Registers parameters (adapter_parameter) and makes what depends on no batch. */
    int (*open)(struct adapter *adapter, struct reason why);
    void (*close)(struct adapter *adapter);
    /* Initial values; every draw a function of adapter->seed, the block and the parameter. */
    void (*start)(struct adapter *adapter);
    /* Memory of a pass, from the arena. */
    void (*plan)(struct adapter *adapter, struct arena *arena, size_t max_rows, int training);
    /* The values the attention of block `layer` uses, from the parameters. training 2: those of the last forward,
     * again. */
    int (*prepare)(struct adapter *adapter, size_t layer, int training, struct attention_extra *extra);
    /* From extra's gradients to those of the parameters. */
    void (*finish)(struct adapter *adapter, size_t layer, const struct attention_extra *extra);
    /* y [+]= what the adapter adds to projection `which` of x; returns whether y now holds something (add or
     * written): with add 0 and nothing to say, y is left alone and 0 returned. */
    int (*project)(struct adapter *adapter, size_t layer, enum projection which, size_t rows, const float *x,
                   size_t ldx, float *y, size_t ldy, int add, int training);
    /* Its gradients, and dx [+]= likewise (dx NULL: not wanted). Only pointers given in the forward are read. */
    int (*project_backward)(struct adapter *adapter, size_t layer, enum projection which, size_t rows, const float *x,
                            size_t ldx, const float *dy, size_t lddy, float *dx, size_t lddx, int add);
    /* weight (out, in) of a projection += what the adapter adds to it. */
    void (*merge)(struct adapter *adapter, size_t layer, enum projection which, float *weight);
    void (*after_update)(struct adapter *adapter);
    int (*set_prefix)(struct adapter *adapter, size_t layer, const float *K_P, const float *V_P, size_t prefix_len);
    /* Keys (value 0) or values (1) of a block's prefix as they stand, (prefix_len, kv_width); NULL: none there. */
    const float *(*prefix_rows)(struct adapter *a, size_t layer, int value);
    /* The feature map of a summary. */
    const feature_map *(*map_of)(const struct adapter *adapter);
    /* The unit of the summary of block `layer`, from what its attention does on a batch. */
    int (*set_unit)(struct adapter *adapter, size_t layer, const struct head_scales *scales);
};

/* What an adapter needs to know of a backbone. */
struct adapter_shape {
    size_t hidden, heads, kv_heads, head_dim, num_layers;
    size_t fc1_rows, mlp_dim;           /* of what fc1 makes, and of what fc2 reads: twice as much with a gate */
    const struct block *blocks;         /* tied-prefix reads qkv: (heads + 2 kv_heads) head_dim rows;
        biases may be NULL */
    const float *turns;                 /* tied-prefix: (prefix_len, head_dim / 2) cos, sin by which keys turn,
        or NULL */
};

struct adapter {
    const struct adapter_ops *ops;
    struct adapter_options options;     /* resolved: first_layer <= last_layer < num_layers */
    size_t hidden, heads, kv_heads, head_dim, fc1_rows, mlp_dim, num_layers;
    const struct block *blocks;
    const float *turns;
    uint64_t seed;
    int num_threads;
    struct parameters parameters;       /* values and gradients are its arrays */
    void *own;                          /* of the method */
};

/* The table, by method. */
const struct adapter_ops *adapter_ops_of(enum adapter_method method);
extern const struct adapter_ops adapter_full, adapter_head, adapter_lora, adapter_ptuning, adapter_tied_prefix,
    adapter_ntk, adapter_prefix_plus;

/* Checks the options against the shape, then ops->open and ops->start. */
int adapter_open(struct adapter *adapter, const struct adapter_options *options, const struct adapter_shape *shape,
                 uint64_t seed, struct reason why);
void adapter_close(struct adapter *adapter);

/* A new parameter "layer.L.NAME" of zeros, with a gradient when `trained`. NULL: no memory. The value array
 * stays where it is; the struct parameter may move while others are added. */
float *adapter_parameter(struct adapter *adapter, size_t layer, const char *name, size_t rows, size_t cols, int decay,
                         int trained, float **grad);

static inline int adapter_in_layer(const struct adapter *adapter, size_t layer)
{
    return adapter->ops->changes_blocks && layer >= (size_t)adapter->options.first_layer &&
           layer <= (size_t)adapter->options.last_layer;
}

/* Columns of keys and of values. */
static inline size_t adapter_kv_width(const struct adapter *adapter) { return adapter->kv_heads * adapter->head_dim; }

/* The width (out) and depth (in) of a projection. */
void adapter_projection(const struct adapter *adapter, enum projection which, size_t *out, size_t *in);

/* Standard normals times `scale`, and uniforms in (-bound, bound), of parameter number `which` of block `layer`. */
void adapter_normal(const struct adapter *adapter, size_t layer, unsigned which, double scale, float *out, size_t n);
void adapter_uniform(const struct adapter *adapter, size_t layer, unsigned which, double bound, float *out, size_t n);

/* ---- passes ------------------------------------------------------------------------------------------ */

/* Takes (or measures) the memory of batches up to max_rows, max_seqs, max_len. */
void encoder_plan(struct encoder *encoder, struct arena *arena);

/* Blocks from..to-1 of the input (rows, hidden); *output is the last one's, valid until the next call. GSL codes of the
 * attention. */
int encoder_forward(struct encoder *encoder, const struct packing *packing, size_t from, size_t to, const float *input,
                    int training, const float **output);

/* Of the last forward with training; grad (rows, hidden): in: gradient of the output, out: of the input of block 0
 * (when trains_input and that block was run; else undefined). */
int encoder_backward(struct encoder *encoder, float *grad);

/* Where the softmax part of a block goes: beside features it is kept, elsewhere it is all. */
static inline float *softmax_part(const struct block_state *state, const struct attention_extra *extra)
{
    return extra->kind == ATTENTION_BESIDE ? state->soft : state->context;
}

/* Attention of one block: context (and soft, attention rows when training). */
int attention_forward(struct encoder *encoder, const struct block_state *state, const struct attention_extra *extra,
                      int training);
/* d_qkv NULL: only the extra's gradients. */
int attention_backward(struct encoder *encoder, const struct block_state *state, const struct attention_extra *extra,
                       const float *d_context, float *d_qkv);
/* Bytes per thread, and floats of shared gradients, for the plan. */
size_t attention_work_bytes(const struct encoder *encoder, const struct attention_extra *extra);
size_t attention_extra_floats(const struct encoder *encoder, const struct attention_extra *extra);

#endif
