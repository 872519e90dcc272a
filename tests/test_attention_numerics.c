/* What attention.h promises beyond agreement with the reference: same bits, extreme
 * scores, status codes, packed prefixes, partial results, shared gradients, threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/isa.h"
#include "common/random.h"
#include "prefix_ntk/feature.h"
#include "tests/support/attention_case.h"
#include "tests/support/check.h"

/* Float32 rounding of sums, relative to the largest output. */
#define RTOL_OUTPUT 2e-6
/* One rounding per merge on top. */
#define RTOL_MERGE 4e-6

static struct attn_in in(struct attn_out x) { return (struct attn_in){ x.data, x.batch, x.head, x.row }; }

static size_t rows_of(const struct attn_case *c) { return c->shape.batch * c->shape.heads * c->shape.len_q; }

static float *dense_out(struct attn_case *c, struct attn_out *view)
{
    float *data = attn_case_floats(c, rows_of(c) * c->shape.head_dim);
    *view = attn_dense_out(data, c->shape.heads, c->shape.len_q, c->shape.head_dim);
    return data;
}

static attn_row *row_out(struct attn_case *c) { return (attn_row *)attn_case_floats(c, 2 * rows_of(c)); }

static void assert_same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a)) {
            print_error("entry %zu of %zu: %.9g and %.9g\n", i, n, (double)a[i], (double)b[i]);
            fail();
        }
}

/* Within the two roundings of one product and one division. */
static void assert_nearly(const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++) CHECK_CLOSE(got[i], want[i], 0x1p-22, 0.0);
}

static void for_each_isa(void (*check)(void))
{
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++)
        if (isa_available((enum isa)isa)) {
            assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
            check();
        }
}

/* Law: a summary of zeros, a prefix of length 0 and no prefix are the same bits. */
static void check_empty_summary(void)
{
    const char *maps[] = { "elu1", "taylor:2", "favor:16" };
    for (int causal = 0; causal < 2; causal++)
        for (size_t i = 0; i < 3; i++) {
            const struct attn_case_spec spec = { 2, 2, 1, 37, 45, 8, 0, causal, 1, 0, 0, maps[i] };
            struct attn_case c;
            attn_case_make(&spec, 5, &c);
            struct attn_out none, zero, empty;
            float *a = dense_out(&c, &none), *b = dense_out(&c, &zero), *e = dense_out(&c, &empty);
            attn_row *ra = row_out(&c), *rb = row_out(&c);
            float *zeros = attn_case_floats(&c, 2 * 2 * c.feat_dim * 8);
            zeros[3] = -0.0f;
            struct attn_summary summary = c.summary;
            summary.Z = attn_dense_in(zeros, 2, c.feat_dim, 8);
            summary.kvec = (struct attn_in){ zeros, 0, 0, 0 };
            assert_int_equal(attn_exact_forward(&c.shape, c.scale, c.q, c.k, c.v, NULL, none, ra, NULL, 0, 1, NULL), 0);
            assert_int_equal(attn_exact_forward(&c.shape, c.scale, c.q, c.k, c.v, &c.prefix, empty, NULL, NULL, 0, 1,
                                                NULL), 0);
            assert_int_equal(attn_ntk_forward(&c.shape, c.scale, c.q, c.k, c.v, &summary, zero, rb, NULL, 0, 1, NULL),
                             0);
            assert_same_floats(a, b, rows_of(&c) * 8);
            assert_same_floats(a, e, rows_of(&c) * 8);
            assert_same_floats((float *)ra, (float *)rb, rows_of(&c) * 2);
            attn_case_free(&c);
        }
}
static void test_empty_summary_is_plain(void **state) { (void)state; for_each_isa(check_empty_summary); }

/* Results do not depend on threads, nor on the workspace, nor on packing. */
static void check_threads(void)
{
    const struct attn_case_spec specs[] = {
        { 1, 1, 1, 7, 100, 20, 4000, 1, 0, 0, 0, NULL },     /* split keys */
        { 2, 2, 1, 200, 210, 32, 33, 1, 1, 0, 0, NULL },
        { 1, 1, 1, 700, 1300, 16, 0, 0, 0, 0, 0, "elu1" },   /* chunks of keys and of rows */
        { 6, 9, 3, 13, 17, 32, 9, 1, 1, 0, 0, NULL },        /* many heads in one task */
        { 5, 7, 7, 19, 19, 24, 0, 0, 1, 0, 0, "elu1" },
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct attn_case c;
        attn_case_make(&specs[i], 9, &c);
        const struct attn_shape *s = &c.shape;
        const size_t n = rows_of(&c) * s->head_dim, kv = s->batch * s->kv_heads;
        float *out[3], *dq[3], *dk[3], *dv[3], *dp[3];
        for (int run = 0; run < 3; run++) {
            const int threads = run + 1;
            struct attn_out o, gq;
            out[run] = dense_out(&c, &o);
            dq[run] = dense_out(&c, &gq);
            attn_row *rows = row_out(&c);
            dk[run] = attn_case_floats(&c, kv * s->len_k * s->head_dim);
            dv[run] = attn_case_floats(&c, kv * s->len_k * s->head_dim);
            const struct attn_out gk = attn_dense_out(dk[run], s->kv_heads, s->len_k, s->head_dim);
            const struct attn_out gv = attn_dense_out(dv[run], s->kv_heads, s->len_k, s->head_dim);
            if (c.feat_dim) {
                dp[run] = attn_case_floats(&c, s->batch * s->heads * c.feat_dim * s->head_dim);
                const struct attn_out dZ = attn_dense_out(dp[run], s->heads, c.feat_dim, s->head_dim);
                const struct attn_ntk_grads g = { gq, gk, gv, dZ, { 0 } };
                const size_t fw = attn_ntk_forward_workspace(s, &c.summary, threads);
                const size_t bw = attn_ntk_backward_workspace(s, &c.summary, &g, threads);
                char *work = (char *)attn_case_floats(&c, (fw > bw ? fw : bw) / 4 + 2) + 1;
                memset(work, 0xff, fw > bw ? fw : bw);       /* NaN: nothing may be taken for granted */
                assert_int_equal(attn_ntk_forward(s, c.scale, c.q, c.k, c.v, &c.summary, o, rows, work, fw, threads,
                                                  NULL), 0);
                assert_int_equal(attn_ntk_backward(s, c.scale, c.q, c.k, c.v, &c.summary, in(o), (const attn_row *)rows,
                                                   c.d_out, &g, work, bw, threads), 0);
            } else {
                dp[run] = attn_case_floats(&c, kv * c.prefix_len * s->head_dim);
                struct attn_prefix prefix = c.prefix;
                struct attn_packed *packed = NULL;
                if (run == 2) {
                    packed = attn_packed_alloc(s->batch, s->kv_heads, prefix.len, s->head_dim, 1);
                    assert_non_null(packed);
                    assert_int_equal(attn_packed_set(packed, prefix.k, prefix.v, 2), GSL_SUCCESS);
                    assert_true(attn_packed_bytes(packed) >= 4 * kv * prefix.len * s->head_dim * sizeof(float));
                    prefix = (struct attn_prefix){ .len = prefix.len, .packed = packed };
                }
                const struct attn_exact_grads g = { gq, gk, gv, attn_dense_out(dp[run], s->kv_heads, prefix.len,
                                                                               s->head_dim), { 0 } };
                const size_t fw = attn_exact_forward_workspace(s, prefix.len, threads);
                const size_t bw = attn_exact_backward_workspace(s, prefix.len, &g, threads);
                char *work = (char *)attn_case_floats(&c, (fw > bw ? fw : bw) / 4 + 2) + 3;
                memset(work, 0xff, fw > bw ? fw : bw);
                assert_int_equal(attn_exact_forward(s, c.scale, c.q, c.k, c.v, &prefix, o, rows, work, fw, threads,
                                                    NULL), 0);
                assert_int_equal(attn_exact_backward(s, c.scale, c.q, c.k, c.v, &prefix, in(o), (const attn_row *)rows,
                                                     c.d_out, &g, work, bw, threads), 0);
                attn_packed_free(packed);
            }
        }
        const size_t keys = kv * s->len_k * s->head_dim;
        for (int run = 1; run < 3; run++) {
            assert_same_floats(out[0], out[run], n);
            assert_same_floats(dq[0], dq[run], n);
            assert_same_floats(dk[0], dk[run], keys);
            assert_same_floats(dv[0], dv[run], keys);
            const size_t prefix = c.feat_dim ? s->batch * s->heads * c.feat_dim : kv * c.prefix_len;
            assert_same_floats(dp[0], dp[run], prefix * s->head_dim);
        }
        attn_case_free(&c);
    }
}
static void test_same_bits_for_any_threads(void **state) { (void)state; for_each_isa(check_threads); }

/* A problem of few numbers set by hand: one head, head_dim 4, scale 1. */
struct tiny {
    struct attn_shape shape;
    float q[8], k[12], v[12], pk[8], pv[8], out[8];
    attn_row rows[2];
};

static int tiny_run(struct tiny *t, size_t prefix_len, struct attn_failure *failure)
{
    const struct attn_shape *s = &t->shape;
    const struct attn_prefix prefix = { prefix_len, attn_dense_in(t->pk, 1, prefix_len, 4),
                                        attn_dense_in(t->pv, 1, prefix_len, 4), NULL };
    return attn_exact_forward(s, 1.0f, attn_dense_in(t->q, 1, s->len_q, 4), attn_dense_in(t->k, 1, s->len_k, 4),
                              attn_dense_in(t->v, 1, s->len_k, 4), &prefix, attn_dense_out(t->out, 1, s->len_q, 4),
                              t->rows, NULL, 0, 1, failure);
}

/* Scores of +-10^4: exp(max) overflows, the shifted softmax does not. Whoever dominates
 * fully is returned. */
static void check_extremes(void)
{
    struct tiny t = { .shape = { 1, 1, 1, 2, 3, 4, 0, NULL },
                      .q = { 100, 0, 0, 0, -100, 0, 0, 0 },
                      .k = { 100, 0, 0, 0, 0, 1, 0, 0, -100, 0, 0, 0 },
                      .v = { 0.7f, -1.3f, 2.1f, 0.1f, 5, 6, 7, 8, -0.3f, 0.9f, 1.7f, -2.9f },
                      .pk = { 50, 0, 0, 0, 0, 0, 0, 0 }, .pv = { 9, 9, 9, 9, -9, -9, -9, -9 } };
    assert_int_equal(tiny_run(&t, 2, NULL), GSL_SUCCESS);
    assert_nearly(t.out, t.v, 4);
    assert_nearly(t.out + 4, t.v + 8, 4);
    for (int i = 0; i < 2; i++)
        CHECK_CLOSE(log(2.0) * t.rows[i][0] + log(t.rows[i][1]), 1e4, 1e-6, 0.0);
    /* A fully dominated input: all keys at -10^4, the prefix at 0. */
    struct tiny u = t;
    for (int j = 0; j < 3; j++) memcpy(u.k + 4 * j, (float[4]){ -100, 0, 0, 0 }, 16);
    memset(u.pk, 0, sizeof u.pk);
    u.shape.len_q = 1;
    u.pv[0] = 3.5f;
    assert_int_equal(tiny_run(&u, 1, NULL), GSL_SUCCESS);
    assert_nearly(u.out, u.pv, 4);
    /* A fully dominated prefix. */
    memset(u.k, 0, sizeof u.k);
    memcpy(u.pk, (float[4]){ -100, 0, 0, 0 }, 16);
    assert_int_equal(tiny_run(&u, 1, NULL), GSL_SUCCESS);
    CHECK_CLOSE(u.out[0], (0.7f + 5 - 0.3f) / 3.0, RTOL_OUTPUT, 0.0);
    /* Denormal values pass through; denormal keys are scores of 0. */
    for (int j = 0; j < 12; j++) {
        u.v[j] = 0x1p-140f;
        u.k[j] = -0x1p-130f;
    }
    assert_int_equal(tiny_run(&u, 0, NULL), GSL_SUCCESS);
    CHECK_CLOSE(u.out[2], 0x1p-140, 0.0, 0x1p-149);
    /* The max before masking would be a hidden 10^4 and leave 0 / 0. */
    struct tiny w = { .shape = { 1, 1, 1, 2, 2, 4, 1, NULL }, .q = { 100, 0, 0, 0, 100, 0, 0, 0 },
                      .k = { 1, 0, 0, 0, 100, 0, 0, 0 }, .v = { 0.7f, -1.3f, 2.1f, 0.1f, 5, 6, 7, 8 } };
    assert_int_equal(tiny_run(&w, 0, NULL), GSL_SUCCESS);
    assert_nearly(w.out, w.v, 8);
}
static void test_extreme_scores(void **state) { (void)state; for_each_isa(check_extremes); }

/* Rows that may see nothing, or whose scores overflow, are a status that names them. */
static void check_statuses(void)
{
    struct tiny t = { .shape = { 1, 1, 1, 2, 1, 4, 1, NULL }, .q = { 1, 2, 3, 4, 5, 6, 7, 8 }, .k = { 1, 1, 1, 1 },
                      .v = { 0.7f, -1.3f, 2.1f, 0.1f }, .out = { 42, 42, 42, 42 } };
    struct attn_failure failure = { 9, 9, 9 };
    assert_int_equal(tiny_run(&t, 0, &failure), GSL_EDOM);       /* row 0 sees key j <= -1 */
    assert_int_equal(failure.batch, 0);
    assert_int_equal(failure.head, 0);
    assert_int_equal(failure.row, 0);
    assert_same_floats(t.out, (float[4]){ 0, 0, 0, 0 }, 4);
    assert_nearly(t.out + 4, t.v, 4);
    t.q[4] = t.k[0] = 3e38f;
    t.shape.causal = 0;
    assert_int_equal(tiny_run(&t, 0, &failure), GSL_EDOM);
    assert_int_equal(failure.row, 0);
    t.q[0] = 0.0f;
    t.q[1] = t.q[2] = t.q[3] = 0.5f;
    assert_int_equal(tiny_run(&t, 0, &failure), GSL_EDOM);
    assert_int_equal(failure.row, 1);

    const struct attn_shape good = { 1, 2, 2, 2, 3, 4, 0, NULL };
    float x[64] = { 0 }, y[64];
    const struct attn_in X = attn_dense_in(x, 2, 3, 4);
    const struct attn_out Y = attn_dense_out(y, 2, 2, 4);
    struct attn_shape bad = good;
    bad.kv_heads = 3;
    assert_int_equal(attn_exact_forward(&bad, 1, X, X, X, NULL, Y, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
    bad = good;
    bad.head_dim = 0;
    assert_int_equal(attn_exact_forward(&bad, 1, X, X, X, NULL, Y, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
    const size_t too_long = 4;
    bad = good;
    bad.key_lengths = &too_long;
    assert_int_equal(attn_exact_forward(&bad, 1, X, X, X, NULL, Y, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_exact_forward(&good, NAN, X, X, X, NULL, Y, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_exact_forward(&good, 1, X, X, X, NULL, Y, NULL, NULL, 0, 0, NULL), GSL_EINVAL);
    assert_int_equal(attn_exact_forward(&good, 1, X, X, X, NULL, Y, NULL, y, 3, 1, NULL), GSL_EBADLEN);
    struct attn_packed *packed = attn_packed_alloc(1, 2, 5, 4, 0);
    assert_int_equal(attn_packed_set(packed, X, X, 1), GSL_SUCCESS);
    struct attn_prefix prefix = { .len = 6, .packed = packed };
    assert_int_equal(attn_exact_forward(&good, 1, X, X, X, &prefix, Y, NULL, NULL, 0, 1, NULL), GSL_EBADLEN);
    prefix.len = 5;
    assert_int_equal(attn_exact_forward(&good, 1, X, X, X, &prefix, Y, NULL, NULL, 0, 1, NULL), GSL_SUCCESS);
    const struct attn_exact_grads grads = { .q = Y };
    attn_row rows[4];
    assert_int_equal(attn_exact_backward(&good, 1, X, X, X, &prefix, X, (const attn_row *)rows, X, &grads, NULL, 0, 1),
                     GSL_EBADLEN);
    attn_packed_free(packed);
    attn_packed_free(NULL);
    feature_map *map;
    assert_int_equal(feature_parse("elu1", 5, 0, 1, NULL, &map), GSL_SUCCESS);
    const struct attn_summary summary = { map, 2, X, X };
    assert_int_equal(attn_ntk_forward(&good, 1, X, X, X, &summary, Y, NULL, NULL, 0, 1, NULL), GSL_EBADLEN);
    feature_map_free(map);
}
static void test_statuses(void **state) { (void)state; for_each_isa(check_statuses); }

/* A polynomial summary with a negative mass: D <= 0 is the status, and the row is named. */
static void check_negative_mass(void)
{
    const struct attn_case_spec spec = { 2, 2, 2, 9, 11, 6, 0, 0, 0, 0, 0, "taylor:1" };
    struct attn_case c;
    attn_case_make(&spec, 21, &c);
    float *k = (float *)c.summary.kvec.data;
    double *kd = (double *)c.ref.kvec;
    for (size_t f = 0; f < c.feat_dim; f++) {
        const size_t at = 3 * c.feat_dim + f;        /* batch 1, head 1 */
        kd[at] = k[at] = f ? 20.0f * (f % 2 ? 1.0f : -1.3f) : 0.5f;
    }
    double *out = attn_case_doubles(&c, rows_of(&c) * 6);
    const size_t bad = attn_ref_forward(&c.ref, out, NULL);
    assert_in_range(bad, 1, 8);
    struct attn_out view;
    dense_out(&c, &view);
    struct attn_failure failure;
    assert_int_equal(attn_ntk_forward(&c.shape, c.scale, c.q, c.k, c.v, &c.summary, view, NULL, NULL, 0, 2, &failure),
                     GSL_EDOM);
    assert_int_equal(failure.batch, 1);
    assert_int_equal(failure.head, 1);
    size_t first = 0;
    while (attn_largest(out + ((3 * 9) + first) * 6, 6) > 0.0) first++;
    assert_int_equal(failure.row, first);
    /* Some D nearly cancel: their rows lose digits. */
    CHECK_LESS(attn_deviation(in(view), out, 2, 2, 9, 6), 1e-4 * attn_largest(out, rows_of(&c) * 6));
    attn_case_free(&c);
}
static void test_negative_mass(void **state) { (void)state; for_each_isa(check_negative_mass); }

/* A mass far beyond the range of exp(score), at either end: |k| of 1e-38 against scores
 * of -200, of 1e30 against scores of 0, and a summary that a score of 10^4 dominates. */
static void check_extreme_masses(void)
{
    feature_map *map;
    assert_int_equal(feature_parse("elu1", 4, 0, 1, NULL, &map), GSL_SUCCESS);
    const struct { float mass, score; } cases[] = {
        { 1e-38f, -200.0f }, { 1e-42f, -200.0f }, { 1e-42f, 0.0f }, { 1e30f, 0.0f }, { 1e30f, 69.0f }, { 1.0f, 1e4f },
        { 1.0f, -1e4f },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float q[4] = { 0 }, key[4] = { 0 }, v[4] = { 1, -2, 3, 0.5f }, Z[16] = { 0 }, k[4] = { 0 }, out[4];
        q[0] = 8.0f;
        key[0] = cases[i].score / 8.0f;
        k[1] = cases[i].mass;                        /* phi_1(0) = 1 */
        for (int e = 0; e < 4; e++) Z[4 + e] = 0.25f * (float)(e + 1) * cases[i].mass;
        const struct attn_shape s = { 1, 1, 1, 1, 1, 4, 0, NULL };
        const struct attn_summary z = { map, 1, attn_dense_in(Z, 1, 4, 4), { k, 4, 4, 0 } };
        assert_int_equal(attn_ntk_forward(&s, 1.0f, attn_dense_in(q, 1, 1, 4), attn_dense_in(key, 1, 1, 4),
                                          attn_dense_in(v, 1, 1, 4), &z, attn_dense_out(out, 1, 1, 4), NULL, NULL, 0, 1,
                                              NULL), GSL_SUCCESS);
        const double shift = fmax(cases[i].score, log(cases[i].mass));
        const double a = exp(cases[i].score - shift), p = exp(log(cases[i].mass) - shift);
        for (int e = 0; e < 4; e++)
            CHECK_CLOSE(out[e], (a * v[e] + p * 0.25 * (e + 1)) / (a + p), cases[i].mass < 1e-37f ? 1e-2
                        : 2e-6 * (1 + fabsf(cases[i].score)), 1e-30);
    }
    feature_map_free(map);
}
static void test_extreme_masses(void **state) { (void)state; for_each_isa(check_extreme_masses); }

/* Partial results over blocks of a prefix, in any grouping, merge to the whole. */
static void check_partials(void)
{
    const struct attn_case_spec spec = { 1, 2, 2, 13, 17, 24, 700, 1, 0, 0, 9.0, NULL };
    struct attn_case c;
    attn_case_make(&spec, 4, &c);
    const size_t n = rows_of(&c) * 24;
    struct attn_out whole, sum, part;
    float *want = dense_out(&c, &whole), *got = dense_out(&c, &sum);
    dense_out(&c, &part);
    attn_row *rw = row_out(&c), *rs = row_out(&c), *rp = row_out(&c);
    assert_int_equal(attn_exact_forward(&c.shape, c.scale, c.q, c.k, c.v, &c.prefix, whole, rw, NULL, 0, 1, NULL), 0);
    /* Starts from the input tokens alone: some are hidden, none of these rows empty. */
    assert_int_equal(attn_partial_forward(&c.shape, c.scale, c.q, c.k, c.v, NULL, sum, rs, NULL, 0, 1), 0);
    struct attn_shape alone = c.shape;
    alone.len_k = 0;
    const size_t cuts[] = { 0, 1, 130, 131, 400, 700 };
    for (size_t i = 5; i-- > 0;) {
        struct attn_prefix block = c.prefix;
        block.len = cuts[i + 1] - cuts[i];
        block.k.data += (ptrdiff_t)cuts[i] * block.k.row;
        block.v.data += (ptrdiff_t)cuts[i] * block.v.row;
        assert_int_equal(attn_partial_forward(&alone, c.scale, c.q, c.k, c.v, &block, part, rp, NULL, 0, 1), 0);
        attn_partial_merge(&c.shape, sum, rs, in(part), (const attn_row *)rp);
    }
    /* The neutral element. */
    struct attn_prefix nothing = { 0 };
    assert_int_equal(attn_partial_forward(&alone, c.scale, c.q, c.k, c.v, &nothing, part, rp, NULL, 0, 1), 0);
    assert_true(rp[0][0] == -INFINITY && rp[0][1] == 0.0f);
    attn_partial_merge(&c.shape, sum, rs, in(part), (const attn_row *)rp);
    for (size_t i = 0; i < rows_of(&c); i++) {
        assert_true(rs[i][0] == rw[i][0] && rs[i][0] == floorf(rs[i][0]));
        CHECK_CLOSE(rs[i][1], rw[i][1], RTOL_MERGE, 0.0);
    }
    assert_int_equal(attn_partial_finish(&c.shape, sum, (const attn_row *)rs, NULL), GSL_SUCCESS);
    for (size_t i = 0; i < n; i++) CHECK_CLOSE(got[i], want[i], RTOL_MERGE, RTOL_MERGE);
    struct attn_failure failure;
    assert_int_equal(attn_partial_finish(&c.shape, part, (const attn_row *)rp, &failure), GSL_EDOM);
    assert_int_equal(failure.row, 0);
    attn_case_free(&c);
}
static void test_partials_merge(void **state) { (void)state; for_each_isa(check_partials); }

/* A gradient whose view shares (stride 0) is the sum of the separate ones, and one that
 * is not wanted changes nothing else. */
static void check_shared(void)
{
    const struct attn_case_spec spec = { 2, 4, 2, 10, 12, 16, 21, 1, 1, 0, 0, NULL };
    struct attn_case c;
    attn_case_make(&spec, 31, &c);
    struct attn_prefix prefix = c.prefix;
    prefix.k.batch = prefix.v.batch = 0;             /* one prefix for both entries */
    struct attn_out out, dq;
    dense_out(&c, &out);
    dense_out(&c, &dq);
    attn_row *rows = row_out(&c);
    assert_int_equal(attn_exact_forward(&c.shape, c.scale, c.q, c.k, c.v, &prefix, out, rows, NULL, 0, 1, NULL), 0);
    const size_t head = 21 * 16;
    float *separate = attn_case_floats(&c, 4 * head), *batch = attn_case_floats(&c, 2 * head),
        *all = attn_case_floats(&c, head);
    struct attn_exact_grads g = { .q = dq, .prefix_k = attn_dense_out(separate, 2, 21, 16) };
    assert_int_equal(attn_exact_backward(&c.shape, c.scale, c.q, c.k, c.v, &prefix, in(out), (const attn_row *)rows,
                                         c.d_out, &g, NULL, 0, 2), 0);
    g = (struct attn_exact_grads){ .prefix_k = attn_dense_out(batch, 2, 21, 16) };
    g.prefix_k.batch = 0;
    assert_int_equal(attn_exact_backward(&c.shape, c.scale, c.q, c.k, c.v, &prefix, in(out), (const attn_row *)rows,
                                         c.d_out, &g, NULL, 0, 2), 0);
    g.prefix_k = (struct attn_out){ all, 0, 0, 16 };
    assert_int_equal(attn_exact_backward(&c.shape, c.scale, c.q, c.k, c.v, &prefix, in(out), (const attn_row *)rows,
                                         c.d_out, &g, NULL, 0, 2), 0);
    for (size_t i = 0; i < head; i++) {
        CHECK_CLOSE(batch[i], (double)separate[i] + separate[2 * head + i], 1e-6, 1e-6);
        CHECK_CLOSE(all[i], (double)separate[i] + separate[head + i] + separate[2 * head + i] + separate[3 * head + i],
                    1e-6, 1e-6);
    }
    attn_case_free(&c);

    /* A summary per KV head, shared between batch entries. */
    const struct attn_case_spec with_summary = { 2, 4, 2, 10, 12, 8, 0, 0, 0, 0, 0, "elu1" };
    attn_case_make(&with_summary, 32, &c);
    dense_out(&c, &out);
    dense_out(&c, &dq);
    rows = row_out(&c);
    struct attn_summary z = c.summary;
    z.heads = 2;
    z.Z.batch = z.kvec.batch = 0;
    assert_int_equal(attn_ntk_forward(&c.shape, c.scale, c.q, c.k, c.v, &z, out, rows, NULL, 0, 1, NULL), 0);
    float *dZ = attn_case_floats(&c, 2 * 64), *dk = attn_case_floats(&c, 16), *full = attn_case_floats(&c, 8 * 64),
        *dkf = attn_case_floats(&c, 64);
    struct attn_ntk_grads ng = { .Z = { dZ, 0, 64, 8 }, .kvec = { dk, 0, 8, 0 } };
    assert_int_equal(attn_ntk_backward(&c.shape, c.scale, c.q, c.k, c.v, &z, in(out), (const attn_row *)rows, c.d_out,
                                       &ng, NULL, 0, 1), 0);
    /* The same numbers with a summary of its own per query head. */
    float *Zf = attn_case_floats(&c, 8 * 64), *kf = attn_case_floats(&c, 64);
    for (size_t bh = 0; bh < 8; bh++) {
        memcpy(Zf + bh * 64, z.Z.data + (bh % 4 / 2) * 64, 64 * sizeof(float));
        memcpy(kf + bh * 8, z.kvec.data + (bh % 4 / 2) * 8, 8 * sizeof(float));
    }
    const struct attn_summary own = { z.map, 4, attn_dense_in(Zf, 4, 8, 8), { kf, 32, 8, 0 } };
    ng = (struct attn_ntk_grads){ .Z = attn_dense_out(full, 4, 8, 8), .kvec = { dkf, 32, 8, 0 } };
    assert_int_equal(attn_ntk_backward(&c.shape, c.scale, c.q, c.k, c.v, &own, in(out), (const attn_row *)rows, c.d_out,
                                       &ng, NULL, 0, 1), 0);
    for (size_t h = 0; h < 2; h++)
        for (size_t e = 0; e < 64; e++) {
            double sum = 0.0;
            for (size_t b = 0; b < 2; b++) for (size_t g2 = 0; g2 < 2; g2++) sum += full[(4 * b + 2 * h + g2) * 64 + e];
            CHECK_CLOSE(dZ[64 * h + e], sum, 1e-5, 1e-5);
        }
    attn_case_free(&c);
}
static void test_shared_gradients(void **state) { (void)state; for_each_isa(check_shared); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_summary_is_plain), cmocka_unit_test(test_same_bits_for_any_threads),
        cmocka_unit_test(test_extreme_scores),         cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_negative_mass),          cmocka_unit_test(test_extreme_masses),
        cmocka_unit_test(test_partials_merge),         cmocka_unit_test(test_shared_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
