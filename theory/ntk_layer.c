/* Kernels of a real attention layer with a prefix (docs/derivations.md). */
#include "prefix_ntk/ntk_layer.h"
#include "common/parallel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>

int ntk_layer_limit(const gsl_matrix *X1, const gsl_matrix *X2, const gsl_matrix *W_V, double sigma,
                    enum prefix_signs law, enum ntk_kernel kernel, gsl_matrix *limit)
{
    const size_t n1 = X1->size1, n2 = X2->size1, d = X1->size2, v = W_V->size2;
    if (W_V->size1 != d || limit->size1 != n1 * v || limit->size2 != n2 * v) return GSL_EBADLEN;
    gsl_matrix *plain = gsl_matrix_alloc(n1 * d, n2 * d), *half = gsl_matrix_alloc(d, v);
    int status = GSL_ENOMEM;
    if (!plain || !half) goto done;
    if ((status = ntk_limit(X1, X2, sigma, law, kernel, plain))) goto done;
    for (size_t i = 0; i < n1 && !status; i++)
        for (size_t j = 0; j < n2 && !status; j++) {
            gsl_matrix_const_view block = gsl_matrix_const_submatrix(plain, i * d, j * d, d, d);
            gsl_matrix_view out = gsl_matrix_submatrix(limit, i * v, j * v, v, v);
            status = gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, &block.matrix, W_V, 0.0, half);
            if (!status) status = gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, W_V, half, 0.0, &out.matrix);
        }
done:
    gsl_matrix_free(half);
    gsl_matrix_free(plain);
    return status;
}

/* Products of the layer's inputs with its values, and its softmax normalisers. */
struct layer_sums {
    gsl_matrix *XV, *VV, *C;    /* X W_V (n, v), W_V' W_V (v, v), X X' (n, n) */
    gsl_matrix *mu;             /* (n, v) sum over all tokens of S_i times signed value */
    double *lse;                /* (n) log of the softmax's denominator */
};

static void sums_free(struct layer_sums *s)
{
    gsl_matrix_free(s->XV);
    gsl_matrix_free(s->VV);
    gsl_matrix_free(s->C);
    gsl_matrix_free(s->mu);
    free(s->lse);
}

static double score(const gsl_matrix *tokens, size_t r, const double *x)
{
    const double *w = gsl_matrix_const_ptr(tokens, r, 0);
    double sum = 0.0;
    for (size_t k = 0; k < tokens->size2; k++) sum += w[k] * x[k];
    return sum;
}

static int sums_fill(struct layer_sums *s, const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                     const gsl_matrix *inputs, const gsl_matrix *W_V, int num_threads)
{
    const size_t m = W->size1, n = X->size1, d = X->size2, v = W_V->size2;
    const size_t seq_len = inputs ? inputs->size1 : 0;
    s->XV = gsl_matrix_alloc(n, v);
    s->VV = gsl_matrix_alloc(v, v);
    s->C = gsl_matrix_alloc(n, n);
    s->mu = gsl_matrix_alloc(n, v);
    s->lse = malloc(n * sizeof *s->lse);
    gsl_matrix *mean = gsl_matrix_calloc(n, d);
    int status = GSL_ENOMEM;
    if (!s->XV || !s->VV || !s->C || !s->mu || !s->lse || !mean) goto done;
    int finite = 1;
#pragma omp parallel for schedule(static) num_threads(parallel_openmp_threads(num_threads)) reduction(&& : finite)
    for (size_t i = 0; i < n; i++) {
        const double *x = gsl_matrix_const_ptr(X, i, 0);
        double *mu = gsl_matrix_ptr(mean, i, 0), top = -INFINITY, mass = 0.0;
        for (size_t r = 0; r < m; r++) top = fmax(top, score(W, r, x));
        for (size_t r = 0; r < seq_len; r++) top = fmax(top, score(inputs, r, x));
        for (size_t r = 0; r < m + seq_len; r++) {
            const gsl_matrix *tokens = r < m ? W : inputs;
            const size_t row = r < m ? r : r - m;
            const double p = exp(score(tokens, row, x) - top), a = r < m ? gsl_vector_get(signs, r) : 1.0;
            const double *w = gsl_matrix_const_ptr(tokens, row, 0);
            mass += p;
            for (size_t k = 0; k < d; k++) mu[k] += p * a * w[k];
        }
        for (size_t k = 0; k < d; k++) mu[k] /= mass;
        s->lse[i] = top + log(mass);
        finite = finite && isfinite(s->lse[i]) && isfinite(mu[0]);
    }
    status = finite ? GSL_SUCCESS : GSL_EDOM;
    if (!status) status = gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, mean, W_V, 0.0, s->mu);
    if (!status) status = gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, X, W_V, 0.0, s->XV);
    if (!status) status = gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, W_V, W_V, 0.0, s->VV);
    if (!status) status = gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0, X, X, 0.0, s->C);
done:
    gsl_matrix_free(mean);
    return status;
}

/* Tokens per block, and the most chunks that are summed on their own: functions of
 * the shape alone, so that threads do not change the result. */
enum { BLOCK = 256, MAX_CHUNKS = 8 };

/* Adds sum_r phi_r phi_r' over tokens [begin, end) to the upper triangle of G, where
 * phi_r = (S_ir a_r, S_ir (a_r W_V' w_r - mu_i)) for all i: v + 1 features per sample. */
static int add_features(const struct layer_sums *s, const gsl_matrix *W, const gsl_vector *signs,
                        const gsl_matrix *X, const gsl_matrix *W_V, size_t begin, size_t end, gsl_matrix *G)
{
    const size_t n = X->size1, v = W_V->size2;
    gsl_matrix *phi = gsl_matrix_alloc(BLOCK, n * (v + 1)), *value = gsl_matrix_alloc(BLOCK, v);
    int status = phi && value ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t first = begin; first < end && !status; first += BLOCK) {
        const size_t rows = end - first < BLOCK ? end - first : BLOCK;
        gsl_matrix_const_view w = gsl_matrix_const_submatrix(W, first, 0, rows, W->size2);
        gsl_matrix_view b = gsl_matrix_submatrix(value, 0, 0, rows, v);
        gsl_matrix_view f = gsl_matrix_submatrix(phi, 0, 0, rows, n * (v + 1));
        status = gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, &w.matrix, W_V, 0.0, &b.matrix);
        for (size_t r = 0; r < rows && !status; r++) {
            const double a = gsl_vector_get(signs, first + r), *br = gsl_matrix_const_ptr(value, r, 0);
            double *row = gsl_matrix_ptr(phi, r, 0);
            for (size_t i = 0; i < n; i++, row += v + 1) {
                const double S = exp(score(W, first + r, gsl_matrix_const_ptr(X, i, 0)) - s->lse[i]);
                row[0] = S * a;
                for (size_t k = 0; k < v; k++) row[1 + k] = S * (a * br[k] - gsl_matrix_get(s->mu, i, k));
            }
        }
        if (!status) status = gsl_blas_dsyrk(CblasUpper, CblasTrans, 1.0, &f.matrix, 1.0, G);
    }
    gsl_matrix_free(value);
    gsl_matrix_free(phi);
    return status;
}

int ntk_layer_gram(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, const gsl_matrix *inputs,
                   const gsl_matrix *W_V, enum ntk_kernel kernel, gsl_matrix *gram, int num_threads)
{
    const size_t m = W->size1, n = X->size1, d = X->size2, v = W_V->size2, p = n * (v + 1);
    if (W->size2 != d || signs->size != m || W_V->size1 != d || (inputs && inputs->size2 != d) ||
        gram->size1 != n * v || gram->size2 != n * v) return GSL_EBADLEN;
    const size_t blocks = (m + BLOCK - 1) / BLOCK, num_chunks = blocks < MAX_CHUNKS ? blocks : MAX_CHUNKS;
    struct layer_sums s = { 0 };
    gsl_matrix *G[MAX_CHUNKS] = { NULL };
    int status = sums_fill(&s, W, signs, X, inputs, W_V, num_threads), code[MAX_CHUNKS] = { 0 };
    for (size_t k = 0; k < num_chunks && !status; k++)
        if (!(G[k] = gsl_matrix_calloc(p, p))) status = GSL_ENOMEM;
    if (status) goto done;
#pragma omp parallel for schedule(dynamic) num_threads(parallel_openmp_threads(num_threads))
    for (size_t k = 0; k < num_chunks; k++) {
        const size_t begin = blocks * k / num_chunks * BLOCK, end = blocks * (k + 1) / num_chunks * BLOCK;
        code[k] = add_features(&s, W, signs, X, W_V, begin, end < m ? end : m, G[k]);
    }
    for (size_t k = 0; k < num_chunks && !status; k++) {
        status = code[k];
        if (k) gsl_matrix_add(G[0], G[k]);
    }
    if (status) goto done;
    for (size_t a = 0; a < p; a++)
        for (size_t b = 0; b < a; b++) gsl_matrix_set(G[0], a, b, gsl_matrix_get(G[0], b, a));

    const double kappa = kernel == NTK_FULL ? 1.0 : 0.0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            gsl_matrix_const_view g = gsl_matrix_const_submatrix(G[0], i * (v + 1), j * (v + 1), v + 1, v + 1);
            const double c = gsl_matrix_get(s.C, i, j);
            for (size_t k = 0; k < v; k++)
                for (size_t l = 0; l < v; l++) {
                    const double value = gsl_matrix_get(&g.matrix, 0, 0) * gsl_matrix_get(s.VV, k, l);
                    const double cross = gsl_matrix_get(&g.matrix, 0, 1 + l) * gsl_matrix_get(s.XV, j, k) +
                                         gsl_matrix_get(&g.matrix, 1 + k, 0) * gsl_matrix_get(s.XV, i, l);
                    const double key = c * gsl_matrix_get(&g.matrix, 1 + k, 1 + l);
                    gsl_matrix_set(gram, i * v + k, j * v + l, (double)m * (kappa * (value + cross) + key));
                }
        }
done:
    for (size_t k = 0; k < num_chunks; k++) gsl_matrix_free(G[k]);
    sums_free(&s);
    return status;
}

/* With tau_i = sum_j rho_i(z_j) the inputs take the share tau_i / m of the softmax
 * and move mu_i by D_i / m, D_i = sum_j rho_i(z_j) W_V' z_j - tau_i mu_i. */
int ntk_layer_correction(const gsl_matrix *X, const gsl_matrix *inputs, const gsl_matrix *W_V, double sigma,
                         enum prefix_signs law, enum ntk_kernel kernel, gsl_matrix *correction)
{
    const size_t n = X->size1, d = X->size2, v = W_V->size2;
    if (inputs->size2 != d || W_V->size1 != d || correction->size1 != n * v || correction->size2 != n * v)
        return GSL_EBADLEN;
    const double s2 = sigma * sigma, abar = law == PREFIX_SIGNS_POSITIVE ? 1.0 : 0.0;
    const double kappa = kernel == NTK_FULL ? 1.0 : 0.0;
    gsl_matrix *XV = gsl_matrix_alloc(n, v), *shift = gsl_matrix_calloc(n, d), *D = gsl_matrix_alloc(n, v);
    double *tau = calloc(n, sizeof *tau);
    int status = GSL_ENOMEM;
    if (!XV || !shift || !D || !tau) goto done;
    if ((status = ntk_layer_limit(X, X, W_V, sigma, law, kernel, correction))) goto done;
    for (size_t i = 0; i < n; i++) {
        const double *x = gsl_matrix_const_ptr(X, i, 0);
        double norm2 = 0.0, *sum = gsl_matrix_ptr(shift, i, 0);
        for (size_t k = 0; k < d; k++) norm2 += x[k] * x[k];
        for (size_t j = 0; j < inputs->size1; j++) {
            const double rho = exp(score(inputs, j, x) - 0.5 * s2 * norm2);
            tau[i] += rho;
            for (size_t k = 0; k < d; k++) sum[k] += rho * (gsl_matrix_get(inputs, j, k) - abar * s2 * x[k]);
        }
    }
    status = gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, X, W_V, 0.0, XV);
    if (!status) status = gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, shift, W_V, 0.0, D);
    for (size_t i = 0; i < n && !status; i++)
        for (size_t j = 0; j < n; j++) {
            double c = 0.0;
            for (size_t k = 0; k < d; k++) c += gsl_matrix_get(X, i, k) * gsl_matrix_get(X, j, k);
            const double g = abar * exp(s2 * c) * (kappa + s2 * c);
            for (size_t k = 0; k < v; k++)
                for (size_t l = 0; l < v; l++) {
                    double *out = gsl_matrix_ptr(correction, i * v + k, j * v + l);
                    *out = -(tau[i] + tau[j]) * *out -
                           g * (gsl_matrix_get(D, i, k) * gsl_matrix_get(XV, i, l) +
                                gsl_matrix_get(XV, j, k) * gsl_matrix_get(D, j, l));
                    if (!isfinite(*out)) status = GSL_EDOM;
                }
        }
done:
    free(tau);
    gsl_matrix_free(D);
    gsl_matrix_free(shift);
    gsl_matrix_free(XV);
    return status;
}
