/* How long a prefix must be for its kernel to be close to the limit, and to be definite (T4, F3). */
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/samples.h"
#include "cli/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"

static const char doc[] =
    "Smallest prefix length at which ||K_m - K*|| <= lambda/4 (close), and at which lambda_min(K_m) >= lambda/2 "
    "(definite), in a given share of the trials, over instances of falling lambda = lambda_min(K*). Random signs.";
static const char columns[] = "kernel,instance,num_samples,dim,lambda_min,norm,inv_lambda,inv_lambda2,prefix_len_close,"
                              "prefix_len_close_extrapolated,prefix_len_definite";

struct config {
    struct cli_common c;
    size_t num_instances, num_trials, max_prefix_len;
    double sigma, confidence;
};

static const struct cli_option options[] = {
    { "num-instances", CLI_SIZE(struct config, num_instances), .min = 1, .max = 1u << 20, .value = "36",
      .group = 1, .doc = "draws of the inputs" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1u << 20, .value = "30", .group = 1,
      .doc = "prefixes drawn for each" },
    { "max-prefix-len", CLI_SIZE(struct config, max_prefix_len), .min = 8, .max = (size_t)1 << 32,
      .value = "131072", .arg = "M", .group = 1, .doc = "longest prefix tried" },
    KERNEL_SIGMA(struct config, "0.4"),
    { "confidence", CLI_DOUBLE(struct config, confidence), .value = "0.9", .arg = "P", .group = 1,
      .doc = "share of trials, 1 - delta" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    return cfg->confidence <= 1.0 ? NULL : "--confidence: above 1";
}

enum { NUM_KERNELS = 2, SHORTEST = 2, WIDTH = 3 * NUM_KERNELS, ENOUGH = 8192 };

/* The grid of prefix lengths, powers of sqrt 2. */
static size_t grid_len(size_t step) { return (size_t)llround(SHORTEST * pow(2.0, 0.5 * (double)step)); }

static size_t grid_count(const struct config *cfg)
{
    size_t count = 0;
    while (grid_len(count) <= cfg->max_prefix_len) count++;
    return count;
}

/* n of 2, 3 and d of 2, 3, 4 by turns. */
static size_t samples_of(size_t instance) { return 2 + instance % 2; }
static size_t dim_of(size_t instance) { return 2 + instance / 2 % 3; }

struct limit { gsl_matrix *K[NUM_KERNELS]; double lambda[NUM_KERNELS], norm[NUM_KERNELS]; };

static void limit_free(struct limit *limit)
{
    for (int k = 0; k < NUM_KERNELS; k++) gsl_matrix_free(limit->K[k]);
}

static int limit_fill(const struct config *cfg, size_t instance, gsl_matrix **X, struct limit *limit)
{
    const size_t n = samples_of(instance), d = dim_of(instance);
    gsl_vector *w = gsl_vector_alloc(n * d);
    *X = gsl_matrix_alloc(n, d);
    int status = *X && w ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) samples_sphere(cfg->c.seed, RANDOM_INPUTS, instance, 0, *X);
    for (int k = 0; k < NUM_KERNELS && !status; k++) {
        if (!(limit->K[k] = gsl_matrix_alloc(n * d, n * d))) status = GSL_ENOMEM;
        if (!status) status = ntk_limit(*X, *X, cfg->sigma, PREFIX_SIGNS_RANDOM, (enum ntk_kernel)k, limit->K[k]);
        if (!status) status = ntk_eigenvalues(limit->K[k], w);
        if (!status) {
            limit->lambda[k] = gsl_vector_get(w, 0);
            limit->norm[k] = gsl_vector_get(w, n * d - 1);
        }
    }
    gsl_vector_free(w);
    return status;
}

/* One trial of one instance: by kernel, the first grid step from which on the kernel stays
 * close, that from which on it stays definite (the number of steps when it never does), and
 * m (||K_m - K*|| / (lambda/4))^2 at the longest prefix: the m that m^{-1/2} extrapolates to. */
static int run_trial(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const size_t instance = unit / cfg->num_trials, trial = unit % cfg->num_trials;
    const size_t steps = grid_count(cfg), size = samples_of(instance) * dim_of(instance);
    struct limit limit = { { NULL }, { 0.0 }, { 0.0 } };
    gsl_matrix *X = NULL, *K = gsl_matrix_alloc(size, size);
    gsl_vector *w = gsl_vector_alloc(size);
    struct ntk_sweep *sweep = NULL;
    int status = K && w ? limit_fill(cfg, instance, &X, &limit) : GSL_ENOMEM;
    if (!status && !(sweep = ntk_sweep_alloc(X, cfg->c.seed, instance * cfg->num_trials + trial, PREFIX_SIGNS_RANDOM,
                                             cfg->sigma, NTK_FULL, 1))) status = GSL_ENOMEM;
    for (int i = 0; i < WIDTH; i++) out[i] = 0.0;
    bool hopeless = false;
    for (size_t s = 0; s < steps && !status && !hopeless; s++) {
        for (int k = 0; k < NUM_KERNELS && !status; k++) {
            status = ntk_sweep_step(sweep, grid_len(s), (enum ntk_kernel)k, K);
            if (!status) status = ntk_eigenvalues(K, w);
            if (status) break;
            if (!(gsl_vector_get(w, 0) >= 0.5 * limit.lambda[k])) out[3 * k + 1] = (double)(s + 1);
            gsl_matrix_sub(K, limit.K[k]);
            status = ntk_eigenvalues(K, w);
            const double distance = fmax(-gsl_vector_get(w, 0), gsl_vector_get(w, size - 1));
            if (!(distance <= 0.25 * limit.lambda[k])) out[3 * k] = (double)(s + 1);
            out[3 * k + 2] = (double)grid_len(s) * 16.0 * distance * distance / (limit.lambda[k] * limit.lambda[k]);
        }
        /* Where m^{-1/2} leads to far more than the longest prefix, it will not be close. */
        hopeless = grid_len(s) >= ENOUGH;
        for (int k = 0; k < NUM_KERNELS; k++) {
            hopeless = hopeless && out[3 * k + 2] > 16.0 * (double)cfg->max_prefix_len;
            if (hopeless && k + 1 == NUM_KERNELS) for (int j = 0; j < NUM_KERNELS; j++) out[3 * j] = (double)steps;
        }
    }
    ntk_sweep_free(sweep);
    gsl_vector_free(w);
    gsl_matrix_free(K);
    gsl_matrix_free(X);
    limit_free(&limit);
    return status;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct instance { double inv_lambda, close, definite; };   /* ||K*|| / lambda; lengths, INFINITY when not reached */

/* F3 and T4 for one kernel: the exponent of ||K*||/lambda in the length needed, an instance that never gets there
 * censored at the longest prefix. */
static void decide(const struct instance *all, size_t count, double longest, const char *kernel, struct verdicts *v)
{
    char row[64];
    double *x = cli_need(malloc(count * sizeof *x)), *y = cli_need(malloc(count * sizeof *y));
    int *censored = cli_need(malloc(count * sizeof *censored));
    for (int definite = 0; definite < 2; definite++) {
        for (size_t i = 0; i < count; i++) {
            const double len = definite ? all[i].definite : all[i].close;
            censored[i] = !isfinite(len);
            x[i] = log(all[i].inv_lambda);
            y[i] = log(censored[i] ? longest : len);
        }
        struct interval slope;
        if (stats_censored_line(x, y, censored, count, 0.999, &slope))
            slope = (struct interval){ NAN, NAN, NAN, count };
        snprintf(row, sizeof row, "%s-%s", definite ? "definite" : "close-censored", kernel);
        verdicts_add(v, "F3", row, slope);
        if (definite) continue;
        snprintf(row, sizeof row, "all-%s", kernel);
        verdicts_add(v, "T4", row, slope);
    }
    free(censored);
    free(y);
    free(x);
}

static int report(const struct config *cfg, const struct units *work)
{
    const size_t steps = grid_count(cfg), needed = (size_t)ceil(cfg->confidence * (double)cfg->num_trials) - 1;
    double *trial = cli_need(malloc(cfg->num_trials * sizeof *trial));
    struct instance *all = cli_need(malloc(cfg->num_instances * sizeof *all));
    struct table *t = table_open(&cfg->c, NULL, columns);
    int code = t ? 0 : EXIT_FAILED;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    if (t) table_note(t, "sigma=%.17g num_trials=%zu confidence=%g; inv_lambda: ||K*||_2 / lambda_min; empty length: "
                         "longer than %zu; extrapolated: as m^{-1/2} from there",
                      cfg->sigma, cfg->num_trials, cfg->confidence, grid_len(steps - 1));
    for (int k = 0; k < NUM_KERNELS && !code; k++) {
        for (size_t i = 0; i < cfg->num_instances && !code; i++) {
            gsl_matrix *X = NULL;
            struct limit limit = { { NULL }, { 0.0 }, { 0.0 } };
            code = cli_status(&cfg->c, limit_fill(cfg, i, &X, &limit), "limit kernel");
            if (code) {
                limit_free(&limit);
                gsl_matrix_free(X);
                break;
            }
            double len[3];
            for (int which = 0; which < 3; which++) {
                for (size_t r = 0; r < cfg->num_trials; r++)
                    trial[r] = units_row(work, i * cfg->num_trials + r)[3 * k + which];
                qsort(trial, cfg->num_trials, sizeof *trial, compare);
                if (which == 2) len[which] = trial[needed];
                else len[which] = trial[needed] < (double)steps ? (double)grid_len((size_t)trial[needed]) : INFINITY;
            }
            const double inverse = limit.norm[k] / limit.lambda[k];
            all[i] = (struct instance){ inverse, len[0], len[1] };
            table_text(t, cli_kernel_names[k]);
            table_int(t, i);
            table_int(t, samples_of(i));
            table_int(t, dim_of(i));
            table_num(t, limit.lambda[k]);
            table_num(t, limit.norm[k]);
            table_num(t, inverse);
            table_num(t, inverse * inverse);
            table_num(t, len[0]);
            table_num(t, len[2]);
            table_num(t, len[1]);
            table_end_row(t);
            limit_free(&limit);
            gsl_matrix_free(X);
        }
        if (!code) decide(all, cfg->num_instances, (double)grid_len(steps - 1), cli_kernel_names[k], v);
    }
    free(all);
    free(trial);
    return table_close(t, verdicts_close(v, code));
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    double unit = 0.0;
    for (size_t i = 0; i < cfg.num_instances; i++) {
        const double nd = (double)(samples_of(i) * dim_of(i));
        unit = fmax(unit, 6.0 * nd * nd * sizeof(double)
                    + (double)ntk_moments_bytes(samples_of(i), dim_of(i), PREFIX_SIGNS_RANDOM, NTK_FULL,
                                                cfg.max_prefix_len));
    }
    const struct units_study study = { .what = "trials", .count = cfg.num_instances * cfg.num_trials, .width = WIDTH,
                                       .unit_bytes = unit, .unit = run_trial };
    char *identity = cli_identity(options, &cfg.c);
    struct units *work;
    int code = units_work(&cfg.c, identity, &study, &cfg, &work);
    free(identity);
    if (!code) code = report(&cfg, work);
    return units_close(work, code);
}
