#include "tests/support/attention_ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One query row: the weights of everything it can see, normalised by D. */
struct row {
    size_t keys;            /* input keys it sees: 0 .. keys-1 */
    double *input, *prefix; /* P_ij = A_ij / D */
    double feature;         /* e^{log_scale} / D: what multiplies phi Z */
    double lse;
    int ok;
};

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static size_t visible_keys(const struct attn_ref *p, size_t b, size_t i)
{
    size_t keys = p->key_lengths ? p->key_lengths[b] : p->len_k;
    if (p->causal) {
        const ptrdiff_t bound = (ptrdiff_t)i + (ptrdiff_t)p->len_k - (ptrdiff_t)p->len_q + 1;
        if (bound < (ptrdiff_t)keys) keys = bound > 0 ? (size_t)bound : 0;
    }
    return keys;
}

static void row_weights(const struct attn_ref *p, size_t b, size_t h, size_t i, struct row *row)
{
    const size_t d = p->head_dim, kv = h / (p->heads / p->kv_heads), bh = b * p->heads + h;
    const size_t bkv = b * p->kv_heads + kv, r = p->feat_dim;
    const double *q = p->q + (bh * p->len_q + i) * d;
    row->keys = visible_keys(p, b, i);
    double max = -INFINITY;
    for (size_t j = 0; j < row->keys; j++) {
        row->input[j] = p->scale * dot(q, p->k + (bkv * p->len_k + j) * d, d);
        max = fmax(max, row->input[j]);
    }
    for (size_t j = 0; j < p->prefix_len; j++) {
        row->prefix[j] = p->scale * dot(q, p->prefix_k + (bkv * p->prefix_len + j) * d, d);
        max = fmax(max, row->prefix[j]);
    }
    const double mass = r ? dot(p->phi + (bh * p->len_q + i) * r, p->kvec + bh * r, r) : 0.0;
    const double log_scale = p->log_scale ? p->log_scale[bh * p->len_q + i] : 0.0;
    if (mass != 0.0) max = fmax(max, log(fabs(mass)) + log_scale);
    double D = mass != 0.0 ? mass * exp(log_scale - max) : 0.0;
    for (size_t j = 0; j < row->keys; j++) D += row->input[j] = exp(row->input[j] - max);
    for (size_t j = 0; j < p->prefix_len; j++) D += row->prefix[j] = exp(row->prefix[j] - max);
    row->ok = D > 0.0 && isfinite(D);
    if (!row->ok) return;
    for (size_t j = 0; j < row->keys; j++) row->input[j] /= D;
    for (size_t j = 0; j < p->prefix_len; j++) row->prefix[j] /= D;
    row->feature = exp(log_scale - max) / D;
    row->lse = max + log(D);
}

static void row_output(const struct attn_ref *p, size_t b, size_t h, size_t i, const struct row *row, double *t)
{
    const size_t d = p->head_dim, kv = h / (p->heads / p->kv_heads), bh = b * p->heads + h;
    const size_t bkv = b * p->kv_heads + kv, r = p->feat_dim;
    memset(t, 0, d * sizeof *t);
    for (size_t j = 0; j < row->keys; j++)
        for (size_t c = 0; c < d; c++) t[c] += row->input[j] * p->v[(bkv * p->len_k + j) * d + c];
    for (size_t j = 0; j < p->prefix_len; j++)
        for (size_t c = 0; c < d; c++) t[c] += row->prefix[j] * p->prefix_v[(bkv * p->prefix_len + j) * d + c];
    for (size_t f = 0; f < r; f++) {
        const double w = row->feature * p->phi[(bh * p->len_q + i) * r + f];
        for (size_t c = 0; c < d; c++) t[c] += w * p->Z[(bh * r + f) * d + c];
    }
}

static struct row row_alloc(const struct attn_ref *p)
{
    struct row row = { 0 };
    row.input = calloc(p->len_k + p->prefix_len + 1, sizeof *row.input);
    if (!row.input) abort();
    row.prefix = row.input + p->len_k;
    return row;
}

size_t attn_ref_forward(const struct attn_ref *p, double *out, double *lse)
{
    struct row row = row_alloc(p);
    size_t bad = 0;
    for (size_t b = 0; b < p->batch; b++)
        for (size_t h = 0; h < p->heads; h++)
            for (size_t i = 0; i < p->len_q; i++) {
                const size_t at = (b * p->heads + h) * p->len_q + i;
                row_weights(p, b, h, i, &row);
                if (row.ok) row_output(p, b, h, i, &row, out + at * p->head_dim);
                else memset(out + at * p->head_dim, 0, p->head_dim * sizeof *out);
                if (lse) lse[at] = row.ok ? row.lse : (double)NAN;
                bad += !row.ok;
            }
    free(row.input);
    return bad;
}

/* Key j with weight w seen from query q: dS = w (G.v - G.T), then dv, dk, dq. */
static void key_backward(double w, double scale, size_t d, const double *G, double GT, const double *q,
                         const double *k, const double *v, double *dq, double *dk, double *dv)
{
    const double dS = w * (dot(G, v, d) - GT) * scale;
    for (size_t c = 0; c < d; c++) {
        if (dv) dv[c] += w * G[c];
        if (dk) dk[c] += dS * q[c];
        if (dq) dq[c] += dS * k[c];
    }
}

void attn_ref_backward(const struct attn_ref *p, const double *d_out, const struct attn_ref_grads *g)
{
    const size_t d = p->head_dim, r = p->feat_dim, B = p->batch, H = p->heads, KV = p->kv_heads;
    const struct { double *a; size_t n; } all[] = {
        { g->q, B * H * p->len_q * d },            { g->k, B * KV * p->len_k * d },
        { g->v, B * KV * p->len_k * d },           { g->prefix_k, B * KV * p->prefix_len * d },
        { g->prefix_v, B * KV * p->prefix_len * d }, { g->phi, B * H * p->len_q * r },
        { g->Z, B * H * r * d },                   { g->kvec, B * H * r },
    };
    for (size_t a = 0; a < sizeof all / sizeof *all; a++)
        if (all[a].a && all[a].n) memset(all[a].a, 0, all[a].n * sizeof(double));

    struct row row = row_alloc(p);
    double *t = calloc(d, sizeof *t);
    if (!t) abort();
    for (size_t b = 0; b < B; b++)
        for (size_t h = 0; h < H; h++)
            for (size_t i = 0; i < p->len_q; i++) {
                const size_t bh = b * H + h, bkv = b * KV + h / (H / KV), at = bh * p->len_q + i;
                const double *G = d_out + at * d, *q = p->q + at * d;
                row_weights(p, b, h, i, &row);
                if (!row.ok) continue;
                row_output(p, b, h, i, &row, t);
                const double GT = dot(G, t, d);
                double *dq = g->q ? g->q + at * d : NULL;
                for (size_t j = 0; j < row.keys; j++) {
                    const size_t o = (bkv * p->len_k + j) * d;
                    key_backward(row.input[j], p->scale, d, G, GT, q, p->k + o, p->v + o, dq,
                                 g->k ? g->k + o : NULL, g->v ? g->v + o : NULL);
                }
                for (size_t j = 0; j < p->prefix_len; j++) {
                    const size_t o = (bkv * p->prefix_len + j) * d;
                    key_backward(row.prefix[j], p->scale, d, G, GT, q, p->prefix_k + o, p->prefix_v + o, dq,
                                 g->prefix_k ? g->prefix_k + o : NULL, g->prefix_v ? g->prefix_v + o : NULL);
                }
                for (size_t f = 0; f < r; f++) {
                    const double phi = p->phi[at * r + f], w = row.feature;
                    const double *Z = p->Z + (bh * r + f) * d;
                    if (g->phi) g->phi[at * r + f] = w * (dot(G, Z, d) - GT * p->kvec[bh * r + f]);
                    if (g->kvec) g->kvec[bh * r + f] -= w * phi * GT;
                    if (g->Z)
                        for (size_t c = 0; c < d; c++) g->Z[(bh * r + f) * d + c] += w * phi * G[c];
                }
            }
    free(t);
    free(row.input);
}

void attn_ref_elu1(const double *x, size_t rows, size_t head_dim, double *phi)
{
    const double root = pow((double)head_dim, -0.25);
    for (size_t i = 0; i < rows * head_dim; i++) {
        const double z = x[i] * root;
        phi[i] = z > 0.0 ? z + 1.0 : exp(z);
    }
}

void attn_ref_elu1_backward(const double *x, const double *d_phi, size_t rows, size_t head_dim, double *d_x)
{
    const double root = pow((double)head_dim, -0.25);
    for (size_t i = 0; i < rows * head_dim; i++) {
        const double z = x[i] * root;
        d_x[i] += d_phi[i] * root * (z > 0.0 ? 1.0 : exp(z));
    }
}
