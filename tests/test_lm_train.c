/* Tasks for a decoder: what is read and learned, evaluation against reading token by token, answers decoded, cached
 * blocks, a training that resumes. */
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"
#include "tests/support/scratch.h"
#include "transformer/lm_train.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Float32 through two blocks. */
static const double RTOL_ROUNDOFF = 2e-5;
enum { COUNT = 4, VOCAB = 261 };

/* A model of 261 tokens, read from its file so that it has tokens. */
static struct decoder *open_decoder(void **state)
{
    const char *path = scratch_path(*state, "tiny.gguf");
    struct decoder *d;
    char line[200] = "";
    decoder_free(gguf_tiny_model(path));
    if (decoder_open(path, NULL, &d, (struct reason){ line, sizeof line })) fail_msg("%s", line);
    return d;
}

static char *texts[COUNT] = { "hello", "one and one", "hell", "o" }, *answers[COUNT] = { "12", "7", "hello 3",
    "#### 40" };
static char *class_names[] = { "no", "yes" }, *alike[] = { "yes", "yellow" };
static int32_t labels[COUNT] = { 0, 1, 1, 0 }, zeros[COUNT] = { 0, 0, 0, 0 };

/* Every split has the same examples. */
static struct task make_task(int wants_answers)
{
    struct task t = { .name = "own", .modality = TASK_TEXT, .answers = wants_answers,
                      .num_classes = wants_answers ? 1 : 2, .class_names = class_names };
    for (int s = 0; s < NUM_TASK_SPLITS; s++)
        t.sets[s] = (struct task_set){ .count = COUNT, .labels = wants_answers ? zeros : labels, .texts = texts,
                                       .texts2 = wants_answers ? answers : NULL };
    return t;
}

static struct lm_inputs *make_inputs(const struct decoder *d, const struct task *t, size_t max_len, int classifier)
{
    char line[200] = "";
    struct lm_inputs *in;
    if (lm_inputs_alloc(d, t, max_len, classifier, &in, (struct reason){ line, sizeof line })) fail_msg("%s", line);
    return in;
}

static struct decoder_model *make_model(const struct decoder *d, const struct adapter_options *a,
                                        const struct lm_inputs *in)
{
    char line[200] = "";
    struct decoder_model *m;
    const struct decoder_model_options o = { *a, DECODER_ROTATED, lm_inputs_num_classes(in), 5, 0 };
    if (decoder_model_alloc(d, &o, &m, (struct reason){ line, sizeof line })) fail_msg("%s", line);
    return m;
}

/* log p(token | those before) at the end of `text`, which the decoder reads whole. */
static double log_prob(const struct decoder *d, const char *text, size_t skip, int32_t token)
{
    int32_t *ids;
    size_t n;
    char line[200];
    float logits[VOCAB], *hidden;
    struct decoder_run *run;
    assert_int_equal(bpe_encode(d->bpe, text, strlen(text), &ids, &n, (struct reason){ line, sizeof line }),
                     GSL_SUCCESS);
    hidden = malloc(n * d->config.hidden * sizeof *hidden);
    assert_int_equal(decoder_run_alloc(d, NULL, n, n, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, ids + skip, n - skip, hidden), GSL_SUCCESS);
    decoder_logits(d, hidden + (n - skip - 1) * d->config.hidden, 1, logits, 1);
    decoder_log_softmax(logits, VOCAB);
    decoder_run_free(run);
    free(hidden);
    free(ids);
    return (double)logits[token];
}

static void evaluate_all(struct decoder_model *m, struct lm_inputs *in, struct evaluation *e, int32_t predicted[COUNT])
{
    assert_int_equal(lm_reserve(m, in, 3, 0, 1), GSL_SUCCESS);
    assert_int_equal(lm_evaluate(m, in, TASK_TEST, 3, e, predicted), GSL_SUCCESS);
    assert_int_equal(e->count, COUNT);
}

/* The loss of answers is that of " ANSWER" and the end token behind "Question: TEXT\nAnswer:". */
static void test_answers(void **state)
{
    struct decoder *d = open_decoder(state);
    const struct task t = make_task(1);
    struct lm_inputs *in = make_inputs(d, &t, 64, 0);
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    struct decoder_model *m = make_model(d, &head, in);
    struct evaluation e;
    int32_t predicted[COUNT];
    evaluate_all(m, in, &e, predicted);
    double sum = 0.0;
    size_t learned = 0;
    for (size_t i = 0; i < COUNT; i++) {
        int32_t *ids;
        size_t n;
        char line[200], text[200], word[32];
        snprintf(word, sizeof word, " %s", answers[i]);
        snprintf(text, sizeof text, "Question: %s\nAnswer:", texts[i]);
        assert_int_equal(bpe_encode(d->bpe, word, strlen(word), &ids, &n, (struct reason){ line, sizeof line }),
                         GSL_SUCCESS);
        for (size_t k = 0; k <= n; k++) {
            sum -= log_prob(d, text, 0, k < n ? ids[k] : d->eos);
            learned++;
            size_t len;
            const char *bytes = k < n ? bpe_bytes(d->bpe, ids[k], &len) : NULL;
            if (bytes) strncat(text, bytes, len);
        }
        free(ids);
    }
    CHECK_CLOSE(e.loss, sum / (double)learned, RTOL_ROUNDOFF, 0.0);
    decoder_model_free(m);
    lm_inputs_free(in);
    decoder_free(d);
}

/* Classes: the loss of the first token of " CLASS", the likelier of which is predicted; a text cut to its last
 * tokens. */
static void test_classes(void **state)
{
    struct decoder *d = open_decoder(state);
    const struct task t = make_task(0);
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    /* " no" and " yes" begin with a blank: of these merges a token of its own, the same for both. */
    char line[200] = "";
    struct lm_inputs *in;
    assert_int_equal(lm_inputs_alloc(d, &t, 64, 0, &in, (struct reason){ line, sizeof line }), GSL_EINVAL);
    assert_non_null(strstr(line, "one token"));
    in = make_inputs(d, &t, 64, 1);
    assert_int_equal(lm_inputs_num_classes(in), 2);
    struct decoder_model *m = make_model(d, &head, in);
    struct evaluation e;
    int32_t predicted[COUNT];
    evaluate_all(m, in, &e, predicted);
    double right = 0.0;
    for (size_t i = 0; i < COUNT; i++) right += predicted[i] == labels[i];
    CHECK_CLOSE(e.accuracy, right / COUNT, 0.0, 0.0);
    CHECK_CLOSE(e.loss, log(2.0), 0.2, 0.0);
    decoder_model_free(m);
    lm_inputs_free(in);
    decoder_free(d);
}

/* A text of more than max_len tokens loses its first ones. */
static void test_long_texts(void **state)
{
    enum { MAX = 12 };
    struct decoder *d = open_decoder(state);
    struct task t = make_task(1);
    char *one[] = { "a" }, *answer[] = { "7" };
    for (int s = 0; s < NUM_TASK_SPLITS; s++) t.sets[s] = (struct task_set){ 1, zeros, one, answer, NULL };
    struct lm_inputs *in = make_inputs(d, &t, MAX, 0);
    assert_int_equal(lm_inputs_max_len(in), MAX);
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    struct decoder_model *m = make_model(d, &head, in);
    struct evaluation e;
    assert_int_equal(lm_reserve(m, in, 1, 0, 1), GSL_SUCCESS);
    assert_int_equal(lm_evaluate(m, in, TASK_TEST, 1, &e, NULL), GSL_SUCCESS);
    /* "Question: a\nAnswer: 7" has 21 tokens, of which the last 12 are read and the end is learned behind them. */
    const double want = log_prob(d, "Question: a\nAnswer:", 9, ' ') + log_prob(d, "Question: a\nAnswer: ", 9, '7') +
                        log_prob(d, "Question: a\nAnswer: 7", 9, d->eos);
    CHECK_CLOSE(e.loss, -want / 3.0, RTOL_ROUNDOFF, 0.0);
    decoder_model_free(m);
    lm_inputs_free(in);
    decoder_free(d);
}

static struct train_options fast(void)
{
    struct train_options o = train_defaults(ADAPTER_LORA);
    o.lr = o.head_lr = 0.01;
    o.epochs = 120;
    o.batch = 3;
    o.seed = 9;
    o.weight_decay = 0.0;
    o.eval_every = 20;
    return o;
}

/* Trained to know its answers, the model writes them: what evaluation counts right is what decoding finds. */
static void test_decode(void **state)
{
    struct decoder *d = open_decoder(state);
    const struct task t = make_task(1);
    struct lm_inputs *in = make_inputs(d, &t, 64, 0);
    char line[200];
    for (int method = 0; method < 3; method++) {
        struct adapter_options o = adapter_defaults((enum adapter_method[]){ ADAPTER_LORA, ADAPTER_NTK,
                                                    ADAPTER_PTUNING }[method]);
        o.targets = 63;
        struct decoder_model *m = make_model(d, &o, in);
        struct train *train;
        const struct train_options options = fast();
        assert_int_equal(lm_train_alloc(m, in, &options, &train, (struct reason){ line, sizeof line }), GSL_SUCCESS);
        const struct curve_row *rows;
        while (!train_done(train)) assert_int_equal(train_step(train), GSL_SUCCESS);
        const size_t n = train_curve(train, &rows);
        assert_true(rows[n - 1].val_loss < (method ? 0.98 : 0.1) * rows[0].val_loss);
        struct evaluation e;
        int32_t predicted[COUNT], right[COUNT];
        assert_int_equal(lm_evaluate(m, in, TASK_TEST, 3, &e, predicted), GSL_SUCCESS);
        assert_int_equal(lm_decode(m, in, TASK_TEST, 12, right, 1), GSL_SUCCESS);
        for (size_t i = 0; i < COUNT; i++) assert_true(right[i] >= predicted[i]);
        if (!method) CHECK_CLOSE(e.accuracy, 1.0, 0.0, 0.0);
        train_free(train);
        decoder_model_free(m);
    }
    lm_inputs_free(in);
    decoder_free(d);
}

/* Law: from cached lower blocks a training takes the same steps, up to rounding (products of other shapes); saved and
 * loaded it goes on bit for bit. */
static void test_cache_and_state(void **state)
{
    struct decoder *d = open_decoder(state);
    const struct task t = make_task(1);
    char line[200];
    struct adapter_options o = adapter_defaults(ADAPTER_LORA);
    o.first_layer = 1;
    double loss[3];
    FILE *saved = tmpfile();
    assert_non_null(saved);
    for (int kind = 0; kind < 3; kind++) {
        struct lm_inputs *in = make_inputs(d, &t, 64, 0);
        struct decoder_model *m = make_model(d, &o, in);
        struct train_options options = fast();
        options.cache_bytes = kind == 1 ? 0 : (size_t)1 << 30;
        struct train *train;
        assert_int_equal(lm_train_alloc(m, in, &options, &train, (struct reason){ line, sizeof line }), GSL_SUCCESS);
        if (kind == 2) {
            rewind(saved);
            assert_int_equal(train_load(train, saved), GSL_SUCCESS);
            assert_int_equal(train_steps_done(train), 5);
        }
        while (train_steps_done(train) < 10) {
            assert_int_equal(train_step(train), GSL_SUCCESS);
            if (kind == 0 && train_steps_done(train) == 5) assert_int_equal(train_save(train, saved), GSL_SUCCESS);
        }
        loss[kind] = train_last_loss(train);
        train_free(train);
        decoder_model_free(m);
        lm_inputs_free(in);
    }
    fclose(saved);
    CHECK_CLOSE(loss[1], loss[0], RTOL_ROUNDOFF, 0.0);
    CHECK_SAME_BITS(&loss[2], &loss[0], 1);
    decoder_free(d);
}

static void test_refusals(void **state)
{
    struct decoder *d = open_decoder(state);
    char line[200] = "";
    const struct reason why = { line, sizeof line };
    struct lm_inputs *in;
    struct task t = make_task(1);
    assert_int_equal(lm_inputs_alloc(d, &t, 97, 0, &in, why), GSL_EINVAL);
    assert_int_equal(lm_inputs_alloc(d, &t, 2, 0, &in, why), GSL_EINVAL);
    assert_int_equal(lm_inputs_alloc(d, &t, 64, 1, &in, why), GSL_EINVAL);
    t.modality = TASK_IMAGE;
    assert_int_equal(lm_inputs_alloc(d, &t, 64, 0, &in, why), GSL_EINVAL);
    t = make_task(0);
    t.class_names = alike;
    assert_int_equal(lm_inputs_alloc(d, &t, 64, 0, &in, why), GSL_EINVAL);
    in = make_inputs(d, &t, 64, 1);
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    struct decoder_model *m = make_model(d, &head, in);
    int32_t right[COUNT];
    assert_int_equal(lm_decode(m, in, TASK_TEST, 4, right, 1), GSL_EINVAL);
    decoder_model_free(m);
    lm_inputs_free(in);
    struct decoder_config config = d->config;
    struct decoder *bare;
    assert_int_equal(decoder_random(&config, 1.0, 1, &bare), GSL_SUCCESS);
    assert_int_equal(lm_inputs_alloc(bare, &t, 64, 0, &in, why), GSL_EINVAL);
    decoder_free(bare);
    decoder_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_cache_and_state),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
