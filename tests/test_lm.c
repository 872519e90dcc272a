/* lm at program level, on a tiny model the test writes. */
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include "common/npy.h"
#include "transformer/tensors.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const merges[] = { "h e", "l l", "he ll", NULL };
static const char *const specials[] = { "<|s|>", "<|e|>", NULL };

/* A model of 261 tokens in the scratch folder. */
static struct decoder *make_model(void *state, const char **path)
{
    *path = scratch_path(state, "tiny.gguf");
    return gguf_tiny_model(*path);
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

/* Log-probabilities of the text in `path` with more arguments, (count). */
static void run_logprobs(void *state, const char *model, const char *path, const char *adapter, float *out,
                         size_t count)
{
    const char *npy = scratch_path(state, "run.npy");
    struct outcome outcome = adapter ? run_program("lm", "--backbone", model, "--text", path, "--logprobs-out", npy,
                                                   "--quiet",
                                                   "--prefix-adapter", adapter, NULL)
                                     : run_program("lm", "--backbone", model, "--text", path, "--logprobs-out", npy,
                                                   "--quiet", NULL);
    struct npy got;
    char why[256];
    if (outcome.code) fail_msg("lm: %s", outcome.err);
    outcome_free(&outcome);
    assert_int_equal(npy_read(npy, 1, &got, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(got.size, count);
    memcpy(out, got.f32, count * sizeof *out);
    npy_free(&got);
}

/* DIR with the config and tensors. */
static const char *write_adapter(void *state, const char *name, const char *config, const struct tensor *tensors,
                                 size_t count)
{
    char file[64];
    const char *dir = scratch_path(state, name);
    assert_true(!mkdir(dir, 0700) || errno == EEXIST);
    snprintf(file, sizeof file, "%s/adapter_config.json", name);
    scratch_file(state, file, config);
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", name);
    FILE *stream = fopen(scratch_path(state, file), "w");
    assert_non_null(stream);
    assert_int_equal(tensors_write(stream, tensors, count, NULL), GSL_SUCCESS);
    assert_int_equal(fclose(stream), 0);
    return dir;
}

/* The keys and values of "hell<|s|>x", as a PEFT prefix, in front of "hello" are that text in front of it. */
static void test_prefix_adapter(void **state)
{
    const char *model;
    struct decoder *d = make_model(*state, &model);
    struct decoder_run *run;
    const int32_t ids[] = { 258, 259, 'x' };
    float table[3 * 2 * 2 * 2 * 8], whole[5], part[2];
    assert_int_equal(decoder_run_alloc(d, NULL, 3, 3, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids, 3, NULL), GSL_SUCCESS);
    for (size_t j = 0; j < 3; j++)
        for (size_t head = 0; head < 4; head++) {
            float *row = table + j * 64 + head / 2 * 32 + head % 2 * 8;
            memcpy(row, decoder_run_keys(run, head / 2, head % 2) + j * 8, 8 * sizeof *row);
            memcpy(row + 16, decoder_run_values(run, head / 2, head % 2) + j * 8, 8 * sizeof *row);
        }
    decoder_run_free(run);
    const struct tensor t = { (char *)"prompt_embeddings", 2, { 3, 64 }, table };
    const char *dir = write_adapter(*state, "peft", "{\"peft_type\":\"PREFIX_TUNING\",\"num_virtual_tokens\":3}", &t,
                                    1);
    run_logprobs(*state, model, scratch_file(*state, "whole.txt", "hell<|s|>xhello"), NULL, whole, 4);
    run_logprobs(*state, model, scratch_file(*state, "part.txt", "hello"), dir, part, 1);
    CHECK_CLOSE(part[0], whole[3], 0.0, 1e-4);
    /* The same keys without rotation are something else. */
    write_adapter(*state, "peft", "{\"peft_type\":\"PREFIX_TUNING\",\"prefix_ntk\":{\"rotation\":\"unrotated\"}}", &t,
                  1);
    run_logprobs(*state, model, scratch_path(*state, "part.txt"), dir, part, 1);
    assert_false(is_close(part[0], whole[3], 0.0, 1e-3));
    const struct tensor bad = { (char *)"prompt_embeddings", 2, { 6, 32 }, table };
    write_adapter(*state, "peft", "{\"peft_type\":\"PREFIX_TUNING\"}", &bad, 1);
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--generate", "1", "--prefix-adapter", dir, NULL), 3, "lm",
                  "adapter_model.safetensors: prompt_embeddings is not (prefix length, 64)");
    write_adapter(*state, "peft", "{\"peft_type\":\"LORA\"}", &t, 1);
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--generate", "1", "--prefix-adapter", dir, NULL), 3, "lm",
                  "adapter_config.json: peft_type");
    decoder_free(d);
}

/* A summary of zeros is no summary; one of block 1 is what the library makes of it. */
static void test_summary_adapter(void **state)
{
    const char *model, *text = scratch_file(*state, "s.txt", "hello");
    struct decoder *d = make_model(*state, &model);
    float Z[2 * 8 * 8] = { 0 }, k[2 * 8] = { 0 }, plain, got;
    const struct tensor tensors[] = { { (char *)"layer.1.Z", 3, { 2, 8, 8 }, Z },
                                      { (char *)"layer.1.k", 2, { 2, 8 }, k } };
    const char *config = "{\"peft_type\":\"NTK_ATTENTION\",\"prefix_ntk\":{\"feature\":\"elu1\",\"positions\":4}}";
    const char *dir = write_adapter(*state, "ntk", config, tensors, 2);
    run_logprobs(*state, model, text, NULL, &plain, 1);
    run_logprobs(*state, model, text, dir, &got, 1);
    CHECK_CLOSE(got, plain, 0.0, 1e-4);         /* the softmax does not see where positions start */
    for (size_t i = 0; i < 2 * 8 * 8; i++) Z[i] = 0.3f * (float)(i % 7) - 1.1f;
    for (size_t i = 0; i < 2 * 8; i++) k[i] = 0.2f + 0.1f * (float)(i % 3);
    write_adapter(*state, "ntk", config, tensors, 2);
    run_logprobs(*state, model, text, dir, &got, 1);
    feature_map *map;
    struct decoder_piece pieces[4] = { { 0 } };
    struct decoder_run *run;
    float hidden[2 * 32], logits[2 * 261];
    assert_int_equal(feature_parse("elu1", 8, 0.0, 1, NULL, &map), GSL_SUCCESS);
    for (size_t g = 0; g < 2; g++)
        pieces[2 + g] = (struct decoder_piece){ .map = map, .summaries = 1, .Z = Z + 64 * g, .k = k + 8 * g };
    const struct decoder_prefix prefix = { DECODER_ROTATED, 4, pieces };
    assert_int_equal(decoder_run_alloc(d, &prefix, 2, 2, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, (const int32_t[]){ 258, 'o' }, 2, hidden), GSL_SUCCESS);
    decoder_logits(d, hidden, 1, logits, 1);
    decoder_log_softmax(logits, 261);
    CHECK_CLOSE(got, logits['o'], 0.0, 1e-5);
    assert_false(is_close(got, plain, 0.0, 1e-3));
    decoder_run_free(run);
    feature_map_free(map);
    CHECK_REFUSAL(run_program("lm", "--backbone", model, "--generate", "1", "--prefix-adapter",
                              write_adapter(*state, "ntk", config, tensors, 1), NULL), 3, "lm",
                                  "layer.1.Z without layer.1.k");
    decoder_free(d);
}

/* The same model as a Hugging Face folder, queries and keys with halves as pairs: the same numbers. */
static void test_folder(void **state)
{
    const char *model, *text = scratch_file(*state, "f.txt", "hello hell\n"), *dir = scratch_path(*state, "llama");
    struct decoder *d = make_model(*state, &model);
    struct tensor list[20];
    char names[20][64];
    float pool[2][48 * 32];
    size_t count = 0;
    float *embed = (float *)d->embed, *norm = (float *)d->final_norm;
    list[count++] = (struct tensor){ (char *)"model.embed_tokens.weight", 2, { 261, 32 }, embed };
    list[count++] = (struct tensor){ (char *)"model.norm.weight", 1, { 32 }, norm };
    for (size_t layer = 0; layer < 2; layer++) {
        const struct decoder_layer *w = &d->layers[layer];
        /* Row i of a head's half h was row 2 i + h. */
        for (size_t row = 0; row < 48; row++) {
            const size_t head = row / 8, i = row % 8, from = head * 8 + i % 4 * 2 + i / 4;
            memcpy(pool[layer] + row * 32, w->qkv + from * 32, 32 * sizeof(float));
        }
        const struct { const char *name; const float *data; size_t rows, cols; } of_layer[] = {
            { "input_layernorm", w->norm1, 1, 32 }, { "post_attention_layernorm", w->norm2, 1, 32 },
            { "self_attn.q_proj", pool[layer], 32, 32 }, { "self_attn.k_proj", pool[layer] + 32 * 32, 16, 32 },
            { "self_attn.v_proj", w->qkv + 48 * 32, 16, 32 }, { "self_attn.o_proj", w->o, 32, 32 },
            { "mlp.gate_proj", w->gate_up, 48, 32 }, { "mlp.up_proj", w->gate_up + 48 * 32, 48, 32 },
            { "mlp.down_proj", w->down, 32, 48 },
        };
        for (size_t k = 0; k < 9; k++, count++) {
            const size_t rows = of_layer[k].rows, cols = of_layer[k].cols;
            snprintf(names[count], sizeof names[count], "model.layers.%zu.%s.weight", layer, of_layer[k].name);
            const size_t first = rows > 1 ? rows : cols;
            list[count] = (struct tensor){ names[count], rows > 1 ? 2 : 1, { first, cols },
                                           (float *)of_layer[k].data };
        }
    }
    write_adapter(*state, "llama", "{}", list, count);
    assert_int_equal(rename(scratch_path(*state, "llama/adapter_model.safetensors"),
                            scratch_path(*state, "llama/model.safetensors")), 0);
    scratch_file(*state, "llama/config.json",
                 "{\"model_type\":\"llama\",\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":2,"
                 "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":261,"
                 "\"max_position_embeddings\":96,"
                 "\"rms_norm_eps\":1e-5,\"rope_theta\":900.0,\"hidden_act\":\"silu\",\"bos_token_id\":259}");
    struct vocabulary v = vocabulary_make(merges, specials);
    json_t *vocab = json_object(), *pairs = json_array(), *added = json_array();
    for (size_t i = 0; i < 259; i++) json_object_set_new(vocab, v.tokens[i], json_integer((json_int_t)i));
    for (size_t i = 0; i < v.num_merges; i++) json_array_append_new(pairs, json_string(v.merges[i]));
    for (size_t i = 259; i < 261; i++)
        json_array_append_new(added, json_pack("{s:i,s:s}", "id", (int)i, "content", v.tokens[i]));
    json_t *root = json_pack("{s:{s:s,s:o,s:o},s:o,s:{s:s,s:[{s:s,s:b},{s:s,s:b}]}}", "model", "type", "BPE", "vocab",
                             vocab, "merges",
                             pairs, "added_tokens", added, "pre_tokenizer", "type", "Sequence", "pretokenizers", "type",
                             "Digits",
                             "individual_digits", 1, "type", "ByteLevel", "add_prefix_space", 0);
    assert_non_null(root);
    assert_int_equal(json_dump_file(root, scratch_path(*state, "llama/tokenizer.json"), 0), 0);
    json_decref(root);
    vocabulary_free(&v);
    float want[6], got[6];
    run_logprobs(*state, model, text, NULL, want, 4);
    run_logprobs(*state, dir, text, NULL, got, 4);
    for (size_t i = 0; i < 4; i++) CHECK_CLOSE(got[i], want[i], 0.0, 1e-5);
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
        cmocka_unit_test(test_prefix_adapter), cmocka_unit_test(test_summary_adapter),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
