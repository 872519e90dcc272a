/* Intervals over data sets with several prefixes each: by hand, by coverage, and what they refuse. */
#include "cli/data_sets.h"
#include "common/random.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

static const double RTOL_ROUNDOFF = 1e-12;
/* Quantile functions of GSL are solved by iteration. */
static const double RTOL_QUANTILE = 1e-8;

/* Three data sets of two prefixes: means 1, 2, 4.5; squares within 0.5 + 0.02 + 4.5. */
static const double nested[] = { 0.5, 1.5, 1.9, 2.1, 3.0, 6.0 };

static void test_by_hand(void **state)
{
    (void)state;
    const struct data_spread s = data_spread_mean(nested, (struct data_sets){ 3, 2 }, 0.95);
    const double mean = 2.5, between = (2.25 + 0.25 + 4.0) / 2.0, within = (0.5 + 0.02 + 4.5) / 3.0;
    /* t(0.975, 2) = 4.302652729696142 */
    const double half = 4.302652729696142 * sqrt(between / 3.0);
    CHECK_CLOSE(s.mean.value, mean, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(s.mean.lo, mean - half, RTOL_QUANTILE, 0.0);
    CHECK_CLOSE(s.mean.hi, mean + half, RTOL_QUANTILE, 0.0);
    assert_int_equal(s.mean.n, 3);
    CHECK_CLOSE(s.sd_prefix, sqrt(within), RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(s.sd_data, sqrt(between - within / 2.0), RTOL_ROUNDOFF, 0.0);
    /* Six independent prefixes (the planted error) would claim a narrower one. */
    const struct data_spread wrong = data_spread_mean(nested, (struct data_sets){ 6, 1 }, 0.95);
    assert_false(is_close(wrong.mean.hi, mean + half, 1e-2, 0.0));
    assert_true(isnan(wrong.sd_prefix));
}

/* One data set: the prefixes are the unit, and nothing is known of other data. */
static void test_one_data_set(void **state)
{
    (void)state;
    const struct data_spread s = data_spread_mean(nested, (struct data_sets){ 1, 6 }, 0.95);
    const struct data_spread as_data = data_spread_mean(nested, (struct data_sets){ 6, 1 }, 0.95);
    CHECK_SAME_BITS(&s.mean.lo, &as_data.mean.lo, 1);
    assert_true(isnan(s.sd_data));
    CHECK_CLOSE(s.sd_prefix, as_data.sd_data, RTOL_ROUNDOFF, 0.0);
}

static void test_diverged_is_not_left_out(void **state)
{
    (void)state;
    const double x[] = { 0.7, NAN, -1.3, 2.9 };
    const struct data_spread s = data_spread_mean(x, (struct data_sets){ 2, 2 }, 0.999);
    assert_true(isnan(s.mean.value) && isnan(s.mean.lo) && isnan(s.sd_data));
}

static void test_exponent(void **state)
{
    (void)state;
    const double m[] = { 2.0, 8.0, 32.0 };
    double y[4 * 3];
    const double exponents[] = { -0.5, -0.7, -1.1, -0.9 };
    for (size_t t = 0; t < 4; t++)
        for (size_t i = 0; i < 3; i++) y[t * 3 + i] = 1.7 * pow(m[i], exponents[t]);
    const struct data_spread s = data_spread_exponent(m, y, 3, (struct data_sets){ 2, 2 }, 0.95);
    CHECK_CLOSE(s.mean.value, -0.8, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(s.sd_prefix, sqrt(0.02), RTOL_QUANTILE, 0.0);
    y[4] = -1.0;
    assert_true(isnan(data_spread_exponent(m, y, 3, (struct data_sets){ 2, 2 }, 0.95).mean.value));
}

/* Data sets that differ: a 90 % interval covers the truth in 90 % of experiments; one over all
 * prefixes, the planted error, in far fewer. */
static void test_coverage(void **state)
{
    (void)state;
    enum { EXPERIMENTS = 2000, DATA = 6, PREFIXES = 4 };
    double covered[2] = { 0.0, 0.0 };
    for (uint64_t e = 0; e < EXPERIMENTS; e++) {
        double x[DATA * PREFIXES], data[DATA];
        random_normal(8, RANDOM_OTHER, e, 0, x, DATA * PREFIXES);
        random_normal(8, RANDOM_OTHER, e, 1, data, DATA);
        for (size_t i = 0; i < DATA * PREFIXES; i++) x[i] += 2.0 * data[i / PREFIXES];
        for (int wrong = 0; wrong < 2; wrong++) {
            const struct data_sets sets =
                wrong ? (struct data_sets) { DATA * PREFIXES, 1 } : (struct data_sets) { DATA, PREFIXES };
            const struct interval mean = data_spread_mean(x, sets, 0.9).mean;
            covered[wrong] += mean.lo <= 0.0 && mean.hi >= 0.0;
        }
    }
    struct interval rate;
    assert_int_equal(stats_rate(covered[0], EXPERIMENTS, 0.999, &rate), 0);
    assert_true(rate.lo <= 0.9 && rate.hi >= 0.9);
    CHECK_LESS(covered[1] / EXPERIMENTS, 0.75);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_one_data_set),
        cmocka_unit_test(test_diverged_is_not_left_out),
        cmocka_unit_test(test_exponent),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
