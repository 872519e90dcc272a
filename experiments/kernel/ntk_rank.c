/* Ranks of the kernels of a short prefix against formulas for them (F4). */
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
    "Rank of the empirical kernels by prefix length, number of samples and dimension, for every sign law, "
    "beside the formulas of ledger F4. Counted on the singular values of the Jacobian.";
static const char columns[] = "kernel,signs,num_samples,dim,prefix_len,rank,rank_pred,gap";

struct config {
    struct cli_common c;
    size_t num_samples, dim, prefix_len;    /* up to */
    double sigma;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZE(struct config, num_samples), .min = 1, .max = 64, .value = "6", .group = 1,
      .doc = "all numbers of samples up to this" },
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 32, .value = "4", .arg = "D", .group = 1,
      .doc = "all dimensions up to this" },
    { "prefix-len", CLI_SIZE(struct config, prefix_len), .min = 1, .max = 1024, .value = "14", .arg = "M",
      .group = 1, .doc = "all prefix lengths up to this" },
    KERNEL_SIGMA(struct config, "1.3"),
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

enum { NUM_KERNELS = 2, NUM_LAWS = 3, WIDTH = NUM_KERNELS * NUM_LAWS * 2 };

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t predicted(enum ntk_kernel kernel, enum prefix_signs law, size_t n, size_t d, size_t m)
{
    const bool mirrored = law == PREFIX_SIGNS_MIRRORED;
    if (kernel == NTK_FULL) return d * smaller(n, mirrored ? m / 2 : m);
    return smaller(n, d) * smaller(mirrored ? m / 2 : m - 1, larger(n, d));
}

/* Singular values below this share of the largest count as zero. */
static const double ZERO = 1e-11;

/* Rank of one matrix and the drop of the singular values behind it. */
static int rank_of(const gsl_matrix *J, double *rank, double *gap)
{
    const size_t count = smaller(J->size1, J->size2);
    gsl_vector *s = gsl_vector_alloc(count);
    if (!s) return GSL_ENOMEM;
    const int status = ntk_singular_values(J, s);
    size_t r = 0;
    const double top = status ? 0.0 : gsl_vector_get(s, 0);
    /* A softmax of one token has no key path: the Jacobian is 0 up to rounding of 1. */
    while (!status && r < count && gsl_vector_get(s, r) > ZERO * fmax(top, 1.0)) r++;
    *rank = (double)r;
    *gap = r == 0 || r == count ? INFINITY : gsl_vector_get(s, r - 1) / fmax(gsl_vector_get(s, r), 1e-300);
    gsl_vector_free(s);
    return status;
}

/* Every kernel and law at one (n, d, m): rank and gap. */
static int run_case(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const size_t n = 1 + unit % cfg->num_samples, d = 1 + unit / cfg->num_samples % cfg->dim;
    const size_t m = 1 + unit / (cfg->num_samples * cfg->dim);
    gsl_matrix *X = gsl_matrix_alloc(n, d), *W = gsl_matrix_alloc(m, d), *J = gsl_matrix_alloc(n * d, m * d);
    gsl_vector *signs = gsl_vector_alloc(m);
    int status = X && W && J && signs ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) random_normal(cfg->c.seed, RANDOM_INPUTS, unit, 0, X->data, n * d);
    for (int law = 0; law < NUM_LAWS && !status; law++) {
        const bool possible = law != PREFIX_SIGNS_MIRRORED || m % 2 == 0;
        if (possible) status = prefix_draw(cfg->c.seed, unit, (enum prefix_signs)law, cfg->sigma, W, signs, 1);
        for (int kernel = 0; kernel < NUM_KERNELS && !status; kernel++) {
            double *result = out + (law * NUM_KERNELS + kernel) * 2;
            result[0] = result[1] = NAN;
            if (!possible) continue;
            status = ntk_jacobian(W, signs, X, (enum ntk_kernel)kernel, J);
            if (!status) status = rank_of(J, &result[0], &result[1]);
        }
    }
    gsl_vector_free(signs);
    gsl_matrix_free(J);
    gsl_matrix_free(W);
    gsl_matrix_free(X);
    return status;
}

static int report(const struct config *cfg, const struct units *work)
{
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "sigma=%.17g; gap: last singular value counted over the first not counted", cfg->sigma);
    double agree[NUM_KERNELS] = { 0.0 }, cases[NUM_KERNELS] = { 0.0 }, begins = 0.0, begin_cases = 0.0;
    for (int kernel = 0; kernel < NUM_KERNELS; kernel++)
        for (int law = 0; law < NUM_LAWS; law++)
            for (size_t n = 1; n <= cfg->num_samples; n++)
                for (size_t d = 1; d <= cfg->dim; d++) {
                    size_t first = 0, first_pred = 0;       /* smallest m of full rank */
                    for (size_t m = 1; m <= cfg->prefix_len; m++) {
                        const size_t unit = ((m - 1) * cfg->dim + d - 1) * cfg->num_samples + n - 1;
                        const double *result = units_row(work, unit) + (law * NUM_KERNELS + kernel) * 2;
                        if (isnan(result[0])) continue;
                        const size_t want = predicted((enum ntk_kernel)kernel, (enum prefix_signs)law, n, d, m);
                        table_text(t, cli_kernel_names[kernel]);
                        table_text(t, cli_sign_names[law]);
                        table_int(t, n);
                        table_int(t, d);
                        table_int(t, m);
                        table_num(t, result[0]);
                        table_int(t, want);
                        table_num(t, result[1]);
                        table_end_row(t);
                        cases[kernel]++;
                        agree[kernel] += result[0] == (double)want;
                        if (!first && result[0] == (double)(n * d)) first = m;
                        if (!first_pred && want == n * d) first_pred = m;
                    }
                    if (first_pred) {
                        begin_cases++;
                        begins += first == first_pred;
                    }
                }
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    struct interval rate;
    for (int kernel = 0; kernel < NUM_KERNELS; kernel++)
        if (!stats_rate(agree[kernel], cases[kernel], 0.999, &rate))
            verdicts_add(v, "F4", cli_kernel_names[kernel], rate);
    if (!stats_rate(begins, begin_cases, 0.999, &rate)) verdicts_add(v, "F4", "threshold", rate);
    return table_close(t, verdicts_close(v, 0));
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, NULL, &cfg.c);
    /* The Jacobian, the copy its singular values are taken of, and their workspace. */
    const double nd = (double)(cfg.num_samples * cfg.dim), md = (double)(cfg.prefix_len * cfg.dim);
    const double unit = sizeof(double) * (2.0 * nd * md + 20.0 * (nd + md));
    const struct units_study study = { .what = "shapes", .count = cfg.num_samples * cfg.dim * cfg.prefix_len,
                                       .width = WIDTH,
                                       .unit_bytes = unit, .unit = run_case };
    char *identity = cli_identity(options, &cfg.c);
    struct units *work;
    int code = units_work(&cfg.c, identity, &study, &cfg, &work);
    free(identity);
    if (!code) code = report(&cfg, work);
    return units_close(work, code);
}
