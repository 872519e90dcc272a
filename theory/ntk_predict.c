#include "prefix_ntk/ntk_predict.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/eigensystem.h"
#include "common/lapack.h"

/* K = D S D with D^2 the diagonal of K (1 where that is 0): S has a diagonal of ones, and the
 * condition number of K's that is due to samples of different norms alone is gone. */
struct scaled {
    size_t n, columns;
    const gsl_matrix *K;
    double *D, *factor;           /* factor: Cholesky's of S, column-major */
    double rcond;                 /* of S; 0: not positive definite */
    gsl_matrix *rest, *step;      /* B - K alpha, and the next term of alpha */
};

static void scaled_free(struct scaled *s)
{
    gsl_matrix_free(s->step);
    gsl_matrix_free(s->rest);
    free(s->factor);
    free(s->D);
}

/* S into A, column-major; its 1-norm, or NaN. */
static double scale(const struct scaled *s, double *A)
{
    double norm = 0.0;
    for (size_t i = 0; i < s->n; i++) {
        double column = 0.0;
        for (size_t j = 0; j < s->n; j++) {
            A[j * s->n + i] = gsl_matrix_get(s->K, i, j) / s->D[i] / s->D[j];
            column += fabs(A[j * s->n + i]);
        }
        if (!isfinite(column)) return NAN;
        norm = fmax(norm, column);
    }
    return norm;
}

static int factorise(struct scaled *s)
{
    const int order = (int)s->n;
    int info = 0, *iwork = malloc(s->n * sizeof *iwork);
    double *work = malloc(3 * s->n * sizeof *work);
    int status = work && iwork ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < s->n; i++) {
        const double diagonal = gsl_matrix_get(s->K, i, i);
        s->D[i] = diagonal > 0.0 ? sqrt(diagonal) : 1.0;
    }
    const double norm = scale(s, s->factor);
    if (!status && isnan(norm)) status = GSL_EDOM;
    if (!status) {
        dpotrf_("L", &order, s->factor, &order, &info, 1);
        if (!info) dpocon_("L", &order, s->factor, &order, &norm, &s->rcond, work, iwork, &info, 1);
        if (info) s->rcond = 0.0;
    }
    free(iwork);
    free(work);
    return status;
}

/* rest = B - K alpha in extended precision: refinement gains nothing from less. Its largest entry. */
static double residual(const struct scaled *s, const gsl_matrix *B, const gsl_matrix *alpha)
{
    double most = 0.0;
    for (size_t i = 0; i < s->n; i++)
        for (size_t c = 0; c < s->columns; c++) {
            long double sum = gsl_matrix_get(B, i, c);
            for (size_t j = 0; j < s->n; j++)
                sum -= (long double)gsl_matrix_get(s->K, i, j) * gsl_matrix_get(alpha, j, c);
            gsl_matrix_set(s->rest, i, c, (double)sum);
            most = fmax(most, fabs((double)sum));
        }
    return most;
}

/* alpha by Cholesky, refined while that halves the residual; the residual left. */
static double solve_refined(struct scaled *s, const gsl_matrix *B, gsl_matrix *alpha)
{
    enum { MAX_STEPS = 8 };
    const int order = (int)s->n, nrhs = (int)s->columns;
    gsl_matrix_set_zero(alpha);
    double left = residual(s, B, alpha);
    for (int count = 0; count < MAX_STEPS && left > 0.0; count++) {
        int info = 0;
        double *x = s->step->data;            /* column-major */
        for (size_t c = 0; c < s->columns; c++)
            for (size_t i = 0; i < s->n; i++) x[c * s->n + i] = gsl_matrix_get(s->rest, i, c) / s->D[i];
        dpotrs_("L", &order, &nrhs, s->factor, &order, x, &order, &info, 1);
        for (size_t i = 0; i < s->n; i++)
            for (size_t c = 0; c < s->columns; c++) *gsl_matrix_ptr(alpha, i, c) += x[c * s->n + i] / s->D[i];
        const double now = residual(s, B, alpha);
        if (!(now < left)) {
            for (size_t i = 0; i < s->n; i++)
                for (size_t c = 0; c < s->columns; c++) *gsl_matrix_ptr(alpha, i, c) -= x[c * s->n + i] / s->D[i];
            break;
        }
        const bool enough = now > 0.5 * left;
        left = now;
        if (enough) break;
    }
    return left;
}

/* alpha = D^{-1} sum_j u_j (u_j, D^{-1} B) / lambda_j over the eigenvalues of S that count. */
static int solve_pseudo(const struct scaled *s, const gsl_matrix *B, gsl_matrix *alpha, size_t *rank)
{
    const size_t n = s->n, columns = s->columns;
    double *values = malloc(n * sizeof *values);
    gsl_matrix *S = gsl_matrix_alloc(n, n), *vectors = gsl_matrix_alloc(n, n), *along = gsl_matrix_alloc(n, columns);
    int status = values && S && vectors && along ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) {
        scale(s, S->data);
        status = eigensystem(S, values, vectors);
    }
    if (!status) {
        const double floor_value = (double)n * DBL_EPSILON * values[n - 1];
        for (size_t i = 0; i < n; i++)
            for (size_t c = 0; c < columns; c++) gsl_matrix_set(s->rest, i, c, gsl_matrix_get(B, i, c) / s->D[i]);
        gsl_blas_dgemm(CblasTrans, CblasNoTrans, 1.0, vectors, s->rest, 0.0, along);
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
        for (size_t i = 0; i < n; i++)
            for (size_t c = 0; c < columns; c++) *gsl_matrix_ptr(alpha, i, c) /= s->D[i];
    }
    gsl_matrix_free(along);
    gsl_matrix_free(vectors);
    gsl_matrix_free(S);
    free(values);
    return status;
}

/* A singular K with targets in its range is fitted by the pseudo-inverse. One that misses them
 * by this share, where Cholesky does not, took small eigenvalues of a regular K for 0. */
static const double FITTED = 1e-6;

int ntk_solve(const gsl_matrix *K, const gsl_matrix *B, gsl_matrix *alpha, struct ntk_solve_report *report)
{
    const size_t n = K->size1, columns = B->size2;
    if (K->size2 != n || B->size1 != n || alpha->size1 != n || alpha->size2 != columns || n == 0 || columns == 0)
        return GSL_EBADLEN;
    if (n > INT_MAX / 4 || columns > INT_MAX / 4) return GSL_ENOMEM;
    struct scaled s = { .n = n, .columns = columns, .K = K };
    s.D = malloc(n * sizeof *s.D);
    s.factor = malloc(n * n * sizeof *s.factor);
    s.rest = gsl_matrix_alloc(n, columns);
    s.step = gsl_matrix_alloc(columns, n);
    gsl_matrix *target = gsl_matrix_alloc(n, columns), *refined = gsl_matrix_alloc(n, columns);
    int status = s.D && s.factor && s.rest && s.step && target && refined ? GSL_SUCCESS : GSL_ENOMEM;
    if (status || (status = factorise(&s))) goto done;
    gsl_matrix_memcpy(target, B);                         /* B may be alpha */
    double size = 0.0;
    for (size_t i = 0; i < n * columns; i++) size = fmax(size, fabs(target->data[i]));
    struct ntk_solve_report made = { .size = n, .rank = n, .rcond = s.rcond };
    const double left = s.rcond > 0.0 ? solve_refined(&s, target, refined) : INFINITY;
    if (s.rcond > (double)n * DBL_EPSILON) {
        gsl_matrix_memcpy(alpha, refined);
        made.residual = left;
    } else if (!(status = solve_pseudo(&s, target, alpha, &made.rank))) {
        made.residual = residual(&s, target, alpha);
        if (made.residual > FITTED * size && left <= FITTED * size) {
            gsl_matrix_memcpy(alpha, refined);
            made.residual = left;
            made.rank = n;
        }
    }
    if (size > 0.0) made.residual /= size;
    if (report && !status) *report = made;
done:
    gsl_matrix_free(refined);
    gsl_matrix_free(target);
    scaled_free(&s);
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
            /* Large terms of either sign where K is nearly singular. */
            long double f = F0_at ? gsl_matrix_get(F0_at, i, k) : 0.0;
            for (size_t j = 0; j < n * d; j++)
                f += (long double)gsl_matrix_get(K_at, i * d + k, j) * gsl_matrix_get(alpha, j, 0);
            gsl_matrix_set(F, i, k, (double)f);
        }
done:
    gsl_matrix_free(alpha);
    gsl_matrix_free(K_at);
    gsl_matrix_free(K);
    return status;
}
