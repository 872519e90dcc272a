/* Fine-tuning of a decoder on tasks of texts: tokens of prompts and answers, training (train.h), evaluation, decoding.
 *
 *   answers (task->answers)   "Question: TEXT\nAnswer:" and then " ANSWER" and the end token, of which the answer's
 *   tokens and
 *                             the end token are learned
 *   classes                   "TEXT2\n\nQuestion: TEXT?\nAnswer:" of pairs, "TEXT\nAnswer:" of single texts, and then
 *   the first
 *                             token of " CLASS", which differ; or a classifier of the prompt's last row
 *
 * A text of more than max_len tokens loses its first ones. Losses are nats per learned token. */
#ifndef TRANSFORMER_LM_TRAIN_H
#define TRANSFORMER_LM_TRAIN_H
#include "transformer/decoder_model.h"
#include "transformer/train.h"

struct lm_inputs;

/* max_len 0: 256. classifier: of a task of classes. GSL_EINVAL a task of images, classes that begin with the same
 * token, a decoder without tokens, an answer longer than max_len; GSL_ENOMEM; one line in *why. */
int lm_inputs_alloc(const struct decoder *decoder, const struct task *task, size_t max_len, int classifier,
                    struct lm_inputs **out, struct reason why);
void lm_inputs_free(struct lm_inputs *inputs);          /* accepts NULL */

const struct task *lm_inputs_task(const struct lm_inputs *inputs);
size_t lm_inputs_max_len(const struct lm_inputs *inputs);
double lm_inputs_mean_len(const struct lm_inputs *inputs, enum task_split split);
/* For decoder_model_options: classes of a classifier, 0 for next tokens. */
size_t lm_inputs_num_classes(const struct lm_inputs *inputs);

/* Bytes lm_train_alloc takes beside the model's parameters. */
size_t lm_train_bytes(const struct decoder_model *model, const struct lm_inputs *inputs,
                      const struct train_options *options);

/* Keeps the input of block `layer` of the untouched decoder for all splits. GSL_ENOMEM. */
int lm_inputs_cache(struct lm_inputs *inputs, size_t layer, size_t batch, int num_threads);
size_t lm_inputs_cache_bytes(const struct lm_inputs *inputs);

/* As train_alloc; the frozen lower blocks are cached where options->cache_bytes has room. Accuracy is that of
 * lm_evaluate. */
int lm_train_alloc(struct decoder_model *model, struct lm_inputs *inputs, const struct train_options *options,
                   struct train **out, struct reason why);

/* Loss and accuracy of a split. predicted (count, may be NULL): the class; of answers 1 where every learned token is
 * the likeliest after those before it, which is when greedy decoding writes that very answer. The model must be
 * reserved (lm_train_alloc or lm_reserve) for `batch` texts. */
int lm_evaluate(struct decoder_model *model, struct lm_inputs *inputs, enum task_split split, size_t batch,
                struct evaluation *out, int32_t *predicted);
int lm_reserve(struct decoder_model *model, const struct lm_inputs *inputs, size_t batch, int training,
               int num_threads);

/* Answers of a split by greedy decoding of at most max_new tokens: right[i] = 1 where the number after the last
 * "####" (the first word, where there is none) is that of the answer. count_right may be NULL. */
int lm_decode(struct decoder_model *model, const struct lm_inputs *inputs, enum task_split split, size_t max_new,
              int32_t *right, int num_threads);

#endif
