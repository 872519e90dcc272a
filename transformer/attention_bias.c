#include "transformer/attention_bias.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "common/parallel.h"
#include "transformer/ops.h"

/* Distances from here on share the last bucket. */
enum { FAR = 128 };

static size_t aligned(size_t bytes) { return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN; }

size_t attention_bias_bucket(ptrdiff_t distance, size_t num_buckets)
{
    const size_t side = num_buckets / 2, exact = side / 2, base = distance > 0 ? side : 0;
    const size_t n = (size_t)(distance < 0 ? -distance : distance);
    if (n < exact) return base + n;
    /* The reference computes in float32; the logarithm's ratio decides at powers only, where both agree. */
    const float step = logf((float)n / (float)exact) / logf((float)FAR / (float)exact) * (float)(side - exact);
    const size_t far = exact + (size_t)step;
    return base + (far < side ? far : side - 1);
}

struct job {
    struct encoder *e;
    const struct block_state *state;
    const struct attention_extra *extra;
    const float *d_context;
    float *d_qkv;
    atomic_int status;
};

/* Scratch of one thread. */
struct scratch { float *scores, *d_scores, *phi, *d_phi, *delta; int32_t *buckets; char *beside; void *map; };

struct sizes { size_t prefix, feat; int summary, beside; };

static struct sizes sizes_of(const struct attention_extra *x)
{
    const int summary = x->kind == ATTENTION_SUMMARY, beside = x->kind == ATTENTION_BESIDE;
    return (struct sizes){ x->kind == ATTENTION_PREFIX ? x->prefix_len : 0, summary ? feature_dim(x->map) : 0, summary,
                           beside };
}

static size_t lay_out(const struct encoder *e, const struct attention_extra *x, char *work, struct scratch *s)
{
    const struct sizes n = sizes_of(x);
    struct arena arena = { work, 0 };
    const size_t len = e->max_len, scores = len * (n.prefix + len);
    s->scores = arena_floats(&arena, scores);
    s->d_scores = arena_floats(&arena, scores);
    s->phi = arena_floats(&arena, len * n.feat);
    s->d_phi = arena_floats(&arena, len * n.feat);
    s->delta = arena_floats(&arena, len);
    s->buckets = arena_take(&arena, 2 * len * sizeof *s->buckets);
    s->map = arena_take(&arena, n.summary ? aligned(feature_workspace(x->map, 1)) : 0);
    s->beside = arena_take(&arena, n.beside ? attention_beside_bytes(x->map) : 0);
    return arena.used;
}

size_t attention_bias_work_bytes(const struct encoder *e, const struct attention_extra *x)
{
    struct scratch s;
    return lay_out(e, x, NULL, &s);
}

static float scale_of(const struct encoder *e) { return (float)(1.0 / sqrt((double)e->head_dim)); }

static void note_status(struct job *job, int status)
{
    int none = GSL_SUCCESS;
    if (status) atomic_compare_exchange_strong(&job->status, &none, status);
}

/* Bucket of distance j - i at buckets[j - i + len - 1]. */
static void fill_buckets(const struct encoder *e, size_t len, int32_t *buckets)
{
    for (size_t i = 0; i < 2 * len - 1; i++)
        buckets[i] = (int32_t)attention_bias_bucket((ptrdiff_t)i - (ptrdiff_t)(len - 1), e->relative_buckets);
}

/* One sequence and head: rows row .. row+len-1. */
struct head { size_t row, len, head; };

static void fill_scores(const struct job *job, struct head a, const struct scratch *w)
{
    const struct encoder *e = job->e;
    const size_t h = e->hidden, d = e->head_dim, m = sizes_of(job->extra).prefix, width = m + a.len;
    const float *q = job->state->qkv + a.row * 3 * h + a.head * d, *k = q + h;
    const float scale = scale_of(e);
    if (m)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)a.len, (blasint)m, (blasint)d, scale, q,
                    (blasint)(3 * h), job->extra->K + a.head * d, (blasint)h, 0.0f, w->scores, (blasint)width);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)a.len, (blasint)a.len, (blasint)d, scale, q,
                (blasint)(3 * h), k, (blasint)(3 * h), 0.0f, w->scores + m, (blasint)width);
    for (size_t i = 0; i < a.len; i++)
        for (size_t j = 0; j < a.len; j++)
            w->scores[i * width + m + j] += e->relative_bias[(size_t)w->buckets[j + a.len - 1 - i] * e->heads + a.head];
}

static int fill_features(const struct job *job, struct head a, const struct scratch *w)
{
    const size_t h = job->e->hidden, r = sizes_of(job->extra).feat;
    const float *q = job->state->qkv + a.row * 3 * h + a.head * job->e->head_dim;
    return r ? feature_forward_f32(job->extra->map, FEATURE_QUERY, a.len, q, 3 * h, w->phi, r, NULL, 1, w->map)
             : GSL_SUCCESS;
}

static int head_forward(const struct job *job, struct head a, const struct scratch *w)
{
    const struct encoder *e = job->e;
    const struct attention_extra *x = job->extra;
    const struct ops_kernels *ops = ops_current();
    const size_t h = e->hidden, d = e->head_dim, m = sizes_of(x).prefix, r = sizes_of(x).feat, width = m + a.len;
    const float *v = job->state->qkv + a.row * 3 * h + 2 * h + a.head * d;
    float *out = softmax_part(job->state, job->extra) + a.row * h + a.head * d;
    attn_row *rows = job->state->attention + a.row * e->heads + a.head * a.len;
    int status = fill_features(job, a, w);
    if (status) return status;
    fill_scores(job, a, w);
    for (size_t i = 0; i < a.len; i++) {
        float *s = w->scores + i * width, max = s[0];
        const float *phi = r ? w->phi + i * r : NULL;
        for (size_t j = 1; j < width; j++) max = s[j] > max ? s[j] : max;
        const float mass = r ? cblas_sdot((blasint)r, phi, 1, x->k + a.head * r, 1) : 0.0f;
        if (mass != 0.0f && logf(fabsf(mass)) > max) max = logf(fabsf(mass));
        const float D = ops->exp_row(width, max, s) + mass * expf(-max);
        if (!(D > 0.0f) || !isfinite(D)) status = GSL_EDOM;
        for (size_t j = 0; j < width; j++) s[j] /= D;
        for (size_t f = 0; f < r; f++) w->phi[i * r + f] *= expf(-max) / D;
        rows[i][0] = max;
        rows[i][1] = D;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)a.len, (blasint)d, (blasint)a.len, 1.0f,
                w->scores + m, (blasint)width, v, (blasint)(3 * h), 0.0f, out, (blasint)h);
    if (m)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)a.len, (blasint)d, (blasint)m, 1.0f, w->scores,
                    (blasint)width, x->V + a.head * d, (blasint)h, 1.0f, out, (blasint)h);
    if (r)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)a.len, (blasint)d, (blasint)r, 1.0f, w->phi,
                    (blasint)r, x->Z + a.head * r * d, (blasint)d, 1.0f, out, (blasint)h);
    return status;
}

static void forward_task(void *context, size_t group, int thread)
{
    struct job *job = context;
    struct encoder *e = job->e;
    struct scratch w;
    lay_out(e, job->extra, e->work + (size_t)thread * e->work_bytes, &w);
    for (size_t seq = e->packing.groups[group]; seq < e->packing.groups[group + 1]; seq++) {
        struct head a = { e->packing.offsets[seq], e->packing.offsets[seq + 1] - e->packing.offsets[seq], 0 };
        fill_buckets(e, a.len, w.buckets);
        for (a.head = 0; a.head < e->heads; a.head++) note_status(job, head_forward(job, a, &w));
        if (sizes_of(job->extra).beside)
            note_status(job, attention_rows_beside(e, job->state, job->extra, a.row, a.len, w.beside));
    }
}

int attention_bias_forward(struct encoder *e, const struct block_state *state, const struct attention_extra *extra,
                           int training)
{
    (void)training;
    struct job job = { .e = e, .state = state, .extra = extra };
    atomic_init(&job.status, GSL_SUCCESS);
    parallel_for(e->packing.num_groups, e->num_threads, forward_task, &job);
    return atomic_load(&job.status);
}

/* Gradients that go through the summary: c_i = e^{-M_i}/D_i, dZ += (c phi)^T dT, dk -= sum_i delta_i c_i phi_i,
 * dq += J_phi^T (c (dT Z^T - delta k^T)). */
static int summary_backward(const struct job *job, struct head a, const struct scratch *w, float *sum)
{
    const struct encoder *e = job->e;
    const struct attention_extra *x = job->extra;
    const size_t h = e->hidden, d = e->head_dim, r = sizes_of(x).feat, at = a.row * 3 * h + a.head * d;
    const float *dT = job->d_context + a.row * h + a.head * d, *Z = x->Z + a.head * r * d, *k = x->k + a.head * r;
    const attn_row *rows = (const attn_row *)(job->state->attention + a.row * e->heads + a.head * a.len);
    float *dZ = sum + a.head * r * d, *dk = sum + e->heads * r * d + a.head * r;
    const int status = fill_features(job, a, w);
    if (status) return status;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)a.len, (blasint)r, (blasint)d, 1.0f, dT, (blasint)h,
                Z, (blasint)d, 0.0f, w->d_phi, (blasint)r);
    for (size_t i = 0; i < a.len; i++) {
        const float c = expf(-rows[i][0]) / rows[i][1];
        for (size_t f = 0; f < r; f++) {
            w->d_phi[i * r + f] = c * (w->d_phi[i * r + f] - w->delta[i] * k[f]);
            w->phi[i * r + f] *= c;
            dk[f] -= w->delta[i] * w->phi[i * r + f];
        }
    }
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)r, (blasint)d, (blasint)a.len, 1.0f, w->phi,
                (blasint)r, dT, (blasint)h, 1.0f, dZ, (blasint)d);
    if (!job->d_qkv) return GSL_SUCCESS;
    return feature_backward_f32(x->map, FEATURE_QUERY, a.len, job->state->qkv + at, 3 * h, w->d_phi, r, NULL,
                                job->d_qkv + at, 3 * h, 1, 1, w->map);
}

/* P (len, width) normalised into w->scores, delta_i = dT_i.T_i, dS = P (dT V^T - delta) into w->d_scores. */
static void fill_slopes(const struct job *job, struct head a, const struct scratch *w)
{
    float *delta = w->delta;
    const struct encoder *e = job->e;
    const struct attention_extra *x = job->extra;
    const struct ops_kernels *ops = ops_current();
    const size_t h = e->hidden, d = e->head_dim, m = sizes_of(x).prefix, width = m + a.len;
    const float *v = job->state->qkv + a.row * 3 * h + 2 * h + a.head * d;
    const float *dT = job->d_context + a.row * h + a.head * d,
        *T = softmax_part(job->state, job->extra) + a.row * h + a.head * d;
    const attn_row *rows = (const attn_row *)(job->state->attention + a.row * e->heads + a.head * a.len);
    fill_scores(job, a, w);
    if (m)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)a.len, (blasint)m, (blasint)d, 1.0f, dT,
                    (blasint)h, x->V + a.head * d, (blasint)h, 0.0f, w->d_scores, (blasint)width);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)a.len, (blasint)a.len, (blasint)d, 1.0f, dT,
                (blasint)h, v, (blasint)(3 * h), 0.0f, w->d_scores + m, (blasint)width);
    for (size_t i = 0; i < a.len; i++) {
        float *p = w->scores + i * width, *ds = w->d_scores + i * width;
        delta[i] = cblas_sdot((blasint)d, dT + i * h, 1, T + i * h, 1);
        ops->exp_row(width, rows[i][0], p);
        for (size_t j = 0; j < width; j++) {
            p[j] /= rows[i][1];
            ds[j] = p[j] * (ds[j] - delta[i]);
        }
    }
}

static int head_backward(const struct job *job, struct head a, const struct scratch *w, float *sum)
{
    const struct encoder *e = job->e;
    const struct attention_extra *x = job->extra;
    const size_t h = e->hidden, d = e->head_dim, m = sizes_of(x).prefix, width = m + a.len,
                 at = a.row * 3 * h + a.head * d;
    const float *q = job->state->qkv + at, *k = q + h, *dT = job->d_context + a.row * h + a.head * d,
                scale = scale_of(e);
    const blasint len = (blasint)a.len, wide = (blasint)width, three = (blasint)(3 * h), dim = (blasint)d;
    fill_slopes(job, a, w);
    if (e->d_relative_bias) {
        float *bias = sum + e->extra_floats - e->relative_buckets * e->heads;
        for (size_t i = 0; i < a.len; i++)
            for (size_t j = 0; j < a.len; j++)
                bias[(size_t)w->buckets[j + a.len - 1 - i] * e->heads + a.head] += w->d_scores[i * width + m + j];
    }
    if (m) {
        float *dK = sum + a.head * d, *dV = dK + m * h;
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, dim, len, scale, w->d_scores, wide, q, three,
                    1.0f, dK, (blasint)h);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, dim, len, 1.0f, w->scores, wide, dT,
                    (blasint)h, 1.0f, dV, (blasint)h);
    }
    if (job->d_qkv) {
        float *dq = job->d_qkv + at;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, len, dim, len, scale, w->d_scores + m, wide, k, three,
                    0.0f, dq, three);
        if (m)
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, len, dim, (blasint)m, scale, w->d_scores, wide,
                        x->K + a.head * d, (blasint)h, 1.0f, dq, three);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, len, dim, len, scale, w->d_scores + m, wide, q, three,
                    0.0f, dq + h, three);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, len, dim, len, 1.0f, w->scores + m, wide, dT, (blasint)h,
                    0.0f, dq + 2 * h, three);
    }
    return sizes_of(x).summary ? summary_backward(job, a, w, sum) : GSL_SUCCESS;
}

static void backward_task(void *context, size_t group, int thread)
{
    struct job *job = context;
    struct encoder *e = job->e;
    struct scratch w;
    lay_out(e, job->extra, e->work + (size_t)thread * e->work_bytes, &w);
    const size_t n = e->extra_floats;
    float *sum = n ? e->partial + group * n : NULL;
    if (n) memset(sum, 0, n * sizeof *sum);
    for (size_t seq = e->packing.groups[group]; seq < e->packing.groups[group + 1]; seq++) {
        struct head a = { e->packing.offsets[seq], e->packing.offsets[seq + 1] - e->packing.offsets[seq], 0 };
        fill_buckets(e, a.len, w.buckets);
        for (a.head = 0; a.head < e->heads; a.head++) note_status(job, head_backward(job, a, &w, sum));
        if (sizes_of(job->extra).beside)
            note_status(job, attention_rows_beside_backward(e, job->state, job->extra, a.row, a.len,
                                                            job->d_context, job->d_qkv, sum, w.beside));
    }
}

int attention_bias_backward(struct encoder *e, const struct block_state *state, const struct attention_extra *extra,
                            const float *d_context, float *d_qkv)
{
    struct job job = { .e = e, .state = state, .extra = extra, .d_context = d_context, .d_qkv = d_qkv };
    atomic_init(&job.status, GSL_SUCCESS);
    parallel_for(e->packing.num_groups, e->num_threads, backward_task, &job);
    attention_gather(e, extra);
    return atomic_load(&job.status);
}
