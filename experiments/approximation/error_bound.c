/* The bound on the error from entrywise relative errors, and a sharper one: violations, tightness on
 * random tokens, instances that attain it. Ledger F57, F58. */
#include <math.h>
#include <stdlib.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "approximation/approx.h"
#include "approximation/approx_theory.h"
#include "cli/option_table.h"
#include "approximation/source.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "prefix_ntk/feature.h"

static const char columns[] =
    "feature,score_std,prefix_len,queries,covered,eps_median,rho_median,ratio_median,ratio_max,ratio_sharp_median,"
    "ratio_sharp_max,violations,violations_sharp";

struct config { struct cli_common c; size_t dim, seq_len, num_trials; };

static const struct cli_option options[] = {
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 256, .value = "16", .arg = "D",
      .doc = "head dimension" },
    { "seq-len", CLI_SIZE(struct config, seq_len), .min = 1, .max = 4096, .value = "32", .arg = "L",
      .doc = "input tokens and queries" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1 << 20, .value = "10", .doc = "trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *const maps[] = { "taylor:2", "taylor:4", "taylor:8", "minimax:2", "minimax:4", "minimax:8" };
static const double spreads[] = { 0.25, 0.5, 1.0, 2.0 };
static const size_t lens[] = { 4, 64, 1024 };
/* eps, rho, error/bound, error/sharp */
enum { NUM_MAPS = 6, NUM_SPREADS = 4, NUM_LENS = 3, MAX_LEN = 1024, PER_QUERY = 4 };

/* The sharper constant: the largest total deviation of prefix values from the output. */
static double sharp_constant(double rho)
{
    return rho <= 1.0 / 3.0 ? 2.0 * rho * (1.0 - rho) : 0.25 * (1.0 + rho) * (1.0 + rho);
}

static size_t at(const struct config *cfg, size_t map, size_t spread, size_t len, size_t query)
{
    return (((map * NUM_SPREADS + spread) * NUM_LENS + len) * cfg->seq_len + query) * PER_QUERY;
}

/* One layer at one spread and length: queries Q, tokens of the prefix, and the sums of both parts. */
struct instance {
    size_t d, L, len;
    double scale;
    const double *Q, *V, *Kp, *Vp;
    struct attn_sums input, prefix, approx;
    struct prefix_sums sums;
};

/* The largest relative error of the polynomial c at the scores of query i. */
static double largest_eps(const struct instance *x, const double *c, size_t degree, size_t i)
{
    double eps = 0.0;
    for (size_t r = 0; r < x->len; r++) {
        const double t = x->scale * cblas_ddot((int)x->d, x->Q + i * x->d, 1, x->Kp + r * x->d, 1);
        double p = 0.0;
        for (size_t j = degree + 1; j-- > 0; ) p = p * t + c[j];
        eps = fmax(eps, fabs(p * exp(-t) - 1.0));
    }
    return eps;
}

/* The numbers of query i, `top` being the largest value. */
static void judge_query(const struct instance *x, double eps, double top, size_t i, double *cell)
{
    const size_t d = x->d;
    const double a = exp(attn_sums_log_mass(&x->input, i)), p = exp(attn_sums_log_mass(&x->prefix, i));
    const double rho = p / (a + p), D = a + x->approx.mass[i];
    double error = 0.0;
    for (size_t k = 0; k < d; k++) {
        const double na = x->input.num[i * d + k] * exp(x->input.shift[i]);
        const double np = x->prefix.num[i * d + k] * exp(x->prefix.shift[i]);
        error = fmax(error, fabs((na + x->approx.num[i * d + k]) / D - (na + np) / (a + p)));
    }
    const bool covered = eps * rho < 1.0;
    cell[0] = eps;
    cell[1] = rho;
    cell[2] = covered ? error / (2.0 * eps * rho / (1.0 - eps * rho) * top) : -1.0;
    cell[3] = covered ? error / (sharp_constant(rho) * eps / (1.0 - eps * rho) * top) : -1.0;
}

static int judge_map(const struct config *cfg, struct instance *x, size_t map, size_t spread, size_t len, double *out)
{
    const size_t d = x->d, L = x->L;
    double top_q = 0.0, top_v = 0.0, c[FEATURE_MAX_DEGREE + 2];
    for (size_t i = 0; i < L; i++) top_q = fmax(top_q, cblas_dnrm2((int)d, x->Q + i * d, 1));
    for (size_t i = 0; i < L * d; i++) top_v = fmax(top_v, fabs(x->V[i]));
    for (size_t i = 0; i < x->len * d; i++) top_v = fmax(top_v, fabs(x->Vp[i]));
    struct feature_spec spec;
    int status = feature_spec_parse(maps[map], &spec);
    if (!status) status = feature_polynomial(&spec, top_q * x->sums.max_key_norm * x->scale, c, NULL, NULL);
    if (!status) status = prefix_sums_polynomial(&x->sums, 1.0, 0, c, spec.order, c, spec.order, &x->approx);
    for (size_t i = 0; i < L && !status; i++)
        judge_query(x, largest_eps(x, c, spec.order, i), top_v, i, out + at(cfg, map, spread, len, i));
    return status;
}

static int judge_length(const struct config *cfg, struct instance *x, const double *K, size_t spread, size_t len,
                        double *out)
{
    x->len = lens[len];
    int status = attn_sums_exact(x->Q, K, x->V, x->L, x->scale, &x->input);
    if (!status) status = prefix_sums_alloc(&x->sums, x->L, x->d, x->scale, 8, NULL, 0, NULL, 0);
    for (size_t first = 0; first < x->len && !status; ) {
        size_t end = prefix_sums_block_end(first);
        if (end > x->len) end = x->len;
        status = prefix_sums_add(&x->sums, x->Q, x->Kp + first * x->d, x->Vp + first * x->d, end - first);
        first = end;
    }
    if (!status) status = prefix_sums_exact(&x->sums, 0, &x->prefix);
    for (size_t m = 0; m < NUM_MAPS && !status; m++) status = judge_map(cfg, x, m, spread, len, out);
    prefix_sums_free(&x->sums);
    return status;
}

static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    const size_t d = cfg->dim, L = cfg->seq_len;
    struct source source = { 0 };
    double *Q = malloc((4 * L + 2 * MAX_LEN) * d * sizeof *Q), *K = Q + L * d, *V = K + L * d, *Qs = V + L * d;
    double *Kp = Qs + L * d, *Vp = Kp + MAX_LEN * d;
    struct instance x = { .d = d, .L = L, .scale = 1.0 / sqrt((double)d), .Q = Qs, .V = V, .Kp = Kp, .Vp = Vp };
    int status = Q ? source_init(&source, cfg->c.seed, trial, d, SOURCE_TIED, NULL, 0.0) : GSL_ENOMEM;
    if (!status) status = source_inputs(&source, 0, L, Q, K, V);
    for (size_t first = 0; first < MAX_LEN && !status; first += SOURCE_BLOCK)
        status = source_prefix(&source, first, SOURCE_BLOCK, Kp + first * d, Vp + first * d);
    if (!status) status = attn_sums_alloc(&x.input, L, d);
    if (!status) status = attn_sums_alloc(&x.prefix, L, d);
    if (!status) status = attn_sums_alloc(&x.approx, L, d);
    for (size_t s = 0; s < NUM_SPREADS && !status; s++) {
        for (size_t i = 0; i < L * d; i++) Qs[i] = spreads[s] * Q[i];
        for (size_t l = 0; l < NUM_LENS && !status; l++) status = judge_length(cfg, &x, K, s, l, out);
    }
    source_free(&source);
    attn_sums_free(&x.input);
    attn_sums_free(&x.prefix);
    attn_sums_free(&x.approx);
    free(Q);
    return status;
}

/* Error over the sharper bound on the instance built to attain it: values +-1 in one coordinate, input at
 * -1, a share x of the prefix at +1 with weights raised by eps and the rest at -1 with weights lowered. */
static double attained(double rho, double eps)
{
    const double x = rho <= 1.0 / 3.0 ? rho : 0.25 * (1.0 + rho);
    const double exact = 2.0 * x - 1.0, low = rho - x;
    const double up = x * (1.0 - eps), down = low * (1.0 + eps);
    const double T = (up - down - (1.0 - rho)) / (up + down + 1.0 - rho);
    return fabs(T - exact) / (sharp_constant(rho) * eps / (1.0 - eps * rho));
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    if (!n) return NAN;
    qsort(x, n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* A bound that holds exactly is exceeded by rounding alone at most by this much. */
static const double ROUNDING = 1e-7;


/* Whether a query counts: it has a bound, and eps is not itself rounding, where there is nothing to compare. */
static bool is_covered(const double *query)
{
    return !(query[2] < 0.0) && !(query[0] < ROUNDING);
}

/* Numbers of the covered queries of a map, spread and length into x; how many. */
static size_t covered_queries(const struct config *cfg, const struct units *work, size_t map, size_t spread, size_t len,
                              double *const x[PER_QUERY])
{
    size_t covered = 0;
    for (size_t u = 0; u < cfg->num_trials; u++)
        for (size_t i = 0; i < cfg->seq_len; i++) {
            const double *query = units_row(work, u) + at(cfg, map, spread, len, i);
            if (!is_covered(query)) continue;
            for (size_t f = 0; f < PER_QUERY; f++) x[f][covered] = query[f];
            covered++;
        }
    return covered;
}

/* The largest ratio, NaN without any; *above: how many exceed 1 by more than rounding. */
static double largest(const double *ratio, size_t n, size_t *above)
{
    double top = NAN;
    *above = 0;
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, ratio[i]);
        *above += ratio[i] > 1.0 + ROUNDING;
    }
    return top;
}

static void write_cell(const struct config *cfg, struct table *t, size_t map, size_t spread, size_t len,
                       double *const x[PER_QUERY], size_t covered)
{
    size_t bad, bad_sharp;
    const double top = largest(x[2], covered, &bad), top_sharp = largest(x[3], covered, &bad_sharp);
    table_text(t, maps[map]);
    table_num(t, spreads[spread]);
    table_int(t, lens[len]);
    table_int(t, cfg->num_trials * cfg->seq_len);
    table_int(t, covered);
    table_num(t, median(x[0], covered));
    table_num(t, median(x[1], covered));
    table_num(t, median(x[2], covered));
    table_num(t, top);
    table_num(t, median(x[3], covered));
    table_num(t, top_sharp);
    table_int(t, bad);
    table_int(t, bad_sharp);
    table_end_row(t);
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    double *x[PER_QUERY];
    for (size_t f = 0; f < PER_QUERY; f++) x[f] = cli_need(malloc(cfg->num_trials * cfg->seq_len * sizeof **x));
    table_note(t, "ratio: max|T - PA| over 2 eps rho/(1 - eps rho) max|v|, ratio_sharp over the sharper bound, of "
                  "queries with eps rho < 1 (covered)");
    for (size_t m = 0; m < NUM_MAPS; m++)
        for (size_t s = 0; s < NUM_SPREADS; s++)
            for (size_t l = 0; l < NUM_LENS; l++)
                write_cell(cfg, t, m, s, l, x, covered_queries(cfg, work, m, s, l, x));
    for (size_t f = 0; f < PER_QUERY; f++) free(x[f]);
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    const size_t cells = (size_t)NUM_MAPS * NUM_SPREADS * NUM_LENS * cfg->seq_len;
    double *all = cli_need(malloc(cells * sizeof *all)), *medians = cli_need(malloc(cfg->num_trials * sizeof *medians));
    double bad = 0.0, bad_sharp = 0.0, best = 0.0;
    for (size_t u = 0; u < cfg->num_trials; u++) {
        size_t count = 0;
        for (size_t k = 0; k < cells; k++) {
            const double *query = units_row(work, u) + k * PER_QUERY;
            if (!is_covered(query)) continue;
            all[count++] = query[2];
            bad += query[2] > 1.0 + ROUNDING;
            bad_sharp += query[3] > 1.0 + ROUNDING;
        }
        medians[u] = median(all, count);
    }
    for (int i = 1; i <= 100; i++) best = fmax(best, attained(0.01 * i, 1e-3));
    verdicts_add(v, "F57", "violations", (struct interval){ bad, bad, bad, cfg->num_trials });
    verdicts_add(v, "F57", "violations-sharp", (struct interval){ bad_sharp, bad_sharp, bad_sharp, cfg->num_trials });
    verdicts_add(v, "F58", "attained", (struct interval){ best, best, best, 100 });
    verdicts_add(v, "F58", "random", cli_mean(medians, cfg->num_trials, 0.999));
    free(medians);
    free(all);
}

static double unit_bytes(const struct config *cfg)
{
    return (4.0 * (double)cfg->seq_len + 2.0 * MAX_LEN) * (double)cfg->dim * sizeof(double)
         + (double)prefix_sums_bytes(cfg->seq_len, cfg->dim, 8, 1, 0)
         + 3.0 * (double)attn_sums_bytes(cfg->seq_len, cfg->dim);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "The bound on the error of a summary: violations and tightness.", options, shard, NULL,
                    &cfg.c);
    const struct units_study study = {
        .stem = "error_bound", .what = "trials", .columns = columns, .count = cfg.num_trials,
        .width = (size_t)NUM_MAPS * NUM_SPREADS * NUM_LENS * cfg.seq_len * PER_QUERY,
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
