/* Training: resumed, on any threads, with and without the cache, it gives the same bits. */
#include "tests/support/check.h"

#include "transformer/train.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char line[512];
static const struct reason why = { line, sizeof line };

/* 50 examples for all tests: drawing them takes longer than a training. */
static struct task *shapes;

static int open_shapes(void **state)
{
    (void)state;
    const struct task_options to = { .train_size = 50, .validation_size = 20, .test_size = 20, .seed = 1 };
    return task_open("shapes", &to, &shapes, why);
}

static int close_shapes(void **state)
{
    (void)state;
    task_free(shapes);
    return 0;
}

/* A tiny ViT on them. */
struct setting {
    struct backbone *backbone;
    struct task *task;
    struct inputs *inputs;
    struct model *model;
    struct train_options options;
};

static struct setting make(enum adapter_method method, int first_layer)
{
    const struct backbone_config c = { .kind = BACKBONE_VIT, .hidden = 12, .num_layers = 2, .num_heads = 3,
                                       .mlp_dim = 20, .norm_eps = 1e-5, .pre_norm = 1,
                                       .image_size = 28, .patch_size = 7, .channels = 1, .position_grid = 4,
                                       .mean = { 0.25f }, .std = { 0.5f },
                                       .default_last_layer = 1 };
    const struct inputs_options io = { 0, 0 };
    struct setting s;
    assert_int_equal(backbone_random(&c, 0.3, 7, &s.backbone), GSL_SUCCESS);
    s.task = shapes;
    if (inputs_alloc(s.backbone, s.task, &io, &s.inputs, why)) fail_msg("%s", line);
    struct adapter_options a = adapter_defaults(method);
    a.first_layer = first_layer;
    if (model_alloc(s.backbone, &a, s.task->num_classes, POOL_CLS, 0, 5, &s.model, why)) fail_msg("%s", line);
    s.options = train_defaults(method);
    s.options.epochs = 3;
    s.options.batch = 8;
    s.options.seed = 9;
    return s;
}

static void release(struct setting *s)
{
    model_free(s->model);
    inputs_free(s->inputs);
    backbone_free(s->backbone);
}

static struct train *begin(struct setting *s)
{
    struct train *t;
    if (train_alloc(s->model, s->inputs, &s->options, &t, why)) fail_msg("%s", line);
    return t;
}

static void go(struct train *t, size_t steps)
{
    for (size_t i = 0; i < steps && !train_done(t); i++) assert_int_equal(train_step(t), GSL_SUCCESS);
}

/* Parameters and curve (but times) are the same bits. */
static void check_same(struct setting *a, struct train *t, struct setting *b, struct train *u)
{
    const struct curve_row *x, *y;
    const size_t n = train_curve(t, &x);
    assert_int_equal(train_curve(u, &y), n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(x[i].step, y[i].step);
        assert_memory_equal(&x[i].train_loss, &y[i].train_loss, 3 * sizeof(double));
    }
    assert_int_equal(model_num_parameters(a->model), model_num_parameters(b->model));
    for (size_t i = 0; i < model_num_parameters(a->model); i++) {
        const struct parameter *p = &model_parameters(a->model)[i], *q = &model_parameters(b->model)[i];
        assert_memory_equal(p->value, q->value, p->rows * p->cols * sizeof(float));
    }
}

/* Stopped after any step, saved, and taken up by a fresh training. */
static void test_resume(void **state)
{
    (void)state;
    static const enum adapter_method methods[] = { ADAPTER_FULL, ADAPTER_NTK, ADAPTER_LORA };
    /* within an epoch, at its end, the last but one, the last */
    static const size_t stops[] = { 0, 3, 7, 20, 21 };
    for (size_t k = 0; k < 3; k++) {
        struct setting whole = make(methods[k], ADAPTER_LAYER_DEFAULT);
        whole.options.keep_best = k == 1;
        struct train *t = begin(&whole);
        assert_int_equal(train_num_steps(t), 21);
        go(t, 21);
        assert_true(train_done(t));
        train_finish(t);
        for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
            struct setting first = make(methods[k], ADAPTER_LAYER_DEFAULT),
                second = make(methods[k], ADAPTER_LAYER_DEFAULT);
            first.options.keep_best = second.options.keep_best = k == 1;
            struct train *a = begin(&first), *b = begin(&second);
            FILE *file = tmpfile();
            assert_non_null(file);
            go(a, stops[i]);
            assert_int_equal(train_save(a, file), GSL_SUCCESS);
            train_free(a);
            rewind(file);
            assert_int_equal(train_load(b, file), GSL_SUCCESS);
            assert_int_equal(train_steps_done(b), stops[i]);
            fclose(file);
            go(b, 21);
            train_finish(b);
            check_same(&whole, t, &second, b);
            train_free(b);
            release(&first);
            release(&second);
        }
        train_free(t);
        release(&whole);
    }
}

/* A state cut short, with a flipped bit, or of another training leaves the training as it was. */
static void test_bad_state(void **state)
{
    (void)state;
    struct setting s = make(ADAPTER_LORA, ADAPTER_LAYER_DEFAULT), other = make(ADAPTER_NTK, ADAPTER_LAYER_DEFAULT),
                   untouched = make(ADAPTER_LORA, ADAPTER_LAYER_DEFAULT);
    struct train *t = begin(&s), *u = begin(&other), *v = begin(&untouched);
    char *bytes;
    size_t size;
    FILE *file = open_memstream(&bytes, &size);
    go(t, 4);
    assert_int_equal(train_save(t, file), GSL_SUCCESS);
    fclose(file);
    for (size_t cut = 0; cut < size; cut += size / 9 + 1) {
        file = tmpfile();
        assert_int_equal(fwrite(bytes, 1, cut, file), cut);
        rewind(file);
        assert_int_equal(train_load(v, file), GSL_EINVAL);
        fclose(file);
    }
    for (size_t at = 0; at < size; at += size / 9 + 1) {
        file = tmpfile();
        bytes[at] ^= 4;
        assert_int_equal(fwrite(bytes, 1, size, file), size);
        bytes[at] ^= 4;
        rewind(file);
        assert_int_equal(train_load(v, file), GSL_EINVAL);
        fclose(file);
    }
    file = tmpfile();
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    rewind(file);
    assert_int_equal(train_load(u, file), GSL_EINVAL);
    fclose(file);
    assert_int_equal(train_steps_done(v), 0);
    struct setting fresh = make(ADAPTER_LORA, ADAPTER_LAYER_DEFAULT);
    struct train *w = begin(&fresh);
    go(v, 21);
    go(w, 21);
    check_same(&untouched, v, &fresh, w);
    free(bytes);
    train_free(t);
    train_free(u);
    train_free(v);
    train_free(w);
    release(&s);
    release(&other);
    release(&untouched);
    release(&fresh);
}

/* A product of matrices rounds by its number of rows, which the cache of frozen blocks changes. */
static const double RTOL_CACHE = 1e-3;

/* The number of threads changes no bit, the cache of frozen blocks nothing beyond rounding. */
static void test_same_bits(void **state)
{
    (void)state;
    for (int method = 0; method < NUM_ADAPTER_METHODS; method++) {
        struct setting base = make((enum adapter_method)method, 1);
        struct train *t = begin(&base);
        go(t, 9);
        for (int threads = 1; threads <= 3; threads++) {
            struct setting s = make((enum adapter_method)method, 1);
            s.options.num_threads = threads;
            struct train *u = begin(&s);
            go(u, 9);
            check_same(&base, t, &s, u);
            train_free(u);
            release(&s);
        }
        struct setting s = make((enum adapter_method)method, 1);
        s.options.cache_bytes = 0;
        struct train *u = begin(&s);
        go(u, 9);
        const struct curve_row *x, *y;
        const size_t n = train_curve(t, &x);
        assert_int_equal(train_curve(u, &y), n);
        for (size_t i = 0; i < n; i++) CHECK_CLOSE(y[i].val_loss, x[i].val_loss, RTOL_CACHE, 0.0);
        train_free(u);
        release(&s);
        train_free(t);
        release(&base);
    }
}

/* The test set's numbers: those of the logits, whatever the batch. */
static void test_evaluate(void **state)
{
    (void)state;
    struct setting s = make(ADAPTER_LORA, ADAPTER_LAYER_DEFAULT);
    struct train *t = begin(&s);
    struct evaluation e, f;
    int32_t predicted[20];
    double losses[20], loss = 0.0, correct = 0.0;
    go(t, 5);
    assert_int_equal(train_evaluate(s.model, s.inputs, TASK_TEST, 1, &e, predicted, losses), GSL_SUCCESS);
    assert_int_equal(train_evaluate(s.model, s.inputs, TASK_TEST, 8, &f, NULL, NULL), GSL_SUCCESS);
    assert_int_equal(e.count, 20);
    for (size_t i = 0; i < 20; i++) {
        loss += losses[i] / 20.0;
        correct += predicted[i] == s.task->sets[TASK_TEST].labels[i];
    }
    CHECK_CLOSE(e.loss, loss, 1e-12, 0.0);
    CHECK_CLOSE(e.accuracy, correct / 20.0, 1e-12, 0.0);
    CHECK_CLOSE(f.loss, e.loss, 0.0, 0.0);
    train_free(t);
    release(&s);
}

/* keep_best ends with the parameters of the first best evaluation. */
static void test_keep_best(void **state)
{
    (void)state;
    struct setting s = make(ADAPTER_FULL, ADAPTER_LAYER_DEFAULT);
    const struct curve_row *rows;
    struct evaluation e;
    s.options.keep_best = true;
    s.options.lr = 0.05;                /* restless: the last is seldom the best */
    s.options.eval_every = 1;
    struct train *t = begin(&s);
    go(t, 21);
    const size_t n = train_curve(t, &rows);
    assert_int_equal(n, 22);
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (rows[i].val_accuracy > rows[best].val_accuracy) best = i;
    train_finish(t);
    assert_int_equal(train_evaluate(s.model, s.inputs, TASK_VALIDATION, 8, &e, NULL, NULL), GSL_SUCCESS);
    CHECK_CLOSE(e.accuracy, rows[best].val_accuracy, 0.0, 0.0);
    CHECK_CLOSE(e.loss, rows[best].val_loss, 0.0, 0.0);
    train_free(t);
    release(&s);
}

static void test_diverged(void **state)
{
    (void)state;
    struct setting s = make(ADAPTER_FULL, ADAPTER_LAYER_DEFAULT);
    s.options.lr = s.options.head_lr = 1e30;
    s.options.clip = 0.0;
    struct train *t = begin(&s);
    int status = GSL_SUCCESS;
    while (!status && !train_done(t)) status = train_step(t);
    assert_int_equal(status, GSL_EDOM);
    assert_true(train_diverged(t));
    assert_false(train_done(t));
    train_free(t);
    release(&s);
}

static void test_refusals(void **state)
{
    (void)state;
    struct setting s = make(ADAPTER_HEAD, ADAPTER_LAYER_DEFAULT);
    struct train *t;
    for (int i = 0; i < 6; i++) {
        struct train_options o = s.options;
        if (i == 0) o.batch = 0;
        if (i == 1) o.epochs = 0;
        if (i == 2) o.lr = NAN;
        if (i == 3) o.head_lr = -1.0;
        if (i == 4) o.warmup = 1.0;
        if (i == 5) o.label_smoothing = NAN;
        assert_int_equal(train_alloc(s.model, s.inputs, &o, &t, why), GSL_EINVAL);
    }
    assert_true(train_bytes(s.model, s.inputs, &s.options) < (size_t)1 << 32);
    train_free(NULL);
    release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_resume), cmocka_unit_test(test_bad_state),
                                        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_evaluate),
                                            cmocka_unit_test(test_keep_best), cmocka_unit_test(test_diverged),
                                        cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, open_shapes, close_shapes);
}
