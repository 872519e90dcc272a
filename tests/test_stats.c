/* Intervals, slopes and verdicts: against published values, and by coverage. */
#include "common/random.h"
#include "common/stats.h"
#include "tests/support/check.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_randist.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double RTOL_ROUNDOFF = 1e-12;
/* Quantile functions of GSL are solved by iteration. */
static const double RTOL_QUANTILE = 1e-8;

/* By hand: mean 1, variance 15.36 / 4, and t(0.975, 4) = 2.7764451051977987. */
static void test_mean(void **state)
{
    (void)state;
    const double x[] = { 0.7, -1.3, 2.9, 3.1, -0.4 };
    const double half = 2.7764451051977987 * sqrt(3.84 / 5.0);
    struct interval mean;
    assert_int_equal(stats_mean(x, 5, 0.95, &mean), GSL_SUCCESS);
    CHECK_CLOSE(mean.value, 1.0, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(mean.lo, 1.0 - half, RTOL_QUANTILE, 0.0);
    CHECK_CLOSE(mean.hi, 1.0 + half, RTOL_QUANTILE, 0.0);
    assert_int_equal(mean.n, 5);
    /* A planted error in the quantile (normal instead of t) is seen. */
    assert_false(is_close(mean.hi, 1.0 + 1.959963984540054 * sqrt(3.84 / 5.0), RTOL_QUANTILE, 0.0));

    assert_int_equal(stats_mean(x, 1, 0.95, &mean), GSL_SUCCESS);
    assert_true(mean.value == 0.7 && isinf(mean.lo) && mean.lo < 0 && isinf(mean.hi) && mean.hi > 0);
    assert_int_equal(stats_mean((double[]){ 1.5, 1.5, 1.5 }, 3, 0.999, &mean), GSL_SUCCESS);
    assert_true(mean.lo == 1.5 && mean.hi == 1.5);

    assert_int_equal(stats_mean(x, 0, 0.95, &mean), GSL_EBADLEN);
    assert_int_equal(stats_mean((double[]){ 1.0, NAN }, 2, 0.95, &mean), GSL_EDOM);
    assert_int_equal(stats_mean((double[]){ 1.0, INFINITY }, 2, 0.95, &mean), GSL_EDOM);
    assert_int_equal(stats_mean(x, 5, 1.0, &mean), GSL_EINVAL);
    assert_int_equal(stats_mean(x, 5, NAN, &mean), GSL_EINVAL);
}

/* A 90 % interval covers the truth in 90 % of experiments. */
static void test_coverage(void **state)
{
    (void)state;
    enum { EXPERIMENTS = 4000, N = 6 };
    double covered = 0.0;
    for (uint64_t e = 0; e < EXPERIMENTS; e++) {
        double x[N];
        random_normal(8, RANDOM_OTHER, e, 0, x, N);
        struct interval mean;
        assert_int_equal(stats_mean(x, N, 0.9, &mean), GSL_SUCCESS);
        covered += mean.lo <= 0.0 && mean.hi >= 0.0;
    }
    struct interval rate;
    assert_int_equal(stats_rate(covered, EXPERIMENTS, 0.999, &rate), GSL_SUCCESS);
    assert_true(rate.lo <= 0.9 && rate.hi >= 0.9);
}

static void test_median(void **state)
{
    (void)state;
    enum { N = 101 };
    double x[N];
    random_normal(8, RANDOM_OTHER, 1, 0, x, N);
    struct interval median, again, wide;
    assert_int_equal(stats_median_bootstrap(x, N, 0.95, 5, &median), GSL_SUCCESS);
    assert_int_equal(stats_median_bootstrap(x, N, 0.95, 5, &again), GSL_SUCCESS);
    assert_memory_equal(&median, &again, sizeof median);
    assert_int_equal(stats_median_bootstrap(x, N, 0.999, 5, &wide), GSL_SUCCESS);
    assert_true(wide.lo <= median.lo && median.lo <= median.value && median.value <= median.hi && median.hi <= wide.hi);
    /* The median's error is sqrt(pi/2n), its interval about four of these wide. */
    const double width = 2.0 * 1.96 * sqrt(M_PI / 2.0 / N);
    assert_true(median.hi - median.lo > 0.5 * width && median.hi - median.lo < 2.0 * width);
    assert_true(median.lo < 0.0 && median.hi > 0.0);

    assert_int_equal(stats_median_bootstrap((double[]){ 3.0, 1.0, 2.0, 9.0 }, 4, 0.95, 5, &median), GSL_SUCCESS);
    assert_true(median.value == 2.5);
    assert_int_equal(stats_median_bootstrap(x, 1, 0.95, 5, &median), GSL_SUCCESS);
    assert_true(isinf(median.lo) && isinf(median.hi));
    assert_int_equal(stats_median_bootstrap(x, 0, 0.95, 5, &median), GSL_EBADLEN);
    assert_int_equal(stats_median_bootstrap((double[]){ NAN }, 1, 0.95, 5, &median), GSL_EDOM);
}

/* Clopper and Pearson by their definition: at the ends of the interval the observed
 * tail of the binomial distribution has probability (1 - level) / 2. */
static void test_rate(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 41; n += 5)
        for (unsigned k = 0; k <= n; k++) {
            struct interval rate;
            assert_int_equal(stats_rate(k, n, 0.95, &rate), GSL_SUCCESS);
            CHECK_CLOSE(rate.value, (double)k / n, RTOL_ROUNDOFF, 0.0);
            if (k) CHECK_CLOSE(gsl_cdf_binomial_Q(k - 1, rate.lo, n), 0.025, 1e-6, 0.0);
            else assert_true(rate.lo == 0.0);
            if (k < n) CHECK_CLOSE(gsl_cdf_binomial_P(k, rate.hi, n), 0.025, 1e-6, 0.0);
            else assert_true(rate.hi == 1.0);
        }
    struct interval rate;
    assert_int_equal(stats_rate(1, 0, 0.95, &rate), GSL_EDOM);
    assert_int_equal(stats_rate(3, 2, 0.95, &rate), GSL_EDOM);
    assert_int_equal(stats_rate(-1, 2, 0.95, &rate), GSL_EDOM);
    assert_int_equal(stats_rate(NAN, 2, 0.95, &rate), GSL_EDOM);
    assert_int_equal(stats_rate(1, NAN, 0.95, &rate), GSL_EDOM);
}

static void test_loglog_slope(void **state)
{
    (void)state;
    enum { NUM_X = 5, NUM_TRIALS = 7 };
    const double x[NUM_X] = { 256, 1024, 4096, 16384, 65536 };
    double y[NUM_TRIALS * NUM_X], exponents[NUM_TRIALS];
    /* Powers with exponents of their own: the slope is their mean, with its interval. */
    random_normal(8, RANDOM_OTHER, 2, 0, exponents, NUM_TRIALS);
    for (size_t t = 0; t < NUM_TRIALS; t++) {
        exponents[t] = -0.5 + 0.01 * exponents[t];
        for (size_t i = 0; i < NUM_X; i++) y[t * NUM_X + i] = 0.3 * (double)(t + 1) * pow(x[i], exponents[t]);
    }
    struct interval slope, mean;
    assert_int_equal(stats_loglog_slope(x, y, NUM_X, NUM_TRIALS, 0.999, &slope), GSL_SUCCESS);
    assert_int_equal(stats_mean(exponents, NUM_TRIALS, 0.999, &mean), GSL_SUCCESS);
    CHECK_CLOSE(slope.value, mean.value, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(slope.lo, mean.lo, 1e-10, 0.0);
    CHECK_CLOSE(slope.hi, mean.hi, 1e-10, 0.0);
    assert_int_equal(slope.n, NUM_TRIALS);

    assert_int_equal(stats_loglog_slope(x, y, 1, NUM_TRIALS, 0.999, &slope), GSL_EBADLEN);
    assert_int_equal(stats_loglog_slope(x, y, NUM_X, 0, 0.999, &slope), GSL_EBADLEN);
    assert_int_equal(stats_loglog_slope((double[]){ 5, 5 }, y, 2, 1, 0.999, &slope), GSL_EDOM);
    assert_int_equal(stats_loglog_slope((double[]){ 0, 5 }, y, 2, 1, 0.999, &slope), GSL_EDOM);
    y[3] = 0.0;
    assert_int_equal(stats_loglog_slope(x, y, NUM_X, NUM_TRIALS, 0.999, &slope), GSL_EDOM);
    y[3] = NAN;
    assert_int_equal(stats_loglog_slope(x, y, NUM_X, NUM_TRIALS, 0.999, &slope), GSL_EDOM);
}

/* Anscombe's first quartet: y = 3.000091 + 0.5000909 x, standard error of the slope
 * 0.1179055 (R). */
static void test_line(void **state)
{
    (void)state;
    const double x[] = { 10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5 };
    const double y[] = { 8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68 };
    struct interval slope;
    double intercept;
    assert_int_equal(stats_line(x, y, 11, 0.95, &slope, &intercept), GSL_SUCCESS);
    CHECK_CLOSE(intercept, 3.000091, 1e-6, 0.0);
    CHECK_CLOSE(slope.value, 0.5000909, 1e-6, 0.0);
    CHECK_CLOSE(slope.hi - slope.value, 2.2621571628 * 0.1179055, 1e-6, 0.0);
    CHECK_CLOSE(slope.value - slope.lo, 2.2621571628 * 0.1179055, 1e-6, 0.0);
    assert_int_equal(stats_line(x, y, 2, 0.95, &slope, &intercept), GSL_SUCCESS);
    assert_true(isinf(slope.lo) && isinf(slope.hi));
    assert_int_equal(stats_line(x, y, 1, 0.95, &slope, &intercept), GSL_EBADLEN);
    assert_int_equal(stats_line((double[]){ 2, 2, 2 }, y, 3, 0.95, &slope, &intercept), GSL_EDOM);
    assert_int_equal(stats_line(x, (double[]){ 2, NAN, 2 }, 3, 0.95, &slope, &intercept), GSL_EDOM);
}

static void test_margins(void **state)
{
    (void)state;
    struct margin m;
    assert_int_equal(margin_parse("in [-0.55, -0.45]", &m), GSL_SUCCESS);
    assert_true(m.lo == -0.55 && m.hi == -0.45);
    assert_int_equal(margin_parse("  in[ 1e-3 ,2.5 ] ", &m), GSL_SUCCESS);
    assert_true(m.lo == 1e-3 && m.hi == 2.5);
    assert_int_equal(margin_parse("<= 0.1", &m), GSL_SUCCESS);
    assert_true(isinf(m.lo) && m.lo < 0 && m.hi == 0.1);
    assert_int_equal(margin_parse(">=-3", &m), GSL_SUCCESS);
    assert_true(m.lo == -3.0 && isinf(m.hi) && m.hi > 0);
    static const char *const bad[] = { "", "0.5", "< 0.5", "> 1", "= 1", "<=", "<= x", "<= 1 x", "in [1, 2", "in 1, 2]",
                                       "in [2, 1]", "in [1; 2]", "in [1, nan]", "<= inf", ">= nan", "<= 0x10",
                                       "in [1, 2] or so", "between 1 and 2" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(margin_parse(bad[i], &m), GSL_EINVAL);
}

static void test_verdicts(void **state)
{
    (void)state;
    const struct { double lo, hi; enum verdict want; } cases[] = {
        { 0.92, 1.05, VERDICT_SUPPORTED },     { 0.9, 1.1, VERDICT_SUPPORTED },
        { 0.89, 1.0, VERDICT_INCONCLUSIVE },
        { 1.0, 1.2, VERDICT_INCONCLUSIVE },    { 0.5, 1.5, VERDICT_INCONCLUSIVE },
        { 1.11, 1.2, VERDICT_CONTRADICTED },
        { 0.1, 0.89, VERDICT_CONTRADICTED },   { NAN, 1.0, VERDICT_INCONCLUSIVE },
        { 1.0, NAN, VERDICT_INCONCLUSIVE },
        { NAN, 2.0, VERDICT_INCONCLUSIVE },    { -INFINITY, INFINITY, VERDICT_INCONCLUSIVE },
        { 1.05, 0.95, VERDICT_INCONCLUSIVE },
    };
    const struct margin margin = { 0.9, 1.1 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct interval measured = { 1.0, cases[i].lo, cases[i].hi, 9 };
        assert_int_equal(verdict_by_margin(measured, margin), cases[i].want);
    }
    /* NaN never supports, even inside an open margin. */
    assert_int_equal(verdict_by_margin((struct interval){ NAN, 0.9, 1.0, 9 }, margin), VERDICT_INCONCLUSIVE);
    assert_int_equal(verdict_by_margin((struct interval){ NAN, NAN, NAN, 0 }, (struct margin){ -INFINITY, 1.0 }),
                     VERDICT_INCONCLUSIVE);
    assert_int_equal(verdict_by_margin((struct interval){ 1.0, 1.0, 1.0, 1 }, (struct margin){ NAN, 2.0 }),
                     VERDICT_INCONCLUSIVE);
    assert_string_equal(verdict_name(VERDICT_SUPPORTED), "supported");
    assert_string_equal(verdict_name(VERDICT_CONTRADICTED), "contradicted");
    assert_string_equal(verdict_name(VERDICT_INCONCLUSIVE), "inconclusive");
    assert_string_equal(verdict_name(VERDICT_NOT_TESTED), "not tested");
}

/* The comparisons every other test rests on refuse what they must. */
static void test_comparisons(void **state)
{
    (void)state;
    assert_true(is_close(1.0 + 1e-13, 1.0, 1e-12, 0.0));
    assert_false(is_close(1.0 + 1e-11, 1.0, 1e-12, 0.0));
    assert_false(is_close(NAN, 1.0, 1.0, 1.0));
    assert_false(is_close(1.0, NAN, 1.0, 1.0));
    assert_false(is_close(NAN, NAN, 1.0, 1.0));
    assert_false(is_close(INFINITY, INFINITY, 1.0, 1.0));
    assert_false(is_close(INFINITY, 1.0, 1.0, 1e300));
    double a[] = { 3.0, 4.0 }, b[] = { 3.0, 4.5 };
    gsl_matrix_view got = gsl_matrix_view_array(b, 1, 2), want = gsl_matrix_view_array(a, 1, 2);
    CHECK_CLOSE(relative_error(&got.matrix, &want.matrix), 0.1, RTOL_ROUNDOFF, 0.0);
    gsl_matrix_view other = gsl_matrix_view_array(b, 2, 1);
    assert_true(isnan(relative_error(&other.matrix, &want.matrix)));
    b[1] = NAN;
    assert_false(relative_error(&got.matrix, &want.matrix) <= 1.0);
    assert_false(relative_error(&want.matrix, &got.matrix) <= 1.0);
}

/* Normal equations by hand on an orthogonal design: b = (sum y / 4, sum +-y / 4, ...). */
static void test_regression(void **state)
{
    (void)state;
    const double x[] = { 1, -1, -1, 1, -1, 1, 1, 1, -1, 1, 1, 1 }, y[] = { 0.7, -1.3, 2.9, 3.5 };
    struct interval b[3];
    assert_int_equal(stats_regression(x, y, 4, 3, 0.95, b), GSL_SUCCESS);
    CHECK_CLOSE(b[0].value, 5.8 / 4.0, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(b[1].value, 7.0 / 4.0, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(b[2].value, -1.4 / 4.0, 1e-11, 0.0);
    /* The contrast left over has square (0.7 + 1.3 - 2.9 + 3.5)^2 / 4, one degree of freedom: t(0.975, 1) =
     * 12.706204736174694. */
    const double half = 12.706204736174694 * sqrt(2.6 * 2.6 / 4.0 / 4.0);
    CHECK_CLOSE(b[1].hi - b[1].value, half, RTOL_QUANTILE, 0.0);
    assert_false(is_close(b[1].hi - b[1].value, half / sqrt(4.0), RTOL_QUANTILE, 0.0));
    /* One column: stats_line's slope. */
    struct interval line;
    double two[8], intercept;
    for (int i = 0; i < 4; i++) {
        two[2 * i] = 1.0;
        two[2 * i + 1] = 0.3 * i * i;
    }
    assert_int_equal(stats_line((double[]){ 0.0, 0.3, 1.2, 2.7 }, y, 4, 0.95, &line, &intercept), GSL_SUCCESS);
    assert_int_equal(stats_regression(two, y, 4, 2, 0.95, b), GSL_SUCCESS);
    CHECK_CLOSE(b[1].lo, line.lo, 1e-11, 0.0);
    assert_int_equal(stats_regression(x, y, 3, 3, 0.95, b), GSL_EBADLEN);
    for (int i = 0; i < 4; i++) two[2 * i + 1] = 2.0;
    assert_int_equal(stats_regression(two, y, 4, 2, 0.95, b), GSL_EDOM);
    assert_int_equal(stats_regression(two, (double[]){ 1, NAN, 2, 3 }, 4, 2, 0.95, b), GSL_EDOM);
}

/* Censoring at a level: the slope is recovered and covered; leaving the censored out, or taking them at
 * their bound, the planted errors, are not. */
static void test_censored_line(void **state)
{
    (void)state;
    enum { N = 40, EXPERIMENTS = 400 };
    double x[N], y[N], covered = 0.0, naive = 0.0;
    int censored[N] = { 0 };
    struct interval slope, line;
    double intercept;
    for (uint64_t e = 0; e < EXPERIMENTS; e++) {
        random_normal(9, RANDOM_OTHER, e, 0, y, N);
        for (int i = 0; i < N; i++) {
            x[i] = 0.1 * i;
            y[i] = 0.5 * y[i] + 0.7 + 2.0 * x[i];
            censored[i] = y[i] > 5.0;
            if (censored[i]) y[i] = 5.0;
        }
        assert_int_equal(stats_censored_line(x, y, censored, N, 0.95, &slope), GSL_SUCCESS);
        covered += slope.lo <= 2.0 && slope.hi >= 2.0;
        assert_int_equal(stats_line(x, y, N, 0.95, &line, &intercept), GSL_SUCCESS);
        naive += line.lo <= 2.0 && line.hi >= 2.0;
    }
    /* The interval rests on the information, not on exact theory: 95 % within 3. */
    assert_true(covered / EXPERIMENTS > 0.91 && covered / EXPERIMENTS < 0.99);
    CHECK_LESS(naive / EXPERIMENTS, 0.05);
    /* Nothing censored: least squares. */
    for (int i = 0; i < N; i++) censored[i] = 0;
    assert_int_equal(stats_line(x, y, N, 0.95, &line, &intercept), GSL_SUCCESS);
    assert_int_equal(stats_censored_line(x, y, censored, N, 0.95, &slope), GSL_SUCCESS);
    CHECK_CLOSE(slope.value, line.value, 1e-8, 0.0);
    for (int i = 2; i < N; i++) censored[i] = 1;
    assert_int_equal(stats_censored_line(x, y, censored, N, 0.95, &slope), GSL_EDOM);
    assert_int_equal(stats_censored_line(x, y, censored, 3, 0.95, &slope), GSL_EBADLEN);
    y[1] = INFINITY;
    assert_int_equal(stats_censored_line(x, y, censored, N, 0.95, &slope), GSL_EDOM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mean),    cmocka_unit_test(test_coverage), cmocka_unit_test(test_regression),
            cmocka_unit_test(test_censored_line),      cmocka_unit_test(test_median),
        cmocka_unit_test(test_rate),    cmocka_unit_test(test_loglog_slope),  cmocka_unit_test(test_line),
        cmocka_unit_test(test_margins), cmocka_unit_test(test_verdicts),      cmocka_unit_test(test_comparisons),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
