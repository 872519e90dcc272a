/* WordPiece: the rules one by one on a small vocabulary, real vocabularies against stored ids (tests/golden). */
#include "data/folder.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "transformer/wordpiece.h"

#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LEN = 256 };

static char why[256];

/* Ids are line numbers: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, un 4, ##aff 5, ##able 6, ... */
static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##aff\n##able\naff\na\n##b\ncafe\n,"
    "\n.\n-\n$\n\xE4\xB8\xAD\n1\n##2\n\xE2\x80\x94\nnaive\n##a\nss\n'\n";
enum { UNK = 1, CLS, SEP, UN, AFF_IN, ABLE_IN, AFF, A, B_IN, CAFE, COMMA, DOT, DASH, DOLLAR, ZHONG, ONE, TWO_IN,
       EM_DASH, NAIVE, A_IN, SS, QUOTE };

static struct wordpiece *open_small(void *state, const char *text)
{
    struct wordpiece *w;
    if (wordpiece_open(scratch_file(state, "vocab.txt", text), &w, (struct reason){ why, sizeof why }))
        fail_msg("%s", why);
    return w;
}

static void test_rules(void **state)
{
    static const struct { const char *text; int ids[8]; } cases[] = {      /* without [CLS] and [SEP], ended by 0 */
        { "", { 0 } },
        { " \t\r\n\xC2\xA0\xE3\x80\x80", { 0 } },                           /* blanks: no-break, ideographic */
        { "un", { UN, 0 } },
        { "UNAFFABLE", { UN, AFF_IN, ABLE_IN, 0 } },                        /* lower case, longest pieces first */
        { "unable  un", { UN, ABLE_IN, UN, 0 } },
        { "unx", { UNK, 0 } },                                              /* one part unknown: the word is */
        { "xun a", { UNK, A, 0 } },
        { "caf\xC3\xA9 cafe\xCC\x81 CAF\xC3\x89", { CAFE, CAFE, CAFE, 0 } },  /* composed, combining, upper case */
        { "na\xC3\xAFve", { NAIVE, 0 } },
        { "a,un.-$", { A, COMMA, UN, DOT, DASH, DOLLAR, 0 } },              /* ASCII symbols count as punctuation */
        { "a\xE2\x80\x94" "a", { A, EM_DASH, A, 0 } },
        { "a\xE4\xB8\xAD" "a", { A, ZHONG, A, 0 } },                        /* CJK stands alone */
        { "12a", { ONE, TWO_IN, A_IN, 0 } },
        /* controls, soft hyphen: dropped, no blank */
        { "a\x01\x7F\xC2\xAD" "b", { A, B_IN, 0 } },
        { "a\xE2\x80\x8B" "b", { A, B_IN, 0 } },                            /* zero-width space: a format character */
        { "a\xEF\xBF\xBD" "b", { A, B_IN, 0 } },                            /* U+FFFD */
        { "a\xFF\xC0\xAF" "b", { A, B_IN, 0 } },                            /* bytes that are no UTF-8 */
        { "a\xED\xA0\x80" "b", { A, B_IN, 0 } },                            /* a surrogate */
        { "\xC3\x9F", { UNK, 0 } },                                         /* sharp s stays one letter */
        { "a'b", { A, QUOTE, UNK, 0 } },
    };
    struct wordpiece *w = open_small(*state, vocabulary);
    assert_int_equal(wordpiece_size(w), 23);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int32_t ids[MAX_LEN], types[MAX_LEN];
        size_t len, want = 0;
        assert_int_equal(wordpiece_encode(w, cases[c].text, NULL, MAX_LEN, ids, types, &len), GSL_SUCCESS);
        while (cases[c].ids[want]) want++;
        if (len != want + 2) fail_msg("case %zu: %zu tokens", c, len);
        assert_int_equal(ids[0], CLS);
        assert_int_equal(ids[len - 1], SEP);
        for (size_t i = 0; i < want; i++)
            if (ids[1 + i] != cases[c].ids[i]) fail_msg("case %zu: token %zu is %d", c, i, ids[1 + i]);
        for (size_t i = 0; i < len; i++) assert_int_equal(types[i], 0);
    }
    wordpiece_free(w);
    wordpiece_free(NULL);
}

/* A word of 100 characters is split, one of 101 is unknown. */
static void test_long_words(void **state)
{
    struct wordpiece *w = open_small(*state, "[UNK]\n[CLS]\n[SEP]\na\n##a\n");
    for (size_t chars = 99; chars <= 101; chars++) {
        char text[128];
        int32_t ids[MAX_LEN];
        size_t len;
        memset(text, 'a', chars);
        text[chars] = '\0';
        assert_int_equal(wordpiece_encode(w, text, NULL, MAX_LEN, ids, NULL, &len), GSL_SUCCESS);
        assert_int_equal(len, chars > 100 ? 3 : chars + 2);
        if (chars > 100) assert_int_equal(ids[1], 0);
    }
    wordpiece_free(w);
}

/* Pairs and cuts, for both kinds of specials. */
static void test_pairs(void **state)
{
    struct wordpiece *bert = open_small(*state, vocabulary);
    int32_t ids[MAX_LEN], types[MAX_LEN];
    size_t len;
    assert_int_equal(wordpiece_encode(bert, "a un", "cafe", MAX_LEN, ids, types, &len), GSL_SUCCESS);
    const int32_t pair[] = { CLS, A, UN, SEP, CAFE, SEP }, pair_types[] = { 0, 0, 0, 0, 1, 1 };
    assert_int_equal(len, 6);
    assert_memory_equal(ids, pair, sizeof pair);
    assert_memory_equal(types, pair_types, sizeof pair_types);
    /* The longer text loses its end first; of equal ones the first does. */
    assert_int_equal(wordpiece_encode(bert, "a un cafe", "1 12 a a a", 7, ids, types, &len), GSL_SUCCESS);
    const int32_t cut[] = { CLS, A, UN, SEP, ONE, ONE, SEP };
    assert_int_equal(len, 7);
    assert_memory_equal(ids, cut, sizeof cut);
    assert_int_equal(wordpiece_encode(bert, "a un cafe", NULL, 3, ids, NULL, &len), GSL_SUCCESS);
    assert_int_equal(len, 3);
    assert_int_equal(ids[1], A);
    assert_int_equal(wordpiece_encode(bert, "a", NULL, 2, ids, NULL, &len), GSL_EINVAL);
    assert_int_equal(wordpiece_encode(bert, "a", "a", 4, ids, NULL, &len), GSL_EINVAL);
    wordpiece_free(bert);

    /* MPNet's vocabulary has BERT's specials as well. */
    struct wordpiece *mpnet = open_small(*state, "<s>\n<pad>\n</s>\n<unk>\n[UNK]\na\nun\n[CLS]\n[SEP]\n");
    assert_int_equal(wordpiece_encode(mpnet, "a zz", "un", MAX_LEN, ids, types, &len), GSL_SUCCESS);
    const int32_t want[] = { 0, 5, 4, 2, 2, 6, 2 };
    assert_int_equal(len, 7);
    assert_memory_equal(ids, want, sizeof want);
    for (size_t i = 0; i < len; i++) assert_int_equal(types[i], 0);
    assert_int_equal(wordpiece_encode(mpnet, "a", "a", 5, ids, NULL, &len), GSL_EINVAL);
    wordpiece_free(mpnet);
}

static void refuses(const char *path, int code, const char *says)
{
    struct wordpiece *w = NULL;
    why[0] = '\0';
    assert_int_equal(wordpiece_open(path, &w, (struct reason){ why, sizeof why }), code);
    assert_null(w);
    if (!strstr(why, says) || strchr(why, '\n')) fail_msg("expected '%s' in one line, not '%s'", says, why);
}

static void test_refuses(void **state)
{
    refuses(scratch_file(*state, "vocab.txt", ""), GSL_EINVAL, "[CLS]");
    refuses(scratch_file(*state, "vocab.txt", "a\nb\nc\n"), GSL_EINVAL, "[CLS]");
    refuses(scratch_file(*state, "vocab.txt", "[CLS]\n[SEP]\na\n"), GSL_EINVAL, "[UNK]");
    refuses(scratch_file(*state, "vocab.txt", "[CLS]\n[SEP]\n[UNK]\na\nb\na\n"), GSL_EINVAL, "line 6: token a");
    const char *path = scratch_path(*state, "zero.txt");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite("[CLS]\n[SEP]\0\n[UNK]\n", 1, 19, file);
    fclose(file);
    refuses(path, GSL_EINVAL, "not a text file");
    refuses(scratch_path(*state, "missing"), GSL_EFAILED, "No such file");
    refuses(scratch_path(*state, "."), GSL_EFAILED, "directory");
    /* Lines may end in CR LF, the last one in nothing. */
    struct wordpiece *w = open_small(*state, "[CLS]\r\n[SEP]\r\n[UNK]\r\na");
    int32_t ids[3];
    size_t len;
    assert_int_equal(wordpiece_encode(w, "a", NULL, 3, ids, NULL, &len), GSL_SUCCESS);
    assert_int_equal(ids[1], 3);
    wordpiece_free(w);
}

/* Every stored text of `name` to the stored ids; a planted difference is seen. */
static void check_golden(const char *backbone, const char *name)
{
    char folder[PATH_MAX], path[PATH_MAX + 32];
    data_folder(backbone, folder);
    snprintf(path, sizeof path, "%s/vocab.txt", folder);
    if (access(path, R_OK)) {
        printf("skipped: %s is not in the cache\n", backbone);
        skip();
    }
    struct wordpiece *w;
    if (wordpiece_open(path, &w, (struct reason){ why, sizeof why })) fail_msg("%s", why);
    snprintf(path, sizeof path, "tests/golden/%s.json", name);
    json_t *root = json_load_file(path, 0, NULL), *cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) > 0);
    size_t c, i;
    json_t *item, *id;
    json_array_foreach(cases, c, item) {
        int32_t ids[MAX_LEN], types[MAX_LEN];
        size_t len;
        const json_t *want = json_object_get(item, "ids"), *want_types = json_object_get(item, "token_type");
        /* A pair is a list of two, or text and text2. */
        const json_t *first = json_object_get(item, "text"), *second = json_object_get(item, "text2");
        if (json_is_array(first)) {
            second = json_array_get(first, 1);
            first = json_array_get(first, 0);
        }
        const char *text = json_string_value(first), *text2 = json_string_value(second);
        assert_non_null(text);
        assert_int_equal(wordpiece_encode(w, text, text2, MAX_LEN, ids, types, &len), GSL_SUCCESS);
        if (len != json_array_size(want)) fail_msg("%s: %zu tokens for %zu", text, len, json_array_size(want));
        json_array_foreach((json_t *)(uintptr_t)want, i, id)
            if (json_integer_value(id) != ids[i]) fail_msg("%s: token %zu is %d", text, i, ids[i]);
        json_array_foreach((json_t *)(uintptr_t)want_types, i, id) assert_int_equal(json_integer_value(id), types[i]);
    }
    json_decref(root);
    wordpiece_free(w);
}

/* The ids that belong to stored hidden states, too. */
static void test_states(void **state)
{
    (void)state;
    check_golden("minilm", "minilm");
    check_golden("mpnet-base", "mpnet_base");
}

static void test_minilm(void **state) { (void)state; check_golden("minilm", "wordpiece"); }
static void test_mpnet(void **state) { (void)state; check_golden("mpnet-base", "wordpiece_mpnet"); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules), cmocka_unit_test(test_long_words), cmocka_unit_test(test_pairs),
            cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_minilm), cmocka_unit_test(test_mpnet), cmocka_unit_test(test_states),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
