/* Byte-level BPE: the pre-tokeniser's rule, merges by rank, special tokens, bytes back. */
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"
#include "tests/support/scratch.h"
#include "transformer/bpe.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char why[256];
static const struct reason reason = { why, sizeof why };

/* U+0120 is a space, U+010A a newline. */
#define SPACE "\xc4\xa0"
static const char *const merges[] = { "l l", "h e", "ll o", "he llo", SPACE " " SPACE, SPACE " w", "' s", "a a", "1 2",
                                      "aa aa", NULL };
static const char *const specials[] = { "<|s|>", "<|s|>x", "<|e|>", NULL };

static struct bpe *make(int split_digits)
{
    struct vocabulary v = vocabulary_make(merges, specials);
    struct gguf_text *tokens = calloc(v.num_tokens, sizeof *tokens), *pairs = calloc(v.num_merges, sizeof *pairs);
    unsigned char *special = calloc(v.num_tokens, 1);
    assert_true(tokens && pairs && special);
    for (size_t i = 0; i < v.num_tokens; i++) {
        tokens[i] = (struct gguf_text){ v.tokens[i], strlen(v.tokens[i]) };
        special[i] = v.types[i] == 3;
    }
    for (size_t i = 0; i < v.num_merges; i++) pairs[i] = (struct gguf_text){ v.merges[i], strlen(v.merges[i]) };
    struct bpe *bpe;
    const struct bpe_source source = { tokens, pairs, special, v.num_tokens, v.num_merges, split_digits };
    assert_int_equal(bpe_alloc(&source, &bpe, reason), GSL_SUCCESS);
    free(tokens);
    free(pairs);
    free(special);
    vocabulary_free(&v);
    return bpe;
}

/* The bytes of the tokens of `text`, joined by '|'. */
static char *cut(const struct bpe *bpe, const char *text)
{
    int32_t *ids;
    size_t count, len, at = 0;
    assert_int_equal(bpe_encode(bpe, text, strlen(text), &ids, &count, reason), GSL_SUCCESS);
    char *out = calloc(2 * strlen(text) + 2, 1);
    assert_non_null(out);
    for (size_t i = 0; i < count; i++) {
        const char *bytes = bpe_bytes(bpe, ids[i], &len);
        if (i) out[at++] = '|';
        memcpy(out + at, bytes, len);
        at += len;
    }
    free(ids);
    return out;
}

static void check_cut(const struct bpe *bpe, const char *text, const char *wanted)
{
    char *got = cut(bpe, text);
    if (strcmp(got, wanted)) fail_msg("'%s' gave '%s' where '%s' is wanted", text, got, wanted);
    free(got);
}

/* Ranks decide, not lengths or places: "ll" before "he", "he llo" last. */
static void test_merges(void **state)
{
    (void)state;
    struct bpe *bpe = make(0);
    check_cut(bpe, "hello", "hello");
    check_cut(bpe, "hellhe", "he|ll|he");
    check_cut(bpe, "lllo", "ll|l|o");
    check_cut(bpe, "aaaaa", "aaaa|a");
    check_cut(bpe, "aaaaaaa", "aaaa|aa|a");
    check_cut(bpe, "", "");
    bpe_free(bpe);
    bpe_free(NULL);
}

static void test_pieces(void **state)
{
    (void)state;
    struct bpe *bpe = make(0), *digits = make(1);
    /* A space goes with the word behind it; of several the last. */
    check_cut(bpe, "a wo", "a| w|o");
    check_cut(bpe, "a   wo", "a|  | w|o");
    check_cut(bpe, "a\n wo", "a|\n| w|o");
    check_cut(bpe, "a  ", "a|  ");
    /* An ending is a piece only after a word, and so is 's in front. */
    check_cut(bpe, "a's", "a|'s");
    check_cut(bpe, "'sa", "'s|a");
    /* Letters, numerics and others do not merge with each other. */
    check_cut(bpe, "aa12aa", "aa|12|aa");
    check_cut(digits, "aa12aa", "aa|1|2|aa");
    check_cut(digits, "a  1", "a|  |1");
    check_cut(bpe, "he,ll", "he|,|ll");
    /* U+3000 is a space, U+00B2 numeric, U+0301 neither letter nor space. */
    check_cut(bpe, "aa\xe3\x80\x80" "aa", "aa|\xe3|\x80|\x80|aa");
    check_cut(digits, "aa\xc2\xb2" "aa", "aa|\xc2|\xb2|aa");
    check_cut(bpe, "aa\xcc\x81" "aa", "aa|\xcc|\x81|aa");
    bpe_free(digits);
    bpe_free(bpe);
}

static void test_special(void **state)
{
    (void)state;
    struct bpe *bpe = make(0);
    check_cut(bpe, "he<|s|>llo<|e|>", "he|<|s|>|llo|<|e|>");
    check_cut(bpe, "<|s|>xhe", "<|s|>x|he");
    int32_t *ids;
    size_t count;
    assert_int_equal(bpe_encode(bpe, "he<|s|>", 7, &ids, &count, reason), GSL_SUCCESS);
    assert_int_equal(count, 2);
    assert_int_equal(ids[1], bpe_find(bpe, "<|s|>"));
    assert_true(bpe_is_special(bpe, ids[1]));
    assert_false(bpe_is_special(bpe, ids[0]));
    assert_int_equal(bpe_find(bpe, "nothing"), -1);
    free(ids);
    bpe_free(bpe);
}

/* Tokens give back the bytes of any text; a long run is merged in time. */
static void test_round_trip(void **state)
{
    (void)state;
    struct bpe *bpe = make(1);
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE + 1), *back = malloc(SIZE + 1);
    assert_true(text && back);
    for (size_t i = 0; i < SIZE; i++) text[i] = i < SIZE / 2 ? 'a' : (char)(1 + i * 7 % 127);
    int32_t *ids;
    size_t count, len, at = 0;
    assert_int_equal(bpe_encode(bpe, text, SIZE, &ids, &count, reason), GSL_SUCCESS);
    for (size_t i = 0; i < count; i++) {
        const char *bytes = bpe_bytes(bpe, ids[i], &len);
        assert_true(at + len <= SIZE);
        memcpy(back + at, bytes, len);
        at += len;
    }
    assert_int_equal(at, SIZE);
    assert_memory_equal(text, back, SIZE);
    free(ids);
    free(text);
    free(back);
    bpe_free(bpe);
}

static void refuses_source(const char *const *tokens, const char *const *pairs, const char *says)
{
    struct gguf_text token[8], pair[8];
    static const unsigned char special[8];
    struct bpe_source source = { token, pair, special, 0, 0, 0 };
    for (; tokens[source.num_tokens]; source.num_tokens++)
        token[source.num_tokens] = (struct gguf_text){ tokens[source.num_tokens], strlen(tokens[source.num_tokens]) };
    for (; pairs[source.num_merges]; source.num_merges++)
        pair[source.num_merges] = (struct gguf_text){ pairs[source.num_merges], strlen(pairs[source.num_merges]) };
    struct bpe *bpe;
    assert_int_equal(bpe_alloc(&source, &bpe, reason), GSL_EINVAL);
    assert_null(bpe);
    if (!strstr(why, says)) fail_msg("expected '%s' in '%s'", says, why);
}

static void test_refuses(void **state)
{
    static const char *const none[] = { NULL };
    refuses_source(none, none, "0 tokens");
    refuses_source((const char *const[]){ "a", "b", "a", NULL }, none, "the same");
    refuses_source((const char *const[]){ "a", "", NULL }, none, "empty");
    refuses_source((const char *const[]){ "a", "\xe3\x80\x80", NULL }, none, "spells no bytes");
    refuses_source((const char *const[]){ "a", "b", NULL }, (const char *const[]){ "a b", NULL }, "merge 0 names");
    refuses_source((const char *const[]){ "a", "b", "ab", NULL }, (const char *const[]){ "ab", NULL }, "not of two");
    struct bpe *bpe = make(0);
    int32_t *ids;
    size_t count;
    assert_int_equal(bpe_encode(bpe, "ab\xff", 3, &ids, &count, reason), GSL_EINVAL);
    assert_string_equal(why, "not UTF-8 at byte 2");
    bpe_free(bpe);
    assert_int_equal(bpe_from_json(scratch_path(*state, "missing.json"), &bpe, reason), GSL_EFAILED);
    static const char *const bad[] = { "{", "{}", "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}",
                                       "{\"model\":{\"vocab\":{\"a\":1},\"merges\":[]},"
                                       "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(bpe_from_json(scratch_file(*state, "bad.json", bad[i]), &bpe, reason), GSL_EINVAL);
}

static void test_json(void **state)
{
    static const char good[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":2,\"ab\":1,\"1\":3},\"merges\":[[\"a\",\"b\"]]},"
        "\"normalizer\":null,"
        "\"added_tokens\":[{\"id\":4,\"content\":\"<|e|>\"}],"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}}";
    struct bpe *bpe;
    assert_int_equal(bpe_from_json(scratch_file(*state, "good.json", good), &bpe, reason), GSL_SUCCESS);
    assert_int_equal(bpe_size(bpe), 5);
    check_cut(bpe, "abab<|e|>11", "ab|ab|<|e|>|1|1");
    /* A byte that is no token is left out. */
    check_cut(bpe, "acb", "ab");
    bpe_free(bpe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges), cmocka_unit_test(test_pieces), cmocka_unit_test(test_special),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses), cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
