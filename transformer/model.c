#include "transformer/model_internal.h"

#include <gsl/gsl_errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/random.h"

static const double HEAD_STD = 0.02;
/* The head's draws: above every (block, parameter) of an adapter. */
static const uint64_t HEAD_TRIAL = (uint64_t)1 << 40;

/* ---- arrays and parameters ---------------------------------------------------------------------------- */

/* ---- weights ---------------------------------------------------------------------------------------------- */

/* What is being read; the first failure sticks. */
struct reading { struct model *m; struct reason why; int status; };

/* The data of a tensor of rows x cols numbers; NULL and a reason when it is missing or of another size. */
static const float *data_of(struct reading *r, const char *name, size_t rows, size_t cols)
{
    if (r->status) return NULL;
    const struct tensor *t = backbone_tensor(r->m->backbone, name);
    if (!t) {
        r->status = refuse(r->why, GSL_EBADLEN, "the backbone has no tensor %s", name);
        return NULL;
    }
    size_t n = 1;
    for (size_t i = 0; i < t->rank; i++) n *= t->dims[i];
    if (n != rows * cols) {
        r->status =
            refuse(r->why, GSL_EBADLEN, "tensor %s has %zu numbers where %zu x %zu are expected", name, n, rows, cols);
        return NULL;
    }
    return t->data;
}

/* A weight in place when frozen; when trained a copy with a gradient, registered under its name. */
static const float *weight(struct reading *r, int trained, size_t rows, size_t cols, float **grad, const char *format,
                           ...) __attribute__((format(printf, 6, 7)));
static const float *weight(struct reading *r, int trained, size_t rows, size_t cols, float **grad, const char *format,
                           ...)
{
    char name[64];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    *grad = NULL;
    const float *data = data_of(r, name, rows, cols);
    if (!data || !trained) return data;
    float *value = parameters_array(&r->m->parameters, rows * cols), *g = parameters_array(&r->m->parameters,
        rows * cols);
    if (!value || !g) {
        r->status = refuse(r->why, GSL_ENOMEM, "no memory for the weights");
        return NULL;
    }
    memcpy(value, data, rows * cols * sizeof *value);
    *grad = g;
    r->status = parameters_add(&r->m->parameters, name, value, g, rows, cols, rows > 1, PARAM_BACKBONE);
    return value;
}

static void read_norm(struct reading *r, int trained, struct norm *norm, size_t n, const char *prefix)
{
    norm->weight = weight(r, trained, 1, n, &norm->d_weight, "%s.weight", prefix);
    norm->bias = weight(r, trained, 1, n, &norm->d_bias, "%s.bias", prefix);
}

static void read_linear(struct reading *r, int trained, struct linear *linear, size_t out, size_t in,
                        const char *prefix)
{
    linear->weight = weight(r, trained, out, in, &linear->d_weight, "%s.weight", prefix);
    linear->bias = weight(r, trained, 1, out, &linear->d_bias, "%s.bias", prefix);
}

/* q, k, v one below the other, so that one product makes all three. */
static void read_qkv(struct reading *r, int trained, struct linear *qkv, size_t h, size_t layer)
{
    static const char *const names[] = { "q", "k", "v" };
    if (r->status) return;
    float *w = parameters_array(&r->m->parameters, 3 * h * h), *b = parameters_array(&r->m->parameters, 3 * h);
    float *dw = trained ? parameters_array(&r->m->parameters, 3 * h * h) : NULL, *db = trained
        ? parameters_array(&r->m->parameters, 3 * h) : NULL;
    if (!w || !b || (trained && (!dw || !db))) {
        r->status = refuse(r->why, GSL_ENOMEM, "no memory for the weights");
        return;
    }
    *qkv = (struct linear){ w, b, dw, db };
    for (size_t i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer.%zu.%s.weight", layer, names[i]);
        const float *data = data_of(r, name, h, h);
        if (!data) return;
        memcpy(w + i * h * h, data, h * h * sizeof *w);
        if (trained)
            r->status = parameters_add(&r->m->parameters, name, w + i * h * h, dw + i * h * h, h, h, 1, PARAM_BACKBONE);
        snprintf(name, sizeof name, "layer.%zu.%s.bias", layer, names[i]);
        data = data_of(r, name, 1, h);
        if (!data) return;
        memcpy(b + i * h, data, h * sizeof *b);
        if (trained)
            r->status = parameters_add(&r->m->parameters, name, b + i * h, db + i * h, 1, h, 0, PARAM_BACKBONE);
    }
}

static void read_block(struct reading *r, int trained, struct block *b, size_t l)
{
    const struct backbone_config *c = &r->m->config;
    const size_t h = c->hidden;
    char name[64];
    read_qkv(r, trained, &b->qkv, h, l);
    snprintf(name, sizeof name, "layer.%zu.o", l);
    read_linear(r, trained, &b->o, h, h, name);
    snprintf(name, sizeof name, "layer.%zu.fc1", l);
    read_linear(r, trained, &b->fc1, c->mlp_dim, h, name);
    snprintf(name, sizeof name, "layer.%zu.fc2", l);
    read_linear(r, trained, &b->fc2, h, c->mlp_dim, name);
    snprintf(name, sizeof name, "layer.%zu.norm1", l);
    read_norm(r, trained, &b->norm1, h, name);
    snprintf(name, sizeof name, "layer.%zu.norm2", l);
    read_norm(r, trained, &b->norm2, h, name);
    if (!c->layer_scale) return;
    b->scale1 = weight(r, trained, 1, h, &b->d_scale1, "layer.%zu.scale1", l);
    b->scale2 = weight(r, trained, 1, h, &b->d_scale2, "layer.%zu.scale2", l);
}

static void read_embeddings(struct reading *r, int trained)
{
    const struct backbone_config *c = &r->m->config;
    struct embeddings *e = &r->m->embed;
    const size_t h = c->hidden;
    if (model_is_image(r->m)) {
        e->num_positions = 1 + c->position_grid * c->position_grid;
        read_linear(r, trained, &e->patch, h, c->channels * c->patch_size * c->patch_size, "embed.patch");
        e->cls = weight(r, trained, 1, h, &e->d_cls, "embed.cls");
        e->position = weight(r, trained, e->num_positions, h, &e->d_position, "embed.position");
        return;
    }
    e->num_positions = c->max_positions;
    e->token = weight(r, trained, c->vocab_size, h, &e->d_token, "embed.token");
    e->position = weight(r, trained, c->max_positions, h, &e->d_position, "embed.position");
    if (c->type_vocab) e->type = weight(r, trained, c->type_vocab, h, &e->d_type, "embed.type");
    read_norm(r, trained, &e->norm, h, "embed.norm");
    if (c->relative_buckets)
        r->m->encoder.relative_bias = weight(r, trained, c->relative_buckets, c->num_heads,
                                             &r->m->encoder.d_relative_bias, "relative_bias");
}

/* ---- making a model --------------------------------------------------------------------------------------------- */

static int open_head(struct model *m, struct reason why)
{
    const size_t n = m->num_classes, h = m->config.hidden;
    if (!n) return GSL_SUCCESS;
    m->head_weight = parameters_array(&m->parameters, n * h);
    m->head_bias = parameters_array(&m->parameters, n);
    m->d_head_weight = parameters_array(&m->parameters, n * h);
    m->d_head_bias = parameters_array(&m->parameters, n);
    double *x = malloc(h * sizeof *x);
    int status = m->head_weight && m->head_bias && m->d_head_weight && m->d_head_bias && x ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t c = 0; c < n && !status; c++) {
        random_normal(m->seed, RANDOM_WEIGHTS, HEAD_TRIAL, c, x, h);
        for (size_t i = 0; i < h; i++) m->head_weight[c * h + i] = (float)(HEAD_STD * x[i]);
    }
    free(x);
    if (!status)
        status = parameters_add(&m->parameters, "head.weight", m->head_weight, m->d_head_weight, n, h, 1, PARAM_HEAD);
    if (!status)
        status = parameters_add(&m->parameters, "head.bias", m->head_bias, m->d_head_bias, 1, n, 0, PARAM_HEAD);
    return status ? refuse(why, status, "no memory for the classifier") : GSL_SUCCESS;
}

static int open_encoder(struct model *m, size_t layers, struct reason why)
{
    const struct backbone_config *c = &m->config;
    struct encoder *e = &m->encoder;
    if (!c->hidden || !c->num_heads || c->hidden % c->num_heads || !c->mlp_dim || !c->num_layers)
        return refuse(why, GSL_EINVAL, "the backbone's sizes make no sense");
    if (layers > c->num_layers)
        return refuse(why, GSL_EINVAL, "the backbone has %zu blocks, not %zu", c->num_layers, layers);
    size_t blocks = layers ? layers : c->default_last_layer + 1;
    if (!layers && (c->default_last_layer == 0 || blocks > c->num_layers)) blocks = c->num_layers;
    e->hidden = c->hidden;
    e->heads = c->num_heads;
    e->head_dim = c->hidden / c->num_heads;
    e->mlp_dim = c->mlp_dim;
    e->eps = (float)c->norm_eps;
    e->pre_norm = c->pre_norm;
    e->num_blocks = blocks;
    e->relative_buckets = c->relative_buckets;
    e->adapter = &m->adapter;
    e->num_threads = 1;
    e->blocks = calloc(blocks, sizeof *e->blocks);
    e->states = calloc(blocks, sizeof *e->states);
    return e->blocks && e->states ? GSL_SUCCESS : refuse(why, GSL_ENOMEM, "no memory for the model");
}

/* Reads every weight; what the adapter's method trains of them becomes parameters. */
static int open_weights(struct model *m, struct reason why)
{
    struct encoder *e = &m->encoder;
    const struct adapter *a = &m->adapter;
    const int full = a->ops->trains_backbone, from_input = full && a->options.first_layer == 0;
    const int to_end = full && (size_t)a->options.last_layer + 1 == e->num_blocks;
    struct reading r = { m, why, GSL_SUCCESS };
    read_embeddings(&r, from_input);
    for (size_t l = 0; l < e->num_blocks; l++) read_block(&r, full && adapter_in_layer(a, l), &e->blocks[l], l);
    if (m->config.pre_norm) read_norm(&r, to_end, &m->final_norm, m->config.hidden, "final_norm");
    e->first_trained = a->ops->changes_blocks ? (size_t)a->options.first_layer : e->num_blocks;
    e->trains_input = from_input;
    return r.status;
}

static int list_adapter(struct model *m)
{
    int status = GSL_SUCCESS;
    for (size_t i = 0; i < m->adapter.parameters.count && !status; i++) {
        const struct parameter *p = &m->adapter.parameters.list[i];
        status = parameters_add(&m->parameters, p->name, p->value, p->grad, p->rows, p->cols, p->decay, p->group);
    }
    return status;
}

/* Texts whose positions begin behind the prefix. */
static int shift_positions(struct model *m, struct reason why)
{
    const struct adapter_options *o = &m->adapter.options;
    if (!o->shift_positions || o->method != ADAPTER_PTUNING || model_is_image(m)) return GSL_SUCCESS;
    if (o->prefix_len >= m->config.max_positions - m->config.position_offset)
        return refuse(why, GSL_EINVAL, "a prefix of %zu leaves no position of the backbone's %zu", o->prefix_len,
                      m->config.max_positions);
    m->config.position_offset += o->prefix_len;
    m->shifted = 1;
    return GSL_SUCCESS;
}

int model_alloc(const struct backbone *backbone, const struct adapter_options *options, size_t num_classes,
                enum model_pool pool, size_t layers, uint64_t seed, struct model **out, struct reason why)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m) return refuse(why, GSL_ENOMEM, "no memory for the model");
    m->backbone = backbone;
    m->config = backbone->config;
    m->pool = pool;
    m->num_classes = num_classes;
    m->seed = seed;
    int status = open_encoder(m, layers, why);
    const struct encoder *e = &m->encoder;
    const struct adapter_shape shape = { .hidden = e->hidden, .heads = e->heads, .kv_heads = e->heads,
                                         .head_dim = e->head_dim, .num_layers = e->num_blocks, .fc1_rows = e->mlp_dim,
                                         .mlp_dim = e->mlp_dim, .blocks = e->blocks };
    if (!status) status = adapter_open(&m->adapter, options, &shape, seed, why);
    if (!status) status = shift_positions(m, why);
    if (!status) status = open_head(m, why);
    if (!status) status = open_weights(m, why);
    if (!status && list_adapter(m)) status = refuse(why, GSL_ENOMEM, "no memory for the model");
    if (status) {
        model_free(m);
        return status;
    }
    *out = m;
    return GSL_SUCCESS;
}

void model_free(struct model *m)
{
    if (!m) return;
    adapter_close(&m->adapter);
    parameters_free(&m->parameters);
    free(m->encoder.blocks);
    free(m->encoder.states);
    free(m->memory);
    free(m);
}

/* ---- what a model is --------------------------------------------------------------------------------------------- */

size_t model_num_parameters(const struct model *m) { return m->parameters.count; }
struct parameter *model_parameters(struct model *m) { return m->parameters.list; }
const struct adapter_options *model_options(const struct model *m) { return &m->adapter.options; }
const struct backbone *model_backbone(const struct model *m) { return m->backbone; }
size_t model_num_layers(const struct model *m) { return m->encoder.num_blocks; }
size_t model_hidden_size(const struct model *m) { return m->config.hidden; }
size_t model_num_classes(const struct model *m) { return m->num_classes; }
size_t model_first_trained_layer(const struct model *m) { return m->shifted ? 0 : m->encoder.first_trained; }

struct parameter *model_parameter(struct model *m, const char *name)
{
    for (size_t i = 0; i < m->parameters.count; i++)
        if (!strcmp(m->parameters.list[i].name, name)) return &m->parameters.list[i];
    return NULL;
}

size_t model_trainable(const struct model *m, enum parameter_group group)
{
    return parameters_trainable(&m->parameters, group);
}

size_t model_image_rows(const struct model *m, size_t image_h, size_t image_w)
{
    const size_t p = m->config.patch_size;
    return p ? 1 + (image_h / p) * (image_w / p) : 0;
}

void model_after_update(struct model *m)
{
    if (m->adapter.ops->after_update) m->adapter.ops->after_update(&m->adapter);
}

int model_set_prefix(struct model *m, size_t layer, const float *K_P, const float *V_P, size_t prefix_len)
{
    if (!m->adapter.ops->set_prefix) return GSL_EUNSUP;
    if (layer >= m->encoder.num_blocks || !prefix_len) return GSL_EINVAL;
    return m->adapter.ops->set_prefix(&m->adapter, layer, K_P, V_P, prefix_len);
}

enum model_pool model_default_pool(const struct backbone *b) { return b->config.kind == BACKBONE_VIT ? POOL_CLS
                                                               : POOL_MEAN; }

const float *model_prefix_rows(struct model *m, size_t layer, int value)
{
    if (!m->adapter.ops->prefix_rows || layer >= m->encoder.num_blocks) return NULL;
    return m->adapter.ops->prefix_rows(&m->adapter, layer, value);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Lays out the plan in e's sizes; the pointers go to `to` (while measuring: a copy that is thrown away). */
static void plan_model(const struct model *m, struct model *to, struct arena *arena)
{
    struct encoder *e = &to->encoder;
    const size_t rows = e->max_rows, seqs = e->max_seqs, h = e->hidden, p = m->config.patch_size;
    const int image = model_is_image(m);
    to->offsets = arena_take(arena, (seqs + 1) * sizeof *to->offsets);
    to->summed = arena_floats(arena, rows * h);
    to->embed_stats = image ? NULL : arena_floats(arena, 2 * rows);
    to->patches = image ? arena_floats(arena, rows * m->config.channels * p * p) : NULL;
    to->positions = image ? arena_floats(arena, e->max_len * h) : NULL;
    to->embedded = arena_floats(arena, rows * h);
    to->final = m->final_norm.weight ? arena_floats(arena, rows * h) : NULL;
    to->final_stats = m->final_norm.weight ? arena_floats(arena, 2 * rows) : NULL;
    to->pooled = arena_floats(arena, seqs * h);
    to->d_pooled = e->training ? arena_floats(arena, seqs * h) : NULL;
    to->grad = e->training ? arena_floats(arena, rows * h) : NULL;
    encoder_plan(e, arena);
}

static void set_plan(struct encoder *e, size_t max_rows, size_t max_seqs, size_t max_len, int training, int num_threads)
{
    e->max_rows = max_rows;
    e->max_seqs = max_seqs;
    e->max_len = max_len;
    e->training = training;
    e->num_threads = num_threads;
}

/* No array of a plan comes near this; beyond it a size would overflow. */
enum { MAX_PLAN_ROWS = 1 << 28, LARGE_PAGE = 1 << 21 };

size_t model_bytes(const struct model *m, size_t max_rows, size_t max_seqs, size_t max_len, int training,
                   int num_threads)
{
    if (max_rows > MAX_PLAN_ROWS) return SIZE_MAX;
    if (max_seqs > max_rows) max_seqs = max_rows;
    if (max_len > max_rows) max_len = max_rows;
    struct model copy = *m;
    struct arena arena = { NULL, 0 };
    set_plan(&copy.encoder, max_rows, max_seqs, max_len, training, num_threads);
    plan_model(m, &copy, &arena);
    size_t bytes = arena.used + (arena.used < LARGE_PAGE ? ARENA_ALIGN : LARGE_PAGE) + m->parameters.owned_bytes;
    for (size_t i = 0; i < m->adapter.parameters.count; i++)
        bytes += 2 * m->adapter.parameters.list[i].rows * m->adapter.parameters.list[i].cols * sizeof(float);
    return bytes;
}

/* Zeroed memory whose pages are there before the first step, large ones where the system has them. */
static void *pages_of(size_t bytes)
{
    const size_t page = bytes < LARGE_PAGE ? ARENA_ALIGN : LARGE_PAGE, room = (bytes + page) / page * page;
    void *memory = aligned_alloc(page, room);
    if (!memory) return NULL;
    if (page == LARGE_PAGE) madvise(memory, room, MADV_HUGEPAGE);
    memset(memory, 0, room);
    return memory;
}

int model_reserve(struct model *m, size_t max_rows, size_t max_seqs, size_t max_len, int training, int num_threads)
{
    if (!max_rows || !max_seqs || !max_len || num_threads < 1) return GSL_EINVAL;
    if (max_seqs > max_rows) max_seqs = max_rows;
    if (max_len > max_rows) max_len = max_rows;
    if (model_bytes(m, max_rows, max_seqs, max_len, training, num_threads) == SIZE_MAX) return GSL_ENOMEM;
    free(m->memory);
    m->memory = NULL;
    m->can_backward = 0;
    set_plan(&m->encoder, max_rows, max_seqs, max_len, training, num_threads);
    m->adapter.num_threads = num_threads;
    struct model measured = *m;
    struct arena arena = { NULL, 0 };
    plan_model(m, &measured, &arena);
    m->memory = pages_of(arena.used);
    if (!m->memory) return GSL_ENOMEM;
    arena = (struct arena){ m->memory, 0 };
    plan_model(m, m, &arena);
    return GSL_SUCCESS;
}
