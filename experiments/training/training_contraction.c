/* Decrease of the loss in one step against the theorem's, and the largest stable step (T7, F23). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "prefix_ntk/prefix_descent.h"

static const char doc[] =
    "The smallest per-step decrease (1 - L(t+1)/L(t)) / (m eta lambda/2) with lambda the smallest eigenvalue of H, H*, "
    "K, K* "
    "(the theorem: at least 1), on random data and on a square of inputs with the residual along the bottom "
    "eigenvector of K; "
    "and descent at step sizes around 2/(m lambda_max(K)).";
static const char columns[] = "instance,lambda,trial,lambda_min,decrease_min,critical_step,critical_per_lambda_key";
static const char step_columns[] = "factor,prefix_len,trial,loss_ratio,peak_ratio,lambda_max_ratio";
static const char curve_columns[] = "step,loss_ratio,bound_key,bound_full,linearised";

struct config {
    struct cli_common c;
    size_t num_trials, num_steps, prefix_len;
    char *steps_out, *curve_out, *instance_out;      /* beside --out, with --tables */
    bool tables;
};

static const struct cli_option options[] = {
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 16, .value = "8", .group = 1,
      .doc = "draws of data and prefix" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .min = 1, .max = 1u << 30, .value = "2000", .arg = "T",
      .group = 1, .doc = "steps of each descent" },
    { "prefix-len", CLI_SIZE(struct config, prefix_len), .min = 2, .max = 1u << 26, .value = "8192", .arg = "M",
      .group = 1, .doc = "prefix length, even" },
    { "tables", CLI_FLAG(struct config, tables), .group = 2,
      .doc = "also write OUT_steps.csv (descents at step sizes around the limit), OUT_curve.csv (loss on the square) "
        "and the square itself: OUT_square_inputs.npy, _targets, _prefix, _signs",
      .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    return cfg->prefix_len % 2 ? "--prefix-len: must be even, for mirrored signs" : NULL;
}

enum instance { GENERIC, SQUARE, NUM_INSTANCES };
static const char *const instance_names[] = { "generic", "square" };
enum { LAMBDA_H, LAMBDA_H_LIMIT, LAMBDA_K, LAMBDA_K_LIMIT, NUM_LAMBDAS };
static const char *const lambda_names[] = { "H", "Hstar", "K", "Kstar" };

/* The generic instance: n = d = 8 on the sphere, sigma = 1. The square: +-e_1, +-e_2 in
 * the plane, sigma = 0.3 (derivation: the rotation field in docs/derivations.md). */
struct problem {
    double sigma;
    enum prefix_signs law;
    gsl_matrix *X, *Y, *W, *K;
    gsl_vector *signs;
    double lambda[NUM_LAMBDAS], lambda_max;
};

static void problem_free(struct problem *p)
{
    gsl_matrix_free(p->X);
    gsl_matrix_free(p->Y);
    gsl_matrix_free(p->W);
    gsl_matrix_free(p->K);
    gsl_vector_free(p->signs);
}

/* Inputs, prefix and kernels; targets on the sphere, or along the bottom (bottom = true)
 * or top eigenvector of K with norm `scale` and then mirrored signs, so that R_0 = -Y. */
static int problem_make(struct problem *p, const struct config *cfg, enum instance instance, size_t trial, size_t m,
                        const char *residual, double scale)
{
    const size_t n = instance == SQUARE ? 4 : 8, d = instance == SQUARE ? 2 : 8, nd = n * d;
    const bool along = strcmp(residual, "random") != 0;
    *p = (struct problem){ .sigma = instance == SQUARE ? 0.3 : 1.0,
                           .law = along ? PREFIX_SIGNS_MIRRORED : PREFIX_SIGNS_RANDOM };
    p->X = gsl_matrix_calloc(n, d);
    p->Y = gsl_matrix_alloc(n, d);
    p->W = gsl_matrix_alloc(m, d);
    p->K = gsl_matrix_alloc(nd, nd);
    p->signs = gsl_vector_alloc(m);
    struct prefix_linear *linear = NULL;
    gsl_matrix *A = gsl_matrix_alloc(nd, nd);
    int status = p->X && p->Y && p->W && p->K && p->signs && A ? GSL_SUCCESS : GSL_ENOMEM;
    if (status) goto done;
    if (instance == SQUARE) {
        gsl_matrix_set(p->X, 0, 0, 1.0);
        gsl_matrix_set(p->X, 1, 1, 1.0);
        gsl_matrix_set(p->X, 2, 0, -1.0);
        gsl_matrix_set(p->X, 3, 1, -1.0);
    } else {
        samples_sphere(cfg->c.seed, RANDOM_INPUTS, trial, 0, p->X);
    }
    samples_sphere(cfg->c.seed, RANDOM_TARGETS, trial, 0, p->Y);
    if ((status = prefix_draw(cfg->c.seed, trial, p->law, p->sigma, p->W, p->signs, 1))) goto done;
    for (int l = 0; l < NUM_LAMBDAS && !status; l++) {
        const enum ntk_kernel kernel = l == LAMBDA_H || l == LAMBDA_H_LIMIT ? NTK_KEY : NTK_FULL;
        gsl_matrix *into = l == LAMBDA_K ? p->K : A;
        status = l == LAMBDA_H || l == LAMBDA_K ? ntk_gram(p->W, p->signs, p->X, kernel, into, 1)
                                                : ntk_limit(p->X, p->X, p->sigma, p->law, kernel, into);
        if (!status) status = ntk_lambda_min(into, &p->lambda[l]);
    }
    if (status || (status = prefix_linear_alloc(p->K, p->Y, &linear))) goto done;
    p->lambda_max = linear->eigenvalues[nd - 1];
    for (size_t i = 0; i < nd && along; i++)
        p->Y->data[i] = scale * gsl_matrix_get(linear->vectors, i, strcmp(residual, "bottom") ? nd - 1 : 0);
done:
    prefix_linear_free(linear);
    gsl_matrix_free(A);
    return status;
}

/* Loss after `steps` steps of step_size per that at the start; a diverged descent gives
 * infinity. peak and lambda_max_ratio may be NULL. */
static int loss_ratio_after(const struct problem *p, double step_size, size_t steps, double *ratio, double *peak,
                            double *lambda_max_ratio)
{
    struct prefix_descent *descent;
    int status = prefix_descent_alloc(p->W, p->signs, p->X, NULL, p->Y, 1, &descent);
    if (status) return status;
    const double start = prefix_descent_loss(descent);
    double most = start;
    bool diverged = false;
    for (size_t t = 0; t < steps && !diverged && !cli_interrupted(); t++) {
        diverged = prefix_descent_step(descent, step_size) != GSL_SUCCESS;
        if (!diverged) most = fmax(most, prefix_descent_loss(descent));
    }
    *ratio = diverged ? INFINITY : prefix_descent_loss(descent) / start;
    if (peak) *peak = diverged ? INFINITY : most / start;
    if (lambda_max_ratio && !diverged) {
        const size_t nd = p->K->size1;
        gsl_matrix *K = gsl_matrix_alloc(nd, nd);
        gsl_vector *eigenvalues = gsl_vector_alloc(nd);
        status = K && eigenvalues ? ntk_gram(prefix_descent_prefix(descent), p->signs, p->X, NTK_FULL, K, 1)
            : GSL_ENOMEM;
        if (!status) status = ntk_eigenvalues(K, eigenvalues);
        if (!status) *lambda_max_ratio = gsl_vector_get(eigenvalues, nd - 1) / p->lambda_max;
        gsl_vector_free(eigenvalues);
        gsl_matrix_free(K);
    } else if (lambda_max_ratio) {
        *lambda_max_ratio = NAN;
    }
    prefix_descent_free(descent);
    return cli_interrupted() ? GSL_FAILURE : status;
}

/* The largest c = eta m lambda_max(K) with which a loss far inside the linear regime,
 * residual along the top eigenvector, never grows in 200 steps. (Its end value would
 * not do: an unstable descent can leave that regime and come back.) */
static int critical_step(const struct config *cfg, enum instance instance, size_t trial, double *critical,
                         double *per_lambda_key)
{
    enum { SHORT = 2048 };
    struct problem p;
    double lo = 0.5, hi = 8.0;
    int status = problem_make(&p, cfg, instance, trial, SHORT, "top", 1e-5);
    for (int round = 0; round < 14 && !status; round++) {
        const double c = 0.5 * (lo + hi);
        double ratio = NAN, peak = INFINITY;
        status = loss_ratio_after(&p, c / (SHORT * p.lambda_max), 200, &ratio, &peak, NULL);
        if (peak <= 1.0) lo = c;
        else hi = c;
    }
    *critical = 0.5 * (lo + hi);
    *per_lambda_key = *critical / p.lambda_max / p.lambda[LAMBDA_H_LIMIT];
    problem_free(&p);
    return status;
}

/* Results of a (instance, trial): decrease_min and lambda_min per lambda, critical step. */
enum { DECREASE = NUM_LAMBDAS, CRITICAL = 2 * NUM_LAMBDAS, CRITICAL_PER_LAMBDA, NUM_RESULTS };

static int run_decrease(const struct config *cfg, size_t index, double *out)
{
    const enum instance instance = (enum instance)(index / cfg->num_trials);
    const size_t trial = index % cfg->num_trials, m = cfg->prefix_len;
    struct problem p;
    struct prefix_descent *descent = NULL;
    int status = problem_make(&p, cfg, instance, trial, m, instance == SQUARE ? "bottom" : "random", 1.0);
    if (!status) status = prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 1, &descent);
    double smallest = INFINITY, rate = 0.0;
    if (!status) {
        rate = 0.5 / p.lambda_max;                     /* m eta, a quarter of the stability limit */
        const double start = prefix_descent_loss(descent);
        for (size_t t = 0; t < cfg->num_steps && !status; t++) {
            const double before = prefix_descent_loss(descent);
            if (!(before > 1e-16 * start)) break;      /* beyond, rounding decides */
            status = prefix_descent_step(descent, rate / (double)m);
            if (!status) smallest = fmin(smallest, 1.0 - prefix_descent_loss(descent) / before);
            if (cli_interrupted()) status = GSL_FAILURE;
        }
    }
    for (int l = 0; l < NUM_LAMBDAS; l++) {
        out[l] = p.lambda[l];
        out[DECREASE + l] = smallest / (0.5 * rate * p.lambda[l]);
    }
    prefix_descent_free(descent);
    problem_free(&p);
    if (!status) status = critical_step(cfg, instance, trial, &out[CRITICAL], &out[CRITICAL_PER_LAMBDA]);
    return status;
}

/* Descents with targets of norm 1 at step sizes around the limit. */
static const double factors[] = { 1.0, 1.5, 1.8, 1.95, 2.05, 2.2, 2.5, 3.0, 4.0 };
static const size_t step_lens[] = { 64, 1024 };
enum { NUM_FACTORS = sizeof factors / sizeof *factors, NUM_STEP_LENS = 2, NUM_STEP_RESULTS = 3 };

static int run_factor(const struct config *cfg, size_t index, double *out)
{
    const size_t factor = index % NUM_FACTORS, trial = index / NUM_FACTORS % cfg->num_trials;
    const size_t m = step_lens[index / NUM_FACTORS / cfg->num_trials];
    struct problem p;
    for (int c = 0; c < NUM_RESULTS; c++) out[c] = NAN;
    int status = problem_make(&p, cfg, GENERIC, trial, m, "random", 1.0);
    if (!status)
        status = loss_ratio_after(&p, factors[factor] / ((double)m * p.lambda_max), cfg->num_steps, &out[0], &out[1],
                                  &out[2]);
    problem_free(&p);
    return status;
}

/* Decreases first, then, with --steps-out, the descents at the factors. */
static const double *decrease_of(const struct config *cfg, const struct units *work, int instance, size_t trial)
{
    return units_row(work, (size_t)instance * cfg->num_trials + trial);
}

static const double *factor_of(const struct config *cfg, const struct units *work, size_t len, size_t trial,
                               size_t factor)
{
    return units_row(work, NUM_INSTANCES * cfg->num_trials + (len * cfg->num_trials + trial) * NUM_FACTORS + factor);
}

static int write_table(const struct config *cfg, const struct units *work)
{
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "prefix_len=%zu num_steps=%zu; generic: n=d=8 on the sphere, sigma=1, random signs; square: inputs "
                  "+-e_1, +-e_2, "
                  "sigma=0.3, mirrored signs, residual along the bottom eigenvector of K", cfg->prefix_len,
                  cfg->num_steps);
    table_note(t, "decrease_min: min over steps of (1 - L(t+1)/L(t)) / (m eta lambda_min/2), the theorem says >= 1; "
                  "critical_step: largest stable eta m lambda_max(K); critical_per_lambda_key: eta m / lambda_min(H*) "
                  "there");
    for (int i = 0; i < NUM_INSTANCES; i++)
        for (int l = 0; l < NUM_LAMBDAS; l++)
            for (size_t trial = 0; trial < cfg->num_trials; trial++) {
                const double *result = decrease_of(cfg, work, i, trial);
                table_text(t, instance_names[i]);
                table_text(t, lambda_names[l]);
                table_int(t, trial);
                table_num(t, result[l]);
                table_num(t, result[DECREASE + l]);
                table_num(t, result[CRITICAL]);
                table_num(t, result[CRITICAL_PER_LAMBDA]);
                table_end_row(t);
            }
    return table_close(t, 0);
}

static int write_steps(const struct config *cfg, const struct units *work)
{
    if (!cfg->steps_out) return 0;
    struct table *t = table_open(&cfg->c, cfg->steps_out, step_columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "factor: eta m lambda_max(K(0)), the limit is 2; loss_ratio: after num_steps, empty when it "
                  "diverged; "
                  "peak_ratio: largest loss on the way; lambda_max_ratio: of K at the end");
    for (size_t l = 0; l < NUM_STEP_LENS; l++)
        for (size_t trial = 0; trial < cfg->num_trials; trial++)
            for (size_t f = 0; f < NUM_FACTORS; f++) {
                const double *result = factor_of(cfg, work, l, trial, f);
                table_num(t, factors[f]);
                table_int(t, step_lens[l]);
                table_int(t, trial);
                for (int c = 0; c < NUM_STEP_RESULTS; c++) table_num(t, result[c]);
                table_end_row(t);
            }
    return table_close(t, 0);
}

/* Loss on the square of trial 0, and the same instance as files. */
static int write_square(const struct config *cfg)
{
    enum { SHOWN = 400 };
    if (!cfg->curve_out && !cfg->instance_out) return 0;
    struct problem p;
    struct prefix_descent *descent = NULL;
    struct prefix_linear *linear = NULL;
    int status = problem_make(&p, cfg, SQUARE, 0, cfg->prefix_len, "bottom", 1.0);
    if (!status) status = prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, cfg->c.threads, &descent);
    if (!status) status = prefix_linear_alloc(p.K, prefix_descent_residual(descent), &linear);
    int code = cli_status(&cfg->c, status, "the square");
    if (!code && cfg->curve_out) {
        struct table *t = table_open(&cfg->c, cfg->curve_out, curve_columns);
        if (!t) code = EXIT_FAILED;
        const double rate = 0.5 / p.lambda_max, start = prefix_descent_loss(descent);
        for (size_t step = 0; step <= SHOWN && !code; step++) {
            table_int(t, step);
            table_num(t, prefix_descent_loss(descent) / start);
            table_num(t, pow(1.0 - 0.5 * rate * p.lambda[LAMBDA_H_LIMIT], (double)step));
            table_num(t, pow(1.0 - 0.5 * rate * p.lambda[LAMBDA_K_LIMIT], (double)step));
            table_num(t, prefix_linear_loss(linear, rate, (double)step) / start);
            table_end_row(t);
            code = cli_status(&cfg->c, prefix_descent_step(descent, rate / (double)cfg->prefix_len), "the square");
        }
        if (t) code = table_close(t, code);
    }
    const struct { const char *name; const gsl_matrix *array; } parts[] = {
        { "inputs", p.X }, { "targets", p.Y }, { "prefix", p.W } };
    for (size_t i = 0; i <= 3 && !code && cfg->instance_out; i++) {
        char *path = cli_text("%s_%s.npy", cfg->instance_out, i < 3 ? parts[i].name : "signs");
        code = !path ? cli_fail(&cfg->c, EXIT_FAILED, "out of memory")
             : i < 3 ? cli_write_matrix(&cfg->c, path, parts[i].array) : cli_write_vector(&cfg->c, path, p.signs);
        free(path);
    }
    prefix_linear_free(linear);
    prefix_descent_free(descent);
    problem_free(&p);
    return code;
}

static int write_verdicts(const struct config *cfg, const struct units *work)
{
    if (!cfg->c.verdicts) return 0;
    char stem[256], row[64];
    cli_stem(&cfg->c, stem, sizeof stem);
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    if (!x) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    for (int i = 0; i < NUM_INSTANCES; i++) {
        for (int l = 0; l < NUM_LAMBDAS; l++) {
            for (size_t t = 0; t < cfg->num_trials; t++) x[t] = decrease_of(cfg, work, i, t)[DECREASE + l];
            snprintf(row, sizeof row, "%s-%s", instance_names[i], lambda_names[l]);
            verdicts_add(v, "T7", row, cli_mean(x, cfg->num_trials, 0.999));
        }
    }
    for (size_t t = 0; t < cfg->num_trials; t++) x[t] = decrease_of(cfg, work, SQUARE, t)[CRITICAL_PER_LAMBDA];
    verdicts_add(v, "F23", "critical-per-lambda", cli_mean(x, cfg->num_trials, 0.999));
    free(x);
    return verdicts_close(v, 0);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    if (cfg.tables) {
        cfg.steps_out = cli_side_path(&cfg.c, "steps");
        cfg.curve_out = cli_side_path(&cfg.c, "curve");
        cfg.instance_out = cli_side_path(&cfg.c, "square");
        if (cfg.instance_out) cfg.instance_out[strlen(cfg.instance_out) - 4] = '\0';      /* a base, without .csv */
    }
    const size_t units = NUM_INSTANCES * cfg.num_trials, step_units = NUM_STEP_LENS * cfg.num_trials * NUM_FACTORS;
    int code = cli_memory(&cfg.c, (double)cfg.c.threads * 40.0 * (double)cfg.prefix_len * sizeof(double), "the prefix");
    if (code) return code;
    const size_t all = units + (cfg.steps_out ? step_units : 0);
    char *identity = cli_identity(options, &cfg.c);
    struct units *work = units_open(&cfg.c, identity, "descents", all, NUM_RESULTS, 0.0);
    free(identity);
    if (!work) return EXIT_FAILED;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
    for (size_t u = 0; u < all; u++) {
        double *row = units_begin(work, u);
        if (row) units_end(work, u, u < units ? run_decrease(&cfg, u, row) : run_factor(&cfg, u - units, row));
    }
    code = units_status(work);
    if (!code) code = write_steps(&cfg, work);
    if (!code) code = write_square(&cfg);
    if (!code) code = write_verdicts(&cfg, work);
    if (!code) code = write_table(&cfg, work);
    free(cfg.steps_out);
    free(cfg.curve_out);
    free(cfg.instance_out);
    return units_close(work, code);
}
