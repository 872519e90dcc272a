#include "approximation/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "common/random.h"
#include "common/reason.h"
#include "data/mnist.h"
#include "cli/cli.h"

/* C (m, n) = A (m, k) B (k, n), or B^T of (n, k). */
static void multiply(int b_transposed, size_t m, size_t n, size_t k, double alpha, const double *A,
                     const double *B, double *C)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, (int)m, (int)n,
                (int)k, alpha, A, (int)k, B, (int)(b_transposed ? k : n), 0.0, C, (int)n);
}

/* Rows of the stream RANDOM_WEIGHTS: one matrix each, and the direction of the mean. */
enum { ROW_WQ, ROW_WK, ROW_WV, ROW_MEAN };

static double square(double x) { return x * x; }

/* <A, S_x A S_p> and m_x A m_p: the scores' second moment is tr(A^T S_x A S_p). */
static double table_spread(const struct source_tokens *t, const double *A, double *work)
{
    const size_t d = SOURCE_PATCH_DIM;
    double *left = work, *both = work + d * d;
    multiply(0, d, d, d, 1.0, t->second, A, left);
    multiply(0, d, d, d, 1.0, left, t->second, both);
    double second = cblas_ddot((int)(d * d), A, 1, both, 1), mean = 0.0;
    for (size_t i = 0; i < d; i++) mean += t->mean[i] * cblas_ddot((int)d, A + i * d, 1, t->mean, 1);
    return sqrt(second - mean * mean);
}

int source_init(struct source *s, uint64_t seed, uint64_t trial, size_t dim,
                enum source_values values, const struct source_tokens *tokens, double score_mean)
{
    *s = (struct source){ .dim = dim, .seed = seed, .trial = trial, .values = values, .tokens = tokens };
    if (tokens && dim != SOURCE_PATCH_DIM) return GSL_EBADLEN;
    const size_t dd = dim * dim;
    s->Wq = malloc(dd * sizeof *s->Wq);
    s->Wk = malloc(dd * sizeof *s->Wk);
    s->Wv = malloc(dd * sizeof *s->Wv);
    s->mean = calloc(dim, sizeof *s->mean);
    s->work = malloc((3 * dd + 2 * SOURCE_BLOCK * dim) * sizeof *s->work);
    if (!s->Wq || !s->Wk || !s->Wv || !s->mean || !s->work) {
        source_free(s);
        return GSL_ENOMEM;
    }
    random_normal(seed, RANDOM_WEIGHTS, trial, ROW_WQ, s->Wq, dd);
    random_normal(seed, RANDOM_WEIGHTS, trial, ROW_WK, s->Wk, dd);
    random_normal(seed, RANDOM_WEIGHTS, trial, ROW_WV, s->Wv, dd);
    const double unit = 1.0 / sqrt((double)dim);
    cblas_dscal((int)dd, unit, s->Wk, 1);
    cblas_dscal((int)dd, unit, s->Wv, 1);
    /* A = W_Q W_K^T / sqrt d: the score of input x and token p is x A p^T. */
    double *A = s->work;
    multiply(1, dim, dim, dim, unit, s->Wq, s->Wk, A);
    const double spread = tokens ? table_spread(tokens, A, s->work + dd) : cblas_dnrm2((int)dd, A, 1);
    if (!(spread > 0.0)) {
        source_free(s);
        return GSL_EDOM;
    }
    cblas_dscal((int)dd, 1.0 / spread, s->Wq, 1);
    cblas_dscal((int)dd, 1.0 / spread, A, 1);
    if (score_mean != 0.0 && !tokens) {
        double norm2 = 0.0;
        random_normal(seed, RANDOM_WEIGHTS, trial, ROW_MEAN, s->mean, dim);
        for (size_t i = 0; i < dim; i++) norm2 += square(cblas_ddot((int)dim, A + i * dim, 1, s->mean, 1));
        cblas_dscal((int)dim, score_mean / sqrt(norm2), s->mean, 1);
    }
    return GSL_SUCCESS;
}

size_t source_bytes(size_t dim)
{
    return (6 * dim * dim + (2 * SOURCE_BLOCK + 1) * dim) * sizeof(double);
}

void source_free(struct source *s)
{
    free(s->Wq);
    free(s->Wk);
    free(s->Wv);
    free(s->mean);
    free(s->work);
    *s = (struct source){ 0 };
}

/* Patch number `pick`: 3 x 3 of them cover the centre of an image. */
static void patch(const struct source_tokens *t, size_t pick, double *out)
{
    enum { SIDE = 28, MARGIN = 2, PATCH = 8, PER_SIDE = 3 };
    const size_t image = pick / (PER_SIDE * PER_SIDE), at = pick % (PER_SIDE * PER_SIDE);
    const size_t top = MARGIN + PATCH * (at / PER_SIDE), left = MARGIN + PATCH * (at % PER_SIDE);
    const unsigned char *pixel = t->images.data + image * SIDE * SIDE;
    for (size_t y = 0; y < PATCH; y++)
        for (size_t x = 0; x < PATCH; x++)
            out[y * PATCH + x] = ((double)pixel[(top + y) * SIDE + left + x] - t->pixel_mean) * t->pixel_scale;
}

int source_tokens_mnist(const struct cli_common *cfg, struct source_tokens *out)
{
    enum { SAMPLE = 16384, D = SOURCE_PATCH_DIM };
    char why[512];
    *out = (struct source_tokens){ 0 };
    const int status = mnist_images(&out->images, why, sizeof why);
    if (status)
        return cli_fail(cfg, status == GSL_ENOMEM || status == REASON_SYSTEM ? EXIT_FAILED : EXIT_DATA, "%s", why);
    out->num_rows = 9 * out->images.shape[0];
    out->pixel_scale = 1.0;
    out->second = calloc(D * D, sizeof *out->second);
    out->mean = calloc(D, sizeof *out->mean);
    double *x = malloc(SAMPLE * D * sizeof *x);
    if (!out->second || !out->mean || !x) {
        free(x);
        source_tokens_free(out);
        return cli_fail(cfg, EXIT_FAILED, "out of memory");
    }
    /* Moments over patches spread evenly over the data. */
    double sum = 0.0, sum2 = 0.0;
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < SAMPLE; i++) patch(out, i * out->num_rows / SAMPLE, x + i * D);
        if (pass) break;
        for (size_t i = 0; i < SAMPLE * D; i++) {
            sum += x[i];
            sum2 += x[i] * x[i];
        }
        out->pixel_mean = sum / (SAMPLE * D);
        out->pixel_scale = 1.0 / sqrt(sum2 / (SAMPLE * D) - out->pixel_mean * out->pixel_mean);
    }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, D, D, SAMPLE, 1.0 / SAMPLE, x, D, x, D, 0.0, out->second, D);
    for (size_t i = 0; i < SAMPLE; i++) cblas_daxpy(D, 1.0 / SAMPLE, x + i * D, 1, out->mean, 1);
    free(x);
    return EXIT_DONE;
}

/* Row `row` of the stream: a Gaussian token, or a token of the table picked by it. */
static void token(const struct source *s, enum random_purpose purpose, size_t row, double *out)
{
    if (!s->tokens) {
        random_normal(s->seed, purpose, s->trial, row, out, s->dim);
        return;
    }
    const size_t pick = random_index(s->seed, purpose, s->trial, row, s->tokens->num_rows);
    patch(s->tokens, pick, out);
}

int source_inputs(const struct source *s, size_t first, size_t count, double *Q, double *K, double *V)
{
    const size_t d = s->dim;
    double *X = malloc((count * d + 1) * sizeof *X);
    if (!X) return GSL_ENOMEM;
    for (size_t i = 0; i < count; i++) token(s, RANDOM_TOKENS, first + i, X + i * d);
    if (Q) multiply(0, count, d, d, 1.0, X, s->Wq, Q);
    if (K) multiply(0, count, d, d, 1.0, X, s->Wk, K);
    if (V) multiply(0, count, d, d, 1.0, X, s->Wv, V);
    free(X);
    return GSL_SUCCESS;
}

int source_prefix(struct source *s, size_t first, size_t count, double *Kp, double *Vp)
{
    const size_t d = s->dim;
    if (count > SOURCE_BLOCK) return GSL_EINVAL;
    double *P = s->work + 3 * d * d, *other = P + SOURCE_BLOCK * d;
    for (size_t i = 0; i < count; i++) {
        token(s, RANDOM_PREFIX, first + i, P + i * d);
        cblas_daxpy((int)d, 1.0, s->mean, 1, P + i * d, 1);
    }
    multiply(0, count, d, d, 1.0, P, s->Wk, Kp);
    if (s->values == SOURCE_INDEPENDENT) {
        for (size_t i = 0; i < count; i++) {
            token(s, RANDOM_OTHER, first + i, other + i * d);
            cblas_daxpy((int)d, 1.0, s->mean, 1, other + i * d, 1);
        }
        P = other;
    }
    multiply(0, count, d, d, 1.0, P, s->Wv, Vp);
    return GSL_SUCCESS;
}

int source_gaussian_limit(const struct source *s, const double *Q, size_t n, double *spread,
                          double *score_mean, double *limit)
{
    if (s->tokens || s->values != SOURCE_TIED) return GSL_EINVAL;
    const size_t d = s->dim;
    double *U = malloc((n * d + 1) * sizeof *U);
    if (!U) return GSL_ENOMEM;
    /* u_i = q_i W_K^T / sqrt d: the weights e^{<u_i, p>} tilt N(mean, I) to mean + u_i. */
    multiply(1, n, d, d, 1.0 / sqrt((double)d), Q, s->Wk, U);
    for (size_t i = 0; i < n; i++) {
        spread[i] = cblas_dnrm2((int)d, U + i * d, 1);
        score_mean[i] = cblas_ddot((int)d, U + i * d, 1, s->mean, 1);
        cblas_daxpy((int)d, 1.0, s->mean, 1, U + i * d, 1);
    }
    multiply(0, n, d, d, 1.0, U, s->Wv, limit);
    free(U);
    return GSL_SUCCESS;
}

double source_value_norm2(const struct source *s)
{
    return square(cblas_dnrm2((int)(s->dim * s->dim), s->Wv, 1));
}

void source_tokens_free(struct source_tokens *t)
{
    idx_free(&t->images);
    free(t->second);
    free(t->mean);
    *t = (struct source_tokens){ 0 };
}
