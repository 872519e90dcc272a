/* Summaries of a prefix: streamed, merged, differentiated. */
#include "prefix_ntk/summary.h"

#include <gsl/gsl_errno.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "tests/support/check.h"

static const double RTOL_SUM = 1e-12;           /* sums of a few thousand doubles */
static const double RTOL_FINITE_DIFF = 1e-7;

static const char *const specs[] = { "elu1", "taylor:3", "cheb:4", "split:2", "favor:6", "favor-orth:5" };
enum { NUM_SPECS = sizeof specs / sizeof *specs, DIM = 4, VALUE_DIM = 3 };

static double *draw(size_t n, double scale, uint64_t row)
{
    double *x = malloc(n * sizeof *x);
    random_normal(21, RANDOM_OTHER, 0, row, x, n);
    for (size_t i = 0; i < n; i++) x[i] *= scale;
    return x;
}

/* Z and k token by token from true features. */
static void reference(const feature_map *map, size_t n, const double *K, size_t ldk, const double *V, size_t ldv,
                      double *Z, double *k)
{
    const size_t r = feature_dim(map);
    double *phi = malloc(2 * r * sizeof *phi);
    memset(Z, 0, r * VALUE_DIM * sizeof *Z);
    memset(k, 0, r * sizeof *k);
    for (size_t j = 0; j < n; j++) {
        assert_int_equal(feature_forward_f64(map, FEATURE_VALUE, 1, K + j * ldk, DIM, phi, r, NULL, 1, NULL),
                         GSL_SUCCESS);
        assert_int_equal(feature_forward_f64(map, FEATURE_MASS, 1, K + j * ldk, DIM, phi + r, r, NULL, 1, NULL),
                         GSL_SUCCESS);
        for (size_t a = 0; a < r; a++) {
            k[a] += phi[r + a];
            for (size_t c = 0; c < VALUE_DIM; c++) Z[a * VALUE_DIM + c] += phi[a] * V[j * ldv + c];
        }
    }
    free(phi);
}

static void sums_are_sums(void **state)
{
    (void)state;
    static const size_t lens[] = { 0, 1, 255, 257, 3001 };
    for (size_t s = 0; s < NUM_SPECS; s++) {
        for (size_t l = 0; l < sizeof lens / sizeof *lens; l++) {
            const size_t n = lens[l], ldk = DIM + 1, ldv = VALUE_DIM + 2;
            feature_map *map;
            struct attn_fold *fold;
            assert_int_equal(feature_parse(specs[s], DIM, 2.0, 3, NULL, &map), GSL_SUCCESS);
            assert_int_equal(attn_fold_alloc(map, VALUE_DIM, &fold), GSL_SUCCESS);
            const size_t r = feature_dim(map);
            double *K = draw(n * ldk + 1, 1.1, s), *V = draw(n * ldv + 1, 1.0, 50 + s);
            float *Kf = malloc((n * ldk + 1) * sizeof *Kf), *Vf = malloc((n * ldv + 1) * sizeof *Vf);
            for (size_t i = 0; i < n * ldk; i++) K[i] = Kf[i] = (float)K[i];
            for (size_t i = 0; i < n * ldv; i++) V[i] = Vf[i] = (float)V[i];
            double *Z = malloc(3 * r * VALUE_DIM * sizeof *Z), *k = malloc(3 * r * sizeof *k), log_scale;
            float *Zf = malloc(r * VALUE_DIM * sizeof *Zf), *kf = malloc(r * sizeof *kf);
            double *Z1 = Z + r * VALUE_DIM, *k1 = k + r, *Z2 = Z1 + r * VALUE_DIM, *k2 = k1 + r;
            reference(map, n, K, ldk, V, ldv, Z, k);
            assert_int_equal(attn_fold_add_f64(fold, n, K, ldk, V, ldv, 1, NULL), GSL_SUCCESS);
            assert_int_equal(attn_fold_count(fold), n);
            assert_int_equal(attn_fold_read_f64(fold, Z1, k1, NULL), GSL_SUCCESS);
            double size = 0.0;
            for (size_t a = 0; a < r; a++) size = fmax(size, fabs(k[a]));
            for (size_t i = 0; i < r * VALUE_DIM; i++) CHECK_CLOSE(Z1[i], Z[i], RTOL_SUM, RTOL_SUM * (size + 1.0));
            for (size_t a = 0; a < r; a++) CHECK_CLOSE(k1[a], k[a], RTOL_SUM, RTOL_SUM * (size + 1.0));
            if (n) assert_false(is_close(k1[0] * (1.0 + 1e-10), k[0], RTOL_SUM, 0.0));

            /* float32 input with these very numbers, more threads, a workspace: the same bits. */
            const size_t bytes = attn_fold_workspace(map, VALUE_DIM, 3);
            char *work = malloc(bytes + 1);
            attn_fold_reset(fold);
            assert_int_equal(attn_fold_add_f32(fold, n, Kf, ldk, Vf, ldv, 3, work + 1), GSL_SUCCESS);
            assert_int_equal(attn_fold_read_f64(fold, Z2, k2, NULL), GSL_SUCCESS);
            CHECK_SAME_BITS(Z1, Z2, r * VALUE_DIM);
            CHECK_SAME_BITS(k1, k2, r);
            /* In calls split at multiples of the block: again. */
            const size_t block = attn_fold_block(map);
            attn_fold_reset(fold);
            for (size_t at = 0; at < n;) {
                const size_t take = n - at < 3 * block ? n - at : at % (2 * block) ? block : 3 * block;
                assert_int_equal(attn_fold_add_f64(fold, take, K + at * ldk, ldk, V + at * ldv, ldv, 2, work),
                                 GSL_SUCCESS);
                at += take;
            }
            assert_int_equal(attn_fold_read_f64(fold, Z2, k2, &log_scale), GSL_SUCCESS);
            for (size_t a = 0; a < r; a++) k2[a] *= exp(log_scale);
            for (size_t i = 0; i < r * VALUE_DIM; i++) Z2[i] *= exp(log_scale);
            CHECK_SAME_BITS(Z1, Z2, r * VALUE_DIM);
            CHECK_SAME_BITS(k1, k2, r);
            assert_int_equal(attn_fold_read_f32(fold, Zf, kf, NULL), GSL_SUCCESS);
            for (size_t a = 0; a < r; a++) assert_true(kf[a] == (float)k1[a]);

            /* Two halves, split anywhere, merged. */
            struct attn_fold *other;
            assert_int_equal(attn_fold_alloc(map, VALUE_DIM, &other), GSL_SUCCESS);
            attn_fold_reset(fold);
            const size_t half = n / 3;
            assert_int_equal(attn_fold_add_f64(fold, half, K, ldk, V, ldv, 1, NULL), GSL_SUCCESS);
            assert_int_equal(attn_fold_add_f64(other, n - half, K + half * ldk, ldk, V + half * ldv, ldv, 1, NULL),
                             GSL_SUCCESS);
            assert_int_equal(attn_fold_merge(fold, other), GSL_SUCCESS);
            assert_int_equal(attn_fold_count(fold), n);
            assert_int_equal(attn_fold_read_f64(fold, Z2, k2, NULL), GSL_SUCCESS);
            for (size_t i = 0; i < r * VALUE_DIM; i++) CHECK_CLOSE(Z2[i], Z[i], RTOL_SUM, RTOL_SUM * (size + 1.0));
            for (size_t a = 0; a < r; a++) CHECK_CLOSE(k2[a], k[a], RTOL_SUM, RTOL_SUM * (size + 1.0));

            attn_fold_free(fold); attn_fold_free(other);
            free(K); free(V); free(Kf); free(Vf); free(Z); free(k); free(Zf); free(kf); free(work);
            feature_map_free(map);
        }
    }
}

/* Keys whose features are beyond double: the sum keeps a scale, in whatever order
 * the large ones come. k_a = sum_j e^{l_j} phi_a(k_j) / e^{log_scale}. */
static void scale_beyond_double(void **state)
{
    (void)state;
    feature_map *map;
    struct attn_fold *fold;
    const double omega[3 * DIM] = { 0.5, -1.2, 0.3, 0.9, 1.1, 0.4, -0.7, 0.2, -0.3, 0.8, 1.4, -0.6 };
    const struct feature_spec spec = { FEATURE_FAVOR, 3 };
    assert_int_equal(feature_map_alloc(&spec, DIM, 0.0, 1, omega, &map), GSL_SUCCESS);
    assert_int_equal(attn_fold_alloc(map, VALUE_DIM, &fold), GSL_SUCCESS);
    double k[3], Z[9], log_scale;
    enum { N = 5 };
    double K[N * DIM], V[N * VALUE_DIM];
    for (size_t j = 0; j < N; j++) {
        random_normal(4, RANDOM_OTHER, 7, j, K + j * DIM, DIM);
        for (size_t c = 0; c < DIM; c++) K[j * DIM + c] *= j == 0 ? 240.0 : j == 3 ? 180.0 : 210.0;
        for (size_t c = 0; c < VALUE_DIM; c++) V[j * VALUE_DIM + c] = 0.3 * (double)(j + c) - 0.5;
    }
    for (size_t j = 0; j < N; j++)
        assert_int_equal(attn_fold_add_f64(fold, 1, K + j * DIM, DIM, V + j * VALUE_DIM, VALUE_DIM, 1, NULL),
                         GSL_SUCCESS);
    assert_int_equal(attn_fold_read_f64(fold, Z, k, &log_scale), GSL_SUCCESS);
    assert_true(log_scale < -1000.0);                         /* true numbers underflow */
    double phi[3], l, want[3] = { 0 }, most = -HUGE_VAL;
    for (size_t j = 0; j < N; j++) {
        feature_forward_f64(map, FEATURE_VALUE, 1, K + j * DIM, DIM, phi, 3, &l, 1, NULL);
        most = fmax(most, l);
        for (size_t a = 0; a < 3; a++) want[a] += exp(l - log_scale) * phi[a];
    }
    CHECK_CLOSE(log_scale, most, 1e-14, 0.0);
    CHECK_ALL_CLOSE(k, want, 3, 1e-12, 1e-300);
    attn_fold_free(fold);
    feature_map_free(map);
}

static void gradients(void **state)
{
    (void)state;
    for (size_t s = 0; s < NUM_SPECS; s++) {
        const size_t n = 300, ldk = DIM + 1, ldv = VALUE_DIM + 1;
        feature_map *map;
        assert_int_equal(feature_parse(specs[s], DIM, 2.0, 3, NULL, &map), GSL_SUCCESS);
        const size_t r = feature_dim(map);
        double *K = draw(n * ldk, 0.9, 200 + s), *V = draw(n * ldv, 1.0, 220 + s);
        double *dZ = draw(r * VALUE_DIM, 1.0, 240 + s), *dk = draw(r, 1.0, 260 + s);
        double *move_K = draw(n * ldk, 1.0, 280 + s), *move_V = draw(n * ldv, 1.0, 300 + s);
        double *dK = calloc(n * ldk, sizeof *dK), *dV = calloc(n * ldv, sizeof *dV);
        double *Z = malloc(r * VALUE_DIM * sizeof *Z), *k = malloc(r * sizeof *k);
        assert_int_equal(attn_fold_backward_f64(map, VALUE_DIM, n, K, ldk, V, ldv, dZ, dk, 0.0, dK, ldk, dV, ldv, 0, 2,
                                                NULL), GSL_SUCCESS);
        const double h = 1e-5;
        for (int which = 0; which < 2; which++) {             /* along K, along V */
            double value[2], got = 0.0, size = 0.0;
            for (int sign = 0; sign < 2; sign++) {
                const double step = sign ? h : -h;
                for (size_t i = 0; which == 0 && i < n * ldk; i++) K[i] += step * move_K[i];
                for (size_t i = 0; which == 1 && i < n * ldv; i++) V[i] += step * move_V[i];
                reference(map, n, K, ldk, V, ldv, Z, k);
                value[sign] = 0.0;
                for (size_t i = 0; i < r * VALUE_DIM; i++) value[sign] += dZ[i] * Z[i];
                for (size_t i = 0; i < r; i++) value[sign] += dk[i] * k[i];
                for (size_t i = 0; which == 0 && i < n * ldk; i++) K[i] -= step * move_K[i];
                for (size_t i = 0; which == 1 && i < n * ldv; i++) V[i] -= step * move_V[i];
            }
            for (size_t j = 0; j < n; j++)
                for (size_t c = 0; c < (which ? VALUE_DIM : DIM); c++) {
                    const double term = which ? move_V[j * ldv + c] * dV[j * ldv + c]
                        : move_K[j * ldk + c] * dK[j * ldk + c];
                    got += term;
                    size += fabs(term);
                }
            const double slope = (value[1] - value[0]) / (2.0 * h);
            assert_true(fabs(slope) > 100.0 * RTOL_FINITE_DIFF * size);
            assert_false(is_close(-got, slope, 0.0, RTOL_FINITE_DIFF * size));
            CHECK_CLOSE(got, slope, 0.0, RTOL_FINITE_DIFF * size);
        }
        /* Accumulating doubles; a stored scale is undone; float32 agrees. */
        const double k0 = dK[0], v0 = dV[0], far = dK[(n - 1) * ldk + 1];
        assert_int_equal(attn_fold_backward_f64(map, VALUE_DIM, n, K, ldk, V, ldv, dZ, dk, log(0.5), dK, ldk, dV, ldv,
                                                1, 1, NULL), GSL_SUCCESS);
        CHECK_CLOSE(dK[0], 3.0 * k0, 1e-12, 0.0);
        CHECK_CLOSE(dV[0], 3.0 * v0, 1e-12, 0.0);
        CHECK_CLOSE(dK[(n - 1) * ldk + 1], 3.0 * far, 1e-12, 0.0);
        float *Kf = malloc(n * ldk * sizeof *Kf), *Vf = malloc(n * ldv * sizeof *Vf);
        float *dKf = malloc(n * ldk * sizeof *dKf), *dVf = malloc(n * ldv * sizeof *dVf);
        for (size_t i = 0; i < n * ldk; i++) Kf[i] = (float)K[i];
        for (size_t i = 0; i < n * ldv; i++) Vf[i] = (float)V[i];
        assert_int_equal(attn_fold_backward_f32(map, VALUE_DIM, n, Kf, ldk, Vf, ldv, dZ, dk, 0.0, dKf, ldk, dVf, ldv, 0,
                                                2, NULL), GSL_SUCCESS);
        for (size_t j = 0; j < n; j++)
            for (size_t c = 0; c < DIM; c++) CHECK_CLOSE((double)dKf[j * ldk + c], dK[j * ldk + c] / 3.0, 1e-5, 1e-4);
        free(K); free(V); free(dZ); free(dk); free(move_K); free(move_V); free(dK); free(dV); free(Z); free(k);
        free(Kf); free(Vf); free(dKf); free(dVf);
        feature_map_free(map);
    }
}

/* A long prefix goes through in the memory of one block. */
static void constant_memory(void **state)
{
    (void)state;
    feature_map *map;
    struct attn_fold *fold;
    assert_int_equal(feature_parse("elu1", DIM, 0.0, 1, NULL, &map), GSL_SUCCESS);
    assert_int_equal(attn_fold_alloc(map, VALUE_DIM, &fold), GSL_SUCCESS);
    enum { BATCH = 4096, CALLS = 512 };                       /* 2^21 tokens */
    float *K = malloc(BATCH * DIM * sizeof *K), *V = malloc(BATCH * VALUE_DIM * sizeof *V);
    for (size_t i = 0; i < BATCH * DIM; i++) K[i] = 0.001f * (float)(i % 997) - 0.4f;
    for (size_t i = 0; i < BATCH * VALUE_DIM; i++) V[i] = 0.002f * (float)(i % 499) - 0.5f;
    void *work = malloc(attn_fold_workspace(map, VALUE_DIM, 2));
    double Z1[DIM * VALUE_DIM], k1[DIM], Z[DIM * VALUE_DIM], k[DIM];
    assert_int_equal(attn_fold_add_f32(fold, BATCH, K, DIM, V, VALUE_DIM, 2, work), GSL_SUCCESS);
    assert_int_equal(attn_fold_read_f64(fold, Z1, k1, NULL), GSL_SUCCESS);
    const struct mallinfo2 before = mallinfo2();
    for (size_t c = 1; c < CALLS; c++)
        assert_int_equal(attn_fold_add_f32(fold, BATCH, K, DIM, V, VALUE_DIM, 2, work), GSL_SUCCESS);
    const struct mallinfo2 after = mallinfo2();
    assert_true(before.uordblks == after.uordblks);
    assert_int_equal(attn_fold_count(fold), (size_t)BATCH * CALLS);
    assert_int_equal(attn_fold_read_f64(fold, Z, k, NULL), GSL_SUCCESS);
    for (size_t a = 0; a < DIM; a++) CHECK_CLOSE(k[a], k1[a] * CALLS, 1e-12, 0.0);
    for (size_t i = 0; i < DIM * VALUE_DIM; i++) CHECK_CLOSE(Z[i], Z1[i] * CALLS, 1e-12, 1e-9);
    free(K); free(V); free(work);
    attn_fold_free(fold);
    feature_map_free(map);
}

static void refusals(void **state)
{
    (void)state;
    feature_map *map, *big;
    struct attn_fold *fold, *other;
    assert_int_equal(feature_parse("taylor:2", DIM, 0.0, 1, NULL, &map), GSL_SUCCESS);
    assert_int_equal(feature_parse("taylor:12", 64, 0.0, 1, NULL, &big), GSL_SUCCESS);
    assert_int_equal(attn_fold_alloc(map, 0, &fold), GSL_EINVAL);
    assert_int_equal(attn_fold_alloc(big, 3, &fold), GSL_EUNSUP);
    assert_null(fold);
    assert_true(attn_fold_bytes(SIZE_MAX / 4, 64) == SIZE_MAX);
    assert_true(attn_fold_workspace(map, SIZE_MAX, 2) == SIZE_MAX
                && attn_fold_workspace(map, SIZE_MAX / 2, 1) == SIZE_MAX);
    assert_int_equal(attn_fold_alloc(map, 3, &fold), GSL_SUCCESS);
    assert_int_equal(attn_fold_alloc(map, 4, &other), GSL_SUCCESS);
    assert_int_equal(attn_fold_merge(fold, other), GSL_EBADLEN);
    double K[2 * DIM] = { 0.1, 0.2, 0.3, 0.4, 0.5, NAN, 0.7, 0.8 }, V[6] = { 1.0, 2.0, 3.0, 4.0, 5.0, 6.0 };
    assert_int_equal(attn_fold_add_f64(fold, 2, K, DIM, V, 2, 1, NULL), GSL_EBADLEN);
    assert_int_equal(attn_fold_add_f64(fold, 2, K, DIM, V, 3, 1, NULL), GSL_EDOM);
    attn_fold_reset(fold);
    K[5] = 0.6;
    V[3] = INFINITY;
    assert_int_equal(attn_fold_add_f64(fold, 2, K, DIM, V, 3, 1, NULL), GSL_EDOM);
    attn_fold_reset(fold);
    V[3] = 1e300;
    float Z[45], k[15];
    assert_int_equal(attn_fold_add_f64(fold, 2, K, DIM, V, 3, 1, NULL), GSL_SUCCESS);
    assert_int_equal(attn_fold_read_f32(fold, Z, k, NULL), GSL_EOVRFLW);
    /* e^{-||k||^2/2 sqrt(dim)} of a long key is below float, then below double; with its scale it is read. */
    feature_map *favor;
    struct attn_fold *small;
    double Zd[8 * 3], kd[8], log_scale;
    assert_int_equal(feature_parse("favor:8", DIM, 0.0, 1, NULL, &favor), GSL_SUCCESS);
    assert_int_equal(attn_fold_alloc(favor, 3, &small), GSL_SUCCESS);
    assert_int_equal(attn_fold_read_f32(small, Z, k, NULL), GSL_SUCCESS);
    for (int far = 0; far < 2; far++) {
        for (size_t i = 0; i < 2 * DIM; i++) K[i] = far ? 90.0 : 18.0;
        V[3] = 4.0;
        attn_fold_reset(small);
        assert_int_equal(attn_fold_add_f64(small, 2, K, DIM, V, 3, 1, NULL), GSL_SUCCESS);
        assert_int_equal(attn_fold_read_f32(small, Z, k, NULL), GSL_EUNDRFLW);
        assert_int_equal(attn_fold_read_f64(small, Zd, kd, NULL), far ? GSL_EUNDRFLW : GSL_SUCCESS);
        assert_int_equal(attn_fold_read_f32(small, Z, k, &log_scale), GSL_SUCCESS);
        float most = 0.0f;
        for (size_t a = 0; a < 8; a++) most = fmaxf(most, k[a]);
        assert_true(most > 0.1f && log_scale < -100.0);
    }
    attn_fold_free(small);
    feature_map_free(favor);
    attn_fold_free(fold); attn_fold_free(other); attn_fold_free(NULL);
    feature_map_free(map); feature_map_free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_sums),
        cmocka_unit_test(scale_beyond_double),
        cmocka_unit_test(gradients),
        cmocka_unit_test(constant_memory),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("summary", tests, NULL, NULL);
}
