#include "tests/support/attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "prefix_ntk/feature.h"

static void *keep(struct attn_case *c, void *block)
{
    if (!block || c->num_blocks == sizeof c->blocks / sizeof *c->blocks) abort();
    return c->blocks[c->num_blocks++] = block;
}

float *attn_case_floats(struct attn_case *c, size_t n) { return keep(c, calloc(n + 1, sizeof(float))); }
double *attn_case_doubles(struct attn_case *c, size_t n) { return keep(c, calloc(n + 1, sizeof(double))); }

static struct attn_out dense_like_q(const struct attn_case *c, float *data)
{
    return attn_dense_out(data, c->shape.heads, c->shape.len_q, c->shape.head_dim);
}

/* (batch, len, heads, dim), 3 numbers between heads and 5 between rows. */
static struct attn_out gapped(float *data, size_t heads, size_t len, size_t dim)
{
    const size_t row = heads * (dim + 3) + 5;
    return (struct attn_out){ data, (ptrdiff_t)(len * row), (ptrdiff_t)(dim + 3), (ptrdiff_t)row };
}

static struct attn_out gapped_like_q(const struct attn_case *c, float *data)
{
    return gapped(data, c->shape.heads, c->shape.len_q, c->shape.head_dim);
}

/* Normals times std as a float array in either layout and the same in double. */
static struct attn_in draw(struct attn_case *c, unsigned seed, unsigned stream, int interleaved, size_t batch,
                           size_t heads, size_t len, size_t dim, double std, const double **copy)
{
    double *x = attn_case_doubles(c, batch * heads * len * dim);
    float *data = attn_case_floats(c, batch * (len + 1) * (heads * (dim + 3) + 5));
    const struct attn_out view = interleaved ? gapped(data, heads, len, dim) : attn_dense_out(data, heads, len, dim);
    for (size_t b = 0; b < batch; b++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < len; i++) {
                const size_t at = (b * heads + h) * len + i;
                double *row = x + at * dim;
                random_normal(seed, RANDOM_OTHER, stream, at, row, dim);
                float *to = view.data + (ptrdiff_t)b * view.batch + (ptrdiff_t)h * view.head + (ptrdiff_t)i * view.row;
                for (size_t e = 0; e < dim; e++) row[e] = to[e] = (float)(std * row[e]);
            }
    *copy = x;
    return (struct attn_in){ view.data, view.batch, view.head, view.row };
}

void attn_case_make(const struct attn_case_spec *spec, unsigned seed, struct attn_case *c)
{
    memset(c, 0, sizeof *c);
    const size_t B = spec->batch, H = spec->heads, KV = spec->kv_heads, d = spec->head_dim;
    c->shape = (struct attn_shape){ B, H, KV, spec->len_q, spec->len_k, d, spec->causal, NULL };
    c->scale = (float)(1.0 / sqrt((double)d));
    c->prefix_len = spec->prefix_len;
    if (spec->ragged) {
        c->lengths = keep(c, calloc(B, sizeof *c->lengths));
        for (size_t b = 0; b < B; b++) c->lengths[b] = spec->len_k - (spec->len_k - 1) * b / B;
        c->shape.key_lengths = c->lengths;
    }
    const double std = spec->score_std > 0.0 ? sqrt(spec->score_std) : 1.0;
    const int gaps = spec->interleaved;
    struct attn_ref *p = &c->ref;
    *p = (struct attn_ref){ .batch = B, .heads = H, .kv_heads = KV, .len_q = spec->len_q, .len_k = spec->len_k,
                            .head_dim = d, .prefix_len = spec->prefix_len, .causal = spec->causal,
                            .key_lengths = c->lengths, .scale = c->scale };
    const double *d_out;
    c->q = draw(c, seed, 1, gaps, B, H, spec->len_q, d, std, &p->q);
    c->k = draw(c, seed, 2, gaps, B, KV, spec->len_k, d, std, &p->k);
    c->v = draw(c, seed, 3, gaps, B, KV, spec->len_k, d, 1.3, &p->v);
    c->prefix.len = spec->prefix_len;
    c->prefix.k = draw(c, seed, 4, gaps, B, KV, spec->prefix_len, d, std, &p->prefix_k);
    c->prefix.v = draw(c, seed, 5, gaps, B, KV, spec->prefix_len, d, 0.7, &p->prefix_v);
    c->d_out = draw(c, seed, 6, gaps, B, H, spec->len_q, d, 0.9, &d_out);
    c->ref_d_out = (double *)d_out;
    c->out_like_q = gaps ? gapped_like_q : dense_like_q;
    c->q_size = B * spec->len_q * (H * (d + 3) + 5);
    if (!spec->feature) return;

    feature_map *map;
    if (feature_parse(spec->feature, d, 3.0, seed, NULL, &map)) abort();
    c->summary.map = map;
    c->summary.heads = H;
    const size_t r = c->feat_dim = p->feat_dim = feature_dim(map);
    c->summary.Z = draw(c, seed, 7, gaps, B, H, r, d, 0.8, &p->Z);
    /* k >= 0, as a summary of a prefix has. */
    double *k = attn_case_doubles(c, B * H * r);
    float *k32 = attn_case_floats(c, B * H * r);
    random_uniform(seed, RANDOM_OTHER, 8, 0, k, B * H * r);
    for (size_t i = 0; i < B * H * r; i++) k[i] = k32[i] = (float)k[i];
    p->kvec = k;
    c->summary.kvec = (struct attn_in){ k32, (ptrdiff_t)(H * r), (ptrdiff_t)r, 0 };
    double *phi = attn_case_doubles(c, B * H * spec->len_q * r);
    double *log_scale = attn_case_doubles(c, B * H * spec->len_q);
    if (feature_forward_f64(map, FEATURE_QUERY, B * H * spec->len_q, p->q, d, phi, r, log_scale, 1, NULL)) abort();
    p->phi = phi;
    p->log_scale = log_scale;
}

void attn_case_free(struct attn_case *c)
{
    for (size_t i = 0; i < c->num_blocks; i++) free(c->blocks[i]);
    feature_map_free((feature_map *)c->summary.map);
    memset(c, 0, sizeof *c);
}

double attn_largest(const double *x, size_t n)
{
    double max = 0.0;
    for (size_t i = 0; i < n; i++) max = fmax(max, fabs(x[i]));
    return max;
}

double attn_deviation(struct attn_in got, const double *want, size_t batch, size_t heads, size_t len, size_t dim)
{
    double max = 0.0;
    for (size_t b = 0; b < batch; b++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < len; i++)
                for (size_t e = 0; e < dim; e++) {
                    const float g = got.data[(ptrdiff_t)b * got.batch + (ptrdiff_t)h * got.head +
                                             (ptrdiff_t)i * got.row + (ptrdiff_t)e];
                    const double off = fabs(g - want[((b * heads + h) * len + i) * dim + e]);
                    if (isnan(off)) return off;
                    max = fmax(max, off);
                }
    return max;
}

static double largest_product(const double *q, const double *k, size_t len_q, size_t len_k, size_t d)
{
    double max = 0.0;
    for (size_t i = 0; i < len_q; i++)
        for (size_t j = 0; j < len_k; j++) {
            double s = 0.0;
            for (size_t e = 0; e < d; e++) s += q[i * d + e] * k[j * d + e];
            max = fmax(max, fabs(s));
        }
    return max;
}

double attn_largest_score(const struct attn_ref *p)
{
    double max = 0.0;
    for (size_t b = 0; b < p->batch; b++)
        for (size_t h = 0; h < p->heads; h++) {
            const size_t bkv = b * p->kv_heads + h / (p->heads / p->kv_heads);
            const double *q = p->q + (b * p->heads + h) * p->len_q * p->head_dim;
            max = fmax(max, largest_product(q, p->k + bkv * p->len_k * p->head_dim, p->len_q, p->len_k, p->head_dim));
            max = fmax(max, largest_product(q, p->prefix_k + bkv * p->prefix_len * p->head_dim, p->len_q,
                                            p->prefix_len, p->head_dim));
        }
    return max * fabs(p->scale);
}
