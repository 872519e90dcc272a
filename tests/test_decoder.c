/* The decoder against plain loops in double written from its equations; prefixes and summaries; the model of the
 * cache against reference outputs. */
#include "tests/support/check.h"
#include "transformer/decoder.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"

/* Rounding of float32 through three blocks, on numbers of order 1. */
static const double ATOL_FLOAT = 2e-5;

static const struct decoder_config small = { .vocab_size = 37, .hidden = 24, .num_layers = 3, .num_heads = 6,
                                             .kv_heads = 2,
                                             .head_dim = 8, .mlp_dim = 20, .max_positions = 64, .norm_eps = 1e-5,
                                                 .rope_base = 700.0 };
enum { LEN = 13 };
static const int32_t ids[LEN] = { 3, 36, 0, 17, 5, 5, 29, 11, 8, 30, 1, 22, 14 };

static struct decoder *make(void)
{
    struct decoder *d;
    assert_int_equal(decoder_random(&small, 1.7, 20240614, &d), GSL_SUCCESS);
    return d;
}

/* ---- the reference: one sequence, everything at once ------------------------------------------------ */

static void ref_norm(const double *x, const float *w, size_t n, double eps, double *out)
{
    double square = 0.0;
    for (size_t c = 0; c < n; c++) square += x[c] * x[c];
    for (size_t c = 0; c < n; c++) out[c] = x[c] / sqrt(square / (double)n + eps) * (double)w[c];
}

static void ref_multiply(const float *W, const double *x, size_t rows, size_t cols, double *y)
{
    for (size_t i = 0; i < rows; i++) {
        y[i] = 0.0;
        for (size_t c = 0; c < cols; c++) y[i] += (double)W[i * cols + c] * x[c];
    }
}

static void ref_rotate(double *x, size_t dim, double base, size_t position)
{
    for (size_t i = 0; i < dim / 2; i++) {
        const double angle = (double)position * pow(base, -2.0 * (double)i / (double)dim), a = x[2 * i],
            b = x[2 * i + 1];
        x[2 * i] = a * cos(angle) - b * sin(angle);
        x[2 * i + 1] = b * cos(angle) + a * sin(angle);
    }
}

static double ref_dot(const double *x, const float *y, size_t n)
{
    double sum = 0.0;
    for (size_t c = 0; c < n; c++) sum += x[c] * (double)y[c];
    return sum;
}

/* Adds the prefix's part of one query (head h, its rotation chosen by the caller). */
static void ref_piece(const struct decoder_piece *p, const double *q, size_t dim, size_t member, double *num,
                      double *mass)
{
    const double scale = 1.0 / sqrt((double)dim);
    for (size_t j = 0; j < p->len; j++) {
        const double e = exp(ref_dot(q, p->K + j * dim, dim) * scale
                             + (p->log_weight ? (double)p->log_weight[j] : 0.0));
        *mass += e;
        for (size_t c = 0; c < dim; c++) num[c] += e * (double)p->V[j * dim + c];
    }
    if (!p->map) return;
    const size_t r = feature_dim(p->map), index = p->summaries > 1 ? member : 0;
    double *phi = malloc(r * sizeof *phi);
    assert_int_equal(feature_forward_f64(p->map, FEATURE_QUERY, 1, q, dim, phi, r, NULL, 1, NULL), GSL_SUCCESS);
    const double factor = p->centre ? exp(ref_dot(q, p->centre, dim) * scale) : 1.0;
    for (size_t f = 0; f < r; f++) {
        *mass += factor * phi[f] * (double)p->k[index * r + f];
        for (size_t c = 0; c < dim; c++) num[c] += factor * phi[f] * (double)p->Z[(index * r + f) * dim + c];
    }
    free(phi);
}

/* hidden (n, hidden) after the final norm. */
static void reference(const struct decoder *d, const struct decoder_prefix *prefix, const int32_t *text, size_t n,
                      double *hidden)
{
    const struct decoder_config *c = &d->config;
    const size_t dim = c->head_dim, width = (c->num_heads + 2 * c->kv_heads) * dim, group = c->num_heads / c->kv_heads;
    const size_t first = prefix ? prefix->positions : 0;
    double *x = malloc(n * c->hidden * sizeof *x), *h = malloc(c->hidden * sizeof *h),
        *qkv = malloc(n * width * sizeof *qkv);
    double *raw = malloc(n * width * sizeof *raw), *out = malloc(c->num_heads * dim * sizeof *out),
        *y = malloc(c->hidden * sizeof *y);
    double *mlp = malloc(2 * c->mlp_dim * sizeof *mlp);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < c->hidden; k++) x[i * c->hidden + k] = (double)d->embed[(size_t)text[i] * c->hidden + k];
    for (size_t layer = 0; layer < c->num_layers; layer++) {
        const struct decoder_layer *w = &d->layers[layer];
        for (size_t i = 0; i < n; i++) {
            ref_norm(x + i * c->hidden, w->norm1, c->hidden, c->norm_eps, h);
            ref_multiply(w->qkv, h, width, c->hidden, qkv + i * width);
            memcpy(raw + i * width, qkv + i * width, width * sizeof *raw);
            for (size_t head = 0; head < c->num_heads + c->kv_heads; head++)
                ref_rotate(qkv + i * width + head * dim, dim, c->rope_base, first + i);
        }
        for (size_t i = 0; i < n; i++) {
            for (size_t head = 0; head < c->num_heads; head++) {
                const size_t g = head / group;
                const double *q = qkv + i * width + head * dim, *q_raw = raw + i * width + head * dim;
                double num[8] = { 0 }, mass = 0.0;
                assert_true(dim <= 8);
                for (size_t j = 0; j <= i; j++) {
                    const double *k = qkv + j * width + (c->num_heads + g) * dim, *v = k + c->kv_heads * dim;
                    double s = 0.0;
                    for (size_t e = 0; e < dim; e++) s += q[e] * k[e];
                    s = exp(s / sqrt((double)dim));
                    mass += s;
                    for (size_t e = 0; e < dim; e++) num[e] += s * v[e];
                }
                if (prefix)
                    ref_piece(&prefix->pieces[layer * c->kv_heads + g], prefix->rotation == DECODER_ROTATED ? q : q_raw,
                              dim,
                              head % group, num, &mass);
                for (size_t e = 0; e < dim; e++) out[head * dim + e] = num[e] / mass;
            }
            ref_multiply(w->o, out, c->hidden, c->num_heads * dim, y);
            for (size_t k = 0; k < c->hidden; k++) x[i * c->hidden + k] += y[k];
            ref_norm(x + i * c->hidden, w->norm2, c->hidden, c->norm_eps, h);
            ref_multiply(w->gate_up, h, 2 * c->mlp_dim, c->hidden, mlp);
            for (size_t k = 0; k < c->mlp_dim; k++) mlp[k] = mlp[k] / (1.0 + exp(-mlp[k])) * mlp[c->mlp_dim + k];
            ref_multiply(w->down, mlp, c->hidden, c->mlp_dim, y);
            for (size_t k = 0; k < c->hidden; k++) x[i * c->hidden + k] += y[k];
        }
    }
    for (size_t i = 0; i < n; i++)
        ref_norm(x + i * c->hidden, d->final_norm, c->hidden, c->norm_eps, hidden + i * c->hidden);
    free(x), free(h), free(qkv), free(raw), free(out), free(y), free(mlp);
}

/* ---- comparing ------------------------------------------------------------------------------------------ */

static double largest_difference(const float *got, const double *want, size_t n)
{
    double most = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double gap = fabs((double)got[i] - want[i]);
        if (!(gap <= most)) most = gap;
    }
    return most;
}

/* Reads the text `chunk` tokens at a time. */
static void read_text(const struct decoder *d, const struct decoder_prefix *prefix, size_t chunk, int threads,
                      float *hidden)
{
    struct decoder_run *run;
    assert_int_equal(decoder_run_alloc(d, prefix, LEN, chunk, threads, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids, LEN, hidden), GSL_SUCCESS);
    assert_int_equal(decoder_run_length(run), LEN);
    decoder_run_free(run);
}

/* One token at a time through the cache, three at a time, all at once: the equations each time. */
static void test_forward(void **state)
{
    (void)state;
    struct decoder *d = make();
    static double want[LEN * 24];
    static float got[LEN * 24], logits[LEN * 37];
    reference(d, NULL, ids, LEN, want);
    static const size_t chunks[] = { 1, 3, 5, LEN, 100 };
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        read_text(d, NULL, chunks[i], 2, got);
        CHECK_LESS(largest_difference(got, want, LEN * 24), ATOL_FLOAT);
    }
    decoder_logits(d, got, LEN, logits, 2);
    for (size_t i = 0; i < LEN; i++) {
        double row[37];
        ref_multiply(d->output, want + i * 24, 37, 24, row);
        CHECK_LESS(largest_difference(logits + i * 37, row, 37), 10.0 * ATOL_FLOAT);
    }
    /* A planted error is seen: another base of the rotation. */
    struct decoder other = *d;
    other.config.rope_base = 701.0;
    read_text(&other, NULL, LEN, 1, got);
    assert_true(largest_difference(got, want, LEN * 24) > ATOL_FLOAT);
    decoder_free(d);
}

static void test_threads(void **state)
{
    (void)state;
    struct decoder *d = make();
    static float one[LEN * 24], more[LEN * 24], logits[2][LEN * 37];
    for (size_t chunk = 1; chunk <= LEN; chunk += 6) {
        read_text(d, NULL, chunk, 1, one);
        decoder_logits(d, one, LEN, logits[0], 1);
        for (int threads = 2; threads <= 3; threads++) {
            read_text(d, NULL, chunk, threads, more);
            decoder_logits(d, more, LEN, logits[1], threads);
            assert_memory_equal(one, more, sizeof one);
            assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        }
    }
    decoder_free(d);
}

/* ---- prefixes ---------------------------------------------------------------------------------------------- */

enum { PIECES = 6, M = 5 };

/* Draws n numbers of the given size. */
static const float *draw(uint64_t stream, size_t n, double size, double mean)
{
    static float pool[64][16 * 8 * 3];
    double x[16 * 8 * 3];
    assert_true(stream < 64 && n <= 16 * 8 * 3);
    random_normal(20240614, RANDOM_OTHER, 7, stream, x, n);
    for (size_t i = 0; i < n; i++) pool[stream][i] = (float)(mean + size * x[i]);
    return pool[stream];
}

/* Tokens and summaries in every mixture: plain, weighted, shared, per query head, centred, none. */
static void make_pieces(struct decoder_piece pieces[PIECES], const feature_map *map)
{
    const size_t r = feature_dim(map);
    memset(pieces, 0, PIECES * sizeof *pieces);
    pieces[0] = (struct decoder_piece){ .len = M, .K = draw(0, M * 8, 0.9, 0.0), .V = draw(1, M * 8, 0.7, 0.0) };
    pieces[1] = pieces[0];
    pieces[1].log_weight = draw(2, M, 1.3, 0.4);
    pieces[2] = (struct decoder_piece){ .map = map, .summaries = 1, .Z = draw(3, r * 8, 0.6, 0.0),
                                        .k = draw(4, r, 0.05, 0.6) };
    pieces[3] = (struct decoder_piece){ .map = map, .summaries = 3, .Z = draw(5, 3 * r * 8, 0.6, 0.0),
                                        .k = draw(6, 3 * r, 0.05, 0.6) };
    pieces[4] = pieces[1];
    pieces[4].map = map;
    pieces[4].summaries = 1;
    pieces[4].Z = pieces[2].Z;
    pieces[4].k = pieces[2].k;
    pieces[4].centre = draw(7, 8, 0.8, 0.0);
}

static void test_prefix(void **state)
{
    (void)state;
    struct decoder *d = make();
    feature_map *map;
    struct decoder_piece pieces[PIECES];
    static double want[LEN * 24];
    static float got[LEN * 24], again[LEN * 24];
    assert_int_equal(feature_parse("elu1", 8, 0.0, 1, NULL, &map), GSL_SUCCESS);
    make_pieces(pieces, map);
    for (int rotation = DECODER_ROTATED; rotation <= DECODER_UNROTATED; rotation++) {
        const struct decoder_prefix prefix = { (enum decoder_rotation)rotation, 9, pieces };
        reference(d, &prefix, ids, LEN, want);
        for (size_t chunk = 1; chunk <= LEN; chunk += 4) {
            read_text(d, &prefix, chunk, 2, got);
            CHECK_LESS(largest_difference(got, want, LEN * 24), ATOL_FLOAT);
            read_text(d, &prefix, chunk, 1, again);
            assert_memory_equal(got, again, sizeof got);
        }
        /* The other rotation is another function. */
        const struct decoder_prefix other = { (enum decoder_rotation)!rotation, 9, pieces };
        read_text(d, &other, LEN, 1, got);
        assert_true(largest_difference(got, want, LEN * 24) > 100.0 * ATOL_FLOAT);
    }
    feature_map_free(map);
    decoder_free(d);
}

/* A polynomial map whose mass is negative for some queries beside a text that outweighs it. */
static void test_negative_mass(void **state)
{
    (void)state;
    struct decoder *d = make();
    feature_map *map;
    struct decoder_piece pieces[PIECES] = { { 0 } };
    static double want[LEN * 24];
    static float got[LEN * 24];
    assert_int_equal(feature_parse("taylor:1", 8, 0.0, 1, NULL, &map), GSL_SUCCESS);
    pieces[1] = (struct decoder_piece){ .map = map, .summaries = 1, .Z = draw(8, 9 * 8, 0.1, 0.0),
                                        .k = draw(9, 9, 0.03, 0.0) };
    struct decoder_prefix prefix = { DECODER_ROTATED, 2, pieces };
    reference(d, &prefix, ids, LEN, want);
    read_text(d, &prefix, 4, 2, got);
    CHECK_LESS(largest_difference(got, want, LEN * 24), ATOL_FLOAT);
    /* k = 0 with Z = 0 is no prefix; k = 0 alone leaves the softmax as it is and adds phi(q) Z / A 1. */
    static const float zeros[9 * 8];
    pieces[1].k = zeros;
    reference(d, &prefix, ids, LEN, want);
    read_text(d, &prefix, 4, 2, got);
    CHECK_LESS(largest_difference(got, want, LEN * 24), ATOL_FLOAT);
    pieces[1].Z = zeros;
    prefix.positions = 0;
    reference(d, NULL, ids, LEN, want);
    read_text(d, &prefix, 4, 2, got);
    CHECK_LESS(largest_difference(got, want, LEN * 24), ATOL_FLOAT);
    /* A mass below that of the text's first token: refused, and nothing read. */
    float k[9] = { -50.0f };
    pieces[1].k = k;
    struct decoder_run *run;
    assert_int_equal(decoder_run_alloc(d, &prefix, LEN, 4, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids, LEN, NULL), GSL_EDOM);
    assert_int_equal(decoder_run_length(run), 0);
    decoder_run_free(run);
    feature_map_free(map);
    decoder_free(d);
}

/* The keys and values of a text in front, as a prefix, are the text in front. */
static void test_context(void **state)
{
    (void)state;
    struct decoder *d = make();
    struct decoder_run *run, *after;
    struct decoder_piece pieces[PIECES] = { { 0 } };
    static float whole[LEN * 24], part[LEN * 24];
    enum { HEAD = 6 };
    read_text(d, NULL, LEN, 2, whole);
    assert_int_equal(decoder_run_alloc(d, NULL, LEN, LEN, 2, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids, HEAD, NULL), GSL_SUCCESS);
    for (size_t i = 0; i < PIECES; i++)
        pieces[i] = (struct decoder_piece){ .len = HEAD, .K = decoder_run_keys(run, i / 2, i % 2),
                                            .V = decoder_run_values(run, i / 2, i % 2) };
    const struct decoder_prefix prefix = { DECODER_ROTATED, HEAD, pieces };
    assert_int_equal(decoder_run_alloc(d, &prefix, LEN, 3, 2, &after), GSL_SUCCESS);
    assert_int_equal(decoder_read(after, ids + HEAD, LEN - HEAD, part), GSL_SUCCESS);
    for (size_t i = 0; i < (LEN - HEAD) * 24; i++) CHECK_CLOSE(part[i], whole[HEAD * 24 + i], 0.0, ATOL_FLOAT);
    /* The same after forgetting what was read, and queries as the reference has them. */
    float *queries = calloc(3 * 6 * (LEN - HEAD) * 8, sizeof *queries);
    assert_non_null(queries);
    decoder_run_rewind(after, 0);
    decoder_run_record(after, queries);
    assert_int_equal(decoder_read(after, ids + HEAD, LEN - HEAD, NULL), GSL_SUCCESS);
    double h[24], q[8];
    ref_norm((double[24]){ 0 }, d->layers[0].norm1, 24, 1e-5, h);
    double x[24];
    for (size_t c = 0; c < 24; c++) x[c] = (double)d->embed[(size_t)ids[HEAD + 2] * 24 + c];
    ref_norm(x, d->layers[0].norm1, 24, 1e-5, h);
    ref_multiply(d->layers[0].qkv + 4 * 8 * 24, h, 8, 24, q);       /* head 4 */
    ref_rotate(q, 8, 700.0, HEAD + 2);
    CHECK_LESS(largest_difference(queries + (4 * (LEN - HEAD) + 2) * 8, q, 8), ATOL_FLOAT);
    free(queries);
    decoder_run_free(after);
    decoder_run_free(run);
    decoder_free(d);
}

static void test_refuses(void **state)
{
    (void)state;
    struct decoder *d = make();
    struct decoder_run *run;
    char why[256];
    assert_int_equal(decoder_run_alloc(d, NULL, 0, 4, 1, &run), GSL_EINVAL);
    assert_int_equal(decoder_run_alloc(d, NULL, 4, 4, 0, &run), GSL_EINVAL);
    assert_int_equal(decoder_run_alloc(d, NULL, 100, 4, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, (const int32_t[]){ 37 }, 1, NULL), GSL_EINVAL);
    assert_int_equal(decoder_read(run, (const int32_t[]){ -1 }, 1, NULL), GSL_EINVAL);
    for (int i = 0; i < 64; i++) assert_int_equal(decoder_read(run, ids, 1, NULL), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids, 1, NULL), GSL_EINVAL);      /* beyond the positions */
    decoder_run_free(run);
    decoder_run_free(NULL);
    struct decoder *none;
    struct decoder_config bad = small;
    bad.kv_heads = 4;
    assert_int_equal(decoder_random(&bad, 1.0, 1, &none), GSL_EINVAL);
    assert_int_equal(decoder_open("/nowhere/x.gguf", "", &none, (struct reason){ why, sizeof why }), GSL_EFAILED);
    assert_non_null(strstr(why, "/nowhere/x.gguf"));
    decoder_free(d);
    decoder_free(NULL);
}

static void test_log_softmax(void **state)
{
    (void)state;
    float x[] = { 700.0f, 699.3f, -1e4f, 698.1f };
    const double sum = 1.0 + exp((double)699.3f - 700.0) + exp((double)698.1f - 700.0);
    assert_int_equal(decoder_argmax(x, 4), 0);
    decoder_log_softmax(x, 4);
    CHECK_CLOSE(x[0], -log(sum), 1e-4, 0.0);
    CHECK_CLOSE(exp((double)x[0]) + exp((double)x[1]) + exp((double)x[2]) + exp((double)x[3]), 1.0, 1e-4, 0.0);
}

/* ---- the pretrained model --------------------------------------------------------------------------------------- */

/* Log-probabilities and greedy tokens of a float32 forward of the same file by another implementation. */
struct golden { const char *text; size_t count, made; int32_t ids[24], greedy[12]; double logprob[24]; };
static const struct golden golden[] = {
    { "The capital of France is Paris, and the capital of Germany is Berlin.", 15, 12,
      { 504, 3575, 282, 4649, 314, 7042, 28, 284, 260, 3575, 282, 4521, 314, 11452, 30 },
      { 198, 198, 504, 1797, 1918, 553, 253, 2155, 282, 4723, 216, 35 },
      { -11.53929, -0.33762, -2.43867, -0.45095, -0.25808, -1.65851, -1.24186, -1.04797, -0.51562, -1.10319, -3.29816,
        -0.01418, -0.03872,
        -0.07223 } },
    { "Question: A box holds 12 pens. How many pens are in 7 boxes?\nAnswer:", 22, 12,
      { 17872, 42, 330, 3985, 6650, 216, 33, 34, 24193, 30, 1073, 800, 24193, 359, 281, 216, 39, 10155, 47, 198, 21350,
        42 },
      { 216, 39, 198, 198, 1348, 314, 253, 8170, 1183, 282, 253, 15070 },
      { -6.21085, -4.1002, -6.33028, -5.86356, -0.37931, -0.71641, -2.45084, -5.61506, -0.63334, -5.35478, -0.01213,
        -2.61947, -0.68121,
        -1.32589, -3.68373, -4.23779, -0.21717, -0.21365, -0.48113, -6.74235, -0.00474 } },
};

static void check_golden(const struct decoder *d, const struct golden *g)
{
    const double ATOL_REFERENCE = 2e-3;
    char why[128];
    int32_t *got;
    size_t count;
    struct decoder_run *run;
    const size_t vocab = d->config.vocab_size;
    assert_int_equal(bpe_encode(d->bpe, g->text, strlen(g->text), &got, &count, (struct reason){ why, sizeof why }),
                     GSL_SUCCESS);
    assert_int_equal(count, g->count);
    assert_memory_equal(got, g->ids, count * sizeof *got);
    float *hidden = malloc(count * d->config.hidden * sizeof *hidden), *logits = malloc(count * vocab * sizeof *logits);
    assert_true(hidden && logits);
    assert_int_equal(decoder_run_alloc(d, NULL, count + g->made, 8, 2, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, got, count, hidden), GSL_SUCCESS);
    decoder_logits(d, hidden, count, logits, 2);
    int32_t next = decoder_argmax(logits + (count - 1) * vocab, vocab);
    for (size_t i = 0; i + 1 < count; i++) {
        decoder_log_softmax(logits + i * vocab, vocab);
        CHECK_CLOSE(logits[i * vocab + (size_t)got[i + 1]], g->logprob[i], 0.0, ATOL_REFERENCE);
    }
    for (size_t i = 0; i < g->made; i++) {
        assert_int_equal(next, g->greedy[i]);
        assert_int_equal(decoder_read(run, &next, 1, hidden), GSL_SUCCESS);
        decoder_logits(d, hidden, 1, logits, 2);
        next = decoder_argmax(logits, vocab);
    }
    decoder_run_free(run);
    free(hidden);
    free(logits);
    free(got);
}

static void test_golden(void **state)
{
    (void)state;
    struct decoder *d;
    char why[512];
    if (decoder_open("smollm2-135m", NULL, &d, (struct reason){ why, sizeof why })) {
        print_message("skipped, no model to compare: %s\n", why);
        skip();
    }
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) check_golden(d, &golden[i]);
    decoder_free(d);
}

/* Law: token by token, behind more tokens than one task of a step takes, gives what several at once give. */
static void test_long_prefix(void **state)
{
    (void)state;
    enum { LONG = 2500, HALF = 1024 };
    struct decoder *d = make();
    struct decoder_piece pieces[PIECES];
    float *numbers = malloc(2 * LONG * 8 * sizeof *numbers);
    double *x = malloc(2 * LONG * 8 * sizeof *x);
    assert_true(numbers && x);
    random_normal(20240614, RANDOM_OTHER, 9, 0, x, 2 * LONG * 8);
    for (size_t i = 0; i < 2 * LONG * 8; i++) numbers[i] = (float)x[i];
    memset(pieces, 0, sizeof pieces);
    for (size_t i = 0; i < PIECES; i++)
        pieces[i] = (struct decoder_piece){ .len = i % 2 ? HALF : LONG - i, .K = numbers + 8 * i, .V = numbers +
            LONG * 8 };
    pieces[PIECES - 1].len = 0;
    const struct decoder_prefix prefix = { DECODER_ROTATED, 7, pieces };
    static float one[LEN * 24], all[LEN * 24];
    double want[LEN * 24];
    for (int threads = 1; threads <= 2; threads++) {
        read_text(d, &prefix, 1, threads, one);
        read_text(d, &prefix, LEN, 1, all);
        for (size_t i = 0; i < LEN * 24; i++) want[i] = (double)all[i];
        CHECK_LESS(largest_difference(one, want, LEN * 24), ATOL_FLOAT);
    }
    free(numbers);
    free(x);
    decoder_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward), cmocka_unit_test(test_threads), cmocka_unit_test(test_prefix),
            cmocka_unit_test(test_long_prefix),
        cmocka_unit_test(test_negative_mass), cmocka_unit_test(test_context), cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_log_softmax), cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
