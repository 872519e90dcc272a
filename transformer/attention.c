/* Attention of packed sequences through the attention library: groups of sequences are the tasks, one call for each
 * run of sequences of equal length. */
#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/parallel.h"
#include "transformer/attention_bias.h"
#include "transformer/encoder.h"
#include "transformer/ops.h"

/* Sequences per call, which bounds the call's scratch. */
enum { CALL_SEQS = 8 };

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* The views of one run: `batch` sequences of `len` rows from row `row` on. */
struct run { size_t row, batch, len; };

struct job {
    struct encoder *e;
    const struct block_state *state;
    const struct attention_extra *extra;
    const float *d_context;
    float *d_qkv;
    int keep;
    atomic_int status;
};

static struct attn_shape shape_of(const struct encoder *e, struct run run)
{
    return (struct attn_shape){ .batch = run.batch, .heads = e->heads, .kv_heads = e->heads, .len_q = run.len,
                                .len_k = run.len, .head_dim = e->head_dim };
}

/* Part 0, 1, 2 (q, k, v) of a (rows, 3 hidden) array. */
static struct attn_in qkv_in(const struct encoder *e, const float *qkv, struct run run, size_t part)
{
    const size_t ld = 3 * e->hidden;
    return (struct attn_in){ qkv + run.row * ld + part * e->hidden, (ptrdiff_t)(run.len * ld), (ptrdiff_t)e->head_dim,
                             (ptrdiff_t)ld };
}

static struct attn_out qkv_out(const struct encoder *e, float *qkv, struct run run, size_t part)
{
    if (!qkv) return (struct attn_out){ NULL, 0, 0, 0 };
    const struct attn_in in = qkv_in(e, qkv, run, part);
    return (struct attn_out){ (float *)in.data, in.batch, in.head, in.row };
}

static struct attn_in rows_in(const struct encoder *e, const float *x, struct run run)
{
    return (struct attn_in){ x + run.row * e->hidden, (ptrdiff_t)(run.len * e->hidden), (ptrdiff_t)e->head_dim,
                             (ptrdiff_t)e->hidden };
}

static struct attn_out rows_out(const struct encoder *e, float *x, struct run run)
{
    const struct attn_in in = rows_in(e, x, run);
    return (struct attn_out){ (float *)in.data, in.batch, in.head, in.row };
}

static struct attn_prefix prefix_of(const struct encoder *e, const struct attention_extra *x)
{
    const struct attn_in k = { x->K, 0, (ptrdiff_t)e->head_dim, (ptrdiff_t)e->hidden };
    const struct attn_in v = { x->V, 0, (ptrdiff_t)e->head_dim, (ptrdiff_t)e->hidden };
    return (struct attn_prefix){ x->kind == ATTENTION_PREFIX ? x->prefix_len : 0, k, v, x->packed };
}

static struct attn_summary summary_of(const struct encoder *e, const struct attention_extra *x)
{
    const size_t r = feature_dim(x->map), d = e->head_dim;
    return (struct attn_summary){ x->map, e->heads, { x->Z, 0, (ptrdiff_t)(r * d), (ptrdiff_t)d },
                                  { x->k, 0, (ptrdiff_t)r, 1 } };
}

static float scale_of(const struct encoder *e) { return (float)(1.0 / sqrt((double)e->head_dim)); }

/* The next run of a group, from sequence *seq on; 0 when the group is done. */
static int next_run(const struct packing *p, size_t group, size_t *seq, struct run *run)
{
    const size_t end = p->groups[group + 1], i = *seq;
    if (i >= end) return 0;
    run->row = p->offsets[i];
    run->len = p->offsets[i + 1] - p->offsets[i];
    for (run->batch = 1; i + run->batch < end && run->batch < CALL_SEQS; run->batch++)
        if (p->offsets[i + run->batch + 1] - p->offsets[i + run->batch] != run->len) break;
    *seq = i + run->batch;
    return 1;
}

static void note_status(struct job *job, int status)
{
    int none = GSL_SUCCESS;
    if (status) atomic_compare_exchange_strong(&job->status, &none, status);
}

/* ---- features beside the softmax ----------------------------------------------------------------------- */

/* Rows row .. row+rows-1 of a block. */
static struct attention_beside beside_of(const struct encoder *e, const struct block_state *s,
                                         const struct attention_extra *x, size_t row, size_t rows)
{
    return (struct attention_beside){ .map = x->map, .heads = e->heads, .dim = e->head_dim, .rows = rows,
                                      .q = s->qkv + row * 3 * e->hidden, .q_stride = 3 * e->hidden,
                                      .stride = e->hidden, .Z = x->Z };
}

int attention_rows_beside(const struct encoder *e, const struct block_state *s, const struct attention_extra *x,
                          size_t row, size_t rows, char *work)
{
    const struct attention_beside beside = beside_of(e, s, x, row, rows);
    memcpy(s->context + row * e->hidden, s->soft + row * e->hidden, rows * e->hidden * sizeof(float));
    return attention_beside_forward(&beside, s->context + row * e->hidden, work);
}

int attention_rows_beside_backward(const struct encoder *e, const struct block_state *s,
                                   const struct attention_extra *x, size_t row, size_t rows, const float *d_context,
                                   float *d_qkv, float *dZ, char *work)
{
    const struct attention_beside beside = beside_of(e, s, x, row, rows);
    return attention_beside_backward(&beside, d_context + row * e->hidden,
                                     d_qkv ? d_qkv + row * 3 * e->hidden : NULL, dZ, work);
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

static int run_forward(const struct job *job, struct run run, char *work)
{
    struct encoder *e = job->e;
    const struct block_state *s = job->state;
    const struct attn_shape shape = shape_of(e, run);
    const struct attn_in q = qkv_in(e, s->qkv, run, 0), k = qkv_in(e, s->qkv, run, 1), v = qkv_in(e, s->qkv, run, 2);
    attn_row *rows = job->keep ? s->attention + run.row * e->heads : NULL;
    if (job->extra->kind == ATTENTION_SUMMARY) {
        const struct attn_summary summary = summary_of(e, job->extra);
        const int fits = attn_ntk_forward_workspace(&shape, &summary, 1) <= e->work_bytes;
        return attn_ntk_forward(&shape, scale_of(e), q, k, v, &summary, rows_out(e, s->context, run), rows,
                                fits ? work : NULL, e->work_bytes, 1, NULL);
    }
    const struct attn_prefix prefix = prefix_of(e, job->extra);
    const int fits = attn_exact_forward_workspace(&shape, prefix.len, 1) <= e->work_bytes;
    float *out = softmax_part(s, job->extra);
    const int status = attn_exact_forward(&shape, scale_of(e), q, k, v, &prefix, rows_out(e, out, run), rows,
                                          fits ? work : NULL, e->work_bytes, 1, NULL);
    if (status || job->extra->kind != ATTENTION_BESIDE) return status;
    return attention_rows_beside(e, s, job->extra, run.row, run.batch * run.len, work);
}

static void forward_task(void *context, size_t group, int thread)
{
    struct job *job = context;
    struct encoder *e = job->e;
    char *work = e->work + (size_t)thread * e->work_bytes;
    struct run run;
    for (size_t seq = e->packing.groups[group]; next_run(&e->packing, group, &seq, &run);)
        note_status(job, run_forward(job, run, work));
}

int attention_forward(struct encoder *e, const struct block_state *state, const struct attention_extra *extra,
                      int training)
{
    if (e->relative_bias) return attention_bias_forward(e, state, extra, training);
    struct job job = { .e = e, .state = state, .extra = extra, .keep = training };
    atomic_init(&job.status, GSL_SUCCESS);
    parallel_for(e->packing.num_groups, e->num_threads, forward_task, &job);
    return atomic_load(&job.status);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Shared gradients lie in one array: first those of K or Z, then those of V or k. */
static size_t first_part(const struct encoder *e, const struct attention_extra *x)
{
    if (x->kind == ATTENTION_PREFIX) return x->prefix_len * e->hidden;
    return x->kind == ATTENTION_PLAIN ? 0 : e->heads * feature_dim(x->map) * e->head_dim;
}

size_t attention_extra_floats(const struct encoder *e, const struct attention_extra *x)
{
    const size_t bias = e->d_relative_bias ? e->relative_buckets * e->heads : 0;
    if (x->kind == ATTENTION_PREFIX) return 2 * first_part(e, x) + bias;
    if (x->kind == ATTENTION_PLAIN) return bias;
    return first_part(e, x) + e->heads * feature_dim(x->map) + bias;
}

static int run_backward(const struct job *job, struct run run, float *shared, char *work)
{
    struct encoder *e = job->e;
    const struct block_state *s = job->state;
    const struct attention_extra *x = job->extra;
    const struct attn_shape shape = shape_of(e, run);
    const ptrdiff_t d = (ptrdiff_t)e->head_dim, h = (ptrdiff_t)e->hidden;
    const struct attn_in q = qkv_in(e, s->qkv, run, 0), k = qkv_in(e, s->qkv, run, 1), v = qkv_in(e, s->qkv, run, 2);
    const struct attn_in out = rows_in(e, softmax_part(s, x), run), d_out = rows_in(e, job->d_context, run);
    const attn_row *rows = (const attn_row *)(s->attention + run.row * e->heads);
    float *second = shared + first_part(e, x);
    const struct attn_out dq = qkv_out(e, job->d_qkv, run, 0), dk = qkv_out(e, job->d_qkv, run, 1);
    const struct attn_out dv = qkv_out(e, job->d_qkv, run, 2);
    if (x->kind == ATTENTION_SUMMARY) {
        const struct attn_summary summary = summary_of(e, x);
        const ptrdiff_t r = (ptrdiff_t)feature_dim(x->map);
        const struct attn_ntk_grads grads = { dq, dk, dv, { shared, 0, r * d, d }, { x->dk ? second : NULL, 0, r, 1 } };
        const int fits = attn_ntk_backward_workspace(&shape, &summary, &grads, 1) <= e->work_bytes;
        return attn_ntk_backward(&shape, scale_of(e), q, k, v, &summary, out, rows, d_out, &grads, fits ? work : NULL,
                                 e->work_bytes, 1);
    }
    const struct attn_prefix prefix = prefix_of(e, x);
    struct attn_exact_grads grads = { .q = dq, .k = dk, .v = dv };
    if (prefix.len) {
        grads.prefix_k = (struct attn_out){ shared, 0, d, h };
        grads.prefix_v = (struct attn_out){ second, 0, d, h };
    }
    if (!job->d_qkv && !prefix.len) return GSL_SUCCESS;
    const int fits = attn_exact_backward_workspace(&shape, prefix.len, &grads, 1) <= e->work_bytes;
    return attn_exact_backward(&shape, scale_of(e), q, k, v, &prefix, out, rows, d_out, &grads, fits ? work : NULL,
                               e->work_bytes, 1);
}

static void backward_task(void *context, size_t group, int thread)
{
    struct job *job = context;
    struct encoder *e = job->e;
    char *work = e->work + (size_t)thread * e->work_bytes;
    const size_t n = e->extra_floats;
    float *sum = n ? e->partial + group * n : NULL,
          *once = n ? e->partial + (ATTENTION_GROUPS + (size_t)thread) * n : NULL;
    const int beside = job->extra->kind == ATTENTION_BESIDE;
    if (n) memset(sum, 0, n * sizeof *sum);
    struct run run;
    for (size_t seq = e->packing.groups[group]; next_run(&e->packing, group, &seq, &run);) {
        int status = run_backward(job, run, once, work);
        if (!status && beside)
            status = attention_rows_beside_backward(e, job->state, job->extra, run.row, run.batch * run.len,
                                                    job->d_context, job->d_qkv, sum, work);
        else if (!status && n) ops_current()->add(n, once, sum);
        note_status(job, status);
    }
}

/* The sums of the groups, in their order, to where the extra wants them. */
void attention_gather(const struct encoder *e, const struct attention_extra *x)
{
    const size_t n = e->extra_floats, first = first_part(e, x);
    if (!n) return;
    for (size_t g = 1; g < e->packing.num_groups; g++) ops_current()->add(n, e->partial + g * n, e->partial);
    const float *sum = e->partial;
    if (x->kind == ATTENTION_PREFIX) {
        memcpy(x->dK, sum, first * sizeof *sum);
        memcpy(x->dV, sum + first, first * sizeof *sum);
    } else if (x->kind != ATTENTION_PLAIN) {
        memcpy(x->dZ, sum, first * sizeof *sum);
        if (x->dk) memcpy(x->dk, sum + first, e->heads * feature_dim(x->map) * sizeof *sum);
    }
    /* One bias for all blocks: their gradients add up. */
    const size_t bias = e->relative_buckets * e->heads;
    if (e->d_relative_bias) ops_current()->add(bias, sum + n - bias, e->d_relative_bias);
}

int attention_backward(struct encoder *e, const struct block_state *state, const struct attention_extra *extra,
                       const float *d_context, float *d_qkv)
{
    if (e->relative_bias) return attention_bias_backward(e, state, extra, d_context, d_qkv);
    struct job job = { .e = e, .state = state, .extra = extra, .d_context = d_context, .d_qkv = d_qkv };
    atomic_init(&job.status, GSL_SUCCESS);
    parallel_for(e->packing.num_groups, e->num_threads, backward_task, &job);
    attention_gather(e, extra);
    return atomic_load(&job.status);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

size_t attention_work_bytes(const struct encoder *e, const struct attention_extra *x)
{
    if (e->relative_bias) return attention_bias_work_bytes(e, x);
    size_t bytes = x->kind == ATTENTION_BESIDE ? attention_beside_bytes(x->map) : 0;
    float any = 0.0f;
    for (size_t batch = 1; batch <= CALL_SEQS; batch++) {
        const struct run run = { 0, batch, e->max_len };
        const struct attn_shape shape = shape_of(e, run);
        const ptrdiff_t d = (ptrdiff_t)e->head_dim, h = (ptrdiff_t)e->hidden;
        const struct attn_out view = { &any, (ptrdiff_t)(run.len * 3 * e->hidden), d, 3 * h },
                              shared = { &any, 0, d, h };
        if (x->kind == ATTENTION_SUMMARY) {
            const struct attn_summary summary = summary_of(e, x);
            const ptrdiff_t r = (ptrdiff_t)feature_dim(x->map);
            const struct attn_ntk_grads grads = { view, view, view, { &any, 0, r * d, d }, { &any, 0, r, 1 } };
            bytes = most(bytes, attn_ntk_forward_workspace(&shape, &summary, 1));
            if (e->training) bytes = most(bytes, attn_ntk_backward_workspace(&shape, &summary, &grads, 1));
        } else {
            const size_t m = x->kind == ATTENTION_PREFIX ? x->prefix_len : 0;
            struct attn_exact_grads grads = { .q = view, .k = view, .v = view };
            if (m) grads.prefix_k = grads.prefix_v = shared;
            bytes = most(bytes, attn_exact_forward_workspace(&shape, m, 1));
            if (e->training) bytes = most(bytes, attn_exact_backward_workspace(&shape, m, &grads, 1));
        }
    }
    return bytes;
}
