/* LoRA: y = x W^T + b + (alpha/rank) (x A^T) B^T, A (rank, in), B (out, rank). */
#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>

#include "transformer/encoder.h"
#include "transformer/ops.h"

struct pair { float *A, *B, *dA, *dB, *low; };      /* low (rows, rank): x A^T, kept for the backward */
struct lora { float *scratch; struct pair pairs[]; };

static struct pair *pair_of(const struct adapter *a, size_t layer, enum projection which)
{
    return &((struct lora *)a->own)->pairs[layer * NUM_PROJECTIONS + which];
}

static int targeted(const struct adapter *a, size_t layer, enum projection which)
{
    return adapter_in_layer(a, layer) && (a->options.targets >> which & 1);
}

static float factor(const struct adapter *a)
{
    return (float)(a->options.alpha / (double)a->options.rank);
}

static int open_lora(struct adapter *a, struct reason why)
{
    static const char *const names[NUM_PROJECTIONS][2] = {
        { "q.lora_A", "q.lora_B" }, { "k.lora_A", "k.lora_B" }, { "v.lora_A", "v.lora_B" }, { "o.lora_A", "o.lora_B" },
        { "fc1.lora_A", "fc1.lora_B" }, { "fc2.lora_A", "fc2.lora_B" }
    };
    const size_t count = a->num_layers * NUM_PROJECTIONS, rank = a->options.rank;
    a->own = calloc(1, sizeof(struct lora) + count * sizeof(struct pair));
    if (!a->own) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
    for (size_t l = 0; l < a->num_layers; l++)
        for (enum projection w = PROJ_Q; w < NUM_PROJECTIONS; w++) {
            if (!targeted(a, l, w)) continue;
            size_t out, in;
            adapter_projection(a, w, &out, &in);
            struct pair *p = pair_of(a, l, w);
            p->A = adapter_parameter(a, l, names[w][0], rank, in, 1, 1, &p->dA);
            p->B = p->A ? adapter_parameter(a, l, names[w][1], out, rank, 1, 1, &p->dB) : NULL;
            if (!p->B) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
        }
    return GSL_SUCCESS;
}

static void close_lora(struct adapter *a)
{
    free(a->own);
}

/* Kaiming-uniform with slope sqrt 5: uniform in +-1/sqrt(in). */
static void start(struct adapter *a)
{
    for (size_t l = 0; l < a->num_layers; l++)
        for (enum projection w = PROJ_Q; w < NUM_PROJECTIONS; w++) {
            if (!targeted(a, l, w)) continue;
            size_t out, in;
            adapter_projection(a, w, &out, &in);
            adapter_uniform(a, l, w, 1.0 / sqrt((double)in), pair_of(a, l, w)->A, a->options.rank * in);
        }
}

static void plan(struct adapter *a, struct arena *arena, size_t max_rows, int training)
{
    const size_t n = max_rows * a->options.rank;
    float *shared = arena_floats(arena, n);
    if (arena->base) ((struct lora *)a->own)->scratch = shared;
    for (size_t l = 0; l < a->num_layers; l++)
        for (enum projection w = PROJ_Q; w < NUM_PROJECTIONS; w++) {
            if (!targeted(a, l, w)) continue;
            float *low = training ? arena_floats(arena, n) : shared;
            if (arena->base) pair_of(a, l, w)->low = low;
        }
}

/* low = scale x A^T, y [+]= low B^T. */
static int project(struct adapter *a, size_t layer, enum projection which, size_t rows, const float *x, size_t ldx,
                   float *y, size_t ldy, int add, int training)
{
    (void)training;
    const struct pair *p = pair_of(a, layer, which);
    const size_t rank = a->options.rank;
    size_t out, in;
    adapter_projection(a, which, &out, &in);
    ops_linear(rows, in, rank, x, ldx, p->A, p->low, rank, 0, NULL, a->num_threads);
    /* Scaling the narrow side: rows x rank numbers instead of rows x out. */
    const float by = factor(a);
    for (size_t i = 0; i < rows * rank; i++) p->low[i] *= by;
    ops_linear(rows, rank, out, p->low, rank, p->B, y, ldy, add, NULL, a->num_threads);
    return 1;
}

/* With low = c x A^T: dB = dy^T low, d_low = c dy B, dA = d_low^T x, dx [+]= d_low A. */
static int project_backward(struct adapter *a, size_t layer, enum projection which, size_t rows, const float *x,
                            size_t ldx, const float *dy, size_t lddy, float *dx, size_t lddx, int add)
{
    const struct pair *p = pair_of(a, layer, which);
    const size_t rank = a->options.rank;
    float *d_low = ((struct lora *)a->own)->scratch;
    size_t out, in;
    adapter_projection(a, which, &out, &in);
    ops_linear_dW(rows, rank, out, 1.0f, dy, lddy, p->low, rank, p->dB, a->num_threads);
    ops_linear_dx(rows, rank, out, factor(a), dy, lddy, p->B, d_low, rank, 0, NULL, a->num_threads);
    ops_linear_dW(rows, in, rank, 1.0f, d_low, rank, x, ldx, p->dA, a->num_threads);
    if (!dx) return add;
    ops_linear_dx(rows, in, rank, 1.0f, d_low, rank, p->A, dx, lddx, add, NULL, a->num_threads);
    return 1;
}

static void merge(struct adapter *a, size_t layer, enum projection which, float *weight)
{
    const struct pair *p = pair_of(a, layer, which);
    const size_t rank = a->options.rank;
    size_t out, in;
    adapter_projection(a, which, &out, &in);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)out, (blasint)in, (blasint)rank, factor(a), p->B,
                (blasint)rank, p->A, (blasint)in, 1.0f, weight, (blasint)in);
}

const struct adapter_ops adapter_lora = {
    .name = "lora", .summary = "low-rank updates of chosen matrices (default q,v)", .changes_blocks = 1,
    .open = open_lora, .close = close_lora, .start = start, .plan = plan, .project = project,
    .project_backward = project_backward, .merge = merge
};
