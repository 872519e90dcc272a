/* What tokens and summaries in front of the text add to its attention. */
#include "transformer/decoder_internal.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

#include "transformer/attention_beside.h"

static const double LOG2E = 1.4426950408889634074;

/* One query head and one piece. */
struct job {
    const struct decoder_piece *piece;
    size_t n, dim;
    float scale;
    const float *q;                 /* (n, dim), row stride q_stride */
    size_t q_stride;
    float *values;                  /* (n, dim) */
    attn_row *rows;                 /* (n) */
    float *scratch;                 /* (n, tokens or features) */
};

/* sum_j w_j e^{s_j} (v_j, 1), relative to 2^M with M above the largest exponent. */
static void weighted_tokens(const struct job *job)
{
    const struct decoder_piece *p = job->piece;
    const size_t len = p->len;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)job->n, (int)len, (int)job->dim, job->scale, job->q,
                (int)job->q_stride, p->K, (int)job->dim, 0.0f, job->scratch, (int)len);
    for (size_t i = 0; i < job->n; i++) {
        float *s = job->scratch + i * len, most = -INFINITY;
        for (size_t j = 0; j < len; j++) {
            s[j] = (float)((double)(s[j] + p->log_weight[j]) * LOG2E);
            if (!(s[j] <= most)) most = s[j];
        }
        const float shift = ceilf(most);
        double mass = 0.0;
        for (size_t j = 0; j < len; j++) {
            s[j] = exp2f(s[j] - shift);
            mass += (double)s[j];
        }
        job->rows[i][0] = shift;
        job->rows[i][1] = (float)mass;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)job->n, (int)job->dim, (int)len, 1.0f, job->scratch,
                (int)len,
                p->V, (int)job->dim, 0.0f, job->values, (int)job->dim);
}

/* The stored numbers times 2^exponent, as a shift that is an integer and numbers of order 1. */
static void set_row(float *values, attn_row row, size_t dim, float mass, double exponent)
{
    double whole = floor(exponent);
    int e = 0;
    if (mass != 0.0f) {
        frexp((double)mass, &e);
    } else {
        float most = 0.0f;
        for (size_t c = 0; c < dim; c++) most = fmaxf(most, fabsf(values[c]));
        if (most == 0.0f) whole = -INFINITY;
    }
    const double factor = isfinite(whole) ? ldexp(exp2(exponent - whole), -e) : 0.0;
    row[0] = (float)(whole + e);
    row[1] = (float)((double)mass * factor);
    for (size_t c = 0; c < dim; c++) values[c] = (float)((double)values[c] * factor);
}

/* e^{<q,centre> scale} phi(q) (Z, k); `index`: which summary of the piece. */
static int summary(const struct job *job, size_t index)
{
    const struct decoder_piece *p = job->piece;
    const size_t r = feature_dim(p->map), n = job->n, dim = job->dim;
    float *phi = job->scratch, *mass = phi + n * r;
    double log_scale[64];
    const float *Z = p->Z + index * r * dim, *k = p->k + index * r;
    for (size_t at = 0; at < n; at += 64) {
        const size_t count = n - at < 64 ? n - at : 64;
        const float *q = job->q + at * job->q_stride;
        const int status = feature_forward_f32(p->map, FEATURE_QUERY, count, q, job->q_stride, phi, r, log_scale, 1,
                                               NULL);
        if (status) return status;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)dim, (int)r, 1.0f, phi, (int)r, Z,
                    (int)dim,
                    0.0f, job->values + at * dim, (int)dim);
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)count, (int)r, 1.0f, phi, (int)r, k, 1, 0.0f, mass, 1);
        for (size_t i = 0; i < count; i++) {
            double t = log_scale[i];
            if (p->centre) t += (double)job->scale * cblas_dsdot((int)dim, q + i * job->q_stride, 1, p->centre, 1);
            set_row(job->values + (at + i) * dim, job->rows[at + i], dim, mass[i], t * LOG2E);
        }
    }
    return GSL_SUCCESS;
}

/* Floats that hold a struct decoder_keys. */
enum { KEYS_FLOATS = (sizeof(struct decoder_keys) + sizeof(float) - 1) / sizeof(float) };

size_t decoder_prefix_floats(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t n,
                             int num_threads)
{
    const size_t group = config->num_heads / config->kv_heads;
    size_t most = 0;
    for (size_t i = 0; prefix && i < config->num_layers * config->kv_heads; i++) {
        const struct decoder_piece *p = &prefix->pieces[i];
        const size_t tokens = p->log_weight ? p->len : 0, features = p->map ? feature_dim(p->map) + 1 : 0;
        if (tokens > most) most = tokens;
        if (features > most) most = features;
    }
    size_t floats = n * (most + group * (config->head_dim + 2)), longest = 0;
    for (size_t i = 0; prefix && i < config->num_layers * config->kv_heads; i++)
        if (prefix->pieces[i].len > longest) longest = prefix->pieces[i].len;
    /* One query: its partial results come before the work of the pieces. */
    floats += decoder_few_floats(config, longest, num_threads) + config->kv_heads * KEYS_FLOATS;
    size_t bytes = 0;
    for (size_t i = 0; prefix && i < config->num_layers * config->kv_heads; i++) {
        const struct decoder_piece *p = &prefix->pieces[i];
        const size_t own = p->map && p->beside ? attention_beside_bytes(p->map) : 0;
        if (own > bytes) bytes = own;
    }
    return floats > bytes / sizeof(float) ? floats : bytes / sizeof(float) + 1;
}

/* One query of every head against the unweighted tokens of a layer; the floats of `work` they leave in use. */
static size_t merge_tokens(const struct decoder_config *c, const struct decoder_prefix *prefix, size_t layer,
                           struct attn_in q, struct attn_out values, attn_row *rows, float *work, int num_threads)
{
    struct decoder_keys *keys = (struct decoder_keys *)work;
    for (size_t g = 0; g < c->kv_heads; g++) {
        const struct decoder_piece *p = &prefix->pieces[layer * c->kv_heads + g];
        keys[g] = (struct decoder_keys){ p->K, p->V, p->log_weight ? 0 : p->len };
    }
    const size_t used = c->kv_heads * KEYS_FLOATS;
    decoder_few_merge(c, keys, q.data, q.head, values, rows, work + used, num_threads);
    return used;
}

int decoder_prefix_merge(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t layer,
                         size_t n,
                         struct attn_in q, struct attn_out values, attn_row *rows, float *work, int num_threads)
{
    const size_t group = config->num_heads / config->kv_heads, dim = config->head_dim;
    const struct attn_shape shape = { 1, group, 1, n, 0, dim, 0, NULL }, one = { 1, 1, 1, n, 0, dim, 0, NULL };
    const size_t apart = n == 1 ? merge_tokens(config, prefix, layer, q, values, rows, work, num_threads) : 0;
    float *from = work + apart, *scratch = from + n * group * (dim + 2);
    attn_row *from_rows = (attn_row *)(from + n * group * dim);
    for (size_t g = 0; g < config->kv_heads; g++) {
        const struct decoder_piece *p = &prefix->pieces[layer * config->kv_heads + g];
        const ptrdiff_t first = (ptrdiff_t)(g * group);
        struct attn_in q_group = { q.data + first * q.head, 0, q.head, q.row };
        struct attn_out into = { values.data + first * values.head, 0, values.head, values.row };
        attn_row *into_rows = rows + (size_t)first * n;
        if (n > 1 && p->len && !p->log_weight) {
            const struct attn_in K = { p->K, 0, 0, (ptrdiff_t)dim }, V = { p->V, 0, 0, (ptrdiff_t)dim };
            const struct attn_prefix tokens = { p->len, K, V, NULL };
            const struct attn_out out = attn_dense_out(from, group, n, dim);
            const int status = attn_partial_forward(&shape, 1.0f / sqrtf((float)dim), q_group, K, V, &tokens, out,
                                                    from_rows,
                                                    NULL, 0, num_threads);
            if (status) return status;
            attn_partial_merge(&shape, into, into_rows, attn_dense_in(from, group, n, dim), from_rows);
        }
        for (size_t h = 0; h < group; h++) {
            const struct job job = { p, n, dim, 1.0f / sqrtf((float)dim), q_group.data + (ptrdiff_t)h * q.head,
                                     (size_t)q.row, from,
                                     from_rows, scratch };
            const struct attn_out head = { into.data + (ptrdiff_t)h * into.head, 0, 0, into.row };
            const struct attn_in made = attn_dense_in(from, 1, n, dim);
            if (p->len && p->log_weight) {
                weighted_tokens(&job);
                attn_partial_merge(&one, head, into_rows + h * n, made, (const attn_row *)from_rows);
            }
            if (!p->map || p->beside) continue;
            const int status = summary(&job, p->summaries > 1 ? h : 0);
            if (status) return status;
            attn_partial_merge(&one, head, into_rows + h * n, made, (const attn_row *)from_rows);
        }
    }
    return GSL_SUCCESS;
}

int decoder_prefix_beside(const struct decoder_config *config, const struct decoder_prefix *prefix, size_t layer,
                          size_t n, struct attn_in q, struct attn_out out, float *work)
{
    const size_t group = config->num_heads / config->kv_heads, dim = config->head_dim;
    for (size_t g = 0; g < config->kv_heads; g++) {
        const struct decoder_piece *p = &prefix->pieces[layer * config->kv_heads + g];
        for (size_t h = 0; p->map && p->beside && h < group; h++) {
            const ptrdiff_t head = (ptrdiff_t)(g * group + h);
            const size_t index = p->summaries > 1 ? h : 0;
            const struct attention_beside beside = {
                .map = p->map, .heads = 1, .dim = dim, .rows = n, .q = q.data + head * q.head,
                .q_stride = (size_t)q.row, .stride = (size_t)out.row, .Z = p->Z + index * feature_dim(p->map) * dim
            };
            const int status = attention_beside_forward(&beside, out.data + head * out.head, (char *)work);
            if (status) return status;
        }
    }
    return GSL_SUCCESS;
}
