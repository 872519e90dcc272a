#include "transformer/decoder_internal.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/pages.h"
#include "common/parallel.h"
#include "transformer/ops.h"

/* Tasks of a product: rows and columns of its result. Functions of the shape alone. */
enum { ROW_TASK = 256, COLUMN_TASK = 288, VECTOR_TASK = 96, ROWS_TASK = 8 };

struct decoder_run {
    const struct decoder *decoder;
    const struct decoder_prefix *prefix;
    size_t max_len, max_chunk, len;
    int num_threads;
    float *memory, *x, *h, *qkv, *q_raw, *attended, *gate_up, *turn, *k, *v;
    attn_row *rows;
    float *prefix_work, *few;
    struct decoder_keys *keys;      /* (kv_heads) of the block under way */
    size_t prefix_room;
    void *work;                     /* of the attention */
    size_t work_bytes;
    float *record;
    size_t record_len, record_at;   /* rows of a layer and head in `record`, and those filled */
};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

/* ---- y = x W^T ---------------------------------------------------------------------------------- */

struct product {
    const float *x, *W;
    float *y;
    size_t n, rows, cols, x_stride;     /* x (n, cols), W (rows, cols), y (n, rows) */
    float beta;
};

static void vector_task(void *context, size_t task, int thread)
{
    const struct product *p = context;
    const size_t first = task * VECTOR_TASK, count = least(VECTOR_TASK, p->rows - first);
    (void)thread;
    cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)count, (int)p->cols, 1.0f, p->W + first * p->cols, (int)p->cols, p->x,
                1,
                p->beta, p->y + first, 1);
}

static void matrix_task(void *context, size_t task, int thread)
{
    const struct product *p = context;
    const size_t blocks = ceil_div(p->rows, COLUMN_TASK);
    const size_t i = task / blocks * ROW_TASK, first = task % blocks * COLUMN_TASK;
    const size_t n = least(ROW_TASK, p->n - i), count = least(COLUMN_TASK, p->rows - first);
    (void)thread;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)count, (int)p->cols, 1.0f, p->x + i * p->x_stride,
                (int)p->x_stride, p->W + first * p->cols, (int)p->cols, p->beta, p->y + i * p->rows + first,
                    (int)p->rows);
}

static void multiply(struct product p, int num_threads)
{
    if (p.n == 1) parallel_for(ceil_div(p.rows, VECTOR_TASK), num_threads, vector_task, &p);
    else parallel_for(ceil_div(p.n, ROW_TASK) * ceil_div(p.rows, COLUMN_TASK), num_threads, matrix_task, &p);
}

/* ---- what happens row by row ------------------------------------------------------------------------ */

struct rows_job {
    struct decoder_run *run;
    const float *norm;
    size_t n, layer;
};

float decoder_norm_row(const float *x, const float *weight, size_t width, double eps, float *out)
{
    double square = 0.0;
    for (size_t c = 0; c < width; c++) square += (double)x[c] * (double)x[c];
    const float factor = (float)(1.0 / sqrt(square / (double)width + eps));
    for (size_t c = 0; c < width; c++) out[c] = x[c] * factor * weight[c];
    return factor;
}

static void norm_task(void *context, size_t task, int thread)
{
    const struct rows_job *job = context;
    const size_t width = job->run->decoder->config.hidden;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(job->n, (task + 1) * ROWS_TASK); i++)
        decoder_norm_row(job->run->x + i * width, job->norm, width, job->run->decoder->config.norm_eps,
                 job->run->h + i * width);
}

/* Queries and keys turn; keys and values go to the cache. */
static void rotate_task(void *context, size_t task, int thread)
{
    const struct rows_job *job = context;
    struct decoder_run *run = job->run;
    const struct decoder_config *c = &run->decoder->config;
    const size_t dim = c->head_dim, width = (c->num_heads + 2 * c->kv_heads) * dim, q_width = c->num_heads * dim;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(job->n, (task + 1) * ROWS_TASK); i++) {
        float *row = run->qkv + i * width;
        memcpy(run->q_raw + i * q_width, row, q_width * sizeof *row);
        for (size_t h = 0; h < c->num_heads + c->kv_heads; h++) ops_turn(row + h * dim, run->turn + i * dim, dim, 0);
        for (size_t g = 0; g < c->kv_heads; g++) {
            const size_t at = ((job->layer * c->kv_heads + g) * run->max_len + run->len + i) * dim;
            memcpy(run->k + at, row + (c->num_heads + g) * dim, dim * sizeof *row);
            memcpy(run->v + at, row + (c->num_heads + c->kv_heads + g) * dim, dim * sizeof *row);
        }
    }
}

/* sigmoid of n <= GATE_COLUMNS numbers, by the exponential of what is not positive. */
enum { GATE_COLUMNS = 256 };
static void sigmoids(const struct ops_kernels *k, const float *x, size_t n, float *s)
{
    for (size_t c = 0; c < n; c++) s[c] = -fabsf(x[c]);
    k->exp_row(n, 0.0f, s);
    for (size_t c = 0; c < n; c++) s[c] = (x[c] >= 0.0f ? 1.0f : s[c]) / (1.0f + s[c]);
}

/* silu(x) = x sigmoid(x) */
void decoder_gate_row(const float *gate_up, size_t mlp_dim, float *out)
{
    const struct ops_kernels *k = ops_current();
    float s[GATE_COLUMNS];
    for (size_t at = 0; at < mlp_dim; at += GATE_COLUMNS) {
        const size_t n = least(GATE_COLUMNS, mlp_dim - at);
        const float *x = gate_up + at, *up = x + mlp_dim;
        sigmoids(k, x, n, s);
        for (size_t c = 0; c < n; c++) out[at + c] = x[c] * s[c] * up[c];
    }
}

/* silu' = s + x s (1 - s) */
void decoder_gate_row_backward(float *gate_up, size_t mlp_dim, const float *d_out)
{
    const struct ops_kernels *k = ops_current();
    float s[GATE_COLUMNS];
    for (size_t at = 0; at < mlp_dim; at += GATE_COLUMNS) {
        const size_t n = least(GATE_COLUMNS, mlp_dim - at);
        float *x = gate_up + at, *up = x + mlp_dim;
        sigmoids(k, x, n, s);
        for (size_t c = 0; c < n; c++) {
            const float silu = x[c] * s[c], slope = s[c] + silu * (1.0f - s[c]);
            x[c] = d_out[at + c] * up[c] * slope;
            up[c] = d_out[at + c] * silu;
        }
    }
}

static void gate_task(void *context, size_t task, int thread)
{
    const struct rows_job *job = context;
    const size_t width = job->run->decoder->config.mlp_dim;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(job->n, (task + 1) * ROWS_TASK); i++) {
        float *gate = job->run->gate_up + 2 * i * width;
        decoder_gate_row(gate, width, gate);
    }
}

static void by_rows(struct rows_job *job, void (*task)(void *, size_t, int))
{
    parallel_for(ceil_div(job->n, ROWS_TASK), job->run->num_threads, task, job);
}

/* ---- one block ---------------------------------------------------------------------------------------- */

/* Of one token: the keys and values of the text, then what stands in front of it. */
static int attend_one(struct decoder_run *run, size_t layer, const struct attn_shape *shape, struct attn_in q,
                      struct attn_in raw, struct attn_out out)
{
    const struct decoder_config *c = &run->decoder->config;
    for (size_t g = 0; g < c->kv_heads; g++) {
        const size_t at = (layer * c->kv_heads + g) * run->max_len * c->head_dim;
        run->keys[g] = (struct decoder_keys){ run->k + at, run->v + at, run->len + 1 };
    }
    decoder_few_start(c, out, run->rows);
    decoder_few_merge(c, run->keys, q.data, q.head, out, run->rows, run->few, run->num_threads);
    const struct attn_in front = run->prefix && run->prefix->rotation == DECODER_UNROTATED ? raw : q;
    int status = GSL_SUCCESS;
    if (run->prefix)
        status = decoder_prefix_merge(c, run->prefix, layer, 1, front, out, run->rows, run->prefix_work,
                                      run->num_threads);
    if (!status) status = attn_partial_finish(shape, out, run->rows, NULL);
    if (!status && run->prefix) status = decoder_prefix_beside(c, run->prefix, layer, 1, front, out, run->prefix_work);
    return status;
}

static int attend(struct decoder_run *run, size_t layer, size_t n)
{
    const struct decoder_config *c = &run->decoder->config;
    const size_t dim = c->head_dim;
    const ptrdiff_t d = (ptrdiff_t)dim, width = (ptrdiff_t)((c->num_heads + 2 * c->kv_heads) * dim),
        q_width = (ptrdiff_t)(c->num_heads * dim);
    const size_t at = layer * c->kv_heads * run->max_len * dim;
    const struct attn_shape shape = { 1, c->num_heads, c->kv_heads, n, run->len + n, dim, 1, NULL };
    const struct attn_in q = { run->qkv, 0, d, width };
    const struct attn_in k = { run->k + at, 0, (ptrdiff_t)(run->max_len * dim), d }, v = { run->v + at, 0, k.head, d };
    const struct attn_out out = { run->attended, 0, d, q_width };
    const float scale = 1.0f / sqrtf((float)dim);
    const struct attn_in raw = { run->q_raw, 0, d, q_width };
    if (n == 1) return attend_one(run, layer, &shape, q, raw, out);
    const size_t needed = attn_exact_forward_workspace(&shape, 0, run->num_threads);
    void *work = needed <= run->work_bytes ? run->work : NULL;
    if (!run->prefix)
        return attn_exact_forward(&shape, scale, q, k, v, NULL, out, NULL, work, needed, run->num_threads, NULL);
    int status = attn_partial_forward(&shape, scale, q, k, v, NULL, out, run->rows, work, needed, run->num_threads);
    if (!status)
        status = decoder_prefix_merge(c, run->prefix, layer, n, run->prefix->rotation == DECODER_ROTATED ? q : raw, out,
                                      run->rows, run->prefix_work, run->num_threads);
    if (!status) status = attn_partial_finish(&shape, out, run->rows, NULL);
    if (!status) status = decoder_prefix_beside(c, run->prefix, layer, n, run->prefix->rotation == DECODER_ROTATED ? q
                                                : raw,
                                                out, run->prefix_work);
    return status;
}

static void record_queries(struct decoder_run *run, size_t layer, size_t n)
{
    const struct decoder_config *c = &run->decoder->config;
    const size_t dim = c->head_dim, width = (c->num_heads + 2 * c->kv_heads) * dim, q_width = c->num_heads * dim;
    const int raw = run->prefix && run->prefix->rotation == DECODER_UNROTATED;
    for (size_t h = 0; h < c->num_heads; h++)
        for (size_t i = 0; i < n; i++) {
            const float *from = raw ? run->q_raw + i * q_width + h * dim : run->qkv + i * width + h * dim;
            float *to = run->record + ((layer * c->num_heads + h) * run->record_len + run->record_at + i) * dim;
            memcpy(to, from, dim * sizeof *to);
        }
}

static int block(struct decoder_run *run, size_t layer, size_t n)
{
    const struct decoder_config *c = &run->decoder->config;
    const struct decoder_layer *w = &run->decoder->layers[layer];
    const size_t hidden = c->hidden, q_width = c->num_heads * c->head_dim,
        width = q_width + 2 * c->kv_heads * c->head_dim;
    const int threads = run->num_threads;
    struct rows_job job = { run, w->norm1, n, layer };
    by_rows(&job, norm_task);
    multiply((struct product){ run->h, w->qkv, run->qkv, n, width, hidden, hidden, 0.0f }, threads);
    by_rows(&job, rotate_task);
    if (run->record) record_queries(run, layer, n);
    const int status = attend(run, layer, n);
    if (status) return status;
    multiply((struct product){ run->attended, w->o, run->x, n, hidden, q_width, q_width, 1.0f }, threads);
    job.norm = w->norm2;
    by_rows(&job, norm_task);
    multiply((struct product){ run->h, w->gate_up, run->gate_up, n, 2 * c->mlp_dim, hidden, hidden, 0.0f }, threads);
    by_rows(&job, gate_task);
    multiply((struct product){ run->gate_up, w->down, run->x, n, hidden, c->mlp_dim, 2 * c->mlp_dim, 1.0f }, threads);
    return GSL_SUCCESS;
}

void decoder_turns(const struct decoder_config *c, size_t first, size_t n, float *turn)
{
    for (size_t i = 0; i < n; i++)
        for (size_t pair = 0; pair < c->head_dim; pair += 2) {
            const double angle = (double)(first + i) * pow(c->rope_base, -(double)pair / (double)c->head_dim);
            turn[i * c->head_dim + pair] = (float)cos(angle);
            turn[i * c->head_dim + pair + 1] = (float)sin(angle);
        }
}

static int read_chunk(struct decoder_run *run, const int32_t *ids, size_t n, float *hidden)
{
    const struct decoder_config *c = &run->decoder->config;
    for (size_t i = 0; i < n; i++)
        memcpy(run->x + i * c->hidden, run->decoder->embed + (size_t)ids[i] * c->hidden, c->hidden * sizeof(float));
    decoder_turns(c, (run->prefix ? run->prefix->positions : 0) + run->len, n, run->turn);
    for (size_t layer = 0; layer < c->num_layers; layer++) {
        const int status = block(run, layer, n);
        if (status) return status;
    }
    if (hidden) {
        struct rows_job job = { run, run->decoder->final_norm, n, 0 };
        by_rows(&job, norm_task);
        memcpy(hidden, run->h, n * c->hidden * sizeof *hidden);
    }
    run->len += n;
    run->record_at += n;
    return GSL_SUCCESS;
}

int decoder_read(struct decoder_run *run, const int32_t *ids, size_t n, float *hidden)
{
    const struct decoder_config *c = &run->decoder->config;
    const size_t start = run->len, in_front = run->prefix ? run->prefix->positions : 0;
    if (n > run->max_len - run->len || in_front > c->max_positions || run->len + n > c->max_positions - in_front)
        return GSL_EINVAL;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= c->vocab_size) return GSL_EINVAL;
    const size_t room = decoder_prefix_floats(c, run->prefix, run->max_chunk, run->num_threads);
    if (room > run->prefix_room) {
        float *grown = realloc(run->prefix_work, room * sizeof *grown);
        if (!grown) return GSL_ENOMEM;
        run->prefix_work = grown;
        run->prefix_room = room;
    }
    run->record_len = n;
    run->record_at = 0;
    int status = GSL_SUCCESS;
    for (size_t at = 0; at < n && !status; at += run->max_chunk)
        status = read_chunk(run, ids + at, least(run->max_chunk, n - at), hidden ? hidden + at * c->hidden : NULL);
    if (status) run->len = start;
    return status;
}

/* ---- logits -------------------------------------------------------------------------------------------------- */

void decoder_logits(const struct decoder *decoder, const float *hidden, size_t n, float *logits, int num_threads)
{
    const struct decoder_config *c = &decoder->config;
    multiply((struct product){ hidden, decoder->output, logits, n, c->vocab_size, c->hidden, c->hidden, 0.0f },
             num_threads);
}

void decoder_log_softmax(float *logits, size_t n)
{
    float most = -INFINITY;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        if (logits[i] > most) most = logits[i];
    for (size_t i = 0; i < n; i++) sum += (double)expf(logits[i] - most);
    const float shift = (float)((double)most + log(sum));
    for (size_t i = 0; i < n; i++) logits[i] -= shift;
}

int32_t decoder_argmax(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

/* Where each array starts; the total as a number of floats. Reads run->num_threads. */
static size_t lay_out(const struct decoder_config *c, size_t max_len, size_t max_chunk, struct decoder_run *run)
{
    const size_t q_width = c->num_heads * c->head_dim, kv = c->num_layers * c->kv_heads * max_len * c->head_dim;
    const size_t sizes[] = { max_chunk * c->hidden, max_chunk * c->hidden,
                             max_chunk * (q_width + 2 * c->kv_heads * c->head_dim),
                             max_chunk * q_width, max_chunk * q_width, max_chunk * 2 * c->mlp_dim,
                             max_chunk * c->head_dim,
                             max_chunk * c->num_heads * 2, kv, kv, decoder_few_floats(c, max_len, run->num_threads) };
    float **const places[] = { &run->x, &run->h, &run->qkv, &run->q_raw, &run->attended, &run->gate_up, &run->turn,
                               NULL, &run->k, &run->v, &run->few };
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (run->memory && places[i]) *places[i] = run->memory + at;
        if (run->memory && !places[i]) run->rows = (attn_row *)(run->memory + at);
        at += (sizes[i] + 15) / 16 * 16;
    }
    return at;
}

static size_t attention_bytes(const struct decoder_config *c, size_t max_len, size_t max_chunk, int num_threads)
{
    struct attn_shape shape = { 1, c->num_heads, c->kv_heads, max_chunk, max_len, c->head_dim, 1, NULL };
    const size_t many = attn_exact_forward_workspace(&shape, 0, num_threads);
    shape.len_q = 1;
    const size_t one = attn_exact_forward_workspace(&shape, 0, num_threads);
    return many > one ? many : one;
}

size_t decoder_run_bytes(const struct decoder_config *config, size_t max_len, size_t max_chunk, int num_threads)
{
    const double kv =
        8.0 * (double)config->num_layers * (double)config->kv_heads * (double)max_len * (double)config->head_dim;
    if (!(kv < 1e17) || max_chunk > max_len) return SIZE_MAX;
    struct decoder_run run = { .num_threads = num_threads };
    return lay_out(config, max_len, max_chunk, &run) * sizeof(float) + attention_bytes(config, max_len, max_chunk,
        num_threads);
}

int decoder_run_alloc(const struct decoder *decoder, const struct decoder_prefix *prefix, size_t max_len,
                      size_t max_chunk,
                      int num_threads, struct decoder_run **out)
{
    const struct decoder_config *c = &decoder->config;
    *out = NULL;
    if (!max_len || !max_chunk || num_threads < 1) return GSL_EINVAL;
    max_chunk = least(max_chunk, max_len);
    if (decoder_run_bytes(c, max_len, max_chunk, num_threads) == SIZE_MAX) return GSL_ENOMEM;
    struct decoder_run *run = calloc(1, sizeof *run);
    if (!run) return GSL_ENOMEM;
    *run = (struct decoder_run){ .decoder = decoder, .prefix = prefix, .max_len = max_len, .max_chunk = max_chunk,
                                 .num_threads = num_threads };
    run->work_bytes = attention_bytes(c, max_len, max_chunk, num_threads);
    run->memory = pages_alloc(lay_out(c, max_len, max_chunk, run) * sizeof *run->memory);
    run->work = malloc(run->work_bytes + 1);
    run->keys = calloc(c->kv_heads, sizeof *run->keys);
    if (!run->memory || !run->work || !run->keys) {
        decoder_run_free(run);
        return GSL_ENOMEM;
    }
    lay_out(c, max_len, max_chunk, run);
    *out = run;
    return GSL_SUCCESS;
}

void decoder_run_free(struct decoder_run *run)
{
    if (!run) return;
    free(run->memory);
    free(run->prefix_work);
    free(run->keys);
    free(run->work);
    free(run);
}

void decoder_run_rewind(struct decoder_run *run, size_t len) { run->len = least(run->len, len); }
void decoder_run_set_prefix(struct decoder_run *run, const struct decoder_prefix *prefix) { run->prefix = prefix; }
size_t decoder_run_length(const struct decoder_run *run) { return run->len; }
void decoder_run_record(struct decoder_run *run, float *queries) { run->record = queries; }

const float *decoder_run_keys(const struct decoder_run *run, size_t layer, size_t kv_head)
{
    const struct decoder_config *c = &run->decoder->config;
    return run->k + (layer * c->kv_heads + kv_head) * run->max_len * c->head_dim;
}

const float *decoder_run_values(const struct decoder_run *run, size_t layer, size_t kv_head)
{
    const struct decoder_config *c = &run->decoder->config;
    return run->v + (layer * c->kv_heads + kv_head) * run->max_len * c->head_dim;
}
