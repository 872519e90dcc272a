/* The kernel of a prefix in a real attention layer with input tokens of its own (F5). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "prefix_ntk/ntk_layer.h"
#include "prefix_ntk/prefix_descent.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"

static const char doc[] =
    "Kernel of a prefix in an attention layer with W_Q, W_K, W_V and input tokens in the same softmax: distance from "
    "its limit, and what the input tokens change, by prefix length, each over the norm of the limit.";
static const char columns[] = "kernel,signs,prefix_len,num_trials,limit_err_mean,limit_err_ci_lo,limit_err_ci_hi,"
                              "tokens_change_mean,tokens_change_ci_lo,tokens_change_ci_hi,tokens_change_pred,"
                              "along_pred_mean,along_pred_ci_lo,along_pred_ci_hi";

struct config {
    struct cli_common c;
    size_t num_samples, dim, out_dim, seq_len, num_data, num_trials, *prefix_lens, num_lens, num_laws;
    int *laws, kernel;
    double sigma;
    bool tables;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 4096, .value = "6", .group = 1,
      .doc = "queries" },
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 4096, .value = "8", .arg = "D", .group = 1,
      .doc = "dimension of tokens and queries" },
    { "out-dim", CLI_SIZE(struct config, out_dim), .min = 1, .max = 4096, .value = "4", .arg = "V", .group = 1,
      .doc = "dimension of the values" },
    { "seq-len", CLI_SIZE(struct config, seq_len), .min = 1, .max = 1u << 20, .value = "32", .arg = "L",
      .group = 1, .doc = "input tokens" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 2, .max = (size_t)1 << 30,
      .value = "256,1024,4096,16384", .group = 1, .doc = "prefix lengths m" },
    DATA_SETS_NUM(struct config, "1", "layers drawn, each with weights, queries and tokens of its own"),
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "64", .group = 1,
      .doc = "prefixes drawn for each layer" },
    KERNEL_SIGNS(struct config, "random,positive"),
    { "kernel", CLI_CHOICE(struct config, kernel), .names = cli_kernel_names, .value = "full", .group = 1,
      .doc = "full, key" },
    KERNEL_SIGMA(struct config, "0.5"),
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
                return "--prefix-len: an odd length, which --signs mirrored cannot split";
    return NULL;
}

/* The layer; W_K is scaled so that the longest query x~_i has length 1 (beyond, F1: the
 * kernel of a longer query needs a longer prefix to converge). */
struct layer { gsl_matrix *inputs, *W_V, *X, *limit[3], *correction[3]; };      /* limits by law */

static size_t num_trials(const struct config *cfg) { return cfg->num_data * cfg->num_trials; }

static gsl_matrix *gaussian(const struct config *cfg, uint64_t which, size_t rows, size_t cols, double scale)
{
    gsl_matrix *M = gsl_matrix_alloc(rows, cols);
    if (!M) return NULL;
    random_normal(cfg->c.seed, RANDOM_WEIGHTS, which, 0, M->data, rows * cols);
    gsl_matrix_scale(M, scale);
    return M;
}

static void layer_free(struct layer *layer)
{
    gsl_matrix_free(layer->inputs);
    gsl_matrix_free(layer->W_V);
    gsl_matrix_free(layer->X);
    for (int law = 0; law < 3; law++) {
        gsl_matrix_free(layer->limit[law]);
        gsl_matrix_free(layer->correction[law]);
    }
}

static int layer_fill(const struct config *cfg, size_t which, struct layer *layer)
{
    const size_t d = cfg->dim;
    const double scale = pow((double)d, -0.25);
    gsl_matrix *queries = gsl_matrix_alloc(cfg->num_samples, d);
    gsl_matrix *W_Q = gaussian(cfg, 3 * which, d, d, scale), *W_K = gaussian(cfg, 3 * which + 1, d, d, scale);
    layer->W_V = gaussian(cfg, 3 * which + 2, d, cfg->out_dim, 1.0 / sqrt((double)d));
    layer->inputs = gsl_matrix_alloc(cfg->seq_len, d);
    layer->X = gsl_matrix_alloc(cfg->num_samples, d);
    struct prefix_layer *real;
    int status = GSL_ENOMEM;
    if (!queries || !W_Q || !W_K || !layer->W_V || !layer->inputs || !layer->X) goto done;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, which, 0, queries);
    samples_sphere(cfg->c.seed, RANDOM_TOKENS, which, 0, layer->inputs);
    for (int pass = 0; pass < 2; pass++) {
        if (!(real = prefix_layer_alloc(queries, layer->inputs, W_Q, W_K, layer->W_V))) goto done;
        gsl_matrix_memcpy(layer->X, prefix_layer_queries(real));
        prefix_layer_free(real);
        double longest = 0.0;
        for (size_t i = 0; i < cfg->num_samples; i++) {
            gsl_vector_const_view x = gsl_matrix_const_row(layer->X, i);
            longest = fmax(longest, gsl_blas_dnrm2(&x.vector));
        }
        gsl_matrix_scale(W_K, 1.0 / longest);
    }
    status = GSL_SUCCESS;
done:
    gsl_matrix_free(W_K);
    gsl_matrix_free(W_Q);
    gsl_matrix_free(queries);
    return status;
}

/* Limit and correction of the laws in use. */
static int layer_limits(const struct config *cfg, struct layer *layer)
{
    const size_t size = cfg->num_samples * cfg->out_dim;
    const enum ntk_kernel kernel = (enum ntk_kernel)cfg->kernel;
    int status = GSL_SUCCESS;
    for (size_t l = 0; l < cfg->num_laws && !status; l++) {
        const enum prefix_signs law = (enum prefix_signs)cfg->laws[l];
        if (layer->limit[law]) continue;
        layer->limit[law] = gsl_matrix_alloc(size, size);
        layer->correction[law] = gsl_matrix_alloc(size, size);
        if (!layer->limit[law] || !layer->correction[law]) return GSL_ENOMEM;
        status = ntk_layer_limit(layer->X, layer->X, layer->W_V, cfg->sigma, law, kernel, layer->limit[law]);
        if (!status)
            status = ntk_layer_correction(layer->X, layer->inputs, layer->W_V, cfg->sigma, law, kernel,
                                          layer->correction[law]);
    }
    return status;
}

static double inner(const gsl_matrix *A, const gsl_matrix *B)
{
    double sum = 0.0;
    for (size_t i = 0; i < A->size1; i++)
        for (size_t j = 0; j < A->size2; j++) sum += gsl_matrix_get(A, i, j) * gsl_matrix_get(B, i, j);
    return sum;
}

enum { NUM_RESULTS = 3 };   /* distance from the limit, change by the inputs, its share along the prediction */

static int run_trial(const struct config *cfg, const struct layer *layer, enum prefix_signs law, size_t trial,
                     double *out)
{
    const gsl_matrix *limit = layer->limit[law], *correction = layer->correction[law];
    const size_t size = limit->size1;
    const enum ntk_kernel kernel = (enum ntk_kernel)cfg->kernel;
    gsl_matrix *with = gsl_matrix_alloc(size, size), *without = gsl_matrix_alloc(size, size);
    int status = with && without ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < cfg->num_lens && !status; i++, out += NUM_RESULTS) {
        const size_t m = cfg->prefix_lens[i];
        gsl_matrix *W = gsl_matrix_alloc(m, cfg->dim);
        gsl_vector *signs = gsl_vector_alloc(m);
        status = W && signs ? prefix_draw(cfg->c.seed, trial, law, cfg->sigma, W, signs, 1) : GSL_ENOMEM;
        if (!status) status = ntk_layer_gram(W, signs, layer->X, layer->inputs, layer->W_V, kernel, with, 1);
        if (!status) status = ntk_layer_gram(W, signs, layer->X, NULL, layer->W_V, kernel, without, 1);
        gsl_vector_free(signs);
        gsl_matrix_free(W);
        if (status) break;
        gsl_matrix_sub(with, without);
        gsl_matrix_sub(without, limit);
        out[0] = sqrt(inner(without, without) / inner(limit, limit));
        out[1] = sqrt(inner(with, with) / inner(limit, limit));
        out[2] = (double)m * inner(with, correction) / inner(correction, correction);
    }
    gsl_matrix_free(without);
    gsl_matrix_free(with);
    return status;
}

static int report(const struct config *cfg, const struct layer *layers, const struct units *work, struct data_rows *v)
{
    const size_t trials = num_trials(cfg);
    const struct data_sets sets = { cfg->num_data, cfg->num_trials };
    double *x = cli_need(malloc(cfg->num_lens * sizeof *x)), *y = cli_need(malloc(cfg->num_lens * trials * sizeof *y));
    double *z = cli_need(malloc(trials * sizeof *z));
    struct table *t = table_open(&cfg->c, NULL, columns);
    char row[64];
    size_t longest = 0;
    if (t)
        table_note(t,
                   "num_samples=%zu dim=%zu out_dim=%zu seq_len=%zu sigma=%.17g num_data=%zu; errors over the norm of "
                   "the limit; along_pred: "
                   "m times the change, projected on its prediction; ci: 95%% Student t over layers; num_trials: "
                   "prefixes of each",
                   cfg->num_samples, cfg->dim, cfg->out_dim, cfg->seq_len, cfg->sigma, cfg->num_data);
    for (size_t i = 1; i < cfg->num_lens; i++) longest = cfg->prefix_lens[i] > cfg->prefix_lens[longest] ? i : longest;
    for (size_t l = 0; l < cfg->num_laws && t; l++) {
        const char *law = cli_sign_names[cfg->laws[l]];
        double predicted = 0.0;
        for (size_t k = 0; k < cfg->num_data; k++) {
            const gsl_matrix *limit = layers[k].limit[cfg->laws[l]], *correction = layers[k].correction[cfg->laws[l]];
            predicted += sqrt(inner(correction, correction) / inner(limit, limit)) / (double)cfg->num_data;
        }
        for (size_t i = 0; i < cfg->num_lens; i++) {
            x[i] = (double)cfg->prefix_lens[i];
            table_text(t, cli_kernel_names[cfg->kernel]);
            table_text(t, law);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, cfg->num_trials);
            for (size_t which = 0; which < NUM_RESULTS; which++) {
                for (size_t r = 0; r < trials; r++) z[r] = units_row(work, l * trials + r)[i * NUM_RESULTS + which];
                const struct interval mean = data_spread_mean(z, sets, 0.95).mean;
                table_interval(t, mean);
                if (which == 1) table_num(t, predicted / x[i]);
                if (which != 2 || i != longest) continue;
                snprintf(row, sizeof row, "layers-tokens-size-%s", law);
                data_rows_spread(v, "F5", row, data_spread_mean(z, sets, 0.999));
            }
            table_end_row(t);
        }
        for (int which = 0; which < 2; which++) {
            for (size_t r = 0; r < trials; r++)
                for (size_t i = 0; i < cfg->num_lens; i++)
                    y[r * cfg->num_lens + i] = units_row(work, l * trials + r)[i * NUM_RESULTS + (size_t)which];
            snprintf(row, sizeof row, "layers-%s-slope-%s", which ? "tokens" : "limit", law);
            data_rows_spread(v, "F5", row, data_spread_exponent(x, y, cfg->num_lens, sets, 0.999));
        }
    }
    free(z);
    free(y);
    free(x);
    return table_close(t, data_rows_close(v, t ? 0 : EXIT_FAILED));
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    const size_t size = cfg.num_samples * cfg.out_dim, units = cfg.num_laws * num_trials(&cfg);
    const size_t longest = cli_largest(cfg.prefix_lens, cfg.num_lens);
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    struct layer *layers = cli_need(calloc(cfg.num_data, sizeof *layers));
    struct units *work = NULL;
    int code =
        cli_memory(&cfg.c,
                   (double)cfg.c.threads * ((double)longest * (double)(cfg.dim + 1) + 10.0 * (double)(size * size))
                       * sizeof(double),
                   "the prefix");
    for (size_t i = 0; i < cfg.num_data && !code; i++) {
        int status = layer_fill(&cfg, i, &layers[i]);
        if (!status) status = layer_limits(&cfg, &layers[i]);
        code = cli_status(&cfg.c, status, "limit of the layer");
    }
    if (!code) {
        char *identity = cli_identity(options, &cfg.c);
        work = units_open(&cfg.c, identity, "trials", units, cfg.num_lens * NUM_RESULTS, 0.0);
        free(identity);
        if (work) {
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
            for (size_t u = 0; u < units; u++) {
                const size_t trial = u % num_trials(&cfg);
                const enum prefix_signs law = (enum prefix_signs)cfg.laws[u / num_trials(&cfg)];
                double *row = units_begin(work, u);
                if (row) units_end(work, u, run_trial(&cfg, &layers[trial / cfg.num_trials], law, trial, row));
            }
        }
        code = work ? units_status(work) : EXIT_FAILED;
        code = code ? data_rows_close(v, code) : report(&cfg, layers, work, v);
        code = units_close(work, code);
    } else {
        data_rows_close(v, code);
    }
    for (size_t i = 0; i < cfg.num_data; i++) layer_free(&layers[i]);
    free(layers);
    return code;
}
