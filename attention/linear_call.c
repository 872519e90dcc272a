/* A call: its scratch, its units of work, and the gradients of summaries that heads share. */
#include "attention/linear_parts.h"

#include <gsl/gsl_errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/parallel.h"

/* ---- scratch ------------------------------------------------------------------------ */

static void lay_out(const struct linear_job *job, bool backward, struct linear_scratch *t, struct arena *a)
{
    const size_t d = job->map->dim, r = job->map->feat_dim, cols = d + 1;
    t->state = (struct linear_state){ r, d, 0.0, arena_doubles(a, r * cols) };
    for (int side = 0; side < 2; side++) {
        struct linear_rows *rows = side ? &t->k : &t->q;
        rows->x = arena_doubles(a, LINEAR_CHUNK * d);
        rows->phi = arena_doubles(a, LINEAR_CHUNK * r);
        rows->mass = side && job->differ ? arena_doubles(a, LINEAR_CHUNK * r) : NULL;
        rows->log_scale = arena_doubles(a, LINEAR_CHUNK);
        rows->values = arena_doubles(a, LINEAR_CHUNK * cols);
    }
    t->num = arena_doubles(a, LINEAR_CHUNK * cols);
    t->pair = arena_doubles(a, LINEAR_CHUNK * LINEAR_CHUNK);
    t->pair_mass = job->differ ? arena_doubles(a, LINEAR_CHUNK * LINEAR_CHUNK) : t->pair;
    if (backward) {
        t->dphi = arena_doubles(a, LINEAR_CHUNK * r);
        t->dmass = job->differ ? arena_doubles(a, LINEAR_CHUNK * r) : NULL;
        t->dx = arena_doubles(a, LINEAR_CHUNK * d);
        t->dnum = arena_doubles(a, job->shape->len_q * cols);
        t->unit = arena_doubles(a, job->shape->len_q);
    }
    t->feature = arena_doubles(a, (feature_workspace(job->map, 1) + sizeof(double) - 1) / sizeof(double));
}

static void lay_out_all(struct linear_job *job, bool backward, int num_threads, struct arena *a)
{
    const struct attn_shape *s = job->shape;
    num_threads = used_threads(num_threads);
    job->threads = arena_take(a, (size_t)num_threads * sizeof(struct linear_scratch));
    for (int t = 0; t < num_threads; t++) {
        struct linear_scratch measured;
        lay_out(job, backward, job->threads ? &job->threads[t] : &measured, a);
    }
    const size_t gradients = s->batch * job->summary_heads * job->map->feat_dim * (s->head_dim + 1);
    job->dZk = backward ? arena_doubles(a, gradients) : NULL;
}

/* ---- units of work ------------------------------------------------------------------- */

/* All query heads of one key/value head of one batch entry. */
static void run_unit(struct linear_job *job, size_t unit, struct linear_scratch *t)
{
    const struct attn_shape *s = job->shape;
    const size_t group = s->heads / s->kv_heads;
    struct linear_head head = { .job = job, .t = t, .b = unit / s->kv_heads, .kv = unit % s->kv_heads };
    head.keys = job->dense ? 0 : s->key_lengths ? s->key_lengths[head.b] : s->len_k;
    int status = GSL_SUCCESS;
    for (size_t g = 0; g < group && !status; g++) {
        head.h = head.kv * group + g;
        head.zh = job->summary_heads ? head.h / (s->heads / job->summary_heads) : 0;
        status = linear_forward_head(&head, job->grads != NULL);
        if (!job->grads || status) continue;
        if (job->grads->q.data) status = linear_query_gradients(&head);
        if (!status) status = linear_key_gradients(&head, g > 0);
    }
    if (job->grads)                                           /* keys beyond the entry's length */
        for (size_t j = head.keys; j < s->len_k; j++) {
            if (job->grads->k.data) memset(row_out(job->grads->k, head.b, head.kv, j), 0, s->head_dim * sizeof(float));
            if (job->grads->v.data) memset(row_out(job->grads->v, head.b, head.kv, j), 0, s->head_dim * sizeof(float));
        }
    note_status(&job->status, status);
}

/* Gradients of the summaries as the caller's views share them. */
static void write_summary_gradients(const struct linear_job *job)
{
    const size_t r = job->map->feat_dim, d = job->shape->head_dim, cols = d + 1, heads = job->summary_heads;
    /* kvec is a row of feat_dim numbers: as many rows of one. */
    struct attn_out kvec = job->grads->kvec;
    kvec.row = 1;
    sum_shared_f64(job->shape, heads, r, d, job->dZk, cols, job->grads->Z);
    sum_shared_f64(job->shape, heads, r, 1, job->dZk + d, cols, kvec);
}

/* The same into the double summaries' own indexing. */
static void write_wide_gradient(const struct linear_job *job)
{
    const struct attn_summary_f64 *wide = job->wide;
    const size_t size = job->map->feat_dim * (job->map->dim + 1), heads = job->summary_heads;
    for (size_t b = 0; b < job->shape->batch; b++)
        for (size_t h = 0; h < heads; h++) {
            double *to = job->wide_dZk + (b * wide->batch + h * wide->head) * size;
            const double *from = job->dZk + (b * heads + h) * size;
            const bool first = (!b || wide->batch) && (!h || wide->head);
            for (size_t e = 0; e < size; e++) to[e] = first ? from[e] : to[e] + from[e];
        }
}

static int set_up(struct linear_job *job, const struct attn_shape *s, const feature_map *map, size_t heads)
{
    if (!map || attn_shape_status(s, 0, feature_is_explicit(map) ? map->feat_dim : 0)) return GSL_EINVAL;
    const int status = attn_map_status(s, map);
    if (status) return status;
    if (heads && heads != s->heads && heads != s->kv_heads) return GSL_EINVAL;
    job->shape = s;
    job->map = map;
    job->summary_heads = heads;
    job->differ = feature_sides_differ(map);
    job->first_bad = SIZE_MAX;
    return GSL_SUCCESS;
}

int linear_set_up(struct linear_job *job, const struct attn_shape *s, const struct attn_summary *summary)
{
    if (!summary || (summary->Z.data && (!summary->kvec.data || !summary->heads))) return GSL_EINVAL;
    job->summary = summary;
    return set_up(job, s, summary->map, summary->Z.data ? summary->heads : 0);
}

int linear_set_up_f64(struct linear_job *job, const struct attn_shape *s, const struct attn_summary_f64 *wide)
{
    if (!wide || (wide->Zk && !wide->log_scale)) return GSL_EINVAL;
    job->wide = wide;
    return set_up(job, s, wide->map, wide->Zk ? wide->heads : 0);
}

size_t linear_bytes(struct linear_job *job, bool backward, int num_threads)
{
    struct arena a = { NULL, 0 };
    lay_out_all(job, backward, num_threads < 1 ? 1 : num_threads, &a);
    return workspace_bytes(a.used);
}

static void unit_task(void *context, size_t unit, int thread)
{
    struct linear_job *job = context;
    run_unit(job, unit, &job->threads[thread]);
}

int linear_run(struct linear_job *job, void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    const struct attn_shape *s = job->shape;
    const bool backward = job->grads != NULL;
    const size_t bytes = linear_bytes(job, backward, num_threads), units = s->batch * s->kv_heads;
    struct arena a;
    void *owned;
    const int opened = workspace_open(bytes, work, work_bytes, &a, &owned);
    if (opened) return opened;
    lay_out_all(job, backward, num_threads, &a);
    if (backward && job->summary_heads)
        memset(job->dZk, 0, s->batch * job->summary_heads * job->map->feat_dim * (s->head_dim + 1) * sizeof(double));
    parallel_for(units, num_threads, unit_task, job);
    if (backward && job->summary_heads && (!job->status || job->status == GSL_EOVRFLW)) {
        write_summary_gradients(job);
        if (job->wide_dZk) write_wide_gradient(job);
    }
    free(owned);
    const int bad = name_failure(s, job->first_bad, failure);
    return job->status ? job->status : bad;
}
