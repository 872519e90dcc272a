/* AdamW against its equations in double, and the schedules. */
#include "tests/support/check.h"

#include "transformer/adamw.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rounding of float32 values, moments and coefficients over the steps. */
static const double RTOL_FLOAT = 3e-6, ATOL_FLOAT = 1e-7;

enum { COUNT = 4, STEPS = 6, BIG = 40000 };

/* A head, a matrix with decay larger than one task, a bias without, a constant. */
struct setting {
    struct parameter p[COUNT];
    float *memory;
    double *value, *m, *v;
    size_t total;
};

static double noise(size_t i, size_t t)
{
    return sin(0.7 * (double)i + 1.3 * (double)t + 0.1) * (i % 7 == 3 ? 3.0 : 0.2);
}

static void make(struct setting *s)
{
    static const struct parameter shapes[COUNT] = { { "head.weight", NULL, NULL, 3, 5, 1, PARAM_HEAD },
                                                    { "layer.0.q.weight", NULL, NULL, BIG, 1, 1, PARAM_BACKBONE },
                                                    { "layer.0.q.bias", NULL, NULL, 1, 7, 0, PARAM_ADAPTER },
                                                    { "unit", NULL, NULL, 1, 3, 1, PARAM_ADAPTER } };
    memcpy(s->p, shapes, sizeof shapes);
    s->total = 0;
    for (size_t i = 0; i < COUNT; i++) s->total += s->p[i].rows * s->p[i].cols;
    s->memory = calloc(2 * s->total, sizeof *s->memory);
    s->value = calloc(3 * s->total, sizeof *s->value);
    assert_true(s->memory && s->value);
    s->m = s->value + s->total;
    s->v = s->m + s->total;
    size_t at = 0;
    for (size_t i = 0; i < COUNT; i++) {
        s->p[i].value = s->memory + at;
        s->p[i].grad = i == COUNT - 1 ? NULL : s->memory + s->total + at;
        at += s->p[i].rows * s->p[i].cols;
    }
    for (size_t i = 0; i < s->total; i++) s->value[i] = s->memory[i] = (float)noise(i, 99);
}

static void set_gradients(struct setting *s, size_t t, double scale)
{
    for (size_t i = 0; i < s->total; i++) s->memory[s->total + i] = (float)(scale * noise(i, t));
}

static void release(struct setting *s)
{
    free(s->memory);
    free(s->value);
}

/* One update from the equations; returns the norm before clipping. */
static double reference_step(struct setting *s, const struct adamw_options *o, size_t t, double lr, double head_lr)
{
    const size_t trained = s->total - s->p[COUNT - 1].cols;
    double norm = 0.0;
    for (size_t i = 0; i < trained; i++) norm += (double)s->memory[s->total + i] * s->memory[s->total + i];
    norm = sqrt(norm);
    const double scale = o->clip > 0.0 && norm > o->clip ? o->clip / norm : 1.0;
    for (size_t k = 0; k < COUNT - 1; k++) {
        const struct parameter *p = &s->p[k];
        const double rate = p->group == PARAM_HEAD ? head_lr : lr;
        for (size_t i = (size_t)(p->value - s->memory), end = i + p->rows * p->cols; i < end; i++) {
            const double g = scale * s->memory[s->total + i];
            s->m[i] = o->beta1 * s->m[i] + (1.0 - o->beta1) * g;
            s->v[i] = o->beta2 * s->v[i] + (1.0 - o->beta2) * g * g;
            const double m = s->m[i] / (1.0 - pow(o->beta1, (double)t)), v = s->v[i] / (1.0 - pow(o->beta2, (double)t));
            s->value[i] -= rate * (m / (sqrt(v) + o->eps) + (p->decay ? o->weight_decay * s->value[i] : 0.0));
        }
    }
    return norm;
}

static void check_values(const struct setting *s)
{
    double *got = malloc(s->total * sizeof *got);
    assert_non_null(got);
    for (size_t i = 0; i < s->total; i++) got[i] = s->memory[i];
    CHECK_ALL_CLOSE(got, s->value, s->total, RTOL_FLOAT, ATOL_FLOAT);
    free(got);
}

static void run_against_reference(struct adamw_options o, double scale)
{
    struct setting s;
    struct adamw *a;
    make(&s);
    assert_int_equal(adamw_alloc(s.p, COUNT, &o, &a), GSL_SUCCESS);
    for (size_t t = 1; t <= STEPS; t++) {
        const double lr = 1e-3 * (double)t, head_lr = 7e-3;
        double norm;
        set_gradients(&s, t, scale);
        assert_int_equal(adamw_step(a, lr, head_lr, 1, &norm), GSL_SUCCESS);
        CHECK_CLOSE(norm, reference_step(&s, &o, t, lr, head_lr), 1e-6, 0.0);
        check_values(&s);
    }
    assert_int_equal(adamw_time(a), STEPS);
    assert_int_equal(adamw_state_size(a), 2 * (s.total - 3));
    assert_false(is_close(s.memory[1] * (1.0 + 1e-4), s.value[1], RTOL_FLOAT, ATOL_FLOAT));
    adamw_free(a);
    release(&s);
}

static void test_reference(void **state)
{
    (void)state;
    struct adamw_options o = adamw_defaults();
    CHECK_CLOSE(o.beta1, 0.9, 0.0, 0.0);
    CHECK_CLOSE(o.beta2, 0.999, 0.0, 0.0);
    run_against_reference(o, 1.0);              /* clipped: the norm is in the hundreds */
    o.clip = 0.0;
    run_against_reference(o, 1.0);              /* not */
    o.clip = 1e6;
    o.weight_decay = 0.3;
    run_against_reference(o, 1.0);              /* below the clip, strong decay */
}

/* The update does not depend on the threads. */
static void test_threads(void **state)
{
    (void)state;
    const struct adamw_options o = adamw_defaults();
    struct setting s[3];
    struct adamw *a;
    for (int k = 0; k < 3; k++) {
        make(&s[k]);
        assert_int_equal(adamw_alloc(s[k].p, COUNT, &o, &a), GSL_SUCCESS);
        for (size_t t = 1; t <= 3; t++) {
            set_gradients(&s[k], t, 1.0);
            assert_int_equal(adamw_step(a, 1e-2, 1e-3, k + 1, NULL), GSL_SUCCESS);
        }
        adamw_free(a);
        assert_memory_equal(s[k].memory, s[0].memory, s[0].total * sizeof(float));
    }
    for (int k = 0; k < 3; k++) release(&s[k]);
}

/* A state put back goes on with the same bits. */
static void test_state(void **state)
{
    (void)state;
    const struct adamw_options o = adamw_defaults();
    struct setting s, r;
    struct adamw *a, *b;
    make(&s);
    make(&r);
    assert_int_equal(adamw_alloc(s.p, COUNT, &o, &a), GSL_SUCCESS);
    assert_int_equal(adamw_alloc(r.p, COUNT, &o, &b), GSL_SUCCESS);
    set_gradients(&s, 1, 1.0);
    assert_int_equal(adamw_step(a, 1e-2, 1e-3, 1, NULL), GSL_SUCCESS);
    memcpy(r.memory, s.memory, s.total * sizeof(float));
    memcpy(adamw_state(b), adamw_state(a), adamw_state_size(a) * sizeof(float));
    adamw_set_time(b, adamw_time(a));
    set_gradients(&s, 2, 1.0);
    set_gradients(&r, 2, 1.0);
    assert_int_equal(adamw_step(a, 1e-2, 1e-3, 1, NULL), GSL_SUCCESS);
    assert_int_equal(adamw_step(b, 1e-2, 1e-3, 1, NULL), GSL_SUCCESS);
    assert_memory_equal(s.memory, r.memory, s.total * sizeof(float));
    /* A gradient that is not finite changes nothing. */
    for (int bad = 0; bad < 2; bad++) {
        s.p[0].grad[2] = bad ? NAN : INFINITY;
        double norm;
        assert_int_equal(adamw_step(a, 1e-2, 1e-3, 1, &norm), GSL_EDOM);
        assert_memory_equal(s.memory, r.memory, s.total * sizeof(float));
        assert_memory_equal(adamw_state(a), adamw_state(b), adamw_state_size(a) * sizeof(float));
        assert_int_equal(adamw_time(a), 2);
    }
    adamw_free(a);
    adamw_free(b);
    adamw_free(NULL);
    release(&s);
    release(&r);
}

static void test_schedules(void **state)
{
    (void)state;
    static const double half[] = { 1.0, 0.5, 0.5 };
    for (int k = 0; k < 3; k++) {
        const enum lr_schedule schedule = (enum lr_schedule)k;
        /* 10 of 110 steps rise. */
        CHECK_CLOSE(lr_factor(schedule, 1.0 / 11.0, 0, 110), 1.0 / 11.0, 1e-12, 0.0);
        CHECK_CLOSE(lr_factor(schedule, 1.0 / 11.0, 4, 110), 5.0 / 11.0, 1e-12, 0.0);
        CHECK_CLOSE(lr_factor(schedule, 1.0 / 11.0, 10, 110), 1.0, 1e-12, 0.0);
        CHECK_CLOSE(lr_factor(schedule, 1.0 / 11.0, 60, 110), half[k], 1e-12, 0.0);
        CHECK_CLOSE(lr_factor(schedule, 0.0, 0, 7), 1.0, 0.0, 0.0);
        assert_true(lr_factor(schedule, 0.06, 6, 7) > 0.0);
    }
    CHECK_CLOSE(lr_factor(SCHEDULE_LINEAR, 0.0, 3, 4), 0.25, 1e-12, 0.0);
    CHECK_CLOSE(lr_factor(SCHEDULE_COSINE, 0.0, 1, 4), 0.5 * (1.0 + sqrt(0.5)), 1e-12, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_reference), cmocka_unit_test(test_threads),
                                        cmocka_unit_test(test_state), cmocka_unit_test(test_schedules) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
