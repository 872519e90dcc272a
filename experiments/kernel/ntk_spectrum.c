/* The smallest eigenvalue: of the limits, as samples are added, and of finite prefixes (T3, F2, F7). */
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/samples.h"
#include "cli/units.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"

static const char doc[] =
    "Smallest eigenvalue of the limit kernels (random signs): whether it is positive (distinct, repeated, zero "
    "inputs), "
    "how it falls with the number of samples, and how a finite prefix approaches it.";
static const char columns[] = "part,kernel,dim,num_samples,prefix_len,num_draws,value,ci_lo,ci_hi";

struct config {
    struct cli_common c;
    size_t num_instances, num_draws, num_trials;
    size_t *num_samples, count_samples, *dims, count_dims, *prefix_lens, num_lens;
    double sigma;
};

static const struct cli_option options[] = {
    { "num-instances", CLI_SIZE(struct config, num_instances), .min = 1, .max = 1u << 24, .value = "1000",
      .group = 1, .doc = "random instances of the positivity rows" },
    { "num-samples", CLI_SIZES(struct config, num_samples, count_samples), .min = 1, .max = 1024,
      .value = "2,4,6,8,10,12", .group = 1, .doc = "numbers of samples" },
    { "dim", CLI_SIZES(struct config, dims, count_dims), .min = 1, .max = 1024, .value = "2,3,4", .group = 1,
      .doc = "dimensions" },
    { "num-draws", CLI_SIZE(struct config, num_draws), .min = 2, .max = 1u << 20, .value = "64", .group = 1,
      .doc = "draws of the inputs for each" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = (size_t)1 << 32,
      .value = "16,64,256,1024,4096,16384,65536", .group = 1, .doc = "prefix lengths, n = 4, d = 3" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1u << 20, .value = "64", .group = 1,
      .doc = "prefixes drawn", .same_units = true },
    { "sigma", CLI_DOUBLE(struct config, sigma), .arg = "S", .group = 1,
      .doc = "standard deviation of a token's entries (default 1; finite prefixes 0.7 times that)" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

enum { NUM_KERNELS = 2, FINITE_SAMPLES = 4, FINITE_DIM = 3 };

/* Instances with distinct inputs, one repeated, one zero. */
enum fault { FAULT_NONE, FAULT_DUPLICATE, FAULT_ZERO, NUM_FAULTS };
static const char *const fault_names[] = { "distinct", "duplicate", "zero" };

/* Smallest eigenvalue of a limit, and the rounding error it may have. */
static int limit_lambda(const gsl_matrix *X, double sigma, enum ntk_kernel kernel, double *lambda, double *rounding)
{
    const size_t size = X->size1 * X->size2;
    gsl_matrix *K = gsl_matrix_alloc(size, size);
    gsl_vector *w = gsl_vector_alloc(size);
    int status = K && w ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = ntk_limit(X, X, sigma, PREFIX_SIGNS_RANDOM, kernel, K);
    if (!status) status = ntk_eigenvalues(K, w);
    if (!status) {
        *lambda = gsl_vector_get(w, 0);
        *rounding = 10.0 * (double)size * DBL_EPSILON * gsl_vector_get(w, size - 1);
    }
    gsl_vector_free(w);
    gsl_matrix_free(K);
    return status;
}

/* One instance: whether each eigenvalue is positive, by fault and kernel, then whether H's exceeds K's. */
enum { INSTANCE_WIDTH = NUM_FAULTS * NUM_KERNELS + 1 };

static int run_instance(const struct config *cfg, size_t instance, double *out)
{
    double shape[3];
    random_uniform(cfg->c.seed, RANDOM_OTHER, instance, 0, shape, 3);
    const size_t n = 2 + (size_t)(4.0 * shape[0]), d = 2 + (size_t)(3.0 * shape[1]);
    const double sigma = 0.5 + shape[2];
    gsl_matrix *X = gsl_matrix_alloc(n, d);
    if (!X) return GSL_ENOMEM;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, instance, 0, X);
    int status = GSL_SUCCESS;
    double lambda[NUM_KERNELS], rounding;
    for (size_t i = 0; i < n; i++) {
        double length;
        random_uniform(cfg->c.seed, RANDOM_OTHER, instance, 1 + i, &length, 1);
        gsl_vector_view x = gsl_matrix_row(X, i);
        gsl_vector_scale(&x.vector, 0.5 + length);
    }
    for (int fault = 0; fault < NUM_FAULTS && !status; fault++) {
        gsl_vector_view last = gsl_matrix_row(X, n - 1);
        gsl_vector_const_view first = gsl_matrix_const_row(X, 0);
        if (fault == FAULT_DUPLICATE) gsl_vector_memcpy(&last.vector, &first.vector);
        if (fault == FAULT_ZERO) gsl_vector_set_zero(&last.vector);
        for (int kernel = 0; kernel < NUM_KERNELS && !status; kernel++) {
            status = limit_lambda(X, sigma, (enum ntk_kernel)kernel, &lambda[kernel], &rounding);
            out[fault * NUM_KERNELS + kernel] = lambda[kernel] > rounding ? 1.0 : 0.0;
        }
        if (fault == FAULT_NONE) out[NUM_FAULTS * NUM_KERNELS] = lambda[NTK_KEY] > lambda[NTK_FULL] ? 1.0 : 0.0;
    }
    gsl_matrix_free(X);
    return status;
}

/* One draw of nested inputs: log eigenvalue by dimension, number of samples, kernel; NaN below rounding. Then the same
 * once more with the rounding error in place of what is below it. */
static int run_draw(const struct config *cfg, size_t draw, double *out)
{
    size_t most = 0;
    for (size_t i = 0; i < cfg->count_samples; i++) most = cfg->num_samples[i] > most ? cfg->num_samples[i] : most;
    int status = GSL_SUCCESS;
    for (size_t k = 0; k < cfg->count_dims && !status; k++) {
        gsl_matrix *X = gsl_matrix_alloc(most, cfg->dims[k]);
        if (!X) return GSL_ENOMEM;
        samples_sphere(cfg->c.seed, RANDOM_INPUTS, draw, 0, X);
        for (size_t i = 0; i < cfg->count_samples && !status; i++) {
            gsl_matrix_view first = gsl_matrix_submatrix(X, 0, 0, cfg->num_samples[i], cfg->dims[k]);
            for (int kernel = 0; kernel < NUM_KERNELS && !status; kernel++) {
                double lambda, rounding;
                status = limit_lambda(&first.matrix, cfg->sigma, (enum ntk_kernel)kernel, &lambda, &rounding);
                const size_t column = (k * cfg->count_samples + i) * NUM_KERNELS + (size_t)kernel;
                out[column] = lambda > rounding ? log(lambda) : NAN;
                out[cfg->count_dims * cfg->count_samples * NUM_KERNELS + column] = log(fmax(lambda, rounding));
            }
        }
        gsl_matrix_free(X);
    }
    return status;
}

/* One prefix: eigenvalue over that of the limit, by length and kernel. */
static int run_trial(const struct config *cfg, const size_t *lens, size_t num_lens, size_t trial, double *out)
{
    enum { SIZE = FINITE_SAMPLES * FINITE_DIM };
    const double sigma = 0.7 * cfg->sigma;
    gsl_matrix *X = gsl_matrix_alloc(FINITE_SAMPLES, FINITE_DIM), *K = gsl_matrix_alloc(SIZE, SIZE);
    struct ntk_sweep *sweep = NULL;
    int status = GSL_ENOMEM;
    if (!X || !K) goto done;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, 0, 0, X);
    double limit[NUM_KERNELS], rounding;
    status = GSL_SUCCESS;
    for (int kernel = 0; kernel < NUM_KERNELS && !status; kernel++)
        status = limit_lambda(X, sigma, (enum ntk_kernel)kernel, &limit[kernel], &rounding);
    if (!status && !(sweep = ntk_sweep_alloc(X, cfg->c.seed, trial, PREFIX_SIGNS_RANDOM, sigma, NTK_FULL, 1)))
        status = GSL_ENOMEM;
    for (size_t i = 0; i < num_lens && !status; i++)
        for (int kernel = 0; kernel < NUM_KERNELS && !status; kernel++) {
            double lambda = 0.0;
            status = ntk_sweep_step(sweep, lens[i], (enum ntk_kernel)kernel, K);
            if (!status) status = ntk_lambda_min(K, &lambda);
            out[i * NUM_KERNELS + (size_t)kernel] = lambda / limit[kernel];
        }
done:
    ntk_sweep_free(sweep);
    gsl_matrix_free(K);
    gsl_matrix_free(X);
    return status;
}

static void write_row(struct table *t, const char *part, int kernel, size_t d, size_t n, size_t m, struct interval i)
{
    table_text(t, part);
    table_text(t, cli_kernel_names[kernel]);
    if (d) table_int(t, d); else table_empty(t);
    if (n) table_int(t, n); else table_empty(t);
    if (m) table_int(t, m); else table_empty(t);
    table_int(t, i.n);
    table_interval(t, i);
    table_end_row(t);
}

static void write_instances(const struct config *cfg, const struct units *work, struct table *t, struct verdicts *v)
{
    struct interval rate;
    char row[64];
    for (int column = 0; column < INSTANCE_WIDTH; column++) {
        double positive = 0.0;
        for (size_t u = 0; u < cfg->num_instances; u++) positive += units_row(work, u)[column];
        const int fault = column / NUM_KERNELS, kernel = column % NUM_KERNELS;
        const double n = (double)cfg->num_instances;
        if (column == INSTANCE_WIDTH - 1) {
            if (!stats_rate(positive, n, 0.95, &rate)) write_row(t, "not-ordered", NTK_KEY, 0, 0, 0, rate);
            if (!stats_rate(positive, n, 0.999, &rate)) verdicts_add(v, "F7", "not-ordered", rate);
            continue;
        }
        if (!stats_rate(positive, n, 0.95, &rate)) write_row(t, fault_names[fault], kernel, 0, 0, 0, rate);
        /* A repeated input makes both kernels singular; the row of the key kernel says nothing new. */
        if (fault == FAULT_DUPLICATE && kernel == NTK_KEY) continue;
        snprintf(row, sizeof row, "%s-%s", cli_kernel_names[kernel], fault_names[fault]);
        if (!stats_rate(positive, n, 0.999, &rate)) verdicts_add(v, "T3", row, rate);
    }
}

/* Geometric means over the draws above rounding; a cell that lost a draw is left empty. */
static int write_draws(const struct config *cfg, const struct units *work, size_t first, struct table *t,
                       struct verdicts *v)
{
    double *x = cli_need(malloc(cfg->num_draws * sizeof *x));
    double *second = cli_need(calloc(cfg->num_draws, sizeof *second));
    char row[64];
    if (!x || !second) { free(x); free(second); return GSL_ENOMEM; }
    for (int kernel = 0; kernel < NUM_KERNELS; kernel++) {
        for (size_t k = 0; k < cfg->count_dims; k++) {
            bool curved[3] = { false, false, false };
            memset(second, 0, cfg->num_draws * sizeof *second);
            for (size_t i = 0; i < cfg->count_samples; i++) {
                const size_t column = (k * cfg->count_samples + i) * NUM_KERNELS + (size_t)kernel;
                const int node = cfg->num_samples[i] == 2 ? 0 : cfg->num_samples[i] == 6 ? 1 : cfg->num_samples[i] == 10
                    ? 2 : -1;
                for (size_t u = 0; u < cfg->num_draws; u++) {
                    x[u] = units_row(work, first + u)[column];
                    const double floored = units_row(work, first + u)[cfg->count_dims * cfg->count_samples * NUM_KERNELS
                                                                      + column];
                    if (node >= 0) second[u] += (node == 1 ? -2.0 : 1.0) * floored;
                }
                if (node >= 0) curved[node] = true;
                struct interval mean = { NAN, NAN, NAN, cfg->num_draws };
                if (stats_mean(x, cfg->num_draws, 0.95, &mean))
                    mean = (struct interval){ NAN, NAN, NAN, cfg->num_draws };
                write_row(t, "limit", kernel, cfg->dims[k], cfg->num_samples[i], 0,
                          (struct interval){ exp(mean.value), exp(mean.lo), exp(mean.hi), mean.n });
            }
            if ((cfg->dims[k] != 2 && cfg->dims[k] != 3) || !curved[0] || !curved[1] || !curved[2]) continue;
            struct interval curvature;
            if (stats_mean(second, cfg->num_draws, 0.999, &curvature))
                curvature = (struct interval){ NAN, NAN, NAN, cfg->num_draws };
            snprintf(row, sizeof row, "collapse%s-%s", cfg->dims[k] == 2 ? "-circle" : "", cli_kernel_names[kernel]);
            verdicts_add(v, "F2", row, curvature);
        }
    }
    free(second);
    free(x);
    return GSL_SUCCESS;
}

static int write_trials(const struct config *cfg, const struct units *work, size_t first, const size_t *lens,
                        size_t num_lens, struct table *t, struct verdicts *v)
{
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    if (!x) return GSL_ENOMEM;
    for (int kernel = 0; kernel < NUM_KERNELS; kernel++)
        for (size_t i = 0; i < num_lens; i++) {
            struct interval mean = { 0 };
            for (size_t u = 0; u < cfg->num_trials; u++)
                x[u] = units_row(work, first + u)[i * NUM_KERNELS + (size_t)kernel];
            stats_mean(x, cfg->num_trials, 0.95, &mean);
            write_row(t, "finite", kernel, FINITE_DIM, FINITE_SAMPLES, lens[i], mean);
            stats_mean(x, cfg->num_trials, 0.999, &mean);
            if (i + 1 == num_lens) verdicts_add(v, "T3", kernel == NTK_FULL ? "empirical-full" : "empirical-key", mean);
        }
    free(x);
    return GSL_SUCCESS;
}

int main(int argc, char **argv)
{
    static struct config cfg = { .sigma = 1.0 };
    cli_parse_table(argc, argv, doc, options, shard, NULL, &cfg.c);
    size_t num_lens, *lens = cli_sorted_sizes(cfg.prefix_lens, cfg.num_lens, &num_lens);
    char *identity = cli_identity(options, &cfg.c);
    const size_t draw_width = 2 * cfg.count_dims * cfg.count_samples * NUM_KERNELS,
        trial_width = num_lens * NUM_KERNELS;
    size_t width = INSTANCE_WIDTH;
    width = draw_width > width ? draw_width : width;
    width = trial_width > width ? trial_width : width;
    const size_t first_draw = cfg.num_instances, first_trial = first_draw + cfg.num_draws,
        units = first_trial + cfg.num_trials;
    double most = 0.0;
    for (size_t i = 0; i < cfg.count_samples; i++)
        for (size_t k = 0; k < cfg.count_dims; k++) most = fmax(most, (double)(cfg.num_samples[i] * cfg.dims[k]));
    /* A kernel, the copy its eigenvalues are taken of, and their workspace; the sweep of the small instance is less. */
    const double unit = sizeof(double) * (2.0 * most + 300.0) * most + (1 << 22);
    struct units *work = units_open(&cfg.c, identity, "instances, draws, trials", units, width, unit);
    free(identity);
    int code = EXIT_FAILED;
    if (!work) goto done;
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
    for (size_t u = 0; u < units; u++) {
        double *row = units_begin(work, u);
        if (!row) continue;
        units_end(work, u, u < first_draw ? run_instance(&cfg, u, row)
                         : u < first_trial ? run_draw(&cfg, u - first_draw, row)
                                           : run_trial(&cfg, lens, num_lens, u - first_trial, row));
    }
    code = units_status(work);
    struct table *t = code ? NULL : table_open(&cfg.c, NULL, columns);
    if (!code && !t) code = EXIT_FAILED;
    if (!code) {
        char stem[256];
        cli_stem(&cfg.c, stem, sizeof stem);
        struct verdicts *v = verdicts_open(&cfg.c, stem);
        table_note(t, "signs=random; distinct, duplicate, zero: share of instances with a positive eigenvalue; "
                      "not-ordered: with that of H above that of K");
        table_note(t, "limit: geometric mean of lambda_min of the limit, sigma=%.17g; finite: lambda_min over that of "
                      "the limit, sigma=%.17g", cfg.sigma, 0.7 * cfg.sigma);
        write_instances(&cfg, work, t, v);
        int status = write_draws(&cfg, work, first_draw, t, v);
        if (!status) status = write_trials(&cfg, work, first_trial, lens, num_lens, t, v);
        code = table_close(t, verdicts_close(v, cli_status(&cfg.c, status, "table")));
    }
done:
    free(lens);
    return units_close(work, code);
}
