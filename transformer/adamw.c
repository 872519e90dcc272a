#include "transformer/adamw.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>

#include "common/isa.h"
#include "common/parallel.h"
#include "transformer/adamw_kernel.h"

enum { PIECE = 1 << 15 };           /* numbers per task */

/* A stretch of one parameter. */
struct piece { struct parameter *parameter; size_t offset, count, at; };

struct adamw {
    struct adamw_options options;
    struct piece *pieces;
    size_t num_pieces, total;
    double *squares;                /* per piece */
    float *state;                   /* m (total), v (total) */
    uint64_t t;
};

struct adamw_options adamw_defaults(void)
{
    return (struct adamw_options){ 0.9, 0.999, 1e-8, 0.01, 1.0 };
}

static size_t cut(struct parameter *parameters, size_t count, struct piece *pieces, size_t *total)
{
    size_t n = 0;
    *total = 0;
    for (size_t p = 0; p < count; p++) {
        const size_t size = parameters[p].grad ? parameters[p].rows * parameters[p].cols : 0;
        for (size_t at = 0; at < size; at += PIECE, n++)
            if (pieces)
                pieces[n] = (struct piece){ &parameters[p], at, size - at < PIECE ? size - at : PIECE, *total + at };
        *total += size;
    }
    return n;
}

int adamw_alloc(struct parameter *parameters, size_t count, const struct adamw_options *options, struct adamw **out)
{
    struct adamw *a = calloc(1, sizeof *a);
    if (!a) return GSL_ENOMEM;
    a->options = *options;
    a->num_pieces = cut(parameters, count, NULL, &a->total);
    a->pieces = malloc((a->num_pieces + 1) * sizeof *a->pieces);
    a->squares = malloc((a->num_pieces + 1) * sizeof *a->squares);
    a->state = calloc(2 * a->total + 1, sizeof *a->state);
    if (!a->pieces || !a->squares || !a->state) {
        adamw_free(a);
        return GSL_ENOMEM;
    }
    cut(parameters, count, a->pieces, &a->total);
    *out = a;
    return GSL_SUCCESS;
}

void adamw_free(struct adamw *a)
{
    if (!a) return;
    free(a->pieces);
    free(a->squares);
    free(a->state);
    free(a);
}

struct kernels { adamw_update *update; adamw_square *square; };

static struct kernels current(void)
{
#define KERNELS(isa) { adamw_update_##isa, adamw_square_##isa }
    static const struct kernels all[] = ISA_TABLE(KERNELS);
    return all[isa_current()];
}

struct pass { struct adamw *a; struct kernels kernels; double lr, head_lr, scale; };

static void square_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct pass *p = context;
    const struct piece *piece = &p->a->pieces[task];
    p->a->squares[task] = p->kernels.square(piece->count, piece->parameter->grad + piece->offset);
}

static void update_task(void *context, size_t task, int thread)
{
    (void)thread;
    const struct pass *p = context;
    const struct adamw_options *o = &p->a->options;
    const struct piece *piece = &p->a->pieces[task];
    const double lr = piece->parameter->group == PARAM_HEAD ? p->head_lr : p->lr, t = (double)p->a->t;
    const struct adamw_coefficients c = {
        .scale = (float)p->scale, .beta1 = (float)o->beta1, .beta2 = (float)o->beta2, .eps = (float)o->eps,
        .rate = (float)(lr / (1.0 - pow(o->beta1, t))), .root_correction = (float)(1.0 / sqrt(1.0 - pow(o->beta2, t))),
        .keep = (float)(1.0 - (piece->parameter->decay ? lr * o->weight_decay : 0.0)) };
    float *m = p->a->state + piece->at;
    p->kernels.update(piece->count, &c, piece->parameter->grad + piece->offset, m, m + p->a->total,
                      piece->parameter->value + piece->offset);
}

int adamw_step(struct adamw *a, double lr, double head_lr, int num_threads, double *norm)
{
    struct pass pass = { a, current(), lr, head_lr, 1.0 };
    double sum = 0.0;
    parallel_for(a->num_pieces, num_threads, square_task, &pass);
    for (size_t i = 0; i < a->num_pieces; i++) sum += a->squares[i];
    const double length = sqrt(sum);
    if (norm) *norm = length;
    if (!isfinite(length)) return GSL_EDOM;
    if (a->options.clip > 0.0 && length > a->options.clip) pass.scale = a->options.clip / length;
    a->t++;
    parallel_for(a->num_pieces, num_threads, update_task, &pass);
    return GSL_SUCCESS;
}

size_t adamw_state_size(const struct adamw *a) { return 2 * a->total; }
float *adamw_state(struct adamw *a) { return a->state; }
uint64_t adamw_time(const struct adamw *a) { return a->t; }
void adamw_set_time(struct adamw *a, uint64_t t) { a->t = t; }

double lr_factor(enum lr_schedule schedule, double warmup, size_t step, size_t num_steps)
{
    const double begin = warmup * (double)num_steps, s = (double)step;
    if (s < begin) return (s + 1.0) / (begin + 1.0);
    const double done = num_steps > begin ? (s - begin) / ((double)num_steps - begin) : 0.0;
    switch (schedule) {
    case SCHEDULE_LINEAR: return 1.0 - done;
    case SCHEDULE_COSINE: return 0.5 * (1.0 + cos(M_PI * done));
    default: return 1.0;
    }
}
