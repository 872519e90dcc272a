/* AdamW (arXiv:1711.05101): Adam with decoupled weight decay, over the parameters of a model.
 *
 *   g  = grad min(1, clip / ||grad||)            the norm over all parameters
 *   m  = beta1 m + (1 - beta1) g                 v = beta2 v + (1 - beta2) g^2
 *   value = value - lr ( (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay value )
 *
 * with lr of the parameter's group; decay only where parameter.decay says so. The same bits for any number of
 * threads. */
#ifndef TRANSFORMER_ADAMW_H
#define TRANSFORMER_ADAMW_H
#include "transformer/model.h"

struct adamw_options { double beta1, beta2, eps, weight_decay, clip; };     /* clip 0: none */

struct adamw;

/* .9, .999, 1e-8, .01, 1. */
struct adamw_options adamw_defaults(void);

/* The parameters (of model_parameters) must outlive it; those with grad NULL are left alone. GSL_ENOMEM. */
int adamw_alloc(struct parameter *parameters, size_t count, const struct adamw_options *options, struct adamw **out);
void adamw_free(struct adamw *adamw);                       /* accepts NULL */

/* One update with the gradients as they stand; head_lr for PARAM_HEAD, lr for the others. *norm (may be NULL) is the
 * gradient's norm before clipping. GSL_EDOM, nothing changed, when that is not finite. */
int adamw_step(struct adamw *adamw, double lr, double head_lr, int num_threads, double *norm);

/* m and v of all trained numbers, and t: the state a run resumes from. */
size_t adamw_state_size(const struct adamw *adamw);         /* floats */
float *adamw_state(struct adamw *adamw);
uint64_t adamw_time(const struct adamw *adamw);
void adamw_set_time(struct adamw *adamw, uint64_t t);

/* Factor of the learning rate at step 0 .. num_steps - 1: linear warm-up over warmup (a fraction of all steps), then
 * the schedule. */
enum lr_schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
double lr_factor(enum lr_schedule schedule, double warmup, size_t step, size_t num_steps);

#endif
