#include "attention/call.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/parallel.h"

/* Elements of any array of a call. Sums of a few arrays, times the threads, the chunks and the
 * bytes of a number, then stay within a size_t. */
static const size_t MAX_ELEMENTS = (size_t)1 << 44;
enum { MAX_DIM = 1 << 24 };

static bool fits(size_t a, size_t b, size_t c, size_t d)
{
    size_t n;
    return !__builtin_mul_overflow(a, b, &n) && !__builtin_mul_overflow(n, c, &n) &&
           !__builtin_mul_overflow(n, d, &n) &&
           n <= MAX_ELEMENTS;
}

int attn_shape_status(const struct attn_shape *s, size_t prefix_len, size_t feat_dim)
{
    if (!s || !s->batch || !s->heads || !s->kv_heads || s->heads % s->kv_heads || !s->len_q || !s->head_dim)
        return GSL_EINVAL;
    for (size_t b = 0; s->key_lengths && b < s->batch; b++)
        if (s->key_lengths[b] > s->len_k) return GSL_EINVAL;
    size_t keys;
    if (s->head_dim > MAX_DIM || __builtin_add_overflow(s->len_k, prefix_len, &keys)) return GSL_EINVAL;
    /* Rows are padded to 16 numbers, keys to a tile of 128. */
    if (!fits(s->batch, s->heads, s->len_q, s->head_dim + 15) || keys > MAX_ELEMENTS ||
        !fits(s->batch, s->heads, keys + 255, s->head_dim + 15) ||
        !fits(s->batch, s->heads, feat_dim + 63, s->head_dim + 15))
        return GSL_EINVAL;
    return GSL_SUCCESS;
}

int attn_call_status(const struct attn_shape *s, size_t prefix_len, size_t feat_dim, struct attn_in q, struct attn_in k,
                     struct attn_in v, const void *out, int num_threads)
{
    if (attn_shape_status(s, prefix_len, feat_dim) || !q.data || !out || num_threads < 1) return GSL_EINVAL;
    return s->len_k && (!k.data || !v.data) ? GSL_EINVAL : GSL_SUCCESS;
}

int attn_map_status(const struct attn_shape *s, const feature_map *map)
{
    if (feature_head_dim(map) != s->head_dim) return GSL_EBADLEN;
    return feature_is_explicit(map) ? GSL_SUCCESS : GSL_EUNSUP;
}

int attn_summary_status(const struct attn_shape *s, const struct attn_summary *z)
{
    if (!z || !z->map || !z->Z.data || !z->kvec.data || (z->heads != s->heads && z->heads != s->kv_heads))
        return GSL_EINVAL;
    const int status = attn_map_status(s, z->map);
    return status ? status : attn_shape_status(s, 0, feature_dim(z->map));
}

int workspace_open(size_t bytes, void *work, size_t work_bytes, struct arena *arena, void **owned)
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

void note_first(atomic_size_t *first, size_t row)
{
    size_t seen = atomic_load(first);
    while (row < seen && !atomic_compare_exchange_weak(first, &seen, row)) continue;
}

int name_failure(const struct attn_shape *s, size_t row, struct attn_failure *failure)
{
    if (row == SIZE_MAX) return GSL_SUCCESS;
    if (failure)
        *failure = (struct attn_failure){ row / s->len_q / s->heads, row / s->len_q % s->heads, row % s->len_q };
    return GSL_EDOM;
}

void note_status(atomic_int *largest, int status)
{
    int seen = atomic_load(largest);
    while (status > seen && !atomic_compare_exchange_weak(largest, &seen, status)) continue;
}

/* ---- shared gradients ------------------------------------------------------------ */

struct share_job {
    struct attn_in from;
    struct attn_out to;
    size_t batch, heads, len, dim;
    bool over_batch, over_heads;
};

/* Task: one row of the view. */
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

void sum_shared(const struct attn_shape *s, size_t heads, size_t len, size_t dim, struct attn_in from,
                struct attn_out to, int num_threads)
{
    struct share_job job = { from, to, s->batch, heads, len, dim, s->batch > 1 && !to.batch, heads > 1 && !to.head };
    parallel_for((job.over_batch ? 1 : s->batch) * (job.over_heads ? 1 : heads) * len, num_threads, share_task, &job);
}

void sum_shared_f64(const struct attn_shape *s, size_t heads, size_t len, size_t dim, const double *from, size_t stride,
                    struct attn_out to)
{
    if (!to.data) return;
    for (size_t b = 0; b < (to.batch ? s->batch : 1); b++)
        for (size_t h = 0; h < (to.head ? heads : 1); h++)
            for (size_t at = 0; at < len * dim; at++) {
                const size_t j = at / dim, c = at % dim;
                double sum = 0.0;
                for (size_t sb = b; sb < (to.batch ? b + 1 : s->batch); sb++)
                    for (size_t sh = h; sh < (to.head ? h + 1 : heads); sh++)
                        sum += from[((sb * heads + sh) * len + j) * stride + c];
                row_out(to, b, h, j)[c] = (float)sum;
            }
}
