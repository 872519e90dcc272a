#include "transformer/train.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_statistics_double.h>
#include <gsl/gsl_sort.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/hash.h"
#include "common/random.h"

enum { LEAST_EVAL = 32 };
static const char state_mark[16] = "prefix-ntk run 1";

/* A model and its inputs as a target. */
struct classified {
    struct model *model;
    struct inputs *inputs;
    struct train_options options;
    struct inputs_batch batch;
    float *logits, *d_logits;
    size_t layer;
};

struct train {
    struct train_target target;
    struct train_options options;
    struct adamw *adamw;
    size_t *order;                          /* of the epoch under way */
    size_t count, steps_per_epoch, num_steps, step, since;
    double loss_sum, seconds, last_loss;
    bool diverged;
    struct curve_row *curve;
    size_t num_rows;
    double *times;                          /* seconds of each step */
    float *best;                            /* parameters of the best evaluation */
    double best_accuracy;
};

struct train_options train_defaults(enum adapter_method method)
{
    struct train_options o = { .lr = 1e-3, .head_lr = 1e-3, .epochs = 5, .batch = 16, .schedule = SCHEDULE_LINEAR,
                               .warmup = 0.06,
                               .weight_decay = 0.01, .clip = 1.0, .num_threads = 1, .cache_bytes = (size_t)1 << 31 };
    switch (method) {
    case ADAPTER_FULL: o.lr = 1e-4; break;
    case ADAPTER_PTUNING: o.lr = 1e-1; break;
    case ADAPTER_TIED_PREFIX: o.lr = 3e-2; break;
    case ADAPTER_NTK: o.lr = 3e-4; break;
    default: break;
    }
    return o;
}

size_t train_eval_batch(size_t batch) { return batch > LEAST_EVAL ? batch : LEAST_EVAL; }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- parameters as one array ------------------------------------------------------------------------------ */

static size_t parameter_size(const struct parameter *p) { return p->rows * p->cols; }

/* All that belongs to the model's state: what is trained, and the adapter's constants. */
static size_t total_size(const struct train_target *target)
{
    size_t total = 0;
    for (size_t i = 0; i < target->num_parameters; i++) total += parameter_size(&target->parameters[i]);
    return total;
}

static void copy_parameters(const struct train_target *target, float *array, bool back)
{
    struct parameter *p = target->parameters;
    for (size_t i = 0; i < target->num_parameters; i++) {
        const size_t n = parameter_size(&p[i]);
        if (back) memcpy(p[i].value, array, n * sizeof *array);
        else memcpy(array, p[i].value, n * sizeof *array);
        array += n;
    }
    if (back) target->after_update(target->context);
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

size_t train_bytes(const struct model *model, const struct inputs *inputs, const struct train_options *options)
{
    const size_t seqs = train_eval_batch(options->batch), rows = inputs_max_rows(inputs, seqs);
    const size_t trained = model_trainable(model, PARAM_HEAD) + model_trainable(model, PARAM_ADAPTER)
        + model_trainable(model, PARAM_BACKBONE);
    size_t bytes = model_bytes(model, rows, seqs, inputs_max_len(inputs), 1, options->num_threads)
        + 2 * trained * sizeof(float);
    if (options->keep_best) bytes += trained * sizeof(float);
    const size_t cache = inputs_cache_bytes(inputs, 1u << TASK_TRAIN | 1u << TASK_VALIDATION);
    if (model_first_trained_layer(model) > 0 && cache <= options->cache_bytes) bytes += cache;
    return bytes;
}

/* Examples of an epoch in a random order (Fisher-Yates, a function of seed and epoch). */
static void shuffle(struct train *t, size_t epoch)
{
    for (size_t i = 0; i < t->count; i++) t->order[i] = i;
    for (size_t i = t->count; i > 1; i--) {
        const size_t j = random_index(t->options.seed, RANDOM_STARTS, epoch, i, i), x = t->order[i - 1];
        t->order[i - 1] = t->order[j];
        t->order[j] = x;
    }
}

static int make_arrays(struct train *t)
{
    t->order = malloc((t->count + 1) * sizeof *t->order);
    t->times = malloc((t->num_steps + 1) * sizeof *t->times);
    t->curve = malloc((t->num_steps + 2) * sizeof *t->curve);
    if (t->options.keep_best) t->best = malloc(total_size(&t->target) * sizeof *t->best);
    if (!t->order || !t->times || !t->curve || (t->options.keep_best && !t->best)) return GSL_ENOMEM;
    struct adamw_options adamw = adamw_defaults();
    adamw.weight_decay = t->options.weight_decay;
    adamw.clip = t->options.clip;
    return adamw_alloc(t->target.parameters, t->target.num_parameters, &adamw, &t->adamw);
}

int train_alloc_target(const struct train_target *target, const struct train_options *options, struct train **out,
                       struct reason why)
{
    struct train *t = calloc(1, sizeof *t);
    if (!t) {
        if (target->close) target->close(target->context);
        return refuse(why, GSL_ENOMEM, "out of memory");
    }
    t->target = *target;
    t->options = *options;
    if (!options->batch || !options->epochs || !(options->lr >= 0.0) || !(options->head_lr >= 0.0) ||
        !(options->warmup >= 0.0 && options->warmup < 1.0) ||
        !(options->label_smoothing >= 0.0 && options->label_smoothing < 1.0)) {
        train_free(t);
        return refuse(why, GSL_EINVAL, "a rate, batch or number of epochs that makes no sense");
    }
    t->count = target->count;
    t->steps_per_epoch = (t->count + options->batch - 1) / options->batch;
    t->num_steps = t->steps_per_epoch * options->epochs;
    t->best_accuracy = -1.0;
    t->last_loss = NAN;
    if (!t->options.eval_every) t->options.eval_every = t->steps_per_epoch;
    int status = make_arrays(t);
    if (!status) {
        const size_t seqs = train_eval_batch(options->batch);
        shuffle(t, 0);
        status = target->prepare(target->context, t->order, t->count < seqs ? t->count : seqs);
    }
    if (status) {
        train_free(t);
        return refuse(why, status, status == GSL_ENOMEM ? "out of memory" : "%s", gsl_strerror(status));
    }
    *out = t;
    return GSL_SUCCESS;
}

/* ---- a model and its inputs ----------------------------------------------------------------------------------- */

/* The cache of frozen blocks, where it fits; the units of a summary. */
static int prepare_classified(void *context, const size_t *order, size_t n)
{
    struct classified *c = context;
    const unsigned splits = 1u << TASK_TRAIN | 1u << TASK_VALIDATION;
    int status = GSL_SUCCESS;
    c->layer = model_first_trained_layer(c->model);
    if (c->layer > 0 && !inputs_is_cached(c->inputs, c->layer, splits) &&
        inputs_cache_bytes(c->inputs, splits) <= c->options.cache_bytes)
        status = inputs_cache(c->inputs, c->model, c->layer, splits, train_eval_batch(c->options.batch));
    if (status) return status;
    inputs_gather(c->inputs, TASK_TRAIN, order, n, c->layer, &c->batch);
    return model_calibrate(c->model, &c->batch.batch);
}

static int step_classified(void *context, const size_t *index, size_t n, double *loss)
{
    struct classified *c = context;
    inputs_gather(c->inputs, TASK_TRAIN, index, n, c->layer, &c->batch);
    const int status = model_forward(c->model, &c->batch.batch, c->logits, 1);
    if (status) return status;
    *loss = model_cross_entropy(c->logits, c->batch.labels, n, model_num_classes(c->model), c->options.label_smoothing,
                                c->d_logits, NULL);
    return isfinite(*loss) ? model_backward(c->model, c->d_logits) : GSL_EDOM;
}

static int evaluate_classified(void *context, struct evaluation *out)
{
    struct classified *c = context;
    return train_evaluate(c->model, c->inputs, TASK_VALIDATION, c->options.batch, out, NULL, NULL);
}

static void update_classified(void *context) { model_after_update(((struct classified *)context)->model); }

static void close_classified(void *context)
{
    struct classified *c = context;
    inputs_batch_free(&c->batch);
    free(c->logits);
    free(c->d_logits);
    free(c);
}

int train_alloc(struct model *model, struct inputs *inputs, const struct train_options *options, struct train **out,
                struct reason why)
{
    const size_t seqs = train_eval_batch(options->batch), classes = model_num_classes(model);
    struct classified *c = calloc(1, sizeof *c);
    if (!c) return refuse(why, GSL_ENOMEM, "out of memory");
    *c = (struct classified){ .model = model, .inputs = inputs, .options = *options };
    c->logits = malloc(seqs * classes * sizeof *c->logits);
    c->d_logits = malloc(seqs * classes * sizeof *c->d_logits);
    int status = c->logits && c->d_logits ? inputs_batch_alloc(inputs, seqs, &c->batch) : GSL_ENOMEM;
    if (!status) status = model_reserve(model, inputs_max_rows(inputs, seqs), seqs, inputs_max_len(inputs), 1,
                                        options->num_threads);
    if (status) {
        close_classified(c);
        return refuse(why, status, status == GSL_ENOMEM ? "out of memory" : "%s", gsl_strerror(status));
    }
    const struct train_target target = { .context = c, .parameters = model_parameters(model),
                                         .num_parameters = model_num_parameters(model),
                                         .count = inputs_count(inputs, TASK_TRAIN), .prepare = prepare_classified,
                                         .step = step_classified, .evaluate = evaluate_classified,
                                         .after_update = update_classified, .close = close_classified };
    return train_alloc_target(&target, options, out, why);
}

void train_free(struct train *t)
{
    if (!t) return;
    if (t->target.close) t->target.close(t->target.context);
    adamw_free(t->adamw);
    free(t->order);
    free(t->times);
    free(t->curve);
    free(t->best);
    free(t);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

size_t train_num_steps(const struct train *t) { return t->num_steps; }
size_t train_steps_done(const struct train *t) { return t->step; }
bool train_done(const struct train *t) { return t->step == t->num_steps; }
bool train_diverged(const struct train *t) { return t->diverged; }
double train_last_loss(const struct train *t) { return t->last_loss; }

size_t train_curve(const struct train *t, const struct curve_row **rows)
{
    *rows = t->curve;
    return t->num_rows;
}

double train_step_time(const struct train *t)
{
    if (!t->step) return 0.0;
    double *sorted = malloc(t->step * sizeof *sorted);
    if (!sorted) return t->seconds / (double)t->step;
    memcpy(sorted, t->times, t->step * sizeof *sorted);
    gsl_sort(sorted, 1, t->step);
    const double median = gsl_stats_median_from_sorted_data(sorted, 1, t->step);
    free(sorted);
    return median;
}

static int add_row(struct train *t)
{
    struct evaluation e;
    const int status = t->target.evaluate(t->target.context, &e);
    if (status) return status;
    t->curve[t->num_rows++] = (struct curve_row){ t->step, t->seconds, t->since ? t->loss_sum / (double)t->since : NAN,
                                                  e.loss, e.accuracy };
    t->loss_sum = 0.0;
    t->since = 0;
    if (t->best && e.accuracy > t->best_accuracy) {
        t->best_accuracy = e.accuracy;
        copy_parameters(&t->target, t->best, false);
    }
    return GSL_SUCCESS;
}

/* Forward, backward and update on the examples of the step. */
static int update(struct train *t)
{
    const size_t epoch = t->step / t->steps_per_epoch, at = t->step % t->steps_per_epoch * t->options.batch;
    const size_t n = t->count - at < t->options.batch ? t->count - at : t->options.batch;
    if (at == 0) shuffle(t, epoch);
    int status = t->target.step(t->target.context, t->order + at, n, &t->last_loss);
    if (status) return status;
    const double factor = lr_factor(t->options.schedule, t->options.warmup, t->step, t->num_steps);
    status = adamw_step(t->adamw, t->options.lr * factor, t->options.head_lr * factor, t->options.num_threads, NULL);
    if (status) return status;
    t->target.after_update(t->target.context);
    return GSL_SUCCESS;
}

/* A loss, gradient or normaliser that is not finite and positive ends a training, in a step or in an evaluation. */
static int diverged_or(struct train *t, int status)
{
    if (status == GSL_EDOM) t->diverged = true;
    return status;
}

int train_step(struct train *t)
{
    int status = t->num_rows ? GSL_SUCCESS : add_row(t);
    if (status) return diverged_or(t, status);
    const double start = now();
    status = update(t);
    if (status) return diverged_or(t, status);
    t->times[t->step] = now() - start;
    t->seconds += t->times[t->step];
    t->step++;
    t->loss_sum += t->last_loss;
    t->since++;
    return t->step % t->options.eval_every == 0 || train_done(t) ? diverged_or(t, add_row(t)) : GSL_SUCCESS;
}

void train_finish(struct train *t)
{
    if (t->best && t->best_accuracy >= 0.0) copy_parameters(&t->target, t->best, true);
}

/* ---- evaluation -------------------------------------------------------------------------------------------------- */

static size_t largest(const float *row, size_t n)
{
    size_t best = 0;
    for (size_t c = 1; c < n; c++)
        if (row[c] > row[best]) best = c;
    return best;
}

int train_evaluate(struct model *model, struct inputs *inputs, enum task_split split, size_t batch,
                   struct evaluation *out, int32_t *predicted, double *losses)
{
    const size_t count = inputs_count(inputs, split), seqs = train_eval_batch(batch),
        classes = model_num_classes(model), layer = model_first_trained_layer(model);
    struct inputs_batch b = { .labels = NULL };
    float *logits = malloc(seqs * classes * sizeof *logits);
    size_t *index = malloc(seqs * sizeof *index), correct = 0;
    int status = logits && index ? inputs_batch_alloc(inputs, seqs, &b) : GSL_ENOMEM;
    double loss = 0.0;
    for (size_t i = 0; i < count && !status; i += seqs) {
        const size_t n = count - i < seqs ? count - i : seqs;
        for (size_t k = 0; k < n; k++) index[k] = i + k;
        inputs_gather(inputs, split, index, n, layer, &b);
        if ((status = model_forward(model, &b.batch, logits, 0))) break;
        for (size_t k = 0; k < n; k++) {
            const float *row = logits + k * classes;
            const double l = model_cross_entropy(row, b.labels + k, 1, classes, 0.0, NULL, NULL);
            const size_t best = largest(row, classes);
            loss += l;
            correct += (int32_t)best == b.labels[k];
            if (predicted) predicted[i + k] = (int32_t)best;
            if (losses) losses[i + k] = l;
        }
    }
    inputs_batch_free(&b);
    free(index);
    free(logits);
    if (!status) *out = (struct evaluation){ loss / (double)count, (double)correct / (double)count, count };
    return status;
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

struct state_head {
    char mark[16];
    uint64_t parameters, step, rows, adamw_time, since, order_seed, has_best;
    double loss_sum, seconds, last_loss, best_accuracy;
};

static bool put(FILE *stream, const void *x, size_t size, size_t n, uint64_t *hash)
{
    *hash = hash_bytes(*hash, x, size * n);
    return fwrite(x, size, n, stream) == n;
}

static bool get(FILE *stream, void *x, size_t size, size_t n, uint64_t *hash)
{
    if (fread(x, size, n, stream) != n) return false;
    *hash = hash_bytes(*hash, x, size * n);
    return true;
}

int train_save(struct train *t, FILE *stream)
{
    const size_t total = total_size(&t->target);
    float *values = malloc((total + 1) * sizeof *values);
    if (!values) return GSL_ENOMEM;
    copy_parameters(&t->target, values, false);
    uint64_t hash = HASH_START;
    struct state_head head = { .parameters = total, .step = t->step, .rows = t->num_rows,
                               .adamw_time = adamw_time(t->adamw), .since = t->since,
                               .order_seed = t->options.seed, .has_best = t->best != NULL, .loss_sum = t->loss_sum,
                               .seconds = t->seconds,
                               .last_loss = t->last_loss, .best_accuracy = t->best_accuracy };
    memcpy(head.mark, state_mark, sizeof head.mark);
    bool good = put(stream, &head, sizeof head, 1, &hash) && put(stream, values, sizeof *values, total, &hash) &&
                put(stream, adamw_state(t->adamw), sizeof(float), adamw_state_size(t->adamw), &hash) &&
                put(stream, t->curve, sizeof *t->curve, t->num_rows, &hash) && put(stream, t->times, sizeof *t->times,
                                                                                   t->step, &hash);
    if (good && t->best) good = put(stream, t->best, sizeof *t->best, total, &hash);
    good = good && fwrite(&hash, sizeof hash, 1, stream) == 1 && fflush(stream) == 0;
    free(values);
    return good ? GSL_SUCCESS : GSL_EFAILED;
}

int train_load(struct train *t, FILE *stream)
{
    const size_t total = total_size(&t->target);
    struct state_head head;
    uint64_t hash = HASH_START, kept;
    if (!get(stream, &head, sizeof head, 1, &hash)) return GSL_EINVAL;
    if (memcmp(head.mark, state_mark, sizeof head.mark) || head.parameters != total || head.step > t->num_steps
        || head.rows > t->num_steps + 2 ||
        head.order_seed != t->options.seed || head.has_best != (t->best != NULL))
        return GSL_EINVAL;
    float *values = malloc((total + 1) * sizeof *values),
        *moments = malloc((adamw_state_size(t->adamw) + 1) * sizeof *moments);
    int status = values && moments ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status && !(get(stream, values, sizeof *values, total, &hash)
                     && get(stream, moments, sizeof *moments, adamw_state_size(t->adamw), &hash) &&
                     get(stream, t->curve, sizeof *t->curve, head.rows, &hash)
                         && get(stream, t->times, sizeof *t->times, head.step, &hash) &&
                     (!t->best || get(stream, t->best, sizeof *t->best, total, &hash))
                         && fread(&kept, sizeof kept, 1, stream) == 1 && kept == hash))
        status = GSL_EINVAL;
    if (!status) {
        copy_parameters(&t->target, values, true);
        memcpy(adamw_state(t->adamw), moments, adamw_state_size(t->adamw) * sizeof *moments);
        adamw_set_time(t->adamw, head.adamw_time);
        t->step = head.step;
        t->num_rows = head.rows;
        t->since = head.since;
        t->loss_sum = head.loss_sum;
        t->seconds = head.seconds;
        t->last_loss = head.last_loss;
        t->best_accuracy = head.best_accuracy;
        if (t->step % t->steps_per_epoch) shuffle(t, t->step / t->steps_per_epoch);
    }
    free(values);
    free(moments);
    return status;
}
