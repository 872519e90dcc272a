/* Where the law of large numbers behind the kernel's limit breaks down (F1). */
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/samples.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>

static const char doc[] =
    "Relative error of the full kernel against its limit as sigma grows, in units of the threshold "
    "sigma max||x_i|| = sqrt(2 ln m) / 2 at which a sum of m log-normal weights freezes.";
static const char columns[] = "prefix_len,threshold_share,sigma,num_trials,rel_err_mean,rel_err_ci_lo,rel_err_ci_hi,"
                              "rel_err_rms,rel_err_pred,rel_err_median,rel_err_median_ci_lo,rel_err_median_ci_hi";

struct config {
    struct cli_common c;
    struct samples_options samples;
    size_t *prefix_lens, num_lens, num_trials;
    double *shares;
    size_t num_shares;
};

static const struct cli_option options[] = {
    SAMPLES_INPUTS(struct config, samples),
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 2, .max = (size_t)1 << 32,
      .value = "256,4096,65536", .group = 1, .doc = "prefix lengths m, at least 2" },
    { "threshold-share", CLI_DOUBLES(struct config, shares, num_shares), .group = 1,
      .doc = "sigma as shares of the threshold (default 0.125 .. 2)" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "64", .group = 1,
      .doc = "prefixes drawn" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    if (cfg->samples.inputs_out || cfg->samples.targets_out) return "--inputs-out, --targets-out: not of this program";
    return samples_check(&cfg->samples, false);
}

static double sigma_of(const struct config *cfg, const gsl_matrix *X, size_t len, size_t share)
{
    double longest = 0.0;
    for (size_t i = 0; i < X->size1; i++) {
        gsl_vector_const_view x = gsl_matrix_const_row(X, i);
        longest = fmax(longest, gsl_blas_dnrm2(&x.vector));
    }
    return cfg->shares[share] * 0.5 * sqrt(2.0 * log((double)cfg->prefix_lens[len])) / longest;
}

/* One trial at one length: the error at every sigma. */
static int run_trial(const struct config *cfg, const gsl_matrix *X, size_t len, size_t trial, double *out)
{
    const size_t size = X->size1 * X->size2;
    gsl_matrix *K = gsl_matrix_alloc(size, size), *limit = gsl_matrix_alloc(size, size);
    int status = K && limit ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t h = 0; h < cfg->num_shares && !status; h++) {
        const double sigma = sigma_of(cfg, X, len, h);
        struct ntk_sweep *sweep = ntk_sweep_alloc(X, cfg->c.seed, trial, PREFIX_SIGNS_RANDOM, sigma, NTK_FULL, 1);
        if (!sweep) status = GSL_ENOMEM;
        if (!status) status = ntk_limit(X, X, sigma, PREFIX_SIGNS_RANDOM, NTK_FULL, limit);
        if (!status) status = ntk_sweep_step(sweep, cfg->prefix_lens[len], NTK_FULL, K);
        ntk_sweep_free(sweep);
        if (status) break;
        gsl_vector_view l = gsl_vector_view_array(limit->data, size * size),
            k = gsl_vector_view_array(K->data, size * size);
        const double scale = gsl_blas_dnrm2(&l.vector);
        gsl_matrix_sub(K, limit);
        out[h] = gsl_blas_dnrm2(&k.vector) / scale;
    }
    gsl_matrix_free(limit);
    gsl_matrix_free(K);
    return status;
}

static int report(const struct config *cfg, const gsl_matrix *X, const struct units *work)
{
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x)), *y = cli_need(malloc(cfg->num_trials * sizeof *y));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); free(y); return EXIT_FAILED; }
    table_note(t, "num_samples=%zu dim=%zu signs=random kernel=full; threshold_share: sigma max||x|| over sqrt(2 ln "
                  "m)/2", X->size1, X->size2);
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    size_t longest = 0;
    for (size_t i = 1; i < cfg->num_lens; i++)
        if (cfg->prefix_lens[i] > cfg->prefix_lens[longest]) longest = i;
    for (size_t i = 0; i < cfg->num_lens; i++)
        for (size_t h = 0; h < cfg->num_shares; h++) {
            const double sigma = sigma_of(cfg, X, i, h);
            double constant = NAN, squares = 0.0;
            if (cli_need_memory(ntk_error_constant(X, sigma, PREFIX_SIGNS_RANDOM, NTK_FULL, &constant, NULL)))
                constant = NAN;
            const double pred = constant / sqrt((double)cfg->prefix_lens[i]);
            for (size_t r = 0; r < cfg->num_trials; r++) {
                x[r] = units_row(work, i * cfg->num_trials + r)[h];
                y[r] = x[r] * x[r] / (pred * pred);
                squares += x[r] * x[r] / (double)cfg->num_trials;
            }
            struct interval table_mean = { 0 }, mean = { 0 }, square = { 0 }, table_median = { 0 }, median = { 0 };
            stats_mean(x, cfg->num_trials, 0.95, &table_mean);
            stats_mean(x, cfg->num_trials, 0.999, &mean);
            cli_need_memory(stats_median_bootstrap(x, cfg->num_trials, 0.95, cfg->c.seed, &table_median));
            cli_need_memory(stats_median_bootstrap(x, cfg->num_trials, 0.999, cfg->c.seed, &median));
            table_int(t, cfg->prefix_lens[i]);
            table_num(t, cfg->shares[h]);
            table_num(t, sigma);
            table_int(t, cfg->num_trials);
            table_interval(t, table_mean);
            table_num(t, sqrt(squares));
            table_num(t, pred);
            table_interval(t, table_median);
            table_end_row(t);
            if (i != longest) continue;
            if (cfg->shares[h] == 1.0) verdicts_add(v, "F1", "at-threshold-median", median);
            if (cfg->shares[h] == 1.5) verdicts_add(v, "F1", "beyond", mean);
            if (cfg->shares[h] == 0.25 && !stats_mean(y, cfg->num_trials, 0.999, &square))
                verdicts_add(v, "F1", "well-below", (struct interval){ sqrt(square.value), sqrt(fmax(square.lo, 0.0)),
                                                                       sqrt(square.hi), cfg->num_trials });
        }
    free(y);
    free(x);
    return table_close(t, verdicts_close(v, 0));
}

int main(int argc, char **argv)
{
    static double default_shares[] = { 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0 };
    static struct config cfg = { .shares = default_shares, .num_shares = sizeof default_shares / sizeof *default_shares,
                                 .samples = { .num_samples = 8, .dim = 4 } };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    gsl_matrix *X = NULL;
    int code = samples_load(&cfg.c, &cfg.samples, 0, &X, NULL);
    if (code) return code;
    cli_warn_duplicates(&cfg.c, X, cfg.samples.inputs ? cfg.samples.inputs : "inputs");
    char *options_text = cli_identity(options, &cfg.c);
    char *identity = cli_text("%016llx%s", (unsigned long long)cli_checksum(X), options_text);
    free(options_text);
    const size_t units = cfg.num_lens * cfg.num_trials;
    const double nd = (double)(X->size1 * X->size2);
    const size_t longest = cli_largest(cfg.prefix_lens, cfg.num_lens);
    const double unit = 2.0 * nd * nd * sizeof(double)
                      + (double)ntk_moments_bytes(X->size1, X->size2, PREFIX_SIGNS_RANDOM, NTK_FULL, longest);
    struct units *work = units_open(&cfg.c, identity, "trials", units, cfg.num_shares, unit);
    free(identity);
    code = EXIT_FAILED;
    if (work) {
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
        for (size_t u = 0; u < units; u++) {
            double *row = units_begin(work, u);
            if (row) units_end(work, u, run_trial(&cfg, X, u / cfg.num_trials, u % cfg.num_trials, row));
        }
        code = units_status(work);
        if (!code) code = report(&cfg, X, work);
    }
    gsl_matrix_free(X);
    return units_close(work, code);
}
