/* How far tokens move and the kernel drifts, by prefix length and sign law (T6, F21, F22, F25). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "prefix_ntk/prefix_descent.h"

static const char doc[] =
    "Movement of the tokens and drift of the kernel during gradient descent, by prefix length and sign law, with "
    "their exponents in the prefix length.";
static const char columns[] =
    "signs,prefix_len,num_trials,movement_rms_mean,movement_rms_ci_lo,movement_rms_ci_hi,movement_max_mean,"
    "movement_max_ci_lo,movement_max_ci_hi,drift_mean,drift_ci_lo,drift_ci_hi,loss_ratio_mean,output_scale_mean,"
    "output_scale_pred,exponent_rms,exponent_max,exponent_drift";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma;
    int *laws;
    size_t num_laws, *prefix_lens, num_lens, num_data, num_trials, num_steps, num_draws;
    const char *rows;
    bool tables;
};

static const struct cli_option options[] = {
    SAMPLES_INPUTS(struct config, samples),
    SAMPLES_TARGETS(struct config, samples),
    KERNEL_SIGMA(struct config, "0.5"),
    KERNEL_SIGNS(struct config, "random,positive,mirrored"),
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = 1u << 26,
      .value = "64,256,1024", .group = 1, .doc = "prefix lengths m, even for mirrored signs" },
    DATA_SETS_NUM(struct config, "1", "data sets drawn"),
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "8", .group = 1,
      .doc = "prefixes drawn for each data set; those of one trial are nested" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .min = 1, .max = 1u << 30, .value = "300", .arg = "T",
      .group = 1, .doc = "steps of size 1/(m lambda_max(K*)) each: a fixed kernel time" },
    { "num-draws", CLI_SIZE(struct config, num_draws), .min = 1, .max = 1u << 20, .value = "200", .group = 1,
      .doc = "prefixes of 4096 tokens per data set for the scale of the initial outputs" },
    { "rows", CLI_TEXT(struct config, rows), .arg = "NAME", .group = 2,
      .doc = "write only the rows NAME-drift-random and NAME-drift-mirrored of F21 (default the others)",
      .same_units = true },
    DATA_SETS_TABLES(struct config, "data sets"),
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
    if (cfg->samples.inputs && cfg->num_data > 1) return "--num-data: --inputs are one data set";
    return samples_check(&cfg->samples, true);
}

enum { RMS, MAX, DRIFT, LOSS_RATIO, NUM_RESULTS, DRAW_LEN = 4096 };

struct data {
    gsl_matrix *X, *Y;
    double rate[3];                 /* step size times m, per law of enum prefix_signs */
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

/* One descent over the fixed kernel time. */
static int run_unit(const void *context, size_t index, double *out)
{
    const struct study *s = context;
    const struct config *cfg = s->cfg;
    const size_t trial = index % num_trials(cfg), law_index = index / num_trials(cfg) % cfg->num_laws;
    const size_t m = cfg->prefix_lens[index / num_trials(cfg) / cfg->num_laws];
    const struct data *data = &s->data[trial / cfg->num_trials];
    const enum prefix_signs law = (enum prefix_signs)cfg->laws[law_index];
    const size_t d = data->X->size2, nd = data->X->size1 * d;
    gsl_matrix *W = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(nd, nd), *K_end = gsl_matrix_alloc(nd, nd);
    gsl_vector *signs = gsl_vector_alloc(m);
    struct prefix_descent *descent = NULL;
    int status = W && K && K_end && signs ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg->c.seed, trial, law, cfg->sigma, W, signs, 1);
    if (!status) status = ntk_gram(W, signs, data->X, NTK_FULL, K, 1);
    if (!status) status = prefix_descent_alloc(W, signs, data->X, NULL, data->Y, 1, &descent);
    const double start = status ? NAN : prefix_descent_loss(descent);
    bool diverged = false;
    for (size_t step = 0; step < cfg->num_steps && !status && !diverged; step++) {
        diverged = prefix_descent_step(descent, data->rate[law] / (double)m) != GSL_SUCCESS;
        if (cli_interrupted()) status = GSL_FAILURE;
    }
    for (int c = 0; c < NUM_RESULTS; c++) out[c] = NAN;
    if (!status && !diverged) {
        const gsl_matrix *end = prefix_descent_prefix(descent);
        status = prefix_movement(end, W, &out[RMS], &out[MAX]);
        if (!status) status = ntk_gram(end, signs, data->X, NTK_FULL, K_end, 1);
        const double norm = cli_frobenius(K);
        gsl_matrix_sub(K_end, K);
        out[DRIFT] = cli_frobenius(K_end) / norm;
        out[LOSS_RATIO] = prefix_descent_loss(descent) / start;
    }
    prefix_descent_free(descent);
    gsl_vector_free(signs);
    gsl_matrix_free(K_end);
    gsl_matrix_free(K);
    gsl_matrix_free(W);
    return status;
}

/* sum_ik F_k(x_i)^2 of a fresh prefix with random signs on a data set, per m. */
static int draw_scale(const struct study *s, size_t index, double *out)
{
    const struct config *cfg = s->cfg;
    const gsl_matrix *X = s->data[index / cfg->num_draws].X;
    const size_t d = X->size2;
    gsl_matrix *W = gsl_matrix_alloc(DRAW_LEN, d), *F = gsl_matrix_alloc(X->size1, d);
    gsl_vector *signs = gsl_vector_alloc(DRAW_LEN);
    int status = W && F && signs ? GSL_SUCCESS : GSL_ENOMEM;
    /* Trials beyond those of the descents. */
    if (!status)
        status = prefix_draw(cfg->c.seed, num_trials(cfg) + index, PREFIX_SIGNS_RANDOM, cfg->sigma, W, signs, 1);
    if (!status) status = prefix_model_forward(W, signs, X, F, 1);
    if (!status) *out = cli_frobenius(F) * cli_frobenius(F) / DRAW_LEN;
    gsl_vector_free(signs);
    gsl_matrix_free(F);
    gsl_matrix_free(W);
    return status;
}

/* sum_ik of E F_k(x_i)^2 / m = e^{sigma^2 ||x||^2} (sigma^2 + 4 sigma^4 x_k^2), random signs. */
static double predicted_scale(const struct study *s, size_t data)
{
    const double sigma2 = s->cfg->sigma * s->cfg->sigma;
    const gsl_matrix *X = s->data[data].X;
    double sum = 0.0;
    for (size_t i = 0; i < X->size1; i++) {
        double square = 0.0;
        for (size_t k = 0; k < X->size2; k++) square += pow(gsl_matrix_get(X, i, k), 2.0);
        for (size_t k = 0; k < X->size2; k++)
            sum += exp(sigma2 * square) * (sigma2 + 4.0 * sigma2 * sigma2 * pow(gsl_matrix_get(X, i, k), 2.0));
    }
    return sum;
}

static int write_table(const struct study *s, const double *draws)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    const struct data_sets sets = { cfg->num_data, cfg->num_trials };
    double scale = 0.0, predicted = 0.0;
    for (size_t i = 0; i < cfg->num_data * cfg->num_draws; i++)
        scale += draws[i] / (double)(cfg->num_data * cfg->num_draws);
    for (size_t i = 0; i < cfg->num_data; i++) predicted += predicted_scale(s, i) / (double)cfg->num_data;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "num_samples=%zu dim=%zu sigma=%.17g num_steps=%zu num_data=%zu", s->data->X->size1,
               s->data->X->size2, cfg->sigma, cfg->num_steps, cfg->num_data);
    table_note(t,
               "after num_steps of size 1/(m lambda_max(K*)); drift: ||K(t)-K(0)||_F/||K(0)||_F; movement: of "
               "||w_r(t)-w_r(0)||; "
               "output_scale: sum F(0)^2 / m at m=%d, random signs; ci: 95%% Student t over data sets; num_trials: "
               "prefixes of each; empty "
               "cells: diverged",
               DRAW_LEN);
    for (size_t l = 0; l < cfg->num_laws; l++)
        for (size_t i = 0; i < cfg->num_lens; i++) {
            table_text(t, cli_sign_names[cfg->laws[l]]);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, cfg->num_trials);
            for (int which = RMS; which <= LOSS_RATIO; which++) {
                const struct interval mean = data_spread_at(&grid, l, i, which, sets, 0.95).mean;
                table_num(t, mean.value);
                if (which == LOSS_RATIO) break;
                table_num(t, mean.lo);
                table_num(t, mean.hi);
            }
            const bool random = cfg->laws[l] == PREFIX_SIGNS_RANDOM;
            table_num(t, random ? scale : NAN);
            table_num(t, random ? predicted : NAN);
            for (int which = RMS; which <= DRIFT; which++) table_num(t, units_exponent(&grid, l, which, 0.95).value);
            table_end_row(t);
        }
    return table_close(t, 0);
}

static int write_verdicts(const struct study *s, const double *draws, struct data_rows *v)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    const struct data_sets sets = { cfg->num_data, cfg->num_trials };
    char row[64];
    for (size_t l = 0; l < cfg->num_laws; l++) {
        const struct data_spread rms = data_spread_slope(&grid, l, RMS, sets, 0.999);
        const struct data_spread max = data_spread_slope(&grid, l, MAX, sets, 0.999);
        const struct data_spread drift = data_spread_slope(&grid, l, DRIFT, sets, 0.999);
        const char *law = cli_sign_names[cfg->laws[l]], *ours = cfg->laws[l] == PREFIX_SIGNS_POSITIVE ? "F22" : "F21";
        if (cfg->rows) {
            snprintf(row, sizeof row, "%s-drift-%s", cfg->rows, law);
            if (cfg->laws[l] != PREFIX_SIGNS_POSITIVE) data_rows_spread(v, "F21", row, drift);
            continue;
        }
        snprintf(row, sizeof row, "max-%s", law);
        data_rows_spread(v, "T6", row, max);
        snprintf(row, sizeof row, "drift-%s", law);
        data_rows_spread(v, "T6", row, drift);
        data_rows_spread(v, ours, row, drift);
        snprintf(row, sizeof row, "rms-%s", law);
        data_rows_spread(v, ours, row, rms);
    }
    if (cfg->rows) return data_rows_close(v, 0);
    double *ratio = cli_need(malloc(cfg->num_data * cfg->num_draws * sizeof *ratio));
    for (size_t i = 0; i < cfg->num_data * cfg->num_draws; i++)
        ratio[i] = draws[i] / predicted_scale(s, i / cfg->num_draws);
    data_rows_spread(v, "F25", "random",
                     data_spread_mean(ratio, (struct data_sets) { cfg->num_data, cfg->num_draws }, 0.999));
    free(ratio);
    return data_rows_close(v, 0);
}

/* The data sets and the step sizes for each; exit code. */
static int load(struct study *s)
{
    const struct config *cfg = s->cfg;
    s->data = cli_need(calloc(cfg->num_data, sizeof *s->data));
    struct samples_options samples = cfg->samples;
    for (size_t i = 0; i < cfg->num_data; i++) {
        struct data *data = &s->data[i];
        int code = samples_load(&cfg->c, &samples, i, &data->X, &data->Y);
        samples.inputs_out = samples.targets_out = NULL;         /* those of the first */
        if (code) return code;
        const size_t nd = data->X->size1 * data->X->size2;
        gsl_matrix *K = gsl_matrix_alloc(nd, nd);
        gsl_vector *eigenvalues = gsl_vector_alloc(nd);
        int status = K && eigenvalues ? GSL_SUCCESS : GSL_ENOMEM;
        for (int law = PREFIX_SIGNS_RANDOM; law <= PREFIX_SIGNS_MIRRORED && !status; law++) {
            status = ntk_limit(data->X, data->X, cfg->sigma, (enum prefix_signs)law, NTK_FULL, K);
            if (!status) status = ntk_eigenvalues(K, eigenvalues);
            if (!status) data->rate[law] = 1.0 / gsl_vector_get(eigenvalues, nd - 1);
        }
        gsl_vector_free(eigenvalues);
        gsl_matrix_free(K);
        if (status) return cli_status(&cfg->c, status, "limit kernel");
    }
    return 0;
}

/* What the numbers of a descent depend on besides the seed; the caller frees. */
static char *identity_of(const struct study *s)
{
    const struct config *cfg = s->cfg;
    char *options_text = cli_identity(options, &cfg->c);
    char *identity = cli_text("%016llx %016llx%s", (unsigned long long)cli_checksum(s->data->X),
                              (unsigned long long)cli_checksum(s->data->Y), options_text);
    free(options_text);
    return identity;
}

int main(int argc, char **argv)
{
    struct config cfg = { .samples = { .num_samples = 8, .dim = 8 } };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg };
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    double *draws = NULL;
    int code = load(&s);
    const size_t most = cli_largest(cfg.prefix_lens, cfg.num_lens), longest = most > DRAW_LEN ? most : DRAW_LEN;
    if (!code) {
        const double d = (double)s.data->X->size2, nd = (double)s.data->X->size1 * d;
        const double unit = (3.0 * nd * nd + 4.0 * (double)longest * d) * sizeof(double);
        draws = cli_need(calloc(cfg.num_data * cfg.num_draws, sizeof *draws));
        char *identity = identity_of(&s);
        const struct units_study study = { .what = "descents", .count = cfg.num_lens * cfg.num_laws * num_trials(&cfg),
                                           .width = NUM_RESULTS, .unit_bytes = unit, .last_first = true,
                                           .unit = run_unit };
        code = units_work(&cfg.c, identity, &study, &s, &s.work);
        free(identity);
        /* The draws are quick and not remembered. */
        for (size_t i = 0; i < cfg.num_data * cfg.num_draws && !code && !cfg.rows; i++) {
            code = cli_status(&cfg.c, draw_scale(&s, i, &draws[i]), "initial outputs");
            if (!code && cli_interrupted()) code = cli_interrupted();
        }
        if (!code) code = write_verdicts(&s, draws, v);
        else data_rows_close(v, code);
        if (!code) code = write_table(&s, draws);
        code = units_close(s.work, code);
    } else {
        data_rows_close(v, code);
    }
    free(draws);
    for (size_t i = 0; i < cfg.num_data; i++) {
        gsl_matrix_free(s.data[i].X);
        gsl_matrix_free(s.data[i].Y);
    }
    free(s.data);
    return code;
}
