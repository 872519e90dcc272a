#include "common/eigensystem.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/lapack.h"

int eigensystem(const gsl_matrix *symmetric, double *values, gsl_matrix *vectors)
{
    const size_t n = symmetric->size1;
    if (symmetric->size2 != n || vectors->size1 != n || vectors->size2 != n || n == 0) return GSL_EBADLEN;
    if (n > 23000) return GSL_ENOMEM;               /* the workspace length below is an int */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            if (!isfinite(gsl_matrix_get(symmetric, i, j))) return GSL_EDOM;
    const int order = (int)n, lwork = 1 + 6 * order + 2 * order * order, liwork = 3 + 5 * order;
    double *A = malloc(n * n * sizeof *A), *work = malloc((size_t)lwork * sizeof *work);
    int *iwork = malloc((size_t)liwork * sizeof *iwork);
    int status = GSL_ENOMEM, info = 0;
    if (!A || !work || !iwork) goto done;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) A[j * n + i] = gsl_matrix_get(symmetric, i, j);
    dsyevd_("V", "L", &order, A, &order, values, work, &lwork, iwork, &liwork, &info, 1, 1);
    status = info ? GSL_EFAILED : GSL_SUCCESS;
    /* Eigenvector j is column j of a column-major A. */
    for (size_t j = 0; j < n && !status; j++)
        for (size_t i = 0; i < n; i++) gsl_matrix_set(vectors, i, j, A[j * n + i]);
done:
    free(iwork);
    free(work);
    free(A);
    return status;
}
