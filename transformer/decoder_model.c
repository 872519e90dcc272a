#include "transformer/decoder_model.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "transformer/arena.h"
#include "transformer/decoder_model_internal.h"

static const double HEAD_STD = 0.02;
/* The classifier's draws: above every (block, parameter) of an adapter. */
static const uint64_t HEAD_TRIAL = (uint64_t)1 << 40;

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* ---- arrays and parameters -------------------------------------------------------------------------------- */

/* A trained copy of n numbers with a gradient; both NULL: no memory. */
static float *copy(struct decoder_model *m, const float *from, size_t n, float **grad)
{
    float *value = parameters_array(&m->parameters, n);
    *grad = value ? parameters_array(&m->parameters, n) : NULL;
    if (!*grad) return NULL;
    memcpy(value, from, n * sizeof *value);
    return value;
}

/* Parts of one matrix, one below the other, each a parameter "layer.L.NAME.weight". */
struct part { const char *name; size_t rows; };

static int train_linear(struct decoder_model *m, size_t layer, struct linear *w, size_t cols, const struct part *parts,
                        size_t num_parts)
{
    size_t rows = 0;
    for (size_t i = 0; i < num_parts; i++) rows += parts[i].rows;
    float *value = copy(m, w->weight, rows * cols, &w->d_weight), *grad = w->d_weight;
    int status = value ? GSL_SUCCESS : GSL_ENOMEM;
    w->weight = value;
    for (size_t i = 0; i < num_parts && !status; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer.%zu.%s.weight", layer, parts[i].name);
        status = parameters_add(&m->parameters, name, value, grad, parts[i].rows, cols, parts[i].rows > 1,
                                PARAM_BACKBONE);
        value += parts[i].rows * cols;
        grad += parts[i].rows * cols;
    }
    return status;
}

static int train_norm(struct decoder_model *m, const char *name, struct norm *norm)
{
    float *value = copy(m, norm->weight, m->config.hidden, &norm->d_weight);
    norm->weight = value;
    return value ? parameters_add(&m->parameters, name, value, norm->d_weight, 1, m->config.hidden, 0, PARAM_BACKBONE)
        : GSL_ENOMEM;
}

static int train_block(struct decoder_model *m, size_t layer)
{
    const struct decoder_config *c = &m->config;
    struct block *b = &m->blocks[layer];
    const size_t q = decoder_q_width(c), kv = decoder_kv_width(c), h = c->hidden, n = c->mlp_dim;
    const struct part qkv[] = { { "q", q }, { "k", kv }, { "v", kv } }, o = { "o", h };
    const struct part gate_up[] = { { "gate", n }, { "up", n } }, down = { "down", h };
    char name[2][64];
    for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "layer.%zu.norm%d.weight", layer, i + 1);
    int status = train_linear(m, layer, &b->qkv, h, qkv, 3);
    if (!status) status = train_linear(m, layer, &b->o, q, &o, 1);
    if (!status) status = train_linear(m, layer, &b->fc1, h, gate_up, 2);
    if (!status) status = train_linear(m, layer, &b->fc2, n, &down, 1);
    if (!status) status = train_norm(m, name[0], &b->norm1);
    if (!status) status = train_norm(m, name[1], &b->norm2);
    return status;
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

static int open_classifier(struct decoder_model *m)
{
    const size_t n = m->outputs, h = m->config.hidden;
    double *x = malloc(h * sizeof *x);
    float *weight = parameters_array(&m->parameters, n * h);
    m->output = weight;
    m->output_bias = parameters_array(&m->parameters, n);
    m->d_output = parameters_array(&m->parameters, n * h);
    m->d_output_bias = parameters_array(&m->parameters, n);
    int status = x && weight && m->output_bias && m->d_output && m->d_output_bias ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t c = 0; c < n && !status; c++) {
        random_normal(m->options.seed, RANDOM_WEIGHTS, HEAD_TRIAL, c, x, h);
        for (size_t i = 0; i < h; i++) weight[c * h + i] = (float)(HEAD_STD * x[i]);
    }
    free(x);
    if (!status) status = parameters_add(&m->parameters, "head.weight", weight, m->d_output, n, h, n > 1, PARAM_HEAD);
    if (!status)
        status = parameters_add(&m->parameters, "head.bias", m->output_bias, m->d_output_bias, 1, n, 0, PARAM_HEAD);
    return status;
}

/* Embedding and output matrix. */
static int open_output(struct decoder_model *m)
{
    const struct decoder *d = m->base;
    const size_t h = m->config.hidden, vocab = m->config.vocab_size;
    const int tied = d->output == d->embed, full = m->adapter.ops->trains_backbone;
    float *value = NULL;
    int status = GSL_SUCCESS;
    m->embed = d->embed;
    m->output = d->output;
    m->outputs = m->options.num_classes ? m->options.num_classes : vocab;
    if (m->trains_input) {
        if (!(value = copy(m, d->embed, vocab * h, &m->d_embed))) return GSL_ENOMEM;
        m->embed = value;
        status = parameters_add(&m->parameters, "embed.token", value, m->d_embed, vocab, h, vocab > 1, PARAM_BACKBONE);
    }
    if (status || m->options.num_classes) return status ? status : open_classifier(m);
    if (tied && m->trains_input) {
        m->output = value;
        m->d_output = m->d_embed;
        return status;
    }
    const int head = m->adapter.options.method == ADAPTER_HEAD;
    if (!head && !(full && m->final_norm.d_weight && !tied)) return status;
    if (!(value = copy(m, d->output, vocab * h, &m->d_output))) return GSL_ENOMEM;
    m->output = value;
    return parameters_add(&m->parameters, "output.weight", value, m->d_output, vocab, h, vocab > 1,
                          head ? PARAM_HEAD : PARAM_BACKBONE);
}

static int open_weights(struct decoder_model *m)
{
    const size_t layers = m->config.num_layers;
    const struct adapter *a = &m->adapter;
    const int full = a->ops->trains_backbone;
    int status = GSL_SUCCESS;
    for (size_t l = 0; l < layers && !status; l++)
        if (full && adapter_in_layer(a, l)) status = train_block(m, l);
    if (!status && full && (size_t)a->options.last_layer + 1 == layers)
        status = train_norm(m, "final_norm.weight", &m->final_norm);
    m->first_trained = a->ops->changes_blocks ? (size_t)a->options.first_layer : layers;
    m->trains_input = full && a->options.first_layer == 0;
    return status ? status : open_output(m);
}

/* Blocks that point into the decoder. */
static int open_blocks(struct decoder_model *m)
{
    m->blocks = calloc(m->config.num_layers, sizeof *m->blocks);
    m->states = calloc(m->config.num_layers, sizeof *m->states);
    m->pieces = calloc(m->config.kv_heads, sizeof *m->pieces);
    if (!m->blocks || !m->states || !m->pieces) return GSL_ENOMEM;
    for (size_t l = 0; l < m->config.num_layers; l++) {
        const struct decoder_layer *w = &m->base->layers[l];
        m->blocks[l] = (struct block){ .qkv = { .weight = w->qkv }, .o = { .weight = w->o },
                                       .fc1 = { .weight = w->gate_up }, .fc2 = { .weight = w->down },
                                       .norm1 = { .weight = w->norm1 }, .norm2 = { .weight = w->norm2 } };
    }
    m->final_norm = (struct norm){ .weight = m->base->final_norm };
    return GSL_SUCCESS;
}

static int open_adapter(struct decoder_model *m, struct reason why)
{
    const struct decoder_config *c = &m->config;
    struct decoder_model_options *o = &m->options;
    const size_t len = o->adapter.prefix_len;
    struct adapter_shape shape = { .hidden = c->hidden, .heads = c->num_heads, .kv_heads = c->kv_heads,
                                   .head_dim = c->head_dim, .num_layers = c->num_layers, .fc1_rows = 2 * c->mlp_dim,
                                   .mlp_dim = c->mlp_dim, .blocks = m->blocks };
    const int prefix = o->adapter.method == ADAPTER_PTUNING || o->adapter.method == ADAPTER_TIED_PREFIX;
    if (o->positions >= c->max_positions)
        return refuse(why, GSL_EINVAL, "position %zu of the decoder's %zu", o->positions, c->max_positions);
    if (prefix && len >= c->max_positions)
        return refuse(why, GSL_EINVAL, "a prefix of %zu leaves no position of the decoder's %zu", len,
                      c->max_positions);
    if (o->adapter.method == ADAPTER_TIED_PREFIX && o->rotation == DECODER_ROTATED) {
        shape.turns = m->turns = parameters_array(&m->parameters, len * c->head_dim);
        if (!m->turns) return refuse(why, GSL_ENOMEM, "no memory for the model");
        decoder_turns(c, 0, len, m->turns);
    }
    m->positions = o->positions ? o->positions : prefix ? len : 0;
    const int status = adapter_open(&m->adapter, &o->adapter, &shape, o->seed, why);
    if (!status) o->adapter = m->adapter.options;
    return status;
}

int decoder_model_alloc(const struct decoder *decoder, const struct decoder_model_options *options,
                        struct decoder_model **out, struct reason why)
{
    struct decoder_model *m = calloc(1, sizeof *m);
    if (!m) return refuse(why, GSL_ENOMEM, "no memory for the model");
    m->base = decoder;
    m->config = decoder->config;
    m->options = *options;
    m->num_threads = 1;
    int status = open_blocks(m);
    if (status) refuse(why, status, "no memory for the model");
    else if (!(status = open_adapter(m, why))) {
        status = open_weights(m);
        for (size_t i = 0; i < m->adapter.parameters.count && !status; i++) {
            const struct parameter *p = &m->adapter.parameters.list[i];
            status = parameters_add(&m->parameters, p->name, p->value, p->grad, p->rows, p->cols, p->decay, p->group);
        }
        if (status) refuse(why, status, "no memory for the model");
    }
    if (status) decoder_model_free(m);
    else *out = m;
    return status;
}

void decoder_model_free(struct decoder_model *m)
{
    if (!m) return;
    adapter_close(&m->adapter);
    parameters_free(&m->parameters);
    free(m->blocks);
    free(m->states);
    free(m->pieces);
    free(m->memory);
    free(m);
}

/* ---- what a model is --------------------------------------------------------------------------------------------- */

size_t decoder_model_num_parameters(const struct decoder_model *m) { return m->parameters.count; }
struct parameter *decoder_model_parameters(struct decoder_model *m) { return m->parameters.list; }
const struct decoder_model_options *decoder_model_options(const struct decoder_model *m) { return &m->options; }
const struct decoder *decoder_model_base(const struct decoder_model *m) { return m->base; }
size_t decoder_model_first_trained_layer(const struct decoder_model *m) { return m->first_trained; }

size_t decoder_model_trainable(const struct decoder_model *m, enum parameter_group group)
{
    return parameters_trainable(&m->parameters, group);
}

void decoder_model_after_update(struct decoder_model *m)
{
    if (m->adapter.ops->after_update) m->adapter.ops->after_update(&m->adapter);
}

int decoder_model_set_prefix(struct decoder_model *m, size_t layer, const float *K_P, const float *V_P,
                             size_t prefix_len)
{
    if (!m->adapter.ops->set_prefix) return GSL_EUNSUP;
    if (layer >= m->config.num_layers || !prefix_len) return GSL_EINVAL;
    return m->adapter.ops->set_prefix(&m->adapter, layer, K_P, V_P, prefix_len);
}

const float *decoder_model_prefix_rows(struct decoder_model *m, size_t layer, int value)
{
    const struct adapter_ops *ops = m->adapter.ops;
    return ops->prefix_rows && layer < m->config.num_layers ? ops->prefix_rows(&m->adapter, layer, value) : NULL;
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

/* own: 0: scratch that blocks share, whose outputs take turns. */
static void plan_state(const struct decoder_model *m, struct arena *arena, size_t rows, struct decoder_state *s)
{
    const struct decoder_config *c = &m->config;
    const size_t h = c->hidden, q_width = decoder_q_width(c);
    s->factor1 = arena_floats(arena, rows);
    s->factor2 = arena_floats(arena, rows);
    s->normed1 = arena_floats(arena, rows * h);
    s->normed2 = arena_floats(arena, rows * h);
    s->qkv = arena_floats(arena, rows * decoder_qkv_width(c));
    s->raw = m->options.rotation == DECODER_UNROTATED ? arena_floats(arena, rows * q_width) : NULL;
    s->context = arena_floats(arena, rows * q_width);
    s->soft = m->options.adapter.method == ADAPTER_PREFIX_PLUS ? arena_floats(arena, rows * q_width) : s->context;
    s->attention = arena_take(arena, rows * c->num_heads * sizeof *s->attention);
    s->sum = arena_floats(arena, rows * h);
    /* Its backward puts the gradient of the context there. */
    s->gate_up = arena_floats(arena, rows * most(2 * c->mlp_dim, q_width));
    s->mlp = arena_floats(arena, rows * c->mlp_dim);
    s->output = arena_floats(arena, rows * h);
}

static void plan(struct decoder_model *m, struct arena *arena, size_t rows, size_t max_len, int training, int threads)
{
    const struct decoder_config *c = &m->config;
    const size_t h = c->hidden;
    struct decoder_state shared = { 0 }, odd;
    plan_state(m, arena, rows, &shared);
    odd = shared;
    odd.output = arena_floats(arena, rows * h);
    for (size_t l = 0; l < c->num_layers; l++) {
        struct decoder_state mine = l % 2 ? odd : shared;
        if (training && l >= m->first_trained) plan_state(m, arena, rows, &mine);
        if (arena->base) m->states[l] = mine;
    }
    struct attention_extra extra = { .kind = ATTENTION_PLAIN }, one;
    for (size_t l = 0; l < c->num_layers; l++)
        if (!decoder_model_extra(m, l, 2, &one) && one.kind != ATTENTION_PLAIN) extra = one;
    const size_t floats = decoder_attention_floats(m, &extra);
    const size_t work = decoder_attention_bytes(m, &extra, max_len, training, threads);
    struct decoder_piece *pieces = m->pieces;
    for (size_t g = 0; g < c->kv_heads; g++)
        pieces[g] = (struct decoder_piece){ .map = extra.kind >= ATTENTION_SUMMARY ? extra.map : NULL, .summaries = 1 };
    struct decoder_config one_layer = *c;
    one_layer.num_layers = 1;
    const struct decoder_prefix prefix = { m->options.rotation, 0, pieces };
    float *const turn = arena_floats(arena, max_len * c->head_dim), *embedded = arena_floats(arena, rows * h);
    float *const final = arena_floats(arena, rows * h), *factor = arena_floats(arena, rows);
    float *const chosen = arena_floats(arena, DECODER_LOGIT_ROWS * h);
    float *const d_chosen = arena_floats(arena, DECODER_LOGIT_ROWS * h);
    float *const logits = arena_floats(arena, DECODER_LOGIT_ROWS * m->outputs);
    float *const grad = training ? arena_floats(arena, rows * h) : NULL;
    float *const narrow = training ? arena_floats(arena, rows * most(h, decoder_q_width(c))) : NULL;
    float *const wide = training ? arena_floats(arena, rows * most(c->mlp_dim, decoder_qkv_width(c))) : NULL;
    float *const sum = arena_floats(arena, floats), *once = arena_floats(arena, floats);
    float *const tokens = arena_floats(arena, extra.kind == ATTENTION_PREFIX ? floats : 0);
    float *const piece_work = arena_floats(arena, decoder_prefix_floats(&one_layer, &prefix, max_len, threads));
    char *const bytes = arena_take(arena, work);
    if (m->adapter.ops->plan) m->adapter.ops->plan(&m->adapter, arena, rows, training);
    if (!arena->base) return;
    m->turn = turn;
    m->embedded = embedded;
    m->final = final;
    m->final_factor = factor;
    m->chosen = chosen;
    m->d_chosen = d_chosen;
    m->logits = logits;
    m->grad = grad;
    m->narrow = narrow;
    m->wide = wide;
    m->sum = sum;
    m->once = once;
    m->piece_tokens = tokens;
    m->piece_work = piece_work;
    m->work = bytes;
    m->work_bytes = work;
}

size_t decoder_model_bytes(const struct decoder_model *m, size_t max_rows, size_t max_len, int training,
                           int num_threads)
{
    struct arena arena = { NULL, 0 };
    size_t bytes = m->parameters.owned_bytes;
    if (!((double)max_rows * (double)(m->config.hidden + m->config.mlp_dim) * (double)m->config.num_layers < 1e14))
        return SIZE_MAX;
    /* Measuring writes only the pieces, which every pass sets again. */
    plan((struct decoder_model *)m, &arena, max_rows, max_len, training, num_threads);
    for (size_t i = 0; i < m->adapter.parameters.count; i++)
        bytes += 2 * m->adapter.parameters.list[i].rows * m->adapter.parameters.list[i].cols * sizeof(float);
    return bytes + arena.used;
}

int decoder_model_reserve(struct decoder_model *m, size_t max_rows, size_t max_len, int training, int num_threads)
{
    if (!max_rows || !max_len || num_threads < 1) return GSL_EINVAL;
    if (decoder_model_bytes(m, max_rows, max_len, training, num_threads) == SIZE_MAX) return GSL_ENOMEM;
    struct arena arena = { NULL, 0 };
    free(m->memory);
    m->memory = NULL;
    m->can_loss = m->can_backward = 0;
    plan(m, &arena, max_rows, max_len, training, num_threads);
    if (posix_memalign(&m->memory, ARENA_ALIGN, arena.used)) {
        m->memory = NULL;
        return GSL_ENOMEM;
    }
    memset(m->memory, 0, arena.used);
    arena = (struct arena){ m->memory, 0 };
    plan(m, &arena, max_rows, max_len, training, num_threads);
    m->max_rows = max_rows;
    m->max_len = max_len;
    m->training = training;
    m->num_threads = m->adapter.num_threads = num_threads;
    decoder_turns(&m->config, m->positions, max_len, m->turn);
    return GSL_SUCCESS;
}

/* ---- as a plain decoder ------------------------------------------------------------------------------------- */

struct view {
    struct decoder_view public;         /* first: what callers see */
    struct decoder_prefix prefix;
    struct decoder_piece *pieces;
    float **merged;                     /* (4 num_layers) weights with LoRA in them */
    size_t num_merged;
    float *tokens;
};

void decoder_view_free(struct decoder_view *view)
{
    struct view *v = (struct view *)view;
    if (!v) return;
    for (size_t i = 0; v->merged && i < v->num_merged; i++) free(v->merged[i]);
    free(v->merged);
    free(v->pieces);
    free(v->tokens);
    free(v->public.decoder.layers);
    free(v);
}

/* A copy of (rows, cols) weights with the adapter's update of the projections that lie in it. */
static const float *merge(struct decoder_model *m, struct view *v, size_t layer, const float *weight, size_t rows,
                          size_t cols,
                          enum projection first, enum projection last)
{
    struct adapter *a = &m->adapter;
    float *to = NULL;
    size_t at = 0;
    for (enum projection which = first; which <= last; which++) {
        size_t out, in;
        adapter_projection(a, which, &out, &in);
        if (a->ops->merge && adapter_in_layer(a, layer) && (a->options.targets >> which & 1)) {
            if (!to) {
                if (!(to = malloc(rows * cols * sizeof *to))) return NULL;
                memcpy(to, weight, rows * cols * sizeof *to);
                v->merged[v->num_merged++] = to;
            }
            a->ops->merge(a, layer, which, to + at);
        }
        at += out * in;
    }
    return to ? to : weight;
}

static int view_layers(struct decoder_model *m, struct view *v)
{
    const struct decoder_config *c = &m->config;
    const size_t h = c->hidden;
    struct decoder *d = &v->public.decoder;
    for (size_t l = 0; l < c->num_layers; l++) {
        const struct block *b = &m->blocks[l];
        struct decoder_layer *w = &d->layers[l];
        w->norm1 = b->norm1.weight;
        w->norm2 = b->norm2.weight;
        w->qkv = merge(m, v, l, b->qkv.weight, decoder_qkv_width(c), h, PROJ_Q, PROJ_V);
        w->o = merge(m, v, l, b->o.weight, h, decoder_q_width(c), PROJ_O, PROJ_O);
        w->gate_up = merge(m, v, l, b->fc1.weight, 2 * c->mlp_dim, h, PROJ_FC1, PROJ_FC1);
        w->down = merge(m, v, l, b->fc2.weight, h, c->mlp_dim, PROJ_FC2, PROJ_FC2);
        if (!w->qkv || !w->o || !w->gate_up || !w->down) return GSL_ENOMEM;
    }
    return GSL_SUCCESS;
}

int decoder_model_view(struct decoder_model *m, struct decoder_view **out)
{
    const struct decoder_config *c = &m->config;
    const size_t each = 2 * m->options.adapter.prefix_len * decoder_kv_width(c);
    const int has_prefix = m->adapter.ops->prepare != NULL;
    struct view *v = calloc(1, sizeof *v);
    if (!v) return GSL_ENOMEM;
    struct decoder *d = &v->public.decoder;
    *d = *m->base;
    d->weights = NULL;
    d->layers = calloc(c->num_layers, sizeof *d->layers);
    d->embed = m->embed;
    d->final_norm = m->final_norm.weight;
    if (!m->options.num_classes) d->output = m->output;
    v->merged = calloc(4 * c->num_layers, sizeof *v->merged);
    v->pieces = calloc(c->num_layers * c->kv_heads, sizeof *v->pieces);
    v->tokens = m->positions ? malloc(c->num_layers * each * sizeof *v->tokens) : NULL;
    int status = d->layers && v->merged && v->pieces && (!m->positions || v->tokens) ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = view_layers(m, v);
    for (size_t l = 0; l < c->num_layers && has_prefix && !status; l++) {
        struct attention_extra extra;
        if (!(status = decoder_model_extra(m, l, 0, &extra)))
            decoder_model_pieces(c, &extra, v->pieces + l * c->kv_heads, v->tokens ? v->tokens + l * each : NULL);
    }
    v->prefix = (struct decoder_prefix){ m->options.rotation, m->positions, v->pieces };
    if (has_prefix) v->public.prefix = &v->prefix;
    if (status) decoder_view_free(&v->public);
    else *out = &v->public;
    return status;
}
