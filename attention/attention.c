/* Shapes, tasks and memory of prefix attention; the arithmetic is attention_kernel.c.
 *
 * How work is cut depends on the shape only, never on the number of threads, so results
 * do not either: forward, query blocks that own their rows (and, when there are few of
 * them, splits of the keys whose partial results merge in order); backward, chunks of
 * keys that own dK and dV, with a dQ of their own when there are several. */
#include "prefix_ntk/attention.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attention/attention_internal.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "prefix_ntk/feature.h"

static const double LOG2E = 0x1.71547652b82fep+0;

enum {
    ENOUGH_TASKS = 16,        /* keeps a few threads evenly busy */
    SPLIT_KEYS = 1024,        /* smallest split of the keys in forward ... */
    CHUNK_KEYS = 512          /* ... and smallest chunk in backward */
};

/* ---- instruction sets --------------------------------------------------------- */

struct kernels {
    size_t (*forward_block)(const struct attn_forward_block *);
    void (*grad_prepare)(const struct attn_grad_rows *, size_t, const float *, ptrdiff_t, float, const float *,
                         ptrdiff_t, const float *, ptrdiff_t, const float (*)[2]);
    void (*backward_block)(const struct attn_backward_block *);
    void (*feature_backward)(const struct attn_feature_grad *);
    void (*pack_panels)(const float *, ptrdiff_t, size_t, size_t, float *);
    void (*pack_rows)(const float *, ptrdiff_t, size_t, size_t, float *);
};

#define KERNELS(isa)                                                                                  \
    { attn_forward_block_##isa, attn_grad_prepare_##isa, attn_backward_block_##isa,                   \
      attn_feature_backward_##isa, attn_pack_panels_##isa, attn_pack_rows_##isa }

static const struct kernels *kernels_current(void)
{
    static const struct kernels all[] = {
        [ISA_ID_PORTABLE] = KERNELS(portable),
#if defined(__x86_64__)
        [ISA_ID_AVX2] = KERNELS(avx2),
        [ISA_ID_AVX512] = KERNELS(avx512),
#elif defined(__aarch64__)
        [ISA_ID_NEON] = KERNELS(neon),
#endif
    };
    return &all[isa_current()];
}

/* ---- memory --------------------------------------------------------------------- */

static size_t align_up(size_t bytes) { return (bytes + ATTN_ALIGN - 1) / ATTN_ALIGN * ATTN_ALIGN; }
static size_t floats(size_t n) { return align_up(n * sizeof(float)); }

/* Hands out aligned pieces of the workspace; measured first with base NULL. */
struct arena { char *base; size_t used; };

static void *arena_take(struct arena *a, size_t bytes)
{
    void *p = a->base ? a->base + a->used : NULL;
    a->used += align_up(bytes);
    return p;
}

static float *arena_floats(struct arena *a, size_t n) { return arena_take(a, floats(n)); }

/* Aligns the caller's workspace or allocates one (*owned, to be freed). */
static int workspace_open(size_t bytes, void *work, size_t work_bytes, struct arena *arena, void **owned)
{
    *owned = NULL;
    if (work) {
        if (work_bytes < bytes) return GSL_EBADLEN;
    } else {
        work = *owned = malloc(bytes);
        if (!work) return GSL_ENOMEM;
    }
    const uintptr_t at = (uintptr_t)work, rest = at % ATTN_ALIGN;
    *arena = (struct arena){ (char *)work + (rest ? ATTN_ALIGN - rest : 0), 0 };
    return GSL_SUCCESS;
}

/* ---- arguments -------------------------------------------------------------------- */

static int shape_status(const struct attn_shape *s)
{
    if (!s || !s->batch || !s->heads || !s->kv_heads || s->heads % s->kv_heads || !s->len_q || !s->head_dim)
        return GSL_EINVAL;
    for (size_t b = 0; s->key_lengths && b < s->batch; b++)
        if (s->key_lengths[b] > s->len_k) return GSL_EINVAL;
    return GSL_SUCCESS;
}

static int call_status(const struct attn_shape *s, float scale, struct attn_in q, struct attn_in k, struct attn_in v,
                       const void *out, int num_threads)
{
    if (shape_status(s) || !isfinite(scale) || !q.data || !out || num_threads < 1) return GSL_EINVAL;
    return s->len_k && (!k.data || !v.data) ? GSL_EINVAL : GSL_SUCCESS;
}

static const float *row_in(struct attn_in x, size_t b, size_t h, size_t i)
{
    return x.data + (ptrdiff_t)b * x.batch + (ptrdiff_t)h * x.head + (ptrdiff_t)i * x.row;
}

static float *row_out(struct attn_out x, size_t b, size_t h, size_t i)
{
    return x.data + (ptrdiff_t)b * x.batch + (ptrdiff_t)h * x.head + (ptrdiff_t)i * x.row;
}

static bool row_is_finite(const float *x, size_t n)
{
    float sum = 0.0f;
    for (size_t c = 0; c < n; c++) sum += x[c] * 0.0f;
    return sum == 0.0f;
}

/* The row, or zeros for one that is not finite. */
static void copy_finite(float *to, const float *from, size_t n)
{
    if (row_is_finite(from, n)) memcpy(to, from, n * sizeof *to);
    else memset(to, 0, n * sizeof *to);
}

static struct attn_in as_input(struct attn_out x)
{
    return (struct attn_in){ x.data, x.batch, x.head, x.row };
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t most(size_t a, size_t b) { return a > b ? a : b; }
static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

static size_t input_keys(const struct attn_shape *s, size_t b)
{
    return s->key_lengths ? s->key_lengths[b] : s->len_k;
}

/* ---- packed prefix ------------------------------------------------------------------- */

struct attn_packed {
    size_t batch, kv_heads, len, head_dim;
    bool backward;
    size_t panels, rows;        /* floats per head of each kind */
    size_t bytes;
    float *k_panels, *v_rows;   /* always */
    float *v_panels, *k_rows;   /* for the backward pass */
    void *memory;
};

struct attn_packed *attn_packed_alloc(size_t batch, size_t kv_heads, size_t prefix_len, size_t head_dim, int backward)
{
    if (!batch || !kv_heads || !prefix_len || !head_dim) return NULL;
    /* panels + rows of padded numbers, in both kinds, and rounding: below 2^62 bytes. */
    size_t numbers;
    if (prefix_len > SIZE_MAX - ATTN_PANEL || head_dim > SIZE_MAX / 2 ||
        __builtin_mul_overflow(attn_panels(prefix_len) * ATTN_PANEL, attn_padded(head_dim), &numbers) ||
        __builtin_mul_overflow(numbers, batch, &numbers) || __builtin_mul_overflow(numbers, kv_heads, &numbers) ||
        numbers > SIZE_MAX / 64)
        return NULL;
    struct attn_packed *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    const size_t padded_len = attn_panels(prefix_len) * ATTN_PANEL;
    *p = (struct attn_packed){ .batch = batch, .kv_heads = kv_heads, .len = prefix_len, .head_dim = head_dim,
                               .backward = backward != 0, .panels = padded_len * head_dim,
                               .rows = padded_len * attn_padded(head_dim) };
    const size_t heads = batch * kv_heads, kinds = backward ? 2 : 1;
    struct arena size = { NULL, 0 };
    arena_floats(&size, kinds * heads * p->panels);
    arena_floats(&size, kinds * heads * p->rows);
    p->bytes = size.used;
    if (posix_memalign(&p->memory, ATTN_ALIGN, size.used)) {
        free(p);
        return NULL;
    }
    p->k_panels = p->memory;
    p->v_rows = p->k_panels + heads * p->panels;
    if (backward) {
        p->v_panels = p->v_rows + heads * p->rows;
        p->k_rows = p->v_panels + heads * p->panels;
    }
    return p;
}

void attn_packed_free(struct attn_packed *packed)
{
    if (!packed) return;
    free(packed->memory);
    free(packed);
}

size_t attn_packed_bytes(const struct attn_packed *packed) { return packed ? packed->bytes + sizeof *packed : 0; }

struct pack_job { struct attn_packed *packed; struct attn_in k, v; const struct kernels *kernels; };

/* Tasks: head by head, in runs of panels. */
enum { PACK_KEYS = 32 * ATTN_PANEL };

static void pack_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct pack_job *job = context;
    const struct attn_packed *p = job->packed;
    const size_t runs = ceil_div(p->len, PACK_KEYS), at = task / runs, from = task % runs * PACK_KEYS;
    const size_t len = least(PACK_KEYS, p->len - from), d = p->head_dim, padded = attn_padded(d);
    const float *k = row_in(job->k, at / p->kv_heads, at % p->kv_heads, from);
    const float *v = row_in(job->v, at / p->kv_heads, at % p->kv_heads, from);
    job->kernels->pack_panels(k, job->k.row, len, d, p->k_panels + at * p->panels + from * d);
    job->kernels->pack_rows(v, job->v.row, len, d, p->v_rows + at * p->rows + from * padded);
    if (!p->backward) return;
    job->kernels->pack_panels(v, job->v.row, len, d, p->v_panels + at * p->panels + from * d);
    job->kernels->pack_rows(k, job->k.row, len, d, p->k_rows + at * p->rows + from * padded);
}

int attn_packed_set(struct attn_packed *packed, struct attn_in k, struct attn_in v, int num_threads)
{
    if (!packed || !k.data || !v.data || num_threads < 1) return GSL_EINVAL;
    struct pack_job job = { packed, k, v, kernels_current() };
    parallel_for(packed->batch * packed->kv_heads * ceil_div(packed->len, PACK_KEYS), num_threads, pack_task, &job);
    return GSL_SUCCESS;
}

static int prefix_status(const struct attn_shape *s, const struct attn_prefix *p, bool backward)
{
    if (!p || !p->len) return GSL_SUCCESS;
    if (!p->packed) return p->k.data && p->v.data ? GSL_SUCCESS : GSL_EINVAL;
    const struct attn_packed *packed = p->packed;
    if (packed->len != p->len || packed->head_dim != s->head_dim || (backward && !packed->backward) ||
        (packed->batch != 1 && packed->batch != s->batch) ||
        (packed->kv_heads != 1 && packed->kv_heads != s->kv_heads))
        return GSL_EBADLEN;
    return GSL_SUCCESS;
}

/* Keys lo .. hi-1 of prefix (or input) for one head. lo is a multiple of 64. */
static struct attn_keys prefix_keys(const struct attn_prefix *p, size_t b, size_t kv, size_t lo, size_t hi)
{
    struct attn_keys keys = { .len = hi - lo };
    if (hi <= lo) return (struct attn_keys){ 0 };
    if (!p->packed) {
        keys.k = row_in(p->k, b, kv, lo);
        keys.v = row_in(p->v, b, kv, lo);
        keys.k_row = p->k.row;
        keys.v_row = p->v.row;
        return keys;
    }
    const struct attn_packed *packed = p->packed;
    const size_t d = packed->head_dim, padded = attn_padded(d);
    const size_t at = (packed->batch == 1 ? 0 : b) * packed->kv_heads + (packed->kv_heads == 1 ? 0 : kv);
    keys.k_panels = packed->k_panels + at * packed->panels + lo * d;
    keys.v = packed->v_rows + at * packed->rows + lo * padded;
    if (packed->backward) {
        keys.v_panels = packed->v_panels + at * packed->panels + lo * d;
        keys.k = packed->k_rows + at * packed->rows + lo * padded;
    }
    keys.k_row = keys.v_row = (ptrdiff_t)padded;
    return keys;
}

static struct attn_keys plain_keys(struct attn_in k, struct attn_in v, size_t b, size_t kv, size_t lo, size_t hi)
{
    if (hi <= lo) return (struct attn_keys){ 0 };
    return (struct attn_keys){ .len = hi - lo, .k = row_in(k, b, kv, lo), .v = row_in(v, b, kv, lo),
                               .k_row = k.row, .v_row = v.row };
}

/* ---- forward ------------------------------------------------------------------------------ */

struct forward_plan {
    size_t blocks, block_rows;    /* query blocks of a head */
    size_t splits, split_keys;    /* of prefix and input keys together */
};

static struct forward_plan plan_forward(const struct attn_shape *s, size_t prefix_len, size_t feat_dim)
{
    const size_t heads = s->batch * s->heads, keys = prefix_len + s->len_k;
    struct forward_plan plan = { .splits = 1, .split_keys = keys };
    size_t blocks = ceil_div(s->len_q, ATTN_QUERIES);
    /* With few heads split the keys, which costs least, ... */
    const bool split = !feat_dim && keys >= 2 * SPLIT_KEYS;
    if (!split && heads * blocks < ENOUGH_TASKS) blocks = most(blocks, least(ceil_div(ENOUGH_TASKS, heads), s->len_q / 96));
    plan.block_rows = ceil_div(ceil_div(s->len_q, blocks), 6) * 6;
    plan.blocks = ceil_div(s->len_q, plan.block_rows);
    /* ... or cut the queries finer, down to 96 rows. (A summary needs the shift of all keys.) */
    if (split && heads * plan.blocks < ENOUGH_TASKS) {
        const size_t splits = least(ceil_div(ENOUGH_TASKS, heads * plan.blocks), keys / SPLIT_KEYS);
        plan.split_keys = ceil_div(ceil_div(keys, splits), ATTN_STRIP) * ATTN_STRIP;
        plan.splits = ceil_div(keys, plan.split_keys);
    }
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
    const struct kernels *kernels;
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
    job->threads = arena_take(a, (size_t)num_threads * sizeof *job->threads);
    for (int t = 0; t < num_threads; t++) {
        struct forward_thread mine = { .scratch = arena_floats(a, attn_forward_scratch(rows, d)) };
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

static void note_bad(atomic_size_t *first, size_t row)
{
    size_t seen = atomic_load(first);
    while (row < seen && !atomic_compare_exchange_weak(first, &seen, row)) { }
}

static void forward_task(void *context, size_t task, int thread)
{
    struct forward_job *job = context;
    const struct attn_shape *s = job->shape;
    const struct forward_plan *plan = &job->plan;
    struct forward_thread *mine = &job->threads[thread];
    const size_t split = task % plan->splits, head = task / plan->splits / plan->blocks;
    /* Causal blocks see more keys the later they are: long ones first. */
    size_t block = task / plan->splits % plan->blocks;
    if (s->causal) block = plan->blocks - 1 - block;
    const size_t b = head / s->heads, h = head % s->heads, kv = h / (s->heads / s->kv_heads);
    const size_t i0 = block * plan->block_rows, rows = least(plan->block_rows, s->len_q - i0), d = s->head_dim;
    const size_t m = job->prefix_len, keys = m + input_keys(s, b);
    const size_t lo = split * plan->split_keys, hi = plan->splits == 1 ? keys : least(keys, lo + plan->split_keys);
    const size_t input_lo = lo > m ? lo - m : 0, input_hi = hi > m ? hi - m : 0;

    struct attn_forward_block block_args = {
        .rows = rows, .head_dim = d, .q = row_in(job->q, b, h, i0), .q_row = job->q.row, .scale2 = job->scale2,
        .input = plain_keys(job->k, job->v, b, kv, input_lo, input_hi),
        .causal = s->causal,
        .bound = (ptrdiff_t)i0 + (ptrdiff_t)s->len_k - (ptrdiff_t)s->len_q + 1 - (ptrdiff_t)input_lo,
        .out = row_out(job->out, b, h, i0), .out_row = job->out.row,
        .stats = job->rows ? job->rows + head * s->len_q + i0 : NULL,
        .partial = job->partial, .scratch = mine->scratch
    };
    if (m && lo < m) block_args.prefix = prefix_keys(job->prefix, b, kv, lo, least(hi, m));
    if (plan->splits > 1) {
        const size_t at = ((head * plan->blocks + block) * plan->splits + split) * plan->block_rows;
        block_args.out = job->split_values + at * d;
        block_args.out_row = (ptrdiff_t)d;
        block_args.stats = job->split_rows + at;
        block_args.partial = true;
    }
    if (job->feat_dim) {
        const struct attn_summary *z = job->summary;
        const size_t zh = h / (s->heads / z->heads);
        block_args.feat_dim = job->feat_dim;
        block_args.Z = row_in(z->Z, b, zh, 0);
        block_args.Z_row = z->Z.row;
        block_args.kvec = row_in(z->kvec, b, zh, 0);
        if (!job->elu1) {
            for (size_t i = 0; i < rows; i++) copy_finite(mine->q + i * d, row_in(job->q, b, h, i0 + i), d);
            const int status = feature_forward_f32(z->map, FEATURE_QUERY, rows, mine->q, d, mine->phi, job->feat_dim,
                                                   mine->phi_log, 1, mine->feature);
            /* The features of a row that is not finite are NaN, and so is its D. */
            for (size_t i = 0; i < rows; i++)
                if (!row_is_finite(row_in(job->q, b, h, i0 + i), d)) mine->phi[i * job->feat_dim] = NAN;
            if (status) {
                int none = GSL_SUCCESS;
                atomic_compare_exchange_strong(&job->status, &none, status);
                return;
            }
            block_args.phi = mine->phi;
            block_args.phi_log = mine->phi_log;
        }
    }
    const size_t bad = job->kernels->forward_block(&block_args);
    if (bad < rows && !block_args.partial) note_bad(&job->first_bad, head * s->len_q + i0 + bad);
}

/* into = into + from for one row. */
static void merge_row(float *into, float into_row[2], const float *from, const float from_row[2], size_t d)
{
    const float shift = fmaxf(into_row[0], from_row[0]);
    if (from_row[0] == -INFINITY && from_row[1] == 0.0f) return;
    const float a = into_row[0] == -INFINITY ? 0.0f : exp2f(into_row[0] - shift), b = exp2f(from_row[0] - shift);
#pragma omp simd
    for (size_t c = 0; c < d; c++) into[c] = a * into[c] + b * from[c];
    into_row[0] = shift;
    into_row[1] = a * into_row[1] + b * from_row[1];
}

/* values / mass, or 0 and false where mass is not positive and finite. */
static bool finish_row(float *values, float mass, size_t d)
{
    const bool good = mass > 0.0f && mass < INFINITY;
    const float by = 1.0f / mass;
    for (size_t c = 0; c < d; c++) values[c] = good ? values[c] * by : 0.0f;
    return good;
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
        if (!job->partial && !finish_row(values, row[1], d)) note_bad(&job->first_bad, head * s->len_q + i0 + i);
        memcpy(row_out(job->out, head / s->heads, head % s->heads, i0 + i), values, d * sizeof(float));
        if (job->rows) memcpy(job->rows[head * s->len_q + i0 + i], row, sizeof(attn_row));
    }
}

static int name_failure(const struct attn_shape *s, size_t row, struct attn_failure *failure)
{
    if (row == SIZE_MAX) return GSL_SUCCESS;
    if (failure)
        *failure = (struct attn_failure){ row / s->len_q / s->heads, row / s->len_q % s->heads, row % s->len_q };
    return GSL_EDOM;
}

static int forward_run(struct forward_job *job, void *work, size_t work_bytes, int num_threads,
                       struct attn_failure *failure)
{
    const struct attn_shape *s = job->shape;
    job->plan = plan_forward(s, job->prefix_len, job->feat_dim);
    job->kernels = kernels_current();
    struct arena arena = { NULL, 0 };
    lay_out_forward(job, num_threads, &arena);
    void *owned;
    int status = workspace_open(arena.used + ATTN_ALIGN, work, work_bytes, &arena, &owned);
    if (status) return status;
    lay_out_forward(job, num_threads, &arena);
    atomic_init(&job->first_bad, SIZE_MAX);
    atomic_init(&job->status, GSL_SUCCESS);
    const size_t blocks = s->batch * s->heads * job->plan.blocks;
    parallel_for(blocks * job->plan.splits, num_threads, forward_task, job);
    if (job->plan.splits > 1) parallel_for(blocks, num_threads, merge_task, job);
    free(owned);
    status = atomic_load(&job->status);
    return status ? status : name_failure(s, atomic_load(&job->first_bad), failure);
}

static size_t forward_bytes(const struct attn_shape *s, size_t prefix_len, const struct attn_summary *summary,
                            size_t feat_dim, bool elu1, int num_threads)
{
    struct forward_job job = { .shape = s, .prefix_len = prefix_len, .summary = summary, .feat_dim = feat_dim,
                               .elu1 = elu1, .plan = plan_forward(s, prefix_len, feat_dim) };
    struct arena arena = { NULL, 0 };
    lay_out_forward(&job, num_threads, &arena);
    return arena.used + ATTN_ALIGN;
}

size_t attn_exact_forward_workspace(const struct attn_shape *shape, size_t prefix_len, int num_threads)
{
    return shape_status(shape) || num_threads < 1 ? 0 : forward_bytes(shape, prefix_len, NULL, 0, false, num_threads);
}

static int exact_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                         struct attn_in v, const struct attn_prefix *prefix, struct attn_out out, attn_row *rows,
                         bool partial, void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    int status = call_status(shape, scale, q, k, v, out.data, num_threads);
    if (!status) status = prefix_status(shape, prefix, false);
    if (status) return status;
    struct forward_job job = {
        .shape = shape, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .prefix = prefix,
        .prefix_len = prefix ? prefix->len : 0, .out = out, .rows = rows, .partial = partial
    };
    return forward_run(&job, work, work_bytes, num_threads, failure);
}

int attn_exact_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                       struct attn_in v, const struct attn_prefix *prefix, struct attn_out out, attn_row *rows,
                       void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    return exact_forward(shape, scale, q, k, v, prefix, out, rows, false, work, work_bytes, num_threads, failure);
}

static int summary_status(const struct attn_shape *s, const struct attn_summary *z)
{
    if (!z || !z->map || !z->Z.data || !z->kvec.data || (z->heads != s->heads && z->heads != s->kv_heads))
        return GSL_EINVAL;
    if (feature_head_dim(z->map) != s->head_dim) return GSL_EBADLEN;
    return feature_is_explicit(z->map) ? GSL_SUCCESS : GSL_EUNSUP;
}

static bool is_elu1(const struct attn_summary *z) { return feature_map_spec(z->map).family == FEATURE_ELU1; }

size_t attn_ntk_forward_workspace(const struct attn_shape *shape, const struct attn_summary *summary, int num_threads)
{
    if (shape_status(shape) || summary_status(shape, summary) || num_threads < 1) return 0;
    return forward_bytes(shape, 0, summary, feature_dim(summary->map), is_elu1(summary), num_threads);
}

int attn_ntk_forward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                     struct attn_in v, const struct attn_summary *summary, struct attn_out out, attn_row *rows,
                     void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    int status = call_status(shape, scale, q, k, v, out.data, num_threads);
    if (!status) status = summary_status(shape, summary);
    if (status) return status;
    struct forward_job job = {
        .shape = shape, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .summary = summary,
        .feat_dim = feature_dim(summary->map), .elu1 = is_elu1(summary), .out = out, .rows = rows
    };
    return forward_run(&job, work, work_bytes, num_threads, failure);
}

/* ---- partial results ----------------------------------------------------------------------- */

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

void attn_partial_merge(const struct attn_shape *s, struct attn_out into, attn_row *into_rows, struct attn_in from,
                        const attn_row *from_rows)
{
    for (size_t head = 0; head < s->batch * s->heads; head++)
        for (size_t i = 0; i < s->len_q; i++) {
            const size_t b = head / s->heads, h = head % s->heads, at = head * s->len_q + i;
            merge_row(row_out(into, b, h, i), into_rows[at], row_in(from, b, h, i), from_rows[at], s->head_dim);
        }
}

int attn_partial_finish(const struct attn_shape *s, struct attn_out values, const attn_row *rows,
                        struct attn_failure *failure)
{
    size_t first_bad = SIZE_MAX;
    for (size_t at = 0; at < s->batch * s->heads * s->len_q; at++) {
        const size_t head = at / s->len_q;
        float *row = row_out(values, head / s->heads, head % s->heads, at % s->len_q);
        if (!finish_row(row, rows[at][1], s->head_dim)) first_bad = least(first_bad, at);
    }
    return name_failure(s, first_bad, failure);
}

/* ---- backward -------------------------------------------------------------------------------- */

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
    const struct kernels *kernels;
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

static bool is_shared(const struct attn_shape *s, struct attn_out view)
{
    return view.data && ((s->batch > 1 && !view.batch) || (s->kv_heads > 1 && !view.head));
}

static void lay_out_key_grad(struct key_grad *g, const struct attn_shape *s, struct arena *a)
{
    g->to = g->view;
    g->shared = is_shared(s, g->view);
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
    job->kernels->grad_prepare(&rows, s->head_dim, row_in(job->q, b, h, i0), job->q.row, job->scale2,
                               row_in(job->out, b, h, i0), job->out.row, row_in(job->d_out, b, h, i0), job->d_out.row,
                               job->rows + (b * s->heads + h) * s->len_q + i0);
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
           s->head_dim == attn_padded(s->head_dim) && (job->dZ.batch || s->batch == 1) && (job->dZ.head || s->heads == 1);
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
        .dq = rows.dq, .dq_scale = dq_scale, .dZ = direct ? row_out(job->dZ, b, h, 0) : job->dZ_chunks + slot * r * padded,
        .dZ_row = direct ? job->dZ.row : (ptrdiff_t)padded, .dk = job->dk_chunks + slot * r,
        .first = i0 % job->plan.chunk_rows == 0, .scratch = mine->feature_scratch
    };
    if (job->elu1) {
        job->kernels->feature_backward(&f);
        return GSL_SUCCESS;
    }
    for (size_t i = 0; i < rows.rows; i++) copy_finite(mine->x + i * d, row_in(job->q, b, h, i0 + i), d);
    f.phi_log = mine->phi_log;
    const int status = feature_forward_f32(z->map, FEATURE_QUERY, rows.rows, mine->x, d, mine->phi, r, mine->phi_log, 1,
                                           mine->feature);
    if (status) return status;
    job->kernels->feature_backward(&f);
    for (size_t i = 0; i < rows.rows * padded; i++) rows.dq[i] *= dq_scale;
    return feature_backward_f32(z->map, FEATURE_QUERY, rows.rows, mine->x, d, mine->dphi,
                                ceil_div(r, ATTN_PANEL) * ATTN_PANEL, mine->phi_log, rows.dq, padded, 1, 1, mine->feature);
}

static void note_status(struct backward_job *job, int status)
{
    int none = GSL_SUCCESS;
    if (status) atomic_compare_exchange_strong(&job->status, &none, status);
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
    const size_t input_lo = least(lo > room ? lo - room : 0, s->len_k), input_hi = least(hi > room ? hi - room : 0, s->len_k);

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
                least(ATTN_GRAD_QUERIES, s->len_q - i0), NULL, rows.g + i0 * padded, rows.dq + i0 * padded, rows.shift + i0,
                rows.delta + i0
            };
            note_status(job, feature_rows(job, mine, part, head, i0, job->scale));
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
        if (job->feat_dim) note_status(job, feature_rows(job, mine, rows, head, i0, 1.0f));
        for (size_t i = 0; i < rows.rows && job->dq.data; i++)
            memcpy(row_out(job->dq, b, h, i0 + i), rows.dq + i * padded, d * sizeof(float));
    }
}

/* A shared gradient: one (batch, head) of the view is the sum of those that map to it,
 * in order. Task: one row. */
struct share_job { struct attn_in from; struct attn_out to; size_t batch, heads, len, dim; bool over_batch, over_heads; };

static void share_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct share_job *job = context;
    const size_t j = task % job->len, at = task / job->len, heads = job->over_heads ? 1 : job->heads;
    const size_t b0 = at / heads, h0 = at % heads;
    float *to = row_out(job->to, b0, h0, j);
    bool first = true;
    for (size_t b = b0; b < (job->over_batch ? job->batch : b0 + 1); b++)
        for (size_t h = h0; h < (job->over_heads ? job->heads : h0 + 1); h++) {
            const float *from = row_in(job->from, b, h, j);
            if (first) memcpy(to, from, job->dim * sizeof *to);
            else for (size_t c = 0; c < job->dim; c++) to[c] += from[c];
            first = false;
        }
}

static void share(const struct attn_shape *s, const struct key_grad *g, int num_threads)
{
    if (!g->shared || !g->len) return;
    struct share_job job = { as_input(g->to), g->view, s->batch, s->kv_heads, g->len, s->head_dim,
                             s->batch > 1 && !g->view.batch, s->kv_heads > 1 && !g->view.head };
    parallel_for((job.over_batch ? 1 : s->batch) * (job.over_heads ? 1 : s->kv_heads) * g->len, num_threads,
                 share_task, &job);
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
                        const float *from = chunks + ((b * s->heads + h) * job->plan.row_chunks + chunk) * slot + row * stride;
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
    job->kernels = kernels_current();
    struct arena arena = { NULL, 0 };
    lay_out_backward(job, num_threads, &arena);
    void *owned;
    const int status = workspace_open(arena.used + ATTN_ALIGN, work, work_bytes, &arena, &owned);
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
        parallel_for(s->batch * job->summary->heads * ceil_div(job->feat_dim, SUMMARY_RUN), num_threads, summary_task, job);
    free(owned);
    return atomic_load(&job->status);
}

static size_t backward_bytes(struct backward_job *job, int num_threads)
{
    job->plan = plan_backward(job->shape, job->prefix_len);
    struct arena arena = { NULL, 0 };
    lay_out_backward(job, num_threads, &arena);
    return arena.used + ATTN_ALIGN;
}

size_t attn_exact_backward_workspace(const struct attn_shape *shape, size_t prefix_len,
                                     const struct attn_exact_grads *grads, int num_threads)
{
    if (shape_status(shape) || !grads || num_threads < 1) return 0;
    struct backward_job job = { .shape = shape, .prefix_len = prefix_len, .dk.view = grads->k, .dv.view = grads->v,
                                .dpk.view = grads->prefix_k, .dpv.view = grads->prefix_v };
    return backward_bytes(&job, num_threads);
}

int attn_exact_backward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                        struct attn_in v, const struct attn_prefix *prefix, struct attn_in out, const attn_row *rows,
                        struct attn_in d_out, const struct attn_exact_grads *grads, void *work, size_t work_bytes,
                        int num_threads)
{
    int status = call_status(shape, scale, q, k, v, out.data, num_threads);
    if (!status && (!rows || !d_out.data || !grads)) status = GSL_EINVAL;
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
    if (shape_status(shape) || summary_status(shape, summary) || !grads || num_threads < 1) return 0;
    struct backward_job job = { .shape = shape, .summary = summary, .feat_dim = feature_dim(summary->map),
                                .elu1 = is_elu1(summary), .dk.view = grads->k, .dv.view = grads->v };
    return backward_bytes(&job, num_threads);
}

int attn_ntk_backward(const struct attn_shape *shape, float scale, struct attn_in q, struct attn_in k,
                      struct attn_in v, const struct attn_summary *summary, struct attn_in out, const attn_row *rows,
                      struct attn_in d_out, const struct attn_ntk_grads *grads, void *work, size_t work_bytes,
                      int num_threads)
{
    int status = call_status(shape, scale, q, k, v, out.data, num_threads);
    if (!status && (!rows || !d_out.data || !grads)) status = GSL_EINVAL;
    if (!status) status = summary_status(shape, summary);
    if (status) return status;
    struct backward_job job = {
        .shape = shape, .scale = scale, .scale2 = (float)((double)scale * LOG2E), .q = q, .k = k, .v = v, .out = out,
        .d_out = d_out, .rows = rows, .summary = summary, .feat_dim = feature_dim(summary->map),
        .elu1 = is_elu1(summary), .dq = grads->q, .dk.view = grads->k, .dv.view = grads->v, .dZ = grads->Z,
        .dkvec = grads->kvec
    };
    return backward_run(&job, work, work_bytes, num_threads);
}
