/* Rows without a normaliser: every map and every entry point names the first one, zeroes it,
 * fills all others with the bits they have without it, and lets it into no gradient. The
 * reference of a backward pass is one on clean inputs with d_out = 0 in the bad rows. */
#include <gsl/gsl_errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/linear_state.h"
#include "common/isa.h"
#include "common/random.h"
#include "prefix_ntk/attention_f64.h"
#include "prefix_ntk/linear.h"
#include "prefix_ntk/summary.h"
#include "tests/support/check.h"

enum entry { EXACT, PACKED, NTK, LINEAR, F64_EXACT, F64_NTK, F64_LINEAR, F64_SCORES, F64_SCORES_LINEAR, NUM_ENTRIES };
static const char *const entry_names[] = {
    "exact", "packed", "ntk", "linear", "f64 exact", "f64 ntk", "f64 linear", "f64 scores", "f64 scores linear"
};
static const char *const maps[] = { "elu1", "taylor:2", "cheb:2", "minimax:2", "split:2", "favor:16", "favor-orth:16" };
enum { NUM_MAPS = sizeof maps / sizeof *maps };

enum { Q, K, V, PK, PV, Z, KVEC, G, NUM_ARRAYS };

struct problem {
    enum entry entry;
    feature_map *map;
    struct attn_shape s;
    size_t prefix_len, r, size[NUM_ARRAYS], lengths[2];
    float *x[NUM_ARRAYS];
    double *Zk, *scale;
    struct attn_packed *packed;
    int threads;
};

struct result {
    int status, backward_status;
    struct attn_failure where;

    float *out, *dq, *dk, *dv, *dpk, *dpv, *dZ, *dkvec;
    size_t n[8];
};

static bool uses_map(enum entry e) { return e != EXACT && e != PACKED && e != F64_EXACT; }

static void problem_make(struct problem *p, enum entry entry, const char *map, size_t d, size_t len_k, int causal)
{
    *p = (struct problem){ .entry = entry, .prefix_len = 7, .lengths = { len_k, len_k - 3 }, .threads = len_k == 50
                           && d == 16 ? 2 : 1 };
    p->s = (struct attn_shape){ 2, 2, 1, 40, len_k, d, causal, causal ? NULL : p->lengths };
    if (map) assert_int_equal(feature_parse(map, d, 3.0, 5, NULL, &p->map), GSL_SUCCESS);
    p->r = map ? feature_dim(p->map) : 1;
    const size_t queries = 2 * 2 * 40 * d, keys = 2 * len_k * d, prefix = 2 * 7 * d;
    const size_t size[] = { queries, keys, keys, prefix, prefix, 2 * 2 * p->r * d, 2 * 2 * p->r, queries };
    double *draw = malloc((queries + keys + 4 * p->r * d) * sizeof *draw);
    for (int a = 0; a < NUM_ARRAYS; a++) {
        p->size[a] = size[a];
        p->x[a] = malloc(size[a] * sizeof(float));
        random_normal(3, RANDOM_OTHER, 0, (uint64_t)a, draw, size[a]);
        for (size_t i = 0; i < size[a]; i++) p->x[a][i] = (float)(a == Z || a == KVEC ? 0.02 * draw[i] : 0.5 * draw[i]);
    }
    free(draw);
    for (size_t i = 0; i < p->size[KVEC]; i++)
        p->x[KVEC][i] = p->map && feature_is_positive(p->map) ? 0.7f : i % p->r ? 0.0f : 2.0f;
    p->Zk = malloc(4 * p->r * (d + 1) * sizeof *p->Zk);
    p->scale = calloc(4, sizeof *p->scale);
    for (size_t row = 0; row < 4 * p->r; row++) {
        for (size_t c = 0; c < d; c++) p->Zk[row * (d + 1) + c] = p->x[Z][row * d + c];
        p->Zk[row * (d + 1) + d] = p->x[KVEC][row];
    }
    if (entry == PACKED) p->packed = attn_packed_alloc(2, 1, 7, d, 1);
}

static void problem_free(struct problem *p)
{
    for (int a = 0; a < NUM_ARRAYS; a++) free(p->x[a]);
    free(p->Zk);
    free(p->scale);
    feature_map_free(p->map);
    attn_packed_free(p->packed);
}

static float **arrays(struct result *r) { return &r->out; }

static void result_free(struct result *r)
{
    for (int a = 0; a < 8; a++) free(arrays(r)[a]);
}

/* Forward and backward of one entry point into fresh arrays full of 7.25, so that a row that is not
 * written shows. */
static void run(struct problem *p, struct result *r)
{
    const struct attn_shape *s = &p->s;
    const size_t d = s->head_dim, n[] = { p->size[Q], p->size[Q], p->size[K], p->size[K], p->size[PK], p->size[PK],
                                          p->size[Z], p->size[KVEC] };
    *r = (struct result){ .where = { 99, 99, 99 } };
    memcpy(r->n, n, sizeof n);
    for (int a = 0; a < 8; a++) {
        arrays(r)[a] = malloc(n[a] * sizeof(float));
        for (size_t i = 0; i < n[a]; i++) arrays(r)[a][i] = 7.25f;
    }
    const struct attn_in q = attn_dense_in(p->x[Q], 2, 40, d), g = attn_dense_in(p->x[G], 2, 40, d);
    const struct attn_in k = attn_dense_in(p->x[K], 1, s->len_k, d), v = attn_dense_in(p->x[V], 1, s->len_k, d);
    const struct attn_out out = attn_dense_out(r->out, 2, 40, d), dq = attn_dense_out(r->dq, 2, 40, d);
    const struct attn_out dk = attn_dense_out(r->dk, 1, s->len_k, d), dv = attn_dense_out(r->dv, 1, s->len_k, d);
    const struct attn_out dpk = attn_dense_out(r->dpk, 1, 7, d), dpv = attn_dense_out(r->dpv, 1, 7, d);
    const struct attn_in result = { out.data, out.batch, out.head, out.row };
    const struct attn_prefix prefix = { 7, attn_dense_in(p->x[PK], 1, 7, d), attn_dense_in(p->x[PV], 1, 7, d),
                                        p->packed };
    if (p->packed) assert_int_equal(attn_packed_set(p->packed, prefix.k, prefix.v, 1), GSL_SUCCESS);
    const struct attn_summary summary = { p->map, 2, attn_dense_in(p->x[Z], 2, p->r, d),
                                          attn_dense_in(p->x[KVEC], 2, 1, p->r) };
    const struct attn_exact_grads exact = { dq, dk, dv, dpk, dpv };
    const struct attn_ntk_grads ntk = { dq, dk, dv, attn_dense_out(r->dZ, 2, p->r, d),
                                        attn_dense_out(r->dkvec, 2, 1, p->r) };
    const struct attn_summary_f64 wide = { p->map, 2, p->Zk, p->scale, 2, 1 };
    double *dZk = calloc(4 * p->r * (d + 1), sizeof *dZk);
    const struct attn_grads_f64 wide_grads = { dq, dk, dv, dZk };
    const struct attn_exact_grads score = { dq, dk, dv, dpk, dpv };
    const float scale = (float)(1.0 / sqrt((double)d));
    attn_row *rows = malloc(2 * 2 * 40 * sizeof *rows);
    switch (p->entry) {
    case EXACT: case PACKED:
        r->status = attn_exact_forward(s, scale, q, k, v, &prefix, out, rows, NULL, 0, p->threads, &r->where);
        r->backward_status = attn_exact_backward(s, scale, q, k, v, &prefix, result, (const attn_row *)rows, g, &exact,
                                                 NULL, 0, p->threads);
        break;
    case NTK:
        r->status = attn_ntk_forward(s, scale, q, k, v, &summary, out, rows, NULL, 0, p->threads, &r->where);
        r->backward_status = attn_ntk_backward(s, scale, q, k, v, &summary, result, (const attn_row *)rows, g, &ntk,
                                               NULL, 0, p->threads);
        break;
    case LINEAR:
        r->status = attn_linear_forward(s, q, k, v, &summary, out, NULL, 0, p->threads, &r->where);
        r->backward_status = attn_linear_backward(s, q, k, v, &summary, g, &ntk, NULL, 0, p->threads);
        break;
    case F64_EXACT: r->status = attn_exact_f64(s, q, k, v, &prefix, out, g, &exact, p->threads, &r->where); break;
    case F64_NTK: r->status = attn_ntk_f64(s, q, k, v, &wide, out, g, &wide_grads, p->threads, &r->where); break;
    case F64_LINEAR: r->status = attn_linear_f64(s, q, k, v, &wide, out, g, &wide_grads, p->threads, &r->where); break;
    default:
        r->status = attn_scores_f64(s, q, k, v, &prefix, p->map, p->entry == F64_SCORES_LINEAR, out, g, &score,
                                    p->threads, &r->where);
    }
    for (size_t row = 0; p->entry == F64_NTK && row < p->size[KVEC]; row++) {
        for (size_t c = 0; c < d; c++) r->dZ[row * d + c] = (float)dZk[row * (d + 1) + c];
        r->dkvec[row] = (float)dZk[row * (d + 1) + d];
    }
    free(rows);
    free(dZk);
}

/* The rows in which `bad` is not -1 are bad. Equal bits elsewhere (-0 is 0), zeros there. */
static bool agrees(const struct problem *p, const struct result *got, const struct result *clean,
                   const struct result *silent, const bool *bad)
{
    const size_t d = p->s.head_dim;
    for (size_t row = 0; row < 160; row++)
        for (size_t c = 0; c < d; c++)
            if (!(got->out[row * d + c] == (bad[row] ? 0.0f : clean->out[row * d + c]))) return false;
    for (int a = 1; a < 8; a++)
        for (size_t i = 0; i < got->n[a]; i++)
            if (!(((float **)&got->out)[a][i] == ((float **)&silent->out)[a][i])) return false;
    return true;
}

/* Plants `value` in element c of row `row` of array `a` and compares. The rows it makes bad: its own
 * (a query) or those that see it. */
static void plant(struct problem *p, const struct result *clean, int a, size_t row, size_t c, float value,
                  const bool *bad)
{
    const size_t d = p->s.head_dim;
    struct result silent, got;
    float *g = malloc(p->size[G] * sizeof *g);
    memcpy(g, p->x[G], p->size[G] * sizeof *g);
    size_t first = SIZE_MAX;
    for (size_t i = 160; i-- > 0;) {
        if (!bad[i]) continue;
        first = i;
        memset(p->x[G] + i * d, 0, d * sizeof *g);
    }
    run(p, &silent);
    memcpy(p->x[G], g, p->size[G] * sizeof *g);
    const float kept = p->x[a][row * d + c];
    p->x[a][row * d + c] = value;
    run(p, &got);
    p->x[a][row * d + c] = kept;
    const int want = first == SIZE_MAX ? GSL_SUCCESS : GSL_EDOM;
    bool good = got.status == want && (p->entry != LINEAR || got.backward_status == want) &&
                (p->entry == LINEAR || got.backward_status == GSL_SUCCESS);
    if (want)
        good = good && got.where.batch == first / 80 && got.where.head == first / 40 % 2 && got.where.row == first % 40;
    good = good && agrees(p, &got, clean, &silent, bad);
    if (!good) {
        const struct feature_spec spec = p->map ? feature_map_spec(p->map) : (struct feature_spec){ FEATURE_CUSTOM, 0 };
        char text[64] = "";
        if (p->map) feature_spec_text(&spec, text, sizeof text);
        print_message("%s %s, %s, head_dim %zu, len_k %zu, array %d row %zu = %g: status %d/%d at %zu %zu %zu\n",
                      entry_names[p->entry], text, isa_name(isa_current()), d, p->s.len_k, a, row, (double)value,
                          got.status,
                      got.backward_status, got.where.batch, got.where.head, got.where.row);
    }
    assert_true(good);
    /* The comparison sees one wrong number. */
    got.dv[3] += 1.0f;
    assert_false(agrees(p, &got, clean, &silent, bad));
    free(g);
    result_free(&silent);
    result_free(&got);
}

static float payload_nan(void)
{
    const uint32_t bits = 0x7fc00001;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void try_problem(enum entry entry, const char *map, size_t d, size_t len_k, int causal)
{
    struct problem p;
    struct result clean;
    problem_make(&p, entry, map, d, len_k, causal);
    run(&p, &clean);
    assert_int_equal(clean.status, GSL_SUCCESS);
    const float values[] = { NAN, INFINITY, -INFINITY, payload_nan() };
    for (size_t i = 0; i < 4; i++) {
        bool bad[160] = { false };
        const size_t row = (size_t[]){ 5, 47, 119, 159 }[i];
        bad[row] = true;
        plant(&p, &clean, Q, row, i % d, values[i], bad);
    }
    if (causal)
        for (size_t back = 1; back < 40; back += 9) {
            /* Key len_k - back of batch entry 1: hidden from all but the last `back` queries. */
            bool bad[160] = { false };
            for (size_t h = 2; h < 4; h++)
                for (size_t i = 40 - back; i < 40; i++) bad[h * 40 + i] = true;
            plant(&p, &clean, K, 2 * len_k - back, 1, NAN, bad);
            if (entry >= LINEAR)
                plant(&p, &clean, V, 2 * len_k - back, 1, NAN, bad);
        }
    else {
        /* Beyond the length of batch entry 1. */
        const bool bad[160] = { false };
        plant(&p, &clean, K, 2 * len_k - 2, 1, NAN, bad);
        plant(&p, &clean, V, 2 * len_k - 1, 2, INFINITY, bad);
    }
    result_free(&clean);
    problem_free(&p);
}

static void every_map_and_entry(void **state)
{
    (void)state;
    const enum isa before = isa_current();
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_AVX512; isa++) {
        if (!isa_available((enum isa)isa)) {
            print_message("this CPU has no %s\n", isa_name((enum isa)isa));
            continue;
        }
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (int e = 0; e < NUM_ENTRIES; e++)
            for (int m = 0; m < (uses_map((enum entry)e) ? NUM_MAPS : 1); m++) {
                const char *map = uses_map((enum entry)e) ? maps[m] : NULL;
                if (e >= F64_SCORES && (m == 0 || m > 4)) continue;         /* polynomials only */
                for (int causal = 0; causal < 2; causal++) {
                    try_problem((enum entry)e, map, 16, 50, causal);
                    try_problem((enum entry)e, map, 5, 41, causal);
                    if (!uses_map((enum entry)e) && (enum isa)isa == before)
                        try_problem((enum entry)e, map, 4, 2200, causal);
                }
            }
    }
    isa_force(before);
}

/* The value of a key behind the diagonal: rows that cannot see it, and their gradients in q. */
static void hidden_values(void **state)
{
    (void)state;
    const enum isa before = isa_current();
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_AVX512; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (enum entry e = EXACT; e <= NTK; e++) {
            for (size_t back = 1; back < 40; back += 6) {
                struct problem p;
                struct result clean, got;
                problem_make(&p, e, uses_map(e) ? "taylor:2" : NULL, 16, 50, 1);
                run(&p, &clean);
                p.x[V][(100 - back) * 16 + 3] = INFINITY;
                run(&p, &got);
                for (size_t row = 0; row < 160; row++)
                    for (size_t c = 0; c < 16 && (row < 80 || row % 40 < 40 - back); c++) {
                        assert_true(got.out[row * 16 + c] == clean.out[row * 16 + c]);
                        assert_true(got.dq[row * 16 + c] == clean.dq[row * 16 + c]);
                    }
                result_free(&clean);
                result_free(&got);
                problem_free(&p);
            }
        }
    }
    isa_force(before);
}

/* Finite queries whose scores overflow are as bad as infinite ones. */
static void overflowing_scores(void **state)
{
    (void)state;
    for (enum entry e = EXACT; e <= PACKED; e++) {
        struct problem p;
        struct result clean;
        bool bad[160] = { false };
        problem_make(&p, e, NULL, 16, 50, 0);
        for (size_t i = 0; i < p.size[K]; i++) p.x[K][i] *= 8.0f;
        run(&p, &clean);
        bad[63] = true;
        plant(&p, &clean, Q, 63, 4, 3e38f, bad);
        result_free(&clean);
        problem_free(&p);
    }
}

/* Finite queries at the end of the range, where features may leave it: the row is right or named, all
 * others are as without it. */
static void huge_queries(void **state)
{
    (void)state;
    for (enum entry e = NTK; e <= LINEAR; e++)
        for (int m = 0; m < NUM_MAPS; m++)
            for (int sign = -1; sign < 2; sign += 2)
                for (int causal = 0; causal < 2; causal++) {
                    struct problem p;
                    struct result clean, got;
                    problem_make(&p, e, maps[m], 16, 50, causal);
                    run(&p, &clean);
                    for (size_t c = 0; c < 16; c++) p.x[Q][63 * 16 + c] = (float)sign * 3e38f;
                    run(&p, &got);
                    if (got.status != GSL_SUCCESS && got.status != GSL_EDOM)
                        fail_msg("%s: status %d", maps[m], got.status);
                    for (size_t row = 0; row < 160; row++)
                        for (size_t c = 0; c < 16; c++) {
                            if (row == 63 && got.status) assert_true(got.out[row * 16 + c] == 0.0f);
                            if (row == 63 && got.status) assert_true(got.dq[row * 16 + c] == 0.0f);
                            if (row == 63) continue;
                            assert_true(got.out[row * 16 + c] == clean.out[row * 16 + c]);
                            assert_true(got.dq[row * 16 + c] == clean.dq[row * 16 + c]);
                        }
                    if (got.status) assert_true(got.where.batch == 0 && got.where.head == 1 && got.where.row == 23);
                    result_free(&clean);
                    result_free(&got);
                    problem_free(&p);
                }
}

/* Sizes whose bytes overflow, as a caller's underflow gives. */
static void packed_sizes(void **state)
{
    (void)state;
    const size_t huge = SIZE_MAX;
    const size_t sizes[][4] = { { 1, 1, huge, 1 }, { 1, 1, (size_t)1 << 62, 4 }, { 1, 1, huge - 63, 16 },
                                { huge, 1, 8, 4 }, { 1, huge, 8, 4 },
                                { 1, 1, 8, huge }, { (size_t)1 << 32, (size_t)1 << 32, 8, 4 },
                                { 3, (size_t)1 << 30, (size_t)1 << 30, 16 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int backward = 0; backward < 2; backward++)
            assert_null(attn_packed_alloc(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], backward));
    assert_int_equal(attn_packed_bytes(NULL), 0);
    struct attn_packed *small = attn_packed_alloc(1, 1, 3, 4, 0);
    assert_non_null(small);
    attn_packed_free(small);
}

/* Shapes whose arrays overflow, as a caller's underflow gives: refused before anything is sized by them. */
static void impossible_shapes(void **state)
{
    (void)state;
    float x[64] = { 0.5f };
    feature_map *map;
    assert_int_equal(feature_parse("elu1", 4, 0.0, 1, NULL, &map), GSL_SUCCESS);
    const size_t huge = SIZE_MAX, large = (size_t)1 << 40;
    const struct attn_shape shapes[] = {
        { 1, 1, 1, huge, 1, 4, 0, NULL }, { 1, 1, 1, 1, huge, 4, 0, NULL }, { huge, 1, 1, 1, 1, 4, 0, NULL },
        { 1, huge, 1, 1, 1, 4, 0, NULL }, { large, large, 1, 1, 1, 4, 0, NULL },
        { 1, 1, 1, huge / 4 + 1, 1, 4, 0, NULL },
        { 3, large, 1, large, 1, 4, 0, NULL }, { 1, 1, 1, 1, huge - 2, 4, 1, NULL },
    };
    const struct attn_in in = attn_dense_in(x, 1, 1, 4);
    const struct attn_out out = attn_dense_out(x + 32, 1, 1, 4);
    const struct attn_summary z = { map, 1, attn_dense_in(x, 1, 4, 4), attn_dense_in(x, 1, 1, 4) };
    const struct attn_exact_grads exact = { .q = out }, none = { 0 };
    const struct attn_ntk_grads ntk = { .q = out };
    const double Zk[4 * 5] = { 0.5 }, scale = 0.0;
    const struct attn_summary_f64 wide = { map, 1, Zk, &scale, 0, 0 }, no_scale = { map, 1, Zk, NULL, 0, 0 };
    feature_map *polynomial, *other;
    assert_int_equal(feature_parse("taylor:1", 4, 0.0, 1, NULL, &polynomial), GSL_SUCCESS);
    assert_int_equal(feature_parse("taylor:1", 3, 0.0, 1, NULL, &other), GSL_SUCCESS);
    attn_row row = { 0.0f, 1.0f };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct attn_shape *s = &shapes[i];
        assert_int_equal(attn_exact_forward_workspace(s, 0, 1), 0);
        assert_int_equal(attn_exact_backward_workspace(s, 0, &exact, 1), 0);
        assert_int_equal(attn_ntk_forward_workspace(s, &z, 1), 0);
        assert_int_equal(attn_ntk_backward_workspace(s, &z, &ntk, 1), 0);
        assert_int_equal(attn_linear_forward_workspace(s, &z, 1), 0);
        assert_int_equal(attn_linear_backward_workspace(s, &z, 1), 0);
        assert_int_equal(attn_exact_forward(s, 0.5f, in, in, in, NULL, out, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
        assert_int_equal(attn_exact_backward(s, 0.5f, in, in, in, NULL, in, &row, in, &exact, NULL, 0, 1), GSL_EINVAL);
        assert_int_equal(attn_ntk_forward(s, 0.5f, in, in, in, &z, out, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
        assert_int_equal(attn_ntk_backward(s, 0.5f, in, in, in, &z, in, &row, in, &ntk, NULL, 0, 1), GSL_EINVAL);
        assert_int_equal(attn_linear_forward(s, in, in, in, &z, out, NULL, 0, 1, NULL), GSL_EINVAL);
        assert_int_equal(attn_linear_backward(s, in, in, in, &z, in, &ntk, NULL, 0, 1), GSL_EINVAL);
        assert_int_equal(attn_exact_f64_bytes(s, 1), 0);
        assert_int_equal(attn_summary_f64_bytes(s, &wide, 1, 1), 0);
        assert_int_equal(attn_scores_f64_bytes(s, 3, 1, 1), 0);
        assert_int_equal(attn_exact_f64(s, in, in, in, NULL, out, in, NULL, 1, NULL), GSL_EINVAL);
        assert_int_equal(attn_ntk_f64(s, in, in, in, &wide, out, in, NULL, 1, NULL), GSL_EINVAL);
        assert_int_equal(attn_linear_f64(s, in, in, in, &wide, out, in, NULL, 1, NULL), GSL_EINVAL);
        assert_int_equal(attn_scores_f64(s, in, in, in, NULL, polynomial, 0, out, in, NULL, 1, NULL), GSL_EINVAL);
    }
    const struct attn_shape small = { 1, 1, 1, 1, 1, 4, 0, NULL };
    const struct attn_prefix prefix = { huge, in, in, NULL };
    assert_int_equal(attn_exact_forward_workspace(&small, huge, 1), 0);
    assert_int_equal(attn_exact_forward(&small, 0.5f, in, in, in, &prefix, out, NULL, NULL, 0, 1, NULL), GSL_EINVAL);
    /* Any number of threads: only as many as there can be have scratch. */
    assert_true(attn_exact_forward_workspace(&small, 0, INT_MAX) == attn_exact_forward_workspace(&small, 0, 256));
    assert_int_equal(attn_exact_forward(&small, 0.5f, in, in, in, NULL, out, NULL, NULL, 0, INT_MAX, NULL),
                     GSL_SUCCESS);
    /* The calls in double: what must be given, and what does not fit. */
    assert_int_equal(attn_exact_f64(&small, in, in, in, &prefix, out, in, NULL, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_exact_f64(&small, in, in, in, NULL, out, in, &none, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_exact_f64(&small, in, in, in, NULL, out, in, NULL, 0, NULL), GSL_EINVAL);
    assert_int_equal(attn_ntk_f64(&small, in, in, in, NULL, out, in, NULL, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_linear_f64(&small, in, in, in, &no_scale, out, in, NULL, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_scores_f64(&small, in, in, in, NULL, map, 0, out, in, NULL, 1, NULL), GSL_EINVAL);
    assert_int_equal(attn_scores_f64(&small, in, in, in, NULL, other, 0, out, in, NULL, 1, NULL), GSL_EBADLEN);
    assert_int_equal(attn_scores_f64(&small, in, in, in, NULL, polynomial, 0, out, in, NULL, 1, NULL), GSL_SUCCESS);
    feature_map_free(map);
    feature_map_free(polynomial);
    feature_map_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_map_and_entry),
        cmocka_unit_test(hidden_values),
        cmocka_unit_test(overflowing_scores),
        cmocka_unit_test(huge_queries),
        cmocka_unit_test(packed_sizes),
        cmocka_unit_test(impossible_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
