/* Methods of fine-tuning side by side on one task and backbone: accuracy, loss, parameters, time (E2-E6, F70-F72). */
#include "cli/arms.h"
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_fit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "transformer/lm_train.h"

static const char doc[] =
    "Fine-tunes one backbone on one task by several methods (arms), each at the learning rate an equal search on "
    "validation data "
    "chose, over several draws of the training set; the test set is read once per training. With --search it does that "
    "search "
    "and reads no test set.";
static const char columns[] = "trial,arm,method,lr,test_accuracy,test_loss,val_accuracy,val_loss,train_loss,"
                              "adapter_params,head_params,steps,step_time_s";
static const char search_columns[] = "backbone,task,arm,lr,trials,val_accuracy,val_loss,chosen";
static const char summary_columns[] =
    "arm,adapter_params,head_params,lr,test_accuracy,test_accuracy_sd,test_accuracy_ci_lo,test_accuracy_ci_hi,"
    "test_loss,val_accuracy,step_time_s,"
    "steps_to_half,example_p_vs_first";
static const char curve_columns[] = "arm,step,time_s,train_loss,val_loss,val_accuracy";

enum { NUM_POINTS = 8, BITS = 32, MAX_ARMS = 64, MAX_RATES = 64 };

/* What a unit leaves: scalars, the curve, and which test examples were right (32 a number). */
enum { TEST_ACC, TEST_LOSS, VAL_ACC, VAL_LOSS, TRAIN_LOSS, ADAPTER_PARAMS, HEAD_PARAMS, STEPS, STEP_TIME, FAILED,
       NUM_SCALARS };
enum { POINT_STEP, POINT_TIME, POINT_TRAIN, POINT_VAL, POINT_ACC, POINT_WIDTH };
enum { CURVE_AT = NUM_SCALARS, CORRECT_AT = CURVE_AT + (NUM_POINTS + 2) * POINT_WIDTH };

struct config {
    struct cli_common c;
    const char *backbone, *task, *rates, *decide;
    char *arm_list, *summary_out, *curves_out;      /* tables beside --out */
    struct arm arms[MAX_ARMS];
    size_t num_arms, num_trials, epochs, batch, train_size, validation_size, test_size, image_size, max_len;
    int first_layer, last_layer;
    double *grid;
    size_t grid_size;
    double head_lr;
    bool unrotated;
    size_t decode;
};

static const struct cli_option options[] = {
    { "backbone", CLI_TEXT(struct config, backbone), .value = "vit-fashion", .arg = "NAME", .group = 1,
      .doc = "pretrained model" },
    { "task", CLI_TEXT(struct config, task), .value = "shapes", .arg = "NAME", .group = 1, .doc = "task" },
    { "arms", CLI_TEXT(struct config, arm_list), .arg = "LIST", .group = 1,
      .doc = "METHOD[+key=value...] of rank, prefix_len, feature, z_rank, k_mode, units, start_mass, init_scale, "
        "reparameterise (default full,head,lora,ptuning,tied-prefix,ntk,prefix-plus)" },
    { "rates", CLI_TEXT(struct config, rates), .group = 1,
      .doc = "table of an earlier --search: the learning rate of each arm" },
    { "search", CLI_DOUBLES(struct config, grid, grid_size), .group = 1,
      .doc = "learning rates to try for every arm, on validation data only (default "
             "full,head,lora,ptuning,tied-prefix,ntk,prefix-plus)" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1000, .value = "5", .group = 2,
      .doc = "draws of the training set and of all random numbers" },
    { "epochs", CLI_SIZE(struct config, epochs), .min = 1, .max = 10000, .value = "5", .group = 2,
      .doc = "passes over the training set" },
    { "batch", CLI_SIZE(struct config, batch), .min = 1, .max = 4096, .value = "16", .group = 2,
      .doc = "examples per step" },
    { "train-size", CLI_SIZE(struct config, train_size), .max = 1u << 30, .value = "1000", .group = 2,
      .doc = "training examples, balanced" },
    { "validation-size", CLI_SIZE(struct config, validation_size), .max = 1u << 30, .value = "300", .group = 2,
      .doc = "validation examples" },
    { "test-size", CLI_SIZE(struct config, test_size), .max = 1u << 30, .value = "0", .group = 2,
      .doc = "test examples, 0 for all" },
    { "image-size", CLI_SIZE(struct config, image_size), .min = 1, .max = 4096, .group = 2,
      .doc = "pixels a side (default the backbone's, or seven patches)" },
    { "max-len", CLI_SIZE(struct config, max_len), .min = 8, .max = 1u << 16, .group = 2,
      .doc = "tokens at most (default 128)" },
    { "layers", CLI_RANGE(struct config, first_layer, last_layer), .group = 2,
      .doc = "blocks that any method may change (default all)" },
    { "head-lr", CLI_DOUBLE(struct config, head_lr), .value = "0.01", .group = 2,
      .doc = "learning rate of the classifier in all arms but head, whose own is the searched one" },
    { "unrotated", CLI_FLAG(struct config, unrotated), .group = 2,
      .doc = "decoders: prefixes and summaries meet the query before it is rotated" },
    { "decode", CLI_SIZE(struct config, decode), .max = 4096, .group = 2,
      .doc = "answers: the test set's accuracy is that of the final number of N tokens decoded greedily (default 0: "
        "of the whole answer)" },
    { "decide", CLI_TEXT(struct config, decide), .arg = "LIST", .group = 3,
      .doc = "CLAIM/row:KIND:ARM~ARM, KIND accuracy or loss (differences), steps or seconds (ratios), or "
        "CLAIM/row:slope:METHOD: accuracy by ln(prefix_len) (default none)" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    struct config *cfg = config;
    static char line[200];
    char why[160];
    /* The command line stays as it is: tables quote it. */
    char *list = cli_need(strdup(cfg->arm_list));
    for (char *rest = list, *word; (word = strsep(&rest, ","));) {
        if (cfg->num_arms == MAX_ARMS) {
            free(list);
            return "--arms: too many";
        }
        if (arm_parse(word, &cfg->arms[cfg->num_arms++], (struct reason){ why, sizeof why })) {
            snprintf(line, sizeof line, "--arms: %s", why);
            free(list);
            return line;
        }
    }
    free(list);
    for (size_t a = 0; a < cfg->num_arms; a++)
        for (size_t b = 0; b < a; b++)
            if (!strcmp(cfg->arms[a].text, cfg->arms[b].text)) {
                snprintf(line, sizeof line, "--arms: %s stands there twice", cfg->arms[a].text);
                return line;
            }
    if (cfg->rates && cfg->grid) return "--search: given together with --rates";
    if (!cfg->rates && !cfg->grid) return "--rates: required without --search";
    if (cfg->grid && cfg->test_size) return "--test-size: has no effect with --search";
    if (cfg->grid && cfg->decide) return "--decide: has no effect with --search";
    if (cfg->grid_size > MAX_RATES) return "--search: too many rates";
    return NULL;
}

struct study {
    struct config *cfg;
    struct backbone *backbone;          /* or */
    struct decoder *decoder;
    struct units *work;
    size_t num_rates, width, test_count;
    uint64_t task_checksum;
};

static const double *unit_row(const struct study *s, size_t trial, size_t arm, size_t rate)
{
    return units_row(s->work, (trial * s->cfg->num_arms + arm) * s->num_rates + rate);
}

static struct adapter_options arm_options(const struct config *cfg, const struct arm *arm)
{
    struct adapter_options o = arm->options;
    if (cfg->first_layer >= 0) {
        o.first_layer = cfg->first_layer;
        o.last_layer = cfg->last_layer;
    }
    return o;
}

/* The examples of a trial, for the backbone or for the decoder. */
struct data { struct task *task; struct inputs *inputs; struct lm_inputs *texts; };

static void data_free(struct data *d)
{
    inputs_free(d->inputs);
    lm_inputs_free(d->texts);
    task_free(d->task);
}

/* Of a trial; the caller frees, also after an error. Exit code, the line printed. */
static int data_open(const struct study *s, size_t trial, struct data *d)
{
    const struct config *cfg = s->cfg;
    char line[512];
    const struct reason why = { line, sizeof line };
    const struct task_options to = { .train_size = cfg->train_size, .validation_size = cfg->validation_size,
                                     .test_size = cfg->test_size,
                                     .seed = cfg->c.seed + trial };
    const struct inputs_options io = { cfg->max_len, cfg->image_size };
    *d = (struct data){ .task = NULL };
    int status = task_open(cfg->task, &to, &d->task, why);
    if (!status && s->decoder) status = lm_inputs_alloc(s->decoder, d->task, cfg->max_len, 0, &d->texts, why);
    else if (!status) status = inputs_alloc(s->backbone, d->task, &io, &d->inputs, why);
    return status ? cli_fail(&cfg->c, cli_input_code(status), "%s", line) : EXIT_DONE;
}

/* What is trained on them. */
struct learner { struct model *model; struct decoder_model *decoder; };

static int learner_alloc(const struct study *s, const struct data *d, const struct adapter_options *a, uint64_t seed,
                         struct learner *out, struct reason why)
{
    *out = (struct learner){ NULL, NULL };
    if (!s->decoder)
        return model_alloc(s->backbone, a, d->task->num_classes, model_default_pool(s->backbone), 0, seed, &out->model,
                           why);
    const enum decoder_rotation rotation = s->cfg->unrotated ? DECODER_UNROTATED : DECODER_ROTATED;
    const struct decoder_model_options o = { *a, rotation, lm_inputs_num_classes(d->texts), seed, 0 };
    return decoder_model_alloc(s->decoder, &o, &out->decoder, why);
}

static void learner_free(struct learner *l)
{
    model_free(l->model);
    decoder_model_free(l->decoder);
}

static size_t trainable(const struct learner *l, enum parameter_group group)
{
    return l->decoder ? decoder_model_trainable(l->decoder, group) : model_trainable(l->model, group);
}

/* The base model without training, as a model that can fill the cache of frozen blocks. */
static int fill_cache(const struct study *s, const struct data *d, unsigned splits)
{
    const struct config *cfg = s->cfg;
    struct inputs *inputs = d->inputs;
    if (cfg->first_layer <= 0) return GSL_SUCCESS;
    if (s->decoder) return lm_inputs_cache(d->texts, (size_t)cfg->first_layer, cfg->batch, cfg->c.threads);
    char line[256];
    struct model *model = NULL;
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    const size_t seqs = 32;
    int status = model_alloc(s->backbone, &head, 2, model_default_pool(s->backbone), 0, 1, &model,
                             (struct reason){ line, sizeof line });
    if (!status)
        status = model_reserve(model, inputs_max_rows(inputs, seqs), seqs, inputs_max_len(inputs), 0, cfg->c.threads);
    if (!status) status = inputs_cache(inputs, model, (size_t)cfg->first_layer, splits, seqs);
    model_free(model);
    return status;
}

static void keep_curve(const struct train *t, double *out)
{
    const struct curve_row *rows;
    const size_t n = train_curve(t, &rows);
    for (size_t i = 0; i < NUM_POINTS + 2; i++) {
        double *p = out + i * POINT_WIDTH;
        for (int w = 0; w < POINT_WIDTH; w++) p[w] = NAN;
        if (i >= n) continue;
        p[POINT_STEP] = (double)rows[i].step;
        p[POINT_TIME] = rows[i].time_s;
        p[POINT_TRAIN] = rows[i].train_loss;
        p[POINT_VAL] = rows[i].val_loss;
        p[POINT_ACC] = rows[i].val_accuracy;
    }
}

/* The test set, once. */
static int test(const struct study *s, const struct learner *l, const struct data *d, double *out)
{
    struct evaluation e;
    const struct task_set *set = &d->task->sets[TASK_TEST];
    int32_t *predicted = malloc((set->count + 1) * sizeof *predicted);
    int status = predicted ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status && l->decoder) status = lm_evaluate(l->decoder, d->texts, TASK_TEST, s->cfg->batch, &e, predicted);
    else if (!status) status = train_evaluate(l->model, d->inputs, TASK_TEST, s->cfg->batch, &e, predicted, NULL);
    if (!status && l->decoder && d->task->answers && s->cfg->decode)
        status = lm_decode(l->decoder, d->texts, TASK_TEST, s->cfg->decode, predicted, 1);
    if (!status) {
        size_t right = 0;
        for (size_t i = 0; i < set->count; i++) right += predicted[i] == (d->task->answers ? 1 : set->labels[i]);
        out[TEST_ACC] = (double)right / (double)set->count;
        out[TEST_LOSS] = e.loss;
        for (size_t i = 0; i < (set->count + BITS - 1) / BITS; i++) {
            uint32_t bits = 0;
            for (size_t b = 0; b < BITS && i * BITS + b < set->count; b++)
                if (predicted[i * BITS + b] == (d->task->answers ? 1 : set->labels[i * BITS + b])) bits |= 1u << b;
            out[CORRECT_AT + i] = bits;
        }
    }
    free(predicted);
    return status;
}

/* One training. A divergence is a result: the accuracy of the last finite state is not taken, the arm fails. */
static int run_unit(const struct study *s, const struct data *d, size_t trial, const struct arm *arm, double lr,
                    double *out)
{
    const struct config *cfg = s->cfg;
    char line[256];
    const struct reason why = { line, sizeof line };
    for (size_t i = 0; i < s->width; i++) out[i] = NAN;
    const struct adapter_options a = arm_options(cfg, arm);
    struct train_options o = train_defaults(a.method);
    o.lr = lr;
    o.head_lr = a.method == ADAPTER_HEAD ? lr : cfg->head_lr;
    o.epochs = cfg->epochs;
    o.batch = cfg->batch;
    o.seed = cfg->c.seed + trial;
    o.cache_bytes = 0;
    const size_t steps = (d->task->sets[TASK_TRAIN].count + o.batch - 1) / o.batch * o.epochs;
    o.eval_every = steps > NUM_POINTS ? (steps + NUM_POINTS - 1) / NUM_POINTS : 1;
    struct learner l;
    struct train *t = NULL;
    int status = learner_alloc(s, d, &a, o.seed, &l, why);
    if (!status && l.decoder) status = lm_train_alloc(l.decoder, d->texts, &o, &t, why);
    else if (!status) status = train_alloc(l.model, d->inputs, &o, &t, why);
    while (!status && !train_done(t)) {
        status = train_step(t);
        if (!status && cli_interrupted()) status = GSL_FAILURE;
    }
    /* A normaliser that is not positive, or a loss that is not finite. */
    const bool diverged = status == GSL_EDOM;
    if (!status || diverged) {
        const struct curve_row *rows;
        const size_t n = train_curve(t, &rows);
        keep_curve(t, out + CURVE_AT);
        out[FAILED] = diverged;
        out[ADAPTER_PARAMS] = (double)(trainable(&l, PARAM_ADAPTER) + trainable(&l, PARAM_BACKBONE));
        out[HEAD_PARAMS] = (double)trainable(&l, PARAM_HEAD);
        out[STEPS] = (double)train_steps_done(t);
        out[STEP_TIME] = train_step_time(t);
        out[VAL_ACC] = diverged || !n ? 0.0 : rows[n - 1].val_accuracy;
        out[VAL_LOSS] = diverged || !n ? 1e9 : rows[n - 1].val_loss;
        out[TRAIN_LOSS] = diverged || !n ? 1e9 : rows[n - 1].train_loss;
        out[TEST_ACC] = 0.0;
        out[TEST_LOSS] = 1e9;
        status = diverged || cfg->grid ? GSL_SUCCESS : test(s, &l, d, out);
    }
    train_free(t);
    learner_free(&l);
    return status;
}

/* Whether as many of the largest trainings as there are threads find room; exit code. */
static int check_memory(const struct study *s, const struct data *d)
{
    const struct config *cfg = s->cfg;
    double most = 0.0;
    for (size_t i = 0; i < cfg->num_arms; i++) {
        char line[256];
        const struct adapter_options a = arm_options(cfg, &cfg->arms[i]);
        struct train_options o = train_defaults(a.method);
        o.batch = cfg->batch;
        o.cache_bytes = 0;
        struct learner l;
        const int status = learner_alloc(s, d, &a, cfg->c.seed, &l, (struct reason){ line, sizeof line });
        if (status) return cli_fail(&cfg->c, status == GSL_ENOMEM ? EXIT_FAILED : EXIT_USAGE, "%s", line);
        const size_t bytes = l.decoder ? lm_train_bytes(l.decoder, d->texts, &o) : train_bytes(l.model, d->inputs, &o);
        most = fmax(most, (double)bytes + 4.0 * (double)(trainable(&l, PARAM_ADAPTER) + trainable(&l, PARAM_BACKBONE)));
        learner_free(&l);
    }
    const double at_once = fmin((double)cfg->c.threads, (double)(cfg->num_arms * s->num_rates));
    const size_t cache = s->decoder ? lm_inputs_cache_bytes(d->texts) : inputs_cache_bytes(d->inputs, 7);
    return cli_memory(&cfg->c, at_once * most + (double)cache, "these trainings side by side");
}

static int run_trial(struct study *s, size_t trial)
{
    struct config *cfg = s->cfg;
    const size_t first = trial * cfg->num_arms * s->num_rates, count = cfg->num_arms * s->num_rates;
    struct data d;
    const unsigned splits = 1u << TASK_TRAIN | 1u << TASK_VALIDATION | (cfg->grid ? 0u : 1u << TASK_TEST);
    int code = data_open(s, trial, &d), status;
    if (code) {
        data_free(&d);
        return code;
    }
    code = trial ? 0 : check_memory(s, &d);
    status = code ? GSL_SUCCESS : fill_cache(s, &d, splits);
    if (!code) code = cli_status(&cfg->c, status, "frozen blocks");
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg->c.threads)
    for (size_t u = 0; u < (code ? 0 : count); u++) {
        const size_t arm = u / s->num_rates, rate = u % s->num_rates;
        double *row = units_begin(s->work, first + u);
        if (row)
            units_end(s->work, first + u, run_unit(s, &d, trial, &cfg->arms[arm], cfg->grid ? cfg->grid[rate]
                                                   : cfg->arms[arm].lr, row));
    }
    data_free(&d);
    return code ? code : units_status(s->work);
}

/* ---- search ---------------------------------------------------------------------------------------------------- */

static int write_search(const struct study *s)
{
    const struct config *cfg = s->cfg;
    struct table *t = table_open(&cfg->c, NULL, search_columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "mean over trials of the last evaluation on the validation set; chosen: highest accuracy, of equals "
                  "the lowest loss");
    for (size_t a = 0; a < cfg->num_arms; a++) {
        size_t best = 0;
        double accuracy[MAX_RATES], loss[MAX_RATES];
        for (size_t r = 0; r < s->num_rates; r++) {
            accuracy[r] = loss[r] = 0.0;
            for (size_t k = 0; k < cfg->num_trials; k++) {
                accuracy[r] += unit_row(s, k, a, r)[VAL_ACC] / (double)cfg->num_trials;
                loss[r] += unit_row(s, k, a, r)[VAL_LOSS] / (double)cfg->num_trials;
            }
            if (accuracy[r] > accuracy[best] + 1e-12 || (fabs(accuracy[r] - accuracy[best]) <= 1e-12
                                                         && loss[r] < loss[best]))
                best = r;
        }
        for (size_t r = 0; r < s->num_rates; r++) {
            table_text(t, cfg->backbone);
            table_text(t, cfg->task);
            table_text(t, cfg->arms[a].text);
            table_num(t, cfg->grid[r]);
            table_int(t, cfg->num_trials);
            table_num(t, accuracy[r]);
            table_num(t, loss[r]);
            table_int(t, r == best);
            table_end_row(t);
        }
    }
    return table_close(t, 0);
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static double over_trials(const struct study *s, size_t arm, int which, double level, struct interval *out)
{
    double x[1000];
    for (size_t k = 0; k < s->cfg->num_trials; k++) x[k] = unit_row(s, k, arm, 0)[which];
    struct interval mean = { NAN, NAN, NAN, 0 };
    stats_mean(x, s->cfg->num_trials, level, &mean);
    if (out) *out = mean;
    return mean.value;
}

/* Steps (or seconds) at which the training loss first falls below half of ln(classes), between the rows of the curve;
 * the end when it never does. */
static double to_half(const struct study *s, size_t trial, size_t arm, int which)
{
    const double *row = unit_row(s, trial, arm, 0), *before = NULL, *last = NULL,
        target = 0.5 * log(s->cfg->arms[0].classes);
    for (size_t i = 0; i < NUM_POINTS + 2; i++) {
        const double *p = row + CURVE_AT + i * POINT_WIDTH;
        if (!isfinite(p[POINT_STEP])) break;
        last = p;
        if (!isfinite(p[POINT_TRAIN])) continue;
        if (p[POINT_TRAIN] <= target) {
            if (!before) return p[which];
            const double part = (before[POINT_TRAIN] - target) / (before[POINT_TRAIN] - p[POINT_TRAIN]);
            return before[which] + part * (p[which] - before[which]);
        }
        before = p;
    }
    return last ? last[which] : NAN;
}

/* Two-sided sign test over test examples (of all trials) on which two arms differ: exact binomial. */
static double example_p(const struct study *s, size_t a, size_t b)
{
    double wins = 0.0, losses = 0.0;
    for (size_t k = 0; k < s->cfg->num_trials; k++)
        for (size_t i = 0; i < (s->test_count + BITS - 1) / BITS; i++) {
            const uint32_t x = (uint32_t)unit_row(s, k, a, 0)[CORRECT_AT + i],
                y = (uint32_t)unit_row(s, k, b, 0)[CORRECT_AT + i];
            wins += __builtin_popcount(x & ~y);
            losses += __builtin_popcount(y & ~x);
        }
    const double n = wins + losses, z = n > 0.0 ? fmax(fabs(wins - losses) - 1.0, 0.0) / sqrt(n) : 0.0;
    return erfc(z / sqrt(2.0));
}

static int write_rows(const struct study *s)
{
    const struct config *cfg = s->cfg;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "backbone=%s task=%s train_size=%zu epochs=%zu batch=%zu head_lr=%g layers=%d-%d test_count=%zu; one "
                  "thread a training", cfg->backbone, cfg->task,
               cfg->train_size, cfg->epochs, cfg->batch, cfg->head_lr, cfg->first_layer, cfg->last_layer,
                   s->test_count);
    for (size_t k = 0; k < cfg->num_trials; k++)
        for (size_t a = 0; a < cfg->num_arms; a++) {
            const double *row = unit_row(s, k, a, 0);
            table_int(t, k);
            table_text(t, cfg->arms[a].text);
            table_text(t, adapter_method_name(cfg->arms[a].options.method));
            table_num(t, cfg->arms[a].lr);
            for (int w = TEST_ACC; w <= STEP_TIME; w++) table_num(t, row[w]);
            table_end_row(t);
        }
    return table_close(t, 0);
}

static int write_summary(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->summary_out) return EXIT_DONE;
    struct table *t = table_open(&cfg->c, cfg->summary_out, summary_columns);
    if (t) table_note(t, "over %zu trials; ci: 95%% Student t; steps_to_half: to a training loss of ln(classes)/2; "
                         "example_p_vs_first: sign test over test "
                         "examples against the first arm", cfg->num_trials);
    for (size_t a = 0; t && a < cfg->num_arms; a++) {
        struct interval accuracy;
        double sum = 0.0, steps = 0.0;
        over_trials(s, a, TEST_ACC, 0.95, &accuracy);
        for (size_t k = 0; k < cfg->num_trials; k++) {
            sum += pow(unit_row(s, k, a, 0)[TEST_ACC] - accuracy.value, 2.0);
            steps += to_half(s, k, a, POINT_STEP) / (double)cfg->num_trials;
        }
        table_text(t, cfg->arms[a].text);
        table_num(t, unit_row(s, 0, a, 0)[ADAPTER_PARAMS]);
        table_num(t, unit_row(s, 0, a, 0)[HEAD_PARAMS]);
        table_num(t, cfg->arms[a].lr);
        table_num(t, accuracy.value);
        table_num(t, sqrt(sum / (double)(cfg->num_trials - (cfg->num_trials > 1))));
        table_num(t, accuracy.lo);
        table_num(t, accuracy.hi);
        table_num(t, over_trials(s, a, TEST_LOSS, 0.95, NULL));
        table_num(t, over_trials(s, a, VAL_ACC, 0.95, NULL));
        table_num(t, over_trials(s, a, STEP_TIME, 0.95, NULL));
        table_num(t, steps);
        table_num(t, example_p(s, a, 0));
        table_end_row(t);
    }
    return t ? table_close(t, 0) : EXIT_FAILED;
}

static int write_curves(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->curves_out) return EXIT_DONE;
    struct table *t = table_open(&cfg->c, cfg->curves_out, curve_columns);
    for (size_t a = 0; t && a < cfg->num_arms; a++)
        for (size_t i = 0; i < NUM_POINTS + 2; i++) {
            double mean[POINT_WIDTH] = { 0 };
            for (size_t k = 0; k < cfg->num_trials; k++)
                for (int w = 0; w < POINT_WIDTH; w++)
                    mean[w] += unit_row(s, k, a, 0)[CURVE_AT + i * POINT_WIDTH + (size_t)w] / (double)cfg->num_trials;
            if (!isfinite(mean[POINT_STEP])) continue;
            table_text(t, cfg->arms[a].text);
            for (int w = 0; w < POINT_WIDTH; w++) table_num(t, mean[w]);
            table_end_row(t);
        }
    return t ? table_close(t, 0) : EXIT_FAILED;
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

static int arm_index(const struct config *cfg, const char *text)
{
    for (size_t a = 0; a < cfg->num_arms; a++)
        if (!strcmp(cfg->arms[a].text, text)) return (int)a;
    return -1;
}

/* Slope of test accuracy in ln(prefix_len) over the arms of a method, within a trial. */
static double slope_of(const struct study *s, size_t trial, enum adapter_method method)
{
    double x[MAX_ARMS], y[MAX_ARMS], c0, c1, cov00, cov01, cov11, sum;
    size_t n = 0;
    for (size_t a = 0; a < s->cfg->num_arms; a++)
        if (s->cfg->arms[a].options.method == method) {
            x[n] = log((double)s->cfg->arms[a].options.prefix_len);
            y[n++] = unit_row(s, trial, a, 0)[TEST_ACC];
        }
    if (n < 3) return NAN;
    gsl_fit_linear(x, 1, y, 1, n, &c0, &c1, &cov00, &cov01, &cov11, &sum);
    return c1;
}

/* One word of --decide, cut in place. */
struct decision {
    const char *claim, *row;
    enum { ACCURACY, LOSS, STEPS_TO_HALF, SECONDS, SLOPE, NUM_KINDS } kind;
    int a, b;
    enum adapter_method method;
};

/* "CLAIM/row:KIND:ARM~ARM". Exit code, the line printed. */
static int parse_decision(const struct config *cfg, char *word, struct decision *d)
{
    static const char *const kinds[NUM_KINDS] = { "accuracy", "loss", "steps", "seconds", "slope" };
    d->claim = strsep(&word, "/");
    d->row = strsep(&word, ":");
    const char *kind = strsep(&word, ":");
    char *second = word ? strchr(word, '~') : NULL;
    if (second) *second++ = '\0';
    if (!d->row || !kind || !word) return cli_fail(&cfg->c, EXIT_USAGE, "--decide: not CLAIM/row:KIND:ARM[~ARM]");
    int k = 0;
    while (k < NUM_KINDS && strcmp(kind, kinds[k])) k++;
    if (k == NUM_KINDS)
        return cli_fail(&cfg->c, EXIT_USAGE, "--decide: %s is not accuracy, loss, steps, seconds or slope", kind);
    d->kind = k;
    d->a = arm_index(cfg, word);
    d->b = second ? arm_index(cfg, second) : -1;
    if (k == SLOPE ? adapter_method_parse(word, &d->method) != 0 : d->a < 0 || d->b < 0)
        return cli_fail(&cfg->c, EXIT_USAGE, "--decide: %s/%s names no arm", d->claim, d->row);
    return EXIT_DONE;
}

/* The number of each trial, and its interval. */
static void decide(const struct study *s, struct verdicts *v, const struct decision *d)
{
    double x[1000];
    for (size_t k = 0; k < s->cfg->num_trials; k++) {
        const double *a = d->a < 0 ? NULL : unit_row(s, k, (size_t)d->a, 0), *b = d->b < 0 ? NULL
            : unit_row(s, k, (size_t)d->b, 0);
        switch (d->kind) {
        case ACCURACY: x[k] = a[TEST_ACC] - b[TEST_ACC]; break;
        case LOSS: x[k] = a[TEST_LOSS] - b[TEST_LOSS]; break;
        case STEPS_TO_HALF: x[k] = to_half(s, k, (size_t)d->a, POINT_STEP) / to_half(s, k, (size_t)d->b, POINT_STEP);
        break;
        case SECONDS: x[k] = a[STEP_TIME] / b[STEP_TIME]; break;
        default: x[k] = slope_of(s, k, d->method);
        }
    }
    struct interval mean = { NAN, NAN, NAN, s->cfg->num_trials };
    stats_mean(x, s->cfg->num_trials, 0.999, &mean);
    verdicts_add(v, d->claim, d->row, mean);
}

/* Every word of --decide: with v NULL only checked, else decided. Exit code, the line printed. */
static int decide_all(const struct study *s, struct verdicts *v)
{
    char *list = cli_text("%s", s->cfg->decide ? s->cfg->decide : ""), stem[256];
    cli_stem(&s->cfg->c, stem, sizeof stem);
    int code = EXIT_DONE;
    for (char *rest = list, *word; !code && (word = strsep(&rest, ","));) {
        struct decision d;
        if (!*word || (code = parse_decision(s->cfg, word, &d))) continue;
        if (v) decide(s, v, &d);
        else code = verdicts_check_row(&s->cfg->c, stem, d.claim, d.row);
    }
    free(list);
    return code;
}

static int write_results(const struct study *s)
{
    const struct config *cfg = s->cfg;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    int code = write_summary(s);
    if (!code) code = write_curves(s);
    struct verdicts *v = code ? NULL : verdicts_open(&cfg->c, stem);
    if (!code && v) code = decide_all(s, v);
    code = verdicts_close(v, code);
    return code ? code : write_rows(s);
}

/* ---- start ------------------------------------------------------------------------------------------------------- */

/* What a run of hours would otherwise end with. Exit code, the line printed. */
static int check_first(const struct study *s, const struct data *d)
{
    struct config *cfg = s->cfg;
    char line[256];
    const bool images = s->backbone && s->backbone->config.kind == BACKBONE_VIT;
    if (images && cfg->max_len)
        return cli_fail(&cfg->c, EXIT_USAGE, "--max-len: has no effect with %s, a backbone of images", cfg->backbone);
    if (!images && cfg->image_size)
        return cli_fail(&cfg->c, EXIT_USAGE, "--image-size: has no effect with %s, a backbone of texts", cfg->backbone);
    for (size_t a = 0; a < cfg->num_arms; a++) {
        const struct adapter_options o = arm_options(cfg, &cfg->arms[a]);
        struct learner l;
        const int status = learner_alloc(s, d, &o, 1, &l, (struct reason){ line, sizeof line });
        if (!status) learner_free(&l);
        else return cli_fail(&cfg->c, status == GSL_EINVAL ? EXIT_USAGE : EXIT_FAILED, "%s: %s", cfg->arms[a].text,
                             line);
    }
    return decide_all(s, NULL);
}

static int open_task_once(struct study *s)
{
    struct config *cfg = s->cfg;
    struct data d;
    int code = data_open(s, 0, &d);
    if (!code) {
        s->test_count = d.task->sets[TASK_TEST].count;
        for (size_t a = 0; a < cfg->num_arms; a++) cfg->arms[a].classes = (double)d.task->num_classes;
        s->task_checksum = d.task->checksum;
        code = check_first(s, &d);
    }
    data_free(&d);
    return code;
}

/* What the rows depend on; the caller frees. NULL, the line printed, when a file cannot be read. */
static char *identity_of(const struct study *s)
{
    const struct config *cfg = s->cfg;
    char line[512];
    uint64_t hash = HASH_START;
    if (s->decoder) hash = hash_bytes(hash, s->decoder->weights, s->decoder->num_weights * sizeof *s->decoder->weights);
    else if (backbone_hash(s->backbone, &hash, (struct reason){ line, sizeof line })) {
        cli_fail(&cfg->c, EXIT_FAILED, "%s", line);
        return NULL;
    }
    char *text = cli_text("%s %016llx %s %016llx %zu %zu %zu %zu %zu %zu %zu %zu %d %d %.17g %d %zu |", cfg->backbone,
                          (unsigned long long)hash, cfg->task, (unsigned long long)s->task_checksum, cfg->num_trials,
                          cfg->epochs, cfg->batch, cfg->train_size, cfg->validation_size, cfg->test_size,
                              cfg->image_size, cfg->max_len, cfg->first_layer, cfg->last_layer, cfg->head_lr,
                          cfg->unrotated, cfg->decode);
    for (size_t i = 0; i < cfg->num_arms + cfg->grid_size; i++) {
        char *longer = i < cfg->num_arms ? cli_text("%s %s %.17g", text, cfg->arms[i].text, cfg->grid ? 0.0
                                                    : cfg->arms[i].lr)
                                         : cli_text("%s %.17g", text, cfg->grid[i - cfg->num_arms]);
        free(text);
        text = longer;
    }
    return text;
}

int main(int argc, char **argv)
{
    static char default_arms[] = "full,head,lora,ptuning,tied-prefix,ntk,prefix-plus";
    static struct config cfg = { .arm_list = default_arms, .first_layer = -1, .last_layer = -1 };
    char line[512];
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg, .num_rates = cfg.grid ? cfg.grid_size : 1 };
    int code = cfg.rates ? arms_read_rates(&cfg.c, cfg.rates, cfg.backbone, cfg.task, cfg.arms, cfg.num_arms) : 0;
    if (code) return code;
    if (!cfg.grid) {
        cfg.summary_out = cli_side_path(&cfg.c, "summary");
        cfg.curves_out = cli_side_path(&cfg.c, "curves");
    }
    const struct reason why = { line, sizeof line };
    const int is_decoder = decoder_is(cfg.backbone);
    if (cfg.unrotated && !is_decoder)
        return cli_fail(&cfg.c, EXIT_USAGE, "--unrotated: has no effect with %s", cfg.backbone);
    const int status = is_decoder ? decoder_open(cfg.backbone, NULL, &s.decoder, why)
                                  : backbone_open(cfg.backbone, &s.backbone, why);
    if (status) return cli_fail(&cfg.c, cli_input_code(status), "%s: %s", cfg.backbone, line);
    if (!(code = open_task_once(&s))) {
        s.width = CORRECT_AT + (s.test_count + BITS - 1) / BITS;
        char *identity = identity_of(&s);
        s.work = identity ? units_open(&cfg.c, identity, "trainings", cfg.num_trials * cfg.num_arms * s.num_rates,
                                       s.width, 0.0) : NULL;
        free(identity);
        code = s.work ? 0 : EXIT_FAILED;
        for (size_t k = 0; k < cfg.num_trials && (!code || code == EXIT_SHARD); k++) code = run_trial(&s, k);
        if (!code) code = cfg.grid ? write_search(&s) : write_results(&s);
        code = units_close(s.work, code);
    }
    backbone_free(s.backbone);
    decoder_free(s.decoder);
    free(cfg.summary_out);
    free(cfg.curves_out);
    return code;
}
