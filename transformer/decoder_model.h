/* A decoder with an adapter, to be trained: forward, backward, parameters.
 *
 * The blocks are those of decoder.h over whole texts, with what the adapter (adapter.h) adds:
 *   full         every matrix, norm and the embedding of the blocks chosen (embedding, and with it a tied output, when
 *                block 0 is among them; the final norm when the last is)
 *   head         the output matrix alone, a copy where it is tied; with classes: the classifier
 *   lora         on q, k, v, o; fc1: gate and up, one below the other, as one matrix (2 mlp_dim, hidden); fc2: down
 *   ptuning, tied-prefix   keys and values (prefix_len, kv_heads head_dim) per block; the text starts behind them, at
 *                position prefix_len
 *   ntk, prefix-plus       a summary per block and query head; the text starts at position 0
 * What stands in front of the text is of the rotation chosen (decoder.h): ROTATED, it meets the rotated query,
 * UNROTATED, the query before rotation. Keys are used as they are made; those of tied-prefix, ROTATED, turn like
 * those of tokens at positions 0 .. prefix_len - 1.
 *
 * Output: next-token log-probabilities, logits = RMSNorm(x) n W_out^T, or with num_classes > 0 a classifier,
 * logits = (RMSNorm(x) n) W^T + b, of chosen rows.
 *
 * Texts are packed one after the other, as in model.h. float32, row-major. Results do not depend on the number of
 * threads. A step: decoder_model_forward, decoder_model_loss, decoder_model_backward, an update (adamw.h),
 * decoder_model_after_update. Nothing is allocated after decoder_model_reserve. One caller's at a time. */
#ifndef TRANSFORMER_DECODER_MODEL_H
#define TRANSFORMER_DECODER_MODEL_H
#include "transformer/decoder.h"
#include "transformer/model.h"

struct decoder_model;

struct decoder_model_options {
    struct adapter_options adapter;
    enum decoder_rotation rotation;
    size_t num_classes;             /* 0: next tokens */
    uint64_t seed;
    size_t positions;               /* of a text's first token, 0: the length of the prefix */
};

struct decoder_batch {
    size_t num_seqs;
    const size_t *offsets;          /* (num_seqs + 1), offsets[0] = 0 */
    const int32_t *ids;             /* (rows); or NULL and */
    const float *hidden;            /* (rows, hidden): the input of block first_layer (decoder_model_hidden) */
    size_t first_layer;
};

/* What rows of the last batch are to predict. */
struct decoder_targets {
    size_t count;
    const size_t *rows;             /* (count) */
    const int32_t *ids;             /* (count) tokens, or classes; the loss is -log q(id) */
    const float *logprobs;          /* instead (ids NULL): (count, vocab_size) log p; the loss is KL(p || q) */
};

/* The decoder must outlive the model (frozen weights are read in place). GSL_EINVAL an option out of range,
 * GSL_ENOMEM; *why says which. */
int decoder_model_alloc(const struct decoder *decoder, const struct decoder_model_options *options,
                        struct decoder_model **out, struct reason why);
void decoder_model_free(struct decoder_model *model);          /* accepts NULL */

/* Parameters as in model.h: pointers stay valid until decoder_model_free. */
size_t decoder_model_num_parameters(const struct decoder_model *model);
struct parameter *decoder_model_parameters(struct decoder_model *model);
size_t decoder_model_trainable(const struct decoder_model *model, enum parameter_group group);
const struct decoder_model_options *decoder_model_options(const struct decoder_model *model);    /* defaults resolved */
const struct decoder *decoder_model_base(const struct decoder_model *model);
/* Nothing below this block is trained: its input can be cached. */
size_t decoder_model_first_trained_layer(const struct decoder_model *model);
void decoder_model_after_update(struct decoder_model *model);
/* As model_set_prefix, K_P and V_P (prefix_len, kv_heads head_dim) of a block. */
int decoder_model_set_prefix(struct decoder_model *model, size_t layer, const float *K_P, const float *V_P,
                             size_t prefix_len);

/* As model_prefix_rows, (prefix_len, kv_heads head_dim). */
const float *decoder_model_prefix_rows(struct decoder_model *model, size_t layer, int value);

/* Bytes decoder_model_reserve takes, parameters included. */
size_t decoder_model_bytes(const struct decoder_model *model, size_t max_rows, size_t max_len, int training,
                           int num_threads);
/* Plans all memory for batches of at most max_rows rows in texts of at most max_len. GSL_ENOMEM. */
int decoder_model_reserve(struct decoder_model *model, size_t max_rows, size_t max_len, int training, int num_threads);

/* The unit of a summary and its basis, as model_calibrate: the mass is that of the text that a row sees, the features
 * are those of the queries that meet the summary. Once, before training. GSL_ENOMEM, and as decoder_model_forward. */
int decoder_model_calibrate(struct decoder_model *model, const struct decoder_batch *batch);

/* training 1 keeps what decoder_model_backward needs (the batch's arrays must stay until then). GSL_EINVAL a batch
 * beyond the plan, an id beyond the vocabulary, too many positions; GSL_EDOM a normaliser D that is not positive. */
int decoder_model_forward(struct decoder_model *model, const struct decoder_batch *batch, int training);

/* *loss: the mean over targets of the last forward, and unless NULL the loss of each (count) and its likeliest id. With
 * `training` (which the forward had too) also the gradient, for decoder_model_backward. GSL_EINVAL a row or id out of
 * range. */
int decoder_model_loss(struct decoder_model *model, const struct decoder_targets *targets, int training, double *loss,
                       double *losses, int32_t *likeliest);

/* Overwrites every grad. */
int decoder_model_backward(struct decoder_model *model);

/* The input of block `layer` (0: the embedding; num_layers: the output of the last block). out (rows, hidden). */
int decoder_model_hidden(struct decoder_model *model, const struct decoder_batch *batch, size_t layer, float *out);

/* The plain decoder the model amounts to, for decoder_run: weights with the adapter in them, and what stands in front
 * of the text (prefix; NULL: nothing). Valid until the model changes. GSL_ENOMEM, codes of the adapter. */
struct decoder_view { struct decoder decoder; const struct decoder_prefix *prefix; };
int decoder_model_view(struct decoder_model *model, struct decoder_view **out);
void decoder_view_free(struct decoder_view *view);             /* accepts NULL */

#endif
