/* P-Tuning V2: trained keys and values in front of every block's own. With the reparameterisation
 *   [K_P, V_P] = tanh(E W_1^T + b_1) W_2^T + b_2,   E (prefix_len, hidden), W_1 (mlp_dim, hidden),
 *   W_2 (2 kv_width, mlp_dim). */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "transformer/encoder.h"
#include "transformer/ops.h"

struct prefix {
    float *K, *V, *dK, *dV;                 /* parameters, or what the MLP makes */
    float *E, *W1, *b1, *W2, *b2, *dE, *dW1, *db1, *dW2, *db2;
    float *inner, *pair;                    /* (prefix_len, mlp_dim) tanh, (prefix_len, 2 kv_width) [K, V] */
    struct attn_packed *packed;
};
struct ptuning { float *d_inner, *d_pair; struct prefix layers[]; };

static struct prefix *prefix_at(const struct adapter *a, size_t layer)
{
    return &((struct ptuning *)a->own)->layers[layer];
}

static size_t inner_dim(const struct adapter *a)
{
    return a->options.mlp_dim ? a->options.mlp_dim : a->hidden;
}

static int open_mlp(struct adapter *a, size_t l, struct prefix *p)
{
    const size_t m = a->options.prefix_len, h = a->hidden, w = adapter_kv_width(a), n = inner_dim(a);
    p->E = adapter_parameter(a, l, "prefix_embedding", m, h, 1, 1, &p->dE);
    p->W1 = p->E ? adapter_parameter(a, l, "prefix_fc1.weight", n, h, 1, 1, &p->dW1) : NULL;
    p->b1 = p->W1 ? adapter_parameter(a, l, "prefix_fc1.bias", 1, n, 0, 1, &p->db1) : NULL;
    p->W2 = p->b1 ? adapter_parameter(a, l, "prefix_fc2.weight", 2 * w, n, 1, 1, &p->dW2) : NULL;
    p->b2 = p->W2 ? adapter_parameter(a, l, "prefix_fc2.bias", 1, 2 * w, 0, 1, &p->db2) : NULL;
    p->inner = calloc(m * n, sizeof(float));
    p->pair = calloc(m * 2 * w, sizeof(float));
    p->K = calloc(m * w, sizeof(float));
    p->V = calloc(m * w, sizeof(float));
    p->dK = calloc(m * w, sizeof(float));
    p->dV = calloc(m * w, sizeof(float));
    return p->b2 && p->inner && p->pair && p->K && p->V && p->dK && p->dV ? GSL_SUCCESS : GSL_ENOMEM;
}

static int open_ptuning(struct adapter *a, struct reason why)
{
    const size_t m = a->options.prefix_len, w = adapter_kv_width(a);
    struct ptuning *own = a->own = calloc(1, sizeof *own + a->num_layers * sizeof(struct prefix));
    if (!own) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
    int status = GSL_SUCCESS;
    if (a->options.reparameterise) {
        own->d_inner = calloc(m * inner_dim(a), sizeof(float));
        own->d_pair = calloc(m * 2 * w, sizeof(float));
        if (!own->d_inner || !own->d_pair) status = GSL_ENOMEM;
    }
    for (size_t l = 0; l < a->num_layers && !status; l++) {
        struct prefix *p = &own->layers[l];
        if (!adapter_in_layer(a, l)) continue;
        if (a->options.reparameterise) status = open_mlp(a, l, p);
        else {
            p->K = adapter_parameter(a, l, "prefix_k", m, w, 1, 1, &p->dK);
            p->V = p->K ? adapter_parameter(a, l, "prefix_v", m, w, 1, 1, &p->dV) : NULL;
            if (!p->V) status = GSL_ENOMEM;
        }
        p->packed = attn_packed_alloc(1, a->kv_heads, m, a->head_dim, 1);
        if (!p->packed) status = GSL_ENOMEM;
    }
    return status ? refuse(why, status, "no memory for the adapter") : GSL_SUCCESS;
}

static void close_ptuning(struct adapter *a)
{
    struct ptuning *own = a->own;
    for (size_t l = 0; own && l < a->num_layers; l++) {
        struct prefix *p = &own->layers[l];
        attn_packed_free(p->packed);
        if (!a->options.reparameterise) continue;
        free(p->inner);
        free(p->pair);
        free(p->K);
        free(p->V);
        free(p->dK);
        free(p->dV);
    }
    if (own) {
        free(own->d_inner);
        free(own->d_pair);
    }
    free(own);
}

static void start(struct adapter *a)
{
    const size_t m = a->options.prefix_len, h = a->hidden, w = adapter_kv_width(a), n = inner_dim(a);
    for (size_t l = 0; l < a->num_layers; l++) {
        struct prefix *p = prefix_at(a, l);
        if (!adapter_in_layer(a, l)) continue;
        if (!a->options.reparameterise) {
            adapter_normal(a, l, 0, a->options.init_scale, p->K, m * w);
            adapter_normal(a, l, 1, a->options.init_scale, p->V, m * w);
            continue;
        }
        /* N(0,1) embeddings and the usual uniform start of a linear layer. */
        adapter_normal(a, l, 2, 1.0, p->E, m * h);
        adapter_uniform(a, l, 3, 1.0 / sqrt((double)h), p->W1, n * h);
        adapter_uniform(a, l, 4, 1.0 / sqrt((double)h), p->b1, n);
        adapter_uniform(a, l, 5, 1.0 / sqrt((double)n), p->W2, 2 * w * n);
        adapter_uniform(a, l, 6, 1.0 / sqrt((double)n), p->b2, 2 * w);
    }
}

static void run_mlp(const struct adapter *a, struct prefix *p)
{
    const size_t m = a->options.prefix_len, h = a->hidden, w = adapter_kv_width(a), n = inner_dim(a);
    const struct epilogue first = { .bias = p->b1 }, second = { .bias = p->b2 };
    ops_linear(m, h, n, p->E, h, p->W1, p->inner, n, 0, &first, a->num_threads);
    for (size_t i = 0; i < m * n; i++) p->inner[i] = tanhf(p->inner[i]);
    ops_linear(m, n, 2 * w, p->inner, n, p->W2, p->pair, 2 * w, 0, &second, a->num_threads);
    for (size_t i = 0; i < m; i++) {
        memcpy(p->K + i * w, p->pair + i * 2 * w, w * sizeof(float));
        memcpy(p->V + i * w, p->pair + i * 2 * w + w, w * sizeof(float));
    }
}

static int prepare(struct adapter *a, size_t layer, int training, struct attention_extra *extra)
{
    struct prefix *p = prefix_at(a, layer);
    *extra = (struct attention_extra){ .kind = ATTENTION_PREFIX,
                                       .prefix_len = a->options.prefix_len,
                                       .K = p->K,
                                       .V = p->V,
                                       .packed = p->packed,
                                       .dK = p->dK,
                                       .dV = p->dV };
    if (training == 2) return GSL_SUCCESS;
    if (a->options.reparameterise) run_mlp(a, p);
    const struct attn_in k = { p->K, 0, (ptrdiff_t)a->head_dim, (ptrdiff_t)adapter_kv_width(a) };
    const struct attn_in v = { p->V, 0, (ptrdiff_t)a->head_dim, (ptrdiff_t)adapter_kv_width(a) };
    return attn_packed_set(p->packed, k, v, a->num_threads);
}

static void finish(struct adapter *a, size_t layer, const struct attention_extra *extra)
{
    if (!a->options.reparameterise) return;
    struct ptuning *own = a->own;
    struct prefix *p = prefix_at(a, layer);
    const size_t m = a->options.prefix_len, h = a->hidden, w = adapter_kv_width(a), n = inner_dim(a);
    const int threads = a->num_threads;
    for (size_t i = 0; i < m; i++) {
        memcpy(own->d_pair + i * 2 * w, extra->dK + i * w, w * sizeof(float));
        memcpy(own->d_pair + i * 2 * w + w, extra->dV + i * w, w * sizeof(float));
    }
    ops_linear_dW(m, n, 2 * w, 1.0f, own->d_pair, 2 * w, p->inner, n, p->dW2, threads);
    ops_sum_columns(m, 2 * w, 2 * w, own->d_pair, NULL, p->db2, threads);
    ops_linear_dx(m, n, 2 * w, 1.0f, own->d_pair, 2 * w, p->W2, own->d_inner, n, 0, NULL, threads);
    for (size_t i = 0; i < m * n; i++) own->d_inner[i] *= 1.0f - p->inner[i] * p->inner[i];
    ops_linear_dW(m, h, n, 1.0f, own->d_inner, n, p->E, h, p->dW1, threads);
    ops_sum_columns(m, n, n, own->d_inner, NULL, p->db1, threads);
    ops_linear_dx(m, h, n, 1.0f, own->d_inner, n, p->W1, p->dE, h, 0, NULL, threads);
}

static const float *prefix_rows(struct adapter *a, size_t layer, int value)
{
    if (!adapter_in_layer(a, layer)) return NULL;
    struct prefix *p = prefix_at(a, layer);
    if (a->options.reparameterise) run_mlp(a, p);
    return value ? p->V : p->K;
}

static int set_prefix(struct adapter *a, size_t layer, const float *K_P, const float *V_P, size_t prefix_len)
{
    if (a->options.reparameterise) return GSL_EUNSUP;
    if (!adapter_in_layer(a, layer) || prefix_len != a->options.prefix_len) return GSL_EINVAL;
    memcpy(prefix_at(a, layer)->K, K_P, prefix_len * adapter_kv_width(a) * sizeof(float));
    memcpy(prefix_at(a, layer)->V, V_P, prefix_len * adapter_kv_width(a) * sizeof(float));
    return GSL_SUCCESS;
}

const struct adapter_ops adapter_ptuning = {
    .name = "ptuning", .summary = "P-Tuning V2: trained keys and values in front of every block's", .changes_blocks = 1,
    .open = open_ptuning, .close = close_ptuning, .start = start, .prepare = prepare, .finish = finish,
    .set_prefix = set_prefix, .prefix_rows = prefix_rows
};
