/* The linear-in-length form, forward and backward, against plain loops. */
#include "prefix_ntk/linear.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "tests/support/check.h"
#include "tests/support/feature_ref.h"

static const double TOL_FLOAT = 3e-7;           /* outputs rounded to float32, times the scale */
static const double TOL_FINITE_DIFF = 2e-6;     /* float32 gradients, central differences in double */

enum { Q, K, V, Z, KVEC, NUM_ARRAYS };

struct problem {
    struct attn_shape s;
    size_t summary_heads, r;       /* 0 heads: no prefix */
    const char *feature;
    feature_map *map;
    size_t size[NUM_ARRAYS];
    double *x[NUM_ARRAYS];
    float *f[NUM_ARRAYS], *d_out;
    size_t lengths[4];
};

static void problem_make(struct problem *p, double spread, uint64_t seed)
{
    struct attn_shape *s = &p->s;
    const size_t d = s->head_dim;
    assert_int_equal(feature_parse(p->feature, d, 3.0, 5, NULL, &p->map), GSL_SUCCESS);
    p->r = feature_dim(p->map);
    p->size[Q] = s->batch * s->heads * s->len_q * d;
    p->size[K] = p->size[V] = s->batch * s->kv_heads * s->len_k * d;
    p->size[Z] = s->batch * p->summary_heads * p->r * d;
    p->size[KVEC] = s->batch * p->summary_heads * p->r;
    for (int a = 0; a < NUM_ARRAYS; a++) {
        p->x[a] = malloc((p->size[a] + 1) * sizeof(double));
        p->f[a] = malloc((p->size[a] + 1) * sizeof(float));
        random_normal(seed, RANDOM_OTHER, 0, (uint64_t)a, p->x[a], p->size[a]);
        for (size_t i = 0; i < p->size[a]; i++) {
            if (a == Q || a == K) p->x[a][i] *= spread;
            /* A positive first feature (degree 0) keeps the mass of polynomial maps positive. */
            if (a == KVEC)
                p->x[a][i] = feature_is_positive(p->map) ? fabs(p->x[a][i]) : i % p->r ? 0.02 * p->x[a][i] : 2.0;
            p->x[a][i] = p->f[a][i] = (float)p->x[a][i];
        }
    }
    double *g = malloc(p->size[Q] * sizeof *g);
    p->d_out = malloc(p->size[Q] * sizeof(float));
    random_normal(seed, RANDOM_OTHER, 1, 0, g, p->size[Q]);
    for (size_t i = 0; i < p->size[Q]; i++) p->d_out[i] = (float)g[i];
    free(g);
    for (size_t b = 0; b < 4; b++) p->lengths[b] = s->len_k - b * s->len_k / 5;
}

static void problem_free(struct problem *p)
{
    for (int a = 0; a < NUM_ARRAYS; a++) {
        free(p->x[a]);
        free(p->f[a]);
    }
    free(p->d_out);
    feature_map_free(p->map);
}

/* Features of one row, by the definitions. */
static void features(const struct problem *p, enum feature_side side, const double *x, double *phi)
{
    const struct feature_spec spec = feature_map_spec(p->map);
    const size_t d = p->s.head_dim;
    if (spec.family == FEATURE_ELU1) {
        feature_ref_elu1(x, d, phi);
    } else if (feature_omega(p->map)) {
        feature_ref_favor(x, d, p->r, feature_omega(p->map), phi);
    } else {
        double value[FEATURE_MAX_DEGREE + 1], mass[FEATURE_MAX_DEGREE + 1];
        const size_t degree = spec.order + (spec.family == FEATURE_SPLIT);
        feature_polynomial(&spec, 3.0, value, mass, NULL);
        feature_ref_monomials(x, d, degree, value, side != FEATURE_QUERY, phi);
        if (spec.family == FEATURE_SPLIT && side == FEATURE_MASS)
            for (size_t a = feature_ref_count(d, degree - 1); a < p->r; a++) phi[a] = 0.0;
    }
}

/* T (batch, heads, len_q, dim) from the arrays x; the number of rows with D <= 0. */
static size_t forward_ref(const struct problem *p, double *const x[NUM_ARRAYS], double *T)
{
    const struct attn_shape *s = &p->s;
    const size_t d = s->head_dim, r = p->r, group = s->heads / s->kv_heads;
    double *phi_q = malloc(r * sizeof *phi_q), *phi = malloc(2 * s->len_k * r * sizeof *phi + 8);
    size_t bad = 0;
    for (size_t b = 0; b < s->batch; b++)
        for (size_t h = 0; h < s->heads; h++) {
            const size_t kv = b * s->kv_heads + h / group;
            for (size_t j = 0; j < s->len_k; j++) {
                features(p, FEATURE_VALUE, x[K] + (kv * s->len_k + j) * d, phi + 2 * j * r);
                features(p, FEATURE_MASS, x[K] + (kv * s->len_k + j) * d, phi + (2 * j + 1) * r);
            }
            for (size_t i = 0; i < s->len_q; i++) {
                double *row = T + ((b * s->heads + h) * s->len_q + i) * d, D = 0.0;
                features(p, FEATURE_QUERY, x[Q] + ((b * s->heads + h) * s->len_q + i) * d, phi_q);
                memset(row, 0, d * sizeof *row);
                if (p->summary_heads) {
                    const size_t zh = b * p->summary_heads + h / (s->heads / p->summary_heads);
                    for (size_t a = 0; a < r; a++) {
                        D += phi_q[a] * x[KVEC][zh * r + a];
                        for (size_t c = 0; c < d; c++) row[c] += phi_q[a] * x[Z][(zh * r + a) * d + c];
                    }
                }
                const size_t keys = s->key_lengths ? s->key_lengths[b] : s->len_k;
                for (size_t j = 0; j < keys && (!s->causal || j + s->len_q <= i + s->len_k); j++) {
                    double value = 0.0;
                    for (size_t a = 0; a < r; a++) {
                        value += phi_q[a] * phi[2 * j * r + a];
                        D += phi_q[a] * phi[(2 * j + 1) * r + a];
                    }
                    for (size_t c = 0; c < d; c++) row[c] += value * x[V][(kv * s->len_k + j) * d + c];
                }
                bad += !(D > 0.0);
                for (size_t c = 0; c < d; c++) row[c] = D > 0.0 ? row[c] / D : 0.0;
            }
        }
    free(phi_q);
    free(phi);
    return bad;
}

static struct attn_in view(const struct problem *p, int array)
{
    const struct attn_shape *s = &p->s;
    const size_t d = s->head_dim;
    if (!p->size[array]) return (struct attn_in){ NULL, 0, 0, 0 };
    switch (array) {
    case Q: return attn_dense_in(p->f[Q], s->heads, s->len_q, d);
    case K: case V: return attn_dense_in(p->f[array], s->kv_heads, s->len_k, d);
    case Z: return attn_dense_in(p->f[Z], p->summary_heads, p->r, d);
    default: return attn_dense_in(p->f[KVEC], p->summary_heads, 1, p->r);
    }
}

static struct attn_out out_like(const struct problem *p, int array, float *data)
{
    const struct attn_in in = view(p, array);
    return (struct attn_out){ data, in.batch, in.head, in.row };
}

static const struct problem cases[] = {
    { .s = { 1, 1, 1, 1, 1, 1, 0, NULL }, .feature = "elu1" },
    { .s = { 2, 4, 2, 70, 83, 5, 1, NULL }, .feature = "elu1", .summary_heads = 4 },
    { .s = { 1, 2, 2, 131, 131, 7, 1, NULL }, .feature = "taylor:2", .summary_heads = 2 },
    { .s = { 3, 2, 1, 9, 200, 3, 0, NULL }, .feature = "split:2", .summary_heads = 1 },
    { .s = { 2, 3, 1, 150, 140, 4, 1, NULL }, .feature = "split:2", .summary_heads = 3 },
    { .s = { 1, 2, 1, 65, 64, 6, 0, NULL }, .feature = "minimax:2" },
    { .s = { 2, 2, 2, 64, 190, 5, 1, NULL }, .feature = "favor:17" },
    { .s = { 1, 3, 3, 129, 128, 4, 1, NULL }, .feature = "favor-orth:9", .summary_heads = 3 },
    { .s = { 1, 1, 1, 5, 0, 3, 0, NULL }, .feature = "taylor:2", .summary_heads = 1 },
};
enum { NUM_CASES = sizeof cases / sizeof *cases };

static void agrees_with_loops(void **state)
{
    (void)state;
    for (size_t n = 0; n < NUM_CASES; n++) {
        for (int ragged = 0; ragged < 2; ragged++) {
            struct problem p = cases[n];
            if (ragged && p.s.batch == 1) continue;
            problem_make(&p, 0.8, 100 + n);
            p.s.key_lengths = ragged ? p.lengths : NULL;
            const struct attn_summary summary = { p.map, p.summary_heads, view(&p, Z), view(&p, KVEC) };
            double *want = malloc(p.size[Q] * sizeof *want), scale = 0.0;
            float *got = malloc(p.size[Q] * sizeof *got), *again = malloc(p.size[Q] * sizeof *again);
            const size_t bytes = attn_linear_forward_workspace(&p.s, &summary, 3);
            char *work = malloc(bytes + 8);
            const size_t bad = forward_ref(&p, p.x, want);
            struct attn_failure where = { 99, 99, 99 };
            const int status = attn_linear_forward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary,
                                                   out_like(&p, Q, got), NULL, 0, 1, &where);
            assert_int_equal(status, bad ? GSL_EDOM : GSL_SUCCESS);
            assert_int_equal(where.batch == 99, !bad);
            assert_int_equal(attn_linear_forward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary,
                                                 out_like(&p, Q, again), work + 3, bytes, 3, NULL), status);
            assert_memory_equal(got, again, p.size[Q] * sizeof *got);
            for (size_t i = 0; i < p.size[Q]; i++) scale = fmax(scale, fabs(want[i]));
            for (size_t i = 0; i < p.size[Q]; i++) CHECK_CLOSE((double)got[i], want[i], 0.0, TOL_FLOAT * scale);
            assert_false(is_close(want[0] + 1e-6 * scale, (double)got[0], 0.0, TOL_FLOAT * scale));
            if (bytes) assert_int_equal(attn_linear_forward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary,
                                                            out_like(&p, Q, again), work, bytes - 1, 3, NULL),
                                                                GSL_EBADLEN);
            free(want); free(got); free(again); free(work);
            problem_free(&p);
        }
    }
}

/* <direction, gradient> against a central difference of sum(d_out T) of the reference. */
static void gradients_are_slopes(void **state)
{
    (void)state;
    for (size_t n = 0; n < NUM_CASES; n++) {
        struct problem p = cases[n];
        problem_make(&p, 0.8, 300 + n);
        p.s.key_lengths = p.s.batch > 1 ? p.lengths : NULL;
        const struct attn_summary summary = { p.map, p.summary_heads, view(&p, Z), view(&p, KVEC) };
        float *grad[NUM_ARRAYS], *again[NUM_ARRAYS];
        for (int a = 0; a < NUM_ARRAYS; a++) {
            grad[a] = malloc((p.size[a] + 1) * sizeof(float));
            again[a] = malloc((p.size[a] + 1) * sizeof(float));
            for (size_t i = 0; i < p.size[a]; i++) grad[a][i] = again[a][i] = NAN;
        }
#define GRADS(of) { out_like(&p, Q, of[Q]), out_like(&p, K, p.size[K] ? of[K] : NULL),                                \
                    out_like(&p, V, p.size[V] ? of[V] : NULL),                                                        \
                    out_like(&p, Z, p.summary_heads ? of[Z] : NULL),                                                  \
                    out_like(&p, KVEC, p.summary_heads ? of[KVEC] : NULL) }
        const struct attn_ntk_grads grads = GRADS(grad), others = GRADS(again);
        struct attn_in d_out = view(&p, Q);
        d_out.data = p.d_out;
        const size_t bytes = attn_linear_backward_workspace(&p.s, &summary, 2);
        void *work = malloc(bytes);
        const int status = attn_linear_backward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary, d_out, &grads,
                                                NULL, 0, 1);
        assert_int_equal(attn_linear_backward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary, d_out, &others,
                                              work, bytes, 2), status);
        double *T[2] = { malloc(p.size[Q] * sizeof(double)), malloc(p.size[Q] * sizeof(double)) };
        const size_t bad = forward_ref(&p, p.x, T[0]);
        assert_int_equal(status, bad ? GSL_EDOM : GSL_SUCCESS);
        for (int a = 0; a < NUM_ARRAYS; a++) {
            if (!p.size[a]) continue;
            assert_memory_equal(grad[a], again[a], p.size[a] * sizeof(float));
            double *direction = malloc(p.size[a] * sizeof *direction), *base = p.x[a],
                *moved = malloc(p.size[a] * sizeof *moved);
            const double h = 2e-5;
            random_normal(8, RANDOM_OTHER, n, (uint64_t)a, direction, p.size[a]);
            for (int sign = 0; sign < 2; sign++) {
                for (size_t i = 0; i < p.size[a]; i++) moved[i] = base[i] + (sign ? h : -h) * direction[i];
                p.x[a] = moved;
                forward_ref(&p, p.x, T[sign]);
                p.x[a] = base;
            }
            double slope = 0.0, got = 0.0, size = 0.0;
            for (size_t i = 0; i < p.size[Q]; i++) slope += (double)p.d_out[i] * (T[1][i] - T[0][i]) / (2.0 * h);
            for (size_t i = 0; i < p.size[a]; i++) {
                got += direction[i] * (double)grad[a][i];
                size += fabs(direction[i] * (double)grad[a][i]);
            }
            if (fabs(slope) > 1e-3) assert_false(is_close(-got, slope, 0.0, TOL_FINITE_DIFF * size));
            CHECK_CLOSE(got, slope, 0.0, TOL_FINITE_DIFF * size + 1e-9);
            free(direction); free(moved);
        }
        for (int a = 0; a < NUM_ARRAYS; a++) {
            free(grad[a]);
            free(again[a]);
        }
        free(T[0]); free(T[1]); free(work);
        problem_free(&p);
    }
}

/* A summary shared by all entries and heads (strides 0) gets the sum of the gradients
 * each copy would get. */
static void shared_summaries_sum(void **state)
{
    (void)state;
    struct problem p = { .s = { 2, 4, 2, 40, 70, 3, 1, NULL }, .feature = "elu1", .summary_heads = 4 };
    problem_make(&p, 0.9, 41);
    const size_t r = p.r, d = 3;
    for (size_t i = 0; i < p.size[Z]; i++) p.f[Z][i] = p.f[Z][i % (r * d)];
    for (size_t i = 0; i < p.size[KVEC]; i++) p.f[KVEC][i] = p.f[KVEC][i % r];
    float *dZ = malloc(p.size[Z] * sizeof *dZ), *dk = malloc(p.size[KVEC] * sizeof *dk), shared_dZ[64], shared_dk[16];
    const struct attn_summary apart = { p.map, 4, view(&p, Z), view(&p, KVEC) };
    const struct attn_summary shared = { p.map, 4, { p.f[Z], 0, 0, (ptrdiff_t)d }, { p.f[KVEC], 0, 0, (ptrdiff_t)r } };
    const struct attn_ntk_grads g1 = { .Z = out_like(&p, Z, dZ), .kvec = out_like(&p, KVEC, dk) };
    const struct attn_ntk_grads g2 = { .Z = { shared_dZ, 0, 0, (ptrdiff_t)d },
                                       .kvec = { shared_dk, 0, 0, (ptrdiff_t)r } };
    struct attn_in d_out = view(&p, Q);
    d_out.data = p.d_out;
    assert_int_equal(attn_linear_backward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &apart, d_out, &g1, NULL, 0, 2),
                     GSL_SUCCESS);
    assert_int_equal(attn_linear_backward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &shared, d_out, &g2, NULL, 0, 2),
                     GSL_SUCCESS);
    for (size_t e = 0; e < r * d; e++) {
        double sum = 0.0, size = 0.0;
        for (size_t i = e; i < p.size[Z]; i += r * d) { sum += dZ[i]; size += fabs((double)dZ[i]); }
        CHECK_CLOSE((double)shared_dZ[e], sum, 0.0, TOL_FLOAT * size);
    }
    for (size_t e = 0; e < r; e++) {
        double sum = 0.0, size = 0.0;
        for (size_t i = e; i < p.size[KVEC]; i += r) { sum += dk[i]; size += fabs((double)dk[i]); }
        CHECK_CLOSE((double)shared_dk[e], sum, 0.0, TOL_FLOAT * size);
    }
    free(dZ); free(dk);
    problem_free(&p);
}

/* Keys whose favor features differ by e^{+-2000}: early causal rows must not lose theirs
 * to a later giant. Law: rows before the giant do not depend on it. */
static void scales_far_apart(void **state)
{
    (void)state;
    struct problem p = { .s = { 1, 1, 1, 100, 100, 4, 1, NULL }, .feature = "favor:8" };
    problem_make(&p, 0.7, 77);
    for (size_t c = 0; c < 4; c++) p.f[K][c] = 90.0f;         /* e^{-8000}: alone seen by row 0 */
    const struct attn_summary summary = { p.map, 0, { NULL, 0, 0, 0 }, { NULL, 0, 0, 0 } };
    float *out = malloc(p.size[Q] * sizeof *out);
    assert_int_equal(attn_linear_forward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary, out_like(&p, Q, out),
                                         NULL, 0, 1, NULL), GSL_SUCCESS);
    for (size_t c = 0; c < 4; c++) CHECK_CLOSE((double)out[c], (double)p.f[V][c], 1e-6, 0.0);
    float *dq = malloc(p.size[Q] * sizeof *dq), *dk = malloc(p.size[K] * sizeof *dk),
        *dv = malloc(p.size[V] * sizeof *dv);
    const struct attn_ntk_grads grads = { .q = out_like(&p, Q, dq), .k = out_like(&p, K, dk),
                                          .v = out_like(&p, V, dv) };
    struct attn_in d_out = view(&p, Q);
    d_out.data = p.d_out;
    assert_int_equal(attn_linear_backward(&p.s, view(&p, Q), view(&p, K), view(&p, V), &summary, d_out, &grads, NULL, 0,
                                          1), GSL_SUCCESS);
    for (size_t i = 0; i < p.size[Q]; i++) assert_true(isfinite(dq[i]) && isfinite(dk[i]) && isfinite(dv[i]));
    /* Row 0 sees key 0 alone and no other row notices it: dv_0 = d_out_0. */
    for (size_t c = 0; c < 4; c++) CHECK_CLOSE((double)dv[c], (double)p.d_out[c], 1e-6, 0.0);
    free(out); free(dq); free(dk); free(dv);
    problem_free(&p);
}

static void refusals(void **state)
{
    (void)state;
    struct problem p = { .s = { 2, 2, 1, 6, 4, 3, 0, NULL }, .feature = "taylor:1", .summary_heads = 2 };
    problem_make(&p, 0.3, 5);
    struct attn_summary summary = { p.map, 2, view(&p, Z), view(&p, KVEC) };
    float *out = malloc(p.size[Q] * sizeof *out);
    struct attn_failure where = { 9, 9, 9 };
#define CALL(shape) attn_linear_forward((shape), view(&p, Q), view(&p, K), view(&p, V), &summary, \
                                        out_like(&p, Q, out), NULL, 0, 1, &where)
    assert_int_equal(CALL(&p.s), GSL_SUCCESS);
    /* A negative mass in one row of the second entry: named, its output 0, the rest right. */
    float before[3];
    memcpy(before, out, sizeof before);
    for (size_t h = 0; h < 2; h++) p.f[KVEC][(2 + h) * p.r] = -1e4f;
    assert_int_equal(CALL(&p.s), GSL_EDOM);
    assert_true(where.batch == 1 && where.head == 0 && where.row == 0);
    assert_memory_equal(before, out, sizeof before);
    for (size_t c = 0; c < 3; c++) assert_true(out[p.size[Q] / 2 + c] == 0.0f);
    /* Nothing to see at all: causal with more queries than keys and no prefix. */
    summary.Z.data = NULL;
    struct attn_shape s = p.s;
    s.causal = 1;
    assert_int_equal(CALL(&s), GSL_EDOM);
    assert_true(where.batch == 0 && where.head == 0 && where.row == 0);
    const size_t lengths[2] = { 4, 5 };
    s.key_lengths = lengths;
    assert_int_equal(CALL(&s), GSL_EINVAL);
    s = p.s;
    s.heads = 3; s.kv_heads = 2;
    assert_int_equal(CALL(&s), GSL_EINVAL);
    s = p.s;
    s.head_dim = 2;
    assert_int_equal(CALL(&s), GSL_EBADLEN);
    p.f[V][4] = NAN;
    assert_int_equal(CALL(&p.s), GSL_EDOM);
    assert_true(where.batch == 0 && where.head == 0 && where.row == 0);
    feature_map *big;
    assert_int_equal(feature_parse("taylor:30", 3, 1.0, 1, NULL, &big), GSL_SUCCESS);
    feature_map_free(big);
    assert_int_equal(feature_parse("taylor:12", 64, 1.0, 1, NULL, &big), GSL_SUCCESS);
    s = p.s;
    s.head_dim = 64;
    summary.map = big;
    assert_int_equal(CALL(&s), GSL_EUNSUP);
    feature_map_free(big);
    free(out);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_loops),
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(shared_summaries_sum),
        cmocka_unit_test(scales_far_apart),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
