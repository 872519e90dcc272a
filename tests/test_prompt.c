/* What stands in for a prompt: sums of pieces, tokens kept, clusters, folds and fits. */
#include "approximation/prompt.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"

enum { DIM = 6, LEN = 40, N = 150 };

/* Rounding of float32 keys and values; of sums in double. */
static const double RTOL_FLOAT = 1e-6, RTOL_DOUBLE = 1e-12;

struct sample { float K[LEN * DIM], V[LEN * DIM]; double Q[N * DIM]; struct prompt prompt; struct prompt_queries q; };

/* Keys of spread `size`, queries that also see one token of their own. */
static struct sample *make(double size)
{
    struct sample *s = calloc(1, sizeof *s);
    double x[LEN * DIM];
    assert_non_null(s);
    random_normal(20240614, RANDOM_PREFIX, 0, 0, x, LEN * DIM);
    for (size_t i = 0; i < LEN * DIM; i++) s->K[i] = (float)(size * x[i] + 0.3);
    random_normal(20240614, RANDOM_PREFIX, 0, 1, x, LEN * DIM);
    for (size_t i = 0; i < LEN * DIM; i++) s->V[i] = (float)x[i];
    random_normal(20240614, RANDOM_INPUTS, 0, 0, s->Q, N * DIM);
    s->prompt = (struct prompt){ LEN, DIM, s->K, s->V };
    s->q = (struct prompt_queries){ .n = N, .Q = s->Q };
    assert_int_equal(attn_sums_alloc(&s->q.input, N, DIM), GSL_SUCCESS);
    for (size_t i = 0; i < N; i++) {
        s->q.input.mass[i] = 0.7;
        s->q.input.shift[i] = 1.3;
        for (size_t c = 0; c < DIM; c++) s->q.input.num[i * DIM + c] = 0.2 * (double)c;
    }
    return s;
}

static void sample_free(struct sample *s)
{
    attn_sums_free(&s->q.input);
    free(s);
}

static double score(const struct sample *s, size_t i, const float *k)
{
    double sum = 0.0;
    for (size_t c = 0; c < DIM; c++) sum += s->Q[i * DIM + c] * (double)k[c];
    return sum / sqrt((double)DIM);
}

/* Mass and values of row i against plain sums, whatever the frame. */
static void check_row(const struct attn_sums *got, size_t i, double mass, const double *num, double rtol)
{
    CHECK_CLOSE(got->mass[i] * exp(got->shift[i]), mass, rtol, 0.0);
    for (size_t c = 0; c < DIM; c++) CHECK_CLOSE(got->num[i * DIM + c] * exp(got->shift[i]), num[c], rtol, rtol * mass);
}

static void test_sums(void **state)
{
    (void)state;
    struct sample *s = make(1.1);
    struct attn_sums got = { 0 };
    double share[LEN], want[LEN] = { 0 };
    assert_int_equal(attn_sums_alloc(&got, N, DIM), GSL_SUCCESS);
    assert_int_equal(prompt_sums(&s->prompt, &s->q, &got, share), GSL_SUCCESS);
    for (size_t i = 0; i < N; i++) {
        double mass = 0.0, num[DIM] = { 0 };
        for (size_t j = 0; j < LEN; j++) {
            const double e = exp(score(s, i, s->K + j * DIM));
            mass += e;
            for (size_t c = 0; c < DIM; c++) num[c] += e * (double)s->V[j * DIM + c];
        }
        check_row(&got, i, mass, num, RTOL_DOUBLE);
        for (size_t j = 0; j < LEN; j++) want[j] += exp(score(s, i, s->K + j * DIM)) / (mass + 0.7 * exp(1.3));
    }
    CHECK_ALL_CLOSE(share, want, LEN, RTOL_DOUBLE, 0.0);
    attn_sums_free(&got);
    sample_free(s);
}

/* Kept tokens, weights and a centred summary together: the sum of its parts. */
static void test_piece_sums(void **state)
{
    (void)state;
    struct sample *s = make(0.8);
    feature_map *map;
    struct prompt_piece folded;
    struct attn_sums got = { 0 };
    const float log_weight[3] = { 0.4f, -1.3f, 0.9f };
    assert_int_equal(feature_parse("taylor:2", DIM, 0.0, 1, NULL, &map), GSL_SUCCESS);
    assert_int_equal(prompt_fold(&s->prompt, map, 1, &folded), GSL_SUCCESS);
    struct decoder_piece piece = folded.piece;
    piece.len = 3;
    piece.K = s->K + 5 * DIM;
    piece.V = s->V + 7 * DIM;
    piece.log_weight = log_weight;
    assert_int_equal(attn_sums_alloc(&got, N, DIM), GSL_SUCCESS);
    assert_int_equal(prompt_piece_sums(&piece, s->Q, N, DIM, &got), GSL_SUCCESS);
    double centre[DIM] = { 0 };
    for (size_t j = 0; j < LEN * DIM; j++) centre[j % DIM] += (double)s->K[j] / LEN;
    for (size_t i = 0; i < N; i++) {
        double mass = 0.0, num[DIM] = { 0 }, mean = 0.0;
        for (size_t c = 0; c < DIM; c++) mean += s->Q[i * DIM + c] * centre[c] / sqrt((double)DIM);
        for (size_t j = 0; j < 3 + LEN; j++) {
            const double t = score(s, i, j < 3 ? piece.K + j * DIM : s->K + (j - 3) * DIM);
            const double x = t - mean, e = j < 3 ? exp(t + (double)log_weight[j]) : exp(mean) * (1.0 + x + x * x / 2.0);
            const float *v = j < 3 ? piece.V + j * DIM : s->V + (j - 3) * DIM;
            mass += e;
            for (size_t c = 0; c < DIM; c++) num[c] += e * (double)v[c];
        }
        check_row(&got, i, mass, num, 10.0 * RTOL_FLOAT);
    }
    assert_int_equal(prompt_piece_bytes(&piece, DIM), 4 * (3 * 13 + feature_dim(map) * 7 + 6));
    attn_sums_free(&got);
    prompt_piece_free(&folded);
    prompt_piece_free(NULL);
    feature_map_free(map);
    sample_free(s);
}

static void test_tokens(void **state)
{
    (void)state;
    struct sample *s = make(1.0);
    const double share[LEN] = { [3] = 0.5, [11] = 0.9, [12] = 0.5, [39] = 0.7 };
    size_t index[LEN];
    assert_int_equal(prompt_most(share, LEN, 3, index), GSL_SUCCESS);
    assert_int_equal(index[0], 3);          /* of equals the first */
    assert_int_equal(index[1], 11);
    assert_int_equal(index[2], 39);
    assert_int_equal(prompt_most(share, LEN, LEN + 1, index), GSL_EINVAL);
    struct prompt_piece kept;
    assert_int_equal(prompt_keep(&s->prompt, index, 3, &kept), GSL_SUCCESS);
    assert_memory_equal(kept.piece.K + DIM, s->K + 11 * DIM, DIM * sizeof(float));
    assert_memory_equal(kept.piece.V + 2 * DIM, s->V + 39 * DIM, DIM * sizeof(float));
    prompt_piece_free(&kept);
    sample_free(s);
}

/* As many clusters as tokens are the tokens; of two groups far apart the means and counts; an empty cluster weighs
 * nothing. */
static void test_clusters(void **state)
{
    (void)state;
    struct sample *s = make(1.0);
    struct prompt_piece piece;
    struct attn_sums whole = { 0 }, got = { 0 };
    assert_int_equal(attn_sums_alloc(&whole, N, DIM), GSL_SUCCESS);
    assert_int_equal(attn_sums_alloc(&got, N, DIM), GSL_SUCCESS);
    assert_int_equal(prompt_sums(&s->prompt, &s->q, &whole, NULL), GSL_SUCCESS);
    assert_int_equal(prompt_cluster(&s->prompt, LEN, 3, &piece), GSL_SUCCESS);
    assert_int_equal(prompt_piece_sums(&piece.piece, s->Q, N, DIM, &got), GSL_SUCCESS);
    for (size_t i = 0; i < N; i++)
        CHECK_CLOSE(got.mass[i] * exp(got.shift[i]), whole.mass[i] * exp(whole.shift[i]), RTOL_FLOAT, 0.0);
    prompt_piece_free(&piece);
    for (size_t j = 0; j < LEN; j++)
        for (size_t c = 0; c < DIM; c++) s->K[j * DIM + c] = (j < 30 ? 5.0f : -5.0f) + (j % 2 ? 0.25f : -0.25f);
    assert_int_equal(prompt_cluster(&s->prompt, 2, 4, &piece), GSL_SUCCESS);
    CHECK_CLOSE(exp((double)piece.piece.log_weight[0]) + exp((double)piece.piece.log_weight[1]), LEN, RTOL_FLOAT, 0.0);
    const size_t high = piece.piece.K[0] > 0.0f ? 0 : 1;
    CHECK_CLOSE(piece.piece.K[high * DIM], 5.0, RTOL_FLOAT, 0.0);
    CHECK_CLOSE(exp((double)piece.piece.log_weight[high]), 30.0, RTOL_FLOAT, 0.0);
    double mean = 0.0;
    for (size_t j = 0; j < 30; j++) mean += (double)s->V[j * DIM + 2] / 30.0;
    CHECK_CLOSE(piece.piece.V[high * DIM + 2], mean, 0.0, RTOL_FLOAT);
    prompt_piece_free(&piece);
    assert_int_equal(prompt_cluster(&s->prompt, LEN + 1, 1, &piece), GSL_EINVAL);
    attn_sums_free(&whole);
    attn_sums_free(&got);
    sample_free(s);
}

/* A fit on queries errs less on them than the plug-in, and less than no prompt; with tokens exact less still. A
 * planted error
 * (values of another prompt) is seen. */
static void test_fit(void **state)
{
    (void)state;
    struct sample *s = make(0.9);
    feature_map *map;
    struct prompt_piece folded, fitted, mixed, kept;
    struct attn_sums whole = { 0 }, got = { 0 };
    struct approx_errors plug_in, fit, both, spoilt;
    double share[LEN];
    size_t index[8];
    assert_int_equal(feature_parse("elu1", DIM, 0.0, 1, NULL, &map), GSL_SUCCESS);
    assert_int_equal(attn_sums_alloc(&whole, N, DIM), GSL_SUCCESS);
    assert_int_equal(attn_sums_alloc(&got, N, DIM), GSL_SUCCESS);
    assert_int_equal(prompt_sums(&s->prompt, &s->q, &whole, share), GSL_SUCCESS);
    assert_int_equal(prompt_most(share, LEN, 8, index), GSL_SUCCESS);
    assert_int_equal(prompt_keep(&s->prompt, index, 8, &kept), GSL_SUCCESS);
    assert_int_equal(prompt_fold(&s->prompt, map, 0, &folded), GSL_SUCCESS);
    assert_int_equal(prompt_fit(&s->prompt, map, 0, NULL, &s->q, &whole, &fitted), GSL_SUCCESS);
    assert_int_equal(prompt_fit(&s->prompt, map, 0, &kept.piece, &s->q, &whole, &mixed), GSL_SUCCESS);
    assert_int_equal(fitted.failed + mixed.failed, 0);
    assert_int_equal(mixed.piece.len, 8);
    struct { const struct decoder_piece *piece; struct approx_errors *errors; } all[] = {
        { &folded.piece, &plug_in }, { &fitted.piece, &fit }, { &mixed.piece, &both }
    };
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(prompt_piece_sums(all[i].piece, s->Q, N, DIM, &got), GSL_SUCCESS);
        assert_int_equal(approx_compare(&s->q.input, &whole, &got, all[i].errors, NULL), GSL_SUCCESS);
        assert_int_equal(all[i].errors->num_nonpositive, 0);
    }
    CHECK_LESS(fit.err_rel, plug_in.err_rel);
    CHECK_LESS(fit.err_rel, 1.0);
    CHECK_LESS(both.err_rel, fit.err_rel);
    struct decoder_piece wrong = mixed.piece;
    wrong.V = s->V + DIM;
    assert_int_equal(prompt_piece_sums(&wrong, s->Q, N, DIM, &got), GSL_SUCCESS);
    assert_int_equal(approx_compare(&s->q.input, &whole, &got, &spoilt, NULL), GSL_SUCCESS);
    assert_true(spoilt.err_rel > fit.err_rel);
    prompt_piece_free(&folded);
    prompt_piece_free(&fitted);
    prompt_piece_free(&mixed);
    prompt_piece_free(&kept);
    attn_sums_free(&whole);
    attn_sums_free(&got);
    feature_map_free(map);
    sample_free(s);
}

static void test_spread(void **state)
{
    (void)state;
    struct sample *s = make(1.2);
    double spread, mass, want = 0.0, share = 0.0;
    assert_int_equal(prompt_spread(&s->prompt, &s->q, &spread, &mass), GSL_SUCCESS);
    for (size_t i = 0; i < N; i++) {
        double sum = 0.0, square = 0.0, p = 0.0;
        for (size_t j = 0; j < LEN; j++) sum += score(s, i, s->K + j * DIM) / LEN;
        for (size_t j = 0; j < LEN; j++) square += pow(score(s, i, s->K + j * DIM) - sum, 2.0) / LEN;
        for (size_t j = 0; j < LEN; j++) p += exp(score(s, i, s->K + j * DIM));
        want += sqrt(square) / N;
        share += p / (p + 0.7 * exp(1.3)) / N;
    }
    CHECK_CLOSE(spread, want, RTOL_DOUBLE, 0.0);
    CHECK_CLOSE(mass, share, RTOL_DOUBLE, 0.0);
    sample_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums), cmocka_unit_test(test_piece_sums), cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_clusters), cmocka_unit_test(test_fit), cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
