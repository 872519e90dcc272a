/* Attention linear in the length. Queries are taken in chunks: keys that a whole
 * chunk sees are summed into the state Zk = sum_j phi(k_j) [v_j, 1]^T, the fewer than
 * a chunk that only some of its rows see are met one by one.
 *
 * Keys carry log-scales l_j and the state its own; row i works in units of e^{M_i}, M_i
 * the largest scale it sees, so that neither end of favor's range is lost. The
 * queries' scales cancel in N/D. */
#include "prefix_ntk/attention_f64.h"
#include "prefix_ntk/linear.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attention/call.h"
#include "attention/feature_internal.h"
#include "attention/linear_state.h"
#include "attention/dense_sums.h"
#include "common/parallel.h"

enum { CHUNK = 64 };

/* A chunk of queries or keys, in double. */
struct rows {
    size_t begin, count;
    double *x;                     /* (CHUNK, dim) */
    double *phi, *mass;            /* (CHUNK, feat_dim); mass: keys of maps whose sides differ */
    double *log_scale;             /* (CHUNK) */
    double *values;                /* keys: [v, 1], (CHUNK, dim + 1) */
    bool bad[CHUNK];               /* not finite; x (and values) are zeros instead */
};

struct scratch {
    struct linear_state state;
    struct rows q, k;
    double *num;                   /* (CHUNK, dim + 1): [N, D] or gradients of [v, 1] */
    double *pair, *pair_mass;      /* (CHUNK, CHUNK), queries by keys */
    double *dphi, *dmass, *dx;     /* backward */
    double *dnum, *unit;           /* backward, (len_q, dim + 1) and (len_q): gradients of [N, D] and M_i */
    void *feature;
};

struct job {
    const struct attn_shape *shape;
    const feature_map *map;
    const struct attn_summary *summary;   /* in float32, or ... */
    const struct attn_summary_f64 *wide; /* ... in double */
    size_t summary_heads;                 /* 0: no prefix */
    struct attn_in q, k, v;
    struct attn_out out;                  /* data NULL: not wanted */
    struct attn_in d_out;
    const struct attn_ntk_grads *grads;   /* NULL: forward */
    double *wide_dZk;                     /* as wide->Zk; NULL: not wanted */
    /* NTK-Attention: partial results of the input keys, and the rows of the whole. */
    const struct attn_dense *dense;
    attn_row *rows_out;
    bool differ;
    struct scratch *threads;
    double *dZk;                          /* (batch, summary heads, feat_dim, dim + 1) */
    atomic_size_t first_bad;
    atomic_int status;                    /* the largest of any unit */
};

static void lay_out(const struct job *job, bool backward, struct scratch *t, struct arena *a)
{
    const size_t d = job->map->dim, r = job->map->feat_dim, cols = d + 1;
    t->state = (struct linear_state){ r, d, 0.0, arena_doubles(a, r * cols) };
    for (int side = 0; side < 2; side++) {
        struct rows *rows = side ? &t->k : &t->q;
        rows->x = arena_doubles(a, CHUNK * d);
        rows->phi = arena_doubles(a, CHUNK * r);
        rows->mass = side && job->differ ? arena_doubles(a, CHUNK * r) : NULL;
        rows->log_scale = arena_doubles(a, CHUNK);
        rows->values = arena_doubles(a, CHUNK * cols);
    }
    t->num = arena_doubles(a, CHUNK * cols);
    t->pair = arena_doubles(a, CHUNK * CHUNK);
    t->pair_mass = job->differ ? arena_doubles(a, CHUNK * CHUNK) : t->pair;
    if (backward) {
        t->dphi = arena_doubles(a, CHUNK * r);
        t->dmass = job->differ ? arena_doubles(a, CHUNK * r) : NULL;
        t->dx = arena_doubles(a, CHUNK * d);
        t->dnum = arena_doubles(a, job->shape->len_q * cols);
        t->unit = arena_doubles(a, job->shape->len_q);
    }
    t->feature = arena_doubles(a, (feature_workspace(job->map, 1) + sizeof(double) - 1) / sizeof(double));
}

static void lay_out_all(struct job *job, bool backward, int num_threads, struct arena *a)
{
    const struct attn_shape *s = job->shape;
    num_threads = used_threads(num_threads);
    job->threads = arena_take(a, (size_t)num_threads * sizeof(struct scratch));
    for (int t = 0; t < num_threads; t++) {
        struct scratch measured;
        lay_out(job, backward, job->threads ? &job->threads[t] : &measured, a);
    }
    const size_t gradients = s->batch * job->summary_heads * job->map->feat_dim * (s->head_dim + 1);
    job->dZk = backward ? arena_doubles(a, gradients) : NULL;
}

/* ---- one head ------------------------------------------------------------------- */

struct head {
    struct job *job;
    struct scratch *t;
    size_t b, h, kv, zh;
    size_t keys;                    /* input keys that exist for this batch entry */
};

/* How many input keys query i sees. */
static size_t visible(const struct head *head, size_t i)
{
    return visible_keys(head->job->shape, head->keys, i);
}

/* The first query that sees key j; len_q when none does. */
static size_t first_query(const struct head *head, size_t j)
{
    const struct attn_shape *s = head->job->shape;
    if (!s->causal) return 0;
    const size_t ahead = j + s->len_q;
    return ahead > s->len_k ? least(ahead - s->len_k, s->len_q) : 0;
}

static int load_queries(const struct head *head, size_t begin, size_t count)
{
    struct rows *q = &head->t->q;
    const feature_map *map = head->job->map;
    const size_t d = map->dim;
    q->begin = begin;
    q->count = count;
    for (size_t i = 0; i < count; i++)
        q->bad[i] = !widen_finite(row_in(head->job->q, head->b, head->h, begin + i), d, q->x + i * d);
    return feature_forward_f64(map, FEATURE_QUERY, count, q->x, d, q->phi, map->feat_dim, q->log_scale, 1,
                               head->t->feature);
}

/* A key or value that is not finite counts as zeros. `poison`: the mass feature NaN instead, so that
 * the rows that see it have no D; where those are known to be bad already, zeros do. */
static int load_keys(const struct head *head, size_t begin, size_t count, bool poison)
{
    struct rows *k = &head->t->k;
    const struct job *job = head->job;
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

/* state = (Z, k) of the head's summary, or nothing. */
static void start_state(const struct head *head)
{
    const struct job *job = head->job;
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

/* Adds the keys [from, to) to the state. */
static int add_keys(const struct head *head, size_t from, size_t to, bool poison)
{
    for (size_t j = from; j < to; j += CHUNK) {
        const int status = load_keys(head, j, least(CHUNK, to - j), poison);
        if (status) return status;
        const struct rows *k = &head->t->k;
        linear_state_add(&head->t->state, k->count, k->phi, k->mass, k->values, k->log_scale);
    }
    return GSL_SUCCESS;
}

/* C (m, n) = beta C + A B^T or A B. */
static void gemm(int transpose, size_t m, size_t n, size_t depth, const double *A, size_t lda,
                 const double *B, size_t ldb, double beta, double *C, size_t ldc)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, transpose ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n,
                (blasint)depth, 1.0, A, (blasint)lda, B, (blasint)ldb, beta, C, (blasint)ldc);
}

/* Inner products of the chunk's queries with the loaded keys; the value and the
 * mass side. */
static void make_pairs(const struct head *head)
{
    const struct scratch *t = head->t;
    const size_t r = head->job->map->feat_dim;
    gemm(1, t->q.count, t->k.count, r, t->q.phi, r, t->k.phi, r, 0.0, t->pair, CHUNK);
    if (head->job->differ)
        gemm(1, t->q.count, t->k.count, r, t->q.phi, r, t->k.mass, r, 0.0, t->pair_mass, CHUNK);
}

/* N, D of the loaded queries in units of e^{unit[i]}. Keys [done, end) are loaded
 * when end > done. */
static void chunk_sums(const struct head *head, size_t done, size_t end, double *unit)
{
    const struct scratch *t = head->t;
    const size_t r = head->job->map->feat_dim, d = head->job->map->dim, cols = d + 1;
    gemm(0, t->q.count, cols, r, t->q.phi, r, t->state.Zk, cols, 0.0, t->num, cols);
    if (end > done) make_pairs(head);
    for (size_t i = 0; i < t->q.count; i++) {
        const size_t seen = end > done ? visible(head, t->q.begin + i) - done : 0;
        double most = t->state.scale, *num = t->num + i * cols;
        for (size_t j = 0; j < seen; j++) most = fmax(most, t->k.log_scale[j]);
        unit[i] = most;
        if (most > t->state.scale) {
            const double factor = exp(t->state.scale - most);
            for (size_t c = 0; c < cols; c++) num[c] *= factor;
        }
        for (size_t j = 0; j < seen; j++) {
            const double scale = exp(t->k.log_scale[j] - most), weight = scale * t->pair[i * CHUNK + j];
            const double *value = t->k.values + j * cols;
            for (size_t c = 0; c < d; c++) num[c] += weight * value[c];
            num[d] += scale * t->pair_mass[i * CHUNK + j];
        }
    }
}

/* Forward: writes the outputs. With `gradients`: from d_out to dN_i = G_i/D_i,
 * dD_i = -<G_i, T_i>/D_i in t->dnum. Zero where D is not positive. */
static int forward_head(const struct head *head, bool gradients)
{
    struct job *job = head->job;
    struct scratch *t = head->t;
    const size_t len_q = job->shape->len_q, d = job->map->dim, cols = d + 1;
    size_t done = 0;
    start_state(head);
    for (size_t i0 = 0; i0 < len_q; i0 += CHUNK) {
        const size_t count = least(CHUNK, len_q - i0);
        const size_t all = visible(head, i0), some = visible(head, i0 + count - 1);
        double own_unit[CHUNK], *unit = gradients ? t->unit + i0 : own_unit;
        int status = add_keys(head, done, all, true);
        done = all;
        if (!status && some > all) status = load_keys(head, all, some - all, true);
        if (!status) status = load_queries(head, i0, count);
        if (status) return status;
        chunk_sums(head, all, some, unit);
        for (size_t i = 0; i < count; i++) {
            const size_t at = (head->b * job->shape->heads + head->h) * len_q + i0 + i;
            double *num = t->num + i * cols;
            if (t->q.bad[i]) num[d] = NAN;
            if (job->dense) {
                /* Beside true masses the queries' own scales count: take them in, and out again. */
                unit[i] += t->q.log_scale[i];
                attn_dense_add(num, d, &unit[i], job->dense, at);
                if (!attn_sums_finite(num, d)) num[d] = NAN;
                if (job->rows_out) attn_dense_row(unit[i], num[d], job->rows_out[at]);
                unit[i] -= t->q.log_scale[i];
            }
            const bool good = num[d] > 0.0 && isfinite(num[d]);
            if (!good) note_first(&job->first_bad, at);
            if (gradients) {
                const float *g = row_in(job->d_out, head->b, head->h, i0 + i);
                double *dnum = t->dnum + (i0 + i) * cols, along = 0.0;
                for (size_t c = 0; c < d; c++) {
                    dnum[c] = good ? g[c] / num[d] : 0.0;
                    along += good ? dnum[c] * num[c] : 0.0;
                }
                dnum[d] = good ? -along / num[d] : 0.0;
                if (!good) unit[i] = HUGE_VAL;                /* weight 0 wherever e^{-M_i} is taken */
            }
            if (job->out.data) {
                float *out = row_out(job->out, head->b, head->h, i0 + i);
                for (size_t c = 0; c < d; c++) out[c] = good ? (float)(num[c] / num[d]) : 0.0f;
            }
        }
    }
    return GSL_SUCCESS;
}

/* Gradients out of range are written and told of at the end; the others are right. */
static int go_on_after(struct job *job, int status)
{
    if (status != GSL_EOVRFLW) return status;
    note_status(&job->status, status);
    return GSL_SUCCESS;
}

/* dphi_i = dnum_i Zk^T over all that query i sees; dQ = J^T dphi. The state runs
 * through the keys again. */
static int query_gradients(const struct head *head)
{
    struct job *job = head->job;
    struct scratch *t = head->t;
    const feature_map *map = job->map;
    const size_t len_q = job->shape->len_q, d = map->dim, cols = d + 1, r = map->feat_dim;
    size_t done = 0;
    start_state(head);
    for (size_t i0 = 0; i0 < len_q; i0 += CHUNK) {
        const size_t count = least(CHUNK, len_q - i0);
        const size_t all = visible(head, i0), some = visible(head, i0 + count - 1);
        const double *unit = t->unit + i0, *dnum = t->dnum + i0 * cols;
        int status = add_keys(head, done, all, false);
        done = all;
        if (!status && some > all) status = load_keys(head, all, some - all, false);
        if (!status) status = load_queries(head, i0, count);
        if (status) return status;
        for (size_t i = 0; i < count; i++) {
            const double factor = t->state.scale > -HUGE_VAL ? exp(t->state.scale - unit[i]) : 0.0;
            for (size_t c = 0; c < cols; c++) t->num[i * cols + c] = factor * dnum[i * cols + c];
        }
        gemm(1, count, r, cols, t->num, cols, t->state.Zk, cols, 0.0, t->dphi, r);
        if (some > all) {
            for (size_t i = 0; i < count; i++) {
                const size_t seen = visible(head, i0 + i) - all;
                for (size_t j = 0; j < some - all; j++) {
                    const double scale = j < seen ? exp(t->k.log_scale[j] - unit[i]) : 0.0;
                    const double *g = dnum + i * cols, *value = t->k.values + j * cols;
                    double along = 0.0;
                    for (size_t c = 0; c < d; c++) along += g[c] * value[c];
                    if (job->differ) t->pair_mass[i * CHUNK + j] = scale * g[d];
                    else along += g[d];
                    t->pair[i * CHUNK + j] = scale * along;
                }
            }
            gemm(0, count, r, some - all, t->pair, CHUNK, t->k.phi, r, 1.0, t->dphi, r);
            if (job->differ) gemm(0, count, r, some - all, t->pair_mass, CHUNK, t->k.mass, r, 1.0, t->dphi, r);
        }
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

/* Adds queries [from, to), last chunk first, to the state R = sum_i e^{-M_i} phi(q_i) dnum_i. */
static int add_queries(const struct head *head, size_t from, size_t to)
{
    struct scratch *t = head->t;
    const size_t cols = head->job->map->dim + 1;
    while (to > from) {
        const size_t count = least(CHUNK, to - from), begin = to - count;
        const int status = load_queries(head, begin, count);
        if (status) return status;
        double weight[CHUNK];
        for (size_t i = 0; i < count; i++) weight[i] = -t->unit[begin + i];
        memcpy(t->q.values, t->dnum + begin * cols, count * cols * sizeof(double));
        linear_state_add(&t->state, count, t->q.phi, NULL, t->q.values, weight);
        to = begin;
    }
    return GSL_SUCCESS;
}

/* dV_j = phi_j R_j, dphi(k_j) = [v_j, 1] R_j^T with R_j the sum over the queries that see
 * key j, run through from the last key to the first; what remains is d(Z, k). `add`:
 * an earlier query head of the group has written dK and dV. */
static int key_gradients(const struct head *head, bool add)
{
    struct job *job = head->job;
    struct scratch *t = head->t;
    const feature_map *map = job->map;
    const size_t len_q = job->shape->len_q, d = map->dim, cols = d + 1, r = map->feat_dim;
    const bool wanted = job->grads->k.data || job->grads->v.data;
    size_t pending = len_q;                                   /* queries before it are not in R yet */
    int status = GSL_SUCCESS;
    linear_state_clear(&t->state);
    for (size_t end = wanted ? head->keys : 0; end > 0 && !status;) {
        const size_t count = (end - 1) % CHUNK + 1, j0 = end - count;
        const size_t all = first_query(head, end - 1), some = first_query(head, j0);
        status = add_queries(head, all, pending);
        if (pending > all) pending = all;
        if (!status) status = load_keys(head, j0, count, false);
        if (!status && all > some) status = load_queries(head, some, all - some);
        if (status) return status;
        /* [dv, dmass] of keys and their dphi from the queries that see the whole chunk */
        gemm(0, count, d, r, t->k.phi, r, t->state.Zk, cols, 0.0, t->num, cols);
        gemm(1, count, r, job->differ ? d : cols, t->k.values, cols, t->state.Zk, cols, 0.0, t->dphi, r);
        for (size_t j = 0; j < count; j++) {
            const double factor = t->state.scale > -HUGE_VAL ? exp(t->k.log_scale[j] + t->state.scale) : 0.0;
            for (size_t c = 0; c < d; c++) t->num[j * cols + c] *= factor;
            for (size_t a = 0; a < r; a++) {
                t->dphi[j * r + a] *= factor;
                if (job->differ) t->dmass[j * r + a] = factor * t->state.Zk[a * cols + d];
            }
        }
        if (all > some) {
            make_pairs(head);
            for (size_t i = 0; i < all - some; i++) {
                const double *g = t->dnum + (some + i) * cols;
                const size_t seen = visible(head, some + i);
                for (size_t j = 0; j < count && j0 + j < seen; j++) {
                    const double scale = exp(t->k.log_scale[j] - t->unit[some + i]);
                    const double weight = scale * t->pair[i * CHUNK + j], *value = t->k.values + j * cols;
                    double along = 0.0;
                    for (size_t c = 0; c < d; c++) {
                        t->num[j * cols + c] += weight * g[c];
                        along += g[c] * value[c];
                    }
                    along = scale * (job->differ ? along : along + g[d]);
                    cblas_daxpy((blasint)r, along, t->q.phi + i * r, 1, t->dphi + j * r, 1);
                    if (job->differ) cblas_daxpy((blasint)r, scale * g[d], t->q.phi + i * r, 1, t->dmass + j * r, 1);
                }
            }
        }
        status = feature_backward_f64(map, FEATURE_VALUE, count, t->k.x, d, t->dphi, r, t->k.log_scale, t->dx, d, 0, 1,
                                      t->feature);
        status = go_on_after(job, status);
        if (!status && job->differ)
            status = feature_backward_f64(map, FEATURE_MASS, count, t->k.x, d, t->dmass, r, t->k.log_scale, t->dx, d,
                                          1, 1, t->feature);
        status = go_on_after(job, status);
        for (size_t j = 0; !status && j < count; j++) {
            float *dk = job->grads->k.data ? row_out(job->grads->k, head->b, head->kv, j0 + j) : NULL;
            float *dv = job->grads->v.data ? row_out(job->grads->v, head->b, head->kv, j0 + j) : NULL;
            for (size_t c = 0; c < d; c++) {
                if (dk) dk[c] = (float)t->dx[j * d + c] + (add ? dk[c] : 0.0f);
                if (dv) dv[c] = (float)t->num[j * cols + c] + (add ? dv[c] : 0.0f);
            }
        }
        end = j0;
    }
    if (!status && job->summary_heads && (job->grads->Z.data || job->grads->kvec.data || job->wide_dZk)) {
        status = add_queries(head, 0, pending);
        double *to = job->dZk + (head->b * job->summary_heads + head->zh) * r * cols;
        /* The stored numbers are e^{-scale} times the true ones. */
        const double scale =
            job->wide ? job->wide->log_scale[head->b * job->wide->batch + head->zh * job->wide->head] : 0.0;
        const double factor = t->state.scale > -HUGE_VAL && scale > -HUGE_VAL ? exp(t->state.scale + scale) : 0.0;
        for (size_t e = 0; e < r * cols; e++) to[e] += factor * t->state.Zk[e];
    }
    return status;
}

/* All query heads of one key/value head of one batch entry. */
static void run_unit(struct job *job, size_t unit, struct scratch *t)
{
    const struct attn_shape *s = job->shape;
    const size_t group = s->heads / s->kv_heads;
    struct head head = { .job = job, .t = t, .b = unit / s->kv_heads, .kv = unit % s->kv_heads };
    head.keys = job->dense ? 0 : s->key_lengths ? s->key_lengths[head.b] : s->len_k;
    int status = GSL_SUCCESS;
    for (size_t g = 0; g < group && !status; g++) {
        head.h = head.kv * group + g;
        head.zh = job->summary_heads ? head.h / (s->heads / job->summary_heads) : 0;
        status = forward_head(&head, job->grads != NULL);
        if (!job->grads || status) continue;
        if (job->grads->q.data) status = query_gradients(&head);
        if (!status) status = key_gradients(&head, g > 0);
    }
    if (job->grads)                                           /* keys beyond the entry's length */
        for (size_t j = head.keys; j < s->len_k; j++) {
            if (job->grads->k.data) memset(row_out(job->grads->k, head.b, head.kv, j), 0, s->head_dim * sizeof(float));
            if (job->grads->v.data) memset(row_out(job->grads->v, head.b, head.kv, j), 0, s->head_dim * sizeof(float));
        }
    note_status(&job->status, status);
}

/* Gradients of the summaries as the caller's views share them. */
static void write_summary_gradients(const struct job *job)
{
    const size_t r = job->map->feat_dim, d = job->shape->head_dim, cols = d + 1, heads = job->summary_heads;
    /* kvec is a row of feat_dim numbers: as many rows of one. */
    struct attn_out kvec = job->grads->kvec;
    kvec.row = 1;
    sum_shared_f64(job->shape, heads, r, d, job->dZk, cols, job->grads->Z);
    sum_shared_f64(job->shape, heads, r, 1, job->dZk + d, cols, kvec);
}

/* The same into the double summaries' own indexing. */
static void write_wide_gradient(const struct job *job)
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

/* ---- calls -------------------------------------------------------------------------- */

static int set_up(struct job *job, const struct attn_shape *s, const feature_map *map, size_t heads)
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

static int set_up_narrow(struct job *job, const struct attn_shape *s, const struct attn_summary *summary)
{
    if (!summary || (summary->Z.data && (!summary->kvec.data || !summary->heads))) return GSL_EINVAL;
    job->summary = summary;
    return set_up(job, s, summary->map, summary->Z.data ? summary->heads : 0);
}

static int set_up_wide(struct job *job, const struct attn_shape *s, const struct attn_summary_f64 *wide)
{
    if (!wide || (wide->Zk && !wide->log_scale)) return GSL_EINVAL;
    job->wide = wide;
    return set_up(job, s, wide->map, wide->Zk ? wide->heads : 0);
}

static size_t bytes_needed(struct job *job, bool backward, int num_threads)
{
    struct arena a = { NULL, 0 };
    lay_out_all(job, backward, num_threads < 1 ? 1 : num_threads, &a);
    return workspace_bytes(a.used);
}

static size_t workspace(const struct attn_shape *shape, const struct attn_summary *summary, int num_threads,
                        bool backward)
{
    struct job job = { 0 };
    return num_threads < 1 || set_up_narrow(&job, shape, summary) ? 0 : bytes_needed(&job, backward, num_threads);
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

static void unit_task(void *context, size_t unit, int thread)
{
    struct job *job = context;
    run_unit(job, unit, &job->threads[thread]);
}

static int run(struct job *job, void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    const struct attn_shape *s = job->shape;
    const bool backward = job->grads != NULL;
    const size_t bytes = bytes_needed(job, backward, num_threads), units = s->batch * s->kv_heads;
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

int attn_linear_forward(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                        const struct attn_summary *summary, struct attn_out out,
                        void *work, size_t work_bytes, int num_threads, struct attn_failure *failure)
{
    struct job job = { .q = q, .k = k, .v = v, .out = out };
    const int status = set_up_narrow(&job, shape, summary);
    if (status) return status;
    if (attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads)) return GSL_EINVAL;
    return run(&job, work, work_bytes, num_threads, failure);
}

int attn_linear_backward(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                         const struct attn_summary *summary, struct attn_in d_out,
                         const struct attn_ntk_grads *grads,
                         void *work, size_t work_bytes, int num_threads)
{
    struct job job = { .q = q, .k = k, .v = v, .d_out = d_out, .grads = grads };
    const int status = set_up_narrow(&job, shape, summary);
    if (status) return status;
    if (!grads || attn_call_status(shape, 0, 0, q, k, v, d_out.data, num_threads)) return GSL_EINVAL;
    if (is_shared(shape, shape->heads, grads->q) || is_shared(shape, shape->kv_heads, grads->k) ||
        is_shared(shape, shape->kv_heads, grads->v))
        return GSL_EINVAL;
    return run(&job, work, work_bytes, num_threads, NULL);
}

/* ---- in double ------------------------------------------------------------------------ */

int attn_linear_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                     const struct attn_summary_f64 *summary, struct attn_out out, struct attn_in d_out,
                     const struct attn_grads_f64 *grads, int num_threads, struct attn_failure *failure)
{
    struct job job = { .q = q, .k = k, .v = v, .out = out, .d_out = d_out };
    const struct attn_ntk_grads narrow = grads ? (struct attn_ntk_grads){ .q = grads->q, .k = grads->k, .v = grads->v }
                                               : (struct attn_ntk_grads){ 0 };
    const int status = set_up_wide(&job, shape, summary);
    if (status) return status;
    if (attn_call_status(shape, 0, 0, q, k, v, out.data, num_threads)) return GSL_EINVAL;
    if (grads && (!d_out.data || !grads->q.data || (shape->len_k && (!grads->k.data || !grads->v.data))))
        return GSL_EINVAL;
    if (grads) {
        job.grads = &narrow;
        job.wide_dZk = grads->dZk;
    }
    return run(&job, NULL, 0, num_threads, failure);
}

int attn_ntk_f64(const struct attn_shape *shape, struct attn_in q, struct attn_in k, struct attn_in v,
                  const struct attn_summary_f64 *summary, struct attn_out out, struct attn_in d_out,
                  const struct attn_grads_f64 *grads, int num_threads, struct attn_failure *failure)
{
    struct job job = { .q = q, .k = k, .v = v, .out = out, .d_out = d_out };
    const struct attn_ntk_grads feature_part = { .q = grads ? grads->q : (struct attn_out){ 0 } };
    struct attn_dense dense;
    attn_row *rows = NULL;
    int status = set_up_wide(&job, shape, summary);
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
    if (!status) status = run(&job, NULL, 0, num_threads, failure);
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
    struct job job = { 0 };
    if (set_up_wide(&job, shape, summary)) return 0;
    return bytes_needed(&job, backward != 0, num_threads) + attn_exact_f64_bytes(shape, backward);
}
