/* Levenberg-Marquardt on the prefix. */
#include "prefix_ntk/prefix_fit.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit_nlinear.h>

/* Softmax S (n, m) and mean token mu (n, d) of every sample. */
static int softmax_and_mean(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                            gsl_matrix *S, gsl_matrix *mu)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0, X, W, 0.0, S);
    for (size_t i = 0; i < n; i++) {
        double *s = gsl_matrix_ptr(S, i, 0), top = -INFINITY, total = 0.0;
        for (size_t r = 0; r < m; r++) top = fmax(top, s[r]);
        for (size_t r = 0; r < m; r++) total += s[r] = exp(s[r] - top);
        if (!(total > 0.0) || !isfinite(total)) return GSL_EDOM;
        for (size_t k = 0; k < d; k++) gsl_matrix_set(mu, i, k, 0.0);
        for (size_t r = 0; r < m; r++) {
            s[r] /= total;
            const double weight = gsl_vector_get(signs, r) * s[r];
            for (size_t k = 0; k < d; k++) *gsl_matrix_ptr(mu, i, k) += weight * gsl_matrix_get(W, r, k);
        }
    }
    return GSL_SUCCESS;
}

/* The first n dim rows of J. */
static void jacobian_rows(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                          const gsl_matrix *S, const gsl_matrix *mu, gsl_matrix *J)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < d; k++)
            for (size_t r = 0; r < m; r++) {
                const double a = gsl_vector_get(signs, r), weight = (double)m * gsl_matrix_get(S, i, r);
                const double key = weight * (a * gsl_matrix_get(W, r, k) - gsl_matrix_get(mu, i, k));
                double *to = gsl_matrix_ptr(J, i * d + k, r * d);
                for (size_t l = 0; l < d; l++) to[l] = key * gsl_matrix_get(X, i, l);
                to[k] += weight * a;
            }
}

int prefix_model_jacobian(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, gsl_matrix *J)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    if (signs->size != m || X->size2 != d || J->size1 != n * d || J->size2 != m * d) return GSL_EBADLEN;
    gsl_matrix *S = gsl_matrix_alloc(n, m), *mu = gsl_matrix_alloc(n, d);
    int status = S && mu ? softmax_and_mean(W, signs, X, S, mu) : GSL_ENOMEM;
    if (!status) jacobian_rows(W, signs, X, S, mu, J);
    gsl_matrix_free(S);
    gsl_matrix_free(mu);
    return status;
}

struct fit { const gsl_vector *signs; const gsl_matrix *X, *Y; gsl_matrix *S, *mu; size_t prefix_len; };

static int fit_residual(const gsl_vector *w, void *data, gsl_vector *f)
{
    struct fit *fit = data;
    const size_t d = fit->X->size2, n = fit->X->size1;
    gsl_matrix_const_view W = gsl_matrix_const_view_vector(w, fit->prefix_len, d);
    const int status = softmax_and_mean(&W.matrix, fit->signs, fit->X, fit->S, fit->mu);
    if (status) return status;
    gsl_vector_set_zero(f);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < d; k++)
            gsl_vector_set(f, i * d + k, (double)fit->prefix_len * gsl_matrix_get(fit->mu, i, k)
                                             - gsl_matrix_get(fit->Y, i, k));
    return GSL_SUCCESS;
}

static int fit_jacobian(const gsl_vector *w, void *data, gsl_matrix *J)
{
    struct fit *fit = data;
    gsl_matrix_const_view W = gsl_matrix_const_view_vector(w, fit->prefix_len, fit->X->size2);
    const int status = softmax_and_mean(&W.matrix, fit->signs, fit->X, fit->S, fit->mu);
    if (status) return status;
    gsl_matrix_set_zero(J);
    jacobian_rows(&W.matrix, fit->signs, fit->X, fit->S, fit->mu, J);
    return GSL_SUCCESS;
}

int prefix_fit(gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, const gsl_matrix *Y,
               size_t max_iterations, double stop_loss, double *loss, size_t *iterations)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    if (signs->size != m || X->size2 != d || Y->size1 != n || Y->size2 != d || W->tda != d) return GSL_EBADLEN;
    /* GSL wants at least as many residuals as parameters: residuals that are 0 whatever
     * W change neither the loss nor the damped normal equations. */
    const size_t parameters = m * d, residuals = n * d > parameters ? n * d : parameters;
    struct fit fit = { signs, X, Y, gsl_matrix_alloc(n, m), gsl_matrix_alloc(n, d), m };
    gsl_multifit_nlinear_parameters options = gsl_multifit_nlinear_default_parameters();
    options.scale = gsl_multifit_nlinear_scale_levenberg;
    gsl_multifit_nlinear_workspace *work =
        gsl_multifit_nlinear_alloc(gsl_multifit_nlinear_trust, &options, residuals, parameters);
    gsl_multifit_nlinear_fdf fdf = { .f = fit_residual, .df = fit_jacobian, .n = residuals, .p = parameters,
                                     .params = &fit };
    gsl_vector_const_view start = gsl_vector_const_view_array(W->data, parameters);
    int status = GSL_ENOMEM;
    if (!fit.S || !fit.mu || !work) goto done;
    if ((status = gsl_multifit_nlinear_init(&start.vector, &fdf, work))) goto done;
    double norm = gsl_blas_dnrm2(gsl_multifit_nlinear_residual(work));
    size_t made = 0;
    while (made < max_iterations && 0.5 * norm * norm > stop_loss) {
        made++;
        /* No acceptable step is left (GSL_ENOPROG), or the matrix failed: a minimum. */
        if (gsl_multifit_nlinear_iterate(work)) break;
        norm = gsl_blas_dnrm2(gsl_multifit_nlinear_residual(work));
    }
    const gsl_vector *end = gsl_multifit_nlinear_position(work);
    for (size_t i = 0; i < parameters; i++) W->data[i] = gsl_vector_get(end, i);
    *loss = 0.5 * norm * norm;
    if (iterations) *iterations = made;
    status = isfinite(norm) ? GSL_SUCCESS : GSL_EDOM;
done:
    gsl_multifit_nlinear_free(work);
    gsl_matrix_free(fit.S);
    gsl_matrix_free(fit.mu);
    return status;
}
