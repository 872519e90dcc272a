/* What is trained to stand in for a prompt: its loss falls, and what a decoder predicts behind it is what the loss
 * says. */
#include "approximation/prompt_distill.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Float32 through two blocks, batches of other shapes. */
static const double RTOL_ROUNDOFF = 1e-4;
/* A KL where probabilities differ by rounding. */
static const double ATOL_ROUNDOFF = 1e-6;
enum { VOCAB = 31, PROMPT = 20, TEXTS = 3, KEPT = 4, HEADS = 4 };
static const struct decoder_config tiny = { .vocab_size = VOCAB, .hidden = 16, .num_layers = 2, .num_heads = 4,
                                            .kv_heads = 2, .head_dim = 4, .mlp_dim = 12, .max_positions = 64,
                                            .norm_eps = 1e-5, .rope_base = 300.0 };
static const int32_t prompt[PROMPT] = { 3, 30, 0, 17, 5, 5, 19, 11, 8, 20, 1, 9, 9, 28, 2, 7, 14, 22, 6, 12 };
static const int32_t first[5] = { 4, 18, 25, 3, 3 }, second[3] = { 10, 2, 29 }, third[4] = { 13, 13, 0, 26 };
static const struct prompt_text texts[TEXTS] = { { first, 5 }, { second, 3 }, { third, 4 } };
enum { ROWS = 12 };

/* Mean KL of the texts' next tokens behind the pieces. */
static double divergence(const struct decoder *d, const struct decoder_piece *pieces, const float *logprobs)
{
    const struct decoder_prefix prefix = { DECODER_ROTATED, PROMPT, pieces };
    struct decoder_run *run;
    float hidden[5 * 16], logits[5 * VOCAB];
    double sum = 0.0;
    assert_int_equal(decoder_run_alloc(d, &prefix, 5, 5, 1, &run), GSL_SUCCESS);
    for (size_t t = 0; t < TEXTS; t++) {
        decoder_run_rewind(run, 0);
        assert_int_equal(decoder_read(run, texts[t].ids, texts[t].len, hidden), GSL_SUCCESS);
        decoder_logits(d, hidden, texts[t].len, logits, 1);
        for (size_t i = 0; i < texts[t].len; i++, logprobs += VOCAB) {
            decoder_log_softmax(logits + i * VOCAB, VOCAB);
            for (size_t c = 0; c < VOCAB; c++)
                sum += exp((double)logprobs[c]) * ((double)logprobs[c] - (double)logits[i * VOCAB + c]) / ROWS;
        }
    }
    decoder_run_free(run);
    return sum;
}

static void test_distill(void **state)
{
    (void)state;
    struct decoder *d;
    struct decoder_run *run;
    struct decoder_piece start[HEADS];
    static float logprobs[ROWS * VOCAB];
    assert_int_equal(decoder_random(&tiny, 2.0, 5, &d), GSL_SUCCESS);
    assert_int_equal(decoder_run_alloc(d, NULL, PROMPT + 5, 8, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, prompt, PROMPT, NULL), GSL_SUCCESS);
    assert_int_equal(prompt_teach(d, run, PROMPT, texts, TEXTS, logprobs, 1), GSL_SUCCESS);
    assert_int_equal(decoder_run_length(run), PROMPT);
    struct decoder_piece whole[HEADS];
    for (size_t i = 0; i < HEADS; i++) {
        const float *K = decoder_run_keys(run, i / 2, i % 2), *V = decoder_run_values(run, i / 2, i % 2);
        whole[i] = (struct decoder_piece){ .len = PROMPT, .K = K, .V = V };
        start[i] = (struct decoder_piece){ .len = KEPT, .K = K + 3 * 4, .V = V + 3 * 4 };
    }
    /* The whole prompt as a piece predicts what it taught. */
    CHECK_CLOSE(divergence(d, whole, logprobs), 0.0, 0.0, ATOL_ROUNDOFF);
    const double before = divergence(d, start, logprobs);
    for (int kind = 0; kind < 2; kind++) {
        struct prompt_distill_options o = { .adapter = adapter_defaults(kind ? ADAPTER_NTK : ADAPTER_PTUNING),
                                            .positions = PROMPT, .steps = 60, .batch = TEXTS, .lr = 0.03, .seed = 3,
                                            .num_threads = 1 };
        struct prompt_distilled *trained;
        double loss[2];
        o.adapter.prefix_len = KEPT;
        assert_int_equal(prompt_distill(d, &o, kind ? NULL : start, texts, TEXTS, logprobs, &trained, loss),
                         GSL_SUCCESS);
        if (!kind) CHECK_CLOSE(loss[0], before, RTOL_ROUNDOFF, 0.0);
        CHECK_LESS(loss[1], 0.5 * loss[0]);
        CHECK_CLOSE(divergence(d, prompt_distilled_pieces(trained), logprobs), loss[1], 0.1, 0.0);
        prompt_distilled_free(trained);
    }
    struct prompt_distill_options o = { .adapter = adapter_defaults(ADAPTER_LORA), .steps = 1, .batch = 1,
        .num_threads = 1 };
    struct prompt_distilled *none;
    double loss[2];
    assert_int_equal(prompt_distill(d, &o, start, texts, TEXTS, logprobs, &none, loss), GSL_EINVAL);
    o.adapter = adapter_defaults(ADAPTER_PTUNING);
    o.adapter.prefix_len = KEPT + 1;
    o.positions = PROMPT;
    assert_int_equal(prompt_distill(d, &o, start, texts, TEXTS, logprobs, &none, loss), GSL_EINVAL);
    decoder_run_free(run);
    decoder_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_distill) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
