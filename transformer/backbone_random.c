#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "transformer/backbone.h"

enum { DRAW = 256 };
static const double MATRIX_STD = 0.02;

void backbone_free(struct backbone *b)
{
    if (!b) return;
    for (size_t i = 0; i < b->num_tensors; i++) {
        free(b->tensors[i].name);
        if (!b->file) free(b->tensors[i].data);
    }
    free(b->tensors);
    if (b->file) b->file_free(b->file);
    free(b->vocab_path);
    free(b->name);
    free(b);
}

const struct tensor *backbone_tensor(const struct backbone *b, const char *name)
{
    for (size_t i = 0; i < b->num_tensors; i++)
        if (!strcmp(b->tensors[i].name, name)) return &b->tensors[i];
    return NULL;
}

struct making { struct backbone *b; size_t room; double jitter; uint64_t seed; int status; };

/* A tensor (rows, cols), or (rows) when cols is 0: value + N(0, std^2). */
static void make(struct making *m, const char *name, size_t rows, size_t cols, double value, double std)
{
    if (m->status) return;
    struct backbone *b = m->b;
    if (b->num_tensors == m->room) {
        const size_t room = m->room ? 2 * m->room : 64;
        struct tensor *more = realloc(b->tensors, room * sizeof *more);
        if (!more) {
            m->status = GSL_ENOMEM;
            return;
        }
        b->tensors = more;
        m->room = room;
    }
    const size_t n = rows * (cols ? cols : 1);
    struct tensor t = { .name = strdup(name), .rank = cols ? 2 : 1, .dims = { rows, cols, 0, 0 },
                        .data = malloc(n * sizeof(float)) };
    if (!t.name || !t.data) {
        free(t.name);
        free(t.data);
        m->status = GSL_ENOMEM;
        return;
    }
    const double spread = std + m->jitter;
    double x[DRAW];
    for (size_t i = 0; i < n; i++) {
        if (i % DRAW == 0 && spread > 0.0) random_normal(m->seed, RANDOM_WEIGHTS, b->num_tensors, i / DRAW, x, DRAW);
        t.data[i] = (float)(value + (spread > 0.0 ? spread * x[i % DRAW] : 0.0));
    }
    b->tensors[b->num_tensors++] = t;
}

static void make_linear(struct making *m, size_t layer, const char *which, size_t out, size_t in)
{
    char name[64];
    snprintf(name, sizeof name, "layer.%zu.%s.weight", layer, which);
    make(m, name, out, in, 0.0, MATRIX_STD);
    snprintf(name, sizeof name, "layer.%zu.%s.bias", layer, which);
    make(m, name, out, 0, 0.0, 0.0);
}

static void make_norm(struct making *m, const char *which, size_t n)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", which);
    make(m, name, n, 0, 1.0, 0.0);
    snprintf(name, sizeof name, "%s.bias", which);
    make(m, name, n, 0, 0.0, 0.0);
}

static void make_layer(struct making *m, size_t l)
{
    const struct backbone_config *c = &m->b->config;
    char name[64];
    make_linear(m, l, "q", c->hidden, c->hidden);
    make_linear(m, l, "k", c->hidden, c->hidden);
    make_linear(m, l, "v", c->hidden, c->hidden);
    make_linear(m, l, "o", c->hidden, c->hidden);
    make_linear(m, l, "fc1", c->mlp_dim, c->hidden);
    make_linear(m, l, "fc2", c->hidden, c->mlp_dim);
    for (int i = 1; i <= 2; i++) {
        snprintf(name, sizeof name, "layer.%zu.norm%d", l, i);
        make_norm(m, name, c->hidden);
        snprintf(name, sizeof name, "layer.%zu.scale%d", l, i);
        if (c->layer_scale) make(m, name, c->hidden, 0, 1.0, 0.0);
    }
}

int backbone_random(const struct backbone_config *config, double jitter, uint64_t seed, struct backbone **out)
{
    struct backbone *b = calloc(1, sizeof *b);
    if (!b) return GSL_ENOMEM;
    b->config = *config;
    struct making m = { .b = b, .jitter = jitter, .seed = seed };
    const size_t h = config->hidden;
    if (config->kind == BACKBONE_VIT) {
        make(&m, "embed.patch.weight", h, config->channels * config->patch_size * config->patch_size, 0.0, MATRIX_STD);
        make(&m, "embed.patch.bias", h, 0, 0.0, 0.0);
        make(&m, "embed.cls", h, 0, 0.0, MATRIX_STD);
        make(&m, "embed.position", 1 + config->position_grid * config->position_grid, h, 0.0, MATRIX_STD);
    } else {
        make(&m, "embed.token", config->vocab_size, h, 0.0, MATRIX_STD);
        make(&m, "embed.position", config->max_positions, h, 0.0, MATRIX_STD);
        if (config->type_vocab) make(&m, "embed.type", config->type_vocab, h, 0.0, MATRIX_STD);
        make_norm(&m, "embed.norm", h);
        if (config->relative_buckets)
            make(&m, "relative_bias", config->relative_buckets, config->num_heads, 0.0, MATRIX_STD);
    }
    for (size_t l = 0; l < config->num_layers; l++) make_layer(&m, l);
    if (config->pre_norm) make_norm(&m, "final_norm", h);
    b->name = strdup("random");
    if (!b->name) m.status = GSL_ENOMEM;
    if (m.status) {
        backbone_free(b);
        return m.status;
    }
    *out = b;
    return GSL_SUCCESS;
}
