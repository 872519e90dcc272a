/* Limits of the kernels against simulation, plain loops and the laws they obey. */
#include "prefix_ntk/ntk.h"
#include "tests/support/check.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include "common/random.h"
#include "common/stats.h"

static const double RTOL_ROUNDOFF = 1e-13;
static const enum prefix_signs LAWS[] = { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_MIRRORED };
static const enum ntk_kernel KERNELS[] = { NTK_FULL, NTK_KEY };

static gsl_matrix *draw(size_t rows, size_t cols, uint64_t row, double scale)
{
    gsl_matrix *M = gsl_matrix_alloc(rows, cols);
    assert_non_null(M);
    random_normal(11, RANDOM_INPUTS, rows, row, M->data, rows * cols);
    gsl_matrix_scale(M, scale);
    return M;
}

static gsl_matrix *limit_of(const gsl_matrix *X1, const gsl_matrix *X2, double sigma, enum prefix_signs law,
                            enum ntk_kernel kernel)
{
    gsl_matrix *K = gsl_matrix_alloc(X1->size1 * X1->size2, X2->size1 * X2->size2);
    assert_int_equal(ntk_limit(X1, X2, sigma, law, kernel, K), GSL_SUCCESS);
    return K;
}

/* The formula as theory states it, written out in long double. */
static long double entry_ref(const gsl_matrix *X1, const gsl_matrix *X2, size_t i, size_t k, size_t j, size_t l,
                             long double sigma, int positive, int full)
{
    long double c = 0.0L, s2 = sigma * sigma, s4 = s2 * s2, delta = k == l ? 1.0L : 0.0L;
    for (size_t q = 0; q < X1->size2; q++)
        c += (long double)gsl_matrix_get(X1, i, q) * (long double)gsl_matrix_get(X2, j, q);
    const long double xk = gsl_matrix_get(X1, i, k), xl = gsl_matrix_get(X1, i, l);
    const long double yk = gsl_matrix_get(X2, j, k), yl = gsl_matrix_get(X2, j, l);
    const long double uk = xk + yk, ul = xl + yl, a2 = positive ? 1.0L : 0.0L;
    const long double key = c * expl(s2 * c) * (s2 * delta + s4 * uk * ul - a2 * s4 * (uk * yl + xk * ul) +
                                                a2 * s4 * xk * yl);
    if (!full) return key;
    return key + expl(s2 * c) * (delta + s2 * yk * (ul - a2 * yl) + s2 * (uk - a2 * xk) * xl);
}

static void test_plain_loops(void **state)
{
    (void)state;
    const struct { size_t n1, n2, d; double sigma; } cases[] = {
        { 3, 2, 4, 0.7 }, { 1, 5, 1, 1.3 }, { 4, 4, 3, 0.05 }, { 2, 3, 7, 2.1 } };
    for (size_t t = 0; t < sizeof cases / sizeof *cases; t++) {
        gsl_matrix *X1 = draw(cases[t].n1, cases[t].d, 1, 0.8), *X2 = draw(cases[t].n2, cases[t].d, 2, 1.1);
        gsl_matrix *want = gsl_matrix_alloc(X1->size1 * X1->size2, X2->size1 * X2->size2);
        const size_t d = cases[t].d;
        for (int law = 0; law < 3; law++)
            for (int kernel = 0; kernel < 2; kernel++) {
                gsl_matrix *got = limit_of(X1, X2, cases[t].sigma, LAWS[law], KERNELS[kernel]);
                for (size_t r = 0; r < want->size1; r++)
                    for (size_t s = 0; s < want->size2; s++)
                        gsl_matrix_set(want, r, s, (double)entry_ref(X1, X2, r / d, r % d, s / d, s % d,
                            cases[t].sigma, LAWS[law] == PREFIX_SIGNS_POSITIVE, KERNELS[kernel] == NTK_FULL));
                CHECK_MATRIX_CLOSE(got, want, RTOL_ROUNDOFF);
                /* A planted error is seen: one entry off by 10^-10 of the largest. */
                gsl_matrix_set(got, 0, 0, gsl_matrix_get(got, 0, 0) + 1e-10 * gsl_matrix_max(want));
                assert_false(relative_error(got, want) <= RTOL_ROUNDOFF);
                gsl_matrix_free(got);
            }
        gsl_matrix_free(want);
        gsl_matrix_free(X1);
        gsl_matrix_free(X2);
    }
}

/* E over tokens of <dF_k(x_i)/dw, dF_l(x_j)/dw> / m with the softmax weights at their
 * limit, from the model's gradient alone: a (k, l) block contracted with fixed numbers. */
static double token_contribution(const double *w, double a, double abar, const gsl_matrix *X, double sigma,
                                 int full, const double *contraction)
{
    const size_t n = X->size1, d = X->size2;
    double J[64][8];                                    /* dF_k(x_i)/dw_r / (m S_ir) times rho_i */
    for (size_t i = 0; i < n; i++) {
        const double *x = gsl_matrix_const_ptr(X, i, 0);
        double s = 0.0, norm2 = 0.0;
        for (size_t k = 0; k < d; k++) { s += w[k] * x[k]; norm2 += x[k] * x[k]; }
        const double rho = exp(s - 0.5 * sigma * sigma * norm2);
        for (size_t k = 0; k < d; k++)
            for (size_t q = 0; q < d; q++)
                J[i * d + k][q] = rho * ((full && k == q ? a : 0.0) +
                                         (a * w[k] - abar * sigma * sigma * x[k]) * x[q]);
    }
    double sum = 0.0;
    for (size_t r = 0; r < n * d; r++)
        for (size_t s = 0; s < n * d; s++) {
            double inner = 0.0;
            for (size_t q = 0; q < d; q++) inner += J[r][q] * J[s][q];
            sum += contraction[r * n * d + s] * inner;
        }
    return sum;
}

/* A contraction of the limit lies in the 99.9 % interval of its simulation. */
static void test_monte_carlo(void **state)
{
    (void)state;
    enum { N = 3, D = 2, BATCHES = 24, TOKENS = 4000, SIZE = N * D };
    const double sigma = 0.45;
    gsl_matrix *X = draw(N, D, 3, 0.8);
    double contraction[SIZE * SIZE];
    random_normal(12, RANDOM_OTHER, 0, 0, contraction, SIZE * SIZE);
    for (int law = 0; law < 2; law++)
        for (int kernel = 0; kernel < 2; kernel++) {
            const double abar = LAWS[law] == PREFIX_SIGNS_POSITIVE ? 1.0 : 0.0;
            double batch[BATCHES];
            for (size_t b = 0; b < BATCHES; b++) {
                batch[b] = 0.0;
                for (size_t r = 0; r < TOKENS; r++) {
                    double w[D];
                    random_normal(13, RANDOM_PREFIX, b, r, w, D);
                    for (size_t k = 0; k < D; k++) w[k] *= sigma;
                    const double a = abar > 0.0 ? 1.0 : random_sign(13, RANDOM_SIGNS, b, r);
                    batch[b] += token_contribution(w, a, abar, X, sigma, KERNELS[kernel] == NTK_FULL, contraction);
                }
                batch[b] /= TOKENS;
            }
            struct interval mc;
            assert_int_equal(stats_mean(batch, BATCHES, 0.999, &mc), GSL_SUCCESS);
            gsl_matrix *K = limit_of(X, X, sigma, LAWS[law], KERNELS[kernel]);
            double want = 0.0;
            for (size_t r = 0; r < SIZE * SIZE; r++) want += contraction[r] * K->data[r];
            CHECK_LESS(mc.lo, want);
            CHECK_LESS(want, mc.hi);
            /* ... and the interval is narrow enough to tell the sign laws apart. */
            gsl_matrix *other = limit_of(X, X, sigma, LAWS[!law], KERNELS[kernel]);
            double wrong = 0.0;
            for (size_t r = 0; r < SIZE * SIZE; r++) wrong += contraction[r] * other->data[r];
            assert_true(wrong < mc.lo || wrong > mc.hi);
            gsl_matrix_free(other);
            gsl_matrix_free(K);
        }
    gsl_matrix_free(X);
}

/* K* is symmetric (to the bit), positive semi-definite, the same for random and mirrored signs. */
static void test_symmetric_psd(void **state)
{
    (void)state;
    gsl_matrix *X = draw(7, 3, 4, 0.9);
    for (int kernel = 0; kernel < 2; kernel++)
        for (int law = 0; law < 3; law++) {
            gsl_matrix *K = limit_of(X, X, 0.8, LAWS[law], KERNELS[kernel]);
            gsl_matrix *T = gsl_matrix_alloc(K->size2, K->size1);
            gsl_matrix_transpose_memcpy(T, K);
            CHECK_SAME_BITS(K->data, T->data, K->size1 * K->size2);
            double lambda;
            assert_int_equal(ntk_lambda_min(K, &lambda), GSL_SUCCESS);
            CHECK_LESS(-lambda, 1e-13 * gsl_matrix_max(K));
            if (law == 2) {
                gsl_matrix *R = limit_of(X, X, 0.8, PREFIX_SIGNS_RANDOM, KERNELS[kernel]);
                CHECK_SAME_BITS(K->data, R->data, K->size1 * K->size2);
                gsl_matrix_free(R);
            }
            gsl_matrix_free(T);
            gsl_matrix_free(K);
        }
    gsl_matrix_free(X);
}

/* K*(Rx, Ry) = R K*(x, y) R^T for orthogonal R: three plane rotations and a reflection. */
static void test_equivariance(void **state)
{
    (void)state;
    enum { D = 4 };
    gsl_matrix *X = draw(3, D, 5, 1.0), *Y = draw(2, D, 6, 0.7);
    gsl_matrix *R = gsl_matrix_alloc(D, D), *XR = gsl_matrix_alloc(3, D), *YR = gsl_matrix_alloc(2, D);
    gsl_matrix_set_identity(R);
    for (size_t k = 0; k + 1 < D; k++) {
        gsl_vector_view a = gsl_matrix_row(R, k), b = gsl_matrix_row(R, k + 1);
        gsl_blas_drot(&a.vector, &b.vector, cos(0.7 + (double)k), sin(0.7 + (double)k));
    }
    gsl_vector_view first = gsl_matrix_row(R, 0);
    gsl_vector_scale(&first.vector, -1.0);
    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0, X, R, 0.0, XR);
    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0, Y, R, 0.0, YR);
    gsl_matrix *half = gsl_matrix_alloc(D, D), *want = gsl_matrix_alloc(3 * D, 2 * D);
    for (int law = 0; law < 2; law++)
        for (int kernel = 0; kernel < 2; kernel++) {
            gsl_matrix *K = limit_of(X, Y, 0.9, LAWS[law], KERNELS[kernel]);
            gsl_matrix *got = limit_of(XR, YR, 0.9, LAWS[law], KERNELS[kernel]);
            for (size_t i = 0; i < 3; i++)
                for (size_t j = 0; j < 2; j++) {
                    gsl_matrix_view block = gsl_matrix_submatrix(K, i * D, j * D, D, D);
                    gsl_matrix_view out = gsl_matrix_submatrix(want, i * D, j * D, D, D);
                    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, R, &block.matrix, 0.0, half);
                    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0, half, R, 0.0, &out.matrix);
                }
            CHECK_MATRIX_CLOSE(got, want, 1e-13);
            assert_false(relative_error(got, K) < 0.1);          /* the rotation does something */
            gsl_matrix_free(got);
            gsl_matrix_free(K);
        }
    gsl_matrix_free(want);
    gsl_matrix_free(half);
    gsl_matrix_free(YR);
    gsl_matrix_free(XR);
    gsl_matrix_free(R);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
}

/* The blocks of a cross kernel are those of the kernel of all inputs together. */
static void test_cross_blocks(void **state)
{
    (void)state;
    gsl_matrix *X = draw(5, 3, 7, 0.9), *K = limit_of(X, X, 1.2, PREFIX_SIGNS_POSITIVE, NTK_FULL);
    gsl_matrix_view top = gsl_matrix_submatrix(X, 0, 0, 2, 3), rest = gsl_matrix_submatrix(X, 2, 0, 3, 3);
    gsl_matrix *cross = limit_of(&top.matrix, &rest.matrix, 1.2, PREFIX_SIGNS_POSITIVE, NTK_FULL);
    for (size_t r = 0; r < 6; r++)
        for (size_t s = 0; s < 9; s++) assert_true(gsl_matrix_get(cross, r, s) == gsl_matrix_get(K, r, 6 + s));
    gsl_matrix_free(cross);
    gsl_matrix_free(K);
    gsl_matrix_free(X);
}

static void test_refusals(void **state)
{
    (void)state;
    gsl_matrix *X = draw(2, 3, 8, 1.0), *Y = draw(2, 2, 8, 1.0), *K = gsl_matrix_alloc(6, 6);
    gsl_matrix *small = gsl_matrix_alloc(6, 5);
    assert_int_equal(ntk_limit(X, Y, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EBADLEN);
    assert_int_equal(ntk_limit(X, X, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, small), GSL_EBADLEN);
    assert_int_equal(ntk_limit(X, X, 0.0, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EDOM);
    assert_int_equal(ntk_limit(X, X, NAN, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EDOM);
    assert_int_equal(ntk_limit(X, X, 1e3, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EDOM);   /* e^{sigma^2 c} overflows */
    gsl_matrix_set(X, 1, 1, NAN);
    assert_int_equal(ntk_limit(X, X, 0.5, PREFIX_SIGNS_RANDOM, NTK_FULL, K), GSL_EDOM);
    gsl_matrix_free(small);
    gsl_matrix_free(K);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
}

int main(void)
{
    gsl_set_error_handler_off();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_loops), cmocka_unit_test(test_monte_carlo),
        cmocka_unit_test(test_symmetric_psd), cmocka_unit_test(test_equivariance),
        cmocka_unit_test(test_cross_blocks), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
