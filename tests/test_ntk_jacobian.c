/* The Jacobian of a short prefix, its Gram matrix, its rank. */
#include "prefix_ntk/ntk.h"
#include "tests/support/check.h"

#include <float.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include "common/random.h"

static const double RTOL_FINITE_DIFF = 1e-8, RTOL_ROUNDOFF = 1e-13;

struct instance { gsl_matrix *W, *X, *J; gsl_vector *signs; };

static struct instance make(size_t n, size_t d, size_t m, enum prefix_signs law, uint64_t trial)
{
    struct instance s = { gsl_matrix_alloc(m, d), gsl_matrix_alloc(n, d), gsl_matrix_alloc(n * d, m * d),
                          gsl_vector_alloc(m) };
    assert_true(s.W && s.X && s.J && s.signs);
    random_normal(61, RANDOM_INPUTS, trial, 0, s.X->data, n * d);
    assert_int_equal(prefix_draw(61, trial, law, 0.9, s.W, s.signs, 1), GSL_SUCCESS);
    return s;
}

static void drop(struct instance s)
{
    gsl_matrix_free(s.W);
    gsl_matrix_free(s.X);
    gsl_matrix_free(s.J);
    gsl_vector_free(s.signs);
}

/* Column r d + q is the central difference of the model's output in w_rq. */
static void test_finite_differences(void **state)
{
    (void)state;
    const struct { size_t n, d, m; } cases[] = { { 3, 2, 5 }, { 1, 4, 6 }, { 4, 1, 3 }, { 2, 3, 1 } };
    const double h = cbrt(DBL_EPSILON);
    for (size_t t = 0; t < sizeof cases / sizeof *cases; t++)
        for (int law = 0; law < 2; law++) {
            const size_t n = cases[t].n, d = cases[t].d, m = cases[t].m;
            struct instance s = make(n, d, m, law ? PREFIX_SIGNS_POSITIVE : PREFIX_SIGNS_RANDOM, t);
            gsl_matrix *up = gsl_matrix_alloc(n, d), *down = gsl_matrix_alloc(n, d),
                *want = gsl_matrix_alloc(n * d, m * d);
            for (size_t p = 0; p < m * d; p++) {
                double *w = gsl_matrix_ptr(s.W, p / d, p % d);
                const double at = *w;
                *w = at + h;
                assert_int_equal(prefix_model_forward(s.W, s.signs, s.X, up, 1), GSL_SUCCESS);
                *w = at - h;
                assert_int_equal(prefix_model_forward(s.W, s.signs, s.X, down, 1), GSL_SUCCESS);
                *w = at;
                for (size_t i = 0; i < n; i++)
                    for (size_t k = 0; k < d; k++)
                        gsl_matrix_set(want, i * d + k, p,
                                       (gsl_matrix_get(up, i, k) - gsl_matrix_get(down, i, k)) / (2.0 * h));
            }
            assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, NTK_FULL, s.J), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(s.J, want, RTOL_FINITE_DIFF);
            if (m > 1) {                                    /* without the value path it is another matrix */
                assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, NTK_KEY, s.J), GSL_SUCCESS);
                assert_false(relative_error(s.J, want) < 0.01);
            }
            gsl_matrix_free(want);
            gsl_matrix_free(down);
            gsl_matrix_free(up);
            drop(s);
        }
}

/* (1/m) J J' is the kernel, by either route to it. */
static void test_gram(void **state)
{
    (void)state;
    for (int law = 0; law < 3; law++)
        for (int kernel = 0; kernel < 2; kernel++) {
            struct instance s = make(4, 3, 22, (enum prefix_signs)law, 9);
            gsl_matrix *want = gsl_matrix_alloc(12, 12), *got = gsl_matrix_alloc(12, 12);
            assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, (enum ntk_kernel)kernel, s.J), GSL_SUCCESS);
            gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0 / 22.0, s.J, s.J, 0.0, want);
            assert_int_equal(ntk_gram(s.W, s.signs, s.X, (enum ntk_kernel)kernel, got, 2), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(got, want, RTOL_ROUNDOFF);
            assert_int_equal(ntk_gram_syrk(s.W, s.signs, s.X, (enum ntk_kernel)kernel, got, 2), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(got, want, RTOL_ROUNDOFF);
            gsl_matrix_free(got);
            gsl_matrix_free(want);
            drop(s);
        }
}

static size_t rank_of(const gsl_matrix *J)
{
    const size_t count = J->size1 < J->size2 ? J->size1 : J->size2;
    gsl_vector *s = gsl_vector_alloc(count);
    assert_int_equal(ntk_singular_values(J, s), GSL_SUCCESS);
    size_t rank = 0;
    while (rank < count && gsl_vector_get(s, rank) > 1e-10 * fmax(gsl_vector_get(s, 0), 1.0)) rank++;
    gsl_vector_free(s);
    return rank;
}

/* rank K = d min(n, m), rank H = min(n, d) min(m - 1, max(n, d)); m/2 with mirrored signs. */
static void test_ranks(void **state)
{
    (void)state;
    const struct { size_t n, d, m, full, key, mirrored_full, mirrored_key; } cases[] = {
        { 5, 2, 4, 8, 6, 4, 4 }, { 3, 4, 6, 12, 12, 12, 9 }, { 2, 5, 4, 10, 6, 10, 4 }, { 6, 3, 10, 18, 18, 15, 15 } };
    for (size_t t = 0; t < sizeof cases / sizeof *cases; t++) {
        struct instance s = make(cases[t].n, cases[t].d, cases[t].m, PREFIX_SIGNS_RANDOM, 20 + t);
        struct instance q = make(cases[t].n, cases[t].d, cases[t].m, PREFIX_SIGNS_MIRRORED, 20 + t);
        assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, NTK_FULL, s.J), GSL_SUCCESS);
        assert_int_equal(rank_of(s.J), cases[t].full);
        assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, NTK_KEY, s.J), GSL_SUCCESS);
        assert_int_equal(rank_of(s.J), cases[t].key);
        assert_int_equal(ntk_jacobian(q.W, q.signs, q.X, NTK_FULL, q.J), GSL_SUCCESS);
        assert_int_equal(rank_of(q.J), cases[t].mirrored_full);
        assert_int_equal(ntk_jacobian(q.W, q.signs, q.X, NTK_KEY, q.J), GSL_SUCCESS);
        assert_int_equal(rank_of(q.J), cases[t].mirrored_key);
        drop(q);
        drop(s);
    }
}

/* Singular values of a product of known factors: A = diag(3, 0.7, 1e-3) rotated on either side. */
static void test_singular_values(void **state)
{
    (void)state;
    gsl_matrix *A = gsl_matrix_calloc(3, 5);
    const double want[] = { 3.0, 0.7, 1e-3 };
    for (size_t k = 0; k < 3; k++) gsl_matrix_set(A, k, k, want[2 - k]);
    for (size_t k = 0; k + 1 < 3; k++) {
        gsl_vector_view a = gsl_matrix_row(A, k), b = gsl_matrix_row(A, k + 1);
        gsl_blas_drot(&a.vector, &b.vector, 0.6, 0.8);
    }
    for (size_t k = 0; k + 1 < 5; k++) {
        gsl_vector_view a = gsl_matrix_column(A, k), b = gsl_matrix_column(A, k + 1);
        gsl_blas_drot(&a.vector, &b.vector, cos(1.0 + (double)k), sin(1.0 + (double)k));
    }
    gsl_vector *got = gsl_vector_alloc(3), *wrong = gsl_vector_alloc(5);
    assert_int_equal(ntk_singular_values(A, got), GSL_SUCCESS);
    CHECK_ALL_CLOSE(got->data, want, 3, 0.0, 1e-14);
    gsl_matrix *T = gsl_matrix_alloc(5, 3);
    gsl_matrix_transpose_memcpy(T, A);
    assert_int_equal(ntk_singular_values(T, got), GSL_SUCCESS);
    CHECK_ALL_CLOSE(got->data, want, 3, 0.0, 1e-14);
    assert_int_equal(ntk_singular_values(A, wrong), GSL_EBADLEN);
    gsl_matrix_set(A, 1, 3, NAN);
    assert_int_equal(ntk_singular_values(A, got), GSL_EDOM);
    gsl_matrix_free(T);
    gsl_vector_free(wrong);
    gsl_vector_free(got);
    gsl_matrix_free(A);
}

static void test_refusals(void **state)
{
    (void)state;
    struct instance s = make(2, 3, 4, PREFIX_SIGNS_RANDOM, 30);
    gsl_matrix *small = gsl_matrix_alloc(6, 11);
    assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, NTK_FULL, small), GSL_EBADLEN);
    assert_int_equal(ntk_jacobian(s.W, s.signs, s.W, NTK_FULL, s.J), GSL_EBADLEN);
    gsl_matrix_set(s.W, 2, 1, NAN);
    assert_int_equal(ntk_jacobian(s.W, s.signs, s.X, NTK_FULL, s.J), GSL_EDOM);
    gsl_matrix_free(small);
    drop(s);
}

int main(void)
{
    gsl_set_error_handler_off();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences), cmocka_unit_test(test_gram), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_singular_values), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
