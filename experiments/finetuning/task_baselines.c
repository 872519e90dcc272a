/* What the tasks of the method benchmark give without fine-tuning: the majority class, a converged linear classifier on
 * raw pixels or TF-IDF, and one on the frozen backbone's features. */
#include "cli/option_table.h"
#include "cli/kernels.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <ctype.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multimin.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "common/threads.h"
#include "transformer/inputs.h"

static const char doc[] =
    "Baselines of fine-tuning tasks: majority class, logistic regression (to convergence, its penalty chosen on "
    "validation data) on raw "
    "pixels or TF-IDF, and on the pooled features of the frozen backbone.";
static const char columns[] = "backbone,task,train_size,baseline,num_trials,test_accuracy,test_accuracy_ci_lo,"
                              "test_accuracy_ci_hi";
static const char *const baseline_names[] = { "majority", "raw", "frozen" };
enum { MAJORITY, RAW, FROZEN, NUM_BASELINES, MAX_SETS = 16, WORDS = 4096 };

struct set { char backbone[64], task[64]; size_t train_size; };

struct config {
    struct cli_common c;
    const char *backbone;           /* given last, and not used by a --task yet */
    struct set sets[MAX_SETS];
    size_t num_sets, num_trials, validation_size, test_size;
};

static int parse_backbone(struct argp_state *state, int key, char *arg, void *config)
{
    (void)state;
    (void)key;
    ((struct config *)config)->backbone = arg;
    return 0;
}

/* With the backbone of the last --backbone, which the next --task uses, too. */
static int parse_task(struct argp_state *state, int key, char *arg, void *config)
{
    struct config *cfg = config;
    static const char *backbone = "vit-fashion";
    (void)key;
    if (cfg->backbone) backbone = cfg->backbone;
    cfg->backbone = NULL;
    if (cfg->num_sets == MAX_SETS || strlen(arg) >= sizeof cfg->sets->task
        || strlen(backbone) >= sizeof cfg->sets->backbone)
        argp_failure(state, EXIT_USAGE, 0, "--task: too many or too long");
    struct set *set = &cfg->sets[cfg->num_sets++];
    strcpy(set->backbone, backbone);
    strcpy(set->task, arg);
    set->train_size = 1000;
    return 0;
}

static int parse_train_size(struct argp_state *state, int key, char *arg, void *config)
{
    struct config *cfg = config;
    if (!cfg->num_sets) argp_failure(state, EXIT_USAGE, 0, "--train-size: no --task before it");
    return cli_parse_size(state, key, arg, 1, 1u << 30, &cfg->sets[cfg->num_sets - 1].train_size);
}

static const struct cli_option options[] = {
    { "backbone", CLI_CUSTOM(parse_backbone), .arg = "NAME", .group = 1,
      .doc = "backbone of the set that follows in --task (repeated; default vit-fashion)" },
    { "task", CLI_CUSTOM(parse_task), .arg = "NAME", .group = 1,
      .doc = "a task, with the backbone given before it (repeated; default shapes)" },
    { "train-size", CLI_CUSTOM(parse_train_size), .arg = "N", .group = 1,
      .doc = "training examples of the task given before (default 1000)" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1000, .value = "5", .group = 2,
      .doc = "draws of the training set" },
    { "validation-size", CLI_SIZE(struct config, validation_size), .min = 1, .max = 1u << 30, .value = "300",
      .group = 2, .doc = "validation examples" },
    { "test-size", CLI_SIZE(struct config, test_size), .max = 1u << 30, .value = "0", .group = 2,
      .doc = "test examples, 0 for all" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    return cfg->backbone ? "--backbone: no --task behind it" : NULL;
}

/* ---- logistic regression --------------------------------------------------------------------------------------- */

/* Features (n, d + 1), the last column 1, of each split. */
struct features { gsl_matrix *X[NUM_TASK_SPLITS]; };

static void features_free(struct features *f)
{
    for (int s = 0; s < NUM_TASK_SPLITS; s++) gsl_matrix_free(f->X[s]);
}

struct problem { const gsl_matrix *X; const int32_t *labels; size_t classes; double penalty; gsl_matrix *P; };

/* Mean of -log softmax(X W)_label + penalty/2 ||W||^2 without the constants' row, W (d + 1, classes) in w; gradient
 * into g. */
static double objective(const gsl_vector *w, void *context, gsl_vector *g)
{
    struct problem *p = context;
    const size_t n = p->X->size1, d = p->X->size2, c = p->classes;
    gsl_matrix_const_view W = gsl_matrix_const_view_vector(w, d, c);
    double loss = 0.0;
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, p->X, &W.matrix, 0.0, p->P);
    for (size_t i = 0; i < n; i++) {
        double *row = p->P->data + i * p->P->tda, max = row[0], sum = 0.0;
        for (size_t k = 1; k < c; k++) max = fmax(max, row[k]);
        for (size_t k = 0; k < c; k++) sum += exp(row[k] - max);
        loss += (max + log(sum) - row[p->labels[i]]) / (double)n;
        for (size_t k = 0; k < c; k++) row[k] = (exp(row[k] - max) / sum - ((int32_t)k == p->labels[i])) / (double)n;
    }
    for (size_t k = 0; k < (d - 1) * c; k++) loss += 0.5 * p->penalty * w->data[k] * w->data[k];
    if (g) {
        gsl_matrix_view G = gsl_matrix_view_vector(g, d, c);
        gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, p->X, p->P, 0.0, &G.matrix);
        for (size_t k = 0; k < (d - 1) * c; k++) g->data[k] += p->penalty * w->data[k];
    }
    return loss;
}

static double value_only(const gsl_vector *w, void *p) { return objective(w, p, NULL); }
static void gradient_only(const gsl_vector *w, void *p, gsl_vector *g) { objective(w, p, g); }
static void value_and_gradient(const gsl_vector *w, void *p, double *f, gsl_vector *g) { *f = objective(w, p, g); }

static int accuracy(const gsl_matrix *X, const int32_t *labels, const gsl_vector *w, size_t classes, double *out)
{
    gsl_matrix_const_view W = gsl_matrix_const_view_vector(w, X->size2, classes);
    gsl_matrix *P = gsl_matrix_alloc(X->size1, classes);
    size_t right = 0;
    if (!P) return GSL_ENOMEM;
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, X, &W.matrix, 0.0, P);
    for (size_t i = 0; i < X->size1; i++) {
        gsl_vector_const_view row = gsl_matrix_const_row(P, i);
        right += gsl_vector_max_index(&row.vector) == (size_t)labels[i];
    }
    gsl_matrix_free(P);
    *out = (double)right / (double)X->size1;
    return GSL_SUCCESS;
}

/* Test accuracy at the penalty with the best validation accuracy. */
static int regress(const struct features *f, const struct task *task, double *out)
{
    static const double penalties[] = { 1e-2, 1e-3, 1e-4 };
    enum { MAX_ITERATIONS = 400 };
    const gsl_matrix *X = f->X[TASK_TRAIN];
    const size_t size = X->size2 * task->num_classes;
    struct problem p = { X, task->sets[TASK_TRAIN].labels, task->num_classes, 0.0,
                         gsl_matrix_alloc(X->size1, task->num_classes) };
    gsl_multimin_function_fdf function = { value_only, gradient_only, value_and_gradient, size, &p };
    gsl_multimin_fdfminimizer *m = gsl_multimin_fdfminimizer_alloc(gsl_multimin_fdfminimizer_vector_bfgs2, size);
    gsl_vector *start = gsl_vector_calloc(size);
    double best = -1.0;
    int status = p.P && m && start ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < sizeof penalties / sizeof *penalties && !status; i++) {
        p.penalty = penalties[i];
        gsl_multimin_fdfminimizer_set(m, &function, start, 0.1, 0.1);
        /* A line search that makes no more progress is convergence to rounding. */
        for (int k = 0; k < MAX_ITERATIONS; k++)
            if (gsl_multimin_fdfminimizer_iterate(m) || gsl_multimin_test_gradient(m->gradient, 1e-5) == GSL_SUCCESS)
                break;
        double validation = 0.0;
        status = accuracy(f->X[TASK_VALIDATION], task->sets[TASK_VALIDATION].labels, m->x, task->num_classes,
                          &validation);
        if (!status && validation > best) {
            best = validation;
            status = accuracy(f->X[TASK_TEST], task->sets[TASK_TEST].labels, m->x, task->num_classes, out);
        }
    }
    gsl_vector_free(start);
    if (m) gsl_multimin_fdfminimizer_free(m);
    gsl_matrix_free(p.P);
    return status;
}

/* ---- features ---------------------------------------------------------------------------------------------------- */

/* Bytes of the wider of two such features and of the regression on them. */
static double features_bytes(const struct task *task, size_t dim)
{
    double rows = 0.0;
    for (int s = 0; s < NUM_TASK_SPLITS; s++) rows += (double)task->sets[s].count;
    /* BFGS keeps nine vectors of the size of the weights. */
    return sizeof(double) * (rows * (double)(dim + 1) + (rows + 9.0 * (double)(dim + 1)) * (double)task->num_classes);
}

static int alloc_features(const struct task *task, size_t dim, struct features *f)
{
    for (int s = 0; s < NUM_TASK_SPLITS; s++) {
        if (!(f->X[s] = gsl_matrix_calloc(task->sets[s].count, dim + 1))) return GSL_ENOMEM;
        gsl_vector_view ones = gsl_matrix_column(f->X[s], dim);
        gsl_vector_set_all(&ones.vector, 1.0);
    }
    return GSL_SUCCESS;
}

static int pixel_features(const struct task *task, struct features *f)
{
    const size_t dim = task->height * task->width * task->channels;
    const int status = alloc_features(task, dim, f);
    for (int s = 0; s < NUM_TASK_SPLITS && !status; s++)
        for (size_t i = 0; i < task->sets[s].count; i++)
            for (size_t k = 0; k < dim; k++) gsl_matrix_set(f->X[s], i, k, task->sets[s].images[i * dim + k] / 255.0);
    return status;
}

/* Counts of the words of a text, by a hash of WORDS buckets. */
static void count_words(const char *text, double *counts)
{
    char word[64];
    size_t n = 0;
    for (const char *p = text;; p++) {
        const unsigned char ch = (unsigned char)*p;
        if ((isalnum(ch) || ch >= 128 || ch == '\'') && n < sizeof word) {
            word[n++] = (char)tolower(ch);
            continue;
        }
        if (n) counts[(hash_bytes(HASH_START, word, n) >> 20) % WORDS] += 1.0;
        n = 0;
        if (!ch) return;
    }
}

/* (1 + ln tf) ln((1 + n)/(1 + df)) + the same, rows of length 1. */
static int tfidf_features(const struct task *task, struct features *f)
{
    double *df = calloc(WORDS, sizeof *df);
    int status = df ? alloc_features(task, WORDS, f) : GSL_ENOMEM;
    for (int s = 0; s < NUM_TASK_SPLITS && !status; s++)
        for (size_t i = 0; i < task->sets[s].count; i++) {
            double *row = gsl_matrix_ptr(f->X[s], i, 0);
            count_words(task->sets[s].texts[i], row);
            if (task->sets[s].texts2) count_words(task->sets[s].texts2[i], row);
            for (size_t k = 0; k < WORDS && s == TASK_TRAIN; k++) df[k] += row[k] > 0.0;
        }
    const double n = status ? 0.0 : (double)task->sets[TASK_TRAIN].count;
    for (int s = 0; s < NUM_TASK_SPLITS && !status; s++)
        for (size_t i = 0; i < task->sets[s].count; i++) {
            double *row = gsl_matrix_ptr(f->X[s], i, 0), norm = 0.0;
            for (size_t k = 0; k < WORDS; k++) {
                if (row[k] > 0.0) row[k] = (1.0 + log(row[k])) * (1.0 + log((1.0 + n) / (1.0 + df[k])));
                norm += row[k] * row[k];
            }
            for (size_t k = 0; k < WORDS && norm > 0.0; k++) row[k] /= sqrt(norm);
        }
    free(df);
    return status;
}

/* Pooled outputs of the frozen backbone, each column standardised on the training set. */
static int frozen_features(const struct backbone *b, const struct task *task, struct inputs *inputs, int threads,
                           struct features *f)
{
    enum { SEQS = 32 };
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    const enum model_pool pool = model_default_pool(b);
    const size_t h = b->config.hidden;
    char line[256];
    struct model *model = NULL;
    struct inputs_batch batch = { .labels = NULL };
    float *rows = malloc(inputs_max_rows(inputs, SEQS) * h * sizeof *rows),
        *vectors = malloc(SEQS * h * sizeof *vectors);
    int status = rows && vectors ? alloc_features(task, h, f) : GSL_ENOMEM;
    if (!status) status = model_alloc(b, &head, 2, pool, 0, 1, &model, (struct reason){ line, sizeof line });
    if (!status) status = model_reserve(model, inputs_max_rows(inputs, SEQS), SEQS, inputs_max_len(inputs), 0, threads);
    if (!status) status = inputs_batch_alloc(inputs, SEQS, &batch);
    for (int s = 0; s < NUM_TASK_SPLITS && !status; s++)
        for (size_t i = 0; i < task->sets[s].count && !status; i += SEQS) {
            size_t index[SEQS], n = 0;
            while (n < SEQS && i + n < task->sets[s].count) { index[n] = i + n; n++; }
            inputs_gather(inputs, (enum task_split)s, index, n, 0, &batch);
            if ((status = model_hidden(model, &batch.batch, MODEL_FINAL, rows))) break;
            model_pool_rows(rows, batch.offsets, n, h, pool, b->config.kind == BACKBONE_VIT, vectors);
            for (size_t k = 0; k < n * h; k++) gsl_matrix_set(f->X[s], i + k / h, k % h, vectors[k]);
        }
    for (size_t k = 0; k < h && !status; k++) {
        const gsl_matrix *X = f->X[TASK_TRAIN];
        double sum = 0.0, square = 0.0;
        for (size_t i = 0; i < X->size1; i++) sum += gsl_matrix_get(X, i, k);
        const double mean = sum / (double)X->size1;
        for (size_t i = 0; i < X->size1; i++) square += pow(gsl_matrix_get(X, i, k) - mean, 2.0);
        const double sd = sqrt(square / (double)X->size1) + 1e-12;
        for (int s = 0; s < NUM_TASK_SPLITS; s++)
            for (size_t i = 0; i < f->X[s]->size1; i++)
                gsl_matrix_set(f->X[s], i, k, (gsl_matrix_get(f->X[s], i, k) - mean) / sd);
    }
    inputs_batch_free(&batch);
    model_free(model);
    free(vectors);
    free(rows);
    return status;
}

/* ---- run --------------------------------------------------------------------------------------------------------- */

/* The backbone, the task as trial `trial` draws it, and its inputs; the caller frees all three, also after an error. */
static int open_set(const struct config *cfg, const struct set *set, size_t trial, struct backbone **b,
                    struct task **task, struct inputs **inputs, struct reason why)
{
    const struct task_options to = { .train_size = set->train_size, .validation_size = cfg->validation_size,
                                     .test_size = cfg->test_size,
                                     .seed = cfg->c.seed + trial };
    const struct inputs_options io = { 0, 0 };
    int status = backbone_open(set->backbone, b, why);
    if (!status) status = task_open(set->task, &to, task, why);
    if (!status) status = inputs_alloc(*b, *task, &io, inputs, why);
    return status;
}

static int run_unit(const struct config *cfg, const struct set *set, size_t trial, double *out, struct reason why)
{
    struct backbone *b = NULL;
    struct task *task = NULL;
    struct inputs *inputs = NULL;
    struct features raw = { { NULL } }, frozen = { { NULL } };
    int32_t label;
    int status = open_set(cfg, set, trial, &b, &task, &inputs, why);
    if (!status) {
        const size_t raw_dim = task->modality == TASK_IMAGE ? task->height * task->width * task->channels : WORDS;
        const double each = features_bytes(task, raw_dim) + features_bytes(task, b->config.hidden);
        status = each * (double)cfg->c.threads > (double)memory_available()
               ? refuse(why, GSL_ENOMEM, "%s: the regressions need more memory than this machine has", set->task)
                   : GSL_SUCCESS;
    }
    if (!status) {
        out[MAJORITY] = task_majority(task, &label);
        status = task->modality == TASK_IMAGE ? pixel_features(task, &raw) : tfidf_features(task, &raw);
        if (!status) status = regress(&raw, task, &out[RAW]);
        if (!status) status = frozen_features(b, task, inputs, 1, &frozen);
        if (!status) status = regress(&frozen, task, &out[FROZEN]);
        if (status) refuse(why, status, "%s", status == GSL_ENOMEM ? "out of memory" : gsl_strerror(status));
    }
    features_free(&raw);
    features_free(&frozen);
    inputs_free(inputs);
    task_free(task);
    backbone_free(b);
    return status;
}

/* Whether every set can be opened, and what the rows depend on; the caller frees. Exit code, the line printed. */
static int identity_of(const struct config *cfg, char **out)
{
    char *text = cli_text("%zu %zu %zu |", cfg->num_trials, cfg->validation_size, cfg->test_size), line[512];
    const struct reason why = { line, sizeof line };
    int code = EXIT_DONE;
    for (size_t s = 0; s < cfg->num_sets && !code; s++) {
        const struct set *set = &cfg->sets[s];
        struct backbone *b = NULL;
        struct task *task = NULL;
        struct inputs *inputs = NULL;
        uint64_t hash = HASH_START;
        int status = open_set(cfg, set, 0, &b, &task, &inputs, why);
        if (!status) status = backbone_hash(b, &hash, why);
        if (status) {
            code = cli_bad_input(&cfg->c, status, set->backbone, line);
        } else {
            char *longer = cli_text("%s %s %016llx %s %016llx %zu", text, set->backbone, (unsigned long long)hash,
                                    set->task, (unsigned long long)task->checksum, set->train_size);
            free(text);
            text = longer;
        }
        inputs_free(inputs);
        task_free(task);
        backbone_free(b);
    }
    *out = text;
    return code;
}

static int write_table(const struct config *cfg, const struct units *work)
{
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "raw: logistic regression on pixels or TF-IDF; frozen: on the backbone's pooled output; ci: 95%% "
                  "Student t over draws of the training set");
    for (size_t s = 0; s < cfg->num_sets; s++)
        for (int k = 0; k < NUM_BASELINES; k++) {
            double x[1000];
            for (size_t r = 0; r < cfg->num_trials; r++) x[r] = units_row(work, s * cfg->num_trials + r)[k];
            const struct interval mean = cli_mean(x, cfg->num_trials, 0.95);
            table_text(t, cfg->sets[s].backbone);
            table_text(t, cfg->sets[s].task);
            table_int(t, cfg->sets[s].train_size);
            table_text(t, baseline_names[k]);
            table_int(t, cfg->num_trials);
            table_interval(t, mean);
            table_end_row(t);
        }
    return table_close(t, 0);
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    if (!cfg.num_sets) {
        cfg.num_sets = 1;
        cfg.sets[0] = (struct set){ "vit-fashion", "shapes", 1000 };
    }
    char *identity;
    int code = identity_of(&cfg, &identity);
    const size_t count = cfg.num_sets * cfg.num_trials;
    struct units *work = code ? NULL : units_open(&cfg.c, identity, "regressions", count, NUM_BASELINES, 0.0);
    free(identity);
    if (!work) return code ? code : EXIT_FAILED;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
    for (size_t u = 0; u < count; u++) {
        char line[512];
        double *row = units_begin(work, u);
        if (!row) continue;
        const int status = run_unit(&cfg, &cfg.sets[u / cfg.num_trials], u % cfg.num_trials, row,
                                    (struct reason){ line, sizeof line });
        if (status) units_refuse(work, u, status, line);
        else units_end(work, u, status);
    }
    code = units_status(work);
    if (!code) code = write_table(&cfg, work);
    return units_close(work, code);
}
