/* Backbones from folders: read as they were written, every wrong file refused by the name of what is wrong. */
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_model.h"
#include "transformer/backbone.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char why[512];
static const struct reason reason = { why, sizeof why };

static size_t size_of(const struct tensor *t)
{
    size_t size = 1;
    for (size_t i = 0; i < t->rank; i++) size *= t->dims[i];
    return size;
}

/* A folder of its own with a tiny model of the kind. */
static const char *folder_of(void *state, const char *name, enum backbone_kind kind, struct backbone **b)
{
    const char *dir = scratch_path(state, name);
    *b = tiny_backbone(kind, 1);
    if (kind == BACKBONE_VIT) {
        /* Without layer scale, which is DINOv2's, and with as many channels as a file may have. */
        struct backbone_config config = (*b)->config;
        config.layer_scale = 0;
        config.channels = 3;
        for (int c = 0; c < 3; c++) config.std[c] = 0.4f;
        backbone_free(*b);
        assert_int_equal(backbone_random(&config, 0.3, 1, b), 0);
    }
    if (mkdir(dir, 0755) || backbone_write(dir, *b, reason)) fail_msg("%s: %s", dir, why);
    return dir;
}

static void check_equal(const struct backbone *got, const struct backbone *want)
{
    assert_int_equal(got->num_tensors, want->num_tensors);
    for (size_t i = 0; i < want->num_tensors; i++) {
        const struct tensor *a = backbone_tensor(got, want->tensors[i].name), *b = &want->tensors[i];
        if (!a) fail_msg("%s is missing", b->name);
        assert_int_equal(size_of(a), size_of(b));
        assert_memory_equal(a->data, b->data, size_of(b) * sizeof(float));
    }
    assert_int_equal(got->config.hidden, want->config.hidden);
    assert_int_equal(got->config.num_layers, want->config.num_layers);
    assert_int_equal(got->config.num_heads, want->config.num_heads);
    assert_int_equal(got->config.mlp_dim, want->config.mlp_dim);
    assert_int_equal(got->config.pre_norm, want->config.pre_norm);
}

static void test_round_trip(void **state)
{
    static const enum backbone_kind kinds[] = { BACKBONE_BERT, BACKBONE_VIT };
    for (size_t k = 0; k < 2; k++) {
        struct backbone *made, *read;
        const char *dir = folder_of(*state, k ? "vit" : "bert", kinds[k], &made);
        if (backbone_open(dir, &read, reason)) fail_msg("%s", why);
        assert_int_equal(read->config.kind, kinds[k]);
        check_equal(read, made);
        backbone_free(read);
        backbone_free(made);
    }
    backbone_free(NULL);
}

/* ---- changed files --------------------------------------------------------------------------------------- */

enum change { PREFIXED, DROPPED, TURNED, NOT_FINITE };

/* The weights again, every name with a prefix, or tensor `which` changed. */
static void rewrite(void *state, const char *folder, enum change change, const char *which)
{
    char path[64];
    struct tensors *file;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (tensors_read(scratch_path(state, path), &file, reason)) fail_msg("%s", why);
    const size_t n = tensors_count(file);
    struct tensor *list = calloc(n, sizeof *list);
    size_t kept = 0, found = 0;
    for (size_t i = 0; i < n; i++) {
        struct tensor t = *tensors_at(file, i);
        const bool hit = which && !strcmp(t.name, which);
        char name[128];
        snprintf(name, sizeof name, "%s%s", change == PREFIXED ? "bert." : "", t.name);
        found += hit;
        if (hit && change == DROPPED) continue;
        if (hit && change == TURNED) {
            const size_t rows = t.dims[0];
            t.dims[0] = t.dims[1];
            t.dims[1] = rows;
        }
        if (hit && change == NOT_FINITE) t.data[1] = NAN;
        t.name = strdup(name);
        list[kept++] = t;
    }
    assert_int_equal(found, which ? 1 : 0);
    FILE *out = fopen(scratch_path(state, path), "w");
    assert_non_null(out);
    assert_int_equal(tensors_write(out, list, kept, NULL), 0);
    fclose(out);
    for (size_t i = 0; i < kept; i++) free(list[i].name);
    free(list);
    tensors_free(file);
}

static void refuses(const char *name_or_dir, int code, const char *says, const char *says_too)
{
    struct backbone *b = NULL;
    why[0] = '\0';
    const int status = backbone_open(name_or_dir, &b, reason);
    if (status != code) fail_msg("%d (%s), expected %d with '%s'", status, why, code, says);
    assert_null(b);
    if (!strstr(why, says) || !strstr(why, says_too) || strchr(why, '\n'))
        fail_msg("expected '%s' and '%s', not '%s'", says, says_too, why);
}

/* Names with the family's prefix are the same model. */
static void test_prefix(void **state)
{
    struct backbone *made, *read;
    const char *dir = folder_of(*state, "prefixed", BACKBONE_BERT, &made);
    rewrite(*state, "prefixed", PREFIXED, NULL);
    if (backbone_open(dir, &read, reason)) fail_msg("%s", why);
    check_equal(read, made);
    backbone_free(read);
    backbone_free(made);
}

static void test_refuses_tensors(void **state)
{
    static const struct { enum change change; const char *which; int code; const char *says; } bad[] = {
        { DROPPED, "encoder.layer.1.attention.self.key.bias", GSL_EINVAL, "missing" },
        { DROPPED, "embeddings.word_embeddings.weight", GSL_EINVAL, "missing" },
        { TURNED, "encoder.layer.0.intermediate.dense.weight", GSL_EINVAL, "is not" },
        { TURNED, "embeddings.position_embeddings.weight", GSL_EINVAL, "is not" },
        { NOT_FINITE, "encoder.layer.0.output.dense.bias", GSL_EDOM, "number 1 is not finite" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct backbone *made;
        char name[16];
        snprintf(name, sizeof name, "bad%zu", i);
        const char *dir = folder_of(*state, name, BACKBONE_BERT, &made);
        backbone_free(made);
        rewrite(*state, name, bad[i].change, bad[i].which);
        refuses(dir, bad[i].code, bad[i].which, bad[i].says);
    }
}

static void test_refuses_config(void **state)
{
    static const struct { const char *text, *says; } bad[] = {
        { "", "config.json" },
        { "[]", "not a JSON object" },
        { "{\"model_type\": \"bert\", \"model_type\": \"vit\"}", "duplicate" },
        { "{\"hidden_size\": 12}", "model_type (none)" },
        { "{\"model_type\": \"gpt2\"}", "model_type gpt2" },
        { "{\"model_type\": \"g\\npt\"}", "model_type g?pt" },
        { "{\"model_type\": \"bert\", \"hidden_act\": \"relu\"}", "hidden_act" },
        { "{\"model_type\": \"bert\"}", "hidden_size" },
        { "{\"model_type\": \"bert\", \"hidden_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 5, "
          "\"intermediate_size\": 8}", "num_attention_heads" },
        { "{\"model_type\": \"bert\", \"hidden_size\": 1e9, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
          "\"intermediate_size\": 8}", "hidden_size" },
        { "{\"model_type\": \"bert\", \"hidden_size\": -12, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
          "\"intermediate_size\": 8}", "hidden_size" },
        { "{\"model_type\": \"vit\", \"hidden_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
          "\"intermediate_size\": 8,"
          "\"image_size\": 30, \"patch_size\": 7}", "patch_size" },
    };
    struct backbone *made;
    const char *dir = folder_of(*state, "config", BACKBONE_BERT, &made);
    backbone_free(made);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_file(*state, "config/config.json", bad[i].text);
        refuses(dir, GSL_EINVAL, bad[i].says, "config.json");
    }
}

static void test_refuses_names(void **state)
{
    refuses("no-such-backbone", GSL_EINVAL, "neither", "folder");
    refuses("vit-fashon", GSL_EINVAL, "neither", "is it vit-fashion?");
    const char *before = getenv("PREFIX_NTK_DATA");
    char *kept = before ? strdup(before) : NULL;
    setenv("PREFIX_NTK_DATA", scratch_path(*state, "nothing"), 1);
    size_t count;
    const struct backbone_entry *entries = backbone_list(&count);
    for (size_t i = 0; i < count; i++)
        if (!entries[i].committed) refuses(entries[i].name, GSL_EINVAL, "data/fetch.sh", entries[i].name);
    if (kept) setenv("PREFIX_NTK_DATA", kept, 1);
    else unsetenv("PREFIX_NTK_DATA");
    free(kept);
    /* A folder without weights. */
    struct backbone *made;
    const char *dir = folder_of(*state, "empty", BACKBONE_VIT, &made);
    backbone_free(made);
    assert_int_equal(remove(scratch_path(*state, "empty/model.safetensors")), 0);
    refuses(dir, GSL_EFAILED, "model.safetensors", "No such file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_prefix), cmocka_unit_test(test_refuses_tensors),
        cmocka_unit_test(test_refuses_config), cmocka_unit_test(test_refuses_names),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
