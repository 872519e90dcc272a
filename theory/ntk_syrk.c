/* The kernels as a Gram matrix of features, by BLAS.
 *
 *   g_ir = S_ir (b_r - f_i) in R^d,  h_ir = S_ir a_r
 *   K_ij = m sum_r [ h_i h_j I + x_j (h_i g_j)^T + (g_i h_j) x_i^T + <x_i, x_j> g_i g_j^T ]
 *
 * d + 1 features per sample (d for H), whose products over a block of tokens add to
 * one symmetric matrix. b - f is formed before anything is multiplied, so nothing
 * large cancels. Three passes over the tokens: maxima, softmax sums, products. */
#include "theory/ntk_syrk.h"
#include "common/parallel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_math.h>

enum { BLOCK = 512, TILE = 256 };

struct syrk {
    const gsl_matrix *X;
    size_t n, d, per_sample, num_features;
    double *W, *signs;          /* block of tokens */
    double *top, *mass, *f;     /* (n), (n), (n, d): scores' maxima, sums, outputs */
    double *features;           /* (num_features, BLOCK) */
    double *gram;               /* (num_features, num_features), upper triangle */
    int num_threads;
};

size_t ntk_syrk_bytes(size_t n, size_t d)
{
    const double features = (double)n * ((double)d + 1.0);
    const double bytes = 8.0 * (features * (features + BLOCK) + BLOCK * ((double)d + 1.0)
                                + (double)n * ((double)d + 2.0));
    return bytes < 0.5 * (double)SIZE_MAX ? (size_t)bytes : SIZE_MAX;
}

/* Scores of sample i for the block, into s. */
static void scores(const struct syrk *q, size_t i, size_t len, double *s)
{
    const double *x = gsl_matrix_const_ptr(q->X, i, 0);
    for (size_t t = 0; t < len; t++) {
        double dot = 0.0;
        for (size_t k = 0; k < q->d; k++) dot += q->W[t * q->d + k] * x[k];
        s[t] = dot;
    }
}

/* Maxima. Returns 0, or 1 when a score is not finite. */
static int pass_maxima(struct syrk *q, size_t len)
{
    int bad = 0;
#pragma omp parallel for num_threads(parallel_openmp_threads(q->num_threads)) schedule(static) reduction(| : bad)
    for (size_t i = 0; i < q->n; i++) {
        double s[BLOCK];
        scores(q, i, len, s);
        for (size_t t = 0; t < len; t++) {
            bad |= !isfinite(s[t]);
            if (s[t] > q->top[i]) q->top[i] = s[t];
        }
    }
    return bad;
}

/* Softmax sums: mass and, not yet divided by it, f. */
static void pass_sums(struct syrk *q, size_t len)
{
#pragma omp parallel for num_threads(parallel_openmp_threads(q->num_threads)) schedule(static)
    for (size_t i = 0; i < q->n; i++) {
        double s[BLOCK], mass = 0.0, *f = q->f + i * q->d;
        scores(q, i, len, s);
        for (size_t t = 0; t < len; t++) {
            s[t] = exp(s[t] - q->top[i]);
            mass += s[t];
        }
        q->mass[i] += mass;
        for (size_t k = 0; k < q->d; k++) {
            double sum = 0.0;
            for (size_t t = 0; t < len; t++) sum += s[t] * (q->signs[t] * q->W[t * q->d + k]);
            f[k] += sum;
        }
    }
}

/* Features of the block and their products. */
static void pass_products(struct syrk *q, size_t len)
{
#pragma omp parallel for num_threads(parallel_openmp_threads(q->num_threads)) schedule(static)
    for (size_t i = 0; i < q->n; i++) {
        double s[BLOCK];
        scores(q, i, len, s);
        double *row = q->features + i * q->per_sample * BLOCK;
        for (size_t t = 0; t < len; t++) s[t] = exp(s[t] - q->top[i]) / q->mass[i];
        for (size_t k = 0; k < q->d; k++, row += BLOCK)
            for (size_t t = 0; t < len; t++)
                row[t] = s[t] * (q->signs[t] * q->W[t * q->d + k] - q->f[i * q->d + k]);
        if (q->per_sample > q->d)
            for (size_t t = 0; t < len; t++) row[t] = s[t] * q->signs[t];
    }
    /* Tiles of the upper triangle, each the work of one thread at a time. */
    const size_t size = q->num_features, side = (size + TILE - 1) / TILE;
    const int lda = BLOCK, ldc = (int)size, depth = (int)len;
#pragma omp parallel for num_threads(parallel_openmp_threads(q->num_threads)) schedule(dynamic, 1) collapse(2)
    for (size_t u = 0; u < side; u++)
        for (size_t v = 0; v < side; v++) {
            if (v < u) continue;
            const size_t r = u * TILE, c = v * TILE;
            const int rows = (int)(size - r < TILE ? size - r : TILE);
            const int cols = (int)(size - c < TILE ? size - c : TILE);
            double *to = q->gram + r * size + c;
            if (u == v)
                cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, rows, depth, 1.0,
                            q->features + r * BLOCK, lda, 1.0, to, ldc);
            else
                cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, cols, depth, 1.0,
                            q->features + r * BLOCK, lda, q->features + c * BLOCK, lda, 1.0, to, ldc);
        }
}

/* Kernel blocks (i, j) and (j, i), i <= j. */
static void assemble_pair(const struct syrk *q, enum ntk_kernel kernel, double prefix_len, size_t i,
                          size_t j, gsl_matrix *gram)
{
    const size_t d = q->d, size = q->num_features, a = i * q->per_sample, b = j * q->per_sample;
    const double *xi = gsl_matrix_const_ptr(q->X, i, 0), *xj = gsl_matrix_const_ptr(q->X, j, 0);
    /* Feature u of i with feature v of j, from the upper triangle also within a sample. */
#define PRODUCT(u, v) (a + (u) <= b + (v) ? q->gram[(a + (u)) * size + b + (v)] : q->gram[(b + (v)) * size + a + (u)])
    double c = 0.0;
    for (size_t k = 0; k < d; k++) c += xi[k] * xj[k];
    for (size_t k = 0; k < d; k++)
        for (size_t l = i == j ? k : 0; l < d; l++) {
            double value = c * PRODUCT(k, l);
            if (kernel == NTK_FULL) {
                value += xj[k] * PRODUCT(d, l) + PRODUCT(k, d) * xi[l];
                if (k == l) value += PRODUCT(d, d);
            }
            gsl_matrix_set(gram, i * d + k, j * d + l, prefix_len * value);
            gsl_matrix_set(gram, j * d + l, i * d + k, prefix_len * value);
        }
#undef PRODUCT
}

int ntk_syrk_tokens(const struct prefix_tokens *tokens, const gsl_matrix *X, enum ntk_kernel kernel,
                    gsl_matrix *gram, int num_threads)
{
    const size_t n = X->size1, d = X->size2, m = tokens->prefix_len;
    if (!n || !d || !m || tokens->dim != d || gram->size1 != n * d || gram->size2 != n * d) return GSL_EBADLEN;
    struct syrk q = { .X = X, .n = n, .d = d, .num_threads = num_threads > 1 ? num_threads : 1 };
    q.per_sample = d + (kernel == NTK_FULL);
    q.num_features = n * q.per_sample;
    int status = GSL_ENOMEM;
    q.W = malloc(BLOCK * d * sizeof *q.W);
    q.signs = malloc(BLOCK * sizeof *q.signs);
    q.top = malloc(n * sizeof *q.top);
    q.mass = calloc(n, sizeof *q.mass);
    q.f = calloc(n * d, sizeof *q.f);
    q.features = malloc(q.num_features * BLOCK * sizeof *q.features);
    q.gram = calloc(q.num_features * q.num_features, sizeof *q.gram);
    if (!q.W || !q.signs || !q.top || !q.mass || !q.f || !q.features || !q.gram) goto done;

    status = GSL_EDOM;
    for (size_t i = 0; i < n; i++) q.top[i] = -INFINITY;
    for (int pass = 0; pass < 3; pass++) {
        for (size_t r = 0; r < m; r += BLOCK) {
            const size_t len = m - r < BLOCK ? m - r : BLOCK;
            prefix_tokens_read(tokens, r, len, q.W, q.signs);
            if (pass == 0 && pass_maxima(&q, len)) goto done;
            if (pass == 1) pass_sums(&q, len);
            if (pass == 2) pass_products(&q, len);
        }
        if (pass == 1)
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < d; k++) q.f[i * d + k] /= q.mass[i];
    }

#pragma omp parallel for num_threads(parallel_openmp_threads(q.num_threads)) schedule(dynamic, 1)
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) assemble_pair(&q, kernel, (double)m, i, j, gram);
    double all = 0.0;
    for (size_t i = 0; i < n * d; i++)
        for (size_t j = 0; j < n * d; j++) all += gsl_pow_2(gsl_matrix_get(gram, i, j));
    status = isfinite(all) ? GSL_SUCCESS : GSL_EDOM;
done:
    free(q.W);
    free(q.signs);
    free(q.top);
    free(q.mass);
    free(q.f);
    free(q.features);
    free(q.gram);
    return status;
}

int ntk_gram_syrk(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                  enum ntk_kernel kernel, gsl_matrix *gram, int num_threads)
{
    if (signs->size != W->size1) return GSL_EBADLEN;
    const struct prefix_tokens tokens = { .prefix_len = W->size1, .dim = W->size2, .W = W, .signs = signs };
    return ntk_syrk_tokens(&tokens, X, kernel, gram, num_threads);
}
