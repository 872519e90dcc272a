/* Embeddings: words, positions and types; or patches of images, a class token and positions resized to the grid. */
#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

#include "transformer/model_internal.h"
#include "transformer/ops.h"

/* ---- text ------------------------------------------------------------------------------------------------ */

static int32_t type_of(const struct batch *b, size_t row)
{
    return b->type_ids ? b->type_ids[row] : 0;
}

static int embed_text(struct model *m, const struct batch *b)
{
    const struct backbone_config *c = &m->config;
    const size_t h = c->hidden;
    for (size_t i = 0; i < m->batch_rows; i++) {
        if (b->ids[i] < 0 || (size_t)b->ids[i] >= c->vocab_size) return GSL_EINVAL;
        if (c->type_vocab && (type_of(b, i) < 0 || (size_t)type_of(b, i) >= c->type_vocab)) return GSL_EINVAL;
    }
    for (size_t s = 0; s < b->num_seqs; s++)
        for (size_t i = m->batch_offsets[s]; i < m->batch_offsets[s + 1]; i++) {
            const float *token = m->embed.token + (size_t)b->ids[i] * h;
            const float *position = m->embed.position + (i - m->batch_offsets[s] + c->position_offset) * h;
            const float *type = c->type_vocab ? m->embed.type + (size_t)type_of(b, i) * h : NULL;
            float *x = m->summed + i * h;
            for (size_t j = 0; j < h; j++) x[j] = token[j] + (type ? type[j] : 0.0f) + position[j];
        }
    ops_norm(m->batch_rows, h, m->encoder.eps, m->summed, m->embed.norm.weight, m->embed.norm.bias, m->embedded,
             m->embed_stats, m->encoder.num_threads);
    return GSL_SUCCESS;
}

static void add_row(float *to, const float *from, size_t n)
{
    ops_current()->add(n, from, to);
}

static void embed_text_backward(struct model *m)
{
    const struct backbone_config *c = &m->config;
    const struct batch *b = &m->batch;
    const size_t h = c->hidden;
    struct embeddings *e = &m->embed;
    ops_norm_backward(m->batch_rows, h, m->summed, m->embed_stats, e->norm.weight, m->grad, NULL, m->grad,
                      e->norm.d_weight, e->norm.d_bias, m->encoder.num_threads);
    ops_zero(c->vocab_size * h, e->d_token, m->encoder.num_threads);
    memset(e->d_position, 0, e->num_positions * h * sizeof(float));
    if (e->d_type) memset(e->d_type, 0, c->type_vocab * h * sizeof(float));
    for (size_t s = 0; s < b->num_seqs; s++)
        for (size_t i = m->batch_offsets[s]; i < m->batch_offsets[s + 1]; i++) {
            const float *dx = m->grad + i * h;
            add_row(e->d_token + (size_t)b->ids[i] * h, dx, h);
            add_row(e->d_position + (i - m->batch_offsets[s] + c->position_offset) * h, dx, h);
            if (e->d_type) add_row(e->d_type + (size_t)type_of(b, i) * h, dx, h);
        }
}

/* ---- images ------------------------------------------------------------------------------------------------- */

/* The four taps of cubic interpolation with a = -0.75 at output i of `to` from `from` inputs, half-pixel centres, the
 * border repeated. */
static void cubic_taps(size_t i, size_t to, size_t from, size_t index[4], double w[4])
{
    const double a = -0.75, at = ((double)i + 0.5) * (double)from / (double)to - 0.5, base = floor(at), t = at - base;
    for (int k = 0; k < 4; k++) {
        const double x = fabs(t - (double)(k - 1));
        w[k] = x <= 1.0 ? ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0 : ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
        const double j = base + (double)(k - 1);
        index[k] = j < 0.0 ? 0 : j >= (double)from ? from - 1 : (size_t)j;
    }
}

/* positions (1 + grid_h grid_w, hidden) from the backbone's, or with `back` the transposed map: adds rows of
 * `resized` to d_position. */
static void resize_positions(const struct model *m, size_t grid_h, size_t grid_w, float *resized, float *d_position)
{
    const size_t h = m->config.hidden, grid = m->config.position_grid;
    const float *position = m->embed.position;
    if (d_position) add_row(d_position, resized, h);
    else memcpy(resized, position, h * sizeof(float));
    const int same = grid_h == grid && grid_w == grid;
    for (size_t y = 0; y < grid_h; y++)
        for (size_t x = 0; x < grid_w; x++) {
            size_t iy[4], ix[4];
            double wy[4], wx[4];
            float *row = resized + (1 + y * grid_w + x) * h;
            if (same) {
                const size_t at = (1 + y * grid + x) * h;
                if (d_position) add_row(d_position + at, row, h);
                else memcpy(row, position + at, h * sizeof(float));
                continue;
            }
            cubic_taps(y, grid_h, grid, iy, wy);
            cubic_taps(x, grid_w, grid, ix, wx);
            if (!d_position) memset(row, 0, h * sizeof(float));
            for (int k = 0; k < 16; k++) {
                const size_t at = (1 + iy[k / 4] * grid + ix[k % 4]) * h;
                const float w = (float)(wy[k / 4] * wx[k % 4]);
                if (d_position) for (size_t j = 0; j < h; j++) d_position[at + j] += w * row[j];
                else for (size_t j = 0; j < h; j++) row[j] += w * position[at + j];
            }
        }
}

/* Patches of image s as rows (channel, row, column), like the weight's. */
static void cut_patches(const struct model *m, const struct batch *b, size_t s, float *patches)
{
    const size_t p = m->config.patch_size, channels = m->config.channels, height = b->image_h, width = b->image_w;
    const float *image = b->pixels + s * channels * height * width;
    for (size_t y = 0; y < height / p; y++)
        for (size_t x = 0; x < width / p; x++)
            for (size_t c = 0; c < channels; c++)
                for (size_t i = 0; i < p; i++, patches += p)
                    memcpy(patches, image + (c * height + y * p + i) * width + x * p, p * sizeof(float));
}

static int embed_images(struct model *m, const struct batch *b)
{
    const struct backbone_config *c = &m->config;
    const size_t h = c->hidden, p = c->patch_size, grid_h = b->image_h / p, grid_w = b->image_w / p;
    const size_t count = grid_h * grid_w, depth = c->channels * p * p;
    for (size_t s = 0; s < b->num_seqs; s++) cut_patches(m, b, s, m->patches + s * count * depth);
    const struct epilogue bias = { .bias = m->embed.patch.bias };
    ops_linear(b->num_seqs * count, depth, h, m->patches, depth, m->embed.patch.weight, m->summed, h, 0, &bias,
               m->encoder.num_threads);
    resize_positions(m, grid_h, grid_w, m->positions, NULL);
    for (size_t s = 0; s < b->num_seqs; s++) {
        float *x = m->embedded + m->batch_offsets[s] * h;
        for (size_t j = 0; j < h; j++) x[j] = m->embed.cls[j] + m->positions[j];
        memcpy(x + h, m->summed + s * count * h, count * h * sizeof(float));
        add_row(x + h, m->positions + h, count * h);
    }
    return GSL_SUCCESS;
}

static void embed_images_backward(struct model *m)
{
    const struct backbone_config *c = &m->config;
    const struct batch *b = &m->batch;
    struct embeddings *e = &m->embed;
    const size_t h = c->hidden, p = c->patch_size, grid_h = b->image_h / p, grid_w = b->image_w / p;
    const size_t count = grid_h * grid_w, depth = c->channels * p * p, patches = b->num_seqs * count;
    memset(e->d_position, 0, e->num_positions * h * sizeof(float));
    memset(e->d_cls, 0, h * sizeof(float));
    memset(m->positions, 0, (1 + count) * h * sizeof(float));
    for (size_t s = 0; s < b->num_seqs; s++) {
        const float *dx = m->grad + m->batch_offsets[s] * h;
        add_row(e->d_cls, dx, h);
        add_row(m->positions, dx, (1 + count) * h);
        memcpy(m->summed + s * count * h, dx + h, count * h * sizeof(float));
    }
    resize_positions(m, grid_h, grid_w, m->positions, e->d_position);
    ops_linear_dW(patches, depth, h, 1.0f, m->summed, h, m->patches, depth, e->patch.d_weight, m->encoder.num_threads);
    ops_sum_columns(patches, h, h, m->summed, NULL, e->patch.d_bias, m->encoder.num_threads);
}

int model_embed(struct model *m, const struct batch *batch)
{
    return model_is_image(m) ? embed_images(m, batch) : embed_text(m, batch);
}

void model_embed_backward(struct model *m)
{
    if (model_is_image(m)) embed_images_backward(m);
    else embed_text_backward(m);
}
