/* One query per head against many keys: a step of decoding. The work is to read keys and values once, so heads and
 * stretches of keys are the tasks, and products are those of a matrix and a vector. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "common/parallel.h"
#include "transformer/decoder_internal.h"
#include "transformer/ops.h"

static const double LOG2E = 1.4426950408889634074;

/* Keys of a task: their values lie in the second-level cache while the queries of the group take turns. */
enum { KEYS_TASK = 1024 };

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
    float s[KEYS_TASK];
    (void)thread;
    for (size_t h = 0; h < group; h++) {
        const float *q = job->q + (ptrdiff_t)(g * group + h) * job->q_head;
        float *values = job->partial + (task * group + h) * (dim + 2), top = -INFINITY;
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)n, (blasint)dim, scale, keys->K + first * dim, (blasint)dim,
                    q,
                    1, 0.0f, s, 1);
        for (size_t j = 0; j < n; j++)
            if (!(s[j] <= top)) top = s[j];
        const float mass = ops_current()->exp_row(n, top, s);
        /* Shifts are integers in base 2 (attn_partial_merge). */
        const double exponent = (double)top * LOG2E, shift = ceil(exponent);
        const float factor = (float)exp2(exponent - shift);
        cblas_sgemv(CblasRowMajor, CblasTrans, (blasint)n, (blasint)dim, factor, keys->V + first * dim, (blasint)dim,
                    s, 1,
                    0.0f, values, 1);
        values[dim] = (float)shift;
        values[dim + 1] = factor * mass;
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
