#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"

static const size_t LENGTHS[] = { 3, 3, 1, 5, 4 };
enum { NUM_LENGTHS = sizeof LENGTHS / sizeof *LENGTHS, IMAGE_H = 4, IMAGE_W = 6 };

struct backbone *tiny_backbone(enum backbone_kind kind, uint64_t seed)
{
    struct backbone_config c = { .kind = kind, .hidden = 12, .num_layers = TINY_LAYERS, .num_heads = 3, .mlp_dim = 20,
                                 .norm_eps = 1e-5 };
    if (kind == BACKBONE_VIT) {
        c.pre_norm = c.layer_scale = 1;
        c.image_size = 10;
        c.patch_size = 2;
        c.channels = 2;
        c.position_grid = 5;
    } else {
        c.vocab_size = 11;
        c.max_positions = 9;
        c.type_vocab = kind == BACKBONE_BERT ? 2 : 0;
        c.position_offset = kind == BACKBONE_MPNET ? 2 : 0;
        c.relative_buckets = kind == BACKBONE_MPNET ? 8 : 0;
    }
    struct backbone *b;
    if (backbone_random(&c, 0.4, seed, &b)) abort();
    return b;
}

static void *need(void *p)
{
    if (!p) abort();
    return p;
}

void tiny_batch_make(struct tiny_batch *t, const struct backbone_config *c, size_t num_seqs, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    t->labels = need(calloc(num_seqs, sizeof *t->labels));
    for (size_t s = 0; s < num_seqs; s++)
        t->labels[s] = (int32_t)random_index(seed, RANDOM_TARGETS, 0, s, TINY_CLASSES);
    t->batch.num_seqs = num_seqs;
    if (c->kind == BACKBONE_VIT) {
        const size_t n = num_seqs * c->channels * IMAGE_H * IMAGE_W;
        double *x = need(malloc(n * sizeof *x));
        t->pixels = need(malloc(n * sizeof *t->pixels));
        random_normal(seed, RANDOM_INPUTS, 0, 0, x, n);
        for (size_t i = 0; i < n; i++) t->pixels[i] = (float)x[i];
        free(x);
        t->rows = num_seqs * (1 + IMAGE_H / c->patch_size * (IMAGE_W / c->patch_size));
        t->batch.pixels = t->pixels;
        t->batch.image_h = IMAGE_H;
        t->batch.image_w = IMAGE_W;
        return;
    }
    t->offsets = need(calloc(num_seqs + 1, sizeof *t->offsets));
    for (size_t s = 0; s < num_seqs; s++) t->offsets[s + 1] = t->offsets[s] + LENGTHS[s % NUM_LENGTHS];
    t->rows = t->offsets[num_seqs];
    t->ids = need(calloc(t->rows, sizeof *t->ids));
    t->types = need(calloc(t->rows, sizeof *t->types));
    for (size_t i = 0; i < t->rows; i++) {
        t->ids[i] = (int32_t)random_index(seed, RANDOM_TOKENS, 0, i, c->vocab_size);
        t->types[i] = (int32_t)(c->type_vocab ? random_index(seed, RANDOM_TOKENS, 1, i, c->type_vocab) : 0);
    }
    t->batch.offsets = t->offsets;
    t->batch.ids = t->ids;
    t->batch.type_ids = t->types;
}

void tiny_batch_free(struct tiny_batch *t)
{
    free(t->labels);
    free(t->offsets);
    free(t->ids);
    free(t->types);
    free(t->pixels);
}

void tiny_shake_parameters(struct parameter *parameters, size_t count, double std, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        struct parameter *p = &parameters[i];
        if (p->group == PARAM_BACKBONE) continue;
        const size_t n = p->rows * p->cols;
        double *x = need(malloc(n * sizeof *x));
        random_normal(seed, RANDOM_PERTURBATION, i, 0, x, n);
        const int positive = strstr(p->name, "summary_k") || strstr(p->name, "summary_unit");
        for (size_t j = 0; j < n; j++) p->value[j] += (float)(std * (positive ? fabs(x[j]) : x[j]));
        free(x);
    }
}

void tiny_shake(struct model *m, double std, uint64_t seed)
{
    tiny_shake_parameters(model_parameters(m), model_num_parameters(m), std, seed);
}
