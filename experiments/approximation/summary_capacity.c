/* How many queries with arbitrary outputs a summary of r features, or a prefix of m tokens with given
 * keys, fits exactly. Ledger F61. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>

#include "approximation/approx.h"
#include "common/random.h"
#include "cli/option_table.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"
#include "cli/units.h"

static const char columns[] = "method,head_dim,size,queries,residual_mean,residual_max,num_trials";
static const double EXACT = 1e-6;          /* a relative residual below this is an exact fit */

struct config { struct cli_common c; size_t num_trials; };

static const struct cli_option options[] = {
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "8", .doc = "trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* elu1 has r = d features; taylor:2 has C(d+2, 2). The prefix has m tokens at d = 16. */
struct method { const char *name, *feature; size_t dim, size; };
static const struct method methods[] = {
    { "elu1", "elu1", 16, 16 }, { "elu1", "elu1", 32, 32 }, { "elu1", "elu1", 64, 64 },
    { "taylor:2", "taylor:2", 6, 28 }, { "taylor:2", "taylor:2", 9, 55 },
    { "prefix", NULL, 16, 16 }, { "prefix", NULL, 16, 32 }, { "prefix", NULL, 16, 64 },
};
enum { NUM_METHODS = sizeof methods / sizeof *methods, NUM_STEPS = 13, NUM_INPUTS = 16 };

/* Queries tried: size - 6 .. size + 6. */
static size_t queries_at(const struct method *m, size_t step) { return m->size + step - NUM_STEPS / 2; }

/* ||B - A A^+ B|| / ||B|| for A (n, r), B (n, cols). */
static int residual(const double *A, size_t n, size_t r, const double *B, size_t cols, double *out)
{
    const bool wide = n < r;
    const size_t rows = wide ? r : n, rank = wide ? n : r;
    gsl_matrix *M = gsl_matrix_alloc(rows, rank), *V = gsl_matrix_alloc(rank, rank), *P = gsl_matrix_alloc(rank, cols);
    gsl_vector *s = gsl_vector_alloc(rank);
    int status = GSL_ENOMEM;
    if (!M || !V || !P || !s) goto done;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < r; j++) gsl_matrix_set(M, wide ? j : i, wide ? i : j, A[i * r + j]);
    /* The other drivers of GSL allocate unchecked. */
    if ((status = gsl_linalg_SV_decomp_jacobi(M, V, s))) goto done;
    /* The left singular vectors of A lie in V when A was transposed, else in M. */
    gsl_matrix *U = wide ? V : M;
    for (size_t j = 0; j < rank; j++)
        if (!(gsl_vector_get(s, j) > 1e-11 * gsl_vector_get(s, 0)))
            for (size_t i = 0; i < n; i++) gsl_matrix_set(U, i, j, 0.0);
    gsl_matrix_const_view b = gsl_matrix_const_view_array(B, n, cols);
    gsl_matrix_view u = gsl_matrix_submatrix(U, 0, 0, n, rank);
    gsl_matrix *R = gsl_matrix_alloc(n, cols);
    if (!R) { status = GSL_ENOMEM; goto done; }
    gsl_matrix_memcpy(R, &b.matrix);
    gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, &u.matrix, &b.matrix, 0.0, P);
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, -1.0, &u.matrix, P, 1.0, R);
    *out = cblas_dnrm2((int)(n * cols), R->data, 1) / cblas_dnrm2((int)(n * cols), B, 1);
    gsl_matrix_free(R);
done:
    gsl_matrix_free(M);
    gsl_matrix_free(V);
    gsl_matrix_free(P);
    gsl_vector_free(s);
    return status;
}

/* With k (or the prefix's keys) given, T = (Na + Phi Z)/D is linear in Z: Phi Z is to be D T* - Na. */
static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    int status = GSL_SUCCESS;
    for (size_t m = 0; m < NUM_METHODS && !status; m++) {
        const size_t d = methods[m].dim, size = methods[m].size, most = queries_at(&methods[m], NUM_STEPS - 1);
        struct source source = { 0 };
        struct attn_sums input = { 0 };
        double *Q = malloc((2 * most + 2 * NUM_INPUTS + 2 * size) * d * sizeof *Q), *target = Q + most * d,
            *K = target + most * d;
        double *V = K + NUM_INPUTS * d, *Kp = V + NUM_INPUTS * d, *Vp = Kp + size * d, *phi = NULL;
        size_t r = size;
        status = Q ? source_init(&source, cfg->c.seed, trial, d, SOURCE_TIED, NULL, 0.0) : GSL_ENOMEM;
        if (!status) status = source_inputs(&source, 0, most, Q, NULL, NULL);
        if (!status) status = source_inputs(&source, most, NUM_INPUTS, NULL, K, V);
        if (!status) status = source_prefix(&source, 0, size, Kp, Vp);
        if (!status) status = attn_sums_alloc(&input, most, d);
        if (!status) status = attn_sums_exact(Q, K, V, NUM_INPUTS, 1.0 / sqrt((double)d), &input);
        if (!status && methods[m].feature) {
            struct study_map map;
            if (study_map_parse(methods[m].feature, &map)) status = GSL_ESANITY;
            if (!status) status = study_query_features(&map, Q, most, d, 1.0, cfg->c.seed, &phi, &r);
        } else if (!status) {
            if (!(phi = malloc(most * size * sizeof *phi))) status = GSL_ENOMEM;
            for (size_t i = 0; i < most && !status; i++)
                for (size_t j = 0; j < size; j++)
                    phi[i * size + j] = exp(cblas_ddot((int)d, Q + i * d, 1, Kp + j * d, 1) / sqrt((double)d));
        }
        if (!status && r != size) status = GSL_ESANITY;
        if (!status) random_normal(cfg->c.seed, RANDOM_TARGETS, trial, m, target, most * d);
        for (size_t i = 0; i < most && !status; i++) {
            /* k: ones for a prefix, whose mass is phi 1; for a summary a mass of the input's size. */
            double mass = 0.0;
            for (size_t j = 0; j < r; j++) mass += fabs(phi[i * r + j]);
            const double a = input.mass[i] * exp(input.shift[i]), D = a + (methods[m].feature ? a : mass);
            for (size_t c = 0; c < d; c++)
                target[i * d + c] = D * target[i * d + c] - input.num[i * d + c] * exp(input.shift[i]);
        }
        for (size_t step = 0; step < NUM_STEPS && !status; step++)
            status = residual(phi, queries_at(&methods[m], step), r, target, d, &out[m * NUM_STEPS + step]);
        source_free(&source);
        attn_sums_free(&input);
        free(phi);
        free(Q);
    }
    return status;
}

/* Largest number of queries tried up to which all fits are exact, over the size. */
static double capacity(const double *row, size_t m)
{
    size_t best = 0;
    for (size_t step = 0; step < NUM_STEPS && row[m * NUM_STEPS + step] < EXACT; step++)
        best = queries_at(&methods[m], step);
    return (double)best / (double)methods[m].size;
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    table_note(t, "size: features r of a summary, tokens m of a prefix; residual of the best Z (or V_P) relative to "
                  "the wanted outputs, which are arbitrary");
    for (size_t m = 0; m < NUM_METHODS; m++)
        for (size_t step = 0; step < NUM_STEPS; step++) {
            double sum = 0.0, top = 0.0;
            for (size_t u = 0; u < cfg->num_trials; u++) {
                const double e = units_row(work, u)[m * NUM_STEPS + step];
                sum += e / (double)cfg->num_trials;
                top = fmax(top, e);
            }
            table_text(t, methods[m].name);
            table_int(t, methods[m].dim);
            table_int(t, methods[m].size);
            table_int(t, queries_at(&methods[m], step));
            table_num(t, sum);
            table_num(t, top);
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(NUM_METHODS * cfg->num_trials * sizeof *x));
    for (int prefix = 0; prefix < 2; prefix++) {
        size_t count = 0;
        for (size_t m = 0; m < NUM_METHODS; m++) {
            if (strcmp(methods[m].name, prefix ? "prefix" : "elu1")) continue;
            for (size_t u = 0; u < cfg->num_trials; u++) x[count++] = capacity(units_row(work, u), m);
        }
        verdicts_add(v, "F61", prefix ? "prefix" : "summary", cli_mean(x, count, 0.999));
    }
    free(x);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "How many queries a summary or a prefix fits exactly.", options, shard, NULL, &cfg.c);
    /* A fit has at most 70 queries of 64 features in 64 dimensions. */
    const struct units_study study = {
        .stem = "summary_capacity", .what = "trials", .columns = columns, .count = cfg.num_trials,
        .width = NUM_METHODS * NUM_STEPS,
        .unit_bytes = 1 << 20, .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
