/* The prefix model: forward, loss and gradient against plain loops and differences. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/isa.h"
#include "common/random.h"
#include "prefix_ntk/prefix_model.h"
#include "tests/support/check.h"
#include "theory/prefix_pass_kernel.h"

#define RTOL_ROUNDOFF 1e-12
#define RTOL_FINITE_DIFF 1e-7

/* m, n, d: all different, one of them 1, blocks of 32 tokens and 8 columns cut awkwardly. */
static const size_t shapes[][3] = {
    { 1, 3, 2 }, { 7, 1, 5 }, { 33, 4, 1 }, { 70, 25, 9 }, { 131, 13, 16 }, { 600, 7, 35 }
};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

struct problem { gsl_matrix *W, *X, *Y; gsl_vector *signs; };

static struct problem problem_make(const size_t *shape, double sigma)
{
    const size_t m = shape[0], n = shape[1], d = shape[2];
    struct problem p = { gsl_matrix_alloc(m, d), gsl_matrix_alloc(n, d), gsl_matrix_alloc(n, d),
                         gsl_vector_alloc(m) };
    assert_int_equal(prefix_draw(11, 2, PREFIX_SIGNS_RANDOM, sigma, p.W, p.signs, 1), GSL_SUCCESS);
    random_normal(5, RANDOM_INPUTS, 0, 0, p.X->data, n * d);
    random_normal(5, RANDOM_TARGETS, 0, 0, p.Y->data, n * d);
    gsl_matrix_scale(p.X, 0.7);
    gsl_matrix_scale(p.Y, 1.3);
    return p;
}

static void problem_free(struct problem *p)
{
    gsl_matrix_free(p->W);
    gsl_matrix_free(p->X);
    gsl_matrix_free(p->Y);
    gsl_vector_free(p->signs);
}

/* F_k(x_i) = m sum_r a_r S_ir w_rk and S, by their definition. */
static void forward_ref(const struct problem *p, gsl_matrix *F, gsl_matrix *S)
{
    const size_t m = p->W->size1, d = p->W->size2, n = p->X->size1;
    for (size_t i = 0; i < n; i++) {
        double total = 0.0;
        for (size_t r = 0; r < m; r++) {
            double score = 0.0;
            for (size_t k = 0; k < d; k++) score += gsl_matrix_get(p->W, r, k) * gsl_matrix_get(p->X, i, k);
            gsl_matrix_set(S, i, r, exp(score));
            total += exp(score);
        }
        for (size_t r = 0; r < m; r++) *gsl_matrix_ptr(S, i, r) /= total;
        for (size_t k = 0; k < d; k++) {
            double f = 0.0;
            for (size_t r = 0; r < m; r++)
                f += gsl_vector_get(p->signs, r) * gsl_matrix_get(S, i, r) * gsl_matrix_get(p->W, r, k);
            gsl_matrix_set(F, i, k, (double)m * f);
        }
    }
}

/* dL/dw_rl = sum_i,k R_ik dF_k(x_i)/dw_rl with
 * dF_k(x_i)/dw_rl = m S_ir [ a_r (k = l) + (a_r w_rk - mu_ik) x_il ]. */
static void gradient_ref(const struct problem *p, gsl_matrix *dW)
{
    const size_t m = p->W->size1, d = p->W->size2, n = p->X->size1;
    gsl_matrix *F = gsl_matrix_alloc(n, d), *S = gsl_matrix_alloc(n, m);
    forward_ref(p, F, S);
    for (size_t r = 0; r < m; r++)
        for (size_t l = 0; l < d; l++) {
            double g = 0.0;
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < d; k++) {
                    const double a = gsl_vector_get(p->signs, r), mu = gsl_matrix_get(F, i, k) / (double)m;
                    const double dF = (double)m * gsl_matrix_get(S, i, r)
                        * (a * (k == l) + (a * gsl_matrix_get(p->W, r, k) - mu) * gsl_matrix_get(p->X, i, l));
                    g += (gsl_matrix_get(F, i, k) - gsl_matrix_get(p->Y, i, k)) * dF;
                }
            gsl_matrix_set(dW, r, l, g);
        }
    gsl_matrix_free(F);
    gsl_matrix_free(S);
}

static void test_against_plain_loops(void **state)
{
    (void)state;
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        const enum isa before = isa_current();
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (size_t s = 0; s < NUM_SHAPES; s++) {
            const size_t m = shapes[s][0], n = shapes[s][1], d = shapes[s][2];
            struct problem p = problem_make(shapes[s], 0.9);
            gsl_matrix *F = gsl_matrix_alloc(n, d), *want = gsl_matrix_alloc(n, d), *S = gsl_matrix_alloc(n, m);
            gsl_matrix *dW = gsl_matrix_alloc(m, d), *dW_want = gsl_matrix_alloc(m, d);
            double loss = NAN, want_loss = NAN;
            forward_ref(&p, want, S);
            assert_int_equal(prefix_model_forward(p.W, p.signs, p.X, F, 2), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(F, want, RTOL_ROUNDOFF);
            assert_int_equal(prefix_model_gradient(p.W, p.signs, p.X, p.Y, dW, F, &loss, 2), GSL_SUCCESS);
            gradient_ref(&p, dW_want);
            CHECK_MATRIX_CLOSE(F, want, RTOL_ROUNDOFF);
            CHECK_MATRIX_CLOSE(dW, dW_want, RTOL_ROUNDOFF);
            assert_int_equal(prefix_model_loss(want, p.Y, &want_loss), GSL_SUCCESS);
            CHECK_CLOSE(loss, want_loss, RTOL_ROUNDOFF, 0.0);
            gsl_matrix_free(F);
            gsl_matrix_free(want);
            gsl_matrix_free(S);
            gsl_matrix_free(dW);
            gsl_matrix_free(dW_want);
            problem_free(&p);
        }
        assert_int_equal(isa_force(before), GSL_SUCCESS);
    }
}

/* Slope of the loss along V by a signed central difference. */
static double slope_by_difference(const struct problem *p, const gsl_matrix *V, double h)
{
    double loss[2];
    for (int side = 0; side < 2; side++) {
        gsl_matrix *moved = gsl_matrix_alloc(p->W->size1, p->W->size2);
        gsl_matrix *F = gsl_matrix_alloc(p->X->size1, p->X->size2);
        for (size_t i = 0; i < V->size1 * V->size2; i++)
            moved->data[i] = p->W->data[i] + (side ? h : -h) * V->data[i];
        assert_int_equal(prefix_model_forward(moved, p->signs, p->X, F, 1), GSL_SUCCESS);
        assert_int_equal(prefix_model_loss(F, p->Y, &loss[side]), GSL_SUCCESS);
        gsl_matrix_free(F);
        gsl_matrix_free(moved);
    }
    return (loss[1] - loss[0]) / (2.0 * h);
}

static void test_gradient_by_differences(void **state)
{
    (void)state;
    const double h = cbrt(DBL_EPSILON);
    for (size_t s = 1; s < NUM_SHAPES; s++) {
        struct problem p = problem_make(shapes[s], 0.5);
        const size_t size = p.W->size1 * p.W->size2;
        gsl_matrix *dW = gsl_matrix_alloc(p.W->size1, p.W->size2), *V = gsl_matrix_alloc(p.W->size1, p.W->size2);
        random_normal(3, RANDOM_OTHER, s, 0, V->data, size);
        assert_int_equal(prefix_model_gradient(p.W, p.signs, p.X, p.Y, dW, NULL, NULL, 1), GSL_SUCCESS);
        double slope = 0.0, norm = 0.0;
        for (size_t i = 0; i < size; i++) {
            slope += dW->data[i] * V->data[i];
            norm += dW->data[i] * dW->data[i];
        }
        assert_true(fabs(slope) > 1e-3 * sqrt(norm));
        const double measured = slope_by_difference(&p, V, h);
        CHECK_CLOSE(measured, slope, RTOL_FINITE_DIFF, 1e-7 * sqrt(norm));
        /* A gradient without the softmax path, or of the other sign, is refused. */
        assert_false(is_close(measured, -slope, RTOL_FINITE_DIFF, 1e-7 * sqrt(norm)));
        assert_false(is_close(measured, 1.001 * slope, RTOL_FINITE_DIFF, 1e-7 * sqrt(norm)));
        gsl_matrix_free(dW);
        gsl_matrix_free(V);
        problem_free(&p);
    }
}

/* Same bits for 1, 2, 3 threads, on a prefix long enough for several chunks. */
static void test_threads(void **state)
{
    (void)state;
    const size_t shape[3] = { 9001, 11, 6 };
    struct problem p = problem_make(shape, 0.8);
    gsl_matrix *dW[3], *F[3];
    double loss[3];
    for (int t = 0; t < 3; t++) {
        dW[t] = gsl_matrix_alloc(shape[0], shape[2]);
        F[t] = gsl_matrix_alloc(shape[1], shape[2]);
        assert_int_equal(prefix_model_gradient(p.W, p.signs, p.X, p.Y, dW[t], F[t], &loss[t], t + 1), GSL_SUCCESS);
        CHECK_SAME_BITS(dW[t]->data, dW[0]->data, shape[0] * shape[2]);
        CHECK_SAME_BITS(F[t]->data, F[0]->data, shape[1] * shape[2]);
        CHECK_SAME_BITS(&loss[t], &loss[0], 1);
    }
    for (int t = 0; t < 3; t++) {
        gsl_matrix_free(dW[t]);
        gsl_matrix_free(F[t]);
    }
    problem_free(&p);
}

/* w_{r+m/2} = w_r, a_{r+m/2} = -a_r: F = 0 exactly, whatever the cut of the halves. */
static void test_mirrored_cancels(void **state)
{
    (void)state;
    const size_t lens[] = { 2, 30, 64, 66, 5000 };
    gsl_matrix *X = gsl_matrix_alloc(5, 7), *F = gsl_matrix_alloc(5, 7);
    random_normal(8, RANDOM_INPUTS, 0, 0, X->data, 35);
    for (size_t l = 0; l < sizeof lens / sizeof *lens; l++) {
        gsl_matrix *W = gsl_matrix_alloc(lens[l], 7);
        gsl_vector *signs = gsl_vector_alloc(lens[l]);
        assert_int_equal(prefix_draw(1, 0, PREFIX_SIGNS_MIRRORED, 1.1, W, signs, 1), GSL_SUCCESS);
        assert_int_equal(prefix_model_forward(W, signs, X, F, 2), GSL_SUCCESS);
        for (size_t i = 0; i < 35; i++) assert_true(F->data[i] == 0.0);
        gsl_matrix_free(W);
        gsl_vector_free(signs);
    }
    gsl_matrix_free(X);
    gsl_matrix_free(F);
}

/* Prefixes of one trial are nested; signs follow their law. */
static void test_draw(void **state)
{
    (void)state;
    gsl_matrix *small = gsl_matrix_alloc(5, 3), *large = gsl_matrix_alloc(9, 3), *other = gsl_matrix_alloc(9, 3);
    gsl_vector *a = gsl_vector_alloc(5), *b = gsl_vector_alloc(9);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_RANDOM, 0.3, small, a, 1), GSL_SUCCESS);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_RANDOM, 0.3, large, b, 2), GSL_SUCCESS);
    CHECK_SAME_BITS(small->data, large->data, 15);
    CHECK_SAME_BITS(a->data, b->data, 5);
    assert_int_equal(prefix_draw(4, 2, PREFIX_SIGNS_RANDOM, 0.3, other, b, 1), GSL_SUCCESS);
    assert_true(other->data[0] != large->data[0]);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_POSITIVE, 0.3, other, b, 1), GSL_SUCCESS);
    CHECK_SAME_BITS(other->data, large->data, 27);
    for (size_t r = 0; r < 9; r++) assert_true(gsl_vector_get(b, r) == 1.0);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_MIRRORED, 0.3, other, b, 1), GSL_EINVAL);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_RANDOM, 0.0, other, b, 1), GSL_EDOM);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_RANDOM, NAN, other, b, 1), GSL_EDOM);
    assert_int_equal(prefix_draw(4, 1, PREFIX_SIGNS_RANDOM, 0.3, other, a, 1), GSL_EBADLEN);
    gsl_matrix_free(small);
    gsl_matrix_free(large);
    gsl_matrix_free(other);
    gsl_vector_free(a);
    gsl_vector_free(b);
}

/* Scores of +-700 and more: no overflow, and the softmax picks its token. */
static void test_large_scores(void **state)
{
    (void)state;
    gsl_matrix *W = gsl_matrix_calloc(40, 2), *X = gsl_matrix_alloc(1, 2), *F = gsl_matrix_alloc(1, 2);
    gsl_vector *signs = gsl_vector_alloc(40);
    gsl_vector_set_all(signs, 1.0);
    for (size_t r = 0; r < 40; r++) gsl_matrix_set(W, r, 0, r == 37 ? 900.0 : -900.0 - (double)r);
    gsl_matrix_set(X, 0, 0, 1.7);
    gsl_matrix_set(X, 0, 1, -0.3);
    assert_int_equal(prefix_model_forward(W, signs, X, F, 1), GSL_SUCCESS);
    CHECK_CLOSE(gsl_matrix_get(F, 0, 0), 40.0 * 900.0, RTOL_ROUNDOFF, 0.0);
    gsl_matrix_set(W, 3, 1, NAN);
    assert_int_equal(prefix_model_forward(W, signs, X, F, 1), GSL_EDOM);
    gsl_matrix_free(W);
    gsl_matrix_free(X);
    gsl_matrix_free(F);
    gsl_vector_free(signs);
}

static void test_refusals(void **state)
{
    (void)state;
    const size_t shape[3] = { 6, 3, 4 };
    struct problem p = problem_make(shape, 0.5);
    gsl_matrix *wrong = gsl_matrix_alloc(2, 4), *F = gsl_matrix_alloc(3, 4), *dW = gsl_matrix_alloc(6, 4);
    double loss;
    assert_int_equal(prefix_model_forward(p.W, p.signs, p.X, wrong, 1), GSL_EBADLEN);
    assert_int_equal(prefix_model_loss(F, wrong, &loss), GSL_EBADLEN);
    assert_int_equal(prefix_model_gradient(p.W, p.signs, p.X, wrong, dW, NULL, NULL, 1), GSL_EBADLEN);
    assert_int_equal(prefix_model_gradient(p.W, p.signs, p.X, p.Y, wrong, NULL, NULL, 1), GSL_EBADLEN);
    gsl_matrix_set(p.Y, 1, 1, NAN);
    assert_int_equal(prefix_model_gradient(p.W, p.signs, p.X, p.Y, dW, NULL, NULL, 1), GSL_EDOM);
    gsl_matrix_free(wrong);
    gsl_matrix_free(F);
    gsl_matrix_free(dW);
    problem_free(&p);
}

/* The vector exp of every instruction set against libm. */
static void test_exp(void **state)
{
    (void)state;
    enum { COUNT = 4096 };
    static double x[COUNT], got[COUNT];
    pass_exp_fn *const fns[] = {
        [ISA_ID_PORTABLE] = pass_exp_portable,
#if defined(__x86_64__)
        [ISA_ID_AVX2] = pass_exp_avx2, [ISA_ID_AVX512] = pass_exp_avx512,
#elif defined(__aarch64__)
        [ISA_ID_NEON] = pass_exp_neon,
#endif
    };
    for (size_t f = 0; f < sizeof fns / sizeof *fns; f++) {
        if (!isa_available((enum isa)f)) continue;
        for (int i = 0; i < COUNT; i++) x[i] = -708.0 + (708.0 + 709.0) * i / (COUNT - 1.0);
        fns[f](x, got, COUNT);
        for (int i = 0; i < COUNT; i++) CHECK_CLOSE(got[i], exp(x[i]), 4.0 * DBL_EPSILON, 0.0);
        const double odd[8] = { 0.0, -0.0, -709.5, -INFINITY, 1e-300, -1e-17, NAN, -1e6 };
        fns[f](odd, got, 8);
        assert_true(got[0] == 1.0 && got[1] == 1.0 && got[2] == 0.0 && got[3] == 0.0);
        assert_true(got[4] == 1.0 && got[5] == 1.0 && isnan(got[6]) && got[7] == 0.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_against_plain_loops),
        cmocka_unit_test(test_gradient_by_differences),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_mirrored_cancels),
        cmocka_unit_test(test_draw),
        cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_refusals),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests_name("prefix_model", tests, NULL, NULL);
}
