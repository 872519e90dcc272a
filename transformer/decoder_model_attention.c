/* Attention of one block of a trained decoder, text by text.
 *
 * Where the prefix or summary meets the same query as the text (ROTATED), one call of the attention library serves
 * both. UNROTATED, text and prefix meet different queries: forward as partial results that are merged; backward as
 * one call over the text and one over the prefix, each with the joint shift and normaliser of a row, from which
 * P = 2^{s log2(e) - M} / D and dS = P (dT.v - dT.T) follow for keys of either. */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

#include "transformer/attention_beside.h"
#include "transformer/decoder_model_internal.h"
#include "transformer/ops.h"

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static float scale_of(const struct decoder_config *c) { return 1.0f / sqrtf((float)c->head_dim); }

/* One text: len rows from row `row` on. */
struct text { size_t row, len; };

static struct attn_shape shape_of(const struct decoder_config *c, size_t len_q, size_t len_k)
{
    return (struct attn_shape){ .batch = 1, .heads = c->num_heads, .kv_heads = c->kv_heads, .len_q = len_q,
                                .len_k = len_k, .head_dim = c->head_dim, .causal = len_k > 0 };
}

/* Columns from `column` on of a (rows, width) array. */
static struct attn_in view(const struct decoder_config *c, const float *x, size_t width, size_t column, struct text t)
{
    return (struct attn_in){ x + t.row * width + column, 0, (ptrdiff_t)c->head_dim, (ptrdiff_t)width };
}

static struct attn_out out_view(const struct decoder_config *c, float *x, size_t width, size_t column, struct text t)
{
    const struct attn_in in = view(c, x, width, column, t);
    return (struct attn_out){ (float *)in.data, in.batch, in.head, in.row };
}

/* q, k, v of a text in (rows, qkv) array. */
struct parts { struct attn_in q, k, v; };

static struct parts parts_of(const struct decoder_config *c, const float *qkv, struct text t)
{
    const size_t width = decoder_qkv_width(c), q = decoder_q_width(c), kv = decoder_kv_width(c);
    return (struct parts){ view(c, qkv, width, 0, t), view(c, qkv, width, q, t), view(c, qkv, width, q + kv, t) };
}

static struct attn_prefix prefix_of(const struct decoder_config *c, const struct attention_extra *x)
{
    const ptrdiff_t d = (ptrdiff_t)c->head_dim, width = (ptrdiff_t)decoder_kv_width(c);
    const struct attn_in k = { x->K, 0, d, width }, v = { x->V, 0, d, width };
    return (struct attn_prefix){ x->kind == ATTENTION_PREFIX ? x->prefix_len : 0, k, v, x->packed };
}

static struct attn_summary summary_of(const struct decoder_config *c, const struct attention_extra *x)
{
    const ptrdiff_t r = (ptrdiff_t)feature_dim(x->map), d = (ptrdiff_t)c->head_dim;
    return (struct attn_summary){ x->map, c->num_heads, { x->Z, 0, r * d, d }, { x->k, 0, r, 1 } };
}

static int is_apart(const struct decoder_model *m, const struct attention_extra *x)
{
    return m->options.rotation == DECODER_UNROTATED && (x->kind == ATTENTION_PREFIX || x->kind == ATTENTION_SUMMARY);
}

/* ---- memory --------------------------------------------------------------------------------------------- */

size_t decoder_attention_floats(const struct decoder_model *m, const struct attention_extra *x)
{
    if (x->kind == ATTENTION_PLAIN) return 0;
    if (x->kind == ATTENTION_PREFIX) return 2 * x->prefix_len * decoder_kv_width(&m->config);
    return m->config.num_heads * feature_dim(x->map) * (m->config.head_dim + 1);
}

size_t decoder_attention_bytes(const struct decoder_model *m, const struct attention_extra *x, size_t max_len,
                               int training, int num_threads)
{
    const struct decoder_config *c = &m->config;
    const struct attn_shape shape = shape_of(c, max_len, max_len), alone = shape_of(c, max_len, 0);
    float any = 0.0f;
    const struct attn_out wide = { &any, 0, (ptrdiff_t)c->head_dim, (ptrdiff_t)decoder_qkv_width(c) };
    const struct attn_out shared = { &any, 0, (ptrdiff_t)c->head_dim, (ptrdiff_t)decoder_kv_width(c) };
    const size_t len = x->kind == ATTENTION_PREFIX ? x->prefix_len : 0;
    struct attn_exact_grads grads = { .q = wide, .k = wide, .v = wide };
    size_t bytes = attn_exact_forward_workspace(&shape, len, num_threads);
    bytes = most(bytes, attn_partial_workspace(&shape, 0, num_threads));
    /* A call of a few rows is another one, which may need more. */
    enum { FEW = 8 };
    for (size_t rows = 1; rows < max_len && rows <= FEW; rows++) {
        const struct attn_shape few = shape_of(c, rows, rows);
        bytes = most(bytes, attn_exact_forward_workspace(&few, len, num_threads));
        bytes = most(bytes, attn_partial_workspace(&few, 0, num_threads));
    }
    if (training) bytes = most(bytes, attn_exact_backward_workspace(&shape, 0, &grads, num_threads));
    if (len) grads.prefix_k = grads.prefix_v = shared;
    if (training) bytes = most(bytes, attn_exact_backward_workspace(&shape, len, &grads, num_threads));
    if (training && len) bytes = most(bytes, attn_exact_backward_workspace(&alone, len, &grads, num_threads));
    if (x->kind == ATTENTION_BESIDE) bytes = most(bytes, attention_beside_bytes(x->map));
    if (x->kind != ATTENTION_SUMMARY) return bytes;
    const ptrdiff_t r = (ptrdiff_t)feature_dim(x->map), d = (ptrdiff_t)c->head_dim;
    const struct attn_summary summary = summary_of(c, x);
    const struct attn_ntk_grads ntk = { wide, wide, wide, { &any, 0, r * d, d }, { &any, 0, r, 1 } };
    bytes = most(bytes, attn_ntk_forward_workspace(&shape, &summary, num_threads));
    if (training) bytes = most(bytes, attn_ntk_backward_workspace(&shape, &summary, &ntk, num_threads));
    if (training) bytes = most(bytes, attn_ntk_backward_workspace(&alone, &summary, &ntk, num_threads));
    return bytes;
}

void decoder_model_pieces(const struct decoder_config *c, const struct attention_extra *x, struct decoder_piece *pieces,
                          float *tokens)
{
    const size_t dim = c->head_dim, group = c->num_heads / c->kv_heads, width = decoder_kv_width(c), m = x->prefix_len;
    for (size_t g = 0; g < c->kv_heads; g++) {
        pieces[g] = (struct decoder_piece){ .len = 0 };
        if (x->kind == ATTENTION_PREFIX) {
            float *K = tokens + g * m * dim, *V = K + m * width;
            for (size_t j = 0; j < m; j++) {
                memcpy(K + j * dim, x->K + j * width + g * dim, dim * sizeof *K);
                memcpy(V + j * dim, x->V + j * width + g * dim, dim * sizeof *V);
            }
            pieces[g] = (struct decoder_piece){ .len = m, .K = K, .V = V };
        } else if (x->kind != ATTENTION_PLAIN) {
            const size_t r = feature_dim(x->map);
            pieces[g] = (struct decoder_piece){ .map = x->map, .summaries = group, .Z = x->Z + g * group * r * dim,
                                                .k = x->k ? x->k + g * group * r : NULL,
                                                .beside = x->kind == ATTENTION_BESIDE };
        }
    }
}

/* ---- forward ---------------------------------------------------------------------------------------------- */

static struct attention_beside beside_of(const struct decoder_model *m, const struct decoder_state *s,
                                         const struct attention_extra *x, struct text t)
{
    const struct decoder_config *c = &m->config;
    const int apart = m->options.rotation == DECODER_UNROTATED;
    const size_t width = apart ? decoder_q_width(c) : decoder_qkv_width(c);
    return (struct attention_beside){ .map = x->map, .heads = c->num_heads, .dim = c->head_dim, .rows = t.len,
                                      .q = (apart ? s->raw : s->qkv) + t.row * width, .q_stride = width,
                                      .stride = decoder_q_width(c), .Z = x->Z };
}

static int forward_apart(struct decoder_model *m, struct decoder_state *s, const struct attn_shape *shape,
                         struct text t)
{
    const struct decoder_config *c = &m->config;
    const struct parts p = parts_of(c, s->qkv, t);
    const size_t q_width = decoder_q_width(c);
    const struct attn_out out = out_view(c, s->context, q_width, 0, t);
    attn_row *rows = s->attention + t.row * c->num_heads;
    const struct decoder_prefix prefix = { DECODER_UNROTATED, m->positions, m->pieces };
    int status = attn_partial_forward(shape, scale_of(c), p.q, p.k, p.v, NULL, out, rows, m->work, m->work_bytes,
                                      m->num_threads);
    if (!status)
        status = decoder_prefix_merge(c, &prefix, 0, t.len, view(c, s->raw, q_width, 0, t), out, rows, m->piece_work,
                                      m->num_threads);
    return status ? status : attn_partial_finish(shape, out, rows, NULL);
}

/* Where the softmax part of a block goes: beside features it is kept, elsewhere it is all. */
static float *softmax_of(const struct decoder_state *s, const struct attention_extra *x)
{
    return x->kind == ATTENTION_BESIDE ? s->soft : s->context;
}

static int forward_text(struct decoder_model *m, struct decoder_state *s, const struct attention_extra *x,
                        struct text t)
{
    const struct decoder_config *c = &m->config;
    const struct attn_shape shape = shape_of(c, t.len, t.len);
    if (is_apart(m, x)) return forward_apart(m, s, &shape, t);
    const struct parts p = parts_of(c, s->qkv, t);
    const size_t q_width = decoder_q_width(c);
    attn_row *rows = s->attention + t.row * c->num_heads;
    const struct attn_out out = out_view(c, softmax_of(s, x), q_width, 0, t);
    if (x->kind == ATTENTION_SUMMARY) {
        const struct attn_summary summary = summary_of(c, x);
        return attn_ntk_forward(&shape, scale_of(c), p.q, p.k, p.v, &summary, out, rows, m->work, m->work_bytes,
                                m->num_threads, NULL);
    }
    const struct attn_prefix prefix = prefix_of(c, x);
    const int status = attn_exact_forward(&shape, scale_of(c), p.q, p.k, p.v, &prefix, out, rows, m->work,
                                          m->work_bytes, m->num_threads, NULL);
    if (status || x->kind != ATTENTION_BESIDE) return status;
    const struct attention_beside beside = beside_of(m, s, x, t);
    float *context = s->context + t.row * q_width;
    memcpy(context, s->soft + t.row * q_width, t.len * q_width * sizeof *context);
    return attention_beside_forward(&beside, context, m->work);
}

static struct text text_of(const struct decoder_model *m, size_t i)
{
    const size_t *offsets = m->batch.offsets;
    return (struct text){ offsets[i], offsets[i + 1] - offsets[i] };
}

int decoder_attention_forward(struct decoder_model *m, struct decoder_state *s, const struct attention_extra *x)
{
    if (is_apart(m, x)) decoder_model_pieces(&m->config, x, m->pieces, m->piece_tokens);
    for (size_t i = 0; i < m->batch.num_seqs; i++) {
        const int status = forward_text(m, s, x, text_of(m, i));
        if (status) return status;
    }
    return GSL_SUCCESS;
}

/* ---- backward ------------------------------------------------------------------------------------------------ */

/* Of one text: what its backward calls share. */
struct back {
    struct decoder_model *m;
    const struct attention_extra *x;
    struct parts p;
    struct attn_in out, d_out;
    const attn_row *rows;
    struct attn_out dq, dk, dv;         /* data NULL: not wanted */
    float *second;                      /* shared gradients: K or Z in m->once, V or k here */
};

static int backward_exact(const struct back *b, const struct attn_shape *shape, struct attn_in q, int with_prefix,
                          struct attn_out dq)
{
    struct decoder_model *m = b->m;
    const struct decoder_config *c = &m->config;
    struct attn_prefix prefix = prefix_of(c, b->x);
    struct attn_exact_grads grads = { .q = dq };
    if (shape->len_k) {
        grads.k = b->dk;
        grads.v = b->dv;
    }
    if (!with_prefix) prefix.len = 0;
    if (prefix.len) {
        const ptrdiff_t d = (ptrdiff_t)c->head_dim, width = (ptrdiff_t)decoder_kv_width(c);
        grads.prefix_k = (struct attn_out){ m->once, 0, d, width };
        grads.prefix_v = (struct attn_out){ b->second, 0, d, width };
    }
    if (!grads.q.data && !grads.prefix_k.data) return GSL_SUCCESS;
    return attn_exact_backward(shape, scale_of(c), q, b->p.k, b->p.v, &prefix, b->out, b->rows, b->d_out, &grads,
                               m->work, m->work_bytes, m->num_threads);
}

static int backward_summary(const struct back *b, const struct attn_shape *shape, struct attn_in q, struct attn_out dq)
{
    struct decoder_model *m = b->m;
    const struct decoder_config *c = &m->config;
    const struct attn_summary summary = summary_of(c, b->x);
    const ptrdiff_t r = (ptrdiff_t)feature_dim(b->x->map), d = (ptrdiff_t)c->head_dim;
    struct attn_ntk_grads grads = { .q = dq, .Z = { m->once, 0, r * d, d },
                                    .kvec = { b->x->dk ? b->second : NULL, 0, r, 1 } };
    if (shape->len_k) {
        grads.k = b->dk;
        grads.v = b->dv;
    }
    return attn_ntk_backward(shape, scale_of(c), q, b->p.k, b->p.v, &summary, b->out, b->rows, b->d_out, &grads,
                             m->work, m->work_bytes, m->num_threads);
}

/* Adds the gradient in q before it turned, in the first columns of m->narrow, to those of d_qkv. */
static void add_raw(const struct decoder_model *m, struct text t, float *d_qkv)
{
    const size_t width = decoder_qkv_width(&m->config), q_width = decoder_q_width(&m->config);
    for (size_t i = t.row; i < t.row + t.len; i++)
        ops_current()->add(q_width, m->narrow + i * q_width, d_qkv + i * width);
}

/* dq and dk of a text back to what they were before they turned. */
static void turn_back(const struct decoder_model *m, struct text t, float *d_qkv)
{
    const struct decoder_config *c = &m->config;
    const size_t width = decoder_qkv_width(c), dim = c->head_dim;
    for (size_t i = 0; i < t.len; i++)
        for (size_t h = 0; h < c->num_heads + c->kv_heads; h++)
            ops_turn(d_qkv + (t.row + i) * width + h * dim, m->turn + i * dim, dim, 1);
}

static int backward_text(struct decoder_model *m, const struct decoder_state *s, const struct attention_extra *x,
                         const float *d_context, float *d_qkv, int through, struct text t)
{
    const struct decoder_config *c = &m->config;
    const size_t width = decoder_qkv_width(c), q_width = decoder_q_width(c), kv_width = decoder_kv_width(c);
    const struct attn_shape shape = shape_of(c, t.len, t.len), alone = shape_of(c, t.len, 0);
    const int apart = m->options.rotation == DECODER_UNROTATED;
    struct back b = { .m = m, .x = x, .p = parts_of(c, s->qkv, t), .out = view(c, softmax_of(s, x), q_width, 0, t),
                      .d_out = view(c, d_context, q_width, 0, t),
                      .rows = (const attn_row *)(s->attention + t.row * c->num_heads), .dq = { NULL, 0, 0, 0 } };
    b.second = m->once + (x->kind == ATTENTION_PREFIX ? x->prefix_len * kv_width
                          : x->kind == ATTENTION_PLAIN ? 0 : c->num_heads * feature_dim(x->map) * c->head_dim);
    if (through) {
        b.dq = out_view(c, d_qkv, width, 0, t);
        b.dk = out_view(c, d_qkv, width, q_width, t);
        b.dv = out_view(c, d_qkv, width, q_width + kv_width, t);
    }
    int status;
    if (is_apart(m, x)) {
        const struct attn_in raw = view(c, s->raw, q_width, 0, t);
        const struct attn_out d_raw = through ? out_view(c, m->narrow, q_width, 0, t) : b.dq;
        status = backward_exact(&b, &shape, b.p.q, 0, b.dq);
        if (status) return status;
        status = x->kind == ATTENTION_SUMMARY ? backward_summary(&b, &alone, raw, d_raw)
                                              : backward_exact(&b, &alone, raw, 1, d_raw);
    } else {
        status = x->kind == ATTENTION_SUMMARY ? backward_summary(&b, &shape, b.p.q, b.dq)
                                              : backward_exact(&b, &shape, b.p.q, 1, b.dq);
    }
    if (status) return status;
    if (x->kind != ATTENTION_BESIDE) ops_current()->add(m->extra_floats, m->once, m->sum);
    if (through && apart) turn_back(m, t, d_qkv);
    if (x->kind == ATTENTION_BESIDE) {
        const struct attention_beside beside = beside_of(m, s, x, t);
        float *dq = !through ? NULL : apart ? m->narrow + t.row * q_width : d_qkv + t.row * width;
        if (dq && apart) memset(dq, 0, t.len * q_width * sizeof *dq);
        status = attention_beside_backward(&beside, d_context + t.row * q_width, dq, m->sum, m->work);
        if (status) return status;
    }
    if (through && apart && x->kind != ATTENTION_PLAIN) add_raw(m, t, d_qkv);
    if (through && !apart) turn_back(m, t, d_qkv);
    return GSL_SUCCESS;
}

int decoder_attention_backward(struct decoder_model *m, const struct decoder_state *s, const struct attention_extra *x,
                               const float *d_context, float *d_qkv, int through)
{
    const struct decoder_config *c = &m->config;
    const size_t floats = decoder_attention_floats(m, x);
    m->extra_floats = floats;
    if (floats) memset(m->sum, 0, floats * sizeof *m->sum);
    for (size_t i = 0; i < m->batch.num_seqs; i++) {
        const int status = backward_text(m, s, x, d_context, d_qkv, through, text_of(m, i));
        if (status) return status;
    }
    if (x->kind == ATTENTION_PREFIX) {
        const size_t n = x->prefix_len * decoder_kv_width(c);
        memcpy(x->dK, m->sum, n * sizeof *x->dK);
        memcpy(x->dV, m->sum + n, n * sizeof *x->dV);
    } else if (x->kind != ATTENTION_PLAIN) {
        const size_t r = feature_dim(x->map), n = c->num_heads * r * c->head_dim;
        memcpy(x->dZ, m->sum, n * sizeof *x->dZ);
        if (x->dk) memcpy(x->dk, m->sum + n, c->num_heads * r * sizeof *x->dk);
    }
    return GSL_SUCCESS;
}
