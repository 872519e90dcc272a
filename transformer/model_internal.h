/* The parts of a model: model.c makes them, model_embed.c and model_pass.c run them. */
#ifndef TRANSFORMER_MODEL_INTERNAL_H
#define TRANSFORMER_MODEL_INTERNAL_H
#include "transformer/attention_scales.h"
#include "transformer/backbone.h"
#include "transformer/encoder.h"
#include "transformer/model.h"

/* Weights of the embeddings; gradients NULL: frozen. */
struct embeddings {
    const float *token, *position, *type, *cls;
    float *d_token, *d_position, *d_type, *d_cls;
    struct norm norm;
    struct linear patch;
    size_t num_positions;
};

struct model {
    const struct backbone *backbone;
    struct backbone_config config;
    struct encoder encoder;
    struct adapter adapter;
    enum model_pool pool;
    size_t num_classes;
    int shifted;                            /* config.position_offset is not the backbone's */
    uint64_t seed;
    struct embeddings embed;
    struct norm final_norm;                 /* weight NULL: none */
    float *head_weight, *head_bias, *d_head_weight, *d_head_bias;
    struct parameters parameters;
    /* The plan: one block of memory. */
    void *memory;
    size_t *offsets;                        /* (max_seqs + 1), of images */
    size_t groups[ATTENTION_GROUPS + 1];
    float *summed, *embed_stats;            /* text: the sum before the norm; images: patches times weights */
    float *patches;                         /* (patches, channels patch patch) */
    float *positions;                       /* (rows of an image, hidden) resized */
    float *embedded;                        /* (rows, hidden): the input of block 0 */
    float *final, *final_stats;             /* after the final norm */
    float *pooled, *d_pooled;               /* (seqs, hidden) */
    float *grad;                            /* (rows, hidden) */
    /* The last forward. */
    struct batch batch;
    const size_t *batch_offsets;
    size_t batch_rows;
    const float *last_output;               /* of the last block */
    int can_backward;
};

static inline int model_is_image(const struct model *model) { return model->config.kind == BACKBONE_VIT; }

/* The rows of a block of the last forward. */
struct scale_rows model_scale_rows(const struct model *model, size_t layer);

/* The input of block 0 into model->embedded. */
int model_embed(struct model *model, const struct batch *batch);
/* From model->grad, the gradient in the input of block 0, to those of the embeddings. */
void model_embed_backward(struct model *model);

#endif
