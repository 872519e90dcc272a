/* Kernels of a real layer: against differences of its output, its own limit and laws. */
#include "prefix_ntk/ntk_layer.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include "common/random.h"
#include "common/stats.h"

static const double RTOL_FINITE_DIFF = 1e-8;

static gsl_matrix *draw(enum random_purpose purpose, size_t rows, size_t cols, double scale)
{
    gsl_matrix *M = gsl_matrix_alloc(rows, cols);
    assert_non_null(M);
    random_normal(41, purpose, rows, cols, M->data, rows * cols);
    gsl_matrix_scale(M, scale);
    return M;
}

/* F(q_i), output k: m times the softmax average of all signed values; with
 * frozen_values the values stay those of W0, so that only the key path is left. */
static double output_ref(const gsl_matrix *W, const gsl_matrix *values_of, const gsl_vector *signs,
                         const gsl_matrix *X, const gsl_matrix *inputs, const gsl_matrix *W_V, size_t i, size_t k)
{
    const size_t m = W->size1, d = W->size2, L = inputs ? inputs->size1 : 0;
    double mass = 0.0, sum = 0.0;
    for (size_t r = 0; r < m + L; r++) {
        double s = 0.0, value = 0.0;
        for (size_t q = 0; q < d; q++) {
            s += gsl_matrix_get(X, i, q) * (r < m ? gsl_matrix_get(W, r, q) : gsl_matrix_get(inputs, r - m, q));
            value += gsl_matrix_get(W_V, q, k) *
                     (r < m ? gsl_vector_get(signs, r) * gsl_matrix_get(values_of, r, q) : gsl_matrix_get(inputs, r - m,
                     q));
        }
        mass += exp(s);
        sum += exp(s) * value;
    }
    return (double)m * sum / mass;
}

/* (1/m) J J' with J by central differences of the output. */
static gsl_matrix *gram_ref(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                            const gsl_matrix *inputs, const gsl_matrix *W_V, enum ntk_kernel kernel)
{
    const size_t m = W->size1, d = W->size2, v = W_V->size2, rows = X->size1 * v;
    const double h = cbrt(DBL_EPSILON);
    gsl_matrix *moved = gsl_matrix_alloc(m, d), *J = gsl_matrix_alloc(rows, m * d), *G = gsl_matrix_alloc(rows, rows);
    gsl_matrix_memcpy(moved, W);
    for (size_t p = 0; p < m * d; p++) {
        for (size_t row = 0; row < rows; row++) {
            double side[2];
            for (int sign = 0; sign < 2; sign++) {
                gsl_matrix_set(moved, p / d, p % d, gsl_matrix_get(W, p / d, p % d) + (sign ? -h : h));
                side[sign] = output_ref(moved, kernel == NTK_FULL ? moved : W, signs, X, inputs, W_V, row / v, row % v);
            }
            gsl_matrix_set(moved, p / d, p % d, gsl_matrix_get(W, p / d, p % d));
            gsl_matrix_set(J, row, p, (side[0] - side[1]) / (2.0 * h));
        }
    }
    for (size_t a = 0; a < rows; a++)
        for (size_t b = 0; b < rows; b++) {
            double sum = 0.0;
            for (size_t p = 0; p < m * d; p++) sum += gsl_matrix_get(J, a, p) * gsl_matrix_get(J, b, p);
            gsl_matrix_set(G, a, b, sum / (double)m);
        }
    gsl_matrix_free(J);
    gsl_matrix_free(moved);
    return G;
}

/* The Gram matrix is that of the output's derivatives, at awkward sizes. */
static void test_finite_differences(void **state)
{
    (void)state;
    const struct { size_t m, n, d, v, L; } cases[] = { { 7, 3, 4, 2, 3 }, { 1, 2, 3, 3, 0 }, { 12, 1, 2, 5, 1 },
                                                       { 6, 4, 1, 1, 2 }, { 2, 2, 3, 1, 5 } };
    for (size_t t = 0; t < sizeof cases / sizeof *cases; t++)
        for (int law = 0; law < 2; law++)
            for (int kernel = 0; kernel < 2; kernel++) {
                const size_t m = cases[t].m, n = cases[t].n, d = cases[t].d, v = cases[t].v, L = cases[t].L;
                gsl_matrix *W = gsl_matrix_alloc(m, d), *X = draw(RANDOM_INPUTS, n, d, 0.7);
                gsl_matrix *inputs = L ? draw(RANDOM_TOKENS, L, d, 0.8) : NULL, *W_V = draw(RANDOM_WEIGHTS, d, v, 0.6);
                gsl_vector *signs = gsl_vector_alloc(m);
                assert_int_equal(prefix_draw(42, t, law ? PREFIX_SIGNS_POSITIVE : PREFIX_SIGNS_RANDOM, 0.7, W, signs,
                                             1), GSL_SUCCESS);
                gsl_matrix *got = gsl_matrix_alloc(n * v, n * v);
                assert_int_equal(ntk_layer_gram(W, signs, X, inputs, W_V, (enum ntk_kernel)kernel, got, 1),
                                 GSL_SUCCESS);
                gsl_matrix *want = gram_ref(W, signs, X, inputs, W_V, (enum ntk_kernel)kernel);
                if (m == 1 && !L && kernel == NTK_KEY) {       /* a softmax of one: no key path at all */
                    CHECK_LESS(gsl_matrix_max(got), 1e-25);
                } else {
                    CHECK_MATRIX_CLOSE(got, want, RTOL_FINITE_DIFF);
                    /* Leaving the inputs out of the softmax is noticed. */
                    if (L) {
                        assert_int_equal(ntk_layer_gram(W, signs, X, NULL, W_V, (enum ntk_kernel)kernel, got, 1),
                                         GSL_SUCCESS);
                        assert_false(relative_error(got, want) < 100.0 * RTOL_FINITE_DIFF);
                    }
                }
                gsl_matrix_free(want);
                gsl_matrix_free(got);
                gsl_vector_free(signs);
                gsl_matrix_free(W_V);
                gsl_matrix_free(inputs);
                gsl_matrix_free(X);
                gsl_matrix_free(W);
            }
}

/* Same bits for any number of threads. */
static void test_threads(void **state)
{
    (void)state;
    gsl_matrix *W = gsl_matrix_alloc(2500, 3), *X = draw(RANDOM_INPUTS, 5, 3, 0.7),
        *W_V = draw(RANDOM_WEIGHTS, 3, 2, 0.6);
    gsl_matrix *inputs = draw(RANDOM_TOKENS, 4, 3, 0.8);
    gsl_vector *signs = gsl_vector_alloc(2500);
    assert_int_equal(prefix_draw(43, 0, PREFIX_SIGNS_RANDOM, 0.7, W, signs, 1), GSL_SUCCESS);
    gsl_matrix *one = gsl_matrix_alloc(10, 10), *many = gsl_matrix_alloc(10, 10);
    assert_int_equal(ntk_layer_gram(W, signs, X, inputs, W_V, NTK_FULL, one, 1), GSL_SUCCESS);
    for (int threads = 2; threads <= 7; threads += 5) {
        assert_int_equal(ntk_layer_gram(W, signs, X, inputs, W_V, NTK_FULL, many, threads), GSL_SUCCESS);
        CHECK_SAME_BITS(one->data, many->data, 100);
    }
    gsl_matrix_free(many);
    gsl_matrix_free(one);
    gsl_vector_free(signs);
    gsl_matrix_free(inputs);
    gsl_matrix_free(W_V);
    gsl_matrix_free(X);
    gsl_matrix_free(W);
}

/* W_V = I and no inputs: the one-layer model, limit included. */
static void test_identity_is_plain_model(void **state)
{
    (void)state;
    gsl_matrix *X = draw(RANDOM_INPUTS, 4, 3, 0.7), *I = gsl_matrix_alloc(3, 3);
    gsl_matrix_set_identity(I);
    gsl_matrix *a = gsl_matrix_alloc(12, 12), *b = gsl_matrix_alloc(12, 12);
    for (int kernel = 0; kernel < 2; kernel++) {
        assert_int_equal(ntk_layer_limit(X, X, I, 0.7, PREFIX_SIGNS_POSITIVE, (enum ntk_kernel)kernel, a), GSL_SUCCESS);
        assert_int_equal(ntk_limit(X, X, 0.7, PREFIX_SIGNS_POSITIVE, (enum ntk_kernel)kernel, b), GSL_SUCCESS);
        CHECK_MATRIX_CLOSE(a, b, 1e-15);
    }
    gsl_matrix_free(b);
    gsl_matrix_free(a);
    gsl_matrix_free(I);
    gsl_matrix_free(X);
}

/* The kernel tends to its limit, and m (with inputs - without) to the correction. */
static void test_limit_and_correction(void **state)
{
    (void)state;
    enum { M = 4096, TRIALS = 12, N = 3, D = 3, V = 2, L = 6, SIZE = N * V };
    gsl_matrix *X = draw(RANDOM_INPUTS, N, D, 0.5), *W_V = draw(RANDOM_WEIGHTS, D, V, 0.7);
    gsl_matrix *inputs = draw(RANDOM_TOKENS, L, D, 0.6), *W = gsl_matrix_alloc(M, D);
    gsl_matrix *limit = gsl_matrix_alloc(SIZE, SIZE), *shift = gsl_matrix_alloc(SIZE, SIZE);
    gsl_matrix *with = gsl_matrix_alloc(SIZE, SIZE), *without = gsl_matrix_alloc(SIZE, SIZE);
    gsl_vector *signs = gsl_vector_alloc(M);
    double contraction[SIZE * SIZE];
    random_normal(44, RANDOM_OTHER, 0, 0, contraction, SIZE * SIZE);
    for (int law = 0; law < 3; law++)
        for (int kernel = 0; kernel < 2; kernel++) {
            const enum prefix_signs signs_law = (enum prefix_signs)law;
            const enum ntk_kernel which = (enum ntk_kernel)kernel;
            assert_int_equal(ntk_layer_limit(X, X, W_V, 0.4, signs_law, which, limit), GSL_SUCCESS);
            assert_int_equal(ntk_layer_correction(X, inputs, W_V, 0.4, signs_law, which, shift), GSL_SUCCESS);
            double kernel_error[TRIALS], change[TRIALS], want_change = 0.0, scale = 0.0;
            for (size_t q = 0; q < SIZE * SIZE; q++) {
                want_change += contraction[q] * shift->data[q];
                scale += fabs(contraction[q] * shift->data[q]);
            }
            for (size_t t = 0; t < TRIALS; t++) {
                assert_int_equal(prefix_draw(45, t, signs_law, 0.4, W, signs, 1), GSL_SUCCESS);
                assert_int_equal(ntk_layer_gram(W, signs, X, inputs, W_V, which, with, 1), GSL_SUCCESS);
                assert_int_equal(ntk_layer_gram(W, signs, X, NULL, W_V, which, without, 1), GSL_SUCCESS);
                kernel_error[t] = change[t] = 0.0;
                for (size_t q = 0; q < SIZE * SIZE; q++) {
                    kernel_error[t] += contraction[q] * (without->data[q] - limit->data[q]);
                    change[t] += contraction[q] * (double)M * (with->data[q] - without->data[q]);
                }
            }
            struct interval mean;
            assert_int_equal(stats_mean(kernel_error, TRIALS, 0.999, &mean), GSL_SUCCESS);
            CHECK_LESS(mean.lo, 0.0);
            CHECK_LESS(0.0, mean.hi);
            assert_int_equal(stats_mean(change, TRIALS, 0.999, &mean), GSL_SUCCESS);
            /* The next order in 1/m, sum_j rho_i(z_j) / m of the change, is below a hundredth. */
            CHECK_LESS(mean.lo, want_change + 0.01 * scale);
            CHECK_LESS(want_change - 0.01 * scale, mean.hi);
            CHECK_LESS(mean.hi - mean.lo, 0.2 * scale);
        }
    gsl_vector_free(signs);
    gsl_matrix_free(without);
    gsl_matrix_free(with);
    gsl_matrix_free(shift);
    gsl_matrix_free(limit);
    gsl_matrix_free(W);
    gsl_matrix_free(inputs);
    gsl_matrix_free(W_V);
    gsl_matrix_free(X);
}

static void test_refusals(void **state)
{
    (void)state;
    gsl_matrix *X = draw(RANDOM_INPUTS, 2, 3, 0.7), *W_V = draw(RANDOM_WEIGHTS, 3, 2, 0.6),
        *bad = gsl_matrix_calloc(2, 2);
    gsl_matrix *W = draw(RANDOM_PREFIX, 5, 3, 0.5), *K = gsl_matrix_alloc(4, 4);
    gsl_vector *signs = gsl_vector_alloc(5), *few = gsl_vector_alloc(4);
    gsl_vector_set_all(signs, 1.0);
    assert_int_equal(ntk_layer_gram(W, signs, X, NULL, W_V, NTK_FULL, K, 1), GSL_SUCCESS);
    assert_int_equal(ntk_layer_gram(W, few, X, NULL, W_V, NTK_FULL, K, 1), GSL_EBADLEN);
    assert_int_equal(ntk_layer_gram(W, signs, bad, NULL, W_V, NTK_FULL, K, 1), GSL_EBADLEN);
    assert_int_equal(ntk_layer_gram(W, signs, X, bad, W_V, NTK_FULL, K, 1), GSL_EBADLEN);
    assert_int_equal(ntk_layer_gram(W, signs, X, NULL, bad, NTK_FULL, K, 1), GSL_EBADLEN);
    assert_int_equal(ntk_layer_gram(W, signs, X, NULL, W_V, NTK_FULL, bad, 1), GSL_EBADLEN);
    assert_int_equal(ntk_layer_limit(X, X, bad, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EBADLEN);
    assert_int_equal(ntk_layer_limit(X, X, W_V, -0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EDOM);
    assert_int_equal(ntk_layer_correction(X, bad, W_V, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EBADLEN);
    gsl_matrix_set(W, 4, 2, NAN);
    assert_int_equal(ntk_layer_gram(W, signs, X, NULL, W_V, NTK_FULL, K, 1), GSL_EDOM);
    gsl_vector_free(few);
    gsl_vector_free(signs);
    gsl_matrix_free(K);
    gsl_matrix_free(W);
    gsl_matrix_free(bad);
    gsl_matrix_free(W_V);
    gsl_matrix_free(X);
}

int main(void)
{
    gsl_set_error_handler_off();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_identity_is_plain_model), cmocka_unit_test(test_limit_and_correction),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
