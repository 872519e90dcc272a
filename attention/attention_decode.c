#include "attention/attention_decode.h"

#include <stdlib.h>

#include "attention/kernels.h"
#include "attention/packed_prefix.h"
#include "attention/partial.h"
#include "common/parallel.h"

enum {
    MOST_QUERIES = 8,         /* of a head */
    MOST_DOTS = 4,            /* rows that share keys: beyond, transposing the keys costs less than adding up lanes */
    MANY_KEYS = 256,          /* fewer make more rows a matter of arithmetic */
    ENOUGH_TASKS = 16,        /* keeps a few threads evenly busy */
    SPLIT_KEYS = 1024         /* smallest split of the keys */
};

static size_t shared_rows(const struct attn_shape *s) { return s->heads / s->kv_heads * s->len_q; }

bool attn_decode_fits(const struct attn_shape *s, size_t prefix_len, bool packed)
{
    const size_t keys = prefix_len + s->len_k;
    if (s->len_q > MOST_QUERIES || (shared_rows(s) > MOST_DOTS && keys < MANY_KEYS)) return false;
    /* Panels that a cache holds and no head shares are best taken in long strips. */
    return !packed || s->heads > s->kv_heads || keys >= 2 * SPLIT_KEYS;
}

bool attn_decode_dots(const struct attn_shape *s) { return shared_rows(s) <= MOST_DOTS && s->head_dim % 16 == 0; }

struct plan {
    size_t rows, chunks, chunk_rows;    /* that share keys; in turns of so many */
    size_t splits, split_keys;          /* of prefix and input keys together */
};

static struct plan plan_decode(const struct attn_shape *s, size_t prefix_len)
{
    const size_t keys = prefix_len + s->len_k, rows = shared_rows(s), chunks = ceil_div(rows, ATTN_FEW_ROWS);
    struct plan p = { rows, chunks, ceil_div(rows, chunks), 1, keys };
    const size_t tasks = s->batch * s->kv_heads * chunks;
    if (tasks >= ENOUGH_TASKS || keys < 2 * SPLIT_KEYS) return p;
    const size_t splits = least(ceil_div(ENOUGH_TASKS, tasks), keys / SPLIT_KEYS);
    p.split_keys = ceil_div(ceil_div(keys, splits), ATTN_STRIP) * ATTN_STRIP;
    p.splits = ceil_div(keys, p.split_keys);
    return p;
}

struct job {
    const struct attn_decode_call *call;
    struct plan plan;
    const struct attn_kernels *kernels;
    float **scratch;              /* by thread */
    float *values;                /* (batch kv_heads, chunks, splits, chunk_rows, head_dim); one split: none */
    attn_row *rows;               /* the same without head_dim */
};

static void lay_out(struct job *job, int num_threads, struct arena *a)
{
    const struct attn_shape *s = job->call->shape;
    const struct plan *p = &job->plan;
    const size_t n = s->batch * s->kv_heads * p->chunks * p->splits * p->chunk_rows;
    num_threads = used_threads(num_threads);
    job->scratch = arena_take(a, (size_t)num_threads * sizeof *job->scratch);
    for (int t = 0; t < num_threads; t++) {
        float *mine = arena_floats(a, attn_decode_rows_scratch(s->head_dim));
        if (a->base) job->scratch[t] = mine;
    }
    job->values = p->splits > 1 ? arena_floats(a, n * s->head_dim) : NULL;
    job->rows = arena_take(a, n * sizeof *job->rows);
}

/* Query head and query of row r of those that share keys. */
static size_t head_of(const struct attn_shape *s, size_t kv, size_t r, size_t *i)
{
    *i = r % s->len_q;
    return kv * (s->heads / s->kv_heads) + r / s->len_q;
}

static void decode_task(void *context, size_t task, int thread)
{
    const struct job *job = context;
    const struct attn_decode_call *call = job->call;
    const struct attn_shape *s = call->shape;
    const struct plan *p = &job->plan;
    /* Chunks of rows that share keys come one after the other. */
    const size_t chunk = task % p->chunks, split = task / p->chunks % p->splits, at = task / p->chunks / p->splits;
    const size_t b = at / s->kv_heads, kv = at % s->kv_heads, first = chunk * p->chunk_rows;
    const size_t m = call->prefix_len, keys = m + input_keys(s, b);
    const size_t lo = split * p->split_keys, hi = p->splits == 1 ? keys : least(keys, lo + p->split_keys);
    const size_t input_lo = lo > m ? lo - m : 0, input_hi = hi > m ? hi - m : 0;
    const size_t to = ((at * p->chunks + chunk) * p->splits + split) * p->chunk_rows;
    size_t seen[ATTN_FEW_ROWS];
    struct attn_decode_rows t = {
        .rows = least(p->chunk_rows, p->rows - first), .head_dim = s->head_dim, .scale2 = call->scale2,
        .input = plain_keys(call->k, call->v, b, kv, input_lo, input_hi),
        .dots = attn_decode_dots(s), .partial = call->partial || p->splits > 1, .stats = job->rows + to,
        .scratch = job->scratch[thread]
    };
    if (m && lo < m) t.prefix = prefix_keys(call->prefix, b, kv, lo, least(hi, m));
    for (size_t r = 0; r < t.rows; r++) {
        size_t i;
        const size_t h = head_of(s, kv, first + r, &i), sees = visible_keys(s, input_keys(s, b), i);
        t.q[r] = row_in(call->q, b, h, i);
        t.out[r] = p->splits > 1 ? job->values + (to + r) * s->head_dim : row_out(call->out, b, h, i);
        seen[r] = least(sees > input_lo ? sees - input_lo : 0, t.input.len);
    }
    if (s->causal) t.input_seen = seen;
    job->kernels->decode_rows(&t);
}

/* Merges the splits of every row, in order, and hands out what the tasks have not. The first bad row, or SIZE_MAX. */
static size_t collect(const struct job *job)
{
    const struct attn_decode_call *call = job->call;
    const struct attn_shape *s = call->shape;
    const struct plan *p = &job->plan;
    const size_t d = s->head_dim;
    size_t first_bad = SIZE_MAX;
    for (size_t at = 0; at < s->batch * s->kv_heads; at++)
        for (size_t r = 0; r < p->rows; r++) {
            const size_t from = (at * p->chunks + r / p->chunk_rows) * p->splits * p->chunk_rows + r % p->chunk_rows;
            float *row = job->rows[from];
            size_t i;
            const size_t b = at / s->kv_heads, h = head_of(s, at % s->kv_heads, r, &i);
            const size_t to = (b * s->heads + h) * s->len_q + i;
            if (p->splits > 1) {
                float *values = job->values + from * d;
                for (size_t split = 1; split < p->splits; split++) {
                    const size_t other = from + split * p->chunk_rows;
                    merge_row(values, row, job->values + other * d, job->rows[other], d);
                }
                if (!call->partial) finish_row(values, row[1], d);
                memcpy(row_out(call->out, b, h, i), values, d * sizeof *values);
            }
            if (!call->partial && !normaliser_is_good(row[1])) first_bad = least(first_bad, to);
            if (call->rows) memcpy(call->rows[to], row, sizeof(attn_row));
        }
    return first_bad;
}

size_t attn_decode_bytes(const struct attn_shape *s, size_t prefix_len, int num_threads)
{
    const struct attn_decode_call call = { .shape = s };
    struct job job = { .call = &call, .plan = plan_decode(s, prefix_len) };
    struct arena arena = { NULL, 0 };
    lay_out(&job, num_threads, &arena);
    return workspace_bytes(arena.used);
}

int attn_decode_run(const struct attn_decode_call *call, void *work, size_t work_bytes, int num_threads,
                    struct attn_failure *failure)
{
    const struct attn_shape *s = call->shape;
    struct job job = { .call = call, .plan = plan_decode(s, call->prefix_len), .kernels = attn_kernels_current() };
    struct arena arena;
    void *owned;
    const size_t bytes = attn_decode_bytes(s, call->prefix_len, num_threads);
    const int status = workspace_open(bytes, work, work_bytes, &arena, &owned);
    if (status) return status;
    lay_out(&job, num_threads, &arena);
    parallel_for(s->batch * s->kv_heads * job.plan.chunks * job.plan.splits, num_threads, decode_task, &job);
    const size_t bad = collect(&job);
    free(owned);
    return name_failure(s, bad, failure);
}
