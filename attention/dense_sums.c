/* The softmax part of attention in blocks of keys, summed in double. */
#include "attention/dense_sums.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "attention/call.h"
#include "common/parallel.h"
#include "prefix_ntk/attention_f64.h"

/* Keys per block: float32 sums of so many values lose 4e-7 of their size. */
enum { BLOCK = 256 };

static size_t num_rows(const struct attn_shape *s)
{
    return s->batch * s->heads * s->len_q;
}

int attn_dense_alloc(const struct attn_shape *s, struct attn_dense *dense)
{
    dense->sums = calloc(num_rows(s) * (s->head_dim + 1), sizeof *dense->sums);
    dense->shift = malloc(num_rows(s) * sizeof *dense->shift);
    if (!dense->sums || !dense->shift) {
        attn_dense_free(dense);
        return GSL_ENOMEM;
    }
    for (size_t i = 0; i < num_rows(s); i++) dense->shift[i] = -HUGE_VAL;
    return GSL_SUCCESS;
}

void attn_dense_free(struct attn_dense *dense)
{
    free(dense->sums);
    free(dense->shift);
    *dense = (struct attn_dense){ NULL, NULL };
}

struct merge_job {
    const struct attn_shape *shape;
    const struct attn_dense *dense;
    const float *values;
    const attn_row *rows;
    size_t rows_per_task;
};

static void merge_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct merge_job *job = context;
    const struct attn_dense *dense = job->dense;
    const float *values = job->values;
    const attn_row *rows = job->rows;
    const size_t d = job->shape->head_dim, n = num_rows(job->shape);
    for (size_t i = job->rows_per_task * task; i < n && i < job->rows_per_task * (task + 1); i++) {
        const double from = rows[i][0], mass = rows[i][1];
        if (mass == 0.0) continue;
        double *sums = dense->sums + i * (d + 1);
        const double shift = fmax(dense->shift[i], from);
        const double keep = dense->shift[i] > -HUGE_VAL ? exp2(dense->shift[i] - shift) : 0.0, add = exp2(from - shift);
        for (size_t c = 0; c < d; c++) sums[c] = keep * sums[c] + add * (double)values[i * d + c];
        sums[d] = keep * sums[d] + add * mass;
        dense->shift[i] = shift;
    }
}

/* sums += a partial result. Shifts are integers: scaling by powers of two is exact. */
static void merge(const struct attn_shape *s, const struct attn_dense *dense, const float *values, const attn_row *rows,
                  int num_threads)
{
    struct merge_job job = { s, dense, values, rows, 64 };
    parallel_for((num_rows(s) + 63) / 64, num_threads, merge_task, &job);
}

int attn_dense_forward(const struct attn_shape *s, struct attn_in q, struct attn_in k, struct attn_in v,
                       const struct attn_prefix *prefix, const struct attn_dense *dense, int num_threads)
{
    const size_t n = num_rows(s), d = s->head_dim, prefix_len = prefix ? prefix->len : 0;
    const float scale = (float)(1.0 / sqrt((double)d));
    /* One piece of memory for the parts, the rows and the kernels' workspace of every block. */
    struct attn_shape alone = *s;
    alone.len_k = 0;
    alone.causal = 0;
    alone.key_lengths = NULL;
    const size_t of_prefix = prefix_len ? attn_partial_workspace(&alone, least(prefix_len, BLOCK), num_threads) : 0;
    size_t bytes = of_prefix;
    for (size_t j = 0; j < s->len_k; j += BLOCK) {
        struct attn_shape part = *s;
        part.len_k = s->len_k - j;
        part.key_lengths = NULL;
        const size_t of_input = attn_partial_workspace(&part, 0, num_threads);
        if (of_input > bytes) bytes = of_input;
    }
    float *values = malloc(n * d * sizeof *values);
    attn_row *rows = malloc(n * sizeof *rows);
    size_t *lengths = malloc(s->batch * sizeof *lengths);
    void *work = malloc(bytes ? bytes : 1);
    int status = values && rows && lengths && work ? GSL_SUCCESS : GSL_ENOMEM;
    const struct attn_out to = attn_dense_out(values, s->heads, s->len_q, d);
    for (size_t j = 0; j < prefix_len && !status; j += BLOCK) {
        const struct attn_prefix part = { least(BLOCK, prefix_len - j), from_row(prefix->k, j),
                                          from_row(prefix->v, j), NULL };
        status = attn_partial_forward(&alone, scale, q, k, v, &part, to, rows, work, bytes, num_threads);
        if (!status) merge(s, dense, values, (const attn_row *)rows, num_threads);
    }
    for (size_t j = 0; j < s->len_k && !status; j += BLOCK) {
        /* All later keys stay in the shape, so that the diagonal stays where it is; the
         * lengths hide those of later blocks. */
        struct attn_shape part = *s;
        part.len_k = s->len_k - j;
        part.key_lengths = lengths;
        for (size_t b = 0; b < s->batch; b++) {
            const size_t len = s->key_lengths ? s->key_lengths[b] : s->len_k;
            lengths[b] = len > j ? least(BLOCK, len - j) : 0;
        }
        status = attn_partial_forward(&part, scale, q, from_row(k, j), from_row(v, j), NULL, to, rows, work, bytes,
                                      num_threads);
        if (!status) merge(s, dense, values, (const attn_row *)rows, num_threads);
    }
    free(values);
    free(rows);
    free(lengths);
    free(work);
    return status;
}

int attn_sums_finite(const double *num, size_t head_dim)
{
    double check = 0.0;
    for (size_t c = 0; c <= head_dim; c++) check += num[c] * 0.0;
    return check == 0.0;
}

void attn_dense_add(double *num, size_t head_dim, double *unit, const struct attn_dense *dense, size_t at)
{
    const double *sums = dense->sums + at * (head_dim + 1);
    if (!isfinite(sums[head_dim])) num[head_dim] = NAN;
    if (!isfinite(num[head_dim])) return;
    const double there = sums[head_dim] > 0.0 ? dense->shift[at] * LN2 : -HUGE_VAL;
    double size = 0.0;
    for (size_t c = 0; c <= head_dim; c++) size = fmax(size, fabs(num[c]));
    const double here = size > 0.0 ? *unit + log(size) : -HUGE_VAL, most = fmax(here, there);
    if (!(most > -HUGE_VAL)) return;                          /* nothing on either side */
    const double keep = size > 0.0 ? exp(*unit - most) : 0.0, add = exp(there - most);
    for (size_t c = 0; c <= head_dim; c++) num[c] = keep * num[c] + add * sums[c];
    *unit = most;
}

void attn_dense_row(double unit, double d, float *row)
{
    const double log2_d = d > 0.0 ? unit / LN2 + log2(d) : -HUGE_VAL;
    row[0] = (float)ceil(log2_d);
    row[1] = d > 0.0 ? (float)exp2(log2_d - (double)row[0]) : 0.0f;
}

int attn_dense_backward(const struct attn_shape *s, struct attn_in q, struct attn_in k, struct attn_in v,
                        struct attn_out out, const attn_row *rows, struct attn_in d_out,
                        struct attn_out dq, struct attn_out dk, struct attn_out dv, int num_threads)
{
    const size_t d = s->head_dim;
    const float scale = (float)(1.0 / sqrt((double)d));
    float *part = malloc(num_rows(s) * d * sizeof *part);
    if (!part) return GSL_ENOMEM;
    const struct attn_exact_grads grads = { .q = attn_dense_out(part, s->heads, s->len_q, d), .k = dk, .v = dv };
        const int status = attn_exact_backward(s, scale, q, k, v, NULL, as_input(out), rows, d_out, &grads, NULL, 0,
                                               num_threads);
    for (size_t i = 0; !status && i < num_rows(s); i++) {
        float *to = row_out(dq, i / (s->heads * s->len_q), i / s->len_q % s->heads, i % s->len_q);
        for (size_t c = 0; c < d; c++) to[c] += part[i * d + c];
    }
    free(part);
    return status;
}

int attn_exact_f64(const struct attn_shape *s, struct attn_in q, struct attn_in k, struct attn_in v,
                    const struct attn_prefix *prefix, struct attn_out out, struct attn_in d_out,
                    const struct attn_exact_grads *grads, int num_threads, struct attn_failure *failure)
{
    int status = attn_call_status(s, prefix ? prefix->len : 0, 0, q, k, v, out.data, num_threads);
    if (!status && grads && (!d_out.data || !grads->q.data)) status = GSL_EINVAL;
    if (!status && prefix && prefix->len && (prefix->packed || !prefix->k.data || !prefix->v.data)) status = GSL_EINVAL;
    if (status) return status;
    const size_t d = s->head_dim, n = num_rows(s);
    struct attn_dense dense;
    attn_row *rows = grads ? malloc(n * sizeof *rows) : NULL;
    status = attn_dense_alloc(s, &dense);
    if (!status && grads && !rows) status = GSL_ENOMEM;
    if (!status) status = attn_dense_forward(s, q, k, v, prefix, &dense, num_threads);
    bool bad = false;
    for (size_t i = 0; i < n && !status; i++) {
        const size_t b = i / (s->heads * s->len_q), h = i / s->len_q % s->heads, row = i % s->len_q;
        const double *sums = dense.sums + i * (d + 1);
        const bool good = sums[d] > 0.0 && attn_sums_finite(sums, d);
        if (!good && !bad && failure) *failure = (struct attn_failure){ b, h, row };
        bad |= !good;
        float *to = row_out(out, b, h, row);
        for (size_t c = 0; c < d; c++) to[c] = good ? (float)(sums[c] / sums[d]) : 0.0f;
        if (rows) attn_dense_row(dense.shift[i] * LN2, good ? sums[d] : NAN, rows[i]);
    }
    attn_dense_free(&dense);
        if (!status && grads)
        status = attn_exact_backward(s, (float)(1.0 / sqrt((double)d)), q, k, v, prefix, as_input(out),
                                     (const attn_row *)rows,
                                     d_out, grads, NULL, 0, num_threads);
    if (!status && bad) status = GSL_EDOM;
    free(rows);
    return status;
}

size_t attn_exact_f64_bytes(const struct attn_shape *s, int backward)
{
    if (attn_shape_status(s, 0, 0)) return 0;
    const size_t n = num_rows(s), d = s->head_dim;
    return n * ((d + 2) * sizeof(double) + d * sizeof(float) + sizeof(attn_row)) +
           (backward ? n * (d * sizeof(float) + sizeof(attn_row)) : 0);
}
