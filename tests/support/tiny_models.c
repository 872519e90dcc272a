#include "tests/support/tiny_models.h"
#include "common/npy.h"
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <sys/stat.h>

static const char vocabulary[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncat\ndog\nsat\non\n##s\n.\n";

int tiny_backbone_write(const char *dir, enum backbone_kind kind, struct reason why)
{
    struct backbone_config c = { .kind = kind, .hidden = 12, .num_layers = 2, .num_heads = 3, .mlp_dim = 20,
                                 .norm_eps = 1e-5, .default_last_layer = 1 };
    if (kind == BACKBONE_VIT) {
        c.pre_norm = 1;
        c.image_size = 28;
        c.patch_size = 7;
        c.channels = 1;
        c.position_grid = 4;
        c.mean[0] = 0.25f;
        c.std[0] = 0.5f;
    } else {
        c.vocab_size = 11;
        c.max_positions = 24;
        c.type_vocab = 2;
    }
    struct backbone *b;
    int status = backbone_random(&c, 0.3, 20240614, &b);
    if (status) return refuse(why, status, "%s", gsl_strerror(status));
    status = backbone_write(dir, b, why);
    backbone_free(b);
    if (status || kind == BACKBONE_VIT) return status;
    char path[512];
    snprintf(path, sizeof path, "%s/vocab.txt", dir);
    FILE *file = fopen(path, "w");
    if (!file) return refuse(why, GSL_EFAILED, "%s: cannot be written", path);
    fputs(vocabulary, file);
    return fclose(file) ? refuse(why, GSL_EFAILED, "%s: cannot be written", path) : GSL_SUCCESS;
}

void tiny_decoder_write(const char *path)
{
    static const char *const merges[] = { "h e", "l l", "he ll", NULL };
    static const char *const specials[] = { "<|s|>", "<|e|>", NULL };
    const struct decoder_config config = { .vocab_size = 261, .hidden = 16, .num_layers = 2, .num_heads = 2,
                                           .kv_heads = 1, .head_dim = 8,
                                           .mlp_dim = 24, .max_positions = 400, .norm_eps = 1e-5, .rope_base = 900.0 };
    struct vocabulary v = vocabulary_make(merges, specials);
    struct decoder *d;
    struct bytes b = { 0 };
    assert_int_equal(decoder_random(&config, 2.0, 20240614, &d), GSL_SUCCESS);
    gguf_put_model(&b, d, &v);
    bytes_write(&b, path);
    bytes_free(&b);
    vocabulary_free(&v);
    decoder_free(d);
}

void tiny_questions_write(const char *path, size_t count)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (size_t i = 0; i < count; i++)
        fprintf(file, "{\"question\": \"is hello number %zu\", \"title\": \"t\", \"answer\": %s, \"passage\": \"hello "
                      "is said %zu times. the other "
                      "words of it are number %zu.\"}\n", i, i % 2 ? "true" : "false", i, 7 * i);
    assert_int_equal(fclose(file), 0);
}

int tiny_inputs_write(const char *folder, struct reason why)
{
    enum { COUNT = 3, SIDE = 14, PATH = 4096 };
    float pixels[COUNT * SIDE * SIDE];
    char path[PATH];
    for (size_t i = 0; i < COUNT * SIDE * SIDE; i++) pixels[i] = (float)(i * 37 % 101) / 101.0f;
    snprintf(path, sizeof path, "%s/vit", folder);
    int status = tiny_backbone_write(path, BACKBONE_VIT, why);
    snprintf(path, sizeof path, "%s/bert", folder);
    if (!status) status = tiny_backbone_write(path, BACKBONE_BERT, why);
    snprintf(path, sizeof path, "%s/images.npy", folder);
    if (!status) status = npy_write_f32(path, pixels, 3, (const size_t[]){ COUNT, SIDE, SIDE }, why.text, why.size);
    snprintf(path, sizeof path, "%s/lm.gguf", folder);
    if (!status) tiny_decoder_write(path);
    snprintf(path, sizeof path, "%s/data", folder);
    if (!status && mkdir(path, 0777)) status = refuse(why, GSL_EFAILED, "%s: cannot be made", path);
    snprintf(path, sizeof path, "%s/data/boolq", folder);
    if (!status && mkdir(path, 0777)) status = refuse(why, GSL_EFAILED, "%s: cannot be made", path);
    snprintf(path, sizeof path, "%s/data/boolq/combined.jsonl", folder);
    if (!status) tiny_questions_write(path, 40);
    return status;
}
