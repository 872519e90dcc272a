/* One query per head against many keys: a step of decoding. The work is to read keys and values once, so heads and
 * stretches of keys are the tasks. */
#include <math.h>
#include <string.h>

#include "common/parallel.h"
#include "transformer/decoder_internal.h"
#include "transformer/ops.h"

static const double LOG2E = 1.4426950408889634074;

/* Keys of a task, and queries of a group that take turns at each stretch of them. */
enum { KEYS_TASK = 1024, MOST_QUERIES = 8 };

static size_t num_blocks(size_t len) { return (len + KEYS_TASK - 1) / KEYS_TASK; }

struct job {
    const struct decoder_config *config;
    const struct decoder_keys *keys;
    const float *q;
    ptrdiff_t q_head;
    float *partial;                 /* (tasks, group, dim + 2): values, shift and mass */
};

/* Which head a task belongs to, and its first key. */
static size_t head_of(const struct job *job, size_t task, size_t *first)
{
    size_t g = 0;
    for (; task >= num_blocks(job->keys[g].len); g++) task -= num_blocks(job->keys[g].len);
    *first = task * KEYS_TASK;
    return g;
}

/* Scores become weights relative to 2^row[0], an integer power (attn_partial_merge); row[1] is their sum. */
static void weigh(const struct ops_kernels *k, float *s, size_t n, float *row)
{
    float top = -INFINITY;
    for (size_t j = 0; j < n; j++)
        if (!(s[j] <= top)) top = s[j];
    const float mass = k->exp_row(n, top, s);
    const double exponent = (double)top * LOG2E, shift = ceil(exponent);
    const float factor = (float)exp2(exponent - shift);
    for (size_t j = 0; j < n; j++) s[j] *= factor;
    row[0] = (float)shift;
    row[1] = factor * mass;
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
    const float scale = 1.0f / sqrtf((float)dim);
    const struct ops_kernels *k = ops_current();
    float s[KEYS_TASK * MOST_QUERIES];
    (void)thread;
    for (size_t at = 0; at < group; at += MOST_QUERIES) {
        const size_t num = group - at < MOST_QUERIES ? group - at : MOST_QUERIES;
        float *values = job->partial + (task * group + at) * (dim + 2);
        k->few_scores(num, n, dim, scale, job->q + (ptrdiff_t)(g * group + at) * job->q_head, (size_t)job->q_head,
                      keys->K + first * dim, s, KEYS_TASK);
        for (size_t h = 0; h < num; h++) weigh(k, s + h * KEYS_TASK, n, values + h * (dim + 2) + dim);
        k->few_values(num, n, dim, s, KEYS_TASK, keys->V + first * dim, values, dim + 2);
    }
}

size_t decoder_few_floats(const struct decoder_config *c, size_t len)
{
    return c->kv_heads * num_blocks(len) * (c->num_heads / c->kv_heads) * (c->head_dim + 2);
}

void decoder_few_merge(const struct decoder_config *c, const struct decoder_keys *keys, const float *q,
                       ptrdiff_t q_head,
                       struct attn_out values, attn_row *rows, float *work, int num_threads)
{
    const size_t dim = c->head_dim, group = c->num_heads / c->kv_heads;
    struct job job = { c, keys, q, q_head, work };
    size_t tasks = 0;
    for (size_t g = 0; g < c->kv_heads; g++) tasks += num_blocks(keys[g].len);
    parallel_for(tasks, num_threads, attend_task, &job);
    const struct attn_shape one = { 1, 1, 1, 1, 0, dim, 0, NULL };
    const float *from = work;
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
