/* The kernels of attention.h against the double reference: awkward shapes, every
 * instruction set, causal or not, grouped heads, ragged lengths, strides. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/isa.h"
#include "common/random.h"
#include "prefix_ntk/feature.h"
#include "tests/support/attention_case.h"
#include "tests/support/check.h"

/* float32 rounding of the sums, and of the scores the exponential sees. */
#define RTOL_OUTPUT 2e-6
#define RTOL_SCORE 0x1p-23
/* Gradients, relative to the largest entry of theirs. */
#define RTOL_GRADIENT 1e-5
/* Signed central differences in double. */
#define RTOL_FINITE_DIFF 1e-7

static const struct attn_case_spec shapes[] = {
    /* batch heads kv len_q len_k dim prefix, causal ragged interleaved */
    { 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, NULL },
    { 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 5, 7, 3, 2, 0, 0, 1, 0, NULL },
    { 1, 2, 1, 6, 16, 16, 16, 1, 0, 0, 0, NULL },
    { 2, 3, 3, 7, 13, 5, 11, 0, 1, 1, 0, NULL },
    { 1, 4, 2, 17, 17, 17, 33, 1, 0, 1, 0, NULL },
    { 2, 2, 1, 33, 65, 64, 63, 1, 1, 0, 0, NULL },
    { 1, 1, 1, 65, 33, 64, 65, 1, 0, 1, 0, NULL },      /* len_q > len_k: rows see the prefix only */
    { 1, 2, 2, 100, 100, 48, 1, 1, 0, 1, 0, NULL },
    { 1, 1, 1, 97, 129, 32, 257, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 130, 300, 64, 400, 0, 0, 0, 0, NULL },
    { 1, 3, 1, 193, 193, 31, 130, 1, 0, 0, 0, NULL },
    { 3, 2, 2, 2, 70, 80, 19, 0, 1, 1, 0, NULL },
    { 1, 1, 1, 3, 0, 64, 2500, 0, 0, 0, 0, NULL },      /* split keys */
    { 1, 1, 1, 4, 130, 20, 2100, 1, 0, 1, 0, NULL },
    { 1, 2, 2, 150, 1100, 16, 0, 1, 0, 0, 0, NULL },    /* several chunks in backward */
    { 1, 4, 4, 50, 50, 96, 50, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 40, 40, 128, 77, 0, 0, 1, 0, NULL },
    { 1, 1, 1, 12, 200, 130, 5, 1, 0, 0, 0, NULL },
    { 2, 6, 2, 31, 47, 24, 64, 1, 1, 0, 0, NULL },
    { 1, 2, 1, 128, 128, 64, 16, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 29, 31, 64, 37, 0, 0, 0, 20.0, NULL },   /* large scores */
    { 3, 4, 4, 32, 32, 64, 16, 0, 0, 0, 0, NULL },      /* short: one strip, several heads of a task */
    { 2, 3, 1, 16, 16, 32, 8, 1, 1, 0, 0, NULL },
    { 1, 2, 2, 47, 49, 112, 12, 1, 0, 0, 0, NULL },     /* one width of tiles after another */
    { 1, 1, 1, 21, 270, 144, 200, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 70, 20, 256, 40, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 230, 520, 48, 30, 1, 0, 1, 0, NULL },    /* rows apart, several strips and blocks */
};

static const struct attn_case_spec summaries[] = {
    { 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, "elu1" },
    { 2, 2, 1, 33, 65, 64, 0, 1, 1, 0, 0, "elu1" },
    { 1, 2, 2, 128, 128, 64, 0, 1, 0, 1, 0, "elu1" },
    { 1, 3, 1, 97, 61, 17, 0, 1, 0, 1, 0, "elu1" },     /* len_q > len_k */
    { 1, 1, 1, 200, 200, 32, 0, 0, 0, 0, 0, "elu1" },
    { 1, 1, 1, 500, 1200, 16, 0, 1, 0, 0, 0, "elu1" },
    { 1, 1, 1, 30, 0, 64, 0, 0, 0, 0, 0, "elu1" },      /* nothing but the summary */
    { 1, 1, 1, 20, 20, 272, 0, 1, 0, 0, 0, "elu1" },
    { 1, 2, 1, 37, 41, 8, 0, 1, 0, 0, 0, "taylor:2" },
    { 2, 2, 2, 19, 23, 5, 0, 0, 1, 1, 0, "taylor:4" },
    { 1, 1, 1, 25, 31, 6, 0, 1, 0, 0, 0, "cheb:4" },
    { 1, 1, 1, 25, 31, 6, 0, 0, 0, 1, 0, "minimax:4" },
    { 1, 2, 1, 101, 90, 7, 0, 1, 0, 0, 0, "split:2" },
    { 1, 2, 2, 35, 35, 16, 0, 1, 0, 1, 0, "favor:40" },
    { 1, 1, 1, 44, 52, 16, 0, 0, 0, 0, 3.0, "favor-orth:24" },
    { 3, 4, 2, 33, 40, 48, 0, 1, 1, 0, 0, "elu1" },     /* several heads of a task */
    { 1, 1, 1, 210, 600, 64, 0, 1, 0, 1, 6.0, "elu1" }, /* shifts that grow after the features joined */
    { 1, 1, 1, 40, 300, 24, 0, 0, 0, 0, 30.0, "elu1" },
    { 1, 1, 1, 90, 70, 80, 0, 1, 0, 0, 0, "favor:24" }, /* rows that see no key */
};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes, NUM_SUMMARIES = sizeof summaries / sizeof *summaries };

static struct attn_in in(struct attn_out x) { return (struct attn_in){ x.data, x.batch, x.head, x.row }; }

static size_t query_rows(const struct attn_case *c) { return c->shape.batch * c->shape.heads * c->shape.len_q; }

/* What one call of each pass gave. */
struct result {
    struct attn_out out;
    attn_row *rows;
    struct attn_out dq, dk, dv, dpk, dpv, dZ, dkvec;
    int status;
    struct attn_failure failure;
};

static struct attn_out dense(struct attn_case *c, size_t heads, size_t len, size_t dim)
{
    return attn_dense_out(attn_case_floats(c, c->shape.batch * heads * len * dim), heads, len, dim);
}

static void run(struct attn_case *c, int threads, struct result *r, int backward)
{
    const struct attn_shape *s = &c->shape;
    const size_t d = s->head_dim, H = s->heads, KV = s->kv_heads;
    r->out = c->out_like_q(c, attn_case_floats(c, c->q_size));
    r->rows = (attn_row *)attn_case_floats(c, 2 * query_rows(c));
    r->status = c->feat_dim ?
        attn_ntk_forward(s, c->scale, c->q, c->k, c->v, &c->summary, r->out, r->rows, NULL, 0, threads, &r->failure) :
        attn_exact_forward(s, c->scale, c->q, c->k, c->v, &c->prefix, r->out, r->rows, NULL, 0, threads, &r->failure);
    if (!backward) return;
    r->dq = c->out_like_q(c, attn_case_floats(c, c->q_size));
    r->dk = dense(c, KV, s->len_k, d);
    r->dv = dense(c, KV, s->len_k, d);
    int status;
    if (c->feat_dim) {
        r->dZ = dense(c, H, c->feat_dim, d);
        r->dkvec = dense(c, H, 1, c->feat_dim);
        const struct attn_ntk_grads grads = { r->dq, r->dk, r->dv, r->dZ, r->dkvec };
        status = attn_ntk_backward(s, c->scale, c->q, c->k, c->v, &c->summary, in(r->out), (const attn_row *)r->rows,
                                   c->d_out, &grads, NULL, 0, threads);
    } else {
        r->dpk = dense(c, KV, c->prefix_len, d);
        r->dpv = dense(c, KV, c->prefix_len, d);
        const struct attn_exact_grads grads = { r->dq, r->dk, r->dv, r->dpk, r->dpv };
        status = attn_exact_backward(s, c->scale, c->q, c->k, c->v, &c->prefix, in(r->out), (const attn_row *)r->rows,
                                     c->d_out, &grads, NULL, 0, threads);
    }
    assert_int_equal(status, GSL_SUCCESS);
}

/* The reference, with the gradient through phi added to dq. */
struct wanted { double *out, *lse, *dq, *dk, *dv, *dpk, *dpv, *dZ, *dkvec; size_t bad; };

static struct wanted want(struct attn_case *c)
{
    const struct attn_ref *p = &c->ref;
    const size_t rows = query_rows(c), d = p->head_dim, kv = p->batch * p->kv_heads, r = p->feat_dim;
    const size_t keys = kv * p->len_k * d, prefix = kv * p->prefix_len * d, Z = p->batch * p->heads * r;
    struct wanted w = { attn_case_doubles(c, rows * d), attn_case_doubles(c, rows), attn_case_doubles(c, rows * d),
                        attn_case_doubles(c, keys), attn_case_doubles(c, keys), attn_case_doubles(c, prefix),
                        attn_case_doubles(c, prefix), attn_case_doubles(c, Z * d), attn_case_doubles(c, Z), 0 };
    double *dphi = attn_case_doubles(c, rows * r);
    w.bad = attn_ref_forward(p, w.out, w.lse);
    const struct attn_ref_grads g = { w.dq, w.dk, w.dv, w.dpk, w.dpv, dphi, w.dZ, w.dkvec };
    attn_ref_backward(p, c->ref_d_out, &g);
    if (r) assert_int_equal(feature_backward_f64(c->summary.map, FEATURE_QUERY, rows, p->q, d, dphi, r, p->log_scale,
                                                 w.dq, d, 1, 1, NULL), GSL_SUCCESS);
    return w;
}

static void check_gradient(struct attn_out got, const double *wanted, size_t batch, size_t heads, size_t len,
                           size_t dim, double extra, const char *what)
{
    const size_t n = batch * heads * len * dim;
    if (!n) return;
    const double scale = attn_largest(wanted, n);
    const double off = attn_deviation(in(got), wanted, batch, heads, len, dim);
    if (!(off <= (RTOL_GRADIENT + extra) * scale)) {
        print_error("%s off by %.3g of %.3g\n", what, off, scale);
        fail();
    }
}

static void check_case(struct attn_case *c)
{
    const struct attn_ref *p = &c->ref;
    const struct wanted w = want(c);
    const double score = attn_largest_score(p), scale = attn_largest(w.out, query_rows(c) * p->head_dim);
    struct result r;
    run(c, 1, &r, 1);
    assert_int_equal(r.status, w.bad ? GSL_EDOM : GSL_SUCCESS);
    CHECK_LESS(attn_deviation(in(r.out), w.out, p->batch, p->heads, p->len_q, p->head_dim),
               (RTOL_OUTPUT + RTOL_SCORE * score) * scale + 1e-30);
    for (size_t i = 0; i < query_rows(c); i++)
        if (isfinite(w.lse[i]))
            CHECK_CLOSE(log(2.0) * r.rows[i][0] + log(r.rows[i][1]), w.lse[i], RTOL_OUTPUT,
                        RTOL_OUTPUT * (1.0 + score));
    const double extra = RTOL_SCORE * score;
    const size_t B = p->batch, H = p->heads, KV = p->kv_heads, d = p->head_dim;
    check_gradient(r.dq, w.dq, B, H, p->len_q, d, extra, "dQ");
    check_gradient(r.dk, w.dk, B, KV, p->len_k, d, extra, "dK");
    check_gradient(r.dv, w.dv, B, KV, p->len_k, d, extra, "dV");
    if (p->feat_dim) {
        check_gradient(r.dZ, w.dZ, B, H, p->feat_dim, d, extra, "dZ");
        check_gradient(r.dkvec, w.dkvec, B, H, 1, p->feat_dim, extra, "dk");
    } else {
        check_gradient(r.dpk, w.dpk, B, KV, p->prefix_len, d, extra, "dK_P");
        check_gradient(r.dpv, w.dpv, B, KV, p->prefix_len, d, extra, "dV_P");
    }
}

static void check_all(const struct attn_case_spec *specs, size_t n)
{
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (size_t i = 0; i < n; i++)
            for (int flip = 0; flip < 2; flip++) {
                struct attn_case_spec spec = specs[i];
                spec.causal ^= flip;
                struct attn_case c;
                attn_case_make(&spec, (unsigned)(17 * i + 3), &c);
                print_message("%s %zu%s\n", isa_name((enum isa)isa), i, spec.causal ? " causal" : "");
                check_case(&c);
                attn_case_free(&c);
            }
    }
}

static void test_exact_matches_reference(void **state) { (void)state; check_all(shapes, NUM_SHAPES); }
static void test_ntk_matches_reference(void **state) { (void)state; check_all(summaries, NUM_SUMMARIES); }

/* ---- the reference itself ---------------------------------------------------------- */

/* sum(d_out * out) as a function of one of the arrays, moved along a direction. */
static double objective(const struct attn_case *c, struct attn_ref p)
{
    const size_t n = query_rows(c) * p.head_dim;
    double *out = malloc(n * sizeof *out), sum = 0.0;
    assert_non_null(out);
    /* Features follow q. */
    double *phi = p.feat_dim ? malloc(query_rows(c) * p.feat_dim * sizeof *phi) : NULL;
    if (phi) {
        assert_int_equal(feature_forward_f64(c->summary.map, FEATURE_QUERY, query_rows(c), p.q, p.head_dim, phi,
                                             p.feat_dim, NULL, 1, NULL), GSL_SUCCESS);
        p.phi = phi;
        p.log_scale = NULL;
    }
    assert_int_equal(attn_ref_forward(&p, out, NULL), 0);
    for (size_t i = 0; i < n; i++) sum += out[i] * c->ref_d_out[i];
    free(out);
    free(phi);
    return sum;
}

static double slope(const struct attn_case *c, const double *const *member, const double *direction, size_t n)
{
    struct attn_ref p = c->ref;
    const double **moved = (const double **)((char *)&p + ((const char *)member - (const char *)&c->ref));
    const double step = cbrt(2.2e-16), *at = *member;
    double *x = malloc(n * sizeof *x), value[2];
    assert_non_null(x);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) x[i] = at[i] + (side ? step : -step) * direction[i];
        *moved = x;
        value[side] = objective(c, p);
    }
    free(x);
    return (value[1] - value[0]) / (2.0 * step);
}

static void check_slope(struct attn_case *c, const double *const *member, const double *gradient, size_t n,
                        const char *what)
{
    if (!n) return;
    double *direction = attn_case_doubles(c, n), dot = 0.0;
    random_normal(5, RANDOM_OTHER, 77, n, direction, n);
    for (size_t i = 0; i < n; i++) dot += gradient[i] * direction[i];
    print_message("%s: slope %.6g\n", what, dot);
    assert_true(fabs(dot) > 1e-3);
    CHECK_CLOSE(slope(c, member, direction, n), dot, RTOL_FINITE_DIFF, 1e-9);
    /* A wrong sign or a factor would be seen. */
    assert_false(is_close(slope(c, member, direction, n), -dot, RTOL_FINITE_DIFF, 1e-9));
}

static void test_reference_gradients(void **state)
{
    (void)state;
    const struct attn_case_spec specs[] = {
        { 2, 4, 2, 5, 6, 3, 4, 1, 1, 0, 0, NULL },
        { 2, 2, 1, 6, 5, 3, 0, 0, 1, 0, 0, "elu1" },
        { 1, 2, 2, 4, 5, 3, 0, 1, 0, 0, 0, "taylor:2" },
        { 1, 2, 1, 4, 5, 3, 0, 1, 0, 0, 0, "favor:9" },
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct attn_case c;
        attn_case_make(&specs[i], 11, &c);
        const struct attn_ref *p = &c.ref;
        const struct wanted w = want(&c);
        const size_t kv = p->batch * p->kv_heads * p->head_dim, Z = p->batch * p->heads * p->feat_dim;
        check_slope(&c, &c.ref.q, w.dq, query_rows(&c) * p->head_dim, "q");
        check_slope(&c, &c.ref.k, w.dk, kv * p->len_k, "k");
        check_slope(&c, &c.ref.v, w.dv, kv * p->len_k, "v");
        check_slope(&c, &c.ref.prefix_k, w.dpk, kv * p->prefix_len, "prefix_k");
        check_slope(&c, &c.ref.prefix_v, w.dpv, kv * p->prefix_len, "prefix_v");
        check_slope(&c, &c.ref.Z, w.dZ, Z * p->head_dim, "Z");
        check_slope(&c, &c.ref.kvec, w.dkvec, Z, "k");
        attn_case_free(&c);
    }
}

/* The elu1 of the reference is that of the feature maps. */
static void test_reference_elu1(void **state)
{
    (void)state;
    feature_map *map;
    enum { ROWS = 9, DIM = 7 };
    double x[ROWS * DIM], phi[ROWS * DIM], want_phi[ROWS * DIM], g[ROWS * DIM], dx[ROWS * DIM] = { 0 },
        want_dx[ROWS * DIM] = { 0 };
    random_normal(3, RANDOM_OTHER, 0, 0, x, ROWS * DIM);
    random_normal(3, RANDOM_OTHER, 0, 1, g, ROWS * DIM);
    assert_int_equal(feature_parse("elu1", DIM, 0.0, 1, NULL, &map), GSL_SUCCESS);
    assert_int_equal(feature_forward_f64(map, FEATURE_QUERY, ROWS, x, DIM, phi, DIM, NULL, 1, NULL), GSL_SUCCESS);
    assert_int_equal(feature_backward_f64(map, FEATURE_QUERY, ROWS, x, DIM, g, DIM, NULL, dx, DIM, 1, 1, NULL),
                     GSL_SUCCESS);
    attn_ref_elu1(x, ROWS, DIM, want_phi);
    attn_ref_elu1_backward(x, g, ROWS, DIM, want_dx);
    CHECK_ALL_CLOSE(phi, want_phi, ROWS * DIM, 1e-14, 0.0);
    CHECK_ALL_CLOSE(dx, want_dx, ROWS * DIM, 1e-14, 1e-15);
    feature_map_free(map);
}

/* The checkers above see an error of the size they are meant to see. */
static void test_checker_rejects(void **state)
{
    (void)state;
    struct attn_case c;
    attn_case_make(&shapes[10], 3, &c);
    const struct wanted w = want(&c);
    struct result r;
    run(&c, 1, &r, 0);
    const struct attn_ref *p = &c.ref;
    const double scale = attn_largest(w.out, query_rows(&c) * p->head_dim);
    r.out.data[12345 % c.q_size] += 1e-4f;
    assert_true(attn_deviation(in(r.out), w.out, 1, 1, p->len_q, p->head_dim) > 1e-5 * scale);
    r.out.data[7] = NAN;
    assert_false(attn_deviation(in(r.out), w.out, 1, 1, p->len_q, p->head_dim) <= 1e30);
    attn_case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_elu1),
        cmocka_unit_test(test_reference_gradients),
        cmocka_unit_test(test_exact_matches_reference),
        cmocka_unit_test(test_ntk_matches_reference),
        cmocka_unit_test(test_checker_rejects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
