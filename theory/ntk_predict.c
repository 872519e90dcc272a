#include "prefix_ntk/ntk_predict.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/eigensystem.h"

/* LAPACK: Cholesky factor, its condition number, its solve (column-major). */
void dpotrf_(const char *uplo, const int *n, double *A, const int *lda, int *info, size_t uplo_len);
void dpocon_(const char *uplo, const int *n, const double *A, const int *lda, const double *anorm,
             double *rcond, double *work, int *iwork, int *info, size_t uplo_len);
void dpotrs_(const char *uplo, const int *n, const int *nrhs, const double *A, const int *lda, double *B,
             const int *ldb, int *info, size_t uplo_len);

/* alpha = sum_j u_j (u_j, B) / lambda_j over the eigenvalues that count. */
static int solve_pseudo(const gsl_matrix *K, const gsl_matrix *B, gsl_matrix *alpha, size_t *rank)
{
    const size_t n = K->size1, columns = B->size2;
    double *values = malloc(n * sizeof *values);
    gsl_matrix *vectors = gsl_matrix_alloc(n, n), *along = gsl_matrix_alloc(n, columns);
    int status = GSL_ENOMEM;
    if (!values || !vectors || !along) goto done;
    if ((status = eigensystem(K, values, vectors))) goto done;
    const double floor_value = (double)n * DBL_EPSILON * values[n - 1];
    gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, vectors, B, 0.0, along);
    *rank = 0;
    for (size_t j = 0; j < n; j++) {
        const int counts = values[j] > floor_value;
        *rank += (size_t)counts;
        for (size_t c = 0; c < columns; c++) {
            double *x = gsl_matrix_ptr(along, j, c);
            *x = counts ? *x / values[j] : 0.0;
        }
    }
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, vectors, along, 0.0, alpha);
done:
    gsl_matrix_free(along);
    gsl_matrix_free(vectors);
    free(values);
    return status;
}

int ntk_solve(const gsl_matrix *K, const gsl_matrix *B, gsl_matrix *alpha, struct ntk_solve_report *report)
{
    const size_t n = K->size1, columns = B->size2;
    if (K->size2 != n || B->size1 != n || alpha->size1 != n || alpha->size2 != columns || n == 0 || columns == 0)
        return GSL_EBADLEN;
    if (n > INT_MAX / 4 || columns > INT_MAX / 4) return GSL_ENOMEM;
    const int order = (int)n, nrhs = (int)columns;
    double *A = malloc(n * n * sizeof *A), *x = malloc(n * columns * sizeof *x);
    double *work = malloc(3 * n * sizeof *work);
    int *iwork = malloc(n * sizeof *iwork);
    gsl_matrix *rest = gsl_matrix_alloc(n, columns);
    int status = GSL_ENOMEM, info = 0;
    if (!A || !x || !work || !iwork || !rest) goto done;
    double norm = 0.0, rcond = 0.0;
    for (size_t i = 0; i < n; i++) {
        double column = 0.0;
        for (size_t j = 0; j < n; j++) {
            A[j * n + i] = gsl_matrix_get(K, i, j);
            column += fabs(A[j * n + i]);
        }
        if (!isfinite(column)) { status = GSL_EDOM; goto done; }
        if (column > norm) norm = column;
    }
    gsl_matrix_memcpy(rest, B);
    dpotrf_("L", &order, A, &order, &info, 1);
    if (!info) dpocon_("L", &order, A, &order, &norm, &rcond, work, iwork, &info, 1);
    struct ntk_solve_report made = { .size = n, .rank = n, .rcond = info ? 0.0 : rcond };
    if (info || !(rcond > (double)n * DBL_EPSILON)) {
        status = solve_pseudo(K, rest, alpha, &made.rank);
    } else {
        status = GSL_SUCCESS;
        for (int refinement = 0; refinement < 2 && !status; refinement++) {
            for (size_t c = 0; c < columns; c++)
                for (size_t i = 0; i < n; i++) x[c * n + i] = gsl_matrix_get(rest, i, c);
            dpotrs_("L", &order, &nrhs, A, &order, x, &order, &info, 1);
            if (info) status = GSL_EFAILED;
            gsl_matrix_view step = gsl_matrix_view_array(x, columns, n);
            if (!refinement) {
                /* rest becomes B - K alpha; B itself may be alpha. */
                gsl_matrix *first = gsl_matrix_alloc(n, columns);
                if (!first) { status = GSL_ENOMEM; break; }
                gsl_matrix_transpose_memcpy(first, &step.matrix);
                gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, -1.0, K, first, 1.0, rest);
                gsl_matrix_memcpy(alpha, first);
                gsl_matrix_free(first);
            } else {
                for (size_t c = 0; c < columns; c++)
                    for (size_t i = 0; i < n; i++) *gsl_matrix_ptr(alpha, i, c) += x[c * n + i];
            }
        }
    }
    if (report) *report = made;
done:
    gsl_matrix_free(rest);
    free(iwork);
    free(work);
    free(x);
    free(A);
    return status;
}

int ntk_predict(const gsl_matrix *X, const gsl_matrix *Y, const gsl_matrix *X_at, double sigma,
                enum prefix_signs law, enum ntk_kernel kernel, const gsl_matrix *F0,
                const gsl_matrix *F0_at, gsl_matrix *F, struct ntk_solve_report *report)
{
    const size_t n = X->size1, d = X->size2, n_at = X_at->size1;
    if (Y->size1 != n || Y->size2 != d || X_at->size2 != d || F->size1 != n_at || F->size2 != d
        || !F0 != !F0_at || (F0 && (F0->size1 != n || F0->size2 != d))
        || (F0_at && (F0_at->size1 != n_at || F0_at->size2 != d)))
        return GSL_EBADLEN;
    gsl_matrix *K = gsl_matrix_alloc(n * d, n * d), *K_at = gsl_matrix_alloc(n_at * d, n * d);
    gsl_matrix *alpha = gsl_matrix_alloc(n * d, 1);
    int status = GSL_ENOMEM;
    if (!K || !K_at || !alpha) goto done;
    if ((status = ntk_limit(X, X, sigma, law, kernel, K))) goto done;
    if ((status = ntk_limit(X_at, X, sigma, law, kernel, K_at))) goto done;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < d; k++)
            gsl_matrix_set(alpha, i * d + k, 0, gsl_matrix_get(Y, i, k) - (F0 ? gsl_matrix_get(F0, i, k) : 0.0));
    if ((status = ntk_solve(K, alpha, alpha, report))) goto done;
    for (size_t i = 0; i < n_at; i++)
        for (size_t k = 0; k < d; k++) {
            double f = F0_at ? gsl_matrix_get(F0_at, i, k) : 0.0;
            for (size_t j = 0; j < n * d; j++)
                f += gsl_matrix_get(K_at, i * d + k, j) * gsl_matrix_get(alpha, j, 0);
            gsl_matrix_set(F, i, k, f);
        }
done:
    gsl_matrix_free(alpha);
    gsl_matrix_free(K_at);
    gsl_matrix_free(K);
    return status;
}
