/* A long Gaussian prefix tends to a linear function of the query: rate, constant, freezing at a
 * large score spread; odd Taylor degrees are exact there, even degrees shrink. Ledger F51-F54. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "approximation/approx_theory.h"
#include "cli/option_table.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"
#include "cli/units.h"

static const char columns[] = "score_std,prefix_len,distance_rms,distance_ci_lo,distance_ci_hi,distance_pred,"
                              "num_trials";
static const char parity_columns[] = "score_std,degree,shrink_mean,shrink_ci_lo,shrink_ci_hi,shrink_pred,num_trials";

struct config {
    struct cli_common c;
    size_t dim, num_queries, num_trials, max_len, *lens, num_lens;
    double *spreads;
    size_t num_spreads;
};

static const struct cli_option options[] = {
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1024, .value = "16", .arg = "D",
      .doc = "head dimension" },
    { "num-queries", CLI_SIZE(struct config, num_queries), .min = 1, .max = 65536, .value = "64", .doc = "queries" },
    { "prefix-len", CLI_SIZE(struct config, max_len), .min = 64, .max = (size_t)1 << 32, .value = "262144",
      .arg = "M", .doc = "longest prefix; measured at 64, 256, 1024, .. up to it" },
    { "score-std", CLI_DOUBLES(struct config, spreads, num_spreads), .value = "0.25,0.5,1,1.5,2,3", .arg = "S,..",
      .doc = "standard deviations of the scores" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "24", .doc = "trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

enum { MAX_DEGREE = 4, PER_LEN = 2 };      /* squared distance, its prediction squared */

/* A trial: (spread, length, 2), then (spread, degree 1..4) at the longest prefix. */
static size_t at_distance(const struct config *cfg, size_t spread, size_t len)
{
    return (spread * cfg->num_lens + len) * PER_LEN;
}
static size_t at_shrink(const struct config *cfg, size_t spread, size_t degree)
{
    return cfg->num_spreads * cfg->num_lens * PER_LEN + 2 * (spread * MAX_DEGREE + degree - 1);
}

/* What a pass works on: queries, their limit, and what the limit says of each. */
struct instance {
    size_t d, n;
    double *Q, *limit, *spread, *mean, *s, *norm2;
    double value_norm2;
    struct prefix_sums sums;
    struct attn_sums exact;
};

/* Squared distance of the mean of the prefix from its limit at spread number j, relative, and its prediction. */
static int distance(const struct config *cfg, struct instance *x, size_t j, size_t len, double *out)
{
    const size_t d = x->d;
    const double theta = cfg->spreads[j];
    double err2 = 0.0, all2 = 0.0;
    const int status = prefix_sums_exact(&x->sums, j, &x->exact);
    if (status) return status;
    for (size_t i = 0; i < x->n; i++) {
        x->norm2[i] = 0.0;
        x->s[i] = theta * x->spread[i];
        for (size_t c = 0; c < d; c++) {
            const double want = theta * x->limit[i * d + c], e = x->exact.num[i * d + c] / x->exact.mass[i] - want;
            err2 += e * e;
            x->norm2[i] += want * want;
        }
        all2 += x->norm2[i];
    }
    const double pred = gaussian_limit_rate(x->s, x->norm2, x->n, x->value_norm2, (double)len);
    out[0] = err2 / all2;
    out[1] = pred * pred;
    return GSL_SUCCESS;
}

/* Projection of the plug-in mean of degree g on the limit, and the same of the closed form. */
static int shrink(struct instance *x, double theta, size_t g, double *out)
{
    static const double taylor[MAX_DEGREE + 1] = { 1.0, 1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0 };
    const size_t d = x->d;
    double along = 0.0, form = 0.0, all = 0.0;
    const int status = prefix_sums_polynomial(&x->sums, theta, 0, taylor, g, taylor, g, &x->exact);
    if (status) return status;
    for (size_t i = 0; i < x->n; i++) {
        const double *limit = x->limit + i * d;
        const double dot = cblas_ddot((int)d, x->exact.num + i * d, 1, limit, 1) / x->exact.mass[i];
        const double self = theta * cblas_ddot((int)d, limit, 1, limit, 1);
        along += dot;
        all += self;
        form += self * taylor_shrink(g, theta * x->spread[i]);
    }
    out[0] = along / all;
    out[1] = form / all;
    return GSL_SUCCESS;
}

/* Reads on until the prefix has `len` tokens. */
static int read_prefix(struct source *source, struct instance *x, size_t len, double *Kp, double *Vp)
{
    int status = GSL_SUCCESS;
    while (x->sums.prefix_len < len && !status) {
        const size_t first = x->sums.prefix_len;
        size_t end = prefix_sums_block_end(first);
        if (end > len) end = len;
        status = source_prefix(source, first, end - first, Kp, Vp);
        if (!status) status = prefix_sums_add(&x->sums, x->Q, Kp, Vp, end - first);
    }
    return status;
}

/* All spreads share one pass: scores at spread s are s times those at spread 1. */
static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    const size_t d = cfg->dim, n = cfg->num_queries;
    struct source source = { 0 };
    struct instance x = { .d = d, .n = n, .Q = malloc((2 * n * d + 4 * n) * sizeof *x.Q) };
    double *Kp = malloc(2 * PREFIX_SUMS_BLOCK * d * sizeof *Kp), *Vp = Kp + PREFIX_SUMS_BLOCK * d;
    int status = x.Q && Kp ? GSL_SUCCESS : GSL_ENOMEM;
    x.limit = x.Q + n * d;
    x.spread = x.limit + n * d;
    x.mean = x.spread + n;
    x.s = x.mean + n;
    x.norm2 = x.s + n;
    if (!status) status = source_init(&source, cfg->c.seed, trial, d, SOURCE_TIED, NULL, 0.0);
    if (!status) status = source_inputs(&source, 0, n, x.Q, NULL, NULL);
    if (!status) status = source_gaussian_limit(&source, x.Q, n, x.spread, x.mean, x.limit);
    if (!status)
        status = prefix_sums_alloc(&x.sums, n, d, 1.0 / sqrt((double)d), MAX_DEGREE, cfg->spreads, cfg->num_spreads,
                                   NULL, 0);
    if (!status) status = attn_sums_alloc(&x.exact, n, d);
    x.value_norm2 = status ? 0.0 : source_value_norm2(&source);
    for (size_t l = 0; l < cfg->num_lens && !status; l++) {
        status = read_prefix(&source, &x, cfg->lens[l], Kp, Vp);
        for (size_t j = 0; j < cfg->num_spreads && !status; j++)
            status = distance(cfg, &x, j, cfg->lens[l], out + at_distance(cfg, j, l));
    }
    for (size_t j = 0; j < cfg->num_spreads && !status; j++)
        for (size_t g = 1; g <= MAX_DEGREE && !status; g++)
            status = shrink(&x, cfg->spreads[j], g, out + at_shrink(cfg, j, g));
    source_free(&source);
    prefix_sums_free(&x.sums);
    attn_sums_free(&x.exact);
    free(x.Q);
    free(Kp);
    return status;
}

static double column(const struct units *work, size_t num_trials, size_t at, double *x)
{
    double sum = 0.0;
    for (size_t t = 0; t < num_trials; t++) sum += x[t] = units_row(work, t)[at];
    return sum / (double)num_trials;
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    const size_t N = cfg->num_trials;
    double *x = cli_need(malloc(N * sizeof *x));
    table_note(t, "distance: ||mean of the prefix - limit||_F / ||limit||_F over queries, root mean square over "
                  "trials; interval of the mean square, 99.9 %%");
    for (size_t j = 0; j < cfg->num_spreads; j++)
        for (size_t l = 0; l < cfg->num_lens; l++) {
            const double pred = column(work, N, at_distance(cfg, j, l) + 1, x);
            column(work, N, at_distance(cfg, j, l), x);
            const struct interval ci = cli_mean(x, N, 0.999);
            table_num(t, cfg->spreads[j]);
            table_int(t, cfg->lens[l]);
            table_num(t, sqrt(ci.value));
            table_num(t, sqrt(fmax(ci.lo, 0.0)));
            table_num(t, sqrt(ci.hi));
            table_num(t, sqrt(pred));
            table_int(t, N);
            table_end_row(t);
        }
    free(x);
}

static void write_parity(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    const size_t N = cfg->num_trials;
    double *x = cli_need(malloc(N * sizeof *x));
    table_note(t, "shrink: projection of the plug-in mean on the limit over the limit's square, longest prefix; pred: "
                  "the same of the closed form");
    for (size_t j = 0; j < cfg->num_spreads; j++)
        for (size_t g = 1; g <= MAX_DEGREE; g++) {
            const double form = column(work, N, at_shrink(cfg, j, g) + 1, x);
            column(work, N, at_shrink(cfg, j, g), x);
            const struct interval ci = cli_mean(x, N, 0.999);
            table_num(t, cfg->spreads[j]);
            table_int(t, g);
            table_interval(t, ci);
            table_num(t, form);
            table_int(t, N);
            table_end_row(t);
        }
    free(x);
}

/* Number of the spread, or none. */
static size_t spread_index(const struct config *cfg, double value)
{
    size_t j = 0;
    while (j < cfg->num_spreads && cfg->spreads[j] != value) j++;
    return j;
}

static void decide_slope(const struct config *cfg, const struct units *work, struct verdicts *v, double spread,
                         const char *claim, const char *row)
{
    const size_t j = spread_index(cfg, spread), N = cfg->num_trials;
    size_t first = 0;
    while (first < cfg->num_lens && cfg->lens[first] < 1024) first++;
    const size_t count = cfg->num_lens - first;
    double *x = cli_need(malloc((count + 1) * sizeof *x)), *y = cli_need(malloc((count * N + 1) * sizeof *y));
    struct interval ci = { NAN, NAN, NAN, 0 };
    if (x && y && count >= 3 && j < cfg->num_spreads) {
        for (size_t l = 0; l < count; l++) {
            x[l] = (double)cfg->lens[first + l];
            for (size_t t = 0; t < N; t++) y[t * count + l] = sqrt(units_row(work, t)[at_distance(cfg, j, first + l)]);
        }
        ci = cli_exponent(x, y, count, N, 0.999);
    }
    if (ci.n) verdicts_add(v, claim, row, ci);
    else verdicts_not_tested(v, claim, row);
    free(x);
    free(y);
}

/* The length that the ledger's rows speak of. */
enum { REFERENCE_LEN = 262144 };

/* Root mean square distance at that length, over its prediction or as it is. */
static void decide_distance(const struct config *cfg, const struct units *work, struct verdicts *v, double spread,
                            bool over_prediction, const char *claim, const char *row, double *x)
{
    const size_t j = spread_index(cfg, spread), N = cfg->num_trials;
    size_t len = 0;
    while (len < cfg->num_lens && cfg->lens[len] != REFERENCE_LEN) len++;
    if (j == cfg->num_spreads || len == cfg->num_lens) {
        verdicts_not_tested(v, claim, row);
        return;
    }
    for (size_t t = 0; t < N; t++) {
        const double *cell = units_row(work, t) + at_distance(cfg, j, len);
        x[t] = over_prediction ? cell[0] / cell[1] : cell[0];
    }
    struct interval ci = cli_mean(x, N, 0.999);
    ci.value = sqrt(ci.value);
    ci.lo = sqrt(fmax(ci.lo, 0.0));
    ci.hi = sqrt(ci.hi);
    verdicts_add(v, claim, row, ci);
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    decide_slope(cfg, work, v, 0.5, "F51", "slope-half");
    decide_slope(cfg, work, v, 1.0, "F51", "slope-one");
    decide_distance(cfg, work, v, 0.5, true, "F52", "half", x);
    decide_distance(cfg, work, v, 1.0, true, "F52", "one", x);
    decide_slope(cfg, work, v, 3.0, "F53", "slope-three");
    decide_distance(cfg, work, v, 3.0, false, "F53", "distance-three", x);
    const size_t one = spread_index(cfg, 1.0);
    static const char *const degree_rows[] = { "degree-1", "degree-2", "degree-3", "degree-4" };
    for (size_t g = 1; g <= MAX_DEGREE; g++) {
        if (one == cfg->num_spreads || cfg->max_len < REFERENCE_LEN) {
            verdicts_not_tested(v, "F54", degree_rows[g - 1]);
            continue;
        }
        for (size_t t = 0; t < cfg->num_trials; t++) {
            const double *cell = units_row(work, t) + at_shrink(cfg, one, g);
            x[t] = cell[0] / cell[1];
        }
        verdicts_add(v, "F54", degree_rows[g - 1], cli_mean(x, cfg->num_trials, 0.999));
    }
    free(x);
}

static double unit_bytes(const struct config *cfg)
{
    return (2.0 * (double)cfg->num_queries + 2.0 * PREFIX_SUMS_BLOCK) * (double)(cfg->dim + 2) * sizeof(double)
         + (double)prefix_sums_bytes(cfg->num_queries, cfg->dim, MAX_DEGREE, cfg->num_spreads, 0)
         + (double)attn_sums_bytes(cfg->num_queries, cfg->dim);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "The linear limit of a long Gaussian prefix.", options, shard, NULL, &cfg.c);
    for (size_t m = 64; m <= cfg.max_len; m *= 4) cfg.num_lens++;
    cfg.lens = cli_need(malloc(cfg.num_lens * sizeof *cfg.lens));
    for (size_t l = 0, m = 64; l < cfg.num_lens; l++, m *= 4) cfg.lens[l] = m;
    const struct units_study study = {
        .stem = "gaussian_prefix_limit", .what = "trials", .columns = columns, .count = cfg.num_trials,
        .width = cfg.num_spreads * (cfg.num_lens * PER_LEN + 2 * MAX_DEGREE),
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows,
        .side = "parity", .side_columns = parity_columns, .side_rows = write_parity, .decide = decide,
    };
    const int code = units_run(&cfg.c, options, &study, &cfg);
    free(cfg.lens);
    return code;
}
