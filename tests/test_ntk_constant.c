/* The predicted constant of the m^{-1/2} law against simulation and limits. */
#include "prefix_ntk/ntk.h"
#include "tests/support/check.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>
#include "common/random.h"
#include "common/stats.h"

enum { MAX_SIZE = 32 };

/* Inputs of length `length`: a variance of products of rho_i is only simulated
 * faithfully while sigma times that length is small. */
static gsl_matrix *draw(size_t n, size_t d, uint64_t row, double length)
{
    gsl_matrix *M = gsl_matrix_alloc(n, d);
    assert_non_null(M);
    random_normal(21, RANDOM_INPUTS, n, row, M->data, n * d);
    for (size_t i = 0; i < n; i++) {
        gsl_vector_view x = gsl_matrix_row(M, i);
        gsl_vector_scale(&x.vector, length / gsl_blas_dnrm2(&x.vector));
    }
    return M;
}

/* ||psi(w)||_F^2: the first-order change of the kernel one token makes, found without
 * formulas for it: the derivative of the kernel, as a function of the averages over
 * tokens it is made of, along (this token's contribution - the mean of all). The
 * averages are those of rho_i, of rho_i a w and of rho_i rho_j times the products of
 * (a, a w); the kernel is smooth in them, so a central difference serves. */
struct averages {
    double mass[8], first[8][4], pair[8][8], pair_w[8][8][4], pair_ww[8][8][4][4];
};

static void kernel_of(const struct averages *v, const gsl_matrix *X, int full, double abar, double *K)
{
    const size_t n = X->size1, d = X->size2;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double c = 0.0;
            for (size_t k = 0; k < d; k++) c += gsl_matrix_get(X, i, k) * gsl_matrix_get(X, j, k);
            const double scale = 1.0 / (v->mass[i] * v->mass[j]);
            for (size_t k = 0; k < d; k++)
                for (size_t l = 0; l < d; l++) {
                    const double mu_i = v->first[i][k] / v->mass[i], mu_j = v->first[j][l] / v->mass[j];
                    /* Averages of a^2, a (a w_l - mu_jl), ... ; a mu averages with abar. */
                    const double wl = v->pair_w[i][j][l] - abar * mu_j * v->pair[i][j];
                    const double wk = v->pair_w[i][j][k] - abar * mu_i * v->pair[i][j];
                    const double ww = v->pair_ww[i][j][k][l] - mu_i * abar * v->pair_w[i][j][l] -
                                      abar * v->pair_w[i][j][k] * mu_j + mu_i * mu_j * v->pair[i][j];
                    double value = c * ww;
                    if (full) value += (k == l ? v->pair[i][j] : 0.0) + wl * gsl_matrix_get(X, j, k) +
                                       wk * gsl_matrix_get(X, i, l);
                    K[(i * d + k) * n * d + j * d + l] = scale * value;
                }
        }
}

static void add_token(struct averages *v, const double *w, const gsl_matrix *X, double sigma, double abar,
                      double weight)
{
    const size_t n = X->size1, d = X->size2;
    double rho[8];
    for (size_t i = 0; i < n; i++) {
        double s = 0.0, norm2 = 0.0;
        for (size_t k = 0; k < d; k++) {
            s += w[k] * gsl_matrix_get(X, i, k);
            norm2 += gsl_matrix_get(X, i, k) * gsl_matrix_get(X, i, k);
        }
        rho[i] = exp(s - 0.5 * sigma * sigma * norm2);
    }
    for (size_t i = 0; i < n; i++) {
        v->mass[i] += weight * rho[i];
        /* Signs of mean 0: the token and its mirror image move mu_i oppositely; to
         * first order mu then multiplies averages that vanish. */
        for (size_t k = 0; k < d; k++) v->first[i][k] += weight * abar * rho[i] * w[k];
        for (size_t j = 0; j < n; j++) {
            const double p = weight * rho[i] * rho[j];
            v->pair[i][j] += p;
            for (size_t k = 0; k < d; k++) {
                v->pair_w[i][j][k] += p * w[k];
                for (size_t l = 0; l < d; l++) v->pair_ww[i][j][k][l] += p * w[k] * w[l];
            }
        }
    }
}

/* The averages at m = infinity: E rho_i rho_j g(w) = e^{sigma^2 c} E g(w + sigma^2 u). */
static void expected(struct averages *v, const gsl_matrix *X, double sigma, double abar)
{
    const size_t n = X->size1, d = X->size2;
    const double s2 = sigma * sigma;
    memset(v, 0, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        v->mass[i] = 1.0;
        for (size_t k = 0; k < d; k++) v->first[i][k] = abar * s2 * gsl_matrix_get(X, i, k);
        for (size_t j = 0; j < n; j++) {
            double c = 0.0, u[4];
            for (size_t k = 0; k < d; k++) {
                c += gsl_matrix_get(X, i, k) * gsl_matrix_get(X, j, k);
                u[k] = gsl_matrix_get(X, i, k) + gsl_matrix_get(X, j, k);
            }
            v->pair[i][j] = exp(s2 * c);
            for (size_t k = 0; k < d; k++) {
                v->pair_w[i][j][k] = exp(s2 * c) * s2 * u[k];
                for (size_t l = 0; l < d; l++)
                    v->pair_ww[i][j][k][l] = exp(s2 * c) * ((k == l ? s2 : 0.0) + s2 * s2 * u[k] * u[l]);
            }
        }
    }
}

static void test_simulation(void **state)
{
    (void)state;
    enum { TRIALS = 24, TOKENS = 6000 };
    const struct { size_t n, d; double sigma, length; } cases[] = { { 3, 2, 0.2, 0.8 }, { 2, 3, 0.2, 1.1 },
                                                                   { 1, 1, 0.25, 0.7 }, { 3, 2, 0.01, 0.8 } };
    static struct averages mean, plus, minus;
    static double up[MAX_SIZE * MAX_SIZE], down[MAX_SIZE * MAX_SIZE], K[MAX_SIZE * MAX_SIZE];
    for (size_t t = 0; t < sizeof cases / sizeof *cases; t++)
        for (int law = 0; law < 2; law++)
            for (int kernel = 0; kernel < 2; kernel++) {
                const size_t n = cases[t].n, d = cases[t].d, size = n * d * n * d;
                const double sigma = cases[t].sigma, abar = law == 1 ? 1.0 : 0.0;
                gsl_matrix *X = draw(n, d, t, cases[t].length);
                expected(&mean, X, sigma, abar);
                kernel_of(&mean, X, kernel == 0, abar, K);
                double norm2 = 0.0, trial[TRIALS];
                for (size_t q = 0; q < size; q++) norm2 += K[q] * K[q];
                for (size_t r = 0; r < TRIALS; r++) {
                    trial[r] = 0.0;
                    for (size_t k = 0; k < TOKENS; k++) {
                        double w[4];
                        const double h = 1e-4;           /* mean + h (token - mean) */
                        random_normal(22, RANDOM_PREFIX, r, k, w, d);
                        for (size_t q = 0; q < d; q++) w[q] *= sigma;
                        const double *m = (const double *)&mean;
                        double *p = (double *)&plus, *o = (double *)&minus;
                        for (size_t q = 0; q < sizeof mean / sizeof *m; q++) { p[q] = (1.0 - h) * m[q]; o[q] = (1.0
                            + h) * m[q]; }
                        add_token(&plus, w, X, sigma, abar, h);
                        add_token(&minus, w, X, sigma, abar, -h);
                        kernel_of(&plus, X, kernel == 0, abar, up);
                        kernel_of(&minus, X, kernel == 0, abar, down);
                        for (size_t q = 0; q < size; q++) {
                            const double psi = (up[q] - down[q]) / (2.0 * h);
                            trial[r] += psi * psi;
                        }
                    }
                    trial[r] /= TOKENS * norm2;
                }
                struct interval mc;
                assert_int_equal(stats_mean(trial, TRIALS, 0.999, &mc), GSL_SUCCESS);
                double C, mirrored;
                assert_int_equal(ntk_error_constant(X, sigma, law ? PREFIX_SIGNS_POSITIVE : PREFIX_SIGNS_RANDOM,
                                                    kernel ? NTK_KEY : NTK_FULL, &C, NULL), GSL_SUCCESS);
                CHECK_LESS(mc.lo, C * C);
                CHECK_LESS(C * C, mc.hi);
                CHECK_LESS(mc.hi / mc.lo, 1.4);           /* the interval is worth something */
                if (!law) {
                    assert_int_equal(ntk_error_constant(X, sigma, PREFIX_SIGNS_MIRRORED, kernel ? NTK_KEY : NTK_FULL,
                                                        &mirrored, NULL), GSL_SUCCESS);
                    CHECK_CLOSE(mirrored, sqrt(2.0) * C, 1e-14, 0.0);
                }
                gsl_matrix_free(X);
            }
}

/* sigma -> 0: the token's contribution is linear in w for the full kernel with random
 * signs, so C / sigma tends to a number and no digits cancel on the way; for the key
 * kernel it is the relative spread of w w', sqrt((d^2 + d) / d). */
static void test_small_sigma(void **state)
{
    (void)state;
    gsl_matrix *X = draw(4, 3, 9, 0.9);
    double coarse, fine, key;
    assert_int_equal(ntk_error_constant(X, 1e-4, PREFIX_SIGNS_RANDOM, NTK_FULL, &coarse, NULL), GSL_SUCCESS);
    assert_int_equal(ntk_error_constant(X, 1e-9, PREFIX_SIGNS_RANDOM, NTK_FULL, &fine, NULL), GSL_SUCCESS);
    CHECK_CLOSE(fine / 1e-9, coarse / 1e-4, 1e-6, 0.0);
    assert_int_equal(ntk_error_constant(X, 1e-9, PREFIX_SIGNS_RANDOM, NTK_KEY, &key, NULL), GSL_SUCCESS);
    CHECK_CLOSE(key, sqrt((9.0 + 3.0) / 3.0), 1e-9, 0.0);
    gsl_matrix_free(X);
}

/* A rotation of all inputs changes nothing; nor does the order of the samples. */
static void test_invariance(void **state)
{
    (void)state;
    gsl_matrix *X = draw(3, 2, 10, 0.8), *Y = gsl_matrix_alloc(3, 2);
    for (size_t i = 0; i < 3; i++) {
        const double x = gsl_matrix_get(X, i, 0), y = gsl_matrix_get(X, i, 1);
        gsl_matrix_set(Y, 2 - i, 0, cos(0.7) * x - sin(0.7) * y);
        gsl_matrix_set(Y, 2 - i, 1, sin(0.7) * x + cos(0.7) * y);
    }
    for (int law = 0; law < 3; law++)
        for (int kernel = 0; kernel < 2; kernel++) {
            double a, b, m1, m2;
            assert_int_equal(ntk_error_constant(X, 0.8, (enum prefix_signs)law, (enum ntk_kernel)kernel, &a, &m1),
                             GSL_SUCCESS);
            assert_int_equal(ntk_error_constant(Y, 0.8, (enum prefix_signs)law, (enum ntk_kernel)kernel, &b, &m2),
                             GSL_SUCCESS);
            CHECK_CLOSE(b, a, 1e-12, 0.0);
            CHECK_CLOSE(m2, m1, 1e-12, 0.0);
        }
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
}

static void test_refusals(void **state)
{
    (void)state;
    gsl_matrix *X = draw(2, 3, 11, 1.0), *zero = gsl_matrix_calloc(2, 3);
    double C;
    assert_int_equal(ntk_error_constant(X, 0.0, PREFIX_SIGNS_RANDOM, NTK_FULL, &C, NULL), GSL_EDOM);
    assert_int_equal(ntk_error_constant(X, NAN, PREFIX_SIGNS_RANDOM, NTK_FULL, &C, NULL), GSL_EDOM);
    assert_int_equal(ntk_error_constant(X, 12.0, PREFIX_SIGNS_RANDOM, NTK_FULL, &C, NULL), GSL_EOVRFLW);
    /* Inputs of length 0: the key kernel vanishes, the full one does not. */
    assert_int_equal(ntk_error_constant(zero, 0.5, PREFIX_SIGNS_RANDOM, NTK_KEY, &C, NULL), GSL_EDOM);
    assert_int_equal(ntk_error_constant(zero, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, &C, NULL), GSL_SUCCESS);
    CHECK_CLOSE(C, 0.0, 0.0, 1e-15);
    gsl_matrix_set(X, 0, 2, INFINITY);
    assert_int_equal(ntk_error_constant(X, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, &C, NULL), GSL_EDOM);
    gsl_matrix_free(zero);
    gsl_matrix_free(X);
}

int main(void)
{
    gsl_set_error_handler_off();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simulation), cmocka_unit_test(test_small_sigma),
        cmocka_unit_test(test_invariance), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
