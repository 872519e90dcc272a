/* The theorem's guarantee: error 1/m with d = ceil(ln m), bounded entries and the degree that Taylor's
 * remainder asks for; how many features that takes, and from which m on they are fewer than the tokens
 * they replace. Ledger M2, F59, F60. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_errno.h>

#include "approximation/approx.h"
#include "approximation/approx_theory.h"
#include "common/random.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "prefix_ntk/feature.h"

static const char columns[] =
    "scale,ln_m,dim,entry_bound,score_bound,degree,ln_r,ln_r_over_ln_m,err_times_m_max,share_above,num_trials";

struct config {
    struct cli_common c;
    size_t num_trials, *lens, num_lens;
};

static const struct cli_option options[] = {
    { "prefix-len", CLI_SIZES(struct config, lens, num_lens), .min = 3, .max = 1 << 20,
      .value = "16,64,256,1024,4096", .arg = "M,..", .doc = "lengths at which the error itself is measured" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1 << 20, .value = "60",
      .doc = "instances per length" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* Scores <q, k>/d, as in the theorem's own scaling, or <q, k>/sqrt d, as in every transformer. */
enum scale { SCALE_DIM, SCALE_SQRT, NUM_SCALES };
static const char *const scale_names[] = { "dim", "sqrt" };

struct setting { double ln_m, dim, entry, bound; size_t degree; double ln_r; };

/* Entries at most (ln m)^{1/4}, which is o(sqrt(ln m)). The bound 2 eps/(1 - eps) max|v| <= 1/m
 * (rho <= 1, max|v| = the entries' bound B) asks for eps = 1/(2 m B + 1). */
static struct setting ask(enum scale scale, double ln_m)
{
    struct setting s = { .ln_m = ln_m, .dim = ceil(ln_m), .entry = pow(ln_m, 0.25) };
    s.bound = s.entry * s.entry * (scale == SCALE_DIM ? 1.0 : sqrt(s.dim));
    const double log_eps = -(ln_m + log(2.0 * s.entry + exp(-ln_m)));
    s.degree = taylor_degree_bound(s.bound, log_eps);
    s.ln_r = log_feature_count(s.dim, (double)s.degree);
    return s;
}

enum { NUM_QUERIES = 16, NUM_INPUTS = 16 };

/* m max|T - PA| of one instance with entries uniform within the bound. */
static size_t per_scale(const struct config *cfg)
{
    return cfg->num_lens * cfg->num_trials;
}

static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    const enum scale scale = (enum scale)(trial / per_scale(cfg));
    const size_t m = cfg->lens[trial % per_scale(cfg) / cfg->num_trials];
    const struct setting s = ask(scale, log((double)m));
    const size_t d = (size_t)s.dim, n = NUM_QUERIES;
    const double factor = scale == SCALE_DIM ? 1.0 / s.dim : 1.0 / sqrt(s.dim);
    struct attn_sums input = { 0 }, prefix = { 0 }, approx = { 0 };
    struct prefix_sums sums = { 0 };
    double c[FEATURE_MAX_DEGREE + 1] = { 1.0 };
    if (s.degree > FEATURE_MAX_DEGREE) return GSL_EINVAL;
    for (size_t j = 1; j <= s.degree; j++) c[j] = c[j - 1] / (double)j;
    const size_t rows[5] = { n, NUM_INPUTS, NUM_INPUTS, m, m };
    double *x[5] = { NULL };
    int status = GSL_SUCCESS;
    for (size_t a = 0; a < 5 && !status; a++) {
        if (!(x[a] = malloc(rows[a] * d * sizeof **x))) status = GSL_ENOMEM;
        for (size_t r = 0; r < rows[a] && !status; r++) {
            random_uniform(cfg->c.seed, RANDOM_OTHER, trial * 5 + a, r, x[a] + r * d, d);
            for (size_t i = 0; i < d; i++) x[a][r * d + i] = s.entry * (2.0 * x[a][r * d + i] - 1.0);
        }
    }
    if (!status) status = attn_sums_alloc(&input, n, d);
    if (!status) status = attn_sums_alloc(&prefix, n, d);
    if (!status) status = attn_sums_alloc(&approx, n, d);
    if (!status) status = attn_sums_exact(x[0], x[1], x[2], NUM_INPUTS, factor, &input);
    if (!status) status = prefix_sums_alloc(&sums, n, d, factor, s.degree, NULL, 0, NULL, 0);
    for (size_t first = 0; first < m && !status; ) {
        size_t end = prefix_sums_block_end(first);
        if (end > m) end = m;
        status = prefix_sums_add(&sums, x[0], x[3] + first * d, x[4] + first * d, end - first);
        first = end;
    }
    struct approx_errors e;
    if (!status) status = prefix_sums_exact(&sums, 0, &prefix);
    if (!status) status = prefix_sums_polynomial(&sums, 1.0, 0, c, s.degree, c, s.degree, &approx);
    if (!status) status = approx_compare(&input, &prefix, &approx, &e, NULL);
    if (!status) *out = e.num_nonpositive ? INFINITY : e.err_max * (double)m;
    for (size_t a = 0; a < 5; a++) free(x[a]);
    attn_sums_free(&input);
    attn_sums_free(&prefix);
    attn_sums_free(&approx);
    prefix_sums_free(&sums);
    return status;
}

static void setting_cells(struct table *t, enum scale scale, const struct setting *s)
{
    table_text(t, scale_names[scale]);
    table_num(t, s->ln_m);
    table_num(t, s->dim);
    table_num(t, s->entry);
    table_num(t, s->bound);
    table_int(t, s->degree);
    table_num(t, s->ln_r);
    table_num(t, s->ln_r / s->ln_m);
}

/* The last m, in ln m, at which r(m) >= m, plus the step of the search (0.5 %): from there on r < m as far
 * as ln m = 10^6; infinite when r >= m still holds there. */
static double crossover(enum scale scale)
{
    double last = 0.0;
    for (double ln_m = 2.0; ln_m <= 1e6; ln_m *= 1.005) {
        const struct setting s = ask(scale, ln_m);
        if (s.ln_r >= s.ln_m) last = ln_m * 1.005;
    }
    return last > 1e6 ? INFINITY : last;
}

/* Of an instance: tokens and the sums of a prefix, the longest in either scaling. */
static double unit_bytes(const struct config *cfg)
{
    double most = 0.0;
    for (size_t l = 0; l < cfg->num_lens; l++)
        for (int scale = 0; scale < NUM_SCALES; scale++) {
            const struct setting s = ask((enum scale)scale, log((double)cfg->lens[l]));
            const double tokens = (2.0 * (double)cfg->lens[l] + NUM_QUERIES
                                   + 2.0 * NUM_INPUTS) * s.dim * sizeof(double);
            most = fmax(most, tokens + (double)prefix_sums_bytes(NUM_QUERIES, (size_t)s.dim, s.degree, 1, 0)
                              + 3.0 * (double)attn_sums_bytes(NUM_QUERIES, (size_t)s.dim));
        }
    return most;
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    table_note(t, "scale dim: scores <q,k>/d; sqrt: <q,k>/sqrt d; r = C(d+g, g); share_above: instances with error "
                  "above 1/m");
    table_note(t, "crossover: r(m) < m from ln m = %.6g (dim), %.6g (sqrt) on", crossover(SCALE_DIM),
               crossover(SCALE_SQRT));
    for (size_t s = 0; s < NUM_SCALES; s++) {
        for (size_t l = 0; l < cfg->num_lens; l++) {
            const struct setting a = ask((enum scale)s, log((double)cfg->lens[l]));
            double top = 0.0, bad = 0.0;
            for (size_t i = 0; i < cfg->num_trials; i++) {
                const double e = *units_row(work, s * per_scale(cfg) + l * cfg->num_trials + i);
                top = fmax(top, e);
                bad += !(e <= 1.0);
            }
            setting_cells(t, (enum scale)s, &a);
            table_num(t, top);
            table_num(t, bad / (double)cfg->num_trials);
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
        for (double ln_m = 10.0; ln_m <= 1.0001e5; ln_m *= pow(10.0, 0.125)) {
            const struct setting a = ask((enum scale)s, ln_m);
            setting_cells(t, (enum scale)s, &a);
            table_empty(t);
            table_empty(t);
            table_empty(t);
            table_end_row(t);
        }
    }
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    const size_t count = NUM_SCALES * per_scale(cfg);
    double above = 0.0;
    for (size_t u = 0; u < count; u++) above += !(*units_row(work, u) <= 1.0);
    struct interval rate = { NAN, NAN, NAN, 0 };
    stats_rate(above, (double)count, 0.999, &rate);
    verdicts_add(v, "M2", "theorem", rate);
    const double cross = crossover(SCALE_DIM) / M_LN2;
    verdicts_add(v, "F59", "crossover", (struct interval){ cross, cross, cross, 1 });
    const struct setting far = ask(SCALE_SQRT, 1e4);
    const double exponent = far.ln_r / far.ln_m;
    verdicts_add(v, "F60", "exponent", (struct interval){ exponent, exponent, exponent, 1 });
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "What the 1/poly(m) theorem asks for, and when it pays.", options, shard, NULL, &cfg.c);
    const struct units_study study = {
        .stem = "approximation_crossover", .what = "instances", .columns = columns,
        .count = NUM_SCALES * per_scale(&cfg), .width = 1,
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
