/* N/D of every query, chunk by chunk. */
#include "attention/linear_parts.h"

#include <gsl/gsl_errno.h>
#include <math.h>

/* N, D of the loaded queries in units of e^{unit[i]}. Keys [done, end) are loaded
 * when end > done. */
static void chunk_sums(const struct linear_head *head, size_t done, size_t end, double *unit)
{
    const struct linear_scratch *t = head->t;
    const size_t r = head->job->map->feat_dim, d = head->job->map->dim, cols = d + 1;
    linear_gemm(0, t->q.count, cols, r, t->q.phi, r, t->state.Zk, cols, 0.0, t->num, cols);
    if (end > done) linear_make_pairs(head);
    for (size_t i = 0; i < t->q.count; i++) {
        const size_t seen = end > done ? linear_visible(head, t->q.begin + i) - done : 0;
        double most = t->state.scale, *num = t->num + i * cols;
        for (size_t j = 0; j < seen; j++) most = fmax(most, t->k.log_scale[j]);
        unit[i] = most;
        if (most > t->state.scale) {
            const double factor = exp(t->state.scale - most);
            for (size_t c = 0; c < cols; c++) num[c] *= factor;
        }
        for (size_t j = 0; j < seen; j++) {
            const double scale = exp(t->k.log_scale[j] - most), weight = scale * t->pair[i * LINEAR_CHUNK + j];
            const double *value = t->k.values + j * cols;
            for (size_t c = 0; c < d; c++) num[c] += weight * value[c];
            num[d] += scale * t->pair_mass[i * LINEAR_CHUNK + j];
        }
    }
}

/* Beside true masses the queries' own scales count: takes them in, and out again. */
static void add_dense(const struct linear_head *head, double *num, double log_scale, double *unit, size_t at)
{
    const struct linear_job *job = head->job;
    const size_t d = job->map->dim;
    *unit += log_scale;
    attn_dense_add(num, d, unit, job->dense, at);
    if (!attn_sums_finite(num, d)) num[d] = NAN;
    if (job->rows_out) attn_dense_row(*unit, num[d], job->rows_out[at]);
    *unit -= log_scale;
}

/* The gradients of [N, D] of query i, in place of what t->dnum holds; 0 for a row that is not `good`. */
static void sum_gradients(const struct linear_head *head, size_t i, const double *num, bool good)
{
    const size_t d = head->job->map->dim;
    const float *g = row_in(head->job->d_out, head->b, head->h, i);
    double *dnum = head->t->dnum + i * (d + 1), along = 0.0;
    for (size_t c = 0; c < d; c++) {
        dnum[c] = good ? g[c] / num[d] : 0.0;
        along += good ? dnum[c] * num[c] : 0.0;
    }
    dnum[d] = good ? -along / num[d] : 0.0;
}

/* The loaded chunk's rows from their [N, D]. */
static void finish_chunk(const struct linear_head *head, double *unit, bool gradients)
{
    struct linear_job *job = head->job;
    struct linear_scratch *t = head->t;
    const size_t d = job->map->dim, cols = d + 1;
    for (size_t i = 0; i < t->q.count; i++) {
        const size_t row = t->q.begin + i, at = (head->b * job->shape->heads + head->h) * job->shape->len_q + row;
        double *num = t->num + i * cols;
        if (t->q.bad[i]) num[d] = NAN;
        if (job->dense) add_dense(head, num, t->q.log_scale[i], &unit[i], at);
        const bool good = num[d] > 0.0 && isfinite(num[d]);
        if (!good) note_first(&job->first_bad, at);
        if (gradients) {
            sum_gradients(head, row, num, good);
            if (!good) unit[i] = HUGE_VAL;                    /* weight 0 wherever e^{-M_i} is taken */
        }
        if (job->out.data) {
            float *out = row_out(job->out, head->b, head->h, row);
            for (size_t c = 0; c < d; c++) out[c] = good ? (float)(num[c] / num[d]) : 0.0f;
        }
    }
}

int linear_forward_head(const struct linear_head *head, bool gradients)
{
    const size_t len_q = head->job->shape->len_q;
    size_t done = 0;
    linear_start_state(head);
    for (size_t i0 = 0; i0 < len_q; i0 += LINEAR_CHUNK) {
        const size_t count = least(LINEAR_CHUNK, len_q - i0);
        const size_t all = linear_visible(head, i0), some = linear_visible(head, i0 + count - 1);
        double own_unit[LINEAR_CHUNK], *unit = gradients ? head->t->unit + i0 : own_unit;
        int status = linear_add_keys(head, done, all, true);
        done = all;
        if (!status && some > all) status = linear_load_keys(head, all, some - all, true);
        if (!status) status = linear_load_queries(head, i0, count);
        if (status) return status;
        chunk_sums(head, all, some, unit);
        finish_chunk(head, unit, gradients);
    }
    return GSL_SUCCESS;
}
