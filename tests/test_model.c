/* Encoder, adapters and head against a reference in double: forward, every gradient by central differences of the
 * reference, ragged batches, threads, starts, fitting. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/isa.h"
#include "common/random.h"
#include "common/reason.h"
#include "tests/support/check.h"
#include "tests/support/encoder_ref.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_variants.h"
#include "transformer/model.h"

/* Float32 through two blocks: a few hundred roundings of 2^-24, on outputs of order 1. */
static const double RTOL_ROUNDOFF = 2e-5;
/* Gradients sum over rows and pass the blocks twice; differences in double add nothing visible (step 2e-6 of order-1
 * numbers). Relative to the largest entry of the tensor. */
static const double RTOL_GRADIENT = 1e-4;
/* Where the gradient is 0 by symmetry (keys' biases), what is left of terms of order 1 that cancel. */
static const double ATOL_CANCELLATION = 2e-7;
static const double STEP = 2e-6;
static const uint64_t SEED = 77;
enum { NUM_SEQS = 6, ENTRIES = 12 };

static struct model *make_model(const struct backbone *b, const struct adapter_options *o, size_t rows, size_t seqs,
                                int training, int threads)
{
    char text[256] = "";
    struct model *m;
    const int status = model_alloc(b, o, TINY_CLASSES, b->config.kind == BACKBONE_BERT ? POOL_CLS : POOL_MEAN, 0, SEED,
                                   &m, (struct reason){ text, sizeof text });
    if (status) fail_msg("%s", text);
    assert_int_equal(model_reserve(m, rows, seqs, rows, training, threads), 0);
    return m;
}

/* L(params + t u) - L(params - t u) over 2 t for entry `entry` of an array, or along `u` when it is not NULL. */
static double slope(struct encoder_ref *ref, const struct tiny_batch *t, double *array, size_t n, size_t entry,
                    const double *u)
{
    double value[2];
    double *kept = malloc(n * sizeof *kept);
    memcpy(kept, array, n * sizeof *kept);
    for (int side = 0; side < 2; side++) {
        const double by = side ? -STEP : STEP;
        for (size_t i = 0; i < n; i++) array[i] = kept[i] + (u ? by * u[i] : i == entry ? by : 0.0);
        value[side] = encoder_ref_loss(ref, &t->batch, t->labels);
    }
    memcpy(array, kept, n * sizeof *kept);
    free(kept);
    return (value[0] - value[1]) / (2.0 * STEP);
}

static double largest(const float *x, size_t n)
{
    double most = 0.0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)x[i]));
    return most;
}

/* A random direction, then entries spread over the tensor. Returns the worst deviation relative to the tolerance. */
static double check_parameter(struct encoder_ref *ref, const struct tiny_batch *t, const struct parameter *p,
                              double planted)
{
    const size_t n = p->rows * p->cols;
    double *array = encoder_ref_array(ref, p->name), *u = malloc(n * sizeof *u), along = 0.0, worst = 0.0;
    assert_non_null(array);
    const double scale = largest(p->grad, n), tolerance = RTOL_GRADIENT * scale + ATOL_CANCELLATION;
    random_normal(SEED, RANDOM_PERTURBATION, 999, n, u, n);
    for (size_t i = 0; i < n; i++) along += u[i] * ((double)p->grad[i] + planted * scale);
    worst = fabs(along - slope(ref, t, array, n, 0, u)) / (tolerance * sqrt((double)n));
    for (size_t i = 0; i < n; i += 1 + n / ENTRIES) {
        const double error = fabs((double)p->grad[i] + planted * scale - slope(ref, t, array, n, i, NULL)) / tolerance;
        if (!(error <= worst)) worst = error;
    }
    free(u);
    return worst;
}

static void check_variant(enum backbone_kind kind, const struct tiny_variant *v)
{
    struct backbone *b = tiny_backbone(kind, 5);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
    struct model *m = make_model(b, &v->options, t.rows, NUM_SEQS, 1, 1);
    tiny_shake(m, 0.3, 3);
    struct encoder_ref ref;
    encoder_ref_open(&ref, b, m, kind == BACKBONE_BERT ? POOL_CLS : POOL_MEAN, SEED);
    float logits[NUM_SEQS * TINY_CLASSES], d_logits[NUM_SEQS * TINY_CLASSES];
    double want[NUM_SEQS * TINY_CLASSES];
    assert_int_equal(model_forward(m, &t.batch, logits, 1), 0);
    encoder_ref_forward(&ref, &t.batch, want, NULL);
    for (size_t i = 0; i < NUM_SEQS * TINY_CLASSES; i++)
        check_close(logits[i], want[i], RTOL_ROUNDOFF, RTOL_ROUNDOFF, v->name, __FILE__, __LINE__);
    const double loss = model_cross_entropy(logits, t.labels, NUM_SEQS, TINY_CLASSES, 0.0, d_logits, NULL);
    CHECK_CLOSE(loss, encoder_ref_loss(&ref, &t.batch, t.labels), RTOL_ROUNDOFF, 0.0);
    assert_int_equal(model_backward(m, d_logits), 0);
    for (size_t i = 0; i < model_num_parameters(m); i++) {
        const struct parameter *p = &model_parameters(m)[i];
        if (!p->grad) continue;
        const double worst = check_parameter(&ref, &t, p, 0.0);
        if (!(worst <= 1.0))
            fail_msg("kind %d, %s: gradient of %s is off by %.3g tolerances", (int)kind, v->name, p->name, worst);
    }
    encoder_ref_close(&ref);
    model_free(m);
    tiny_batch_free(&t);
    backbone_free(b);
}

static void gradients(enum backbone_kind kind)
{
    struct tiny_variant v[TINY_VARIANTS];
    const size_t n = TINY_VARIANTS;
    tiny_variants(v);
    for (size_t i = 0; i < n; i++) check_variant(kind, &v[i]);
}

static void test_bert_gradients(void **state) { (void)state; gradients(BACKBONE_BERT); }
static void test_vit_gradients(void **state) { (void)state; gradients(BACKBONE_VIT); }
static void test_mpnet_gradients(void **state) { (void)state; gradients(BACKBONE_MPNET); }

/* The checker sees an error of a hundredth of the largest entry. */
static void test_checker_rejects(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    tiny_variants(v);
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 5);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
    struct model *m = make_model(b, &v[0].options, t.rows, NUM_SEQS, 1, 1);
    struct encoder_ref ref;
    encoder_ref_open(&ref, b, m, POOL_CLS, SEED);
    float logits[NUM_SEQS * TINY_CLASSES], d_logits[NUM_SEQS * TINY_CLASSES];
    assert_int_equal(model_forward(m, &t.batch, logits, 1), 0);
    model_cross_entropy(logits, t.labels, NUM_SEQS, TINY_CLASSES, 0.0, d_logits, NULL);
    assert_int_equal(model_backward(m, d_logits), 0);
    CHECK_LESS(1.0, check_parameter(&ref, &t, model_parameter(m, "layer.1.fc1.weight"), 0.01));
    encoder_ref_close(&ref);
    model_free(m);
    tiny_batch_free(&t);
    backbone_free(b);
}

/* ---- packing and threads -------------------------------------------------------------------------------- */

static void run(struct model *m, const struct tiny_batch *t, float *logits, float *d_logits)
{
    assert_int_equal(model_forward(m, &t->batch, logits, 1), 0);
    model_cross_entropy(logits, t->labels, t->batch.num_seqs, TINY_CLASSES, 0.0, d_logits, NULL);
    assert_int_equal(model_backward(m, d_logits), 0);
}

/* Law: 1, 2 and 3 threads give the same bits, logits and gradients. */
static void test_threads(void **state)
{
    (void)state;
    enum { MANY = 40 };
    struct tiny_variant v[TINY_VARIANTS];
    const size_t n = TINY_VARIANTS;
    tiny_variants(v);
    for (int kind = BACKBONE_VIT; kind <= BACKBONE_MPNET; kind++) {
        struct backbone *b = tiny_backbone((enum backbone_kind)kind, 5);
        struct tiny_batch t;
        tiny_batch_make(&t, &b->config, MANY, 9);
        for (size_t i = 0; i < n; i++) {
            struct model *one = make_model(b, &v[i].options, t.rows, MANY, 1, 1);
            tiny_shake(one, 0.3, 3);
            float logits[2][MANY * TINY_CLASSES], d_logits[MANY * TINY_CLASSES];
            run(one, &t, logits[0], d_logits);
            for (int threads = 2; threads <= 3; threads++) {
                struct model *more = make_model(b, &v[i].options, t.rows, MANY, 1, threads);
                tiny_shake(more, 0.3, 3);
                run(more, &t, logits[1], d_logits);
                assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
                for (size_t p = 0; p < model_num_parameters(one); p++) {
                    const struct parameter *x = &model_parameters(one)[p], *y = &model_parameters(more)[p];
                    if (x->grad) assert_memory_equal(x->grad, y->grad, x->rows * x->cols * sizeof(float));
                }
                model_free(more);
            }
            model_free(one);
        }
        tiny_batch_free(&t);
        backbone_free(b);
    }
}

/* Law: a sequence's logits do not depend on what it is packed with, up to rounding (products of other shapes). */
static void test_ragged(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    const size_t n = TINY_VARIANTS;
    tiny_variants(v);
    for (int kind = BACKBONE_BERT; kind <= BACKBONE_MPNET; kind++) {
        struct backbone *b = tiny_backbone((enum backbone_kind)kind, 5);
        struct tiny_batch t;
        tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
        for (size_t i = 0; i < n; i++) {
            struct model *m = make_model(b, &v[i].options, t.rows, NUM_SEQS, 0, 1);
            tiny_shake(m, 0.3, 3);
            float together[NUM_SEQS * TINY_CLASSES], alone[TINY_CLASSES];
            assert_int_equal(model_forward(m, &t.batch, together, 0), 0);
            for (size_t s = 0; s < NUM_SEQS; s++) {
                const size_t offsets[] = { 0, t.offsets[s + 1] - t.offsets[s] };
                const struct batch single = { .num_seqs = 1, .offsets = offsets, .ids = t.ids + t.offsets[s],
                                              .type_ids = t.types + t.offsets[s] };
                assert_int_equal(model_forward(m, &single, alone, 0), 0);
                for (size_t c = 0; c < TINY_CLASSES; c++)
                    CHECK_CLOSE(alone[c], together[s * TINY_CLASSES + c], RTOL_ROUNDOFF, RTOL_ROUNDOFF);
            }
            model_free(m);
        }
        tiny_batch_free(&t);
        backbone_free(b);
    }
}

/* Law: the input of the first trained block, taken from a pass before, gives the same step. */
static void test_cached_layers(void **state)
{
    (void)state;
    for (int kind = BACKBONE_VIT; kind <= BACKBONE_MPNET; kind++) {
        struct backbone *b = tiny_backbone((enum backbone_kind)kind, 5);
        struct tiny_batch t;
        tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
        struct adapter_options o = tiny_options(ADAPTER_LORA, "elu1", ADAPTER_K_LOG, 0);
        o.first_layer = 1;
        struct model *m = make_model(b, &o, t.rows, NUM_SEQS, 1, 1);
        tiny_shake(m, 0.3, 3);
        assert_int_equal(model_first_trained_layer(m), 1);
        float logits[2][NUM_SEQS * TINY_CLASSES], d_logits[NUM_SEQS * TINY_CLASSES];
        run(m, &t, logits[0], d_logits);
        const struct parameter *p = model_parameter(m, "layer.1.q.lora_A");
        float grad[24], *hidden = malloc(t.rows * b->config.hidden * sizeof *hidden);
        assert_true(p && p->rows * p->cols == 24 && hidden);
        memcpy(grad, p->grad, sizeof grad);
        assert_int_equal(model_hidden(m, &t.batch, 1, hidden), 0);
        size_t offsets[NUM_SEQS + 1];
        for (size_t s = 0; s <= NUM_SEQS; s++) offsets[s] = t.offsets ? t.offsets[s] : s * (t.rows / NUM_SEQS);
        struct tiny_batch cached = {
            .batch = { .num_seqs = NUM_SEQS, .offsets = offsets, .hidden = hidden, .first_layer = 1 },
            .labels = t.labels
        };
        run(m, &cached, logits[1], d_logits);
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        assert_memory_equal(grad, p->grad, sizeof grad);
        free(hidden);
        model_free(m);
        tiny_batch_free(&t);
        backbone_free(b);
    }
}

/* Law: every method but the prefixes and k = exp(theta) starts as the base model, bit for bit (-0 and 0 alike). */
static void test_starts(void **state)
{
    (void)state;
    struct tiny_variant v[TINY_VARIANTS];
    const size_t n = TINY_VARIANTS;
    tiny_variants(v);
    for (int kind = BACKBONE_VIT; kind <= BACKBONE_MPNET; kind++) {
        struct backbone *b = tiny_backbone((enum backbone_kind)kind, 5);
        struct tiny_batch t;
        tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
        const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
        struct model *base = make_model(b, &head, t.rows, NUM_SEQS, 0, 1);
        float want[NUM_SEQS * TINY_CLASSES], got[NUM_SEQS * TINY_CLASSES];
        assert_int_equal(model_forward(base, &t.batch, want, 0), 0);
        for (size_t i = 0; i < n; i++) {
            const struct adapter_options *o = &v[i].options;
            struct model *m = make_model(b, o, t.rows, NUM_SEQS, 0, 1);
            assert_int_equal(model_forward(m, &t.batch, got, 0), 0);
            const int prefix = o->method == ADAPTER_PTUNING || o->method == ADAPTER_TIED_PREFIX;
            const int mass = o->method == ADAPTER_NTK && (o->k_mode == ADAPTER_K_LOG || o->k_mode == ADAPTER_K_TIED);
            size_t same = 0;
            for (size_t c = 0; c < NUM_SEQS * TINY_CLASSES; c++) same += got[c] == want[c];
            if (!prefix && !mass && same != NUM_SEQS * TINY_CLASSES)
                fail_msg("%s does not start as the base model", v[i].name);
            if (prefix && same) fail_msg("%s: a prefix without effect", v[i].name);
            model_free(m);
        }
        model_free(base);
        tiny_batch_free(&t);
        backbone_free(b);
    }
}

/* ---- summaries ---------------------------------------------------------------------------------------------- */

/* Law: behind a prefix that takes the first positions, a text is read as with a table of positions that begins
 * there. */
static void test_shifted_positions(void **state)
{
    (void)state;
    enum { M = 2 };
    static const enum backbone_kind kinds[] = { BACKBONE_BERT, BACKBONE_MPNET };
    for (size_t k = 0; k < 2; k++) {
        struct backbone *b = tiny_backbone(kinds[k], 5), *moved = tiny_backbone(kinds[k], 5);
        struct tiny_batch t;
        tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
        struct adapter_options plain = tiny_options(ADAPTER_PTUNING, "elu1", ADAPTER_K_LOG, 0);
        plain.prefix_len = M;
        struct adapter_options shifted = plain;
        shifted.shift_positions = 1;
        const struct tensor *position = backbone_tensor(moved, "embed.position");
        const size_t h = position->dims[1];
        memmove(position->data, position->data + M * h, (position->dims[0] - M) * h * sizeof(float));
        struct model *m = make_model(b, &shifted, t.rows, NUM_SEQS, 0, 1), *as = make_model(moved, &plain, t.rows,
            NUM_SEQS, 0, 1),
                     *without = make_model(b, &plain, t.rows, NUM_SEQS, 0, 1);
        float got[NUM_SEQS * TINY_CLASSES], want[NUM_SEQS * TINY_CLASSES], other[NUM_SEQS * TINY_CLASSES];
        assert_int_equal(model_forward(m, &t.batch, got, 0), 0);
        assert_int_equal(model_forward(as, &t.batch, want, 0), 0);
        assert_int_equal(model_forward(without, &t.batch, other, 0), 0);
        assert_memory_equal(got, want, sizeof got);
        assert_memory_not_equal(got, other, sizeof got);
        assert_int_equal(model_first_trained_layer(m), 0);
        model_free(m);
        model_free(as);
        model_free(without);
        char text[256];
        shifted.prefix_len = 9;
        assert_int_equal(model_alloc(b, &shifted, TINY_CLASSES, POOL_MEAN, 0, 1, &m,
                                     (struct reason){ text, sizeof text }), GSL_EINVAL);
        assert_non_null(strstr(text, "leaves no position"));
        tiny_batch_free(&t);
        backbone_free(moved);
        backbone_free(b);
    }
}

/* Law: ntk from a prefix holds Z = Phi(K_P)^T V_P and k = Phi(K_P)^T 1 of plain loops, times 1/unit. */
static void test_set_prefix(void **state)
{
    (void)state;
    enum { M = 5, H = 12 };
    float K[M * H], V[M * H];
    double x[M * H];
    random_normal(SEED, RANDOM_PREFIX, 0, 0, x, M * H);
    for (size_t i = 0; i < M * H; i++) K[i] = (float)(0.5 * x[i]);
    for (size_t i = 0; i < M * H; i++) V[i] = (float)(x[i] * x[i] - 0.3);
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 5);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
    struct adapter_options o = tiny_options(ADAPTER_NTK, "elu1", ADAPTER_K_LOG, 0),
                           p = tiny_options(ADAPTER_PTUNING, "elu1", ADAPTER_K_LOG, 0);
    struct model *m = make_model(b, &o, t.rows, NUM_SEQS, 0, 1), *prefix = make_model(b, &p, t.rows, NUM_SEQS, 0, 1);
    assert_int_equal(model_calibrate(m, &t.batch), 0);
    for (size_t l = 0; l < TINY_LAYERS; l++) {
        assert_int_equal(model_set_prefix(m, l, K, V, M), 0);
        assert_int_equal(model_set_prefix(prefix, l, K, V, M), 0);
    }
    assert_memory_equal(model_parameter(prefix, "layer.1.prefix_k")->value, K, sizeof K);
    assert_int_equal(model_set_prefix(prefix, 0, K, V, M - 1), GSL_EINVAL);
    const float *unit = model_parameter(m, "layer.1.summary_unit")->value;
    const float *log_k = model_parameter(m, "layer.1.summary_log_k")->value,
                *Z = model_parameter(m, "layer.1.summary_Z")->value;
    for (size_t h = 0; h < 3; h++) {
        CHECK_LESS(1.0, unit[h]);
        for (size_t f = 0; f < 4; f++) {
            double k = 0.0, z = 0.0;
            for (size_t j = 0; j < M; j++) {
                const double a = K[j * H + h * 4 + f] / sqrt(2.0), phi = a > 0.0 ? a + 1.0 : exp(a);
                k += phi;
                z += phi * V[j * H + h * 4 + 2];
            }
            CHECK_CLOSE(unit[h] * exp(log_k[h * 4 + f]), k, RTOL_ROUNDOFF, 0.0);
            CHECK_CLOSE(unit[h] * Z[(h * 4 + f) * 4 + 2], z, RTOL_ROUNDOFF, RTOL_ROUNDOFF);
        }
    }
    model_free(m);
    model_free(prefix);
    tiny_batch_free(&t);
    backbone_free(b);
}

/* Law: the unit of block 0 is the mean over rows of sum_j exp(<q,k_j>/sqrt d), here by plain loops from what leaves the
 * embeddings; other methods have none. */
static void test_calibrate(void **state)
{
    (void)state;
    enum { H = 12, D = 4, HEAD = 1 };
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 5);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
    struct adapter_options o = tiny_options(ADAPTER_NTK, "elu1", ADAPTER_K_LOG, 0);
    struct model *m = make_model(b, &o, t.rows, NUM_SEQS, 0, 1);
    assert_int_equal(model_calibrate(m, &t.batch), 0);
    float *x = malloc(t.rows * H * sizeof *x);
    assert_int_equal(model_hidden(m, &t.batch, 0, x), 0);
    const float *wq = backbone_tensor(b, "layer.0.q.weight")->data, *wk = backbone_tensor(b, "layer.0.k.weight")->data;
    const float *bq = backbone_tensor(b, "layer.0.q.bias")->data, *bk = backbone_tensor(b, "layer.0.k.bias")->data;
    double mean = 0.0;
    for (size_t s = 0; s < NUM_SEQS; s++)
        for (size_t i = t.offsets[s]; i < t.offsets[s + 1]; i++)
            for (size_t j = t.offsets[s]; j < t.offsets[s + 1]; j++) {
                double score = 0.0;
                for (size_t c = HEAD * D; c < (HEAD + 1) * D; c++) {
                    double q = bq[c], k = bk[c];
                    for (size_t l = 0; l < H; l++) q += (double)x[i * H + l] * wq[c * H + l];
                    for (size_t l = 0; l < H; l++) k += (double)x[j * H + l] * wk[c * H + l];
                    score += q * k / sqrt((double)D);
                }
                mean += exp(score) / (double)t.rows;
            }
    CHECK_CLOSE(model_parameter(m, "layer.0.summary_unit")->value[HEAD], mean, 10 * RTOL_ROUNDOFF, 0.0);
    free(x);
    model_free(m);
    tiny_batch_free(&t);
    backbone_free(b);
}

/* Law: with M the second moment of the features as they weigh in T (ntk: a row by 1 / (A 1), prefix-plus: by 1) and B =
 * unit basis, B^T (M + .001 trace(M) / r) B is the mean square of the attention's result times the identity. From plain
 * loops in double on block 0. */
static void test_whiten(void **state)
{
    (void)state;
    enum { H = 12, D = 4, HEAD = 2, R = 5 };
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 5);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
    for (int divided = 0; divided < 2; divided++) {
        struct adapter_options o = tiny_options(divided ? ADAPTER_NTK : ADAPTER_PREFIX_PLUS, "taylor:1", ADAPTER_K_ZERO,
                                                0);
        o.whiten = 1;
        struct model *m = make_model(b, &o, t.rows, NUM_SEQS, 0, 1);
        assert_int_equal(model_calibrate(m, &t.batch), 0);
        float *x = malloc(t.rows * H * sizeof *x);
        assert_int_equal(model_hidden(m, &t.batch, 0, x), 0);
        const float *basis = model_parameter(m, "layer.0.summary_basis")->value + HEAD * R * R;
        const struct parameter *unit = model_parameter(m, "layer.0.summary_unit");
        double *qkv = calloc(3 * t.rows * D, sizeof *qkv), M[R][R] = { { 0.0 } }, trace = 0.0, mean_square = 0.0;
        static const char *const names[] = { "layer.0.q", "layer.0.k", "layer.0.v" };
        for (size_t part = 0; part < 3; part++) {
            char weight[32], bias[32];
            snprintf(weight, sizeof weight, "%s.weight", names[part]);
            snprintf(bias, sizeof bias, "%s.bias", names[part]);
            const float *w = backbone_tensor(b, weight)->data, *c = backbone_tensor(b, bias)->data;
            for (size_t i = 0; i < t.rows; i++)
                for (size_t j = 0; j < D; j++) {
                    double *to = &qkv[(part * t.rows + i) * D + j];
                    *to = c[HEAD * D + j];
                    for (size_t l = 0; l < H; l++) *to += (double)x[i * H + l] * w[(HEAD * D + j) * H + l];
                }
        }
        for (size_t s = 0; s < NUM_SEQS; s++)
            for (size_t i = t.offsets[s]; i < t.offsets[s + 1]; i++) {
                const double *q = qkv + i * D;
                double mass = 0.0, out[D] = { 0.0 }, phi[R] = { 1.0 };
                for (size_t j = t.offsets[s]; j < t.offsets[s + 1]; j++) {
                    double score = 0.0;
                    for (size_t c = 0; c < D; c++) score += q[c] * qkv[(t.rows + j) * D + c] / sqrt((double)D);
                    mass += exp(score);
                    for (size_t c = 0; c < D; c++) out[c] += exp(score) * qkv[(2 * t.rows + j) * D + c];
                }
                for (size_t c = 0; c < D; c++) {
                    mean_square += pow(out[c] / mass, 2.0) / (double)(t.rows * D);
                    phi[c + 1] = q[c] / sqrt(sqrt((double)D));
                }
                for (size_t f = 0; f < R; f++)
                    for (size_t g = 0; g < R; g++)
                        M[f][g] += phi[f] * phi[g] / (divided ? mass * mass : 1.0) / (double)t.rows;
            }
        for (size_t f = 0; f < R; f++) trace += M[f][f];
        for (size_t f = 0; f < R; f++) M[f][f] += 1e-3 * trace / R;
        const double scale = unit ? unit->value[HEAD] : 1.0;
        for (size_t f = 0; f < R; f++)
            for (size_t g = 0; g < R; g++) {
                double sum = 0.0;
                for (size_t i = 0; i < R * R; i++)
                    sum += scale * basis[i / R * R + f] * M[i / R][i % R] * scale * basis[i % R * R + g];
                CHECK_CLOSE(sum / mean_square, f == g ? 1.0 : 0.0, 0.0, 10 * RTOL_ROUNDOFF);
            }
        free(qkv);
        free(x);
        model_free(m);
    }
    tiny_batch_free(&t);
    backbone_free(b);
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_ADAPTER_METHODS; i++) {
        enum adapter_method method;
        assert_int_equal(adapter_method_parse(adapter_method_name((enum adapter_method)i), &method), 0);
        assert_int_equal(method, i);
        assert_true(strlen(adapter_method_summary(method)) > 10);
    }
    enum adapter_method method = ADAPTER_NTK;
    assert_int_equal(adapter_method_parse("lor", &method), GSL_EINVAL);
    assert_int_equal(method, ADAPTER_NTK);
    unsigned targets = 0;
    assert_int_equal(adapter_targets_parse("v,fc1", &targets), 0);
    assert_int_equal(targets, 1u << PROJ_V | 1u << PROJ_FC1);
    assert_int_equal(adapter_targets_parse("all", &targets), 0);
    assert_int_equal(targets, 63);
    const char *const bad[] = { "", "q,", ",q", "fc", "q;v", "q,x" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(adapter_targets_parse(bad[i], &targets), GSL_EINVAL);
    enum adapter_k_mode mode;
    assert_int_equal(adapter_k_mode_parse("tied", &mode), 0);
    assert_string_equal(adapter_k_mode_name(mode), "tied");
    assert_int_equal(adapter_k_mode_parse("none", &mode), GSL_EINVAL);
}

/* Law: cross-entropy with smoothing e is (1 - e) CE(label) + e mean_c CE(c), and its gradient the difference
 * quotient. */
static void test_cross_entropy(void **state)
{
    (void)state;
    enum { N = 2, C = 4 };
    float x[N * C] = { 0.7f, -1.3f, 2.1f, 0.4f, 90.0f, -80.0f, 88.0f, 3.3f }, g[N * C];
    const int32_t labels[N] = { 2, 2 };
    size_t correct;
    const double loss = model_cross_entropy(x, labels, N, C, 0.3, g, &correct);
    assert_int_equal(correct, 1);
    double want = 0.0;
    for (size_t s = 0; s < N; s++) {
        double sum = 0.0;
        for (size_t c = 0; c < C; c++) sum += exp((double)x[s * C + c] - x[s * C + 2]);
        for (size_t c = 0; c < C; c++)
            want += (0.3 / C + (c == 2 ? 0.7 : 0.0)) * (log(sum) + x[s * C + 2] - (double)x[s * C + c]) / N;
    }
    CHECK_CLOSE(loss, want, 1e-12, 0.0);
    for (size_t i = 0; i < N * C; i++) {
        const float kept = x[i];
        x[i] = kept + 0x1p-9f;
        const double up = model_cross_entropy(x, labels, N, C, 0.3, NULL, NULL);
        x[i] = kept - 0x1p-9f;
        const double down = model_cross_entropy(x, labels, N, C, 0.3, NULL, NULL);
        x[i] = kept;
        CHECK_CLOSE(g[i], (up - down) * 0x1p8, 1e-5, 1e-6);
    }
}

/* k of `linear` is projected for a map without negative features. */
static void test_projection(void **state)
{
    (void)state;
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 5);
    struct adapter_options o = tiny_options(ADAPTER_NTK, "elu1", ADAPTER_K_LINEAR, 0);
    struct model *m = make_model(b, &o, 8, 2, 0, 1);
    float *k = model_parameter(m, "layer.0.summary_k")->value;
    k[1] = -0.7f;
    k[2] = 1.3f;
    model_after_update(m);
    assert_true(k[1] == 0.0f && k[2] == 1.3f);
    model_free(m);
    backbone_free(b);
}

/* ---- fitting ----------------------------------------------------------------------------------------------------- */

/* Adam, the plain one. */
static void adam(struct model *m, double *moments, int step, double rate)
{
    size_t at = 0;
    for (size_t i = 0; i < model_num_parameters(m); i++) {
        struct parameter *p = &model_parameters(m)[i];
        for (size_t j = 0; p->grad && j < p->rows * p->cols; j++, at += 2) {
            moments[at] = 0.9 * moments[at] + 0.1 * p->grad[j];
            moments[at + 1] = 0.999 * moments[at + 1] + 0.001 * (double)p->grad[j] * p->grad[j];
            const double first = moments[at] / (1.0 - pow(0.9, step)),
                         second = moments[at + 1] / (1.0 - pow(0.999, step));
            p->value[j] -= (float)(rate * first / (sqrt(second) + 1e-8));
        }
    }
    model_after_update(m);
}

/* Every method that can fit 16 random examples to a loss below 1e-3; the head alone cannot, it only improves. The slowest, a
 * summary from zero mass with Z of low rank, takes about 1,500 steps, a number that rounding moves. */
static void test_fits(void **state)
{
    (void)state;
    enum { EXAMPLES = 16, STEPS = 3000 };
    struct tiny_variant v[TINY_VARIANTS];
    const size_t n = TINY_VARIANTS;
    tiny_variants(v);
    for (int kind = BACKBONE_VIT; kind <= BACKBONE_BERT; kind++) {
        struct backbone *b = tiny_backbone((enum backbone_kind)kind, 5);
        struct tiny_batch t;
        tiny_batch_make(&t, &b->config, EXAMPLES, 9);
        for (size_t i = 0; i < n; i++) {
            /* Trained masses of features of either sign reach D <= 0 here, which is reported: their k stays 0. */
            if (!strncmp(v[i].options.feature, "taylor", 6)) v[i].options.k_mode = ADAPTER_K_ZERO;
            struct model *m = make_model(b, &v[i].options, t.rows, EXAMPLES, 1, 1);
            assert_int_equal(model_calibrate(m, &t.batch), 0);
            const size_t count =
                model_trainable(m, PARAM_HEAD) + model_trainable(m, PARAM_ADAPTER) + model_trainable(m, PARAM_BACKBONE);
            double *moments = calloc(2 * count, sizeof *moments), loss = 0.0, start = 0.0;
            float logits[EXAMPLES * TINY_CLASSES], d_logits[EXAMPLES * TINY_CLASSES];
            for (int step = 1; step <= STEPS; step++) {
                const int status = model_forward(m, &t.batch, logits, 1);
                if (status) fail_msg("kind %d, %s: status %d at step %d", kind, v[i].name, status, step);
                loss = model_cross_entropy(logits, t.labels, EXAMPLES, TINY_CLASSES, 0.0, d_logits, NULL);
                if (step == 1) start = loss;
                if (loss < 1e-3) break;
                assert_int_equal(model_backward(m, d_logits), 0);
                adam(m, moments, step, 2e-2);
            }
            const double bound = v[i].options.method == ADAPTER_HEAD ? start : 1e-3;
            if (!(loss < bound)) fail_msg("kind %d, %s: loss %.3g after %d steps", kind, v[i].name, loss, STEPS);
            free(moments);
            model_free(m);
        }
        tiny_batch_free(&t);
        backbone_free(b);
    }
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    char text[256] = "";
    const struct reason why = { text, sizeof text };
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 5);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, NUM_SEQS, 9);
    struct model *m;
    struct adapter_options o = tiny_options(ADAPTER_LORA, "elu1", ADAPTER_K_LOG, 0);
    o.last_layer = TINY_LAYERS;
    assert_int_equal(model_alloc(b, &o, 2, POOL_CLS, 0, SEED, &m, why), GSL_EINVAL);
    assert_non_null(strstr(text, "blocks"));
    o = tiny_options(ADAPTER_NTK, "elu2", ADAPTER_K_LOG, 0);
    assert_int_equal(model_alloc(b, &o, 2, POOL_CLS, 0, SEED, &m, why), GSL_EINVAL);
    o = tiny_options(ADAPTER_NTK, "elu1", ADAPTER_K_LOG, 99);
    assert_int_equal(model_alloc(b, &o, 2, POOL_CLS, 0, SEED, &m, why), GSL_EINVAL);
    o = tiny_options(ADAPTER_LORA, "elu1", ADAPTER_K_LOG, 0);
    char *kept = b->tensors[5].name;
    char other[] = "renamed";
    b->tensors[5].name = other;
    assert_int_equal(model_alloc(b, &o, 2, POOL_CLS, 0, SEED, &m, why), GSL_EBADLEN);
    assert_non_null(strstr(text, kept));
    b->tensors[5].name = kept;

    m = make_model(b, &o, t.rows, NUM_SEQS, 0, 1);
    float logits[NUM_SEQS * TINY_CLASSES];
    assert_int_equal(model_backward(m, logits), GSL_EINVAL);
    assert_int_equal(model_forward(m, &t.batch, logits, 1), GSL_EINVAL);       /* reserved without training */
    t.ids[3] = (int32_t)b->config.vocab_size;
    assert_int_equal(model_forward(m, &t.batch, logits, 0), GSL_EINVAL);
    t.ids[3] = 0;
    assert_int_equal(model_forward(m, &t.batch, logits, 0), 0);
    assert_int_equal(model_set_prefix(m, 0, logits, logits, 1), GSL_EUNSUP);
    assert_int_equal(model_reserve(m, t.rows - 1, NUM_SEQS, t.rows - 1, 0, 1), 0);
    assert_int_equal(model_forward(m, &t.batch, logits, 0), GSL_EINVAL);       /* beyond the plan */
    assert_true(model_bytes(m, (size_t)1 << 40, 1, 1, 0, 1) == SIZE_MAX);
    model_free(m);
    tiny_batch_free(&t);
    backbone_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bert_gradients), cmocka_unit_test(test_vit_gradients),
        cmocka_unit_test(test_mpnet_gradients), cmocka_unit_test(test_checker_rejects),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_ragged), cmocka_unit_test(test_cached_layers),
        cmocka_unit_test(test_starts), cmocka_unit_test(test_set_prefix), cmocka_unit_test(test_shifted_positions),
            cmocka_unit_test(test_projection),
        cmocka_unit_test(test_calibrate),
        cmocka_unit_test(test_whiten), cmocka_unit_test(test_names), cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_fits), cmocka_unit_test(test_refusals)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
