/* The derivative of the kernel in the prefix, and shifts that change the kernel most.
 *
 * With J_ir = m S_ir (a_r I + (a_r w_r - mu_i) x_i^T) (the key kernel drops a_r I) and
 * K_ij = (1/m) sum_r J_ir J_jr^T, phi = <G, K> has dphi = (2/m) sum_ir <dJ_ir, Q_ir>,
 * Q_ir = sum_j G_ij J_jr, and
 *   dJ_ir = J_ir (<x_i,dw_r> - sum_q S_iq <x_i,dw_q>) + m S_ir (a_r dw_r - dmu_i) x_i^T,
 *   dmu_i = sum_q S_iq (a_q I + (a_q w_q - mu_i) x_i^T) dw_q,
 * so that with alpha_ir = <J_ir, Q_ir>, v_ir = m S_ir Q_ir x_i and their sums A_i, V_i over r
 *   dphi/dw_q = (2/m) sum_i [ (alpha_iq - A_i S_iq) x_i + a_q v_iq
 *                             - S_iq (a_q V_i + <a_q w_q - mu_i, V_i> x_i) ]. */
#include "prefix_ntk/prefix_fit.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "theory/prefix_pass.h"

enum { TOKENS = 32 };      /* tokens whose Jacobian is held at a time */

/* The Jacobian of token r, columns from `column` on of J, and m S_ir of every sample. */
static void token_jacobian(const gsl_matrix *W, double a, const gsl_matrix *X, double full, const double *lse,
                           const double *mu, size_t r, size_t column, gsl_matrix *J, double *weights)
{
    const size_t m = W->size1, d = W->size2;
    for (size_t i = 0; i < X->size1; i++) {
        double score = 0.0;
        for (size_t k = 0; k < d; k++) score += gsl_matrix_get(W, r, k) * gsl_matrix_get(X, i, k);
        const double weight = (double)m * exp(score - lse[i]);
        for (size_t k = 0; k < d; k++) {
            const double key = weight * (a * gsl_matrix_get(W, r, k) - mu[i * d + k]);
            for (size_t l = 0; l < d; l++)
                gsl_matrix_set(J, i * d + k, column + l,
                               key * gsl_matrix_get(X, i, l) + (k == l ? full * weight * a : 0.0));
        }
        weights[i] = weight;
    }
}

/* What A and V of all tokens give to every row of dW, alpha (m, n) being S. */
static void add_normaliser(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, const double *alpha,
                           const double *mu, const double *A, const double *V, gsl_matrix *dW)
{
    const size_t d = W->size2, n = X->size1;
    for (size_t r = 0; r < W->size1; r++)
        for (size_t i = 0; i < n; i++) {
            const double a = gsl_vector_get(signs, r), S = alpha[r * n + i];
            double along = A[i];
            for (size_t k = 0; k < d; k++) along += (a * gsl_matrix_get(W, r, k) - mu[i * d + k]) * V[i * d + k];
            for (size_t k = 0; k < d; k++)
                *gsl_matrix_ptr(dW, r, k) -= S * (along * gsl_matrix_get(X, i, k) + a * V[i * d + k]);
        }
}

int ntk_gram_gradient(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                      enum ntk_kernel kernel, const gsl_matrix *G, gsl_matrix *dW)
{
    const size_t m = W->size1, d = W->size2, n = X->size1, nd = n * d;
    if (signs->size != m || X->size2 != d || G->size1 != nd || G->size2 != nd || dW->size1 != m || dW->size2 != d)
        return GSL_EBADLEN;
    const double full = kernel == NTK_FULL ? 1.0 : 0.0;
    struct prefix_pass *pass = prefix_pass_alloc(signs, X, 1);
    gsl_matrix *J = gsl_matrix_alloc(nd, TOKENS * d), *Q = gsl_matrix_alloc(nd, TOKENS * d);
    double *lse = malloc(n * sizeof *lse), *mu = malloc(nd * sizeof *mu);
    double *A = calloc(n, sizeof *A), *V = calloc(nd, sizeof *V);
    double *alpha = malloc(m * n * sizeof *alpha);
    int status = GSL_ENOMEM;
    if (!pass || !J || !Q || !lse || !mu || !A || !V || !alpha) goto done;
    if ((status = prefix_pass_sums(pass, gsl_matrix_const_ptr(W, 0, 0), W->tda, NULL))) goto done;
    for (size_t i = 0; i < n; i++) {
        lse[i] = pass->top[i] + log(pass->mass[i]);
        for (size_t k = 0; k < d; k++) mu[i * d + k] = pass->sum[i * pass->dim_pad + k] / pass->mass[i];
    }
    gsl_matrix_set_zero(dW);
    gsl_matrix_set_zero(J);
    for (size_t first = 0; first < m; first += TOKENS) {
        const size_t count = m - first < TOKENS ? m - first : TOKENS;
        /* alpha is m S_ir until the products are known. */
        for (size_t q = 0; q < count; q++)
            token_jacobian(W, gsl_vector_get(signs, first + q), X, full, lse, mu, first + q, q * d, J,
                           alpha + (first + q) * n);
        gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, G, J, 0.0, Q);
        for (size_t q = 0; q < count; q++)
            for (size_t i = 0; i < n; i++) {
                const double a = gsl_vector_get(signs, first + q), weight = alpha[(first + q) * n + i];
                double product = 0.0;
                for (size_t k = 0; k < d; k++) {
                    double along = 0.0;                   /* (Q_ir x_i)_k */
                    for (size_t l = 0; l < d; l++) {
                        const double entry = gsl_matrix_get(Q, i * d + k, q * d + l);
                        product += entry * gsl_matrix_get(J, i * d + k, q * d + l);
                        along += entry * gsl_matrix_get(X, i, l);
                    }
                    V[i * d + k] += weight * along;
                    *gsl_matrix_ptr(dW, first + q, k) += a * weight * along;
                }
                for (size_t k = 0; k < d; k++)
                    *gsl_matrix_ptr(dW, first + q, k) += product * gsl_matrix_get(X, i, k);
                A[i] += product;
                alpha[(first + q) * n + i] = weight / (double)m;   /* S_ir */
            }
    }
    add_normaliser(W, signs, X, alpha, mu, A, V, dW);
    gsl_matrix_scale(dW, 2.0 / (double)m);
done:
    free(alpha);
    free(V);
    free(A);
    free(mu);
    free(lse);
    gsl_matrix_free(Q);
    gsl_matrix_free(J);
    prefix_pass_free(pass);
    return status;
}

int ntk_adversarial_shift(const gsl_matrix *W0, const gsl_vector *signs, const gsl_matrix *X,
                          enum ntk_kernel kernel, double radius, size_t iterations, gsl_matrix *W,
                          double *change, int num_threads)
{
    const size_t m = W0->size1, d = W0->size2, nd = X->size1 * d;
    if (W->size1 != m || W->size2 != d) return GSL_EBADLEN;
    gsl_matrix *K0 = gsl_matrix_alloc(nd, nd), *K = gsl_matrix_alloc(nd, nd);
    gsl_matrix *dW = gsl_matrix_alloc(m, d), *best = gsl_matrix_alloc(m, d);
    int status = GSL_ENOMEM;
    if (!K0 || !K || !dW || !best) goto done;
    if ((status = ntk_gram(W0, signs, X, kernel, K0, num_threads))) goto done;
    *change = -1.0;
    for (size_t round = 0; round <= iterations; round++) {
        if ((status = ntk_gram(W, signs, X, kernel, K, num_threads))) goto done;
        gsl_matrix_sub(K, K0);
        double squared = 0.0;
        for (size_t i = 0; i < nd * nd; i++) squared += K->data[i] * K->data[i];
        if (sqrt(squared) > *change) {
            *change = sqrt(squared);
            gsl_matrix_memcpy(best, W);
        }
        if (round == iterations) break;
        /* ||K - K0||^2 has the gradient of <G, K> with G = 2 (K - K0); its size is of no matter. */
        if ((status = ntk_gram_gradient(W, signs, X, kernel, K, dW))) goto done;
        for (size_t r = 0; r < m; r++) {
            gsl_vector_view row = gsl_matrix_row(dW, r);
            const double norm = gsl_blas_dnrm2(&row.vector);
            if (!(norm > 0.0)) continue;
            for (size_t k = 0; k < d; k++)
                gsl_matrix_set(W, r, k, gsl_matrix_get(W0, r, k) + radius * gsl_matrix_get(dW, r, k) / norm);
        }
    }
    gsl_matrix_memcpy(W, best);
done:
    gsl_matrix_free(best);
    gsl_matrix_free(dW);
    gsl_matrix_free(K);
    gsl_matrix_free(K0);
    return status;
}
