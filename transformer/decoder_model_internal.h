/* The parts of a trained decoder: decoder_model.c makes them, decoder_model_pass.c runs them,
 * decoder_model_attention.c is the attention of one block. */
#ifndef TRANSFORMER_DECODER_MODEL_INTERNAL_H
#define TRANSFORMER_DECODER_MODEL_INTERNAL_H
#include "transformer/decoder_internal.h"
#include "transformer/decoder_model.h"
#include "transformer/encoder.h"

/* Rows of logits at a time. */
enum { DECODER_LOGIT_ROWS = 64 };

/* What a block leaves for its backward. */
struct decoder_state {
    const float *input;             /* (rows, hidden) */
    float *factor1, *factor2;       /* (rows) 1 / sqrt(mean x^2 + eps) */
    float *normed1, *normed2;       /* (rows, hidden) */
    float *qkv;                     /* (rows, (heads + 2 kv_heads) head_dim), q and k turned */
    float *raw;                     /* (rows, heads head_dim): q before it turned; UNROTATED only */
    float *soft, *context;          /* (rows, heads head_dim): the softmax part, the whole;
        one array unless prefix-plus */
    attn_row *attention;            /* (rows, heads), (heads, length) inside a text */
    float *sum;                     /* (rows, hidden): input + attention */
    float *gate_up, *mlp;           /* (rows, 2 mlp_dim), (rows, mlp_dim) */
    float *output;                  /* (rows, hidden) */
};

struct decoder_model {
    const struct decoder *base;
    struct decoder_config config;
    struct decoder_model_options options;
    struct adapter adapter;
    struct block *blocks;           /* fc1: gate and up, fc2: down; no biases */
    struct norm final_norm;
    const float *embed, *output;    /* output (outputs, hidden) */
    float *d_embed, *d_output, *output_bias, *d_output_bias;
    size_t outputs, first_trained, positions;   /* positions: of a text's first token */
    int trains_input;
    float *turns;                   /* of tied-prefix */
    struct parameters parameters;
    /* The plan. */
    void *memory;
    size_t max_rows, max_len, extra_floats, work_bytes;
    int training, num_threads;
    struct decoder_state *states;
    float *turn;                    /* (max_len, head_dim) */
    float *embedded, *final, *final_factor, *grad, *narrow, *wide;
    float *chosen, *d_chosen, *logits;  /* (DECODER_LOGIT_ROWS, ...) */
    float *sum, *once;              /* (extra_floats): shared gradients of all texts, of one */
    struct decoder_piece *pieces;   /* (kv_heads) */
    float *piece_tokens, *piece_work;
    char *work;
    /* The last forward. */
    struct decoder_batch batch;
    size_t rows;
    const float *last_output;
    int can_loss, can_backward;
};

static inline size_t decoder_q_width(const struct decoder_config *c) { return c->num_heads * c->head_dim; }
static inline size_t decoder_kv_width(const struct decoder_config *c) { return c->kv_heads * c->head_dim; }
static inline size_t decoder_qkv_width(const struct decoder_config *c)
{
    return decoder_q_width(c) + 2 * decoder_kv_width(c);
}

/* What the adapter puts before block `layer`; kind ATTENTION_PLAIN when nothing. */
int decoder_model_extra(struct decoder_model *model, size_t layer, int training, struct attention_extra *extra);

/* Attention of one block: context (and soft, attention). */
int decoder_attention_forward(struct decoder_model *model, struct decoder_state *state,
                              const struct attention_extra *extra);
/* d_qkv (before q and k turned); `through` 0: only the extra's gradients are wanted. */
int decoder_attention_backward(struct decoder_model *model, const struct decoder_state *state,
                               const struct attention_extra *extra, const float *d_context, float *d_qkv, int through);
/* Bytes of work, and floats of shared gradients and of decoder_prefix_merge, for the plan. */
size_t decoder_attention_bytes(const struct decoder_model *model, const struct attention_extra *extra, size_t max_len,
                               int training, int num_threads);
size_t decoder_attention_floats(const struct decoder_model *model, const struct attention_extra *extra);

/* The extra as pieces (kv_heads) for decoder_prefix_merge; tokens (2, kv_heads, prefix_len, head_dim) takes keys and
 * values of a prefix. */
void decoder_model_pieces(const struct decoder_config *config, const struct attention_extra *extra,
                          struct decoder_piece *pieces, float *tokens);

#endif
