/* Does the kernel theory of the prefix lead to the summary's features? The function that an infinitely
 * long trained prefix learns, f(x) = K*(x, X) K*(X, X)^-1 Y, against the span of each map's features.
 * Ledger M8. */
#include <math.h>
#include <stdlib.h>

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include <gsl/gsl_math.h>

#include "common/random.h"
#include "cli/option_table.h"
#include "cli/samples.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "prefix_ntk/feature.h"
#include "prefix_ntk/ntk.h"

static const char columns[] = "sigma,feature,feat_dim,residual_mean,residual_ci_lo,residual_ci_hi,num_trials";

struct config { struct cli_common c; size_t dim, num_samples, num_fit, num_trials; double *sigmas; size_t num_sigmas; };

static const struct cli_option options[] = {
    { "dim", CLI_SIZE(struct config, dim), .min = 2, .max = 16, .value = "6", .arg = "D",
      .doc = "dimension of the inputs" },
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 256, .value = "8",
      .doc = "training samples of the prefix" },
    { "num-fit", CLI_SIZE(struct config, num_fit), .min = 1, .max = 1 << 16, .value = "1000",
      .doc = "inputs on which features are fitted to the predictor; as many others judge" },
    { "sigma", CLI_DOUBLES(struct config, sigmas, num_sigmas), .value = "0.5,1,2", .arg = "S,..",
      .doc = "standard deviations of the prefix tokens" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "8", .doc = "trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *const maps[] = { "elu1", "taylor:1", "taylor:2", "taylor:3", "taylor:4", "favor-orth:24",
                                    "favor-orth:210" };
enum { NUM_MAPS = sizeof maps / sizeof *maps, MAP_ELU = 0, MAP_TAYLOR4 = 4, MAP_RANDOM = 6, NO_MAP = NUM_MAPS };

/* ||F - Phi Z|| / ||F|| on the second half of the rows, Z fitted on the first. */
static int residual(const char *name, const gsl_matrix *X, const gsl_matrix *F, uint64_t seed, double *out)
{
    const size_t n = X->size1 / 2, d = X->size2;
    feature_map *map;
    int status = feature_parse(name, d, 1.0, seed, NULL, &map);
    if (status) return status;
    const size_t r = feature_dim(map);
    gsl_matrix *Phi = gsl_matrix_alloc(2 * n, r), *G = gsl_matrix_alloc(r, r), *Z = gsl_matrix_alloc(r, d),
        *R = gsl_matrix_alloc(n, d);
    status = Phi && G && Z && R ? feature_forward_f64(map, FEATURE_QUERY, 2 * n, X->data, X->tda, Phi->data, Phi->tda,
                                                      NULL, 1, NULL) : GSL_ENOMEM;
    if (status) goto done;
    gsl_matrix_const_view fit = gsl_matrix_const_submatrix(Phi, 0, 0, n, r), judge = gsl_matrix_const_submatrix(Phi, n,
        0, n, r);
    gsl_matrix_const_view target = gsl_matrix_const_submatrix(F, 0, 0, n, d), truth = gsl_matrix_const_submatrix(F, n,
        0, n, d);
    gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, &fit.matrix, &fit.matrix, 0.0, G);
    gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, &fit.matrix, &target.matrix, 0.0, Z);
    double trace = 0.0;
    for (size_t i = 0; i < r; i++) trace += gsl_matrix_get(G, i, i);
    /* On the sphere the monomials are dependent: a small ridge picks one solution. */
    for (size_t i = 0; i < r; i++) *gsl_matrix_ptr(G, i, i) += 1e-12 * trace / (double)r;
    if ((status = gsl_linalg_cholesky_decomp1(G))) goto done;
    gsl_blas_dtrsm(CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, 1.0, G, Z);
    gsl_blas_dtrsm(CblasLeft, CblasLower, CblasTrans, CblasNonUnit, 1.0, G, Z);
    gsl_matrix_memcpy(R, &truth.matrix);
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, -1.0, &judge.matrix, Z, 1.0, R);
    double above = 0.0, below = 0.0;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < d; c++) {
            above += gsl_pow_2(gsl_matrix_get(R, i, c));
            below += gsl_pow_2(gsl_matrix_get(&truth.matrix, i, c));
        }
    *out = sqrt(above / below);
done:
    feature_map_free(map);
    gsl_matrix_free(Phi);
    gsl_matrix_free(G);
    gsl_matrix_free(Z);
    gsl_matrix_free(R);
    return status;
}

static int run_unit(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const double sigma = cfg->sigmas[unit / cfg->num_trials];
    const size_t trial = unit % cfg->num_trials;
    const size_t n = cfg->num_samples, d = cfg->dim, at = 2 * cfg->num_fit;
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *X2 = gsl_matrix_alloc(at, d),
        *F = gsl_matrix_alloc(at, d);
    gsl_matrix *gram = gsl_matrix_alloc(n * d, n * d), *cross = gsl_matrix_alloc(at * d, n * d);
    gsl_vector_view y, f;
    int status = X && Y && X2 && F && gram && cross ? GSL_SUCCESS : GSL_ENOMEM;
    if (status) goto done;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, trial, 0, X);
    samples_sphere(cfg->c.seed, RANDOM_TARGETS, trial, 0, Y);
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, trial, n, X2);
    status = ntk_limit(X, X, sigma, PREFIX_SIGNS_RANDOM, NTK_FULL, gram);
    if (!status) status = ntk_limit(X2, X, sigma, PREFIX_SIGNS_RANDOM, NTK_FULL, cross);
    if (!status) status = gsl_linalg_cholesky_decomp1(gram);
    if (status) goto done;
    y = gsl_vector_view_array(Y->data, n * d);
    f = gsl_vector_view_array(F->data, at * d);
    gsl_linalg_cholesky_svx(gram, &y.vector);
    gsl_blas_dgemv(CblasNoTrans, 1.0, cross, &y.vector, 0.0, &f.vector);
    for (size_t i = 0; i < NUM_MAPS && !status; i++) status = residual(maps[i], X2, F, cfg->c.seed + trial, &out[i]);
done:
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
    gsl_matrix_free(X2);
    gsl_matrix_free(F);
    gsl_matrix_free(gram);
    gsl_matrix_free(cross);
    return status;
}

/* Over trials: what is outside the features of `map`, over what is outside those of `other` unless that is NO_MAP. */
static struct interval over_trials(const struct config *cfg, const struct units *work, size_t sigma, size_t map,
                                   size_t other, double *x)
{
    for (size_t t = 0; t < cfg->num_trials; t++) {
        const double *row = units_row(work, sigma * cfg->num_trials + t);
        x[t] = row[map] / (other == NO_MAP ? 1.0 : row[other]);
    }
    return cli_mean(x, cfg->num_trials, 0.999);
}

/* The kernel, its rows at the points of the fit, and the widest map there: 210 features, or taylor:4's. */
static double unit_bytes(const struct config *cfg)
{
    const double nd = (double)(cfg->num_samples * cfg->dim), at = 2.0 * (double)cfg->num_fit, d = (double)cfg->dim;
    const double r = fmax(210.0, (d + 4.0) * (d + 3.0) * (d + 2.0) * (d + 1.0) / 24.0);
    return sizeof(double) * (nd * nd + at * d * nd + 3.0 * at * d + 4.0 * nd + (at + r + d) * r);
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    table_note(t, "residual: ||f - phi Z|| / ||f|| on inputs that Z was not fitted on, f the predictor of an "
                  "infinitely long prefix; 99.9 %% intervals");
    for (size_t s = 0; s < cfg->num_sigmas; s++)
        for (size_t i = 0; i < NUM_MAPS; i++) {
            feature_map *map;
            const struct interval ci = over_trials(cfg, work, s, i, NO_MAP, x);
            table_num(t, cfg->sigmas[s]);
            table_text(t, maps[i]);
            if (cli_need_memory(feature_parse(maps[i], cfg->dim, 1.0, 0, NULL, &map))) table_empty(t);
            else {
                table_int(t, feature_dim(map));
                feature_map_free(map);
            }
            table_interval(t, ci);
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
    free(x);
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    static const struct { const char *row; double sigma; size_t map, other; } rows[] = {
        { "taylor4", 1.0, MAP_TAYLOR4, NO_MAP },         { "elu1", 1.0, MAP_ELU, NO_MAP },
        { "random-half", 0.5, MAP_TAYLOR4, MAP_RANDOM }, { "random-one", 1.0, MAP_TAYLOR4, MAP_RANDOM },
        { "random-two", 2.0, MAP_TAYLOR4, MAP_RANDOM },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t s = 0;
        while (s < cfg->num_sigmas && cfg->sigmas[s] != rows[i].sigma) s++;
        if (s == cfg->num_sigmas) verdicts_not_tested(v, "M8", rows[i].row);
        else verdicts_add(v, "M8", rows[i].row, over_trials(cfg, work, s, rows[i].map, rows[i].other, x));
    }
    free(x);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "The predictor of an infinitely long prefix against the span of a summary's features.",
                    options, shard, NULL, &cfg.c);
    const struct units_study study = {
        .stem = "ntk_features", .what = "trials", .columns = columns, .count = cfg.num_sigmas * cfg.num_trials,
        .width = NUM_MAPS,
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
