/* Linear attention in float32: the calls of linear.h. */
#include "prefix_ntk/linear.h"

#include <gsl/gsl_errno.h>

#include "attention/linear_parts.h"

static size_t workspace(const struct attn_shape *shape, const struct attn_summary *summary, int num_threads,
                        bool backward)
{
    struct linear_job job = { 0 };
    return num_threads < 1 || linear_set_up(&job, shape, summary) ? 0 : linear_bytes(&job, backward, num_threads);
}

size_t attn_linear_forward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                     int num_threads)
{
    return workspace(shape, summary, num_threads, false);
}

size_t attn_linear_backward_workspace(const struct attn_shape *shape, const struct attn_summary *summary,
                                      int num_threads)
{
    return workspace(shape, summary, num_threads, true);
}

int attn_linear_forward(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                        const struct attn_summary *summary, struct attn_out out,
                        void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    struct linear_job job = { .q = q, .k = k, .v = v, .out = out };
    const int status = linear_set_up(&job, shape, summary);
    if (status) return status;
    if (attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads)) return GSL_EINVAL;
    return linear_run(&job, work, work_bytes, num_threads, failure);
}

int attn_linear_backward(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                         const struct attn_summary *summary, struct attn_in d_out,
                         const struct attn_ntk_grads *grads,
                         void *work, size_t work_bytes, int num_threads)
{
    struct linear_job job = { .q = q, .k = k, .v = v, .d_out = d_out, .grads = grads };
    const int status = linear_set_up(&job, shape, summary);
    if (status) return status;
    if (!grads || attn_call_status(shape, 0, 0, q, k, v, d_out.data, num_threads)) return GSL_EINVAL;
    if (is_shared(shape, shape->heads, grads->q) || is_shared(shape, shape->kv_heads, grads->k) ||
        is_shared(shape, shape->kv_heads, grads->v))
        return GSL_EINVAL;
    return linear_run(&job, work, work_bytes, num_threads, NULL);
}
