/* The prefix length that fits any targets, beside lambda^-2 (F26-F28). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_sort.h>
#include "common/random.h"
#include "prefix_ntk/prefix_fit.h"

static const char doc[] =
    "Share of random problems that a prefix of length m can fit (Levenberg-Marquardt from several starts), by number "
    "of samples "
    "and dimension. Every problem has inputs, targets and starts of its own; lengths share problems.";
static const char columns[] = "signs,targets,dim,num_samples,prefix_len,num_trials,success_rate,success_ci_lo,"
                              "success_ci_hi,"
                              "loss_ratio_median,threshold,lambda_inverse_square";

struct config {
    struct cli_common c;
    size_t *num_samples, num_ns, *dims, num_dims, num_trials, num_starts, max_iterations;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZES(struct config, num_samples, num_ns), .min = 1, .max = 64, .value = "2,4,6",
      .group = 1, .doc = "numbers of samples n, ascending" },
    { "dim", CLI_SIZES(struct config, dims, num_dims), .min = 1, .max = 64, .value = "2,4", .group = 1,
      .doc = "dimensions d" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "12", .group = 1,
      .doc = "problems per cell" },
    { "num-starts", CLI_SIZE(struct config, num_starts), .min = 1, .max = 1u << 20, .value = "6", .group = 1,
      .doc = "starts per problem at most" },
    { "max-iterations", CLI_SIZE(struct config, max_iterations), .min = 1, .max = 1u << 20, .value = "300",
      .group = 1, .doc = "Levenberg-Marquardt iterations per start" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t i = 1; i < cfg->num_ns; i++)
        if (cfg->num_samples[i] <= cfg->num_samples[i - 1]) return "--num-samples: values must ascend";
    return NULL;
}

/* What is fitted. With positive signs F = m grad log sum_r e^{<w_r,x>} is the gradient of a
 * convex function, so that targets are tried that are such gradients (y = A A' x), too. */
enum law { RANDOM, POSITIVE, POSITIVE_CONVEX, NUM_LAWS };
enum { NUM_LENS = 5 };
static const enum prefix_signs laws[NUM_LAWS] = { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_POSITIVE };
static const char *const target_names[NUM_LAWS] = { "sphere", "sphere", "convex" };
#define SUCCESS_RATIO 1e-20

/* Lengths tried: n - 1, n, n + 1, n + 2, n + 4 for random signs; n, n + 1, 2 n, 3 n, 4 n for positive ones. */
enum { RANDOM_AT_N = 1, POSITIVE_AT_N = 0 };

static size_t length_of(size_t law, size_t n, size_t which)
{
    static const size_t more[NUM_LENS] = { 0, 1, 2, 3, 5 };
    if (law == RANDOM) return n > 1 || which == 0 ? (n > 1 ? n - 1 : 1) + more[which] : more[which];
    return which < 2 ? n + which : n * which;
}

struct cell { size_t law, dim, n, len, trial; };

static size_t num_fits(const struct config *cfg)
{
    return NUM_LAWS * cfg->num_dims * cfg->num_ns * NUM_LENS * cfg->num_trials;
}

static size_t index_of(const struct config *cfg, struct cell c)
{
    return (((c.law * cfg->num_dims + c.dim) * cfg->num_ns + c.n) * NUM_LENS + c.len) * cfg->num_trials + c.trial;
}

static struct cell cell_at(const struct config *cfg, size_t index)
{
    struct cell c;
    c.trial = index % cfg->num_trials;
    index /= cfg->num_trials;
    c.len = index % NUM_LENS;
    index /= NUM_LENS;
    c.n = index % cfg->num_ns;
    index /= cfg->num_ns;
    c.dim = index % cfg->num_dims;
    c.law = index / cfg->num_dims;
    return c;
}

/* The problem of a cell and trial, whatever the length: the stream of all its random numbers. */
static size_t problem_of(const struct config *cfg, struct cell c)
{
    return ((c.law * cfg->num_dims + c.dim) * cfg->num_ns + c.n) * cfg->num_trials + c.trial;
}

enum { FIT_RATIO, FIT_LAMBDA, FIT_MONOTONE, NUM_RESULTS };

/* y_i = A A' x_i / ||A A'||_F, the gradient of a convex quadratic function. */
static int convex_targets(const struct config *cfg, size_t problem, const gsl_matrix *X, gsl_matrix *Y)
{
    const size_t d = X->size2;
    gsl_matrix *A = gsl_matrix_alloc(d, d), *B = gsl_matrix_alloc(d, d);
    const int status = A && B ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) {
        double norm = 0.0;
        random_normal(cfg->c.seed, RANDOM_WEIGHTS, problem, 0, A->data, d * d);
        gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0, A, A, 0.0, B);
        for (size_t i = 0; i < d * d; i++) norm += B->data[i] * B->data[i];
        gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0 / sqrt(norm), X, B, 0.0, Y);
    }
    gsl_matrix_free(A);
    gsl_matrix_free(B);
    return status;
}

/* Whether <y_i - y_j, x_i - x_j> > 0 for every pair, as for gradients of convex functions. */
static bool monotone(const gsl_matrix *X, const gsl_matrix *Y)
{
    for (size_t i = 0; i < X->size1; i++)
        for (size_t j = 0; j < i; j++) {
            double product = 0.0;
            for (size_t k = 0; k < X->size2; k++)
                product += (gsl_matrix_get(Y, i, k) - gsl_matrix_get(Y, j, k)) * (gsl_matrix_get(X, i, k)
                                                                                  - gsl_matrix_get(X, j, k));
            if (!(product > 0.0)) return false;
        }
    return true;
}

/* The smallest loss reached, per that of a zero output. */
static int run_fit(const void *context, size_t index, double *out)
{
    const struct config *cfg = context;
    const struct cell c = cell_at(cfg, index);
    const size_t n = cfg->num_samples[c.n], d = cfg->dims[c.dim], m = length_of(c.law, n, c.len),
        problem = problem_of(cfg, c);
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *W = gsl_matrix_alloc(m, d);
    gsl_matrix *H = gsl_matrix_alloc(n * d, n * d);
    gsl_vector *signs = gsl_vector_alloc(m), *first = gsl_vector_alloc(m);
    int status = X && Y && W && H && signs && first ? GSL_SUCCESS : GSL_ENOMEM;
    double zero_loss = 0.0;
    for (int i = 0; i < NUM_RESULTS; i++) out[i] = NAN;
    if (!status) {
        samples_sphere(cfg->c.seed, RANDOM_INPUTS, problem, 0, X);
        if (c.law == POSITIVE_CONVEX) status = convex_targets(cfg, problem, X, Y);
        else samples_sphere(cfg->c.seed, RANDOM_TARGETS, problem, 0, Y);
        for (size_t i = 0; i < n * d && !status; i++) zero_loss += 0.5 * Y->data[i] * Y->data[i];
        out[FIT_MONOTONE] = monotone(X, Y);
        if (!status) status = ntk_limit(X, X, 0.5, PREFIX_SIGNS_RANDOM, NTK_KEY, H);
        if (!status) status = ntk_lambda_min(H, &out[FIT_LAMBDA]);
    }
    double best = INFINITY;
    const size_t starts = c.law == RANDOM ? cfg->num_starts : (cfg->num_starts + 2) / 3;
    for (size_t start = 0; start < starts && !status && !(best <= SUCCESS_RATIO); start++) {
        double loss = INFINITY;
        /* The signs of a problem are those of its first start. */
        status = prefix_draw(cfg->c.seed, problem * cfg->num_starts + start, laws[c.law], 1.0, W, signs, 1);
        if (!start) gsl_vector_memcpy(first, signs);
        /* Positive signs often have nothing to find: a third of the starts and iterations. */
        const size_t iterations = c.law == RANDOM ? cfg->max_iterations : (cfg->max_iterations + 2) / 3;
        if (!status) status = prefix_fit(W, first, X, Y, iterations, SUCCESS_RATIO * zero_loss, &loss, NULL);
        best = fmin(best, loss / zero_loss);
        if (cli_interrupted()) status = GSL_FAILURE;
    }
    out[FIT_RATIO] = best;
    gsl_vector_free(first);
    gsl_vector_free(signs);
    gsl_matrix_free(H);
    gsl_matrix_free(W);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
    return status;
}

struct study { const struct config *cfg; struct units *work; };

static double successes(const struct study *s, struct cell c)
{
    double count = 0.0;
    for (c.trial = 0; c.trial < s->cfg->num_trials; c.trial++)
        count += units_row(s->work, index_of(s->cfg, c))[FIT_RATIO] <= SUCCESS_RATIO;
    return count;
}

/* Smallest length that fits at least half the problems; NaN when none of those tried. */
static double threshold(const struct study *s, size_t law, size_t dim, size_t n)
{
    for (size_t len = 0; len < NUM_LENS; len++)
        if (2.0 * successes(s, (struct cell){ law, dim, n, len, 0 }) >= (double)s->cfg->num_trials)
            return (double)length_of(law, s->cfg->num_samples[n], len);
    return NAN;
}

/* Median over the trials of a result of the fits. */
static double fit_median(const struct study *s, struct cell c, int which, double *scratch)
{
    for (c.trial = 0; c.trial < s->cfg->num_trials; c.trial++)
        scratch[c.trial] = units_row(s->work, index_of(s->cfg, c))[which];
    gsl_sort(scratch, 1, s->cfg->num_trials);
    return scratch[s->cfg->num_trials / 2];
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t, "success: loss <= %g of that of F = 0, Levenberg-Marquardt, %zu starts, sigma=1; ci: 95%% "
                  "Clopper-Pearson; threshold: "
                  "smallest length with half the problems fitted; lambda_inverse_square: median of lambda_min(H*)^-2, "
                  "sigma=0.5",
               SUCCESS_RATIO, cfg->num_starts);
    for (size_t law = 0; law < NUM_LAWS; law++)
        for (size_t dim = 0; dim < cfg->num_dims; dim++)
            for (size_t n = 0; n < cfg->num_ns; n++)
                for (size_t len = 0; len < NUM_LENS; len++) {
                    const struct cell c = { law, dim, n, len, 0 };
                    struct interval rate = { NAN, NAN, NAN, 0 };
                    if (len && length_of(law, cfg->num_samples[n], len) == length_of(law, cfg->num_samples[n], len - 1))
                        continue;
                    stats_rate(successes(s, c), (double)cfg->num_trials, 0.95, &rate);
                    table_text(t, cli_sign_names[laws[law]]);
                    table_text(t, target_names[law]);
                    table_int(t, cfg->dims[dim]);
                    table_int(t, cfg->num_samples[n]);
                    table_int(t, length_of(law, cfg->num_samples[n], len));
                    table_int(t, cfg->num_trials);
                    table_interval(t, rate);
                    table_num(t, fit_median(s, c, FIT_RATIO, x));
                    table_num(t, threshold(s, law, dim, n));
                    table_num(t, pow(fit_median(s, c, FIT_LAMBDA, x), -2.0));
                    table_end_row(t);
                }
    free(x);
    return table_close(t, 0);
}

/* F28: positive signs, longest prefixes. */
static void write_monotone(const struct study *s, struct verdicts *v)
{
    double runs[NUM_LAWS][2] = { { 0.0 } }, fitted[NUM_LAWS][2] = { { 0.0 } };
    for (size_t u = 0; u < num_fits(s->cfg); u++) {
        const struct cell c = cell_at(s->cfg, u);
        const double *result = units_row(s->work, u);
        if (c.len != NUM_LENS - 1) continue;
        runs[c.law][result[FIT_MONOTONE] > 0.0] += 1.0;
        fitted[c.law][result[FIT_MONOTONE] > 0.0] += result[FIT_RATIO] <= SUCCESS_RATIO;
    }
    const struct { const char *row; enum law law; int monotone; } rows[] = {
        { "not-monotone", POSITIVE, 0 }, { "convex", POSITIVE_CONVEX, 1 }, { "random", RANDOM, 0 } };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct interval share = { NAN, NAN, NAN, 0 };
        const double of = runs[rows[r].law][rows[r].monotone];
        if (!(of > 0.0) || stats_rate(fitted[rows[r].law][rows[r].monotone], of, 0.999, &share))
            share = (struct interval){ NAN, NAN, NAN, 0 };
        verdicts_add(v, "F28", rows[r].row, share);
    }
}

/* F26: the share of the problems of all cells fitted at one of the lengths. */
static struct interval fitted_at(const struct study *s, size_t law, size_t len)
{
    const struct config *cfg = s->cfg;
    struct interval share = { NAN, NAN, NAN, 0 };
    double fitted = 0.0;
    for (size_t dim = 0; dim < cfg->num_dims; dim++)
        for (size_t n = 0; n < cfg->num_ns; n++) fitted += successes(s, (struct cell){ law, dim, n, len, 0 });
    stats_rate(fitted, (double)(cfg->num_dims * cfg->num_ns * cfg->num_trials), 0.999, &share);
    return share;
}

/* F27: at m = n + 1, random signs. Share fitted of the problems with lambda^-2 >= 100 m; and the share
 * of the half of each cell with the smaller lambda less that of the other half: the slope of a line through
 * the problems, each taken from its cell's mean. */
static void write_lambda(const struct study *s, struct verdicts *v)
{
    const struct config *cfg = s->cfg;
    const size_t len = RANDOM_AT_N + 1, cells = cfg->num_dims * cfg->num_ns, trials = cfg->num_trials;
    double *x = cli_need(malloc(cells * trials * sizeof *x)), *y = cli_need(malloc(cells * trials * sizeof *y));
    double problems = 0.0, fitted = 0.0;
    for (size_t k = 0; k < cells; k++) {
        struct cell c = { RANDOM, k / cfg->num_ns, k % cfg->num_ns, len, 0 };
        double *smaller = x + k * trials, *fit = y + k * trials, mean_x = 0.0, mean_y = 0.0;
        const double middle = fit_median(s, c, FIT_LAMBDA, fit), m = (double)length_of(RANDOM, cfg->num_samples[c.n],
                                                                                       len);
        for (c.trial = 0; c.trial < trials; c.trial++) {
            const double *result = units_row(s->work, index_of(cfg, c));
            smaller[c.trial] = result[FIT_LAMBDA] < middle;
            fit[c.trial] = result[FIT_RATIO] <= SUCCESS_RATIO;
            mean_x += smaller[c.trial] / (double)trials;
            mean_y += fit[c.trial] / (double)trials;
            if (pow(result[FIT_LAMBDA], -2.0) < 100.0 * m) continue;
            problems += 1.0;
            fitted += fit[c.trial];
        }
        for (size_t t = 0; t < trials; t++) {
            smaller[t] -= mean_x;
            fit[t] -= mean_y;
        }
    }
    struct interval share = { NAN, NAN, NAN, 0 }, gap = { NAN, NAN, NAN, 0 };
    double intercept;
    if (problems > 0.0) stats_rate(fitted, problems, 0.999, &share);
    if (stats_line(x, y, cells * trials, 0.999, &gap, &intercept)) gap = (struct interval){ NAN, NAN, NAN, 0 };
    verdicts_add(v, "F27", "small-lambda", share);
    verdicts_add(v, "F27", "no-trend", gap);
    free(y);
    free(x);
}

static int write_verdicts(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->c.verdicts) return 0;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    verdicts_add(v, "F26", "random-at-n", fitted_at(s, RANDOM, RANDOM_AT_N));
    verdicts_add(v, "F26", "random-at-n1", fitted_at(s, RANDOM, RANDOM_AT_N + 1));
    verdicts_add(v, "F26", "positive-at-n", fitted_at(s, POSITIVE, POSITIVE_AT_N));
    verdicts_add(v, "F26", "positive-at-n1", fitted_at(s, POSITIVE, POSITIVE_AT_N + 1));
    verdicts_add(v, "F26", "convex-at-n", fitted_at(s, POSITIVE_CONVEX, POSITIVE_AT_N));
    verdicts_add(v, "F26", "convex-at-n1", fitted_at(s, POSITIVE_CONVEX, POSITIVE_AT_N + 1));
    write_lambda(s, v);
    write_monotone(s, v);
    return verdicts_close(v, 0);
}

/* Of the largest fit (Jacobian, its factor and what Levenberg-Marquardt keeps, residuals padded to as many as
 * parameters) or descent. */
static double unit_bytes(const struct config *cfg)
{
    double most = 0.0;
    for (size_t i = 0; i < cfg->num_ns; i++)
        for (size_t k = 0; k < cfg->num_dims; k++) {
            const double nd = (double)(cfg->num_samples[i] * cfg->dims[k]);
            const double md = fmax((double)length_of(RANDOM, cfg->num_samples[i], NUM_LENS - 1),
                                            (double)length_of(POSITIVE_CONVEX, cfg->num_samples[i],
                                                              NUM_LENS - 1)) * (double)cfg->dims[k];
            most = fmax(most, sizeof(double) * (3.0 * fmax(nd, md) * md + 3.0 * md * md + 2.0 * nd * nd));
        }
    return most;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg };
    const struct units_study study = { .what = "problems", .count = num_fits(&cfg), .width = NUM_RESULTS,
                                       .unit_bytes = unit_bytes(&cfg), .last_first = true, .unit = run_fit };
    char *identity = cli_identity(options, &cfg.c);
    int code = units_work(&cfg.c, identity, &study, &cfg, &s.work);
    free(identity);
    if (!code) code = write_verdicts(&s);
    if (!code) code = write_table(&s);
    return units_close(s.work, code);
}
