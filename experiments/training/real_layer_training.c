/* Which parts of the kernel picture survive in a real attention layer (F33). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "prefix_ntk/ntk_layer.h"
#include "prefix_ntk/prefix_descent.h"

static const char doc[] =
    "Gradient descent on the prefix of an attention layer with weights W_Q, W_K, W_V and input tokens in the softmax: "
    "movement of "
    "the tokens, drift of the kernel, and the loss beside the prediction of the infinite-prefix kernel.";
static const char columns[] =
    "signs,prefix_len,num_trials,movement_rms_mean,movement_rms_ci_lo,movement_rms_ci_hi,drift_mean,drift_ci_lo,"
    "drift_ci_hi,"
    "loss_per_predicted_mean,loss_per_predicted_ci_lo,loss_per_predicted_ci_hi,loss_ratio_mean,exponent_rms,"
    "exponent_drift";

struct config {
    struct cli_common c;
    size_t num_samples, dim, seq_len;
    double sigma;
    int *laws;
    size_t num_laws, *prefix_lens, num_lens, num_data, num_trials, num_steps, early_steps;
    bool tables;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 1000, .value = "6",
      .doc = "queries, on the sphere" },
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1000, .value = "8", .arg = "D",
      .doc = "model, head and output dimension" },
    { "seq-len", CLI_SIZE(struct config, seq_len), .min = 1, .max = 1u << 20, .value = "16", .arg = "L",
      .doc = "input tokens, on the sphere" },
    KERNEL_SIGMA(struct config, "1"),
    KERNEL_SIGNS(struct config, "random,positive,mirrored"),
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = 1u << 26,
      .value = "64,256,1024", .group = 1, .doc = "prefix lengths m, even for mirrored signs" },
    DATA_SETS_NUM(struct config, "1", "layers drawn, each with weights, queries, tokens and targets of its own"),
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "8", .group = 1,
      .doc = "prefixes drawn for each layer; those of one trial are nested" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .min = 1, .max = 1u << 30, .value = "300", .arg = "T",
      .group = 1, .doc = "steps of size 1/(m lambda_max) of the limit kernel" },
    { "early-steps", CLI_SIZE(struct config, early_steps), .min = 1, .max = 1u << 30, .value = "30", .arg = "T",
      .group = 1, .doc = "steps after which the loss is compared with its prediction" },
    DATA_SETS_TABLES(struct config, "layers"),
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t l = 0; l < cfg->num_laws; l++)
        for (size_t i = 0; i < cfg->num_lens; i++)
            if (cfg->laws[l] == PREFIX_SIGNS_MIRRORED && cfg->prefix_lens[i] % 2)
                return "--prefix-len: odd lengths cannot be split for --signs mirrored";
    return cfg->early_steps > cfg->num_steps ? "--early-steps: exceeds --num-steps" : NULL;
}

enum { RMS, DRIFT, LOSS_PER_PREDICTED, LOSS_RATIO, NUM_RESULTS };

struct data {
    gsl_matrix *Y, *inputs, *W_V;
    struct prefix_layer *layer;
    gsl_matrix *limit[3];           /* per law of enum prefix_signs: the sandwich of K* */
    double rate[3];                 /* step size times m: 1 / lambda_max of the limit */
};

struct study {
    const struct config *cfg;
    struct data *data;
    struct units *work;             /* (num_lens, num_laws, num_data, num_trials), NUM_RESULTS each */
};

static size_t num_trials(const struct config *cfg) { return cfg->num_data * cfg->num_trials; }

static struct units_grid grid_of(const struct study *s)
{
    const struct config *cfg = s->cfg;
    return (struct units_grid){ s->work, cfg->num_laws, cfg->num_lens, num_trials(cfg), cfg->prefix_lens };
}

static int run_unit(const void *context, size_t index, double *out)
{
    const struct study *s = context;
    const struct config *cfg = s->cfg;
    const size_t trial = index % num_trials(cfg), m = cfg->prefix_lens[index / num_trials(cfg) / cfg->num_laws];
    const struct data *data = &s->data[trial / cfg->num_trials];
    const enum prefix_signs law = (enum prefix_signs)cfg->laws[index / num_trials(cfg) % cfg->num_laws];
    const size_t d = cfg->dim, nd = cfg->num_samples * d;
    const gsl_matrix *X = prefix_layer_queries(data->layer);
    gsl_matrix *W = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(nd, nd), *K_end = gsl_matrix_alloc(nd, nd);
    gsl_vector *signs = gsl_vector_alloc(m);
    struct prefix_descent *descent = NULL;
    struct prefix_linear *linear = NULL;
    for (int c = 0; c < NUM_RESULTS; c++) out[c] = NAN;
    int status = W && K && K_end && signs ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg->c.seed, trial, law, cfg->sigma, W, signs, 1);
    if (!status) status = ntk_layer_gram(W, signs, X, data->inputs, data->W_V, NTK_FULL, K, 1);
    if (!status) status = prefix_descent_alloc(W, signs, NULL, data->layer, data->Y, 1, &descent);
    if (!status) status = prefix_linear_alloc(data->limit[law], prefix_descent_residual(descent), &linear);
    const double start = status ? NAN : prefix_descent_loss(descent);
    bool diverged = false;
    for (size_t step = 1; step <= cfg->num_steps && !status && !diverged; step++) {
        diverged = prefix_descent_step(descent, data->rate[law] / (double)m) != GSL_SUCCESS;
        if (step == cfg->early_steps && !diverged)
            out[LOSS_PER_PREDICTED] =
                prefix_descent_loss(descent) / prefix_linear_loss(linear, data->rate[law], (double)step);
        if (cli_interrupted()) status = GSL_FAILURE;
    }
    if (!status && !diverged) {
        const gsl_matrix *end = prefix_descent_prefix(descent);
        double max;
        status = prefix_movement(end, W, &out[RMS], &max);
        if (!status) status = ntk_layer_gram(end, signs, X, data->inputs, data->W_V, NTK_FULL, K_end, 1);
        const double norm = cli_frobenius(K);
        gsl_matrix_sub(K_end, K);
        out[DRIFT] = cli_frobenius(K_end) / norm;
        out[LOSS_RATIO] = prefix_descent_loss(descent) / start;
    }
    prefix_linear_free(linear);
    prefix_descent_free(descent);
    gsl_vector_free(signs);
    gsl_matrix_free(K_end);
    gsl_matrix_free(K);
    gsl_matrix_free(W);
    return status;
}

static struct data_sets sets_of(const struct config *cfg)
{
    return (struct data_sets){ cfg->num_data, cfg->num_trials };
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "num_samples=%zu dim=%zu seq_len=%zu sigma=%.17g num_steps=%zu early_steps=%zu num_data=%zu",
               cfg->num_samples, cfg->dim, cfg->seq_len, cfg->sigma, cfg->num_steps, cfg->early_steps, cfg->num_data);
    table_note(t, "steps of size 1/(m lambda_max) of the limit kernel; drift: ||K(t)-K(0)||_F/||K(0)||_F; movement: of "
                  "||w_r(t)-w_r(0)||; "
                  "loss_per_predicted: after early_steps, per the linearised dynamics of the limit kernel; ci: 95%% "
                  "Student t over layers; "
                  "num_trials: prefixes of each; empty: diverged");
    for (size_t l = 0; l < cfg->num_laws; l++)
        for (size_t i = 0; i < cfg->num_lens; i++) {
            table_text(t, cli_sign_names[cfg->laws[l]]);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, cfg->num_trials);
            for (int which = RMS; which <= LOSS_RATIO; which++) {
                const struct interval mean = data_spread_at(&grid, l, i, which, sets_of(cfg), 0.95).mean;
                table_num(t, mean.value);
                if (which == LOSS_RATIO) break;
                table_num(t, mean.lo);
                table_num(t, mean.hi);
            }
            table_num(t, units_exponent(&grid, l, RMS, 0.95).value);
            table_num(t, units_exponent(&grid, l, DRIFT, 0.95).value);
            table_end_row(t);
        }
    return table_close(t, 0);
}

static int write_verdicts(const struct study *s, struct data_rows *v)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    const struct data_sets sets = sets_of(cfg);
    for (size_t l = 0; l < cfg->num_laws; l++) {
        if (cfg->laws[l] == PREFIX_SIGNS_MIRRORED)
            data_rows_spread(v, "F33", "prediction-mirrored",
                             data_spread_at(&grid, l, cfg->num_lens - 1, LOSS_PER_PREDICTED, sets, 0.999));
        else
            data_rows_spread(v, "F33", cfg->laws[l] == PREFIX_SIGNS_RANDOM ? "rms-random" : "rms-positive",
                             data_spread_slope(&grid, l, RMS, sets, 0.999));
    }
    return data_rows_close(v, 0);
}

/* Queries, tokens and weights of layer `which` from the seed; the limit kernels; exit code. */
static int setup(const struct config *cfg, size_t which, struct data *data)
{
    const size_t d = cfg->dim, nd = cfg->num_samples * d;
    gsl_matrix *queries = gsl_matrix_alloc(cfg->num_samples, d), *weights[3] = { NULL };
    gsl_vector *eigenvalues = gsl_vector_alloc(nd);
    data->Y = gsl_matrix_alloc(cfg->num_samples, d);
    data->inputs = gsl_matrix_alloc(cfg->seq_len, d);
    int status = queries && eigenvalues && data->Y && data->inputs ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t w = 0; w < 3 && !status; w++) {
        if (!(weights[w] = gsl_matrix_alloc(d, d))) { status = GSL_ENOMEM; break; }
        random_normal(cfg->c.seed, RANDOM_WEIGHTS, 3 * which + w, 0, weights[w]->data, d * d);
        gsl_matrix_scale(weights[w], 1.0 / sqrt((double)d));
    }
    if (!status) {
        samples_sphere(cfg->c.seed, RANDOM_INPUTS, which, 0, queries);
        samples_sphere(cfg->c.seed, RANDOM_TARGETS, which, 0, data->Y);
        samples_sphere(cfg->c.seed, RANDOM_TOKENS, which, 0, data->inputs);
        data->layer = prefix_layer_alloc(queries, data->inputs, weights[0], weights[1], weights[2]);
        if (!data->layer) status = GSL_ENOMEM;
    }
    for (int law = PREFIX_SIGNS_RANDOM; law <= PREFIX_SIGNS_MIRRORED && !status; law++) {
        const gsl_matrix *X = prefix_layer_queries(data->layer);
        if (!(data->limit[law] = gsl_matrix_alloc(nd, nd))) { status = GSL_ENOMEM; break; }
        status = ntk_layer_limit(X, X, weights[2], cfg->sigma, (enum prefix_signs)law, NTK_FULL, data->limit[law]);
        if (!status) status = ntk_eigenvalues(data->limit[law], eigenvalues);
        if (!status) data->rate[law] = 1.0 / gsl_vector_get(eigenvalues, nd - 1);
    }
    data->W_V = weights[2];
    gsl_matrix_free(weights[1]);
    gsl_matrix_free(weights[0]);
    gsl_vector_free(eigenvalues);
    gsl_matrix_free(queries);
    return cli_status(&cfg->c, status, "the layer");
}

static void data_free(struct data *data)
{
    for (int law = 0; law < 3; law++) gsl_matrix_free(data->limit[law]);
    prefix_layer_free(data->layer);
    gsl_matrix_free(data->W_V);
    gsl_matrix_free(data->inputs);
    gsl_matrix_free(data->Y);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg, .data = cli_need(calloc(cfg.num_data, sizeof *s.data)) };
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    const double nd = (double)(cfg.num_samples * cfg.dim);
    const size_t longest = cli_largest(cfg.prefix_lens, cfg.num_lens);
    int code = cli_memory(&cfg.c,
                          ((double)cfg.c.threads * (8.0 * nd * nd + 4.0 * (double)(longest * cfg.dim))
                           + 3.0 * (double)cfg.num_data * nd * nd)
                              * sizeof(double),
                          "the longest prefix");
    for (size_t i = 0; i < cfg.num_data && !code; i++) code = setup(&cfg, i, &s.data[i]);
    if (!code) {
        char *identity = cli_identity(options, &cfg.c);
        const struct units_study study = { .what = "descents", .count = cfg.num_lens * cfg.num_laws * num_trials(&cfg),
                                           .width = NUM_RESULTS, .last_first = true, .unit = run_unit };
        code = units_work(&cfg.c, identity, &study, &s, &s.work);
        free(identity);
        if (!code) code = write_verdicts(&s, v);
        else data_rows_close(v, code);
        if (!code) code = write_table(&s);
        code = units_close(s.work, code);
    } else {
        data_rows_close(v, code);
    }
    for (size_t i = 0; i < cfg.num_data; i++) data_free(&s.data[i]);
    free(s.data);
    return code;
}
