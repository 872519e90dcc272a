/* Eigenvalues of symmetric matrices. */
#include "prefix_ntk/ntk.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_math.h>
#include <math.h>
#include "common/random.h"

/* The second difference on n points has eigenvalues 2 - 2 cos(pi j / (n + 1)). */
static void test_known_spectrum(void **state)
{
    (void)state;
    const size_t sizes[] = { 1, 2, 7, 64, 131 };
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; t++) {
        const size_t n = sizes[t];
        gsl_matrix *A = gsl_matrix_calloc(n, n);
        gsl_vector *got = gsl_vector_alloc(n), *want = gsl_vector_alloc(n);
        for (size_t i = 0; i < n; i++) {
            gsl_matrix_set(A, i, i, 2.0);
            if (i) gsl_matrix_set(A, i, i - 1, -1.0);
            if (i) gsl_matrix_set(A, i - 1, i, -1.0);
            gsl_vector_set(want, i, 2.0 - 2.0 * cos(M_PI * (double)(i + 1) / (double)(n + 1)));
        }
        assert_int_equal(ntk_eigenvalues(A, got), GSL_SUCCESS);
        CHECK_ALL_CLOSE(got->data, want->data, n, 0.0, 1e-15 * (double)(4 * n));
        double lambda;
        assert_int_equal(ntk_lambda_min(A, &lambda), GSL_SUCCESS);
        assert_true(lambda == gsl_vector_get(got, 0));
        gsl_vector_free(want);
        gsl_vector_free(got);
        gsl_matrix_free(A);
    }
}

/* Sums of eigenvalues and of their squares are the trace and the Frobenius norm; a
 * view into a larger matrix (tda > size2) is read correctly and left as it was. */
static void test_trace_and_norm(void **state)
{
    (void)state;
    enum { N = 23, WIDE = 31 };
    gsl_matrix *big = gsl_matrix_alloc(N, WIDE);
    random_normal(31, RANDOM_OTHER, 0, 0, big->data, N * WIDE);
    gsl_matrix_view view = gsl_matrix_submatrix(big, 0, 5, N, N);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < i; j++) gsl_matrix_set(&view.matrix, i, j, gsl_matrix_get(&view.matrix, j, i));
    gsl_matrix *copy = gsl_matrix_alloc(N, WIDE);
    gsl_matrix_memcpy(copy, big);
    gsl_vector *w = gsl_vector_alloc(N);
    assert_int_equal(ntk_eigenvalues(&view.matrix, w), GSL_SUCCESS);
    double trace = 0.0, norm2 = 0.0, sum = 0.0, sum2 = 0.0;
    for (size_t i = 0; i < N; i++) {
        trace += gsl_matrix_get(&view.matrix, i, i);
        for (size_t j = 0; j < N; j++) norm2 += gsl_pow_2(gsl_matrix_get(&view.matrix, i, j));
        sum += gsl_vector_get(w, i);
        sum2 += gsl_pow_2(gsl_vector_get(w, i));
        if (i) CHECK_LESS(gsl_vector_get(w, i - 1), gsl_vector_get(w, i));
    }
    CHECK_CLOSE(sum, trace, 0.0, 1e-12);
    CHECK_CLOSE(sum2, norm2, 1e-12, 0.0);
    CHECK_SAME_BITS(big->data, copy->data, N * WIDE);
    gsl_vector_free(w);
    gsl_matrix_free(copy);
    gsl_matrix_free(big);
}

static void test_refusals(void **state)
{
    (void)state;
    gsl_matrix *A = gsl_matrix_calloc(3, 3), *wide = gsl_matrix_calloc(3, 4);
    gsl_vector *w = gsl_vector_alloc(3), *shorter = gsl_vector_alloc(2);
    double lambda;
    assert_int_equal(ntk_eigenvalues(wide, w), GSL_EBADLEN);
    assert_int_equal(ntk_eigenvalues(A, shorter), GSL_EBADLEN);
    gsl_matrix_set(A, 2, 1, NAN);
    assert_int_equal(ntk_eigenvalues(A, w), GSL_EDOM);
    assert_int_equal(ntk_lambda_min(A, &lambda), GSL_EDOM);
    gsl_vector_free(shorter);
    gsl_vector_free(w);
    gsl_matrix_free(wide);
    gsl_matrix_free(A);
}

int main(void)
{
    gsl_set_error_handler_off();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_spectrum), cmocka_unit_test(test_trace_and_norm),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
