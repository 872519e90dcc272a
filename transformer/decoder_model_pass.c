#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/parallel.h"
#include "transformer/attention_scales.h"
#include "transformer/decoder_model_internal.h"
#include "transformer/ops.h"

/* Rows of a pass, and rows of the output matrix, per task. */
enum { ROWS_TASK = 8, OUTPUT_TASK = 2048 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Whether block `layer` adapts its input in projection `which`. */
static int adapts(const struct decoder_model *m, size_t layer, enum projection which)
{
    return m->adapter.ops->project && adapter_in_layer(&m->adapter, layer) &&
           (m->adapter.options.targets >> which & 1);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

struct rows_job {
    const struct decoder_model *m;
    size_t n;
    const float *x, *weight, *dy, *factor;
    float *y, *factors, *dx;
    struct decoder_state *state;
};

static void by_rows(struct rows_job *job, void (*task)(void *, size_t, int))
{
    parallel_for((job->n + ROWS_TASK - 1) / ROWS_TASK, job->m->num_threads, task, job);
}

static void norm_task(void *context, size_t task, int thread)
{
    const struct rows_job *j = context;
    const size_t h = j->m->config.hidden;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(j->n, (task + 1) * ROWS_TASK); i++)
        j->factors[i] = decoder_norm_row(j->x + i * h, j->weight, h, j->m->config.norm_eps, j->y + i * h);
}

/* y = RMSNorm(x) weight */
static void norm(const struct decoder_model *m, const float *x, const float *weight, float *y, float *factors)
{
    struct rows_job job = { .m = m, .n = m->rows, .x = x, .weight = weight, .y = y, .factors = factors };
    by_rows(&job, norm_task);
}

/* With x^ = x factor and g = weight dy: dx [+]= factor (g - x^ mean(g x^)); y, where the weight is trained, = x^. */
static void norm_backward_task(void *context, size_t task, int thread)
{
    const struct rows_job *j = context;
    const size_t h = j->m->config.hidden;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(j->n, (task + 1) * ROWS_TASK); i++) {
        const float *x = j->x + i * h, *dy = j->dy + i * h, factor = j->factor[i];
        float *dx = j->dx ? j->dx + i * h : NULL;
        double mean = 0.0;
        for (size_t c = 0; c < h; c++) mean += (double)j->weight[c] * (double)dy[c] * (double)x[c];
        const float along = (float)(mean * (double)factor / (double)h);
        for (size_t c = 0; j->y && c < h; c++) j->y[i * h + c] = x[c] * factor;
        for (size_t c = 0; dx && c < h; c++) {
            const float own = factor * (j->weight[c] * dy[c] - x[c] * factor * along);
            dx[c] = j->factors ? dx[c] + own : own;
        }
    }
}

/* dx (NULL: not wanted) gets the gradient, added where `add`; d_weight where trained. scratch (rows, hidden), not dy.
 * */
static void norm_backward(const struct decoder_model *m, const float *x, const float *factor, const struct norm *w,
                          const float *dy, float *dx, int add, float *scratch)
{
    float mark = 0.0f;
    struct rows_job job = { .m = m, .n = m->rows, .x = x, .weight = w->weight, .dy = dy, .factor = factor,
                            .y = w->d_weight ? scratch : NULL, .factors = add ? &mark : NULL, .dx = dx };
    const size_t h = m->config.hidden;
    by_rows(&job, norm_backward_task);
    if (w->d_weight) ops_sum_columns(m->rows, h, h, dy, scratch, w->d_weight, m->num_threads);
}

/* Position of row i in its text: rows of a text follow each other. */
static void turn_text(const struct decoder_model *m, struct decoder_state *s, size_t first, size_t end)
{
    const struct decoder_config *c = &m->config;
    const size_t width = decoder_qkv_width(c), q_width = decoder_q_width(c), dim = c->head_dim;
    for (size_t i = first; i < end; i++) {
        float *row = s->qkv + i * width;
        if (s->raw) memcpy(s->raw + i * q_width, row, q_width * sizeof *row);
        for (size_t h = 0; h < c->num_heads + c->kv_heads; h++)
            ops_turn(row + h * dim, m->turn + (i - first) * dim, dim, 0);
    }
}

static void gate_task(void *context, size_t task, int thread)
{
    const struct rows_job *j = context;
    const size_t n = j->m->config.mlp_dim;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(j->n, (task + 1) * ROWS_TASK); i++)
        decoder_gate_row(j->state->gate_up + 2 * i * n, n, j->state->mlp + i * n);
}

static void gate_backward_task(void *context, size_t task, int thread)
{
    const struct rows_job *j = context;
    const size_t n = j->m->config.mlp_dim;
    (void)thread;
    for (size_t i = task * ROWS_TASK; i < least(j->n, (task + 1) * ROWS_TASK); i++)
        decoder_gate_row_backward(j->state->gate_up + 2 * i * n, n, j->dy + i * n);
}

/* ---- one block ------------------------------------------------------------------------------------------- */

/* y (rows, out) = [y +] x W^T and what the adapter adds. */
static void project(struct decoder_model *m, size_t layer, enum projection which, const float *weight, size_t in,
                    size_t out, const float *x, float *y, int add, int training)
{
    struct adapter *a = &m->adapter;
    if (adapts(m, layer, which)) add = a->ops->project(a, layer, which, m->rows, x, in, y, out, add, training);
    ops_linear(m->rows, in, out, x, in, weight, y, out, add, NULL, m->num_threads);
}

/* Where q, k, v begin in a row of qkv. */
static size_t column_of(const struct decoder_config *c, enum projection which)
{
    return which == PROJ_Q ? 0 : decoder_q_width(c) + (which == PROJ_V ? decoder_kv_width(c) : 0);
}

int decoder_model_extra(struct decoder_model *m, size_t layer, int training, struct attention_extra *extra)
{
    *extra = (struct attention_extra){ .kind = ATTENTION_PLAIN };
    if (!m->adapter.ops->prepare || !adapter_in_layer(&m->adapter, layer)) return GSL_SUCCESS;
    return m->adapter.ops->prepare(&m->adapter, layer, training, extra);
}

static int block_forward(struct decoder_model *m, size_t layer, const float *input, int training)
{
    const struct decoder_config *c = &m->config;
    const struct block *b = &m->blocks[layer];
    struct decoder_state *s = &m->states[layer];
    const size_t h = c->hidden, q_width = decoder_q_width(c), width = decoder_qkv_width(c);
    s->input = input;
    norm(m, input, b->norm1.weight, s->normed1, s->factor1);
    ops_linear(m->rows, h, width, s->normed1, h, b->qkv.weight, s->qkv, width, 0, NULL, m->num_threads);
    for (enum projection which = PROJ_Q; which <= PROJ_V; which++)
        if (adapts(m, layer, which))
            m->adapter.ops->project(&m->adapter, layer, which, m->rows, s->normed1, h, s->qkv + column_of(c, which),
                                    width, 1, training);
    for (size_t i = 0; i < m->batch.num_seqs; i++) turn_text(m, s, m->batch.offsets[i], m->batch.offsets[i + 1]);
    struct attention_extra extra;
    int status = decoder_model_extra(m, layer, training, &extra);
    if (!status) status = decoder_attention_forward(m, s, &extra);
    if (status) return status;
    memcpy(s->sum, input, m->rows * h * sizeof *s->sum);
    project(m, layer, PROJ_O, b->o.weight, q_width, h, s->context, s->sum, 1, training);
    norm(m, s->sum, b->norm2.weight, s->normed2, s->factor2);
    project(m, layer, PROJ_FC1, b->fc1.weight, h, 2 * c->mlp_dim, s->normed2, s->gate_up, 0, training);
    struct rows_job job = { .m = m, .n = m->rows, .state = s };
    by_rows(&job, gate_task);
    memcpy(s->output, s->sum, m->rows * h * sizeof *s->output);
    project(m, layer, PROJ_FC2, b->fc2.weight, c->mlp_dim, h, s->mlp, s->output, 1, training);
    return GSL_SUCCESS;
}

/* dW where trained, the adapter's, and dx (NULL: not wanted) = dy W + the adapter's. dy has stride lddy. */
static void project_backward(struct decoder_model *m, size_t layer, enum projection which, const struct linear *w,
                             size_t in, size_t out, const float *x, const float *dy, float *dx)
{
    struct adapter *a = &m->adapter;
    int add = 0;
    if (w->d_weight) ops_linear_dW(m->rows, in, out, 1.0f, dy, out, x, in, w->d_weight, m->num_threads);
    if (adapts(m, layer, which))
        add = a->ops->project_backward(a, layer, which, m->rows, x, in, dy, out, dx, in, 0);
    if (dx) ops_linear_dx(m->rows, in, out, 1.0f, dy, out, w->weight, dx, in, add, NULL, m->num_threads);
}

static int trains_qkv(const struct decoder_model *m, size_t layer)
{
    return m->blocks[layer].qkv.d_weight || adapts(m, layer, PROJ_Q) || adapts(m, layer, PROJ_K) ||
           adapts(m, layer, PROJ_V);
}

/* d_qkv in m->wide to the gradients of the projections; dx (NULL: not wanted) = its part. */
static void qkv_backward(struct decoder_model *m, size_t layer, const float *x, float *dx)
{
    const struct linear *w = &m->blocks[layer].qkv;
    const size_t h = m->config.hidden, width = decoder_qkv_width(&m->config);
    struct adapter *a = &m->adapter;
    int add = 0;
    if (w->d_weight) ops_linear_dW(m->rows, h, width, 1.0f, m->wide, width, x, h, w->d_weight, m->num_threads);
    for (enum projection which = PROJ_Q; which <= PROJ_V; which++)
        if (adapts(m, layer, which))
            add = a->ops->project_backward(a, layer, which, m->rows, x, h, m->wide + column_of(&m->config, which),
                                           width, dx, h, add);
    if (dx) ops_linear_dx(m->rows, h, width, 1.0f, m->wide, width, w->weight, dx, h, add, NULL, m->num_threads);
}

/* grad in: of the block's output; out: of its input, when `below`. */
static int block_backward(struct decoder_model *m, size_t layer, float *grad, int below)
{
    const struct decoder_config *c = &m->config;
    const struct block *b = &m->blocks[layer];
    struct decoder_state *s = &m->states[layer];
    const size_t h = c->hidden, q_width = decoder_q_width(c);
    struct rows_job job = { .m = m, .n = m->rows, .state = s, .dy = m->wide };
    project_backward(m, layer, PROJ_FC2, &b->fc2, c->mlp_dim, h, s->mlp, grad, m->wide);
    by_rows(&job, gate_backward_task);
    project_backward(m, layer, PROJ_FC1, &b->fc1, h, 2 * c->mlp_dim, s->normed2, s->gate_up, m->narrow);
    norm_backward(m, s->sum, s->factor2, &b->norm2, m->narrow, grad, 1, s->output);

    struct attention_extra extra;
    int status = decoder_model_extra(m, layer, 2, &extra);
    if (status) return status;
    const int prepares = extra.kind != ATTENTION_PLAIN, through = below || b->norm1.d_weight || trains_qkv(m, layer);
    if (!through && !prepares && !b->o.d_weight && !adapts(m, layer, PROJ_O)) return GSL_SUCCESS;
    /* d_context takes the place of the MLP's rows, which nothing reads any more; narrow is free for d q before it
     * turned. */
    float *d_context = s->gate_up;
    project_backward(m, layer, PROJ_O, &b->o, q_width, h, s->context, grad, d_context);
    status = decoder_attention_backward(m, s, &extra, d_context, m->wide, through);
    if (status) return status;
    if (prepares && m->adapter.ops->finish) m->adapter.ops->finish(&m->adapter, layer, &extra);
    if (!through) return GSL_SUCCESS;
    float *d_normed = below || b->norm1.d_weight ? m->narrow : NULL;
    qkv_backward(m, layer, s->normed1, d_normed);
    if (d_normed) norm_backward(m, s->input, s->factor1, &b->norm1, d_normed, below ? grad : NULL, 1, s->output);
    return GSL_SUCCESS;
}

/* ---- passes ----------------------------------------------------------------------------------------------- */

static int check_batch(const struct decoder_model *m, const struct decoder_batch *b)
{
    const struct decoder_config *c = &m->config;
    if (!m->memory || !b->num_seqs || !b->offsets || b->offsets[0] || (!b->ids && !b->hidden)) return GSL_EINVAL;
    if (b->hidden && b->first_layer > c->num_layers) return GSL_EINVAL;
    for (size_t i = 0; i < b->num_seqs; i++) {
        if (b->offsets[i + 1] <= b->offsets[i] || b->offsets[i + 1] - b->offsets[i] > m->max_len) return GSL_EINVAL;
        if (b->offsets[i + 1] - b->offsets[i] + m->positions > c->max_positions) return GSL_EINVAL;
    }
    const size_t rows = b->offsets[b->num_seqs];
    if (rows > m->max_rows) return GSL_EINVAL;
    for (size_t i = 0; b->ids && i < rows; i++)
        if (b->ids[i] < 0 || (size_t)b->ids[i] >= c->vocab_size) return GSL_EINVAL;
    return GSL_SUCCESS;
}

/* Blocks up to `to`. */
static int run_blocks(struct decoder_model *m, const struct decoder_batch *batch, size_t to, int training,
                      const float **output)
{
    const size_t h = m->config.hidden, from = batch->ids ? 0 : batch->first_layer;
    m->can_loss = m->can_backward = 0;
    int status = check_batch(m, batch);
    if (!status && (from > to || (training && (!m->training || from > m->first_trained)))) status = GSL_EINVAL;
    if (!status && training && !batch->ids && m->trains_input) status = GSL_EINVAL;
    if (status) return status;
    m->batch = *batch;
    m->rows = batch->offsets[batch->num_seqs];
    *output = batch->hidden;
    for (size_t i = 0; batch->ids && i < m->rows; i++)
        memcpy(m->embedded + i * h, m->embed + (size_t)batch->ids[i] * h, h * sizeof *m->embedded);
    if (batch->ids) *output = m->embedded;
    for (size_t l = from; l < to; l++) {
        if ((status = block_forward(m, l, *output, training))) return status;
        *output = m->states[l].output;
    }
    return GSL_SUCCESS;
}

int decoder_model_forward(struct decoder_model *m, const struct decoder_batch *batch, int training)
{
    const int status = run_blocks(m, batch, m->config.num_layers, training, &m->last_output);
    if (status) return status;
    norm(m, m->last_output, m->final_norm.weight, m->final, m->final_factor);
    m->can_loss = 1;
    m->can_backward = training;
    return GSL_SUCCESS;
}

int decoder_model_hidden(struct decoder_model *m, const struct decoder_batch *batch, size_t layer, float *out)
{
    const float *output;
    if (layer > m->config.num_layers) return GSL_EINVAL;
    const int status = run_blocks(m, batch, layer, 0, &output);
    if (!status) memcpy(out, output, m->rows * m->config.hidden * sizeof *out);
    return status;
}

static struct scale_rows scale_rows_of(const struct decoder_model *m, size_t layer)
{
    const struct decoder_config *c = &m->config;
    const struct decoder_state *s = &m->states[layer];
    const size_t width = decoder_qkv_width(c), q_width = decoder_q_width(c);
    return (struct scale_rows){
        .heads = c->num_heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .num_seqs = m->batch.num_seqs,
        .rows = m->rows, .offsets = m->batch.offsets, .causal = 1, .q = s->qkv, .keys = s->qkv + q_width,
        .feature_q = s->raw ? s->raw : s->qkv, .context = s->context, .stride = width,
        .feature_stride = s->raw ? q_width : width, .context_stride = q_width,
    };
}

/* Blocks `first` to the last of the base model, nothing adapted; after each, the unit of the adapter `ops` from what
 * its attention did. numbers: scratch. */
static int calibrate_blocks(struct decoder_model *m, const struct adapter_ops *ops, size_t first, const float *output,
                            double *numbers)
{
    const size_t heads = m->config.num_heads;
    const struct adapter *a = &m->adapter;
    double *mean_mass = numbers, *size = mean_mass + heads, *moment = size + heads;
    const feature_map *map = a->options.whiten ? ops->map_of(a) : NULL;
    int status = GSL_SUCCESS;
    for (size_t l = first; l < m->config.num_layers && !status; l++) {
        m->adapter.ops = &adapter_head;
        if ((status = block_forward(m, l, output, 0))) break;
        m->adapter.ops = ops;
        output = m->states[l].output;
        if (!adapter_in_layer(a, l)) continue;
        const struct scale_rows rows = scale_rows_of(m, l);
        status = attention_scales(&rows, map, a->options.method == ADAPTER_NTK, mean_mass, map ? moment : NULL, size);
        const struct head_scales scales = { mean_mass, map ? moment : NULL, size };
        if (!status) status = ops->set_unit(&m->adapter, l, &scales);
    }
    return status;
}

int decoder_model_calibrate(struct decoder_model *m, const struct decoder_batch *batch)
{
    const struct adapter_ops *ops = m->adapter.ops;
    const struct adapter *a = &m->adapter;
    if (!ops->set_unit || (!a->options.units && !a->options.whiten)) return GSL_SUCCESS;
    const size_t r = a->options.whiten ? feature_dim(ops->map_of(a)) : 0, first = batch->ids ? 0 : batch->first_layer;
    double *numbers = malloc(m->config.num_heads * (r * r + 2) * sizeof *numbers);
    if (!numbers) return GSL_ENOMEM;
    const float *output;
    m->adapter.ops = &adapter_head;
    int status = run_blocks(m, batch, first, 0, &output);
    if (!status) status = calibrate_blocks(m, ops, first, output, numbers);
    m->adapter.ops = ops;
    free(numbers);
    return status;
}

/* ---- loss ---------------------------------------------------------------------------------------------------- */

/* Loss of one row of logits (n), which becomes its gradient times `weight`: softmax minus what is wanted. */
static double row_loss(float *x, size_t n, int32_t id, const float *logp, double weight, int32_t *likeliest)
{
    const int32_t best = decoder_argmax(x, n);
    const float top = x[best], own = id >= 0 ? x[id] : 0.0f;
    double sum = 0.0, loss = 0.0, along = 0.0;
    if (likeliest) *likeliest = best;
    for (size_t c = 0; logp && c < n; c++) {
        const double p = (double)expf(logp[c]);
        if (p > 0.0) along += p * ((double)logp[c] - (double)(x[c] - top));
    }
    ops_current()->exp_row(n, top, x);
    for (size_t c = 0; c < n; c++) sum += (double)x[c];
    loss = log(sum) + (logp ? along : (double)top - (double)own);
    const float by = (float)(weight / sum);
    for (size_t c = 0; c < n; c++) x[c] *= by;
    if (!logp) x[id] -= (float)weight;
    for (size_t c = 0; logp && c < n; c++) x[c] -= (float)(weight * (double)expf(logp[c]));
    return loss;
}

/* d_output += d_logits^T chosen. */
struct output_job { struct decoder_model *m; size_t n; };

static void output_task(void *context, size_t task, int thread)
{
    const struct output_job *j = context;
    struct decoder_model *m = j->m;
    const size_t h = m->config.hidden, first = task * OUTPUT_TASK, count = least(OUTPUT_TASK, m->outputs - first);
    (void)thread;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)count, (blasint)h, (blasint)j->n, 1.0f,
                m->logits + first, (blasint)m->outputs, m->chosen, (blasint)h, 1.0f, m->d_output + first * h,
                    (blasint)h);
}

/* Of `n` targets from `at` on: the sum of their losses; with `training` the gradient in the final rows. */
static double block_loss(struct decoder_model *m, const struct decoder_targets *t, size_t at, size_t n, int training,
                         double *losses, int32_t *likeliest)
{
    const size_t h = m->config.hidden, outputs = m->outputs;
    const struct epilogue bias = { .bias = m->output_bias };
    double total = 0.0;
    for (size_t i = 0; i < n; i++)
        memcpy(m->chosen + i * h, m->final + t->rows[at + i] * h, h * sizeof *m->chosen);
    ops_linear(n, h, outputs, m->chosen, h, m->output, m->logits, outputs, 0, m->output_bias ? &bias : NULL,
               m->num_threads);
    for (size_t i = 0; i < n; i++) {
        const double loss = row_loss(m->logits + i * outputs, outputs, t->ids ? t->ids[at + i] : -1,
                                     t->ids ? NULL : t->logprobs + (at + i) * outputs, 1.0 / (double)t->count,
                                     likeliest ? likeliest + at + i : NULL);
        if (losses) losses[at + i] = loss;
        total += loss;
    }
    if (!training) return total;
    ops_linear_dx(n, h, outputs, 1.0f, m->logits, outputs, m->output, m->d_chosen, h, 0, NULL, m->num_threads);
    for (size_t i = 0; i < n; i++) ops_current()->add(h, m->d_chosen + i * h, m->grad + t->rows[at + i] * h);
    if (!m->d_output) return total;
    struct output_job job = { m, n };
    parallel_for((outputs + OUTPUT_TASK - 1) / OUTPUT_TASK, m->num_threads, output_task, &job);
    for (size_t i = 0; m->d_output_bias && i < n; i++)
        for (size_t c = 0; c < outputs; c++) m->d_output_bias[c] += m->logits[i * outputs + c];
    return total;
}

int decoder_model_loss(struct decoder_model *m, const struct decoder_targets *t, int training, double *loss,
                       double *losses, int32_t *likeliest)
{
    const size_t h = m->config.hidden;
    if (!m->can_loss || (training && !m->can_backward) || !t->count) return GSL_EINVAL;
    for (size_t i = 0; i < t->count; i++)
        if (t->rows[i] >= m->rows || (t->ids && (t->ids[i] < 0 || (size_t)t->ids[i] >= m->outputs))) return GSL_EINVAL;
    if (training) {
        memset(m->grad, 0, m->rows * h * sizeof *m->grad);
        if (m->d_output) ops_zero(m->outputs * h, m->d_output, m->num_threads);
        if (m->d_embed && m->d_embed != m->d_output) ops_zero(m->config.vocab_size * h, m->d_embed, m->num_threads);
        if (m->d_output_bias) memset(m->d_output_bias, 0, m->outputs * sizeof *m->d_output_bias);
    }
    double total = 0.0;
    for (size_t at = 0; at < t->count; at += DECODER_LOGIT_ROWS)
        total += block_loss(m, t, at, least(DECODER_LOGIT_ROWS, t->count - at), training, losses, likeliest);
    *loss = total / (double)t->count;
    if (training) m->can_backward = 2;
    return GSL_SUCCESS;
}

int decoder_model_backward(struct decoder_model *m)
{
    const size_t h = m->config.hidden, layers = m->config.num_layers;
    if (m->can_backward != 2) return GSL_EINVAL;
    m->can_loss = m->can_backward = 0;
    if (m->first_trained == layers && !m->final_norm.d_weight) return GSL_SUCCESS;
    memcpy(m->narrow, m->grad, m->rows * h * sizeof *m->narrow);
    norm_backward(m, m->last_output, m->final_factor, &m->final_norm, m->narrow, m->grad, 0, m->final);
    for (size_t l = layers; l-- > m->first_trained;) {
        const int status = block_backward(m, l, m->grad, l > m->first_trained || m->trains_input);
        if (status) return status;
    }
    for (size_t i = 0; m->trains_input && i < m->rows; i++)
        ops_current()->add(h, m->grad + i * h, m->d_embed + (size_t)m->batch.ids[i] * h);
    return GSL_SUCCESS;
}
