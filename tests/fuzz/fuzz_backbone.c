#include "tests/support/fuzz.h"
#include "tests/support/tiny_models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZES "\"hidden_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":3,"
#define IMAGES "\"image_size\":28,\"patch_size\":7,\"num_channels\":1,\"hidden_act\":\"gelu\"}"
static const char vit[] = "{\"model_type\":\"vit\"," SIZES "\"intermediate_size\":20,\"layer_norm_eps\":1e-05,"
                          "\"qkv_bias\":true," IMAGES,
                  bert[] = "{\"model_type\":\"bert\"," SIZES "\"intermediate_size\":20,\"layer_norm_eps\":1e-05,"
                           "\"vocab_size\":11,\"max_position_embeddings\":24,\"type_vocab_size\":2,"
                           "\"hidden_act\":\"gelu\"}",
                  dino[] = "{\"model_type\":\"dinov2\"," SIZES "\"mlp_ratio\":4," IMAGES;

#define SEED(x) { x, sizeof x - 1 }
const struct fuzz_seed fuzz_seeds[] = { SEED(vit), SEED(bert), SEED(dino) };
const size_t fuzz_num_seeds = 3;

/* The bytes as config.json beside the weights of an image model, then of a text model. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const names[] = { "vit", "bert" };
    static int made;
    char why[256] = "", path[256];
    const struct reason reason = { why, sizeof why };
    for (int kind = 0; kind < 2; kind++) {
        snprintf(path, sizeof path, "%s/%s", fuzz_folder(), names[kind]);
        if (!made && tiny_backbone_write(path, kind ? BACKBONE_BERT : BACKBONE_VIT, reason)) abort();
    }
    made = 1;
    for (int kind = 0; kind < 2; kind++) {
        struct backbone *b;
        snprintf(path, sizeof path, "%s/config.json", names[kind]);
        fuzz_put(path, bytes, size);
        snprintf(path, sizeof path, "%s/%s", fuzz_folder(), names[kind]);
        *why = '\0';
        if (backbone_open(path, &b, reason)) {
            /* A refusal is one line. */
            if (!*why || strchr(why, '\n')) abort();
            continue;
        }
        /* What was taken fits the weights. */
        const struct backbone_config *c = &b->config;
        if (c->hidden != 12 || !c->num_layers || c->num_layers > 2) abort();
        if (!c->num_heads || c->hidden % c->num_heads || !(c->norm_eps > 0.0)) abort();
        backbone_free(b);
    }
    return 0;
}
