/* The prefix length that fits any targets, beside lambda^-2 (T12, F26, F27). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_sort.h>
#include "common/random.h"
#include "prefix_ntk/prefix_descent.h"
#include "prefix_ntk/prefix_fit.h"

static const char doc[] =
    "Share of random problems that a prefix of length m can fit (Levenberg-Marquardt from several starts), by number of samples "
    "and dimension; and gradient descent at m = lambda_min(H*)^-2.";
static const char columns[] = "signs,targets,dim,num_samples,prefix_len,num_trials,success_rate,success_ci_lo,success_ci_hi,"
                              "loss_ratio_median,threshold,lambda_inverse_square";
static const char descent_columns[] = "num_samples,trial,lambda_min_key,prefix_len,num_steps,steps_pred,loss_ratio";

struct config {
    struct cli_common c;
    size_t *num_samples, num_ns, *dims, num_dims, num_trials, num_starts, max_iterations, max_steps;
    char *descent_out;           /* beside --out, with --tables */
    bool tables;
};

enum { KEY_NUM_SAMPLES = 1, KEY_DIM, KEY_NUM_TRIALS, KEY_NUM_STARTS, KEY_MAX_ITERATIONS, KEY_MAX_STEPS, KEY_TABLES };

static const struct argp_option options[] = {
    { "num-samples", KEY_NUM_SAMPLES, "LIST", 0, "numbers of samples n, ascending (default 2,4,6)", 1 },
    { "dim", KEY_DIM, "LIST", 0, "dimensions d (default 2,4)", 1 },
    { "num-trials", KEY_NUM_TRIALS, "N", 0, "problems per cell (default 12)", 1 },
    { "num-starts", KEY_NUM_STARTS, "N", 0, "starts per problem at most (default 6)", 1 },
    { "max-iterations", KEY_MAX_ITERATIONS, "N", 0, "Levenberg-Marquardt iterations per start (default 300)", 1 },
    { "max-steps", KEY_MAX_STEPS, "N", 0, "steps of a descent at most (default 400000)", 1 },
    { "tables", KEY_TABLES, NULL, 0, "also write OUT_descent.csv: the descents at m = lambda_min(H*)^-2", 2 },
    CLI_SHARD_OPTION,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_NUM_SAMPLES: return cli_parse_size_list(state, key, arg, 1, 64, &cfg->num_samples, &cfg->num_ns);
    case KEY_DIM: return cli_parse_size_list(state, key, arg, 1, 64, &cfg->dims, &cfg->num_dims);
    case KEY_NUM_TRIALS: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->num_trials);
    case KEY_NUM_STARTS: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->num_starts);
    case KEY_MAX_ITERATIONS: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->max_iterations);
    case KEY_MAX_STEPS: return cli_parse_size(state, key, arg, 1, (size_t)1 << 40, &cfg->max_steps);
    case KEY_TABLES: cfg->tables = true; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t i = 1; i < cfg->num_ns; i++)
        if (cfg->num_samples[i] <= cfg->num_samples[i - 1]) return "--num-samples: values must ascend";
    return NULL;
}

/* What is fitted. With positive signs F = m grad log sum_r e^{<w_r,x>} is the gradient of a
 * convex function, so that targets are tried that are such gradients (y = A A' x), too.
 * Trials of a cell are independent problems; those of different lengths share them. */
enum law { RANDOM, POSITIVE, POSITIVE_CONVEX, NUM_LAWS };
enum { NUM_LENS = 5, DESCENT_DIM = 4, MAX_DESCENT_LEN = 1 << 20 };
static const enum prefix_signs laws[NUM_LAWS] = { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_POSITIVE };
static const char *const target_names[NUM_LAWS] = { "sphere", "sphere", "convex" };
static const size_t descent_ns[] = { 2, 3, 4 };
enum { NUM_DESCENT_NS = 3 };
#define SUCCESS_RATIO 1e-20

/* Lengths tried: n - 1 .. n + 4 for random signs; n .. 4 n for positive ones. */
static size_t length_of(size_t law, size_t n, size_t which)
{
    static const size_t more[NUM_LENS] = { 0, 1, 2, 3, 5 };
    static const size_t halves[NUM_LENS] = { 2, 3, 4, 6, 8 };
    return law == RANDOM ? (n > 1 ? n - 1 : 1) + more[which] : n * halves[which] / 2;
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

enum { FIT_RATIO, FIT_LAMBDA, FIT_MONOTONE, DESCENT_LAMBDA = 0, DESCENT_LEN, DESCENT_STEPS, DESCENT_PRED, DESCENT_RATIO, NUM_RESULTS };

/* y_i = A A' x_i / ||A A'||_F, the gradient of a convex quadratic function. */
static int convex_targets(const struct config *cfg, size_t trial, const gsl_matrix *X, gsl_matrix *Y)
{
    const size_t d = X->size2;
    gsl_matrix *A = gsl_matrix_alloc(d, d), *B = gsl_matrix_alloc(d, d);
    const int status = A && B ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) {
        double norm = 0.0;
        random_normal(cfg->c.seed, RANDOM_WEIGHTS, trial, 0, A->data, d * d);
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
                product += (gsl_matrix_get(Y, i, k) - gsl_matrix_get(Y, j, k)) * (gsl_matrix_get(X, i, k) - gsl_matrix_get(X, j, k));
            if (!(product > 0.0)) return false;
        }
    return true;
}

/* The smallest loss reached, per that of a zero output. */
static int run_fit(const struct config *cfg, size_t index, double *out)
{
    const struct cell c = cell_at(cfg, index);
    const size_t n = cfg->num_samples[c.n], d = cfg->dims[c.dim], m = length_of(c.law, n, c.len);
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *W = gsl_matrix_alloc(m, d);
    gsl_matrix *H = gsl_matrix_alloc(n * d, n * d);
    gsl_vector *signs = gsl_vector_alloc(m), *first = gsl_vector_alloc(m);
    int status = X && Y && W && H && signs && first ? GSL_SUCCESS : GSL_ENOMEM;
    double zero_loss = 0.0;
    for (int i = 0; i < NUM_RESULTS; i++) out[i] = NAN;
    if (!status) {
        samples_sphere(cfg->c.seed, RANDOM_INPUTS, c.trial, 0, X);
        if (c.law == POSITIVE_CONVEX) status = convex_targets(cfg, c.trial, X, Y);
        else samples_sphere(cfg->c.seed, RANDOM_TARGETS, c.trial, 0, Y);
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
        status = prefix_draw(cfg->c.seed, c.trial * cfg->num_starts + start, laws[c.law], 1.0, W, signs, 1);
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

/* Descent at m = ceil(lambda_min(H*)^-2), for at most three times the predicted steps. */
static int run_descent(const struct config *cfg, size_t index, double *out)
{
    const size_t n = descent_ns[index / cfg->num_trials], trial = index % cfg->num_trials, d = DESCENT_DIM, nd = n * d;
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *K = gsl_matrix_alloc(nd, nd), *W = NULL;
    gsl_vector *signs = NULL;
    struct prefix_descent *descent = NULL;
    struct prefix_linear *linear = NULL;
    int status = X && Y && K ? GSL_SUCCESS : GSL_ENOMEM;
    for (int i = 0; i < NUM_RESULTS; i++) out[i] = NAN;
    if (status) goto done;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, trial, 0, X);
    samples_sphere(cfg->c.seed, RANDOM_TARGETS, trial, 0, Y);
    if ((status = ntk_limit(X, X, 0.5, PREFIX_SIGNS_RANDOM, NTK_KEY, K))) goto done;
    if ((status = ntk_lambda_min(K, &out[DESCENT_LAMBDA]))) goto done;
    const double wanted = ceil(pow(out[DESCENT_LAMBDA], -2.0));
    if (!(wanted <= MAX_DESCENT_LEN)) goto done;           /* stays empty: counts as not reached */
    const size_t m = wanted > (double)n ? (size_t)wanted : n;
    W = gsl_matrix_alloc(m, d);
    signs = gsl_vector_alloc(m);
    status = W && signs ? prefix_draw(cfg->c.seed, trial, PREFIX_SIGNS_RANDOM, 0.5, W, signs, 1) : GSL_ENOMEM;
    if (!status) status = prefix_descent_alloc(W, signs, X, NULL, Y, 1, &descent);
    if (!status) status = ntk_gram(W, signs, X, NTK_FULL, K, 1);
    if (!status) status = prefix_linear_alloc(K, prefix_descent_residual(descent), &linear);
    if (status) goto done;
    const double rate = 1.0 / linear->eigenvalues[nd - 1], start = prefix_descent_loss(descent);
    out[DESCENT_LEN] = (double)m;
    out[DESCENT_PRED] = prefix_linear_steps(linear, rate, SUCCESS_RATIO * start);
    const double most = fmin(3.0 * out[DESCENT_PRED], (double)cfg->max_steps);
    double step = 0.0;
    bool diverged = false;
    for (; step < most && !diverged && prefix_descent_loss(descent) > SUCCESS_RATIO * start; step += 1.0) {
        diverged = prefix_descent_step(descent, rate / (double)m) != GSL_SUCCESS;
        if (cli_interrupted()) { status = GSL_FAILURE; goto done; }
    }
    out[DESCENT_STEPS] = step;
    out[DESCENT_RATIO] = diverged ? NAN : prefix_descent_loss(descent) / start;
done:
    prefix_linear_free(linear);
    prefix_descent_free(descent);
    gsl_vector_free(signs);
    gsl_matrix_free(W);
    gsl_matrix_free(K);
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
    for (c.trial = 0; c.trial < s->cfg->num_trials; c.trial++) scratch[c.trial] = units_row(s->work, index_of(s->cfg, c))[which];
    gsl_sort(scratch, 1, s->cfg->num_trials);
    return scratch[s->cfg->num_trials / 2];
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t, "success: loss <= %g of that of F = 0, Levenberg-Marquardt, %zu starts, sigma=1; ci: 95%% Clopper-Pearson; threshold: "
                  "smallest length with half the problems fitted; lambda_inverse_square: median of lambda_min(H*)^-2, sigma=0.5",
               SUCCESS_RATIO, cfg->num_starts);
    for (size_t law = 0; law < NUM_LAWS; law++)
        for (size_t dim = 0; dim < cfg->num_dims; dim++)
            for (size_t n = 0; n < cfg->num_ns; n++)
                for (size_t len = 0; len < NUM_LENS; len++) {
                    const struct cell c = { law, dim, n, len, 0 };
                    struct interval rate = { NAN, NAN, NAN, 0 };
                    if (len && length_of(law, cfg->num_samples[n], len) == length_of(law, cfg->num_samples[n], len - 1)) continue;
                    stats_rate(successes(s, c), (double)cfg->num_trials, 0.95, &rate);
                    table_text(t, cli_sign_names[laws[law]]);
                    table_text(t, target_names[law]);
                    table_int(t, cfg->dims[dim]);
                    table_int(t, cfg->num_samples[n]);
                    table_int(t, length_of(law, cfg->num_samples[n], len));
                    table_int(t, cfg->num_trials);
                    table_num(t, rate.value);
                    table_num(t, rate.lo);
                    table_num(t, rate.hi);
                    table_num(t, fit_median(s, c, FIT_RATIO, x));
                    table_num(t, threshold(s, law, dim, n));
                    table_num(t, pow(fit_median(s, c, FIT_LAMBDA, x), -2.0));
                    table_end_row(t);
                }
    free(x);
    return table_close(t, 0);
}

static const double *descent_of(const struct study *s, size_t n, size_t trial)
{
    return units_row(s->work, num_fits(s->cfg) + n * s->cfg->num_trials + trial);
}

static int write_descents(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->descent_out) return 0;
    struct table *t = table_open(&cfg->c, cfg->descent_out, descent_columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "dim=%d sigma=0.5 random signs; prefix_len: ceil(lambda_min_key^-2), empty beyond %d; steps_pred: to %g of the initial "
                  "loss by the linearised dynamics", DESCENT_DIM, MAX_DESCENT_LEN, SUCCESS_RATIO);
    for (size_t n = 0; n < NUM_DESCENT_NS; n++)
        for (size_t trial = 0; trial < cfg->num_trials; trial++) {
            table_int(t, descent_ns[n]);
            table_int(t, trial);
            for (int c = DESCENT_LAMBDA; c <= DESCENT_RATIO; c++) table_num(t, descent_of(s, n, trial)[c]);
            table_end_row(t);
        }
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

static int write_verdicts(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->c.verdicts) return 0;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    const size_t cells = cfg->num_dims * cfg->num_ns;
    double *x = cli_need(malloc((cells + cfg->num_ns) * sizeof *x));
    double *y = cli_need(malloc(cfg->num_trials * cfg->num_ns * sizeof *y));
    double *slopes = cli_need(malloc(cfg->num_trials * sizeof *slopes));
    if (!x || !y || !slopes) {
        free(slopes);
        free(y);
        free(x);
        return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    }
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    double reached = 0.0;
    for (size_t n = 0; n < NUM_DESCENT_NS; n++)
        for (size_t t = 0; t < cfg->num_trials; t++) reached += descent_of(s, n, t)[DESCENT_RATIO] <= SUCCESS_RATIO;
    struct interval share = { NAN, NAN, NAN, 0 };
    stats_rate(reached, (double)(NUM_DESCENT_NS * cfg->num_trials), 0.999, &share);
    verdicts_add(v, "T12", "sufficient", share);
    struct interval offset = { NAN, NAN, NAN, 0 };
    bool known = true;
    size_t count = 0;
    for (size_t c = 0; c < cells; c++) {
        if (cfg->dims[c / cfg->num_ns] < 3) continue;
        x[count] = threshold(s, RANDOM, c / cfg->num_ns, c % cfg->num_ns) - (double)cfg->num_samples[c % cfg->num_ns];
        known = known && isfinite(x[count++]);
    }
    if (known) offset = cli_mean(x, count, 0.999);
    verdicts_add(v, "F26", "offset", offset);
    write_monotone(s, v);
    /* log threshold against log lambda^-2 over n, at the first dimension, per trial. */
    for (size_t t = 0; t < cfg->num_trials; t++) {
        double mean_x = 0.0, mean_y = 0.0, xy = 0.0, xx = 0.0;
        for (size_t n = 0; n < cfg->num_ns; n++) {
            x[n] = -2.0 * log(units_row(s->work, index_of(cfg, (struct cell){ 0, 0, n, 0, t }))[FIT_LAMBDA]);
            y[n] = log(threshold(s, 0, 0, n));
            mean_x += x[n] / (double)cfg->num_ns;
            mean_y += y[n] / (double)cfg->num_ns;
        }
        for (size_t n = 0; n < cfg->num_ns; n++) {
            xy += (x[n] - mean_x) * (y[n] - mean_y);
            xx += (x[n] - mean_x) * (x[n] - mean_x);
        }
        slopes[t] = xy / xx;
    }
    verdicts_add(v, "F27", "slope", cli_mean(slopes, cfg->num_trials, 0.999));
    free(slopes);
    free(y);
    free(x);
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
                                            (double)length_of(POSITIVE_CONVEX, cfg->num_samples[i], NUM_LENS - 1)) * (double)cfg->dims[k];
            most = fmax(most, sizeof(double) * (3.0 * fmax(nd, md) * md + 3.0 * md * md + 2.0 * nd * nd));
        }
    return fmax(most, (double)prefix_descent_bytes(MAX_DESCENT_LEN, DESCENT_DIM, descent_ns[NUM_DESCENT_NS - 1], 1)
                      + sizeof(double) * 2.0 * MAX_DESCENT_LEN * (DESCENT_DIM + 1));
}

int main(int argc, char **argv)
{
    static size_t default_ns[] = { 2, 4, 6 }, default_dims[] = { 2, 4 };
    struct config cfg = { .num_samples = default_ns, .num_ns = 3, .dims = default_dims, .num_dims = 2, .num_trials = 12,
                          .num_starts = 6, .max_iterations = 300, .max_steps = 400000 };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    if (cfg.tables) cfg.descent_out = cli_side_path(&cfg.c, "descent");
    struct study s = { .cfg = &cfg };
    const size_t fits = num_fits(&cfg), all = fits + NUM_DESCENT_NS * cfg.num_trials;
    char *identity = cli_text("%zu %zu %zu %zu |", cfg.num_trials, cfg.num_starts, cfg.max_iterations, cfg.max_steps);
    identity = cli_text_sizes(identity, cfg.num_samples, cfg.num_ns);
    identity = cli_text_sizes(identity, cfg.dims, cfg.num_dims);
    s.work = identity ? units_open(&cfg.c, identity, "problems", all, NUM_RESULTS, unit_bytes(&cfg)) : NULL;
    free(identity);
    if (!s.work) return EXIT_FAILED;
    /* The descents, which take longest, first. */
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
    for (size_t u = 0; u < all; u++) {
        const size_t unit = all - 1 - u;
        double *row = units_begin(s.work, unit);
        if (row) units_end(s.work, unit, unit < fits ? run_fit(&cfg, unit, row) : run_descent(&cfg, unit - fits, row));
    }
    int code = units_status(s.work);
    if (!code) code = write_descents(&s);
    if (!code) code = write_verdicts(&s);
    if (!code) code = write_table(&s);
    free(cfg.descent_out);
    return units_close(s.work, code);
}
