/* Attention with a summary in double, linear and beside softmax: the calls of attention_f64.h that take one. */
#include "prefix_ntk/attention_f64.h"

#include <gsl/gsl_errno.h>
#include <stdlib.h>

#include "attention/linear_parts.h"

int attn_linear_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                     const struct attn_summary_f64 *summary, struct attn_out out, struct attn_in d_out,
                     const struct attn_grads_f64 *grads, int num_threads, struct attn_failure *failure)
{
    struct linear_job job = { .q = q, .k = k, .v = v, .out = out, .d_out = d_out };
    const struct attn_ntk_grads narrow = grads ? (struct attn_ntk_grads){ .q = grads->q, .k = grads->k, .v = grads->v }
                                               : (struct attn_ntk_grads){ 0 };
    const int status = linear_set_up_f64(&job, shape, summary);
    if (status) return status;
    if (attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads)) return GSL_EINVAL;
    if (grads && (!d_out.data || !grads->q.data || (shape->len_k && (!grads->k.data || !grads->v.data))))
        return GSL_EINVAL;
    if (grads) {
        job.grads = &narrow;
        job.wide_dZk = grads->dZk;
    }
    return linear_run(&job, NULL, 0, num_threads, failure);
}

int attn_ntk_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                  const struct attn_summary_f64 *summary, struct attn_out out, struct attn_in d_out,
                  const struct attn_grads_f64 *grads, int num_threads, struct attn_failure *failure)
{
    struct linear_job job = { .q = q, .k = k, .v = v, .out = out, .d_out = d_out };
    const struct attn_ntk_grads feature_part = { .q = grads ? grads->q : (struct attn_out){ 0 } };
    struct attn_dense dense;
    attn_row *rows = NULL;
    int status = linear_set_up_f64(&job, shape, summary);
    if (status) return status;
    if (attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads)) return GSL_EINVAL;
    if (grads && (!d_out.data || !grads->q.data || (shape->len_k && (!grads->k.data || !grads->v.data))))
        return GSL_EINVAL;
    if ((status = attn_dense_alloc(shape, &dense))) return status;
    status = attn_dense_forward(shape, q, k, v, NULL, &dense, num_threads);
    if (!status && grads) {
        rows = malloc(shape->batch * shape->heads * shape->len_q * sizeof *rows);
        status = rows ? GSL_SUCCESS : GSL_ENOMEM;
        job.grads = &feature_part;
        job.wide_dZk = grads->dZk;
    }
    job.dense = &dense;
    job.rows_out = rows;
    if (!status) status = linear_run(&job, NULL, 0, num_threads, failure);
    if (grads && (!status || (status == GSL_EDOM && rows))) {
        const int own = attn_dense_backward(shape, q, k, v, out, (const attn_row *)rows, d_out, grads->q, grads->k,
                                            grads->v, num_threads);
        status = own ? own : status;
    }
    attn_dense_free(&dense);
    free(rows);
    return status;
}

size_t attn_summary_f64_bytes(const struct attn_shape *shape, const struct attn_summary_f64 *summary, int backward,
                       int num_threads)
{
    struct linear_job job = { 0 };
    if (linear_set_up_f64(&job, shape, summary)) return 0;
    return linear_bytes(&job, backward != 0, num_threads) + attn_exact_f64_bytes(shape, backward);
}
