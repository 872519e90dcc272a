/* A trained decoder against a reference in double: losses, every gradient by central differences of the reference, both
 * rotations; the plain decoder it amounts to; cached blocks, threads, starts, units, fitting, refusals. */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "tests/support/check.h"
#include "tests/support/decoder_ref.h"
#include "tests/support/tiny_variants.h"
#include "tests/support/tiny_model.h"
#include "transformer/adamw.h"

/* Float32 through two blocks: a few hundred roundings of 2^-24, on losses of order 1. */
static const double RTOL_ROUNDOFF = 2e-5;
/* Gradients sum over rows and pass the blocks twice. Relative to the largest entry of the tensor. */
static const double RTOL_GRADIENT = 1e-4;
/* Entries where terms of order 1 cancel. */
static const double ATOL_CANCELLATION = 2e-7;
static const double STEP = 2e-6;
static const uint64_t SEED = 77;
enum { ENTRIES = 12, NUM_SEQS = 3, ROWS = 11, TARGETS = 6, CLASSES = 3, VOCAB = 23, LAYERS = 2 };

static const struct decoder_config tiny = { .vocab_size = VOCAB, .hidden = 12, .num_layers = LAYERS, .num_heads = 4,
                                            .kv_heads = 2, .head_dim = 4, .mlp_dim = 10, .max_positions = 40,
                                            .norm_eps = 1e-5, .rope_base = 300.0 };
static const size_t offsets[NUM_SEQS + 1] = { 0, 4, 5, ROWS };
static const int32_t ids[ROWS] = { 3, 22, 0, 17, 5, 5, 19, 11, 8, 20, 1 };
static const size_t target_rows[TARGETS] = { 2, 3, 4, 8, 10, 3 };
static const int32_t target_ids[TARGETS] = { 17, 4, 9, 20, 0, 21 }, target_classes[TARGETS] = { 0, 2, 1, 1, 2, 0 };
static const struct decoder_batch batch = { .num_seqs = NUM_SEQS, .offsets = offsets, .ids = ids };
static const struct decoder_targets tokens = { .count = TARGETS, .rows = target_rows, .ids = target_ids };
static const struct decoder_targets classes = { .count = TARGETS, .rows = target_rows, .ids = target_classes };

static struct decoder *make_decoder(void)
{
    struct decoder *d;
    assert_int_equal(decoder_random(&tiny, 1.7, 5, &d), GSL_SUCCESS);
    return d;
}

static struct decoder_model *make_model(const struct decoder *d, const struct adapter_options *a,
                                        enum decoder_rotation rotation, size_t num_classes, int threads)
{
    char text[256] = "";
    struct decoder_model *m;
    const struct decoder_model_options o = { *a, rotation, num_classes, SEED, 0 };
    if (decoder_model_alloc(d, &o, &m, (struct reason){ text, sizeof text })) fail_msg("%s", text);
    assert_int_equal(decoder_model_reserve(m, ROWS, 6, 1, threads), GSL_SUCCESS);
    return m;
}

static void shake(struct decoder_model *m)
{
    tiny_shake_parameters(decoder_model_parameters(m), decoder_model_num_parameters(m), 0.3, 3);
}

static double step(struct decoder_model *m, const struct decoder_targets *t, double *losses)
{
    double loss;
    assert_int_equal(decoder_model_forward(m, &batch, 1), GSL_SUCCESS);
    assert_int_equal(decoder_model_loss(m, t, 1, &loss, losses, NULL), GSL_SUCCESS);
    assert_int_equal(decoder_model_backward(m), GSL_SUCCESS);
    return loss;
}

/* L(params + t u) - L(params - t u) over 2 t for entry `entry` of an array, or along `u` when it is not NULL. */
static double slope(struct decoder_ref *ref, const struct decoder_targets *t, double *array, size_t n, size_t entry,
                    const double *u)
{
    double value[2];
    double *kept = malloc(n * sizeof *kept);
    memcpy(kept, array, n * sizeof *kept);
    for (int side = 0; side < 2; side++) {
        const double by = side ? -STEP : STEP;
        for (size_t i = 0; i < n; i++) array[i] = kept[i] + (u ? by * u[i] : i == entry ? by : 0.0);
        value[side] = decoder_ref_loss(ref, &batch, t, NULL);
    }
    memcpy(array, kept, n * sizeof *kept);
    free(kept);
    return (value[0] - value[1]) / (2.0 * STEP);
}

/* A random direction, then entries spread over the tensor. Returns the worst deviation relative to the tolerance. */
static double check_parameter(struct decoder_ref *ref, const struct decoder_targets *t, const struct parameter *p,
                              double planted)
{
    const size_t n = p->rows * p->cols;
    double *array = decoder_ref_array(ref, p->name), *u = malloc(n * sizeof *u), along = 0.0, scale = 0.0;
    assert_non_null(array);
    for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs((double)p->grad[i]));
    const double tolerance = RTOL_GRADIENT * scale + ATOL_CANCELLATION;
    random_normal(SEED, RANDOM_PERTURBATION, 999, n, u, n);
    for (size_t i = 0; i < n; i++) along += u[i] * ((double)p->grad[i] + planted * scale);
    double worst = fabs(along - slope(ref, t, array, n, 0, u)) / (tolerance * sqrt((double)n));
    for (size_t i = 0; i < n; i += 1 + n / ENTRIES) {
        const double error = fabs((double)p->grad[i] + planted * scale - slope(ref, t, array, n, i, NULL)) / tolerance;
        if (!(error <= worst)) worst = error;
    }
    free(u);
    return worst;
}

static void check_variant(const struct tiny_variant *v, enum decoder_rotation rotation, size_t num_classes,
                          const struct decoder_targets *t)
{
    struct decoder *d = make_decoder();
    struct decoder_model *m = make_model(d, &v->options, rotation, num_classes, 1);
    shake(m);
    struct decoder_ref ref;
    decoder_ref_open(&ref, m);
    double losses[TARGETS], want[TARGETS];
    const double loss = step(m, t, losses);
    CHECK_CLOSE(loss, decoder_ref_loss(&ref, &batch, t, want), RTOL_ROUNDOFF, 0.0);
    for (size_t i = 0; i < TARGETS; i++)
        check_close(losses[i], want[i], RTOL_ROUNDOFF, RTOL_ROUNDOFF, v->name, __FILE__, __LINE__);
    size_t trained = 0;
    for (size_t i = 0; i < decoder_model_num_parameters(m); i++) {
        const struct parameter *p = &decoder_model_parameters(m)[i];
        if (!p->grad) continue;
        trained += p->rows * p->cols;
        const double worst = check_parameter(&ref, t, p, 0.0);
        if (!(worst <= 1.0))
            fail_msg("%s, rotation %d: gradient of %s is off by %.3g tolerances", v->name, (int)rotation, p->name,
                     worst);
    }
    assert_true(trained > 0);
    decoder_ref_close(&ref);
    decoder_model_free(m);
    decoder_free(d);
}

static void test_gradients(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    for (int rotation = DECODER_ROTATED; rotation <= DECODER_UNROTATED; rotation++)
        for (size_t i = 0; i < TINY_VARIANTS; i++) check_variant(&v[i], (enum decoder_rotation)rotation, 0, &tokens);
}

/* A classifier instead of the output matrix: full, head, ntk. */
static void test_class_gradients(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    static const char *const some[] = { "full", "head", "ntk log" };
    for (size_t i = 0; i < 3; i++) check_variant(tiny_variant_named(v, some[i]), DECODER_ROTATED, CLASSES, &classes);
}

/* Against distributions: KL and its gradient; 0 against its own. */
static void test_distillation(void **state)
{
    (void)state;
    static float logprobs[TARGETS * VOCAB];
    double x[TARGETS * VOCAB];
    random_normal(SEED, RANDOM_OTHER, 1, 2, x, TARGETS * VOCAB);
    for (size_t i = 0; i < TARGETS; i++) {
        for (size_t c = 0; c < VOCAB; c++) logprobs[i * VOCAB + c] = (float)(1.3 * x[i * VOCAB + c]);
        decoder_log_softmax(logprobs + i * VOCAB, VOCAB);
    }
    const struct decoder_targets soft = { .count = TARGETS, .rows = target_rows, .logprobs = logprobs };
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    check_variant(tiny_variant_named(v, "ntk log"), DECODER_ROTATED, 0, &soft);
    check_variant(tiny_variant_named(v, "full"), DECODER_UNROTATED, 0, &soft);
}

static struct parameter *find(struct decoder_model *m, const char *name)
{
    for (size_t i = 0; i < decoder_model_num_parameters(m); i++)
        if (!strcmp(decoder_model_parameters(m)[i].name, name)) return &decoder_model_parameters(m)[i];
    fail_msg("no parameter %s", name);
    return NULL;
}

static void test_checker_rejects(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    struct decoder_model *m = make_model(d, &tiny_variant_named(v, "full")->options, DECODER_ROTATED, 0, 1);
    struct decoder_ref ref;
    decoder_ref_open(&ref, m);
    step(m, &tokens, NULL);
    CHECK_LESS(1.0, check_parameter(&ref, &tokens, find(m, "layer.1.gate.weight"), 0.01));
    CHECK_LESS(check_parameter(&ref, &tokens, find(m, "layer.1.gate.weight"), 0.0), 1.0);
    decoder_ref_close(&ref);
    decoder_model_free(m);
    decoder_free(d);
}

/* ---- as a plain decoder ------------------------------------------------------------------------------------- */

/* Law: reading through the cache with the view gives the losses of the model, all methods, both rotations. */
static void test_view(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    for (size_t i = 0; i < 2 * TINY_VARIANTS; i++) {
        struct decoder_model *m = make_model(d, &v[i / 2].options, (enum decoder_rotation)(i % 2), 0, 1);
        shake(m);
        double losses[TARGETS];
        step(m, &tokens, losses);
        struct decoder_view *view;
        assert_int_equal(decoder_model_view(m, &view), GSL_SUCCESS);
        struct decoder_run *run;
        assert_int_equal(decoder_run_alloc(&view->decoder, view->prefix, 6, 2, 1, &run), GSL_SUCCESS);
        float hidden[ROWS * 12], logits[VOCAB];
        for (size_t s = 0; s < NUM_SEQS; s++) {
            decoder_run_rewind(run, 0);
            assert_int_equal(decoder_read(run, ids + offsets[s], offsets[s + 1] - offsets[s], hidden + offsets[s] * 12),
                             GSL_SUCCESS);
        }
        for (size_t t = 0; t < TARGETS; t++) {
            decoder_logits(&view->decoder, hidden + target_rows[t] * 12, 1, logits, 1);
            decoder_log_softmax(logits, VOCAB);
            check_close(-(double)logits[target_ids[t]], losses[t], RTOL_ROUNDOFF, RTOL_ROUNDOFF, v[i / 2].name,
                        __FILE__,
                        __LINE__);
        }
        decoder_run_free(run);
        decoder_view_free(view);
        decoder_model_free(m);
    }
    decoder_free(d);
}

/* Law: ptuning whose prefix is a text's keys and values is that text read before, its positions and all. */
static void test_cache_as_prefix(void **state)
{
    (void)state;
    enum { M = 5, WIDTH = 8 };
    static const int32_t front[M] = { 9, 2, 14, 14, 7 };
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    struct decoder_model *m = make_model(d, &tiny_variant_named(v, "ptuning")->options, DECODER_ROTATED, 0, 1);
    struct decoder_run *run;
    float hidden[6 * 12], logits[VOCAB];
    assert_int_equal(decoder_run_alloc(d, NULL, M + 6, 16, 1, &run), GSL_SUCCESS);
    assert_int_equal(decoder_read(run, front, M, NULL), GSL_SUCCESS);
    for (size_t l = 0; l < LAYERS; l++) {
        float K[M * WIDTH], V[M * WIDTH];
        for (size_t g = 0; g < 2; g++)
            for (size_t j = 0; j < M; j++) {
                memcpy(K + j * WIDTH + g * 4, decoder_run_keys(run, l, g) + j * 4, 4 * sizeof *K);
                memcpy(V + j * WIDTH + g * 4, decoder_run_values(run, l, g) + j * 4, 4 * sizeof *V);
            }
        assert_int_equal(decoder_model_set_prefix(m, l, K, V, M), GSL_SUCCESS);
    }
    double losses[TARGETS];
    step(m, &tokens, losses);
    assert_int_equal(decoder_read(run, ids, 4, hidden), GSL_SUCCESS);
    decoder_logits(d, hidden + 3 * 12, 1, logits, 1);
    decoder_log_softmax(logits, VOCAB);
    CHECK_CLOSE(losses[1], -(double)logits[target_ids[1]], RTOL_ROUNDOFF, RTOL_ROUNDOFF);
    decoder_run_free(run);
    decoder_model_free(m);
    decoder_free(d);
}

/* ---- cached blocks, threads, starts ---------------------------------------------------------------------------- */

/* Law: starting at the first trained block from its cached input changes no bit of loss or gradient. */
static void test_cached_layers(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        if (v[i].options.method == ADAPTER_FULL && v[i].options.first_layer < 1) continue;
        v[i].options.first_layer = v[i].options.last_layer = 1;
        struct decoder_model *m = make_model(d, &v[i].options, DECODER_ROTATED, 0, 1);
        shake(m);
        const size_t layer = decoder_model_first_trained_layer(m);
        assert_int_equal(layer, v[i].options.method == ADAPTER_HEAD ? LAYERS : 1);
        float cached[ROWS * 12];
        double loss = step(m, &tokens, NULL), again;
        const struct parameter *p = &decoder_model_parameters(m)[0];
        float *kept = malloc(p->rows * p->cols * sizeof *kept);
        memcpy(kept, p->grad, p->rows * p->cols * sizeof *kept);
        assert_int_equal(decoder_model_hidden(m, &batch, layer, cached), GSL_SUCCESS);
        const struct decoder_batch from = { .num_seqs = NUM_SEQS, .offsets = offsets, .hidden = cached,
                                            .first_layer = layer };
        assert_int_equal(decoder_model_forward(m, &from, 1), GSL_SUCCESS);
        assert_int_equal(decoder_model_loss(m, &tokens, 1, &again, NULL, NULL), GSL_SUCCESS);
        assert_int_equal(decoder_model_backward(m), GSL_SUCCESS);
        CHECK_SAME_BITS(&loss, &again, 1);
        assert_memory_equal(kept, p->grad, p->rows * p->cols * sizeof *kept);
        free(kept);
        decoder_model_free(m);
    }
    decoder_free(d);
}

static void test_threads(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    for (size_t i = 0; i < 2 * TINY_VARIANTS; i++) {
        struct decoder_model *one = make_model(d, &v[i / 2].options, (enum decoder_rotation)(i % 2), 0, 1);
        shake(one);
        const double loss = step(one, &tokens, NULL);
        for (int threads = 2; threads <= 3; threads++) {
            struct decoder_model *more = make_model(d, &v[i / 2].options, (enum decoder_rotation)(i % 2), 0, threads);
            shake(more);
            const double other = step(more, &tokens, NULL);
            CHECK_SAME_BITS(&loss, &other, 1);
            for (size_t p = 0; p < decoder_model_num_parameters(one); p++) {
                const struct parameter *x = &decoder_model_parameters(one)[p], *y = &decoder_model_parameters(more)[p];
                if (x->grad) assert_memory_equal(x->grad, y->grad, x->rows * x->cols * sizeof(float));
            }
            decoder_model_free(more);
        }
        decoder_model_free(one);
    }
    decoder_free(d);
}

/* Law: full, lora, prefix-plus, and ntk with k zero or linear start as the base model, bit for bit (ROTATED). */
static void test_starts(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    struct decoder_model *base = make_model(d, &tiny_variant_named(v, "head")->options, DECODER_ROTATED, 0, 1);
    double want[TARGETS], got[TARGETS];
    step(base, &tokens, want);
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        const struct adapter_options *o = &v[i].options;
        const int prefix = o->method == ADAPTER_PTUNING || o->method == ADAPTER_TIED_PREFIX;
        const int mass = o->method == ADAPTER_NTK && (o->k_mode == ADAPTER_K_LOG || o->k_mode == ADAPTER_K_TIED);
        if (prefix || mass) continue;
        struct decoder_model *m = make_model(d, o, DECODER_ROTATED, 0, 1);
        step(m, &tokens, got);
        CHECK_SAME_BITS(got, want, TARGETS);
        decoder_model_free(m);
    }
    decoder_model_free(base);
    decoder_free(d);
}

static void test_calibrate(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    struct decoder_model *m = make_model(d, &tiny_variant_named(v, "ntk log")->options, DECODER_ROTATED, 0, 1);
    assert_int_equal(decoder_model_calibrate(m, &batch), GSL_SUCCESS);
    struct decoder_ref ref;
    decoder_ref_open(&ref, m);
    for (size_t layer = 0; layer < LAYERS; layer++)
        for (size_t head = 0; head < 4; head++)
            CHECK_CLOSE((double)find(m, layer ? "layer.1.summary_unit" : "layer.0.summary_unit")->value[head],
                        decoder_ref_mass(&ref, &batch, layer, head), 10.0 * RTOL_ROUNDOFF, 0.0);
    decoder_ref_close(&ref);
    decoder_model_free(m);
    decoder_free(d);
}

/* Law: with M the second moment of the features as they weigh in T (ntk: a row by 1 / (A 1), prefix-plus: by 1), of the
 * queries that meet the summary, and B = unit basis, B^T (M + .001 trace(M) / r) B is the mean square of the
 * attention's result times the identity. */
static void check_white(int divided, enum decoder_rotation rotation)
{
    enum { R = 5, HEADS = 4 };
    struct adapter_options o = tiny_options(divided ? ADAPTER_NTK : ADAPTER_PREFIX_PLUS, "taylor:1", ADAPTER_K_ZERO, 0);
    o.whiten = 1;
    struct decoder *d = make_decoder();
    struct decoder_model *m = make_model(d, &o, rotation, 0, 1);
    struct decoder_ref ref;
    decoder_ref_open(&ref, m);
    assert_int_equal(decoder_model_calibrate(m, &batch), GSL_SUCCESS);
    for (size_t at = 0; at < LAYERS * HEADS; at++) {
        const size_t layer = at / HEADS, head = at % HEADS;
        const float *basis = find(m, layer ? "layer.1.summary_basis" : "layer.0.summary_basis")->value + head * R * R;
        const double unit = divided ? (double)find(m, layer ? "layer.1.summary_unit"
                                                   : "layer.0.summary_unit")->value[head] : 1.0;
        double M[R * R], trace = 0.0;
        const double size = decoder_ref_moment(&ref, &batch, layer, head, divided, M);
        for (size_t f = 0; f < R; f++) trace += M[f * R + f];
        for (size_t f = 0; f < R; f++) M[f * R + f] += 1e-3 * trace / R;
        for (size_t f = 0; f < R; f++)
            for (size_t g = 0; g < R; g++) {
                double sum = 0.0;
                for (size_t i = 0; i < R * R; i++)
                    sum += unit * (double)basis[i / R * R + f] * M[i] * unit * (double)basis[i % R * R + g];
                CHECK_CLOSE(sum / size, f == g ? 1.0 : 0.0, 0.0, 50.0 * RTOL_ROUNDOFF);
            }
    }
    /* A planted error, of the other rotation, is seen in the last block. */
    double M[R * R], other[R * R];
    decoder_ref_moment(&ref, &batch, LAYERS - 1, 0, divided, M);
    ref.options.rotation = rotation == DECODER_ROTATED ? DECODER_UNROTATED : DECODER_ROTATED;
    decoder_ref_moment(&ref, &batch, LAYERS - 1, 0, divided, other);
    assert_false(is_close(other[R * R - 1], M[R * R - 1], 50.0 * RTOL_ROUNDOFF, 0.0));
    decoder_ref_close(&ref);
    decoder_model_free(m);
    decoder_free(d);
}

static void test_whiten(void **state)
{
    (void)state;
    for (int divided = 0; divided < 2; divided++)
        for (int rotation = DECODER_ROTATED; rotation <= DECODER_UNROTATED; rotation++)
            check_white(divided, (enum decoder_rotation)rotation);
}

/* Every method fits the targets better within a few steps, and says which ids are likeliest. */
static void test_fits(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        struct decoder_model *m = make_model(d, &v[i].options, DECODER_ROTATED, 0, 1);
        struct adamw *adamw;
        struct adamw_options o = adamw_defaults();
        assert_int_equal(adamw_alloc(decoder_model_parameters(m), decoder_model_num_parameters(m), &o, &adamw),
                         GSL_SUCCESS);
        const double first = step(m, &tokens, NULL);
        for (int k = 0; k < 30; k++) {
            assert_int_equal(adamw_step(adamw, 0.02, 0.02, 1, NULL), GSL_SUCCESS);
            decoder_model_after_update(m);
            step(m, &tokens, NULL);
        }
        double loss;
        int32_t likeliest[TARGETS];
        assert_int_equal(decoder_model_forward(m, &batch, 0), GSL_SUCCESS);
        assert_int_equal(decoder_model_loss(m, &tokens, 0, &loss, NULL, likeliest), GSL_SUCCESS);
        if (!(loss < 0.9 * first)) fail_msg("%s: loss %g after 30 steps from %g", v[i].name, loss, first);
        for (size_t t = 0; t < TARGETS; t++) assert_in_range(likeliest[t], 0, VOCAB - 1);
        adamw_free(adamw);
        decoder_model_free(m);
    }
    decoder_free(d);
}

static void test_refusals(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct decoder *d = make_decoder();
    char line[160];
    const struct reason why = { line, sizeof line };
    struct decoder_model *m;
    struct decoder_model_options o = { tiny_variant_named(v, "ptuning")->options, DECODER_ROTATED, 0, SEED, 0 };
    o.adapter.prefix_len = 40;
    assert_int_equal(decoder_model_alloc(d, &o, &m, why), GSL_EINVAL);
    o.adapter.prefix_len = 5;
    o.adapter.last_layer = LAYERS;
    assert_int_equal(decoder_model_alloc(d, &o, &m, why), GSL_EINVAL);

    m = make_model(d, &tiny_variant_named(v, "ntk linear")->options, DECODER_ROTATED, 0, 1);
    double loss;
    assert_int_equal(decoder_model_loss(m, &tokens, 0, &loss, NULL, NULL), GSL_EINVAL);
    assert_int_equal(decoder_model_backward(m), GSL_EINVAL);
    int32_t wrong[ROWS];
    memcpy(wrong, ids, sizeof wrong);
    wrong[7] = VOCAB;
    struct decoder_batch b = batch;
    b.ids = wrong;
    assert_int_equal(decoder_model_forward(m, &b, 0), GSL_EINVAL);
    static const size_t far[] = { 0, 7 };
    b = (struct decoder_batch){ .num_seqs = 1, .offsets = far, .ids = ids };
    assert_int_equal(decoder_model_forward(m, &b, 0), GSL_EINVAL);
    assert_int_equal(decoder_model_forward(m, &batch, 0), GSL_SUCCESS);
    assert_int_equal(decoder_model_loss(m, &tokens, 1, &loss, NULL, NULL), GSL_EINVAL);
    const struct decoder_targets t = { .count = 1, .rows = target_rows, .ids = wrong + 7 };
    assert_int_equal(decoder_model_loss(m, &t, 0, &loss, NULL, NULL), GSL_EINVAL);
    /* D <= 0: a mass below that of the text. */
    struct parameter *k = find(m, "layer.1.summary_k");
    for (size_t i = 0; i < k->rows * k->cols; i++) k->value[i] = -1e3f;
    assert_int_equal(decoder_model_forward(m, &batch, 0), GSL_EDOM);
    decoder_model_after_update(m);
    assert_int_equal(decoder_model_forward(m, &batch, 0), GSL_SUCCESS);
    decoder_model_free(m);
    decoder_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_class_gradients), cmocka_unit_test(test_distillation),
        cmocka_unit_test(test_checker_rejects), cmocka_unit_test(test_view), cmocka_unit_test(test_cache_as_prefix),
        cmocka_unit_test(test_cached_layers), cmocka_unit_test(test_threads), cmocka_unit_test(test_starts),
        cmocka_unit_test(test_calibrate), cmocka_unit_test(test_whiten), cmocka_unit_test(test_fits),
            cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
