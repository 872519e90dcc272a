/* How large scores and softmax weights get, against the bound B (T9, T10, F6). */
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/samples.h"
#include "cli/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"

static const char doc[] =
    "Largest score max |<w_r, x_i>| and range of the softmax weights by prefix length, against "
    "B = max(sqrt 2 sigma sqrt(log(n d/delta)), 1) and the same with log m under the root. Inputs of length 1.";
static const char columns[] = "prefix_len,num_trials,score_max_mean,score_max_ci_lo,score_max_ci_hi,bound,bound_log_m,"
                              "fail_rate,fail_rate_log_m,log_weight_mean,log_weight_ci_lo,log_weight_ci_hi,"
                              "weight_fail_rate_measured,weight_fail_rate,weight_fail_rate_pred";

struct config {
    struct cli_common c;
    size_t num_samples, dim, num_trials, *prefix_lens, num_lens;
    double sigma, delta;
    const char *rows;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 1u << 16, .value = "16", .group = 1,
      .doc = "inputs" },
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1u << 16, .value = "8", .arg = "D", .group = 1,
      .doc = "their dimension" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = (size_t)1 << 32,
      .value = "1,4,16,64,256,1024,4096,16384,65536", .group = 1, .doc = "prefix lengths m" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1u << 24, .value = "1000", .group = 1,
      .doc = "prefixes drawn" },
    KERNEL_SIGMA(struct config, "0.7"),
    { "delta", CLI_DOUBLE(struct config, delta), .value = "0.1", .arg = "P", .group = 1,
      .doc = "probability with which the bound may fail" },
    { "rows", CLI_TEXT(struct config, rows), .arg = "NAME", .group = 2,
      .doc = "write only the rows NAME-stated and NAME-predicted of T10 (default the others)", .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    return cfg->delta < 1.0 ? NULL : "--delta: not below 1";
}

static double bound(const struct config *cfg, double tokens)
{
    return fmax(sqrt(2.0) * cfg->sigma * sqrt(log((double)(cfg->num_samples * cfg->dim) * tokens / cfg->delta)), 1.0);
}

/* The rate at which some S_ir leaves e^{+-2B}/m, from ln(m S_ir) = s - sigma^2/2 with s ~ N(0, sigma^2), independent
 * over tokens and samples. */
static double predicted_failures(const struct config *cfg, double tokens)
{
    const double B = bound(cfg, 1.0), shift = 0.5 * cfg->sigma * cfg->sigma;
    const double tails = gsl_cdf_ugaussian_Q((2.0 * B - shift) / cfg->sigma)
        + gsl_cdf_ugaussian_Q((2.0 * B + shift) / cfg->sigma);
    return -expm1(-(double)cfg->num_samples * tokens * tails);
}

enum { NUM_RESULTS = 2, BLOCK = 512 };   /* max |score|, max |ln(m S)| */

/* One prefix, all lengths: nested, so one pass serves them all. */
static int run_trial(const struct config *cfg, const size_t *lens, size_t num_lens, size_t trial, double *out)
{
    const size_t n = cfg->num_samples, d = cfg->dim;
    gsl_matrix *X = gsl_matrix_alloc(n, d), *W = gsl_matrix_alloc(BLOCK, d), *S = gsl_matrix_alloc(BLOCK, n);
    /* By sample: largest and smallest score so far, sum of e^score relative to the largest. */
    double *top = calloc(3 * n, sizeof *top), *low = top ? top + n : NULL, *mass = top ? top + 2 * n : NULL;
    int status = X && W && S && top ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) samples_sphere(cfg->c.seed, RANDOM_INPUTS, 0, 0, X);
    for (size_t i = 0; i < n && !status; i++) { top[i] = -INFINITY; low[i] = INFINITY; }
    size_t done = 0;
    for (size_t l = 0; l < num_lens && !status; l++, out += NUM_RESULTS) {
        while (done < lens[l]) {
            const size_t rows = lens[l] - done < BLOCK ? lens[l] - done : BLOCK;
            for (size_t r = 0; r < rows; r++)
                random_normal(cfg->c.seed, RANDOM_PREFIX, trial, done + r, gsl_matrix_ptr(W, r, 0), d);
            gsl_matrix_view w = gsl_matrix_submatrix(W, 0, 0, rows, d), s = gsl_matrix_submatrix(S, 0, 0, rows, n);
            gsl_blas_dgemm(CblasNoTrans, CblasTrans, cfg->sigma, &w.matrix, X, 0.0, &s.matrix);
            for (size_t r = 0; r < rows; r++)
                for (size_t i = 0; i < n; i++) {
                    const double score = gsl_matrix_get(S, r, i);
                    if (score > top[i]) { mass[i] = mass[i] * exp(top[i] - score) + 1.0; top[i] = score; }
                    else mass[i] += exp(score - top[i]);
                    low[i] = fmin(low[i], score);
                }
            done += rows;
        }
        out[0] = out[1] = 0.0;
        for (size_t i = 0; i < n; i++) {
            const double mean = top[i] + log(mass[i] / (double)lens[l]);      /* log of the mean of e^score */
            out[0] = fmax(out[0], fmax(top[i], -low[i]));
            out[1] = fmax(out[1], fmax(top[i] - mean, mean - low[i]));
        }
        if (!isfinite(out[1])) status = GSL_EDOM;
    }
    free(top);
    gsl_matrix_free(S);
    gsl_matrix_free(W);
    gsl_matrix_free(X);
    return status;
}

/* Rate of trials for which column `which` exceeds `limit`, or twice column 0. */
static double failures(const struct config *cfg, const struct units *work, size_t len, size_t which, double limit,
                       bool measured)
{
    double count = 0.0;
    for (size_t r = 0; r < cfg->num_trials; r++) {
        const double *result = units_row(work, r) + len * NUM_RESULTS;
        count += result[which] > (measured ? 2.0 * result[0] * (1.0 + 1e-12) : limit);
    }
    return count;
}

/* T10 with --rows: the rate of failure with B of T9 at the longest prefix, and that at the length where the prediction
 * is nearest to one half, over the prediction. */
static void write_stated(const struct config *cfg, const size_t *lens, size_t num_lens, const struct units *work,
                         struct verdicts *v)
{
    const double count = (double)cfg->num_trials, limit = 2.0 * bound(cfg, 1.0);
    struct interval rate = { NAN, NAN, NAN, 0 };
    char row[64];
    size_t half = 0;
    for (size_t l = 1; l < num_lens; l++)
        if (fabs(predicted_failures(cfg, (double)lens[l]) - 0.5) < fabs(predicted_failures(cfg, (double)lens[half])
                                                                        - 0.5))
            half = l;
    stats_rate(failures(cfg, work, num_lens - 1, 1, limit, false), count, 0.999, &rate);
    snprintf(row, sizeof row, "%s-stated", cfg->rows);
    verdicts_add(v, "T10", row, rate);
    const double predicted = predicted_failures(cfg, (double)lens[half]);
    stats_rate(failures(cfg, work, half, 1, limit, false), count, 0.999, &rate);
    snprintf(row, sizeof row, "%s-predicted", cfg->rows);
    verdicts_add(v, "T10", row, (struct interval){ rate.value / predicted, rate.lo / predicted, rate.hi / predicted,
                                                   rate.n });
}

/* The rows of the longest prefix, and of how the largest score grows with the length. */
static void write_growth(const struct config *cfg, const size_t *lens, size_t num_lens, const struct units *work,
                         struct verdicts *v)
{
    const size_t trials = cfg->num_trials;
    const double count = (double)trials, B = bound(cfg, 1.0);
    double *x = cli_need(malloc(trials * sizeof *x)), *slope = cli_need(malloc(trials * sizeof *slope));
    struct interval rate, mean;
    const size_t last = num_lens - 1;
    if (!stats_rate(failures(cfg, work, last, 0, B, false), count, 0.999, &rate))
        verdicts_add(v, "T9", "without-log-m", rate);
    if (!stats_rate(failures(cfg, work, last, 0, bound(cfg, (double)lens[last]), false), count, 0.999, &rate))
        verdicts_add(v, "T9", "with-log-m", rate);
    if (!stats_rate(failures(cfg, work, last, 1, 0.0, true), count, 0.999, &rate))
        verdicts_add(v, "T10", "measured-bound", rate);
    if (!stats_rate(failures(cfg, work, last, 1, 2.0 * B, false), count, 0.999, &rate))
        verdicts_add(v, "T10", "stated-bound", rate);
    /* Growth: the least-squares slope of max s^2 / (2 sigma^2) in ln m, within each trial, m >= 16. */
    for (size_t r = 0; r < trials; r++) {
        double sx = 0.0, sy = 0.0, sxx = 0.0, sxy = 0.0, points = 0.0;
        for (size_t l = 0; l < num_lens; l++) {
            if (lens[l] < 16) continue;
            const double s = units_row(work, r)[l * NUM_RESULTS], a = log((double)lens[l]),
                b = s * s / (2.0 * cfg->sigma * cfg->sigma);
            sx += a;
            sy += b;
            sxx += a * a;
            sxy += a * b;
            points++;
        }
        slope[r] = (points * sxy - sx * sy) / (points * sxx - sx * sx);
        const double *result = units_row(work, r) + last * NUM_RESULTS;
        x[r] = result[1] / (2.0 * result[0]);
    }
    if (stats_mean(slope, trials, 0.999, &mean)) mean = (struct interval){ NAN, NAN, NAN, trials };
    verdicts_add(v, "F6", "growth", mean);
    if (stats_mean(x, trials, 0.999, &mean)) mean = (struct interval){ NAN, NAN, NAN, trials };
    verdicts_add(v, "F6", "exponent", mean);
    free(slope);
    free(x);
}

static int report(const struct config *cfg, const size_t *lens, size_t num_lens, const struct units *work)
{
    const size_t trials = cfg->num_trials;
    const double count = (double)trials, B = bound(cfg, 1.0);
    double *x = cli_need(malloc(trials * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t, "num_samples=%zu dim=%zu sigma=%.17g delta=%g; log_weight: max |ln(m S_ir)|; measured: with B the "
                  "largest score; pred: closed form", cfg->num_samples, cfg->dim, cfg->sigma, cfg->delta);
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    struct interval rate, mean;
    for (size_t l = 0; l < num_lens; l++) {
        table_int(t, lens[l]);
        table_int(t, trials);
        for (size_t r = 0; r < trials; r++) x[r] = units_row(work, r)[l * NUM_RESULTS];
        if (stats_mean(x, trials, 0.95, &mean)) mean = (struct interval){ NAN, NAN, NAN, trials };
        table_interval(t, mean);
        table_num(t, B);
        table_num(t, bound(cfg, (double)lens[l]));
        table_num(t, failures(cfg, work, l, 0, B, false) / count);
        table_num(t, failures(cfg, work, l, 0, bound(cfg, (double)lens[l]), false) / count);
        for (size_t r = 0; r < trials; r++) x[r] = units_row(work, r)[l * NUM_RESULTS + 1];
        if (stats_mean(x, trials, 0.95, &mean)) mean = (struct interval){ NAN, NAN, NAN, trials };
        table_interval(t, mean);
        table_num(t, failures(cfg, work, l, 1, 0.0, true) / count);
        table_num(t, failures(cfg, work, l, 1, 2.0 * B, false) / count);
        table_num(t, predicted_failures(cfg, (double)lens[l]));
        table_end_row(t);
        if (!cfg->rows && lens[l] == 1 && !stats_rate(failures(cfg, work, l, 0, B, false), count, 0.999, &rate))
            verdicts_add(v, "T9", "single-token", rate);
    }
    if (cfg->rows) {
        write_stated(cfg, lens, num_lens, work, v);
        free(x);
        return table_close(t, verdicts_close(v, 0));
    }
    write_growth(cfg, lens, num_lens, work, v);
    free(x);
    return table_close(t, verdicts_close(v, 0));
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    size_t num_lens, *lens = cli_sorted_sizes(cfg.prefix_lens, cfg.num_lens, &num_lens);
    char *identity = cli_identity(options, &cfg.c);
    const double unit = sizeof(double) * ((double)(cfg.num_samples * cfg.dim)
                                          + BLOCK * (double)(cfg.dim + cfg.num_samples)
                                          + 3.0 * (double)cfg.num_samples);
    struct units *work = units_open(&cfg.c, identity, "trials", cfg.num_trials, num_lens * NUM_RESULTS, unit);
    free(identity);
    int code = EXIT_FAILED;
    if (work) {
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
        for (size_t u = 0; u < cfg.num_trials; u++) {
            double *row = units_begin(work, u);
            if (row) units_end(work, u, run_trial(&cfg, lens, num_lens, u, row));
        }
        code = units_status(work);
        if (!code) code = report(&cfg, lens, num_lens, work);
    }
    free(lens);
    return units_close(work, code);
}
