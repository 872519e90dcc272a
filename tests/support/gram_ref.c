#include "tests/support/gram_ref.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "tests/support/check.h"

void jacobian_ref(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                  enum ntk_kernel kernel, long double *J)
{
    const size_t m = W->size1, d = W->size2, n = X->size1;
    long double *S = malloc(m * sizeof *S), *mu = malloc(d * sizeof *mu);
    assert_true(S && mu);
    for (size_t i = 0; i < n; i++) {
        long double top = -INFINITY, mass = 0.0L;
        for (size_t r = 0; r < m; r++) {
            S[r] = 0.0L;
            for (size_t c = 0; c < d; c++) S[r] += (long double)gsl_matrix_get(W, r, c) * gsl_matrix_get(X, i, c);
            top = fmaxl(top, S[r]);
        }
        for (size_t r = 0; r < m; r++) mass += expl(S[r] - top);
        for (size_t r = 0; r < m; r++) S[r] = expl(S[r] - top) / mass;
        for (size_t c = 0; c < d; c++) {
            mu[c] = 0.0L;
            for (size_t r = 0; r < m; r++) mu[c] += gsl_vector_get(signs, r) * S[r] * gsl_matrix_get(W, r, c);
        }
        for (size_t k = 0; k < d; k++)
            for (size_t r = 0; r < m; r++)
                for (size_t c = 0; c < d; c++) {
                    const long double a = gsl_vector_get(signs, r);
                    const long double key = (a * gsl_matrix_get(W, r, k) - mu[k]) * gsl_matrix_get(X, i, c);
                    const long double value = kernel == NTK_FULL && c == k ? a : 0.0L;
                    J[((i * d + k) * m + r) * d + c] = (long double)m * S[r] * (value + key);
                }
    }
    free(S);
    free(mu);
}

gsl_matrix *gram_ref(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                     enum ntk_kernel kernel)
{
    const size_t m = W->size1, d = W->size2, nd = X->size1 * d;
    long double *J = malloc(nd * m * d * sizeof *J);
    gsl_matrix *gram = gsl_matrix_alloc(nd, nd);
    assert_true(J && gram);
    jacobian_ref(W, signs, X, kernel, J);
    for (size_t u = 0; u < nd; u++)
        for (size_t v = 0; v < nd; v++) {
            long double sum = 0.0L;
            for (size_t r = 0; r < m * d; r++) sum += J[u * m * d + r] * J[v * m * d + r];
            gsl_matrix_set(gram, u, v, (double)(sum / (long double)m));
        }
    free(J);
    return gram;
}

struct gram_case gram_case_make(size_t n, size_t d, size_t m, enum prefix_signs law, double sigma,
                                uint64_t trial)
{
    struct gram_case c = { n, d, m, gsl_matrix_alloc(n, d), gsl_matrix_alloc(m, d),
                           gsl_matrix_alloc(n * d, n * d), gsl_vector_alloc(m) };
    assert_true(c.X && c.W && c.gram && c.signs);
    for (size_t i = 0; i < n; i++) random_normal(5, RANDOM_INPUTS, trial, i, gsl_matrix_ptr(c.X, i, 0), d);
    gsl_matrix_scale(c.X, 1.0 / sqrt((double)d));
    assert_int_equal(prefix_draw(5, trial, law, sigma, c.W, c.signs, 1), GSL_SUCCESS);
    return c;
}

void gram_case_free(struct gram_case *c)
{
    gsl_matrix_free(c->X);
    gsl_matrix_free(c->W);
    gsl_matrix_free(c->gram);
    gsl_vector_free(c->signs);
}
