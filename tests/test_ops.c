/* Passes over rows in every instruction set against libm in double, and products against plain loops. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/isa.h"
#include "common/random.h"
#include "tests/support/check.h"
#include "transformer/attention_bias.h"
#include "transformer/ops.h"

static const double EPS = 0x1p-24;
/* Sums of up to 70 terms of order 1. */
static const double RTOL_SUM = 100 * 0x1p-24;
static const enum isa ISAS_TESTED[] = { ISA_ID_PORTABLE, ISA_ID_AVX2, ISA_ID_AVX512, ISA_ID_NEON };

static void each_isa(void (*check)(const struct ops_kernels *k))
{
    const enum isa before = isa_current();
    for (size_t i = 0; i < sizeof ISAS_TESTED / sizeof *ISAS_TESTED; i++)
        if (isa_available(ISAS_TESTED[i])) {
            assert_int_equal(isa_force(ISAS_TESTED[i]), 0);
            check(ops_current());
        }
    isa_force(before);
}

static void draw(float *x, size_t n, uint64_t trial)
{
    double *y = malloc(n * sizeof *y);
    random_normal(4, RANDOM_INPUTS, trial, 0, y, n);
    for (size_t i = 0; i < n; i++) x[i] = (float)y[i];
    free(y);
}

/* ---- GELU ---------------------------------------------------------------------------------------------- */

static double gelu(double u) { return u * 0.5 * erfc(-u / sqrt(2.0)); }
static double gelu_slope(double u) { return 0.5 * erfc(-u / sqrt(2.0)) + u * exp(-0.5 * u * u) / sqrt(2.0 * M_PI); }

static void check_gelu(const struct ops_kernels *k)
{
    enum { N = 40001 };
    float *y = malloc(N * sizeof *y), *slope = malloc(N * sizeof *slope), *bias = calloc(N, sizeof *bias);
    for (size_t i = 0; i < N; i++) y[i] = (float)(-20.0 + 40.0 * (double)i / (N - 1) + 1e-3);
    float *u = malloc(N * sizeof *u);
    memcpy(u, y, N * sizeof *u);
    k->bias_gelu(1, N, bias, y, slope, N);
    for (size_t i = 0; i < N; i++) {
        const double x = u[i], want = gelu(x), room = 3e-7 + x * x * EPS;
        if (x > -12.9) CHECK_CLOSE(y[i], want, room, 0.0);
        else CHECK_CLOSE(y[i], want, 0.0, 1e-36);
        CHECK_CLOSE(slope[i], gelu_slope(x), 0.0, 3e-7);
    }
    /* The checker sees the tanh approximation's error. */
    assert_false(is_close(0.5 * 1.3 * (1.0 + tanh(sqrt(2.0 / M_PI) * (1.3 + 0.044715 * 1.3 * 1.3 * 1.3))), gelu(1.3),
                          4e-7, 0.0));
    y[0] = NAN;
    k->bias_gelu(1, 1, bias, y, slope, 1);
    assert_true(isnan(y[0]) && isnan(slope[0]));
    free(y);
    free(u);
    free(slope);
    free(bias);
}
static void test_gelu(void **state) { (void)state; each_isa(check_gelu); }

/* ---- LayerNorm -------------------------------------------------------------------------------------------- */

static void check_norm_size(const struct ops_kernels *k, size_t n, double offset)
{
    enum { ROWS = 5, MOST = 70 };
    float x[ROWS * MOST], w[MOST], b[MOST], y[ROWS * MOST], stats[2 * ROWS], dy[ROWS * MOST], dx[ROWS * MOST],
        add[ROWS * MOST];
    float dw[MOST], db[MOST];
    draw(x, ROWS * n, n);
    draw(w, n, 100 + n);
    draw(b, n, 200 + n);
    draw(dy, ROWS * n, 300 + n);
    draw(add, ROWS * n, 400 + n);
    for (size_t i = 0; i < ROWS * n; i++) x[i] += (float)offset;
    k->norm(ROWS, n, 1e-5f, x, w, b, y, stats);
    k->norm_backward(ROWS, n, x, stats, w, dy, add, dx);
    k->norm_columns(ROWS, n, n, x, stats, dy, dw, db);
    double want_dw[MOST] = { 0 }, want_db[MOST] = { 0 };
    /* The mean carries the offset's rounding, which 1/sd magnifies. */
    const double atol = RTOL_SUM * (1.0 + fabs(offset)) * (n < 3 ? 50.0 : 8.0);
    for (size_t r = 0; r < ROWS; r++) {
        double mean = 0.0, var = 0.0, sum = 0.0, along = 0.0;
        for (size_t j = 0; j < n; j++) mean += x[r * n + j] / (double)n;
        for (size_t j = 0; j < n; j++) var += pow(x[r * n + j] - mean, 2.0) / (double)n;
        const double rstd = 1.0 / sqrt(var + 1e-5);
        for (size_t j = 0; j < n; j++) {
            const double hat = (x[r * n + j] - mean) * rstd, g = (double)w[j] * dy[r * n + j];
            CHECK_CLOSE(y[r * n + j], hat * w[j] + b[j], 0.0, atol);
            want_dw[j] += dy[r * n + j] * hat;
            want_db[j] += dy[r * n + j];
            sum += g / (double)n;
            along += g * hat / (double)n;
        }
        for (size_t j = 0; j < n; j++) {
            const double hat = (x[r * n + j] - mean) * rstd, g = (double)w[j] * dy[r * n + j];
            CHECK_CLOSE(dx[r * n + j], add[r * n + j] + rstd * (g - sum - hat * along), 0.0, atol * fmax(1.0, rstd));
        }
    }
    for (size_t j = 0; j < n; j++) {
        CHECK_CLOSE(dw[j], want_dw[j], 0.0, ROWS * atol);
        CHECK_CLOSE(db[j], want_db[j], 0.0, ROWS * atol);
    }
}

static void check_norm(const struct ops_kernels *k)
{
    const size_t sizes[] = { 2, 3, 12, 16, 33, 64, 70 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_norm_size(k, sizes[i], 0.0);
        check_norm_size(k, sizes[i], 7.0);
    }
}
static void test_norm(void **state) { (void)state; each_isa(check_norm); }

/* ---- the rest ------------------------------------------------------------------------------------------------ */

static void check_passes(const struct ops_kernels *k)
{
    enum { ROWS = 3, N = 21 };
    float a[ROWS * N], b[ROWS * N], bias[N], scale[N], y[ROWS * N], branch[ROWS * N], sum[N];
    draw(a, ROWS * N, 1);
    draw(b, ROWS * N, 2);
    draw(bias, N, 3);
    draw(scale, N, 4);
    memcpy(y, a, sizeof y);
    k->bias_residual(ROWS, N, bias, scale, b, branch, y);
    for (size_t i = 0; i < ROWS * N; i++) {
        CHECK_CLOSE(branch[i], (double)a[i] + bias[i % N], 2 * EPS, EPS);
        CHECK_CLOSE(y[i], b[i] + (double)scale[i % N] * ((double)a[i] + bias[i % N]), 4 * EPS, 8 * EPS);
    }
    memcpy(y, a, sizeof y);
    k->bias_residual(ROWS, N, bias, NULL, b, NULL, y);
    for (size_t i = 0; i < ROWS * N; i++)
        CHECK_CLOSE(y[i], (double)b[i] + ((double)a[i] + bias[i % N]), 4 * EPS, 8 * EPS);
    k->scale_columns(ROWS, N, scale, a, y);
    for (size_t i = 0; i < ROWS * N; i++) CHECK_CLOSE(y[i], (double)a[i] * scale[i % N], 2 * EPS, 0.0);
    k->sum_columns(ROWS, N, N, a, b, sum);
    for (size_t j = 0; j < N; j++)
        CHECK_CLOSE(sum[j], (double)a[j] * b[j] + (double)a[N + j] * b[N + j] + (double)a[2 * N + j] * b[2 * N + j],
                    0.0, 16 * EPS);
    memcpy(y, a, sizeof y);
    y[4] = -300.0f;
    const float total = k->exp_row(N, 3.0f, y);
    double want = 0.0;
    for (size_t j = 0; j < N; j++) {
        const double e = j == 4 ? 0.0 : exp((double)a[j] - 3.0);
        CHECK_CLOSE(y[j], e, 8 * EPS, 0.0);
        want += e;
    }
    CHECK_CLOSE(total, want, RTOL_SUM, 0.0);
}
static void test_passes(void **state) { (void)state; each_isa(check_passes); }

static void test_products(void **state)
{
    (void)state;
    enum { ROWS = 131, IN = 7, OUT = 37 };
    static float x[ROWS * IN], w[OUT * IN], y[ROWS * OUT], dy[ROWS * OUT], dx[ROWS * IN], dw[OUT * IN], bias[OUT],
        columns[OUT];
    draw(x, ROWS * IN, 1);
    draw(w, OUT * IN, 2);
    draw(dy, ROWS * OUT, 3);
    draw(bias, OUT, 4);
    memcpy(y, dy, sizeof y);
    const struct epilogue epilogue = { .bias = bias };
    ops_linear(ROWS, IN, OUT, x, IN, w, y, OUT, 1, &epilogue, 2);
    ops_linear_dx(ROWS, IN, OUT, 0.7f, dy, OUT, w, dx, IN, 0, x, 2);
    ops_linear_dW(ROWS, IN, OUT, -1.3f, dy, OUT, x, IN, dw, 2);
    ops_sum_columns(ROWS, OUT, OUT, dy, NULL, columns, 2);
    for (size_t i = 0; i < ROWS; i++) {
        for (size_t o = 0; o < OUT; o++) {
            double want = (double)dy[i * OUT + o] + bias[o];
            for (size_t j = 0; j < IN; j++) want += (double)x[i * IN + j] * w[o * IN + j];
            CHECK_CLOSE(y[i * OUT + o], want, 0.0, RTOL_SUM);
        }
        for (size_t j = 0; j < IN; j++) {
            double want = 0.0;
            for (size_t o = 0; o < OUT; o++) want += 0.7 * dy[i * OUT + o] * w[o * IN + j];
            CHECK_CLOSE(dx[i * IN + j], want * x[i * IN + j], 0.0, 10 * RTOL_SUM);
        }
    }
    for (size_t o = 0; o < OUT; o++) {
        double sum = 0.0;
        for (size_t i = 0; i < ROWS; i++) sum += dy[i * OUT + o];
        CHECK_CLOSE(columns[o], sum, 0.0, 10 * RTOL_SUM);
        for (size_t j = 0; j < IN; j++) {
            double want = 0.0;
            for (size_t i = 0; i < ROWS; i++) want += -1.3 * dy[i * OUT + o] * x[i * IN + j];
            CHECK_CLOSE(dw[o * IN + j], want, 0.0, 10 * RTOL_SUM);
        }
    }
}

/* T5's table for 32 buckets: exact below 8 on each side, the last from 128 (and 91, where the logarithm ends). */
static void test_buckets(void **state)
{
    (void)state;
    const struct { ptrdiff_t distance; size_t bucket; } table[] = {
        { 0, 0 }, { -1, 1 }, { 1, 17 }, { -7, 7 }, { 7, 23 }, { -8, 8 }, { -11, 8 }, { -12, 9 }, { 16, 26 }, { -15, 9 },
        { -16, 10 }, { -64, 14 }, { -90, 14 }, { -91, 15 }, { -128, 15 }, { -4000, 15 }, { 127, 31 }, { 4000, 31 }
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_int_equal(attention_bias_bucket(table[i].distance, 32), table[i].bucket);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_gelu), cmocka_unit_test(test_norm),
                                        cmocka_unit_test(test_passes), cmocka_unit_test(test_products),
                                        cmocka_unit_test(test_buckets) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
