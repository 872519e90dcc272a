/* Descent, its linearisation, the real layer, the second-order fit, the kernel's derivative. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/isa.h"
#include "common/random.h"
#include "prefix_ntk/ntk.h"
#include "prefix_ntk/prefix_descent.h"
#include "prefix_ntk/prefix_fit.h"
#include "tests/support/check.h"

#define RTOL_ROUNDOFF 1e-11
#define RTOL_FINITE_DIFF 1e-6

struct problem { gsl_matrix *W, *X, *Y; gsl_vector *signs; };

/* Unit inputs and targets, as the experiments draw them. */
static struct problem problem_make(size_t m, size_t n, size_t d, double sigma, enum prefix_signs law)
{
    struct problem p = { gsl_matrix_alloc(m, d), gsl_matrix_alloc(n, d), gsl_matrix_alloc(n, d), gsl_vector_alloc(m) };
    assert_int_equal(prefix_draw(21, 3, law, sigma, p.W, p.signs, 1), GSL_SUCCESS);
    gsl_matrix *const both[] = { p.X, p.Y };
    for (int b = 0; b < 2; b++)
        for (size_t i = 0; i < n; i++) {
            random_normal(6, b ? RANDOM_TARGETS : RANDOM_INPUTS, 0, i, gsl_matrix_ptr(both[b], i, 0), d);
            gsl_vector_view row = gsl_matrix_row(both[b], i);
            gsl_vector_scale(&row.vector, 1.0 / gsl_blas_dnrm2(&row.vector));
        }
    return p;
}

static void problem_free(struct problem *p)
{
    gsl_matrix_free(p->W);
    gsl_matrix_free(p->X);
    gsl_matrix_free(p->Y);
    gsl_vector_free(p->signs);
}

/* J of any map W -> F by central differences, column by column. */
static void jacobian_by_differences(const struct problem *p, const struct prefix_layer *layer, gsl_matrix *J)
{
    const double h = cbrt(DBL_EPSILON);
    for (size_t c = 0; c < J->size2; c++)
        for (int side = 0; side < 2; side++) {
            gsl_matrix *moved = gsl_matrix_alloc(p->W->size1, p->W->size2);
            struct prefix_descent *descent;
            gsl_matrix_memcpy(moved, p->W);
            moved->data[c] += side ? h : -h;
            assert_int_equal(prefix_descent_alloc(moved, p->signs, p->X, layer, p->Y, 1, &descent), GSL_SUCCESS);
            const gsl_matrix *F = prefix_descent_outputs(descent);
            for (size_t row = 0; row < J->size1; row++) {
                double *entry = gsl_matrix_ptr(J, row, c);
                if (side) *entry = (F->data[row] - *entry) / (2.0 * h);
                else *entry = F->data[row];
            }
            prefix_descent_free(descent);
            gsl_matrix_free(moved);
        }
}

static void test_jacobian(void **state)
{
    (void)state;
    struct problem p = problem_make(7, 3, 4, 0.9, PREFIX_SIGNS_RANDOM);
    gsl_matrix *J = gsl_matrix_alloc(12, 28), *differences = gsl_matrix_alloc(12, 28);
    assert_int_equal(ntk_jacobian(p.W, p.signs, p.X, NTK_FULL, J), GSL_SUCCESS);
    jacobian_by_differences(&p, NULL, differences);
    CHECK_MATRIX_CLOSE(J, differences, RTOL_FINITE_DIFF);
    gsl_matrix_free(J);
    gsl_matrix_free(differences);
    problem_free(&p);
}

/* One step is W - eta dL/dW, and its loss and F are those of the moved prefix, with every
 * instruction set. */
static void test_step_is_gradient(void **state)
{
    (void)state;
    const enum isa before = isa_current();
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        struct problem p = problem_make(77, 5, 9, 0.8, PREFIX_SIGNS_RANDOM);
        gsl_matrix *W = gsl_matrix_alloc(77, 9), *dW = gsl_matrix_alloc(77, 9), *F = gsl_matrix_alloc(5, 9);
        struct prefix_descent *descent;
        double loss;
        gsl_matrix_memcpy(W, p.W);
        assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 2, &descent), GSL_SUCCESS);
        for (int step = 0; step < 3; step++) {
            assert_int_equal(prefix_model_gradient(W, p.signs, p.X, p.Y, dW, F, &loss, 1), GSL_SUCCESS);
            CHECK_CLOSE(prefix_descent_loss(descent), loss, RTOL_ROUNDOFF, 0.0);
            CHECK_MATRIX_CLOSE(prefix_descent_outputs(descent), F, RTOL_ROUNDOFF);
            for (size_t i = 0; i < 77 * 9; i++) W->data[i] -= 3e-4 * dW->data[i];
            assert_int_equal(prefix_descent_step(descent, 3e-4), GSL_SUCCESS);
            CHECK_MATRIX_CLOSE(prefix_descent_prefix(descent), W, RTOL_ROUNDOFF);
        }
        prefix_descent_free(descent);
        gsl_matrix_free(W);
        gsl_matrix_free(dW);
        gsl_matrix_free(F);
        problem_free(&p);
    }
    assert_int_equal(isa_force(before), GSL_SUCCESS);
}

/* Threads do not change a bit, and a restored descent goes on bit by bit. */
static void test_bits(void **state)
{
    (void)state;
    struct problem p = problem_make(5003, 9, 8, 0.5, PREFIX_SIGNS_RANDOM);
    struct prefix_descent *one, *three, *resumed;
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 1, &one), GSL_SUCCESS);
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 3, &three), GSL_SUCCESS);
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 2, &resumed), GSL_SUCCESS);
    for (int step = 0; step < 8; step++) {
        if (step == 4) {
            double *state_numbers = malloc(prefix_descent_state_size(one) * sizeof *state_numbers);
            prefix_descent_save(one, state_numbers);
            assert_int_equal(prefix_descent_load(resumed, state_numbers), GSL_SUCCESS);
            free(state_numbers);
        }
        assert_int_equal(prefix_descent_step(one, 2e-5), GSL_SUCCESS);
        assert_int_equal(prefix_descent_step(three, 2e-5), GSL_SUCCESS);
        if (step >= 4) assert_int_equal(prefix_descent_step(resumed, 2e-5), GSL_SUCCESS);
    }
    CHECK_SAME_BITS(prefix_descent_prefix(one)->data, prefix_descent_prefix(three)->data, 5003 * 8);
    CHECK_SAME_BITS(prefix_descent_prefix(one)->data, prefix_descent_prefix(resumed)->data, 5003 * 8);
    const double losses[3] = { prefix_descent_loss(one), prefix_descent_loss(three), prefix_descent_loss(resumed) };
    CHECK_SAME_BITS(&losses[0], &losses[1], 1);
    CHECK_SAME_BITS(&losses[0], &losses[2], 1);
    prefix_descent_free(one);
    prefix_descent_free(three);
    prefix_descent_free(resumed);
    problem_free(&p);
}

/* A step that throws the scores hundreds of units away leaves the shift behind: the pass
 * with running maxima takes over, and the outputs are those of the model. */
static void test_far_step(void **state)
{
    (void)state;
    struct problem p = problem_make(70, 3, 4, 0.5, PREFIX_SIGNS_RANDOM);
    gsl_matrix *F = gsl_matrix_alloc(3, 4);
    struct prefix_descent *descent;
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 1, &descent), GSL_SUCCESS);
    assert_int_equal(prefix_descent_step(descent, 300.0), GSL_SUCCESS);
    assert_int_equal(prefix_model_forward(prefix_descent_prefix(descent), p.signs, p.X, F, 1), GSL_SUCCESS);
    CHECK_MATRIX_CLOSE(prefix_descent_outputs(descent), F, RTOL_ROUNDOFF);
    prefix_descent_free(descent);
    gsl_matrix_free(F);
    problem_free(&p);
}

/* Law: at large m the loss curve is that of (I - eta m K)^t R_0, and the steps to a
 * loss are the predicted ones. */
static void test_linear_dynamics(void **state)
{
    (void)state;
    const size_t m = 10000, n = 4, d = 5;
    struct problem p = problem_make(m, n, d, 0.5, PREFIX_SIGNS_MIRRORED);
    gsl_matrix *K = gsl_matrix_alloc(n * d, n * d);
    struct prefix_descent *descent;
    struct prefix_linear *linear;
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 2, &descent), GSL_SUCCESS);
    assert_true(prefix_descent_loss(descent) > 0.0);
    assert_int_equal(ntk_gram(p.W, p.signs, p.X, NTK_FULL, K, 2), GSL_SUCCESS);
    assert_int_equal(prefix_linear_alloc(K, prefix_descent_residual(descent), &linear), GSL_SUCCESS);
    const double rate = 1.0 / linear->eigenvalues[n * d - 1], start = prefix_descent_loss(descent);
    CHECK_CLOSE(prefix_linear_loss(linear, rate, 0.0), start, RTOL_ROUNDOFF, 0.0);
    const double predicted_steps = prefix_linear_steps(linear, rate, 1e-6 * start);
    double steps_needed = -1.0;
    for (int step = 1; step <= 1500; step++) {
        assert_int_equal(prefix_descent_step(descent, rate / (double)m), GSL_SUCCESS);
        const double loss = prefix_descent_loss(descent);
        if (step <= 30) CHECK_CLOSE(loss, prefix_linear_loss(linear, rate, step), 0.05, 0.0);
        if (steps_needed < 0.0 && loss <= 1e-6 * start) steps_needed = step;
    }
    CHECK_CLOSE(steps_needed, predicted_steps, 0.05, 1.0);
    CHECK_CLOSE(prefix_linear_loss(linear, rate, predicted_steps), 1e-6 * start, 1e-9, 0.0);
    assert_true(isinf(prefix_linear_steps(linear, rate, 0.0)));
    assert_true(isinf(prefix_linear_steps(linear, 2.1 / linear->eigenvalues[n * d - 1], 1e-6 * start)));
    double rms, max;
    assert_int_equal(prefix_movement(prefix_descent_prefix(descent), p.W, &rms, &max), GSL_SUCCESS);
    assert_true(rms > 0.0 && max >= rms && max < 0.1);
    prefix_linear_free(linear);
    prefix_descent_free(descent);
    gsl_matrix_free(K);
    problem_free(&p);
}

/* Law: below 2/(m lambda_max) the loss falls, above it grows. */
static void test_stability_limit(void **state)
{
    (void)state;
    const size_t m = 4000, n = 3, d = 4;
    struct problem p = problem_make(m, n, d, 0.5, PREFIX_SIGNS_MIRRORED);
    gsl_matrix *K = gsl_matrix_alloc(n * d, n * d);
    gsl_matrix_scale(p.Y, 1e-3);                     /* far inside the linear regime */
    assert_int_equal(ntk_gram(p.W, p.signs, p.X, NTK_FULL, K, 1), GSL_SUCCESS);
    for (int above = 0; above < 2; above++) {
        struct prefix_descent *descent;
        struct prefix_linear *linear;
        assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 1, &descent), GSL_SUCCESS);
        assert_int_equal(prefix_linear_alloc(K, prefix_descent_residual(descent), &linear), GSL_SUCCESS);
        const double step_size = (above ? 2.1 : 1.9) / ((double)m * linear->eigenvalues[n * d - 1]);
        const double start = prefix_descent_loss(descent);
        for (int step = 0; step < 60; step++) assert_int_equal(prefix_descent_step(descent, step_size), GSL_SUCCESS);
        if (above) assert_true(prefix_descent_loss(descent) > 10.0 * start);
        else CHECK_LESS(prefix_descent_loss(descent), 0.1 * start);
        prefix_linear_free(linear);
        prefix_descent_free(descent);
    }
    gsl_matrix_free(K);
    problem_free(&p);
}

/* A real layer by plain loops: prefix and input tokens in one softmax, values by W_V. */
static void layer_ref(const struct problem *p, const gsl_matrix *Z, const gsl_matrix *W_Q, const gsl_matrix *W_K,
                      const gsl_matrix *W_V, gsl_matrix *F)
{
    const size_t m = p->W->size1, L = Z ? Z->size1 : 0, d = p->X->size2, head = W_Q->size2;
    for (size_t i = 0; i < p->X->size1; i++) {
        double total = 0.0, *e = calloc(m + L, sizeof *e);
        for (size_t t = 0; t < m + L; t++) {
            double score = 0.0;
            for (size_t h = 0; h < head; h++) {
                double q = 0.0, key = 0.0;
                for (size_t k = 0; k < d; k++) {
                    q += gsl_matrix_get(p->X, i, k) * gsl_matrix_get(W_Q, k, h);
                    key += gsl_matrix_get(t < m ? p->W : Z, t < m ? t : t - m, k) * gsl_matrix_get(W_K, k, h);
                }
                score += q * key / sqrt((double)head);
            }
            total += e[t] = exp(score);
        }
        for (size_t l = 0; l < W_V->size2; l++) {
            double f = 0.0;
            for (size_t t = 0; t < m + L; t++)
                for (size_t k = 0; k < d; k++)
                    f += e[t] / total * (t < m ? gsl_vector_get(p->signs, t) : 1.0)
                         * gsl_matrix_get(t < m ? p->W : Z, t < m ? t : t - m, k) * gsl_matrix_get(W_V, k, l);
            gsl_matrix_set(F, i, l, (double)m * f);
        }
        free(e);
    }
}

static void test_layer(void **state)
{
    (void)state;
    const size_t m = 41, n = 4, d = 6, head = 5, out = 3;
    struct problem p = problem_make(m, n, d, 0.9, PREFIX_SIGNS_RANDOM);
    gsl_matrix *Y = gsl_matrix_alloc(n, out), *F = gsl_matrix_alloc(n, out), *Z = gsl_matrix_alloc(7, d);
    gsl_matrix *W_Q = gsl_matrix_alloc(d, head), *W_K = gsl_matrix_alloc(d, head), *W_V = gsl_matrix_alloc(d, out);
    gsl_matrix *const drawn[] = { Y, Z, W_Q, W_K, W_V };
    for (size_t q = 0; q < 5; q++)
        random_normal(9, RANDOM_WEIGHTS, q, 0, drawn[q]->data, drawn[q]->size1 * drawn[q]->size2);
    gsl_matrix_free(p.Y);
    p.Y = Y;
    for (int tokens = 0; tokens < 2; tokens++) {
        struct prefix_layer *layer = prefix_layer_alloc(p.X, tokens ? Z : NULL, W_Q, W_K, W_V);
        struct prefix_descent *descent;
        assert_non_null(layer);
        assert_int_equal(prefix_descent_alloc(p.W, p.signs, NULL, layer, Y, 2, &descent), GSL_SUCCESS);
        layer_ref(&p, tokens ? Z : NULL, W_Q, W_K, W_V, F);
        CHECK_MATRIX_CLOSE(prefix_descent_outputs(descent), F, RTOL_ROUNDOFF);
        /* The step follows -J^T R. */
        gsl_matrix *J = gsl_matrix_alloc(n * out, m * d), *moved = gsl_matrix_alloc(m, d),
            *want = gsl_matrix_alloc(m, d);
        jacobian_by_differences(&p, layer, J);
        gsl_vector_const_view R = gsl_vector_const_view_array(prefix_descent_residual(descent)->data, n * out);
        gsl_vector_view step = gsl_vector_view_array(want->data, m * d);
        gsl_blas_dgemv(CblasTrans, -1e-3, J, &R.vector, 0.0, &step.vector);
        assert_int_equal(prefix_descent_step(descent, 1e-3), GSL_SUCCESS);
        gsl_matrix_memcpy(moved, prefix_descent_prefix(descent));
        gsl_matrix_sub(moved, p.W);
        CHECK_MATRIX_CLOSE(moved, want, RTOL_FINITE_DIFF);
        gsl_matrix_free(J);
        gsl_matrix_free(moved);
        gsl_matrix_free(want);
        prefix_descent_free(descent);
        prefix_layer_free(layer);
    }
    assert_null(prefix_layer_alloc(p.X, Z, W_Q, Y, W_V));
    gsl_matrix_free(F);
    gsl_matrix_free(Z);
    gsl_matrix_free(W_Q);
    gsl_matrix_free(W_K);
    gsl_matrix_free(W_V);
    problem_free(&p);
}

/* A prefix that made the targets itself is found again (loss 0), one far too short is not. */
static void test_fit(void **state)
{
    (void)state;
    struct problem p = problem_make(6, 4, 3, 0.7, PREFIX_SIGNS_RANDOM);
    gsl_matrix *start = gsl_matrix_alloc(6, 3);
    double loss = NAN;
    size_t iterations = 0;
    assert_int_equal(prefix_model_forward(p.W, p.signs, p.X, p.Y, 1), GSL_SUCCESS);
    random_normal(2, RANDOM_STARTS, 0, 0, start->data, 18);
    gsl_matrix_scale(start, 0.05);
    gsl_matrix_add(start, p.W);
    assert_int_equal(prefix_fit(start, p.signs, p.X, p.Y, 200, 1e-25, &loss, &iterations), GSL_SUCCESS);
    CHECK_LESS(loss, 1e-25);
    assert_true(iterations > 0 && iterations < 200);
    gsl_matrix_free(start);
    problem_free(&p);
    p = problem_make(1, 5, 3, 0.7, PREFIX_SIGNS_RANDOM);
    assert_int_equal(prefix_fit(p.W, p.signs, p.X, p.Y, 200, 1e-25, &loss, NULL), GSL_SUCCESS);
    assert_true(loss > 0.1);                         /* one token gives F = a_1 w_1 for every x */
    problem_free(&p);
}

/* d<G, K>/dW by signed differences, both kernels; the adversary beats a random shift. */
static void test_kernel_derivative(void **state)
{
    (void)state;
    const size_t m = 45, n = 3, d = 4, nd = n * d;
    const double h = cbrt(DBL_EPSILON);
    struct problem p = problem_make(m, n, d, 0.8, PREFIX_SIGNS_RANDOM);
    gsl_matrix *G = gsl_matrix_alloc(nd, nd), *dW = gsl_matrix_alloc(m, d), *V = gsl_matrix_alloc(m, d);
    gsl_matrix *moved = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(nd, nd);
    random_normal(3, RANDOM_OTHER, 0, 0, G->data, nd * nd);
    random_normal(3, RANDOM_OTHER, 1, 0, V->data, m * d);
    for (size_t a = 0; a < nd; a++)
        for (size_t b = 0; b < a; b++) gsl_matrix_set(G, a, b, gsl_matrix_get(G, b, a));
    for (int kernel = NTK_FULL; kernel <= NTK_KEY; kernel++) {
        double value[2] = { 0.0, 0.0 }, slope = 0.0;
        for (int side = 0; side < 2; side++) {
            gsl_matrix_memcpy(moved, V);
            gsl_matrix_scale(moved, side ? h : -h);
            gsl_matrix_add(moved, p.W);
            assert_int_equal(ntk_gram_syrk(moved, p.signs, p.X, (enum ntk_kernel)kernel, K, 1), GSL_SUCCESS);
            for (size_t a = 0; a < nd * nd; a++) value[side] += G->data[a] * K->data[a];
        }
        assert_int_equal(ntk_gram_gradient(p.W, p.signs, p.X, (enum ntk_kernel)kernel, G, dW), GSL_SUCCESS);
        for (size_t a = 0; a < m * d; a++) slope += dW->data[a] * V->data[a];
        assert_true(fabs(slope) > 1e-3);
        CHECK_CLOSE((value[1] - value[0]) / (2.0 * h), slope, RTOL_FINITE_DIFF, 0.0);
        assert_false(is_close((value[1] - value[0]) / (2.0 * h), 1.001 * slope, RTOL_FINITE_DIFF, 0.0));
    }
    double random_change, change;
    for (size_t r = 0; r < m; r++) {
        gsl_vector_view row = gsl_matrix_row(V, r);
        gsl_vector_scale(&row.vector, 0.01 / gsl_blas_dnrm2(&row.vector));
    }
    gsl_matrix_add(V, p.W);
    assert_int_equal(ntk_adversarial_shift(p.W, p.signs, p.X, NTK_FULL, 0.01, 0, V, &random_change, 1), GSL_SUCCESS);
    assert_int_equal(ntk_adversarial_shift(p.W, p.signs, p.X, NTK_FULL, 0.01, 8, V, &change, 1), GSL_SUCCESS);
    assert_true(change > 2.0 * random_change && random_change > 0.0);
    double rms, max;
    assert_int_equal(prefix_movement(V, p.W, &rms, &max), GSL_SUCCESS);
    CHECK_CLOSE(max, 0.01, 1e-9, 0.0);
    gsl_matrix_free(G);
    gsl_matrix_free(dW);
    gsl_matrix_free(V);
    gsl_matrix_free(moved);
    gsl_matrix_free(K);
    problem_free(&p);
}

static void test_refusals(void **state)
{
    (void)state;
    struct problem p = problem_make(8, 3, 4, 0.5, PREFIX_SIGNS_RANDOM);
    gsl_matrix *wrong = gsl_matrix_alloc(2, 4);
    struct prefix_descent *descent;
    struct prefix_linear *linear;
    double rms, max;
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, wrong, 1, &descent), GSL_EBADLEN);
    assert_null(descent);
    assert_int_equal(prefix_movement(p.W, wrong, &rms, &max), GSL_EBADLEN);
    assert_int_equal(prefix_linear_alloc(p.W, p.Y, &linear), GSL_EBADLEN);
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 1, &descent), GSL_SUCCESS);
    assert_int_equal(prefix_descent_step(descent, INFINITY), GSL_EDOM);
    prefix_descent_free(descent);
    gsl_matrix_set(p.W, 1, 2, NAN);
    assert_int_equal(prefix_descent_alloc(p.W, p.signs, p.X, NULL, p.Y, 1, &descent), GSL_EDOM);
    gsl_matrix_free(wrong);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jacobian),
        cmocka_unit_test(test_step_is_gradient),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_far_step),
        cmocka_unit_test(test_linear_dynamics),
        cmocka_unit_test(test_stability_limit),
        cmocka_unit_test(test_layer),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_kernel_derivative),
        cmocka_unit_test(test_refusals),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests_name("prefix_descent", tests, NULL, NULL);
}
