#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>
#include <stdlib.h>

#include "transformer/model_internal.h"
#include "transformer/ops.h"

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- batches ---------------------------------------------------------------------------------------------- */

/* Sequences of images have equal lengths; their offsets are made here. */
static int image_offsets(struct model *m, const struct batch *b)
{
    const size_t p = m->config.patch_size;
    if (!b->image_h || !b->image_w || b->image_h % p || b->image_w % p) return GSL_EINVAL;
    const size_t rows = model_image_rows(m, b->image_h, b->image_w);
    if (b->num_seqs > m->encoder.max_seqs) return GSL_EINVAL;
    for (size_t i = 0; i <= b->num_seqs; i++) m->offsets[i] = i * rows;
    m->batch_offsets = m->offsets;
    return GSL_SUCCESS;
}

static int check_lengths(const struct model *m, const struct batch *b)
{
    const struct encoder *e = &m->encoder;
    if (m->batch_offsets[0] != 0 || m->batch_rows > e->max_rows) return GSL_EINVAL;
    for (size_t i = 0; i < b->num_seqs; i++) {
        if (m->batch_offsets[i + 1] <= m->batch_offsets[i]) return GSL_EINVAL;
        const size_t len = m->batch_offsets[i + 1] - m->batch_offsets[i];
        if (len > e->max_len) return GSL_EINVAL;
        if (b->ids && len + m->config.position_offset > m->embed.num_positions) return GSL_EINVAL;
    }
    return GSL_SUCCESS;
}

/* Takes the batch over: offsets, and groups of about equal numbers of rows, cut between sequences. */
static int open_batch(struct model *m, const struct batch *b, struct packing *packing)
{
    const int image = model_is_image(m);
    m->can_backward = 0;
    if (!m->memory || !b->num_seqs || b->num_seqs > m->encoder.max_seqs) return GSL_EINVAL;
    if (!b->hidden && (image ? !b->pixels : !b->ids)) return GSL_EINVAL;
    if ((b->hidden || !image) && !b->offsets) return GSL_EINVAL;
    if (b->hidden && b->first_layer > m->encoder.num_blocks) return GSL_EINVAL;
    m->batch_offsets = b->offsets;
    int status = b->hidden || !image ? GSL_SUCCESS : image_offsets(m, b);
    if (status) return status;
    m->batch_rows = m->batch_offsets[b->num_seqs];
    if ((status = check_lengths(m, b))) return status;
    m->batch = *b;
    const size_t groups = least(b->num_seqs, ATTENTION_GROUPS);
    m->groups[0] = 0;
    for (size_t g = 1, seq = 0; g < groups; g++) {
        while (seq < b->num_seqs && m->batch_offsets[seq] * groups < g * m->batch_rows) seq++;
        m->groups[g] = seq;
    }
    m->groups[groups] = b->num_seqs;
    *packing = (struct packing){ b->num_seqs, m->batch_rows, groups, m->batch_offsets, m->groups };
    return GSL_SUCCESS;
}

/* Blocks up to `to` of a batch. */
static int run_blocks(struct model *m, const struct batch *batch, size_t to, int training, const float **output)
{
    struct packing packing;
    int status = open_batch(m, batch, &packing);
    if (status) return status;
    const size_t from = batch->hidden ? batch->first_layer : 0;
    if (from > to || (training && (!m->encoder.training || from > m->encoder.first_trained))) return GSL_EINVAL;
    if (training && batch->hidden && m->encoder.trains_input) return GSL_EINVAL;
    if (!batch->hidden && (status = model_embed(m, batch))) return status;
    return encoder_forward(&m->encoder, &packing, from, to, batch->hidden ? batch->hidden : m->embedded, training,
                           output);
}

/* ---- pooling ------------------------------------------------------------------------------------------------- */

/* The rows a mean runs over: from the second of an image. */
static size_t first_pooled(size_t begin, size_t end, int images)
{
    return images && end - begin > 1 ? begin + 1 : begin;
}

void model_pool_rows(const float *hidden, const size_t *offsets, size_t num_seqs, size_t h, enum model_pool pool,
                     int images, float *vectors)
{
    for (size_t s = 0; s < num_seqs; s++, vectors += h) {
        if (pool == POOL_CLS) {
            memcpy(vectors, hidden + offsets[s] * h, h * sizeof(float));
            continue;
        }
        const size_t from = first_pooled(offsets[s], offsets[s + 1], images);
        const float by = 1.0f / (float)(offsets[s + 1] - from);
        memset(vectors, 0, h * sizeof(float));
        for (size_t i = from; i < offsets[s + 1]; i++) ops_current()->add(h, hidden + i * h, vectors);
        for (size_t j = 0; j < h; j++) vectors[j] *= by;
    }
}

/* The gradient of every row from those of the pooled vectors. */
static void pool_backward(const struct model *m, const float *d_vectors, float *grad)
{
    const size_t h = m->config.hidden;
    memset(grad, 0, m->batch_rows * h * sizeof(float));
    for (size_t s = 0; s < m->batch.num_seqs; s++) {
        const size_t begin = m->batch_offsets[s], end = m->batch_offsets[s + 1];
        const float *d = d_vectors + s * h;
        if (m->pool == POOL_CLS) {
            memcpy(grad + begin * h, d, h * sizeof(float));
            continue;
        }
        const size_t from = first_pooled(begin, end, model_is_image(m));
        const float by = 1.0f / (float)(end - from);
        for (size_t i = from; i < end; i++)
            for (size_t j = 0; j < h; j++) grad[i * h + j] = by * d[j];
    }
}

/* ---- passes ---------------------------------------------------------------------------------------------------- */

static const float *final_rows(struct model *m, const float *output)
{
    if (!m->final_norm.weight) return output;
    ops_norm(m->batch_rows, m->config.hidden, m->encoder.eps, output, m->final_norm.weight, m->final_norm.bias,
             m->final, m->final_stats, m->encoder.num_threads);
    return m->final;
}

int model_forward(struct model *m, const struct batch *batch, float *logits, int training)
{
    const float *output;
    const size_t h = m->config.hidden, n = m->num_classes;
    if (!n) return GSL_EINVAL;
    const int status = run_blocks(m, batch, m->encoder.num_blocks, training, &output);
    if (status) return status;
    m->last_output = output;
    model_pool_rows(final_rows(m, output), m->batch_offsets, batch->num_seqs, h, m->pool, model_is_image(m), m->pooled);
    const struct epilogue bias = { .bias = m->head_bias };
    ops_linear(batch->num_seqs, h, n, m->pooled, h, m->head_weight, logits, n, 0, &bias, m->encoder.num_threads);
    m->can_backward = training;
    return GSL_SUCCESS;
}

int model_backward(struct model *m, const float *d_logits)
{
    struct encoder *e = &m->encoder;
    const size_t h = e->hidden, n = m->num_classes, seqs = m->batch.num_seqs;
    if (!m->can_backward) return GSL_EINVAL;
    m->can_backward = 0;
    ops_linear_dW(seqs, h, n, 1.0f, d_logits, n, m->pooled, h, m->d_head_weight, e->num_threads);
    ops_sum_columns(seqs, n, n, d_logits, NULL, m->d_head_bias, e->num_threads);
    if (e->first_trained == e->num_blocks && !m->final_norm.d_weight) return GSL_SUCCESS;
    ops_linear_dx(seqs, h, n, 1.0f, d_logits, n, m->head_weight, m->d_pooled, h, 0, NULL, e->num_threads);
    pool_backward(m, m->d_pooled, m->grad);
    if (m->final_norm.weight)
        ops_norm_backward(m->batch_rows, h, m->last_output, m->final_stats, m->final_norm.weight, m->grad, NULL,
                          m->grad, m->final_norm.d_weight, m->final_norm.d_bias, e->num_threads);
    if (e->d_relative_bias) memset(e->d_relative_bias, 0, e->relative_buckets * e->heads * sizeof(float));
    const int status = encoder_backward(e, m->grad);
    if (!status && e->trains_input) model_embed_backward(m);
    return status;
}

int model_hidden(struct model *m, const struct batch *batch, size_t layer, float *out)
{
    const size_t blocks = m->encoder.num_blocks, to = layer == MODEL_FINAL ? blocks : layer;
    const float *output;
    if (to > blocks) return GSL_EINVAL;
    const int status = run_blocks(m, batch, to, 0, &output);
    if (status) return status;
    if (layer == MODEL_FINAL) output = final_rows(m, output);
    memcpy(out, output, m->batch_rows * m->config.hidden * sizeof *out);
    return GSL_SUCCESS;
}

struct scale_rows model_scale_rows(const struct model *m, size_t layer)
{
    const struct encoder *e = &m->encoder;
    const struct block_state *s = &e->states[layer];
    return (struct scale_rows){
        .heads = e->heads, .kv_heads = e->heads, .head_dim = e->head_dim, .num_seqs = e->packing.num_seqs,
        .rows = e->packing.rows, .offsets = e->packing.offsets, .q = s->qkv, .keys = s->qkv + e->hidden,
        .feature_q = s->qkv, .context = s->context, .stride = 3 * e->hidden, .feature_stride = 3 * e->hidden,
        .context_stride = e->hidden,
    };
}

/* Blocks `first` to the last of the base model; after each, the adapter's unit from what its attention did. */
static int calibrate_blocks(struct model *m, size_t first, const float *output, double *numbers)
{
    struct encoder *e = &m->encoder;
    const struct adapter *a = &m->adapter;
    double *mean_mass = numbers, *size = mean_mass + e->heads, *moment = size + e->heads;
    const feature_map *map = a->options.whiten ? a->ops->map_of(a) : NULL;
    int status = GSL_SUCCESS;
    for (size_t l = first; l < e->num_blocks && !status; l++) {
        const struct packing packing = e->packing;
        status = encoder_forward(e, &packing, l, l + 1, output, 0, &output);
        if (status || !adapter_in_layer(a, l)) continue;
        const struct scale_rows rows = model_scale_rows(m, l);
        status = attention_scales(&rows, map, a->options.method == ADAPTER_NTK, mean_mass, map ? moment : NULL, size);
        const struct head_scales scales = { mean_mass, map ? moment : NULL, size };
        if (!status) status = a->ops->set_unit(&m->adapter, l, &scales);
    }
    return status;
}

int model_calibrate(struct model *m, const struct batch *batch)
{
    struct encoder *e = &m->encoder;
    const struct adapter *a = &m->adapter;
    if (!a->ops->set_unit || (!a->options.units && !a->options.whiten)) return GSL_SUCCESS;
    const size_t r = a->options.whiten ? feature_dim(a->ops->map_of(a)) : 0, first = batch->hidden ? batch->first_layer
        : 0;
    double *numbers = malloc(e->heads * (r * r + 2) * sizeof *numbers);
    if (!numbers) return GSL_ENOMEM;
    const float *output;
    /* The base model: the same encoder with nothing adapted. */
    struct adapter plain = { .ops = &adapter_head };
    e->adapter = &plain;
    int status = run_blocks(m, batch, first, 0, &output);
    if (!status) status = calibrate_blocks(m, first, output, numbers);
    e->adapter = &m->adapter;
    free(numbers);
    return status;
}

/* ---- loss -------------------------------------------------------------------------------------------------------- */

double model_cross_entropy(const float *logits, const int32_t *labels, size_t num_seqs, size_t n, double smoothing,
                           float *d_logits, size_t *num_correct)
{
    double loss = 0.0;
    size_t correct = 0;
    for (size_t s = 0; s < num_seqs; s++) {
        const float *x = logits + s * n;
        const size_t label = (size_t)labels[s];
        size_t best = 0;
        double sum = 0.0, mean = 0.0;
        for (size_t c = 1; c < n; c++)
            if (x[c] > x[best]) best = c;
        for (size_t c = 0; c < n; c++) {
            sum += exp((double)x[c] - (double)x[best]);
            mean += (double)x[c] / (double)n;
        }
        const double lse = (double)x[best] + log(sum);
        loss += lse - (1.0 - smoothing) * (double)x[label] - smoothing * mean;
        correct += best == label;
        for (size_t c = 0; d_logits && c < n; c++) {
            const double want = (c == label ? 1.0 - smoothing : 0.0) + smoothing / (double)n;
            d_logits[s * n + c] = (float)((exp((double)x[c] - lse) - want) / (double)num_seqs);
        }
    }
    if (num_correct) *num_correct = correct;
    return loss / (double)num_seqs;
}
