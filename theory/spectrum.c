/* Eigenvalues and singular values by LAPACK's divide and conquer. */
#include "prefix_ntk/ntk.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/lapack.h"

int ntk_eigenvalues(const gsl_matrix *symmetric, gsl_vector *eigenvalues)
{
    const size_t n = symmetric->size1;
    if (symmetric->size2 != n || eigenvalues->size != n || n == 0) return GSL_EBADLEN;
    if (n > INT_MAX / 4) return GSL_ENOMEM;
    double *A = malloc(n * n * sizeof *A), *w = malloc(n * sizeof *w), *work = NULL;
    int status = GSL_ENOMEM;
    if (!A || !w) goto done;
    /* LAPACK may loop for ever on a NaN. */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const double x = gsl_matrix_get(symmetric, i, j);
            if (!isfinite(x)) { status = GSL_EDOM; goto done; }
            A[i * n + j] = x;
        }
    const int order = (int)n, lwork = 2 * order + 1, liwork = 1;
    int iwork = 0, info = 0;
    work = malloc((size_t)lwork * sizeof *work);
    if (!work) goto done;
    dsyevd_("N", "U", &order, A, &order, w, work, &lwork, &iwork, &liwork, &info, 1, 1);
    status = info ? GSL_EFAILED : GSL_SUCCESS;
    for (size_t i = 0; i < n && !status; i++) gsl_vector_set(eigenvalues, i, w[i]);
done:
    free(work);
    free(w);
    free(A);
    return status;
}

int ntk_lambda_min(const gsl_matrix *symmetric, double *lambda_min)
{
    gsl_vector *w = gsl_vector_alloc(symmetric->size1);
    if (!w) return GSL_ENOMEM;
    const int status = ntk_eigenvalues(symmetric, w);
    if (!status) *lambda_min = gsl_vector_get(w, 0);
    gsl_vector_free(w);
    return status;
}

int ntk_singular_values(const gsl_matrix *A, gsl_vector *values)
{
    const size_t rows = A->size1, cols = A->size2, count = rows < cols ? rows : cols;
    if (values->size != count || count == 0) return GSL_EBADLEN;
    if (rows > INT_MAX / 16 || cols > INT_MAX / 16) return GSL_ENOMEM;
    /* Row-major A is column-major A', whose singular values are the same. */
    const int m = (int)cols, n = (int)rows, least = (int)count, one = 1;
    const int lwork = 8 * least + (m > n ? m : n) + 64;
    double *copy = malloc(rows * cols * sizeof *copy), *s = malloc(count * sizeof *s);
    double *work = malloc((size_t)lwork * sizeof *work), unused[1];
    int *iwork = malloc(8 * count * sizeof *iwork), info = 0, status = GSL_ENOMEM;
    if (!copy || !s || !work || !iwork) goto done;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            const double x = gsl_matrix_get(A, i, j);
            if (!isfinite(x)) { status = GSL_EDOM; goto done; }
            copy[i * cols + j] = x;
        }
    dgesdd_("N", &m, &n, copy, &m, s, unused, &one, unused, &one, work, &lwork, iwork, &info, 1);
    status = info ? GSL_EFAILED : GSL_SUCCESS;
    for (size_t i = 0; i < count && !status; i++) gsl_vector_set(values, i, s[i]);
done:
    free(iwork);
    free(work);
    free(s);
    free(copy);
    return status;
}
