/* NTK-Attention: T = D^-1 (A V + phi(Q) Z), D = A 1 + phi(Q) k, per block and head; Z = unit basis Z', and
 *   log     k = unit exp(theta)          tied    the same, one theta for all heads
 *   linear  k = unit theta, from 0       zero    k = 0 */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prefix_ntk/summary.h"
#include "transformer/adapter_summary.h"

static size_t theta_heads(const struct adapter *a)
{
    return a->options.k_mode == ADAPTER_K_TIED ? 1 : a->heads;
}

static int is_log(const struct adapter *a)
{
    return a->options.k_mode == ADAPTER_K_LOG || a->options.k_mode == ADAPTER_K_TIED;
}

static int open_ntk(struct adapter *a, struct reason why)
{
    const int status = summary_open(a, 1, why);
    if (status) return status;
    const size_t r = ((const struct summaries *)a->own)->feat_dim;
    for (size_t l = 0; l < a->num_layers; l++) {
        if (!adapter_in_layer(a, l)) continue;
        struct summary *s = summary_at(a, l);
        if (a->options.k_mode != ADAPTER_K_ZERO) {
            s->theta = adapter_parameter(a, l, is_log(a) ? "summary_log_k" : "summary_k", theta_heads(a), r, 0, 1,
                                         &s->d_theta);
            if (!s->theta) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
        }
        if (a->options.units) {
            s->unit = adapter_parameter(a, l, "summary_unit", 1, a->heads, 0, 0, NULL);
            if (!s->unit) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
            for (size_t h = 0; h < a->heads; h++) s->unit[h] = 1.0f;
        }
    }
    return GSL_SUCCESS;
}

/* theta = log(start_mass / sum of phi(0)): where queries are small, phi(q).k is start_mass units. */
static void start(struct adapter *a)
{
    const struct summaries *own = a->own;
    const size_t r = own->feat_dim, d = a->head_dim;
    summary_start(a);
    if (!is_log(a)) return;
    float *zero = calloc(d + r, sizeof *zero), *phi = zero ? zero + d : NULL;
    double sum = 0.0;
    if (zero && !feature_forward_f32(own->map, FEATURE_QUERY, 1, zero, d, phi, r, NULL, 1, NULL))
        for (size_t f = 0; f < r; f++) sum += phi[f];
    free(zero);
    const float theta = (float)log(a->options.start_mass / (sum > 0.0 ? sum : (double)r));
    for (size_t l = 0; l < a->num_layers; l++)
        for (size_t i = 0; adapter_in_layer(a, l) && i < theta_heads(a) * r; i++) summary_at(a, l)->theta[i] = theta;
}

static int prepare(struct adapter *a, size_t layer, int training, struct attention_extra *extra)
{
    const struct summaries *own = a->own;
    const struct summary *s = summary_at(a, layer);
    const size_t r = own->feat_dim;
    *extra = (struct attention_extra){ .kind = ATTENTION_SUMMARY, .map = own->map, .Z = s->Z, .k = s->k, .dZ = s->dZ,
                                       .dk = s->theta ? s->dk : NULL };
    if (training == 2) return GSL_SUCCESS;
    summary_prepare_Z(a, layer);
    for (size_t h = 0; s->theta && h < a->heads; h++) {
        const float unit = s->unit ? s->unit[h] : 1.0f, *theta = s->theta + (theta_heads(a) == 1 ? 0 : h) * r;
        for (size_t f = 0; f < r; f++) s->k[h * r + f] = unit * (is_log(a) ? expf(theta[f]) : theta[f]);
    }
    return GSL_SUCCESS;
}

/* d_theta = k dk (log), unit dk (linear), summed over the heads that share it. */
static void finish(struct adapter *a, size_t layer, const struct attention_extra *extra)
{
    (void)extra;
    const struct summary *s = summary_at(a, layer);
    const size_t r = ((const struct summaries *)a->own)->feat_dim, shared = theta_heads(a) == 1;
    summary_finish_Z(a, layer);
    if (!s->theta) return;
    memset(s->d_theta, 0, theta_heads(a) * r * sizeof *s->d_theta);
    for (size_t h = 0; h < a->heads; h++) {
        float *d_theta = s->d_theta + (shared ? 0 : h * r);
        const float unit = s->unit ? s->unit[h] : 1.0f;
        for (size_t f = 0; f < r; f++) d_theta[f] += s->dk[h * r + f] * (is_log(a) ? s->k[h * r + f] : unit);
    }
}

/* k >= 0, for maps without negative features (for the others the pass itself reports a D that is not positive). */
static void after_update(struct adapter *a)
{
    const struct summaries *own = a->own;
    if (a->options.k_mode != ADAPTER_K_LINEAR || !feature_is_positive(own->map)) return;
    for (size_t l = 0; l < a->num_layers; l++) {
        if (!adapter_in_layer(a, l)) continue;
        float *k = summary_at(a, l)->theta;
        for (size_t i = 0; i < a->heads * own->feat_dim; i++)
            if (k[i] < 0.0f) k[i] = 0.0f;
    }
}

static int fold_head(const struct adapter *a, const struct summary *s, size_t h, const float *K_P, const float *V_P,
                     size_t m, struct attn_fold *fold)
{
    const size_t r = ((const struct summaries *)a->own)->feat_dim, d = a->head_dim;
    const size_t width = adapter_kv_width(a), from = h / (a->heads / a->kv_heads) * d;
    const float unit = s->unit ? s->unit[h] : 1.0f;
    float *Z = s->Z_value + h * r * d, *theta = s->theta + h * r;
    attn_fold_reset(fold);
    int status = attn_fold_add_f32(fold, m, K_P + from, width, V_P + from, width, 1, NULL);
    if (!status) status = attn_fold_read_f32(fold, s->dZ, s->dk, NULL);
    if (status) return status;
    for (size_t f = 0; f < r; f++) {
        if (is_log(a) && !(s->dk[f] > 0.0f)) return GSL_EDOM;
        theta[f] = is_log(a) ? logf(s->dk[f] / unit) : s->dk[f] / unit;
    }
    for (size_t i = 0; i < r * d; i++) Z[i] = s->dZ[i] / unit;
    return GSL_SUCCESS;
}

static int set_prefix(struct adapter *a, size_t layer, const float *K_P, const float *V_P, size_t prefix_len)
{
    if (!adapter_in_layer(a, layer)) return GSL_EINVAL;
    if (a->options.z_rank || a->options.whiten || (a->options.k_mode != ADAPTER_K_LOG
                                                   && a->options.k_mode != ADAPTER_K_LINEAR))
        return GSL_EUNSUP;
    struct attn_fold *fold;
    int status = attn_fold_alloc(((const struct summaries *)a->own)->map, a->head_dim, &fold);
    if (status) return status;
    for (size_t h = 0; h < a->heads && !status; h++)
        status = fold_head(a, summary_at(a, layer), h, K_P, V_P, prefix_len, fold);
    attn_fold_free(fold);
    return status;
}

static int set_unit(struct adapter *a, size_t layer, const struct head_scales *scales)
{
    float *unit = summary_at(a, layer)->unit;
    for (size_t h = 0; unit && h < a->heads; h++) unit[h] = (float)scales->mean_mass[h];
    return scales->moment ? summary_set_basis(a, layer, scales) : GSL_SUCCESS;
}

const struct adapter_ops adapter_ntk = {
    .name = "ntk", .summary = "NTK-Attention: a trained summary (Z, k) in the softmax of every head",
    .changes_blocks = 1, .open = open_ntk, .close = summary_close, .start = start, .prepare = prepare, .finish = finish,
    .after_update = after_update, .set_prefix = set_prefix, .map_of = summary_map,
    .set_unit = set_unit
};
