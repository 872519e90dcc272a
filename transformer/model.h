/* A pretrained backbone with an adapter and a linear classifier: forward, backward, parameters.
 *
 *   text    x = LayerNorm(token[id] + position[p + position_offset] + type[type_id])
 *   image   x = [cls; patches W^T + b] + position (resized to the grid of patches)
 *   blocks  post-norm (BERT, MPNet): y = LayerNorm(x + Attn(x)), x' = LayerNorm(y + MLP(y))
 *           pre-norm (ViT):          y = x + s1 * Attn(LayerNorm(x)), x' = y + s2 * MLP(LayerNorm(y))
 *           MLP(y) = GELU(y W1^T + b1) W2^T + b2 with the exact (erf) GELU; s1, s2 layer scale or 1
 *   logits  pool(x_final) W^T + b, x_final after the final LayerNorm of a pre-norm model
 *
 * Sequences are packed one after the other, no padding: `rows` is the sum of their lengths. Arrays
 * are float32, row-major, no gaps; weights (out, in). Results do not depend on the number of threads.
 * The library neither prints nor exits. A model is one caller's at a time.
 *
 * A step: model_forward, a loss's gradient in the logits (model_cross_entropy), model_backward, an
 * update of parameter values, model_after_update. Nothing is allocated after model_reserve. */
#ifndef TRANSFORMER_MODEL_H
#define TRANSFORMER_MODEL_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"
#include "transformer/adapter.h"

struct backbone;            /* transformer/backbone.h */
struct model;

enum model_pool {
    POOL_CLS,               /* the first row of a sequence */
    POOL_MEAN               /* text: all rows; images: the patches */
};

/* A layer number that means the output of the last block, after the final LayerNorm where there is one. */
#define MODEL_FINAL ((size_t)-1)

struct batch {
    size_t num_seqs;
    const size_t *offsets;          /* (num_seqs + 1): sequence i is rows offsets[i]..offsets[i + 1]-1; offsets[0] = 0.
                                       Images: NULL, every sequence has model_image_rows rows */
    /* One of three inputs. */
    const int32_t *ids;             /* (rows), text; type_ids NULL: all 0 */
    const int32_t *type_ids;
    const float *pixels;            /* (num_seqs, channels, image_h, image_w), normalised by mean and std */
    size_t image_h, image_w;        /* multiples of the patch */
    const float *hidden;            /* (rows, hidden): the input of block first_layer, as model_hidden gave it;
                                       offsets are needed then, of images too */
    size_t first_layer;
};

enum parameter_group { PARAM_HEAD, PARAM_ADAPTER, PARAM_BACKBONE };

/* One array that belongs to what training changes. `grad` NULL: a constant of the adapter (units of
 * the summary), which is saved with it and never updated. */
struct parameter {
    const char *name;               /* head.weight, layer.3.q.lora_A, layer.3.prefix_k, embed.token, ... */
    float *value, *grad;            /* (rows, cols) */
    size_t rows, cols;
    int decay;                      /* whether weight decay applies (matrices: yes; biases, norms, theta: no) */
    enum parameter_group group;
};

/* What a backbone's classifier reads unless told otherwise: the class token of images, the mean over a text. */
enum model_pool model_default_pool(const struct backbone *backbone);

/* A model of `backbone`, which must outlive it (frozen weights are read in place). The head is
 * N(0, 0.02^2) with bias 0; every random number is a function of the seed and the parameter.
 * num_classes 0: no head (model_hidden alone). layers 0: all blocks of the backbone's default, else the
 * model ends after that many blocks. GSL_EINVAL an option out of range, GSL_ENOMEM, GSL_EBADLEN a
 * tensor is missing or of another shape: *why says which. */
int model_alloc(const struct backbone *backbone, const struct adapter_options *options, size_t num_classes,
                enum model_pool pool, size_t layers, uint64_t seed, struct model **out, struct reason why);
void model_free(struct model *model);               /* accepts NULL */

/* ---- parameters: pointers stay valid until model_free --------------------------------------------- */

size_t model_num_parameters(const struct model *model);
struct parameter *model_parameters(struct model *model);
struct parameter *model_parameter(struct model *model, const char *name);     /* NULL: none of that name */
/* Trained numbers of a group. */
size_t model_trainable(const struct model *model, enum parameter_group group);

/* To be called after parameter values changed by hand, by an update or by loading: projects k >= 0 where
 * the adapter asks for it. */
void model_after_update(struct model *model);

/* Measures the unit of the summary (adapter_options.units) on a batch of training data: the mean over
 * rows of A 1 = sum_j exp(<q,k_j>/sqrt d) per block and head, of the base model (the geometric mean where that is
 * heavy-tailed), and its basis (adapter_options.whiten). Once, before the first step of a fresh model; a no-op for
 * other adapters. Needs model_reserve. */
int model_calibrate(struct model *model, const struct batch *batch);

/* Starts the adapter from a prefix of block `layer`: K_P, V_P (prefix_len, hidden). ptuning without MLP
 * takes the rows (prefix_len must agree); ntk folds them: Z = Phi(K_P)^T V_P, k = Phi(K_P)^T 1 per head
 * (full Z; k log, linear). GSL_EUNSUP for other adapters and options, GSL_EINVAL. */
int model_set_prefix(struct model *model, size_t layer, const float *K_P, const float *V_P, size_t prefix_len);

/* Keys (value 0) or values (1) of the prefix of block `layer` as they stand, (prefix_len, hidden), until the next call
 * that changes the model. NULL: the adapter (only ptuning has such rows) has none there. */
const float *model_prefix_rows(struct model *model, size_t layer, int value);

/* ---- shapes ------------------------------------------------------------------------------------------- */

const struct adapter_options *model_options(const struct model *model);   /* as used: defaults resolved */
const struct backbone *model_backbone(const struct model *model);
size_t model_num_layers(const struct model *model);
size_t model_hidden_size(const struct model *model);
size_t model_num_classes(const struct model *model);
/* Rows of one image: 1 + (image_h / patch) (image_w / patch). */
size_t model_image_rows(const struct model *model, size_t image_h, size_t image_w);
/* Nothing below this block is trained, so its input can be cached across epochs: 0 when embeddings or
 * block 0 are trained or positions are shifted, the number of blocks when only the head (or the final norm) is. */
size_t model_first_trained_layer(const struct model *model);

/* ---- a trained prefix -------------------------------------------------------------------------------------- */

/* What a prefix (ptuning, tied-prefix) of block `layer` did in the last model_forward with training 1, per head
 * (heads), as means over rows: mass, its share of the softmax; spread, the standard deviation over its tokens of <q, k>
 * / sqrt d. GSL_EINVAL: no prefix in that block, or no such forward. */
int model_prefix_scores(const struct model *model, size_t layer, double *mass, double *spread);

/* A model of method ntk with the prefix of `prefix` (ptuning) folded into full (Z, k) under `feature` (k linear, no
 * units), and its head. GSL_EINVAL no such map, GSL_EUNSUP, GSL_ENOMEM; one line in *why. */
int model_fold_prefix(struct model *prefix, const char *feature, struct model **out, struct reason why);

/* ---- memory --------------------------------------------------------------------------------------------- */

/* Bytes model_reserve would take, parameters and their gradients included. SIZE_MAX: overflow. */
size_t model_bytes(const struct model *model, size_t max_rows, size_t max_seqs, size_t max_len, int training,
                   int num_threads);
/* Plans all memory for batches of at most max_rows rows in max_seqs sequences of at most max_len rows. A second call
 * replaces the first plan. GSL_ENOMEM. */
int model_reserve(struct model *model, size_t max_rows, size_t max_seqs, size_t max_len, int training,
                  int num_threads);

/* ---- passes ------------------------------------------------------------------------------------------------ */

/* logits (num_seqs, num_classes). training 1 keeps what model_backward needs (the batch's arrays must stay
 * until then). GSL_EINVAL a batch beyond the plan, an id beyond the vocabulary, a length beyond the
 * positions, an image that is no multiple of the patch; GSL_EDOM a normaliser D that is not positive. */
int model_forward(struct model *model, const struct batch *batch, float *logits, int training);

/* d_logits (num_seqs, num_classes), of the last model_forward with training 1. Overwrites every grad. */
int model_backward(struct model *model, const float *d_logits);

/* The input of block `layer` (0: what leaves the embeddings; the number of blocks: the last block's output
 * before the final norm), or MODEL_FINAL. out (rows, hidden). */
int model_hidden(struct model *model, const struct batch *batch, size_t layer, float *out);

/* vectors (num_seqs, hidden) from (rows, hidden): the pooling of the head. images: whether the first row
 * of each sequence is a class token that a mean leaves out. */
void model_pool_rows(const float *hidden, const size_t *offsets, size_t num_seqs, size_t hidden_size,
                     enum model_pool pool, int images, float *vectors);

/* ---- loss ---------------------------------------------------------------------------------------------------- */

/* Mean over sequences of -sum_c t_c log softmax(logits)_c, t = (1 - smoothing) onehot + smoothing/classes.
 * d_logits (num_seqs, classes) gets its gradient, NULL: not wanted. *num_correct (may be NULL) counts rows whose
 * largest logit (the first of equals) is the label. Sums in double, in the order of rows. Labels in 0..classes-1. */
double model_cross_entropy(const float *logits, const int32_t *labels, size_t num_seqs, size_t num_classes,
                           double smoothing, float *d_logits, size_t *num_correct);

#endif
