/* The infinite-prefix predictor against an independent solve, and singular kernels. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include "common/random.h"
#include "prefix_ntk/ntk_predict.h"
#include "tests/support/check.h"

#define RTOL_SOLVE 1e-8      /* times the condition number where that dominates */

static void draw(gsl_matrix *M, enum random_purpose purpose, uint64_t trial, double scale)
{
    random_normal(17, purpose, trial, 0, M->data, M->size1 * M->size2);
    gsl_matrix_scale(M, scale);
}

/* alpha = K^{-1} b by GSL's LU: no code in common with the predictor's Cholesky. */
static void predict_ref(const gsl_matrix *X, const gsl_matrix *Y, const gsl_matrix *X_at, double sigma,
                        enum ntk_kernel kernel, gsl_matrix *F)
{
    const size_t nd = X->size1 * X->size2, n_at_d = X_at->size1 * X->size2;
    gsl_matrix *K = gsl_matrix_alloc(nd, nd), *K_at = gsl_matrix_alloc(n_at_d, nd);
    gsl_vector *alpha = gsl_vector_alloc(nd);
    gsl_permutation *order = gsl_permutation_alloc(nd);
    int sign;
    ntk_limit(X, X, sigma, PREFIX_SIGNS_RANDOM, kernel, K);
    ntk_limit(X_at, X, sigma, PREFIX_SIGNS_RANDOM, kernel, K_at);
    gsl_vector_const_view y = gsl_vector_const_view_array(Y->data, nd);
    gsl_linalg_LU_decomp(K, order, &sign);
    gsl_linalg_LU_solve(K, order, &y.vector, alpha);
    gsl_vector_view f = gsl_vector_view_array(F->data, n_at_d);
    gsl_blas_dgemv(CblasNoTrans, 1.0, K_at, alpha, 0.0, &f.vector);
    gsl_matrix_free(K);
    gsl_matrix_free(K_at);
    gsl_vector_free(alpha);
    gsl_permutation_free(order);
}

static void test_against_lu(void **state)
{
    (void)state;
    static const size_t shapes[][3] = { { 1, 1, 3 }, { 4, 7, 2 }, { 9, 3, 5 }, { 13, 6, 8 } };   /* n, n_at, d */
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int kernel = NTK_FULL; kernel <= NTK_KEY; kernel++) {
            const size_t n = shapes[s][0], n_at = shapes[s][1], d = shapes[s][2];
            gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *X_at = gsl_matrix_alloc(n_at, d);
            gsl_matrix *F = gsl_matrix_alloc(n_at, d), *want = gsl_matrix_alloc(n_at, d);
            struct ntk_solve_report report;
            draw(X, RANDOM_INPUTS, s, 0.8);
            draw(Y, RANDOM_TARGETS, s, 1.3);
            draw(X_at, RANDOM_INPUTS, 100 + s, 0.8);
            assert_int_equal(ntk_predict(X, Y, X_at, 0.7, PREFIX_SIGNS_RANDOM, (enum ntk_kernel)kernel, NULL, NULL, F,
                                         &report), GSL_SUCCESS);
            assert_int_equal(report.rank, n * d);
            predict_ref(X, Y, X_at, 0.7, (enum ntk_kernel)kernel, want);
            CHECK_MATRIX_CLOSE(F, want, fmax(RTOL_SOLVE, DBL_EPSILON / report.rcond));
            CHECK_LESS(DBL_EPSILON / report.rcond, RTOL_SOLVE * 10.0);
            gsl_matrix *planted = gsl_matrix_alloc(n_at, d);
            gsl_matrix_memcpy(planted, want);
            gsl_matrix_scale(planted, 1.0 + 1e-6);
            assert_false(relative_error(planted, want) <= RTOL_SOLVE);
            gsl_matrix_free(planted);
            gsl_matrix_free(X);
            gsl_matrix_free(Y);
            gsl_matrix_free(X_at);
            gsl_matrix_free(F);
            gsl_matrix_free(want);
        }
}

/* Law: on its own inputs the predictor returns the targets; F_0 is added and subtracted. */
static void test_interpolates(void **state)
{
    (void)state;
    gsl_matrix *X = gsl_matrix_alloc(6, 4), *Y = gsl_matrix_alloc(6, 4), *F0 = gsl_matrix_alloc(6, 4);
    gsl_matrix *F = gsl_matrix_alloc(6, 4), *difference = gsl_matrix_alloc(6, 4), *shifted = gsl_matrix_alloc(6, 4);
    gsl_matrix *X_at = gsl_matrix_alloc(6, 4), *F0_at = gsl_matrix_alloc(6, 4);
    draw(X, RANDOM_INPUTS, 7, 0.9);
    draw(Y, RANDOM_TARGETS, 7, 1.1);
    draw(F0, RANDOM_OTHER, 7, 5.0);
    draw(X_at, RANDOM_INPUTS, 8, 0.9);
    draw(F0_at, RANDOM_OTHER, 8, 5.0);
    assert_int_equal(ntk_predict(X, Y, X, 0.6, PREFIX_SIGNS_RANDOM, NTK_FULL, F0, F0, F, NULL), GSL_SUCCESS);
    CHECK_MATRIX_CLOSE(F, Y, RTOL_SOLVE);
    gsl_matrix_memcpy(difference, Y);
    gsl_matrix_sub(difference, F0);
    assert_int_equal(ntk_predict(X, difference, X_at, 0.6, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, shifted, NULL),
                     GSL_SUCCESS);
    gsl_matrix_add(shifted, F0_at);
    assert_int_equal(ntk_predict(X, Y, X_at, 0.6, PREFIX_SIGNS_RANDOM, NTK_FULL, F0, F0_at, F, NULL), GSL_SUCCESS);
    CHECK_MATRIX_CLOSE(F, shifted, 1e-12);
    assert_int_equal(ntk_predict(X, Y, X_at, 0.6, PREFIX_SIGNS_RANDOM, NTK_FULL, F0, NULL, F, NULL), GSL_EBADLEN);
    gsl_matrix *wrong = gsl_matrix_alloc(2, 4);
    assert_int_equal(ntk_predict(X, Y, X_at, 0.6, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, wrong, NULL), GSL_EBADLEN);
    gsl_matrix_free(wrong);
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
    gsl_matrix_free(F0);
    gsl_matrix_free(F);
    gsl_matrix_free(difference);
    gsl_matrix_free(shifted);
    gsl_matrix_free(X_at);
    gsl_matrix_free(F0_at);
}

/* A repeated input makes K* singular of known rank: the pseudo-inverse predicts what the
 * samples without the repetition predict when the two targets agree, and their mean
 * when they do not. An input of 0 makes H*, not K*, singular. */
static void test_singular(void **state)
{
    (void)state;
    const size_t n = 5, d = 3;
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *X_at = gsl_matrix_alloc(4, d);
    gsl_matrix *F = gsl_matrix_alloc(4, d), *want = gsl_matrix_alloc(4, d), *merged = gsl_matrix_alloc(n - 1, d);
    struct ntk_solve_report report;
    draw(X, RANDOM_INPUTS, 1, 0.9);
    draw(Y, RANDOM_TARGETS, 1, 1.0);
    draw(X_at, RANDOM_INPUTS, 2, 0.9);
    for (size_t k = 0; k < d; k++) gsl_matrix_set(X, n - 1, k, gsl_matrix_get(X, 1, k));
    gsl_matrix_view first = gsl_matrix_submatrix(X, 0, 0, n - 1, d), targets = gsl_matrix_submatrix(Y, 0, 0, n - 1, d);
    gsl_matrix_memcpy(merged, &targets.matrix);
    for (size_t k = 0; k < d; k++)
        gsl_matrix_set(merged, 1, k, 0.5 * (gsl_matrix_get(Y, 1, k) + gsl_matrix_get(Y, n - 1, k)));
    assert_int_equal(ntk_predict(X, Y, X_at, 0.7, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, F, &report), GSL_SUCCESS);
    assert_int_equal(report.size, n * d);
    assert_int_equal(report.rank, (n - 1) * d);
    assert_int_equal(ntk_predict(&first.matrix, merged, X_at, 0.7, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, want,
                                 &report), GSL_SUCCESS);
    assert_int_equal(report.rank, (n - 1) * d);
    CHECK_MATRIX_CLOSE(F, want, RTOL_SOLVE);
    gsl_vector_view zero = gsl_matrix_row(X, n - 1);
    gsl_vector_set_zero(&zero.vector);
    assert_int_equal(ntk_predict(X, Y, X_at, 0.7, PREFIX_SIGNS_RANDOM, NTK_KEY, NULL, NULL, F, &report), GSL_SUCCESS);
    assert_int_equal(report.rank, (n - 1) * d);
    assert_int_equal(ntk_predict(X, Y, X_at, 0.7, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, F, &report), GSL_SUCCESS);
    assert_int_equal(report.rank, n * d);
    gsl_matrix_set(X, 0, 0, NAN);
    assert_int_equal(ntk_predict(X, Y, X_at, 0.7, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, F, &report), GSL_EDOM);
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
    gsl_matrix_free(X_at);
    gsl_matrix_free(F);
    gsl_matrix_free(want);
    gsl_matrix_free(merged);
}

/* Samples of norms 1 to 14: K* has entries over twenty orders of magnitude and, scaled, a condition
 * number of a few hundred. The predictor returns its targets. */
static void test_norms_far_apart(void **state)
{
    (void)state;
    const size_t n = 8, d = 4;
    gsl_matrix *X = gsl_matrix_alloc(n, d), *Y = gsl_matrix_alloc(n, d), *F = gsl_matrix_alloc(n, d);
    struct ntk_solve_report report;
    draw(X, RANDOM_INPUTS, 3, 1.0);
    draw(Y, RANDOM_TARGETS, 3, 1.0);
    for (size_t i = 0; i < n; i++) {
        gsl_vector_view x = gsl_matrix_row(X, i);
        gsl_vector_scale(&x.vector, (1.0 + 13.0 * (double)i / (double)(n - 1)) / gsl_blas_dnrm2(&x.vector));
    }
    assert_int_equal(ntk_predict(X, Y, X, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, NULL, NULL, F, &report), GSL_SUCCESS);
    assert_int_equal(report.rank, n * d);
    CHECK_LESS(1.0 / report.rcond, 1e6);
    CHECK_LESS(report.residual, RTOL_SOLVE);
    CHECK_MATRIX_CLOSE(F, Y, RTOL_SOLVE);
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
    gsl_matrix_free(F);
}

/* Law: K alpha = B for the Hilbert matrix, whose condition number is beyond 1 / DBL_EPSILON, and B in
 * its range: what is left is rounding. */
static void test_hilbert(void **state)
{
    (void)state;
    const size_t n = 14;
    gsl_matrix *K = gsl_matrix_alloc(n, n), *ones = gsl_matrix_alloc(n, 1), *B = gsl_matrix_alloc(n, 1);
    struct ntk_solve_report report;
    gsl_matrix_set_all(ones, 0.7);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) gsl_matrix_set(K, i, j, 1.0 / (double)(i + j + 1));
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, K, ones, 0.0, B);
    assert_int_equal(ntk_solve(K, B, B, &report), GSL_SUCCESS);
    CHECK_LESS(report.rcond, 1e-15);
    CHECK_LESS(report.residual, RTOL_SOLVE);
    gsl_matrix_free(K);
    gsl_matrix_free(ones);
    gsl_matrix_free(B);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_lu),
        cmocka_unit_test(test_interpolates),
        cmocka_unit_test(test_singular),
        cmocka_unit_test(test_norms_far_apart),
        cmocka_unit_test(test_hilbert),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests_name("ntk_predict", tests, NULL, NULL);
}
