/* Calls of a few queries (attention_decode.h) against the double reference: every instruction set, rows that share
 * keys, split keys, masks, storages of a packed prefix; what half precision rounds; rows without a normaliser. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/kernels.h"
#include "common/isa.h"
#include "tests/support/attention_case.h"
#include "tests/support/check.h"

/* float32 rounding of the sums, and of the scores the exponential sees. */
#define RTOL_OUTPUT 2e-6
#define RTOL_SCORE 0x1p-23

enum { PLAIN = 3 };                     /* beside the storages */
static const char *const storage_names[] = { "float32", "bfloat16", "binary16", "plain" };

static const struct attn_case_spec shapes[] = {
    /* batch heads kv len_q len_k dim prefix, causal ragged interleaved */
    { 1, 1, 1, 1, 0, 64, 1, 0, 0, 0, 0, NULL },
    { 1, 1, 1, 1, 77, 64, 130, 0, 0, 0, 0, NULL },
    { 1, 2, 1, 1, 15, 32, 17, 1, 0, 1, 0, NULL },
    { 2, 3, 1, 1, 66, 48, 63, 0, 1, 1, 0, NULL },
    { 1, 4, 1, 1, 200, 128, 65, 1, 0, 0, 0, NULL },
    { 2, 2, 2, 2, 31, 80, 129, 1, 1, 0, 0, NULL },
    { 1, 2, 2, 3, 3, 64, 400, 1, 0, 1, 0, NULL },
    { 1, 6, 2, 3, 70, 96, 5, 1, 0, 0, 0, NULL },        /* 9 rows share keys */
    { 2, 5, 1, 4, 90, 16, 64, 1, 1, 1, 0, NULL },       /* 20 rows, in turns */
    { 1, 1, 1, 8, 4, 64, 100, 1, 0, 0, 0, NULL },       /* len_q > len_k: rows see the prefix only */
    { 1, 3, 3, 7, 71, 17, 66, 1, 0, 1, 0, NULL },
    { 1, 1, 1, 5, 9, 1, 3, 1, 0, 0, 0, NULL },
    { 1, 1, 1, 2, 600, 64, 4000, 1, 0, 0, 0, NULL },    /* split keys */
    { 1, 2, 1, 1, 900, 20, 2300, 0, 0, 1, 0, NULL },
    { 1, 1, 1, 6, 300, 112, 70, 0, 0, 0, 25.0, NULL },  /* large scores */
    { 1, 1, 1, 4, 65, 256, 64, 1, 0, 0, 0, NULL },
};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

static struct attn_in in(struct attn_out x) { return (struct attn_in){ x.data, x.batch, x.head, x.row }; }
static size_t query_rows(const struct attn_case *c) { return c->shape.batch * c->shape.heads * c->shape.len_q; }

/* To `digits` binary digits, multiples of 2^lowest: nearest, ties to even. */
static double rounded(double x, int digits, int lowest)
{
    int e;
    frexp(x, &e);
    const int unit = e - digits > lowest ? e - digits : lowest;
    return ldexp(nearbyint(ldexp(x, -unit)), unit);
}

static double as_stored(enum attn_storage storage, double x)
{
    return storage == ATTN_F32 ? x : storage == ATTN_BF16 ? rounded(x, 8, -133) : rounded(x, 11, -24);
}

/* The reference's prefix becomes what the storage makes of it. */
static void round_prefix(struct attn_case *c, enum attn_storage storage)
{
    const size_t n = c->shape.batch * c->shape.kv_heads * c->prefix_len * c->shape.head_dim;
    double *k = attn_case_doubles(c, n), *v = attn_case_doubles(c, n);
    for (size_t i = 0; i < n; i++) {
        k[i] = as_stored(storage, c->ref.prefix_k[i]);
        v[i] = as_stored(storage, c->ref.prefix_v[i]);
    }
    c->ref.prefix_k = k;
    c->ref.prefix_v = v;
}

struct result { struct attn_out out; attn_row *rows; int status; struct attn_failure failure; };

/* The call with a workspace of its size, full of NaN, at an odd address. */
static struct result run(struct attn_case *c, const struct attn_prefix *prefix, int threads)
{
    const struct attn_shape *s = &c->shape;
    const size_t bytes = attn_exact_forward_workspace(s, prefix->len, threads);
    char *work = (char *)attn_case_floats(c, bytes / sizeof(float) + 2) + 5;
    memset(work, 0xff, bytes);
    struct result r = { .out = c->out_like_q(c, attn_case_floats(c, c->q_size)),
                        .rows = (attn_row *)attn_case_floats(c, 2 * query_rows(c)), .failure = { 9, 9, 9 } };
    r.status = attn_exact_forward(s, c->scale, c->q, c->k, c->v, prefix, r.out, r.rows, work, bytes, threads,
                                  &r.failure);
    assert_int_equal(attn_exact_forward(s, c->scale, c->q, c->k, c->v, prefix, r.out, r.rows, work, bytes - 1,
                                        threads, NULL), GSL_EBADLEN);
    return r;
}

static void check_case(struct attn_case *c, int storage)
{
    const struct attn_shape *s = &c->shape;
    struct attn_prefix prefix = c->prefix;
    struct attn_packed *packed = NULL;
    if (storage != PLAIN) {
        packed = attn_packed_alloc_as((enum attn_storage)storage, s->batch, s->kv_heads, prefix.len, s->head_dim);
        assert_non_null(packed);
        assert_int_equal(attn_packed_set(packed, prefix.k, prefix.v, 2), GSL_SUCCESS);
        prefix = (struct attn_prefix){ .len = prefix.len, .packed = packed };
        round_prefix(c, (enum attn_storage)storage);
    }
    const struct attn_ref *p = &c->ref;
    const size_t rows = query_rows(c), d = s->head_dim;
    double *out = attn_case_doubles(c, rows * d), *lse = attn_case_doubles(c, rows);
    assert_int_equal(attn_ref_forward(p, out, lse), 0);
    const struct result r = run(c, &prefix, 1), again = run(c, &prefix, 3);
    assert_int_equal(r.status, GSL_SUCCESS);
    const double score = attn_largest_score(p);
    CHECK_LESS(attn_deviation(in(r.out), out, s->batch, s->heads, s->len_q, d),
               (RTOL_OUTPUT + RTOL_SCORE * score) * attn_largest(out, rows * d));
    for (size_t i = 0; i < rows; i++)
        CHECK_CLOSE(log(2.0) * r.rows[i][0] + log(r.rows[i][1]), lse[i], RTOL_OUTPUT, RTOL_OUTPUT * (1.0 + score));
    /* Threads change no bit. */
    assert_memory_equal(r.out.data, again.out.data, c->q_size * sizeof(float));
    assert_memory_equal(r.rows, again.rows, rows * sizeof *r.rows);
    attn_packed_free(packed);
}

static void test_matches_reference(void **state)
{
    (void)state;
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (size_t i = 0; i < 2 * NUM_SHAPES; i++)
            for (int storage = 0; storage <= PLAIN; storage++) {
                struct attn_case_spec spec = shapes[i / 2];
                spec.causal ^= i % 2;
                struct attn_case c;
                attn_case_make(&spec, (unsigned)(13 * i + 5), &c);
                print_message("%s %zu%s %s\n", isa_name((enum isa)isa), i / 2, spec.causal ? " causal" : "",
                              storage_names[storage]);
                check_case(&c, storage);
                attn_case_free(&c);
            }
    }
}

/* A call of many queries widens a prefix in half precision. */
static void test_many_queries_read_half_precision(void **state)
{
    (void)state;
    const struct attn_case_spec spec = { 2, 2, 1, 19, 33, 20, 300, 1, 1, 0, 0, NULL };
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (int storage = ATTN_BF16; storage <= ATTN_F16; storage++) {
            struct attn_case c;
            attn_case_make(&spec, 71, &c);
            check_case(&c, storage);
            attn_case_free(&c);
        }
    }
}

/* Law: a row that may see a NaN has no normaliser, all others have the bits they have without it. */
static void test_bad_keys_and_values(void **state)
{
    (void)state;
    enum { ROWS = 4, KEYS = 70, PREFIX = 3 };
    const size_t dims[] = { 64, 24 };
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (size_t which = 0; which < 8; which++) {
            const size_t d = dims[which % 2], heads = which & 2 ? 3 : 1;
            const struct attn_case_spec spec = { 1, heads, 1, ROWS, KEYS, d, PREFIX, 1, 0, 0, 0, NULL };
            const bool bad_value = which & 4;
            struct attn_case c;
            attn_case_make(&spec, (unsigned)which + 1, &c);
            const struct result good = run(&c, &c.prefix, 1);
            /* Row i sees keys up to KEYS - ROWS + i: the last but one is hidden from rows 0 and 1. */
            float *row = (float *)(bad_value ? c.v.data : c.k.data) + (KEYS - 2) * (bad_value ? c.v.row : c.k.row);
            row[d / 2] = NAN;
            const struct result r = run(&c, &c.prefix, 2);
            assert_int_equal(good.status, GSL_SUCCESS);
            assert_int_equal(r.status, bad_value ? GSL_SUCCESS : GSL_EDOM);
            if (!bad_value) assert_true(r.failure.batch == 0 && r.failure.head == 0 && r.failure.row == 2);
            for (size_t h = 0; h < heads; h++)
                for (size_t i = 0; i < ROWS; i++) {
                    const ptrdiff_t at = (ptrdiff_t)h * r.out.head + (ptrdiff_t)i * r.out.row;
                    const float *got = r.out.data + at, *clean = good.out.data + at;
                    for (size_t e = 0; e < d; e++) {
                        if (i < 2 || (bad_value && e != d / 2)) assert_memory_equal(got + e, clean + e, sizeof *got);
                        else if (bad_value) assert_true(isnan(got[e]));
                        else assert_true(got[e] == 0.0f);
                    }
                }
            attn_case_free(&c);
        }
    }
}

/* A row that sees no key at all fails, and is the neutral element as a partial result. */
static void test_no_keys(void **state)
{
    (void)state;
    const struct attn_case_spec spec = { 1, 2, 1, 5, 3, 16, 1, 1, 0, 0, 0, NULL };
    struct attn_case c;
    attn_case_make(&spec, 3, &c);
    const struct attn_prefix none = { 0 };
    const struct result r = run(&c, &none, 1);
    assert_int_equal(r.status, GSL_EDOM);
    assert_true(r.failure.head == 0 && r.failure.row == 0);
    struct attn_out values = c.out_like_q(&c, attn_case_floats(&c, c.q_size));
    attn_row rows[10];
    assert_int_equal(attn_partial_forward(&c.shape, c.scale, c.q, c.k, c.v, &none, values, rows, NULL, 0, 1),
                     GSL_SUCCESS);
    for (size_t i = 0; i < 10; i++) {
        const bool sees = i % 5 >= 2;
        assert_true(sees == isfinite(rows[i][0]) && sees == (rows[i][1] > 0.0f));
        if (!sees) for (size_t e = 0; e < 16; e++) assert_true(values.data[i * 16 + e] == 0.0f);
    }
    attn_case_free(&c);
}

/* Law: a summary of zeros is plain attention, the same bits, for few queries, too. */
static void test_empty_summary_is_plain(void **state)
{
    (void)state;
    const struct attn_case_spec specs[] = {
        { 1, 2, 2, 3, 90, 64, 0, 1, 0, 0, 0, "elu1" }, { 1, 4, 1, 1, 90, 64, 0, 0, 0, 0, 0, "elu1" },
        { 1, 6, 1, 2, 90, 32, 0, 1, 0, 0, 0, "elu1" }, { 1, 1, 1, 2, 90, 8, 0, 1, 0, 0, 0, "elu1" },
    };
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
            struct attn_case c;
            attn_case_make(&specs[i], 23, &c);
            const struct attn_prefix none = { 0 };
            const struct result plain = run(&c, &none, 1);
            struct attn_summary zero = c.summary;
            zero.Z.data = attn_case_floats(&c, c.shape.heads * c.feat_dim * c.shape.head_dim);
            zero.kvec.data = attn_case_floats(&c, c.shape.heads * c.feat_dim);
            const struct attn_out out = c.out_like_q(&c, attn_case_floats(&c, c.q_size));
            attn_row *rows = (attn_row *)attn_case_floats(&c, 2 * query_rows(&c));
            assert_int_equal(attn_ntk_forward(&c.shape, c.scale, c.q, c.k, c.v, &zero, out, rows, NULL, 0, 1, NULL),
                             GSL_SUCCESS);
            assert_memory_equal(out.data, plain.out.data, c.q_size * sizeof(float));
            assert_memory_equal(rows, plain.rows, query_rows(&c) * sizeof *rows);
            attn_case_free(&c);
        }
    }
}

/* ---- half precision ---------------------------------------------------------------------------------------------- */

/* Numbers near everything that rounds, and random bits. */
static float awkward(size_t i)
{
    const float some[] = { 0.0f, -0.0f, 1.0f, 65504.0f, 65519.996f, -65520.0f, 65536.0f, 0x1p-14f, 0x1.ffcp-15f,
                           0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.8p-24f, 0x1p-26f, 1e-30f, 1e-45f, 0x1.fffffep127f,
                           0x1.fep127f, 0x1.ff0002p127f, 0x1.01p0f, 0x1.03p0f, 0x1.002p0f, 0x1.006p0f, INFINITY,
                           -INFINITY, NAN };
    if (i < sizeof some / sizeof *some) return some[i];
    uint32_t bits = (uint32_t)(i * 2654435761u);
    bits ^= bits >> 15;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void test_narrow_and_widen(void **state)
{
    (void)state;
    enum { MANY = 60001 };
    float *x = malloc(MANY * sizeof *x), *back = malloc(MANY * sizeof *back);
    uint16_t *half = malloc(MANY * sizeof *half);
    assert_true(x && back && half);
    for (size_t i = 0; i < MANY; i++) x[i] = awkward(i);
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        const struct attn_kernels *k = attn_kernels_current();
        for (int storage = ATTN_BF16; storage <= ATTN_F16; storage++) {
            const double largest = storage == ATTN_BF16 ? 0x1.fep127 : 65504.0;
            const size_t over = k->narrow((enum attn_storage)storage, MANY, x, half);
            k->widen((enum attn_storage)storage, MANY, half, back);
            size_t want_over = 0;
            for (size_t i = 0; i < MANY; i++) {
                const double exact = (double)x[i];
                double want = as_stored((enum attn_storage)storage, exact);
                if (isfinite(exact) && fabs(want) > largest) {
                    want = copysign(INFINITY, exact);
                    want_over++;
                }
                if (isnan(exact) ? !isnan(back[i]) : back[i] != want || signbit(back[i]) != signbit(x[i]))
                    fail_msg("%s %s: %a becomes %a, not %a", isa_name((enum isa)isa), storage_names[storage], exact,
                             back[i], want);
            }
            assert_int_equal(over, want_over);
            /* Every number of the storage comes back. */
            for (uint32_t bits = 0; bits < 65536; bits += 7) {
                const uint16_t one = (uint16_t)bits;
                uint16_t same;
                k->widen((enum attn_storage)storage, 1, &one, back);
                k->narrow((enum attn_storage)storage, 1, back, &same);
                assert_true(isnan(back[0]) || same == one);
            }
        }
    }
    free(x);
    free(back);
    free(half);
}

static void test_half_storage(void **state)
{
    (void)state;
    float x[2 * 64] = { 1.0f, -70000.0f };
    const struct attn_in view = attn_dense_in(x, 1, 2, 64);
    struct attn_packed *full = attn_packed_alloc_as(ATTN_F32, 1, 1, 200, 64);
    struct attn_packed *half = attn_packed_alloc_as(ATTN_F16, 1, 1, 200, 64);
    assert_true(2 * attn_packed_bytes(half) < attn_packed_bytes(full) + 1024);
    attn_packed_free(full);
    attn_packed_free(half);
    struct attn_packed *packed = attn_packed_alloc_as(ATTN_F16, 1, 1, 2, 64);
    assert_int_equal(attn_packed_set(packed, view, view, 1), GSL_EOVRFLW);
    x[1] = NAN;
    assert_int_equal(attn_packed_set(packed, view, view, 1), GSL_SUCCESS);
    attn_packed_free(packed);
    packed = attn_packed_alloc_as(ATTN_BF16, 1, 1, 2, 64);
    x[1] = -70000.0f;
    assert_int_equal(attn_packed_set(packed, view, view, 1), GSL_SUCCESS);
    /* It has nothing that a backward pass reads. */
    const struct attn_shape shape = { 1, 1, 1, 1, 0, 64, 0, NULL };
    const struct attn_prefix prefix = { .len = 2, .packed = packed };
    const struct attn_out out = attn_dense_out(x, 1, 1, 64);
    const struct attn_exact_grads none = { 0 };
    attn_row row[1] = { { 0.0f, 1.0f } };
    assert_int_equal(attn_exact_backward(&shape, 1.0f, view, view, view, &prefix, in(out), (const attn_row *)row, view,
                                         &none, NULL, 0, 1), GSL_EBADLEN);
    attn_packed_free(packed);
    assert_null(attn_packed_alloc_as((enum attn_storage)7, 1, 1, 2, 64));
    assert_null(attn_packed_alloc_as(ATTN_F16, 1, 1, SIZE_MAX / 4, 64));
}

/* The checkers above see an error of the size they are meant to see: a prefix in half precision is not the one it
 * was made from. */
static void test_checker_rejects(void **state)
{
    (void)state;
    struct attn_case c;
    attn_case_make(&shapes[1], 3, &c);
    const struct attn_ref *p = &c.ref;
    double *out = attn_case_doubles(&c, 64), *half = attn_case_doubles(&c, 64);
    attn_ref_forward(p, out, NULL);
    round_prefix(&c, ATTN_F16);
    attn_ref_forward(p, half, NULL);
    double off = 0.0;
    for (size_t i = 0; i < 64; i++) off = fmax(off, fabs(out[i] - half[i]));
    print_message("binary16 is off by %.3g of %.3g\n", off, attn_largest(out, 64));
    assert_true(off > 10.0 * (RTOL_OUTPUT + RTOL_SCORE * attn_largest_score(p)) * attn_largest(out, 64));
    attn_case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_reference), cmocka_unit_test(test_many_queries_read_half_precision),
        cmocka_unit_test(test_bad_keys_and_values), cmocka_unit_test(test_no_keys),
        cmocka_unit_test(test_empty_summary_is_plain), cmocka_unit_test(test_narrow_and_widen),
        cmocka_unit_test(test_half_storage), cmocka_unit_test(test_checker_rejects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
