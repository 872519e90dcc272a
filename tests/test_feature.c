/* Feature maps: names, order, polynomials, both number types, gradients, refusals. */
#include "prefix_ntk/feature.h"

#include <float.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/isa.h"
#include "common/random.h"
#include "common/stats.h"
#include "tests/support/check.h"
#include "tests/support/feature_ref.h"

static const double RTOL_ROUNDOFF = 1e-12;
static const double RTOL_FLOAT = 4e-6;          /* products of up to 9 rounded factors, exp */
static const double RTOL_FINITE_DIFF = 2e-8;    /* central differences, step 1e-5 */

/* Every family at small sizes; feat_dim up to 2 C(..). */
static const char *const specs[] = { "elu1", "taylor:0", "taylor:1", "taylor:2", "taylor:5", "cheb:3", "cheb:6",
                                     "minimax:2", "minimax:5", "split:0", "split:2", "split:4", "favor:7",
                                     "favor-orth:11" };
enum { NUM_SPECS = sizeof specs / sizeof *specs };
static const size_t dims[] = { 1, 2, 3, 5, 8 };
enum { NUM_DIMS = sizeof dims / sizeof *dims };
static const double BOUND = 2.7;

static double *draw(size_t n, double scale, uint64_t row)
{
    double *x = malloc((n ? n : 1) * sizeof *x);
    random_normal(3, RANDOM_OTHER, 0, row, x, n);
    for (size_t i = 0; i < n; i++) x[i] *= scale;
    return x;
}

static feature_map *make(const char *text, size_t dim)
{
    feature_map *map;
    assert_int_equal(feature_parse(text, dim, BOUND, 77, NULL, &map), GSL_SUCCESS);
    return map;
}

/* phi of one row by the reference. */
static void reference(const feature_map *map, enum feature_side side, const double *x, double *phi)
{
    const struct feature_spec spec = feature_map_spec(map);
    const size_t dim = feature_head_dim(map);
    if (spec.family == FEATURE_ELU1) {
        feature_ref_elu1(x, dim, phi);
    } else if (feature_omega(map)) {
        feature_ref_favor(x, dim, feature_dim(map), feature_omega(map), phi);
    } else {
        const size_t degree = spec.order + (spec.family == FEATURE_SPLIT);
        double value[FEATURE_MAX_DEGREE + 1], mass[FEATURE_MAX_DEGREE + 1];
        assert_int_equal(feature_polynomial(&spec, BOUND, value, mass, NULL), GSL_SUCCESS);
        if (spec.family == FEATURE_CHEB) feature_ref_cheb(degree, BOUND, value);
        feature_ref_monomials(x, dim, degree, value, side != FEATURE_QUERY, phi);
        if (spec.family == FEATURE_SPLIT && side == FEATURE_MASS)
            for (size_t a = feature_ref_count(dim, degree - 1); a < feature_dim(map); a++) phi[a] = 0.0;
    }
}

static void names(void **state)
{
    (void)state;
    static const struct { const char *text; int status; } cases[] = {
        { "elu1", 0 }, { "taylor:0", 0 }, { "taylor:64", 0 }, { "cheb:12", 0 }, { "minimax:3", 0 },
        { "split:2", 0 }, { "favor:1", 0 }, { "favor-orth:128", 0 }, { "taylor:007", 0 },
        { "", GSL_EINVAL }, { "elu", GSL_EINVAL }, { "elu1:", GSL_EINVAL }, { "elu1:3", GSL_EINVAL },
        { "taylor", GSL_EINVAL }, { "taylor:", GSL_EINVAL }, { "taylor:-1", GSL_EINVAL },
        { "taylor:+1", GSL_EINVAL }, { "taylor: 1", GSL_EINVAL }, { "taylor:1 ", GSL_EINVAL },
        { "taylor:1.0", GSL_EINVAL }, { "taylor:0x2", GSL_EINVAL }, { "Taylor:2", GSL_EINVAL },
        { ":2", GSL_EINVAL }, { "taylor:2:3", GSL_EINVAL }, { "tay:2", GSL_EINVAL },
        { "taylorr:2", GSL_EINVAL }, { "custom:2", GSL_EINVAL }, { "favor-orth", GSL_EINVAL },
        { "taylor:65", GSL_EDOM }, { "cheb:99999999999999999999999", GSL_EDOM }, { "split:3", GSL_EDOM },
        { "split:64", GSL_EDOM }, { "favor:0", GSL_EDOM }, { "favor:16777217", GSL_EDOM },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct feature_spec spec = { FEATURE_CUSTOM, 99 };
        const int status = feature_spec_parse(cases[i].text, &spec);
        if (status != cases[i].status) fail_msg("\"%s\": status %d, want %d", cases[i].text, status, cases[i].status);
        if (status) assert_int_equal(spec.order, 99);
        assert_true(strlen(feature_strerror(status)) > 5);
    }
    /* Text and spec are inverse; random text either fails or survives the round trip. */
    for (size_t trial = 0; trial < 20000; trial++) {
        static const char *const pieces[] = { "elu1", "taylor", "cheb", "split", "favor", "-orth", ":", "4", "0", " ",
                                              "-", "minimax", "9" };
        char text[64] = "", back[64];
        for (size_t p = random_index(5, RANDOM_OTHER, 1, trial, 5); p-- > 0;)
            strcat(text, pieces[random_index(5, RANDOM_OTHER, 2 + p, trial, sizeof pieces / sizeof *pieces)]);
        struct feature_spec spec, again;
        if (feature_spec_parse(text, &spec)) continue;
        assert_true(feature_spec_text(&spec, back, sizeof back) > 0);
        assert_int_equal(feature_spec_parse(back, &again), GSL_SUCCESS);
        assert_int_equal(spec.family, again.family);
        assert_int_equal(spec.order, again.order);
    }
}

/* A spec answers as the map made from it does, for every family; what no family is gets refused. */
static void specs_answer_as_their_maps(void **state)
{
    (void)state;
    for (size_t s = 0; s < NUM_SPECS; s++) {
        feature_map *map = make(specs[s], 5);
        const struct feature_spec spec = feature_map_spec(map);
        size_t r = 0, value = 99, mass = 99;
        assert_int_equal(feature_spec_dim(&spec, 5, &r), GSL_SUCCESS);
        assert_int_equal(r, feature_dim(map));
        assert_int_equal(feature_spec_is_polynomial(&spec), feature_is_polynomial(map));
        assert_int_equal(!feature_is_polynomial(map), feature_is_positive(map));
        assert_int_equal(feature_takes_omega(&spec), feature_omega(map) != NULL);
        assert_int_equal(feature_degrees(&spec, &value, &mass), feature_is_polynomial(map) ? GSL_SUCCESS : GSL_EINVAL);
        assert_int_equal(value, feature_is_polynomial(map) ? spec.order + !strncmp(specs[s], "split", 5) : 99);
        assert_int_equal(mass, feature_is_polynomial(map) ? spec.order : 99);
        assert_int_equal(feature_needs_bound(&spec), !strncmp(specs[s], "cheb", 4) || !strncmp(specs[s], "minimax", 7));
        char name[32];
        snprintf(name, sizeof name, "%s", specs[s]);
        name[strcspn(name, ":")] = '\0';
        assert_non_null(strstr(feature_strerror(GSL_EINVAL), name));
        feature_map_free(map);
    }
    const struct feature_spec odd = { FEATURE_SPLIT, 3 }, none = { (enum feature_family)(FEATURE_CUSTOM + 1), 1 };
    size_t r = 7;
    feature_map *map;
    double value[FEATURE_MAX_DEGREE + 1];
    assert_int_equal(feature_spec_dim(&odd, 5, &r), GSL_EDOM);
    assert_int_equal(feature_spec_dim(&none, 5, &r), GSL_EINVAL);
    assert_int_equal(r, 7);
    assert_int_equal(feature_map_alloc(&none, 5, 1.0, 1, NULL, &map), GSL_EINVAL);
    assert_int_equal(feature_polynomial(&none, 1.0, value, NULL, NULL), GSL_EINVAL);
    assert_false(feature_spec_is_polynomial(&none) || feature_needs_bound(&none) || feature_takes_omega(&none));
}

static void counts(void **state)
{
    (void)state;
    size_t r = 0;
    for (size_t dim = 1; dim < 8; dim++)
        for (size_t degree = 0; degree < 7; degree++) {
            assert_int_equal(feature_count(dim, degree, &r), GSL_SUCCESS);
            assert_int_equal(r, feature_ref_count(dim, degree));
        }
    assert_int_equal(feature_count(64, 2, &r), GSL_SUCCESS);
    assert_int_equal(r, 2145);
    assert_int_equal(feature_count(64, 64, &r), GSL_EOVRFLW);
    assert_int_equal(feature_count(SIZE_MAX - 1, 3, &r), GSL_EOVRFLW);
    /* The largest central binomial below 2^64: no intermediate product may spoil it. */
    assert_int_equal(feature_count(33, 33, &r), GSL_SUCCESS);
    assert_true(r == 7219428434016265740u);
}

static void features_are_as_defined(void **state)
{
    (void)state;
    for (size_t s = 0; s < NUM_SPECS; s++) {
        for (size_t m = 0; m < NUM_DIMS; m++) {
            const size_t d = dims[m], n = 19, ldx = d + 2;
            feature_map *map = make(specs[s], d);
            const size_t r = feature_dim(map), ldphi = r + 3;
            double *x = draw(n * ldx, 1.3, s * 10 + m), *phi = calloc(n * ldphi, sizeof *phi);
            double *want = malloc(r * sizeof *want);
            for (int side = FEATURE_QUERY; side <= FEATURE_MASS; side++) {
                for (size_t i = 0; i < n * ldphi; i++) phi[i] = 12345.0;
                assert_int_equal(feature_forward_f64(map, side, n, x, ldx, phi, ldphi, NULL, 2, NULL), GSL_SUCCESS);
                for (size_t i = 0; i < n; i++) {
                    reference(map, side, x + i * ldx, want);
                    CHECK_ALL_CLOSE(phi + i * ldphi, want, r, RTOL_ROUNDOFF, 1e-300);
                    assert_true(phi[i * ldphi + r] == 12345.0);
                }
                /* A planted error is seen. */
                assert_false(is_close(want[0] * (1.0 + 1e-11), phi[(n - 1) * ldphi], RTOL_ROUNDOFF, 1e-300));
            }
            free(x);
            free(phi);
            free(want);
            feature_map_free(map);
        }
    }
}

/* <phi_query(q), phi_value(k)> = p(s), <phi_query(q), phi_mass(k)> = its denominator. */
static void inner_products_are_polynomials(void **state)
{
    (void)state;
    for (size_t s = 0; s < NUM_SPECS; s++) {
        const size_t d = 5;
        feature_map *map = make(specs[s], d);
        const size_t r = feature_dim(map);
        double *q = draw(d, 1.1, 900 + s), *k = draw(d, 1.4, 950 + s), *phi = malloc(3 * r * sizeof *phi);
        double score = 0.0, value, mass, slope, slope_mass, up, down, up_mass, down_mass;
        for (size_t c = 0; c < d; c++) score += q[c] * k[c] / sqrt((double)d);
        if (!feature_is_polynomial(map)) {
            assert_int_equal(feature_score(map, 1, &score, &value, &mass), GSL_EINVAL);
            assert_int_equal(feature_score_slope(map, 1, &score, &value, &mass), GSL_EINVAL);
        } else {
            assert_int_equal(feature_score(map, 1, &score, &value, &mass), GSL_SUCCESS);
            feature_forward_f64(map, FEATURE_QUERY, 1, q, d, phi, r, NULL, 1, NULL);
            feature_forward_f64(map, FEATURE_VALUE, 1, k, d, phi + r, r, NULL, 1, NULL);
            feature_forward_f64(map, FEATURE_MASS, 1, k, d, phi + 2 * r, r, NULL, 1, NULL);
            double sum = 0.0, sum_mass = 0.0, size = 0.0;
            for (size_t a = 0; a < r; a++) {
                sum += phi[a] * phi[r + a];
                sum_mass += phi[a] * phi[2 * r + a];
                size += fabs(phi[a] * phi[r + a]);
            }
            CHECK_CLOSE(sum, value, 0.0, 1e-14 * size);
            CHECK_CLOSE(sum_mass, mass, 0.0, 1e-14 * size);
            const double h = 1e-5, at_up = score + h, at_down = score - h;
            feature_score(map, 1, &at_up, &up, &up_mass);
            feature_score(map, 1, &at_down, &down, &down_mass);
            assert_int_equal(feature_score_slope(map, 1, &score, &slope, &slope_mass), GSL_SUCCESS);
            CHECK_CLOSE(slope, (up - down) / (2.0 * h), 1e-6, 1e-9);
            CHECK_CLOSE(slope_mass, (up_mass - down_mass) / (2.0 * h), 1e-6, 1e-9);
        }
        free(q);
        free(k);
        free(phi);
        feature_map_free(map);
    }
}

static void polynomials(void **state)
{
    (void)state;
    double c[FEATURE_MAX_DEGREE + 1], want[FEATURE_MAX_DEGREE + 1], mass[FEATURE_MAX_DEGREE + 1], error;
    struct feature_spec spec = { FEATURE_TAYLOR, 7 };
    assert_int_equal(feature_polynomial(&spec, 1.0, c, NULL, &error), GSL_SUCCESS);
    for (size_t j = 0; j <= 7; j++) CHECK_CLOSE(c[j], 1.0 / tgamma((double)j + 1.0), RTOL_ROUNDOFF, 0.0);
    assert_true(error > 2e-5 && error < 1e-4);                /* e/8! at s = -1: 6.7e-5 */

    int negative = 0;
    static const double bounds[] = { 0.3, 1.0, 2.7, 6.0, 11.0 };
    for (size_t b = 0; b < 5; b++) {
        for (size_t degree = 0; degree < 11; degree++) {
            spec = (struct feature_spec){ FEATURE_CHEB, degree };
            assert_int_equal(feature_polynomial(&spec, bounds[b], c, mass, NULL), GSL_SUCCESS);
            feature_ref_cheb(degree, bounds[b], want);
            /* The reference cancels in double: compare by what a coefficient does at the end. */
            for (size_t j = 0; j <= degree; j++) {
                const double reach = pow(bounds[b], -(double)j) * exp(bounds[b]);
                CHECK_CLOSE(c[j], want[j], 0.0, 1e-11 * reach);
                assert_true(mass[j] == c[j]);
                negative |= c[j] < 0.0;
            }
        }
    }
    assert_true(negative);                                    /* or the sign rule goes untested */

    /* Bounds towards 0 tend to the Taylor polynomial, whichever the family. */
    for (int f = FEATURE_CHEB; f <= FEATURE_MINIMAX; f++) {
        spec = (struct feature_spec){ (enum feature_family)f, 4 };
        for (double bound = 0.0; bound < 2e-5; bound += 1e-5) {
            assert_int_equal(feature_polynomial(&spec, bound, c, NULL, NULL), GSL_SUCCESS);
            for (size_t j = 0; j <= 4; j++) CHECK_CLOSE(c[j], 1.0 / tgamma((double)j + 1.0), 1e-9, 0.0);
        }
    }

    spec = (struct feature_spec){ FEATURE_SPLIT, 4 };
    assert_int_equal(feature_polynomial(&spec, 1.0, c, mass, NULL), GSL_SUCCESS);
    CHECK_CLOSE(c[5], 1.0 / 120.0, RTOL_ROUNDOFF, 0.0);
    assert_true(mass[5] == 0.0 && mass[4] == c[4]);
    for (double s = -60.0; s < 60.0; s += 0.37) {             /* even Taylor sums are positive */
        double p = 0.0;
        for (size_t j = 5; j-- > 0;) p = p * s + mass[j];
        assert_true(p > 0.0);
    }
}

/* Chebyshev's criterion: degree + 2 points where the relative error takes its
 * largest size with alternating signs; hence no polynomial does better. Measured on
 * the coefficients as returned. */
static int alternations(size_t degree, const double *c, double bound, double tolerance, double *level)
{
    enum { POINTS = 40000 };
    double worst = 0.0;
    for (int pass = 0, sign = 0, count = 0; pass < 2; pass++) {
        for (size_t i = 0; i <= POINTS; i++) {
            const double s = -bound * cos(M_PI * (double)i / POINTS);
            double p = c[degree];
            for (size_t j = degree; j-- > 0;) p = p * s + c[j];
            const double e = p * exp(-s) - 1.0;
            if (pass == 0) worst = fmax(worst, fabs(e));
            else if (fabs(e) >= worst * (1.0 - tolerance) && (e > 0.0 ? 1 : -1) != sign) {
                sign = e > 0.0 ? 1 : -1;
                count++;
            }
        }
        *level = worst;
        if (pass == 1) return count;
    }
    return 0;
}

static void minimax_equioscillates(void **state)
{
    (void)state;
    static const double bounds[] = { 0.5, 1.0, 2.0, 3.7, 6.0, 9.0 };
    for (size_t b = 0; b < 6; b++) {
        for (size_t degree = 0; degree <= 12; degree++) {
            double c[FEATURE_MAX_DEGREE + 1], error, cheb, taylor, level;
            struct feature_spec spec = { FEATURE_MINIMAX, degree };
            assert_int_equal(feature_polynomial(&spec, bounds[b], c, NULL, &error), GSL_SUCCESS);
            if (error < 1e-9) continue;                       /* the coefficients' own rounding shows */
            const int count = alternations(degree, c, bounds[b], 1e-3, &level);
            if (count < (int)degree + 2)
                fail_msg("degree %zu bound %g: %d alternations at level %g", degree, bounds[b], count, level);
            CHECK_CLOSE(error, level, 1e-3, 0.0);
            spec.family = FEATURE_CHEB;
            feature_polynomial(&spec, bounds[b], c, NULL, &cheb);
            assert_true(error < cheb);
            /* The checker is not blind: the series does not equioscillate. */
            assert_true(alternations(degree, c, bounds[b], 1e-3, &level) < (int)degree + 2);
            spec.family = FEATURE_TAYLOR;
            feature_polynomial(&spec, bounds[b], c, NULL, &taylor);
            assert_true(error < taylor);
        }
    }
    /* Degree 0 has a closed form: c e^-s oscillates between the ends, level tanh(B). */
    double c0, error;
    const struct feature_spec spec = { FEATURE_MINIMAX, 0 };
    assert_int_equal(feature_polynomial(&spec, 1.7, &c0, NULL, &error), GSL_SUCCESS);
    CHECK_CLOSE(error, tanh(1.7), 1e-12, 0.0);
    CHECK_CLOSE(c0, 1.0 / cosh(1.7), 1e-12, 0.0);
}

static void float_and_threads_and_instruction_sets(void **state)
{
    (void)state;
    const enum isa before = isa_current();
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (size_t s = 0; s < NUM_SPECS; s++) {
            const size_t d = dims[s % NUM_DIMS] + 2, n = 37;
            feature_map *map = make(specs[s], d);
            const size_t r = feature_dim(map);
            double *x = draw(n * d, 1.3, 40 + s), *phi = malloc(n * r * sizeof *phi),
                *again = malloc(n * r * sizeof *again);
            double *dphi = draw(n * r, 1.0, 60 + s), *dx = malloc(n * d * sizeof *dx),
                *dx1 = malloc(n * d * sizeof *dx1);
            float *xf = malloc(n * d * sizeof *xf), *phif = malloc((n * r + 1) * sizeof *phif);
            float *dphif = malloc(n * r * sizeof *dphif), *dxf = malloc(n * d * sizeof *dxf);
            char *work = malloc(feature_workspace(map, 3) + 1);
            for (size_t i = 0; i < n * d; i++) x[i] = xf[i] = (float)x[i];
            for (size_t i = 0; i < n * r; i++) dphi[i] = dphif[i] = (float)dphi[i];
            feature_forward_f64(map, FEATURE_VALUE, n, x, d, phi, r, NULL, 1, NULL);
            feature_forward_f64(map, FEATURE_VALUE, n, x, d, again, r, NULL, 3, work + 1);
            CHECK_SAME_BITS(phi, again, n * r);
            /* Unaligned rows, as in the middle of a larger buffer. */
            assert_int_equal(feature_forward_f32(map, FEATURE_VALUE, n, xf, d, phif + 1, r, NULL, 3, work),
                             GSL_SUCCESS);
            for (size_t i = 0; i < n * r; i++) CHECK_CLOSE((double)phif[i + 1], phi[i], RTOL_FLOAT, 1e-37);

            feature_backward_f64(map, FEATURE_VALUE, n, x, d, dphi, r, NULL, dx, d, 0, 1, NULL);
            feature_backward_f64(map, FEATURE_VALUE, n, x, d, dphi, r, NULL, dx1, d, 0, 3, work);
            CHECK_SAME_BITS(dx, dx1, n * d);
            feature_backward_f64(map, FEATURE_VALUE, n, x, d, dphi, r, NULL, dx1, d, 1, 2, NULL);
            for (size_t i = 0; i < n * d; i++) CHECK_CLOSE(dx1[i], 2.0 * dx[i], RTOL_ROUNDOFF, 1e-300);
            assert_int_equal(feature_backward_f32(map, FEATURE_VALUE, n, xf, d, dphif, r, NULL, dxf, d, 0, 2, work),
                             GSL_SUCCESS);
            double size = 0.0;
            for (size_t i = 0; i < n * d; i++) size = fmax(size, fabs(dx[i]));
            for (size_t i = 0; i < n * d; i++) CHECK_CLOSE((double)dxf[i], dx[i], RTOL_FLOAT, RTOL_FLOAT * size);
            free(x); free(phi); free(again); free(dphi); free(dx); free(dx1);
            free(xf); free(phif); free(dphif); free(dxf); free(work);
            feature_map_free(map);
        }
    }
    isa_force(before);
}

/* d/dh <u, phi(x + h v)> = <v, J^T u>, the left side from the reference. */
static void gradients(void **state)
{
    (void)state;
    for (size_t s = 0; s < NUM_SPECS; s++) {
        const size_t d = 4;
        feature_map *map = make(specs[s], d);
        const size_t r = feature_dim(map);
        for (int side = FEATURE_QUERY; side <= FEATURE_MASS; side++) {
            double *x = draw(d, 1.2, 200 + s), *v = draw(d, 1.0, 300 + s), *u = draw(r, 1.0, 400 + s);
            double *phi = malloc(2 * r * sizeof *phi), dx[4], at[4];
            const double h = 1e-5;
            for (int sign = 0; sign < 2; sign++) {
                for (size_t c = 0; c < d; c++) at[c] = x[c] + (sign ? h : -h) * v[c];
                reference(map, side, at, phi + (size_t)sign * r);
            }
            double slope = 0.0, got = 0.0, size = 0.0;
            for (size_t a = 0; a < r; a++) {
                slope += u[a] * (phi[r + a] - phi[a]) / (2.0 * h);
                size += fabs(u[a] * phi[a]);
            }
            assert_int_equal(feature_backward_f64(map, side, 1, x, d, u, r, NULL, dx, d, 0, 1, NULL), GSL_SUCCESS);
            for (size_t c = 0; c < d; c++) got += v[c] * dx[c];
            if (strcmp(specs[s], "taylor:0") && !(side == FEATURE_MASS && !strcmp(specs[s], "split:0"))) {
                assert_true(fabs(slope) > 1e-3);              /* a slope worth comparing */
                assert_false(is_close(-got, slope, RTOL_FINITE_DIFF, RTOL_FINITE_DIFF * size));
            }
            CHECK_CLOSE(got, slope, RTOL_FINITE_DIFF, RTOL_FINITE_DIFF * size);
            free(x); free(v); free(u); free(phi);
        }
        feature_map_free(map);
    }
}

/* e^{log_scale} phi are the true features, for rows whose true features overflow. */
static void scaled_rows(void **state)
{
    (void)state;
    static const double sizes[] = { 1e-3, 1.0, 300.0, 1e6, 1e12 };
    for (size_t s = 0; s < NUM_SPECS; s++) {
        const size_t d = 3, n = 5;
        feature_map *map = make(specs[s], d);
        const size_t r = feature_dim(map);
        double *phi = malloc(n * r * sizeof *phi), *want = malloc(r * sizeof *want), log_scale[5], x[15];
        double *dphi = draw(r, 1.0, 500 + s), dx[3], dx_true[3];
        float *phif = malloc(n * r * sizeof *phif), xf[15];
        double log_scale_f[5];
        for (size_t i = 0; i < n; i++) {
            random_normal(9, RANDOM_OTHER, 4, s * 10 + i, x + i * d, d);
            /* favor: beyond 1e6 no double holds the square of z to an absolute unit. */
            const double size = feature_omega(map) ? fmin(sizes[i], 1e4) : sizes[i];
            for (size_t c = 0; c < d; c++) x[i * d + c] = xf[i * d + c] = (float)(x[i * d + c] * size);
        }
        assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, n, x, d, phi, r, log_scale, 2, NULL), GSL_SUCCESS);
        assert_int_equal(feature_forward_f32(map, FEATURE_QUERY, n, xf, d, phif, r, log_scale_f, 2, NULL), GSL_SUCCESS);
        for (size_t i = 0; i < n; i++) {
            assert_true(isfinite(log_scale[i]) && isfinite(log_scale_f[i]));
            for (size_t a = 0; a < r; a++) assert_true(isfinite(phi[i * r + a]) && isfinite((double)phif[i * r + a]));
            double most = 0.0, most_f = 0.0;
            for (size_t a = 0; a < r; a++) {
                most = fmax(most, fabs(phi[i * r + a]));
                most_f = fmax(most_f, fabs((double)phif[i * r + a]));
            }
            assert_true(most > 0.0 && most_f > 0.0);
            if (feature_omega(map)) {
                assert_true(most == 1.0);
                CHECK_CLOSE(log_scale_f[i], log_scale[i], 1e-12, 1e-12);
            } else {
                CHECK_CLOSE(log_scale_f[i] + log(most_f), log_scale[i] + log(most), 1e-6, 1e-5);
            }
            reference(map, FEATURE_QUERY, x + i * d, want);
            if (log_scale[i] > -600.0 && log_scale[i] < 600.0)
                for (size_t a = 0; a < r; a++)
                    CHECK_CLOSE(phi[i * r + a] * exp(log_scale[i]), want[a], 1e-9, 1e-290);
            /* Backward: gradient in the stored features, the scale held constant. */
            assert_int_equal(feature_backward_f64(map, FEATURE_QUERY, 1, x + i * d, d, dphi, r, log_scale + i, dx, d, 0,
                                                  1, NULL), GSL_SUCCESS);
            if (fabs(log_scale[i]) < 300.0 &&
                !feature_backward_f64(map, FEATURE_QUERY, 1, x + i * d, d, dphi, r, NULL, dx_true, d, 0, 1, NULL))
                for (size_t c = 0; c < d; c++)
                    CHECK_CLOSE(dx[c] * exp(log_scale[i]), dx_true[c], 1e-9, 1e-9 * most * exp(log_scale[i]));
        }
        free(phi); free(want); free(dphi); free(phif);
        feature_map_free(map);
    }
    /* Without the scale the same rows are refused. */
    feature_map *map = make("taylor:5", 3);
    const float x[3] = { 1e9f, -2e9f, 1.5e9f };
    float phi[56];
    assert_int_equal(feature_dim(map), 56);
    assert_int_equal(feature_forward_f32(map, FEATURE_QUERY, 1, x, 3, phi, 56, NULL, 1, NULL), GSL_EOVRFLW);
    feature_map_free(map);
}

static void favor_directions(void **state)
{
    (void)state;
    const size_t d = 6;
    feature_map *map = make("favor-orth:20", d), *more = make("favor-orth:33", d), *plain = make("favor:20", d);
    const double *omega = feature_omega(map);
    CHECK_SAME_BITS(omega, feature_omega(more), 20 * d);      /* nested in R */
    for (size_t a = 0; a < 20; a++)
        for (size_t b = a / d * d; b < a; b++) {
            double dot = 0.0, plain_dot = 0.0;
            for (size_t c = 0; c < d; c++) {
                dot += omega[a * d + c] * omega[b * d + c];
                plain_dot += feature_omega(plain)[a * d + c] * feature_omega(plain)[b * d + c];
            }
            CHECK_CLOSE(dot, 0.0, 0.0, 1e-13 * (double)d);
            assert_true(fabs(plain_dot) > 1e-6);              /* plain ones are not orthogonal */
        }
    feature_map *given;
    const struct feature_spec spec = { FEATURE_FAVOR, 20 };
    assert_int_equal(feature_map_alloc(&spec, d, 0.0, 1, omega, &given), GSL_SUCCESS);
    CHECK_SAME_BITS(feature_omega(given), omega, 20 * d);
    feature_map_free(map); feature_map_free(more); feature_map_free(plain); feature_map_free(given);

    /* <phi(q), phi(k)> is unbiased for e^s, orthogonal or not: 99.9 % interval over seeds. */
    const double q[6] = { 0.7, -1.3, 0.4, 0.9, -0.2, 0.55 }, k[6] = { 0.3, -0.8, 1.1, 0.25, 0.6, -0.45 };
    double score = 0.0;
    for (size_t c = 0; c < d; c++) score += q[c] * k[c] / sqrt((double)d);
    for (int f = 0; f < 2; f++) {
        enum { TRIALS = 400 };
        double value[TRIALS];
        for (size_t t = 0; t < TRIALS; t++) {
            double phi_q[24], phi_k[24];
            assert_int_equal(feature_parse(f ? "favor-orth:24" : "favor:24", d, 0.0, 1000 + t, NULL, &map),
                             GSL_SUCCESS);
            feature_forward_f64(map, FEATURE_QUERY, 1, q, d, phi_q, 24, NULL, 1, NULL);
            feature_forward_f64(map, FEATURE_VALUE, 1, k, d, phi_k, 24, NULL, 1, NULL);
            value[t] = 0.0;
            for (size_t a = 0; a < 24; a++) value[t] += phi_q[a] * phi_k[a];
            feature_map_free(map);
        }
        struct interval mean;
        assert_int_equal(stats_mean(value, TRIALS, 0.999, &mean), GSL_SUCCESS);
        assert_true(mean.lo < exp(score) && exp(score) < mean.hi);
        assert_true(mean.hi - mean.lo < 0.3 * exp(score));
    }
}

static void custom_maps(void **state)
{
    (void)state;
    /* A numerator and a denominator of their own, zeros and signs included. */
    const double value[4] = { 1.0, -0.7, 0.0, 0.2 }, mass[4] = { 2.0, 0.0, 0.6, 0.0 };
    feature_map *map;
    assert_int_equal(feature_map_custom(3, 3, value, mass, &map), GSL_SUCCESS);
    const double q[3] = { 0.7, -1.3, 0.9 }, k[3] = { -0.4, 0.8, 1.7 };
    double phi[3][20], score = 0.0, want, want_mass, got = 0.0, got_mass = 0.0;
    assert_int_equal(feature_dim(map), 20);
    for (size_t c = 0; c < 3; c++) score += q[c] * k[c] / sqrt(3.0);
    feature_forward_f64(map, FEATURE_QUERY, 1, q, 3, phi[0], 20, NULL, 1, NULL);
    feature_forward_f64(map, FEATURE_VALUE, 1, k, 3, phi[1], 20, NULL, 1, NULL);
    feature_forward_f64(map, FEATURE_MASS, 1, k, 3, phi[2], 20, NULL, 1, NULL);
    for (size_t a = 0; a < 20; a++) {
        got += phi[0][a] * phi[1][a];
        got_mass += phi[0][a] * phi[2][a];
    }
    feature_score(map, 1, &score, &want, &want_mass);
    CHECK_CLOSE(want, 1.0 - 0.7 * score + 0.2 * score * score * score, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(got, want, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(got_mass, want_mass, RTOL_ROUNDOFF, 0.0);
    feature_map_free(map);
    const double bad[2] = { 1.0, NAN };
    assert_int_equal(feature_map_custom(3, 1, bad, NULL, &map), GSL_EDOM);
    assert_int_equal(feature_map_custom(3, 65, value, NULL, &map), GSL_EDOM);
}

static void refusals(void **state)
{
    (void)state;
    feature_map *map;
    const double omega[4] = { 0.1, INFINITY, 0.2, 0.3 };
    const struct feature_spec favor = { FEATURE_FAVOR, 2 }, taylor = { FEATURE_TAYLOR, 2 },
        custom = { FEATURE_CUSTOM, 2 };
    assert_int_equal(feature_map_alloc(&favor, 2, 0.0, 1, omega, &map), GSL_EDOM);
    assert_int_equal(feature_map_alloc(&taylor, 2, 0.0, 1, omega, &map), GSL_EINVAL);
    assert_int_equal(feature_map_alloc(&custom, 2, 0.0, 1, NULL, &map), GSL_EINVAL);
    assert_int_equal(feature_parse("elu1", 0, 0.0, 1, NULL, &map), GSL_EINVAL);
    assert_int_equal(feature_parse("cheb:2", 4, NAN, 1, NULL, &map), GSL_EINVAL);
    assert_int_equal(feature_parse("cheb:2", 4, -1.0, 1, NULL, &map), GSL_EINVAL);
    assert_int_equal(feature_parse("minimax:2", 4, INFINITY, 1, NULL, &map), GSL_EINVAL);
    assert_int_equal(feature_parse("cheb:2", 4, 601.0, 1, NULL, &map), GSL_EOVRFLW);
    assert_int_equal(feature_parse("minimax:24", 4, 20.0, 1, NULL, &map), GSL_EMAXITER);
    assert_int_equal(feature_parse("taylor:60", 256, 1.0, 1, NULL, &map), GSL_EOVRFLW);
    assert_null(map);
    feature_map_free(NULL);

    /* Too many monomials to list: scores still work, features are refused. */
    assert_int_equal(feature_parse("taylor:8", 64, 1.0, 1, NULL, &map), GSL_SUCCESS);
    assert_false(feature_is_explicit(map));
    assert_true(feature_dim(map) == 11969016345u);
    double s = 0.5, p, x[64] = { 0 };
    assert_int_equal(feature_score(map, 1, &s, &p, NULL), GSL_SUCCESS);
    CHECK_CLOSE(p, exp(0.5), 1e-8, 0.0);
    assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, 1, x, 64, x, 64, NULL, 1, NULL), GSL_EUNSUP);
    assert_int_equal(feature_backward_f64(map, FEATURE_QUERY, 1, x, 64, x, 64, NULL, x, 64, 0, 1, NULL), GSL_EUNSUP);
    feature_map_free(map);

    map = make("taylor:2", 3);
    double rows[6] = { 0.1, 0.2, 0.3, 0.4, NAN, 0.6 }, phi[20], back[6];
    assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, 2, rows, 2, phi, 10, NULL, 1, NULL), GSL_EBADLEN);
    assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, 2, rows, 3, phi, 9, NULL, 1, NULL), GSL_EBADLEN);
    assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, 2, rows, 3, phi, 10, NULL, 1, NULL), GSL_EDOM);
    assert_int_equal(feature_backward_f64(map, FEATURE_QUERY, 2, rows, 3, phi, 10, NULL, back, 3, 0, 1, NULL),
                     GSL_EDOM);
    assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, 0, rows, 3, phi, 10, NULL, 1, NULL), GSL_SUCCESS);
    feature_map_free(map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(specs_answer_as_their_maps), cmocka_unit_test(counts),
        cmocka_unit_test(features_are_as_defined),
        cmocka_unit_test(inner_products_are_polynomials),
        cmocka_unit_test(polynomials),
        cmocka_unit_test(minimax_equioscillates),
        cmocka_unit_test(float_and_threads_and_instruction_sets),
        cmocka_unit_test(gradients),
        cmocka_unit_test(scaled_rows),
        cmocka_unit_test(favor_directions),
        cmocka_unit_test(custom_maps),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("feature", tests, NULL, NULL);
}
