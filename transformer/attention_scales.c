#include "transformer/attention_scales.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* sum_j e^{s_j} = e^top sum, over scores that come one by one. */
struct exp_sum { double top, sum; };

static const struct exp_sum none = { -INFINITY, 0.0 };

static void add_score(struct exp_sum *e, double s)
{
    if (s > e->top) {
        e->sum = e->sum * exp(e->top - s) + 1.0;
        e->top = s;
    } else {
        e->sum += exp(s - e->top);
    }
}

static double score(const struct scale_rows *x, const float *q, const float *key)
{
    return 1.0 / sqrt((double)x->head_dim) * (double)cblas_sdot((blasint)x->head_dim, q, 1, key, 1);
}

/* ln of the mass that row i of a head, of the text from row `from` to row `to`, has among its own keys. */
static double log_mass(const struct scale_rows *x, size_t head, size_t from, size_t to, size_t i)
{
    const size_t d = x->head_dim;
    const float *q = x->q + i * x->stride + head * d;
    const float *keys = x->keys + from * x->stride + head / (x->heads / x->kv_heads) * d;
    struct exp_sum e = none;
    for (size_t j = 0; j < (x->causal ? i + 1 : to) - from; j++) add_score(&e, score(x, q, keys + j * x->stride));
    return e.top + log(e.sum);
}

/* The unit of a summary from the mean of the masses of rows and their geometric mean. */
static double unit_of(double mean, double geometric)
{
    /* Beyond this spread a few rows are the whole mean, and its float32 multiples may overflow. */
    static const double heavy = 1e6, largest = 1e30;
    const double unit = mean <= heavy * geometric ? mean : geometric;
    return unit < largest ? unit : largest;
}

/* moment += w^2 phi(q) phi(q)^T over the rows of one head; log_weight: ln w of each row, NULL: w = 1. */
static int add_moment(const struct scale_rows *x, const feature_map *map, size_t head, const double *log_weight,
                      float *phi, double *moment)
{
    const size_t r = feature_dim(map);
    const float *q = x->feature_q + head * x->head_dim;
    const int status = feature_forward_f32(map, FEATURE_QUERY, x->rows, q, x->feature_stride, phi, r, NULL, 1, NULL);
    if (status) return status;
    for (size_t i = 0; i < x->rows; i++) {
        const double w = log_weight ? exp(2.0 * log_weight[i]) : 1.0;
        const float *row = phi + i * r;
        for (size_t f = 0; f < r; f++)
            for (size_t g = 0; g < r; g++) moment[f * r + g] += w * (double)row[f] * (double)row[g] / (double)x->rows;
    }
    return GSL_SUCCESS;
}

/* Masses of one head, their logarithms left in logs (rows), and the size of its results. */
static void head_scales(const struct scale_rows *x, size_t head, double *logs, double *mean_mass, double *size)
{
    const size_t d = x->head_dim;
    double squares = 0.0, mean = 0.0, log_sum = 0.0;
    for (size_t t = 0; t < x->num_seqs; t++)
        for (size_t i = x->offsets[t]; i < x->offsets[t + 1]; i++) {
            logs[i] = log_mass(x, head, x->offsets[t], x->offsets[t + 1], i);
            mean += exp(logs[i]);
            log_sum += logs[i];
            const float *result = x->context + i * x->context_stride + head * d;
            for (size_t c = 0; c < d; c++) squares += pow((double)result[c], 2.0);
        }
    *mean_mass = unit_of(mean / (double)x->rows, exp(log_sum / (double)x->rows));
    *size = sqrt(squares / (double)(x->rows * d));
}

int attention_scales(const struct scale_rows *x, const feature_map *map, int divided, double *mean_mass, double *moment,
                     double *size)
{
    const size_t r = moment ? feature_dim(map) : 0;
    double *logs = malloc(x->rows * sizeof *logs);
    float *phi = malloc((x->rows * r + 1) * sizeof *phi);
    int status = logs && phi ? GSL_SUCCESS : GSL_ENOMEM;
    if (moment) memset(moment, 0, x->heads * r * r * sizeof *moment);
    for (size_t head = 0; head < x->heads && !status; head++) {
        head_scales(x, head, logs, &mean_mass[head], &size[head]);
        for (size_t i = 0; i < x->rows; i++) logs[i] = -logs[i];
        if (moment) status = add_moment(x, map, head, divided ? logs : NULL, phi, moment + head * r * r);
    }
    free(phi);
    free(logs);
    return status;
}

/* Of one row of a head: ln of the mass of prefix keys K, and the standard deviation of its scores. */
static double prefix_log_mass(const struct scale_rows *x, size_t head, size_t i, const float *K, size_t prefix_len,
                              double *spread)
{
    const size_t d = x->head_dim, width = x->kv_heads * d;
    const float *q = x->q + i * x->stride + head * d, *keys = K + head / (x->heads / x->kv_heads) * d;
    struct exp_sum e = none;
    double sum = 0.0, squares = 0.0;
    for (size_t j = 0; j < prefix_len; j++) {
        const double s = score(x, q, keys + j * width);
        add_score(&e, s);
        sum += s / (double)prefix_len;
        squares += s * s / (double)prefix_len;
    }
    *spread = sqrt(fmax(squares - sum * sum, 0.0));
    return e.top + log(e.sum);
}

void attention_prefix_scores(const struct scale_rows *x, const float *K, size_t prefix_len, double *mass,
                             double *spread)
{
    for (size_t head = 0; head < x->heads; head++) {
        mass[head] = spread[head] = 0.0;
        for (size_t t = 0; t < x->num_seqs; t++)
            for (size_t i = x->offsets[t]; i < x->offsets[t + 1]; i++) {
                const double own = log_mass(x, head, x->offsets[t], x->offsets[t + 1], i);
                double deviation;
                const double prefix = prefix_log_mass(x, head, i, K, prefix_len, &deviation);
                mass[head] += 1.0 / (1.0 + exp(own - prefix)) / (double)x->rows;
                spread[head] += deviation / (double)x->rows;
            }
    }
}
