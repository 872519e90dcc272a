/* The one-layer prefix model, plain loops. */
#include "prefix_ntk/prefix_model.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"

int prefix_draw(uint64_t seed, uint64_t trial, enum prefix_signs law, double sigma,
                gsl_matrix *W, gsl_vector *signs, int num_threads)
{
    const size_t m = W->size1, d = W->size2;
    if (signs->size != m) return GSL_EBADLEN;
    if (!(sigma > 0.0) || !isfinite(sigma)) return GSL_EDOM;
    const int mirrored = law == PREFIX_SIGNS_MIRRORED;
    if (mirrored && m % 2) return GSL_EINVAL;
    const size_t drawn = mirrored ? m / 2 : m;
#pragma omp parallel for schedule(static) num_threads(num_threads) if (num_threads > 1 && drawn * d > 65536)
    for (size_t r = 0; r < drawn; r++) {
        double *w = gsl_matrix_ptr(W, r, 0);
        random_normal(seed, RANDOM_PREFIX, trial, r, w, d);
        for (size_t k = 0; k < d; k++) w[k] *= sigma;
        const double a = law == PREFIX_SIGNS_RANDOM ? random_sign(seed, RANDOM_SIGNS, trial, r) : 1.0;
        gsl_vector_set(signs, r, a);
        if (mirrored) {
            memcpy(gsl_matrix_ptr(W, r + drawn, 0), w, d * sizeof *w);
            gsl_vector_set(signs, r + drawn, -a);
        }
    }
    return GSL_SUCCESS;
}

/* Scores of one sample into s; returns log sum exp. */
static double score_row(const gsl_matrix *W, const double *x, double *s)
{
    double top = -INFINITY, sum = 0.0;
    for (size_t r = 0; r < W->size1; r++) {
        const double *w = gsl_matrix_const_ptr(W, r, 0);
        double dot = 0.0;
        for (size_t k = 0; k < W->size2; k++) dot += w[k] * x[k];
        s[r] = dot;
        if (dot > top) top = dot;
    }
    for (size_t r = 0; r < W->size1; r++) sum += exp(s[r] - top);
    return top + log(sum);
}

int prefix_model_forward(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                         gsl_matrix *F, int num_threads)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    if (signs->size != m || X->size2 != d || F->size1 != n || F->size2 != d) return GSL_EBADLEN;
    (void)num_threads;
    double *s = malloc(m * sizeof *s);
    if (!s) return GSL_ENOMEM;
    gsl_matrix_set_zero(F);
    for (size_t i = 0; i < n; i++) {
        const double lse = score_row(W, gsl_matrix_const_ptr(X, i, 0), s);
        double *f = gsl_matrix_ptr(F, i, 0);
        for (size_t r = 0; r < m; r++) {
            const double p = (double)m * gsl_vector_get(signs, r) * exp(s[r] - lse);
            const double *w = gsl_matrix_const_ptr(W, r, 0);
            for (size_t k = 0; k < d; k++) f[k] += p * w[k];
        }
    }
    free(s);
    return GSL_SUCCESS;
}

int prefix_model_loss(const gsl_matrix *F, const gsl_matrix *Y, double *loss)
{
    if (F->size1 != Y->size1 || F->size2 != Y->size2) return GSL_EBADLEN;
    double sum = 0.0;
    for (size_t i = 0; i < F->size1; i++)
        for (size_t k = 0; k < F->size2; k++) {
            const double R = gsl_matrix_get(F, i, k) - gsl_matrix_get(Y, i, k);
            sum += R * R;
        }
    *loss = 0.5 * sum;
    return isfinite(sum) ? GSL_SUCCESS : GSL_EDOM;
}

int prefix_model_gradient(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                          const gsl_matrix *Y, gsl_matrix *dW, gsl_matrix *F, double *loss,
                          int num_threads)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    if (dW->size1 != m || dW->size2 != d || Y->size1 != n || Y->size2 != d) return GSL_EBADLEN;
    gsl_matrix *own = F ? NULL : gsl_matrix_alloc(n, d);
    double *s = malloc(m * sizeof *s);
    int status = GSL_ENOMEM;
    if (!F) F = own;
    if (!F || !s) goto done;
    if ((status = prefix_model_forward(W, signs, X, F, num_threads))) goto done;
    double value = 0.0;
    if ((status = prefix_model_loss(F, Y, &value))) goto done;
    if (loss) *loss = value;
    gsl_matrix_set_zero(dW);
    for (size_t i = 0; i < n; i++) {
        const double *x = gsl_matrix_const_ptr(X, i, 0), *f = gsl_matrix_const_ptr(F, i, 0);
        const double *y = gsl_matrix_const_ptr(Y, i, 0);
        const double lse = score_row(W, x, s);
        double c = 0.0;                                     /* <R_i, mu_i> */
        for (size_t k = 0; k < d; k++) c += (f[k] - y[k]) * f[k] / (double)m;
        for (size_t r = 0; r < m; r++) {
            const double p = (double)m * exp(s[r] - lse), a = gsl_vector_get(signs, r);
            const double *w = gsl_matrix_const_ptr(W, r, 0);
            double *g = gsl_matrix_ptr(dW, r, 0), dot = 0.0;  /* <R_i, w_r> */
            for (size_t k = 0; k < d; k++) dot += (f[k] - y[k]) * w[k];
            for (size_t k = 0; k < d; k++) g[k] += p * (a * (f[k] - y[k]) + x[k] * (a * dot - c));
        }
    }
done:
    free(s);
    gsl_matrix_free(own);
    return status;
}
