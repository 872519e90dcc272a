/* How fast a step of gradient descent is, next to the matrix products it cannot avoid. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <time.h>
#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_sort.h>

#include "common/random.h"
#include "cli/cli.h"
#include "prefix_ntk/prefix_descent.h"

static const char doc[] =
    "Times one step of descent with one thread and with all, and the five matrix products of a step done by BLAS "
    "(scores, "
    "<R,w>, both halves of the gradient, the next outputs) in chunks of tokens that stay in the cache. Contenders take "
    "turns; "
    "times are medians over rounds.";
static const char columns[] = "contender,threads,num_samples,dim,prefix_len,num_rounds,time_s,gflop_per_s,"
                              "ratio_to_products";

struct config {
    struct cli_common common;
    size_t num_samples, dim, prefix_len, num_rounds;
};

enum { OPT_NUM_SAMPLES = 1, OPT_DIM, OPT_PREFIX_LEN, OPT_NUM_ROUNDS };

static const struct argp_option options[] = {
    { "num-samples", OPT_NUM_SAMPLES, "N", 0, "Inputs n (default 64)", 0 },
    { "dim", OPT_DIM, "D", 0, "Their dimension d (default 16)", 0 },
    { "prefix-len", OPT_PREFIX_LEN, "M", 0, "Tokens m (default 100000)", 0 },
    { "num-rounds", OPT_NUM_ROUNDS, "K", 0, "Rounds (default 9)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case OPT_NUM_SAMPLES: return cli_parse_size(state, key, arg, 1, 4096, &cfg->num_samples);
    case OPT_DIM: return cli_parse_size(state, key, arg, 1, 256, &cfg->dim);
    case OPT_PREFIX_LEN: return cli_parse_size(state, key, arg, 1, (size_t)1 << 28, &cfg->prefix_len);
    case OPT_NUM_ROUNDS: return cli_parse_size(state, key, arg, 1, 999, &cfg->num_rounds);
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* Tokens of a chunk: at n = 64 its scores are half the second cache. */
enum { CHUNK = 512, PRODUCTS = 5 };

static double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The products of one step, BLAS on one thread per thread of ours. */
static void products(const gsl_matrix *W, const gsl_matrix *X, const gsl_matrix *R, double *scratch, size_t per_thread,
                     int threads)
{
    const int n = (int)X->size1, d = (int)X->size2;
    const size_t chunks = (W->size1 + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t c = 0; c < chunks; c++) {
        const int len = (int)(W->size1 - c * CHUNK < CHUNK ? W->size1 - c * CHUNK : CHUNK);
        const double *w = gsl_matrix_const_ptr(W, c * CHUNK, 0);
        double *S = scratch + (size_t)omp_get_thread_num() * per_thread, *G = S + CHUNK * n, *dW = G + CHUNK * n,
            *F = dW + CHUNK * d;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, len, n, d, 1.0, w, d, X->data, d, 0.0, S, n);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, len, n, d, 1.0, w, d, R->data, d, 0.0, G, n);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, len, d, n, 1.0, S, n, R->data, d, 0.0, dW, d);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, len, d, n, 1.0, G, n, X->data, d, 1.0, dW, d);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, d, len, 1.0, S, n, w, d, 0.0, F, d);
    }
}

int main(int argc, char **argv)
{
    struct config cfg = { .num_samples = 64, .dim = 16, .prefix_len = 100000, .num_rounds = 9 };
    cli_parse(argc, argv, doc, options, parse, NULL, &cfg.common);
    const size_t n = cfg.num_samples, d = cfg.dim, m = cfg.prefix_len, per_thread = CHUNK * (2 * n + d) + n * d;
    const int most = cfg.common.threads, kinds = most > 1 ? 2 : 1;
    int code = cli_memory(&cfg.common, sizeof(double) * (3.0 * (double)(m * d) + (double)per_thread * most)
                          + 2.0 * (double)prefix_descent_bytes(m, d, n, most), "the prefix");
    if (code) return code;
    gsl_matrix *W = gsl_matrix_alloc(m, d), *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d);
    gsl_vector *signs = gsl_vector_alloc(m);
    double *scratch = malloc((size_t)most * per_thread * sizeof *scratch),
        *times = malloc(4 * cfg.num_rounds * sizeof *times);
    struct prefix_descent *descent[2] = { NULL, NULL };
    int status = W && X && Y && signs && scratch && times ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg.common.seed, 0, PREFIX_SIGNS_RANDOM, 0.5, W, signs, most);
    if (!status) {
        random_normal(cfg.common.seed, RANDOM_INPUTS, 0, 0, X->data, n * d);
        random_normal(cfg.common.seed, RANDOM_TARGETS, 0, 0, Y->data, n * d);
        gsl_matrix_scale(X, 1.0 / sqrt((double)d));
        gsl_matrix_scale(Y, 1.0 / sqrt((double)d));
    }
    for (int k = 0; k < kinds && !status; k++)
        status = prefix_descent_alloc(W, signs, X, NULL, Y, k ? most : 1, &descent[k]);
    /* A round before the first warms the caches and does not count. */
    for (size_t round = 0; round <= cfg.num_rounds && !status && !cli_interrupted(); round++)
        for (int k = 0; k < kinds && !status; k++) {
            const size_t at = round ? round - 1 : 0;
            double start = clock_s();
            status = prefix_descent_step(descent[k], 1e-3 / (double)m);
            times[(size_t)(2 * k) * cfg.num_rounds + at] = clock_s() - start;
            start = clock_s();
            products(W, X, Y, scratch, per_thread, k ? most : 1);
            times[(size_t)(2 * k + 1) * cfg.num_rounds + at] = clock_s() - start;
        }
    code = cli_interrupted() ? cli_interrupted() : cli_status(&cfg.common, status, "descent");
    struct table *t = code ? NULL : table_open(&cfg.common, NULL, columns);
    if (!code && !t) code = EXIT_FAILED;
    for (int k = 0; k < kinds && !code; k++) {
        double median[2];
        for (int c = 0; c < 2; c++) {
            double *of = times + (size_t)(2 * k + c) * cfg.num_rounds;
            gsl_sort(of, 1, cfg.num_rounds);
            median[c] = of[cfg.num_rounds / 2];
        }
        for (int c = 0; c < 2; c++) {
            table_text(t, c ? "products" : "step");
            table_int(t, (uint64_t)(k ? most : 1));
            table_int(t, n);
            table_int(t, d);
            table_int(t, m);
            table_int(t, cfg.num_rounds);
            table_num(t, median[c]);
            table_num(t, PRODUCTS * 2.0 * (double)m * (double)n * (double)d / median[c] * 1e-9);
            table_num(t, median[c] / median[1]);
            table_end_row(t);
        }
    }
    if (t) code = table_close(t, code);
    for (int k = 0; k < 2; k++) prefix_descent_free(descent[k]);
    free(times);
    free(scratch);
    gsl_vector_free(signs);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
    gsl_matrix_free(W);
    return code;
}
