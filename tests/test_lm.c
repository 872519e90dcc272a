/* lm at program level, on a tiny model the test writes. */
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include "common/npy.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const merges[] = { "h e", "l l", "he ll", NULL };
static const char *const specials[] = { "<|s|>", "<|e|>", NULL };

/* A model of 261 tokens in the scratch folder. */
static struct decoder *make_model(void *state, const char **path)
{
    const struct decoder_config config = { .vocab_size = 261, .hidden = 32, .num_layers = 2, .num_heads = 4,
                                           .kv_heads = 2,
                                           .head_dim = 8, .mlp_dim = 48, .max_positions = 96, .norm_eps = 1e-5,
                                               .rope_base = 900.0 };
    struct vocabulary v = vocabulary_make(merges, specials);
    struct decoder *d;
    struct bytes b = { 0 };
    assert_int_equal(v.num_tokens, config.vocab_size);
    assert_int_equal(decoder_random(&config, 2.0, 20240614, &d), GSL_SUCCESS);
    gguf_put_model(&b, d, &v);
    *path = scratch_path(state, "tiny.gguf");
    bytes_write(&b, *path);
    bytes_free(&b);
    vocabulary_free(&v);
    return d;
}

static char *read_file(const char *path)
{
    char *text = calloc(4096, 1);
    FILE *file = fopen(path, "r");
    assert_true(text && file);
    assert_true(fread(text, 1, 4095, file) > 0);
    fclose(file);
    return text;
}

/* What the library gives for the ids of "hello\n". */
static void test_logprobs(void **state)
{
    const char *model, *text = scratch_file(*state, "t.txt", "hello\n");
    struct decoder *d = make_model(*state, &model);
    const char *npy = scratch_path(*state, "l.npy"), *csv = scratch_path(*state, "t.csv");
    struct outcome outcome = run_program("lm", "--backbone", model, "--text", text, "--logprobs-out", npy,
                                         "--tokens-out", csv, "--quiet", NULL);
    assert_int_equal(outcome.code, 0);
    assert_string_equal(outcome.out, "");
    assert_string_equal(outcome.err, "");
    outcome_free(&outcome);
    static const int32_t ids[] = { 258, 'o', '\n' };
    char *row = read_file(csv);
    assert_string_equal(row, "258,111,10\n");
    free(row);
    struct npy got;
    char why[256];
    assert_int_equal(npy_read(npy, 1, &got, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(got.rank, 1);
    assert_int_equal(got.size, 2);
    struct decoder_run *run;
    float hidden[3 * 32], logits[3 * 261];
    assert_int_equal(decoder_run_alloc(d, NULL, 3, 3, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids, 3, hidden), GSL_SUCCESS);
    decoder_logits(d, hidden, 3, logits, 1);
    for (size_t i = 0; i < 2; i++) {
        decoder_log_softmax(logits + i * 261, 261);
        CHECK_CLOSE(got.f32[i], logits[i * 261 + (size_t)ids[i + 1]], 0.0, 1e-5);
    }
    decoder_run_free(run);
    npy_free(&got);
    decoder_free(d);
}

/* The continuation is what greedy reading of its own output predicts, whatever the threads; it streams to --out too. */
static void test_generate(void **state)
{
    const char *model, *text = scratch_file(*state, "t.txt", "hell<|s|>hello");
    struct decoder *d = make_model(*state, &model);
    const char *ids = scratch_path(*state, "g.csv"), *out = scratch_path(*state, "g.txt");
    struct outcome one = run_program("lm", "--backbone", model, "--text", text, "--generate", "20", "--threads", "1",
                                     "--generated-out", ids, NULL);
    struct outcome two = run_program("lm", "--backbone", model, "--text", text, "--generate", "20", "--threads", "2",
                                     "--out", out, NULL);
    assert_int_equal(one.code, 0);
    assert_int_equal(two.code, 0);
    assert_non_null(strstr(one.err, "tokens"));
    assert_non_null(strstr(one.err, "peak memory"));
    assert_string_equal(two.out, "");
    char *written = read_file(out), *row = read_file(ids);
    assert_string_equal(written, one.out);
    int32_t all[96] = { 258, 259, 258, 'o' };
    size_t count = 4;
    for (char *at = strtok(row, ","); at; at = strtok(NULL, ",")) all[count++] = atoi(at);
    assert_true(count > 5);
    struct decoder_run *run;
    float hidden[96 * 32], logits[96 * 261];
    assert_int_equal(decoder_run_alloc(d, NULL, count, count, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, all, count, hidden), GSL_SUCCESS);
    decoder_logits(d, hidden, count, logits, 1);
    for (size_t i = 4; i < count; i++) assert_int_equal(decoder_argmax(logits + (i - 1) * 261, 261), all[i]);
    decoder_run_free(run);
    free(written);
    free(row);
    outcome_free(&one);
    outcome_free(&two);
    decoder_free(d);
}

static void test_start_token(void **state)
{
    const char *model;
    decoder_free(make_model(*state, &model));
    struct outcome outcome = run_program("lm", "--backbone", model, "--generate", "3", "--quiet", NULL);
    assert_int_equal(outcome.code, 0);
    outcome_free(&outcome);
}

static void test_refuses(void **state)
{
    const char *model, *text = scratch_file(*state, "t.txt", "hello"), *npy = scratch_path(*state, "unwanted.npy");
    decoder_free(make_model(*state, &model));
    CHECK_REFUSAL(run_program("lm", "--text", text, NULL), 2, "lm", "--generate");
    CHECK_REFUSAL(run_program("lm", "--logprobs-out", npy, NULL), 2, "lm", "--text");
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--generate", "-1", NULL), 2, "lm", "--generate");
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--text", text, "--generate", "1000", NULL), 3, "lm",
                  "96 positions");
    CHECK_REFUSAL(run_program("lm", "--backbone", scratch_path(*state, "none.gguf"), "--generate", "1", NULL), 3, "lm",
                  "none.gguf");
    CHECK_REFUSAL(run_program("lm", "--backbone", text, "--generate", "1", NULL), 3, "lm", "t.txt: not a GGUF file");
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--text", scratch_path(*state, "none.txt"), "--generate", "1",
                              NULL), 3, "lm", "none.txt");
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--text", scratch_file(*state, "bad.txt", "a\xff"),
                              "--logprobs-out", npy, NULL), 3, "lm",
                  "bad.txt: not UTF-8");
    assert_int_not_equal(access(npy, F_OK), 0);
    /* Weights that are not numbers. */
    struct vocabulary v = vocabulary_make(merges, specials);
    struct decoder *d;
    struct bytes b = { 0 };
    const struct decoder_config config = { 261, 32, 1, 4, 2, 8, 48, 96, 1e-5, 900.0 };
    assert_int_equal(decoder_random(&config, 2.0, 1, &d), GSL_SUCCESS);
    d->weights[77] = NAN;
    gguf_put_model(&b, d, &v);
    bytes_write(&b, model);
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--generate", "1", NULL), 3, "lm",
                  "token_embd.weight: number 77 is not finite");
    bytes_free(&b);
    vocabulary_free(&v);
    decoder_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logprobs), cmocka_unit_test(test_generate), cmocka_unit_test(test_start_token),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
