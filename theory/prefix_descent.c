#include "prefix_ntk/prefix_descent.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "theory/descent_parts.h"
#include "theory/prefix_pass.h"

struct prefix_layer {
    gsl_matrix *queries;         /* x~ (num_samples, dim)                              */
    gsl_matrix *W_V;             /* (dim, out_dim)                                     */
    /* Softmax sums over the input tokens alone; top is -infinity without any. */
    double *top, *mass;
    gsl_matrix *sum;             /* (num_samples, dim): sum_j e^{s_ij - top_i} z_j     */
};

void prefix_layer_free(struct prefix_layer *layer)
{
    if (!layer) return;
    gsl_matrix_free(layer->queries);
    gsl_matrix_free(layer->W_V);
    gsl_matrix_free(layer->sum);
    free(layer->top);
    free(layer->mass);
    free(layer);
}

struct prefix_layer *prefix_layer_alloc(const gsl_matrix *queries, const gsl_matrix *inputs,
                                        const gsl_matrix *W_Q, const gsl_matrix *W_K, const gsl_matrix *W_V)
{
    const size_t n = queries->size1, d = queries->size2, head_dim = W_Q->size2;
    if (W_Q->size1 != d || W_K->size1 != d || W_V->size1 != d || W_K->size2 != head_dim
        || (inputs && inputs->size2 != d))
        return NULL;
    struct prefix_layer *layer = calloc(1, sizeof *layer);
    gsl_matrix *projected = gsl_matrix_alloc(n, head_dim);
    if (!layer || !projected) goto failed;
    layer->queries = gsl_matrix_alloc(n, d);
    layer->W_V = gsl_matrix_alloc(d, W_V->size2);
    layer->sum = gsl_matrix_calloc(n, d);
    layer->top = malloc(n * sizeof(double));
    layer->mass = calloc(n, sizeof(double));
    if (!layer->queries || !layer->W_V || !layer->sum || !layer->top || !layer->mass) goto failed;
    gsl_matrix_memcpy(layer->W_V, W_V);
    gsl_blas_dgemm(CblasNoTrans, CblasNoTrans, 1.0, queries, W_Q, 0.0, projected);
    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 1.0 / sqrt((double)head_dim), projected, W_K, 0.0, layer->queries);
    for (size_t i = 0; i < n; i++) {
        layer->top[i] = -INFINITY;
        if (!inputs) continue;
        gsl_vector_const_view x = gsl_matrix_const_row(layer->queries, i);
        for (int sums = 0; sums < 2; sums++)
            for (size_t j = 0; j < inputs->size1; j++) {
                gsl_vector_const_view z = gsl_matrix_const_row(inputs, j);
                double score = 0.0;
                gsl_blas_ddot(&x.vector, &z.vector, &score);
                if (!sums) {
                    if (score > layer->top[i]) layer->top[i] = score;
                    continue;
                }
                const double e = exp(score - layer->top[i]);
                layer->mass[i] += e;
                for (size_t k = 0; k < d; k++)
                    *gsl_matrix_ptr(layer->sum, i, k) += e * gsl_vector_get(&z.vector, k);
            }
    }
    gsl_matrix_free(projected);
    return layer;
failed:
    gsl_matrix_free(projected);
    prefix_layer_free(layer);
    return NULL;
}

const gsl_matrix *prefix_layer_queries(const struct prefix_layer *layer) { return layer->queries; }

struct prefix_descent {
    struct prefix_pass *pass;
    const struct prefix_layer *layer;
    gsl_matrix *W, *Y, *F, *R;
    double *R_token;             /* (num_samples, dim): R, or R W_V^T in a real layer  */
    double *c, *lse;             /* (num_samples)                                      */
    double *shift;               /* (num_samples): of the last pass over W ...         */
    int shifted;                 /* ... unless it used running maxima                  */
    double loss;
    int again;                   /* in parts: the sums in work are those with running maxima */
};

void prefix_descent_free(struct prefix_descent *descent)
{
    if (!descent) return;
    prefix_pass_free(descent->pass);
    gsl_matrix_free(descent->W);
    gsl_matrix_free(descent->Y);
    gsl_matrix_free(descent->F);
    gsl_matrix_free(descent->R);
    free(descent->R_token);
    free(descent->c);
    free(descent->lse);
    free(descent->shift);
    free(descent);
}

size_t prefix_descent_bytes(size_t prefix_len, size_t dim, size_t num_samples, int num_threads)
{
    return prefix_pass_bytes(prefix_len, dim, num_samples, num_threads)
         + sizeof(double) * (prefix_len * dim + num_samples * (4 * dim + 2));
}

/* F, R, the loss and what the next gradient needs, from the sums of the last pass. */
static int evaluate(struct prefix_descent *descent)
{
    const struct prefix_pass *p = descent->pass;
    const struct prefix_layer *layer = descent->layer;
    const size_t n = p->num_samples, d = p->dim, out = descent->F->size2;
    const double m = (double)p->prefix_len;
    double twice = 0.0;
    for (size_t i = 0; i < n; i++) {
        double top = p->top[i], mass = p->mass[i];
        double *token = descent->R_token + i * d;       /* first the mean token, then R_token */
        for (size_t k = 0; k < d; k++) token[k] = p->sum[i * p->dim_pad + k];
        if (layer && layer->mass[i] > 0.0) {
            const double joint = layer->top[i] > top ? layer->top[i] : top;
            const double mine = exp(top - joint), theirs = exp(layer->top[i] - joint);
            mass = mine * mass + theirs * layer->mass[i];
            for (size_t k = 0; k < d; k++)
                token[k] = mine * token[k] + theirs * gsl_matrix_get(layer->sum, i, k);
            top = joint;
        }
        for (size_t k = 0; k < d; k++) token[k] /= mass;
        descent->lse[i] = top + log(mass);
        double c = 0.0;
        for (size_t l = 0; l < out; l++) {
            double mu = token[l];
            if (layer) {
                mu = 0.0;
                for (size_t k = 0; k < d; k++) mu += token[k] * gsl_matrix_get(layer->W_V, k, l);
            }
            const double f = m * mu, residual = f - gsl_matrix_get(descent->Y, i, l);
            gsl_matrix_set(descent->F, i, l, f);
            gsl_matrix_set(descent->R, i, l, residual);
            c += residual * mu;
            twice += residual * residual;
        }
        descent->c[i] = c;
        for (size_t k = 0; k < d; k++) {
            if (!layer) {
                token[k] = gsl_matrix_get(descent->R, i, k);
                continue;
            }
            token[k] = 0.0;
            for (size_t l = 0; l < out; l++)
                token[k] += gsl_matrix_get(layer->W_V, k, l) * gsl_matrix_get(descent->R, i, l);
        }
    }
    descent->loss = 0.5 * twice;
    return isfinite(twice) ? GSL_SUCCESS : GSL_EDOM;
}

int prefix_descent_alloc(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                         const struct prefix_layer *layer, const gsl_matrix *Y, int num_threads,
                         struct prefix_descent **result)
{
    *result = NULL;
    const gsl_matrix *inputs = layer ? layer->queries : X;
    const size_t n = inputs->size1, d = inputs->size2, out = layer ? layer->W_V->size2 : d;
    if (W->size2 != d || signs->size != W->size1 || Y->size1 != n || Y->size2 != out) return GSL_EBADLEN;
    struct prefix_descent *descent = calloc(1, sizeof *descent);
    int status = GSL_ENOMEM;
    if (!descent) return status;
    descent->layer = layer;
    descent->pass = prefix_pass_alloc(signs, inputs, num_threads);
    descent->W = gsl_matrix_alloc(W->size1, d);
    descent->Y = gsl_matrix_alloc(n, out);
    descent->F = gsl_matrix_alloc(n, out);
    descent->R = gsl_matrix_alloc(n, out);
    descent->R_token = malloc(n * d * sizeof(double));
    descent->c = malloc(n * sizeof(double));
    descent->lse = malloc(n * sizeof(double));
    descent->shift = calloc(n, sizeof(double));
    if (!descent->pass || !descent->W || !descent->Y || !descent->F || !descent->R || !descent->R_token
        || !descent->c || !descent->lse || !descent->shift)
        goto failed;
    gsl_matrix_memcpy(descent->Y, Y);
    gsl_matrix_memcpy(descent->W, W);
    status = prefix_pass_sums(descent->pass, descent->W->data, descent->W->tda, NULL);
    if (!status) status = evaluate(descent);
    if (status) goto failed;
    *result = descent;
    return GSL_SUCCESS;
failed:
    prefix_descent_free(descent);
    return status;
}

int prefix_descent_step(struct prefix_descent *descent, double step_size)
{
    memcpy(descent->shift, descent->lse, descent->pass->num_samples * sizeof(double));
    const int status = prefix_pass_descend(descent->pass, descent->R_token, descent->c, descent->lse, step_size,
                                           descent->W->data, descent->W->tda, &descent->shifted);
    return status ? status : evaluate(descent);
}

/* ---- in parts ---- */

int descent_share(struct prefix_descent *descent, int rank, int count)
{
    return prefix_pass_share(descent->pass, rank, count);
}

void descent_begin(struct prefix_descent *descent, double step_size)
{
    memcpy(descent->shift, descent->lse, descent->pass->num_samples * sizeof(double));
    descent->again = 0;
    prefix_pass_descend_begin(descent->pass, descent->R_token, descent->c, descent->lse, step_size, descent->W->data,
                              descent->W->tda);
}

void descent_again(struct prefix_descent *descent)
{
    descent->again = 1;
    prefix_pass_sums_begin(descent->pass, descent->W->data, descent->W->tda, NULL);
}

size_t descent_parts_size(const struct prefix_descent *descent, int rank, int count)
{
    return prefix_pass_parts_size(descent->pass, rank, count);
}

void descent_parts_read(struct prefix_descent *descent, int rank, int count, double *parts)
{
    prefix_pass_parts_read(descent->pass, rank, count, parts);
}

void descent_parts_write(struct prefix_descent *descent, int rank, int count, const double *parts)
{
    prefix_pass_parts_write(descent->pass, rank, count, parts);
}

void descent_merge(struct prefix_descent *descent)
{
    (void)prefix_pass_merge(descent->pass);          /* what is not finite shows in descent_end */
}

size_t descent_sums_size(const struct prefix_descent *descent)
{
    return descent->pass->num_samples * (descent->pass->dim_pad + 2);
}

void descent_sums_read(const struct prefix_descent *descent, double *sums)
{
    const struct prefix_pass *p = descent->pass;
    const size_t n = p->num_samples;
    memcpy(sums, p->top, n * sizeof *sums);
    memcpy(sums + n, p->mass, n * sizeof *sums);
    memcpy(sums + 2 * n, p->sum, n * p->dim_pad * sizeof *sums);
}

void descent_sums_write(struct prefix_descent *descent, const double *sums)
{
    struct prefix_pass *p = descent->pass;
    const size_t n = p->num_samples;
    memcpy(p->top, sums, n * sizeof *sums);
    memcpy(p->mass, sums + n, n * sizeof *sums);
    memcpy(p->sum, sums + 2 * n, n * p->dim_pad * sizeof *sums);
}

int descent_end(struct prefix_descent *descent)
{
    const struct prefix_pass *p = descent->pass;
    if (!descent->again) {
        descent->shifted = prefix_pass_in_range(p);
        return descent->shifted ? evaluate(descent) : GSL_CONTINUE;
    }
    for (size_t i = 0; i < p->num_samples; i++)
        if (!(isfinite(p->top[i]) && p->mass[i] > 0.0 && isfinite(p->mass[i]))) return GSL_EDOM;
    return evaluate(descent);
}

double *descent_tokens(struct prefix_descent *descent, int rank, int count, size_t *first, size_t *last)
{
    prefix_pass_tokens(descent->pass, rank, count, first, last);
    return descent->W->data;
}

size_t prefix_descent_state_size(const struct prefix_descent *descent)
{
    return descent->W->size1 * descent->W->size2 + descent->pass->num_samples + 1;
}

void prefix_descent_save(const struct prefix_descent *descent, double *state)
{
    const size_t tokens = descent->W->size1 * descent->W->size2, n = descent->pass->num_samples;
    memcpy(state, descent->W->data, tokens * sizeof *state);
    memcpy(state + tokens, descent->shift, n * sizeof *state);
    state[tokens + n] = descent->shifted;
}

int prefix_descent_load(struct prefix_descent *descent, const double *state)
{
    const size_t tokens = descent->W->size1 * descent->W->size2, n = descent->pass->num_samples;
    memcpy(descent->W->data, state, tokens * sizeof *state);
    memcpy(descent->shift, state + tokens, n * sizeof *state);
    descent->shifted = state[tokens + n] != 0.0;
    const int status = prefix_pass_sums(descent->pass, descent->W->data, descent->W->tda,
                                        descent->shifted ? descent->shift : NULL);
    return status ? status : evaluate(descent);
}

double prefix_descent_loss(const struct prefix_descent *descent) { return descent->loss; }
const gsl_matrix *prefix_descent_outputs(const struct prefix_descent *descent) { return descent->F; }
const gsl_matrix *prefix_descent_prefix(const struct prefix_descent *descent) { return descent->W; }
const gsl_matrix *prefix_descent_residual(const struct prefix_descent *descent) { return descent->R; }

int prefix_movement(const gsl_matrix *W, const gsl_matrix *W0, double *rms, double *max)
{
    if (W->size1 != W0->size1 || W->size2 != W0->size2) return GSL_EBADLEN;
    double total = 0.0, largest = 0.0;
    for (size_t r = 0; r < W->size1; r++) {
        double squared = 0.0;
        for (size_t k = 0; k < W->size2; k++) {
            const double step = gsl_matrix_get(W, r, k) - gsl_matrix_get(W0, r, k);
            squared += step * step;
        }
        total += squared;
        if (squared > largest) largest = squared;
    }
    *rms = sqrt(total / (double)W->size1);
    *max = sqrt(largest);
    return isfinite(total) ? GSL_SUCCESS : GSL_EDOM;
}
