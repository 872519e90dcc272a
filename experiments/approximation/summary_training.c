/* Training a summary and training a prefix: whether the loss is convex, and how many queries with arbitrary outputs
 * each fits when everything is trained. Ledger F62 and F63. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit_nlinear.h>

#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "common/random.h"

static const char columns[] = "question,case,queries,share,num_trials";

struct config { struct cli_common c; size_t num_trials, num_starts, max_iterations; };

static const struct cli_option options[] = {
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "100",
      .doc = "problems" },
    { "num-starts", CLI_SIZE(struct config, num_starts), .min = 1, .max = 1 << 10, .value = "8",
      .doc = "starts of Levenberg-Marquardt per problem" },
    { "max-iterations", CLI_SIZE(struct config, max_iterations), .min = 1, .max = 1 << 16, .value = "200",
      .doc = "its iterations per start" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* ---- convexity ---- */

enum { FEATURES = 8, HEAD_DIM = 4, QUERIES = 24 };
enum { SUMMARY_NUMBERS = FEATURES * HEAD_DIM + FEATURES };

/* Features >= 0, masses and values of the input, and targets that a summary (Zt, kt) of the same shape gives. */
struct summary_data { double phi[QUERIES][FEATURES], a[QUERIES], N[QUERIES][HEAD_DIM], target[QUERIES][HEAD_DIM]; };

/* Mean squared error of T = (N + phi Z) / (a + phi k); x is Z row by row, then k >= 0. */
static double summary_loss(const struct summary_data *s, const double *x, const double (*target)[HEAD_DIM],
                           double (*out)[HEAD_DIM])
{
    double loss = 0.0;
    for (size_t i = 0; i < QUERIES; i++) {
        double D = s->a[i];
        for (size_t j = 0; j < FEATURES; j++) D += s->phi[i][j] * x[FEATURES * HEAD_DIM + j];
        for (size_t c = 0; c < HEAD_DIM; c++) {
            double T = s->N[i][c];
            for (size_t j = 0; j < FEATURES; j++) T += s->phi[i][j] * x[j * HEAD_DIM + c];
            T /= D;
            if (out) out[i][c] = T;
            if (target) loss += (T - target[i][c]) * (T - target[i][c]) / (QUERIES * HEAD_DIM);
        }
    }
    return loss;
}

/* A summary whose values are normal and whose mass at a query is up to eight times that of the input. */
static void draw_summary(uint64_t seed, uint64_t trial, uint64_t row, double *x)
{
    random_normal(seed, RANDOM_STARTS, trial, 2 * row, x, FEATURES * HEAD_DIM);
    random_uniform(seed, RANDOM_STARTS, trial, 2 * row + 1, x + FEATURES * HEAD_DIM, FEATURES);
    for (size_t j = 0; j < FEATURES; j++) x[FEATURES * HEAD_DIM + j] *= 2.0;
}

static void draw_summary_data(uint64_t seed, uint64_t trial, struct summary_data *s)
{
    double x[SUMMARY_NUMBERS];
    for (size_t i = 0; i < QUERIES; i++) {
        random_uniform(seed, RANDOM_FEATURES, trial, i, s->phi[i], FEATURES);
        random_uniform(seed, RANDOM_INPUTS, trial, 2 * i, &s->a[i], 1);
        random_normal(seed, RANDOM_INPUTS, trial, 2 * i + 1, s->N[i], HEAD_DIM);
        s->a[i] += 0.5;
    }
    draw_summary(seed, trial, 0, x);
    summary_loss(s, x, NULL, s->target);
}

/* Of `count` segments the share whose midpoint lies above the mean of its ends by more than rounding. The ends differ
 * in Z alone or, with `mass`, in k alone: k and sixteen times k. */
static double share_above(uint64_t seed, uint64_t trial, const struct summary_data *s, size_t count, bool mass)
{
    double above = 0.0;
    for (size_t i = 0; i < count; i++) {
        double a[SUMMARY_NUMBERS], b[SUMMARY_NUMBERS], mid[SUMMARY_NUMBERS];
        draw_summary(seed, trial, 1 + 2 * i, a);
        draw_summary(seed, trial, 2 + 2 * i, b);
        if (mass) memcpy(b, a, FEATURES * HEAD_DIM * sizeof *b);
        for (size_t j = FEATURES * HEAD_DIM; j < SUMMARY_NUMBERS; j++) b[j] = (mass ? 16.0 : 1.0) * a[j];
        for (size_t j = 0; j < SUMMARY_NUMBERS; j++) mid[j] = 0.5 * (a[j] + b[j]);
        const double mean = 0.5 * (summary_loss(s, a, s->target, NULL) + summary_loss(s, b, s->target, NULL));
        above += summary_loss(s, mid, s->target, NULL) > mean * (1.0 + 1e-12);
    }
    return above / (double)count;
}

/* ---- capacity ---- */

/* More tokens than dimensions: outputs lie in the hull of the values, which would bind otherwise. */
enum { TOKENS = 6, VALUE_DIM = 2, PREFIX_NUMBERS = 2 * TOKENS * VALUE_DIM };
static const size_t num_queries[] = { TOKENS, TOKENS + TOKENS / 2, 2 * TOKENS };
enum { NUM_COUNTS = 3, EXACTLY = 0, HALF_MORE = 1, TWICE = 2 };
static const double EXACT = 1e-6;          /* a relative residual below this is an exact fit */

/* softmax(<q, k_r>) v_r over TOKENS trained keys and values, x = (keys, values); residuals of n queries. GSL wants no
 * fewer residuals than numbers: the rest are 0. */
struct prefix_data { size_t n; double q[2 * TOKENS][VALUE_DIM], target[2 * TOKENS][VALUE_DIM]; };

static int prefix_residuals(const gsl_vector *x, void *params, gsl_vector *f)
{
    const struct prefix_data *p = params;
    gsl_vector_set_zero(f);
    for (size_t i = 0; i < p->n; i++) {
        double e[TOKENS], top = -INFINITY, mass = 0.0;
        for (size_t r = 0; r < TOKENS; r++) {
            e[r] = 0.0;
            for (size_t c = 0; c < VALUE_DIM; c++) e[r] += p->q[i][c] * gsl_vector_get(x, r * VALUE_DIM + c);
            top = fmax(top, e[r]);
        }
        for (size_t r = 0; r < TOKENS; r++) mass += e[r] = exp(e[r] - top);
        for (size_t c = 0; c < VALUE_DIM; c++) {
            double T = -p->target[i][c];
            for (size_t r = 0; r < TOKENS; r++) T += e[r] / mass * gsl_vector_get(x, (TOKENS + r) * VALUE_DIM + c);
            gsl_vector_set(f, i * VALUE_DIM + c, T);
        }
    }
    return GSL_SUCCESS;
}

/* Whether one of the starts reaches an exact fit. */
static int fits(const struct config *cfg, uint64_t trial, struct prefix_data *p, double *fitted)
{
    const size_t size = p->n * VALUE_DIM > PREFIX_NUMBERS ? p->n * VALUE_DIM : PREFIX_NUMBERS;
    gsl_multifit_nlinear_parameters parameters = gsl_multifit_nlinear_default_parameters();
    gsl_multifit_nlinear_fdf problem = { .f = prefix_residuals, .n = size, .p = PREFIX_NUMBERS, .params = p };
    gsl_multifit_nlinear_workspace *work = gsl_multifit_nlinear_alloc(gsl_multifit_nlinear_trust, &parameters, size,
                                                                      PREFIX_NUMBERS);
    double start[PREFIX_NUMBERS], norm = 0.0;
    if (!work) return GSL_ENOMEM;
    for (size_t i = 0; i < p->n; i++) norm += pow(cblas_dnrm2(VALUE_DIM, p->target[i], 1), 2.0);
    *fitted = 0.0;
    for (size_t s = 0; s < cfg->num_starts && !*fitted; s++) {
        random_normal(cfg->c.seed, RANDOM_STARTS, trial, 1000 + s, start, PREFIX_NUMBERS);
        const gsl_vector_view x = gsl_vector_view_array(start, PREFIX_NUMBERS);
        if (gsl_multifit_nlinear_init(&x.vector, &problem, work)) continue;
        /* An iteration that fails ends its start: another one follows. */
        for (size_t i = 0; i < cfg->max_iterations && !*fitted && !gsl_multifit_nlinear_iterate(work); i++)
            *fitted = gsl_blas_dnrm2(gsl_multifit_nlinear_residual(work)) < EXACT * sqrt(norm);
    }
    gsl_multifit_nlinear_free(work);
    return GSL_SUCCESS;
}

enum { SEGMENTS = 200, ABOVE_Z = 0, ABOVE_MASS, FITTED, NUM_FIELDS = FITTED + NUM_COUNTS };

static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    struct summary_data s;
    struct prefix_data p;
    int status = GSL_SUCCESS;
    draw_summary_data(cfg->c.seed, trial, &s);
    out[ABOVE_Z] = share_above(cfg->c.seed, trial, &s, SEGMENTS, false);
    out[ABOVE_MASS] = share_above(cfg->c.seed, trial, &s, SEGMENTS, true);
    random_normal(cfg->c.seed, RANDOM_TOKENS, trial, 0, &p.q[0][0], 2 * TOKENS * VALUE_DIM);
    random_normal(cfg->c.seed, RANDOM_TARGETS, trial, 0, &p.target[0][0], 2 * TOKENS * VALUE_DIM);
    for (size_t i = 0; i < NUM_COUNTS && !status; i++) {
        p.n = num_queries[i];
        status = fits(cfg, trial, &p, &out[FITTED + i]);
    }
    return status;
}

static double total(const struct config *cfg, const struct units *work, size_t field)
{
    double sum = 0.0;
    for (size_t t = 0; t < cfg->num_trials; t++) sum += units_row(work, t)[field];
    return sum;
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    const double n = (double)cfg->num_trials;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    const double convex = total(cfg, work, ABOVE_Z) / n;
    verdicts_add(v, "F62", "values", (struct interval){ convex, convex, convex, cfg->num_trials });
    for (size_t t = 0; t < cfg->num_trials; t++) x[t] = units_row(work, t)[ABOVE_MASS];
    verdicts_add(v, "F62", "mass", cli_mean(x, cfg->num_trials, 0.999));
    static const char *const rows[NUM_COUNTS] = { "as-many", "half-more", "twice" };
    for (size_t i = 0; i < NUM_COUNTS; i++) {
        struct interval rate;
        stats_rate(total(cfg, work, FITTED + i), n, 0.999, &rate);
        verdicts_add(v, "F63", rows[i], rate);
    }
    free(x);
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    static const char *const cases[] = { "segments in Z above their chord", "segments in k above their chord",
                                         "prefix of 6 trained tokens" };
    table_note(t, "share: of random segments (mean over problems), and of problems with arbitrary outputs fitted to "
                  "1e-6; summaries: d = 4, r = 8; prefixes: d = 2");
    for (size_t f = 0; f < NUM_FIELDS; f++) {
        table_text(t, f < FITTED ? "convexity" : "capacity");
        table_text(t, cases[f < FITTED ? f : FITTED]);
        table_int(t, f < FITTED ? QUERIES : num_queries[f - FITTED]);
        table_num(t, total(cfg, work, f) / (double)cfg->num_trials);
        table_int(t, cfg->num_trials);
        table_end_row(t);
    }
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "Convexity of training a summary, capacity of a trained prefix.", options, shard, NULL,
                    &cfg.c);
    const struct units_study study = {
        .stem = "summary_training", .what = "problems", .columns = columns, .count = cfg.num_trials,
        .width = NUM_FIELDS,
        .unit_bytes = 8.0 * 8.0 * PREFIX_NUMBERS * PREFIX_NUMBERS, .unit = run_unit, .rows = write_rows,
        .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
