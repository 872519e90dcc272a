/* Real backbones against stored numbers of other implementations (tests/golden): skipped with a line where a backbone
 * is not in the cache. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/reason.h"
#include "tests/support/check.h"
#include "transformer/backbone.h"
#include "transformer/model.h"

/* Two float32 implementations of a 6-layer encoder, numbers stored to 1e-6. */
static const double ATOL_HIDDEN = 2e-5;
/* Twelve blocks with activations of order 10 against double precision. */
static const double ATOL_CLASS_TOKEN = 1e-4;

static json_t *golden(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "tests/golden/%s.json", name);
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

/* A backbone and a model of all its blocks; NULL: the backbone is not there. */
static struct model *open_model(const char *name, struct backbone **backbone, size_t rows, size_t layers)
{
    char text[512] = "";
    const struct reason why = { text, sizeof text };
    if (backbone_open(name, backbone, why)) {
        printf("skipped: %s\n", text);
        return NULL;
    }
    struct model *m;
    const struct adapter_options head = adapter_defaults(ADAPTER_HEAD);
    if (model_alloc(*backbone, &head, 2, POOL_CLS, layers, 1, &m, why)) fail_msg("%s", text);
    assert_int_equal(model_reserve(m, rows, 1, rows, 0, 2), 0);
    return m;
}

/* A vector against "first6" and "norm", or against all its numbers. */
static void check_vector(const float *got, size_t n, const json_t *want, double atol)
{
    const json_t *list = json_is_array(want) ? want : json_object_get(want, "first6"),
                 *norm = json_object_get(want, "norm");
    assert_true(json_array_size(list) > 0 && json_array_size(list) <= n);
    for (size_t i = 0; i < json_array_size(list); i++)
        CHECK_CLOSE(got[i], json_number_value(json_array_get(list, i)), 0.0, atol);
    if (!norm) return;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)got[i] * got[i];
    CHECK_CLOSE(sqrt(sum), json_number_value(norm), 1e-5, 0.0);
}

static void check_sentences(const char *backbone_name, const char *file, const char *first)
{
    enum { ROWS = 128 };
    json_t *root = golden(file), *cases = json_object_get(root, "cases");
    struct backbone *b;
    struct model *m = open_model(backbone_name, &b, ROWS, 0);
    if (!m) {
        json_decref(root);
        skip();
    }
    const size_t h = model_hidden_size(m);
    float *hidden = malloc(ROWS * h * sizeof *hidden), *mean = malloc(h * sizeof *mean);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *item = json_array_get(cases, c), *ids = json_object_get(item, "ids");
        const size_t n = json_array_size(ids), offsets[] = { 0, n };
        const json_t *types = json_object_get(item, "token_type");
        int32_t id[ROWS], type[ROWS];
        assert_true(n > 0 && n <= ROWS);
        for (size_t i = 0; i < n; i++) {
            id[i] = (int32_t)json_integer_value(json_array_get(ids, i));
            type[i] = (int32_t)json_integer_value(json_array_get(types, i));
        }
        const struct batch batch = { .num_seqs = 1, .offsets = offsets, .ids = id, .type_ids = types ? type : NULL };
        assert_int_equal(model_hidden(m, &batch, MODEL_FINAL, hidden), 0);
        check_vector(hidden, h, json_object_get(item, first), ATOL_HIDDEN);
        model_pool_rows(hidden, offsets, 1, h, POOL_MEAN, 0, mean);
        check_vector(mean, h, json_object_get(item, "mean"), ATOL_HIDDEN);
    }
    free(hidden);
    free(mean);
    model_free(m);
    backbone_free(b);
    json_decref(root);
}

static void test_minilm(void **state) { (void)state; check_sentences("minilm", "minilm", "cls"); }
static void test_mpnet(void **state) { (void)state; check_sentences("mpnet-base", "mpnet_base", "first_token"); }

/* The picture of the stored numbers: pixel (c, i, j), then mean and standard deviation. */
static void fill_pixels(const struct backbone_config *c, size_t size, size_t seed, float *x)
{
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < size; i++)
            for (size_t j = 0; j < size; j++) {
                const size_t v = (37 * k + (seed + 3) * i + (2 * seed + 5) * j + i * j / 7) % 256;
                x[(k * size + i) * size + j] = (float)(((double)v / 255.0 - c->mean[k]) / c->std[k]);
            }
}

static void test_dinov2(void **state)
{
    (void)state;
    enum { ROWS = 65, SIZE = 112 };
    json_t *root = golden("dinov2_s14"), *cases = json_object_get(root, "cases");
    struct backbone *b;
    struct model *m = open_model("dinov2-s14", &b, ROWS, 12);
    if (!m) {
        json_decref(root);
        skip();
    }
    const size_t h = model_hidden_size(m);
    float *hidden = malloc(ROWS * h * sizeof *hidden), *mean = malloc(h * sizeof *mean);
    float *pixels = malloc(3 * SIZE * SIZE * sizeof *pixels);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *item = json_array_get(cases, c);
        const size_t size = (size_t)json_integer_value(json_object_get(item, "size"));
        const size_t offsets[] = { 0, model_image_rows(m, size, size) };
        assert_int_equal(offsets[1], json_integer_value(json_object_get(item, "tokens")));
        fill_pixels(&b->config, size, (size_t)json_integer_value(json_object_get(item, "seed")), pixels);
        const struct batch batch = { .num_seqs = 1, .pixels = pixels, .image_h = size, .image_w = size };
        assert_int_equal(model_hidden(m, &batch, 1, hidden), 0);
        check_vector(hidden, h, json_object_get(item, "cls_after_block_0"), ATOL_CLASS_TOKEN);
        assert_int_equal(model_hidden(m, &batch, 11, hidden), 0);
        check_vector(hidden, h, json_object_get(item, "cls_after_block_10"), ATOL_CLASS_TOKEN);
        assert_int_equal(model_hidden(m, &batch, MODEL_FINAL, hidden), 0);
        check_vector(hidden, h, json_object_get(item, "cls_final"), ATOL_CLASS_TOKEN);
        model_pool_rows(hidden, offsets, 1, h, POOL_MEAN, 1, mean);
        check_vector(mean, h, json_object_get(item, "mean_patch_final"), ATOL_CLASS_TOKEN);
    }
    free(hidden);
    free(mean);
    free(pixels);
    model_free(m);
    backbone_free(b);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_minilm), cmocka_unit_test(test_mpnet), cmocka_unit_test(test_dinov2)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
