/* p-values of verdicts and Holm's adjustment. */
#include "common/multiplicity.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <math.h>

/* A few sums and products. */
static const double RTOL_ROUNDOFF = 1e-13;

static const double LEVEL = 0.999;

/* Law: p <= (1 - level)/2 if and only if the verdict is decided. */
static void test_p_agrees_with_the_verdict(void **state)
{
    (void)state;
    static const double x[] = { 0.31, 0.44, 0.29, 0.52, 0.38, 0.47, 0.33 };
    struct interval mean, rate;
    assert_int_equal(stats_mean(x, 7, LEVEL, &mean), GSL_SUCCESS);
    assert_int_equal(stats_rate(3.0, 41.0, LEVEL, &rate), GSL_SUCCESS);
    const struct interval measured[] = { mean, rate, { 0.31, 0.27, 0.37, 0 }, { 0.31, -0.7, 0.37, 1 } };
    for (size_t i = 0; i < sizeof measured / sizeof *measured; i++)
        for (int a = -40; a <= 40; a++)
            for (int b = a; b <= 41; b += 7) {
                const struct margin margin = { a == -40 ? -INFINITY : 0.0251 * a, b == 41 ? INFINITY : 0.0251 * b };
                const double p = verdict_p_value(measured[i], LEVEL, margin);
                const bool decided = verdict_by_margin(measured[i], margin) != VERDICT_INCONCLUSIVE;
                if (decided != (p <= 0.5 * (1.0 - LEVEL)))
                    fail_msg("interval %zu, margin [%g, %g]: p = %g, decided %d", i, margin.lo, margin.hi, p, decided);
            }
}

static void test_p_by_hand(void **state)
{
    (void)state;
    /* t of 4 degrees of freedom: P(t > 8.610302) = 0.0005, P(t > 2.776445) = 0.025. */
    const struct interval five = { 1.0, 1.0 - 0.8610302, 1.0 + 0.8610302, 5 };
    CHECK_CLOSE(verdict_p_value(five, LEVEL, (struct margin){ 1.0 - 0.2776445, INFINITY }), 0.025, 1e-6, 0.0);
    CHECK_CLOSE(verdict_p_value(five, LEVEL, (struct margin){ -INFINITY, 1.0 - 0.2776445 }), 0.025, 1e-6, 0.0);
    /* No failure in 20: P(none | rate 0.3) = 0.7^20. */
    struct interval none;
    assert_int_equal(stats_rate(0.0, 20.0, LEVEL, &none), GSL_SUCCESS);
    CHECK_CLOSE(verdict_p_value(none, LEVEL, (struct margin){ -INFINITY, 0.3 }), pow(0.7, 20.0), 1e-9, 0.0);
    /* Nothing measured, an open interval, and a point on the edge. */
    assert_true(verdict_p_value((struct interval){ NAN, NAN, NAN, 0 }, LEVEL, (struct margin){ 0, 1 }) == 1.0);
    assert_true(verdict_p_value((struct interval){ 0.5, -INFINITY, INFINITY, 1 }, LEVEL, (struct margin){ 0,
        1 }) == 1.0);
    assert_true(verdict_p_value((struct interval){ 1.0, 1.0, 1.0, 9 }, LEVEL, (struct margin){ 1.0, 1.0 }) == 0.0);
}

static void test_holm(void **state)
{
    (void)state;
    /* Sorted 0.01, 0.02, 0.03, 0.04: 4 x 0.01, 3 x 0.02, then 2 x 0.03 and 0.04, which may not fall. */
    double p[] = { 0.03, 0.01, 0.04, 0.02 };
    const double want[] = { 0.06, 0.04, 0.06, 0.06 };
    assert_int_equal(holm_adjust(p, 4, p), GSL_SUCCESS);
    for (size_t i = 0; i < 4; i++) CHECK_CLOSE(p[i], want[i], RTOL_ROUNDOFF, 0.0);
    double high[] = { 0.7, 0.9 };
    assert_int_equal(holm_adjust(high, 2, high), GSL_SUCCESS);
    assert_true(high[0] == 1.0 && high[1] == 1.0);
    assert_int_equal(holm_adjust((double[]){ 0.1, NAN }, 2, high), GSL_EDOM);
    assert_int_equal(holm_adjust((double[]){ 0.1, -0.1 }, 2, high), GSL_EDOM);
    assert_int_equal(holm_adjust(NULL, 0, NULL), GSL_SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_p_agrees_with_the_verdict),
        cmocka_unit_test(test_p_by_hand),
        cmocka_unit_test(test_holm),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
