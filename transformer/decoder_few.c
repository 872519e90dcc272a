/* One query per head against many keys: a step of decoding. The work is to read keys and values once, so heads and
 * stretches of keys are the tasks. */
#include <math.h>
#include <string.h>

#include "attention/kernels.h"
#include "common/parallel.h"
#include "transformer/decoder_internal.h"

static const double LOG2E = 1.4426950408889634074;

/* Keys of a task; and queries that share keys for whom dot products cost less than packing. */
enum { KEYS_TASK = 1024, MOST_DOTS = 4 };

static size_t num_blocks(size_t len) { return (len + KEYS_TASK - 1) / KEYS_TASK; }
static size_t num_threads_used(int num_threads) { return num_threads < 256 ? (size_t)num_threads : 256; }

struct job {
    const struct decoder_config *config;
    const struct decoder_keys *keys;
    const float *q;
    ptrdiff_t q_head;
    float *partial;                 /* (tasks, group, dim + 2): values, shift and mass */
    float *scratch;                 /* attn_decode_rows_scratch for each thread */
};

/* Which head a task belongs to, and its first key. */
static size_t head_of(const struct job *job, size_t task, size_t *first)
{
    size_t g = 0;
    for (; task >= num_blocks(job->keys[g].len); g++) task -= num_blocks(job->keys[g].len);
    *first = task * KEYS_TASK;
    return g;
}

static void attend_task(void *context, size_t task, int thread)
{
    const struct job *job = context;
    const struct decoder_config *c = job->config;
    const size_t dim = c->head_dim, group = c->num_heads / c->kv_heads;
    size_t first;
    const size_t g = head_of(job, task, &first);
    const struct decoder_keys *keys = &job->keys[g];
    const size_t n = keys->len - first < KEYS_TASK ? keys->len - first : KEYS_TASK;
    for (size_t at = 0; at < group; at += ATTN_FEW_ROWS) {
        float rows[ATTN_FEW_ROWS][2], *values = job->partial + (task * group + at) * (dim + 2);
        struct attn_decode_rows t = {
            .rows = group - at < ATTN_FEW_ROWS ? group - at : ATTN_FEW_ROWS, .head_dim = dim,
            .scale2 = (float)(LOG2E / sqrt((double)dim)),
            .input = { .len = n, .k = keys->K + first * dim, .v = keys->V + first * dim,
                       .k_row = (ptrdiff_t)dim, .v_row = (ptrdiff_t)dim },
            .dots = group <= MOST_DOTS && dim % 16 == 0, .partial = 1, .stats = rows,
            .scratch = job->scratch + (size_t)thread * attn_decode_rows_scratch(dim)
        };
        for (size_t h = 0; h < t.rows; h++) {
            t.q[h] = job->q + (ptrdiff_t)(g * group + at + h) * job->q_head;
            t.out[h] = values + h * (dim + 2);
        }
        attn_kernels_current()->decode_rows(&t);
        for (size_t h = 0; h < t.rows; h++) memcpy(values + h * (dim + 2) + dim, rows[h], sizeof rows[h]);
    }
}

static size_t partial_floats(const struct decoder_config *c, size_t len)
{
    return c->kv_heads * num_blocks(len) * (c->num_heads / c->kv_heads) * (c->head_dim + 2);
}

size_t decoder_few_floats(const struct decoder_config *c, size_t len, int num_threads)
{
    return partial_floats(c, len) + num_threads_used(num_threads) * attn_decode_rows_scratch(c->head_dim);
}

void decoder_few_merge(const struct decoder_config *c, const struct decoder_keys *keys, const float *q,
                       ptrdiff_t q_head,
                       struct attn_out values, attn_row *rows, float *work, int num_threads)
{
    const size_t dim = c->head_dim, group = c->num_heads / c->kv_heads;
    const size_t scratch = num_threads_used(num_threads) * attn_decode_rows_scratch(dim);
    struct job job = { c, keys, q, q_head, work + scratch, work };
    size_t tasks = 0;
    for (size_t g = 0; g < c->kv_heads; g++) tasks += num_blocks(keys[g].len);
    parallel_for(tasks, num_threads, attend_task, &job);
    const struct attn_shape one = { 1, 1, 1, 1, 0, dim, 0, NULL };
    const float *from = job.partial;
    for (size_t g = 0; g < c->kv_heads; g++)
        for (size_t block = 0; block < num_blocks(keys[g].len); block++)
            for (size_t h = 0; h < group; h++, from += dim + 2) {
                const ptrdiff_t head = (ptrdiff_t)(g * group + h);
                const struct attn_out into = { values.data + head * values.head, 0, 0, values.row };
                const attn_row row = { from[dim], from[dim + 1] };
                attn_partial_merge(&one, into, rows + head, attn_dense_in(from, 1, 1, dim), &row);
            }
}

void decoder_few_start(const struct decoder_config *c, struct attn_out values, attn_row *rows)
{
    for (size_t h = 0; h < c->num_heads; h++) {
        memset(values.data + (ptrdiff_t)h * values.head, 0, c->head_dim * sizeof *values.data);
        rows[h][0] = -INFINITY;
        rows[h][1] = 0.0f;
    }
}
