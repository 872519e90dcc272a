/* The backward pass of exact prefix attention and NTK-Attention. How work is cut depends on the shape
 * only, so results do not depend on threads: chunks of keys own dK and dV, with a dQ of their own when
 * there are several, which are added in order. */
#include "prefix_ntk/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/call.h"
#include "attention/feature_internal.h"
#include "attention/packed_prefix.h"
#include "common/parallel.h"

enum {
    ENOUGH_TASKS = 16,        /* keeps a few threads evenly busy */
    CHUNK_KEYS = 512          /* smallest chunk of the keys */
};

struct backward_plan {
    size_t chunks, chunk_keys;    /* of the keys of one head; keys of the prefix padded to prefix_room */
    size_t prefix_room;
    size_t row_chunks, chunk_rows; /* of the queries, for dZ and dk */
};

static struct backward_plan plan_backward(const struct attn_shape *s, size_t prefix_len)
{
    struct backward_plan plan = { .prefix_room = ceil_div(prefix_len, ATTN_GRAD_KEYS) * ATTN_GRAD_KEYS };
    const size_t kv = s->batch * s->kv_heads, keys = plan.prefix_room + s->len_k;
    const size_t chunks = kv < ENOUGH_TASKS ? least(ceil_div(ENOUGH_TASKS, kv), most(keys / CHUNK_KEYS, 1)) : 1;
    plan.chunk_keys = ceil_div(most(ceil_div(keys, chunks), 1), ATTN_GRAD_KEYS) * ATTN_GRAD_KEYS;
    plan.chunks = most(ceil_div(keys, plan.chunk_keys), 1);
    const size_t heads = s->batch * s->heads;
    const size_t row_chunks = heads < ENOUGH_TASKS ?
        least(ceil_div(ENOUGH_TASKS, heads), most(s->len_q / (2 * ATTN_GRAD_QUERIES), 1)) : 1;
    plan.chunk_rows = ceil_div(ceil_div(s->len_q, row_chunks), ATTN_GRAD_QUERIES) * ATTN_GRAD_QUERIES;
    plan.row_chunks = ceil_div(s->len_q, plan.chunk_rows);
    return plan;
}

/* A gradient of keys or values: where each (batch, kv head) writes, and what the
 * caller gets. They differ when the caller's view is shared. */
struct key_grad { struct attn_out to, view; bool shared; size_t len; };

struct backward_job {
    const struct attn_shape *shape;
    float scale, scale2;
    struct attn_in q, k, v, out, d_out;
    const attn_row *rows;
    const struct attn_prefix *prefix;
    size_t prefix_len;
    const struct attn_summary *summary;
    size_t feat_dim;
    bool elu1;
    struct attn_out dq;
    struct key_grad dk, dv, dpk, dpv;
    struct attn_out dZ, dkvec;
    const struct attn_kernels *kernels;
    struct backward_plan plan;
    struct backward_thread {
        struct attn_grad_rows rows;
        float *scratch;
        /* Features, blocks of ATTN_GRAD_QUERIES rows. */
        float *phi, *dphi, *x, *feature_scratch;
        double *phi_log;
        void *feature;
    } *threads;
    float *dq_chunks;             /* (batch heads, chunks, len_q, padded) when chunks > 1 */
    float *dZ_chunks, *dk_chunks; /* (batch heads, row_chunks, feat_dim, padded | 1) */
    atomic_int status;
};

static void lay_out_key_grad(struct key_grad *g, const struct attn_shape *s, struct arena *a)
{
    g->to = g->view;
    g->shared = is_shared(s, s->kv_heads, g->view);
    if (!g->shared) return;
    float *data = arena_floats(a, s->batch * s->kv_heads * g->len * s->head_dim);
    g->to = attn_dense_out(data, s->kv_heads, g->len, s->head_dim);
}

static void lay_out_backward(struct backward_job *job, int num_threads, struct arena *a)
{
    const struct attn_shape *s = job->shape;
    const size_t d = s->head_dim, padded = attn_padded(d), heads = s->batch * s->heads, r = job->feat_dim;
    job->dk.len = job->dv.len = s->len_k;
    job->dpk.len = job->dpv.len = job->prefix_len;
    struct key_grad *all[] = { &job->dk, &job->dv, &job->dpk, &job->dpv };
    for (size_t g = 0; g < sizeof all / sizeof *all; g++) lay_out_key_grad(all[g], s, a);
    num_threads = used_threads(num_threads);
    job->threads = arena_take(a, (size_t)num_threads * sizeof *job->threads);
    for (int t = 0; t < num_threads; t++) {
        struct backward_thread mine = { .scratch = arena_floats(a, attn_backward_scratch(d)) };
        mine.rows.q = arena_floats(a, s->len_q * padded);
        mine.rows.g = arena_floats(a, s->len_q * padded);
        mine.rows.dq = arena_floats(a, most(s->len_q, r ? ATTN_GRAD_QUERIES : 0) * padded);
        mine.rows.shift = arena_floats(a, s->len_q);
        mine.rows.delta = arena_floats(a, s->len_q);
        if (r) {
            const size_t wide = ceil_div(r, ATTN_PANEL) * ATTN_PANEL;
            mine.phi = arena_floats(a, ATTN_GRAD_QUERIES * most(r, padded));
            mine.dphi = arena_floats(a, ATTN_GRAD_QUERIES * wide);
            mine.feature_scratch = arena_floats(a, attn_feature_scratch(d));
            if (!job->elu1) {
                mine.x = arena_floats(a, ATTN_GRAD_QUERIES * d);
                mine.phi_log = arena_take(a, ATTN_GRAD_QUERIES * sizeof(double));
                mine.feature = arena_take(a, feature_workspace(job->summary->map, 1));
            }
        }
        if (a->base) job->threads[t] = mine;
    }
    if (job->plan.chunks > 1) job->dq_chunks = arena_floats(a, heads * job->plan.chunks * s->len_q * padded);
    if (r) {
        job->dZ_chunks = arena_floats(a, heads * job->plan.row_chunks * r * padded);
        job->dk_chunks = arena_floats(a, heads * job->plan.row_chunks * r);
    }
}

static void prepare_rows(const struct backward_job *job, struct attn_grad_rows rows, size_t b, size_t h, size_t i0)
{
    const struct attn_shape *s = job->shape;
    const struct attn_grad_source from = {
        .head_dim = s->head_dim, .q = row_in(job->q, b, h, i0), .out = row_in(job->out, b, h, i0),
        .d_out = row_in(job->d_out, b, h, i0), .q_row = job->q.row, .out_row = job->out.row,
        .d_out_row = job->d_out.row,
        .scale2 = job->scale2, .stats = job->rows + (b * s->heads + h) * s->len_q + i0
    };
    job->kernels->grad_prepare(&rows, &from);
}

static void set_key_grads(struct attn_backward_block *block, const struct key_grad *dk, const struct key_grad *dv,
                          size_t b, size_t kv, size_t from)
{
    block->dk = dk->to.data ? row_out(dk->to, b, kv, from) : NULL;
    block->dv = dv->to.data ? row_out(dv->to, b, kv, from) : NULL;
    block->dk_row = dk->to.row;
    block->dv_row = dv->to.row;
}

static void zero_rows(const struct key_grad *g, size_t b, size_t kv, size_t from, size_t to, size_t d)
{
    for (size_t j = from; g->to.data && j < to; j++) memset(row_out(g->to, b, kv, j), 0, d * sizeof(float));
}

/* Whether dZ of a head can be accumulated where the caller wants it. */
static bool writes_dZ(const struct backward_job *job)
{
    const struct attn_shape *s = job->shape;
    return job->dZ.data && job->plan.row_chunks == 1 && job->summary->heads == s->heads &&
           s->head_dim == attn_padded(s->head_dim) && (job->dZ.batch || s->batch == 1)
           && (job->dZ.head || s->heads == 1);
}

/* Rows i0 .. i0+rows.rows-1 (ATTN_GRAD_QUERIES at most) of one head through the features:
 * rows.dq <- dq_scale rows.dq + J_phi^T dphi, and their part of dZ and dk. */
static int feature_rows(struct backward_job *job, struct backward_thread *mine, struct attn_grad_rows rows, size_t head,
                        size_t i0, float dq_scale)
{
    const struct attn_shape *s = job->shape;
    const struct attn_summary *z = job->summary;
    const size_t b = head / s->heads, h = head % s->heads, zh = h / (s->heads / z->heads);
    const size_t d = s->head_dim, padded = attn_padded(d), r = job->feat_dim;
    const size_t slot = head * job->plan.row_chunks + i0 / job->plan.chunk_rows;
    const bool direct = writes_dZ(job);
    struct attn_feature_grad f = {
        .rows = rows.rows, .head_dim = d, .feat_dim = r, .q = row_in(job->q, b, h, i0), .q_row = job->q.row,
        .g = rows.g, .shift = rows.shift, .delta = rows.delta, .phi = mine->phi, .elu1 = job->elu1,
        .Z = row_in(z->Z, b, zh, 0), .Z_row = z->Z.row, .kvec = row_in(z->kvec, b, zh, 0), .dphi = mine->dphi,
        .dq = rows.dq, .dq_scale = dq_scale,
        .dZ = direct ? row_out(job->dZ, b, h, 0) : job->dZ_chunks + slot * r * padded,
        .dZ_row = direct ? job->dZ.row : (ptrdiff_t)padded, .dk = job->dk_chunks + slot * r,
        .first = i0 % job->plan.chunk_rows == 0, .scratch = mine->feature_scratch
    };
    if (job->elu1) {
        job->kernels->feature_backward(&f);
        return GSL_SUCCESS;
    }
    /* Rows without a normaliser have no gradient, and no features that could overflow. */
    for (size_t i = 0; i < rows.rows; i++) {
        if (rows.shift[i] == INFINITY) memset(mine->x + i * d, 0, d * sizeof(float));
        else copy_finite(mine->x + i * d, row_in(job->q, b, h, i0 + i), d);
    }
    f.phi_log = mine->phi_log;
    const int status = feature_forward_f32(z->map, FEATURE_QUERY, rows.rows, mine->x, d, mine->phi, r, mine->phi_log, 1,
                                           mine->feature);
    if (status) return status;
    job->kernels->feature_backward(&f);
    for (size_t i = 0; i < rows.rows * padded; i++) rows.dq[i] *= dq_scale;
    return feature_backward_f32(z->map, FEATURE_QUERY, rows.rows, mine->x, d, mine->dphi,
                                ceil_div(r, ATTN_PANEL) * ATTN_PANEL, mine->phi_log, rows.dq, padded, 1, 1,
                                mine->feature);
}

static void backward_task(void *context, size_t task, int thread)
{
    struct backward_job *job = context;
    const struct attn_shape *s = job->shape;
    const struct backward_plan *plan = &job->plan;
    struct backward_thread *mine = &job->threads[thread];
    const size_t chunk = task % plan->chunks, b = task / plan->chunks / s->kv_heads;
    const size_t kv = task / plan->chunks % s->kv_heads, group = s->heads / s->kv_heads;
    const size_t d = s->head_dim, padded = attn_padded(d), m = job->prefix_len, room = plan->prefix_room;
    const size_t lo = chunk * plan->chunk_keys, hi = lo + plan->chunk_keys, used = input_keys(s, b);
    const size_t prefix_lo = least(lo, m), prefix_hi = least(hi, m);
    const size_t input_lo = least(lo > room ? lo - room : 0, s->len_k);
    const size_t input_hi = least(hi > room ? hi - room : 0, s->len_k);

    for (size_t g = 0; g < group; g++) {
        const size_t h = kv * group + g, head = b * s->heads + h;
        struct attn_grad_rows rows = mine->rows;
        rows.rows = s->len_q;
        if (plan->chunks > 1) rows.dq = job->dq_chunks + (head * plan->chunks + chunk) * s->len_q * padded;
        prepare_rows(job, rows, b, h, 0);
        struct attn_backward_block block = { .head_dim = d, .rows = rows, .add = g > 0, .scratch = mine->scratch };
        if (prefix_lo < prefix_hi) {
            block.keys = prefix_keys(job->prefix, b, kv, prefix_lo, prefix_hi);
            set_key_grads(&block, &job->dpk, &job->dpv, b, kv, prefix_lo);
            job->kernels->backward_block(&block);
        }
        const size_t end = least(input_hi, used);
        if (input_lo < end) {
            block.keys = plain_keys(job->k, job->v, b, kv, input_lo, end);
            block.causal = s->causal;
            block.bound = (ptrdiff_t)s->len_k - (ptrdiff_t)s->len_q + 1 - (ptrdiff_t)input_lo;
            set_key_grads(&block, &job->dk, &job->dv, b, kv, input_lo);
            job->kernels->backward_block(&block);
        }
        if (plan->chunks > 1) continue;
        /* All keys are here: dq is complete but for the features, of which the rows are at hand. */
        for (size_t i0 = 0; i0 < s->len_q && job->feat_dim; i0 += ATTN_GRAD_QUERIES) {
            const struct attn_grad_rows part = {
                least(ATTN_GRAD_QUERIES, s->len_q - i0), NULL, rows.g + i0 * padded, rows.dq + i0 * padded,
                rows.shift + i0,
                rows.delta + i0
            };
            note_status(&job->status, feature_rows(job, mine, part, head, i0, job->scale));
        }
        if (!job->dq.data) continue;
        const float by = job->feat_dim ? 1.0f : job->scale;
        for (size_t i = 0; i < s->len_q; i++) {
            float *dq = row_out(job->dq, b, h, i);
            const float *from = rows.dq + i * padded;
#pragma omp simd
            for (size_t c = 0; c < d; c++) dq[c] = by * from[c];
        }
    }
    zero_rows(&job->dk, b, kv, most(input_lo, used), input_hi, d);
    zero_rows(&job->dv, b, kv, most(input_lo, used), input_hi, d);
}

/* dq = scale * sum over chunks, in order, into rows of `padded`. */
static void gather_queries(const struct backward_job *job, size_t head, size_t i0, size_t rows, float *dq)
{
    const size_t padded = attn_padded(job->shape->head_dim), len = job->shape->len_q, n = rows * padded;
    const float *from = job->dq_chunks + (head * job->plan.chunks * len + i0) * padded;
    memcpy(dq, from, n * sizeof *dq);
    for (size_t chunk = 1; chunk < job->plan.chunks; chunk++) {
        from += len * padded;
#pragma omp simd
        for (size_t c = 0; c < n; c++) dq[c] += from[c];
    }
#pragma omp simd
    for (size_t c = 0; c < n; c++) dq[c] *= job->scale;
}

/* With several chunks of keys: rows of one head, dq gathered and the features added. */
static void rows_task(void *context, size_t task, int thread)
{
    struct backward_job *job = context;
    const struct attn_shape *s = job->shape;
    const struct backward_plan *plan = &job->plan;
    struct backward_thread *mine = &job->threads[thread];
    const size_t head = task / plan->row_chunks, b = head / s->heads, h = head % s->heads;
    const size_t d = s->head_dim, padded = attn_padded(d);
    const size_t from = task % plan->row_chunks * plan->chunk_rows, to = least(s->len_q, from + plan->chunk_rows);
    for (size_t i0 = from; i0 < to; i0 += ATTN_GRAD_QUERIES) {
        struct attn_grad_rows rows = mine->rows;
        rows.rows = least(ATTN_GRAD_QUERIES, to - i0);
        if (job->feat_dim) prepare_rows(job, rows, b, h, i0);
        gather_queries(job, head, i0, rows.rows, rows.dq);
        if (job->feat_dim) note_status(&job->status, feature_rows(job, mine, rows, head, i0, 1.0f));
        for (size_t i = 0; i < rows.rows && job->dq.data; i++)
            memcpy(row_out(job->dq, b, h, i0 + i), rows.dq + i * padded, d * sizeof(float));
    }
}

/* The caller's view of a gradient that it shares. */
static void share(const struct attn_shape *s, const struct key_grad *g, int num_threads)
{
    if (g->shared && g->len) sum_shared(s, s->kv_heads, g->len, s->head_dim, as_input(g->to), g->view, num_threads);
}

/* dZ and dk of the caller's view: sums over row chunks, the heads of a group, and
 * whatever the view shares, in order. Task: a run of features of one of the summary's heads. */
enum { SUMMARY_RUN = 64 };

static void summary_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct backward_job *job = context;
    const struct attn_shape *s = job->shape;
    const size_t r = job->feat_dim, d = s->head_dim, padded = attn_padded(d), zheads = job->summary->heads;
    const size_t runs = ceil_div(r, SUMMARY_RUN), at = task / runs, b0 = at / zheads, h0 = at % zheads;
    const size_t group = s->heads / zheads, f0 = task % runs * SUMMARY_RUN, f1 = least(r, f0 + SUMMARY_RUN);
    for (int which = 0; which < 2; which++) {
        const struct attn_out view = which ? job->dkvec : job->dZ;
        if (!view.data || (!which && writes_dZ(job))) continue;
        const bool over_batch = !view.batch, over_heads = !view.head;
        if ((over_batch && b0) || (over_heads && h0)) continue;
        /* k is one row of feat_dim numbers, Z feat_dim rows of head_dim. */
        const size_t rows = which ? 1 : f1 - f0, n = which ? f1 - f0 : d, stride = which ? r : padded;
        const float *chunks = which ? job->dk_chunks + f0 : job->dZ_chunks + f0 * padded;
        const size_t slot = which ? r : r * padded;
        for (size_t row = 0; row < rows; row++) {
            float *to = which ? row_out(view, b0, h0, 0) + f0 : row_out(view, b0, h0, f0 + row);
            memset(to, 0, n * sizeof *to);
            for (size_t b = b0; b < (over_batch ? s->batch : b0 + 1); b++)
                for (size_t h = h0 * group; h < (over_heads ? s->heads : (h0 + 1) * group); h++)
                    for (size_t chunk = 0; chunk < job->plan.row_chunks; chunk++) {
                        const float *from =
                            chunks + ((b * s->heads + h) * job->plan.row_chunks + chunk) * slot + row * stride;
#pragma omp simd
                        for (size_t c = 0; c < n; c++) to[c] += from[c];
                    }
        }
    }
}

static int backward_run(struct backward_job *job, void *work, size_t work_bytes, int num_threads)
{
    const struct attn_shape *s = job->shape;
    job->plan = plan_backward(s, job->prefix_len);
    job->kernels = attn_kernels_current();
    struct arena arena = { NULL, 0 };
    lay_out_backward(job, num_threads, &arena);
    void *owned;
    const int status = workspace_open(workspace_bytes(arena.used), work, work_bytes, &arena, &owned);
    if (status) return status;
    lay_out_backward(job, num_threads, &arena);
    atomic_init(&job->status, GSL_SUCCESS);
    parallel_for(s->batch * s->kv_heads * job->plan.chunks, num_threads, backward_task, job);
    if (job->plan.chunks > 1)
        parallel_for(s->batch * s->heads * job->plan.row_chunks, num_threads, rows_task, job);
    share(s, &job->dk, num_threads);
    share(s, &job->dv, num_threads);
    share(s, &job->dpk, num_threads);
    share(s, &job->dpv, num_threads);
    if (job->feat_dim)
        parallel_for(s->batch * job->summary->heads * ceil_div(job->feat_dim, SUMMARY_RUN), num_threads,
                     summary_task, job);
    free(owned);
    return atomic_load(&job->status);
}

static size_t backward_bytes(struct backward_job *job, int num_threads)
{
    job->plan = plan_backward(job->shape, job->prefix_len);
    struct arena arena = { NULL, 0 };
    lay_out_backward(job, num_threads, &arena);
    return workspace_bytes(arena.used);
}

size_t attn_exact_backward_workspace(const struct attn_shape *shape, size_t prefix_len,
                                     const struct attn_exact_grads *grads, int num_threads)
{
    if (attn_shape_status(shape, prefix_len, 0) || !grads || num_threads < 1) return 0;
    struct backward_job job = { .shape = shape, .prefix_len = prefix_len, .dk.view = grads->k, .dv.view = grads->v,
                                .dpk.view = grads->prefix_k, .dpv.view = grads->prefix_v };
    return backward_bytes(&job, num_threads);
}

int attn_exact_backward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                        struct attn_in v, const struct attn_prefix *prefix, struct attn_in out, const attn_row *rows,
                        struct attn_in d_out, const struct attn_exact_grads *grads, void *work, size_t work_bytes,
                        int num_threads)
{
    int status = attn_call_status(shape, prefix ? prefix->len : 0, 0, q, k, v, out.data, num_threads);
    if (!status && (!isfinite(scale) || !rows || !d_out.data || !grads)) status = GSL_EINVAL;
    if (!status) status = prefix_status(shape, prefix, true);
    if (status) return status;
    struct backward_job job = {
        .shape = shape, .scale = scale, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .out = out,
        .d_out = d_out, .rows = rows, .prefix = prefix, .prefix_len = prefix ? prefix->len : 0, .dq = grads->q,
        .dk.view = grads->k, .dv.view = grads->v, .dpk.view = grads->prefix_k, .dpv.view = grads->prefix_v
    };
    return backward_run(&job, work, work_bytes, num_threads);
}

size_t attn_ntk_backward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                   const struct attn_ntk_grads *grads, int num_threads)
{
    if (attn_shape_status(shape, 0, 0) || attn_summary_status(shape, summary) || !grads || num_threads < 1) return 0;
    struct backward_job job = { .shape = shape, .summary = summary, .feat_dim = feature_dim(summary->map),
                                .elu1 = feature_is_elu1(summary->map), .dk.view = grads->k, .dv.view = grads->v };
    return backward_bytes(&job, num_threads);
}

int attn_ntk_backward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                      struct attn_in v, const struct attn_summary *summary, struct attn_in out, const attn_row *rows,
                      struct attn_in d_out, const struct attn_ntk_grads *grads, void *work, size_t work_bytes,
                      int num_threads)
{
    int status = attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads);
    if (!status && (!isfinite(scale) || !rows || !d_out.data || !grads)) status = GSL_EINVAL;
    if (!status) status = attn_summary_status(shape, summary);
    if (status) return status;
    struct backward_job job = {
        .shape = shape, .scale = scale, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .out = out,
        .d_out = d_out, .rows = rows, .summary = summary, .feat_dim = feature_dim(summary->map),
        .elu1 = feature_is_elu1(summary->map), .dq = grads->q, .dk.view = grads->k, .dv.view = grads->v, .dZ = grads->Z,
        .dkvec = grads->kvec
    };
    return backward_run(&job, work, work_bytes, num_threads);
}
