#include "transformer/encoder.h"

#include <gsl/gsl_errno.h>
#include <string.h>

#include "transformer/ops.h"

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* Whether block `layer` adapts its input in projection `which` (LoRA), so that the input must be kept. */
static int adapts(const struct encoder *e, size_t layer, enum projection which)
{
    return e->adapter->ops->project && adapter_in_layer(e->adapter, layer) &&
           (e->adapter->options.targets >> which & 1);
}

/* ---- memory ----------------------------------------------------------------------------------------- */

/* The arrays of one block; those a block of its own does not need to keep come from `shared`, the scratch of all. */
static void plan_state(const struct encoder *e, struct arena *arena, size_t layer, struct block_state *s,
                       const struct block_state *shared)
{
    const size_t rows = e->max_rows, h = e->hidden, own = shared != NULL;
    const struct block *b = &e->blocks[layer];
    const int beside = e->adapter->options.method == ADAPTER_PREFIX_PLUS;
    s->normed1 = e->pre_norm ? arena_floats(arena, rows * h) : NULL;
    s->qkv = arena_floats(arena, rows * 3 * h);
    s->context = arena_floats(arena, rows * h);
    s->soft = beside ? arena_floats(arena, rows * h) : s->context;
    s->attention = arena_take(arena, rows * e->heads * sizeof *s->attention);
    s->sum1 = arena_floats(arena, rows * h);
    s->stats1 = arena_floats(arena, 2 * rows);
    s->stats2 = arena_floats(arena, 2 * rows);
    s->normed2 = arena_floats(arena, rows * h);
    s->branch1 = own && b->d_scale1 ? arena_floats(arena, rows * h) : NULL;
    s->branch2 = own && b->d_scale2 ? arena_floats(arena, rows * h) : NULL;
    s->mlp =
        own && !b->fc2.d_weight && !adapts(e, layer, PROJ_FC2) ? shared->mlp : arena_floats(arena, rows * e->mlp_dim);
    s->slope = own ? arena_floats(arena, rows * e->mlp_dim) : NULL;
    s->sum2 = e->pre_norm ? NULL : arena_floats(arena, rows * h);
    s->output = arena_floats(arena, rows * h);
}

void encoder_plan(struct encoder *e, struct arena *arena)
{
    const size_t rows = e->max_rows, h = e->hidden;
    struct block_state shared, odd;
    memset(&shared, 0, sizeof shared);
    plan_state(e, arena, 0, &shared, NULL);
    /* Blocks that keep nothing take turns with two outputs: one is the next block's input. */
    odd = shared;
    odd.output = arena_floats(arena, rows * h);
    for (size_t l = 0; l < e->num_blocks; l++) {
        struct block_state mine = l % 2 ? odd : shared;
        if (e->training && l >= e->first_trained) plan_state(e, arena, l, &mine, &shared);
        if (arena->base) e->states[l] = mine;
    }
    e->narrow = e->training ? arena_floats(arena, rows * h) : NULL;
    e->wide = e->training ? arena_floats(arena, rows * most(e->mlp_dim, 3 * h)) : NULL;
    if (e->adapter->ops->plan) e->adapter->ops->plan(e->adapter, arena, rows, e->training);

    struct attention_extra extra = { .kind = ATTENTION_PLAIN };
    for (size_t l = 0; l < e->num_blocks; l++) {
        if (!e->adapter->ops->prepare || !adapter_in_layer(e->adapter, l)) continue;
        e->adapter->ops->prepare(e->adapter, l, 2, &extra);
        break;
    }
    const size_t groups = ATTENTION_GROUPS + (size_t)e->num_threads;
    e->work_bytes = (attention_work_bytes(e, &extra) + ARENA_ALIGN) / ARENA_ALIGN * ARENA_ALIGN;
    e->extra_floats = attention_extra_floats(e, &extra);
    e->work = arena_take(arena, (size_t)e->num_threads * e->work_bytes);
    e->partial = e->training ? arena_floats(arena, groups * e->extra_floats) : NULL;
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* y = x W^T and its epilogue, with what the adapter adds put in first. */
static void project(const struct encoder *e, size_t layer, enum projection which, const struct linear *w, size_t in,
                    size_t out, const float *x, float *y, const struct epilogue *epilogue, int training)
{
    const size_t rows = e->packing.rows;
    int add = 0;
    if (adapts(e, layer, which))
        add = e->adapter->ops->project(e->adapter, layer, which, rows, x, in, y, out, 0, training);
    ops_linear(rows, in, out, x, in, w->weight, y, out, add, epilogue, e->num_threads);
}

static void project_qkv(const struct encoder *e, size_t layer, const float *x, float *qkv, int training)
{
    const size_t rows = e->packing.rows, h = e->hidden;
    const struct epilogue epilogue = { .bias = e->blocks[layer].qkv.bias };
    ops_linear(rows, h, 3 * h, x, h, e->blocks[layer].qkv.weight, qkv, 3 * h, 0, &epilogue, e->num_threads);
    for (enum projection which = PROJ_Q; which <= PROJ_V; which++)
        if (adapts(e, layer, which))
            e->adapter->ops->project(e->adapter, layer, which, rows, x, h, qkv + which * h, 3 * h, 1, training);
}

static int block_forward(struct encoder *e, size_t layer, const float *input, int training)
{
    const struct block *b = &e->blocks[layer];
    struct block_state *s = &e->states[layer];
    const size_t rows = e->packing.rows, h = e->hidden;
    const int threads = e->num_threads, keep = training && layer >= e->first_trained;
    s->input = input;
    if (e->pre_norm) ops_norm(rows, h, e->eps, input, b->norm1.weight, b->norm1.bias, s->normed1, s->stats1, threads);
    project_qkv(e, layer, e->pre_norm ? s->normed1 : input, s->qkv, training);

    struct attention_extra extra = { .kind = ATTENTION_PLAIN };
    int status = GSL_SUCCESS;
    if (e->adapter->ops->prepare && adapter_in_layer(e->adapter, layer))
        status = e->adapter->ops->prepare(e->adapter, layer, training, &extra);
    if (!status) status = attention_forward(e, s, &extra, keep);
    if (status) return status;

    const struct epilogue o = { .bias = b->o.bias, .residual = input, .scale = b->scale1, .branch = s->branch1 };
    project(e, layer, PROJ_O, &b->o, h, h, s->context, s->sum1, &o, training);
    const struct norm *before_mlp = e->pre_norm ? &b->norm2 : &b->norm1;
    ops_norm(rows, h, e->eps, s->sum1, before_mlp->weight, before_mlp->bias, s->normed2,
             e->pre_norm ? s->stats2 : s->stats1, threads);
    const struct epilogue fc1 = { .bias = b->fc1.bias, .gelu = 1, .slope = keep ? s->slope : NULL };
    project(e, layer, PROJ_FC1, &b->fc1, h, e->mlp_dim, s->normed2, s->mlp, &fc1, training);
    const struct epilogue fc2 = { .bias = b->fc2.bias, .residual = e->pre_norm ? s->sum1 : s->normed2,
                                  .scale = b->scale2, .branch = s->branch2 };
    project(e, layer, PROJ_FC2, &b->fc2, e->mlp_dim, h, s->mlp, e->pre_norm ? s->output : s->sum2, &fc2, training);
    if (!e->pre_norm) ops_norm(rows, h, e->eps, s->sum2, b->norm2.weight, b->norm2.bias, s->output, s->stats2, threads);
    return GSL_SUCCESS;
}

int encoder_forward(struct encoder *e, const struct packing *packing, size_t from, size_t to, const float *input,
                    int training, const float **output)
{
    e->packing = *packing;
    e->last_training = training;
    e->last_first = from;
    for (size_t l = from; l < to; l++) {
        const int status = block_forward(e, l, input, training);
        if (status) return status;
        input = e->states[l].output;
    }
    *output = input;
    return GSL_SUCCESS;
}

/* ---- backward -------------------------------------------------------------------------------------------- */

/* Gradients of y = x W^T + b: dW, db where trained, dx [+]= dy W, dx *= slope. dx NULL: not wanted. dx and dy have no
 * gaps. */
static void project_backward(const struct encoder *e, size_t layer, enum projection which, const struct linear *w,
                             size_t in, size_t out, const float *x, const float *dy, float *dx, int add,
                             const float *slope)
{
    const size_t rows = e->packing.rows;
    const int threads = e->num_threads;
    if (w->d_weight) ops_linear_dW(rows, in, out, 1.0f, dy, out, x, in, w->d_weight, threads);
    if (w->d_bias) ops_sum_columns(rows, out, out, dy, NULL, w->d_bias, threads);
    if (adapts(e, layer, which))
        add = e->adapter->ops->project_backward(e->adapter, layer, which, rows, x, in, dy, out, dx, in, add);
    if (dx) ops_linear_dx(rows, in, out, 1.0f, dy, out, w->weight, dx, in, add, slope, threads);
}

/* The gradient of a branch from that of its sum: times the layer scale, whose own gradient is taken. */
static const float *branch_gradient(const struct encoder *e, const float *scale, float *d_scale, const float *branch,
                                    const float *grad, float *scratch)
{
    const size_t rows = e->packing.rows, h = e->hidden;
    if (!scale) return grad;
    if (d_scale) ops_sum_columns(rows, h, h, grad, branch, d_scale, e->num_threads);
    ops_scale_columns(rows, h, scale, grad, scratch, e->num_threads);
    return scratch;
}

/* From d_qkv in e->wide to the gradients of the projections; dx (rows, hidden) [+]=, NULL: not wanted. */
static void qkv_backward(const struct encoder *e, size_t layer, const float *x, float *dx, int add)
{
    const struct linear *w = &e->blocks[layer].qkv;
    const size_t rows = e->packing.rows, h = e->hidden;
    const float *d_qkv = e->wide;
    if (w->d_weight) ops_linear_dW(rows, h, 3 * h, 1.0f, d_qkv, 3 * h, x, h, w->d_weight, e->num_threads);
    if (w->d_bias) ops_sum_columns(rows, 3 * h, 3 * h, d_qkv, NULL, w->d_bias, e->num_threads);
    for (enum projection which = PROJ_Q; which <= PROJ_V; which++)
        if (adapts(e, layer, which))
            add = e->adapter->ops->project_backward(e->adapter, layer, which, rows, x, h, d_qkv + which * h, 3 * h, dx,
                                                    h, add);
    if (dx) ops_linear_dx(rows, h, 3 * h, 1.0f, d_qkv, 3 * h, w->weight, dx, h, add, NULL, e->num_threads);
}

/* Whether the block's q, k, v or what precedes them inside the block is trained. */
static int trains_qkv(const struct encoder *e, size_t layer)
{
    return e->blocks[layer].qkv.d_weight || e->blocks[layer].qkv.d_bias || adapts(e, layer, PROJ_Q) ||
           adapts(e, layer, PROJ_K) || adapts(e, layer, PROJ_V);
}

/* grad in: of the block's output; out: of its input when `below`. */
static int block_backward(struct encoder *e, size_t layer, float *grad, int below)
{
    const struct block *b = &e->blocks[layer];
    struct block_state *s = &e->states[layer];
    const size_t rows = e->packing.rows, h = e->hidden;
    const int threads = e->num_threads, pre = e->pre_norm;
    if (!pre)
        ops_norm_backward(rows, h, s->sum2, s->stats2, b->norm2.weight, grad, NULL, grad, b->norm2.d_weight,
                          b->norm2.d_bias, threads);
    const float *branch = branch_gradient(e, b->scale2, b->d_scale2, s->branch2, grad, e->narrow);
    project_backward(e, layer, PROJ_FC2, &b->fc2, e->mlp_dim, h, s->mlp, branch, e->wide, 0, s->slope);
    if (pre) {
        project_backward(e, layer, PROJ_FC1, &b->fc1, h, e->mlp_dim, s->normed2, e->wide, e->narrow, 0, NULL);
        ops_norm_backward(rows, h, s->sum1, s->stats2, b->norm2.weight, e->narrow, grad, grad, b->norm2.d_weight,
                          b->norm2.d_bias, threads);
    } else {
        project_backward(e, layer, PROJ_FC1, &b->fc1, h, e->mlp_dim, s->normed2, e->wide, grad, 1, NULL);
        ops_norm_backward(rows, h, s->sum1, s->stats1, b->norm1.weight, grad, NULL, grad, b->norm1.d_weight,
                          b->norm1.d_bias, threads);
    }
    struct attention_extra extra = { .kind = ATTENTION_PLAIN };
    const int prepares = e->adapter->ops->prepare && adapter_in_layer(e->adapter, layer);
    int status = prepares ? e->adapter->ops->prepare(e->adapter, layer, 2, &extra) : GSL_SUCCESS;
    if (status) return status;
    const int trains_norm1 = pre && b->norm1.d_weight;
    const int through = below || trains_norm1 || trains_qkv(e, layer) || e->d_relative_bias;
    if (!through && !prepares && !b->o.d_weight && !b->o.d_bias && !b->d_scale1 && !adapts(e, layer, PROJ_O))
        return GSL_SUCCESS;
    branch = branch_gradient(e, b->scale1, b->d_scale1, s->branch1, grad, e->narrow);
    /* d_context stands in the block's output, which nothing reads any more: narrow may hold the branch, wide gets
     * d_qkv. */
    project_backward(e, layer, PROJ_O, &b->o, h, h, s->context, branch, s->output, 0, NULL);
    status = attention_backward(e, s, &extra, s->output, through ? e->wide : NULL);
    if (status) return status;
    if (prepares && e->adapter->ops->finish) e->adapter->ops->finish(e->adapter, layer, &extra);
    if (!through) return GSL_SUCCESS;
    if (!pre) {
        qkv_backward(e, layer, s->input, below ? grad : NULL, 1);
        return GSL_SUCCESS;
    }
    qkv_backward(e, layer, s->normed1, below || trains_norm1 ? e->narrow : NULL, 0);
    if (below || trains_norm1)
        ops_norm_backward(rows, h, s->input, s->stats1, b->norm1.weight, e->narrow, grad, below ? grad : NULL,
                          b->norm1.d_weight, b->norm1.d_bias, threads);
    return GSL_SUCCESS;
}

int encoder_backward(struct encoder *e, float *grad)
{
    for (size_t l = e->num_blocks; l-- > e->first_trained;) {
        const int below = l > e->first_trained || e->trains_input;
        const int status = block_backward(e, l, grad, below);
        if (status) return status;
    }
    return GSL_SUCCESS;
}
