/* Gradients of one head: of its queries, of its keys and values, of its summary. */
#include "attention/linear_parts.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

/* Gradients out of range are written and told of at the end; the others are right. */
static int go_on_after(struct linear_job *job, int status)
{
    if (status != GSL_EOVRFLW) return status;
    note_status(&job->status, status);
    return GSL_SUCCESS;
}

/* ---- queries ---------------------------------------------------------------------- */

/* Adds to dphi of the loaded queries, i0 on, what the loaded keys give, `done` keys being in the state: row i sees
 * linear_visible(i) - done of them. */
static void query_pairs(const struct linear_head *head, size_t i0, size_t done)
{
    const struct linear_job *job = head->job;
    const struct linear_scratch *t = head->t;
    const size_t d = job->map->dim, cols = d + 1, r = job->map->feat_dim, count = t->q.count, keys = t->k.count;
    for (size_t i = 0; i < count; i++) {
        const size_t seen = linear_visible(head, i0 + i) - done;
        const double *g = t->dnum + (i0 + i) * cols;
        for (size_t j = 0; j < keys; j++) {
            const double scale = j < seen ? exp(t->k.log_scale[j] - t->unit[i0 + i]) : 0.0;
            const double *value = t->k.values + j * cols;
            double along = 0.0;
            for (size_t c = 0; c < d; c++) along += g[c] * value[c];
            if (job->differ) t->pair_mass[i * LINEAR_CHUNK + j] = scale * g[d];
            else along += g[d];
            t->pair[i * LINEAR_CHUNK + j] = scale * along;
        }
    }
    linear_gemm(0, count, r, keys, t->pair, LINEAR_CHUNK, t->k.phi, r, 1.0, t->dphi, r);
    if (job->differ) linear_gemm(0, count, r, keys, t->pair_mass, LINEAR_CHUNK, t->k.mass, r, 1.0, t->dphi, r);
}

/* dphi_i = dnum_i Zk^T over all that query i sees; dQ = J^T dphi. The state runs through the keys again. */
int linear_query_gradients(const struct linear_head *head)
{
    struct linear_job *job = head->job;
    struct linear_scratch *t = head->t;
    const feature_map *map = job->map;
    const size_t len_q = job->shape->len_q, d = map->dim, cols = d + 1, r = map->feat_dim;
    size_t done = 0;
    linear_start_state(head);
    for (size_t i0 = 0; i0 < len_q; i0 += LINEAR_CHUNK) {
        const size_t count = least(LINEAR_CHUNK, len_q - i0);
        const size_t all = linear_visible(head, i0), some = linear_visible(head, i0 + count - 1);
        const double *unit = t->unit + i0, *dnum = t->dnum + i0 * cols;
        int status = linear_add_keys(head, done, all, false);
        done = all;
        if (!status && some > all) status = linear_load_keys(head, all, some - all, false);
        if (!status) status = linear_load_queries(head, i0, count);
        if (status) return status;
        for (size_t i = 0; i < count; i++) {
            const double factor = t->state.scale > -HUGE_VAL ? exp(t->state.scale - unit[i]) : 0.0;
            for (size_t c = 0; c < cols; c++) t->num[i * cols + c] = factor * dnum[i * cols + c];
        }
        linear_gemm(1, count, r, cols, t->num, cols, t->state.Zk, cols, 0.0, t->dphi, r);
        if (some > all) query_pairs(head, i0, all);
        for (size_t i = 0; i < count; i++)
            if (unit[i] == HUGE_VAL) memset(t->dphi + i * r, 0, r * sizeof(double));
        status = feature_backward_f64(map, FEATURE_QUERY, count, t->q.x, d, t->dphi, r, t->q.log_scale, t->dx, d, 0, 1,
                                      t->feature);
        if ((status = go_on_after(job, status))) return status;
        for (size_t i = 0; i < count; i++) {
            float *dq = row_out(job->grads->q, head->b, head->h, i0 + i);
            for (size_t c = 0; c < d; c++) dq[c] = (float)t->dx[i * d + c];
        }
    }
    return GSL_SUCCESS;
}

/* ---- keys and values ----------------------------------------------------------------- */

/* The first query that sees key j; len_q when none does. */
static size_t first_query(const struct linear_head *head, size_t j)
{
    const struct attn_shape *s = head->job->shape;
    if (!s->causal) return 0;
    const size_t ahead = j + s->len_q;
    return ahead > s->len_k ? least(ahead - s->len_k, s->len_q) : 0;
}

/* Adds queries [from, to), last chunk first, to the state R = sum_i e^{-M_i} phi(q_i) dnum_i. */
static int add_queries(const struct linear_head *head, size_t from, size_t to)
{
    struct linear_scratch *t = head->t;
    const size_t cols = head->job->map->dim + 1;
    while (to > from) {
        const size_t count = least(LINEAR_CHUNK, to - from), begin = to - count;
        const int status = linear_load_queries(head, begin, count);
        if (status) return status;
        double weight[LINEAR_CHUNK];
        for (size_t i = 0; i < count; i++) weight[i] = -t->unit[begin + i];
        memcpy(t->q.values, t->dnum + begin * cols, count * cols * sizeof(double));
        linear_state_add(&t->state, count, t->q.phi, NULL, t->q.values, weight);
        to = begin;
    }
    return GSL_SUCCESS;
}

/* [dv, dmass] of the loaded keys and their dphi from the queries that see the whole chunk, which are in the state. */
static void key_sums(const struct linear_head *head)
{
    const struct linear_scratch *t = head->t;
    const struct linear_job *job = head->job;
    const size_t d = job->map->dim, cols = d + 1, r = job->map->feat_dim, count = t->k.count;
    linear_gemm(0, count, d, r, t->k.phi, r, t->state.Zk, cols, 0.0, t->num, cols);
    linear_gemm(1, count, r, job->differ ? d : cols, t->k.values, cols, t->state.Zk, cols, 0.0, t->dphi, r);
    for (size_t j = 0; j < count; j++) {
        const double factor = t->state.scale > -HUGE_VAL ? exp(t->k.log_scale[j] + t->state.scale) : 0.0;
        for (size_t c = 0; c < d; c++) t->num[j * cols + c] *= factor;
        for (size_t a = 0; a < r; a++) {
            t->dphi[j * r + a] *= factor;
            if (job->differ) t->dmass[j * r + a] = factor * t->state.Zk[a * cols + d];
        }
    }
}

/* Adds what loaded query i gives to the gradients of loaded key j. */
static void add_pair(const struct linear_head *head, size_t i, size_t j)
{
    const struct linear_scratch *t = head->t;
    const bool differ = head->job->differ;
    const size_t d = head->job->map->dim, cols = d + 1, r = head->job->map->feat_dim, row = t->q.begin + i;
    const double *g = t->dnum + row * cols, *value = t->k.values + j * cols;
    const double scale = exp(t->k.log_scale[j] - t->unit[row]), weight = scale * t->pair[i * LINEAR_CHUNK + j];
    double along = 0.0;
    for (size_t c = 0; c < d; c++) {
        t->num[j * cols + c] += weight * g[c];
        along += g[c] * value[c];
    }
    along = scale * (differ ? along : along + g[d]);
    cblas_daxpy((blasint)r, along, t->q.phi + i * r, 1, t->dphi + j * r, 1);
    if (differ) cblas_daxpy((blasint)r, scale * g[d], t->q.phi + i * r, 1, t->dmass + j * r, 1);
}

/* The same of all the loaded queries that see only part of the chunk. */
static void add_pairs(const struct linear_head *head)
{
    const struct linear_scratch *t = head->t;
    linear_make_pairs(head);
    for (size_t i = 0; i < t->q.count; i++) {
        const size_t seen = linear_visible(head, t->q.begin + i);
        for (size_t j = 0; j < t->k.count && t->k.begin + j < seen; j++) add_pair(head, i, j);
    }
}

/* dK = J^T dphi of the loaded keys, and dV, to where they are wanted. */
static int write_keys(const struct linear_head *head, bool add)
{
    struct linear_job *job = head->job;
    const struct linear_scratch *t = head->t;
    const size_t d = job->map->dim, r = job->map->feat_dim, count = t->k.count;
    int status = feature_backward_f64(job->map, FEATURE_VALUE, count, t->k.x, d, t->dphi, r, t->k.log_scale,
                                      t->dx, d, 0, 1, t->feature);
    status = go_on_after(job, status);
    if (!status && job->differ)
        status = feature_backward_f64(job->map, FEATURE_MASS, count, t->k.x, d, t->dmass, r, t->k.log_scale,
                                      t->dx, d, 1, 1, t->feature);
    status = go_on_after(job, status);
    for (size_t j = 0; !status && j < count; j++) {
        const size_t row = t->k.begin + j;
        float *dk = job->grads->k.data ? row_out(job->grads->k, head->b, head->kv, row) : NULL;
        float *dv = job->grads->v.data ? row_out(job->grads->v, head->b, head->kv, row) : NULL;
        for (size_t c = 0; c < d; c++) {
            if (dk) dk[c] = (float)t->dx[j * d + c] + (add ? dk[c] : 0.0f);
            if (dv) dv[c] = (float)t->num[j * (d + 1) + c] + (add ? dv[c] : 0.0f);
        }
    }
    return status;
}

/* What the state holds once all queries are in it is the gradient of (Z, k). */
static void add_summary_gradient(const struct linear_head *head)
{
    const struct linear_job *job = head->job;
    const struct linear_scratch *t = head->t;
    const size_t size = job->map->feat_dim * (job->map->dim + 1);
    double *to = job->dZk + (head->b * job->summary_heads + head->zh) * size;
    /* The stored numbers are e^{-scale} times the true ones. */
    const size_t at = job->wide ? head->b * job->wide->batch + head->zh * job->wide->head : 0;
    const double scale = job->wide ? job->wide->log_scale[at] : 0.0;
    const double factor = t->state.scale > -HUGE_VAL && scale > -HUGE_VAL ? exp(t->state.scale + scale) : 0.0;
    for (size_t e = 0; e < size; e++) to[e] += factor * t->state.Zk[e];
}

/* dV_j = phi_j R_j, dphi(k_j) = [v_j, 1] R_j^T with R_j the sum over the queries that see key j, run through from the
 * last key to the first; what remains is d(Z, k). */
int linear_key_gradients(const struct linear_head *head, bool add)
{
    struct linear_job *job = head->job;
    const bool wanted = job->grads->k.data || job->grads->v.data;
    size_t pending = job->shape->len_q;                       /* queries before it are not in R yet */
    int status = GSL_SUCCESS;
    linear_state_clear(&head->t->state);
    for (size_t end = wanted ? head->keys : 0; end > 0 && !status;) {
        const size_t count = (end - 1) % LINEAR_CHUNK + 1, begin = end - count;
        const size_t all = first_query(head, end - 1), some = first_query(head, begin);
        status = add_queries(head, all, pending);
        if (pending > all) pending = all;
        if (!status) status = linear_load_keys(head, begin, count, false);
        if (!status && all > some) status = linear_load_queries(head, some, all - some);
        if (status) return status;
        key_sums(head);
        if (all > some) add_pairs(head);
        status = write_keys(head, add);
        end = begin;
    }
    if (status || !job->summary_heads || !(job->grads->Z.data || job->grads->kvec.data || job->wide_dZk)) return status;
    status = add_queries(head, 0, pending);
    add_summary_gradient(head);
    return status;
}
