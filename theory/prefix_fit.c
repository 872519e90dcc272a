/* Levenberg-Marquardt on the prefix. */
#include "prefix_ntk/prefix_fit.h"

#include <math.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit_nlinear.h>

/* failed: GSL_ENOMEM of a residual or its Jacobian, which to the minimiser is a step like others that cannot be
 * taken. */
struct fit { const gsl_vector *signs; const gsl_matrix *X, *Y; gsl_matrix *F; size_t prefix_len; int failed; };

static int fit_residual(const gsl_vector *w, void *data, gsl_vector *f)
{
    struct fit *fit = data;
    gsl_matrix_const_view W = gsl_matrix_const_view_vector(w, fit->prefix_len, fit->X->size2);
    const int status = prefix_model_forward(&W.matrix, fit->signs, fit->X, fit->F, 1);
    if (status == GSL_ENOMEM) fit->failed = status;
    if (status) return status;
    gsl_vector_set_zero(f);
    for (size_t i = 0; i < fit->F->size1 * fit->F->size2; i++)
        gsl_vector_set(f, i, fit->F->data[i] - gsl_matrix_get(fit->Y, i / fit->F->size2, i % fit->F->size2));
    return GSL_SUCCESS;
}

static int fit_jacobian(const gsl_vector *w, void *data, gsl_matrix *J)
{
    struct fit *fit = data;
    gsl_matrix_const_view W = gsl_matrix_const_view_vector(w, fit->prefix_len, fit->X->size2);
    gsl_matrix_set_zero(J);
    gsl_matrix_view rows = gsl_matrix_submatrix(J, 0, 0, fit->F->size1 * fit->F->size2, J->size2);
    const int status = ntk_jacobian(&W.matrix, fit->signs, fit->X, NTK_FULL, &rows.matrix);
    if (status == GSL_ENOMEM) fit->failed = status;
    return status;
}

int prefix_fit(gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, const gsl_matrix *Y,
               size_t max_iterations, double stop_loss, double *loss, size_t *iterations)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    if (signs->size != m || X->size2 != d || Y->size1 != n || Y->size2 != d || W->tda != d) return GSL_EBADLEN;
    /* GSL wants at least as many residuals as parameters: residuals that are 0 whatever
     * W change neither the loss nor the damped normal equations. */
    const size_t parameters = m * d, residuals = n * d > parameters ? n * d : parameters;
    struct fit fit = { signs, X, Y, gsl_matrix_alloc(n, d), m, GSL_SUCCESS };
    gsl_multifit_nlinear_parameters options = gsl_multifit_nlinear_default_parameters();
    options.scale = gsl_multifit_nlinear_scale_levenberg;
    gsl_multifit_nlinear_workspace *work =
        gsl_multifit_nlinear_alloc(gsl_multifit_nlinear_trust, &options, residuals, parameters);
    gsl_multifit_nlinear_fdf fdf = { .f = fit_residual, .df = fit_jacobian, .n = residuals, .p = parameters,
                                     .params = &fit };
    gsl_vector_const_view start = gsl_vector_const_view_array(W->data, parameters);
    int status = GSL_ENOMEM;
    if (!fit.F || !work) goto done;
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
    status = fit.failed ? fit.failed : isfinite(norm) ? GSL_SUCCESS : GSL_EDOM;
done:
    gsl_multifit_nlinear_free(work);
    gsl_matrix_free(fit.F);
    return status;
}
