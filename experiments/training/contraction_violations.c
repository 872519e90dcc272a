/* How often the theorem's decrease in one step fails, over numbers of samples, dimensions and sigma (T7). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "prefix_ntk/prefix_descent.h"

static const char doc[] = "Share of random data sets on which L(t+1) <= (1 - m eta lambda/2) L(t) fails, lambda = "
                          "lambda_min(H*), by number of samples, "
                          "dimension and sigma: by the limit kernels (lambda_min(H*) > 4 lambda_min(K*)), and in "
                          "descents of a prefix with mirrored signs "
                          "whose residual starts along the bottom eigenvector of its kernel.";
static const char columns[] =
    "num_samples,dim,sigma,num_data,limit_rate,limit_ci_lo,limit_ci_hi,descent_rate,descent_ci_lo,descent_ci_hi,"
    "descent_rate_full,lambda_ratio_median";

struct config {
    struct cli_common c;
    size_t *num_samples, num_ns, *dims, num_dims, num_sigmas, num_data, prefix_len;
    double *sigmas;
};

static const struct cli_option options[] = {
    KERNEL_GRID(struct config, "4,8,16", "4,8", "0.3,0.5,0.7,1"),
    { "num-data", CLI_SIZE(struct config, num_data), .min = 1, .max = 1u << 20, .value = "20", .group = 1,
      .doc = "data sets per cell, each with a prefix of its own" },
    { "prefix-len", CLI_SIZE(struct config, prefix_len), .min = 2, .max = 1u << 24, .value = "2048", .arg = "M",
      .group = 1, .doc = "prefix length, even" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    return cfg->prefix_len % 2 ? "--prefix-len: must be even, for mirrored signs" : NULL;
}

/* lambda_min(H*) / lambda_min(K*); the smallest decrease in a step per m eta lambda/2, with either lambda. */
enum { LAMBDA_RATIO, DECREASE_KEY, DECREASE_FULL, NUM_RESULTS, NUM_STEPS = 5 };

struct cell { size_t n, d; double sigma; };

static size_t num_cells(const struct config *cfg) { return cfg->num_ns * cfg->num_dims * cfg->num_sigmas; }

static struct cell cell_at(const struct config *cfg, size_t index)
{
    return (struct cell) { cfg->num_samples[index / cfg->num_sigmas / cfg->num_dims],
                           cfg->dims[index / cfg->num_sigmas % cfg->num_dims], cfg->sigmas[index % cfg->num_sigmas] };
}

/* The smallest 1 - L(t+1)/L(t) over the first steps, per m eta/2, at a quarter of the stability limit. */
static int decrease(const struct config *cfg, const struct cell *cell, size_t unit, const gsl_matrix *X, gsl_matrix *K,
                    double *smallest)
{
    const size_t nd = cell->n * cell->d, m = cfg->prefix_len;
    gsl_matrix *W = gsl_matrix_alloc(m, cell->d), *Y = gsl_matrix_calloc(cell->n, cell->d);
    gsl_vector *signs = gsl_vector_alloc(m);
    struct prefix_linear *linear = NULL;
    struct prefix_descent *descent = NULL;
    int status =
        W && Y && signs ? prefix_draw(cfg->c.seed, unit, PREFIX_SIGNS_MIRRORED, cell->sigma, W, signs, 1) : GSL_ENOMEM;
    if (!status) status = ntk_gram(W, signs, X, NTK_FULL, K, 1);
    if (!status) status = prefix_linear_alloc(K, Y, &linear);
    for (size_t i = 0; i < nd && !status; i++) Y->data[i] = gsl_matrix_get(linear->vectors, i, 0);
    if (!status) status = prefix_descent_alloc(W, signs, X, NULL, Y, 1, &descent);
    const double rate = status ? NAN : 0.5 / linear->eigenvalues[nd - 1];
    *smallest = INFINITY;
    for (int t = 0; t < NUM_STEPS && !status; t++) {
        const double before = prefix_descent_loss(descent);
        status = prefix_descent_step(descent, rate / (double)m);
        if (!status) *smallest = fmin(*smallest, (1.0 - prefix_descent_loss(descent) / before) / (0.5 * rate));
    }
    prefix_descent_free(descent);
    prefix_linear_free(linear);
    gsl_vector_free(signs);
    gsl_matrix_free(Y);
    gsl_matrix_free(W);
    return status;
}

static int run_unit(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const struct cell cell = cell_at(cfg, unit / cfg->num_data);
    gsl_matrix *X = gsl_matrix_alloc(cell.n, cell.d), *K = gsl_matrix_alloc(cell.n * cell.d, cell.n * cell.d);
    double lambda[2] = { NAN, NAN }, smallest = NAN;
    int status = X && K ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) samples_sphere(cfg->c.seed, RANDOM_INPUTS, unit, 0, X);
    for (int kernel = NTK_FULL; kernel <= NTK_KEY && !status; kernel++) {
        status = ntk_limit(X, X, cell.sigma, PREFIX_SIGNS_MIRRORED, (enum ntk_kernel)kernel, K);
        if (!status) status = ntk_lambda_min(K, &lambda[kernel]);
    }
    if (!status) status = decrease(cfg, &cell, unit, X, K, &smallest);
    out[LAMBDA_RATIO] = lambda[NTK_KEY] / lambda[NTK_FULL];
    out[DECREASE_KEY] = smallest / lambda[NTK_KEY];
    out[DECREASE_FULL] = smallest / lambda[NTK_FULL];
    gsl_matrix_free(K);
    gsl_matrix_free(X);
    return status;
}

struct study { const struct config *cfg; struct units *work; };

/* Data sets of a cell on which the theorem's step fails: by the limits, or in the descent. */
static double failures(const struct study *s, size_t cell, int which)
{
    double count = 0.0;
    for (size_t i = 0; i < s->cfg->num_data; i++) {
        const double x = units_row(s->work, cell * s->cfg->num_data + i)[which];
        count += which == LAMBDA_RATIO ? x > 4.0 : x < 1.0;
    }
    return count;
}

static struct interval share(double count, double of, double level)
{
    struct interval rate = { NAN, NAN, NAN, 0 };
    return stats_rate(count, of, level, &rate) ? (struct interval){ NAN, NAN, NAN, 0 } : rate;
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    const double of = (double)cfg->num_data;
    double *x = cli_need(malloc(cfg->num_data * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t,
               "prefix_len=%zu; limit: share of data sets with lambda_min(H*) > 4 lambda_min(K*); descent: share with "
               "a step among the first %d "
               "that decreases the loss by less than m eta lambda_min(H*)/2 of it, residual along the bottom "
               "eigenvector of K_m (full: with "
               "lambda_min(K*)); ci: 95%% Clopper-Pearson; lambda_ratio: lambda_min(H*)/lambda_min(K*)",
               cfg->prefix_len, NUM_STEPS);
    for (size_t c = 0; c < num_cells(cfg); c++) {
        const struct cell cell = cell_at(cfg, c);
        table_int(t, cell.n);
        table_int(t, cell.d);
        table_num(t, cell.sigma);
        table_int(t, cfg->num_data);
        for (int which = LAMBDA_RATIO; which <= DECREASE_KEY; which++) {
            const struct interval rate = share(failures(s, c, which), of, 0.95);
            table_interval(t, rate);
        }
        table_num(t, failures(s, c, DECREASE_FULL) / of);
        for (size_t i = 0; i < cfg->num_data; i++) x[i] = units_row(s->work, c * cfg->num_data + i)[LAMBDA_RATIO];
        struct interval median = { NAN, NAN, NAN, 0 };
        if (cli_need_memory(stats_median_bootstrap(x, cfg->num_data, 0.95, cfg->c.seed, &median))) median.value = NAN;
        table_num(t, median.value);
        table_end_row(t);
    }
    free(x);
    return table_close(t, 0);
}

static int write_verdicts(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->c.verdicts) return 0;
    /* The cells with a row of their own. */
    static const struct { size_t n, d; double sigma; const char *row; } cells[] = {
        { 8, 8, 1.0, "violated-n8-sigma1" }, { 8, 8, 0.5, "violated-n8-sigma05" }, { 8, 8, 0.3, "violated-n8-sigma03" },
        { 16, 8, 0.5, "violated-n16-sigma05" } };
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    double all[NUM_RESULTS] = { 0.0 };
    const double of = (double)cfg->num_data;
    for (size_t c = 0; c < num_cells(cfg); c++)
        for (int which = 0; which < NUM_RESULTS; which++) all[which] += failures(s, c, which);
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        struct interval rate = { NAN, NAN, NAN, 0 };
        for (size_t c = 0; c < num_cells(cfg); c++) {
            const struct cell cell = cell_at(cfg, c);
            if (cell.n == cells[i].n && cell.d == cells[i].d && cell.sigma == cells[i].sigma)
                rate = share(failures(s, c, DECREASE_KEY), of, 0.999);
        }
        verdicts_add(v, "T7", cells[i].row, rate);
    }
    const double everywhere = of * (double)num_cells(cfg);
    verdicts_add(v, "T7", "violated-grid", share(all[DECREASE_KEY], everywhere, 0.999));
    verdicts_add(v, "T7", "violated-grid-limit", share(all[LAMBDA_RATIO], everywhere, 0.999));
    verdicts_add(v, "T7", "violated-grid-K", share(all[DECREASE_FULL], everywhere, 0.999));
    return verdicts_close(v, 0);
}

/* What the largest cell takes. */
static double unit_bytes(const struct config *cfg)
{
    double most = 0.0;
    for (size_t c = 0; c < num_cells(cfg); c++) {
        const struct cell cell = cell_at(cfg, c);
        const double nd = (double)(cell.n * cell.d);
        most = fmax(most, (double)prefix_descent_bytes(cfg->prefix_len, cell.d, cell.n, 1)
                              + (double)ntk_gram_workspace(cell.n, cell.d, cfg->prefix_len, 1)
                              + sizeof(double) * (6.0 * nd * nd + (double)(cfg->prefix_len * (cell.d + 1))));
    }
    return most;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg };
    const struct units_study study = { .what = "data sets", .count = num_cells(&cfg) * cfg.num_data,
                                       .width = NUM_RESULTS,
                                       .unit_bytes = unit_bytes(&cfg), .last_first = true, .unit = run_unit };
    char *identity = cli_identity(options, &cfg.c);
    int code = units_work(&cfg.c, identity, &study, &cfg, &s.work);
    free(identity);
    if (!code) code = write_verdicts(&s);
    if (!code) code = write_table(&s);
    return units_close(s.work, code);
}
