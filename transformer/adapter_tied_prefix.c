/* A prefix of tokens P (prefix_len, hidden) per block through the block's own projections:
 *   K_P = P W_K^T + b_K, V_P = P W_V^T + b_V,   dP = dK_P W_K + dV_P W_V
 * where keys turn with their position, K_P turns too, as those of tokens at positions 0 .. prefix_len - 1. */
#include <gsl/gsl_errno.h>
#include <stdlib.h>

#include "transformer/encoder.h"
#include "transformer/ops.h"

struct tokens { float *P, *dP, *K, *V, *dK, *dV; struct attn_packed *packed; };

static struct tokens *tokens_at(const struct adapter *a, size_t layer)
{
    return &((struct tokens *)a->own)[layer];
}

static int open_tied(struct adapter *a, struct reason why)
{
    const size_t m = a->options.prefix_len, h = a->hidden, w = adapter_kv_width(a);
    a->own = calloc(a->num_layers, sizeof(struct tokens));
    if (!a->own) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
    for (size_t l = 0; l < a->num_layers; l++) {
        struct tokens *t = tokens_at(a, l);
        if (!adapter_in_layer(a, l)) continue;
        t->P = adapter_parameter(a, l, "prefix", m, h, 1, 1, &t->dP);
        t->K = calloc(4 * m * w, sizeof(float));
        t->packed = attn_packed_alloc(1, a->kv_heads, m, a->head_dim, 1);
        if (!t->P || !t->K || !t->packed) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
        t->V = t->K + m * w;
        t->dK = t->V + m * w;
        t->dV = t->dK + m * w;
    }
    return GSL_SUCCESS;
}

static void close_tied(struct adapter *a)
{
    for (size_t l = 0; a->own && l < a->num_layers; l++) {
        free(tokens_at(a, l)->K);
        attn_packed_free(tokens_at(a, l)->packed);
    }
    free(a->own);
}

static void start(struct adapter *a)
{
    for (size_t l = 0; l < a->num_layers; l++)
        if (adapter_in_layer(a, l))
            adapter_normal(a, l, 0, a->options.init_scale, tokens_at(a, l)->P, a->options.prefix_len * a->hidden);
}

/* Turns the keys of every head by their position, or back. */
static void turn_keys(const struct adapter *a, float *keys, int back)
{
    const size_t dim = a->head_dim, heads = a->kv_heads;
    for (size_t i = 0; a->turns && i < a->options.prefix_len * heads; i++)
        ops_turn(keys + i * dim, a->turns + i / heads * dim, dim, back);
}

static int prepare(struct adapter *a, size_t layer, int training, struct attention_extra *extra)
{
    struct tokens *t = tokens_at(a, layer);
    const size_t m = a->options.prefix_len, h = a->hidden, q = a->heads * a->head_dim, w = adapter_kv_width(a);
    *extra = (struct attention_extra){ .kind = ATTENTION_PREFIX, .prefix_len = m, .K = t->K, .V = t->V,
                                       .packed = t->packed, .dK = t->dK, .dV = t->dV };
    if (training == 2) return GSL_SUCCESS;
    const struct linear *qkv = &a->blocks[layer].qkv;
    const struct epilogue k = { .bias = qkv->bias ? qkv->bias + q : NULL },
                          v = { .bias = qkv->bias ? qkv->bias + q + w : NULL };
    ops_linear(m, h, w, t->P, h, qkv->weight + q * h, t->K, w, 0, &k, a->num_threads);
    ops_linear(m, h, w, t->P, h, qkv->weight + (q + w) * h, t->V, w, 0, &v, a->num_threads);
    turn_keys(a, t->K, 0);
    const struct attn_in keys = { t->K, 0, (ptrdiff_t)a->head_dim, (ptrdiff_t)w };
    const struct attn_in values = { t->V, 0, (ptrdiff_t)a->head_dim, (ptrdiff_t)w };
    return attn_packed_set(t->packed, keys, values, a->num_threads);
}

static void finish(struct adapter *a, size_t layer, const struct attention_extra *extra)
{
    struct tokens *t = tokens_at(a, layer);
    const size_t m = a->options.prefix_len, h = a->hidden, q = a->heads * a->head_dim, w = adapter_kv_width(a);
    const float *weight = a->blocks[layer].qkv.weight;
    turn_keys(a, extra->dK, 1);
    ops_linear_dx(m, h, w, 1.0f, extra->dK, w, weight + q * h, t->dP, h, 0, NULL, a->num_threads);
    ops_linear_dx(m, h, w, 1.0f, extra->dV, w, weight + (q + w) * h, t->dP, h, 1, NULL, a->num_threads);
}

const struct adapter_ops adapter_tied_prefix = {
    .name = "tied-prefix", .summary = "prefix tokens through the block's own W_K and W_V (the paper's theory)",
    .changes_blocks = 1, .open = open_tied, .close = close_tied, .start = start, .prepare = prepare, .finish = finish
};
