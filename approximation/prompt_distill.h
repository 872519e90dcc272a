/* What stands in for a prompt, trained: keys and values, or a summary, of every layer and head so that what a decoder
 * predicts behind them is what it predicts behind the whole prompt. The loss is KL(p || q) of next-token
 * distributions over texts that follow the prompt (arXiv:2506.06266, "Cartridges", whose texts are made from the
 * prompt). */
#ifndef APPROXIMATION_PROMPT_DISTILL_H
#define APPROXIMATION_PROMPT_DISTILL_H
#include "transformer/decoder_model.h"

struct prompt_text { const int32_t *ids; size_t len; };

struct prompt_distill_options {
    struct adapter_options adapter;     /* ptuning, from the tokens of `start`, or ntk */
    size_t positions;                   /* of the first token of a text: the length of the prompt */
    size_t steps, batch;                /* texts per step */
    double lr;
    uint64_t seed;
    int num_threads;
};

/* log p of every token of the texts (rows, vocab_size), behind the `prompt_len` tokens that `run` has read; the run
 * is left at those. GSL codes of decoder_read. */
int prompt_teach(const struct decoder *decoder, struct decoder_run *run, size_t prompt_len,
                 const struct prompt_text *texts,
                 size_t num_texts, float *logprobs, int num_threads);

struct prompt_distilled;

/* start (num_layers, kv_heads): pieces of adapter.prefix_len tokens, of ptuning; else NULL. loss (2): of the first
 * step and of the last. GSL_EINVAL, GSL_ENOMEM, GSL_EDOM it diverged. */
int prompt_distill(const struct decoder *decoder, const struct prompt_distill_options *options,
                   const struct decoder_piece *start, const struct prompt_text *texts, size_t num_texts,
                   const float *logprobs, struct prompt_distilled **out, double loss[2]);
/* (num_layers, kv_heads), as long as the object. */
const struct decoder_piece *prompt_distilled_pieces(const struct prompt_distilled *distilled);
void prompt_distilled_free(struct prompt_distilled *distilled);         /* accepts NULL */

#endif
