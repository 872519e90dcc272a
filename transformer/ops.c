#include "transformer/ops.h"

#include <cblas.h>
#include <string.h>

#include "common/parallel.h"

/* Rows of a product per task: enough that packing W again for each costs a few percent. Smaller products are cut
 * into at least FEWEST tasks, so that two to four threads have something to do. */
enum { TASK_ROWS = 256, FEWEST = 4, LEAST_ROWS = 48, PASS_ROWS = 32, COLUMNS = 64, TASK_OUT = 256, ZEROS = 1 << 18 };

const struct ops_kernels *ops_current(void)
{
#define KERNELS(isa) &ops_kernels_##isa
    static const struct ops_kernels *const all[] = ISA_TABLE(KERNELS);
    return all[isa_current()];
}

static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Rows per task of a product of `rows` rows: about equal tasks, an even number of them. */
static size_t task_rows(size_t rows)
{
    size_t tasks = ceil_div(rows, TASK_ROWS);
    if (tasks < FEWEST) tasks = least(FEWEST, ceil_div(rows, LEAST_ROWS));
    if (tasks > 1 && tasks % 2) tasks++;
    return ceil_div(ceil_div(rows, tasks), 16) * 16;
}

struct product {
    size_t rows, in, out, ldx, ldy, chunk;
    float alpha, beta;
    const float *x, *W;
    float *y;
    const struct epilogue *epilogue;
    const float *slope;
    const struct ops_kernels *k;
};

static void finish_rows(const struct product *p, size_t r0, size_t rows)
{
    const struct epilogue *e = p->epilogue;
    float *y = p->y + r0 * p->ldy;
    const size_t at = r0 * p->out;
    if (e->gelu) p->k->bias_gelu(rows, p->out, e->bias, y, e->slope ? e->slope + at : NULL, p->ldy);
    else if (e->residual)
        p->k->bias_residual(rows, p->out, e->bias, e->scale, e->residual + at, e->branch ? e->branch + at : NULL, y);
    else if (e->bias) p->k->add_bias(rows, p->out, e->bias, y, p->ldy);
}

static void linear_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct product *p = context;
    const size_t r0 = task * p->chunk, rows = least(p->chunk, p->rows - r0);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)p->out, (blasint)p->in, p->alpha,
                p->x + r0 * p->ldx, (blasint)p->ldx, p->W, (blasint)p->in, p->beta, p->y + r0 * p->ldy,
                (blasint)p->ldy);
    if (p->epilogue) finish_rows(p, r0, rows);
}

void ops_linear(size_t rows, size_t in, size_t out, const float *x, size_t ldx, const float *W, float *y, size_t ldy,
                int add, const struct epilogue *epilogue, int num_threads)
{
    if (!rows) return;
    struct product p = { .rows = rows, .in = in, .out = out, .ldx = ldx, .ldy = ldy, .chunk = task_rows(rows),
                         .alpha = 1.0f, .beta = add ? 1.0f : 0.0f, .x = x, .W = W, .y = y, .epilogue = epilogue,
                         .k = ops_current() };
    parallel_for(ceil_div(rows, p.chunk), num_threads, linear_task, &p);
}

/* Here x stands for dy and y for dx. */
static void linear_dx_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct product *p = context;
    const size_t r0 = task * p->chunk, rows = least(p->chunk, p->rows - r0);
    float *dx = p->y + r0 * p->ldy;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)p->in, (blasint)p->out, p->alpha,
                p->x + r0 * p->ldx, (blasint)p->ldx, p->W, (blasint)p->in, p->beta, dx, (blasint)p->ldy);
    for (size_t r = 0; p->slope && r < rows; r++)
        p->k->multiply(p->in, p->slope + (r0 + r) * p->in, dx + r * p->ldy);
}

void ops_linear_dx(size_t rows, size_t in, size_t out, float alpha, const float *dy, size_t lddy, const float *W,
                   float *dx, size_t lddx, int add, const float *slope, int num_threads)
{
    if (!rows) return;
    struct product p = { .rows = rows, .in = in, .out = out, .ldx = lddy, .ldy = lddx, .chunk = task_rows(rows),
                         .alpha = alpha, .beta = add ? 1.0f : 0.0f, .x = dy, .W = W, .y = dx, .slope = slope,
                         .k = ops_current() };
    parallel_for(ceil_div(rows, p.chunk), num_threads, linear_dx_task, &p);
}

struct weight_product {
    size_t rows, in, out, lddy, ldx, chunk;
    float alpha;
    const float *dy, *x;
    float *dW;
};

static void linear_dW_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct weight_product *p = context;
    const size_t o0 = task * p->chunk, out = least(p->chunk, p->out - o0);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)out, (blasint)p->in, (blasint)p->rows, p->alpha,
                p->dy + o0, (blasint)p->lddy, p->x, (blasint)p->ldx, 0.0f, p->dW + o0 * p->in, (blasint)p->in);
}

void ops_linear_dW(size_t rows, size_t in, size_t out, float alpha, const float *dy, size_t lddy, const float *x,
                   size_t ldx, float *dW, int num_threads)
{
    size_t tasks = ceil_div(out, TASK_OUT);
    if (tasks < 2 && out >= 2 * LEAST_ROWS) tasks = 2;
    if (tasks > 1 && tasks % 2) tasks++;
    struct weight_product p = { rows, in, out, lddy, ldx, ceil_div(ceil_div(out, tasks), 16) * 16, alpha, dy, x, dW };
    parallel_for(ceil_div(out, p.chunk), num_threads, linear_dW_task, &p);
}

struct columns {
    size_t rows, n, ld;
    const float *a, *b, *stats;
    float *sum, *sum2;
    const struct ops_kernels *k;
};

static void columns_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct columns *p = context;
    const size_t c = task * COLUMNS, n = least(COLUMNS, p->n - c);
    if (p->stats)
        p->k->norm_columns(p->rows, n, p->ld, p->a + c, p->stats, p->b + c, p->sum + c, p->sum2 + c);
    else
        p->k->sum_columns(p->rows, n, p->ld, p->a + c, p->b ? p->b + c : NULL, p->sum + c);
}

void ops_sum_columns(size_t rows, size_t n, size_t ld, const float *a, const float *b, float *sum, int num_threads)
{
    struct columns p = { rows, n, ld, a, b, NULL, sum, NULL, ops_current() };
    parallel_for(ceil_div(n, COLUMNS), num_threads, columns_task, &p);
}

struct zeros { size_t n; float *x; };

static void zero_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct zeros *p = context;
    const size_t from = task * ZEROS;
    memset(p->x + from, 0, least(ZEROS, p->n - from) * sizeof(float));
}

void ops_zero(size_t n, float *x, int num_threads)
{
    struct zeros p = { n, x };
    parallel_for(ceil_div(n, ZEROS), num_threads, zero_task, &p);
}

struct pass {
    size_t rows, n;
    float eps;
    const float *x, *weight, *bias, *dy, *residual;
    float *y, *stats;
    const struct ops_kernels *k;
};

static void norm_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct pass *p = context;
    const size_t r = task * PASS_ROWS, rows = least(PASS_ROWS, p->rows - r), at = r * p->n;
    p->k->norm(rows, p->n, p->eps, p->x + at, p->weight, p->bias, p->y + at, p->stats ? p->stats + 2 * r : NULL);
}

void ops_norm(size_t rows, size_t n, float eps, const float *x, const float *weight, const float *bias, float *y,
              float *stats, int num_threads)
{
    struct pass p = { .rows = rows, .n = n, .eps = eps, .x = x, .weight = weight, .bias = bias, .y = y,
                      .stats = stats, .k = ops_current() };
    parallel_for(ceil_div(rows, PASS_ROWS), num_threads, norm_task, &p);
}

static void norm_backward_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct pass *p = context;
    const size_t r = task * PASS_ROWS, rows = least(PASS_ROWS, p->rows - r), at = r * p->n;
    p->k->norm_backward(rows, p->n, p->x + at, p->stats + 2 * r, p->weight, p->dy + at,
                        p->residual ? p->residual + at : NULL, p->y + at);
}

void ops_norm_backward(size_t rows, size_t n, const float *x, const float *stats, const float *weight, const float *dy,
                       const float *residual, float *dx, float *d_weight, float *d_bias, int num_threads)
{
    if (d_weight) {
        struct columns c = { rows, n, n, x, dy, stats, d_weight, d_bias, ops_current() };
        parallel_for(ceil_div(n, COLUMNS), num_threads, columns_task, &c);
    }
    if (!dx) return;
    struct pass p = { .rows = rows, .n = n, .x = x, .stats = (float *)stats, .weight = weight, .dy = dy,
                      .residual = residual, .y = dx, .k = ops_current() };
    parallel_for(ceil_div(rows, PASS_ROWS), num_threads, norm_backward_task, &p);
}

static void scale_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct pass *p = context;
    const size_t r = task * PASS_ROWS, rows = least(PASS_ROWS, p->rows - r), at = r * p->n;
    p->k->scale_columns(rows, p->n, p->weight, p->x + at, p->y + at);
}

void ops_scale_columns(size_t rows, size_t n, const float *scale, const float *a, float *y, int num_threads)
{
    struct pass p = { .rows = rows, .n = n, .x = a, .weight = scale, .y = y, .k = ops_current() };
    parallel_for(ceil_div(rows, PASS_ROWS), num_threads, scale_task, &p);
}

void ops_turn(float *x, const float *turn, size_t dim, int back)
{
    for (size_t c = 0; c < dim; c += 2) {
        const float a = x[c], b = x[c + 1], cosine = turn[c], sine = back ? -turn[c + 1] : turn[c + 1];
        x[c] = a * cosine - b * sine;
        x[c + 1] = a * sine + b * cosine;
    }
}
