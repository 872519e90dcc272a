/* Eigenvalues of symmetric matrices. */
#include "prefix_ntk/ntk.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_math.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
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
        CHECK_CLOSE(lambda, gsl_vector_get(want, 0), 0.0, 1e-15 * (double)(4 * n));
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

/* A = Q D Q' of known eigenvalues, Q a product of reflections; both triangles the same. */
static gsl_matrix *with_eigenvalues(const double *values, size_t n, size_t tda)
{
    gsl_matrix *whole = gsl_matrix_calloc(n, tda);
    double *v = malloc(n * sizeof *v), *Av = malloc(n * sizeof *Av);
    assert_true(whole && v && Av);
    for (size_t i = 0; i < n; i++) gsl_matrix_set(whole, i, i, values[i]);
    for (uint64_t round = 0; round < 3; round++) {
        double square = 0.0, along = 0.0;
        random_normal(32, RANDOM_OTHER, round, 0, v, n);
        for (size_t i = 0; i < n; i++) square += v[i] * v[i];
        for (size_t i = 0; i < n; i++) {
            Av[i] = 0.0;
            for (size_t j = 0; j < n; j++) Av[i] += gsl_matrix_get(whole, i, j) * v[j];
            along += Av[i] * v[i];
        }
        /* (I - 2 v v'/v'v) A (I - 2 v v'/v'v) */
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++) {
                const double x = gsl_matrix_get(whole, i, j) - 2.0 / square * (Av[i] * v[j] + v[i] * Av[j])
                                 + 4.0 * along / square / square * v[i] * v[j];
                gsl_matrix_set(whole, i, j, x);
                gsl_matrix_set(whole, j, i, x);
            }
    }
    free(Av);
    free(v);
    return whole;
}

/* The smallest eigenvalue of spread, clustered, repeated, tiny, negative and zero spectra of every
 * driver's order is that of all of them, by any number of threads, in a matrix with padding. */
static void test_smallest_alone(void **state)
{
    (void)state;
    const size_t sizes[] = { 5, 65, 150, 600, 1100 };
    static const char *const kinds[] = { "spread", "cluster", "equal", "tiny", "zero", "negative" };
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; t++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            const size_t n = sizes[t];
            double *values = malloc(n * sizeof *values), lambda[3];
            assert_non_null(values);
            for (size_t i = 0; i < n; i++) values[i] = 0.7 + 1.3 * (double)i / (double)n;
            if (kind == 1) for (size_t i = 0; i < n; i++) values[i] = i < 4 ? 0.3 + 1e-9 * (double)i : 1.7;
            if (kind == 2) for (size_t i = 0; i < n; i++) values[i] = 1.3;
            if (kind >= 3) values[n / 2] = kind == 3 ? 1e-11 : kind == 4 ? 0.0 : -0.2;
            double least = values[0];
            for (size_t i = 0; i < n; i++) least = fmin(least, values[i]);
            gsl_matrix *A = with_eigenvalues(values, n, n + 3);
            gsl_matrix_view part = gsl_matrix_submatrix(A, 0, 0, n, n);
            gsl_vector *all = gsl_vector_alloc(n);
            assert_int_equal(ntk_eigenvalues(&part.matrix, all), GSL_SUCCESS);
            assert_int_equal(ntk_lambda_min(&part.matrix, &lambda[0]), GSL_SUCCESS);
            const double rounding = (double)n * DBL_EPSILON * 4.0;
            CHECK_CLOSE(gsl_vector_get(all, 0), least, 0.0, rounding);
            CHECK_CLOSE(lambda[0], least, 0.0, rounding);
            for (int threads = 1; threads <= 3; threads += 2) {
                gsl_matrix *copy = gsl_matrix_alloc(n, n + 1);
                gsl_matrix_view inside = gsl_matrix_submatrix(copy, 0, 0, n, n);
                gsl_matrix_memcpy(&inside.matrix, &part.matrix);
                assert_int_equal(ntk_lambda_min_in_place(&inside.matrix, threads, &lambda[(threads + 1) / 2]),
                                 GSL_SUCCESS);
                gsl_matrix_free(copy);
            }
            CHECK_SAME_BITS(&lambda[1], &lambda[0], 1);
            CHECK_SAME_BITS(&lambda[2], &lambda[0], 1);
            gsl_vector_free(all);
            gsl_matrix_free(A);
            free(values);
        }
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
    assert_int_equal(ntk_lambda_min_in_place(A, 1, &lambda), GSL_EDOM);
    assert_int_equal(ntk_lambda_min(wide, &lambda), GSL_EBADLEN);
    assert_int_equal(ntk_lambda_min_in_place(wide, 1, &lambda), GSL_EBADLEN);
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
            cmocka_unit_test(test_smallest_alone),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
