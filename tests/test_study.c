/* The pieces the approximation programs share: maps by name, sources of tokens, one pass for all maps. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_errno.h>

#include "approximation/source.h"
#include "approximation/study.h"

enum { D = 6, N = 5, M = 700 };
static const double RTOL_ROUNDOFF = 1e-11;

static void test_map_names(void **state)
{
    (void)state;
    struct study_map map, *maps;
    size_t count, r;
    assert_null(study_maps_parse("none,elu1,taylor:2@centred,oracle:3,cumulant,clusters:4,split:2", &maps, &count));
    assert_int_equal(count, 7);
    const size_t want[] = { 0, 6, 28, 3, 10, 8, 84 };
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(study_map_dim(&maps[i], D, &r), GSL_SUCCESS);
        assert_int_equal(r, want[i]);
    }
    assert_true(maps[2].centred && !study_map_fits(&maps[2]) && study_map_fits(&maps[1]));
    free(maps);
    const char *const bad[] = { "", "elu", "oracle:", "oracle:0", "oracle:2x", "clusters:0", "elu1@centred",
                                "taylor:1@mean", "taylor:-1", "taylor:1,,elu1", ",elu1", "elu1,",
                                "a-name-far-too-long-for-any-feature-map" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_non_null(study_maps_parse(bad[i], &maps, &count));
    assert_null(study_map_parse("favor-orth:12", &map));
    assert_int_equal(map.kind, STUDY_FEATURE);
}

/* The spread of the scores between independent tokens is 1 by construction: the Frobenius norm of
 * W_Q W_K^T / sqrt d. Prefixes are nested and do not depend on how they are read. */
static void test_source(void **state)
{
    (void)state;
    struct source s;
    assert_int_equal(source_init(&s, 5, 2, D, SOURCE_TIED, NULL, 0.5), GSL_SUCCESS);
    double norm2 = 0.0, mean2 = 0.0;
    for (size_t i = 0; i < D; i++) {
        double m = 0.0;
        for (size_t j = 0; j < D; j++) {
            double a = 0.0;
            for (size_t c = 0; c < D; c++) a += s.Wq[i * D + c] * s.Wk[j * D + c];
            norm2 += a * a / D;
            m += a * s.mean[j] / sqrt((double)D);
        }
        mean2 += m * m;
    }
    CHECK_CLOSE(norm2, 1.0, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(sqrt(mean2), 0.5, RTOL_ROUNDOFF, 0.0);
    double K[20 * D], V[20 * D], K1[D], V1[D];
    assert_int_equal(source_prefix(&s, 0, 20, K, V), GSL_SUCCESS);
    assert_int_equal(source_prefix(&s, 13, 1, K1, V1), GSL_SUCCESS);
    CHECK_ALL_CLOSE(K1, K + 13 * D, D, RTOL_ROUNDOFF, 1e-14);
    CHECK_ALL_CLOSE(V1, V + 13 * D, D, RTOL_ROUNDOFF, 1e-14);
    assert_int_equal(source_prefix(&s, 0, SOURCE_BLOCK + 1, K, V), GSL_EINVAL);
    /* Independent values change V only. */
    struct source u;
    double K2[20 * D], V2[20 * D];
    assert_int_equal(source_init(&u, 5, 2, D, SOURCE_INDEPENDENT, NULL, 0.5), GSL_SUCCESS);
    assert_int_equal(source_prefix(&u, 0, 20, K2, V2), GSL_SUCCESS);
    CHECK_SAME_BITS(K, K2, 20 * D);
    assert_false(is_close(V2[3], V[3], 1e-3, 0.0));
    source_free(&s);
    source_free(&u);
}

/* Every map of one pass equals its definition over the tokens; stopping in between changes no bit
 * of the sums that go on. */
static void test_pass(void **state)
{
    (void)state;
    struct source s;
    struct study_map *maps;
    struct study once, twice;
    struct attn_sums got, prefix, again;
    size_t count;
    double Q[N * D], *K = malloc(M * D * sizeof *K), *V = malloc(M * D * sizeof *V);
    assert_null(study_maps_parse("none,elu1,taylor:3,split:2,favor:9,clusters:700,cumulant", &maps, &count));
    assert_int_equal(source_init(&s, 6, 0, D, SOURCE_TIED, NULL, 0.0), GSL_SUCCESS);
    assert_int_equal(source_inputs(&s, 0, N, Q, NULL, NULL), GSL_SUCCESS);
    for (size_t first = 0; first < M; first += 100) source_prefix(&s, first, 100, K + first * D, V + first * D);
    assert_int_equal(study_alloc(&once, maps, count, Q, N, D, NULL, 6), GSL_SUCCESS);
    assert_int_equal(study_alloc(&twice, maps, count, Q, N, D, NULL, 6), GSL_SUCCESS);
    attn_sums_alloc(&got, N, D);
    attn_sums_alloc(&prefix, N, D);
    attn_sums_alloc(&again, N, D);
    assert_int_equal(study_read(&once, &s, M), GSL_SUCCESS);
    assert_int_equal(study_read(&twice, &s, 64), GSL_SUCCESS);
    assert_int_equal(study_read(&twice, &s, M), GSL_SUCCESS);
    assert_int_equal(prefix_sums_exact(&once.sums, 0, &prefix), GSL_SUCCESS);
    for (size_t m = 0; m < count; m++) {
        int exists;
        assert_int_equal(study_sums(&once, m, 2.0, &got, &exists), GSL_SUCCESS);
        assert_int_equal(study_sums(&twice, m, 2.0, &again, &exists), GSL_SUCCESS);
        if (!exists) continue;
        CHECK_SAME_BITS(got.num, again.num, N * D);
        feature_map *fm = NULL;
        double phi_q[N * 9], phi_k[M * 9];
        const bool favor = !strcmp(maps[m].name, "favor:9");
        if (favor) {
            assert_int_equal(feature_map_alloc(&maps[m].spec, D, 0.0, 6, NULL, &fm), GSL_SUCCESS);
            assert_int_equal(feature_forward_f64(fm, FEATURE_QUERY, N, Q, D, phi_q, 9, NULL, 1, NULL), GSL_SUCCESS);
            assert_int_equal(feature_forward_f64(fm, FEATURE_VALUE, M, K, D, phi_k, 9, NULL, 1, NULL), GSL_SUCCESS);
            feature_map_free(fm);
        }
        for (size_t i = 0; i < N && maps[m].kind != STUDY_CUMULANT; i++) {
            double mass = 0.0, num = 0.0;
            for (size_t r = 0; r < M; r++) {
                double t = 0.0, wn = 0.0, wd = 0.0;
                for (size_t c = 0; c < D; c++) t += Q[i * D + c] * K[r * D + c] / sqrt((double)D);
                if (!strcmp(maps[m].name, "elu1")) {
                    for (size_t c = 0; c < D; c++) {
                        const double zq = Q[i * D + c] / pow(D, 0.25), zk = K[r * D + c] / pow(D, 0.25);
                        wn += (zq > 0.0 ? zq + 1.0 : exp(zq)) * (zk > 0.0 ? zk + 1.0 : exp(zk));
                    }
                    wd = wn;
                } else if (favor) {
                    for (size_t c = 0; c < 9; c++) wn += phi_q[i * 9 + c] * phi_k[r * 9 + c];
                    wd = wn;
                } else if (maps[m].kind == STUDY_CLUSTERS) {
                    wn = wd = exp(t);                  /* a cluster for each token */
                } else {
                    wn = 1.0 + t + t * t / 2.0 + t * t * t / 6.0;
                    wd = !strcmp(maps[m].name, "split:2") ? 1.0 + t + t * t / 2.0 : wn;
                }
                mass += wd;
                num += wn * V[r * D + 2];
            }
            CHECK_CLOSE(got.mass[i] * exp(got.shift[i]), mass, RTOL_ROUNDOFF, 1e-9);
            CHECK_CLOSE(got.num[i * D + 2] * exp(got.shift[i]), num, RTOL_ROUNDOFF, 1e-8);
        }
    }
    study_free(&once);
    study_free(&twice);
    source_free(&s);
    attn_sums_free(&got);
    attn_sums_free(&prefix);
    attn_sums_free(&again);
    free(maps);
    free(K);
    free(V);
}

/* A Gaussian prefix long enough is near its limit, by about the predicted distance. */
static void test_gaussian_limit(void **state)
{
    (void)state;
    enum { LONG = 20000 };
    struct source s;
    struct study study;
    struct attn_sums prefix;
    double Q[N * D], spread[N], mean[N], limit[N * D];
    assert_int_equal(source_init(&s, 8, 1, D, SOURCE_TIED, NULL, 0.4), GSL_SUCCESS);
    assert_int_equal(source_inputs(&s, 0, N, Q, NULL, NULL), GSL_SUCCESS);
    for (size_t i = 0; i < N * D; i++) Q[i] *= 0.5;
    assert_int_equal(source_gaussian_limit(&s, Q, N, spread, mean, limit), GSL_SUCCESS);
    assert_int_equal(study_alloc(&study, NULL, 0, Q, N, D, NULL, 0), GSL_SUCCESS);
    assert_int_equal(study_read(&study, &s, LONG), GSL_SUCCESS);
    attn_sums_alloc(&prefix, N, D);
    assert_int_equal(prefix_sums_exact(&study.sums, 0, &prefix), GSL_SUCCESS);
    for (size_t i = 0; i < N; i++) {
        const double RTOL_MONTE_CARLO = 0.05;
        CHECK_CLOSE(attn_sums_log_mass(&prefix, i), log(LONG) + mean[i] + 0.5 * spread[i] * spread[i], 0.0,
                    RTOL_MONTE_CARLO);
        for (size_t c = 0; c < D; c++)
            CHECK_CLOSE(prefix.num[i * D + c] / prefix.mass[i], limit[i * D + c], 0.0, RTOL_MONTE_CARLO);
    }
    source_free(&s);
    study_free(&study);
    attn_sums_free(&prefix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map_names), cmocka_unit_test(test_source),
        cmocka_unit_test(test_pass),      cmocka_unit_test(test_gaussian_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
