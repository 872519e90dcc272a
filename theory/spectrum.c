/* Eigenvalues and singular values by LAPACK, the smallest eigenvalue by Cholesky and Lanczos. */
#include "prefix_ntk/ntk.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include "common/cholesky.h"
#include "common/lapack.h"
#include "common/random.h"

/* From this order on the reduction by way of a band matrix is faster. */
enum { TWO_STAGE = 1024 };

static int all_finite(const gsl_matrix *A)
{
    for (size_t i = 0; i < A->size1; i++)
        for (size_t j = 0; j < A->size2; j++)
            if (!isfinite(gsl_matrix_get(A, i, j))) return 0;
    return 1;
}

/* Eigenvalues of the symmetric matrix whose upper triangle, with the diagonal, is that of the
 * row-major A, which is overwritten; its entries are finite: LAPACK may loop for ever on a NaN. */
static int eigenvalues_of(double *A, size_t n, size_t tda, double *w)
{
    if (n > INT_MAX / 4 || tda > INT_MAX) return GSL_ENOMEM;
    const int order = (int)n, lda = (int)tda, ask = -1;
    int iwork = 0, info = 0, liwork = 1;
    double best = 0.0, *work = NULL;
    void (*const eigen)(const char *, const char *, const int *, double *, const int *, double *, double *, const int *,
                        int *, const int *, int *, size_t, size_t) = n < TWO_STAGE ? dsyevd_ : dsyevd_2stage_;
    eigen("N", "L", &order, A, &lda, w, &best, &ask, &iwork, &ask, &info, 1, 1);
    if (info || !(best < (double)INT_MAX)) return GSL_EFAILED;
    const int lwork = (int)best;
    if (!(work = malloc((size_t)lwork * sizeof *work))) return GSL_ENOMEM;
    eigen("N", "L", &order, A, &lda, w, work, &lwork, &iwork, &liwork, &info, 1, 1);
    free(work);
    return info ? GSL_EFAILED : GSL_SUCCESS;
}

/* A copy of a matrix with finite entries; GSL_ENOMEM, GSL_EDOM. */
static int finite_copy(const gsl_matrix *A, gsl_matrix **copy)
{
    if (!all_finite(A)) return GSL_EDOM;
    if (!(*copy = gsl_matrix_alloc(A->size1, A->size2))) return GSL_ENOMEM;
    return gsl_matrix_memcpy(*copy, A);
}

int ntk_eigenvalues(const gsl_matrix *symmetric, gsl_vector *eigenvalues)
{
    const size_t n = symmetric->size1;
    if (symmetric->size2 != n || eigenvalues->size != n || n == 0) return GSL_EBADLEN;
    gsl_matrix *A = NULL;
    double *w = malloc(n * sizeof *w);
    int status = w ? finite_copy(symmetric, &A) : GSL_ENOMEM;
    if (!status) status = eigenvalues_of(A->data, n, A->tda, w);
    for (size_t i = 0; i < n && !status; i++) gsl_vector_set(eigenvalues, i, w[i]);
    free(w);
    gsl_matrix_free(A);
    return status;
}

/* ---- the smallest eigenvalue -------------------------------------------------------------- */

/* Below this order all eigenvalues are as fast as the smallest. */
enum { SMALL = 64, MAX_STEPS = 200, STEPS_PER_CHECK = 4 };

/* Lanczos on the inverse, all vectors kept orthogonal. */
struct lanczos {
    size_t n, count;                       /* vectors so far */
    double *basis;                         /* (MAX_STEPS + 1, n) */
    double alpha[MAX_STEPS], beta[MAX_STEPS];
};

/* One more vector, L the factor; false when the space is exhausted. */
static int lanczos_step(struct lanczos *z, const gsl_matrix *L)
{
    const int n = (int)z->n, lda = (int)L->tda;
    double *q = z->basis + z->count * z->n, *next = q + z->n;
    memcpy(next, q, z->n * sizeof *q);
    cblas_dtrsv(CblasRowMajor, CblasLower, CblasNoTrans, CblasNonUnit, n, L->data, lda, next, 1);
    cblas_dtrsv(CblasRowMajor, CblasLower, CblasTrans, CblasNonUnit, n, L->data, lda, next, 1);
    z->alpha[z->count] = cblas_ddot(n, q, 1, next, 1);
    /* Twice is enough. */
    for (int pass = 0; pass < 2; pass++)
        for (size_t j = z->count + 1; j-- > 0;) {
            const double *v = z->basis + j * z->n;
            cblas_daxpy(n, -cblas_ddot(n, v, 1, next, 1), v, 1, next, 1);
        }
    const double length = cblas_dnrm2(n, next, 1);
    z->beta[z->count] = length;
    z->count++;
    if (!(length > DBL_EPSILON * fabs(z->alpha[0]))) return 0;
    cblas_dscal(n, 1.0 / length, next, 1);
    return 1;
}

/* The largest Ritz value and the residual of its vector. */
static int lanczos_top(const struct lanczos *z, double *top, double *residual)
{
    const int k = (int)z->count;
    double *d = malloc(z->count * (z->count + 4) * sizeof *d);
    int info = 0;
    if (!d) return GSL_ENOMEM;
    double *e = d + z->count, *work = e + z->count, *Z = work + 2 * z->count;
    memcpy(d, z->alpha, z->count * sizeof *d);
    memcpy(e, z->beta, z->count * sizeof *e);
    dsteqr_("I", &k, d, e, Z, &k, work, &info, 1);
    *top = d[k - 1];
    *residual = z->beta[k - 1] * fabs(Z[k * k - 1]);
    free(d);
    return info ? GSL_EFAILED : GSL_SUCCESS;
}

/* The smallest eigenvalue from the factor L of a matrix of norm `norm`, to its rounding error; GSL_EMAXITER. */
static int smallest_of_factor(const gsl_matrix *L, double norm, double *lambda_min)
{
    struct lanczos *z = malloc(sizeof *z);
    const size_t n = L->size1;
    int status = GSL_ENOMEM;
    if (!z) return status;
    *z = (struct lanczos){ .n = n, .basis = malloc((MAX_STEPS + 1) * n * sizeof(double)) };
    if (!z->basis) goto done;
    random_normal(0, RANDOM_OTHER, 0, 0, z->basis, n);
    cblas_dscal((int)n, 1.0 / cblas_dnrm2((int)n, z->basis, 1), z->basis, 1);
    status = GSL_EMAXITER;
    for (int more = 1; more && z->count < MAX_STEPS && z->count < n && status == GSL_EMAXITER;) {
        more = lanczos_step(z, L);
        if (more && z->count % STEPS_PER_CHECK && z->count < n) continue;
        double top, residual;
        const int failed = lanczos_top(z, &top, &residual);
        if (failed) { status = failed; continue; }
        /* d lambda = lambda^2 d(1/lambda); the eigenvalue is off by less than the residual. */
        if (!isfinite(top) || !(top > 0.0)) break;
        if (residual <= 1e-9 * top && residual <= (double)n * DBL_EPSILON * norm * top * top) {
            *lambda_min = 1.0 / top;
            status = GSL_SUCCESS;
        }
    }
done:
    free(z->basis);
    free(z);
    return status;
}

/* Its largest row sum, which no eigenvalue exceeds; row i of the upper triangle is column i, too. */
static double row_sum_norm(const gsl_matrix *A)
{
    double norm = 0.0;
    for (size_t i = 0; i < A->size1; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < A->size2; j++) sum += fabs(gsl_matrix_get(A, i, j));
        norm = fmax(norm, sum);
    }
    return norm;
}

int ntk_lambda_min_in_place(gsl_matrix *symmetric, int num_threads, double *lambda_min)
{
    const size_t n = symmetric->size1;
    if (symmetric->size2 != n || n == 0) return GSL_EBADLEN;
    if (!all_finite(symmetric)) return GSL_EDOM;
    if (n > INT_MAX / 4 || symmetric->tda > INT_MAX) return GSL_ENOMEM;
    double *w = malloc(n * sizeof *w);
    if (!w) return GSL_ENOMEM;
    int status = GSL_EMAXITER;
    if (n > SMALL) {
        /* The factor takes the lower triangle; the upper one and this diagonal still are the matrix. */
        const double norm = row_sum_norm(symmetric);
        gsl_vector_view diagonal = gsl_matrix_diagonal(symmetric), kept = gsl_vector_view_array(w, n);
        gsl_vector_memcpy(&kept.vector, &diagonal.vector);
        if (!cholesky_in_place(symmetric, num_threads > 1 ? num_threads : 1)) {
            status = smallest_of_factor(symmetric, norm, lambda_min);
            /* An eigenvalue of the size of rounding errors may as well be negative. */
            if (!status && !(*lambda_min > (double)n * DBL_EPSILON * norm)) status = GSL_EMAXITER;
        }
        if (status == GSL_EMAXITER) gsl_vector_memcpy(&diagonal.vector, &kept.vector);
    }
    if (status == GSL_EMAXITER && !(status = eigenvalues_of(symmetric->data, n, symmetric->tda, w))) *lambda_min = w[0];
    free(w);
    return status;
}

int ntk_lambda_min(const gsl_matrix *symmetric, double *lambda_min)
{
    gsl_matrix *A = NULL;
    if (symmetric->size2 != symmetric->size1) return GSL_EBADLEN;
    int status = finite_copy(symmetric, &A);
    if (!status) status = ntk_lambda_min_in_place(A, 1, lambda_min);
    gsl_matrix_free(A);
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
