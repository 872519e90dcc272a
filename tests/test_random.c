/* Random streams: distribution, and independence of order, length and neighbours. */
#include "common/random.h"
#include "tests/support/check.h"

#include <Random123/philox.h>
#include <gsl/gsl_cdf.h>
#include <gsl/gsl_sort.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 200000 };

/* The numbers are fixed, so these tests cannot flicker: a right generator would have
 * failed one of them, for this seed, with probability below 1e-3. */
static const uint64_t SEED = 20240614;
static const double STANDARD_ERRORS = 4.5;

/* Kolmogorov's statistic sqrt(n) sup |F_n - F|; above 2.0 with probability 7e-4. */
static double kolmogorov(double *x, size_t n, double (*cdf)(double x))
{
    double largest = 0.0;
    gsl_sort(x, 1, n);
    for (size_t i = 0; i < n; i++) {
        const double p = cdf(x[i]);
        largest = fmax(largest, fmax(p - (double)i / (double)n, (double)(i + 1) / (double)n - p));
    }
    return sqrt((double)n) * largest;
}

static double cdf_normal(double x) { return gsl_cdf_ugaussian_P(x); }
static double cdf_uniform(double x) { return x; }

static double *normals_by_rows(size_t n, size_t width)
{
    double *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t at = 0; at < n; at += width)
        random_normal(SEED, RANDOM_PREFIX, 3, at / width, x + at, n - at < width ? n - at : width);
    return x;
}

/* Moments 1..6 of a standard normal are 0, 1, 0, 3, 0, 15, with the variance of
 * x^k being E x^{2k} - (E x^k)^2. */
static void test_normal_moments(void **state)
{
    (void)state;
    static const double moment[13] = { 1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395 };
    static const size_t widths[] = { 1, 7, 8, 64, MANY };
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        double *x = normals_by_rows(MANY, widths[w]);
        for (int k = 1; k <= 6; k++) {
            double mean = 0.0;
            for (size_t i = 0; i < MANY; i++) mean += pow(x[i], k) / MANY;
            const double error = sqrt((moment[2 * k] - moment[k] * moment[k]) / MANY);
            CHECK_CLOSE(mean, moment[k], 0.0, STANDARD_ERRORS * error);
        }
        CHECK_LESS(kolmogorov(x, MANY, cdf_normal), 2.0);
        /* A planted shift of 1 % of a standard deviation is seen. */
        for (size_t i = 0; i < MANY; i++) x[i] += 0.01;
        assert_true(kolmogorov(x, MANY, cdf_normal) > 2.0);
        free(x);
    }
}

/* The tail far out: P(|x| > 4) = 6.3e-5, Poisson within the interval. */
static void test_normal_tail(void **state)
{
    (void)state;
    enum { N = 2000000 };
    double *x = normals_by_rows(N, 1000);
    size_t beyond = 0;
    for (size_t i = 0; i < N; i++) beyond += fabs(x[i]) > 4.0;
    const double want = N * 2.0 * gsl_cdf_ugaussian_Q(4.0);
    CHECK_CLOSE((double)beyond, want, 0.0, STANDARD_ERRORS * sqrt(want));
    free(x);
}

/* Neighbouring numbers, rows, trials, purposes and seeds are uncorrelated. */
static void test_independent_streams(void **state)
{
    (void)state;
    enum { N = 100000 };
    double *a = malloc(N * sizeof *a), *b = malloc(N * sizeof *b);
    random_normal(SEED, RANDOM_PREFIX, 3, 5, a, N);
    for (int which = 0; which < 6; which++) {
        switch (which) {
        case 0: random_normal(SEED + 1, RANDOM_PREFIX, 3, 5, b, N); break;
        case 1: random_normal(SEED, RANDOM_INPUTS, 3, 5, b, N); break;
        case 2: random_normal(SEED, RANDOM_PREFIX, 4, 5, b, N); break;
        case 3: random_normal(SEED, RANDOM_PREFIX, 3, 6, b, N); break;
        case 4: random_normal(SEED, RANDOM_PREFIX, 5, 3, b, N); break;
        default: memcpy(b, a + 4, (N - 4) * sizeof *b); memcpy(b + N - 4, a, 4 * sizeof *b); break;
        }
        double ab = 0.0, squares = 0.0;
        for (size_t i = 0; i < N; i++) {
            ab += a[i] * b[i];
            squares += (a[i] * a[i] - 1.0) * (b[i] * b[i] - 1.0);
        }
        CHECK_CLOSE(ab / N, 0.0, 0.0, STANDARD_ERRORS / sqrt(N));
        CHECK_CLOSE(squares / N, 0.0, 0.0, STANDARD_ERRORS * 2.0 / sqrt(N));
    }
    free(a);
    free(b);
}

/* The first numbers of a row do not depend on how many are drawn. */
static void test_prefix_of_a_row(void **state)
{
    (void)state;
    double all[100], some[100];
    random_normal(SEED, RANDOM_PREFIX, 1, 2, all, 100);
    for (size_t n = 0; n < 100; n++) {
        some[n] = -7.0;
        random_normal(SEED, RANDOM_PREFIX, 1, 2, some, n);
        CHECK_SAME_BITS(some, all, n);
        assert_true(some[n] == -7.0);
    }
    random_uniform(SEED, RANDOM_PREFIX, 1, 2, all, 100);
    for (size_t n = 0; n < 100; n++) {
        some[n] = -7.0;
        random_uniform(SEED, RANDOM_PREFIX, 1, 2, some, n);
        CHECK_SAME_BITS(some, all, n);
        assert_true(some[n] == -7.0);
    }
}

/* The numbers are part of the contract: other machines and later versions give them. */
static void test_known_numbers(void **state)
{
    (void)state;
    double x[9];
    random_normal(20240614, RANDOM_PREFIX, 0, 0, x, 9);
    static const double want[9] = {
        -0x1.13512f82347e7p-1, 0x1.104f19ace3f0ep+0, -0x1.a840b89033194p-4, 0x1.6d411dec18a85p-1, 0x1.481df435684fep-2,
        0x1.8b7a6cc87fd54p+1, -0x1.554c6720e05d6p-2, 0x1.a99fccf5970d9p-1, -0x1.0157d1f2abaf3p+0,
    };
    CHECK_SAME_BITS(x, want, 9);
}

/* The definition in long double with the C library's functions: words 0..3 and 4..7 of
 * two Philox blocks give radii and angles of four pairs. */
static void test_definition(void **state)
{
    (void)state;
    enum { N = 8000 };
    static const double RTOL_ROUNDOFF = 8.0 * 2.220446049250313e-16;
    double *x = normals_by_rows(N, N);
    for (uint64_t batch = 0; batch < N / 8; batch++) {
        const philox4x64_key_t key = { { SEED, RANDOM_PREFIX } };
        uint64_t words[8];
        for (uint64_t half = 0; half < 2; half++) {
            const philox4x64_ctr_t counter = { { 3, 0, 2 * batch + half, 0 } };
            const philox4x64_ctr_t block = philox4x64(counter, key);
            memcpy(words + 4 * half, block.v, sizeof block.v);
        }
        for (size_t j = 0; j < 4; j++) {
            const long double u = ((long double)(words[j] >> 12) + 0.5L) * 0x1p-52L;
            const long double turn = ((long double)((words[4 + j] << 2) >> 12) + 0.5L) * 0x1p-52L - 0.5L +
                                     (long double)(words[4 + j] >> 62);
            const long double radius = sqrtl(-2.0L * logl(u)), angle = turn * 1.570796326794896619231L;
            CHECK_CLOSE(x[8 * batch + j], (double)(radius * cosl(angle)), RTOL_ROUNDOFF, 1e-18);
            CHECK_CLOSE(x[8 * batch + j + 4], (double)(radius * sinl(angle)), RTOL_ROUNDOFF, 1e-18);
        }
    }
    free(x);
}

static void test_uniform(void **state)
{
    (void)state;
    double *x = malloc(MANY * sizeof *x);
    random_uniform(SEED, RANDOM_WEIGHTS, 0, 9, x, MANY);
    for (size_t i = 0; i < MANY; i++) assert_true(x[i] > 0.0 && x[i] < 1.0);
    CHECK_LESS(kolmogorov(x, MANY, cdf_uniform), 2.0);
    free(x);
}

static void test_signs_and_indices(void **state)
{
    (void)state;
    enum { SIDES = 7 };
    double sum = 0.0, chi2 = 0.0;
    size_t counts[SIDES] = { 0 };
    for (uint64_t row = 0; row < MANY; row++) {
        const double sign = random_sign(SEED, RANDOM_SIGNS, 2, row);
        assert_true(sign == 1.0 || sign == -1.0);
        sum += sign;
        const size_t index = random_index(SEED, RANDOM_BOOTSTRAP, 2, row, SIDES);
        assert_true(index < SIDES);
        counts[index]++;
        assert_int_equal(random_index(SEED, RANDOM_BOOTSTRAP, 2, row, 1), 0);
    }
    CHECK_CLOSE(sum / sqrt(MANY), 0.0, 0.0, STANDARD_ERRORS);
    for (size_t i = 0; i < SIDES; i++) chi2 += pow((double)counts[i] - (double)MANY / SIDES, 2) * SIDES / MANY;
    CHECK_LESS(chi2, gsl_cdf_chisq_Qinv(1e-4, SIDES - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal_moments),      cmocka_unit_test(test_normal_tail),
        cmocka_unit_test(test_independent_streams), cmocka_unit_test(test_prefix_of_a_row),
        cmocka_unit_test(test_known_numbers),       cmocka_unit_test(test_definition),
        cmocka_unit_test(test_uniform),             cmocka_unit_test(test_signs_and_indices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
