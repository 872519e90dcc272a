#include "transformer/adapter.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "transformer/encoder.h"

static const struct adapter_ops *const table[NUM_ADAPTER_METHODS] = {
    [ADAPTER_FULL] = &adapter_full,
    [ADAPTER_HEAD] = &adapter_head,
    [ADAPTER_LORA] = &adapter_lora,
    [ADAPTER_PTUNING] = &adapter_ptuning,
    [ADAPTER_TIED_PREFIX] = &adapter_tied_prefix,
    [ADAPTER_NTK] = &adapter_ntk,
    [ADAPTER_PREFIX_PLUS] = &adapter_prefix_plus
};

static const char *const projection_names[NUM_PROJECTIONS] = { "q", "k", "v", "o", "fc1", "fc2" };
const char *const adapter_k_mode_names[] = { "log", "linear", "zero", "tied", NULL };

const struct adapter_ops *adapter_ops_of(enum adapter_method method)
{
    return table[method];
}

/* ---- names and options ------------------------------------------------------------------------------ */

struct adapter_options adapter_defaults(enum adapter_method method)
{
    return (struct adapter_options){
        .method = method, .first_layer = ADAPTER_LAYER_DEFAULT, .last_layer = ADAPTER_LAYER_DEFAULT, .rank = 8,
        .alpha = 16.0, .targets = 1u << PROJ_Q | 1u << PROJ_V, .prefix_len = 16, .init_scale = 0.02, .feature = "elu1",
        .bound = 4.0, .k_mode = ADAPTER_K_LOG, .start_mass = 1e-2, .units = 1
    };
}

int adapter_method_parse(const char *name, enum adapter_method *method)
{
    for (int m = 0; m < NUM_ADAPTER_METHODS; m++)
        if (!strcmp(name, table[m]->name)) {
            *method = (enum adapter_method)m;
            return GSL_SUCCESS;
        }
    return GSL_EINVAL;
}

const char *adapter_method_name(enum adapter_method method) { return table[method]->name; }
const char *adapter_method_summary(enum adapter_method method) { return table[method]->summary; }

int adapter_targets_parse(const char *text, unsigned *targets)
{
    unsigned bits = 0;
    if (!strcmp(text, "all")) {
        *targets = (1u << NUM_PROJECTIONS) - 1;
        return GSL_SUCCESS;
    }
    for (;;) {
        const size_t len = strcspn(text, ",");
        int found = 0;
        for (int p = 0; p < NUM_PROJECTIONS; p++)
            if (strlen(projection_names[p]) == len && !strncmp(text, projection_names[p], len)) {
                bits |= 1u << p;
                found = 1;
            }
        if (!found) return GSL_EINVAL;
        if (!text[len]) break;
        text += len + 1;
    }
    *targets = bits;
    return GSL_SUCCESS;
}

int adapter_k_mode_parse(const char *text, enum adapter_k_mode *mode)
{
    for (int m = 0; adapter_k_mode_names[m]; m++)
        if (!strcmp(text, adapter_k_mode_names[m])) {
            *mode = (enum adapter_k_mode)m;
            return GSL_SUCCESS;
        }
    return GSL_EINVAL;
}

const char *adapter_k_mode_name(enum adapter_k_mode mode) { return adapter_k_mode_names[mode]; }

static int options_status(const struct adapter_options *o, size_t num_layers, struct reason why)
{
    const enum adapter_method m = o->method;
    const int prefix = m == ADAPTER_PTUNING || m == ADAPTER_TIED_PREFIX,
              summary = m == ADAPTER_NTK || m == ADAPTER_PREFIX_PLUS;
    if (o->first_layer < 0 || o->last_layer < o->first_layer || (size_t)o->last_layer >= num_layers)
        return refuse(why, GSL_EINVAL, "blocks %d-%d do not lie in 0-%zu", o->first_layer, o->last_layer,
                      num_layers - 1);
    if (m == ADAPTER_LORA && (o->rank < 1 || !o->targets || o->targets >> NUM_PROJECTIONS))
        return refuse(why, GSL_EINVAL, "lora needs a rank of at least 1 and some of q, k, v, o, fc1, fc2");
    if (m == ADAPTER_LORA && !(isfinite(o->alpha) && o->alpha > 0.0))
        return refuse(why, GSL_EINVAL, "alpha of lora must be positive");
    if (prefix && o->prefix_len < 1) return refuse(why, GSL_EINVAL, "%s needs a prefix of at least 1", table[m]->name);
    if (prefix && !(isfinite(o->init_scale) && o->init_scale >= 0.0))
        return refuse(why, GSL_EINVAL, "the initial scale of a prefix must be finite and not negative");
    if (summary && m == ADAPTER_NTK && !(isfinite(o->start_mass) && o->start_mass > 0.0))
        return refuse(why, GSL_EINVAL, "the mass k starts from must be positive");
    return GSL_SUCCESS;
}

/* ---- an adapter of a model ---------------------------------------------------------------------------- */

int adapter_open(struct adapter *a, const struct adapter_options *options, const struct adapter_shape *shape,
                 uint64_t seed, struct reason why)
{
    if ((int)options->method < 0 || options->method >= NUM_ADAPTER_METHODS)
        return refuse(why, GSL_EINVAL, "no such method");
    *a = (struct adapter){ .ops = table[options->method], .options = *options, .hidden = shape->hidden,
                           .heads = shape->heads, .kv_heads = shape->kv_heads, .head_dim = shape->head_dim,
                           .fc1_rows = shape->fc1_rows, .mlp_dim = shape->mlp_dim, .num_layers = shape->num_layers,
                           .blocks = shape->blocks, .turns = shape->turns, .seed = seed, .num_threads = 1 };
    if (!a->options.feature_seed) a->options.feature_seed = seed;
    if (a->options.first_layer == ADAPTER_LAYER_DEFAULT) a->options.first_layer = 0;
    if (a->options.last_layer == ADAPTER_LAYER_DEFAULT) a->options.last_layer = (int)shape->num_layers - 1;
    int status = options_status(&a->options, shape->num_layers, why);
    if (!status && a->ops->open) status = a->ops->open(a, why);
    if (!status && a->ops->start) a->ops->start(a);
    return status;
}

void adapter_close(struct adapter *a)
{
    if (!a->ops) return;
    if (a->ops->close) a->ops->close(a);
    parameters_free(&a->parameters);
    *a = (struct adapter){ 0 };
}

float *adapter_parameter(struct adapter *a, size_t layer, const char *name, size_t rows, size_t cols, int decay,
                         int trained, float **grad)
{
    char text[64];
    snprintf(text, sizeof text, "layer.%zu.%s", layer, name);
    float *value = parameters_array(&a->parameters, rows * cols);
    float *d_value = value && trained ? parameters_array(&a->parameters, rows * cols) : NULL;
    if (!value || (trained && !d_value)) return NULL;
    if (parameters_add(&a->parameters, text, value, d_value, rows, cols, decay, PARAM_ADAPTER)) return NULL;
    if (grad) *grad = d_value;
    return value;
}

void adapter_projection(const struct adapter *a, enum projection which, size_t *out, size_t *in)
{
    const size_t q_width = a->heads * a->head_dim;
    *in = which == PROJ_FC2 ? a->mlp_dim : which == PROJ_O ? q_width : a->hidden;
    switch (which) {
    case PROJ_Q: *out = q_width; break;
    case PROJ_K: case PROJ_V: *out = adapter_kv_width(a); break;
    case PROJ_FC1: *out = a->fc1_rows; break;
    default: *out = a->hidden;
    }
}

/* Draws in rows of at most DRAW numbers: row i of a parameter is a function of (seed, block, parameter, i). */
enum { DRAW = 256 };

static void draw(const struct adapter *a, size_t layer, unsigned which, int normal, double scale, float *out, size_t n)
{
    double x[DRAW];
    const uint64_t trial = (uint64_t)layer * 64 + which;
    for (size_t i = 0; i < n; i += DRAW) {
        const size_t m = n - i < DRAW ? n - i : DRAW;
        if (normal) random_normal(a->seed, RANDOM_WEIGHTS, trial, i / DRAW, x, m);
        else random_uniform(a->seed, RANDOM_WEIGHTS, trial, i / DRAW, x, m);
        for (size_t j = 0; j < m; j++) out[i + j] = (float)(scale * (normal ? x[j] : 2.0 * x[j] - 1.0));
    }
}

void adapter_normal(const struct adapter *a, size_t layer, unsigned which, double scale, float *out, size_t n)
{
    draw(a, layer, which, 1, scale, out, n);
}

void adapter_uniform(const struct adapter *a, size_t layer, unsigned which, double bound, float *out, size_t n)
{
    draw(a, layer, which, 0, bound, out, n);
}
