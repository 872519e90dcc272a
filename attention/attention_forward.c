/* The forward pass: exact prefix attention, NTK-Attention, partial results. How work is cut depends on
 * the shape only, so results do not depend on threads: query blocks that own their rows, and, when
 * there are few of them, splits of the keys whose partial results merge in order. */
#include "prefix_ntk/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/attention_decode.h"
#include "attention/call.h"
#include "attention/feature_internal.h"
#include "attention/packed_prefix.h"
#include "attention/partial.h"
#include "common/parallel.h"

enum {
    ENOUGH_TASKS = 16,        /* keeps a few threads evenly busy */
    SPLIT_KEYS = 1024,        /* smallest split of the keys */
    ROWS_TOGETHER = 32,       /* blocks are multiples of it: full vectors, whatever the instruction set */
    THREAD_TASKS = 8          /* of one thread, where there are as many blocks */
};
static const double TASK_FLOPS = 3e5;     /* hand-over is a few percent of it */
static const size_t CACHED = (size_t)8 << 20;                 /* bytes that are near without being asked for */

struct forward_plan {
    size_t blocks, block_rows;    /* query blocks of a head */
    size_t splits, split_keys;    /* of prefix and input keys together */
    size_t units, together;       /* pieces of work in all; those of one task, on which no result depends */
    bool fetch;                   /* so much is read and written that the next unit is worth fetching */
};

static struct forward_plan plan_forward(const struct attn_shape *s, size_t prefix_len, size_t feat_dim, int num_threads)
{
    const size_t heads = s->batch * s->heads, keys = prefix_len + s->len_k;
    struct forward_plan plan = { .splits = 1, .split_keys = keys };
    size_t blocks = ceil_div(s->len_q, ATTN_QUERIES);
    /* With few heads split the keys, which costs least, ... */
    const bool split = !feat_dim && keys >= 2 * SPLIT_KEYS;
    if (!split && heads * blocks < ENOUGH_TASKS)
        blocks = most(blocks, least(ceil_div(ENOUGH_TASKS, heads), s->len_q / 96));
    plan.block_rows = ceil_div(ceil_div(s->len_q, blocks), ROWS_TOGETHER) * ROWS_TOGETHER;
    plan.blocks = ceil_div(s->len_q, plan.block_rows);
    /* ... or cut the queries finer, down to 96 rows. (A summary needs the shift of all keys.) */
    if (split && heads * plan.blocks < ENOUGH_TASKS) {
        const size_t splits = least(ceil_div(ENOUGH_TASKS, heads * plan.blocks), keys / SPLIT_KEYS);
        plan.split_keys = ceil_div(ceil_div(keys, splits), ATTN_STRIP) * ATTN_STRIP;
        plan.splits = ceil_div(keys, plan.split_keys);
    }
    plan.units = heads * plan.blocks * plan.splits;
    const double flops = 4.0 * (double)(least(plan.block_rows, s->len_q) * s->head_dim) *
                         (double)(least(plan.split_keys, keys) + feat_dim + 1);
    plan.together = most(least(plan.units, (size_t)(TASK_FLOPS / flops) + 1),
                         plan.units / ((size_t)used_threads(num_threads) * THREAD_TASKS));
    plan.fetch = 2 * heads * (s->len_q + keys) * s->head_dim * sizeof(float) > CACHED;
    return plan;
}

struct forward_job {
    const struct attn_shape *shape;
    float scale2;
    struct attn_in q, k, v;
    const struct attn_prefix *prefix;
    size_t prefix_len;
    const struct attn_summary *summary;
    size_t feat_dim;
    bool elu1;
    struct attn_out out;
    attn_row *rows;
    bool partial;
    const struct attn_kernels *kernels;
    struct forward_plan plan;
    /* Workspace. */
    struct forward_thread { float *scratch, *phi, *q; double *phi_log; void *feature; } *threads;
    float *split_values;          /* (batch heads blocks, splits, block_rows, head_dim) */
    attn_row *split_rows;         /* the same without head_dim */
    /* First bad row, (batch heads len_q) counted; and the first feature map's status. */
    atomic_size_t first_bad;
    atomic_int status;
};

static bool needs_features(const struct forward_job *job) { return job->feat_dim && !job->elu1; }

static void lay_out_forward(struct forward_job *job, int num_threads, struct arena *a)
{
    const struct attn_shape *s = job->shape;
    const size_t d = s->head_dim, rows = job->plan.block_rows;
    num_threads = used_threads(num_threads);
    job->threads = arena_take(a, (size_t)num_threads * sizeof *job->threads);
    for (int t = 0; t < num_threads; t++) {
        struct forward_thread mine = { .scratch = arena_floats(a, attn_forward_scratch(rows, d, job->elu1)) };
        if (needs_features(job)) {
            mine.phi = arena_floats(a, rows * job->feat_dim);
            mine.q = arena_floats(a, rows * d);
            mine.phi_log = arena_take(a, rows * sizeof(double));
            mine.feature = arena_take(a, feature_workspace(job->summary->map, 1));
        }
        if (a->base) job->threads[t] = mine;
    }
    if (job->plan.splits > 1) {
        const size_t n = s->batch * s->heads * job->plan.blocks * job->plan.splits * rows;
        job->split_values = arena_floats(a, n * d);
        job->split_rows = arena_take(a, n * sizeof *job->split_rows);
    }
}

/* Unit `unit` of the work but for features that are not elu1's. */
static struct attn_forward_block make_block(const struct forward_job *job, size_t unit)
{
    const struct attn_shape *s = job->shape;
    const struct forward_plan *plan = &job->plan;
    const size_t split = unit % plan->splits, head = unit / plan->splits / plan->blocks;
    /* Causal blocks see more keys the later they are: long ones first. */
    size_t block = unit / plan->splits % plan->blocks;
    if (s->causal) block = plan->blocks - 1 - block;
    const size_t b = head / s->heads, h = head % s->heads, kv = h / (s->heads / s->kv_heads);
    const size_t i0 = block * plan->block_rows, d = s->head_dim;
    const size_t m = job->prefix_len, keys = m + input_keys(s, b);
    const size_t lo = split * plan->split_keys, hi = plan->splits == 1 ? keys : least(keys, lo + plan->split_keys);
    const size_t input_lo = lo > m ? lo - m : 0, input_hi = hi > m ? hi - m : 0;

    struct attn_forward_block made = {
        .rows = least(plan->block_rows, s->len_q - i0), .first_row = head * s->len_q + i0, .head_dim = d,
        .q = row_in(job->q, b, h, i0), .q_row = job->q.row, .scale2 = job->scale2,
        .input = plain_keys(job->k, job->v, b, kv, input_lo, input_hi),
        .causal = s->causal, .few = job->feat_dim && attn_decode_fits(s, 0, false), .dots = attn_decode_dots(s),
        .bound = (ptrdiff_t)i0 + (ptrdiff_t)s->len_k - (ptrdiff_t)s->len_q + 1 - (ptrdiff_t)input_lo,
        .out = row_out(job->out, b, h, i0), .out_row = job->out.row,
        .stats = job->rows ? job->rows + head * s->len_q + i0 : NULL,
        .partial = job->partial
    };
    if (m && lo < m) made.prefix = prefix_keys(job->prefix, b, kv, lo, least(hi, m));
    if (plan->splits > 1) {
        const size_t at = ((head * plan->blocks + block) * plan->splits + split) * plan->block_rows;
        made.out = job->split_values + at * d;
        made.out_row = (ptrdiff_t)d;
        made.stats = job->split_rows + at;
        made.partial = true;
    }
    if (job->feat_dim) {
        const struct attn_summary *z = job->summary;
        const size_t zh = h / (s->heads / z->heads);
        made.feat_dim = job->feat_dim;
        made.Z = row_in(z->Z, b, zh, 0);
        made.Z_row = z->Z.row;
        made.kvec = row_in(z->kvec, b, zh, 0);
    }
    return made;
}

/* Features of maps that the kernel does not make itself. */
static int make_features(const struct forward_job *job, const struct forward_thread *mine, struct attn_forward_block *b)
{
    const size_t d = b->head_dim, r = b->feat_dim;
    for (size_t i = 0; i < b->rows; i++) copy_finite(mine->q + i * d, b->q + (ptrdiff_t)i * b->q_row, d);
    const int status = feature_forward_f32(job->summary->map, FEATURE_QUERY, b->rows, mine->q, d, mine->phi, r,
                                           mine->phi_log, 1, mine->feature);
    /* The features of a row that is not finite are NaN, and so is its D. */
    for (size_t i = 0; i < b->rows; i++)
        if (!row_is_finite(b->q + (ptrdiff_t)i * b->q_row, d)) mine->phi[i * r] = NAN;
    b->phi = mine->phi;
    b->phi_log = mine->phi_log;
    /* Features that overflow are not finite either; theirs is no failure of the other rows. */
    return status == GSL_EOVRFLW ? GSL_SUCCESS : status;
}

static void forward_task(void *context, size_t task, int thread)
{
    struct forward_job *job = context;
    const struct forward_thread *mine = &job->threads[thread];
    const size_t from = task * job->plan.together, to = least(job->plan.units, from + job->plan.together);
    struct attn_forward_block block, next = make_block(job, from);
    for (size_t unit = from; unit < to; unit++) {
        block = next;
        block.scratch = mine->scratch;
        if (unit + 1 < to) {
            next = make_block(job, unit + 1);
            if (job->plan.fetch) block.next = &next;
        }
        if (needs_features(job)) {
            const int status = make_features(job, mine, &block);
            note_status(&job->status, status);
            if (status) return;
        }
        const size_t bad = job->kernels->forward_block(&block);
        if (bad < block.rows && !block.partial) note_first(&job->first_bad, block.first_row + bad);
    }
}

static void merge_task(void *context, size_t task, int thread)
{
    (void)thread;
    struct forward_job *job = context;
    const struct attn_shape *s = job->shape;
    const struct forward_plan *plan = &job->plan;
    const size_t head = task / plan->blocks, i0 = task % plan->blocks * plan->block_rows, d = s->head_dim;
    const size_t rows = least(plan->block_rows, s->len_q - i0);
    for (size_t i = 0; i < rows; i++) {
        const size_t at = task * plan->splits * plan->block_rows + i;
        float *values = job->split_values + at * d, *row = job->split_rows[at];
        for (size_t split = 1; split < plan->splits; split++) {
            const size_t other = at + split * plan->block_rows;
            merge_row(values, row, job->split_values + other * d, job->split_rows[other], d);
        }
        if (!job->partial && !finish_row(values, row[1], d)) note_first(&job->first_bad, head * s->len_q + i0 + i);
        memcpy(row_out(job->out, head / s->heads, head % s->heads, i0 + i), values, d * sizeof(float));
        if (job->rows) memcpy(job->rows[head * s->len_q + i0 + i], row, sizeof(attn_row));
    }
}

static int forward_run(struct forward_job *job, void *work, size_t work_bytes, int num_threads,
                       struct attn_failure *failure)
{
    const struct attn_shape *s = job->shape;
    job->plan = plan_forward(s, job->prefix_len, job->feat_dim, num_threads);
    job->kernels = attn_kernels_current();
    struct arena arena = { NULL, 0 };
    lay_out_forward(job, num_threads, &arena);
    void *owned;
    int status = workspace_open(workspace_bytes(arena.used), work, work_bytes, &arena, &owned);
    if (status) return status;
    lay_out_forward(job, num_threads, &arena);
    atomic_init(&job->first_bad, SIZE_MAX);
    atomic_init(&job->status, GSL_SUCCESS);
    const size_t blocks = s->batch * s->heads * job->plan.blocks;
    parallel_for(ceil_div(job->plan.units, job->plan.together), num_threads, forward_task, job);
    if (job->plan.splits > 1) parallel_for(blocks, num_threads, merge_task, job);
    free(owned);
    status = atomic_load(&job->status);
    return status ? status : name_failure(s, atomic_load(&job->first_bad), failure);
}

static size_t forward_bytes(const struct attn_shape *s, size_t prefix_len, const struct attn_summary *summary,
                            size_t feat_dim, bool elu1, int num_threads)
{
    struct forward_job job = { .shape = s, .prefix_len = prefix_len, .summary = summary, .feat_dim = feat_dim,
                               .elu1 = elu1, .plan = plan_forward(s, prefix_len, feat_dim, num_threads) };
    struct arena arena = { NULL, 0 };
    lay_out_forward(&job, num_threads, &arena);
    return workspace_bytes(arena.used);
}

size_t attn_exact_forward_workspace(const struct attn_shape *shape, size_t prefix_len, int num_threads)
{
    if (attn_shape_status(shape, prefix_len, 0) || num_threads < 1) return 0;
    const bool plain = attn_decode_fits(shape, prefix_len, false), packed = attn_decode_fits(shape, prefix_len, true);
    const size_t few = plain || packed ? attn_decode_bytes(shape, prefix_len, num_threads) : 0;
    return plain && packed ? few : most(few, forward_bytes(shape, prefix_len, NULL, 0, false, num_threads));
}

static int exact_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                         struct attn_in v, const struct attn_prefix *prefix, struct attn_out out, attn_row *rows,
                         bool partial, void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    int status = attn_call_status(shape, prefix ? prefix->len : 0, 0, q, k, v, out.data, num_threads);
    if (!isfinite(scale)) status = GSL_EINVAL;
    if (!status) status = prefix_status(shape, prefix, false);
    if (status) return status;
    const size_t prefix_len = prefix ? prefix->len : 0;
    /* Whichever way the call goes. */
    if (work && work_bytes < attn_exact_forward_workspace(shape, prefix_len, num_threads)) return GSL_EBADLEN;
    if (attn_decode_fits(shape, prefix_len, prefix_len && packed_in_float32(prefix))) {
        const struct attn_decode_call call = { shape, (float)((double)scale * LOG2E), q, k, v, prefix, prefix_len, out,
                                               rows, partial };
        return attn_decode_run(&call, work, work_bytes, num_threads, failure);
    }
    struct forward_job job = {
        .shape = shape, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .prefix = prefix,
        .prefix_len = prefix_len, .out = out, .rows = rows, .partial = partial
    };
    return forward_run(&job, work, work_bytes, num_threads, failure);
}

int attn_exact_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                       struct attn_in v, const struct attn_prefix *prefix, struct attn_out out, attn_row *rows,
                       void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    return exact_forward(shape, scale, q, k, v, prefix, out, rows, false, work, work_bytes, num_threads, failure);
}

size_t attn_ntk_forward_workspace(const struct attn_shape *shape, const struct attn_summary *summary, int num_threads)
{
    if (attn_shape_status(shape, 0, 0) || attn_summary_status(shape, summary) || num_threads < 1) return 0;
    return forward_bytes(shape, 0, summary, feature_dim(summary->map), feature_is_elu1(summary->map), num_threads);
}

int attn_ntk_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                     struct attn_in v, const struct attn_summary *summary, struct attn_out out, attn_row *rows,
                     void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    int status = isfinite(scale) ? attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads) : GSL_EINVAL;
    if (!status) status = attn_summary_status(shape, summary);
    if (status) return status;
    struct forward_job job = {
        .shape = shape, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .summary = summary,
        .feat_dim = feature_dim(summary->map), .elu1 = feature_is_elu1(summary->map), .out = out, .rows = rows
    };
    return forward_run(&job, work, work_bytes, num_threads, failure);
}

size_t attn_partial_workspace(const struct attn_shape *shape, size_t prefix_len, int num_threads)
{
    return attn_exact_forward_workspace(shape, prefix_len, num_threads);
}

int attn_partial_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                         struct attn_in v, const struct attn_prefix *prefix, struct attn_out values, attn_row *rows,
                         void *work, size_t work_bytes, int num_threads)
{
    if (!rows) return GSL_EINVAL;
    return exact_forward(shape, scale, q, k, v, prefix, values, rows, true, work, work_bytes, num_threads, NULL);
}
