/* Polynomial maps on the scores themselves: what features would give, without them. */
#include "attention/dense_sums.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attention/call.h"
#include "common/parallel.h"
#include "prefix_ntk/attention_f64.h"

enum { ROWS = 64, KEYS = 256 };

struct job {
    const struct attn_shape *shape;
    const feature_map *map;
    const struct attn_prefix *prefix;
    struct attn_in q, k, v;
    bool linear;
    struct attn_out out;
    struct attn_in d_out;
    const struct attn_exact_grads *grads;
    double scale;
    const struct attn_dense *dense;      /* ntk: sums over the input keys */
    attn_row *rows_out;
    double *prefix_grads;                /* (batch, kv_heads, prefix_len, 2 dim): dK, dV */
    double *key_grads;                   /* (threads, len_k, 2 dim), linear */
    double *scratch;                     /* (threads, scratch_doubles) */
    atomic_size_t first_bad;
};

/* Scratch of one thread, in doubles. */
struct scratch {
    double *q, *num, *dnum, *dq;         /* (ROWS, dim), the middle two (ROWS, dim + 1) */
    double *k, *v;                       /* (KEYS, dim) */
    double *score, *value, *mass;        /* (ROWS, KEYS) */
    double *dvalue, *slope, *slope_mass;
    double unit[ROWS];
    bool bad_query[ROWS], bad_key[KEYS]; /* not finite: zeros instead */
};

static size_t scratch_doubles(size_t d)
{
    return ROWS * (4 * d + 2) + 2 * KEYS * d + 6 * ROWS * KEYS;
}

static void lay_out(double *at, size_t d, struct scratch *t)
{
    t->q = at;
    t->num = t->q + ROWS * d;
    t->dnum = t->num + ROWS * (d + 1);
    t->dq = t->dnum + ROWS * (d + 1);
    t->k = t->dq + ROWS * d;
    t->v = t->k + KEYS * d;
    t->score = t->v + KEYS * d;
    t->value = t->score + ROWS * KEYS;
    t->mass = t->value + ROWS * KEYS;
    t->dvalue = t->mass + ROWS * KEYS;
    t->slope = t->dvalue + ROWS * KEYS;
    t->slope_mass = t->slope + ROWS * KEYS;
}

/* Rows that are not finite become zeros and are noted. */
static void load(struct attn_in x, size_t b, size_t h, size_t begin, size_t count, size_t d, double *to, bool *bad)
{
    for (size_t i = 0; i < count; i++)
        if (!widen_finite(row_in(x, b, h, begin + i), d, to + i * d)) bad[i] = true;
}

/* One set of keys: the prefix, or the input keys. */
struct keys {
    struct attn_in k, v;
    size_t len;
    bool input;
};

/* A block of rows of one query head against one set of keys; what each row sees. */
struct block {
    const struct job *job;
    struct scratch *t;
    size_t b, h, kv, i0, rows;
};

static size_t visible(const struct block *x, const struct keys *keys, size_t i)
{
    return keys->input ? visible_keys(x->job->shape, keys->len, i) : keys->len;
}

/* Scores of the rows with keys [begin, begin + count), and p of both sides, 0 where hidden; the mass of a
 * key that is not finite is NaN for the rows that see it. */
static void evaluate(const struct block *x, const struct keys *keys, size_t begin, size_t count)
{
    struct scratch *t = x->t;
    const size_t d = x->job->shape->head_dim;
    memset(t->bad_key, 0, count * sizeof *t->bad_key);
    load(keys->k, x->b, x->kv, begin, count, d, t->k, t->bad_key);
    load(keys->v, x->b, x->kv, begin, count, d, t->v, t->bad_key);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)x->rows, (blasint)count, (blasint)d, x->job->scale,
                t->q, (blasint)d, t->k, (blasint)d, 0.0, t->score, KEYS);
    for (size_t i = 0; i < x->rows; i++) {
        const size_t seen = visible(x, keys, x->i0 + i), here = seen > begin ? least(seen - begin, count) : 0;
        double *value = t->value + i * KEYS, *mass = t->mass + i * KEYS;
        feature_score(x->job->map, here, t->score + i * KEYS, value, mass);
        for (size_t j = here; j < count; j++) value[j] = mass[j] = 0.0;
        for (size_t j = 0; j < here; j++)
            if (t->bad_key[j]) mass[j] = NAN;
    }
}

static void add_sums(const struct block *x, const struct keys *keys)
{
    struct scratch *t = x->t;
    const size_t d = x->job->shape->head_dim;
    const size_t end = visible(x, keys, x->i0 + x->rows - 1);
    for (size_t j = 0; j < end; j += KEYS) {
        const size_t count = least(KEYS, end - j);
        evaluate(x, keys, j, count);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)x->rows, (blasint)d, (blasint)count, 1.0,
                    t->value, KEYS, t->v, (blasint)d, 1.0, t->num, (blasint)d + 1);
        for (size_t i = 0; i < x->rows; i++)
            for (size_t c = 0; c < count; c++) t->num[i * (d + 1) + d] += t->mass[i * KEYS + c];
    }
}

/* dV += P^T dN; dS = (dN V^T) p'(S) + dD p'_mass(S); dQ += scale dS K, dK += scale dS^T Q.
 * grads: (len, 2 dim), NULL when the keys' gradients are not wanted. */
static void add_gradients(const struct block *x, const struct keys *keys, double *grads)
{
    struct scratch *t = x->t;
    const size_t d = x->job->shape->head_dim;
    const blasint rows = (blasint)x->rows, D = (blasint)d;
    const size_t end = visible(x, keys, x->i0 + x->rows - 1);
    for (size_t j0 = 0; j0 < end; j0 += KEYS) {
        const size_t count = least(KEYS, end - j0);
        evaluate(x, keys, j0, count);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, (blasint)count, D, 1.0, t->dnum, D + 1, t->v, D,
                    0.0, t->dvalue, KEYS);
        for (size_t i = 0; i < x->rows; i++) {
            const size_t seen = visible(x, keys, x->i0 + i), here = seen > j0 ? least(seen - j0, count) : 0;
            double *slope = t->slope + i * KEYS, *ds = t->dvalue + i * KEYS;
            feature_score_slope(x->job->map, here, t->score + i * KEYS, slope, t->slope_mass + i * KEYS);
            for (size_t j = 0; j < here; j++)
                ds[j] = ds[j] * slope[j] + t->dnum[i * (d + 1) + d] * t->slope_mass[i * KEYS + j];
            for (size_t j = here; j < count; j++) ds[j] = 0.0;
        }
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, D, (blasint)count, x->job->scale, t->dvalue, KEYS,
                    t->k, D, 1.0, t->dq, D);
        if (!grads) continue;
        double *to = grads + j0 * 2 * d;
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)count, D, rows, x->job->scale, t->dvalue, KEYS,
                    t->q, D, 1.0, to, 2 * D);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)count, D, rows, 1.0, t->value, KEYS,
                    t->dnum, D + 1, 1.0, to + d, 2 * D);
    }
}

static void run_block(struct job *job, const struct block *x, const struct keys *prefix, const struct keys *input,
                      double *prefix_grads, double *key_grads)
{
    struct scratch *t = x->t;
    const size_t d = job->shape->head_dim, cols = d + 1;
    memset(t->bad_query, 0, x->rows * sizeof *t->bad_query);
    load(job->q, x->b, x->h, x->i0, x->rows, d, t->q, t->bad_query);
    memset(t->num, 0, x->rows * cols * sizeof(double));
    add_sums(x, prefix);
    if (job->linear) add_sums(x, input);
    for (size_t i = 0; i < x->rows; i++) {
        const size_t at = (x->b * job->shape->heads + x->h) * job->shape->len_q + x->i0 + i;
        double *num = t->num + i * cols, *dnum = t->dnum + i * cols;
        t->unit[i] = 0.0;
        if (t->bad_query[i]) num[d] = NAN;
        if (job->dense) attn_dense_add(num, d, &t->unit[i], job->dense, at);
        if (!attn_sums_finite(num, d)) num[d] = NAN;
        const bool good = num[d] > 0.0 && isfinite(num[d]);
        if (!good) note_first(&job->first_bad, at);
        if (job->rows_out) attn_dense_row(t->unit[i], num[d], job->rows_out[at]);
        float *out = row_out(job->out, x->b, x->h, x->i0 + i);
        for (size_t c = 0; c < d; c++) out[c] = good ? (float)(num[c] / num[d]) : 0.0f;
        if (!job->grads) continue;
        /* The sums over scores are in units of 1, the row's normaliser in e^unit. */
        const float *g = row_in(job->d_out, x->b, x->h, x->i0 + i);
        const double factor = good ? exp(-t->unit[i]) / num[d] : 0.0;
        double along = 0.0;
        for (size_t c = 0; c < d; c++) {
            dnum[c] = good ? factor * (double)g[c] : 0.0;
            along += good ? (double)g[c] * num[c] / num[d] : 0.0;
        }
        dnum[d] = good ? -factor * along : 0.0;
    }
    if (!job->grads) return;
    memset(t->dq, 0, x->rows * d * sizeof(double));
    add_gradients(x, prefix, prefix_grads);
    if (job->linear) add_gradients(x, input, key_grads);
    for (size_t i = 0; i < x->rows; i++) {
        float *dq = row_out(job->grads->q, x->b, x->h, x->i0 + i);
        for (size_t c = 0; c < d; c++) dq[c] = (float)t->dq[i * d + c];
    }
}

static void run_unit(void *context, size_t unit, int thread)
{
    struct job *job = context;
    double *memory = job->scratch + scratch_doubles(job->shape->head_dim) * (size_t)thread;
    const struct attn_shape *s = job->shape;
    const size_t b = unit / s->kv_heads, kv = unit % s->kv_heads, group = s->heads / s->kv_heads, d = s->head_dim;
    const struct keys prefix = { job->prefix->k, job->prefix->v, job->prefix->len, false };
    const struct keys input = { job->k, job->v, s->key_lengths ? s->key_lengths[b] : s->len_k, true };
    struct scratch t;
    lay_out(memory, d, &t);
    double *prefix_grads = job->prefix_grads ? job->prefix_grads + unit * prefix.len * 2 * d : NULL;
    double *key_grads = job->key_grads ? job->key_grads + (size_t)thread * s->len_k * 2 * d : NULL;
    if (prefix_grads) memset(prefix_grads, 0, prefix.len * 2 * d * sizeof(double));
    if (key_grads) memset(key_grads, 0, s->len_k * 2 * d * sizeof(double));
    for (size_t h = kv * group; h < (kv + 1) * group; h++)
        for (size_t i0 = 0; i0 < s->len_q; i0 += ROWS) {
            const struct block x = { job, &t, b, h, kv, i0, least(ROWS, s->len_q - i0) };
            run_block(job, &x, &prefix, &input, prefix_grads, key_grads);
        }
    for (size_t j = 0; key_grads && j < s->len_k; j++)
        for (size_t c = 0; c < d; c++) {
            row_out(job->grads->k, b, kv, j)[c] = (float)key_grads[j * 2 * d + c];
            row_out(job->grads->v, b, kv, j)[c] = (float)key_grads[j * 2 * d + d + c];
        }
}

size_t attn_scores_f64_bytes(const struct attn_shape *s, size_t prefix_len, int backward, int num_threads)
{
    if (attn_shape_status(s, prefix_len, 0) || num_threads < 1) return 0;
    num_threads = used_threads(num_threads);
    const size_t d = s->head_dim;
    size_t doubles = scratch_doubles(d) * (size_t)num_threads;
    if (backward) doubles += (s->batch * s->kv_heads * prefix_len + (size_t)num_threads * s->len_k) * 2 * d;
    return doubles * sizeof(double) + attn_exact_f64_bytes(s, backward);
}

int attn_scores_f64(const struct attn_shape *s, struct attn_in q, struct attn_in k, struct attn_in v,
                     const struct attn_prefix *prefix, const feature_map *map, int linear,
                     struct attn_out out, struct attn_in d_out, const struct attn_exact_grads *grads,
                     int num_threads, struct attn_failure *failure)
{
    const size_t prefix_len = prefix ? prefix->len : 0;
    const struct attn_prefix none = { 0 };
    if (attn_call_status(s, prefix_len, 0, q, k, v, out.data, num_threads) || !map || !feature_is_polynomial(map))
        return GSL_EINVAL;
    if (prefix_len && (prefix->packed || !prefix->k.data || !prefix->v.data)) return GSL_EINVAL;
    if (grads && (!d_out.data || !grads->q.data || (s->len_k && (!grads->k.data || !grads->v.data)) ||
                  (prefix_len && (!grads->prefix_k.data || !grads->prefix_v.data))))
        return GSL_EINVAL;
    if (feature_head_dim(map) != s->head_dim) return GSL_EBADLEN;
    if (!prefix) prefix = &none;
    num_threads = used_threads(num_threads);
    const size_t d = s->head_dim, rows = s->batch * s->heads * s->len_q, units = s->batch * s->kv_heads;
    struct job job = { .shape = s, .map = map, .prefix = prefix, .q = q, .k = k, .v = v, .linear = linear != 0,
                       .out = out,
                       .d_out = d_out, .grads = grads, .scale = 1.0 / sqrt((double)d), .first_bad = SIZE_MAX };
    struct attn_dense dense = { NULL, NULL };
    attn_row *whole = NULL;
    double *scratch = malloc(scratch_doubles(d) * (size_t)num_threads * sizeof *scratch);
    int status = GSL_ENOMEM;
    if (!scratch) goto done;
    if (grads && prefix->len && !(job.prefix_grads = malloc(units * prefix->len * 2 * d * sizeof(double)))) goto done;
    if (grads && linear && s->len_k &&
        !(job.key_grads = malloc((size_t)num_threads * s->len_k * 2 * d * sizeof(double))))
        goto done;
    if (!linear) {
        if (grads && !(whole = malloc(rows * sizeof *whole))) goto done;
        if ((status = attn_dense_alloc(s, &dense))) goto done;
        if ((status = attn_dense_forward(s, q, k, v, NULL, &dense, num_threads))) goto done;
        job.dense = &dense;
        job.rows_out = whole;
    }
    job.scratch = scratch;
    parallel_for(units, num_threads, run_unit, &job);
    status = name_failure(s, job.first_bad, failure);
    if (!grads) goto done;
    if (prefix->len) {
        sum_shared_f64(s, s->kv_heads, prefix->len, d, job.prefix_grads, 2 * d, grads->prefix_k);
        sum_shared_f64(s, s->kv_heads, prefix->len, d, job.prefix_grads + d, 2 * d, grads->prefix_v);
    }
    if (!linear) {
        const int own = attn_dense_backward(s, q, k, v, out, (const attn_row *)whole, d_out, grads->q, grads->k,
                                            grads->v,
                                            num_threads);
        status = own ? own : status;
    }
done:
    free(scratch);
    free(job.prefix_grads);
    free(job.key_grads);
    attn_dense_free(&dense);
    free(whole);
    return status;
}
