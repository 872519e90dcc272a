/* Adapter directories: what is written is read back bit for bit, what PEFT writes is read, what is wrong is refused. */
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_model.h"

#include "transformer/adapter_files.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SEQS = 4, HIDDEN = 12 };
static const char *const classes[] = { "red", "green", "blue" };
static char line[512];
static const struct reason why = { line, sizeof line };

static struct model *make_model(const struct backbone *b, const struct adapter_options *o, enum model_pool pool,
                                uint64_t seed, const struct tiny_batch *t)
{
    struct model *m;
    const int status = model_alloc(b, o, TINY_CLASSES, pool, 0, seed, &m, why);
    if (status) fail_msg("%s", line);
    assert_int_equal(model_reserve(m, t->rows, SEQS, t->rows, 1, 1), GSL_SUCCESS);
    return m;
}

static void logits_of(struct model *m, const struct tiny_batch *t, float *logits)
{
    assert_int_equal(model_forward(m, &t->batch, logits, 0), GSL_SUCCESS);
}

/* ---- round trips -------------------------------------------------------------------------------------------- */

static void round_trip(void *state, enum backbone_kind kind, const struct adapter_options *o, const char *name)
{
    struct backbone *b = tiny_backbone(kind, 7);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, SEQS, 11);
    const enum model_pool pool = kind == BACKBONE_VIT ? POOL_CLS : POOL_MEAN;
    struct model *m = make_model(b, o, pool, 1, &t);
    assert_int_equal(model_calibrate(m, &t.batch), GSL_SUCCESS);
    tiny_shake(m, 0.3, 13);
    for (size_t i = 0; o->method == ADAPTER_FULL && i < model_num_parameters(m); i++)
        model_parameters(m)[i].value[0] += 0.125f;
    model_after_update(m);
    float before[SEQS * TINY_CLASSES], after[SEQS * TINY_CLASSES];
    logits_of(m, &t, before);
    const char *dir = scratch_path(state, name);
    if (adapter_files_write(dir, m, pool, classes, why)) fail_msg("%s: %s", name, line);
    struct adapter_description d;
    if (adapter_files_read(dir, &d, why)) fail_msg("%s: %s", name, line);
    assert_int_equal(d.options.method, o->method);
    assert_int_equal(d.pool, pool);
    assert_int_equal(d.num_classes, TINY_CLASSES);
    for (size_t c = 0; c < TINY_CLASSES; c++) assert_string_equal(d.class_names[c], classes[c]);
    struct model *r = make_model(b, &d.options, d.pool, 2, &t);
    if (adapter_files_load(dir, r, why)) fail_msg("%s: %s", name, line);
    logits_of(r, &t, after);
    assert_memory_equal(before, after, sizeof before);
    /* The seed alone gives others. */
    struct model *other = make_model(b, &d.options, d.pool, 2, &t);
    logits_of(other, &t, after);
    assert_memory_not_equal(before, after, sizeof before);
    adapter_description_free(&d);
    model_free(other);
    model_free(r);
    model_free(m);
    tiny_batch_free(&t);
    backbone_free(b);
}

static void test_round_trips(void **state)
{
    static const enum backbone_kind kinds[] = { BACKBONE_VIT, BACKBONE_BERT, BACKBONE_MPNET };
    char name[64];
    for (size_t k = 0; k < 3; k++)
        for (int method = 0; method < NUM_ADAPTER_METHODS; method++) {
            struct adapter_options o = adapter_defaults((enum adapter_method)method);
            o.prefix_len = 3;
            o.rank = 2;
            snprintf(name, sizeof name, "trip-%zu-%d", k, method);
            round_trip(*state, kinds[k], &o, name);
        }
}

/* Options that are not the defaults. */
static void test_options(void **state)
{
    struct adapter_options o = adapter_defaults(ADAPTER_LORA);
    o.rank = 1;
    o.alpha = 3.5;
    o.targets = 1u << PROJ_K | 1u << PROJ_O | 1u << PROJ_FC1 | 1u << PROJ_FC2;
    o.first_layer = o.last_layer = 1;
    round_trip(*state, BACKBONE_BERT, &o, "lora-rank-1");
    o = adapter_defaults(ADAPTER_PTUNING);
    o.prefix_len = 1;
    o.reparameterise = 1;
    o.mlp_dim = 5;
    round_trip(*state, BACKBONE_BERT, &o, "ptuning-mlp");
    for (int k = ADAPTER_K_LOG; k <= ADAPTER_K_TIED; k++) {
        char name[32];
        o = adapter_defaults(ADAPTER_NTK);
        o.k_mode = (enum adapter_k_mode)k;
        o.z_rank = 2;
        o.units = k % 2;
        o.whiten = k / 2;
        o.first_layer = o.last_layer = 0;
        snprintf(name, sizeof name, "ntk-k-%d", k);
        round_trip(*state, BACKBONE_VIT, &o, name);
    }
    o = adapter_defaults(ADAPTER_PREFIX_PLUS);
    strcpy(o.feature, "cheb:1");
    o.bound = 2.5;
    round_trip(*state, BACKBONE_BERT, &o, "plus-cheb");
    /* Random features are those of the model that was saved, whatever seed the one that reads has. */
    strcpy(o.feature, "favor:6");
    round_trip(*state, BACKBONE_BERT, &o, "plus-favor");
}

/* ---- as PEFT writes it ---------------------------------------------------------------------------------------- */

static void write_tensors(void *state, const char *name, const struct tensor *list, size_t count)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    FILE *f = fopen(scratch_path(state, name), "wb");
    assert_non_null(f);
    assert_int_equal(tensors_write(f, list, count, metadata), GSL_SUCCESS);
    fclose(f);
}

static const char *new_folder(void *state, const char *name, const char *config)
{
    char file[128];
    const char *dir = scratch_path(state, name);
    assert_int_equal(mkdir(dir, 0777), 0);
    snprintf(file, sizeof file, "%s/adapter_config.json", name);
    scratch_file(state, file, config);
    return dir;
}

enum { PEFT_RANK = 2 };
static const char lora_config[] = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 6, \"target_modules\": "
                                  "[\"query\", \"value\"], \"bias\": \"none\","
                                  " \"task_type\": \"SEQ_CLS\", \"modules_to_save\": [\"classifier\"]}";

/* LoRA of both blocks and the classifier in one file, under PEFT's names; returns the number of tensors. */
static size_t peft_lora(struct tensor *list, char names[][128], float *data, size_t *used)
{
    static const char *const modules[] = { "query", "value" };
    size_t n = 0;
    *used = 0;
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int p = 0; p < 2; p++)
            for (int side = 0; side < 2; side++, n++) {
                snprintf(names[n], 128, "base_model.model.bert.encoder.layer.%d.attention.self.%s.lora_%c.weight", l,
                         modules[p], side ? 'B' : 'A');
                list[n] = (struct tensor){ .name = names[n], .rank = 2, .dims = { side ? HIDDEN : PEFT_RANK,
                                                                                  side ? PEFT_RANK : HIDDEN },
                                                                                  .data = data + *used };
                *used += HIDDEN * PEFT_RANK;
            }
    strcpy(names[n], "base_model.model.classifier.weight");
    list[n] = (struct tensor){ .name = names[n], .rank = 2, .dims = { TINY_CLASSES, HIDDEN }, .data = data + *used };
    *used += TINY_CLASSES * HIDDEN;
    n++;
    strcpy(names[n], "base_model.model.classifier.bias");
    list[n] = (struct tensor){ .name = names[n], .rank = 1, .dims = { TINY_CLASSES }, .data = data + *used };
    *used += TINY_CLASSES;
    n++;
    for (size_t i = 0; i < *used; i++) data[i] = (float)((double)((i * 37 + 11) % 101) / 101.0 - 0.47);
    return n;
}

static void test_peft_lora(void **state)
{
    struct tensor list[16];
    char names[16][128];
    float data[1024], logits[SEQS * TINY_CLASSES], want[SEQS * TINY_CLASSES];
    size_t used, count = peft_lora(list, names, data, &used);
    const char *dir = new_folder(*state, "peft-lora", lora_config);
    write_tensors(*state, "peft-lora/adapter_model.safetensors", list, count);
    struct adapter_description d;
    if (adapter_files_read(dir, &d, why)) fail_msg("%s", line);
    assert_int_equal(d.options.method, ADAPTER_LORA);
    assert_int_equal(d.options.rank, 2);
    CHECK_CLOSE(d.options.alpha, 6.0, 0.0, 0.0);
    assert_int_equal(d.options.targets, 1u << PROJ_Q | 1u << PROJ_V);
    assert_int_equal(d.num_classes, 0);
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 7);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, SEQS, 11);
    struct model *m = make_model(b, &d.options, POOL_MEAN, 1, &t), *byhand = make_model(b, &d.options, POOL_MEAN, 3,
                                                                                        &t);
    if (adapter_files_load(dir, m, why)) fail_msg("%s", line);
    logits_of(m, &t, logits);
    /* The same numbers put in by name. */
    size_t n = 0;
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int p = 0; p < 2; p++)
            for (int side = 0; side < 2; side++, n++) {
                char name[64];
                snprintf(name, sizeof name, "layer.%d.%c.lora_%c", l, p ? 'v' : 'q', side ? 'B' : 'A');
                memcpy(model_parameter(byhand, name)->value, list[n].data, HIDDEN * PEFT_RANK * sizeof(float));
            }
    memcpy(model_parameter(byhand, "head.weight")->value, list[n].data, TINY_CLASSES * HIDDEN * sizeof(float));
    memcpy(model_parameter(byhand, "head.bias")->value, list[n + 1].data, TINY_CLASSES * sizeof(float));
    model_after_update(byhand);
    logits_of(byhand, &t, want);
    assert_memory_equal(logits, want, sizeof want);
    /* Refused: a tensor less, another shape. */
    write_tensors(*state, "peft-lora/adapter_model.safetensors", list + 1, count - 1);
    assert_int_equal(adapter_files_load(dir, m, why), GSL_EINVAL);
    assert_non_null(strstr(line, "missing"));
    list[0].dims[0] = HIDDEN;
    list[0].dims[1] = PEFT_RANK;
    write_tensors(*state, "peft-lora/adapter_model.safetensors", list, count);
    assert_int_equal(adapter_files_load(dir, m, why), GSL_EINVAL);
    assert_non_null(strstr(line, "shape"));
    adapter_description_free(&d);
    model_free(m);
    model_free(byhand);
    tiny_batch_free(&t);
    backbone_free(b);
}

static void test_peft_prefix(void **state)
{
    enum { PREFIX = 3, COLS = 2 * TINY_LAYERS * HIDDEN };
    float prefix[PREFIX * COLS], head[TINY_CLASSES * HIDDEN + TINY_CLASSES];
    for (size_t i = 0; i < PREFIX * COLS; i++) prefix[i] = (float)((double)((i * 29 + 3) % 97) / 97.0 - 0.51);
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        head[i] = (float)((double)((i * 31 + 5) % 89) / 89.0 - 0.43);
    const struct tensor list[] = { { .name = "prompt_embeddings", .rank = 2, .dims = { PREFIX, COLS }, .data = prefix },
                                   { .name = "base_model.classifier.weight", .rank = 2,
                                     .dims = { TINY_CLASSES, HIDDEN }, .data = head },
                                   { .name = "base_model.classifier.bias", .rank = 1, .dims = { TINY_CLASSES },
                                     .data = head + TINY_CLASSES * HIDDEN } };
    const char *dir = new_folder(*state, "peft-prefix",
                                 "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3, \"token_dim\": 12, "
                                 "\"num_layers\": 2,"
                                                        " \"num_attention_heads\": 3, \"prefix_projection\": false}");
    write_tensors(*state, "peft-prefix/adapter_model.safetensors", list, 3);
    struct adapter_description d;
    if (adapter_files_read(dir, &d, why)) fail_msg("%s", line);
    assert_int_equal(d.options.method, ADAPTER_PTUNING);
    assert_int_equal(d.options.prefix_len, PREFIX);
    struct backbone *b = tiny_backbone(BACKBONE_BERT, 7);
    struct tiny_batch t;
    tiny_batch_make(&t, &b->config, SEQS, 11);
    struct model *m = make_model(b, &d.options, POOL_MEAN, 1, &t);
    if (adapter_files_load(dir, m, why)) fail_msg("%s", line);
    for (size_t l = 0; l < TINY_LAYERS; l++)
        for (size_t r = 0; r < PREFIX; r++)
            for (int value = 0; value < 2; value++)
                assert_memory_equal(model_prefix_rows(m, l, value) + r * HIDDEN,
                                    prefix + r * COLS + (2 * l + (size_t)value) * HIDDEN, HIDDEN * sizeof(float));
    assert_memory_equal(model_parameter(m, "head.weight")->value, head, TINY_CLASSES * HIDDEN * sizeof(float));
    adapter_description_free(&d);
    model_free(m);
    tiny_batch_free(&t);
    backbone_free(b);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    static const struct { const char *config, *says; } bad[] = {
        { "{\"peft_type\": \"LORA\", ", "adapter_config.json" },
        { "[1, 2]", "adapter_config.json" },
        { "{}", "peft_type" },
        { "{\"peft_type\": 3}", "peft_type" },
        { "{\"peft_type\": \"IA3\"}", "IA3" },
        { "{\"peft_type\": \"LORA\", \"r\": 0, \"lora_alpha\": 4, \"target_modules\": [\"query\"]}", "r, lora_alpha" },
        { "{\"peft_type\": \"LORA\", \"r\": -3, \"lora_alpha\": 4, \"target_modules\": [\"query\"]}", "r, lora_alpha" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"pooler\"]}", "pooler" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": []}", "target_modules" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"query\"], \"use_rslora\": "
          "true}", "use_rslora" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"query\"], \"bias\": \"all\"}",
          "bias" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"query\"], \"rank_pattern\": "
          "{\"query\": 4}}", "rank_pattern" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"query\"], "
          "\"layers_to_transform\": [0, 2]}", "layers_to_transform" },
        { "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"query\"], "
          "\"layers_to_transform\": \"all\"}", "layers_to_transform" },
        { "{\"peft_type\": \"PREFIX_TUNING\"}", "num_virtual_tokens" },
        /* 2^32 is not 0. */
        { "{\"peft_type\": \"NTK_ATTENTION\", \"prefix_ntk\": {\"pool\": \"cls\", \"feature\": \"elu1\", "
          "\"k_mode\": \"log\", \"first_layer\": 4294967296, \"last_layer\": 1}}", "first_layer" },
        { "{\"peft_type\": \"NTK_ATTENTION\", \"prefix_ntk\": {\"pool\": \"cls\", \"feature\": \"elu1\", "
          "\"k_mode\": \"log\", \"first_layer\": 0, \"last_layer\": 1.5}}", "last_layer" },
        { "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3, \"prefix_ntk\": {\"pool\": \"max\"}}",
          "prefix_ntk" },
        { "{\"peft_type\": \"LORA\", \"peft_type\": \"LORA\"}", "adapter_config.json" },
    };
    struct adapter_description d;
    const char *dir = new_folder(*state, "refused", "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_file(*state, "refused/adapter_config.json", bad[i].config);
        const int status = adapter_files_read(dir, &d, why);
        if (status != GSL_EINVAL || !strstr(line, bad[i].says) || strchr(line, '\n'))
            fail_msg("%s: %d, %s", bad[i].config, status, line);
    }
    assert_int_not_equal(adapter_files_read(scratch_path(*state, "nowhere"), &d, why), GSL_SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_round_trips), cmocka_unit_test(test_options),
                                        cmocka_unit_test(test_peft_lora), cmocka_unit_test(test_peft_prefix),
                                            cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
