#include "prefix_ntk/prefix_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "theory/prefix_pass.h"

/* F = m sum / mass. */
static void outputs(const struct prefix_pass *p, gsl_matrix *F)
{
    for (size_t i = 0; i < p->num_samples; i++)
        for (size_t k = 0; k < p->dim; k++)
            gsl_matrix_set(F, i, k, (double)p->prefix_len * (p->sum[i * p->dim_pad + k] / p->mass[i]));
}

int prefix_model_forward(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                         gsl_matrix *F, int num_threads)
{
    if (signs->size != W->size1 || X->size2 != W->size2 || F->size1 != X->size1 || F->size2 != W->size2)
        return GSL_EBADLEN;
    struct prefix_pass *p = prefix_pass_alloc(signs, X, num_threads);
    if (!p) return GSL_ENOMEM;
    const int status = prefix_pass_sums(p, gsl_matrix_const_ptr(W, 0, 0), W->tda, NULL);
    if (!status) outputs(p, F);
    prefix_pass_free(p);
    return status;
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
    if (signs->size != m || X->size2 != d || dW->size1 != m || dW->size2 != d || Y->size1 != n
        || Y->size2 != d || (F && (F->size1 != n || F->size2 != d)))
        return GSL_EBADLEN;
    struct prefix_pass *p = prefix_pass_alloc(signs, X, num_threads);
    double *R = malloc(n * d * sizeof *R), *c = malloc(n * sizeof *c), *lse = malloc(n * sizeof *lse);
    int status = GSL_ENOMEM;
    if (!p || !R || !c || !lse) goto done;
    if ((status = prefix_pass_sums(p, gsl_matrix_const_ptr(W, 0, 0), W->tda, NULL))) goto done;
    if (F) outputs(p, F);
    double twice = 0.0;
    for (size_t i = 0; i < n; i++) {
        lse[i] = p->top[i] + log(p->mass[i]);
        c[i] = 0.0;
        for (size_t k = 0; k < d; k++) {
            const double mu = p->sum[i * p->dim_pad + k] / p->mass[i];
            const double residual = (double)m * mu - gsl_matrix_get(Y, i, k);
            R[i * d + k] = residual;
            c[i] += residual * mu;                          /* <R_i, mu_i> */
            twice += residual * residual;
        }
    }
    if (!isfinite(twice)) { status = GSL_EDOM; goto done; }
    if (loss) *loss = 0.5 * twice;
    prefix_pass_gradient(p, R, c, lse, gsl_matrix_const_ptr(W, 0, 0), W->tda, dW->data, dW->tda);
done:
    free(lse);
    free(c);
    free(R);
    prefix_pass_free(p);
    return status;
}
