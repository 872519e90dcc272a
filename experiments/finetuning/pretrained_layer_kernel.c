/* The kernel of a prefix in the attention layers of a pretrained backbone: real weights, real tokens as queries and
 * input (F73). */
#include "cli/option_table.h"
#include "cli/kernels.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "common/random.h"
#include "prefix_ntk/ntk_layer.h"
#include "prefix_ntk/prefix_descent.h"
#include "transformer/inputs.h"

static const char doc[] =
    "Kernel of a prefix in the attention of a pretrained backbone, one block, head and example per trial: distance "
    "from the infinite-prefix limit "
    "by prefix length, the loss of gradient descent per its prediction, and the spread of the scores that real tokens "
    "have there.";
static const char columns[] = "backbone,signs,spread,prefix_len,num_trials,limit_err_mean,limit_err_ci_lo,"
                              "limit_err_ci_hi,"
                              "loss_per_predicted_mean,loss_per_predicted_ci_lo,loss_per_predicted_ci_hi";

struct config {
    struct cli_common c;
    const char *backbone, *task, *rows;
    size_t num_samples, num_trials, num_steps, *prefix_lens, num_lens;
    double spread;
};

static const struct cli_option options[] = {
    { "backbone", CLI_TEXT(struct config, backbone), .value = "vit-fashion", .arg = "NAME", .group = 1,
      .doc = "pretrained model" },
    { "task", CLI_TEXT(struct config, task), .value = "shapes", .arg = "NAME", .group = 1,
      .doc = "where examples come from" },
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 64, .value = "6", .group = 1,
      .doc = "queries: tokens of the example, evenly taken" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1000, .value = "20", .group = 1,
      .doc = "blocks, heads and examples drawn" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 2, .max = 1u << 22,
      .value = "256,1024,4096", .group = 1, .doc = "prefix lengths m, even" },
    { "spread", CLI_DOUBLE(struct config, spread), .value = "0.7", .arg = "S", .group = 1,
      .doc = "largest standard deviation of a query's scores, sigma ||x~||" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .min = 1, .max = 1u << 20, .value = "60", .arg = "T",
      .group = 1, .doc = "steps of half 1/(m lambda_max) of the limit" },
    { "rows", CLI_TEXT(struct config, rows), .arg = "NAME", .group = 1,
      .doc = "first word of the decided rows (default the backbone's name)", .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t i = 0; i < cfg->num_lens; i++)
        if (cfg->prefix_lens[i] % 2) return "--prefix-len: odd lengths cannot be mirrored";
    return NULL;
}

static const enum prefix_signs laws[] = { PREFIX_SIGNS_MIRRORED, PREFIX_SIGNS_POSITIVE };
enum { NUM_LAWS = 2, REAL_SPREAD = 0, FIRST_RESULT = 1, ERROR = 0, RATIO = 1, NUM_RESULTS = 2 };

/* One head of one block with the tokens of one example. Every dimension has one more coordinate, 1 for a query and 0
 * for a token, that carries the bias of W_Q; the key's bias moves all scores of a query alike, the value's leaves
 * gradients alone. */
struct head { gsl_matrix *queries, *inputs, *W_Q, *W_K, *W_V; double token_sd; };

static void head_free(struct head *h)
{
    gsl_matrix_free(h->queries);
    gsl_matrix_free(h->inputs);
    gsl_matrix_free(h->W_Q);
    gsl_matrix_free(h->W_K);
    gsl_matrix_free(h->W_V);
}

static const float *weight(const struct backbone *b, size_t layer, const char *part)
{
    char name[64];
    snprintf(name, sizeof name, "layer.%zu.%s", layer, part);
    const struct tensor *t = backbone_tensor(b, name);
    return t ? t->data : NULL;
}

/* Columns of a head from a (hidden, hidden) matrix (out, in): (hidden + 1, head_dim); bias NULL: a last row of
 * zeros. */
static gsl_matrix *head_matrix(const float *W, const float *bias, size_t hidden, size_t head_dim, size_t head)
{
    gsl_matrix *M = gsl_matrix_calloc(hidden + 1, head_dim);
    for (size_t c = 0; M && c < head_dim; c++) {
        for (size_t r = 0; r < hidden; r++) gsl_matrix_set(M, r, c, W[(head * head_dim + c) * hidden + r]);
        if (bias) gsl_matrix_set(M, hidden, c, bias[head * head_dim + c]);
    }
    return M;
}

/* What the projections read: the block's input, after its LayerNorm in a pre-norm model. */
static void read_token(const struct backbone *b, size_t layer, const float *row, double *out)
{
    const size_t h = b->config.hidden;
    double mean = 0.0, var = 0.0;
    for (size_t k = 0; k < h; k++) out[k] = row[k];
    if (!b->config.pre_norm) return;
    const float *w = weight(b, layer, "norm1.weight"), *bias = weight(b, layer, "norm1.bias");
    for (size_t k = 0; k < h; k++) mean += out[k] / (double)h;
    for (size_t k = 0; k < h; k++) var += pow(out[k] - mean, 2.0) / (double)h;
    for (size_t k = 0; k < h; k++) out[k] = (out[k] - mean) / sqrt(var + b->config.norm_eps) * w[k] + bias[k];
}

static int head_fill(const struct config *cfg, const struct backbone *b, struct inputs *inputs, size_t trial,
                     struct head *out)
{
    const struct backbone_config *c = &b->config;
    const size_t h = c->hidden, head_dim = h / c->num_heads, seed = cfg->c.seed;
    const size_t layer = random_index(seed, RANDOM_OTHER, trial, 0, c->default_last_layer + 1),
        head = random_index(seed, RANDOM_OTHER, trial, 1, c->num_heads);
    const size_t example = random_index(seed, RANDOM_OTHER, trial, 2, inputs_count(inputs, TASK_TRAIN));
    const struct adapter_options none = adapter_defaults(ADAPTER_HEAD);
    char line[256];
    struct model *model = NULL;
    struct inputs_batch batch = { .labels = NULL };
    float *rows = malloc(inputs_max_rows(inputs, 1) * h * sizeof *rows);
    int status = rows ? model_alloc(b, &none, 2, POOL_MEAN, 0, 1, &model, (struct reason){ line, sizeof line })
        : GSL_ENOMEM;
    if (!status) status = model_reserve(model, inputs_max_rows(inputs, 1), 1, inputs_max_len(inputs), 0, 1);
    if (!status) status = inputs_batch_alloc(inputs, 1, &batch);
    if (!status) {
        inputs_gather(inputs, TASK_TRAIN, &example, 1, 0, &batch);
        status = model_hidden(model, &batch.batch, layer, rows);
    }
    if (!status) {
        const size_t len = batch.offsets[1];
        out->W_Q = head_matrix(weight(b, layer, "q.weight"), weight(b, layer, "q.bias"), h, head_dim, head);
        out->W_K = head_matrix(weight(b, layer, "k.weight"), NULL, h, head_dim, head);
        out->W_V = head_matrix(weight(b, layer, "v.weight"), NULL, h, head_dim, head);
        out->inputs = gsl_matrix_calloc(len, h + 1);
        out->queries = gsl_matrix_calloc(cfg->num_samples, h + 1);
        if (!out->W_Q || !out->W_K || !out->W_V || !out->inputs || !out->queries) status = GSL_ENOMEM;
        double square = 0.0;
        for (size_t j = 0; j < len && !status; j++) {
            read_token(b, layer, rows + j * h, gsl_matrix_ptr(out->inputs, j, 0));
            for (size_t k = 0; k < h; k++) square += pow(gsl_matrix_get(out->inputs, j, k), 2.0) / (double)(len * h);
        }
        out->token_sd = sqrt(square);
        for (size_t i = 0; i < cfg->num_samples && !status; i++) {
            const size_t j = i * len / cfg->num_samples;
            gsl_vector_const_view z = gsl_matrix_const_row(out->inputs, j);
            gsl_matrix_set_row(out->queries, i, &z.vector);
            gsl_matrix_set(out->queries, i, h, 1.0);
        }
    }
    inputs_batch_free(&batch);
    model_free(model);
    free(rows);
    return status;
}

static double norm_of(const gsl_matrix *A)
{
    gsl_vector_const_view v = gsl_vector_const_view_array(A->data, A->size1 * A->size2);
    return gsl_blas_dnrm2(&v.vector);
}

/* Targets: what the layer gives at the start, plus Gaussian changes of the size of one input token's value. (F is m
 * times the attention's output: a change of that size in the output itself would be m times as far.) */
static int make_targets(const struct head *h, const gsl_matrix *W, const gsl_vector *signs,
                        const struct prefix_layer *layer, uint64_t seed, size_t trial, gsl_matrix *Y)
{
    gsl_matrix *values = gsl_matrix_alloc(h->inputs->size1, h->W_V->size2);
    struct prefix_descent *d = NULL;
    gsl_matrix_set_zero(Y);
    int status = values ? prefix_descent_alloc(W, signs, NULL, layer, Y, 1, &d) : GSL_ENOMEM;
    if (!status) {
        gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, h->inputs, h->W_V, 0.0, values);
        const double size = norm_of(values) / sqrt((double)(values->size1 * values->size2));
        random_normal(seed, RANDOM_TARGETS, trial, 0, Y->data, Y->size1 * Y->size2);
        gsl_matrix_scale(Y, size);
        gsl_matrix_add(Y, prefix_descent_outputs(d));
    }
    prefix_descent_free(d);
    gsl_matrix_free(values);
    return status;
}

/* Loss after the steps, per what the limit kernel predicts. */
static int descend(const struct config *cfg, const gsl_matrix *W, const gsl_vector *signs,
                   const struct prefix_layer *layer, const gsl_matrix *Y, const gsl_matrix *limit, double rate,
                       double *ratio)
{
    struct prefix_descent *d = NULL;
    struct prefix_linear *linear = NULL;
    int status = prefix_descent_alloc(W, signs, NULL, layer, Y, 1, &d);
    if (!status) status = prefix_linear_alloc(limit, prefix_descent_residual(d), &linear);
    *ratio = NAN;
    bool diverged = false;
    for (size_t s = 0; s < cfg->num_steps && !status && !diverged; s++)
        diverged = prefix_descent_step(d, rate / (double)W->size1) != GSL_SUCCESS;
    if (!status && !diverged)
        *ratio = prefix_descent_loss(d) / prefix_linear_loss(linear, rate, (double)cfg->num_steps);
    prefix_linear_free(linear);
    prefix_descent_free(d);
    return status;
}

static int run_law(const struct config *cfg, const struct head *h, const struct prefix_layer *layer,
                   enum prefix_signs law, double sigma, size_t trial, double *out)
{
    const gsl_matrix *X = prefix_layer_queries(layer);
    const size_t outputs = h->W_V->size2, size = X->size1 * outputs;
    gsl_matrix *limit = gsl_matrix_alloc(size, size), *K = gsl_matrix_alloc(size, size),
        *Y = gsl_matrix_alloc(X->size1, outputs);
    gsl_vector *eigenvalues = gsl_vector_alloc(size);
    int status = limit && K && Y && eigenvalues ? ntk_layer_limit(X, X, h->W_V, sigma, law, NTK_FULL, limit)
        : GSL_ENOMEM;
    if (!status) status = ntk_eigenvalues(limit, eigenvalues);
    for (size_t i = 0; i < cfg->num_lens && !status; i++, out += NUM_RESULTS) {
        gsl_matrix *W = gsl_matrix_alloc(cfg->prefix_lens[i], X->size2);
        gsl_vector *signs = gsl_vector_alloc(cfg->prefix_lens[i]);
        status = W && signs ? prefix_draw(cfg->c.seed, trial, law, sigma, W, signs, 1) : GSL_ENOMEM;
        if (!status) status = ntk_layer_gram(W, signs, X, h->inputs, h->W_V, NTK_FULL, K, 1);
        if (!status) {
            gsl_matrix_sub(K, limit);
            out[ERROR] = norm_of(K) / norm_of(limit);
            status = make_targets(h, W, signs, layer, cfg->c.seed, trial, Y);
            if (!status)
                status = descend(cfg, W, signs, layer, Y, limit, 0.5 / gsl_vector_get(eigenvalues, size - 1),
                                 &out[RATIO]);
        }
        gsl_vector_free(signs);
        gsl_matrix_free(W);
    }
    gsl_vector_free(eigenvalues);
    gsl_matrix_free(Y);
    gsl_matrix_free(K);
    gsl_matrix_free(limit);
    return status;
}

static int run_trial(const struct config *cfg, const struct backbone *b, struct inputs *inputs, size_t trial,
                     double *out)
{
    struct head h = { .queries = NULL };
    struct prefix_layer *layer = NULL;
    int status = head_fill(cfg, b, inputs, trial, &h);
    if (!status && !(layer = prefix_layer_alloc(h.queries, h.inputs, h.W_Q, h.W_K, h.W_V))) status = GSL_ENOMEM;
    if (!status) {
        const gsl_matrix *X = prefix_layer_queries(layer);
        double longest = 0.0;
        for (size_t i = 0; i < X->size1; i++) {
            gsl_vector_const_view x = gsl_matrix_const_row(X, i);
            longest = fmax(longest, gsl_blas_dnrm2(&x.vector));
        }
        out[REAL_SPREAD] = h.token_sd * longest;
        for (int l = 0; l < NUM_LAWS && !status; l++)
            status = run_law(cfg, &h, layer, laws[l], cfg->spread / longest, trial,
                             out + FIRST_RESULT + (size_t)l * cfg->num_lens * NUM_RESULTS);
    }
    prefix_layer_free(layer);
    head_free(&h);
    return status;
}

static const double *result(const struct config *cfg, const struct units *work, size_t trial, int law, size_t len)
{
    return units_row(work, trial) + FIRST_RESULT + ((size_t)law * cfg->num_lens + len) * NUM_RESULTS;
}

static int report(const struct config *cfg, const struct units *work)
{
    const size_t n = cfg->num_trials;
    char stem[256], row[128];
    cli_stem(&cfg->c, stem, sizeof stem);
    double *x = cli_need(malloc(cfg->num_lens * sizeof *x)), *y = cli_need(malloc(n * cfg->num_lens * sizeof *y)),
        *z = cli_need(malloc(n * sizeof *z));
    struct table *t = table_open(&cfg->c, NULL, columns);
    struct verdicts *v = t ? verdicts_open(&cfg->c, stem) : NULL;
    int code = t ? 0 : EXIT_FAILED;
    if (t)
        table_note(t, "task=%s num_samples=%zu num_steps=%zu; a trial is a block, a head and an example; ci: 95%% "
                      "Student t", cfg->task, cfg->num_samples, cfg->num_steps);
    for (int l = 0; t && l < NUM_LAWS; l++) {
        for (size_t i = 0; i < cfg->num_lens; i++) {
            table_text(t, cfg->backbone);
            table_text(t, cli_sign_names[laws[l]]);
            table_num(t, cfg->spread);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, n);
            for (int which = 0; which < NUM_RESULTS; which++) {
                for (size_t k = 0; k < n; k++) z[k] = result(cfg, work, k, l, i)[which];
                const struct interval mean = cli_mean(z, n, 0.95);
                table_interval(t, mean);
            }
            table_end_row(t);
            x[i] = (double)cfg->prefix_lens[i];
        }
        for (size_t k = 0; k < n; k++)
            for (size_t i = 0; i < cfg->num_lens; i++) y[k * cfg->num_lens + i] = result(cfg, work, k, l, i)[ERROR];
        snprintf(row, sizeof row, "%s-slope-%s", cfg->rows, cli_sign_names[laws[l]]);
        verdicts_add(v, "F73", row, cli_exponent(x, y, cfg->num_lens, n, 0.999));
        for (size_t k = 0; k < n; k++) z[k] = result(cfg, work, k, l, cfg->num_lens - 1)[RATIO];
        snprintf(row, sizeof row, "%s-prediction-%s", cfg->rows, cli_sign_names[laws[l]]);
        verdicts_add(v, "F73", row, cli_mean(z, n, 0.999));
    }
    if (t) {
        for (size_t k = 0; k < n; k++) z[k] = units_row(work, k)[REAL_SPREAD];
        snprintf(row, sizeof row, "%s-spread", cfg->rows);
        verdicts_add(v, "F73", row, cli_mean(z, n, 0.999));
        code = verdicts_close(v, 0);
    }
    free(z);
    free(y);
    free(x);
    return table_close(t, code);
}

/* Of a head: its three projections, the tokens and their features, the longest prefix with its descent, kernels. */
static double unit_bytes(const struct config *cfg, const struct backbone *b)
{
    const size_t longest = cli_largest(cfg->prefix_lens, cfg->num_lens);
    const size_t h = b->config.hidden + 1, d = b->config.hidden / b->config.num_heads;
    const double nd = (double)(cfg->num_samples * d);
    return sizeof(double) * (3.0 * (double)(h * d) + 4.0 * (double)(cfg->num_samples * h) + 4.0 * (double)(longest * h)
                             + 8.0 * nd * nd)
         + (double)prefix_descent_bytes(longest, h, cfg->num_samples, 1);
}

/* Whether the ledger has the rows that --rows names. Exit code, the line printed. */
static int check_rows(const struct config *cfg)
{
    static const char *const words[] = { "slope", "prediction" };
    char row[128], stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    snprintf(row, sizeof row, "%s-spread", cfg->rows);
    int code = verdicts_check_row(&cfg->c, stem, "F73", row);
    for (int i = 0; i < 2 * NUM_LAWS && !code; i++) {
        snprintf(row, sizeof row, "%s-%s-%s", cfg->rows, words[i % 2], cli_sign_names[laws[i / 2]]);
        code = verdicts_check_row(&cfg->c, stem, "F73", row);
    }
    return code;
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    char line[512];
    const struct reason why = { line, sizeof line };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    if (!cfg.rows) cfg.rows = cfg.backbone;
    const struct task_options to = { .train_size = 200, .validation_size = 10, .test_size = 10, .seed = cfg.c.seed };
    const struct inputs_options io = { 32, 0 };
    struct backbone *b = NULL;
    struct task *task = NULL;
    struct inputs *inputs = NULL;
    uint64_t hash = HASH_START;
    int code = check_rows(&cfg);
    int status = code ? GSL_SUCCESS : backbone_open(cfg.backbone, &b, why);
    if (!code && !status) status = task_open(cfg.task, &to, &task, why);
    if (!code && !status) status = inputs_alloc(b, task, &io, &inputs, why);
    if (!code && !status) status = backbone_hash(b, &hash, why);
    if (status) code = cli_fail(&cfg.c, cli_input_code(status), "%s", line);
    char *identity = code ? NULL : cli_text("%s %016llx %s %016llx %zu %zu %zu %.17g |", cfg.backbone,
                                            (unsigned long long)hash, cfg.task, (unsigned long long)task->checksum,
                                            cfg.num_samples, cfg.num_trials, cfg.num_steps, cfg.spread);
    if (!code) identity = cli_text_sizes(identity, cfg.prefix_lens, cfg.num_lens);
    const size_t width = FIRST_RESULT + NUM_LAWS * cfg.num_lens * NUM_RESULTS;
    struct units *work = !code && identity ? units_open(&cfg.c, identity, "heads", cfg.num_trials, width, code ? 0.0
                                                        : unit_bytes(&cfg, b)) : NULL;
    free(identity);
    if (!code && !work) code = EXIT_FAILED;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
    for (size_t u = 0; u < (code ? 0 : cfg.num_trials); u++) {
        double *row = units_begin(work, u);
        if (row) units_end(work, u, run_trial(&cfg, b, inputs, u, row));
    }
    if (!code) code = units_status(work);
    if (!code) code = report(&cfg, work);
    inputs_free(inputs);
    task_free(task);
    backbone_free(b);
    return work ? units_close(work, code) : code;
}
