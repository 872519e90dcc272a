/* Chunks of queries and keys in double, with their features, and the state of the keys that all see. */
#include "attention/linear_parts.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

int linear_load_queries(const struct linear_head *head, size_t begin, size_t count)
{
    struct linear_rows *q = &head->t->q;
    const feature_map *map = head->job->map;
    const size_t d = map->dim;
    q->begin = begin;
    q->count = count;
    for (size_t i = 0; i < count; i++)
        q->bad[i] = !widen_finite(row_in(head->job->q, head->b, head->h, begin + i), d, q->x + i * d);
    return feature_forward_f64(map, FEATURE_QUERY, count, q->x, d, q->phi, map->feat_dim, q->log_scale, 1,
                               head->t->feature);
}

int linear_load_keys(const struct linear_head *head, size_t begin, size_t count, bool poison)
{
    struct linear_rows *k = &head->t->k;
    const struct linear_job *job = head->job;
    const feature_map *map = job->map;
    const size_t d = map->dim, cols = d + 1;
    k->begin = begin;
    k->count = count;
    for (size_t j = 0; j < count; j++) {
        const bool key = widen_finite(row_in(job->k, head->b, head->kv, begin + j), d, k->x + j * d);
        const bool value = widen_finite(row_in(job->v, head->b, head->kv, begin + j), d, k->values + j * cols);
        k->values[j * cols + d] = 1.0;
        k->bad[j] = !key || !value;
    }
    int status = feature_forward_f64(map, FEATURE_VALUE, count, k->x, d, k->phi, map->feat_dim, k->log_scale, 1,
                                     head->t->feature);
    if (!status && job->differ)
        status = feature_forward_f64(map, FEATURE_MASS, count, k->x, d, k->mass, map->feat_dim, k->log_scale, 1,
                                     head->t->feature);
    for (size_t j = 0; !status && j < count; j++) {
        if (!k->bad[j]) continue;
        double *phi = k->phi + j * map->feat_dim, *mass = job->differ ? k->mass + j * map->feat_dim : phi;
        memset(k->values + j * cols, 0, d * sizeof(double));
        memset(phi, 0, map->feat_dim * sizeof *phi);
        memset(mass, 0, map->feat_dim * sizeof *mass);
        if (poison) mass[0] = NAN;
    }
    return status;
}

void linear_start_state(const struct linear_head *head)
{
    const struct linear_job *job = head->job;
    struct linear_state *state = &head->t->state;
    const size_t cols = state->value_dim + 1;
    linear_state_clear(state);
    if (!job->summary_heads) return;
    if (job->wide) {
        const size_t at = head->b * job->wide->batch + head->zh * job->wide->head, size = state->feat_dim * cols;
        memcpy(state->Zk, job->wide->Zk + at * size, size * sizeof(double));
        state->scale = job->wide->log_scale[at];
        return;
    }
    const float *mass = row_in(job->summary->kvec, head->b, head->zh, 0);
    for (size_t a = 0; a < state->feat_dim; a++) {
        const float *row = row_in(job->summary->Z, head->b, head->zh, a);
        for (size_t c = 0; c + 1 < cols; c++) state->Zk[a * cols + c] = row[c];
        state->Zk[a * cols + cols - 1] = mass[a];
    }
    state->scale = 0.0;
}

int linear_add_keys(const struct linear_head *head, size_t from, size_t to, bool poison)
{
    for (size_t j = from; j < to; j += LINEAR_CHUNK) {
        const int status = linear_load_keys(head, j, least(LINEAR_CHUNK, to - j), poison);
        if (status) return status;
        const struct linear_rows *k = &head->t->k;
        linear_state_add(&head->t->state, k->count, k->phi, k->mass, k->values, k->log_scale);
    }
    return GSL_SUCCESS;
}

void linear_gemm(int transpose, size_t m, size_t n, size_t depth, const double *A, size_t lda,
                 const double *B, size_t ldb, double beta, double *C, size_t ldc)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, transpose ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n,
                (blasint)depth, 1.0, A, (blasint)lda, B, (blasint)ldb, beta, C, (blasint)ldc);
}

void linear_make_pairs(const struct linear_head *head)
{
    const struct linear_scratch *t = head->t;
    const size_t r = head->job->map->feat_dim;
    linear_gemm(1, t->q.count, t->k.count, r, t->q.phi, r, t->k.phi, r, 0.0, t->pair, LINEAR_CHUNK);
    if (head->job->differ)
        linear_gemm(1, t->q.count, t->k.count, r, t->q.phi, r, t->k.mass, r, 0.0, t->pair_mass, LINEAR_CHUNK);
}
