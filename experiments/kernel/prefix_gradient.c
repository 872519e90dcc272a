/* The gradient of the loss in the prefix against differences of the loss (T1). */
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/samples.h"
#include "cli/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"

static const char doc[] =
    "Relative error of the gradient of the loss in the prefix against central differences, by step, "
    "for all of the gradient and for the tokens moved only as values or only as keys.";
static const char columns[] = "signs,num_samples,dim,prefix_len,path,step,rel_err,share_of_gradient";

struct config {
    struct cli_common c;
    double sigma, *steps;
    size_t num_steps;
};

static const struct cli_option options[] = {
    KERNEL_SIGMA(struct config, "0.7"),
    { "step", CLI_DOUBLES(struct config, steps, num_steps), .value = "1e-1,1e-2,1e-3,1e-4,1e-5,1e-6,1e-7,1e-8",
      .group = 1, .doc = "steps of the differences" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* Awkward sizes: all different, ones among them. */
static const struct { size_t n, d, m; } shapes[] = { { 3, 4, 6 }, { 1, 2, 10 }, { 5, 1, 4 }, { 2, 7, 2 },
                                                     { 4, 3, 64 } };
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes, NUM_LAWS = 3 };
enum path { PATH_BOTH, PATH_VALUE, PATH_KEY, NUM_PATHS };
static const char *const path_names[] = { "both", "value", "key" };

/* The loss with one set of tokens as keys and another as values. */
static double loss_of(const gsl_matrix *keys, const gsl_matrix *values, const gsl_vector *signs,
                      const gsl_matrix *X, const gsl_matrix *Y)
{
    const size_t m = keys->size1, d = keys->size2;
    double loss = 0.0;
    for (size_t i = 0; i < X->size1; i++) {
        double mass = 0.0, sum[16] = { 0.0 };
        for (size_t r = 0; r < m; r++) {
            double s = 0.0;
            for (size_t k = 0; k < d; k++) s += gsl_matrix_get(keys, r, k) * gsl_matrix_get(X, i, k);
            mass += exp(s);
            for (size_t k = 0; k < d; k++) sum[k] += exp(s) * gsl_vector_get(signs, r) * gsl_matrix_get(values, r, k);
        }
        for (size_t k = 0; k < d; k++) {
            const double R = (double)m * sum[k] / mass - gsl_matrix_get(Y, i, k);
            loss += 0.5 * R * R;
        }
    }
    return loss;
}

/* m sum_i S_ir a_r R_i: the gradient through the values. */
static void value_gradient(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, const gsl_matrix *Y,
                           const gsl_matrix *F, gsl_matrix *dW)
{
    const size_t m = W->size1, d = W->size2;
    gsl_matrix_set_zero(dW);
    for (size_t i = 0; i < X->size1; i++) {
        double mass = 0.0;
        for (int pass = 0; pass < 2; pass++)
            for (size_t r = 0; r < m; r++) {
                double s = 0.0;
                for (size_t k = 0; k < d; k++) s += gsl_matrix_get(W, r, k) * gsl_matrix_get(X, i, k);
                if (!pass) mass += exp(s);
                for (size_t k = 0; k < d && pass; k++)
                    *gsl_matrix_ptr(dW, r, k) += (double)m * exp(s) / mass * gsl_vector_get(signs, r) *
                                                 (gsl_matrix_get(F, i, k) - gsl_matrix_get(Y, i, k));
            }
    }
}

static double norm(const gsl_matrix *M)
{
    gsl_vector_const_view all = gsl_vector_const_view_array(M->data, M->size1 * M->size2);
    return gsl_blas_dnrm2(&all.vector);
}

/* One shape and law: relative errors by path and step, then the share of each path. */
static int run_case(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const size_t shape = unit / NUM_LAWS, n = shapes[shape].n, d = shapes[shape].d, m = shapes[shape].m;
    const enum prefix_signs law = (enum prefix_signs)(unit % NUM_LAWS);
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *F = gsl_matrix_alloc(n, d);
    gsl_matrix *W = gsl_matrix_alloc(m, d), *moved = gsl_matrix_alloc(m, d), *difference = gsl_matrix_alloc(m, d);
    gsl_matrix *dW[NUM_PATHS] = { gsl_matrix_alloc(m, d), gsl_matrix_alloc(m, d), gsl_matrix_alloc(m, d) };
    gsl_vector *signs = gsl_vector_alloc(m);
    int status = GSL_ENOMEM;
    if (!X || !Y || !F || !W || !moved || !difference || !dW[0] || !dW[1] || !dW[2] || !signs) goto done;
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, unit, 0, X);
    samples_sphere(cfg->c.seed, RANDOM_TARGETS, unit, 0, Y);
    status = prefix_draw(cfg->c.seed, unit, law, cfg->sigma, W, signs, 1);
    if (!status) status = prefix_model_gradient(W, signs, X, Y, dW[PATH_BOTH], F, NULL, 1);
    if (status) goto done;
    value_gradient(W, signs, X, Y, F, dW[PATH_VALUE]);
    gsl_matrix_memcpy(dW[PATH_KEY], dW[PATH_BOTH]);
    gsl_matrix_sub(dW[PATH_KEY], dW[PATH_VALUE]);
    gsl_matrix_memcpy(moved, W);
    for (int path = 0; path < NUM_PATHS; path++) {
        for (size_t h = 0; h < cfg->num_steps; h++) {
            for (size_t p = 0; p < m * d; p++) {
                double side[2];
                for (int sign = 0; sign < 2; sign++) {
                    gsl_matrix_set(moved, p / d, p % d,
                                   gsl_matrix_get(W, p / d, p % d) + (sign ? -1.0 : 1.0) * cfg->steps[h]);
                    side[sign] = loss_of(path == PATH_VALUE ? W : moved, path == PATH_KEY ? W : moved, signs, X, Y);
                }
                gsl_matrix_set(moved, p / d, p % d, gsl_matrix_get(W, p / d, p % d));
                gsl_matrix_set(difference, p / d, p % d, (side[0] - side[1]) / (2.0 * cfg->steps[h]));
            }
            gsl_matrix_sub(difference, dW[path]);
            out[(size_t)path * (cfg->num_steps + 1) + h] = norm(difference) / norm(dW[path]);
        }
        out[(size_t)path * (cfg->num_steps + 1) + cfg->num_steps] = norm(dW[path]) / norm(dW[PATH_BOTH]);
    }
done:
    gsl_vector_free(signs);
    for (int path = 0; path < NUM_PATHS; path++) gsl_matrix_free(dW[path]);
    gsl_matrix_free(difference);
    gsl_matrix_free(moved);
    gsl_matrix_free(W);
    gsl_matrix_free(F);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
    return status;
}

static int report(const struct config *cfg, const struct units *work)
{
    const size_t stride = cfg->num_steps + 1, cases = NUM_SHAPES * NUM_LAWS;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "rel_err: ||difference quotient - gradient|| / ||gradient|| of that path; share: ||gradient of the "
                  "path|| / ||gradient||");
    double worst[NUM_PATHS] = { 0.0 }, least_key = INFINITY;
    for (size_t u = 0; u < cases; u++)
        for (int path = 0; path < NUM_PATHS; path++) {
            const double *row = units_row(work, u) + (size_t)path * stride;
            double best = INFINITY;
            for (size_t h = 0; h < cfg->num_steps; h++) {
                best = fmin(best, row[h]);
                table_text(t, cli_sign_names[u % NUM_LAWS]);
                table_int(t, shapes[u / NUM_LAWS].n);
                table_int(t, shapes[u / NUM_LAWS].d);
                table_int(t, shapes[u / NUM_LAWS].m);
                table_text(t, path_names[path]);
                table_num(t, cfg->steps[h]);
                table_num(t, row[h]);
                table_num(t, row[cfg->num_steps]);
                table_end_row(t);
            }
            worst[path] = fmax(worst[path], best);
            if (path == PATH_KEY) least_key = fmin(least_key, row[cfg->num_steps]);
        }
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    verdicts_add(v, "T1", "both-paths", cli_exact(worst[PATH_BOTH], cases));
    verdicts_add(v, "T1", "value-path", cli_exact(worst[PATH_VALUE], cases));
    verdicts_add(v, "T1", "key-path", cli_exact(worst[PATH_KEY], cases));
    verdicts_add(v, "T1", "key-path-matters", cli_exact(least_key, cases));
    return table_close(t, verdicts_close(v, 0));
}

int main(int argc, char **argv)
{
    static struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, NULL, &cfg.c);
    double unit = 0.0;
    for (size_t i = 0; i < NUM_SHAPES; i++)
        unit = fmax(unit, sizeof(double) * (double)(8 * shapes[i].m * shapes[i].d
                                                    + 4 * shapes[i].n * (shapes[i].d + shapes[i].m)));
    const struct units_study study = { .what = "cases", .count = NUM_SHAPES * NUM_LAWS,
                                       .width = NUM_PATHS * (cfg.num_steps + 1),
                                       .unit_bytes = unit, .unit = run_case };
    char *identity = cli_identity(options, &cfg.c);
    struct units *work;
    int code = units_work(&cfg.c, identity, &study, &cfg, &work);
    free(identity);
    if (!code) code = report(&cfg, work);
    return units_close(work, code);
}
