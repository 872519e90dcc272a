/* Fine-tuning: batches, steps, evaluation. The loop is the caller's:
 *
 *     train_alloc(model, inputs, &options, &t, why);
 *     while (!train_done(t)) train_step(t);
 *     train_evaluate(model, inputs, TASK_TEST, ...);      the test set, once
 *
 * Every number is a function of the model, the inputs and the options, not of the number of threads. What is
 * frozen below the lowest trained block is computed once per example where memory allows (inputs_cache). */
#ifndef TRANSFORMER_TRAIN_H
#define TRANSFORMER_TRAIN_H
#include <stdbool.h>
#include <stdio.h>

#include "transformer/adamw.h"
#include "transformer/inputs.h"
#include "transformer/model.h"

struct train_options {
    double lr, head_lr;             /* peak rates of adapter or backbone, and of the head */
    size_t epochs, batch;           /* a last, smaller batch is used, too */
    enum lr_schedule schedule;
    double warmup;                  /* fraction of all steps */
    double weight_decay, clip, label_smoothing;
    size_t eval_every;              /* steps between evaluations on the validation set; 0: once an epoch */
    bool keep_best;                 /* ends with the parameters of the best validation accuracy, not the last */
    uint64_t seed;                  /* of the order of examples */
    int num_threads;
    /* Frozen blocks are cached when that takes no more; 0: only a cache that is there is used, and trainings that share
     * inputs may run side by side. */
    size_t cache_bytes;
};

/* The defaults of a method: 5 epochs of batches of 16, a rate near those the searches chose
 * (experiments/finetuning/rates.csv), decay .01, clip 1, warm-up .06, linear. */
struct train_options train_defaults(enum adapter_method method);

/* A row of the curve; an unevaluated number is NaN. time_s: seconds of training, evaluations left out. */
struct curve_row { size_t step; double time_s, train_loss, val_loss, val_accuracy; };

struct evaluation { double loss, accuracy; size_t count; };

struct train;

/* Something that is trained: a model with its inputs, or a decoder's (lm_train.h). context is the caller's. */
struct train_target {
    void *context;
    struct parameter *parameters;
    size_t num_parameters, count;   /* count: training examples */
    /* Before the first step: what is cached, units measured on the first n of a permutation of the examples. */
    int (*prepare)(void *context, const size_t *order, size_t n);
    /* Forward, loss and backward of n training examples. */
    int (*step)(void *context, const size_t *index, size_t n, double *loss);
    /* Of the validation set. */
    int (*evaluate)(void *context, struct evaluation *out);
    void (*after_update)(void *context);
    void (*close)(void *context);   /* by train_free; NULL: nothing to do */
};

/* A training of the target, whose context it takes over, also when it fails. */
int train_alloc_target(const struct train_target *target, const struct train_options *options, struct train **out,
                       struct reason why);

/* Sequences an evaluation of this batch size takes at a time. */
size_t train_eval_batch(size_t batch);

/* Bytes train_alloc takes beside the model's parameters. */
size_t train_bytes(const struct model *model, const struct inputs *inputs, const struct train_options *options);

/* Reserves the model, calibrates it (model_calibrate on the first batch), fills the cache. Model and inputs must
 * outlive it. GSL_EINVAL, GSL_ENOMEM, codes of model_forward; one line in *why. */
int train_alloc(struct model *model, struct inputs *inputs, const struct train_options *options, struct train **out,
                struct reason why);
void train_free(struct train *train);               /* accepts NULL */

size_t train_num_steps(const struct train *train);
size_t train_steps_done(const struct train *train);
bool train_done(const struct train *train);

/* One step, and the evaluation that is due after it. GSL_EDOM the loss or the gradient is no longer finite: the
 * training has diverged (train_diverged), nothing of the step was kept. */
int train_step(struct train *train);
bool train_diverged(const struct train *train);

/* The curve so far; the last training loss is the mean since the row before. */
size_t train_curve(const struct train *train, const struct curve_row **rows);
double train_last_loss(const struct train *train);
/* Seconds per step, without evaluations: the median. 0 before the first. */
double train_step_time(const struct train *train);
/* With keep_best the parameters of the best evaluation are put back; call once, when done. */
void train_finish(struct train *train);

/* Loss and accuracy of a split, and, unless NULL, predicted classes (count) and log-losses (count). The model must be
 * reserved (train_alloc, or model_reserve for train_eval_batch(batch) sequences of inputs_max_rows). */
int train_evaluate(struct model *model, struct inputs *inputs, enum task_split split, size_t batch,
                   struct evaluation *out, int32_t *predicted, double *losses);

/* The whole state after a step: a later train_load into a freshly made train of the same model, inputs and options goes
 * on bit for bit. GSL_EFAILED a write or read failed, GSL_EINVAL the state is not of this training. */
int train_save(struct train *train, FILE *stream);
int train_load(struct train *train, FILE *stream);

#endif
