/* The empirical kernels of a prefix at hand: by pair moments and by SYRK. */
#include "tests/support/check.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include "common/isa.h"
#include "common/random.h"
#include "tests/support/gram_ref.h"

static const double RTOL_ROUNDOFF = 2e-14;
static const double RTOL_CANCELLATION = NTK_MAX_CANCELLATION * 4.0 * DBL_EPSILON;
static const double RTOL_FINITE_DIFF = 1e-8;

typedef int gram_function(const gsl_matrix *, const gsl_vector *, const gsl_matrix *,
                          enum ntk_kernel, gsl_matrix *, int);

static const enum prefix_signs LAWS[] = { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_MIRRORED };
static const enum ntk_kernel KERNELS[] = { NTK_FULL, NTK_KEY };

/* Gram equals (1/m) J J^T: both routes, every instruction set, both kernels. */
static void check_against_reference(const struct gram_case *c, double rtol)
{
    const enum isa before = isa_current();
    for (int k = 0; k < 2; k++) {
        gsl_matrix *want = gram_ref(c->W, c->signs, c->X, KERNELS[k]);
        for (enum isa isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
            if (isa_force(isa)) continue;
            gsl_matrix_set_all(c->gram, NAN);
            assert_int_equal(ntk_gram(c->W, c->signs, c->X, KERNELS[k], c->gram, 2), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(c->gram, want, rtol);
        }
        isa_force(before);
        gsl_matrix_set_all(c->gram, NAN);
        assert_int_equal(ntk_gram_syrk(c->W, c->signs, c->X, KERNELS[k], c->gram, 2), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(c->gram, want, rtol);
        gsl_matrix_free(want);
    }
}

static void test_reference(void **state)
{
    (void)state;
    /* Widths around the register tiles, lengths around the blocks of 256 and 512. */
    static const size_t shapes[][3] = { { 1, 1, 2 }, { 3, 5, 6 }, { 2, 1, 600 }, { 1, 7, 258 }, { 17, 9, 130 },
                                        { 4, 16, 44 }, { 3, 2, 256 }, { 2, 33, 26 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int law = 0; law < 3; law++) {
            struct gram_case c = gram_case_make(shapes[s][0], shapes[s][1], shapes[s][2], LAWS[law], 0.7, s);
            check_against_reference(&c, RTOL_ROUNDOFF);
            gram_case_free(&c);
        }
}

/* One token has all the mass: F = a w, K = I, H = 0 exactly. */
static void test_single_token(void **state)
{
    (void)state;
    struct gram_case c = gram_case_make(3, 4, 1, PREFIX_SIGNS_RANDOM, 1.3, 2);
    for (int k = 0; k < 2; k++) {
        gsl_matrix *want = gram_ref(c.W, c.signs, c.X, KERNELS[k]);
        assert_int_equal(ntk_gram(c.W, c.signs, c.X, KERNELS[k], c.gram, 1), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(c.gram, want, RTOL_ROUNDOFF);
        if (KERNELS[k] == NTK_KEY) assert_true(gsl_matrix_isnull(c.gram));
        gsl_matrix_free(want);
    }
    gram_case_free(&c);
}

/* F_k(x_i), from its definition. */
static double output_ref(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X, size_t i, size_t k)
{
    long double num = 0.0L, mass = 0.0L;
    for (size_t r = 0; r < W->size1; r++) {
        long double s = 0.0L;
        for (size_t c = 0; c < W->size2; c++) s += (long double)gsl_matrix_get(W, r, c) * gsl_matrix_get(X, i, c);
        mass += expl(s);
        num += gsl_vector_get(signs, r) * expl(s) * gsl_matrix_get(W, r, k);
    }
    return (double)((long double)W->size1 * num / mass);
}

/* The reference's Jacobian is the derivative of F, sign included. */
static void test_jacobian(void **state)
{
    (void)state;
    const size_t n = 2, d = 3, m = 7;
    struct gram_case c = gram_case_make(n, d, m, PREFIX_SIGNS_RANDOM, 0.9, 4);
    long double *J = malloc(n * d * m * d * sizeof *J);
    assert_non_null(J);
    jacobian_ref(c.W, c.signs, c.X, NTK_FULL, J);
    double direction[21], largest = 0.0;
    random_normal(6, RANDOM_PERTURBATION, 0, 0, direction, m * d);
    const double step = cbrt(DBL_EPSILON);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < d; k++) {
            double slope = 0.0, F[2];
            for (size_t u = 0; u < m * d; u++) slope += (double)J[(i * d + k) * m * d + u] * direction[u];
            for (int side = 0; side < 2; side++) {
                for (size_t u = 0; u < m * d; u++) c.W->data[u] += (side ? -2.0 : 1.0) * step * direction[u];
                F[side] = output_ref(c.W, c.signs, c.X, i, k);
            }
            for (size_t u = 0; u < m * d; u++) c.W->data[u] += step * direction[u];
            CHECK_CLOSE((F[0] - F[1]) / (2.0 * step), slope, RTOL_FINITE_DIFF, RTOL_FINITE_DIFF);
            if (fabs(slope) > largest) largest = fabs(slope);
        }
    CHECK_LESS(1.0, largest);
    free(J);
    gram_case_free(&c);
}

/* Symmetric to the bit; no eigenvalue below rounding. */
static void test_symmetric_psd(void **state)
{
    (void)state;
    for (int law = 0; law < 3; law++)
        for (int k = 0; k < 2; k++) {
            struct gram_case c = gram_case_make(7, 5, 322, LAWS[law], 0.8, 8);
            assert_int_equal(ntk_gram(c.W, c.signs, c.X, KERNELS[k], c.gram, 1), GSL_SUCCESS);
            for (size_t u = 0; u < 35; u++)
                for (size_t v = 0; v < u; v++)
                    assert_true(gsl_matrix_get(c.gram, u, v) == gsl_matrix_get(c.gram, v, u));
            gsl_vector *eigenvalues = gsl_vector_alloc(35);
            assert_int_equal(ntk_eigenvalues(c.gram, eigenvalues), GSL_SUCCESS);
            CHECK_LESS(-RTOL_ROUNDOFF * gsl_vector_get(eigenvalues, 34), gsl_vector_get(eigenvalues, 0));
            gsl_vector_free(eigenvalues);
            gram_case_free(&c);
        }
}

/* Rows of A times the orthogonal Q, in place. */
static void rotate_rows(gsl_matrix *A, const gsl_matrix *Q)
{
    const size_t d = Q->size1;
    for (size_t r = 0; r < A->size1; r++) {
        double turned[8] = { 0 };
        for (size_t c = 0; c < d; c++)
            for (size_t k = 0; k < d; k++) turned[c] += gsl_matrix_get(Q, c, k) * gsl_matrix_get(A, r, k);
        for (size_t c = 0; c < d; c++) gsl_matrix_set(A, r, c, turned[c]);
    }
}

/* K(Q W, Q X) = (I (x) Q) K(W, X) (I (x) Q)^T. */
static void test_equivariance(void **state)
{
    (void)state;
    const size_t n = 4, d = 6, m = 300;
    double entries[36], tau[6], q_data[36], r_data[36];
    random_normal(9, RANDOM_OTHER, 0, 0, entries, 36);
    gsl_matrix_view A = gsl_matrix_view_array(entries, d, d), Q = gsl_matrix_view_array(q_data, d, d),
                    R = gsl_matrix_view_array(r_data, d, d);
    gsl_vector_view t = gsl_vector_view_array(tau, d);
    assert_int_equal(gsl_linalg_QR_decomp(&A.matrix, &t.vector), GSL_SUCCESS);
    assert_int_equal(gsl_linalg_QR_unpack(&A.matrix, &t.vector, &Q.matrix, &R.matrix), GSL_SUCCESS);
    for (int law = 0; law < 3; law++)
        for (int k = 0; k < 2; k++) {
            struct gram_case c = gram_case_make(n, d, m, LAWS[law], 0.7, 12);
            gsl_matrix *want = gsl_matrix_calloc(n * d, n * d);
            assert_int_equal(ntk_gram(c.W, c.signs, c.X, KERNELS[k], c.gram, 1), GSL_SUCCESS);
            for (size_t u = 0; u < n * d; u++)
                for (size_t v = 0; v < n * d; v++)
                    for (size_t p = 0; p < d; p++)
                        for (size_t q = 0; q < d; q++)
                            *gsl_matrix_ptr(want, u, v) += gsl_matrix_get(&Q.matrix, u % d, p) *
                                gsl_matrix_get(&Q.matrix, v % d, q) * gsl_matrix_get(c.gram, u / d * d + p,
                                                                                     v / d * d + q);
            rotate_rows(c.W, &Q.matrix);
            rotate_rows(c.X, &Q.matrix);
            assert_int_equal(ntk_gram(c.W, c.signs, c.X, KERNELS[k], c.gram, 1), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(c.gram, want, RTOL_ROUNDOFF);
            gsl_matrix_free(want);
            gram_case_free(&c);
        }
}

/* The number of threads does not show in a bit. */
static void test_threads(void **state)
{
    (void)state;
    gram_function *routes[] = { ntk_gram, ntk_gram_syrk };
    struct gram_case c = gram_case_make(9, 6, 1701, PREFIX_SIGNS_RANDOM, 0.7, 1);
    gsl_matrix *one = gsl_matrix_alloc(54, 54);
    for (int route = 0; route < 2; route++) {
        assert_int_equal(routes[route](c.W, c.signs, c.X, NTK_FULL, one, 1), GSL_SUCCESS);
        for (int threads = 2; threads <= 7; threads += 5) {
            assert_int_equal(routes[route](c.W, c.signs, c.X, NTK_FULL, c.gram, threads), GSL_SUCCESS);
            CHECK_SAME_BITS(c.gram->data, one->data, 54 * 54);
        }
    }
    gsl_matrix_free(one);
    gram_case_free(&c);
}

/* Prefixes no longer near their start: any finite W. */
static void test_trained(void **state)
{
    (void)state;
    for (int law = 0; law < 2; law++) {
        /* Scores spread over 50 and more: most of the mass on a token or two. */
        struct gram_case c = gram_case_make(5, 4, 290, LAWS[law], 25.0, 3);
        check_against_reference(&c, RTOL_CANCELLATION);
        gram_case_free(&c);

        /* All tokens near one far point: w - f is tiny against w. */
        c = gram_case_make(5, 4, 290, LAWS[law], 1e-3, 3);
        for (size_t r = 0; r < c.m; r++)
            for (size_t k = 0; k < c.d; k++) *gsl_matrix_ptr(c.W, r, k) += 37.0 + 5.0 * (double)k;
        check_against_reference(&c, RTOL_CANCELLATION);
        gram_case_free(&c);

        /* Scores that grow along the prefix by more than the range of a double, so
         * that the common powers of two must follow; up and down. */
        for (int down = 0; down < 2; down++) {
            c = gram_case_make(3, 4, 1400, LAWS[law], 1.0, 3);
            for (size_t r = 0; r < c.m; r++)
                for (size_t k = 0; k < c.d; k++)
                    *gsl_matrix_ptr(c.W, r, k) += (k == 1 ? 2.0 : 0.3) * (double)(down ? c.m - r : r);
            check_against_reference(&c, RTOL_CANCELLATION);
            gram_case_free(&c);
        }

        /* Beyond the range of the exact power of two: only SYRK goes there. */
        c = gram_case_make(3, 4, 40, LAWS[law], 3e6, 3);
        check_against_reference(&c, 1e-8);
        gram_case_free(&c);
    }
}

/* Signs that are none, rows further apart than dim, inputs of zero. */
static void test_shapes_and_signs(void **state)
{
    (void)state;
    struct gram_case c = gram_case_make(4, 3, 70, PREFIX_SIGNS_RANDOM, 0.7, 3);
    gsl_vector_scale(c.signs, 0.6);
    check_against_reference(&c, RTOL_ROUNDOFF);
    gsl_vector_scale(c.signs, 1.0 / 0.6);
    for (size_t k = 0; k < 3; k++) gsl_matrix_set(c.X, 2, k, 0.0);
    check_against_reference(&c, RTOL_ROUNDOFF);

    gsl_matrix *wide = gsl_matrix_alloc(70, 8), *wide_X = gsl_matrix_alloc(4, 5), *want = gsl_matrix_alloc(12, 12);
    gsl_vector *long_signs = gsl_vector_alloc(210);
    gsl_matrix_set_all(wide, NAN);
    gsl_matrix_set_all(wide_X, NAN);
    gsl_vector_set_all(long_signs, NAN);
    gsl_matrix_view W = gsl_matrix_submatrix(wide, 0, 4, 70, 3), X = gsl_matrix_submatrix(wide_X, 0, 1, 4, 3);
    gsl_vector_view signs = gsl_vector_subvector_with_stride(long_signs, 1, 3, 70);
    gsl_matrix_memcpy(&W.matrix, c.W);
    gsl_matrix_memcpy(&X.matrix, c.X);
    gsl_vector_memcpy(&signs.vector, c.signs);
    gram_function *routes[] = { ntk_gram, ntk_gram_syrk };
    for (int route = 0; route < 2; route++) {
        assert_int_equal(routes[route](c.W, c.signs, c.X, NTK_FULL, want, 1), GSL_SUCCESS);
        assert_int_equal(routes[route](&W.matrix, &signs.vector, &X.matrix, NTK_FULL, c.gram, 1), GSL_SUCCESS);
        CHECK_SAME_BITS(c.gram->data, want->data, 144);
    }
    gsl_matrix_free(wide);
    gsl_matrix_free(wide_X);
    gsl_matrix_free(want);
    gsl_vector_free(long_signs);
    gram_case_free(&c);
}

static void test_refusals(void **state)
{
    (void)state;
    gram_function *routes[] = { ntk_gram, ntk_gram_syrk };
    struct gram_case c = gram_case_make(4, 3, 70, PREFIX_SIGNS_RANDOM, 0.7, 3);
    gsl_vector *short_signs = gsl_vector_calloc(69);
    gsl_matrix *other_dim = gsl_matrix_calloc(4, 2), *small = gsl_matrix_calloc(11, 12);
    static const double bad[] = { NAN, INFINITY, -INFINITY };
    for (int route = 0; route < 2; route++) {
        gram_function *gram = routes[route];
        assert_int_equal(gram(c.W, short_signs, c.X, NTK_FULL, c.gram, 1), GSL_EBADLEN);
        assert_int_equal(gram(c.W, c.signs, other_dim, NTK_FULL, c.gram, 1), GSL_EBADLEN);
        assert_int_equal(gram(c.W, c.signs, c.X, NTK_FULL, small, 1), GSL_EBADLEN);
        for (int b = 0; b < 3; b++) {
            double *places[] = { gsl_matrix_ptr(c.W, 69, 1), gsl_matrix_ptr(c.X, 3, 2), gsl_vector_ptr(c.signs, 5) };
            for (int p = 0; p < 3; p++) {
                const double good = *places[p];
                *places[p] = bad[b];
                assert_int_equal(gram(c.W, c.signs, c.X, NTK_FULL, c.gram, 2), GSL_EDOM);
                assert_int_equal(gram(c.W, c.signs, c.X, NTK_KEY, c.gram, 1), GSL_EDOM);
                *places[p] = good;
            }
        }
        assert_int_equal(gram(c.W, c.signs, c.X, NTK_FULL, c.gram, 1), GSL_SUCCESS);
    }
    gsl_vector_free(short_signs);
    gsl_matrix_free(other_dim);
    gsl_matrix_free(small);
    gram_case_free(&c);
}

/* The comparison sees a part in 1e9 of one entry, a wrong kernel and a flipped sign. */
static void test_checker(void **state)
{
    (void)state;
    struct gram_case c = gram_case_make(4, 3, 70, PREFIX_SIGNS_RANDOM, 0.7, 3);
    gsl_matrix *want = gram_ref(c.W, c.signs, c.X, NTK_FULL);
    assert_int_equal(ntk_gram(c.W, c.signs, c.X, NTK_FULL, c.gram, 1), GSL_SUCCESS);
    *gsl_matrix_ptr(c.gram, 5, 5) *= 1.0 + 1e-9;
    assert_false(relative_error(c.gram, want) <= RTOL_ROUNDOFF);
    assert_int_equal(ntk_gram(c.W, c.signs, c.X, NTK_KEY, c.gram, 1), GSL_SUCCESS);
    assert_false(relative_error(c.gram, want) <= 1e-3);
    gsl_vector_set(c.signs, 11, -gsl_vector_get(c.signs, 11));
    assert_int_equal(ntk_gram(c.W, c.signs, c.X, NTK_FULL, c.gram, 1), GSL_SUCCESS);
    assert_false(relative_error(c.gram, want) <= 1e-6);
    gsl_matrix_free(want);
    gram_case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),      cmocka_unit_test(test_single_token),
        cmocka_unit_test(test_jacobian),       cmocka_unit_test(test_symmetric_psd),
        cmocka_unit_test(test_equivariance),   cmocka_unit_test(test_threads),
        cmocka_unit_test(test_trained),        cmocka_unit_test(test_shapes_and_signs),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_checker),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
