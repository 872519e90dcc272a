/* A prefix is trained, measured, and replaced by its summary: how much of the softmax it has, how far its scores
 * spread, and what accuracy is left under each feature map (F74). */
#include "cli/arms.h"
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transformer/train.h"

static const char doc[] =
    "Trains P-Tuning V2 at the learning rate of an earlier search, then replaces the prefix of every block and head by "
    "its plug-in summary "
    "(Z, k) under each feature map: test accuracy before, after, and without the prefix; the prefix's share of the "
    "softmax and the spread of its "
    "scores by block.";
static const char columns[] = "replacement,test_accuracy,test_accuracy_ci_lo,test_accuracy_ci_hi,val_accuracy,failed,"
                              "num_trials";
static const char layer_columns[] = "layer,mass,mass_ci_lo,mass_ci_hi,spread,spread_ci_lo,spread_ci_hi,num_trials";

enum { MAX_MAPS = 16, MEASURED = 64 };

struct config {
    struct cli_common c;
    const char *backbone, *task, *rates, *rows;
    char *features, *layers_out;
    char *maps[MAX_MAPS];
    struct arm arm;
    size_t num_maps, num_trials, epochs, batch, train_size, validation_size, test_size;
    int first_layer, last_layer;
    double head_lr;
};

static const struct cli_option options[] = {
    { "backbone", CLI_TEXT(struct config, backbone), .value = "vit-fashion", .arg = "NAME", .group = 1,
      .doc = "pretrained model" },
    { "task", CLI_TEXT(struct config, task), .value = "shapes", .arg = "NAME", .group = 1, .doc = "task" },
    { "rates", CLI_TEXT(struct config, rates), .group = 1,
      .doc = "table of a search of method_benchmark: the learning rate of ptuning (required)" },
    { "features", CLI_TEXT(struct config, features), .value = "elu1,taylor:1,taylor:2,split:2", .arg = "LIST",
      .group = 1, .doc = "feature maps" },
    { "rows", CLI_TEXT(struct config, rows), .arg = "NAME", .group = 1,
      .doc = "first word of the decided rows (default the task's name)", .same_units = true },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1000, .value = "5", .group = 2,
      .doc = "trainings: draws of the training set and of all random numbers" },
    { "epochs", CLI_SIZE(struct config, epochs), .min = 1, .max = 10000, .value = "5", .group = 2,
      .doc = "passes over the training set" },
    { "train-size", CLI_SIZE(struct config, train_size), .min = 1, .max = 1u << 30, .value = "1000", .group = 2,
      .doc = "training examples, balanced" },
    { "validation-size", CLI_SIZE(struct config, validation_size), .min = 1, .max = 1u << 30, .value = "300",
      .group = 2, .doc = "validation examples" },
    { "test-size", CLI_SIZE(struct config, test_size), .max = 1u << 30, .value = "1000", .group = 2,
      .doc = "test examples, 0 for all" },
    { "layers", CLI_RANGE(struct config, first_layer, last_layer), .group = 2,
      .doc = "blocks with a prefix (default all)" },
    { "head-lr", CLI_DOUBLE(struct config, head_lr), .value = "0.01", .group = 2,
      .doc = "learning rate of the classifier" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    struct config *cfg = config;
    if (!cfg->rates) return "--rates: required";
    /* The command line stays as it is: tables quote it. */
    char *rest = strdup(cfg->features);
    if (!rest) return "--features: out of memory";
    while (rest) {
        if (cfg->num_maps == MAX_MAPS) return "--features: too many";
        cfg->maps[cfg->num_maps++] = strsep(&rest, ",");
    }
    return NULL;
}

/* What a trial leaves: per replacement the accuracies and whether a normaliser failed, then mass and spread by
 * block. */
enum { ACCURACY, VAL_ACCURACY, FAILED, REPLACEMENT_WIDTH };
enum { PREFIX, NOTHING, FIRST_MAP };

static size_t layers_at(const struct config *cfg) { return (FIRST_MAP + cfg->num_maps) * REPLACEMENT_WIDTH; }

static int evaluate(const struct config *cfg, struct model *model, struct inputs *inputs, double *out)
{
    struct evaluation validation = { .accuracy = 0.0 }, e = { .accuracy = 0.0 };
    int status = train_evaluate(model, inputs, TASK_VALIDATION, cfg->batch, &validation, NULL, NULL);
    if (!status) status = train_evaluate(model, inputs, TASK_TEST, cfg->batch, &e, NULL, NULL);
    /* A normaliser that is not positive gives no answer, and an answer that is not given is not right. */
    out[FAILED] = status == GSL_EDOM;
    out[ACCURACY] = status ? 0.0 : e.accuracy;
    out[VAL_ACCURACY] = status ? 0.0 : validation.accuracy;
    return status == GSL_EDOM ? GSL_SUCCESS : status;
}

/* Room for evaluations. */
static int reserve(const struct config *cfg, struct model *model, struct inputs *inputs)
{
    const size_t seqs = train_eval_batch(cfg->batch);
    return model_reserve(model, inputs_max_rows(inputs, seqs), seqs, inputs_max_len(inputs), 0, 1);
}

/* Mass and spread by block, means over heads, on validation examples. */
static int measure(struct model *model, struct inputs *inputs, double *out)
{
    size_t examples[MEASURED], n = inputs_count(inputs, TASK_VALIDATION);
    struct inputs_batch batch = { .labels = NULL };
    if (n > MEASURED) n = MEASURED;
    for (size_t i = 0; i < n; i++) examples[i] = i;
    const size_t heads = model_backbone(model)->config.num_heads;
    double *mass = malloc(2 * heads * sizeof *mass), *spread = mass ? mass + heads : NULL;
    float *logits = malloc(n * model_num_classes(model) * sizeof *logits);
    int status = mass && logits ? inputs_batch_alloc(inputs, n, &batch) : GSL_ENOMEM;
    if (!status) status = model_reserve(model, inputs_max_rows(inputs, n), n, inputs_max_len(inputs), 1, 1);
    if (!status) {
        inputs_gather(inputs, TASK_VALIDATION, examples, n, 0, &batch);
        status = model_forward(model, &batch.batch, logits, 1);
    }
    for (size_t l = 0; l < model_num_layers(model) && !status; l++) {
        if (model_prefix_scores(model, l, mass, spread)) continue;
        out[2 * l] = out[2 * l + 1] = 0.0;
        for (size_t h = 0; h < heads; h++) {
            out[2 * l] += mass[h] / (double)heads;
            out[2 * l + 1] += spread[h] / (double)heads;
        }
    }
    inputs_batch_free(&batch);
    free(logits);
    free(mass);
    return status;
}

/* The model without its prefix: the same head on the base model. */
static int without_prefix(const struct config *cfg, struct model *from, struct inputs *inputs, double *out,
                          struct reason why)
{
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    const struct backbone *b = model_backbone(from);
    struct model *model = NULL;
    int status = model_alloc(b, &head, model_num_classes(from), model_default_pool(b), 0, cfg->c.seed, &model, why);
    for (size_t i = 0; !status && i < model_num_parameters(model); i++) {
        struct parameter *p = &model_parameters(model)[i];
        const struct parameter *q = model_parameter(from, p->name);
        if (p->group == PARAM_HEAD && q) memcpy(p->value, q->value, p->rows * p->cols * sizeof *p->value);
    }
    if (!status) status = reserve(cfg, model, inputs);
    if (!status) status = evaluate(cfg, model, inputs, out);
    model_free(model);
    return status;
}

static int replace(const struct config *cfg, struct model *prefix, struct inputs *inputs, double *out,
                   struct reason why)
{
    int status = without_prefix(cfg, prefix, inputs, out + NOTHING * REPLACEMENT_WIDTH, why);
    for (size_t f = 0; f < cfg->num_maps && !status; f++) {
        struct model *model = NULL;
        status = model_fold_prefix(prefix, cfg->maps[f], &model, why);
        if (!status) status = reserve(cfg, model, inputs);
        if (!status) status = evaluate(cfg, model, inputs, out + (FIRST_MAP + f) * REPLACEMENT_WIDTH);
        model_free(model);
    }
    return status;
}

static int run_trial(const struct config *cfg, const struct backbone *b, size_t trial, double *out, size_t width)
{
    char line[512];
    const struct reason why = { line, sizeof line };
    const uint64_t seed = cfg->c.seed + trial;
    const struct task_options to = { .train_size = cfg->train_size, .validation_size = cfg->validation_size,
                                     .test_size = cfg->test_size, .seed = seed };
    const struct inputs_options io = { 0, 0 };
    struct adapter_options a = cfg->arm.options;
    a.first_layer = cfg->first_layer >= 0 ? cfg->first_layer : a.first_layer;
    a.last_layer = cfg->first_layer >= 0 ? cfg->last_layer : a.last_layer;
    struct train_options o = train_defaults(a.method);
    o.lr = cfg->arm.lr;
    o.head_lr = cfg->head_lr;
    o.epochs = cfg->epochs;
    o.batch = cfg->batch;
    o.seed = seed;
    for (size_t i = 0; i < width; i++) out[i] = NAN;
    struct task *task = NULL;
    struct inputs *inputs = NULL;
    struct model *model = NULL;
    struct train *t = NULL;
    int status = task_open(cfg->task, &to, &task, why);
    if (!status) status = inputs_alloc(b, task, &io, &inputs, why);
    if (!status) status = model_alloc(b, &a, task->num_classes, model_default_pool(b), 0, seed, &model, why);
    if (!status) status = train_alloc(model, inputs, &o, &t, why);
    while (!status && !train_done(t)) {
        status = train_step(t);
        if (!status && cli_interrupted()) status = GSL_FAILURE;
    }
    if (!status) status = evaluate(cfg, model, inputs, out + PREFIX * REPLACEMENT_WIDTH);
    train_free(t);
    if (!status) status = replace(cfg, model, inputs, out, why);
    if (!status) status = measure(model, inputs, out + layers_at(cfg));
    model_free(model);
    inputs_free(inputs);
    task_free(task);
    return status;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static struct interval over_trials(const struct config *cfg, const struct units *work, size_t at, double level)
{
    double x[1000];
    for (size_t k = 0; k < cfg->num_trials; k++) x[k] = units_row(work, k)[at];
    return cli_mean(x, cfg->num_trials, level);
}

static void mean_cells(struct table *t, struct interval i)
{
    table_interval(t, i);
}

static int write_layers(const struct config *cfg, const struct units *work, size_t num_layers)
{
    struct table *t = table_open(&cfg->c, cfg->layers_out, layer_columns);
    if (t)
        table_note(t, "means over heads and the rows of %d validation examples; ci: 95%% Student t over trainings",
                   MEASURED);
    for (size_t l = 0; t && l < num_layers; l++) {
        const size_t at = layers_at(cfg) + 2 * l;
        if (isnan(units_row(work, 0)[at])) continue;
        table_int(t, l);
        mean_cells(t, over_trials(cfg, work, at, 0.95));
        mean_cells(t, over_trials(cfg, work, at + 1, 0.95));
        table_int(t, cfg->num_trials);
        table_end_row(t);
    }
    return t ? table_close(t, 0) : EXIT_FAILED;
}

/* The mean over blocks of a trial's mass (0) or spread (1). */
static double over_layers(const struct config *cfg, const double *row, size_t num_layers, size_t which)
{
    double sum = 0.0, count = 0.0;
    for (size_t l = 0; l < num_layers; l++) {
        const double x = row[layers_at(cfg) + 2 * l + which];
        if (isnan(x)) continue;
        sum += x;
        count += 1.0;
    }
    return sum / count;
}

/* Accuracies of the best map by validation accuracy (of equals the first), and of what the prefix is worth. */
static int decide(const struct config *cfg, const struct units *work, size_t num_layers)
{
    static const char *const names[] = { "best-map", "first-map", "prefix-effect", "spread", "mass" };
    enum { BEST, FIRST, EFFECT, SPREAD, MASS, NUM_ROWS };
    char stem[256], name[160];
    double x[NUM_ROWS][1000];
    cli_stem(&cfg->c, stem, sizeof stem);
    for (size_t k = 0; k < cfg->num_trials; k++) {
        const double *row = units_row(work, k);
        size_t best = FIRST_MAP;
        for (size_t f = FIRST_MAP; f < FIRST_MAP + cfg->num_maps; f++)
            if (row[f * REPLACEMENT_WIDTH + VAL_ACCURACY] > row[best * REPLACEMENT_WIDTH + VAL_ACCURACY]) best = f;
        x[BEST][k] = row[best * REPLACEMENT_WIDTH + ACCURACY] - row[PREFIX * REPLACEMENT_WIDTH + ACCURACY];
        x[FIRST][k] = row[FIRST_MAP * REPLACEMENT_WIDTH + ACCURACY] - row[PREFIX * REPLACEMENT_WIDTH + ACCURACY];
        x[EFFECT][k] = row[PREFIX * REPLACEMENT_WIDTH + ACCURACY] - row[NOTHING * REPLACEMENT_WIDTH + ACCURACY];
        x[SPREAD][k] = over_layers(cfg, row, num_layers, 1);
        x[MASS][k] = over_layers(cfg, row, num_layers, 0);
    }
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    for (int r = 0; r < NUM_ROWS; r++) {
        snprintf(name, sizeof name, "%s-%s", cfg->rows, names[r]);
        verdicts_add(v, "F74", name, cli_mean(x[r], cfg->num_trials, 0.999));
    }
    return verdicts_close(v, 0);
}

static int report(const struct config *cfg, const struct units *work, size_t num_layers)
{
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "backbone=%s task=%s arm=%s lr=%g train_size=%zu epochs=%zu; none: the trained head without the "
                  "prefix; failed: share of trainings with a "
                  "normaliser that is not positive (accuracy 0); ci: 95%% Student t over trainings", cfg->backbone,
                  cfg->task, cfg->arm.text, cfg->arm.lr,
               cfg->train_size, cfg->epochs);
    for (size_t f = 0; f < FIRST_MAP + cfg->num_maps; f++) {
        table_text(t, f == PREFIX ? "prefix" : f == NOTHING ? "none" : cfg->maps[f - FIRST_MAP]);
        mean_cells(t, over_trials(cfg, work, f * REPLACEMENT_WIDTH + ACCURACY, 0.95));
        table_num(t, over_trials(cfg, work, f * REPLACEMENT_WIDTH + VAL_ACCURACY, 0.95).value);
        table_num(t, over_trials(cfg, work, f * REPLACEMENT_WIDTH + FAILED, 0.95).value);
        table_int(t, cfg->num_trials);
        table_end_row(t);
    }
    int code = table_close(t, 0);
    if (!code) code = write_layers(cfg, work, num_layers);
    return code ? code : decide(cfg, work, num_layers);
}

int main(int argc, char **argv)
{
    static struct config cfg = { .batch = 16, .first_layer = -1, .last_layer = -1 };
    char line[512];
    const struct reason why = { line, sizeof line };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    if (!cfg.rows) cfg.rows = cfg.task;
    cfg.layers_out = cli_side_path(&cfg.c, "layers");
    if (arm_parse("ptuning", &cfg.arm, why)) return cli_fail(&cfg.c, EXIT_FAILED, "%s", line);
    int code = arms_read_rates(&cfg.c, cfg.rates, cfg.backbone, cfg.task, &cfg.arm, 1);
    if (code) return code;
    struct backbone *b = NULL;
    const int status = backbone_open(cfg.backbone, &b, why);
    if (status) return cli_fail(&cfg.c, cli_input_code(status), "%s: %s", cfg.backbone, line);
    const size_t num_layers = (size_t)b->config.default_last_layer + 1, width = layers_at(&cfg) + 2 * num_layers;
    char *identity = cli_text("%s %s %s %zu %zu %zu %zu %zu %zu %d %d %.17g %.17g |", cfg.backbone, cfg.task,
                              cfg.features, cfg.num_trials, cfg.epochs, cfg.batch, cfg.train_size, cfg.validation_size,
                                  cfg.test_size, cfg.first_layer, cfg.last_layer, cfg.head_lr, cfg.arm.lr);
    struct units *work = identity ? units_open(&cfg.c, identity, "trainings", cfg.num_trials, width, 0.0) : NULL;
    free(identity);
    code = work ? 0 : EXIT_FAILED;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
    for (size_t k = 0; k < (code ? 0 : cfg.num_trials); k++) {
        double *row = units_begin(work, k);
        if (row) units_end(work, k, run_trial(&cfg, b, k, row, width));
    }
    if (!code) code = units_status(work);
    if (!code) code = report(&cfg, work, num_layers);
    code = units_close(work, code);
    free(cfg.layers_out);
    backbone_free(b);
    return code;
}
